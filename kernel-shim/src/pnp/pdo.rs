//! What the physical device objects of root-enumerated devices answer, as their bus driver.

use alloc::string::String;
use alloc::vec::Vec;

use super::{node_of, resources};
use crate::api::nt_api;
use crate::ex::pool;
use crate::io::irp;
use crate::nt::{
    DEVICE_CAPABILITIES, DEVICE_OBJECT, DEVICE_RELATIONS, GUID_BUS_TYPE_INTERNAL,
    IO_STACK_LOCATION, IRP, IRP_MJ_PNP, IRP_MJ_POWER, NtStatus, PNP_BUS, PNP_BUS_INFORMATION,
    POWER_DEVICE_D0, POWER_DEVICE_D3, TARGET_DEVICE_RELATION, pnp_minor,
};
use crate::raw::{Ptr, from_word, low32, to_word};
use crate::{ob, po};

/// IRP_MJ_SYSTEM_CONTROL.
const IRP_MJ_SYSTEM_CONTROL: u8 = 0x17;
/// UniqueID, SilentInstall and SurpriseRemovalOK of DEVICE_CAPABILITIES.
const CAPABILITIES: u32 = 0x40 | 0x80 | 0x200;

/// DEVICE_CAPABILITIES in pool memory, as who asks for them has to fill them.
pub(super) fn new_capabilities() -> Option<Ptr<DEVICE_CAPABILITIES>> {
    let bytes = size_of::<DEVICE_CAPABILITIES>() as u64;
    let buffer = pool::allocate_zeroed(bytes, *b"PpCa")?.cast::<DEVICE_CAPABILITIES>();
    buffer.write(DEVICE_CAPABILITIES {
        Size: 64,
        Version: 1,
        Address: u32::MAX,
        UINumber: u32::MAX,
        ..DEVICE_CAPABILITIES::default()
    });
    Some(buffer)
}

/// Strings, each with its NUL.
pub(super) fn multi_string(strings: &[&str]) -> Vec<u8> {
    strings
        .iter()
        .flat_map(|text| text.encode_utf16().chain([0]))
        .flat_map(u16::to_le_bytes)
        .collect()
}

/// A REG_MULTI_SZ.
pub(super) fn strings(list: &[String]) -> Vec<u8> {
    let mut texts: Vec<&str> = list.iter().map(String::as_str).collect();
    texts.push("");
    multi_string(&texts)
}

/// What an IRP came to: a status, and Information. `None`: both stay as they are.
type Answer = Option<(NtStatus, u64)>;

fn in_pool(bytes: &[u8]) -> Answer {
    Some(match pool::allocate_copy(bytes, *b"PpIn") {
        Some(block) => (NtStatus::SUCCESS, block.addr()),
        None => (NtStatus::INSUFFICIENT_RESOURCES, 0),
    })
}

fn capabilities(buffer: Ptr<DEVICE_CAPABILITIES>) -> Answer {
    if buffer.read().Version != 1 || buffer.read().Size < 64 {
        return Some((NtStatus::INVALID_PARAMETER, 0));
    }
    buffer.with(|buffer| {
        buffer.Bits |= CAPABILITIES;
        buffer.DeviceState = [POWER_DEVICE_D3; 7];
        // PowerSystemUnspecified and PowerSystemWorking.
        buffer.DeviceState[0] = 0;
        buffer.DeviceState[1] = POWER_DEVICE_D0;
    });
    Some((NtStatus::SUCCESS, 0))
}

fn pnp(device: Ptr<DEVICE_OBJECT>, minor: u8, parameters: [u64; 4]) -> Answer {
    let node = node_of(device).ok()?;
    let first = low32(parameters[0]);
    match minor {
        pnp_minor::START_DEVICE
        | pnp_minor::QUERY_REMOVE_DEVICE
        | pnp_minor::REMOVE_DEVICE
        | pnp_minor::CANCEL_REMOVE_DEVICE
        | pnp_minor::STOP_DEVICE
        | pnp_minor::QUERY_STOP_DEVICE
        | pnp_minor::CANCEL_STOP_DEVICE
        | pnp_minor::DEVICE_USAGE_NOTIFICATION
        | pnp_minor::SURPRISE_REMOVAL => Some((NtStatus::SUCCESS, 0)),
        pnp_minor::QUERY_DEVICE_RELATIONS if first == TARGET_DEVICE_RELATION => {
            let bytes = size_of::<DEVICE_RELATIONS>() as u64;
            let Some(list) = pool::allocate_zeroed(bytes, *b"PpRe") else {
                return Some((NtStatus::INSUFFICIENT_RESOURCES, 0));
            };
            ob::reference(device.addr());
            list.cast().write(DEVICE_RELATIONS {
                Count: 1,
                Objects: device,
            });
            Some((NtStatus::SUCCESS, list.addr()))
        }
        pnp_minor::QUERY_CAPABILITIES => capabilities(Ptr::new(parameters[0])),
        pnp_minor::QUERY_RESOURCES if !node.resources.is_empty() => {
            in_pool(&resources::encode(&node.resources, false))
        }
        pnp_minor::QUERY_DEVICE_TEXT if first == 0 => in_pool(&multi_string(&[node.description()])),
        pnp_minor::QUERY_ID => {
            let (name, index) = node.instance.rsplit_once('\\')?;
            match first {
                // BusQueryDeviceID, BusQueryHardwareIDs, BusQueryCompatibleIDs, BusQueryInstanceID.
                0 => in_pool(&multi_string(&[name])),
                1 => in_pool(&strings(&node.hardware_ids())),
                2 => in_pool(&strings(&node.compatible_ids())),
                3 => in_pool(&multi_string(&[index])),
                _ => None,
            }
        }
        pnp_minor::QUERY_BUS_INFORMATION => {
            let bytes = size_of::<PNP_BUS_INFORMATION>() as u64;
            let Some(block) = pool::allocate_zeroed(bytes, *b"PpBu") else {
                return Some((NtStatus::INSUFFICIENT_RESOURCES, 0));
            };
            block.cast().write(PNP_BUS_INFORMATION {
                BusTypeGuid: GUID_BUS_TYPE_INTERNAL,
                LegacyBusType: PNP_BUS,
                BusNumber: 0,
            });
            Some((NtStatus::SUCCESS, block.addr()))
        }
        _ => None,
    }
}

/// The dispatch routine of `\Driver\PnpManager`.
pub(crate) fn dispatch(device: Ptr<DEVICE_OBJECT>, packet: Ptr<IRP>) -> NtStatus {
    let IO_STACK_LOCATION {
        MajorFunction: major,
        MinorFunction: minor,
        Parameters: parameters,
        ..
    } = packet.read().CurrentStackLocation.read();
    let parameters = parameters.map(from_word);
    let answer = match major {
        IRP_MJ_PNP => {
            let answer = pnp(device, minor, parameters);
            // The state that the drivers above have reported stays.
            if minor == pnp_minor::QUERY_PNP_DEVICE_STATE {
                packet.with(|packet| packet.IoStatus.Status = 0);
            }
            answer
        }
        IRP_MJ_POWER => {
            po::state::PoStartNextPowerIrp(packet);
            po::request::physical(device, minor, parameters).map(|status| (status, 0))
        }
        IRP_MJ_SYSTEM_CONTROL => None,
        _ => Some((NtStatus::INVALID_DEVICE_REQUEST, 0)),
    };
    if let Some((status, information)) = answer {
        packet.with(|packet| {
            packet.IoStatus.Status = to_word(u64::from(status.0));
            packet.IoStatus.Information = to_word(information);
        });
    }
    let status = irp::status_of(packet);
    irp::complete(packet);
    status
}

nt_api! { module = pnp_dispatch;
    /// The dispatch routine of the PnP manager's own devices. NT does not export it; it needs an address.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IopPnpDispatch(device: Ptr<DEVICE_OBJECT>, irp: Ptr<IRP>) -> NtStatus {
        dispatch(device, irp)
    }
}
