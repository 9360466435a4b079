//! IRPs: allocation, the way down ([`call`]) and the way up ([`complete`]).

use super::driver::{invalid_device_request, owner_of};
use super::{build, request, routine};
use crate::api::nt_api;
use crate::ex::pool;
use crate::nt::bugcheck::{
    CANCEL_STATE_IN_COMPLETED_IRP, DRIVER_VERIFIER_IOMANAGER_VIOLATION,
    MULTIPLE_IRP_COMPLETE_REQUESTS, NO_MORE_IRP_STACK_LOCATIONS, bugcheck_with_text,
};
use crate::nt::{
    DEVICE_OBJECT, IO_STACK_LOCATION, IO_TYPE_IRP, IRP, IRP_ASSOCIATED_IRP, IRP_MJ_DEVICE_CONTROL,
    IRP_MJ_READ, IRP_MJ_WRITE, NtStatus, SL_INVOKE_ON_CANCEL, SL_INVOKE_ON_ERROR,
    SL_INVOKE_ON_SUCCESS, SL_PENDING_RETURNED,
};
use crate::raw::{Ptr, from_word, low8, low16, low32};
use crate::value::{Boolean, UChar, UShort};
use crate::{ob, shared};
use abi::trace::{Entry, TraceKind};

const TAG: u32 = u32::from_le_bytes(*b"Irp ");

/// Bytes of an IRP with its stack locations (IoSizeOfIrp).
#[must_use]
pub const fn size_of_irp(stack_size: i8) -> u64 {
    size_of::<IRP>() as u64
        + stack_size.unsigned_abs() as u64 * size_of::<IO_STACK_LOCATION>() as u64
}

/// Prepares memory as an IRP (IoInitializeIrp).
pub(super) fn initialize(irp: Ptr<IRP>, bytes: u64, stack_size: i8) {
    irp.cast::<u8>().fill(0, bytes);
    let stack = irp.offset(1).cast::<IO_STACK_LOCATION>();
    irp.with(|irp| {
        irp.Type = IO_TYPE_IRP;
        irp.Size = low16(bytes);
        irp.StackCount = stack_size;
        irp.CurrentLocation = stack_size + 1;
        irp.CurrentStackLocation = stack.offset(i64::from(stack_size));
    });
    let at = |field: usize| irp.add_bytes(field as u64).cast();
    at(core::mem::offset_of!(IRP, ThreadListEntry)).list_initialize();
    at(core::mem::offset_of!(IRP, ListEntry)).list_initialize();
}

/// An IRP with `stack_size` locations; null when the pool is exhausted. `owner` as for the pool.
#[must_use]
pub fn allocate(stack_size: i8, owner: u64) -> Ptr<IRP> {
    let bytes = size_of_irp(stack_size);
    let irp = pool::allocate(bytes, TAG, owner).cast::<IRP>();
    if !irp.is_null() {
        initialize(irp, bytes, stack_size);
    }
    irp
}

/// Frees an IRP.
pub fn free(irp: Ptr<IRP>) {
    let bytes = u64::from(irp.read().Size);
    routine::forget_range(irp.addr(), bytes);
    crate::fsrtl::ecp::forget_irp(irp);
    irp.with(|irp| irp.Type = 0);
    pool::free(irp.cast(), TAG);
}

/// Frees an IRP for a driver, which may be wrong about it.
fn free_checked(irp: Ptr<IRP>) {
    if irp.read().Type != IO_TYPE_IRP {
        bugcheck_with_text(
            MULTIPLE_IRP_COMPLETE_REQUESTS,
            [irp.addr(), 0, 0, 0],
            format_args!(
                "IoFreeIrp of {:#x}, which is no IRP or was freed before",
                irp.addr()
            ),
        );
    }
    if build::is_threaded(irp) {
        bugcheck_with_text(
            DRIVER_VERIFIER_IOMANAGER_VIOLATION,
            [2, irp.addr(), 0, 0],
            format_args!(
                "IoFreeIrp of {:#x}, which belongs to a thread: the I/O manager frees it when it is completed",
                irp.addr()
            ),
        );
    }
    free(irp);
}

/// The status that a driver stored in an IRP.
#[must_use]
pub fn status_of(irp: Ptr<IRP>) -> NtStatus {
    NtStatus(low32(from_word(irp.read().IoStatus.Status)))
}

/// Sends an IRP to a device's driver (IofCallDriver); the next lower stack location becomes current.
pub fn call(device: Ptr<DEVICE_OBJECT>, irp: Ptr<IRP>) -> NtStatus {
    if irp.read().Type != IO_TYPE_IRP {
        bugcheck_with_text(
            DRIVER_VERIFIER_IOMANAGER_VIOLATION,
            [3, irp.addr(), 0, 0],
            format_args!("IoCallDriver with {:#x}, which is no IRP", irp.addr()),
        );
    }
    let (location, stack) = irp.with(|irp| {
        irp.CurrentLocation -= 1;
        irp.CurrentStackLocation = irp.CurrentStackLocation.offset(-1);
        (irp.CurrentLocation, irp.CurrentStackLocation)
    });
    if location <= 0 {
        bugcheck_with_text(
            NO_MORE_IRP_STACK_LOCATIONS,
            [irp.addr(), 0, 0, 0],
            format_args!(
                "IRP {:#x} has no stack location left for the next driver",
                irp.addr()
            ),
        );
    }
    stack.with(|stack| stack.DeviceObject = device);
    let IO_STACK_LOCATION {
        MajorFunction: major,
        Parameters: parameters,
        ..
    } = stack.read();
    trace_irp(device, irp, major, parameters.map(from_word));
    if crate::pnp::is_physical(device) {
        return crate::pnp::pdo::dispatch(device, irp);
    }
    let routine = device
        .read()
        .DriverObject
        .read()
        .MajorFunction
        .get(usize::from(major))
        .map_or(0, |&word| from_word(word));
    if routine == invalid_device_request() || routine == 0 {
        return IopInvalidDeviceRequest(device, irp);
    }
    let arguments = [device.addr(), irp.addr()];
    NtStatus(low32(shared::call_driver(
        Entry::Dispatch,
        routine,
        &arguments,
    )))
}

fn trace_irp(device: Ptr<DEVICE_OBJECT>, irp: Ptr<IRP>, major: u8, parameters: [u64; 4]) {
    let [first, second, third, _] = parameters;
    let words = match major {
        IRP_MJ_DEVICE_CONTROL => [irp.addr(), device.addr(), third, second, first],
        IRP_MJ_READ => [
            irp.addr(),
            device.addr(),
            low32(first).into(),
            0,
            low32(first).into(),
        ],
        IRP_MJ_WRITE => [
            irp.addr(),
            device.addr(),
            low32(first).into(),
            low32(first).into(),
            0,
        ],
        _ => [irp.addr(), device.addr(), 0, 0, 0],
    };
    let name = ob::lookup(device.addr())
        .map(|object| object.name)
        .unwrap_or_default();
    shared::trace(TraceKind::Irp, u32::from(major), 0, &words, &name);
}

/// Completes an IRP (IofCompleteRequest): calls completion routines up the stack, then finishes it.
pub fn complete(irp: Ptr<IRP>) {
    let IRP {
        Type: kind,
        CurrentLocation: location,
        StackCount: count,
        CancelRoutine: cancel,
        ..
    } = irp.read();
    if kind != IO_TYPE_IRP || location > count.wrapping_add(1) {
        bugcheck_with_text(
            MULTIPLE_IRP_COMPLETE_REQUESTS,
            [irp.addr(), 0, 0, 0],
            format_args!(
                "IRP {:#x} was completed a second time, or is no IRP",
                irp.addr()
            ),
        );
    }
    if cancel != 0 {
        bugcheck_with_text(
            CANCEL_STATE_IN_COMPLETED_IRP,
            [irp.addr(), from_word(cancel), 0, 0],
            format_args!(
                "IRP {:#x} was completed while it has a cancel routine",
                irp.addr()
            ),
        );
    }
    if status_of(irp) == NtStatus::PENDING {
        bugcheck_with_text(
            DRIVER_VERIFIER_IOMANAGER_VIOLATION,
            [6, u64::from(NtStatus::PENDING.0), irp.addr(), 0],
            format_args!("IRP {:#x} was completed with STATUS_PENDING", irp.addr()),
        );
    }
    loop {
        // A completion routine may have changed the status.
        let status = status_of(irp);
        let (stack, location, count, is_cancelled) = irp.with(|irp| {
            let stack = irp.CurrentStackLocation;
            irp.CurrentLocation += 1;
            irp.CurrentStackLocation = stack.offset(1);
            (stack, irp.CurrentLocation, irp.StackCount, irp.Cancel != 0)
        });
        if location > count + 1 {
            break;
        }
        let done = stack.read();
        irp.with(|irp| irp.PendingReturned = done.Control & SL_PENDING_RETURNED);
        let is_wanted = done.Control & SL_INVOKE_ON_SUCCESS != 0 && status.is_success()
            || done.Control & SL_INVOKE_ON_ERROR != 0 && !status.is_success()
            || done.Control & SL_INVOKE_ON_CANCEL != 0 && is_cancelled;
        let is_top = location == count + 1;
        if is_wanted {
            let device = if is_top {
                Ptr::null()
            } else {
                stack.offset(1).read().DeviceObject
            };
            clear(stack);
            let arguments = [device.addr(), irp.addr(), from_word(done.Context)];
            let owner = routine::take_owner(stack.addr());
            let result = routine::call(
                Entry::Completion,
                from_word(done.CompletionRoutine),
                &arguments,
            );
            if let Some(owner) = owner {
                ob::dereference(owner);
            }
            if NtStatus(low32(result)) == NtStatus::MORE_PROCESSING_REQUIRED {
                return;
            }
        } else {
            if done.Control & SL_PENDING_RETURNED != 0 && !is_top {
                stack
                    .offset(1)
                    .with(|above| above.Control |= SL_PENDING_RETURNED);
            }
            clear(stack);
        }
    }
    finish(irp);
}

/// Clears a stack location that the IRP has come up from (ZeroIrpStackLocation): everything but the major function, the
/// device, and the completion routine.
fn clear(stack: Ptr<IO_STACK_LOCATION>) {
    stack.with(|stack| {
        stack.MinorFunction = 0;
        stack.Flags = 0;
        stack.Control = 0;
        stack.Parameters = [0; 4];
        stack.FileObject = Ptr::null();
    });
}

/// An IRP has come up its whole stack.
fn finish(irp: Ptr<IRP>) {
    if irp.read().Flags & IRP_ASSOCIATED_IRP != 0 {
        return build::finish_associated(irp);
    }
    if build::finish(irp) || crate::pnp::irp::finish(irp) || crate::po::request::finish(irp) {
        return;
    }
    request::finish(irp);
}

nt_api! { module = io_irp;
    /// Sends an IRP to a driver.
    ntoskrnl both fastcall irql(DISPATCH_LEVEL) implemented
    fn IofCallDriver(device: Ptr<DEVICE_OBJECT>, irp: Ptr<IRP>) -> NtStatus {
        call(device, irp)
    }

    /// Sends an IRP to a driver.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoCallDriver(device: Ptr<DEVICE_OBJECT>, irp: Ptr<IRP>) -> NtStatus {
        call(device, irp)
    }

    /// Completes an IRP. The priority boost has no effect with one thread.
    ntoskrnl both fastcall irql(DISPATCH_LEVEL) implemented
    fn IofCompleteRequest(irp: Ptr<IRP>, priority_boost: UChar) {
        complete(irp);
    }

    /// Completes an IRP. The priority boost has no effect with one thread.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoCompleteRequest(irp: Ptr<IRP>, priority_boost: UChar) {
        complete(irp);
    }

    /// What MajorFunction entries hold that a driver did not set: completes the IRP with STATUS_INVALID_DEVICE_REQUEST.
    ///
    /// NT does not export it; it is in the table because it needs an address that drivers can call.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IopInvalidDeviceRequest(device: Ptr<DEVICE_OBJECT>, irp: Ptr<IRP>) -> NtStatus {
        let status = NtStatus::INVALID_DEVICE_REQUEST;
        irp.with(|irp| {
            irp.IoStatus.Status = crate::raw::to_word(u64::from(status.0));
            irp.IoStatus.Information = 0;
        });
        complete(irp);
        status
    }

    /// Allocates an IRP.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoAllocateIrp(stack_size: UChar, charge_quota: Boolean) -> Ptr<IRP> {
        if stack_size.cast_signed() < 0 {
            return Ptr::null();
        }
        allocate(stack_size.cast_signed(), owner_of(shared::caller()))
    }

    /// Frees an IRP.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoFreeIrp(irp: Ptr<IRP>) {
        free_checked(irp);
    }

    /// Prepares memory as an IRP.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoInitializeIrp(irp: Ptr<IRP>, packet_size: UShort, stack_size: UChar) {
        initialize(irp, u64::from(packet_size), low8(u64::from(stack_size)).cast_signed());
    }
}
