//! What hangs on a driver: client extensions, and routines that are called after DriverEntry.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use crate::api::nt_api;
use crate::ex::pool;
use crate::nt::{DRIVER_OBJECT, NtStatus};
use crate::raw::{Global, Ptr};
use crate::shared;
use crate::value::ULong;
use abi::trace::Entry;

#[derive(Debug)]
struct State {
    /// (Driver, client identification) to the extension.
    extensions: BTreeMap<(u64, u64), u64>,
    /// Driver, routine, context.
    reinitialize: VecDeque<(u64, u64, u64)>,
}

static STATE: Global<State> = Global::new(
    "driver extensions",
    State {
        extensions: BTreeMap::new(),
        reinitialize: VecDeque::new(),
    },
);

pub(super) fn initialize() {
    STATE.with(|state| {
        state.extensions.clear();
        state.reinitialize.clear();
    });
}

/// Calls the reinitialization routines that are registered, once each; one may register itself again for the next time,
/// which comes at once.
pub(super) fn reinitialize() {
    while let Some((driver, routine, context)) = STATE.with(|state| state.reinitialize.pop_front())
    {
        let count = Ptr::<DRIVER_OBJECT>::new(driver)
            .read()
            .DriverExtension
            .with(|extension| {
                extension.Count += 1;
                extension.Count
            });
        let arguments = [driver, context, u64::from(count)];
        shared::call_driver(Entry::Other, routine, &arguments);
    }
}

/// The driver is gone.
pub(super) fn forget(driver: Ptr<DRIVER_OBJECT>) {
    let extensions: Vec<u64> = STATE.with(|state| {
        let mut removed = Vec::new();
        state.extensions.retain(|&(owner, _), &mut extension| {
            if owner == driver.addr() {
                removed.push(extension);
            }
            owner != driver.addr()
        });
        state
            .reinitialize
            .retain(|&(owner, ..)| owner != driver.addr());
        removed
    });
    for extension in extensions {
        pool::free(Ptr::new(extension), 0);
    }
}

fn register(driver: Ptr<DRIVER_OBJECT>, routine: Ptr<u8>, context: Ptr<u8>) {
    let entry = (driver.addr(), routine.addr(), context.addr());
    STATE.with(|state| state.reinitialize.push_back(entry));
}

nt_api! { module = io_driver_extension;
    /// Gives a driver a zeroed extension under an identification; OBJECT_NAME_COLLISION: it has one already.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn IoAllocateDriverObjectExtension(
        driver: Ptr<DRIVER_OBJECT>,
        client_identification_address: Ptr<u8>,
        driver_object_extension_size: ULong,
        driver_object_extension: Ptr<Ptr<u8>>,
    ) -> NtStatus {
        driver_object_extension.write(Ptr::null());
        let key = (driver.addr(), client_identification_address.addr());
        if STATE.with(|state| state.extensions.contains_key(&key)) {
            return NtStatus::OBJECT_NAME_COLLISION;
        }
        let Some(extension) = pool::allocate_zeroed(driver_object_extension_size.into(), *b"Driv") else {
            return NtStatus::INSUFFICIENT_RESOURCES;
        };
        STATE.with(|state| state.extensions.insert(key, extension.addr()));
        driver_object_extension.write(extension);
        NtStatus::SUCCESS
    }

    /// A driver's extension under an identification, or NULL.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoGetDriverObjectExtension(driver: Ptr<DRIVER_OBJECT>, client_identification_address: Ptr<u8>) -> Ptr<u8> {
        let key = (driver.addr(), client_identification_address.addr());
        Ptr::new(STATE.with(|state| state.extensions.get(&key).copied().unwrap_or(0)))
    }

    /// The routine is called after DriverEntry has returned successfully.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoRegisterDriverReinitialization(driver: Ptr<DRIVER_OBJECT>, routine: Ptr<u8>, context: Ptr<u8>) {
        register(driver, routine, context);
    }

    /// The routine is called after DriverEntry has returned successfully: boot drivers are started as all others are.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoRegisterBootDriverReinitialization(driver: Ptr<DRIVER_OBJECT>, routine: Ptr<u8>, context: Ptr<u8>) {
        register(driver, routine, context);
    }
}
