//! A client's requests as IRPs, and what comes back of them.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::buffers::{Buffers, ControlBuffers, Data, MAX_BYTES, Mode};
use super::create_context::CreateContext;
use super::volume::related_device;
use super::{cancel, fast_io, file, irp};
use crate::ex::pool;
use crate::ke::apc::Completion;
use crate::ke::event;
use crate::nt::bugcheck::{IRQL_GT_ZERO_AT_SYSTEM_SERVICE, bugcheck_with_text};
use crate::nt::{
    ControlCode, DEVICE_OBJECT, DISPATCH_LEVEL, FILE_OBJECT, IO_STACK_LOCATION, IO_STATUS_BLOCK,
    IRP, IRP_MJ_CREATE, IRP_MJ_DEVICE_CONTROL, IRP_MJ_FLUSH_BUFFERS, IRP_MJ_READ, IRP_MJ_WRITE,
    KEVENT, NtStatus, PASSIVE_LEVEL,
};
use crate::raw::{Global, Ptr, Word, from_word, low32, to_word};
use crate::se::token;
use crate::{ob, shared};
use abi::channel::Request;
use abi::trace::TraceKind;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Read, write or control.
    Transfer,
    /// An open, with the access granted.
    Create(u32),
    /// The shim's own; somebody waits.
    Internal,
    /// A driver's, by handle; nobody waits.
    Driver(Reply),
}

/// Where the result of a driver's request goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reply {
    /// Status block; null if there is none.
    pub(super) block: Ptr<IO_STATUS_BLOCK>,
    /// Event to signal, with a reference; null if there is none.
    pub(super) event: Ptr<KEVENT>,
    /// Routine to call.
    pub(super) apc: Option<Completion>,
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
    /// What belongs to an IRP_MJ_CREATE.
    create: CreateContext,
}

#[derive(Debug)]
struct Requests {
    /// By the IRP's address.
    outstanding: BTreeMap<u64, Outstanding>,
    /// Results of internal requests, by the IRP's address.
    done: BTreeMap<u64, (NtStatus, u64)>,
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
    LATE.with(Vec::clear);
}

/// Builds an IRP for `target`, remembers what becomes of it and sends it.
fn send(
    target: Ptr<DEVICE_OBJECT>,
    outstanding: Outstanding,
    major: u8,
    parameters: [Word; 4],
    user_buffer: u64,
) -> Result<(Ptr<IRP>, NtStatus), NtStatus> {
    let packet = irp::allocate(target.read().StackSize, pool::SHIM);
    if packet.is_null() {
        outstanding.buffers.free();
        outstanding.create.free();
        return Err(NtStatus::INSUFFICIENT_RESOURCES);
    }
    let stack = packet.with(|packet| {
        packet.RequestorMode =
            i8::from(matches!(outstanding.kind, Kind::Transfer | Kind::Create(_)));
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
    outstanding.create.attach(packet);
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

/// Records the end of an IRP.
pub(crate) fn trace_done(packet: Ptr<IRP>) {
    let block = packet.read().IoStatus;
    let words = [
        packet.addr(),
        u64::from(irp::status_of(packet).0),
        from_word(block.Information),
    ];
    shared::trace(TraceKind::IrpDone, 0, 0, &words, "");
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
    trace_done(packet);
    let outstanding = REQUESTS.with(|requests| requests.outstanding.remove(&packet.addr()));
    let Some(outstanding) = outstanding else {
        // A driver's own IRP.
        if !user_block.is_null() {
            user_block.write(block);
        }
        if !user_event.is_null() {
            event::KeSetEvent(user_event, 0, false);
        }
        return;
    };
    let mut buffers = outstanding.buffers;
    // A driver may have hung more MDLs behind the first, or taken it.
    buffers.mdl = packet.read().MdlAddress;
    buffers.copy_back(status, information);
    buffers.free();
    outstanding.create.free();
    let mut value = 0;
    match outstanding.kind {
        Kind::Transfer => {
            file::finished(outstanding.file, status);
            release_file(outstanding.file);
        }
        Kind::Driver(reply) => {
            file::finished(outstanding.file, status);
            if !reply.block.is_null() {
                reply.block.write(block);
            }
            if !reply.event.is_null() {
                event::KeSetEvent(reply.event, 0, false);
                ob::dereference(reply.event.addr());
            }
            if let Some(apc) = reply.apc {
                // A request that failed at once has told its caller so.
                if !status.is_error() || packet.read().PendingReturned != 0 {
                    apc.queue(reply.block);
                } else {
                    apc.forget();
                }
            }
            release_file(outstanding.file);
        }
        Kind::Create(granted) if status.is_success() => {
            value = file::created(outstanding.file, outstanding.process, granted);
            crate::client::opened(outstanding.id, Some(value));
        }
        Kind::Create(_) => {
            crate::client::opened(outstanding.id, None);
            release_file(outstanding.file);
        }
        Kind::Internal => {
            REQUESTS.with(|requests| {
                requests.done.insert(packet.addr(), (status, information));
            });
            event::progress();
        }
    }
    irp::free(packet);
    if matches!(outstanding.kind, Kind::Transfer | Kind::Create(_)) {
        let id = outstanding.id;
        shared::post(&abi::channel::Completion {
            id,
            status: status.0,
            reserved: 0,
            information,
            value,
        });
    }
}

/// Files whose last reference was a request that was completed at DISPATCH_LEVEL: they are closed by a System thread, since
/// a driver's IRP_MJ_CLOSE is called at PASSIVE_LEVEL.
static LATE: Global<Vec<u64>> = Global::new("files to close", Vec::new());

/// A request with a file is done.
fn release_file(file: Ptr<FILE_OBJECT>) {
    if shared::irql() >= DISPATCH_LEVEL && ob::is_last_reference(file.addr()) {
        LATE.with(|late| late.push(file.addr()));
    } else {
        ob::dereference(file.addr());
    }
}

/// Whether [`release_late`] has something to do.
pub(crate) fn has_late() -> bool {
    LATE.with(|late| !late.is_empty())
}

/// Closes what was let go of at DISPATCH_LEVEL; at PASSIVE_LEVEL, on a thread that may wait.
pub(crate) fn release_late() {
    for file in LATE.with(core::mem::take) {
        ob::dereference(file);
    }
}

/// A request that the shim makes and waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Internal {
    pub(super) file: Ptr<FILE_OBJECT>,
    pub(super) major: u8,
    pub(super) parameters: [Word; 4],
    pub(super) buffers: Buffers,
    pub(super) user_buffer: u64,
    pub(super) create: CreateContext,
}

/// Sends an IRP for the shim itself and waits until it is completed: status and Information.
pub(super) fn send_internal(device: Ptr<DEVICE_OBJECT>, internal: &Internal) -> (NtStatus, u64) {
    let outstanding = Outstanding {
        kind: Kind::Internal,
        id: 0,
        process: shared::current_process(),
        file: internal.file,
        buffers: internal.buffers,
        create: internal.create,
    };
    let sent = send(
        device,
        outstanding,
        internal.major,
        internal.parameters,
        internal.user_buffer,
    );
    let (packet, _) = match sent {
        Ok(sent) => sent,
        Err(status) => return (status, 0),
    };
    let mut result = (NtStatus::UNSUCCESSFUL, 0);
    event::wait_until(u64::MAX, || {
        let done = REQUESTS.with(|requests| requests.done.remove(&packet.addr()));
        result = done.unwrap_or(result);
        done.is_some()
    });
    result
}

/// Sends an IRP for a driver that does not wait for it. `reply` is written, and the file's reference dropped, when it is
/// completed.
pub(super) fn send_for_driver(internal: &Internal, reply: Reply) -> NtStatus {
    ob::reference(internal.file.addr());
    let outstanding = Outstanding {
        kind: Kind::Driver(reply),
        id: 0,
        process: shared::current_process(),
        file: internal.file,
        buffers: internal.buffers,
        create: internal.create,
    };
    let sent = send(
        related_device(internal.file),
        outstanding,
        internal.major,
        internal.parameters,
        internal.user_buffer,
    );
    match sent {
        Ok((_, status)) => status,
        Err(status) => {
            ob::dereference(internal.file.addr());
            if !reply.event.is_null() {
                ob::dereference(reply.event.addr());
            }
            if let Some(apc) = reply.apc {
                apc.forget();
            }
            status
        }
    }
}

/// Sends an IRP without buffers for the shim itself and waits until it is completed.
pub(super) fn send_and_wait(
    device: Ptr<DEVICE_OBJECT>,
    file: Ptr<FILE_OBJECT>,
    major: u8,
) -> NtStatus {
    let internal = Internal {
        file,
        major,
        parameters: [0; 4],
        buffers: Buffers::default(),
        user_buffer: 0,
        create: CreateContext::default(),
    };
    send_internal(device, &internal).0
}

/// The process that an IRP was made for; `None`: the shim did not make it.
#[must_use]
pub fn process_of(packet: Ptr<IRP>) -> Option<u32> {
    REQUESTS.with(|requests| {
        requests
            .outstanding
            .get(&packet.addr())
            .map(|outstanding| outstanding.process)
    })
}

/// Opens a device for a client. The completion is posted when the driver completes the IRP.
///
/// # Errors
/// What is wrong before the driver sees it.
pub fn open(request: &Request) -> Result<(), NtStatus> {
    let [name_at, name_bytes, desired, ..] = request.arguments;
    let name = file::client_text(name_at, name_bytes)?;
    // The thread is one of the client's: its token is judged.
    let token = token::get(token::effective()).ok_or(NtStatus::NO_TOKEN)?;
    let (file, granted) = file::create(&name, low32(desired), Ptr::null(), Some(&token))?;
    // FILE_OPEN.
    let options = 0x0100_0000;
    let create = CreateContext::new(granted, options, 0, 0).inspect_err(|_| {
        ob::dereference(file.addr());
    })?;
    // Shared for reading and writing.
    let parameters = [create.address(), u64::from(options), 0x0003_0000, 0].map(to_word);
    let outstanding = Outstanding {
        kind: Kind::Create(granted),
        id: request.id,
        process: request.process,
        file,
        buffers: Buffers::default(),
        create,
    };
    let sent = send(
        related_device(file),
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
        create: CreateContext::default(),
    };
    let sent = send(
        related_device(file),
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
    let data = Data {
        input,
        input_bytes,
        output,
        output_bytes,
    };
    let (file, access) = file::by_handle(request.process, handle)?;
    let code = low32(code);
    let decoded = ControlCode::new(code);
    if access & u32::from(decoded.access) != u32::from(decoded.access) {
        return Err(NtStatus::ACCESS_DENIED);
    }
    if input_bytes > MAX_BYTES || output_bytes > MAX_BYTES {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    if let Some(answer) = fast_io::device_control(file, code, &data) {
        return answer_at_once(request, answer);
    }
    let ControlBuffers {
        buffers,
        type_3,
        user_buffer,
    } = ControlBuffers::new(Mode::User, decoded.method, &data)?;
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

/// Parameters.Read or Parameters.Write: Length, Key, ByteOffset.
pub(super) fn transfer_parameters(bytes: u64, offset: u64) -> [Word; 4] {
    if cfg!(nt_i386) {
        [bytes, 0, offset, offset >> 32].map(to_word)
    } else {
        [bytes, 0, offset, 0].map(to_word)
    }
}

/// Answers a request that fast I/O has served.
#[expect(
    clippy::unnecessary_wraps,
    reason = "it ends a function that may fail before"
)]
fn answer_at_once(request: &Request, block: IO_STATUS_BLOCK) -> Result<(), NtStatus> {
    shared::post(&abi::channel::Completion {
        id: request.id,
        status: low32(from_word(block.Status)),
        reserved: 0,
        information: from_word(block.Information),
        value: 0,
    });
    Ok(())
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
    let flags = related_device(file).read().Flags;
    let buffers = Buffers::of_transfer(Mode::User, flags, is_write, address, bytes)?;
    let parameters = transfer_parameters(bytes, offset);
    transfer(request, file, buffers, major, parameters, address)
}

/// IRP_MJ_FLUSH_BUFFERS for a client.
///
/// # Errors
/// What is wrong before the driver sees it.
pub fn flush(request: &Request) -> Result<(), NtStatus> {
    let (file, access) = file::by_handle(request.process, request.arguments[0])?;
    if access & (file::FILE_WRITE_DATA | file::FILE_APPEND_DATA) == 0 {
        return Err(NtStatus::ACCESS_DENIED);
    }
    let buffers = Buffers::default();
    let parameters = [0; 4].map(to_word);
    transfer(request, file, buffers, IRP_MJ_FLUSH_BUFFERS, parameters, 0)
}

/// Cancels the request with that id of the VMM's.
///
/// # Errors
/// NOT_FOUND: no such request is outstanding.
pub fn cancel_by_id(id: u64) -> Result<(), NtStatus> {
    let packet = REQUESTS.with(|requests| {
        let mut all = requests.outstanding.iter();
        all.find(|(_, outstanding)| {
            outstanding.id == id && matches!(outstanding.kind, Kind::Transfer | Kind::Create(_))
        })
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

/// Whether drivers have IRPs of a process.
#[must_use]
pub fn is_outstanding(process: u32) -> bool {
    REQUESTS.with(|requests| {
        let mut all = requests.outstanding.values();
        all.any(|outstanding| outstanding.process == process)
    })
}

/// Number of IRPs that drivers have.
#[must_use]
pub fn outstanding() -> usize {
    REQUESTS.with(|requests| requests.outstanding.len())
}
