use super::*;
use proptest::prelude::*;

fn action(line: &str) -> Action {
    line.parse::<Command>().unwrap().action
}

fn error(line: &str) -> String {
    line.parse::<Command>().unwrap_err().to_string()
}

fn data(text: &str) -> Vec<u8> {
    match action(&format!("write {text}")) {
        Action::Write { data, .. } => data,
        other => panic!("{other:?}"),
    }
}

#[test]
fn paths_keep_their_backslashes() {
    assert_eq!(
        action(r"open \\.\giveio"),
        Action::Open(r"\\.\giveio".into())
    );
    assert_eq!(
        action(r#"  open "\Device\My Device\n""#),
        Action::Open(r"\Device\My Device\n".into())
    );
}

#[test]
fn ioctl_takes_input_and_output_length() {
    let ioctl = |input: &[u8], output_bytes| Action::Ioctl {
        code: 0x9C40_2004,
        input: input.to_vec(),
        output_bytes,
    };
    assert_eq!(action("ioctl 0x9c402004"), ioctl(&[], 0));
    assert_eq!(action("ioctl 0x9c402004 u16:0x379 1"), ioctl(&[0x79, 3], 1));
    assert_eq!(action("ioctl 0x9c402004 - 16"), ioctl(&[], 16));
    assert_eq!(action("ioctl 0x9C402004 \"a b\" 16"), ioctl(b"a b", 16));
}

#[test]
fn data_has_many_forms() {
    assert_eq!(data("deADbe"), [0xDE, 0xAD, 0xBE]);
    assert_eq!(data("u16:0x378,u32:5"), [0x78, 3, 5, 0, 0, 0]);
    assert_eq!(data("i16:-2,u8:255"), [0xFE, 0xFF, 0xFF]);
    assert_eq!(
        data("i64:-9223372036854775808"),
        [0, 0, 0, 0, 0, 0, 0, 0x80]
    );
    assert_eq!(data(r#""a,b \"\x00\\\n",00"#), b"a,b \"\0\\\n\0");
    assert_eq!(data(r#"utf16:"aß""#), [0x61, 0, 0xDF, 0]);
    assert_eq!(data("zero:3"), [0; 3]);
}

#[test]
fn ports_read_and_write() {
    assert_eq!(
        action("inw 0x378"),
        Action::PortIn {
            port: 0x378,
            width: PortWidth::Word
        }
    );
    assert_eq!(
        action("outb 888 0x41"),
        Action::PortOut {
            port: 0x378,
            width: PortWidth::Byte,
            value: 0x41
        }
    );
}

#[test]
fn devices_are_stepped_and_powered() {
    assert_eq!(action("pnp list"), Action::Devices);
    let step = |step, device: Option<&str>| Action::Pnp {
        step,
        device: device.map(str::to_owned),
    };
    assert_eq!(action("pnp stop"), step(PnpStep::Stop, None));
    for one in PnpStep::ALL {
        let line = format!(r"pnp {} ROOT\A\0000", one.name());
        assert_eq!(action(&line), step(one, Some(r"ROOT\A\0000")));
        assert_eq!(action(&line).to_string(), line);
    }
    assert_eq!(
        action(r#"power D3 "my driver""#),
        Action::Power {
            state: PowerState::Device(3),
            device: Some("my driver".into())
        }
    );
    assert_eq!(action("power s0").to_string(), "power S0");
    assert!(error("pnp").starts_with("column 4: nothing; expected list, or a step"));
    assert!(error("pnp list all").starts_with("column 10: `all`; expected the end"));
    assert!(error("power S6").starts_with("column 7: `S6`; expected a power state"));
    assert!(error("pnp stop a b").starts_with("column 12: `b`; expected the end"));
}

#[test]
fn exclamation_mark_expects_failure() {
    assert!("! inb 1".parse::<Command>().unwrap().is_failure_expected);
    assert!("!inb 1".parse::<Command>().unwrap().is_failure_expected);
    assert!(!"inb 1".parse::<Command>().unwrap().is_failure_expected);
}

#[test]
fn offsets_follow_at() {
    assert_eq!(
        action("read 4 at 0x10"),
        Action::Read {
            bytes: 4,
            offset: Some(16)
        }
    );
    assert_eq!(
        error("read 4 0x10"),
        "column 8: `0x10`; expected `at OFFSET` or the end of the command"
    );
}

#[test]
fn errors_say_where_and_what() {
    assert_eq!(
        error("outb 0x378 0x100"),
        "column 12: `0x100` is too large; expected a value from 0 to 0xff"
    );
    assert_eq!(
        error("inb 65536"),
        "column 5: `65536` is too large; expected a port from 0 to 0xffff"
    );
    assert_eq!(
        error("inb"),
        "column 4: nothing; expected a port from 0 to 0xffff"
    );
    assert_eq!(
        error("inb 1 2"),
        "column 7: `2`; expected the end of the command"
    );
    assert_eq!(
        error("write abc"),
        "column 7: 3 hexadecimal digits; expected two digits for each byte"
    );
    assert_eq!(
        error("write 0x41"),
        "column 7: `0x41`, a number without a width; expected u8:, u16:, u32: or u64: before it, or bytes without 0x"
    );
    assert_eq!(
        error("ioctl 1 u8:256"),
        "column 12: `256`; expected a number from 0 to 0xff"
    );
    assert_eq!(
        error("write ü\"x"),
        "column 8: a quote that is not closed; expected a closing quote"
    );
    assert_eq!(
        error(r#"write "\q""#),
        "column 8: an unknown escape; expected \\n, \\r, \\t, \\0, \\\\, \\\" or \\xNN"
    );
    assert!(error("frob").starts_with("column 1: `frob`; expected a command: open"));
    assert!(error("").starts_with("column 1: nothing; expected a command"));
    assert!(error("write \x1b[2J").contains(r"`\x1b[2J`"));
    assert_eq!(
        error("read +4"),
        "column 6: `+4`; expected the number of bytes to read, at most 1048576"
    );
    assert!(error("write zero:1048576,00").starts_with("column 20: more than 1048576 bytes"));
}

#[test]
fn long_lines_are_refused() {
    assert!(error(&"x".repeat(LINE_MAX + 1)).contains("a command of 262145 bytes"));
}

#[test]
fn scripts_have_comments() {
    assert_eq!(parse_script_line("  # ioctl 1").unwrap(), None);
    assert_eq!(parse_script_line("").unwrap(), None);
    assert!(parse_script_line("  stats").unwrap().is_some());
}

#[test]
fn canonical_form_is_short() {
    assert_eq!(
        action("write zero:9").to_string(),
        "write 0000000000000000..."
    );
    assert_eq!(action("ioctl 1").to_string(), "ioctl 0x00000001");
    assert_eq!(action("outd 0x10 5").to_string(), "outd 0x10 0x5");
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(line in "(open|ioctl 1|write|read|outb|!)? ?[-0-9a-fux:,\"\\\\ \\PC]{0,40}") {
        if let Err(error) = line.parse::<Command>() {
            prop_assert!(error.column <= line.chars().count() + 1);
        }
    }

    #[test]
    fn bytes_written_as_digits_come_back(bytes in proptest::collection::vec(any::<u8>(), 1..64)) {
        prop_assert_eq!(data(&hex::bytes(&bytes)), bytes);
    }
}

#[test]
fn device_models_are_shown_and_set() {
    let action = |line: &str| line.parse::<Command>().map(|command| command.action);
    let model = |name: Option<&str>, settings: &[(&str, &str)]| {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Ok(Action::Model {
            name: name.map(str::to_owned),
            settings: settings.iter().map(own).collect(),
        })
    };
    assert_eq!(action("device"), model(None, &[]));
    assert_eq!(action("device 0x378"), model(Some("0x378"), &[]));
    assert_eq!(
        action("device \"first printer\" busy=1 error=0"),
        model(Some("first printer"), &[("busy", "1"), ("error", "0")])
    );
    assert_eq!(
        action("device adc wave=\"sine amplitude=5\" channel0="),
        model(
            Some("adc"),
            &[("wave", "sine amplitude=5"), ("channel0", "")]
        )
    );
    for (line, column) in [
        ("device lpt busy", 12),
        ("device lpt =1", 12),
        ("device \"lpt", 8),
        ("device lpt a=\"b", 14),
    ] {
        assert_eq!(action(line).unwrap_err().column, column, "{line}");
    }
    let shown = action("device lpt busy=1").unwrap();
    assert_eq!(shown.to_string(), "device lpt busy=1");
    assert_eq!(shown.name(), "device");
}
