//! Passing power IRPs down, and the states of devices and of the system.

use alloc::collections::BTreeSet;

use super::request::Queues;
use crate::api::nt_api;
use crate::ex::pool;
use crate::io::{device, irp};
use crate::nt::{
    DEVICE_OBJECT, DEVICE_POWER_STATE, IO_STACK_LOCATION, IRP, NtStatus, SYSTEM_POWER_STATE,
    power_minor,
};
use crate::raw::{Global, Ptr, from_word, low32};
use crate::value::ULong;
use crate::view;

/// IRPs in their order for each device and type; the first is the one that the device works on.
static QUEUES: Global<Queues> = Global::new("power IRPs of devices", Queues::new());
/// Handles of PoRegisterSystemState.
static HANDLES: Global<BTreeSet<u64>> = Global::new("system states", BTreeSet::new());

/// ES_SYSTEM_REQUIRED, ES_DISPLAY_REQUIRED, ES_USER_PRESENT, and ES_CONTINUOUS.
const EXECUTION_STATES: u32 = 0x8000_0007;

pub(super) fn initialize() {
    QUEUES.with(Queues::clear);
    HANDLES.with(BTreeSet::clear);
}

/// Whether drivers have to call PoStartNextPowerIrp: Windows before Vista.
fn is_serialized() -> bool {
    view::release().major < 6
}

/// The key of an IRP's queue: the device and SystemPowerState or DevicePowerState. `None`: it waits for nothing.
fn key_of(device: Ptr<DEVICE_OBJECT>, stack: &IO_STACK_LOCATION) -> Option<(u64, u32)> {
    matches!(
        stack.MinorFunction,
        power_minor::SET_POWER | power_minor::QUERY_POWER
    )
    .then(|| (device.addr(), low32(from_word(stack.Parameters[1]))))
}

fn call(target: Ptr<DEVICE_OBJECT>, packet: Ptr<IRP>) -> NtStatus {
    if !is_serialized() || packet.read().CurrentLocation <= 1 {
        return irp::call(target, packet);
    }
    let next = packet.read().CurrentStackLocation.offset(-1).read();
    if let Some(key) = key_of(target, &next) {
        let is_first = QUEUES.with(|queues| {
            let queue = queues.entry(key).or_default();
            queue.push(packet.addr());
            queue.len() == 1
        });
        if !is_first {
            let mark = packet.read().CurrentStackLocation.offset(-1);
            mark.with(|stack| stack.Control |= crate::nt::SL_PENDING_RETURNED);
            return NtStatus::PENDING;
        }
    }
    irp::call(target, packet)
}

fn start_next(packet: Ptr<IRP>) {
    if !is_serialized() {
        return;
    }
    let stack = packet.read().CurrentStackLocation.read();
    let Some(key) = key_of(stack.DeviceObject, &stack) else {
        return;
    };
    let next = QUEUES.with(|queues| {
        let queue = queues.get_mut(&key)?;
        let index = queue.iter().position(|&waiting| waiting == packet.addr())?;
        queue.remove(index);
        let next = queue.first().copied();
        if next.is_none() {
            queues.remove(&key);
        }
        next.filter(|_| index == 0)
    });
    if let Some(next) = next {
        irp::call(stack.DeviceObject, Ptr::new(next));
    }
}

/// Remembers a device's power state; returns the one before. DEVOBJ_EXTENSION.PowerFlags has the system's in its low
/// four bits, the device's in the next four.
pub(super) fn set(device: Ptr<DEVICE_OBJECT>, kind: u32, state: u32) -> u32 {
    let shift = match kind {
        SYSTEM_POWER_STATE => 0,
        DEVICE_POWER_STATE => 4,
        _ => return 0,
    };
    device::extension_of(device).with(|extension| {
        let before = extension.PowerFlags >> shift & 0xF;
        extension.PowerFlags = extension.PowerFlags & !(0xF << shift) | (state & 0xF) << shift;
        before
    })
}

/// The idle counter of a device, made or removed (DEVOBJ_EXTENSION.Dope).
fn idle_counter(device: Ptr<DEVICE_OBJECT>, times: u32) -> Ptr<u32> {
    let extension = device::extension_of(device);
    let old = Ptr::<u8>::new(from_word(extension.read().Dope));
    if times == 0 {
        if !old.is_null() {
            extension.with(|extension| extension.Dope = 0);
            pool::free(old, 0);
        }
        return Ptr::null();
    }
    if old.is_null() {
        let made = pool::allocate_zeroed(16, *b"Dope").unwrap_or_default();
        extension.with(|extension| extension.Dope = made.word());
        return made.cast();
    }
    old.cast()
}

fn register(handle: u64, flags: u32) -> u64 {
    if flags & !EXECUTION_STATES != 0 {
        return 0;
    }
    if handle != 0 {
        return if HANDLES.with(|handles| handles.contains(&handle)) {
            handle
        } else {
            0
        };
    }
    let Some(block) = pool::allocate_zeroed(16, *b"Powe") else {
        return 0;
    };
    HANDLES.with(|handles| handles.insert(block.addr()));
    block.addr()
}

nt_api! { module = po_state;
    /// Passes a power IRP to the next lower driver. Before Windows Vista it waits until the device has called
    /// PoStartNextPowerIrp for the one before of its type.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PoCallDriver(device_object: Ptr<DEVICE_OBJECT>, irp: Ptr<IRP>) -> NtStatus {
        call(device_object, irp)
    }

    /// The device is ready for the next power IRP. Nothing since Windows Vista.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PoStartNextPowerIrp(irp: Ptr<IRP>) {
        start_next(irp);
    }

    /// Tells the power manager of a device's state; returns the one before, PowerDeviceUnspecified at first.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PoSetPowerState(device_object: Ptr<DEVICE_OBJECT>, kind: ULong, state: ULong) -> ULong {
        set(device_object, kind, state)
    }

    /// Declares the system busy for as long as the handle is registered; NULL: wrong flags, or no such handle.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PoRegisterSystemState(state_handle: Ptr<u8>, flags: ULong) -> Ptr<u8> {
        Ptr::new(register(state_handle.addr(), flags))
    }

    /// Declares the system busy once: a machine that never sleeps by itself has nothing to put off.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PoSetSystemState(flags: ULong) {}

    /// Ends PoRegisterSystemState.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PoUnregisterSystemState(state_handle: Ptr<u8>) {
        if HANDLES.with(|handles| handles.remove(&state_handle.addr())) {
            pool::free(state_handle, 0);
        }
    }

    /// An idle counter that the driver resets while its device is busy; NULL: both times are 0, detection ends.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) partial("the device is never found idle")
    fn PoRegisterDeviceForIdleDetection(
        device_object: Ptr<DEVICE_OBJECT>, conservation_idle_time: ULong, performance_idle_time: ULong,
        state: ULong,
    ) -> Ptr<u32> {
        idle_counter(device_object, conservation_idle_time | performance_idle_time)
    }

    /// Seconds until a watchdog ends a power IRP; there is none here: FALSE.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn PoQueryWatchdogTime(pdo: Ptr<DEVICE_OBJECT>, seconds_remaining: Ptr<u32>) -> crate::value::Boolean {
        false
    }
}
