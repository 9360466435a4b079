//! Modelled PCI functions: what a policy may say of them, and what is wrong with the rest.

use super::device::ResourceKind;
use super::tests::{ok, rejects};
use super::*;
use crate::ports::{Origin, PortRequest, Width};

const FUNCTION: &str =
    "[[pci]]\ndevice = \"1234:11e8\"\nbdf = \"00:04.0\"\nbackend = \"model\"\naccess = \"rw\"\n";

fn function(more: &str) -> String {
    format!("{FUNCTION}{more}")
}

fn bar(lines: &str) -> String {
    function(&format!("[[pci.bar]]\n{lines}\n"))
}

#[test]
fn header_and_bars_are_read() {
    let policy = ok(&function(
        "class = 0x118000\nrevision = 3\nsubsystem = \"1af4:1100\"\ninterrupt-line = 11\ninterrupt-pin = \"C\"\n\
         [[pci.bar]]\nindex = 2\ntype = \"memory64\"\nsize = 0x100000\nbackend = \"ram\"\nprefetchable = true\n\
         [[pci.bar]]\nindex = 0\ntype = \"port\"\nsize = 8\nbase = 0xe000\nbackend = \"adc12\"\nname = \"card\"\n",
    ));
    let model = policy.pci_rules()[0].model().unwrap();
    assert!(model.is_device());
    assert_eq!(model.initial[4..12], [1, 0, 0, 0, 3, 0x00, 0x80, 0x11]);
    assert_eq!(model.initial[0x2C..0x30], [0xF4, 0x1A, 0x00, 0x11]);
    assert_eq!(model.interrupt, Some(PciInterrupt { line: 11, pin: 3 }));
    let [first, second] = &*model.bars else {
        panic!("{:?}", model.bars);
    };
    assert_eq!((first.index, first.kind, first.size), (0, BarKind::Port, 8));
    assert_eq!(first.range(), Some((0xE000, 0xE007)));
    assert_eq!(first.name.as_deref(), Some("card"));
    assert_eq!((second.kind, second.range()), (BarKind::Memory64, None));
    assert!(second.is_prefetchable);
    // The command register is the owner's, if he says so; and a function without anything is a register file.
    let model = ok(&bar(
        "index = 0\ntype = \"port\"\nsize = 8\nbase = 0xe000\nbackend = \"ram\"",
    ));
    assert_eq!(
        model.pci_rules()[0].model().unwrap().initial,
        [0, 0, 0, 0, 1]
    );
    assert!(!ok(FUNCTION).pci_rules()[0].model().unwrap().is_device());
}

#[test]
fn mistakes_in_functions_have_their_place() {
    let line = FUNCTION.lines().count() + 1;
    let good = "index = 0\ntype = \"memory\"\nsize = 0x1000\nbase = 0xfeb00000\nbackend = \"ram\"";
    ok(&bar(good));
    for (from, to, at, column, message, allowed) in [
        (
            "index = 0\n",
            "",
            0,
            1,
            "[[pci.bar]] has no `index`",
            "0 to 5",
        ),
        (
            "index = 0",
            "index = 6",
            1,
            9,
            "`index` cannot be 6",
            "0 to 5",
        ),
        (
            "\"memory\"",
            "\"mem\"",
            2,
            8,
            "`type` cannot be \"mem\"",
            "memory64",
        ),
        (
            "0x1000",
            "0x1001",
            3,
            8,
            "cannot have 4097 bytes",
            "power of two",
        ),
        ("0x1000", "8", 3, 8, "cannot have 8 bytes", "from 16"),
        (
            "0xfeb00000",
            "0xfeb00800",
            4,
            8,
            "cannot be at 0xfeb00800",
            "multiple",
        ),
        ("0xfeb00000", "0", 4, 8, "cannot be at 0x0", "not 0"),
        (
            "0xfeb00000",
            "0x100000000",
            4,
            8,
            "cannot be at 0x100000000",
            "0xffffffff",
        ),
        (
            "\"ram\"",
            "\"deny\"",
            5,
            11,
            "`backend` cannot be \"deny\"",
            "external",
        ),
        (
            "\"ram\"",
            "\"ram\"\nirq = 5",
            6,
            1,
            "has no key `irq`",
            "initial",
        ),
        (
            "\"ram\"",
            "\"ram\"\nwave = \"sine\"",
            6,
            1,
            "`wave` belongs to backend \"adc12\"",
            "",
        ),
        (
            "\"memory\"",
            "\"port\"",
            3,
            8,
            "cannot have 4096 bytes",
            "from 4 to 0x100",
        ),
    ] {
        let text = bar(&good.replacen(from, to, 1));
        rejects(&text, line + at, column, message, allowed);
    }
    let small = "index = 0\ntype = \"port\"\nsize = 4\nbackend = \"adc12\"";
    rejects(
        &bar(small),
        line + 3,
        8,
        "has 8 bytes of registers",
        "8 at least",
    );
    let last = "index = 5\ntype = \"memory64\"\nsize = 16\nbackend = \"ram\"";
    rejects(&bar(last), line + 1, 9, "a second register", "0 to 4");
    let twice = format!(
        "{}[[pci.bar]]\nindex = 1\ntype = \"memory\"\nsize = 16\nbackend = \"ram\"\n",
        bar("index = 0\ntype = \"memory64\"\nsize = 16\nbackend = \"ram\"")
    );
    rejects(&twice, line + 6, 9, "has this register as well", "two");
    rejects(
        &function("interrupt-pin = \"A\"\n"),
        line,
        17,
        "without `interrupt-line`",
        "",
    );
    rejects(
        &function("class = 0x1000000\n"),
        line,
        9,
        "`class` cannot be",
        "",
    );
    rejects(
        &function("subsystem = \"1af4\"\n"),
        line,
        13,
        "`subsystem` cannot be",
        "1af4:1100",
    );
    let passed = FUNCTION.replace("\"model\"", "\"passthrough\"");
    rejects(
        &format!("{passed}class = 1\n"),
        line,
        1,
        "`class` belongs to backend \"model\"",
        "",
    );
}

#[test]
fn bars_do_not_overlap_with_rules_at_the_start() {
    let rule = "[[port]]\nrange = \"0xe004-0xe00f\"\naccess = \"rw\"\nbackend = \"ram\"\n";
    let ports = bar("index = 0\ntype = \"port\"\nsize = 8\nbase = 0xe000\nbackend = \"ram\"");
    let error = Policy::from_str("p.toml", &format!("{ports}{rule}")).unwrap_err();
    assert!(
        error.to_string().contains("both cover port 0xe004-0xe007"),
        "{error}"
    );
    let memory =
        "[[memory]]\nrange = \"0xfeb00000-0xfeb01fff\"\naccess = \"rw\"\nbackend = \"ram\"\n";
    let text =
        bar("index = 0\ntype = \"memory\"\nsize = 0x1000\nbase = 0xfeb01000\nbackend = \"ram\"");
    let error = Policy::from_str("p.toml", &format!("{text}{memory}")).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("both cover address 0xfeb01000-0xfeb01fff"),
        "{error}"
    );
    // Nor with the guest's memory.
    let policy = ok(&text.replace("0xfeb01000", "0x1800000"));
    let error = MemorySpace::new(&policy, 16 << 20).unwrap_err();
    assert!(
        crate::error_chain(&error).contains("the guest's own memory"),
        "{error}"
    );
    let file =
        "[[pci.bar]]\nindex = 1\ntype = \"port\"\nsize = 8\nbackend = \"lpt\"\noutput = \"x\"\n";
    let port =
        "[[port]]\nrange = \"0x378-0x37a\"\naccess = \"rw\"\nbackend = \"lpt\"\noutput = \"x\"\n";
    let error = Policy::from_str("p.toml", &format!("{FUNCTION}{file}{port}")).unwrap_err();
    assert!(error.to_string().contains("the same `output`"), "{error}");
}

#[test]
fn device_of_a_function_has_its_resources() {
    let text = function(
        "interrupt-line = 11\nclass = 0x118000\nrevision = 3\n\
         [[pci.bar]]\nindex = 0\ntype = \"memory\"\nsize = 0x1000\nbase = 0xfeb00000\nbackend = \"ram\"\n\
         [[pci.bar]]\nindex = 1\ntype = \"port\"\nsize = 8\nbase = 0xe000\nbackend = \"ram\"\n\
         [device]\npci = \"0000:00:04.0\"\n",
    );
    let policy = ok(&text);
    let device = policy.device();
    let kinds: Vec<ResourceKind> = device.resources.iter().map(|one| one.kind).collect();
    assert_eq!(
        kinds,
        [
            ResourceKind::Memory(0xFEB0_0000, 0xFEB0_0FFF),
            ResourceKind::Port(0xE000, 0xE007),
            ResourceKind::Interrupt {
                line: 11,
                is_latched: false
            }
        ]
    );
    assert_eq!(
        device.hardware_ids[0],
        r"PCI\VEN_1234&DEV_11E8&SUBSYS_00000000&REV_03"
    );
    assert!(device.compatible_ids.contains(&r"PCI\CC_1180".to_owned()));
    assert!(policy.warnings().is_empty(), "{:?}", policy.warnings());
    let line = text.lines().count();
    rejects(
        &text
            .replace("00:04.0\"\n[[", "00:05.0\"\n[[")
            .replace("\"0000:00:04.0\"", "\"00:06.0\""),
        line,
        7,
        "no [[pci]] rule models a device at 00:06.0",
        "bdf",
    );
    rejects(
        &text.replace("interrupt-line = 11", "interrupt-line = 40"),
        line,
        7,
        "no resource of a PnP device",
        "0 to 23",
    );
}

#[test]
fn explanation_knows_where_bars_are_at_the_start() {
    let policy = ok(&function(
        "[[pci.bar]]\nindex = 0\ntype = \"port\"\nsize = 8\nbase = 0xe000\nbackend = \"ram\"\n\
         [[pci.bar]]\nindex = 1\ntype = \"memory\"\nsize = 0x100\nbase = 0xfeb00000\nbackend = \"ram\"\n",
    ));
    let request = PortRequest {
        port: 0xE002,
        width: Width::Byte,
        write: None,
    };
    assert!(policy.decide_port(&request, 0).is_allowed());
    assert_eq!(
        policy.decide_port(&request, 0).origin,
        Origin::Pci { index: 0, line: 1 }
    );
    let text = policy.explain_port(&request, 0);
    assert!(
        text.contains("port 0xe002: BAR 0 of PCI function 1234:11e8 at 0000:00:04.0"),
        "{text}"
    );
    let text = policy.explain_memory(0xFEB0_0010, 4, true);
    assert!(text.contains("allowed\n  BAR 1 of PCI function"), "{text}");
    assert!(
        policy
            .explain_memory(0xFEB0_0010, 0x1000, true)
            .contains("denied")
    );
}
