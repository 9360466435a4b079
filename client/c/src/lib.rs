//! The C functions that include/ringfence.h declares and documents.
#![expect(
    unsafe_code,
    reason = "C callers hand over pointers; each function's contract is in include/ringfence.h"
)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use ringfence_client::{Completion, Connection, Error, Handle, Notify, Request, Width};

pub mod buffer;

/// STATUS_INVALID_PARAMETER.
const INVALID_PARAMETER: u32 = 0xC000_000D;

/// `ringfence_completion`.
#[derive(Debug)]
#[repr(C)]
pub struct CompletionRecord {
    tag: u64,
    information: u64,
    output: *const c_void,
    output_bytes: usize,
    status: u32,
    reserved: u32,
}

/// `ringfence_callback`.
type Callback = unsafe extern "C" fn(*mut c_void, *const CompletionRecord);

/// A caller's context: an address that only the caller uses.
struct Context(*mut c_void);

// SAFETY: it is handed back to the caller's callback and not used otherwise; ringfence.h says that the callback may run in
// another thread.
unsafe impl Send for Context {}

fn status(result: Result<u32, Error>) -> u32 {
    result.unwrap_or_else(|error| error.status())
}

/// A caller's connection: a call has its own hold on it, so that it may be disconnected while the call waits.
///
/// # Safety
/// `connection` is null or from `ringfence_connect`, and not disconnected.
unsafe fn borrow(connection: *const Connection) -> Result<Arc<Connection>, Error> {
    if connection.is_null() {
        return Err(Error::Status(INVALID_PARAMETER));
    }
    // SAFETY: it came from `Arc::into_raw`, and the caller of this function says that `ringfence_disconnect` has not given
    // it back.
    unsafe { Arc::increment_strong_count(connection) };
    // SAFETY: as above, and this is the count that was added.
    Ok(unsafe { Arc::from_raw(connection) })
}

/// A caller's text.
///
/// # Safety
/// `text` is null or a C string.
unsafe fn text<'a>(text: *const c_char) -> Result<&'a str, Error> {
    if text.is_null() {
        return Err(Error::Status(INVALID_PARAMETER));
    }
    // SAFETY: it is not null; the caller of this function says that it is a C string.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|_| Error::Status(INVALID_PARAMETER))
}

/// A caller's input.
///
/// # Safety
/// `data` is null or has `bytes` bytes that may be read.
unsafe fn input<'a>(data: *const c_void, bytes: u32) -> Result<&'a [u8], Error> {
    let length = usize::try_from(bytes).map_err(|_| Error::Status(INVALID_PARAMETER))?;
    if length == 0 {
        return Ok(&[]);
    }
    if data.is_null() {
        return Err(Error::Status(INVALID_PARAMETER));
    }
    // SAFETY: it is not null; the caller of this function says that it has so many bytes.
    Ok(unsafe { std::slice::from_raw_parts(data.cast(), length) })
}

/// Copies output to a caller's buffer.
///
/// # Safety
/// `target` is null or has room for `bytes` bytes.
unsafe fn copy_out(target: *mut c_void, bytes: u32, output: &[u8]) -> Result<(), Error> {
    let room = usize::try_from(bytes).map_err(|_| Error::Status(INVALID_PARAMETER))?;
    let count = output.len().min(room);
    if count == 0 {
        return Ok(());
    }
    if target.is_null() {
        return Err(Error::Status(INVALID_PARAMETER));
    }
    // SAFETY: it is not null and has room for `count` bytes; `output` is this library's, so the two do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(output.as_ptr(), target.cast(), count) };
    Ok(())
}

/// Writes a result, unless the caller does not want it.
///
/// # Safety
/// `target` is null or has room for a value.
unsafe fn put<T>(target: *mut T, value: T) {
    if !target.is_null() {
        // SAFETY: it is not null; the caller of this function says that there is room.
        unsafe { target.write(value) };
    }
}

fn notify(callback: Callback, context: *mut c_void) -> Notify {
    let context = Context(context);
    Notify::Call(Box::new(move |completion: Completion| {
        // The whole of it moves into the closure, not the pointer alone.
        let context = &context;
        let record = CompletionRecord {
            tag: completion.tag,
            information: completion.information,
            output: completion.output.as_ptr().cast(),
            output_bytes: completion.output.len(),
            status: completion.status,
            reserved: 0,
        };
        // SAFETY: the caller gave a function of this type; the record and its output outlive the call.
        unsafe { callback(context.0, &raw const record) };
    }))
}

fn width(bytes: u32) -> Result<Width, Error> {
    match bytes {
        1 => Ok(Width::Byte),
        2 => Ok(Width::Word),
        4 => Ok(Width::Dword),
        _ => Err(Error::Status(INVALID_PARAMETER)),
    }
}

/// See ringfence.h.
///
/// # Safety
/// `path` is null or a C string, `connection` null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringfence_connect(
    path: *const c_char,
    connection: *mut *mut Connection,
) -> u32 {
    if connection.is_null() {
        return INVALID_PARAMETER;
    }
    // SAFETY: this function's contract.
    let path = unsafe { text(path) };
    match path.and_then(Connection::connect) {
        Ok(connected) => {
            // SAFETY: this function's contract.
            unsafe { put(connection, Arc::into_raw(Arc::new(connected)).cast_mut()) };
            0
        }
        Err(error) => error.status(),
    }
}

/// See ringfence.h.
///
/// # Safety
/// `connection` is null or from `ringfence_connect`, and not disconnected; no call of it begins any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringfence_disconnect(connection: *mut Connection) {
    if !connection.is_null() {
        // SAFETY: it came from `Arc::into_raw`, and this function's contract says that it is given back once. Calls that
        // wait have their own.
        unsafe { Arc::from_raw(connection) }.disconnect();
    }
}

/// See ringfence.h.
///
/// # Safety
/// As for [`borrow`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringfence_process_id(connection: *const Connection) -> u32 {
    // SAFETY: this function's contract.
    unsafe { borrow(connection) }.map_or(0, |connection| connection.process())
}

/// See ringfence.h.
///
/// # Safety
/// As for [`borrow`] and [`text`]; `handle` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringfence_open(
    connection: *mut Connection,
    path: *const c_char,
    access: u32,
    handle: *mut u64,
) -> u32 {
    // SAFETY: this function's contract.
    let connection = unsafe { borrow(connection) };
    // SAFETY: this function's contract.
    let path = unsafe { text(path) };
    if handle.is_null() {
        // Nobody could close it.
        return INVALID_PARAMETER;
    }
    status(connection.and_then(|connection| {
        let opened = connection.open_for(path?, access)?;
        // SAFETY: this function's contract.
        unsafe { put(handle, opened.0) };
        Ok(0)
    }))
}

/// See ringfence.h.
///
/// # Safety
/// As for [`borrow`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringfence_close(connection: *mut Connection, handle: u64) -> u32 {
    // SAFETY: this function's contract.
    let connection = unsafe { borrow(connection) };
    status(connection.and_then(|connection| connection.close(Handle(handle)).map(|()| 0)))
}

/// See ringfence.h.
///
/// # Safety
/// As for [`borrow`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringfence_flush(connection: *mut Connection, handle: u64) -> u32 {
    // SAFETY: this function's contract.
    let connection = unsafe { borrow(connection) };
    status(connection.and_then(|connection| connection.flush(Handle(handle)).map(|()| 0)))
}

/// Makes a request and gives the caller what came of it.
///
/// # Safety
/// As for [`borrow`]; `output` is null or has room for the request's output, `information` null or writable.
unsafe fn transfer(
    connection: *mut Connection,
    request: Result<Request<'_>, Error>,
    output: *mut c_void,
    information: *mut u64,
) -> u32 {
    // SAFETY: this function's contract.
    let connection = unsafe { borrow(connection) };
    status(connection.and_then(|connection| {
        let request = request?;
        if request.output_bytes != 0 && output.is_null() {
            // What the driver gives out would be lost.
            return Err(Error::Status(INVALID_PARAMETER));
        }
        let done = connection.call(&request)?;
        // SAFETY: this function's contract.
        unsafe { copy_out(output, request.output_bytes, &done.output) }?;
        // SAFETY: this function's contract.
        unsafe { put(information, done.information) };
        Ok(done.status)
    }))
}

/// See ringfence.h.
///
/// # Safety
/// As for [`borrow`]; the buffers have the bytes that they are said to have, `information` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringfence_ioctl(
    connection: *mut Connection,
    handle: u64,
    code: u32,
    input_data: *const c_void,
    input_bytes: u32,
    output: *mut c_void,
    output_bytes: u32,
    information: *mut u64,
) -> u32 {
    // SAFETY: this function's contract.
    let data = unsafe { input(input_data, input_bytes) };
    // SAFETY: this function's contract.
    let before = unsafe { input(output, output_bytes) };
    let request = data.and_then(|data| {
        Ok(Request {
            output: before?,
            ..Request::ioctl(handle, code, data, output_bytes)
        })
    });
    // SAFETY: this function's contract.
    unsafe { transfer(connection, request, output, information) }
}

/// See ringfence.h.
///
/// # Safety
/// As for [`ringfence_ioctl`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringfence_read(
    connection: *mut Connection,
    handle: u64,
    offset: u64,
    output: *mut c_void,
    output_bytes: u32,
    information: *mut u64,
) -> u32 {
    let request = Ok(Request::read(handle, output_bytes, offset));
    // SAFETY: this function's contract.
    unsafe { transfer(connection, request, output, information) }
}

/// See ringfence.h.
///
/// # Safety
/// As for [`ringfence_ioctl`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringfence_write(
    connection: *mut Connection,
    handle: u64,
    offset: u64,
    input_data: *const c_void,
    input_bytes: u32,
    information: *mut u64,
) -> u32 {
    // SAFETY: this function's contract.
    let data = unsafe { input(input_data, input_bytes) };
    let request = data.map(|data| Request::write(handle, data, offset));
    // SAFETY: this function's contract.
    unsafe { transfer(connection, request, std::ptr::null_mut(), information) }
}

/// See ringfence.h.
///
/// # Safety
/// As for [`borrow`]; `value` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringfence_port_in(
    connection: *mut Connection,
    port: u16,
    bytes: u32,
    value: *mut u32,
) -> u32 {
    // SAFETY: this function's contract.
    let connection = unsafe { borrow(connection) };
    if value.is_null() {
        // A device may give it out once.
        return INVALID_PARAMETER;
    }
    status(connection.and_then(|connection| {
        let read = connection.port_in(port, width(bytes)?)?;
        // SAFETY: this function's contract.
        unsafe { put(value, read) };
        Ok(0)
    }))
}

/// See ringfence.h.
///
/// # Safety
/// As for [`borrow`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringfence_port_out(
    connection: *mut Connection,
    port: u16,
    bytes: u32,
    value: u32,
) -> u32 {
    // SAFETY: this function's contract.
    let connection = unsafe { borrow(connection) };
    status(connection.and_then(|connection| {
        connection.port_out(port, width(bytes)?, value)?;
        Ok(0)
    }))
}

/// See ringfence.h.
///
/// # Safety
/// As for [`borrow`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringfence_cancel(connection: *mut Connection, tag: u64) -> u32 {
    // SAFETY: this function's contract.
    let connection = unsafe { borrow(connection) };
    status(connection.and_then(|connection| connection.cancel(tag).map(|()| 0)))
}

/// Submits a request with a callback.
///
/// # Safety
/// As for [`borrow`]; `tag` is null or writable.
unsafe fn submit(
    connection: *mut Connection,
    request: Result<Request<'_>, Error>,
    callback: Option<Callback>,
    context: *mut c_void,
    tag: *mut u64,
) -> u32 {
    // SAFETY: this function's contract.
    let connection = unsafe { borrow(connection) };
    status(connection.and_then(|connection| {
        let callback = callback.ok_or(Error::Status(INVALID_PARAMETER))?;
        let given = connection.try_submit(&request?, notify(callback, context))?;
        // SAFETY: this function's contract.
        unsafe { put(tag, given) };
        Ok(0)
    }))
}

/// See ringfence.h.
///
/// # Safety
/// As for [`ringfence_ioctl`]; `tag` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringfence_submit_ioctl(
    connection: *mut Connection,
    handle: u64,
    code: u32,
    input_data: *const c_void,
    input_bytes: u32,
    output_bytes: u32,
    callback: Option<Callback>,
    context: *mut c_void,
    tag: *mut u64,
) -> u32 {
    // SAFETY: this function's contract.
    let data = unsafe { input(input_data, input_bytes) };
    let request = data.map(|data| Request::ioctl(handle, code, data, output_bytes));
    // SAFETY: this function's contract.
    unsafe { submit(connection, request, callback, context, tag) }
}

/// See ringfence.h.
///
/// # Safety
/// As for [`borrow`]; `tag` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringfence_submit_read(
    connection: *mut Connection,
    handle: u64,
    offset: u64,
    output_bytes: u32,
    callback: Option<Callback>,
    context: *mut c_void,
    tag: *mut u64,
) -> u32 {
    let request = Ok(Request::read(handle, output_bytes, offset));
    // SAFETY: this function's contract.
    unsafe { submit(connection, request, callback, context, tag) }
}

/// See ringfence.h.
///
/// # Safety
/// As for [`ringfence_ioctl`]; `tag` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringfence_submit_write(
    connection: *mut Connection,
    handle: u64,
    offset: u64,
    input_data: *const c_void,
    input_bytes: u32,
    callback: Option<Callback>,
    context: *mut c_void,
    tag: *mut u64,
) -> u32 {
    // SAFETY: this function's contract.
    let data = unsafe { input(input_data, input_bytes) };
    let request = data.map(|data| Request::write(handle, data, offset));
    // SAFETY: this function's contract.
    unsafe { submit(connection, request, callback, context, tag) }
}

/// See ringfence.h.
///
/// # Safety
/// As for [`borrow`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringfence_start_thread(connection: *mut Connection) -> u32 {
    // SAFETY: this function's contract.
    let connection = unsafe { borrow(connection) };
    status(connection.and_then(|connection| connection.start_thread().map(|()| 0)))
}

/// See ringfence.h.
///
/// # Safety
/// As for [`borrow`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringfence_fd(connection: *const Connection) -> c_int {
    // SAFETY: this function's contract.
    unsafe { borrow(connection) }.map_or(-1, |connection| connection.as_fd().as_raw_fd())
}

/// See ringfence.h.
///
/// # Safety
/// As for [`borrow`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringfence_process(connection: *mut Connection) -> u32 {
    // SAFETY: this function's contract.
    let connection = unsafe { borrow(connection) };
    status(connection.and_then(|connection| {
        // C programs have callbacks only: there is nothing that is queued.
        while connection.next_completion()?.is_some() {}
        Ok(0)
    }))
}
