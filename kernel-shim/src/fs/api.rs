//! File functions as drivers use them.

use alloc::format;
use alloc::string::String;

use super::directory::{self, Wish as Listing};
use super::{Opened, Wish, call, info, is_volume, metadata, open, opened, transfer};
use crate::api::nt_api;
use crate::io::file::map_access;
use crate::io::open::{DeviceIo, Open, Operation, device_io, open_device};
use crate::ke::event;
use crate::nt::{FILE_OBJECT, IO_STATUS_BLOCK, IRP_MJ_FLUSH_BUFFERS, NtStatus, OBJECT_ATTRIBUTES};
use crate::ob::{self, ObjectType, handles, names};
use crate::raw::{Ptr, Word, from_word, to_word, unicode_text};
use crate::shared;
use crate::value::{Boolean, Handle, ObjectAttributesPtr, ULong, UnicodeStringPtr};
use abi::file::FileCall;

/// OBJ_KERNEL_HANDLE.
const KERNEL_HANDLE: u32 = 0x200;
/// FILE_USE_FILE_POINTER_POSITION and FILE_WRITE_TO_END_OF_FILE as low parts of an offset of -1.
const USE_POSITION: i64 = -2;
const TO_END: i64 = -1;

/// The full name that attributes give.
fn full_name(attributes: &OBJECT_ATTRIBUTES) -> Result<String, NtStatus> {
    if attributes.Length as usize != size_of::<OBJECT_ATTRIBUTES>() {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    let name = unicode_text(attributes.ObjectName);
    let root = from_word(attributes.RootDirectory);
    if root == 0 {
        return if name.starts_with('\\') {
            Ok(name)
        } else {
            Err(NtStatus::OBJECT_PATH_SYNTAX_BAD)
        };
    }
    if name.starts_with('\\') {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    let (_, directory, _) = host_file(root)?;
    let above = crate::cm::hive::text(&super::path_of(directory.id));
    let above = above.trim_end_matches('\\');
    Ok(format!("\\??\\C:{above}\\{name}"))
}

/// The file behind a handle: FILE_OBJECT, what is known of it, access.
fn host_file(handle: u64) -> Result<(Ptr<FILE_OBJECT>, Opened, u32), NtStatus> {
    let entry =
        handles::lookup(shared::current_process(), handle).ok_or(NtStatus::INVALID_HANDLE)?;
    if ob::type_of(entry.body) != Some(ObjectType::File) {
        return Err(NtStatus::OBJECT_TYPE_MISMATCH);
    }
    let known = opened(entry.body).ok_or(NtStatus::INVALID_DEVICE_REQUEST)?;
    Ok((Ptr::new(entry.body), known, entry.access))
}

/// Opens a file, or a device: a handle and IO_STATUS_BLOCK.Information.
fn create(attributes: Ptr<OBJECT_ATTRIBUTES>, wish: Wish) -> Result<(u64, u64), NtStatus> {
    let attributes = attributes.read();
    let name = full_name(&attributes)?;
    let process = if attributes.Attributes & KERNEL_HANDLE == 0 {
        shared::current_process()
    } else {
        handles::SYSTEM
    };
    let found = names::resolve(&name)?;
    if !is_volume(found.body) {
        let device = Open {
            access: wish.access,
            share: wish.share,
            disposition: wish.disposition,
            options: wish.options,
            ..Open::new(name)
        };
        return open_device(&device, process);
    }
    let (file, information) = open(&found.rest, wish)?;
    let handle = handles::insert(process, file.addr(), map_access(wish.access));
    // The handle holds the reference now.
    ob::dereference(file.addr());
    Ok((handle, information))
}

fn create_file(
    handle: Ptr<Word>,
    attributes: Ptr<OBJECT_ATTRIBUTES>,
    block: Ptr<IO_STATUS_BLOCK>,
    wish: Wish,
) -> NtStatus {
    match create(attributes, wish) {
        Ok((made, information)) => {
            handle.write(to_word(made));
            done(block, NtStatus::SUCCESS, information)
        }
        Err(status) => status,
    }
}

/// Fills a status block.
fn done(block: Ptr<IO_STATUS_BLOCK>, status: NtStatus, information: u64) -> NtStatus {
    block.write(IO_STATUS_BLOCK {
        Status: to_word(u64::from(status.0)),
        Information: to_word(information),
    });
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
    is_write: bool,
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
                operation,
            });
        }
        Err(status) => return status,
    };
    if known.is_directory {
        return NtStatus::INVALID_DEVICE_REQUEST;
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
    signal(event);
    done(block, status, count)
}

fn query_information(
    handle: u64,
    block: Ptr<IO_STATUS_BLOCK>,
    buffer: Ptr<u8>,
    length: u32,
    class: u32,
) -> NtStatus {
    match host_file(handle) {
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
) -> NtStatus {
    match host_file(handle) {
        Ok((file, known, _)) => {
            let (status, bytes) = directory::query(file.addr(), &known, wish, buffer, length);
            signal(event);
            done(block, status, bytes)
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

nt_api! { module = fs_api;
    /// ZwCreateFile: opens or makes a file below the --files directory, or opens a device.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("extended attributes; files are not shared exclusively")
    fn ZwCreateFile(
        file_handle: Ptr<Word>, desired_access: ULong, object_attributes: ObjectAttributesPtr,
        io_status_block: Ptr<IO_STATUS_BLOCK>, allocation_size: Ptr<i64>, file_attributes: ULong, share_access: ULong,
        create_disposition: ULong, create_options: ULong, ea_buffer: Ptr<u8>, ea_length: ULong,
    ) -> NtStatus {
        let wish = Wish {
            access: desired_access, share: share_access, disposition: create_disposition, options: create_options,
        };
        create_file(file_handle, object_attributes.0, io_status_block, wish)
    }

    /// NtCreateFile: the kernel's caller is trusted.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("extended attributes; files are not shared exclusively")
    fn NtCreateFile(
        file_handle: Ptr<Word>, desired_access: ULong, object_attributes: ObjectAttributesPtr,
        io_status_block: Ptr<IO_STATUS_BLOCK>, allocation_size: Ptr<i64>, file_attributes: ULong, share_access: ULong,
        create_disposition: ULong, create_options: ULong, ea_buffer: Ptr<u8>, ea_length: ULong,
    ) -> NtStatus {
        let wish = Wish {
            access: desired_access, share: share_access, disposition: create_disposition, options: create_options,
        };
        create_file(file_handle, object_attributes.0, io_status_block, wish)
    }

    /// IoCreateFile: as ZwCreateFile. INVALID_PARAMETER: a pipe or a mailslot.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("extended attributes; files are not shared exclusively")
    fn IoCreateFile(
        file_handle: Ptr<Word>, desired_access: ULong, object_attributes: ObjectAttributesPtr,
        io_status_block: Ptr<IO_STATUS_BLOCK>, allocation_size: Ptr<i64>, file_attributes: ULong, share_access: ULong,
        disposition: ULong, create_options: ULong, ea_buffer: Ptr<u8>, ea_length: ULong, create_file_type: ULong,
        internal_parameters: Ptr<u8>, options: ULong,
    ) -> NtStatus {
        if create_file_type != 0 {
            return NtStatus::INVALID_PARAMETER;
        }
        let wish = Wish { access: desired_access, share: share_access, disposition, options: create_options };
        create_file(file_handle, object_attributes.0, io_status_block, wish)
    }

    /// IoCreateFileEx: as IoCreateFile; the driver context is not looked at.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("extended attributes, extra create parameters, device hints")
    fn IoCreateFileEx(
        file_handle: Ptr<Word>, desired_access: ULong, object_attributes: ObjectAttributesPtr,
        io_status_block: Ptr<IO_STATUS_BLOCK>, allocation_size: Ptr<i64>, file_attributes: ULong, share_access: ULong,
        disposition: ULong, create_options: ULong, ea_buffer: Ptr<u8>, ea_length: ULong, create_file_type: ULong,
        internal_parameters: Ptr<u8>, options: ULong, driver_context: Ptr<u8>,
    ) -> NtStatus {
        if create_file_type != 0 {
            return NtStatus::INVALID_PARAMETER;
        }
        let wish = Wish { access: desired_access, share: share_access, disposition, options: create_options };
        create_file(file_handle, object_attributes.0, io_status_block, wish)
    }

    /// ZwOpenFile.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("files are not shared exclusively")
    fn ZwOpenFile(
        file_handle: Ptr<Word>, desired_access: ULong, object_attributes: ObjectAttributesPtr,
        io_status_block: Ptr<IO_STATUS_BLOCK>, share_access: ULong, open_options: ULong,
    ) -> NtStatus {
        let wish = opening(desired_access, share_access, open_options);
        create_file(file_handle, object_attributes.0, io_status_block, wish)
    }

    /// NtOpenFile: the kernel's caller is trusted.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("files are not shared exclusively")
    fn NtOpenFile(
        file_handle: Ptr<Word>, desired_access: ULong, object_attributes: ObjectAttributesPtr,
        io_status_block: Ptr<IO_STATUS_BLOCK>, share_access: ULong, open_options: ULong,
    ) -> NtStatus {
        let wish = opening(desired_access, share_access, open_options);
        create_file(file_handle, object_attributes.0, io_status_block, wish)
    }

    /// ZwReadFile. END_OF_FILE: there is nothing at the offset.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("APC routines")
    fn ZwReadFile(
        file_handle: Handle, event: Handle, apc_routine: Ptr<u8>, apc_context: Ptr<u8>,
        io_status_block: Ptr<IO_STATUS_BLOCK>, buffer: Ptr<u8>, length: ULong, byte_offset: Ptr<i64>, key: Ptr<u32>,
    ) -> NtStatus {
        read_or_write(file_handle.0, event.0, io_status_block, buffer, length, byte_offset, false)
    }

    /// NtReadFile: the kernel's caller is trusted.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("APC routines")
    fn NtReadFile(
        file_handle: Handle, event: Handle, apc_routine: Ptr<u8>, apc_context: Ptr<u8>,
        io_status_block: Ptr<IO_STATUS_BLOCK>, buffer: Ptr<u8>, length: ULong, byte_offset: Ptr<i64>, key: Ptr<u32>,
    ) -> NtStatus {
        read_or_write(file_handle.0, event.0, io_status_block, buffer, length, byte_offset, false)
    }

    /// ZwWriteFile.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("APC routines")
    fn ZwWriteFile(
        file_handle: Handle, event: Handle, apc_routine: Ptr<u8>, apc_context: Ptr<u8>,
        io_status_block: Ptr<IO_STATUS_BLOCK>, buffer: Ptr<u8>, length: ULong, byte_offset: Ptr<i64>, key: Ptr<u32>,
    ) -> NtStatus {
        read_or_write(file_handle.0, event.0, io_status_block, buffer, length, byte_offset, true)
    }

    /// NtWriteFile: the kernel's caller is trusted.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("APC routines")
    fn NtWriteFile(
        file_handle: Handle, event: Handle, apc_routine: Ptr<u8>, apc_context: Ptr<u8>,
        io_status_block: Ptr<IO_STATUS_BLOCK>, buffer: Ptr<u8>, length: ULong, byte_offset: Ptr<i64>, key: Ptr<u32>,
    ) -> NtStatus {
        read_or_write(file_handle.0, event.0, io_status_block, buffer, length, byte_offset, true)
    }

    /// ZwQueryInformationFile.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("handles of devices; streams, links, extended attributes")
    fn ZwQueryInformationFile(
        file_handle: Handle, io_status_block: Ptr<IO_STATUS_BLOCK>, file_information: Ptr<u8>, length: ULong,
        file_information_class: ULong,
    ) -> NtStatus {
        query_information(file_handle.0, io_status_block, file_information, length, file_information_class)
    }

    /// NtQueryInformationFile: the kernel's caller is trusted.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("handles of devices; streams, links, extended attributes")
    fn NtQueryInformationFile(
        file_handle: Handle, io_status_block: Ptr<IO_STATUS_BLOCK>, file_information: Ptr<u8>, length: ULong,
        file_information_class: ULong,
    ) -> NtStatus {
        query_information(file_handle.0, io_status_block, file_information, length, file_information_class)
    }

    /// ZwSetInformationFile: times, name, deletion, position, size.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("handles of devices; attributes and creation times are not kept")
    fn ZwSetInformationFile(
        file_handle: Handle, io_status_block: Ptr<IO_STATUS_BLOCK>, file_information: Ptr<u8>, length: ULong,
        file_information_class: ULong,
    ) -> NtStatus {
        set_information(file_handle.0, io_status_block, file_information, length, file_information_class)
    }

    /// NtSetInformationFile: the kernel's caller is trusted.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("handles of devices; attributes and creation times are not kept")
    fn NtSetInformationFile(
        file_handle: Handle, io_status_block: Ptr<IO_STATUS_BLOCK>, file_information: Ptr<u8>, length: ULong,
        file_information_class: ULong,
    ) -> NtStatus {
        set_information(file_handle.0, io_status_block, file_information, length, file_information_class)
    }

    /// ZwQueryDirectoryFile: the entries of a directory, without order of case. NO_SUCH_FILE: none matches;
    /// NO_MORE_FILES behind the last.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("APC routines; short names; the DOS wildcards")
    fn ZwQueryDirectoryFile(
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
        query_directory(file_handle.0, event.0, io_status_block, file_information, length, &wish)
    }

    /// NtQueryDirectoryFile: the kernel's caller is trusted.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("APC routines; short names; the DOS wildcards")
    fn NtQueryDirectoryFile(
        file_handle: Handle, event: Handle, apc_routine: Ptr<u8>, apc_context: Ptr<u8>,
        io_status_block: Ptr<IO_STATUS_BLOCK>, file_information: Ptr<u8>, length: ULong,
        file_information_class: ULong, return_single_entry: Boolean, file_name: UnicodeStringPtr,
        restart_scan: Boolean,
    ) -> NtStatus {
        ZwQueryDirectoryFile(
            file_handle, event, apc_routine, apc_context, io_status_block, file_information, length,
            file_information_class, return_single_entry, file_name, restart_scan,
        )
    }

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

    /// ZwQueryVolumeInformationFile.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("handles of devices; quotas, object ids")
    fn ZwQueryVolumeInformationFile(
        file_handle: Handle, io_status_block: Ptr<IO_STATUS_BLOCK>, fs_information: Ptr<u8>, length: ULong,
        fs_information_class: ULong,
    ) -> NtStatus {
        match host_file(file_handle.0) {
            Ok(_) => {
                let (status, bytes) = info::query_volume(fs_information_class, fs_information, length);
                done(io_status_block, status, bytes)
            }
            Err(status) => status,
        }
    }

    /// NtQueryVolumeInformationFile: the kernel's caller is trusted.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("handles of devices; quotas, object ids")
    fn NtQueryVolumeInformationFile(
        file_handle: Handle, io_status_block: Ptr<IO_STATUS_BLOCK>, fs_information: Ptr<u8>, length: ULong,
        fs_information_class: ULong,
    ) -> NtStatus {
        ZwQueryVolumeInformationFile(file_handle, io_status_block, fs_information, length, fs_information_class)
    }
}
