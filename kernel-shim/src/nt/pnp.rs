//! Structures and numbers of the PnP and power managers.

use super::{DEVICE_OBJECT, FILE_OBJECT, GUID, UNICODE_STRING};
use crate::raw::Ptr;

/// IRP_MJ_POWER.
pub const IRP_MJ_POWER: u8 = 0x16;
/// IRP_MJ_PNP.
pub const IRP_MJ_PNP: u8 = 0x1B;

/// IRP_MN_ codes of IRP_MJ_PNP.
pub mod pnp_minor {
    /// IRP_MN_START_DEVICE.
    pub const START_DEVICE: u8 = 0x00;
    /// IRP_MN_QUERY_REMOVE_DEVICE.
    pub const QUERY_REMOVE_DEVICE: u8 = 0x01;
    /// IRP_MN_REMOVE_DEVICE.
    pub const REMOVE_DEVICE: u8 = 0x02;
    /// IRP_MN_CANCEL_REMOVE_DEVICE.
    pub const CANCEL_REMOVE_DEVICE: u8 = 0x03;
    /// IRP_MN_STOP_DEVICE.
    pub const STOP_DEVICE: u8 = 0x04;
    /// IRP_MN_QUERY_STOP_DEVICE.
    pub const QUERY_STOP_DEVICE: u8 = 0x05;
    /// IRP_MN_CANCEL_STOP_DEVICE.
    pub const CANCEL_STOP_DEVICE: u8 = 0x06;
    /// IRP_MN_QUERY_DEVICE_RELATIONS.
    pub const QUERY_DEVICE_RELATIONS: u8 = 0x07;
    /// IRP_MN_QUERY_CAPABILITIES.
    pub const QUERY_CAPABILITIES: u8 = 0x09;
    /// IRP_MN_QUERY_RESOURCES.
    pub const QUERY_RESOURCES: u8 = 0x0A;
    /// IRP_MN_QUERY_RESOURCE_REQUIREMENTS.
    pub const QUERY_RESOURCE_REQUIREMENTS: u8 = 0x0B;
    /// IRP_MN_QUERY_DEVICE_TEXT.
    pub const QUERY_DEVICE_TEXT: u8 = 0x0C;
    /// IRP_MN_FILTER_RESOURCE_REQUIREMENTS.
    pub const FILTER_RESOURCE_REQUIREMENTS: u8 = 0x0D;
    /// IRP_MN_EJECT.
    pub const EJECT: u8 = 0x11;
    /// IRP_MN_QUERY_ID.
    pub const QUERY_ID: u8 = 0x13;
    /// IRP_MN_QUERY_PNP_DEVICE_STATE.
    pub const QUERY_PNP_DEVICE_STATE: u8 = 0x14;
    /// IRP_MN_QUERY_BUS_INFORMATION.
    pub const QUERY_BUS_INFORMATION: u8 = 0x15;
    /// IRP_MN_DEVICE_USAGE_NOTIFICATION.
    pub const DEVICE_USAGE_NOTIFICATION: u8 = 0x16;
    /// IRP_MN_SURPRISE_REMOVAL.
    pub const SURPRISE_REMOVAL: u8 = 0x17;
}

/// IRP_MN_ codes of IRP_MJ_POWER.
pub mod power_minor {
    /// IRP_MN_WAIT_WAKE.
    pub const WAIT_WAKE: u8 = 0;
    /// IRP_MN_SET_POWER.
    pub const SET_POWER: u8 = 2;
    /// IRP_MN_QUERY_POWER.
    pub const QUERY_POWER: u8 = 3;
}

/// SystemPowerState of POWER_STATE_TYPE.
pub const SYSTEM_POWER_STATE: u32 = 0;
/// DevicePowerState of POWER_STATE_TYPE.
pub const DEVICE_POWER_STATE: u32 = 1;
/// PowerSystemMaximum.
pub const POWER_SYSTEM_MAXIMUM: u32 = 7;
/// PowerDeviceD0.
pub const POWER_DEVICE_D0: u32 = 1;
/// PowerDeviceD3.
pub const POWER_DEVICE_D3: u32 = 4;
/// PowerDeviceMaximum.
pub const POWER_DEVICE_MAXIMUM: u32 = 5;

/// TargetDeviceRelation of DEVICE_RELATION_TYPE.
pub const TARGET_DEVICE_RELATION: u32 = 4;
/// PNP_DEVICE_FAILED.
pub const PNP_DEVICE_FAILED: u32 = 4;
/// PNP_DEVICE_REMOVED.
pub const PNP_DEVICE_REMOVED: u32 = 8;
/// PNP_DEVICE_NOT_DISABLEABLE.
pub const PNP_DEVICE_NOT_DISABLEABLE: u32 = 0x20;

/// PNPBus of INTERFACE_TYPE.
pub const PNP_BUS: u32 = 15;
/// GUID_BUS_TYPE_INTERNAL.
pub const GUID_BUS_TYPE_INTERNAL: GUID = GUID {
    Data1: 0x1530_EA73,
    Data2: 0x086B,
    Data3: 0x11D1,
    Data4: [0xA0, 0x9F, 0x00, 0xC0, 0x4F, 0xC3, 0x40, 0xB1],
};

/// One of the PnP manager's events: {CB3A40xx-46F0-11D0-B08F-00609713053F}.
#[must_use]
pub const fn pnp_event(number: u32) -> GUID {
    GUID {
        Data1: 0xCB3A_4000 + number,
        Data2: 0x46F0,
        Data3: 0x11D0,
        Data4: [0xB0, 0x8F, 0x00, 0x60, 0x97, 0x13, 0x05, 0x3F],
    }
}
/// GUID_DEVICE_INTERFACE_ARRIVAL.
pub const GUID_DEVICE_INTERFACE_ARRIVAL: GUID = pnp_event(4);
/// GUID_DEVICE_INTERFACE_REMOVAL.
pub const GUID_DEVICE_INTERFACE_REMOVAL: GUID = pnp_event(5);
/// GUID_TARGET_DEVICE_QUERY_REMOVE.
pub const GUID_TARGET_DEVICE_QUERY_REMOVE: GUID = pnp_event(6);
/// GUID_TARGET_DEVICE_REMOVE_CANCELLED.
pub const GUID_TARGET_DEVICE_REMOVE_CANCELLED: GUID = pnp_event(7);
/// GUID_TARGET_DEVICE_REMOVE_COMPLETE.
pub const GUID_TARGET_DEVICE_REMOVE_COMPLETE: GUID = pnp_event(8);

/// DEVICE_CAPABILITIES.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct DEVICE_CAPABILITIES {
    /// Bytes.
    pub Size: u16,
    /// 1.
    pub Version: u16,
    /// DeviceD1 (1), DeviceD2 (2), and so on: UniqueID is 0x40, SurpriseRemovalOK 0x200.
    pub Bits: u32,
    /// Address on the bus.
    pub Address: u32,
    /// What the user interface counts.
    pub UINumber: u32,
    /// The highest device power state for each system power state.
    pub DeviceState: [u32; 7],
    /// The lowest system state that the device can wake from.
    pub SystemWake: u32,
    /// The lowest device state that it can wake from.
    pub DeviceWake: u32,
    /// From D1 to D0, in 100 microseconds.
    pub D1Latency: u32,
    /// From D2 to D0.
    pub D2Latency: u32,
    /// From D3 to D0.
    pub D3Latency: u32,
}

/// PNP_BUS_INFORMATION.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct PNP_BUS_INFORMATION {
    /// GUID_BUS_TYPE_XXX.
    pub BusTypeGuid: GUID,
    /// INTERFACE_TYPE.
    pub LegacyBusType: u32,
    /// Which of them.
    pub BusNumber: u32,
}

/// DEVICE_RELATIONS with one object.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DEVICE_RELATIONS {
    /// Objects.
    pub Count: u32,
    /// The first.
    pub Objects: Ptr<DEVICE_OBJECT>,
}

/// DEVICE_INTERFACE_CHANGE_NOTIFICATION.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DEVICE_INTERFACE_CHANGE_NOTIFICATION {
    /// 1.
    pub Version: u16,
    /// Bytes.
    pub Size: u16,
    /// GUID_DEVICE_INTERFACE_XXX.
    pub Event: GUID,
    /// Class.
    pub InterfaceClassGuid: GUID,
    /// Name.
    pub SymbolicLinkName: Ptr<UNICODE_STRING>,
}

/// TARGET_DEVICE_REMOVAL_NOTIFICATION; TARGET_DEVICE_CUSTOM_NOTIFICATION begins in the same way.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TARGET_DEVICE_REMOVAL_NOTIFICATION {
    /// 1.
    pub Version: u16,
    /// Bytes.
    pub Size: u16,
    /// GUID_TARGET_DEVICE_XXX, or the driver's own.
    pub Event: GUID,
    /// The file that was registered.
    pub FileObject: Ptr<FILE_OBJECT>,
}

/// DEVPROPKEY.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct DEVPROPKEY {
    /// Category.
    pub fmtid: GUID,
    /// Which of it.
    pub pid: u32,
}

const fn bytes(i386: usize, amd64: usize) -> usize {
    if cfg!(nt_i386) { i386 } else { amd64 }
}

const _: () = assert!(size_of::<DEVICE_CAPABILITIES>() == 64);
const _: () = assert!(size_of::<PNP_BUS_INFORMATION>() == 24);
const _: () = assert!(size_of::<DEVICE_RELATIONS>() == bytes(8, 16));
const _: () = assert!(size_of::<DEVICE_INTERFACE_CHANGE_NOTIFICATION>() == bytes(40, 48));
const _: () = assert!(size_of::<TARGET_DEVICE_REMOVAL_NOTIFICATION>() == bytes(24, 32));
const _: () = assert!(size_of::<DEVPROPKEY>() == 20);
