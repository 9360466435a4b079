//! The configuration manager: the registry.
//!
//! It lives in the shim's heap. The VMM loads what the user gave it ([`load`]) before the first driver, and may take
//! back at any time what is not volatile and was not there from the beginning ([`encode`]).

pub mod api;
pub mod callback;
pub mod device;
pub mod hive;
pub mod info;
pub mod notify;
pub mod object;
pub mod rtl;
pub mod rtl_query;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::ex::pool;
use crate::nt::NtStatus;
use crate::raw::{Global, low32};
use crate::shared;
use abi::doorbell::Call;
use abi::registry::{HEADER_BYTES, Record, RecordKind, Records, header};
use hive::{Hive, KeyId, Options, ROOT, Value, string_data};

/// REG_SZ.
pub const REG_SZ: u32 = 1;
/// REG_EXPAND_SZ.
pub const REG_EXPAND_SZ: u32 = 2;
/// REG_DWORD.
pub const REG_DWORD: u32 = 4;
/// REG_LINK.
pub const REG_LINK: u32 = 6;
/// REG_MULTI_SZ.
pub const REG_MULTI_SZ: u32 = 7;
/// Where services are.
pub const SERVICES: &str = "\\Registry\\Machine\\System\\CurrentControlSet\\Services";
/// Where the control set is.
pub const CONTROL: &str = "\\Registry\\Machine\\System\\CurrentControlSet\\Control";
/// What the version of Windows says.
pub const WINDOWS_NT: &str = "\\Registry\\Machine\\Software\\Microsoft\\Windows NT\\CurrentVersion";

/// Keys that are always there.
const KEYS: [&str; 12] = [
    "\\Registry\\Machine\\Software\\Microsoft\\Windows\\CurrentVersion",
    WINDOWS_NT,
    "\\Registry\\Machine\\System\\Select",
    "\\Registry\\Machine\\System\\ControlSet001\\Control\\Class",
    "\\Registry\\Machine\\System\\ControlSet001\\Control\\DeviceClasses",
    "\\Registry\\Machine\\System\\ControlSet001\\Control\\Session Manager\\Environment",
    "\\Registry\\Machine\\System\\ControlSet001\\Control\\Session Manager\\Memory Management",
    "\\Registry\\Machine\\System\\ControlSet001\\Enum\\Root",
    "\\Registry\\Machine\\System\\ControlSet001\\Hardware Profiles\\0001\\System\\CurrentControlSet",
    "\\Registry\\Machine\\System\\ControlSet001\\Services",
    "\\Registry\\User\\.Default",
    "\\Registry\\User\\S-1-5-18",
];
/// Keys that are made anew at each start.
const VOLATILE_KEYS: [&str; 4] = [
    "\\Registry\\Machine\\Hardware\\Description\\System\\CentralProcessor\\0",
    "\\Registry\\Machine\\Hardware\\DeviceMap\\PARALLEL PORTS",
    "\\Registry\\Machine\\Hardware\\DeviceMap\\SERIALCOMM",
    "\\Registry\\Machine\\Hardware\\ResourceMap",
];

/// Links: where they are, their names, where they lead.
const LINKS: [(&str, &str, &str); 2] = [
    (
        "\\Registry\\Machine\\System",
        "CurrentControlSet",
        "\\Registry\\Machine\\System\\ControlSet001",
    ),
    (
        "\\Registry\\Machine\\System\\ControlSet001\\Hardware Profiles",
        "Current",
        "\\Registry\\Machine\\System\\ControlSet001\\Hardware Profiles\\0001",
    ),
];

/// The registry.
static HIVE: Global<Hive> = Global::new("registry", Hive::empty());

/// Works with the registry. Nothing inside may call a driver.
pub(crate) fn with<R>(work: impl FnOnce(&mut Hive) -> R) -> R {
    HIVE.with(work)
}

const BUILT_IN: Options = Options {
    is_volatile: false,
    is_link: false,
    is_built_in: true,
};

fn set_built_in(
    hive: &mut Hive,
    id: KeyId,
    name: &str,
    value_type: u32,
    data: Vec<u8>,
) -> Result<(), NtStatus> {
    hive.set_value(
        id,
        Value {
            name: String::from(name),
            value_type,
            data,
            is_built_in: true,
        },
    )
}

/// Makes the keys that are always there.
fn populate(hive: &mut Hive) -> Result<(), NtStatus> {
    for key in KEYS {
        hive.create_all(key, BUILT_IN)?;
    }
    let volatile = Options {
        is_volatile: true,
        ..BUILT_IN
    };
    let machine = hive.resolve("\\Registry\\Machine", false)?;
    hive.create(machine, "Hardware", volatile)?;
    for key in VOLATILE_KEYS {
        hive.create_all(key, volatile)?;
    }
    let link = Options {
        is_link: true,
        is_volatile: true,
        ..BUILT_IN
    };
    for (folder, name, target) in LINKS {
        let folder = hive.resolve(folder, false)?;
        let (id, _) = hive.create(folder, name, link)?;
        let mut target = string_data(target);
        target.truncate(target.len() - 2);
        set_built_in(hive, id, "SymbolicLinkValue", REG_LINK, target)?;
    }
    let select = hive.resolve("\\Registry\\Machine\\System\\Select", false)?;
    for name in ["Current", "Default", "LastKnownGood"] {
        set_built_in(hive, select, name, REG_DWORD, 1_u32.to_le_bytes().to_vec())?;
    }
    let version = hive.resolve(WINDOWS_NT, false)?;
    let release = crate::view::release();
    // The value has not gone beyond 6.3: programs that compare it as text would take "10" for less.
    let current_version = if release.major >= 10 {
        String::from("6.3")
    } else {
        format!("{}.{}", release.major, release.minor)
    };
    for (name, text) in [
        ("CurrentVersion", current_version),
        ("CurrentBuildNumber", format!("{}", release.build)),
        ("CurrentBuild", format!("{}", release.build)),
        ("SystemRoot", String::from("C:\\Windows")),
    ] {
        set_built_in(hive, version, name, REG_SZ, string_data(&text))?;
    }
    Ok(())
}

/// Makes the registry as it is before the VMM adds to it.
///
/// # Panics
/// When the shim's heap has no room for it.
pub(crate) fn initialize() {
    object::initialize();
    notify::initialize();
    callback::initialize();
    device::initialize();
    with(|hive| {
        hive.reset();
        populate(hive).expect("a new registry has room for the keys that are always there");
    });
}

/// Makes sure that a driver has its service key, with what the service control manager would have put there.
pub fn ensure_service(name: &str) {
    // A registry that is full goes without.
    let _ = with(|hive| {
        let id = hive.create_all(&format!("{SERVICES}\\{name}"), BUILT_IN)?;
        let path = string_data(&format!("\\SystemRoot\\System32\\drivers\\{name}.sys"));
        for (value, value_type, data) in [
            ("Type", REG_DWORD, 1_u32.to_le_bytes().to_vec()),
            ("Start", REG_DWORD, 3_u32.to_le_bytes().to_vec()),
            ("ErrorControl", REG_DWORD, 1_u32.to_le_bytes().to_vec()),
            ("ImagePath", REG_EXPAND_SZ, path),
            ("DisplayName", REG_SZ, string_data(name)),
        ] {
            if hive.key(id)?.value(value).is_none() {
                set_built_in(hive, id, value, value_type, data)?;
            }
        }
        Ok::<(), NtStatus>(())
    });
}

fn name_text(bytes: &[u8]) -> String {
    let units: Vec<u16> = bytes
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .collect();
    String::from_utf16_lossy(&units)
}

/// Adds encoded contents ([`abi::registry`]) to the registry.
///
/// # Errors
/// INVALID_PARAMETER: the encoding is damaged; as [`Hive::create`] otherwise. What came before the error stays.
pub fn load(bytes: &[u8]) -> Result<(), NtStatus> {
    let records = Records::new(bytes).map_err(|_| NtStatus::INVALID_PARAMETER)?;
    let mut current = None;
    for record in records {
        let record = record.map_err(|_| NtStatus::INVALID_PARAMETER)?;
        let name = name_text(record.name);
        with(|hive| match record.kind {
            RecordKind::Key => {
                let is_built_in = top_level(&name);
                let options = Options {
                    is_built_in,
                    ..Options::default()
                };
                // The levels that the registry itself provides may not be made, but named.
                current = Some(create_loaded(hive, &name, options)?);
                Ok(())
            }
            RecordKind::DeleteKey => match hive.resolve(&name, true) {
                Ok(id) => hive.delete_tree(id),
                Err(_) => Ok(()),
            },
            RecordKind::Value | RecordKind::DeleteValue => {
                let id = current.ok_or(NtStatus::INVALID_PARAMETER)?;
                if record.kind == RecordKind::DeleteValue {
                    // It need not be there.
                    let _ = hive.delete_value(id, &name);
                    return Ok(());
                }
                hive.set_value(
                    id,
                    Value {
                        name,
                        value_type: record.value_type,
                        data: record.data.to_vec(),
                        is_built_in: false,
                    },
                )
            }
        })?;
    }
    Ok(())
}

/// Whether a name is so short that it can only be one of the registry's own top levels.
fn top_level(name: &str) -> bool {
    name.trim_end_matches('\\').matches('\\').count() <= 3
}

fn create_loaded(hive: &mut Hive, name: &str, options: Options) -> Result<KeyId, NtStatus> {
    match hive.resolve(name, false) {
        Err(NtStatus::OBJECT_NAME_NOT_FOUND) => {}
        other => return other,
    }
    // A top level such as \Registry\Machine\Software2 is the user's to have; what lies deeper is made as a driver would.
    let mut path = String::new();
    let mut id = ROOT;
    for (depth, part) in name.trim_matches('\\').split('\\').enumerate() {
        path = path + "\\" + part;
        let is_built_in = options.is_built_in || depth < 3;
        id = hive.create_all(
            &path,
            Options {
                is_built_in,
                ..options
            },
        )?;
    }
    Ok(id)
}

/// Has the host write what is worth keeping.
///
/// # Errors
/// The host's; INSUFFICIENT_RESOURCES: no memory for a copy.
pub(crate) fn flush() -> Result<(), NtStatus> {
    let contents = encode();
    let bytes = contents.len() as u64;
    let copy = pool::allocate_zeroed(bytes, *b"CmFl").ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
    copy.write_bytes(&contents);
    let arguments = [copy.addr(), bytes, 0, 0, 0, 0];
    let [status, ..] = shared::platform().doorbell(Call::SaveRegistry, arguments);
    pool::free(copy, 0);
    match NtStatus(low32(status)) {
        NtStatus::SUCCESS => Ok(()),
        status => Err(status),
    }
}

/// What is worth keeping, encoded: all that is neither volatile nor as it was at the start.
#[must_use]
pub fn encode() -> Vec<u8> {
    let mut body = Vec::new();
    with(|hive| {
        let mut keys = Vec::new();
        hive.for_each(ROOT, &mut |id, key| {
            let has_own = key.values.iter().any(|value| !value.is_built_in);
            if !key.is_volatile
                && !key.is_link
                && (!key.is_built_in || has_own)
                && !is_in_volatile(hive, id)
            {
                keys.push(id);
            }
        });
        for id in keys {
            let Ok(key) = hive.key(id) else { continue };
            let utf16 = |text: &str| -> Vec<u8> {
                text.encode_utf16().flat_map(u16::to_le_bytes).collect()
            };
            Record {
                kind: RecordKind::Key,
                name: &utf16(&hive.path(id)),
                value_type: 0,
                data: &[],
            }
            .encode(&mut body);
            for value in key.values.iter().filter(|value| !value.is_built_in) {
                Record {
                    kind: RecordKind::Value,
                    name: &utf16(&value.name),
                    value_type: value.value_type,
                    data: &value.data,
                }
                .encode(&mut body);
            }
        }
    });
    let mut bytes = header(low32((HEADER_BYTES + body.len()) as u64)).to_vec();
    bytes.extend(body);
    bytes
}

fn is_in_volatile(hive: &Hive, id: KeyId) -> bool {
    let mut current = id;
    while let Ok(key) = hive.key(current) {
        if key.is_volatile {
            return true;
        }
        if current == ROOT {
            break;
        }
        current = key.parent;
    }
    false
}

#[cfg(test)]
mod tests;
