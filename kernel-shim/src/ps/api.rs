//! Processes and threads as drivers use them.

use super::thread::{self, Work};
use super::{SYSTEM_ID, notify, process};
use crate::api::nt_api;
use crate::ke::{apc_state, dpc, sched, wait};
use crate::nt::bugcheck::{INVALID_PROCESS_ATTACH_ATTEMPT, bugcheck_with_text};
use crate::nt::thread::process as fields;
use crate::nt::{CLIENT_ID, KAPC_STATE, KPROCESS, KTHREAD, NtStatus, OBJECT_ATTRIBUTES};
use crate::ob::{self, ObjectType, handles};
use crate::raw::{Ptr, Word, low32, to_word};
use crate::shared;
use crate::value::{
    Boolean, Handle, LargeInteger, ObjectAttributesPtr, ProcessorMode, Size, ULong,
};

/// OBJ_KERNEL_HANDLE.
const OBJ_KERNEL_HANDLE: u32 = 0x200;

/// The EPROCESS that a process handle of the current process means; null is System.
fn process_by_handle(handle: u64) -> Result<Ptr<KPROCESS>, NtStatus> {
    if handle == 0 {
        return Ok(process::system());
    }
    let body = ob::api::body_of(handle).ok_or(NtStatus::INVALID_HANDLE)?;
    match ob::type_of(body) {
        Some(ObjectType::Process) => Ok(Ptr::new(body)),
        _ => Err(NtStatus::OBJECT_TYPE_MISMATCH),
    }
}

fn create_system_thread(
    attributes: Ptr<OBJECT_ATTRIBUTES>,
    process_handle: u64,
    start: [u64; 2],
) -> Result<(Ptr<KTHREAD>, u64), NtStatus> {
    let owner = process_by_handle(process_handle)?;
    let id = process::id_of(owner.cast()).unwrap_or(SYSTEM_ID);
    let made = thread::create(owner, id, Work::Routine, start)?;
    // Handles that a driver does not mark as the kernel's are the process's that it happens to be in.
    let is_kernel = attributes
        .non_null()
        .is_some_and(|at| at.with(|at| at.Attributes) & OBJ_KERNEL_HANDLE != 0);
    let table = if is_kernel {
        SYSTEM_ID
    } else {
        shared::current_process()
    };
    let handle = handles::insert(table, made.addr(), 0x001F_FFFF);
    Ok((made, handle))
}

/// The current thread is in another process now.
fn enter(thread: Ptr<KTHREAD>, process: Ptr<KPROCESS>) {
    let id = process::id_of(process.cast()).unwrap_or(SYSTEM_ID);
    sched::private(thread).with(|private| private.process_id = id);
    shared::set_current_process(id);
}

fn check_attach(what: &str, process: Ptr<KPROCESS>) {
    if dpc::is_active() {
        bugcheck_with_text(
            INVALID_PROCESS_ATTACH_ATTEMPT,
            [process.addr(), super::current_process().addr(), 0, 1],
            format_args!("{what} in a DPC"),
        );
    }
}

nt_api! { module = ps;
    /// The process that the driver runs in.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoGetCurrentProcess() -> Ptr<u8> {
        super::current_process()
    }

    /// The process that the driver runs in.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PsGetCurrentProcess() -> Ptr<u8> {
        super::current_process()
    }

    /// Id of the current thread's process.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PsGetCurrentProcessId() -> Handle {
        Handle(thread::process_id_of(thread::current()).into())
    }

    /// Finds the process with an id, and adds a reference to it.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn PsLookupProcessByProcessId(process_id: Handle, process: Ptr<Word>) -> NtStatus {
        let Some(found) = super::by_id(low32(process_id.0)) else { return NtStatus::INVALID_PARAMETER };
        ob::reference(found.addr());
        process.write(found.word());
        NtStatus::SUCCESS
    }

    /// Finds the thread with an id, and adds a reference to it.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn PsLookupThreadByThreadId(thread_id: Handle, thread: Ptr<Word>) -> NtStatus {
        let Some(found) = thread::by_id(low32(thread_id.0)) else { return NtStatus::INVALID_PARAMETER };
        ob::reference(found.addr());
        thread.write(found.word());
        NtStatus::SUCCESS
    }

    /// The id of a process.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PsGetProcessId(process: Ptr<u8>) -> Handle {
        Handle(process::id_of(process).map_or(0, u64::from))
    }

    /// The id of the process that made a process.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PsGetProcessInheritedFromUniqueProcessId(process: Ptr<u8>) -> Handle {
        Handle(u64::from(process.add_bytes(fields::INHERITED_FROM).cast::<u32>().read()))
    }

    /// The name of a process's image: at most 15 characters.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PsGetProcessImageFileName(process: Ptr<u8>) -> Ptr<u8> {
        process.add_bytes(fields::IMAGE_FILE_NAME)
    }

    /// When a process was made: 100 ns since 1601-01-01 UTC.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PsGetProcessCreateTimeQuadPart(process: Ptr<u8>) -> LargeInteger {
        process.add_bytes(fields::CREATE_TIME).cast().read()
    }

    /// A process's exit status; STATUS_PENDING while it lives.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PsGetProcessExitStatus(process: Ptr<u8>) -> NtStatus {
        NtStatus(process.add_bytes(fields::EXIT_STATUS).cast().read())
    }

    /// Whether a process has ended.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PsGetProcessExitProcessCalled(process: Ptr<u8>) -> Boolean {
        process::id_of(process).is_none_or(|id| process::by_id(id).is_none())
    }

    /// The session of a process: all are in session 0.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PsGetProcessSessionId(process: Ptr<u8>) -> ULong {
        0
    }

    /// The session of the current process: all are in session 0.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PsGetCurrentProcessSessionId() -> ULong {
        0
    }

    /// The current thread.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PsGetCurrentThread() -> Ptr<u8> {
        super::current_thread()
    }

    /// The current thread.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeGetCurrentThread() -> Ptr<u8> {
        super::current_thread()
    }

    /// Id of the current thread.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PsGetCurrentThreadId() -> Handle {
        Handle(thread::id_of(thread::current()).into())
    }

    /// The process that the current thread belongs to, whatever it is attached to.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PsGetCurrentThreadProcess() -> Ptr<u8> {
        PsGetThreadProcess(thread::current())
    }

    /// Id of the process that the current thread belongs to.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PsGetCurrentThreadProcessId() -> Handle {
        Handle(thread::process_id_of(thread::current()).into())
    }

    /// Where the current thread's requests come from: 0 kernel, 1 user.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PsGetCurrentThreadPreviousMode() -> ProcessorMode {
        super::previous_mode()
    }

    /// The end of the current thread's stack.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PsGetCurrentThreadStackBase() -> Ptr<u8> {
        Ptr::new(crate::raw::from_word(thread::current().with(|thread| thread.StackBase)))
    }

    /// The lowest address of the current thread's stack.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PsGetCurrentThreadStackLimit() -> Ptr<u8> {
        Ptr::new(crate::raw::from_word(thread::current().with(|thread| thread.StackLimit)))
    }

    /// Lowest and highest address of the current stack.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoGetStackLimits(low: Ptr<Word>, high: Ptr<Word>) {
        let (limit, base) = thread::current().with(|thread| (thread.StackLimit, thread.StackBase));
        low.write(limit);
        high.write(base);
    }

    /// Bytes that are left of the current stack.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoGetRemainingStackSize() -> Size {
        let limit = crate::raw::from_word(thread::current().with(|thread| thread.StackLimit));
        Size(shared::caller_stack().saturating_sub(limit))
    }

    /// The id of a thread.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PsGetThreadId(thread: Ptr<KTHREAD>) -> Handle {
        Handle(thread::id_of(thread).into())
    }

    /// The process that a thread belongs to.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PsGetThreadProcess(thread: Ptr<KTHREAD>) -> Ptr<u8> {
        Ptr::new(crate::raw::from_word(thread.with(|thread| thread.Process)))
    }

    /// The process that a thread belongs to.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoThreadToProcess(thread: Ptr<KTHREAD>) -> Ptr<u8> {
        PsGetThreadProcess(thread)
    }

    /// The id of the process that a thread belongs to.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PsGetThreadProcessId(thread: Ptr<KTHREAD>) -> Handle {
        Handle(thread::process_id_of(thread).into())
    }

    /// Whether a thread belongs to the System process.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PsIsSystemThread(thread: Ptr<KTHREAD>) -> Boolean {
        thread::process_id_of(thread) == SYSTEM_ID
    }

    /// Whether a thread is ending.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PsIsThreadTerminating(thread: Ptr<KTHREAD>) -> Boolean {
        thread::is_ending(thread)
    }

    /// A thread's exit status; STATUS_PENDING while it lives.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PsGetThreadExitStatus(thread: Ptr<KTHREAD>) -> NtStatus {
        NtStatus(thread::exit_status(thread).read())
    }

    /// When a thread was made: 100 ns since 1601-01-01 UTC.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PsGetThreadCreateTime(thread: Ptr<KTHREAD>) -> LargeInteger {
        thread::times(thread).0.cast_signed()
    }

    /// Makes a thread in the System process, or in the process of a handle, and lets it run.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn PsCreateSystemThread(
        thread_handle: Ptr<Word>,
        access: ULong,
        attributes: ObjectAttributesPtr,
        process_handle: Handle,
        client_id: Ptr<CLIENT_ID>,
        start_routine: Ptr<u8>,
        start_context: Ptr<u8>,
    ) -> NtStatus {
        let start = [start_routine.addr(), start_context.addr()];
        let (made, handle) = match create_system_thread(attributes.0, process_handle.0, start) {
            Ok(made) => made,
            Err(status) => return status,
        };
        thread_handle.write(to_word(handle));
        if !client_id.is_null() {
            client_id.write(CLIENT_ID {
                UniqueProcess: to_word(thread::process_id_of(made).into()),
                UniqueThread: to_word(thread::id_of(made).into()),
            });
        }
        notify::thread(made, true);
        thread::start(made);
        NtStatus::SUCCESS
    }

    /// Ends the current thread, which must be a system thread; otherwise STATUS_INVALID_PARAMETER.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn PsTerminateSystemThread(exit_status: NtStatus) -> NtStatus {
        let current = thread::current();
        if !PsIsSystemThread(current) || !thread::is_drivers(current) {
            return NtStatus::INVALID_PARAMETER;
        }
        thread::exit(exit_status)
    }

    /// Puts the current thread into another process until KeUnstackDetachProcess. APCs that are queued for its own
    /// process wait until then.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn KeStackAttachProcess(process: Ptr<KPROCESS>, apc_state: Ptr<KAPC_STATE>) {
        check_attach("KeStackAttachProcess", process);
        let thread = thread::current();
        if super::process_of(thread) == process {
            apc_state::mark_unused(apc_state);
            return;
        }
        apc_state::attach(thread, process, Some(apc_state));
        enter(thread, process);
    }

    /// Undoes KeStackAttachProcess. APCs that are queued for the process that is left are a bugcheck.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn KeUnstackDetachProcess(apc_state: Ptr<KAPC_STATE>) {
        let thread = thread::current();
        if let Some(process) = apc_state::detach(thread, Some(apc_state)) {
            enter(thread, process);
        }
    }

    /// Puts the current thread into another process; a thread that is attached already is a bugcheck.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn KeAttachProcess(process: Ptr<KPROCESS>) {
        check_attach("KeAttachProcess", process);
        let thread = thread::current();
        let old = super::process_of(thread);
        if old == process {
            return;
        }
        if apc_state::is_attached(thread) {
            bugcheck_with_text(INVALID_PROCESS_ATTACH_ATTEMPT, [process.addr(), old.addr(), 1, 0],
                format_args!("KeAttachProcess: the thread is attached already"));
        }
        apc_state::attach(thread, process, None);
        enter(thread, process);
    }

    /// Undoes KeAttachProcess.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn KeDetachProcess() {
        let thread = thread::current();
        if apc_state::is_attached(thread)
            && let Some(process) = apc_state::detach(thread, None)
        {
            enter(thread, process);
        }
    }

    /// Whether the current thread is attached to a process.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeIsAttachedProcess() -> Boolean {
        apc_state::is_attached(thread::current())
    }

    /// Waits for the object of a handle.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwWaitForSingleObject(handle: Handle, alertable: Boolean, timeout: Ptr<i64>) -> NtStatus {
        let Some(body) = ob::api::body_of(handle.0) else { return NtStatus::INVALID_HANDLE };
        let Some(object) = ob::api::waitable(body) else { return NtStatus::OBJECT_TYPE_MISMATCH };
        ob::reference(body);
        let status = wait::single(object, &wait::Wait {
            is_any: true,
            reason: 6,
            mode: 0,
            is_alertable: alertable,
            timeout: timeout.non_null().map(Ptr::read),
        });
        ob::dereference(body);
        status
    }
}
