//! Keys of devices and drivers.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;

use super::hive::Options;
use super::{SERVICES, object, with};
use crate::api::nt_api;
use crate::nt::{DEVICE_OBJECT, DRIVER_OBJECT, NtStatus};
use crate::ob::handles;
use crate::raw::{Global, Ptr, Word, to_word, unicode_text};
use crate::value::ULong;

/// Where control sets are.
const SYSTEM: &str = "\\Registry\\Machine\\System";
/// The current hardware profile's control set, below the common one.
const PROFILE: &str = "Hardware Profiles\\Current\\System\\CurrentControlSet";
/// PLUGPLAY_REGKEY_DEVICE.
const DEVICE: u32 = 1;
/// PLUGPLAY_REGKEY_DRIVER.
const DRIVER: u32 = 2;
/// PLUGPLAY_REGKEY_CURRENT_HWPROFILE.
const HARDWARE_PROFILE: u32 = 4;

/// What the PnP manager knows of a physical device object.
#[derive(Clone, Debug)]
struct Node {
    /// Instance path below Enum, such as `Root\TEST\0000`.
    instance: String,
    /// Software key below Control\Class, such as `{...}\0000`.
    driver: String,
}

static NODES: Global<BTreeMap<u64, Node>> = Global::new("device keys", BTreeMap::new());

pub(super) fn initialize() {
    NODES.with(BTreeMap::clear);
}

/// Makes a device object one that has keys: its instance path (`Root\TEST\0000`) and its driver key
/// (`{class GUID}\0000`). For the PnP manager.
pub fn set_node(device: Ptr<DEVICE_OBJECT>, instance: &str, driver: &str) {
    let node = Node {
        instance: String::from(instance),
        driver: String::from(driver),
    };
    NODES.with(|nodes| nodes.insert(device.addr(), node));
}

/// The instance path of a physical device object; `None`: it is none.
#[must_use]
pub fn instance_of(device: Ptr<DEVICE_OBJECT>) -> Option<String> {
    NODES.with(|nodes| Some(nodes.get(&device.addr())?.instance.clone()))
}

/// A device object is gone.
pub fn forget_node(device: Ptr<DEVICE_OBJECT>) {
    NODES.with(|nodes| nodes.remove(&device.addr()));
}

/// Opens (makes, if it is not there) a key of a physical device object; a kernel handle.
///
/// # Errors
/// INVALID_DEVICE_REQUEST: the device object is no physical one. INVALID_PARAMETER: there is no such kind of key.
pub fn open_device_key(
    device: Ptr<DEVICE_OBJECT>,
    kind: u32,
    access: u32,
) -> Result<u64, NtStatus> {
    if kind & !HARDWARE_PROFILE != DEVICE && kind & !HARDWARE_PROFILE != DRIVER {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    let node = NODES
        .with(|nodes| nodes.get(&device.addr()).cloned())
        .ok_or(NtStatus::INVALID_DEVICE_REQUEST)?;
    // What is set for the hardware profile lies in a control set of its own.
    let set = if kind & HARDWARE_PROFILE == 0 {
        format!("{SYSTEM}\\CurrentControlSet")
    } else {
        format!("{SYSTEM}\\CurrentControlSet\\{PROFILE}")
    };
    let path = if kind & DEVICE != 0 {
        format!("{set}\\Enum\\{}\\Device Parameters", node.instance)
    } else {
        format!("{set}\\Control\\Class\\{}", node.driver)
    };
    let id = with(|hive| hive.create_all(&path, Options::default()))?;
    object::handle_for(id, handles::SYSTEM, access)
}

fn answer(target: Ptr<Word>, handle: Result<u64, NtStatus>) -> NtStatus {
    match handle {
        Ok(handle) => {
            target.write(to_word(handle));
            NtStatus::SUCCESS
        }
        Err(status) => status,
    }
}

nt_api! { module = cm_device;
    /// IoOpenDeviceRegistryKey: a key for what concerns a device or its driver, in general or in the current hardware
    /// profile. INVALID_DEVICE_REQUEST: the device object is no physical one.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoOpenDeviceRegistryKey(
        device_object: Ptr<DEVICE_OBJECT>, dev_inst_key_type: ULong, desired_access: ULong,
        dev_inst_reg_key: Ptr<Word>,
    ) -> NtStatus {
        answer(dev_inst_reg_key, open_device_key(device_object, dev_inst_key_type, desired_access))
    }

    /// IoOpenDriverRegistryKey: the driver's Parameters (0) or PersistentState (1).
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoOpenDriverRegistryKey(
        driver_object: Ptr<DRIVER_OBJECT>, reg_key_type: ULong, desired_access: ULong, flags: ULong,
        driver_reg_key: Ptr<Word>,
    ) -> NtStatus {
        let name = match reg_key_type {
            0 => "Parameters",
            1 => "PersistentState",
            _ => return NtStatus::INVALID_PARAMETER,
        };
        if flags != 0 {
            return NtStatus::INVALID_PARAMETER;
        }
        let extension = driver_object.read().DriverExtension;
        let mut service = extension.read().ServiceKeyName;
        let path = format!("{SERVICES}\\{}\\{name}", unicode_text(Ptr::of(&mut service)));
        let key = with(|hive| hive.create_all(&path, Options::default()));
        answer(driver_reg_key, key.and_then(|id| object::handle_for(id, handles::SYSTEM, desired_access)))
    }
}
