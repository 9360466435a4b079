use super::*;

fn with(policy: &str, arguments: &[&str]) -> Result<Policy, String> {
    let policy = if policy.is_empty() {
        Policy::deny_all()
    } else {
        Policy::from_str("p.toml", policy).unwrap()
    };
    let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
    policy
        .with_devices(&arguments)
        .map_err(|error| error.to_string())
}

#[test]
fn argument_makes_the_rule_that_a_policy_would() {
    let argument = "lpt:base=0x378,irq=7,out=bytes, x.bin,input=[1, 0x02],epp=peer,ecp";
    let found = with("", &[&argument.replace(", x", "x")]).unwrap();
    let said = Policy::from_str(
        "p.toml",
        "[[port]]\nrange = \"0x378-0x37f\"\naccess = \"rw\"\nbackend = \"lpt\"\nirq = 7\noutput = \"bytesx.bin\"\n\
         input = [1, 2]\nepp = \"peer\"\necp = true\n",
    )
    .unwrap();
    let rules = |policy: &Policy| -> Vec<PortRule> {
        let rules = policy.port_rules().iter().cloned();
        rules
            .map(|rule| PortRule {
                line: 0,
                column: 0,
                ..rule
            })
            .collect()
    };
    assert_eq!(rules(&found), rules(&said));
    assert_eq!(found.port_rules().len(), 2, "the ECP registers");
    assert_eq!(
        (found.port_rules()[1].first, found.port_rules()[1].last),
        (0x778, 0x77A)
    );

    let quoted = with("", &["ram:range=0x300,initial=7,access=r,name=\"a, b\""]).unwrap();
    let rule = &quoted.port_rules()[0];
    assert_eq!((rule.first, rule.last), (0x300, 0x300));
    assert_eq!(rule.access, Some(AccessMode::Read));
    assert_eq!(rule.name.as_deref(), Some("a, b"));
}

#[test]
fn mistake_points_at_its_key() {
    let error = with("", &["ram", "lpt:base=0x378,irq=77,out=x"]).unwrap_err();
    let expected = [
        "--device:2:29: `irq` cannot be 77",
        " 2 | --device lpt:base=0x378,irq=77,out=x",
        "   |                             ^^",
        "   = allowed: a whole number from 0 to 63 (0x3f)",
    ];
    assert_eq!(error, expected.join("\n"));
    for (argument, place, message) in [
        ("lp:base=1", "1:10:", "did you mean \"lpt\"?"),
        ("lpt:base=x", "1:19:", "`base` cannot be x"),
        ("lpt:colour=1,out=x", "1:14:", "no key `colour`"),
        ("lpt:initial=1,out=x", "1:14:", "belongs to backend \"ram\""),
        ("ram:initial=[1,999]", "1:25:", "`initial` cannot be 999"),
        ("ram:initial=[1", "1:22:", "`initial` cannot be [1"),
        ("ram:base", "1:14:", "`base` has no value"),
        ("ram:base=1,base=2", "1:21:", "`base` is there twice"),
        ("lpt:epp=maybe,out=x", "1:18:", "`epp` cannot be \"maybe\""),
        ("lpt:base=0x378", "1:10:", "has no `output`"),
        ("lpt:base=0xfff0,ecp,out=x", "1:19:", "past the last port"),
        ("passthrough:base=1", "1:10:", "no device model"),
    ] {
        let error = with("", &[argument]).unwrap_err();
        assert!(error.starts_with(&format!("--device:{place}")), "{error}");
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn overlap_with_a_rule_of_the_policy_names_both() {
    let policy = "[[port]]\nrange = 0x37a\naccess = \"r\"\nbackend = \"ram\"";
    let error = with(policy, &["lpt:out=x"]).unwrap_err();
    assert!(error.starts_with("p.toml with --device:5:10: "), "{error}");
    assert!(error.contains("(line 5) and the rule of line 1"), "{error}");
    assert!(error.contains("5 | --device lpt:out=x"), "{error}");
    assert!(error.contains("1 | [[port]]"), "{error}");
    let error = with("", &["lpt:out=x", "printer:base=0x278,out=x"]).unwrap_err();
    assert!(error.contains("same `output`"), "{error}");
    let error = with("", &["lpt:out=x,ecp", "ram:base=0x77a"]).unwrap_err();
    assert!(error.contains("both cover port 0x77a-0x77a"), "{error}");
}

#[test]
fn help_lists_every_model_with_its_keys() {
    let help = device_help();
    for word in [
        "\nlpt:",
        "\nrtc:",
        "\nprinter:",
        "\nram:",
        "command",
        "0 to 0x3f",
        "peer or no-peer",
    ] {
        assert!(help.contains(word), "{word}");
    }
}

#[test]
fn every_model_starts_from_its_defaults() {
    use crate::ports::{PortRequest, PortSpace, Width};
    let arguments = [
        "rtc:offset=-3600",
        "pit:speaker=0x61",
        "gameport:axes=[0,255],buttons=3",
        "pio8255:base=0x310,inputs=[1,2],loop",
        "uart16550:out=tcp:0,irq=4,input=[0x41]",
        "uart16550:base=0x2f8,out=pty",
        "printer:out=pty",
        "lpt:base=0x278,command=[\"cat\"]",
        "ram:base=0x318",
        "adc12:base=0x300,wave=ramp frequency=0.5 amplitude=100,irq=5,digital-inputs=7",
    ];
    let policy = with("", &arguments).unwrap();
    assert_eq!(policy.port_rules().len(), 11, "and port 0x61");
    let mut space = PortSpace::new(&policy).unwrap();
    let mut read = |port| {
        let write = None;
        let width = Width::Byte;
        space.access(PortRequest { port, width, write }).value
    };
    assert_eq!(read(0x71), 0x80, "the RTC's register D");
    assert_eq!(read(0x61) & 0x0F, 0);
    assert_eq!(read(0x201), 0xC0);
    assert_eq!([read(0x310), read(0x311), read(0x312)], [1, 2, 0xFF]);
    assert_eq!((read(0x3FD), read(0x3F8)), (0x61, 0x41));
    assert_eq!(read(0x2FE), 0xB0);
    assert_eq!((read(0x302), read(0x303)), (0, 7));
    assert_eq!((read(0x379), read(0x279)), (0xD8, 0xD8));
    for (argument, message) in [
        (
            "uart16550:out=tcp:70000",
            "`output` cannot be \"tcp:70000\"",
        ),
        ("uart16550:range=0x3f8,out=-", "8 port(s), such as"),
        ("rtc:offset=soon", "`offset` cannot be"),
        ("gameport:axes=[1,2,3,4,5]", "at most 4 bytes"),
        ("adc12:wave=sine frequency=1.2345", "`wave` cannot be"),
        ("adc12:wave=saw", "`wave` cannot be"),
        ("adc12:conversion-us=0", "`conversion-us` cannot be 0"),
        ("pit:speaker=0x43", "both cover port 0x43"),
    ] {
        let error = with("", &[argument]).unwrap_err();
        assert!(error.contains(message), "{error}");
    }
}
