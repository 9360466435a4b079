//! Dangers, overlaps and what new tables check.

use super::tests::{ok, rejects};
use super::*;

fn passthrough(range: &str, access: &str) -> String {
    format!("[[port]]\nrange = \"{range}\"\naccess = \"{access}\"\nbackend = \"passthrough\"\n")
}

#[test]
fn dangerous_ports_are_refused_with_the_reason_unless_it_is_said() {
    for (range, access, why) in [
        ("0x20", "r", "interrupt controller"),
        ("0x40-0x42", "rw", "timer"),
        ("0x64", "w", "resets the machine"),
        ("0x70-0x71", "rw", "CMOS"),
        ("0xcf8-0xcff", "rw", "PCI configuration"),
        ("0x3c0", "rw", "VGA"),
    ] {
        let text = passthrough(range, access);
        rejects(&text, 1, 1, why, "i-know-what-this-does");
        ok(&(text + "i-know-what-this-does = true\n"));
    }
    ok(&passthrough("0x61", "r"));
    ok(&passthrough("0x80", "rw"));
    // What counts is the machine's port.
    rejects(
        &(passthrough("0x378-0x37a", "rw") + "remap = 0x40\n"),
        1,
        1,
        "0x40-0x42",
        "",
    );
    ok(&(passthrough("0x40-0x42", "rw") + "remap = 0xe050\n"));
}

#[test]
fn dangerous_memory_msrs_and_registers_are_refused() {
    let memory = "[[memory]]\nrange = \"0xd0000-0xd0fff\"\naccess = \"rw\"\nbackend = \"passthrough\"\nsource = \"dev-mem\"\n";
    ok(memory);
    rejects(&format!("{memory}remap = 0xb8000\n"), 1, 1, "VGA", "");
    rejects(
        "[[msr]]\nregister = 0x1b\naccess = \"rw\"\nbackend = \"passthrough\"\n",
        1,
        1,
        "0x1b is too dangerous",
        "",
    );
    rejects(
        "[[pci]]\ndevice = \"8086:100e\"\nbackend = \"passthrough\"\n[[pci.register]]\nrange = 4\naccess = \"rw\"\n",
        4,
        1,
        "bus mastering",
        "",
    );
    rejects(
        "[[index-pair]]\nindex = 0x70\ndata = 0x71\nbackend = \"passthrough\"\n\
         [[index-pair.register]]\nrange = 0x10\naccess = \"rw\"\n",
        5,
        1,
        "firmware's settings",
        "",
    );
}

#[test]
fn what_the_machine_uses_itself_is_refused_on_it() {
    let policy = ok(&(passthrough("0x3f8-0x3ff", "rw")
        + "[[memory]]\nrange = \"0x100000-0x100fff\"\naccess = \"r\"\nbackend = \"passthrough\"\nsource = \"dev-mem\"\n"));
    policy.check_host(&HostFacts::default()).unwrap();
    let facts = HostFacts {
        system_ram: vec![(0x10_0000, 0x1FF_FFFF)],
        ports: vec![(0x3F8, 0x3FF, "ttyS0, the machine's console".to_owned())],
    };
    let PolicyError::Invalid(found) = policy.check_host(&facts).unwrap_err() else {
        panic!("readable");
    };
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].message.contains("ttyS0"));
    assert!(found[1].message.contains("own RAM"));
}

#[test]
fn overlaps_show_both_lines() {
    let text = "[[index-pair]]\nindex = 0x70\ndata = 0x71\nbackend = \"ram\"\n[[port]]\nrange = 0x71\nbackend = \"deny\"\n";
    rejects(
        text,
        5,
        1,
        "the rule of line 1 both cover port 0x71-0x71",
        "",
    );
    let shown = Policy::from_str("p.toml", text).unwrap_err().to_string();
    assert!(shown.contains("\n 1 | [[index-pair]]"), "{shown}");
    rejects(
        &(passthrough("0x378", "rw") + "remap = 0xe050\n" + &passthrough("0xe050", "r")),
        6,
        1,
        "both reach the machine's port 0xe050",
        "",
    );
    rejects(
        "[[pci]]\ndevice = \"8086:100e\"\nbackend = \"deny\"\n[[pci]]\ndevice = \"8086:100E\"\nbackend = \"deny\"\n",
        4,
        1,
        "both about 8086:100e",
        "",
    );
    rejects(
        "[[msr]]\nregister = 1\nbackend = \"deny\"\n[[msr]]\nrange = \"0-5\"\naccess = \"r\"\nbackend = \"value\"\nvalue = 0\n",
        4,
        1,
        "both cover MSR 0x1-0x1",
        "",
    );
}

#[test]
fn rules_without_effect_are_warned_of() {
    let policy = ok(&(passthrough("0x300-0x30f", "rw") + &passthrough("0x304", "rw")));
    let [warning] = policy.warnings() else {
        panic!("{:?}", policy.warnings());
    };
    assert_eq!(
        (warning.line, warning.related.as_ref().unwrap().line),
        (5, 1)
    );
    let policy = ok(
        "[[pci]]\ndevice = \"8086:100e\"\nbackend = \"deny\"\n[[port]]\nrange = 0xcf9\nbackend = \"deny\"\n",
    );
    assert!(
        policy.warnings()[0]
            .message
            .contains("no port access meets")
    );
}

#[test]
fn keys_that_need_others_say_so() {
    let ram = "[[port]]\nrange = 1\nbackend = \"ram\"\naccess = ";
    rejects(
        &format!("{ram}\"rw\"\nburst = 2\n"),
        5,
        9,
        "without `rate`",
        "",
    );
    rejects(
        &format!("{ram}\"rw\"\nwrite-fixed = 2\n"),
        5,
        15,
        "without `write-mask`",
        "",
    );
    rejects(
        &format!("{ram}\"r\"\nvalues = [2]\n"),
        5,
        10,
        "has no effect",
        "",
    );
    rejects(
        &(passthrough("0x378-0x37a", "rw") + "remap = 0xffff\n"),
        5,
        9,
        "would end at port 0x10001",
        "",
    );
    rejects(
        "[[pci]]\ndevice = \"8086:100e\"\nbackend = \"deny\"\n[[pci.register]]\nrange = \"4-5\"\naccess = \"r\"\nread-mask = 0x10000\n",
        7,
        13,
        "does not fit",
        "",
    );
}

#[test]
fn explanations_name_rule_and_reason() {
    let policy = ok(
        "[[msr]]\nregister = 0x1b\naccess = \"r\"\nbackend = \"value\"\nvalue = 1\n[[pci]]\nbdf = \"00:03.0\"\nbackend = \"deny\"\n",
    );
    let denied = policy.explain_msr(0x1B, Some(1));
    assert!(
        denied.contains("p.toml:1") && denied.contains("#GP"),
        "{denied}"
    );
    assert!(policy.explain_msr(0x1C, None).contains("no rule names it"));
    let target = PciTarget {
        address: PciAddress::parse("0000:00:03.0"),
        id: None,
    };
    let request = crate::pci::PciRequest {
        address: target.address.unwrap(),
        register: 0,
        width: crate::ports::Width::Word,
        write: None,
    };
    let denied = policy.explain_pci(&target, &request);
    assert!(
        denied.contains("p.toml:6") && denied.contains("returns 0xffffffff"),
        "{denied}"
    );
}

#[test]
fn a_pci_rule_that_lets_the_bus_master_bit_be_set_is_known() {
    let rule = |register: &str| {
        let text = format!(
            "[[pci]]\ndevice = \"8086:100e\"\nbackend = \"passthrough\"\naccess = \"r\"\ni-know-what-this-does = true\n{register}"
        );
        let policy = Policy::from_str("p.toml", &text).unwrap();
        let rule = &policy.pci_rules()[0];
        (rule.may_master_the_bus(), rule.bus_master_line())
    };
    let register = "[[pci.register]]\naccess = \"rw\"\n";
    assert_eq!(rule(""), (false, 1));
    assert_eq!(rule("dma = \"vfio\"\n"), (true, 1));
    assert_eq!(rule(&format!("{register}range = 4\n")), (true, 6));
    assert!(!rule(&format!("{register}range = \"4-5\"\nwrite-mask = 0x0103\n")).0);
    assert!(
        rule(&format!(
            "{register}range = \"4-5\"\nwrite-mask = 3\nwrite-fixed = 4\n"
        ))
        .0
    );
    // The bit is number 34 of this one.
    assert!(
        rule(&format!(
            "{register}range = \"0-7\"\nwrite-mask = 0x400000000\n"
        ))
        .0
    );
    assert!(
        !rule(&format!(
            "{register}range = \"0-7\"\nwrite-mask = 0x3ffffffff\n"
        ))
        .0
    );
    assert!(!rule(&format!("{register}range = 5\n")).0);
}

#[test]
fn reads_of_the_machines_kernels_addresses_are_dangerous() {
    let rule = |number: &str, backend: &str| {
        format!("[[msr]]\nregister = {number}\naccess = \"r\"\nbackend = {backend}\n")
    };
    rejects(
        &rule("0xc0000082", "\"passthrough\""),
        1,
        1,
        "where that kernel is",
        "",
    );
    ok(&rule("0xc0000082", "\"value\"\nvalue = 1"));
    ok(&rule("0x1b", "\"passthrough\""));
}

#[test]
fn a_kernels_parallel_port_has_a_device_and_three_to_eight_registers() {
    let rule = |range: &str, more: &str| {
        format!("[[port]]\nrange = \"{range}\"\naccess = \"rw\"\nbackend = \"ppdev\"\n{more}")
    };
    ok(&rule(
        "0x378-0x37a",
        "device = \"/dev/parport0\"\nexclusive = true\n",
    ));
    rejects(&rule("0x378-0x37a", ""), 1, 1, "`device`", "parport0");
    rejects(
        &rule("0x378-0x379", "device = \"/dev/parport0\"\n"),
        2,
        9,
        "registers",
        "",
    );
    rejects(
        &rule("0x378-0x37a", "device = \"/dev/mem\"\n"),
        5,
        10,
        "/dev/mem",
        "parport0",
    );
}

#[test]
fn an_interrupt_by_vfio_is_of_a_function_that_vfio_has() {
    let pci = |key: &str, dma: &str| {
        format!("[[pci]]\n{key}\nbackend = \"passthrough\"\naccess = \"r\"\n{dma}\n")
    };
    let interrupt = "[[interrupt]]\nline = 5\nbackend = \"vfio\"\ndevice = \"0000:00:10.0\"\n";
    let parse =
        |pci: &str, more: &str| Policy::from_str("p.toml", &format!("{pci}{interrupt}{more}"));
    let (here, dma) = ("bdf = \"0000:00:10.0\"", "dma = \"vfio\"");
    let signal = |policy: &Policy| match policy.interrupt_rules()[0].source {
        InterruptSource::Vfio { signal, .. } => signal,
        _ => panic!("{policy:?}"),
    };
    assert_eq!(signal(&parse(&pci(here, dma), "").unwrap()), Signal::Pin);
    // By its ids it may be the function.
    let by_id = pci("device = \"1234:11e8\"", dma);
    let policy = parse(&by_id, "message-signaled = true\n").unwrap();
    assert_eq!(signal(&policy), Signal::Msi);
    for pci in [
        String::new(),
        pci(here, ""),
        pci("bdf = \"0000:00:11.0\"", dma),
    ] {
        let error = parse(&pci, "").unwrap_err().to_string();
        assert!(
            error.contains("no [[pci]] rule with `dma = \"vfio\"` is about 0000:00:10.0"),
            "{error}"
        );
    }
    // The pin or messages, not both.
    let again = |key: &str| interrupt.replace("5", "6") + key + "\n";
    for (first, second) in [
        ("", "message-signaled = true"),
        ("", "msi-x = 0"),
        ("message-signaled = true\n", "msi-x = 0"),
        ("msi-x = 1\n", "msi-x = 1"),
    ] {
        let both = format!("{first}{}", again(second));
        let error = parse(&pci(here, dma), &both).unwrap_err().to_string();
        assert!(error.contains("has this interrupt as well"), "{error}");
    }
    // Each vector of its table is one.
    let policy = parse(
        &pci(here, dma),
        &format!("msi-x = 0\n{}", again("msi-x = 2")),
    )
    .unwrap();
    assert_eq!(signal(&policy), Signal::MsiX(0));
    let neither = parse(&pci(here, dma), "message-signaled = true\nmsi-x = 0\n");
    let error = neither.unwrap_err().to_string();
    assert!(error.contains("cannot both be"), "{error}");
    assert!(parse(&pci(here, dma), "msi-x = 2048\n").is_err());
    let uio = "[[interrupt]]\nline = 5\nbackend = \"uio\"\ndevice = \"/dev/uio0\"\nmessage-signaled = true\n";
    assert!(Policy::from_str("p.toml", uio).is_err());
}

#[test]
fn registers_that_vfio_keeps_to_itself_are_no_danger() {
    let rule = "[[pci]]\nbdf = \"0000:00:10.0\"\nbackend = \"passthrough\"\naccess = \"rw\"\n";
    let error = Policy::from_str("p.toml", rule).unwrap_err().to_string();
    assert!(error.contains("the command register"), "{error}");
    Policy::from_str("p.toml", &format!("{rule}dma = \"vfio\"\n")).unwrap();
}
