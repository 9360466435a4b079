//! File functions as drivers use them.

use super::create::{Extra, create_file, full_name};
use super::directory::{self, Wish as Listing};
use super::lock::{self, Owner, Wanted};
use super::{Opened, Wish, call, info, is_volume, metadata, open, opened, transfer};
use crate::api::nt_api;
use crate::io::file::event_of;
use crate::io::open::{DeviceIo, Operation, device_io};
use crate::ke::apc::Completion;
use crate::ke::event;
use crate::nt::{FILE_OBJECT, IO_STATUS_BLOCK, IRP_MJ_FLUSH_BUFFERS, NtStatus, OBJECT_ATTRIBUTES};
use crate::ob::{self, ObjectType, handles, names};
use crate::raw::{Ptr, Word, to_word, unicode_text};
use crate::shared;
use crate::value::{Boolean, Handle, ObjectAttributesPtr, ULong, UnicodeStringPtr};
use abi::file::FileCall;

/// FILE_USE_FILE_POINTER_POSITION and FILE_WRITE_TO_END_OF_FILE as low parts of an offset of -1.
const USE_POSITION: i64 = -2;
const TO_END: i64 = -1;

/// The file behind a handle: FILE_OBJECT, what is known of it, access.
pub(super) fn host_file(handle: u64) -> Result<(Ptr<FILE_OBJECT>, Opened, u32), NtStatus> {
    let entry =
        handles::lookup(shared::current_process(), handle).ok_or(NtStatus::INVALID_HANDLE)?;
    if ob::type_of(entry.body) != Some(ObjectType::File) {
        return Err(NtStatus::OBJECT_TYPE_MISMATCH);
    }
    let known = opened(entry.body).ok_or(NtStatus::INVALID_DEVICE_REQUEST)?;
    Ok((Ptr::new(entry.body), known, entry.access))
}

/// Fills a status block.
pub(super) fn done(block: Ptr<IO_STATUS_BLOCK>, status: NtStatus, information: u64) -> NtStatus {
    block.write(IO_STATUS_BLOCK {
        Status: to_word(u64::from(status.0)),
        Information: to_word(information),
    });
    status
}

/// Ends an operation on a host's file: status block, events, APC routine.
pub(super) fn finish(
    file: Ptr<FILE_OBJECT>,
    event: u64,
    block: Ptr<IO_STATUS_BLOCK>,
    [routine, context]: [Ptr<u8>; 2],
    status: NtStatus,
    information: u64,
) -> NtStatus {
    done(block, status, information);
    event::set_state(event_of(file), 1);
    signal(event);
    if let Some(apc) = Completion::new(routine, context).filter(|_| !status.is_error()) {
        apc.queue(block);
    }
    status
}

/// Sets the event of an operation that is over.
fn signal(handle: u64) {
    if handle == 0 {
        return;
    }
    let entry = handles::lookup(shared::current_process(), handle);
    if let Some(entry) = entry.filter(|entry| ob::type_of(entry.body) == Some(ObjectType::Event)) {
        event::set_state(Ptr::new(entry.body), 1);
    }
}

fn read_or_write(
    handle: u64,
    event: u64,
    block: Ptr<IO_STATUS_BLOCK>,
    buffer: Ptr<u8>,
    length: u32,
    offset: Ptr<i64>,
    key: Ptr<u32>,
    is_write: bool,
    apc: [Ptr<u8>; 2],
) -> NtStatus {
    let (file, known, access) = match host_file(handle) {
        Ok(found) => found,
        // Neither a host file nor a bad handle: a device's.
        Err(NtStatus::INVALID_DEVICE_REQUEST) => {
            let at = offset
                .non_null()
                .map_or(0, |offset| offset.read().cast_unsigned());
            let operation = if is_write {
                Operation::Write(buffer.addr(), length, at)
            } else {
                Operation::Read(buffer.addr(), length, at)
            };
            return device_io(&DeviceIo {
                handle,
                event,
                block,
                apc,
                operation,
            });
        }
        Err(status) => return status,
    };
    if known.is_directory {
        return NtStatus::INVALID_DEVICE_REQUEST;
    }
    let rights = if is_write { 6 } else { 1 };
    if access & rights == 0 {
        return NtStatus::ACCESS_DENIED;
    }
    let is_synchronous = known.options & 0x30 != 0;
    let given = offset.non_null().map(Ptr::read);
    let at = match given {
        // Only appending is allowed without the right to write.
        _ if is_write && access & 6 == 4 => TO_END,
        Some(TO_END) if is_write => TO_END,
        Some(USE_POSITION) | None if is_synchronous => file.read().CurrentByteOffset,
        Some(at) if at >= 0 => at,
        _ => return NtStatus::INVALID_PARAMETER,
    };
    let wanted = Wanted {
        start: at.cast_unsigned(),
        bytes: u64::from(length),
        is_write,
        owner: Owner::new(file, key.non_null().map_or(0, Ptr::read)),
    };
    if let Err(status) = lock::check_transfer(known.id, &wanted) {
        return status;
    }
    let result = transfer(
        known.id,
        buffer,
        u64::from(length),
        at.cast_unsigned(),
        is_write,
    );
    let (status, count) = match result {
        Ok(count) => (NtStatus::SUCCESS, count),
        Err(status) => (status, 0),
    };
    if is_synchronous && status.is_success() {
        let behind = if at == TO_END {
            metadata(known.id).map_or(0, |metadata| metadata.bytes.cast_signed())
        } else {
            at.saturating_add(count.cast_signed())
        };
        file.with(|file| file.CurrentByteOffset = behind);
    }
    finish(file, event, block, apc, status, count)
}

fn query_information(
    handle: u64,
    block: Ptr<IO_STATUS_BLOCK>,
    buffer: Ptr<u8>,
    length: u32,
    class: u32,
) -> NtStatus {
    match host_file(handle) {
        Ok((_, _, access)) if access & info::query_access(class) != info::query_access(class) => {
            NtStatus::ACCESS_DENIED
        }
        Ok((file, known, access)) => {
            let (status, bytes) = info::query(file, &known, access, class, buffer, length);
            done(block, status, bytes)
        }
        Err(status) => status,
    }
}

fn set_information(
    handle: u64,
    block: Ptr<IO_STATUS_BLOCK>,
    buffer: Ptr<u8>,
    length: u32,
    class: u32,
) -> NtStatus {
    match host_file(handle) {
        Ok((_, _, access)) if access & info::set_access(class) != info::set_access(class) => {
            NtStatus::ACCESS_DENIED
        }
        Ok((file, known, _)) => {
            let status = info::set(file, &known, class, buffer, length)
                .err()
                .unwrap_or(NtStatus::SUCCESS);
            done(block, status, 0)
        }
        Err(status) => status,
    }
}

fn query_directory(
    handle: u64,
    event: u64,
    block: Ptr<IO_STATUS_BLOCK>,
    buffer: Ptr<u8>,
    length: u32,
    wish: &Listing,
    apc: [Ptr<u8>; 2],
) -> NtStatus {
    match host_file(handle) {
        Ok((_, _, access)) if access & 1 == 0 => NtStatus::ACCESS_DENIED,
        Ok((file, known, _)) => {
            let (status, bytes) = directory::query(file.addr(), &known, wish, buffer, length);
            finish(file, event, block, apc, status, bytes)
        }
        Err(status) => status,
    }
}

/// What ZwOpenFile's options and share access mean.
fn opening(access: u32, share: u32, options: u32) -> Wish {
    Wish {
        access,
        share,
        disposition: 1,
        options,
    }
}

/// Opens a file for its attributes alone.
fn with_file<R>(
    attributes: Ptr<OBJECT_ATTRIBUTES>,
    access: u32,
    options: u32,
    work: impl FnOnce(&Opened) -> Result<R, NtStatus>,
) -> Result<R, NtStatus> {
    let found = names::resolve(&full_name(&attributes.read())?)?;
    if !is_volume(found.body) {
        return Err(NtStatus::INVALID_DEVICE_REQUEST);
    }
    let (file, _) = open(&found.rest, opening(access, 7, options))?;
    let result = opened(file.addr())
        .ok_or(NtStatus::INVALID_HANDLE)
        .and_then(|known| work(&known));
    ob::dereference(file.addr());
    result
}

macro_rules! file_functions {
    (
        $module:ident; create $($create:ident)*; open $($open:ident)*; transfer $($transfer:ident $is_write:literal)*;
        query $($query:ident)*; set $($set:ident)*; list $($list:ident)*; volume $($volume:ident)*; $($rest:tt)*
    ) => {
        nt_api! { module = $module;
            $(
                /// Opens or makes a file below the --files directory, or opens a device.
                /// EA_LIST_INCONSISTENT: malformed extended attributes; Information says where.
                ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
                fn $create(
                    file_handle: Ptr<Word>, desired_access: ULong, object_attributes: ObjectAttributesPtr,
                    io_status_block: Ptr<IO_STATUS_BLOCK>, allocation_size: Ptr<i64>, file_attributes: ULong,
                    share_access: ULong, create_disposition: ULong, create_options: ULong, ea_buffer: Ptr<u8>,
                    ea_length: ULong,
                ) -> NtStatus {
                    let wish = Wish {
                        access: desired_access,
                        share: share_access,
                        disposition: create_disposition,
                        options: create_options,
                    };
                    let extra = Extra {
                        allocation: allocation_size,
                        attributes: file_attributes,
                        ea: (ea_buffer, ea_length),
                        ..Extra::default()
                    };
                    create_file(file_handle, object_attributes.0, io_status_block, wish, &extra)
                }
            )*
            $(
                /// Opens a file below the --files directory, or a device.
                ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
                fn $open(
                    file_handle: Ptr<Word>, desired_access: ULong, object_attributes: ObjectAttributesPtr,
                    io_status_block: Ptr<IO_STATUS_BLOCK>, share_access: ULong, open_options: ULong,
                ) -> NtStatus {
                    let wish = opening(desired_access, share_access, open_options);
                    create_file(file_handle, object_attributes.0, io_status_block, wish, &Extra::default())
                }
            )*
            $(
                /// Reads or writes an open file or device. END_OF_FILE: there is nothing to be read at the offset.
                /// FILE_LOCK_CONFLICT: another has locked the range.
                ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
                fn $transfer(
                    file_handle: Handle, event: Handle, apc_routine: Ptr<u8>, apc_context: Ptr<u8>,
                    io_status_block: Ptr<IO_STATUS_BLOCK>, buffer: Ptr<u8>, length: ULong, byte_offset: Ptr<i64>,
                    key: Ptr<u32>,
                ) -> NtStatus {
                    read_or_write(
                        file_handle.0, event.0, io_status_block, buffer, length, byte_offset, key, $is_write,
                        [apc_routine, apc_context],
                    )
                }
            )*
            $(
                /// Tells about an open file. ACCESS_DENIED: the handle does not grant what the class takes.
                ntoskrnl both stdcall irql(PASSIVE_LEVEL)
                partial("handles of devices; links, extended attributes")
                fn $query(
                    file_handle: Handle, io_status_block: Ptr<IO_STATUS_BLOCK>, file_information: Ptr<u8>,
                    length: ULong, file_information_class: ULong,
                ) -> NtStatus {
                    query_information(
                        file_handle.0, io_status_block, file_information, length, file_information_class,
                    )
                }
            )*
            $(
                /// Sets times, name, deletion, position or size of an open file. ACCESS_DENIED: the handle does not grant
                /// what the class takes.
                ntoskrnl both stdcall irql(PASSIVE_LEVEL)
                partial("handles of devices; attributes and creation times are not kept")
                fn $set(
                    file_handle: Handle, io_status_block: Ptr<IO_STATUS_BLOCK>, file_information: Ptr<u8>,
                    length: ULong, file_information_class: ULong,
                ) -> NtStatus {
                    set_information(file_handle.0, io_status_block, file_information, length, file_information_class)
                }
            )*
            $(
                /// The entries of a directory, without order of case. NO_SUCH_FILE: none matches; NO_MORE_FILES behind the
                /// last.
                ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("short names; the DOS wildcards")
                fn $list(
                    file_handle: Handle, event: Handle, apc_routine: Ptr<u8>, apc_context: Ptr<u8>,
                    io_status_block: Ptr<IO_STATUS_BLOCK>, file_information: Ptr<u8>, length: ULong,
                    file_information_class: ULong, return_single_entry: Boolean, file_name: UnicodeStringPtr,
                    restart_scan: Boolean,
                ) -> NtStatus {
                    let wish = Listing {
                        class: file_information_class,
                        is_single: return_single_entry,
                        pattern: unicode_text(file_name.0),
                        restart: restart_scan,
                    };
                    let apc = [apc_routine, apc_context];
                    query_directory(file_handle.0, event.0, io_status_block, file_information, length, &wish, apc)
                }
            )*
            $(
                /// Tells about the volume of an open file.
                ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("handles of devices; quotas, object ids")
                fn $volume(
                    file_handle: Handle, io_status_block: Ptr<IO_STATUS_BLOCK>, fs_information: Ptr<u8>,
                    length: ULong, fs_information_class: ULong,
                ) -> NtStatus {
                    match host_file(file_handle.0) {
                        Ok(_) => {
                            let (status, bytes) = info::query_volume(fs_information_class, fs_information, length);
                            done(io_status_block, status, bytes)
                        }
                        Err(status) => status,
                    }
                }
            )*
            $($rest)*
        }
    };
}

file_functions! { fs_api;
    create ZwCreateFile NtCreateFile;
    open ZwOpenFile NtOpenFile;
    transfer ZwReadFile false NtReadFile false ZwWriteFile true NtWriteFile true;
    query ZwQueryInformationFile NtQueryInformationFile;
    set ZwSetInformationFile NtSetInformationFile;
    list ZwQueryDirectoryFile NtQueryDirectoryFile;
    volume ZwQueryVolumeInformationFile NtQueryVolumeInformationFile;
    /// ZwDeleteFile: deletes a file by name.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwDeleteFile(object_attributes: ObjectAttributesPtr) -> NtStatus {
        let deleted = with_file(object_attributes.0, 0x0001_0000, 0, |known| {
            call(FileCall::SetDelete, known.id, Ptr::null(), 0, 1, 0).map(|_| ())
        });
        deleted.err().unwrap_or(NtStatus::SUCCESS)
    }

    /// ZwFlushBuffersFile: what was written is on the host's disk.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwFlushBuffersFile(file_handle: Handle, io_status_block: Ptr<IO_STATUS_BLOCK>) -> NtStatus {
        match host_file(file_handle.0) {
            Ok((_, known, _)) => {
                let flushed = call(FileCall::Flush, known.id, Ptr::null(), 0, 0, 0);
                done(io_status_block, flushed.err().unwrap_or(NtStatus::SUCCESS), 0)
            }
            Err(NtStatus::INVALID_DEVICE_REQUEST) => device_io(&DeviceIo {
                handle: file_handle.0,
                event: 0,
                block: io_status_block,
                apc: [Ptr::null(); 2],
                operation: Operation::Plain(IRP_MJ_FLUSH_BUFFERS),
            }),
            Err(status) => status,
        }
    }

    /// ZwQueryFullAttributesFile: times, sizes and attributes by name.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwQueryFullAttributesFile(object_attributes: ObjectAttributesPtr, file_information: Ptr<u8>) -> NtStatus {
        match with_file(object_attributes.0, 0x80, 0, |known| metadata(known.id)) {
            Ok(metadata) => {
                file_information.write_bytes(&info::network_open(&metadata));
                NtStatus::SUCCESS
            }
            Err(status) => status,
        }
    }
}
