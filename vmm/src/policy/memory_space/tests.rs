use vm_memory::VolatileMemory;

use super::*;

const RAM: u64 = abi::layout::RAM_DEFAULT;

fn space(text: &str) -> MemorySpace {
    let policy = Policy::from_str("m.toml", text).unwrap();
    MemorySpace::with_clock(
        &policy,
        RAM,
        &VfioFunctions::default(),
        Box::new(|| Duration::ZERO),
    )
    .unwrap()
}

fn rw(address: u64, bytes: u64) -> MemoryRequest {
    MemoryRequest {
        address,
        bytes,
        is_write: true,
    }
}

fn ro(address: u64, bytes: u64) -> MemoryRequest {
    MemoryRequest {
        is_write: false,
        ..rw(address, bytes)
    }
}

const TWO_NEIGHBOURS: &str = r#"
    [[memory]]
    range = "0xd1000-0xd2fff"
    access = "r"
    backend = "ram"
    [[memory]]
    range = "0xd0000-0xd0fff"
    access = "rw"
    backend = "ram"
    [[memory]]
    range = "0xe0000-0xe0fff"
    backend = "deny"
    on-deny = "stop"
    [[memory]]
    range = "0xf0000-0xfffff"
    access = "rw"
    backend = "ram"
"#;

#[track_caller]
fn allowed(space: &mut MemorySpace, request: &MemoryRequest) -> MemoryMapping {
    match space.map(request) {
        MemoryDecision::Allowed(mappings) => match mappings[..] {
            [mapping] => mapping,
            _ => panic!("{mappings:?}"),
        },
        denied @ MemoryDecision::Denied { .. } => panic!("{denied:?}"),
    }
}

#[test]
fn request_is_rounded_out_to_pages() {
    let mut space = space(TWO_NEIGHBOURS);
    let base = space.backings()[1].host_address();
    assert_eq!(base % 4096, 0);
    assert_eq!(
        allowed(&mut space, &rw(0xF_0FFF, 2)),
        MemoryMapping {
            backing: Some(1),
            offset: 0,
            bytes: 0x2000,
            is_writable: true
        }
    );
    let one_byte = allowed(&mut space, &ro(0xF_3004, 1));
    assert_eq!((one_byte.offset, one_byte.bytes), (0x3000, 0x1000));
    assert!(!one_byte.is_writable);
    let all = allowed(&mut space, &rw(0xF_0000, 0x1_0000));
    assert_eq!((all.offset, all.bytes), (0, 0x1_0000));
    assert_eq!(space.stats().rules[3].mapped, 3);
}

#[test]
fn neighbouring_rules_are_one_memory() {
    let mut space = space(TWO_NEIGHBOURS);
    let [low, high] = space.backings() else {
        panic!("{space:?}");
    };
    assert_eq!((low.physical, low.bytes()), (0xD_0000, 0x3000));
    assert_eq!((high.physical, high.bytes()), (0xF_0000, 0x1_0000));
    let mapping = allowed(&mut space, &ro(0xD_0800, 0x1000));
    assert_eq!((mapping.offset, mapping.bytes), (0, 0x2000));
    let rules = &space.stats().rules;
    assert_eq!((rules[0].mapped, rules[1].mapped), (1, 1));
}

#[test]
fn writable_mapping_of_read_only_range_is_denied() {
    let mut space = space(TWO_NEIGHBOURS);
    let MemoryDecision::Denied {
        rule,
        action,
        reason,
    } = space.map(&rw(0xD_0000, 0x1001))
    else {
        panic!("allowed");
    };
    assert_eq!((rule, action), (Some(0), Action::Ignored));
    assert!(
        reason.contains("line 2") && reason.contains("0xd1000"),
        "{reason}"
    );
    assert_eq!(space.stats().rules[0].denied, 1);
    assert_eq!(space.stats().rules[1].mapped, 0, "nothing of it was mapped");
}

#[test]
fn ranges_outside_or_running_out_of_rules_are_denied() {
    let mut space = space(TWO_NEIGHBOURS);
    for request in [
        ro(0xC_0000, 1),
        ro(0xC_FFFF, 2),
        ro(0xD_2FFF, 2),
        ro(0xD_0000, 0),
        ro(u64::MAX, 2),
        ro(0, u64::MAX),
        ro(u64::MAX, u64::MAX),
        ro(0xF_0000, 0x1_0001),
    ] {
        let decision = space.map(&request);
        assert!(
            matches!(
                decision,
                MemoryDecision::Denied {
                    rule: None,
                    action: Action::Ignored,
                    ..
                }
            ),
            "{request:?}: {decision:?}"
        );
    }
    assert_eq!(space.stats().denied, 8);
}

#[test]
fn deny_rule_can_stop_the_guest() {
    let mut space = space(TWO_NEIGHBOURS);
    assert!(matches!(
        space.map(&ro(0xE_0010, 4)),
        MemoryDecision::Denied {
            rule: Some(2),
            action: Action::Stop,
            ..
        }
    ));
}

#[test]
fn default_fault_means_null_for_memory() {
    let mut space = space("[default]\non-deny = \"fault\"");
    assert!(matches!(
        space.map(&ro(0xE_0010, 4)),
        MemoryDecision::Denied {
            action: Action::Ignored,
            ..
        }
    ));
}

fn with_file(path: &std::path::Path) -> Policy {
    let text = format!(
        "[[memory]]\nrange = \"0xd0000-0xd0fff\"\naccess = \"r\"\nbackend = \"ram\"\nfile = '{}'",
        path.display()
    );
    Policy::from_str("m.toml", &text).unwrap()
}

#[test]
fn contents_come_from_the_file_and_the_rest_is_zero() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"\x55\xAAROM").unwrap();
    let text = format!(
        "[[memory]]\nrange = \"0xd0000-0xd0fff\"\naccess = \"rw\"\nbackend = \"ram\"\n\
         [[memory]]\nrange = \"0xd1000-0xd1fff\"\naccess = \"r\"\nbackend = \"ram\"\nfile = '{}'",
        file.path().display()
    );
    let space = space(&text);
    let mut bytes = [1; 8192];
    space.backings()[0]
        .region()
        .unwrap()
        .as_volatile_slice()
        .copy_to(&mut bytes);
    let (before, rom) = bytes.split_at(4096);
    assert!(before.iter().all(|byte| *byte == 0));
    assert_eq!(&rom[..6], b"\x55\xAAROM\0");
    assert!(rom[6..].iter().all(|byte| *byte == 0));
}

#[test]
fn contents_that_are_missing_or_too_long_are_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), [0; 4097]).unwrap();
    let error = MemorySpace::new(&with_file(file.path()), RAM).unwrap_err();
    assert!(error.to_string().starts_with("m.toml:1: "), "{error}");
    assert!(error.to_string().contains("4096"), "{error}");
    let error = MemorySpace::new(&with_file("/nonexistent".as_ref()), RAM).unwrap_err();
    assert!(error.to_string().contains("/nonexistent"), "{error}");
}

#[test]
fn more_memory_than_the_window_is_refused() {
    let text =
        "[[memory]]\nrange = \"0x100000000-0x1ffffffff\"\naccess = \"rw\"\nbackend = \"ram\"";
    let policy = Policy::from_str("m.toml", text).unwrap();
    let error = MemorySpace::new(&policy, RAM).unwrap_err();
    assert!(matches!(error, MemoryStartError::TooLarge { line: 1, .. }));
    let found = policy.check_any_guest().unwrap_err().to_string();
    assert!(
        found.starts_with("m.toml:1:1: ") && found.contains("64 MiB"),
        "{found}"
    );
}

#[test]
fn rule_over_guest_ram_is_refused_with_its_line() {
    let text = "\n[[memory]]\nrange = \"0x1fff000-0x2000fff\"\naccess = \"rw\"\nbackend = \"ram\"";
    let policy = Policy::from_str("m.toml", text).unwrap();
    let error = MemorySpace::new(&policy, RAM).unwrap_err().to_string();
    assert!(error.starts_with("m.toml:2:1: "), "{error}");
    assert!(error.contains("0x1000000-0x1ffffff"), "{error}");
    let found = policy.check_any_guest().unwrap_err().to_string();
    assert_eq!(error, found);
    // With half the memory the same range is free.
    assert!(policy.check_guest_memory(RAM / 2).is_ok());
}

#[test]
fn while_learning_memory_that_nobody_has_can_be_mapped() {
    let text = "[[memory]]\nrange = \"0xd0000-0xd0fff\"\nbackend = \"deny\"\n";
    let policy = Policy::from_str("m.toml", text).unwrap().for_learning();
    let functions = VfioFunctions::default();
    let mut space =
        MemorySpace::with_clock(&policy, RAM, &functions, Box::new(|| Duration::ZERO)).unwrap();
    let MemoryDecision::Allowed(mappings) = space.map(&rw(0xE_0010, 0x1000)) else {
        panic!("denied");
    };
    let expected = MemoryMapping {
        backing: None,
        offset: 0xE_0000,
        bytes: 0x2000,
        is_writable: true,
    };
    assert_eq!(mappings, [expected]);
    let decision = MemoryDecision::Allowed(mappings);
    let record = space.record(&rw(0xE_0010, 0x1000), &decision);
    assert_eq!((record.allowed, record.rule_line), (false, None));
    // What a rule is about, the guest's memory, and what lies too high up stay as they are.
    for request in [
        rw(0xD_0000, 1),
        rw(0xC_F000, 0x2000),
        rw(abi::layout::RAM_BASE, 1),
        rw(DEVICE_ADDRESS_MAX, 2),
    ] {
        let denied = space.map(&request);
        assert!(
            matches!(denied, MemoryDecision::Denied { .. }),
            "{request:?}"
        );
    }
}
