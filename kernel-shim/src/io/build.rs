//! IRPs that drivers build: IoBuildXxx requests, associated IRPs, and passing an IRP on while waiting for it.
//!
//! A threaded IRP (IoBuildDeviceIoControlRequest, IoBuildSynchronousFsdRequest) is finished and freed by the I/O manager
//! once it has come up its whole stack; NT does so in an APC of the thread, here it happens at once.

use alloc::collections::BTreeSet;

use super::driver::owner_of;
use super::{irp, mdl, routine};
use crate::api::nt_api;
use crate::ex::pool;
use crate::ke::event;
use crate::nt::{
    ControlCode, DEVICE_OBJECT, DO_BUFFERED_IO, DO_DIRECT_IO, FILE_OBJECT, IO_STACK_LOCATION,
    IO_STATUS_BLOCK, IRP, IRP_ASSOCIATED_IRP, IRP_BUFFERED_IO, IRP_DEALLOCATE_BUFFER,
    IRP_INPUT_OPERATION, IRP_MJ_DEVICE_CONTROL, IRP_MJ_INTERNAL_DEVICE_CONTROL, IRP_MJ_READ,
    IRP_MJ_WRITE, IRP_NOCACHE, IRP_PAGING_IO, IRP_READ_OPERATION, IRP_SYNCHRONOUS_API,
    IRP_SYNCHRONOUS_PAGING_IO, IRP_WRITE_OPERATION, KEVENT, Method, NtStatus, SL_INVOKE_ON_CANCEL,
    SL_INVOKE_ON_ERROR, SL_INVOKE_ON_SUCCESS, dispatcher,
};
use crate::raw::{Global, Ptr, from_word, low32, to_word};
use crate::value::{Boolean, ProcessorMode, UChar, ULong};
use crate::{ps, shared};

/// IRPs that the I/O manager frees when they are completed.
static THREADED: Global<BTreeSet<u64>> = Global::new("threaded IRPs", BTreeSet::new());

const TAG: u32 = u32::from_le_bytes(*b"IoSB");

pub(super) fn initialize() {
    THREADED.with(BTreeSet::clear);
}

/// Whether the I/O manager frees that IRP.
pub(super) fn is_threaded(irp: Ptr<IRP>) -> bool {
    THREADED.with(|threaded| threaded.contains(&irp.addr()))
}

/// A buffer's kernel copy; `None` when the pool is exhausted.
fn system_buffer(source: Ptr<u8>, copied: u32, bytes: u32) -> Option<Ptr<u8>> {
    let buffer = pool::allocate(u64::from(bytes), TAG, pool::SHIM).non_null()?;
    buffer.fill(0, u64::from(bytes));
    buffer.copy_from(source, u64::from(copied));
    Some(buffer)
}

/// Hangs an MDL of locked pages into an IRP. False: the pool is exhausted, or part of the buffer is not memory.
fn lock_buffer(irp: Ptr<IRP>, buffer: Ptr<u8>, bytes: u32) -> bool {
    let list = mdl::allocate(buffer.addr(), bytes, pool::SHIM);
    if list.is_null() {
        return false;
    }
    if !mdl::lock(list) {
        mdl::free(list);
        return false;
    }
    irp.with(|irp| irp.MdlAddress = list);
    true
}

/// Frees what an IRP carries: the system buffer, if it is the I/O manager's, and the MDLs.
fn free_buffers(irp: Ptr<IRP>) {
    let IRP {
        Flags: flags,
        SystemBuffer: system,
        ..
    } = irp.read();
    if flags & IRP_DEALLOCATE_BUFFER != 0 && system != 0 {
        pool::free(Ptr::new(from_word(system)), TAG);
    }
    free_mdls(irp);
}

fn free_mdls(irp: Ptr<IRP>) {
    let mut next = irp.read().MdlAddress;
    while !next.is_null() {
        let mdl = next;
        next = mdl.read().Next;
        mdl::free(mdl);
    }
}

/// A threaded IRP has come up its stack. False: it is none.
pub(super) fn finish(irp: Ptr<IRP>) -> bool {
    if !THREADED.with(|threaded| threaded.remove(&irp.addr())) {
        return false;
    }
    let packet = irp.read();
    let status = irp::status_of(irp);
    super::request::trace_done(irp);
    let wanted = IRP_BUFFERED_IO | IRP_INPUT_OPERATION;
    if packet.Flags & wanted == wanted && !status.is_error() && packet.UserBuffer != 0 {
        let bytes = from_word(packet.IoStatus.Information);
        Ptr::<u8>::new(from_word(packet.UserBuffer))
            .copy_from(Ptr::new(from_word(packet.SystemBuffer)), bytes);
    }
    free_buffers(irp);
    // NT tells the caller of an error only by the status that IoCallDriver returned, unless the IRP was pending.
    if !status.is_error() || packet.PendingReturned != 0 {
        if !packet.UserIosb.is_null() {
            packet.UserIosb.write(packet.IoStatus);
        }
        if !packet.UserEvent.is_null() {
            event::KeSetEvent(packet.UserEvent, 0, false);
        }
    }
    irp::free(irp);
    true
}

/// An associated IRP has come up its stack: the last one completes the master.
pub(super) fn finish_associated(irp: Ptr<IRP>) {
    super::request::trace_done(irp);
    let master = Ptr::<IRP>::new(from_word(irp.read().SystemBuffer));
    free_mdls(irp);
    irp::free(irp);
    // AssociatedIrp.IrpCount shares its place with SystemBuffer.
    let count = master
        .add_bytes(core::mem::offset_of!(IRP, SystemBuffer) as u64)
        .cast::<i32>();
    let left = count.read() - 1;
    count.write(left);
    if left == 0 {
        irp::complete(master);
    }
}

/// An IRP for `device` with its first stack location's function set.
fn new_irp(device: Ptr<DEVICE_OBJECT>, major: u8) -> Option<(Ptr<IRP>, Ptr<IO_STACK_LOCATION>)> {
    let irp = irp::allocate(device.read().StackSize, owner_of(shared::caller())).non_null()?;
    let stack = irp.with(|irp| {
        irp.Thread = ps::current_thread().word();
        irp.CurrentStackLocation.offset(-1)
    });
    stack.with(|stack| stack.MajorFunction = major);
    Some((irp, stack))
}

/// The parts of a device control request.
struct Control {
    code: u32,
    input: Ptr<u8>,
    input_bytes: u32,
    output: Ptr<u8>,
    output_bytes: u32,
}

fn fill_control(irp: Ptr<IRP>, stack: Ptr<IO_STACK_LOCATION>, control: &Control) -> Option<()> {
    let Control {
        code,
        input,
        input_bytes,
        output,
        output_bytes,
    } = *control;
    stack.with(|stack| {
        stack.Parameters = [output_bytes, input_bytes, code, 0].map(|word| to_word(word.into()));
    });
    let attach = |buffer: Ptr<u8>, flags: u32| {
        irp.with(|irp| {
            irp.SystemBuffer = buffer.word();
            irp.Flags |= IRP_BUFFERED_IO | IRP_DEALLOCATE_BUFFER | flags;
        });
    };
    match ControlCode::new(code).method {
        Method::Buffered => {
            let bytes = input_bytes.max(output_bytes);
            if bytes != 0 {
                let copied = if input.is_null() { 0 } else { input_bytes };
                let is_input = if output.is_null() {
                    0
                } else {
                    IRP_INPUT_OPERATION
                };
                attach(system_buffer(input, copied, bytes)?, is_input);
                irp.with(|irp| irp.UserBuffer = output.word());
            }
        }
        Method::InDirect | Method::OutDirect => {
            if !input.is_null() && input_bytes != 0 {
                attach(system_buffer(input, input_bytes, input_bytes)?, 0);
            }
            if !output.is_null() && output_bytes != 0 && !lock_buffer(irp, output, output_bytes) {
                return None;
            }
        }
        Method::Neither => {
            irp.with(|irp| irp.UserBuffer = output.word());
            stack.with(|stack| stack.Parameters[3] = input.word());
        }
    }
    Some(())
}

/// A read, write or other request of a file system driver; the parameters as IoBuildAsynchronousFsdRequest takes them.
fn build_fsd(
    major: u8,
    device: Ptr<DEVICE_OBJECT>,
    buffer: Ptr<u8>,
    bytes: u32,
    offset: Ptr<i64>,
    status: Ptr<IO_STATUS_BLOCK>,
) -> Ptr<IRP> {
    let Some((irp, stack)) = new_irp(device, major) else {
        return Ptr::null();
    };
    irp.with(|irp| irp.UserIosb = status);
    if !matches!(major, IRP_MJ_READ | IRP_MJ_WRITE) {
        return irp;
    }
    let is_read = major == IRP_MJ_READ;
    let start = if offset.is_null() {
        0
    } else {
        offset.read().cast_unsigned()
    };
    let words = if cfg!(nt_i386) {
        [u64::from(bytes), 0, start, start >> 32]
    } else {
        [u64::from(bytes), 0, start, 0]
    };
    stack.with(|stack| stack.Parameters = words.map(to_word));
    let operation = if is_read {
        IRP_READ_OPERATION
    } else {
        IRP_WRITE_OPERATION
    };
    irp.with(|irp| irp.Flags |= operation);
    let flags = device.read().Flags;
    let is_made = if flags & DO_BUFFERED_IO != 0 {
        let copied = if is_read { 0 } else { bytes };
        bytes == 0
            || system_buffer(buffer, copied, bytes).is_some_and(|system| {
                irp.with(|irp| {
                    irp.SystemBuffer = system.word();
                    irp.Flags |= IRP_BUFFERED_IO | IRP_DEALLOCATE_BUFFER;
                    if is_read {
                        irp.Flags |= IRP_INPUT_OPERATION;
                        irp.UserBuffer = buffer.word();
                    }
                });
                true
            })
    } else if flags & DO_DIRECT_IO != 0 {
        bytes == 0 || lock_buffer(irp, buffer, bytes)
    } else {
        irp.with(|irp| irp.UserBuffer = buffer.word());
        true
    };
    if is_made {
        irp
    } else {
        free_buffers(irp);
        irp::free(irp);
        Ptr::null()
    }
}

fn make_threaded(irp: Ptr<IRP>, event: Ptr<KEVENT>) {
    irp.with(|irp| {
        irp.UserEvent = event;
        irp.Flags |= IRP_SYNCHRONOUS_API;
    });
    THREADED.with(|threaded| threaded.insert(irp.addr()));
}

/// Reads or writes pages of a cached file: a paging request to the top of its device's stack, waited for. `buffer` is
/// pool; `bytes` and `offset` are multiples of a page. What the driver transferred, in bytes.
pub(crate) fn paging_io(
    file: Ptr<FILE_OBJECT>,
    major: u8,
    buffer: Ptr<u8>,
    bytes: u32,
    offset: u64,
) -> Result<u64, NtStatus> {
    let device = super::volume::related_device(file);
    let (irp, stack) = new_irp(device, major).ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
    if !lock_buffer(irp, buffer, bytes) {
        irp::free(irp);
        return Err(NtStatus::INSUFFICIENT_RESOURCES);
    }
    let words = if cfg!(nt_i386) {
        [u64::from(bytes), 0, offset, offset >> 32]
    } else {
        [u64::from(bytes), 0, offset, 0]
    };
    stack.with(|stack| {
        stack.Parameters = words.map(to_word);
        stack.FileObject = file;
    });
    irp.with(|irp| {
        irp.UserBuffer = buffer.word();
        irp.OriginalFileObject = file;
    });
    let flags = IRP_NOCACHE | IRP_PAGING_IO | IRP_SYNCHRONOUS_PAGING_IO;
    match send_waiting(device, irp, flags) {
        (status, _) if status.is_error() => Err(status),
        (_, information) => Ok(information),
    }
}

/// Sends an IRP of the I/O manager's and waits until it is completed: status and Information.
fn send_waiting(device: Ptr<DEVICE_OBJECT>, irp: Ptr<IRP>, flags: u32) -> (NtStatus, u64) {
    let mut event = KEVENT_UNSET;
    let event = Ptr::of(&mut event);
    event::initialize(event, dispatcher::SYNCHRONIZATION_EVENT, false);
    let mut block = IO_STATUS_BLOCK::default();
    let block = Ptr::of(&mut block);
    irp.with(|irp| irp.UserIosb = block);
    make_threaded(irp, event);
    irp.with(|irp| irp.Flags = flags);
    let mut status = irp::call(device, irp);
    if status == NtStatus::PENDING {
        wait_for(event);
        status = NtStatus(low32(from_word(block.read().Status)));
    }
    (status, from_word(block.read().Information))
}

/// Sends IRP_MJ_FILE_SYSTEM_CONTROL with a minor function of the I/O manager's: status and Information.
pub(super) fn file_system_control(
    device: Ptr<DEVICE_OBJECT>,
    minor: u8,
    stack_flags: u8,
    parameters: [u64; 4],
) -> (NtStatus, u64) {
    let Some((irp, stack)) = new_irp(device, crate::nt::IRP_MJ_FILE_SYSTEM_CONTROL) else {
        return (NtStatus::INSUFFICIENT_RESOURCES, 0);
    };
    stack.with(|stack| {
        stack.MinorFunction = minor;
        stack.Flags = stack_flags;
        stack.Parameters = parameters.map(to_word);
    });
    // IRP_MOUNT_COMPLETION has IRP_PAGING_IO's value.
    send_waiting(device, irp, IRP_PAGING_IO | IRP_SYNCHRONOUS_PAGING_IO)
}

/// The completion routine of IoForwardIrpSynchronously.
pub(super) fn forwarded(event: Ptr<KEVENT>) -> NtStatus {
    event::KeSetEvent(event, 0, false);
    NtStatus::MORE_PROCESSING_REQUIRED
}

/// Waits for ever for an event of the shim's own.
pub(crate) fn wait_for(event: Ptr<KEVENT>) {
    event::KeWaitForSingleObject(event.cast(), 0, ProcessorMode(0), false, Ptr::null());
}

/// Passes an IRP to `device` and waits until the drivers below have completed it. False: it has no stack location left.
pub(super) fn forward(device: Ptr<DEVICE_OBJECT>, irp: Ptr<IRP>) -> bool {
    let IRP {
        CurrentLocation: location,
        CurrentStackLocation: current,
        ..
    } = irp.read();
    if location <= 1 {
        return false;
    }
    let mut event = KEVENT_UNSET;
    let event = Ptr::of(&mut event);
    event::initialize(event, dispatcher::SYNCHRONIZATION_EVENT, false);
    current.offset(-1).write(IO_STACK_LOCATION {
        Control: SL_INVOKE_ON_SUCCESS | SL_INVOKE_ON_ERROR | SL_INVOKE_ON_CANCEL,
        CompletionRoutine: routine::address_of("IopForwardCompletion"),
        Context: event.word(),
        ..current.read()
    });
    if irp::call(device, irp) == NtStatus::PENDING {
        wait_for(event);
    }
    true
}

/// An event's bytes before it is initialized.
pub(crate) const KEVENT_UNSET: KEVENT = KEVENT {
    Header: crate::nt::DISPATCHER_HEADER {
        Type: 0,
        Absolute: 0,
        Size: 0,
        Inserted: 0,
        SignalState: 0,
        WaitListHead: crate::nt::LIST_ENTRY {
            Flink: Ptr::null(),
            Blink: Ptr::null(),
        },
    },
};

nt_api! { module = io_build;
    /// Builds a device control IRP that the I/O manager frees when it is completed; NULL when memory is exhausted or a
    /// direct buffer is not memory. An error that IoCallDriver returns at once is not written to the status block.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn IoBuildDeviceIoControlRequest(
        io_control_code: ULong,
        device: Ptr<DEVICE_OBJECT>,
        input_buffer: Ptr<u8>,
        input_buffer_length: ULong,
        output_buffer: Ptr<u8>,
        output_buffer_length: ULong,
        internal_device_io_control: Boolean,
        event: Ptr<KEVENT>,
        io_status_block: Ptr<IO_STATUS_BLOCK>,
    ) -> Ptr<IRP> {
        let major =
            if internal_device_io_control { IRP_MJ_INTERNAL_DEVICE_CONTROL } else { IRP_MJ_DEVICE_CONTROL };
        let Some((irp, stack)) = new_irp(device, major) else { return Ptr::null() };
        let control = Control {
            code: io_control_code,
            input: input_buffer,
            input_bytes: input_buffer_length,
            output: output_buffer,
            output_bytes: output_buffer_length,
        };
        if fill_control(irp, stack, &control).is_none() {
            free_buffers(irp);
            irp::free(irp);
            return Ptr::null();
        }
        irp.with(|irp| irp.UserIosb = io_status_block);
        make_threaded(irp, event);
        irp
    }

    /// Builds an IRP that the driver itself frees, in its completion routine.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoBuildAsynchronousFsdRequest(
        major_function: ULong,
        device: Ptr<DEVICE_OBJECT>,
        buffer: Ptr<u8>,
        length: ULong,
        starting_offset: Ptr<i64>,
        io_status_block: Ptr<IO_STATUS_BLOCK>,
    ) -> Ptr<IRP> {
        let major = crate::raw::low8(u64::from(major_function));
        build_fsd(major, device, buffer, length, starting_offset, io_status_block)
    }

    /// Builds an IRP that the I/O manager frees when it is completed, and signals the event then.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn IoBuildSynchronousFsdRequest(
        major_function: ULong,
        device: Ptr<DEVICE_OBJECT>,
        buffer: Ptr<u8>,
        length: ULong,
        starting_offset: Ptr<i64>,
        event: Ptr<KEVENT>,
        io_status_block: Ptr<IO_STATUS_BLOCK>,
    ) -> Ptr<IRP> {
        let major = crate::raw::low8(u64::from(major_function));
        let irp = build_fsd(major, device, buffer, length, starting_offset, io_status_block);
        if !irp.is_null() {
            make_threaded(irp, event);
        }
        irp
    }

    /// Makes a driver's own IRP as new, with a status.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoReuseIrp(irp: Ptr<IRP>, status: NtStatus) {
        let IRP { Size: bytes, StackCount: count, AllocationFlags: flags, .. } = irp.read();
        irp::initialize(irp, u64::from(bytes), count);
        irp.with(|irp| {
            irp.AllocationFlags = flags;
            irp.IoStatus.Status = to_word(u64::from(status.0));
        });
    }

    /// Makes an IRP that belongs to a master IRP; when as many as its IrpCount says are completed, so is the master.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoMakeAssociatedIrp(irp: Ptr<IRP>, stack_size: UChar) -> Ptr<IRP> {
        let associated = irp::allocate(stack_size.cast_signed(), owner_of(shared::caller()));
        if !associated.is_null() {
            let thread = irp.read().Thread;
            associated.with(|associated| {
                associated.Flags |= IRP_ASSOCIATED_IRP;
                associated.Thread = thread;
                associated.SystemBuffer = irp.word();
            });
        }
        associated
    }

    /// Passes an IRP to the next lower driver and waits for it; FALSE: the IRP has no stack location left.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn IoForwardIrpSynchronously(device: Ptr<DEVICE_OBJECT>, irp: Ptr<IRP>) -> Boolean {
        forward(device, irp)
    }

    /// Sets the completion routine of the next lower driver's stack location; the device object cannot go away before
    /// the routine has run.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoSetCompletionRoutineEx(
        device: Ptr<DEVICE_OBJECT>,
        irp: Ptr<IRP>,
        completion_routine: Ptr<u8>,
        context: Ptr<u8>,
        invoke_on_success: Boolean,
        invoke_on_error: Boolean,
        invoke_on_cancel: Boolean,
    ) -> NtStatus {
        let next = irp.read().CurrentStackLocation.offset(-1);
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        next.with(|next| {
            next.CompletionRoutine = completion_routine.word();
            next.Context = context.word();
            next.Control = flag(invoke_on_success, SL_INVOKE_ON_SUCCESS)
                | flag(invoke_on_error, SL_INVOKE_ON_ERROR)
                | flag(invoke_on_cancel, SL_INVOKE_ON_CANCEL);
        });
        routine::set_owner(next.addr(), device.addr());
        NtStatus::SUCCESS
    }

    /// The completion routine of IoForwardIrpSynchronously. NT does not export it; it needs an address.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IopForwardCompletion(device: Ptr<DEVICE_OBJECT>, irp: Ptr<IRP>, context: Ptr<KEVENT>) -> NtStatus {
        forwarded(context)
    }

    /// Whether an IRP's operation is synchronous: it is a synchronous API's, or its file was opened for synchronous I/O.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoIsOperationSynchronous(irp: Ptr<IRP>) -> Boolean {
        let IRP { Flags: flags, OriginalFileObject: file, .. } = irp.read();
        // IRP_PAGING_IO without IRP_SYNCHRONOUS_PAGING_IO is asynchronous whatever the file says.
        let is_asynchronous_paging = flags & 0x2 != 0 && flags & 0x40 == 0;
        let is_synchronous_file =
            file.non_null().is_some_and(|file| file.read().Flags & crate::nt::FO_SYNCHRONOUS_IO != 0);
        (is_synchronous_file || flags & (IRP_SYNCHRONOUS_API | 0x40) != 0) && !is_asynchronous_paging
    }
}
