//! Controller objects: several devices share one controller, one at a time.

use core::mem::offset_of;

use super::driver::owner_of;
use crate::api::nt_api;
use crate::ex::pool;
use crate::ke::device_queue;
use crate::nt::{
    CONTROLLER_OBJECT, DEVICE_OBJECT, IO_TYPE_CONTROLLER, KDEVICE_QUEUE, WAIT_CONTEXT_BLOCK,
};
use crate::raw::{Ptr, from_word, low16, low32, to_word};
use crate::shared;
use crate::value::ULong;
use abi::trace::Entry;

type Controller = Ptr<CONTROLLER_OBJECT>;

/// IO_ALLOCATION_ACTION: DeallocateObject.
const DEALLOCATE_OBJECT: u32 = 2;

fn queue_of(controller: Controller) -> Ptr<KDEVICE_QUEUE> {
    controller
        .add_bytes(offset_of!(CONTROLLER_OBJECT, DeviceWaitQueue) as u64)
        .cast()
}

fn block_of(device: Ptr<DEVICE_OBJECT>) -> Ptr<WAIT_CONTEXT_BLOCK> {
    device
        .add_bytes(offset_of!(DEVICE_OBJECT, Queue) as u64)
        .cast()
}

/// Gives the controller to a device: calls its routine. True: the device keeps it.
fn execute(block: Ptr<WAIT_CONTEXT_BLOCK>) -> bool {
    let wait = block.read();
    let arguments = [
        from_word(wait.DeviceObject),
        from_word(wait.CurrentIrp),
        0, // MapRegisterBase
        from_word(wait.DeviceContext),
    ];
    let action = shared::call_driver(Entry::Other, from_word(wait.DeviceRoutine), &arguments);
    low32(action) != DEALLOCATE_OBJECT
}

/// The controller is free: the next device's turn, until one keeps it or nobody waits.
fn release(controller: Controller) {
    while let Some(entry) = device_queue::remove(queue_of(controller), None).non_null() {
        // The wait queue entry is the block's first field.
        if execute(entry.cast()) {
            return;
        }
    }
}

nt_api! { module = io_controller;
    /// Makes a controller object with a zeroed extension; NULL when the pool is exhausted.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoCreateController(size: ULong) -> Ptr<CONTROLLER_OBJECT> {
        let fixed = size_of::<CONTROLLER_OBJECT>() as u64;
        let bytes = fixed + u64::from(size);
        let made = pool::allocate(bytes, u32::from_le_bytes(*b"Ctrl"), owner_of(shared::caller()));
        if made.is_null() {
            return Ptr::null();
        }
        made.fill(0, bytes);
        let controller = made.cast::<CONTROLLER_OBJECT>();
        controller.with(|controller| {
            controller.Type = IO_TYPE_CONTROLLER;
            controller.Size = low16(bytes).cast_signed();
            controller.ControllerExtension = to_word(made.addr() + fixed);
        });
        device_queue::initialize(queue_of(controller));
        controller
    }

    /// Deletes a controller object.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoDeleteController(controller: Ptr<CONTROLLER_OBJECT>) {
        pool::free(controller.cast(), 0);
    }

    /// Calls the routine when the controller is free: at once, or when the devices before have freed it.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoAllocateController(
        controller: Ptr<CONTROLLER_OBJECT>,
        device: Ptr<DEVICE_OBJECT>,
        execution_routine: Ptr<u8>,
        context: Ptr<u8>,
    ) {
        let block = block_of(device);
        let current = device.read().CurrentIrp;
        block.with(|block| {
            block.DeviceRoutine = execution_routine.word();
            block.DeviceContext = context.word();
            block.DeviceObject = device.word();
            block.CurrentIrp = current.word();
        });
        if !device_queue::insert(queue_of(controller), block.cast(), None) && !execute(block) {
            release(controller);
        }
    }

    /// Gives the controller to the next device that waits.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoFreeController(controller: Ptr<CONTROLLER_OBJECT>) {
        release(controller);
    }
}
