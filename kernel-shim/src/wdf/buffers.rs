//! The buffers of requests.

use super::memory::Memory;
use super::object::{self, Body, Parent};
use super::{Wdf, object_api};
use crate::api::nt_api;
use crate::nt::{
    ControlCode, DO_BUFFERED_IO, DO_DIRECT_IO, IRP_MJ_DEVICE_CONTROL,
    IRP_MJ_INTERNAL_DEVICE_CONTROL, IRP_MJ_READ, IRP_MJ_WRITE, MDL, Method, NtStatus,
};
use crate::raw::{Ptr, Word, from_word, low8, low32, to_word};
use crate::value::{ProcessorMode, Size};

/// Where a request's buffer is.
enum Place {
    System(u64),
    Mdl(Ptr<MDL>),
    User(u64),
}

/// The buffer of a request's input or output, and its bytes.
fn place(handle: u64, is_output: bool) -> Result<(Place, u64), NtStatus> {
    let packet = object::request(handle, |request| request.irp).read();
    let stack = packet.CurrentStackLocation.read();
    let [first, second, third, fourth] = stack.Parameters.map(from_word);
    let system = from_word(packet.SystemBuffer);
    let user = from_word(packet.UserBuffer);
    match stack.MajorFunction {
        IRP_MJ_READ | IRP_MJ_WRITE if (stack.MajorFunction == IRP_MJ_READ) == is_output => {
            let flags = stack.DeviceObject.read().Flags;
            let place = if flags & DO_BUFFERED_IO != 0 {
                Place::System(system)
            } else if flags & DO_DIRECT_IO != 0 {
                Place::Mdl(packet.MdlAddress)
            } else {
                Place::User(user)
            };
            Ok((place, u64::from(low32(first))))
        }
        IRP_MJ_DEVICE_CONTROL | IRP_MJ_INTERNAL_DEVICE_CONTROL => {
            let bytes = u64::from(low32(if is_output { first } else { second }));
            let place = match (ControlCode::new(low32(third)).method, is_output) {
                (Method::Buffered, _) | (Method::InDirect | Method::OutDirect, false) => {
                    Place::System(system)
                }
                (Method::InDirect | Method::OutDirect, true) => Place::Mdl(packet.MdlAddress),
                (Method::Neither, false) => Place::User(fourth),
                (Method::Neither, true) => Place::User(user),
            };
            Ok((place, bytes))
        }
        _ => Err(NtStatus::INVALID_DEVICE_REQUEST),
    }
}

/// The kernel address of a buffer of at least `least` bytes, and its bytes.
fn buffer(handle: u64, is_output: bool, least: u64) -> Result<(u64, u64), NtStatus> {
    let (place, bytes) = place(handle, is_output)?;
    if let Place::User(_) = place {
        return Err(NtStatus::INVALID_DEVICE_REQUEST);
    }
    if bytes == 0 || bytes < least {
        return Err(NtStatus::BUFFER_TOO_SMALL);
    }
    let address = match place {
        Place::System(address) => address,
        Place::Mdl(mdl) if !mdl.is_null() => crate::mm::mdl::map(mdl).addr(),
        _ => 0,
    };
    if address == 0 {
        return Err(NtStatus::INSUFFICIENT_RESOURCES);
    }
    Ok((address, bytes))
}

fn answer(result: Result<(u64, u64), NtStatus>, at: Ptr<Word>, length: Ptr<Word>) -> NtStatus {
    let (address, bytes) = *result.as_ref().unwrap_or(&(0, 0));
    object::required(at, "Buffer");
    at.write(to_word(address));
    if !length.is_null() {
        length.write(to_word(bytes));
    }
    result.err().unwrap_or(NtStatus::SUCCESS)
}

fn unsafe_buffer(handle: u64, is_output: bool, least: u64) -> Result<(u64, u64), NtStatus> {
    match place(handle, is_output)? {
        (Place::User(_), bytes) if bytes == 0 || bytes < least => Err(NtStatus::BUFFER_TOO_SMALL),
        (Place::User(address), bytes) => Ok((address, bytes)),
        _ => Err(NtStatus::INVALID_DEVICE_REQUEST),
    }
}

/// The WDFMEMORY of a request's buffer; made once.
fn memory(handle: u64, is_output: bool) -> Result<u64, NtStatus> {
    let slot = usize::from(is_output);
    let known = object::request(handle, |request| request.memory[slot]);
    if known != 0 {
        return Ok(known);
    }
    let (address, bytes) = buffer(handle, is_output, 0)?;
    let body = Body::Memory(Memory::of_driver(address, bytes));
    let made = object::create(Ptr::null(), Parent::Fixed(handle), body)?;
    object::request(handle, |request| request.memory[slot] = made);
    Ok(made)
}

fn mdl(handle: u64, is_output: bool) -> Result<u64, NtStatus> {
    let (place, bytes) = place(handle, is_output)?;
    if bytes == 0 {
        return Err(NtStatus::BUFFER_TOO_SMALL);
    }
    match place {
        Place::Mdl(mdl) => Ok(mdl.addr()),
        Place::User(_) => Err(NtStatus::INVALID_DEVICE_REQUEST),
        Place::System(address) => {
            let slot = usize::from(is_output);
            let known = object::request(handle, |request| request.mdls[slot]);
            if !known.is_null() {
                return Ok(known.addr());
            }
            let made = crate::io::mdl::allocate(address, low32(bytes), 0);
            if made.is_null() {
                return Err(NtStatus::INSUFFICIENT_RESOURCES);
            }
            crate::mm::mdl::MmBuildMdlForNonPagedPool(made);
            object::request(handle, |request| request.mdls[slot] = made);
            Ok(made.addr())
        }
    }
}

/// Locks a client's buffer in memory and makes the WDFMEMORY of its kernel address, which goes with the request.
fn lock_user(handle: u64, buffer: u64, bytes: u64, is_written: bool) -> Result<u64, NtStatus> {
    let packet = object::request(handle, |request| request.irp).read();
    let Some(bytes) = u32::try_from(bytes).ok().filter(|&bytes| bytes != 0) else {
        return Err(NtStatus::INVALID_USER_BUFFER);
    };
    let mdl = crate::io::mdl::allocate(buffer, bytes, 0);
    if mdl.is_null() {
        return Err(NtStatus::INSUFFICIENT_RESOURCES);
    }
    let mode = ProcessorMode(low8(u64::from(packet.RequestorMode.unsigned_abs())));
    // IoReadAccess, IoWriteAccess.
    let locked = crate::mm::mdl::probe_and_lock(mdl, mode, u32::from(is_written));
    if let Err(status) = locked {
        crate::io::mdl::free(mdl);
        return Err(status);
    }
    let address = crate::mm::mdl::map(mdl).addr();
    let memory = Memory::of_client(address, bytes.into(), mdl);
    let made = object::create(Ptr::null(), Parent::Fixed(handle), Body::Memory(memory));
    if made.is_err() {
        memory.release();
    }
    made
}

nt_api! { module = wdf_buffers;
    /// WdfRequestProbeAndLockUserBufferForRead: locks a client's buffer that the driver reads, in the client's context.
    wdf both stdcall irql(APC_LEVEL) implemented
    fn WdfRequestProbeAndLockUserBufferForRead(
        globals: Wdf,
        handle: Wdf,
        buffer: Ptr<u8>,
        bytes: Size,
        result: Ptr<Word>,
    ) -> NtStatus {
        object::required(buffer, "Buffer");
        object::required(result, "MemoryObject");
        object_api::give(lock_user(handle.0, buffer.addr(), bytes.0, false), result)
    }

    /// WdfRequestProbeAndLockUserBufferForWrite: locks a client's buffer that the driver writes, in the client's context.
    wdf both stdcall irql(APC_LEVEL) implemented
    fn WdfRequestProbeAndLockUserBufferForWrite(
        globals: Wdf,
        handle: Wdf,
        buffer: Ptr<u8>,
        bytes: Size,
        result: Ptr<Word>,
    ) -> NtStatus {
        object::required(buffer, "Buffer");
        object::required(result, "MemoryObject");
        object_api::give(lock_user(handle.0, buffer.addr(), bytes.0, true), result)
    }

    /// WdfRequestRetrieveInputBuffer: of at least `least` bytes; STATUS_BUFFER_TOO_SMALL.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfRequestRetrieveInputBuffer(globals: Wdf, handle: Wdf, least: Size, at: Ptr<Word>, length: Ptr<Word>) -> NtStatus {
        answer(buffer(handle.0, false, least.0), at, length)
    }

    /// WdfRequestRetrieveOutputBuffer: of at least `least` bytes; STATUS_BUFFER_TOO_SMALL.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfRequestRetrieveOutputBuffer(globals: Wdf, handle: Wdf, least: Size, at: Ptr<Word>, length: Ptr<Word>) -> NtStatus {
        answer(buffer(handle.0, true, least.0), at, length)
    }

    /// WdfRequestRetrieveUnsafeUserInputBuffer: the client's address, of METHOD_NEITHER.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfRequestRetrieveUnsafeUserInputBuffer(globals: Wdf, handle: Wdf, least: Size, at: Ptr<Word>, length: Ptr<Word>) -> NtStatus {
        answer(unsafe_buffer(handle.0, false, least.0), at, length)
    }

    /// WdfRequestRetrieveUnsafeUserOutputBuffer: the client's address, of METHOD_NEITHER.
    wdf both stdcall irql(PASSIVE_LEVEL) implemented
    fn WdfRequestRetrieveUnsafeUserOutputBuffer(globals: Wdf, handle: Wdf, least: Size, at: Ptr<Word>, length: Ptr<Word>) -> NtStatus {
        answer(unsafe_buffer(handle.0, true, least.0), at, length)
    }

    /// WdfRequestRetrieveInputMemory: as WDFMEMORY.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfRequestRetrieveInputMemory(globals: Wdf, handle: Wdf, result: Ptr<Word>) -> NtStatus {
        object_api::give(memory(handle.0, false), result)
    }

    /// WdfRequestRetrieveOutputMemory: as WDFMEMORY.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfRequestRetrieveOutputMemory(globals: Wdf, handle: Wdf, result: Ptr<Word>) -> NtStatus {
        object_api::give(memory(handle.0, true), result)
    }

    /// WdfRequestRetrieveInputWdmMdl: as an MDL.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfRequestRetrieveInputWdmMdl(globals: Wdf, handle: Wdf, result: Ptr<Word>) -> NtStatus {
        object_api::give(mdl(handle.0, false), result)
    }

    /// WdfRequestRetrieveOutputWdmMdl: as an MDL.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfRequestRetrieveOutputWdmMdl(globals: Wdf, handle: Wdf, result: Ptr<Word>) -> NtStatus {
        object_api::give(mdl(handle.0, true), result)
    }
}
