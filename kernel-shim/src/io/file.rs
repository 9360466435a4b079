//! FILE_OBJECTs: opening, and closing in NT's two steps (IRP_MJ_CLEANUP with the last handle, IRP_MJ_CLOSE with the
//! last reference).

use alloc::string::String;
use alloc::vec::Vec;

use super::buffers::Buffers;
use super::request;
use super::volume::{self, Volume, related_device};
use crate::ex::pool;
use crate::fsrtl::mup;
use crate::ke::event;
use crate::nt::{
    DEVICE_OBJECT, DO_DEVICE_INITIALIZING, DO_EXCLUSIVE, FILE_OBJECT, IO_TYPE_FILE, IRP_MJ_CLEANUP,
    IRP_MJ_CLOSE, NtStatus, UNICODE_STRING, dispatcher,
};
use crate::ob::{self, ObjectType, handles};
use crate::raw::{Ptr, low16};
use crate::se::object::check_open;
use crate::se::token::Token;

/// FO_HANDLE_CREATED: IRP_MJ_CREATE succeeded, so there must be an IRP_MJ_CLOSE.
pub const FO_HANDLE_CREATED: u32 = 0x0004_0000;
/// FO_SYNCHRONOUS_IO.
const FO_SYNCHRONOUS_IO: u32 = 0x0000_0002;
/// FILE_READ_DATA.
pub const FILE_READ_DATA: u32 = 1;
/// DELETE.
const DELETE: u32 = 0x0001_0000;
/// FILE_WRITE_DATA.
pub const FILE_WRITE_DATA: u32 = 2;
/// FILE_APPEND_DATA.
pub const FILE_APPEND_DATA: u32 = 4;

/// Generic rights as the file type maps them.
#[must_use]
pub fn map_access(desired: u32) -> u32 {
    const GENERIC: [(u32, u32); 5] = [
        (0x8000_0000, 0x0012_0089),
        (0x4000_0000, 0x0012_0116),
        (0x2000_0000, 0x0012_00A0),
        (0x1000_0000, 0x001F_01FF),
        (0x0200_0000, 0x001F_01FF), // MAXIMUM_ALLOWED
    ];
    GENERIC
        .iter()
        .fold(desired & 0x01FF_FFFF, |access, &(generic, specific)| {
            if desired & generic == 0 {
                access
            } else {
                access | specific
            }
        })
}

/// Finds the device that a name leads to and makes a FILE_OBJECT on it, not yet sent to the driver; and the access that is
/// granted. With a token, the device's descriptor says what that may be; without one, everything is granted.
///
/// # Errors
/// As [`crate::ob::names::resolve`]; NO_SUCH_DEVICE: it is being initialised; ACCESS_DENIED: it is exclusive and open
/// already, its descriptor does not allow it, or a locked volume; BAD_NETWORK_PATH: a UNC name that no provider knows;
/// INVALID_DEVICE_OBJECT_PARAMETER: `hint`, if it is not null, is no device of the stack; what a file system says that is
/// to mount the device.
pub fn create(
    name: &str,
    desired: u32,
    hint: Ptr<DEVICE_OBJECT>,
    token: Option<&Token>,
) -> Result<(Ptr<FILE_OBJECT>, u32), NtStatus> {
    let (found, provider) = mup::resolve(name, map_access(desired))?;
    if ob::type_of(found.body) != Some(ObjectType::Device) {
        return Err(NtStatus::OBJECT_TYPE_MISMATCH);
    }
    let device = Ptr::<DEVICE_OBJECT>::new(found.body);
    let DEVICE_OBJECT {
        Flags: flags,
        ReferenceCount: open,
        ..
    } = device.read();
    if flags & DO_DEVICE_INITIALIZING != 0 || super::device::is_going(device) {
        return Err(NtStatus::NO_SUCH_DEVICE);
    }
    let granted = match token {
        Some(token) => check_open(device, &found.rest, desired, token)?,
        None => map_access(desired),
    };
    if flags & DO_EXCLUSIVE != 0 && open > 0 {
        return Err(NtStatus::ACCESS_DENIED);
    }
    let volume = volume::for_open(device, &found.rest, granted)?;
    let file = make(device, volume, &found.rest, granted).inspect_err(|_| volume.release())?;
    if !hint.is_null() {
        volume::set_hint(file, hint).inspect_err(|_| {
            ob::dereference(file.addr());
        })?;
    }
    mup::opened(file, provider);
    Ok((file, granted))
}

/// Makes a FILE_OBJECT on a device.
fn make(
    device: Ptr<DEVICE_OBJECT>,
    volume: Volume,
    rest: &str,
    desired: u32,
) -> Result<Ptr<FILE_OBJECT>, NtStatus> {
    let rest: Vec<u8> = rest.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let rest_bytes = u16::try_from(rest.len()).map_err(|_| NtStatus::OBJECT_NAME_INVALID)?;
    let bytes = size_of::<FILE_OBJECT>() as u64;
    let body = ob::create(ObjectType::File, bytes, Some(delete))
        .ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
    let file = Ptr::<FILE_OBJECT>::new(body);
    let buffer = if rest.is_empty() {
        None
    } else {
        pool::allocate_copy(&rest, *b"IoNm")
    };
    let access = map_access(desired);
    file.with(|file| {
        file.Type = IO_TYPE_FILE;
        file.Size = low16(bytes).cast_signed();
        file.DeviceObject = device;
        file.Vpb = volume.vpb.word();
        file.ReadAccess = u8::from(access & FILE_READ_DATA != 0);
        file.WriteAccess = u8::from(access & FILE_WRITE_DATA != 0);
        file.DeleteAccess = u8::from(access & DELETE != 0);
        file.Flags = FO_SYNCHRONOUS_IO | volume.flags;
        if let Some(buffer) = buffer {
            file.FileName = UNICODE_STRING {
                Length: rest_bytes,
                MaximumLength: rest_bytes,
                Buffer: buffer.cast(),
            };
        }
    });
    let at = |field: usize| file.add_bytes(field as u64);
    event::initialize(
        at(core::mem::offset_of!(FILE_OBJECT, Lock)).cast(),
        dispatcher::SYNCHRONIZATION_EVENT,
        true,
    );
    event::initialize(
        at(core::mem::offset_of!(FILE_OBJECT, Event)).cast(),
        dispatcher::NOTIFICATION_EVENT,
        false,
    );
    at(core::mem::offset_of!(FILE_OBJECT, IrpList))
        .cast()
        .list_initialize();
    ob::reference(device.addr());
    device.with(|device| device.ReferenceCount += 1);
    Ok(file)
}

/// IRP_MJ_CREATE succeeded: the handle.
#[must_use]
pub(super) fn created(file: Ptr<FILE_OBJECT>, process: u32, desired: u32) -> u64 {
    file.with(|file| file.Flags |= FO_HANDLE_CREATED);
    let handle = handles::insert(process, file.addr(), map_access(desired));
    // The handle holds the reference now.
    ob::dereference(file.addr());
    handle
}

/// A file without a name on `device` (or the device of `file`), for a driver's own use; null when the pool is exhausted.
#[must_use]
pub fn stream(
    file: Ptr<FILE_OBJECT>,
    device: Ptr<DEVICE_OBJECT>,
    with_cleanup: bool,
) -> Ptr<FILE_OBJECT> {
    let device = file
        .non_null()
        .map_or(device, |file| file.read().DeviceObject);
    let Ok(made) = make(device, Volume::default(), "", 0) else {
        return Ptr::null();
    };
    made.with(|made| made.Flags |= FO_HANDLE_CREATED | crate::nt::FO_STREAM_FILE);
    if with_cleanup {
        let _ = request::send_and_wait(related_device(made), made, IRP_MJ_CLEANUP);
    }
    made
}

/// An operation on a file has ended: its event is signalled.
pub(super) fn finished(file: Ptr<FILE_OBJECT>, status: NtStatus) {
    file.with(|file| file.FinalStatus = status.0.cast_signed());
    event::KeSetEvent(event_of(file), 0, false);
}

/// The event that a file's operations signal.
#[must_use]
pub fn event_of(file: Ptr<FILE_OBJECT>) -> Ptr<crate::nt::KEVENT> {
    file.add_bytes(crate::nt::FILE_EVENT_OFFSET).cast()
}

/// The last reference to a FILE_OBJECT is gone.
fn delete(body: u64) {
    let file = Ptr::<FILE_OBJECT>::new(body);
    let FILE_OBJECT {
        DeviceObject: device,
        Flags: flags,
        FileName: name,
        ..
    } = file.read();
    if flags & FO_HANDLE_CREATED != 0 {
        let _ = request::send_and_wait(related_device(file), file, IRP_MJ_CLOSE);
    }
    if !name.Buffer.is_null() {
        pool::free(name.Buffer.cast(), 0);
    }
    volume::release(file);
    mup::forget_file(file);
    crate::fsrtl::oplock_key::forget_file(file);
    device.with(|device| device.ReferenceCount -= 1);
    crate::pnp::file_closed(device);
    super::device::released(device);
    ob::dereference(device.addr());
}

/// Closes a file handle.
#[must_use]
pub fn close_handle(process: u32, handle: u64) -> NtStatus {
    let Some((entry, left)) = handles::remove(process, handle) else {
        return NtStatus::INVALID_HANDLE;
    };
    // The host's files have no driver.
    let is_device = crate::fs::opened(entry.body).is_none();
    if left == 0 && !is_device {
        crate::fs::cleanup(entry.body);
    } else if left == 0 && ob::type_of(entry.body) == Some(ObjectType::File) {
        let file = Ptr::<FILE_OBJECT>::new(entry.body);
        let _ = request::send_and_wait(related_device(file), file, IRP_MJ_CLEANUP);
    }
    ob::dereference(entry.body);
    NtStatus::SUCCESS
}

/// Cancels a process's requests and closes its handles.
pub fn close_all(process: u32) {
    request::cancel_of(process);
    for handle in handles::of_process(process) {
        let _ = close_handle(process, handle);
    }
}

/// The file behind a handle and the access granted to it.
///
/// # Errors
/// INVALID_HANDLE; OBJECT_TYPE_MISMATCH: the handle is not a file's.
pub fn by_handle(process: u32, handle: u64) -> Result<(Ptr<FILE_OBJECT>, u32), NtStatus> {
    let entry = handles::lookup(process, handle).ok_or(NtStatus::INVALID_HANDLE)?;
    if ob::type_of(entry.body) != Some(ObjectType::File) {
        return Err(NtStatus::OBJECT_TYPE_MISMATCH);
    }
    Ok((Ptr::new(entry.body), entry.access))
}

/// A name in client memory, as text.
///
/// # Errors
/// ACCESS_VIOLATION: it is not client memory. OBJECT_NAME_INVALID: too long.
pub fn client_text(address: u64, bytes: u64) -> Result<String, NtStatus> {
    if bytes > 0xFFFE {
        return Err(NtStatus::OBJECT_NAME_INVALID);
    }
    let mut raw = alloc::vec![0; crate::raw::to_usize(bytes)];
    Buffers::alias(address, bytes)?.read_bytes(&mut raw);
    let units: Vec<u16> = raw
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .collect();
    Ok(String::from_utf16_lossy(&units))
}
