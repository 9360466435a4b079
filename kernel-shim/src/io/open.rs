//! Devices by handle, for drivers: opening, and requests to them.
//!
//! What ZwCreateFile, ZwReadFile and their like do once the name or handle is known to be a device's.

use alloc::string::String;

use super::buffers::{Buffers, ControlBuffers, Data, Mode};
use super::file;
use super::request::{self, Internal, Reply};
use crate::ke::apc::Completion;
use crate::ke::event;
use crate::nt::{
    ControlCode, FILE_OBJECT, FO_ALERTABLE_IO, FO_SYNCHRONOUS_IO, IO_STATUS_BLOCK, IRP_MJ_CLEANUP,
    IRP_MJ_CREATE, IRP_MJ_DEVICE_CONTROL, IRP_MJ_FILE_SYSTEM_CONTROL, IRP_MJ_READ, IRP_MJ_WRITE,
    KEVENT, NtStatus,
};
use crate::ob::{self, ObjectType, handles};
use crate::raw::{Ptr, to_word};
use crate::se::token;
use crate::shared;

/// FILE_SYNCHRONOUS_IO_ALERT.
const SYNCHRONOUS_ALERT: u32 = 0x10;
/// FILE_SYNCHRONOUS_IO_NONALERT.
const SYNCHRONOUS_NONALERT: u32 = 0x20;
/// FILE_SHARE_READ and FILE_SHARE_WRITE.
const SHARE_READ_WRITE: u32 = 3;
/// FILE_OPEN.
const FILE_OPEN: u32 = 1;

/// How a device is to be opened; the numbers are ZwCreateFile's.
#[derive(Clone, Debug)]
pub struct Open {
    /// Full name, with what lies behind the device's own.
    pub name: String,
    /// Access wanted.
    pub access: u32,
    /// FILE_SHARE_ flags.
    pub share: u32,
    /// FILE_OPEN and its like.
    pub disposition: u32,
    /// FILE_ create options.
    pub options: u32,
    /// FILE_ATTRIBUTE_ flags.
    pub attributes: u32,
    /// Whether the device's descriptor is asked although kernel code opens it (OBJ_FORCE_ACCESS_CHECK).
    pub is_checked: bool,
}

impl Open {
    /// Opens `name` for synchronous reading and writing, shared.
    #[must_use]
    pub const fn new(name: String) -> Self {
        Self {
            name,
            access: 0x0010_0003,
            share: SHARE_READ_WRITE,
            disposition: FILE_OPEN,
            options: SYNCHRONOUS_NONALERT,
            attributes: 0,
            is_checked: false,
        }
    }
}

/// What came of IRP_MJ_CREATE.
struct Created {
    /// With one reference.
    file: Ptr<FILE_OBJECT>,
    /// The driver's.
    information: u64,
    /// Access granted.
    granted: u32,
}

/// Sends IRP_MJ_CREATE.
fn send_create(open: &Open) -> Result<Created, NtStatus> {
    let token = if open.is_checked {
        Some(token::get(token::effective()).ok_or(NtStatus::NO_TOKEN)?)
    } else {
        None
    };
    let (opened, granted) = file::create(&open.name, open.access, token.as_ref())?;
    opened.with(|file| {
        file.Flags &= !FO_SYNCHRONOUS_IO;
        if open.options & (SYNCHRONOUS_ALERT | SYNCHRONOUS_NONALERT) != 0 {
            file.Flags |= FO_SYNCHRONOUS_IO;
        }
        if open.options & SYNCHRONOUS_ALERT != 0 {
            file.Flags |= FO_ALERTABLE_IO;
        }
        file.SharedRead = u8::from(open.share & 1 != 0);
        file.SharedWrite = u8::from(open.share & 2 != 0);
        file.SharedDelete = u8::from(open.share & 4 != 0);
    });
    let options = u64::from(open.disposition) << 24 | u64::from(open.options & 0x00FF_FFFF);
    let shared_as = u64::from(open.share & 0xFFFF) << 16 | u64::from(open.attributes & 0xFFFF);
    let internal = Internal {
        file: opened,
        major: IRP_MJ_CREATE,
        parameters: [0, options, shared_as, 0].map(to_word),
        buffers: Buffers::default(),
        user_buffer: 0,
    };
    let (status, information) = request::send_internal(opened.read().DeviceObject, &internal);
    if !status.is_success() {
        ob::dereference(opened.addr());
        return Err(status);
    }
    opened.with(|file| file.Flags |= file::FO_HANDLE_CREATED);
    Ok(Created {
        file: opened,
        information,
        granted,
    })
}

/// Opens a device without a handle: as NT does for IoGetDeviceObjectPointer, the driver gets IRP_MJ_CREATE and at once
/// IRP_MJ_CLEANUP; IRP_MJ_CLOSE comes with the last reference, which is the caller's.
///
/// # Errors
/// As [`file::create`], and what the driver answers.
pub fn open_referenced(open: &Open) -> Result<Ptr<FILE_OBJECT>, NtStatus> {
    let opened = send_create(open)?.file;
    let top = super::device::top_of(opened.read().DeviceObject);
    let _ = request::send_and_wait(top, opened, IRP_MJ_CLEANUP);
    Ok(opened)
}

/// Opens a device; a handle in `process`'s table (System's are kernel handles) and the driver's Information.
///
/// # Errors
/// As [`file::create`], and what the driver answers.
pub fn open_device(open: &Open, process: u32) -> Result<(u64, u64), NtStatus> {
    let created = send_create(open)?;
    let handle = handles::insert(process, created.file.addr(), created.granted);
    ob::dereference(created.file.addr());
    Ok((handle, created.information))
}

/// What to do with an open device.
#[derive(Clone, Copy, Debug)]
pub enum Operation {
    /// IRP_MJ_READ: buffer, bytes, byte offset.
    Read(u64, u32, u64),
    /// IRP_MJ_WRITE: buffer, bytes, byte offset.
    Write(u64, u32, u64),
    /// IRP_MJ_DEVICE_CONTROL: code, input, input bytes, output, output bytes.
    DeviceControl(u32, u64, u32, u64, u32),
    /// IRP_MJ_FILE_SYSTEM_CONTROL: as DeviceControl.
    FileSystemControl(u32, u64, u32, u64, u32),
    /// Any other major function without buffers.
    Plain(u8),
}

/// A driver's request to an open device.
#[derive(Clone, Copy, Debug)]
pub struct DeviceIo {
    /// The handle, in the current process or the kernel's table.
    pub handle: u64,
    /// Event handle to signal at the end; 0: none.
    pub event: u64,
    /// Where status and Information go.
    pub block: Ptr<IO_STATUS_BLOCK>,
    /// APC routine to queue at the end, and its context; null: none.
    pub apc: [Ptr<u8>; 2],
    /// What to do.
    pub operation: Operation,
}

fn prepare(
    opened: Ptr<FILE_OBJECT>,
    access: u32,
    operation: &Operation,
) -> Result<Internal, NtStatus> {
    let flags = opened.read().DeviceObject.read().Flags;
    let plain = |major| Internal {
        file: opened,
        major,
        parameters: [0; 4],
        buffers: Buffers::default(),
        user_buffer: 0,
    };
    let transfer = |is_write: bool, address: u64, bytes: u32, offset: u64| {
        let (major, wanted) = if is_write {
            (IRP_MJ_WRITE, file::FILE_WRITE_DATA)
        } else {
            (IRP_MJ_READ, file::FILE_READ_DATA)
        };
        if access & wanted == 0 {
            return Err(NtStatus::ACCESS_DENIED);
        }
        let bytes = u64::from(bytes);
        Ok(Internal {
            parameters: request::transfer_parameters(bytes, offset),
            buffers: Buffers::of_transfer(Mode::Kernel, flags, is_write, address, bytes)?,
            user_buffer: address,
            ..plain(major)
        })
    };
    let control = |major, code: u32, data: Data| {
        let decoded = ControlCode::new(code);
        let wanted = u32::from(decoded.access);
        if access & wanted != wanted {
            return Err(NtStatus::ACCESS_DENIED);
        }
        let made = ControlBuffers::new(Mode::Kernel, decoded.method, &data)?;
        let words = [
            data.output_bytes,
            data.input_bytes,
            u64::from(code),
            made.type_3,
        ];
        Ok(Internal {
            parameters: words.map(to_word),
            buffers: made.buffers,
            user_buffer: made.user_buffer,
            ..plain(major)
        })
    };
    let data = |input: u64, input_bytes: u32, output: u64, output_bytes: u32| Data {
        input,
        input_bytes: input_bytes.into(),
        output,
        output_bytes: output_bytes.into(),
    };
    match *operation {
        Operation::Read(address, bytes, offset) => transfer(false, address, bytes, offset),
        Operation::Write(address, bytes, offset) => transfer(true, address, bytes, offset),
        Operation::DeviceControl(code, input, in_bytes, output, out_bytes) => control(
            IRP_MJ_DEVICE_CONTROL,
            code,
            data(input, in_bytes, output, out_bytes),
        ),
        Operation::FileSystemControl(code, input, in_bytes, output, out_bytes) => control(
            IRP_MJ_FILE_SYSTEM_CONTROL,
            code,
            data(input, in_bytes, output, out_bytes),
        ),
        Operation::Plain(major) => Ok(plain(major)),
    }
}

/// The event behind a handle, with a reference; null for handle 0.
fn event_by_handle(handle: u64) -> Result<Ptr<KEVENT>, NtStatus> {
    if handle == 0 {
        return Ok(Ptr::null());
    }
    let entry =
        handles::lookup(shared::current_process(), handle).ok_or(NtStatus::INVALID_HANDLE)?;
    if ob::type_of(entry.body) != Some(ObjectType::Event) {
        return Err(NtStatus::OBJECT_TYPE_MISMATCH);
    }
    ob::reference(entry.body);
    Ok(Ptr::new(entry.body))
}

/// Sends a request to an open device. On a file opened for synchronous I/O it waits until the request is completed;
/// otherwise the answer may be STATUS_PENDING, and the status block is written and the event signalled later.
///
/// # Errors
/// INVALID_HANDLE, OBJECT_TYPE_MISMATCH, ACCESS_DENIED, or what is wrong with the buffers; an error that the driver
/// answers is the result as well.
pub fn device_io(io: &DeviceIo) -> NtStatus {
    let sent = (|| {
        let (opened, access) = file::by_handle(shared::current_process(), io.handle)?;
        let signalled = event_by_handle(io.event)?;
        let internal = prepare(opened, access, &io.operation).inspect_err(|_| {
            if !signalled.is_null() {
                ob::dereference(signalled.addr());
            }
        })?;
        Ok::<_, NtStatus>((opened, signalled, internal))
    })();
    let (opened, signalled, internal) = match sent {
        Ok(sent) => sent,
        Err(status) => return status,
    };
    event::KeClearEvent(file::event_of(opened));
    if !signalled.is_null() {
        event::KeClearEvent(signalled);
    }
    let apc = Completion::new(io.apc[0], io.apc[1]);
    if opened.read().Flags & FO_SYNCHRONOUS_IO == 0 {
        let reply = Reply {
            block: io.block,
            event: signalled,
            apc,
        };
        return request::send_for_driver(&internal, reply);
    }
    ob::reference(opened.addr());
    let (status, information) = request::send_internal(opened.read().DeviceObject, &internal);
    if !io.block.is_null() {
        io.block.write(IO_STATUS_BLOCK {
            Status: to_word(u64::from(status.0)),
            Information: to_word(information),
        });
    }
    file::finished(opened, status);
    if !signalled.is_null() {
        event::KeSetEvent(signalled, 0, false);
        ob::dereference(signalled.addr());
    }
    match apc {
        Some(apc) if status.is_error() => apc.forget(),
        Some(apc) => apc.queue(io.block),
        None => {}
    }
    ob::dereference(opened.addr());
    status
}
