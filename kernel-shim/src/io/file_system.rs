//! What file system drivers register, and the top-level IRP.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::api::nt_api;
use crate::ke::{irql, spin_lock};
use crate::nt::{DEVICE_OBJECT, DISPATCH_LEVEL, DRIVER_OBJECT, NtStatus};
use crate::ob;
use crate::ps;
use crate::raw::{DataCell, Global, Ptr, Word};
use crate::shared;
use crate::value::{Boolean, Irql};
use abi::trace::Entry;

/// The VPB spin lock.
static VPB_LOCK: DataCell<Word> = DataCell::new(0);

#[derive(Debug)]
struct State {
    file_systems: Vec<u64>,
    /// Driver and its routine.
    listeners: Vec<(u64, u64)>,
    /// Top-level IRPs by thread.
    top_level: BTreeMap<u64, u64>,
    hard_errors_off: Vec<u64>,
}

static STATE: Global<State> = Global::new(
    "file systems",
    State {
        file_systems: Vec::new(),
        listeners: Vec::new(),
        top_level: BTreeMap::new(),
        hard_errors_off: Vec::new(),
    },
);

pub(super) fn initialize() {
    VPB_LOCK.ptr().write(0);
    STATE.with(|state| {
        state.file_systems.clear();
        state.listeners.clear();
        state.top_level.clear();
        state.hard_errors_off.clear();
    });
}

/// Tells the listeners that a file system has come (or gone).
fn tell(device: u64, is_new: bool) {
    let listeners = STATE.with(|state| state.listeners.clone());
    for (_, routine) in listeners {
        shared::call_driver(Entry::Other, routine, &[device, u64::from(is_new)]);
    }
}

/// DO_LOW_PRIORITY_FILESYSTEM.
const LOW_PRIORITY: u32 = 0x0001_0000;

/// The file systems whose devices have a type, in the order in which they are asked to mount.
pub(super) fn of_type(device_type: u32) -> Vec<Ptr<DEVICE_OBJECT>> {
    let all = STATE.with(|state| state.file_systems.clone());
    let all = all.into_iter().map(Ptr::<DEVICE_OBJECT>::new);
    all.filter(|device| device.read().DeviceType == device_type)
        .collect()
}

nt_api! { module = io_file_system;
    /// Adds a file system: it is asked to mount volumes of its type before those that are there, unless its device has
    /// DO_LOW_PRIORITY_FILESYSTEM.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoRegisterFileSystem(device: Ptr<DEVICE_OBJECT>) {
        ob::reference(device.addr());
        device.with(|device| {
            device.Flags &= !crate::nt::DO_DEVICE_INITIALIZING;
            device.ReferenceCount += 1;
        });
        let is_last = device.read().Flags & LOW_PRIORITY != 0;
        STATE.with(|state| {
            let place = if is_last { state.file_systems.len() } else { 0 };
            state.file_systems.insert(place, device.addr());
        });
        tell(device.addr(), true);
    }

    /// Removes a file system.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoUnregisterFileSystem(device: Ptr<DEVICE_OBJECT>) {
        let was_there = STATE.with(|state| {
            let position = state.file_systems.iter().position(|&known| known == device.addr());
            position.map(|position| state.file_systems.remove(position)).is_some()
        });
        if was_there {
            tell(device.addr(), false);
            device.with(|device| device.ReferenceCount -= 1);
            super::device::released(device);
            ob::dereference(device.addr());
        }
    }

    /// The routine is called for every file system that comes or goes, and for those that are there.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoRegisterFsRegistrationChange(driver: Ptr<DRIVER_OBJECT>, routine: Ptr<u8>) -> NtStatus {
        let listener = (driver.addr(), routine.addr());
        let there = STATE.with(|state| {
            if state.listeners.contains(&listener) {
                return None;
            }
            state.listeners.push(listener);
            Some(state.file_systems.clone())
        });
        let Some(there) = there else { return NtStatus::DEVICE_ALREADY_ATTACHED };
        for device in there {
            shared::call_driver(Entry::Other, routine.addr(), &[device, 1]);
        }
        NtStatus::SUCCESS
    }

    /// Undoes IoRegisterFsRegistrationChange.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoUnregisterFsRegistrationChange(driver: Ptr<DRIVER_OBJECT>, routine: Ptr<u8>) {
        let listener = (driver.addr(), routine.addr());
        STATE.with(|state| state.listeners.retain(|&known| known != listener));
    }

    /// Takes the lock of all volume parameter blocks.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoAcquireVpbSpinLock(irql: Ptr<u8>) {
        let old = irql::raise(DISPATCH_LEVEL);
        spin_lock::acquire(VPB_LOCK.ptr());
        irql.write(old);
    }

    /// Gives the lock of all volume parameter blocks back.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoReleaseVpbSpinLock(irql: Irql) {
        spin_lock::release(VPB_LOCK.ptr());
        irql::lower(irql.0);
    }

    /// The thread's top-level IRP, or what was set in its stead.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoGetTopLevelIrp() -> Ptr<u8> {
        let thread = ps::current_thread().addr();
        Ptr::new(STATE.with(|state| state.top_level.get(&thread).copied().unwrap_or(0)))
    }

    /// Sets the thread's top-level IRP.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoSetTopLevelIrp(irp: Ptr<u8>) {
        let thread = ps::current_thread().addr();
        STATE.with(|state| {
            if irp.is_null() {
                state.top_level.remove(&thread);
            } else {
                state.top_level.insert(thread, irp.addr());
            }
        });
    }

    /// Switches hard error popups of the thread on or off; whether they were on. There are none to see.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoSetThreadHardErrorMode(enable_hard_errors: Boolean) -> Boolean {
        let thread = ps::current_thread().addr();
        STATE.with(|state| {
            let was_on = !state.hard_errors_off.contains(&thread);
            state.hard_errors_off.retain(|&known| known != thread);
            if !enable_hard_errors {
                state.hard_errors_off.push(thread);
            }
            was_on
        })
    }
}
