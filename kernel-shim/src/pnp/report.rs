//! What drivers report of their devices: state, relations, ejection. The PnP manager acts on a thread of its own.

use super::{
    Node, State, check_state, failed, finish_remove, irp, node_of, query_relations, query_remove,
};
use crate::api::nt_api;
use crate::ex::pool;
use crate::ex::work::{self, WorkItem};
use crate::io::routine;
use crate::nt::bugcheck::{PNP_DETECTED_FATAL_ERROR, bugcheck_with_text};
use crate::nt::{DEVICE_OBJECT, DRIVER_OBJECT, NtStatus, WORK_QUEUE_ITEM, pnp_minor};
use crate::raw::{Ptr, Word, from_word, to_word};
use crate::value::ULong;
use crate::{ob, shared};
use abi::trace::Entry;

/// IoInvalidateDeviceState.
const STATE: u32 = 0;
/// IoInvalidateDeviceRelations.
const RELATIONS: u32 = 1;
/// IoRequestDeviceEject.
const EJECT: u32 = 2;
/// DelayedWorkQueue.
const DELAYED: u32 = 1;
/// BusRelations of DEVICE_RELATION_TYPE.
const BUS_RELATIONS: u32 = 0;
/// SingleBusRelations.
const SINGLE_BUS_RELATIONS: u32 = 5;
/// PNP_DETECTED_FATAL_ERROR: what should be a physical device object is none.
const INVALID_PDO: u64 = 2;

/// What the PnP manager has to do, in pool memory.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Event {
    item: WORK_QUEUE_ITEM,
    kind: u32,
    device: Ptr<DEVICE_OBJECT>,
    /// PIO_DEVICE_EJECT_CALLBACK; 0: none.
    callback: Word,
    context: Word,
    /// Referenced until the callback has returned; may be null.
    driver: Ptr<DRIVER_OBJECT>,
}

/// Has an event handled later. A device without a node is a bugcheck, as in NT.
fn post(kind: u32, device: Ptr<DEVICE_OBJECT>, callback: (u64, u64, Ptr<DRIVER_OBJECT>)) {
    if node_of(device).is_err() {
        bugcheck_with_text(
            PNP_DETECTED_FATAL_ERROR,
            [INVALID_PDO, device.addr(), 0, 0],
            format_args!("{:#x} is no physical device object", device.addr()),
        );
    }
    let (routine, context, driver) = callback;
    let Some(block) = pool::allocate_zeroed(size_of::<Event>() as u64, *b"PpEv") else {
        return;
    };
    let block = block.cast::<Event>();
    block.with(|event| {
        event.item.WorkerRoutine = to_word(routine::callable("IopPnpEvent"));
        event.item.Parameter = block.word();
        event.kind = kind;
        event.device = device;
        event.callback = to_word(routine);
        event.context = to_word(context);
        event.driver = driver;
    });
    ob::reference(device.addr());
    if !driver.is_null() {
        ob::reference(driver.addr());
    }
    work::queue(WorkItem::Executive(block.cast()), DELAYED);
}

/// Removes a device from its drivers, and tells its bus to eject it.
fn eject(node: &Node) -> Result<(), NtStatus> {
    query_remove(node)?;
    finish_remove(node);
    let (status, _) = irp::send_pnp(node.pdo, pnp_minor::EJECT, [0; 4]);
    failed(status)
}

fn handle(event: &Event) {
    let result = node_of(event.device).and_then(|node| match event.kind {
        STATE if node.state == State::Started => check_state(&node),
        RELATIONS if node.state == State::Started => {
            query_relations(node.pdo);
            Ok(())
        }
        EJECT => eject(&node),
        _ => Ok(()),
    });
    let routine = from_word(event.callback);
    if routine != 0 {
        let status = result.err().unwrap_or(NtStatus::SUCCESS);
        let arguments = [u64::from(status.0), from_word(event.context)];
        shared::call_driver(Entry::Other, routine, &arguments);
    }
    if !event.driver.is_null() {
        ob::dereference(event.driver.addr());
    }
    ob::dereference(event.device.addr());
}

const NO_CALLBACK: (u64, u64, Ptr<DRIVER_OBJECT>) = (0, 0, Ptr::null());

nt_api! { module = pnp_report;
    /// Has the PnP manager ask for the device's state (IRP_MN_QUERY_PNP_DEVICE_STATE) soon, if it is started; one that
    /// has failed is removed.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoInvalidateDeviceState(physical_device_object: Ptr<DEVICE_OBJECT>) {
        post(STATE, physical_device_object, NO_CALLBACK);
    }

    /// Has the PnP manager ask for the device's children soon (BusRelations, SingleBusRelations); other relations are
    /// asked for when they are needed.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) partial("children get no drivers")
    fn IoInvalidateDeviceRelations(device_object: Ptr<DEVICE_OBJECT>, relation_type: ULong) {
        if matches!(relation_type, BUS_RELATIONS | SINGLE_BUS_RELATIONS) {
            post(RELATIONS, device_object, NO_CALLBACK);
        }
    }

    /// Has the PnP manager remove a device and tell its bus to eject it. Root-enumerated devices cannot be ejected: they
    /// are removed.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoRequestDeviceEject(physical_device_object: Ptr<DEVICE_OBJECT>) {
        post(EJECT, physical_device_object, NO_CALLBACK);
    }

    /// As IoRequestDeviceEject; the routine is called with what it came to. INVALID_PARAMETER: a routine without its
    /// driver.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoRequestDeviceEjectEx(
        physical_device_object: Ptr<DEVICE_OBJECT>, callback: Ptr<u8>, context: Ptr<u8>,
        driver_object: Ptr<DRIVER_OBJECT>,
    ) -> NtStatus {
        if !callback.is_null() && driver_object.is_null() {
            return NtStatus::INVALID_PARAMETER;
        }
        post(EJECT, physical_device_object, (callback.addr(), context.addr(), driver_object));
        NtStatus::SUCCESS
    }

    /// Handles an event on a worker thread. NT does not export it; it needs an address.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IopPnpEvent(context: Ptr<u8>) {
        let event = context.cast::<Event>().read();
        pool::free(context, 0);
        handle(&event);
    }
}
