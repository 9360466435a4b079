//! Buffers that driver and program share.

use std::ffi::c_void;

use ringfence_client::{Buffer, Connection, Error, Part, Request};

use super::{Callback, INVALID_PARAMETER, borrow, input, put, status, submit, transfer};

/// A part of a caller's buffer.
///
/// # Safety
/// `buffer` is null or from `ringfence_buffer_create`, and not freed.
unsafe fn part(buffer: *const Buffer, offset: u64, bytes: u32) -> Result<Part, Error> {
    // SAFETY: the caller of this function says so.
    let buffer = unsafe { buffer.as_ref() }.ok_or(Error::Status(INVALID_PARAMETER))?;
    buffer
        .part(offset, bytes)
        .map_err(|_| Error::Status(INVALID_PARAMETER))
}

/// See ringfence.h.
///
/// # Safety
/// As for [`borrow`]; `buffer` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringfence_buffer_create(
    connection: *mut Connection,
    bytes: u32,
    buffer: *mut *mut Buffer,
) -> u32 {
    if buffer.is_null() {
        return INVALID_PARAMETER;
    }
    // SAFETY: this function's contract.
    let connection = unsafe { borrow(connection) };
    status(connection.and_then(|connection| {
        let made = Box::into_raw(Box::new(connection.buffer(bytes)?));
        // SAFETY: this function's contract.
        unsafe { put(buffer, made) };
        Ok(0)
    }))
}

/// See ringfence.h.
///
/// # Safety
/// `buffer` is null or from `ringfence_buffer_create`, and nobody uses it any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringfence_buffer_free(buffer: *mut Buffer) {
    if !buffer.is_null() {
        // SAFETY: it came from `Box::into_raw`, and this function's contract says that it is not used any more.
        drop(unsafe { Box::from_raw(buffer) });
    }
}

/// See ringfence.h.
///
/// # Safety
/// `buffer` is null or from `ringfence_buffer_create`, and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringfence_buffer_address(buffer: *const Buffer) -> *mut c_void {
    // SAFETY: this function's contract.
    unsafe { buffer.as_ref() }.map_or(std::ptr::null_mut(), |buffer| buffer.pointer().cast())
}

/// See ringfence.h.
///
/// # Safety
/// As for [`borrow`] and [`part`]; `input_data` has `input_bytes` bytes, `information` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringfence_ioctl_buffer(
    connection: *mut Connection,
    handle: u64,
    code: u32,
    input_data: *const c_void,
    input_bytes: u32,
    buffer: *const Buffer,
    buffer_offset: u64,
    output_bytes: u32,
    information: *mut u64,
) -> u32 {
    // SAFETY: this function's contract.
    let data = unsafe { input(input_data, input_bytes) };
    // SAFETY: this function's contract.
    let part = unsafe { part(buffer, buffer_offset, output_bytes) };
    let request = data.and_then(|data| Ok(Request::ioctl_to(handle, code, data, part?)));
    // SAFETY: this function's contract.
    unsafe { transfer(connection, request, std::ptr::null_mut(), information) }
}

/// See ringfence.h.
///
/// # Safety
/// As for [`borrow`] and [`part`]; `information` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringfence_read_buffer(
    connection: *mut Connection,
    handle: u64,
    offset: u64,
    buffer: *const Buffer,
    buffer_offset: u64,
    bytes: u32,
    information: *mut u64,
) -> u32 {
    // SAFETY: this function's contract.
    let part = unsafe { part(buffer, buffer_offset, bytes) };
    let request = part.map(|part| Request::read_to(handle, part, offset));
    // SAFETY: this function's contract.
    unsafe { transfer(connection, request, std::ptr::null_mut(), information) }
}

/// See ringfence.h.
///
/// # Safety
/// As for [`ringfence_read_buffer`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringfence_write_buffer(
    connection: *mut Connection,
    handle: u64,
    offset: u64,
    buffer: *const Buffer,
    buffer_offset: u64,
    bytes: u32,
    information: *mut u64,
) -> u32 {
    // SAFETY: this function's contract.
    let part = unsafe { part(buffer, buffer_offset, bytes) };
    let request = part.map(|part| Request::write_from(handle, part, offset));
    // SAFETY: this function's contract.
    unsafe { transfer(connection, request, std::ptr::null_mut(), information) }
}

/// See ringfence.h.
///
/// # Safety
/// As for [`borrow`] and [`part`]; `tag` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringfence_submit_read_buffer(
    connection: *mut Connection,
    handle: u64,
    offset: u64,
    buffer: *const Buffer,
    buffer_offset: u64,
    bytes: u32,
    callback: Option<Callback>,
    context: *mut c_void,
    tag: *mut u64,
) -> u32 {
    // SAFETY: this function's contract.
    let part = unsafe { part(buffer, buffer_offset, bytes) };
    let request = part.map(|part| Request::read_to(handle, part, offset));
    // SAFETY: this function's contract.
    unsafe { submit(connection, request, callback, context, tag) }
}

/// See ringfence.h.
///
/// # Safety
/// As for [`ringfence_submit_read_buffer`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringfence_submit_write_buffer(
    connection: *mut Connection,
    handle: u64,
    offset: u64,
    buffer: *const Buffer,
    buffer_offset: u64,
    bytes: u32,
    callback: Option<Callback>,
    context: *mut c_void,
    tag: *mut u64,
) -> u32 {
    // SAFETY: this function's contract.
    let part = unsafe { part(buffer, buffer_offset, bytes) };
    let request = part.map(|part| Request::write_from(handle, part, offset));
    // SAFETY: this function's contract.
    unsafe { submit(connection, request, callback, context, tag) }
}
