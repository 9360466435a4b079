//! What is known of a device: its registry properties.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::pdo::strings;
use super::{CLASS_GUID, Node, node_of, resources};
use crate::api::nt_api;
use crate::cm::hive::{Options, Value, string_data};
use crate::cm::{self, REG_SZ};
use crate::nt::{DEVICE_OBJECT, DEVPROPKEY, GUID_BUS_TYPE_INTERNAL, NtStatus, PNP_BUS};
use crate::ob;
use crate::raw::{Global, Ptr, low32};
use crate::value::ULong;

/// A property that a driver has set: device, key, locale, type, value.
type Property = (u64, DEVPROPKEY, u32, u32, Vec<u8>);

static PROPERTIES: Global<Vec<Property>> = Global::new("device properties", Vec::new());

pub(super) fn initialize() {
    PROPERTIES.with(Vec::clear);
}

/// The device is gone.
pub(super) fn forget(device: Ptr<DEVICE_OBJECT>) {
    PROPERTIES.with(|all| all.retain(|property| property.0 != device.addr()));
}

fn key_path(node: &Node) -> String {
    let set = "\\Registry\\Machine\\System\\CurrentControlSet";
    format!("{set}\\Enum\\{}", node.instance)
}

/// Writes to the device's Enum key what its installation would have written.
pub(super) fn describe(node: &Node) {
    let set = |hive: &mut cm::hive::Hive, name: &str, text: &str| -> Result<(), NtStatus> {
        let id = hive.create_all(&key_path(node), Options::default())?;
        if hive.key(id)?.value(name).is_some() {
            return Ok(());
        }
        let value = Value {
            name: String::from(name),
            value_type: REG_SZ,
            data: string_data(text),
            is_built_in: true,
        };
        hive.set_value(id, value)
    };
    // A registry that is full goes without.
    let _ = cm::with(|hive| {
        set(hive, "DeviceDesc", node.description())?;
        set(hive, "Service", &node.service)?;
        set(hive, "Class", "System")?;
        set(hive, "ClassGUID", CLASS_GUID)?;
        set(hive, "Driver", &node.software_key)
    });
}

/// A string of the device's Enum key.
fn from_registry(node: &Node, name: &str) -> Result<Vec<u8>, NtStatus> {
    cm::with(|hive| {
        let id = hive.resolve(&key_path(node), false)?;
        let value = hive.key(id)?.value(name);
        Ok(value.ok_or(NtStatus::OBJECT_NAME_NOT_FOUND)?.data.clone())
    })
}

/// A DEVICE_REGISTRY_PROPERTY.
fn property(node: &Node, number: u32) -> Result<Vec<u8>, NtStatus> {
    let list = |is_translated| match node.resources.is_empty() {
        true => Vec::new(),
        false => resources::encode(&node.resources, is_translated),
    };
    Ok(match number {
        0x0 => return from_registry(node, "DeviceDesc"),
        0x1 => strings(&node.hardware_ids()),
        0x2 => strings(&node.compatible_ids()),
        // DevicePropertyBootConfiguration, and translated: nobody rebalances what the owner has assigned.
        0x3 => list(false),
        0x4 => list(true),
        0x5 => return from_registry(node, "Class"),
        0x6 => return from_registry(node, "ClassGUID"),
        0x7 => return from_registry(node, "Driver"),
        0x8 => return from_registry(node, "Mfg"),
        0x9 => return from_registry(node, "FriendlyName"),
        0xA => return from_registry(node, "LocationInformation"),
        0xB => {
            let object = ob::lookup(node.pdo.addr()).ok_or(NtStatus::INVALID_DEVICE_REQUEST)?;
            string_data(&object.name)
        }
        0xC => {
            let guid = GUID_BUS_TYPE_INTERNAL;
            let mut bytes = guid.Data1.to_le_bytes().to_vec();
            bytes.extend(guid.Data2.to_le_bytes());
            bytes.extend(guid.Data3.to_le_bytes());
            bytes.extend(guid.Data4);
            bytes
        }
        0xD => PNP_BUS.to_le_bytes().to_vec(),
        0xE => 0_u32.to_le_bytes().to_vec(),
        0xF => string_data("ROOT"),
        // The address and the number for the user interface are unknown.
        0x10 | 0x11 => return Err(NtStatus::OBJECT_NAME_NOT_FOUND),
        // InstallStateInstalled; RemovalPolicyExpectNoRemoval.
        0x12 => 0_u32.to_le_bytes().to_vec(),
        0x13 => 1_u32.to_le_bytes().to_vec(),
        0x14 => Vec::new(),
        // DevicePropertyAllocatedResources.
        0x15 => list(true),
        0x16 => return from_registry(node, "ContainerID"),
        _ => return Err(NtStatus::INVALID_PARAMETER_2),
    })
}

/// Writes a value and its size. BUFFER_TOO_SMALL: it does not fit.
fn answer(
    value: Result<Vec<u8>, NtStatus>,
    buffer: Ptr<u8>,
    length: u32,
    result_length: Ptr<u32>,
) -> NtStatus {
    let value = match value {
        Ok(value) => value,
        Err(status) => {
            result_length.write(0);
            return status;
        }
    };
    result_length.write(low32(value.len() as u64));
    if value.len() > length as usize {
        return NtStatus::BUFFER_TOO_SMALL;
    }
    buffer.write_bytes(&value);
    NtStatus::SUCCESS
}

fn set(device: Ptr<DEVICE_OBJECT>, key: DEVPROPKEY, locale: u32, kind: u32, data: Vec<u8>) {
    PROPERTIES.with(|all| {
        all.retain(|property| (property.0, property.1, property.2) != (device.addr(), key, locale));
        // DEVPROP_TYPE_EMPTY deletes.
        if kind != 0 {
            all.push((device.addr(), key, locale, kind, data));
        }
    });
}

nt_api! { module = pnp_property;
    /// A property of a device from the registry or its bus driver. INVALID_DEVICE_REQUEST: no physical device object;
    /// OBJECT_NAME_NOT_FOUND: the device does not have it.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoGetDeviceProperty(
        device_object: Ptr<DEVICE_OBJECT>, device_property: ULong, buffer_length: ULong, property_buffer: Ptr<u8>,
        result_length: Ptr<u32>,
    ) -> NtStatus {
        let value = node_of(device_object).and_then(|node| property(&node, device_property));
        answer(value, property_buffer, buffer_length, result_length)
    }

    /// A property that IoSetDevicePropertyData has set.
    ntoskrnl both stdcall irql(APC_LEVEL) partial("the properties that Windows itself sets are not there")
    fn IoGetDevicePropertyData(
        pdo: Ptr<DEVICE_OBJECT>, property_key: Ptr<DEVPROPKEY>, lcid: ULong, flags: ULong, size: ULong,
        data: Ptr<u8>, required_size: Ptr<u32>, kind: Ptr<u32>,
    ) -> NtStatus {
        if let Err(status) = node_of(pdo) {
            return status;
        }
        let key = property_key.read();
        let found = PROPERTIES.with(|all| {
            all.iter()
                .find(|property| (property.0, property.1, property.2) == (pdo.addr(), key, lcid))
                .map(|property| (property.3, property.4.clone()))
        });
        if let Some((stored, _)) = &found {
            kind.write(*stored);
        }
        let value = found.map(|(_, value)| value).ok_or(NtStatus::OBJECT_NAME_NOT_FOUND);
        answer(value, data, size, required_size)
    }

    /// Sets a property of a device, or deletes it (DEVPROP_TYPE_EMPTY, or no data).
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("lost at the machine's end, also with PLUGPLAY_PROPERTY_PERSISTENT")
    fn IoSetDevicePropertyData(
        pdo: Ptr<DEVICE_OBJECT>, property_key: Ptr<DEVPROPKEY>, lcid: ULong, flags: ULong, kind: ULong,
        size: ULong, data: Ptr<u8>,
    ) -> NtStatus {
        if let Err(status) = node_of(pdo) {
            return status;
        }
        if size > 0x1_0000 {
            return NtStatus::INVALID_PARAMETER;
        }
        let kind = if data.is_null() { 0 } else { kind };
        let value = if kind == 0 { Vec::new() } else { data.read_slice(size as usize) };
        set(pdo, property_key.read(), lcid, kind, value);
        NtStatus::SUCCESS
    }
}
