//! Power settings' callbacks, and power requests.

use alloc::collections::BTreeMap;

use crate::api::nt_api;
use crate::ex::pool;
use crate::nt::{DEVICE_OBJECT, GUID, NtStatus};
use crate::raw::{Global, Ptr};
use crate::shared;
use crate::value::ULong;
use abi::trace::Entry;

#[derive(Debug)]
struct State {
    /// Registered callbacks' handles.
    callbacks: alloc::collections::BTreeSet<u64>,
    /// How often each type of each request is set.
    requests: BTreeMap<u64, [u32; REQUEST_TYPES]>,
}

/// PowerRequestDisplayRequired to PowerRequestExecutionRequired.
const REQUEST_TYPES: usize = 4;

static STATE: Global<State> = Global::new(
    "power settings",
    State {
        callbacks: alloc::collections::BTreeSet::new(),
        requests: BTreeMap::new(),
    },
);

pub(super) fn initialize() {
    STATE.with(|state| {
        state.callbacks.clear();
        state.requests.clear();
    });
}

/// The settings that this machine has, by their GUID's first part, with the rest: on mains, with its display on, its lid
/// open and its battery full.
const SETTINGS: [(GUID, u32); 5] = [
    (
        guid(
            0x5D3E_9A59,
            0xE9D5,
            0x4B00,
            [0xA6, 0xBD, 0xFF, 0x34, 0xFF, 0x51, 0x65, 0x48],
        ),
        0,
    ),
    (
        guid(
            0x0273_1015,
            0x4510,
            0x4526,
            [0x99, 0xE6, 0xE5, 0xA1, 0x7E, 0xBD, 0x1A, 0xEA],
        ),
        1,
    ),
    (
        guid(
            0xBA3E_0F4D,
            0xB817,
            0x4094,
            [0xA2, 0xD1, 0xD5, 0x63, 0x79, 0xE6, 0xA0, 0xF3],
        ),
        1,
    ),
    (
        guid(
            0x6FE6_9556,
            0x704A,
            0x47A0,
            [0x8F, 0x24, 0xC2, 0x8D, 0x93, 0x6F, 0xDA, 0x47],
        ),
        1,
    ),
    (
        guid(
            0xA7AD_8041,
            0xB45A,
            0x4CAE,
            [0x87, 0xA3, 0xEE, 0xCB, 0xB4, 0x68, 0xA9, 0xE1],
        ),
        100,
    ),
];

const fn guid(first: u32, second: u16, third: u16, last: [u8; 8]) -> GUID {
    GUID {
        Data1: first,
        Data2: second,
        Data3: third,
        Data4: last,
    }
}

fn register(setting: Ptr<GUID>, routine: u64, context: u64, handle: Ptr<Ptr<u8>>) -> NtStatus {
    if routine == 0 || setting.is_null() {
        return NtStatus::INVALID_PARAMETER;
    }
    let bytes = size_of::<GUID>() as u64 + 4;
    let Some(block) = pool::allocate_zeroed(bytes, *b"PoSe") else {
        return NtStatus::INSUFFICIENT_RESOURCES;
    };
    STATE.with(|state| state.callbacks.insert(block.addr()));
    if !handle.is_null() {
        handle.write(block);
    }
    let wanted = setting.read();
    if let Some((_, value)) = SETTINGS.iter().find(|(known, _)| *known == wanted) {
        block.cast().write(wanted);
        let place = block.add_bytes(size_of::<GUID>() as u64);
        place.cast().write(*value);
        let arguments = [block.addr(), place.addr(), 4, context];
        shared::call_driver(Entry::Other, routine, &arguments);
    }
    NtStatus::SUCCESS
}

/// Changes how often a type of a request is set.
fn change(request: u64, kind: u32, change: impl FnOnce(&mut u32) -> NtStatus) -> NtStatus {
    STATE.with(|state| {
        let counts = state.requests.get_mut(&request);
        match counts.and_then(|counts| counts.get_mut(kind as usize)) {
            Some(count) => change(count),
            None => NtStatus::INVALID_PARAMETER,
        }
    })
}

nt_api! { module = po_setting;
    /// Registers a callback for a power setting and calls it at once with the value that it has, if this machine has it.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn PoRegisterPowerSettingCallback(
        device_object: Ptr<DEVICE_OBJECT>, setting_guid: Ptr<GUID>, callback: Ptr<u8>, context: Ptr<u8>,
        handle: Ptr<Ptr<u8>>,
    ) -> NtStatus {
        register(setting_guid, callback.addr(), context.addr(), handle)
    }

    /// Ends a registration; INVALID_PARAMETER: it is none.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn PoUnregisterPowerSettingCallback(handle: Ptr<u8>) -> NtStatus {
        if !STATE.with(|state| state.callbacks.remove(&handle.addr())) {
            return NtStatus::INVALID_PARAMETER;
        }
        pool::free(handle, 0);
        NtStatus::SUCCESS
    }

    /// Makes a power request. INVALID_PARAMETER: the COUNTED_REASON_CONTEXT is not of version 0.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PoCreatePowerRequest(
        power_request: Ptr<Ptr<u8>>, device_object: Ptr<DEVICE_OBJECT>, context: Ptr<u32>,
    ) -> NtStatus {
        if context.is_null() || context.read() != 0 {
            return NtStatus::INVALID_PARAMETER;
        }
        let Some(block) = pool::allocate_zeroed(16, *b"PoRe") else {
            return NtStatus::INSUFFICIENT_RESOURCES;
        };
        STATE.with(|state| state.requests.insert(block.addr(), [0; REQUEST_TYPES]));
        power_request.write(block);
        NtStatus::SUCCESS
    }

    /// Counts a type of a power request up. INVALID_PARAMETER: no such type, or no request.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PoSetPowerRequest(power_request: Ptr<u8>, kind: ULong) -> NtStatus {
        change(power_request.addr(), kind, |count| {
            *count += 1;
            NtStatus::SUCCESS
        })
    }

    /// Counts a type of a power request down. INVALID_PARAMETER: it is not set.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PoClearPowerRequest(power_request: Ptr<u8>, kind: ULong) -> NtStatus {
        change(power_request.addr(), kind, |count| {
            if *count == 0 {
                return NtStatus::INVALID_PARAMETER;
            }
            *count -= 1;
            NtStatus::SUCCESS
        })
    }

    /// Ends a power request.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PoDeletePowerRequest(power_request: Ptr<u8>) {
        if STATE.with(|state| state.requests.remove(&power_request.addr())).is_some() {
            pool::free(power_request, 0);
        }
    }
}
