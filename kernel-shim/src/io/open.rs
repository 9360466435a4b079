//! Devices by handle, for drivers: opening, and requests to them.
//!
//! What ZwCreateFile, ZwReadFile and their like do once the name or handle is known to be a device's.

use alloc::string::String;
use alloc::vec::Vec;

use super::buffers::{Buffers, ControlBuffers, Data, Mode};
use super::create_context::CreateContext;
use super::file;
use super::request::{self, Internal, Reply};
use super::volume::related_device;
use crate::ex::pool;
use crate::ke::apc::Completion;
use crate::ke::event;
use crate::nt::{
    ControlCode, DEVICE_OBJECT, FILE_OBJECT, FO_ALERTABLE_IO, FO_SYNCHRONOUS_IO, IO_STATUS_BLOCK,
    IRP_MJ_CLEANUP, IRP_MJ_CREATE, IRP_MJ_DEVICE_CONTROL, IRP_MJ_FILE_SYSTEM_CONTROL, IRP_MJ_READ,
    IRP_MJ_WRITE, KEVENT, NtStatus,
};
use crate::ob::names::MAX_LINKS;
use crate::ob::{self, ObjectType, handles};
use crate::raw::{Ptr, Word, to_word, unicode_text};
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
/// IO_REPARSE: the file object has the new name.
const IO_REPARSE: u64 = 0;
/// IO_REMOUNT: the volume has changed; the name stays.
const IO_REMOUNT: u64 = 1;
/// Where a FILE_OBJECT's name is.
const FILE_NAME: u64 = core::mem::offset_of!(FILE_OBJECT, FileName) as u64;

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
    /// AllocationSize.
    pub allocation: u64,
    /// FILE_FULL_EA_INFORMATION: address and bytes, checked.
    pub ea: (u64, u32),
    /// The caller's ECP_LIST; 0: none.
    pub extra: u64,
    /// DeviceObjectHint; null: none.
    pub hint: Ptr<DEVICE_OBJECT>,
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
            allocation: 0,
            ea: (0, 0),
            extra: 0,
            hint: Ptr::null(),
        }
    }
}

/// What came of IRP_MJ_CREATE.
#[derive(Clone, Copy, Debug)]
struct Created {
    /// With one reference.
    file: Ptr<FILE_OBJECT>,
    /// The driver's.
    information: u64,
    /// Access granted.
    granted: u32,
}

/// What became of an open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Opened<T> {
    /// It was opened.
    As(T),
    /// The driver says that the name stands for another one.
    Reparsed(String),
}

/// Sends IRP_MJ_CREATE.
fn send_create(open: &Open) -> Result<Opened<Created>, NtStatus> {
    let token = if open.is_checked {
        Some(token::get(token::effective()).ok_or(NtStatus::NO_TOKEN)?)
    } else {
        None
    };
    let (opened, granted) = file::create(&open.name, open.access, open.hint, token.as_ref())?;
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
    let options = open.disposition << 24 | open.options & 0x00FF_FFFF;
    let shared_as = u64::from(open.share & 0xFFFF) << 16 | u64::from(open.attributes & 0xFFFF);
    let (ea, ea_bytes) = open.ea;
    let internal = CreateContext::new(granted, options, open.allocation, open.extra)
        .and_then(|create| {
            let bytes = u64::from(ea_bytes);
            let buffers =
                Buffers::buffered(Mode::Kernel, ea, bytes, bytes).inspect_err(|_| create.free())?;
            Ok(Internal {
                file: opened,
                major: IRP_MJ_CREATE,
                parameters: [create.address(), u64::from(options), shared_as, bytes].map(to_word),
                buffers,
                user_buffer: 0,
                create,
            })
        })
        .inspect_err(|_| {
            ob::dereference(opened.addr());
        })?;
    let (status, information) = request::send_internal(related_device(opened), &internal);
    if status == NtStatus::REPARSE {
        let name = unicode_text(opened.add_bytes(FILE_NAME).cast());
        ob::dereference(opened.addr());
        return match information {
            IO_REPARSE => Ok(Opened::Reparsed(name)),
            IO_REMOUNT => Ok(Opened::Reparsed(open.name.clone())),
            _ => Err(NtStatus::IO_REPARSE_TAG_NOT_HANDLED),
        };
    }
    if !status.is_success() {
        ob::dereference(opened.addr());
        return Err(status);
    }
    opened.with(|file| file.Flags |= file::FO_HANDLE_CREATED);
    Ok(Opened::As(Created {
        file: opened,
        information,
        granted,
    }))
}

/// Opens a device without a handle: as NT does for IoGetDeviceObjectPointer, the driver gets IRP_MJ_CREATE and at once
/// IRP_MJ_CLEANUP; IRP_MJ_CLOSE comes with the last reference, which is the caller's.
///
/// # Errors
/// As [`file::create`], and what the driver answers; NAME_TOO_LONG: it is reparsed again and again.
pub fn open_referenced(open: &Open) -> Result<Ptr<FILE_OBJECT>, NtStatus> {
    let mut open = open.clone();
    for _ in 0..MAX_LINKS {
        match send_create(&open)? {
            Opened::As(Created { file: opened, .. }) => {
                let _ = request::send_and_wait(related_device(opened), opened, IRP_MJ_CLEANUP);
                return Ok(opened);
            }
            Opened::Reparsed(name) => open.name = name,
        }
    }
    Err(NtStatus::NAME_TOO_LONG)
}

/// Opens a device; a handle in `process`'s table (System's are kernel handles) and the driver's Information.
///
/// # Errors
/// As [`file::create`], and what the driver answers.
pub fn open_device(open: &Open, process: u32) -> Result<Opened<(u64, u64)>, NtStatus> {
    let created = match send_create(open)? {
        Opened::As(created) => created,
        Opened::Reparsed(name) => return Ok(Opened::Reparsed(name)),
    };
    let handle = handles::insert(process, created.file.addr(), created.granted);
    ob::dereference(created.file.addr());
    Ok(Opened::As((handle, created.information)))
}

/// A UNC name that a redirector is asked about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueryPath<'a> {
    /// `\server\share` and what is behind it.
    pub(crate) name: &'a str,
    /// Access wanted.
    pub(crate) access: u32,
    /// IOCTL_REDIR_QUERY_PATH or _EX.
    pub(crate) code: u32,
}

/// QUERY_PATH_REQUEST, or QUERY_PATH_REQUEST_EX for devices that registered with MUP as such; the name follows.
fn query_path_request(query: &QueryPath<'_>, security: u64, at: u64) -> Vec<u8> {
    const WORD: usize = size_of::<Word>();
    let name: Vec<u8> = query
        .name
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let word = |value: u64| value.to_le_bytes()[..WORD].to_vec();
    let bytes = name.len() as u64;
    let mut request = Vec::new();
    if query.code & 0xFF == 0x8F {
        // PathNameLength, SecurityContext, FilePathName.
        request.extend(word(bytes));
        request.extend(word(security));
    } else {
        // pSecurityContext, EaLength, pEaBuffer, PathName, DomainServiceName, three reserved words.
        let text = at + 10 * WORD as u64;
        let length = bytes & 0xFFFF | (bytes & 0xFFFF) << 16;
        for value in [security, 0, 0, length, text, 0, 0, 0, 0, 0] {
            request.extend(word(value));
        }
    }
    request.extend(name);
    request
}

/// Asks a redirector's device about a name: the bytes of it that it accepts.
///
/// # Errors
/// What it answers, if it does not accept the name; OBJECT_NAME_INVALID: a name too long for a UNICODE_STRING.
pub(crate) fn query_path(
    device: Ptr<DEVICE_OBJECT>,
    query: &QueryPath<'_>,
) -> Result<u32, NtStatus> {
    query_path_of(super::device::top_of(device), Ptr::null(), query)
}

/// As [`query_path`], of the device with a name, which is opened for it.
///
/// # Errors
/// As [`query_path`] and [`file::create`].
pub(crate) fn query_path_by_name(device: &str, query: &QueryPath<'_>) -> Result<u32, NtStatus> {
    let opened = open_referenced(&Open::new(String::from(device)))?;
    let result = query_path_of(related_device(opened), opened, query);
    ob::dereference(opened.addr());
    result
}

fn query_path_of(
    device: Ptr<DEVICE_OBJECT>,
    opened: Ptr<FILE_OBJECT>,
    query: &QueryPath<'_>,
) -> Result<u32, NtStatus> {
    const TAG: [u8; 4] = *b"MuQp";
    if query.name.encode_utf16().count() > 0x7FFE {
        return Err(NtStatus::OBJECT_NAME_INVALID);
    }
    let none = NtStatus::INSUFFICIENT_RESOURCES;
    let room = query_path_request(query, 0, 0).len() as u64;
    let create = CreateContext::new(query.access, 0, 0, 0)?;
    let input = pool::allocate_zeroed(room, TAG);
    let output = pool::allocate_zeroed(4, TAG);
    let result = match (input, output) {
        (Some(input), Some(output)) => {
            input.write_bytes(&query_path_request(query, create.address(), input.addr()));
            let words = [4, room, u64::from(query.code), input.addr()];
            let internal = Internal {
                file: opened,
                major: IRP_MJ_DEVICE_CONTROL,
                parameters: words.map(to_word),
                buffers: Buffers::default(),
                user_buffer: output.addr(),
                create: CreateContext::default(),
            };
            match request::send_internal(device, &internal) {
                (NtStatus::SUCCESS, _) => Ok(output.cast::<u32>().read()),
                (status, _) => Err(status),
            }
        }
        _ => Err(none),
    };
    for block in [input, output].into_iter().flatten() {
        pool::free(block, 0);
    }
    create.free();
    result
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
    let flags = related_device(opened).read().Flags;
    let plain = |major| Internal {
        file: opened,
        major,
        parameters: [0; 4],
        buffers: Buffers::default(),
        user_buffer: 0,
        create: CreateContext::default(),
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
    let (status, information) = request::send_internal(related_device(opened), &internal);
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
