//! WMI registration. Nothing consumes WMI data here: registrations are kept, and events are taken and dropped.

use alloc::collections::BTreeSet;

use crate::api::nt_api;
use crate::ex::pool;
use crate::nt::NtStatus;
use crate::raw::{Global, Ptr, low32};
use crate::value::ULong;

static PROVIDERS: Global<BTreeSet<u64>> = Global::new("WMI providers", BTreeSet::new());

const REGISTER: u32 = 1;
const DEREGISTER: u32 = 2;
const REREGISTER: u32 = 3;
const UPDATE_GUIDS: u32 = 4;
const BLOCK_IRPS: u32 = 5;
/// WMIREG_FLAG_CALLBACK: the object is a callback, not a device.
const FLAG_CALLBACK: u32 = 0x8000_0000;

pub(super) fn initialize() {
    PROVIDERS.with(BTreeSet::clear);
}

fn control(object: u64, action: u32) -> NtStatus {
    let is_known = PROVIDERS.with(|providers| match action & !FLAG_CALLBACK {
        REGISTER => {
            providers.insert(object);
            true
        }
        DEREGISTER => providers.remove(&object),
        REREGISTER | UPDATE_GUIDS | BLOCK_IRPS => providers.contains(&object),
        _ => false,
    });
    if is_known {
        NtStatus::SUCCESS
    } else {
        NtStatus::INVALID_PARAMETER
    }
}

nt_api! { module = io_wmi;
    /// Registers a device with WMI, or undoes or changes that. INVALID_PARAMETER: no such action, or not registered.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("nothing asks a provider for data")
    fn IoWMIRegistrationControl(device: Ptr<u8>, action: ULong) -> NtStatus {
        control(device.addr(), action)
    }

    /// Sends an event to its consumers, of which there are none, and frees its block.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) partial("there are no consumers")
    fn IoWMIWriteEvent(wnode_event_item: Ptr<u8>) -> NtStatus {
        if wnode_event_item.is_null() {
            return NtStatus::INVALID_PARAMETER;
        }
        pool::free(wnode_event_item, 0);
        NtStatus::SUCCESS
    }

    /// The id of a device's provider: its address's low bits; 0 if it is not registered.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoWMIDeviceObjectToProviderId(device: Ptr<u8>) -> ULong {
        let is_registered = PROVIDERS.with(|providers| providers.contains(&device.addr()));
        if is_registered { low32(device.addr()) } else { 0 }
    }
}
