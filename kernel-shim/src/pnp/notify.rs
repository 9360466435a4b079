//! Notifications of PnP events.

use alloc::string::String;
use alloc::vec::Vec;

use super::{Node, interface};
use crate::api::nt_api;
use crate::ex::pool;
use crate::io::device;
use crate::nt::{
    DEVICE_INTERFACE_CHANGE_NOTIFICATION, DEVICE_OBJECT, DRIVER_OBJECT, FILE_OBJECT, GUID,
    GUID_DEVICE_INTERFACE_ARRIVAL, GUID_DEVICE_INTERFACE_REMOVAL, GUID_TARGET_DEVICE_QUERY_REMOVE,
    GUID_TARGET_DEVICE_REMOVE_CANCELLED, GUID_TARGET_DEVICE_REMOVE_COMPLETE, NtStatus,
    TARGET_DEVICE_REMOVAL_NOTIFICATION,
};
use crate::raw::{Global, Ptr, low16, low32};
use crate::value::ULong;
use crate::{ob, shared};
use abi::trace::Entry;

/// What a registration is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum About {
    Profile,
    Interface(GUID),
    /// File, and the physical device object below it.
    Target(Ptr<FILE_OBJECT>, Ptr<DEVICE_OBJECT>),
}

#[derive(Clone, Copy, Debug)]
struct Registration {
    /// The entry that the driver has.
    entry: u64,
    about: About,
    routine: u64,
    context: u64,
    driver: Ptr<DRIVER_OBJECT>,
}

static REGISTRATIONS: Global<Vec<Registration>> = Global::new("PnP notifications", Vec::new());

/// PNPNOTIFY_DEVICE_INTERFACE_INCLUDE_EXISTING_INTERFACES.
const INCLUDE_EXISTING: u32 = 1;

pub(super) fn initialize() {
    REGISTRATIONS.with(Vec::clear);
}

/// What befalls a device that files are open on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Target {
    QueryRemove,
    RemoveCancelled,
    RemoveComplete,
}

fn call(one: &Registration, notification: u64) -> NtStatus {
    let arguments = [notification, one.context];
    NtStatus(low32(shared::call_driver(
        Entry::Other,
        one.routine,
        &arguments,
    )))
}

fn matching(is_wanted: impl Fn(&About) -> bool) -> Vec<Registration> {
    REGISTRATIONS.with(|all| {
        all.iter()
            .filter(|one| is_wanted(&one.about))
            .copied()
            .collect()
    })
}

fn is_registered(one: &Registration) -> bool {
    REGISTRATIONS.with(|all| all.iter().any(|other| other.entry == one.entry))
}

fn tell_interface(one: &Registration, class: &GUID, name: &str, is_there: bool) {
    let Some(text) = crate::io::driver::counted_string(name) else {
        return;
    };
    let bytes = size_of::<DEVICE_INTERFACE_CHANGE_NOTIFICATION>() as u64;
    if let Some(block) = pool::allocate_zeroed(bytes, *b"PpNo") {
        block.cast().write(DEVICE_INTERFACE_CHANGE_NOTIFICATION {
            Version: 1,
            Size: low16(bytes),
            Event: if is_there {
                GUID_DEVICE_INTERFACE_ARRIVAL
            } else {
                GUID_DEVICE_INTERFACE_REMOVAL
            },
            InterfaceClassGuid: *class,
            SymbolicLinkName: text,
        });
        call(one, block.addr());
        pool::free(block, 0);
    }
    pool::free(text.cast(), 0);
}

/// An interface was enabled or disabled.
pub(super) fn interface_event(class: &GUID, name: &str, is_there: bool) {
    for one in matching(|about| *about == About::Interface(*class)) {
        if is_registered(&one) {
            tell_interface(&one, class, name, is_there);
        }
    }
}

/// Tells those who registered for a device's files; what the first of them that vetoes a query said.
pub(super) fn target_event(node: &Node, what: Target) -> NtStatus {
    for one in matching(|about| matches!(about, About::Target(_, pdo) if *pdo == node.pdo)) {
        let About::Target(file, _) = one.about else {
            continue;
        };
        let bytes = size_of::<TARGET_DEVICE_REMOVAL_NOTIFICATION>() as u64;
        let Some(block) = pool::allocate_zeroed(bytes, *b"PpNo") else {
            return NtStatus::INSUFFICIENT_RESOURCES;
        };
        block.cast().write(TARGET_DEVICE_REMOVAL_NOTIFICATION {
            Version: 1,
            Size: low16(bytes),
            Event: match what {
                Target::QueryRemove => GUID_TARGET_DEVICE_QUERY_REMOVE,
                Target::RemoveCancelled => GUID_TARGET_DEVICE_REMOVE_CANCELLED,
                Target::RemoveComplete => GUID_TARGET_DEVICE_REMOVE_COMPLETE,
            },
            FileObject: file,
        });
        let status = if is_registered(&one) {
            call(&one, block.addr())
        } else {
            NtStatus::SUCCESS
        };
        pool::free(block, 0);
        if what == Target::QueryRemove && !status.is_success() {
            return status;
        }
    }
    NtStatus::SUCCESS
}

/// The device is gone.
pub(super) fn forget_device(pdo: Ptr<DEVICE_OBJECT>) {
    for one in matching(|about| matches!(about, About::Target(_, other) if *other == pdo)) {
        unregister(one.entry);
    }
}

fn register(
    category: u32,
    flags: u32,
    data: Ptr<u8>,
    driver: Ptr<DRIVER_OBJECT>,
    routine: u64,
    context: u64,
    result: Ptr<Ptr<u8>>,
) -> NtStatus {
    let about = match category {
        1 => About::Profile,
        2 => About::Interface(data.cast::<GUID>().read()),
        3 => {
            let file = data.cast::<FILE_OBJECT>();
            let base = device::base_of(file.read().DeviceObject);
            if super::node_of(base).is_err() {
                return NtStatus::NOT_SUPPORTED;
            }
            About::Target(file, base)
        }
        _ => return NtStatus::INVALID_PARAMETER,
    };
    let Some(entry) = pool::allocate_zeroed(16, *b"PpNe") else {
        return NtStatus::INSUFFICIENT_RESOURCES;
    };
    let one = Registration {
        entry: entry.addr(),
        about,
        routine,
        context,
        driver,
    };
    ob::reference(driver.addr());
    if let About::Target(file, _) = about {
        ob::reference(file.addr());
    }
    REGISTRATIONS.with(|all| all.push(one));
    result.write(entry);
    if let About::Interface(class) = about
        && flags & INCLUDE_EXISTING != 0
    {
        let names: Vec<String> = interface::enabled(&class);
        for name in names {
            if is_registered(&one) {
                tell_interface(&one, &class, &name, true);
            }
        }
    }
    NtStatus::SUCCESS
}

fn unregister(entry: u64) -> NtStatus {
    let removed = REGISTRATIONS.with(|all| {
        let index = all.iter().position(|one| one.entry == entry)?;
        Some(all.remove(index))
    });
    let Some(one) = removed else {
        return NtStatus::INVALID_PARAMETER;
    };
    if let About::Target(file, _) = one.about {
        ob::dereference(file.addr());
    }
    ob::dereference(one.driver.addr());
    pool::free(Ptr::new(entry), 0);
    NtStatus::SUCCESS
}

/// The events that only the PnP manager itself reports.
fn is_system_event(event: &GUID) -> bool {
    [
        GUID_TARGET_DEVICE_QUERY_REMOVE,
        GUID_TARGET_DEVICE_REMOVE_CANCELLED,
        GUID_TARGET_DEVICE_REMOVE_COMPLETE,
    ]
    .contains(event)
}

fn report(pdo: Ptr<DEVICE_OBJECT>, given: Ptr<u8>) -> NtStatus {
    if let Err(status) = super::node_of(pdo) {
        return status;
    }
    let fixed = size_of::<TARGET_DEVICE_REMOVAL_NOTIFICATION>();
    let head = given.cast::<TARGET_DEVICE_REMOVAL_NOTIFICATION>().read();
    if is_system_event(&head.Event) || usize::from(head.Size) < fixed {
        return NtStatus::INVALID_DEVICE_REQUEST;
    }
    let bytes = given.read_slice(usize::from(head.Size));
    for one in matching(|about| matches!(about, About::Target(_, other) if *other == pdo)) {
        let (About::Target(file, _), true) = (one.about, is_registered(&one)) else {
            continue;
        };
        let Some(block) = pool::allocate_copy(&bytes, *b"PpNo") else {
            return NtStatus::INSUFFICIENT_RESOURCES;
        };
        block
            .cast::<TARGET_DEVICE_REMOVAL_NOTIFICATION>()
            .with(|head| head.FileObject = file);
        call(&one, block.addr());
        pool::free(block, 0);
    }
    NtStatus::SUCCESS
}

nt_api! { module = pnp_notify;
    /// Registers a routine for PnP events: of hardware profiles (1), which never change here, of an interface class (2),
    /// of the device below a file (3).
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoRegisterPlugPlayNotification(
        event_category: ULong, event_category_flags: ULong, event_category_data: Ptr<u8>,
        driver_object: Ptr<DRIVER_OBJECT>, callback_routine: Ptr<u8>, context: Ptr<u8>,
        notification_entry: Ptr<Ptr<u8>>,
    ) -> NtStatus {
        register(
            event_category, event_category_flags, event_category_data, driver_object, callback_routine.addr(),
            context.addr(), notification_entry,
        )
    }

    /// Ends a registration.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoUnregisterPlugPlayNotification(notification_entry: Ptr<u8>) -> NtStatus {
        unregister(notification_entry.addr())
    }

    /// Ends a registration; no routine of it runs any more when this returns.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoUnregisterPlugPlayNotificationEx(notification_entry: Ptr<u8>) -> NtStatus {
        unregister(notification_entry.addr())
    }

    /// Tells those who registered for a device's files of an event of the driver's own. INVALID_DEVICE_REQUEST: no
    /// physical device object, or one of the system's own events.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoReportTargetDeviceChange(physical_device_object: Ptr<DEVICE_OBJECT>, notification_structure: Ptr<u8>) -> NtStatus {
        report(physical_device_object, notification_structure)
    }
}
