use super::hive::{Options, string_data};
use super::*;
use crate::nt::{OBJECT_ATTRIBUTES, UNICODE_STRING};
use crate::raw::{Ptr, Word};
use crate::test_platform::{api, machine};

/// Attributes for a name; the boxes keep the addresses.
struct Name {
    _units: Vec<u16>,
    string: Box<UNICODE_STRING>,
    attributes: Box<OBJECT_ATTRIBUTES>,
}

fn name(text: &str, root: u64) -> Name {
    let mut units: Vec<u16> = text.encode_utf16().chain([0]).collect();
    let bytes = u16::try_from(2 * (units.len() - 1)).unwrap();
    let mut string = Box::new(UNICODE_STRING {
        Length: bytes,
        MaximumLength: bytes,
        Buffer: Ptr::of(&mut units[0]),
    });
    let attributes = Box::new(OBJECT_ATTRIBUTES {
        Length: u32::try_from(size_of::<OBJECT_ATTRIBUTES>()).unwrap(),
        RootDirectory: root,
        ObjectName: Ptr::of(&mut *string),
        Attributes: 0x40,
        SecurityDescriptor: 0,
        SecurityQualityOfService: 0,
    });
    Name {
        _units: units,
        string,
        attributes,
    }
}

impl Name {
    fn attributes(&mut self) -> u64 {
        Ptr::of(&mut *self.attributes).addr()
    }
    fn string(&mut self) -> u64 {
        Ptr::of(&mut *self.string).addr()
    }
}

fn status(word: u64) -> NtStatus {
    NtStatus(low32(word))
}

fn open(path: &str, root: u64) -> Result<u64, NtStatus> {
    let mut handle: Word = 0;
    let mut name = name(path, root);
    let result = api(
        "ZwOpenKey",
        &[Ptr::of(&mut handle).addr(), 0xF003F, name.attributes()],
    );
    match status(result) {
        NtStatus::SUCCESS => Ok(handle),
        other => Err(other),
    }
}

fn create(path: &str, root: u64, options: u64) -> Result<(u64, u32), NtStatus> {
    let (mut handle, mut disposition): (Word, u32) = (0, 0);
    let mut name = name(path, root);
    let result = api(
        "ZwCreateKey",
        &[
            Ptr::of(&mut handle).addr(),
            0xF003F,
            name.attributes(),
            0,
            0,
            options,
            Ptr::of(&mut disposition).addr(),
        ],
    );
    match status(result) {
        NtStatus::SUCCESS => Ok((handle, disposition)),
        other => Err(other),
    }
}

fn set(key: u64, value: &str, data: &mut [u8]) -> NtStatus {
    let mut value = name(value, 0);
    status(api(
        "ZwSetValueKey",
        &[
            key,
            value.string(),
            0,
            3,
            Ptr::of(&mut data[0]).addr(),
            data.len() as u64,
        ],
    ))
}

#[test]
fn the_link_to_the_control_set_is_followed() {
    let _machine = machine();
    ensure_service("test");
    let (key, _) = create(
        "\\Registry\\Machine\\System\\CurrentControlSet\\Services\\test\\Parameters",
        0,
        0,
    )
    .unwrap();
    assert_eq!(set(key, "A", &mut [1, 2, 3]), NtStatus::SUCCESS);
    let other = open(
        "\\REGISTRY\\machine\\SYSTEM\\ControlSet001\\services\\TEST\\parameters\\",
        0,
    )
    .unwrap();
    let mut buffer = [0_u8; 64];
    let mut length = 0_u32;
    let mut value = name("a", 0);
    let result = api(
        "ZwQueryValueKey",
        &[
            other,
            value.string(),
            2,
            Ptr::of(&mut buffer[0]).addr(),
            64,
            Ptr::of(&mut length).addr(),
        ],
    );
    assert_eq!((status(result), length), (NtStatus::SUCCESS, 15));
    assert_eq!(buffer[..15], [0, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0, 1, 2, 3]);
}

#[test]
fn names_that_do_not_lead_to_a_key() {
    let _machine = machine();
    for (path, expected) in [
        (
            "\\Registry\\Machine\\Nothing\\There",
            NtStatus::OBJECT_NAME_NOT_FOUND,
        ),
        (
            "\\Registry\\Machine\\\\System",
            NtStatus::OBJECT_NAME_INVALID,
        ),
        ("Registry\\Machine", NtStatus::OBJECT_PATH_SYNTAX_BAD),
        ("", NtStatus::OBJECT_PATH_SYNTAX_BAD),
        ("\\Device", NtStatus::OBJECT_TYPE_MISMATCH),
        ("\\Nowhere", NtStatus::OBJECT_NAME_NOT_FOUND),
        ("\\Nowhere\\x", NtStatus::OBJECT_PATH_NOT_FOUND),
    ] {
        assert_eq!(open(path, 0), Err(expected), "{path}");
    }
    let machine = open("\\Registry\\Machine", 0).unwrap();
    assert_eq!(
        open("\\System", machine),
        Err(NtStatus::OBJECT_PATH_SYNTAX_BAD)
    );
    assert!(open("System", machine).is_ok() && open("", machine).is_ok());
    assert_eq!(
        create("\\Registry\\Machine\\Mine", 0, 0),
        Err(NtStatus::ACCESS_DENIED)
    );
    assert_eq!(
        create("\\Registry\\Machine\\Software\\a\\b", 0, 0),
        Err(NtStatus::OBJECT_NAME_NOT_FOUND)
    );
}

#[test]
fn a_deleted_key_is_of_no_use_and_a_parent_is_not_deleted() {
    let _machine = machine();
    let (parent, new) = create("\\Registry\\Machine\\Software\\One", 0, 1).unwrap();
    assert_eq!(new, 1);
    assert_eq!(
        create("Child", parent, 0),
        Err(NtStatus::CHILD_MUST_BE_VOLATILE)
    );
    let (child, _) = create("Child", parent, 1).unwrap();
    assert_eq!(create("child", parent, 1).unwrap().1, 2);
    assert_eq!(
        status(api("ZwDeleteKey", &[parent])),
        NtStatus::CANNOT_DELETE
    );
    assert_eq!(status(api("ZwDeleteKey", &[child])), NtStatus::SUCCESS);
    assert_eq!(set(child, "x", &mut [1]), NtStatus::KEY_DELETED);
    assert_eq!(status(api("ZwClose", &[child])), NtStatus::SUCCESS);
    assert_eq!(status(api("ZwDeleteKey", &[parent])), NtStatus::SUCCESS);
}

#[test]
fn the_registry_is_full_at_its_quota() {
    let _machine = machine();
    let (key, _) = create("\\Registry\\Machine\\Software\\Full", 0, 0).unwrap();
    let mut data = alloc::vec![7; hive::QUOTA / 2];
    assert_eq!(set(key, "a", &mut data), NtStatus::SUCCESS);
    assert_eq!(set(key, "b", &mut data), NtStatus::INSUFFICIENT_RESOURCES);
    // The same value again is no more than before.
    assert_eq!(set(key, "A", &mut data), NtStatus::SUCCESS);
    let mut value = name("a", 0);
    assert_eq!(
        status(api("ZwDeleteValueKey", &[key, value.string()])),
        NtStatus::SUCCESS
    );
    assert_eq!(set(key, "b", &mut data), NtStatus::SUCCESS);
}

#[test]
fn what_was_changed_is_encoded_and_loads_again() {
    let _machine = machine();
    ensure_service("test");
    assert_eq!(encode().len(), HEADER_BYTES);
    let path = format!("{SERVICES}\\test\\Parameters");
    let (key, _) = create(&path, 0, 0).unwrap();
    assert_eq!(set(key, "Depth", &mut [5, 0, 0, 0]), NtStatus::SUCCESS);
    create("Volatile", key, 1).unwrap();
    let bytes = encode();
    initialize();
    assert_eq!(open(&path, 0), Err(NtStatus::OBJECT_NAME_NOT_FOUND));
    ensure_service("test");
    assert_eq!(load(&bytes), Ok(()));
    let value = with(|hive| {
        let id = hive.resolve(&path, false)?;
        Ok::<_, NtStatus>(hive.key(id)?.value("depth").unwrap().clone())
    });
    assert_eq!(value.unwrap().data, [5, 0, 0, 0]);
    assert_eq!(
        open(&format!("{path}\\Volatile"), 0),
        Err(NtStatus::OBJECT_NAME_NOT_FOUND)
    );
    assert_eq!(encode(), bytes);
}

#[test]
fn a_damaged_encoding_is_refused_whatever_is_damaged() {
    let _machine = machine();
    let mut body = Vec::new();
    let utf16: Vec<u8> = "\\Registry\\Machine\\Software\\X"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    Record {
        kind: RecordKind::Key,
        name: &utf16,
        value_type: 0,
        data: &[],
    }
    .encode(&mut body);
    Record {
        kind: RecordKind::Value,
        name: &utf16,
        value_type: 1,
        data: &string_data("text"),
    }
    .encode(&mut body);
    let mut bytes = header(u32::try_from(HEADER_BYTES + body.len()).unwrap()).to_vec();
    bytes.extend(body);
    assert_eq!(load(&bytes), Ok(()));
    for length in 0..bytes.len() {
        assert_eq!(
            load(&bytes[..length]),
            Err(NtStatus::INVALID_PARAMETER),
            "{length}"
        );
    }
    for index in (0..12)
        .chain(HEADER_BYTES..HEADER_BYTES + 8)
        .chain(HEADER_BYTES + 12..HEADER_BYTES + 16)
    {
        let mut damaged = bytes.clone();
        damaged[index] ^= 0x41;
        assert_eq!(load(&damaged), Err(NtStatus::INVALID_PARAMETER), "{index}");
    }
}

#[test]
fn a_loop_of_links_ends() {
    let _machine = machine();
    with(|hive| {
        let link = Options {
            is_link: true,
            ..Options::default()
        };
        let software = hive
            .resolve("\\Registry\\Machine\\Software", false)
            .unwrap();
        for (name, target) in [("A", "B"), ("B", "A")] {
            let (id, _) = hive.create(software, name, link).unwrap();
            let data = string_data(&format!("\\Registry\\Machine\\Software\\{target}"));
            set_built_in(hive, id, "SymbolicLinkValue", REG_LINK, data).unwrap();
        }
        assert_eq!(
            hive.resolve("\\Registry\\Machine\\Software\\A\\x", false),
            Err(NtStatus::NAME_TOO_LONG)
        );
    });
}
