use super::*;
use crate::session::import_status;
use std::collections::BTreeSet;
use std::path::Path;

fn readiness(file: &str) -> Option<Readiness> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let bytes = std::fs::read(root.join(file)).ok()?;
    let image = Image::parse(&bytes).unwrap();
    let abi = image.abi;
    Some(Readiness::new(&image, |dll, name| {
        import_status(abi, dll, name)
    }))
}

/// Most instructions that the search runs for one of the sample drivers.
const STEPS_MAX: u64 = 400_000;

fn codes(readiness: &Readiness) -> Vec<u32> {
    readiness.ioctls.iter().map(|code| code.code).collect()
}

/// RF_CODE of the sample drivers.
const fn rf(function: u32, method: u32) -> u32 {
    0x22 << 16 | function << 2 | method
}

#[test]
fn sample_drivers_have_exactly_their_codes() {
    let buffered = |functions: std::ops::RangeInclusive<u32>| -> Vec<u32> {
        functions.map(|function| rf(function, 0)).collect()
    };
    let echo = [
        (0x800, 0),
        (0x801, 1),
        (0x802, 2),
        (0x803, 3),
        (0x804, 0),
        (0x810, 0),
        (0x811, 0),
        (0x812, 0),
        (0x813, 0),
        (0x814, 2),
        (0x815, 2),
    ];
    let echo: Vec<u32> = echo.into_iter().map(|(f, m)| rf(f, m)).collect();
    let mut faulty = buffered(0x800..=0x816);
    faulty.extend([rf(0x817, 3), rf(0x818, 0)]);
    for (name, expected) in [
        ("echo", echo),
        ("portio", buffered(0x800..=0x80C)),
        ("ioperm", buffered(0x800..=0x805)),
        ("faulty", faulty),
    ] {
        for abi in ["i386", "amd64"] {
            let readiness = readiness(&format!("images/drivers/{abi}/{name}.sys")).unwrap();
            let hex: Vec<String> = codes(&readiness)
                .iter()
                .map(|c| format!("{c:#x}"))
                .collect();
            assert_eq!(codes(&readiness), expected, "{abi} {name}: {hex:?}");
            assert!(!readiness.is_incomplete);
        }
    }
}

#[test]
fn third_party_drivers_have_their_known_codes() {
    let inpout: Vec<u32> = (1..=8).map(|number| 0x9C40_2000 + 4 * number).collect();
    let winio: Vec<u32> = (0..6).map(|number| 0x8010_2040 + 4 * number).collect();
    for (file, expected) in [
        ("inpout-i386", &inpout[..]),
        ("inpout-amd64", &inpout[..]),
        ("winio2-i386", &winio[..4]),
        ("winio3-i386", &winio[..]),
        (
            "winio3-amd64",
            &[winio[0], winio[1], winio[4], winio[5]][..],
        ),
    ] {
        let Some(readiness) = readiness(&format!("third-party/drivers/{file}.sys")) else {
            eprintln!("SKIPPED: {file} was not fetched");
            continue;
        };
        let hex: Vec<String> = codes(&readiness)
            .iter()
            .map(|c| format!("{c:#x}"))
            .collect();
        assert_eq!(codes(&readiness), expected, "{file}: {hex:?}");
        assert!(
            readiness
                .names
                .iter()
                .any(|name| name.kind == NameKind::Device && name.is_referenced),
            "{file}: {:?}",
            readiness.names
        );
        let reads_ports = readiness
            .privileged
            .iter()
            .any(|found| found.instruction == "in")
            || readiness.reach.iter().any(|import| {
                import.import.contains("READ_PORT_UCHAR") && import.reached_from.is_some()
            });
        // WinIo 2 opens ports to its clients and uses none itself.
        assert_eq!(reads_ports, !file.starts_with("winio2"), "{file}");
    }
}

#[test]
fn routines_names_and_instructions_are_found() {
    for abi in ["i386", "amd64"] {
        let readiness = readiness(&format!("images/drivers/{abi}/portio.sys")).unwrap();
        let majors: BTreeSet<u8> = readiness
            .major_functions
            .iter()
            .map(|function| function.number)
            .collect();
        assert!(
            majors.is_superset(&BTreeSet::from([0, 2, 14])),
            "{majors:?}"
        );
        assert!(readiness.driver_unload.is_some());
        assert_eq!(readiness.add_device, None);
        let names: Vec<(&str, bool)> = readiness
            .names
            .iter()
            .map(|name| (name.name.as_str(), name.is_referenced))
            .collect();
        assert_eq!(
            names,
            [("\\Device\\portio", true), ("\\DosDevices\\portio", true)]
        );
        let instructions: BTreeSet<&str> = readiness
            .privileged
            .iter()
            .map(|found| found.instruction.as_str())
            .collect();
        assert!(instructions.contains("in") && instructions.contains("out"));
        let create = readiness
            .reach
            .iter()
            .find(|import| import.import.ends_with("IoCreateDevice"))
            .unwrap();
        assert_eq!(create.reached_from, Some(Reach::DriverEntry));
        let complete = readiness
            .reach
            .iter()
            .find(|import| import.import.ends_with("CompleteRequest"))
            .unwrap();
        assert_eq!(complete.reached_from, Some(Reach::Callbacks));
    }
}

#[test]
fn the_verdict_follows_what_driver_entry_reaches() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let bytes = std::fs::read(root.join("images/drivers/amd64/portio.sys")).unwrap();
    let image = Image::parse(&bytes).unwrap();
    let with = |missing: &'static str, status: ImportStatus| {
        Readiness::new(&image, move |_, name| {
            if name == Some(missing) {
                status.clone()
            } else {
                ImportStatus::Implemented
            }
        })
        .verdict
    };
    assert_eq!(with("", ImportStatus::Missing), Verdict::Ready);
    assert!(matches!(
        with("IoCreateDevice", ImportStatus::Unknown),
        Verdict::WillStop { at, .. } if at.ends_with("IoCreateDevice")
    ));
    assert!(matches!(
        with("MmMapIoSpace", ImportStatus::Missing),
        Verdict::Probably { missing, partial } if missing.len() == 1 && partial.is_empty()
    ));
    assert!(matches!(
        with("IoCreateDevice", ImportStatus::Partial("x".into())),
        Verdict::Probably { partial, .. } if partial.len() == 1
    ));
}

#[test]
fn kmdf_drivers_have_exactly_their_codes() {
    let buffered = (0x804..=0x80A).map(|function| rf(function, 0));
    let expected: Vec<u32> = (0..4)
        .map(|method| rf(0x800 + method, method))
        .chain(buffered)
        .collect();
    for abi in ["i386", "amd64"] {
        let readiness = readiness(&format!("images/drivers/{abi}/kmdf.sys")).unwrap();
        let hex: Vec<String> = codes(&readiness)
            .iter()
            .map(|c| format!("{c:#x}"))
            .collect();
        assert!(readiness.is_kmdf);
        assert_eq!(codes(&readiness), expected, "{abi}: {hex:?}");
        assert!(!readiness.is_incomplete);
    }
}

/// A framework driver names its callbacks in structures, so every function whose address it takes may be the one that
/// gets the codes; those that look at none cost a few steps each.
#[test]
fn a_search_for_codes_takes_few_steps() {
    let drivers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/drivers");
    let mut count = 0;
    for abi in ["i386", "amd64"] {
        for entry in std::fs::read_dir(drivers.join(abi)).unwrap() {
            let file = entry.unwrap().path();
            let image = Image::parse(&std::fs::read(&file).unwrap()).unwrap();
            let mut code = Code::new(&image).unwrap();
            let deadline = Instant::now() + Duration::from_secs(600);
            let walk = Walk::new(&mut code, deadline);
            let search = ioctl::find(&mut code, &walk, deadline);
            assert!(search.is_complete, "{}", file.display());
            let steps = search.instructions;
            assert!(steps < STEPS_MAX, "{}: {steps}", file.display());
            count += 1;
        }
    }
    assert!(count >= 2);
}

/// The search is over as soon as its time is, wherever it is then.
#[test]
fn a_search_that_is_late_runs_nothing_more() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let bytes = std::fs::read(root.join("images/drivers/amd64/echo.sys")).unwrap();
    let image = Image::parse(&bytes).unwrap();
    let mut code = Code::new(&image).unwrap();
    let walk = Walk::new(&mut code, Instant::now() + Duration::from_secs(600));
    let search = ioctl::find(&mut code, &walk, Instant::now() - Duration::from_secs(1));
    assert!(!search.is_complete);
    assert!(search.instructions < 64, "{}", search.instructions);
}

/// A pointer into a code section that no code is behind is followed once.
#[test]
fn pointers_to_what_is_no_code_end_the_walk() {
    use loader::builder::{Builder, SectionIndex};
    let mut built = Builder::new(abi::DriverAbi::Amd64).build();
    // The image's data has a pointer to the beginning of its code: an instruction that amd64 has not.
    let at = built.raw(SectionIndex::Text, 0) as usize;
    built.bytes[at] = 0x06;
    let image = Image::parse(&built.bytes).unwrap();
    let (sender, walked) = std::sync::mpsc::channel();

    std::thread::spawn(move || {
        let mut code = Code::new(&image).unwrap();
        let walk = Walk::new(&mut code, Instant::now() + Duration::from_secs(600));
        sender.send(walk.is_incomplete)
    });

    let is_incomplete = walked.recv_timeout(Duration::from_secs(60));
    assert_eq!(is_incomplete, Ok(false), "it does not end");
}

/// A name that is hidden in another one is none, and a page of backslashes costs one look a byte.
#[test]
fn names_inside_names_are_not_listed() {
    let mut built = loader::builder::Builder::new(abi::DriverAbi::Amd64).build();
    let at = built.raw(loader::builder::SectionIndex::Data, 0) as usize;
    let text = b"\\\\\\\\\\Device\\One\\??\\Two\0";
    built.bytes[at..at + text.len()].copy_from_slice(text);
    let image = Image::parse(&built.bytes).unwrap();
    let found = Readiness::new(&image, |_, _| ImportStatus::Implemented).names;
    let names: Vec<&str> = found.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["\\Device\\One\\??\\Two"]);
}

#[test]
fn codes_are_taken_apart() {
    let code = ControlCode::new(0x9C40_E007);
    assert_eq!(
        (code.device_type, code.function, code.method, code.access),
        (0x9C40, 0x801, "neither", "read_write")
    );
}

mod hand_built {
    use super::*;
    use loader::builder::{Builder, SectionIndex};

    /// An image whose entry point holds `bytes`.
    fn with_entry(abi: abi::DriverAbi, bytes: &[u8]) -> Readiness {
        let mut built = Builder::new(abi).build();
        let entry = built.raw(SectionIndex::Text, 0) as usize;
        let at = entry..entry + bytes.len();
        built.bytes[at].copy_from_slice(bytes);
        let init = built.raw(SectionIndex::Init, 0) as usize;
        let target = built.rva(SectionIndex::Text, 0);
        let source = built.rva(SectionIndex::Init, 0);
        built.bytes[init] = 0xE9;
        let distance = target.wrapping_sub(source + 5);
        built.bytes[init + 1..init + 5].copy_from_slice(&distance.to_le_bytes());
        let image = Image::parse(&built.bytes).unwrap();
        Readiness::new(&image, |_, _| ImportStatus::Implemented)
    }

    #[test]
    fn ports_and_control_registers_are_named() {
        // mov dx, 378h / out dx, al / in al, 61h / mov cr3, eax / cli / hlt / ret
        let bytes = [
            0x66, 0xBA, 0x78, 0x03, 0xEE, 0xE4, 0x61, 0x0F, 0x22, 0xD8, 0xFA, 0xF4, 0xC3,
        ];
        for abi in [abi::DriverAbi::I386, abi::DriverAbi::Amd64] {
            let found = with_entry(abi, &bytes).privileged;
            let all: Vec<_> = found
                .iter()
                .map(|found| (found.instruction.as_str(), found.port))
                .collect();
            assert_eq!(
                all,
                [
                    ("out", Some(0x378)),
                    ("in", Some(0x61)),
                    ("mov cr3", None),
                    ("cli", None),
                    ("hlt", None)
                ]
            );
            assert!(
                found
                    .iter()
                    .all(|found| found.reached_from == Reach::DriverEntry)
            );
        }
    }

    #[test]
    fn loops_end() {
        // jmp self; call self; ret
        for bytes in [&[0xEB, 0xFE][..], &[0xE8, 0xFB, 0xFF, 0xFF, 0xFF, 0xC3]] {
            let found = with_entry(abi::DriverAbi::Amd64, bytes);
            assert!(!found.is_incomplete);
        }
    }
}
