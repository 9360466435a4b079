//! Creating and opening files by name: the host's, and devices.

use alloc::format;
use alloc::string::String;

use super::api::{done, host_file};
use super::{Wish, is_volume, open};
use crate::api::nt_api;
use crate::fsrtl::mup;
use crate::io::file::map_access;
use crate::io::open::{Open, Opened, open_device};
use crate::nt::{DEVICE_OBJECT, IO_STATUS_BLOCK, NtStatus, OBJECT_ATTRIBUTES};
use crate::ob::names::MAX_LINKS;
use crate::ob::{self, handles};
use crate::raw::{Ptr, Word, from_word, to_word, unicode_text};
use crate::se::share::IoCheckEaBufferValidity;
use crate::shared;
use crate::value::{ObjectAttributesPtr, ULong};

/// OBJ_KERNEL_HANDLE.
const KERNEL_HANDLE: u32 = 0x200;
/// OBJ_FORCE_ACCESS_CHECK.
const FORCE_ACCESS_CHECK: u32 = 0x400;

/// IO_DRIVER_CREATE_CONTEXT.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct IO_DRIVER_CREATE_CONTEXT {
    /// Bytes.
    pub Size: i16,
    /// ECP_LIST; the caller frees it.
    pub ExtraCreateParameter: Word,
    /// The device of the file's stack that the request is to begin at.
    pub DeviceObjectHint: Ptr<DEVICE_OBJECT>,
    /// TXN_PARAMETER_BLOCK.
    pub TxnParameters: Word,
}

/// What a create asks for beside its [`Wish`].
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Extra {
    /// AllocationSize; null: 0.
    pub(super) allocation: Ptr<i64>,
    /// FILE_ATTRIBUTE_ flags.
    pub(super) attributes: u32,
    /// FILE_FULL_EA_INFORMATION, and its bytes.
    pub(super) ea: (Ptr<u8>, u32),
    /// ECP_LIST.
    pub(super) list: u64,
    /// DeviceObjectHint.
    pub(super) hint: Ptr<DEVICE_OBJECT>,
}

/// The full name that attributes give.
pub(super) fn full_name(attributes: &OBJECT_ATTRIBUTES) -> Result<String, NtStatus> {
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

/// Opens a file, or a device: a handle and IO_STATUS_BLOCK.Information.
fn create(
    attributes: Ptr<OBJECT_ATTRIBUTES>,
    wish: Wish,
    extra: &Extra,
) -> Result<(u64, u64), NtStatus> {
    let attributes = attributes.read();
    let process = if attributes.Attributes & KERNEL_HANDLE == 0 {
        shared::current_process()
    } else {
        handles::SYSTEM
    };
    let mut name = full_name(&attributes)?;
    // A driver may say of a name that it stands for another.
    for _ in 0..MAX_LINKS {
        let (found, _) = mup::resolve(&name, map_access(wish.access))?;
        if is_volume(found.body) {
            return create_on_host(&found.rest, wish, extra, process);
        }
        let allocation = extra.allocation.non_null().map_or(0, Ptr::read);
        let device = Open {
            access: wish.access,
            share: wish.share,
            disposition: wish.disposition,
            options: wish.options,
            attributes: extra.attributes,
            allocation: allocation.cast_unsigned(),
            ea: (extra.ea.0.addr(), extra.ea.1),
            extra: extra.list,
            hint: extra.hint,
            is_checked: attributes.Attributes & FORCE_ACCESS_CHECK != 0,
            ..Open::new(name)
        };
        match open_device(&device, process)? {
            Opened::As(opened) => return Ok(opened),
            Opened::Reparsed(other) => name = other,
        }
    }
    Err(NtStatus::NAME_TOO_LONG)
}

/// Opens a file of the host's, which has no extended attributes and no driver.
fn create_on_host(
    rest: &str,
    wish: Wish,
    extra: &Extra,
    process: u32,
) -> Result<(u64, u64), NtStatus> {
    if extra.ea.1 != 0 {
        return Err(NtStatus::EAS_NOT_SUPPORTED);
    }
    if !extra.hint.is_null() {
        return Err(NtStatus::INVALID_DEVICE_OBJECT_PARAMETER);
    }
    let (file, information) = open(rest, wish)?;
    let handle = handles::insert(process, file.addr(), map_access(wish.access));
    // The handle holds the reference now.
    ob::dereference(file.addr());
    Ok((handle, information))
}

/// ZwCreateFile and its like.
pub(super) fn create_file(
    handle: Ptr<Word>,
    attributes: Ptr<OBJECT_ATTRIBUTES>,
    block: Ptr<IO_STATUS_BLOCK>,
    wish: Wish,
    extra: &Extra,
) -> NtStatus {
    let (ea, ea_bytes) = extra.ea;
    if ea_bytes != 0 {
        if ea.is_null() {
            return NtStatus::INVALID_PARAMETER;
        }
        let mut offset = 0;
        let status = IoCheckEaBufferValidity(ea, ea_bytes, Ptr::of(&mut offset));
        if !status.is_success() {
            return done(block, status, u64::from(offset));
        }
    }
    match create(attributes, wish, extra) {
        Ok((made, information)) => {
            handle.write(to_word(made));
            done(block, NtStatus::SUCCESS, information)
        }
        Err(status) => status,
    }
}

/// What an IO_DRIVER_CREATE_CONTEXT asks for: the list and the device.
fn context_of(
    context: Ptr<IO_DRIVER_CREATE_CONTEXT>,
) -> Result<(u64, Ptr<DEVICE_OBJECT>), NtStatus> {
    let Some(context) = context.non_null() else {
        return Ok((0, Ptr::null()));
    };
    let fields = context.read();
    if usize::try_from(fields.Size).is_ok_and(|size| size < size_of::<IO_DRIVER_CREATE_CONTEXT>())
        || fields.Size < 0
    {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    if fields.TxnParameters != 0 {
        // There is no transaction manager.
        return Err(NtStatus::NOT_SUPPORTED);
    }
    Ok((
        from_word(fields.ExtraCreateParameter),
        fields.DeviceObjectHint,
    ))
}

nt_api! { module = fs_create;
    /// IoCreateFile: as ZwCreateFile. INVALID_PARAMETER: a pipe or a mailslot.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
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
        let extra = Extra {
            allocation: allocation_size,
            attributes: file_attributes,
            ea: (ea_buffer, ea_length),
            ..Extra::default()
        };
        create_file(file_handle, object_attributes.0, io_status_block, wish, &extra)
    }

    /// IoCreateFileEx: as IoCreateFile, with extra create parameters for the drivers of the stack, or beginning below its top.
    /// INVALID_DEVICE_OBJECT_PARAMETER: the device hint is not in the stack. NOT_SUPPORTED: a transaction, which there
    /// is no manager for.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoCreateFileEx(
        file_handle: Ptr<Word>, desired_access: ULong, object_attributes: ObjectAttributesPtr,
        io_status_block: Ptr<IO_STATUS_BLOCK>, allocation_size: Ptr<i64>, file_attributes: ULong, share_access: ULong,
        disposition: ULong, create_options: ULong, ea_buffer: Ptr<u8>, ea_length: ULong, create_file_type: ULong,
        internal_parameters: Ptr<u8>, options: ULong, driver_context: Ptr<IO_DRIVER_CREATE_CONTEXT>,
    ) -> NtStatus {
        if create_file_type != 0 {
            return NtStatus::INVALID_PARAMETER;
        }
        let (list, hint) = match context_of(driver_context) {
            Ok(context) => context,
            Err(status) => return status,
        };
        let wish = Wish { access: desired_access, share: share_access, disposition, options: create_options };
        let extra = Extra {
            allocation: allocation_size,
            attributes: file_attributes,
            ea: (ea_buffer, ea_length),
            list,
            hint,
        };
        create_file(file_handle, object_attributes.0, io_status_block, wish, &extra)
    }
}
