//! A client's requests as IRPs, and what comes back of them.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::device::top_of;
use super::{cancel, file, irp, mdl};
use crate::ex::pool;
use crate::ke::event;
use crate::nt::bugcheck::{IRQL_GT_ZERO_AT_SYSTEM_SERVICE, bugcheck_with_text};
use crate::nt::{
    ControlCode, DEVICE_OBJECT, DO_BUFFERED_IO, DO_DIRECT_IO, FILE_OBJECT, IO_STACK_LOCATION, IRP,
    IRP_MJ_CREATE, IRP_MJ_DEVICE_CONTROL, IRP_MJ_READ, IRP_MJ_WRITE, MDL, Method, NtStatus,
    PASSIVE_LEVEL,
};
use crate::raw::{Global, Ptr, Word, from_word, low32, to_word};
use crate::{mm, ob, shared};
use abi::channel::{Completion, Request};
use abi::trace::TraceKind;

/// Largest buffer of a request: client memory is smaller anyway.
const MAX_BYTES: u64 = 1 << 30;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Read, write or control.
    Transfer,
    /// An open, with the access wanted.
    Create(u32),
    /// The shim's own; somebody waits.
    Internal,
}

/// An IRP of the shim's that a driver has.
#[derive(Clone, Copy, Debug)]
struct Outstanding {
    kind: Kind,
    /// The VMM's id for it.
    id: u64,
    process: u32,
    file: Ptr<FILE_OBJECT>,
    buffers: Buffers,
}

/// Where a request's data is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Buffers {
    /// The kernel's copy; null if there is none.
    system: Ptr<u8>,
    /// Kernel alias of the client's output buffer, if the kernel's copy goes there at the end.
    output: Ptr<u8>,
    output_bytes: u64,
    /// Client buffer of direct I/O.
    mdl: Ptr<MDL>,
}

impl Buffers {
    /// The kernel alias of client memory.
    ///
    /// # Errors
    /// ACCESS_VIOLATION: it is not client memory.
    pub fn alias(address: u64, bytes: u64) -> Result<Ptr<u8>, NtStatus> {
        if bytes > MAX_BYTES {
            return Err(NtStatus::INVALID_PARAMETER);
        }
        mm::user_alias(address, bytes)
            .map(Ptr::new)
            .ok_or(NtStatus::ACCESS_VIOLATION)
    }

    /// A kernel copy of `bytes`, with the client's first `input_bytes` in it.
    fn buffered(input: u64, input_bytes: u64, bytes: u64) -> Result<Self, NtStatus> {
        if bytes == 0 {
            return Ok(Self::default());
        }
        let source = if input_bytes == 0 {
            Ptr::null()
        } else {
            Self::alias(input, input_bytes)?
        };
        let system =
            pool::allocate_zeroed(bytes, *b"IoSB").ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
        system.copy_from(source, input_bytes);
        Ok(Self {
            system,
            ..Self::default()
        })
    }

    /// The kernel's copy is copied to client memory at the end.
    fn with_output(self, address: u64, bytes: u64) -> Result<Self, NtStatus> {
        if bytes == 0 {
            return Ok(self);
        }
        match Self::alias(address, bytes) {
            Ok(output) => Ok(Self {
                output,
                output_bytes: bytes,
                ..self
            }),
            Err(status) => {
                self.free();
                Err(status)
            }
        }
    }

    /// An MDL for client memory.
    fn with_mdl(self, address: u64, bytes: u64) -> Result<Self, NtStatus> {
        if bytes == 0 {
            return Ok(self);
        }
        let locked = Self::alias(address, bytes).and_then(|_| {
            let mdl = mdl::allocate(address, low32(bytes), pool::SHIM);
            if mdl.is_null() {
                return Err(NtStatus::INSUFFICIENT_RESOURCES);
            }
            if !mdl::lock(mdl) {
                mdl::free(mdl);
                return Err(NtStatus::ACCESS_VIOLATION);
            }
            Ok(mdl)
        });
        match locked {
            Ok(mdl) => Ok(Self { mdl, ..self }),
            Err(status) => {
                self.free();
                Err(status)
            }
        }
    }

    /// Copies what the driver produced, as far as it goes; an error produces nothing.
    fn copy_back(&self, status: NtStatus, information: u64) {
        if !status.is_error() && !self.system.is_null() && !self.output.is_null() {
            self.output
                .copy_from(self.system, information.min(self.output_bytes));
        }
    }

    fn free(&self) {
        if !self.system.is_null() {
            pool::free(self.system, 0);
        }
        let mut next = self.mdl;
        while !next.is_null() {
            let mdl = next;
            next = mdl.read().Next;
            mdl::free(mdl);
        }
    }
}

#[derive(Debug)]
struct Requests {
    /// By the IRP's address.
    outstanding: BTreeMap<u64, Outstanding>,
    /// Results of internal requests, by the IRP's address.
    done: BTreeMap<u64, NtStatus>,
}

static REQUESTS: Global<Requests> = Global::new(
    "requests",
    Requests {
        outstanding: BTreeMap::new(),
        done: BTreeMap::new(),
    },
);

pub(super) fn initialize() {
    REQUESTS.with(|requests| {
        requests.outstanding.clear();
        requests.done.clear();
    });
}

/// Builds an IRP for `device`, remembers what becomes of it and sends it.
fn send(
    device: Ptr<DEVICE_OBJECT>,
    outstanding: Outstanding,
    major: u8,
    parameters: [Word; 4],
    user_buffer: u64,
) -> Result<(Ptr<IRP>, NtStatus), NtStatus> {
    let target = top_of(device);
    let packet = irp::allocate(target.read().StackSize, pool::SHIM);
    if packet.is_null() {
        outstanding.buffers.free();
        return Err(NtStatus::INSUFFICIENT_RESOURCES);
    }
    let stack = packet.with(|packet| {
        packet.RequestorMode = i8::from(outstanding.kind != Kind::Internal);
        packet.MdlAddress = outstanding.buffers.mdl;
        packet.SystemBuffer = outstanding.buffers.system.word();
        packet.UserBuffer = to_word(user_buffer);
        packet.Thread = crate::ps::current_thread().word();
        packet.OriginalFileObject = outstanding.file;
        packet.CurrentStackLocation.offset(-1)
    });
    stack.write(IO_STACK_LOCATION {
        MajorFunction: major,
        Parameters: parameters,
        FileObject: outstanding.file,
        ..IO_STACK_LOCATION::default()
    });
    REQUESTS.with(|requests| requests.outstanding.insert(packet.addr(), outstanding));
    let status = irp::call(target, packet);
    let irql = shared::irql();
    if irql > PASSIVE_LEVEL {
        let routine = target
            .read()
            .DriverObject
            .read()
            .MajorFunction
            .get(usize::from(major))
            .map_or(0, |&at| from_word(at));
        bugcheck_with_text(
            IRQL_GT_ZERO_AT_SYSTEM_SERVICE,
            [routine, u64::from(irql), 0, 0],
            format_args!("the driver's dispatch routine returned at IRQL {irql}"),
        );
    }
    let is_left = REQUESTS.with(|requests| requests.outstanding.contains_key(&packet.addr()));
    if is_left && status != NtStatus::PENDING {
        shared::trace(
            TraceKind::Finding,
            0,
            0,
            &[packet.addr(), u64::from(status.0)],
            "a dispatch routine returned without completing its IRP, and not STATUS_PENDING",
        );
    }
    Ok((packet, status))
}

/// An IRP has come up its whole stack.
pub(super) fn finish(packet: Ptr<IRP>) {
    let IRP {
        IoStatus: block,
        UserIosb: user_block,
        UserEvent: user_event,
        ..
    } = packet.read();
    let status = irp::status_of(packet);
    let information = from_word(block.Information);
    shared::trace(
        TraceKind::IrpDone,
        0,
        0,
        &[packet.addr(), u64::from(status.0), information],
        "",
    );
    let outstanding = REQUESTS.with(|requests| requests.outstanding.remove(&packet.addr()));
    let Some(outstanding) = outstanding else {
        // A driver's own IRP.
        if !user_block.is_null() {
            user_block.write(block);
        }
        if !user_event.is_null() {
            event::set_state(user_event, 1);
        }
        return;
    };
    let mut buffers = outstanding.buffers;
    // A driver may have hung more MDLs behind the first, or taken it.
    buffers.mdl = packet.read().MdlAddress;
    buffers.copy_back(status, information);
    buffers.free();
    let mut value = 0;
    match outstanding.kind {
        Kind::Transfer => {
            ob::dereference(outstanding.file.addr());
        }
        Kind::Create(desired) if status.is_success() => {
            value = file::created(outstanding.file, outstanding.process, desired);
        }
        Kind::Create(_) => {
            ob::dereference(outstanding.file.addr());
        }
        Kind::Internal => {
            REQUESTS.with(|requests| requests.done.insert(packet.addr(), status));
            event::progress();
        }
    }
    irp::free(packet);
    if outstanding.kind != Kind::Internal {
        let id = outstanding.id;
        shared::post(&Completion {
            id,
            status: status.0,
            reserved: 0,
            information,
            value,
        });
    }
}

/// Sends an IRP without buffers for the shim itself and waits until it is completed.
pub(super) fn send_and_wait(
    device: Ptr<DEVICE_OBJECT>,
    file: Ptr<FILE_OBJECT>,
    major: u8,
) -> NtStatus {
    let outstanding = Outstanding {
        kind: Kind::Internal,
        id: 0,
        process: shared::current_process(),
        file,
        buffers: Buffers::default(),
    };
    let (packet, _) = match send(device, outstanding, major, [0; 4], 0) {
        Ok(sent) => sent,
        Err(status) => return status,
    };
    let mut result = NtStatus::UNSUCCESSFUL;
    event::wait_until(u64::MAX, || {
        let done = REQUESTS.with(|requests| requests.done.remove(&packet.addr()));
        result = done.unwrap_or(result);
        done.is_some()
    });
    result
}

/// Opens a device for a client. The completion is posted when the driver completes the IRP.
///
/// # Errors
/// What is wrong before the driver sees it.
pub fn open(request: &Request) -> Result<(), NtStatus> {
    let [name_at, name_bytes, desired, ..] = request.arguments;
    let name = file::client_text(name_at, name_bytes)?;
    let desired = low32(desired);
    let file = file::create(&name, desired)?;
    let parameters = [0, 0x0100_0000, 0x0003_0000, 0].map(to_word); // FILE_OPEN, shared for reading and writing
    let outstanding = Outstanding {
        kind: Kind::Create(desired),
        id: request.id,
        process: request.process,
        file,
        buffers: Buffers::default(),
    };
    let sent = send(
        file.read().DeviceObject,
        outstanding,
        IRP_MJ_CREATE,
        parameters,
        0,
    );
    sent.map(|_| ()).inspect_err(|_| {
        ob::dereference(file.addr());
    })
}

/// Sends a transfer with a reference to its file.
fn transfer(
    request: &Request,
    file: Ptr<FILE_OBJECT>,
    buffers: Buffers,
    major: u8,
    parameters: [Word; 4],
    user_buffer: u64,
) -> Result<(), NtStatus> {
    ob::reference(file.addr());
    let outstanding = Outstanding {
        kind: Kind::Transfer,
        id: request.id,
        process: request.process,
        file,
        buffers,
    };
    let sent = send(
        file.read().DeviceObject,
        outstanding,
        major,
        parameters,
        user_buffer,
    );
    sent.map(|_| ()).inspect_err(|_| {
        ob::dereference(file.addr());
    })
}

/// IRP_MJ_DEVICE_CONTROL for a client.
///
/// # Errors
/// What is wrong before the driver sees it.
pub fn device_control(request: &Request) -> Result<(), NtStatus> {
    let [handle, code, input, input_bytes, output, output_bytes] = request.arguments;
    let (file, access) = file::by_handle(request.process, handle)?;
    let code = low32(code);
    let decoded = ControlCode::new(code);
    if access & u32::from(decoded.access) != u32::from(decoded.access) {
        return Err(NtStatus::ACCESS_DENIED);
    }
    if input_bytes > MAX_BYTES || output_bytes > MAX_BYTES {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    let (buffers, type_3, user_buffer) = match decoded.method {
        Method::Buffered => {
            let copy = Buffers::buffered(input, input_bytes, input_bytes.max(output_bytes))?;
            (copy.with_output(output, output_bytes)?, 0, output)
        }
        Method::InDirect | Method::OutDirect => {
            let copy = Buffers::buffered(input, input_bytes, input_bytes)?;
            (copy.with_mdl(output, output_bytes)?, 0, 0)
        }
        Method::Neither => (Buffers::default(), input, output),
    };
    let parameters = [output_bytes, input_bytes, u64::from(code), type_3].map(to_word);
    transfer(
        request,
        file,
        buffers,
        IRP_MJ_DEVICE_CONTROL,
        parameters,
        user_buffer,
    )
}

/// IRP_MJ_READ or IRP_MJ_WRITE for a client.
///
/// # Errors
/// What is wrong before the driver sees it.
pub fn read_or_write(request: &Request, is_write: bool) -> Result<(), NtStatus> {
    let [handle, address, bytes, offset, ..] = request.arguments;
    let (file, access) = file::by_handle(request.process, handle)?;
    let (major, wanted) = if is_write {
        (IRP_MJ_WRITE, file::FILE_WRITE_DATA)
    } else {
        (IRP_MJ_READ, file::FILE_READ_DATA)
    };
    if access & wanted == 0 {
        return Err(NtStatus::ACCESS_DENIED);
    }
    if bytes > MAX_BYTES {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    let flags = file.read().DeviceObject.read().Flags;
    let buffers = if flags & DO_BUFFERED_IO != 0 {
        if is_write {
            Buffers::buffered(address, bytes, bytes)?
        } else {
            Buffers::buffered(0, 0, bytes)?.with_output(address, bytes)?
        }
    } else if flags & DO_DIRECT_IO != 0 {
        Buffers::default().with_mdl(address, bytes)?
    } else {
        Buffers::default()
    };
    let parameters = if cfg!(nt_i386) {
        [bytes, 0, offset, offset >> 32].map(to_word)
    } else {
        [bytes, 0, offset, 0].map(to_word)
    };
    transfer(request, file, buffers, major, parameters, address)
}

/// Cancels the request with that id of the VMM's.
///
/// # Errors
/// NOT_FOUND: no such request is outstanding.
pub fn cancel_by_id(id: u64) -> Result<(), NtStatus> {
    let packet = REQUESTS.with(|requests| {
        let mut all = requests.outstanding.iter();
        all.find(|(_, outstanding)| outstanding.id == id && outstanding.kind != Kind::Internal)
            .map(|(&irp, _)| irp)
    });
    cancel::cancel(Ptr::new(packet.ok_or(NtStatus::NOT_FOUND)?));
    Ok(())
}

/// Cancels everything that a process waits for.
pub(super) fn cancel_of(process: u32) {
    let packets: Vec<u64> = REQUESTS.with(|requests| {
        let all = requests.outstanding.iter();
        all.filter(|(_, outstanding)| outstanding.process == process)
            .map(|(&irp, _)| irp)
            .collect()
    });
    for packet in packets {
        let is_left = REQUESTS.with(|requests| requests.outstanding.contains_key(&packet));
        if is_left {
            cancel::cancel(Ptr::new(packet));
        }
    }
}

/// Number of IRPs that drivers have.
#[must_use]
pub fn outstanding() -> usize {
    REQUESTS.with(|requests| requests.outstanding.len())
}
