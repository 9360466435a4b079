//! Device interfaces: names by which applications and other drivers find devices of a class.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::{node_of, notify};
use crate::api::nt_api;
use crate::cm::{self, hive::Options, object};
use crate::ex::pool;
use crate::nt::{DEVICE_OBJECT, GUID, NtStatus, UNICODE_STRING};
use crate::ob::{self, handles, names};
use crate::raw::{Global, Ptr, Word, low16, to_word, unicode_text};
use crate::value::{Boolean, ULong, UnicodeStringPtr};

/// A registered interface.
#[derive(Clone, Debug)]
pub(super) struct Interface {
    pdo: Ptr<DEVICE_OBJECT>,
    class: GUID,
    /// `\??\ROOT#NAME#0000#{class}`.
    link: String,
    /// What stands behind the link's name, without the backslash; may be empty.
    reference: String,
    is_enabled: bool,
}

impl Interface {
    fn name(&self) -> String {
        if self.reference.is_empty() {
            self.link.clone()
        } else {
            format!("{}\\{}", self.link, self.reference)
        }
    }
}

static INTERFACES: Global<Vec<Interface>> = Global::new("device interfaces", Vec::new());

/// DEVICE_INTERFACE_INCLUDE_NONACTIVE.
const INCLUDE_NONACTIVE: u32 = 1;

pub(super) fn initialize() {
    INTERFACES.with(Vec::clear);
}

fn guid_text(guid: &GUID) -> String {
    let last = u64::from_be_bytes(guid.Data4);
    format!(
        "{{{:08x}-{:04x}-{:04x}-{:04x}-{:012x}}}",
        guid.Data1,
        guid.Data2,
        guid.Data3,
        last >> 48,
        last & 0xFFFF_FFFF_FFFF
    )
}

/// Names of the interfaces of a class.
pub(super) fn enabled(class: &GUID) -> Vec<String> {
    names_of(class, Ptr::null(), 0)
}

/// The interfaces of a device: names, and whether they are enabled.
pub(super) fn of_device(pdo: Ptr<DEVICE_OBJECT>) -> Vec<(String, bool)> {
    INTERFACES.with(|all| {
        all.iter()
            .filter(|one| one.pdo == pdo)
            .map(|one| (one.name(), one.is_enabled))
            .collect()
    })
}

fn names_of(class: &GUID, pdo: Ptr<DEVICE_OBJECT>, flags: u32) -> Vec<String> {
    INTERFACES.with(|all| {
        all.iter()
            .filter(|one| one.class == *class)
            .filter(|one| one.is_enabled || flags & INCLUDE_NONACTIVE != 0)
            .filter(|one| pdo.is_null() || one.pdo == pdo)
            .map(Interface::name)
            .collect()
    })
}

fn find(name: &str) -> Option<Interface> {
    let folded = names::fold(name);
    INTERFACES.with(|all| {
        all.iter()
            .find(|one| names::fold(&one.name()) == folded)
            .cloned()
    })
}

/// Writes a name as a UNICODE_STRING in new memory, which RtlFreeUnicodeString frees.
fn give(name: &str, result: Ptr<UNICODE_STRING>) -> NtStatus {
    let mut bytes: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let length = bytes.len() as u64;
    bytes.extend([0, 0]);
    match pool::allocate_copy(&bytes, *b"PpIf") {
        Some(buffer) => {
            result.write(UNICODE_STRING {
                Length: low16(length),
                MaximumLength: low16(length + 2),
                Buffer: buffer.cast(),
            });
            NtStatus::SUCCESS
        }
        None => NtStatus::INSUFFICIENT_RESOURCES,
    }
}

/// The key of an interface below DeviceClasses.
fn key_path(one: &Interface) -> String {
    let tail = one.link.trim_start_matches("\\??\\");
    format!(
        "{}\\DeviceClasses\\{}\\##?#{tail}\\#{}\\Device Parameters",
        cm::CONTROL,
        guid_text(&one.class),
        one.reference
    )
}

fn register(
    pdo: Ptr<DEVICE_OBJECT>,
    class: GUID,
    reference: String,
    result: Ptr<UNICODE_STRING>,
) -> NtStatus {
    let node = match node_of(pdo) {
        Ok(node) => node,
        Err(status) => return status,
    };
    if reference.contains(['\\', '/']) {
        return NtStatus::INVALID_DEVICE_REQUEST;
    }
    let link = format!(
        "\\??\\{}#{}",
        node.instance.replace('\\', "#"),
        guid_text(&class)
    );
    let one = Interface {
        pdo,
        class,
        link,
        reference,
        is_enabled: false,
    };
    let name = one.name();
    if find(&name).is_none() {
        let path = key_path(&one);
        // A registry that is full goes without.
        let _ = cm::with(|hive| hive.create_all(&path, Options::default()));
        INTERFACES.with(|all| all.push(one));
    }
    give(&name, result)
}

fn set_state(name: &str, enable: bool) -> NtStatus {
    if !name.starts_with("\\??\\") {
        return NtStatus::INVALID_PARAMETER;
    }
    let Some(one) = find(name) else {
        return NtStatus::OBJECT_NAME_NOT_FOUND;
    };
    match (one.is_enabled, enable) {
        (true, true) => return NtStatus::OBJECT_NAME_EXISTS,
        (false, false) => return NtStatus::OBJECT_NAME_NOT_FOUND,
        _ => {}
    }
    let others = INTERFACES.with(|all| {
        let others = all
            .iter()
            .filter(|other| other.is_enabled && other.link == one.link)
            .count();
        for other in all.iter_mut() {
            if other.link == one.link && other.reference == one.reference {
                other.is_enabled = enable;
            }
        }
        others
    });
    if enable && others == 0 {
        let target = ob::lookup(one.pdo.addr()).map_or_else(String::new, |object| object.name);
        if let Err(status) = names::insert_link(&one.link, &target) {
            return status;
        }
    }
    if !enable && others == 1 {
        let _ = names::remove_link(&one.link);
    }
    notify::interface_event(&one.class, &one.name(), enable);
    NtStatus::SUCCESS
}

/// The device is removed: its interfaces are no longer enabled.
pub(super) fn disable_all(pdo: Ptr<DEVICE_OBJECT>) {
    let enabled: Vec<String> = INTERFACES.with(|all| {
        all.iter()
            .filter(|one| one.pdo == pdo && one.is_enabled)
            .map(Interface::name)
            .collect()
    });
    for name in enabled {
        set_state(&name, false);
    }
}

/// The device is gone.
pub(super) fn forget(pdo: Ptr<DEVICE_OBJECT>) {
    INTERFACES.with(|all| all.retain(|one| one.pdo != pdo));
}

nt_api! { module = pnp_interface;
    /// Registers an interface of a device; its name is in new memory, which RtlFreeUnicodeString frees. Registering it
    /// again gives the same name. INVALID_DEVICE_REQUEST: no physical device object, or a path separator in the reference.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoRegisterDeviceInterface(
        physical_device_object: Ptr<DEVICE_OBJECT>, interface_class_guid: Ptr<GUID>,
        reference_string: UnicodeStringPtr, symbolic_link_name: Ptr<UNICODE_STRING>,
    ) -> NtStatus {
        let reference = unicode_text(reference_string.0);
        register(physical_device_object, interface_class_guid.read(), reference, symbolic_link_name)
    }

    /// Enables or disables an interface. OBJECT_NAME_EXISTS (a success): it was enabled; OBJECT_NAME_NOT_FOUND: it is not
    /// registered, or was not enabled.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoSetDeviceInterfaceState(symbolic_link_name: UnicodeStringPtr, enable: Boolean) -> NtStatus {
        set_state(&unicode_text(symbolic_link_name.0), enable)
    }

    /// The names of a class's enabled interfaces, of all devices or one, in memory that ExFreePool frees: each with a NUL,
    /// and a NUL at the end.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoGetDeviceInterfaces(
        interface_class_guid: Ptr<GUID>, physical_device_object: Ptr<DEVICE_OBJECT>, flags: ULong,
        symbolic_link_list: Ptr<Ptr<u16>>,
    ) -> NtStatus {
        if !physical_device_object.is_null() && let Err(status) = node_of(physical_device_object) {
            return status;
        }
        let found = names_of(&interface_class_guid.read(), physical_device_object, flags);
        let mut texts: Vec<&str> = found.iter().map(String::as_str).collect();
        texts.push("");
        match pool::allocate_copy(&super::pdo::multi_string(&texts), *b"PpIl") {
            Some(list) => {
                symbolic_link_list.write(list.cast());
                NtStatus::SUCCESS
            }
            None => NtStatus::INSUFFICIENT_RESOURCES,
        }
    }

    /// The name of the same device's interface of another class, with the same reference.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoGetDeviceInterfaceAlias(
        symbolic_link_name: UnicodeStringPtr, alias_interface_class_guid: Ptr<GUID>,
        alias_symbolic_link_name: Ptr<UNICODE_STRING>,
    ) -> NtStatus {
        let Some(one) = find(&unicode_text(symbolic_link_name.0)) else {
            return NtStatus::OBJECT_NAME_NOT_FOUND;
        };
        let class = alias_interface_class_guid.read();
        let alias = INTERFACES.with(|all| {
            all.iter()
                .find(|other| other.pdo == one.pdo && other.class == class && other.reference == one.reference)
                .map(Interface::name)
        });
        match alias {
            Some(name) => give(&name, alias_symbolic_link_name),
            None => NtStatus::OBJECT_NAME_NOT_FOUND,
        }
    }

    /// Opens (makes, if it is not there) the key for what concerns an interface; a kernel handle.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoOpenDeviceInterfaceRegistryKey(
        symbolic_link_name: UnicodeStringPtr, desired_access: ULong, device_interface_key: Ptr<Word>,
    ) -> NtStatus {
        let Some(one) = find(&unicode_text(symbolic_link_name.0)) else {
            return NtStatus::OBJECT_NAME_NOT_FOUND;
        };
        let path = key_path(&one);
        let key = cm::with(|hive| hive.create_all(&path, Options::default()));
        match key.and_then(|id| object::handle_for(id, handles::SYSTEM, desired_access)) {
            Ok(handle) => {
                device_interface_key.write(to_word(handle));
                NtStatus::SUCCESS
            }
            Err(status) => status,
        }
    }
}
