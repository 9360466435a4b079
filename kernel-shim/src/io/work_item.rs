//! Work items of devices: the I/O manager keeps the device while they are queued.

use super::driver::owner_of;
use crate::api::nt_api;
use crate::ex::pool;
use crate::ex::work::{self, WorkItem};
use crate::nt::bugcheck::{WORKER_INVALID, bugcheck_with_text};
use crate::nt::{IO_WORKITEM, LIST_ENTRY, WORK_QUEUE_ITEM};
use crate::raw::Ptr;
use crate::value::{Boolean, ULong};
use crate::{ob, shared};

const TAG: u32 = u32::from_le_bytes(*b"IoWI");
/// WORKER_INVALID: a queued item is freed; a queued item is initialized.
const FREED_QUEUED: u64 = 2;
const INITIALIZED_QUEUED: u64 = 3;

fn check_idle(item: Ptr<IO_WORKITEM>, what: u64, done: &str) {
    if work::is_queued(item.cast()) {
        bugcheck_with_text(
            WORKER_INVALID,
            [what, item.addr(), 0, 0],
            format_args!(
                "I/O work item {:#x} is {done} while it is queued",
                item.addr()
            ),
        );
    }
}

fn initialize(item: Ptr<IO_WORKITEM>, io_object: Ptr<u8>) {
    item.write(IO_WORKITEM {
        WorkItem: WORK_QUEUE_ITEM {
            List: LIST_ENTRY {
                Flink: Ptr::null(),
                Blink: Ptr::null(),
            },
            WorkerRoutine: 0,
            Parameter: item.word(),
        },
        Routine: 0,
        IoObject: io_object,
        Context: 0,
        Type: 0,
    });
}

/// Queues an item; one that is queued already is a bugcheck.
fn queue(item: Ptr<IO_WORKITEM>, routine: Ptr<u8>, queue: u32, context: Ptr<u8>, kind: u32) {
    check_idle(item, 1, "queued");
    let io_object = item.with(|item| {
        item.Routine = routine.word();
        item.Context = context.word();
        item.Type = kind;
        item.IoObject
    });
    ob::reference(io_object.addr());
    work::queue(WorkItem::Device(item), queue);
}

nt_api! { module = io_work_item;
    /// Allocates a work item for a device; null when the pool is exhausted.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoAllocateWorkItem(device: Ptr<u8>) -> Ptr<IO_WORKITEM> {
        let bytes = size_of::<IO_WORKITEM>() as u64;
        let item = pool::allocate(bytes, TAG, owner_of(shared::caller())).cast();
        if !item.is_null() {
            initialize(item, device);
        }
        item
    }

    /// Frees a work item that is not queued.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoFreeWorkItem(item: Ptr<IO_WORKITEM>) {
        check_idle(item, FREED_QUEUED, "freed");
        pool::free(item.cast(), TAG);
    }

    /// Bytes of a work item.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn IoSizeofWorkItem() -> ULong {
        crate::raw::low32(size_of::<IO_WORKITEM>() as u64)
    }

    /// Makes a work item in memory of the driver's, for a device or a driver.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoInitializeWorkItem(io_object: Ptr<u8>, item: Ptr<IO_WORKITEM>) {
        check_idle(item, INITIALIZED_QUEUED, "initialized");
        initialize(item, io_object);
    }

    /// Ends the use of a work item that IoInitializeWorkItem made.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoUninitializeWorkItem(item: Ptr<IO_WORKITEM>) {
        check_idle(item, FREED_QUEUED, "uninitialized");
    }

    /// Queues a work item; the routine is called with device and context.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoQueueWorkItem(item: Ptr<IO_WORKITEM>, routine: Ptr<u8>, queue_type: ULong, context: Ptr<u8>) {
        queue(item, routine, queue_type, context, 0);
    }

    /// Queues a work item; the routine is called with device, context and the item, which it may free.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoQueueWorkItemEx(item: Ptr<IO_WORKITEM>, routine: Ptr<u8>, queue_type: ULong, context: Ptr<u8>) {
        queue(item, routine, queue_type, context, 1);
    }

    /// As IoQueueWorkItemEx; FALSE: the item is queued already.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoTryQueueWorkItem(item: Ptr<IO_WORKITEM>, routine: Ptr<u8>, queue_type: ULong, context: Ptr<u8>) -> Boolean {
        if work::is_queued(item.cast()) {
            return false;
        }
        queue(item, routine, queue_type, context, 1);
        true
    }
}
