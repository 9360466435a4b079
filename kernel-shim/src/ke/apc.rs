//! Asynchronous procedure calls, and the regions that keep them away.
//!
//! There is no user-mode code, so a user APC's normal routine never runs: the APC ends an alertable wait, and its kernel
//! routine runs when the request's thread would return to user mode.

#![expect(
    clippy::inline_always,
    reason = "fast paths of exports are fast only if nothing is called; see crate::api"
)]

use core::mem::offset_of;

use crate::api::nt_api;
use crate::ex::pool;
use crate::ke::dispatcher::{end_wait, is_waiting};
use crate::ke::{apc_state, sched, wait};
use crate::nt::thread::field;
use crate::nt::{
    APC_LEVEL, IO_STATUS_BLOCK, KAPC, KTHREAD, LIST_ENTRY, NtStatus, PASSIVE_LEVEL, dispatcher,
};
use crate::raw::{Ptr, Word, from_word, low8, to_word};
use crate::value::{Boolean, Long, ProcessorMode, Size, ULong};
use crate::{ob, shared};
use abi::trace::Entry;

/// In place of a kernel routine: the APC is a block of the shim's pool, and is freed.
const FREES_ITSELF: u64 = 1;
/// KAPC_ENVIRONMENT CurrentApcEnvironment: the one in which the APC is made.
const CURRENT_ENVIRONMENT: u32 = 2;
/// KAPC_ENVIRONMENT InsertApcEnvironment: the one in which it is queued.
const INSERT_ENVIRONMENT: u8 = 3;

#[inline]
fn list(thread: Ptr<KTHREAD>, mode: u8) -> Ptr<LIST_ENTRY> {
    thread
        .add_bytes(offset_of!(KTHREAD, ApcListHead) as u64)
        .cast::<LIST_ENTRY>()
        .offset(i64::from(mode.min(1)))
}

fn link(apc: Ptr<KAPC>) -> Ptr<LIST_ENTRY> {
    apc.add_bytes(offset_of!(KAPC, ApcListEntry) as u64).cast()
}

fn of_link(entry: Ptr<LIST_ENTRY>) -> Ptr<KAPC> {
    entry
        .sub_bytes(offset_of!(KAPC, ApcListEntry) as u64)
        .cast()
}

/// A new thread's lists.
pub(crate) fn initialize(thread: Ptr<KTHREAD>) {
    list(thread, 0).list_initialize();
    list(thread, 1).list_initialize();
    apc_state::initialize(thread);
}

#[inline]
fn kernel_disable(thread: Ptr<KTHREAD>) -> Ptr<i16> {
    thread.add_bytes(field::KERNEL_APC_DISABLE).cast()
}

#[inline]
fn special_disable(thread: Ptr<KTHREAD>) -> Ptr<i16> {
    thread.add_bytes(field::SPECIAL_APC_DISABLE).cast()
}

/// KernelApcDisable and SpecialApcDisable as one number: 0 means that all APCs are allowed.
pub(crate) fn combined_disable(thread: Ptr<KTHREAD>) -> u32 {
    thread.add_bytes(field::KERNEL_APC_DISABLE).cast().read()
}

/// Keeps normal kernel APCs away (`count` times).
pub(crate) fn disable(thread: Ptr<KTHREAD>, count: i16) {
    if count != 0 {
        kernel_disable(thread).with(|disable| *disable = disable.wrapping_sub(count));
    }
}

/// Undoes [`disable`].
pub(crate) fn enable(thread: Ptr<KTHREAD>, count: i16) {
    if count != 0 {
        kernel_disable(thread).with(|disable| *disable = disable.wrapping_add(count));
        look_again(thread);
    }
}

pub(super) fn look_again(thread: Ptr<KTHREAD>) {
    if !list(thread, 0).list_is_empty() {
        thread.with(|thread| thread.KernelApcPending = 1);
        sched::request_attention();
    }
}

/// Counts one of the current thread's regions on the fast path.
#[inline(always)]
fn fast_enter(disable: Ptr<i16>) {
    disable.write(disable.read().wrapping_sub(1));
}

/// Undoes [`fast_enter`]; `None`: an APC is queued, which may have waited for this.
#[inline(always)]
fn fast_leave(thread: Ptr<KTHREAD>, disable: Ptr<i16>) -> Option<()> {
    let kernel_list = list(thread, 0);
    if kernel_list.cast::<Ptr<LIST_ENTRY>>().read() != kernel_list {
        return None;
    }
    disable.write(disable.read().wrapping_add(1));
    Some(())
}

#[inline(always)]
fn fast_enter_critical() -> Option<()> {
    fast_enter(kernel_disable(sched::current()));
    Some(())
}

#[inline(always)]
fn fast_leave_critical() -> Option<()> {
    let thread = sched::current();
    fast_leave(thread, kernel_disable(thread))
}

/// KeEnterGuardedRegion on the fast path.
#[inline(always)]
pub(crate) fn fast_enter_guarded() -> Option<()> {
    fast_enter(special_disable(sched::current()));
    Some(())
}

/// KeLeaveGuardedRegion on the fast path.
#[inline(always)]
pub(crate) fn fast_leave_guarded() -> Option<()> {
    let thread = sched::current();
    fast_leave(thread, special_disable(thread))
}

/// IRQL has fallen below APC_LEVEL.
pub(super) fn look_after_lowering() {
    if sched::current().with(|thread| thread.KernelApcPending) != 0 {
        sched::request_attention();
    }
}

/// Whether user APCs are queued.
pub(crate) fn has_user_apc(thread: Ptr<KTHREAD>) -> bool {
    !list(thread, 1).list_is_empty()
}

/// Whether a kernel APC of that kind may be delivered to the thread.
fn is_allowed(thread: Ptr<KTHREAD>, is_special: bool) -> bool {
    special_disable(thread).read() == 0
        && (is_special
            || kernel_disable(thread).read() == 0
                && thread.with(|thread| thread.KernelApcInProgress) == 0)
}

/// What an APC's routines get; the kernel routine may change all but the APC's address.
struct Taken {
    address: u64,
    kernel_routine: u64,
    words: [Word; 4],
}

fn take(apc: Ptr<KAPC>) -> Taken {
    link(apc).list_remove();
    let apc_now = apc.read();
    apc.with(|apc| apc.Inserted = 0);
    Taken {
        address: apc.addr(),
        kernel_routine: from_word(apc_now.KernelRoutine),
        words: [
            apc_now.NormalRoutine,
            apc_now.NormalContext,
            apc_now.SystemArgument1,
            apc_now.SystemArgument2,
        ],
    }
}

impl Taken {
    fn call_kernel_routine(&mut self) {
        if self.kernel_routine == FREES_ITSELF {
            pool::free(Ptr::new(self.address), 0);
            return;
        }
        let words = Ptr::of(&mut self.words).cast::<Word>();
        let at = |index| words.offset(index).addr();
        shared::call_driver(
            Entry::Other,
            self.kernel_routine,
            &[self.address, at(0), at(1), at(2), at(3)],
        );
        self.words = words.cast().read();
    }
}

/// Delivers the current thread's kernel APCs, as far as they are allowed. Does nothing at APC_LEVEL.
pub(crate) fn deliver() {
    let thread = sched::current();
    if shared::irql() >= APC_LEVEL || thread.with(|thread| thread.KernelApcPending) == 0 {
        return;
    }
    thread.with(|thread| thread.KernelApcPending = 0);
    loop {
        let entry = list(thread, 0).read().Flink;
        if entry == list(thread, 0) {
            return;
        }
        let apc = of_link(entry);
        let is_special = apc.with(|apc| apc.NormalRoutine) == 0;
        if !is_allowed(thread, is_special) {
            return;
        }
        let mut taken = take(apc);
        shared::set_irql(APC_LEVEL);
        taken.call_kernel_routine();
        let [routine, context, first, second] = taken.words.map(from_word);
        if !is_special && routine != 0 {
            thread.with(|thread| thread.KernelApcInProgress = 1);
            shared::set_irql(PASSIVE_LEVEL);
            shared::call_driver(Entry::Other, routine, &[context, first, second]);
            shared::set_irql(APC_LEVEL);
            thread.with(|thread| thread.KernelApcInProgress = 0);
        }
        shared::set_irql(PASSIVE_LEVEL);
    }
}

/// A request's thread returns to user mode: user APCs are taken off, their kernel routines called.
pub(crate) fn deliver_user() {
    let thread = sched::current();
    while let Some(entry) = list(thread, 1).list_pop() {
        // `take` removes it again, from a list of its own.
        entry.list_initialize();
        let mut taken = take(of_link(entry));
        shared::set_irql(APC_LEVEL);
        taken.call_kernel_routine();
        shared::set_irql(PASSIVE_LEVEL);
    }
    thread.with(|thread| {
        thread.UserApcPending = 0;
        thread.Alerted = [0; 2];
    });
}

/// A thread ends: what is queued is rundown. No more APCs can be queued.
pub(crate) fn run_down(thread: Ptr<KTHREAD>) {
    let saved = apc_state::saved(thread).cast::<LIST_ENTRY>();
    for head in [list(thread, 0), list(thread, 1), saved, saved.offset(1)] {
        while let Some(entry) = head.list_pop() {
            let apc = of_link(entry);
            let rundown = apc.with(|apc| {
                apc.Inserted = 0;
                from_word(apc.RundownRoutine)
            });
            if rundown != 0 {
                shared::call_driver(Entry::Other, rundown, &[apc.addr()]);
            } else if from_word(apc.read().KernelRoutine) == FREES_ITSELF {
                pool::free(apc.cast(), 0);
            }
        }
    }
}

/// Puts an APC into its thread's list, special ones before normal ones, and interrupts the thread's wait for it.
fn insert(apc: Ptr<KAPC>, increment: i32) {
    let (thread, mode, is_special) = apc.with(|apc| {
        apc.Inserted = 1;
        (apc.Thread, apc.ApcMode, apc.NormalRoutine == 0)
    });
    let current = thread.with(|thread| thread.ApcStateIndex);
    let environment = apc.with(|apc| {
        if apc.ApcStateIndex == INSERT_ENVIRONMENT {
            apc.ApcStateIndex = current;
        }
        apc.ApcStateIndex
    });
    let is_current = environment == current;
    let head = if is_current {
        list(thread, mode)
    } else {
        // It waits until the thread is in its process again.
        apc_state::saved(thread)
            .cast::<LIST_ENTRY>()
            .offset(i64::from(mode.min(1)))
    };
    let mut before = head;
    if is_special && mode == 0 {
        let mut entry = head.read().Flink;
        while entry != head && of_link(entry).with(|apc| apc.NormalRoutine) == 0 {
            entry = entry.read().Flink;
        }
        before = entry;
    }
    // Inserting at a list's tail puts an entry in front of the head; any entry can stand for the head.
    before.list_insert_tail(link(apc));
    if !is_current {
        return;
    }
    if mode == 0 {
        thread.with(|thread| thread.KernelApcPending = 1);
        sched::request_attention();
        let wait_irql: u8 = thread.add_bytes(field::WAIT_IRQL).cast().read();
        if is_waiting(thread) && wait_irql < APC_LEVEL && is_allowed(thread, is_special) {
            end_wait(thread, NtStatus::KERNEL_APC, increment);
        }
    } else if wait::alertable_wait(thread) == Some(1) {
        thread.with(|thread| thread.UserApcPending = 1);
        end_wait(thread, NtStatus::USER_APC, increment);
    }
}

/// A routine to be called in a thread when an operation ends: a driver's APC routine, as ZwReadFile and its like take it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Completion {
    thread: Ptr<KTHREAD>,
    routine: u64,
    context: u64,
}

impl Completion {
    /// The routine for the current thread, to which it has a reference; `None` for a null routine.
    pub(crate) fn new(routine: Ptr<u8>, context: Ptr<u8>) -> Option<Self> {
        let thread = sched::current();
        (!routine.is_null()).then(|| {
            ob::reference(thread.addr());
            Self {
                thread,
                routine: routine.addr(),
                context: context.addr(),
            }
        })
    }

    /// Queues the call (Context, IoStatusBlock, 0) as NT does for a request of the kernel's: a normal kernel APC, which
    /// runs as soon as the thread is below APC_LEVEL and outside of critical regions. A thread that is ending gets none.
    pub(crate) fn queue(self, block: Ptr<IO_STATUS_BLOCK>) {
        /// Priority increment of a thread that an I/O completion wakes.
        const INCREMENT: i32 = 2;
        let room = pool::allocate_zeroed(size_of::<KAPC>() as u64, *b"IoAp");
        if let Some(apc) = room.filter(|_| !crate::ps::thread::is_ending(self.thread)) {
            let apc = apc.cast::<KAPC>();
            let null = Ptr::null();
            let (routine, context) = (Ptr::new(self.routine), Ptr::new(self.context));
            KeInitializeApc(
                apc,
                self.thread,
                CURRENT_ENVIRONMENT,
                Ptr::new(FREES_ITSELF),
                null,
                routine,
                ProcessorMode(0),
                context,
            );
            apc.with(|apc| apc.SystemArgument1 = block.word());
            insert(apc, INCREMENT);
        } else if let Some(apc) = room {
            pool::free(apc, 0);
        }
        self.forget();
    }

    /// Drops it: the operation has failed before it began.
    pub(crate) fn forget(self) {
        ob::dereference(self.thread.addr());
    }
}

/// Alerts a thread; returns whether it was alerted already.
fn alert(thread: Ptr<KTHREAD>, mode: u8) -> bool {
    let index = usize::from(mode.min(1));
    let old = thread.with(|thread| thread.Alerted.get(index).copied().unwrap_or(0));
    if old == 0 {
        if wait::alertable_wait(thread).is_some_and(|wait_mode| mode <= wait_mode) {
            end_wait(thread, NtStatus::ALERTED, 0);
        } else {
            thread.with(|thread| {
                if let Some(alerted) = thread.Alerted.get_mut(index) {
                    *alerted = 1;
                }
            });
        }
    }
    old != 0
}

nt_api! { module = ke_apc;
    /// Makes an APC for a thread. Without a normal routine it is a special kernel APC.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeInitializeApc(
        apc: Ptr<KAPC>,
        thread: Ptr<KTHREAD>,
        environment: ULong,
        kernel_routine: Ptr<u8>,
        rundown_routine: Ptr<u8>,
        normal_routine: Ptr<u8>,
        mode: ProcessorMode,
        context: Ptr<u8>,
    ) {
        let index = if environment == CURRENT_ENVIRONMENT {
            thread.with(|thread| thread.ApcStateIndex)
        } else {
            low8(u64::from(environment))
        };
        let is_special = normal_routine.is_null();
        apc.write(KAPC {
            Type: dispatcher::APC,
            SpareByte0: 0,
            Size: low8(size_of::<KAPC>() as u64),
            SpareByte1: 0,
            SpareLong0: 0,
            Thread: thread,
            ApcListEntry: LIST_ENTRY { Flink: Ptr::null(), Blink: Ptr::null() },
            KernelRoutine: kernel_routine.word(),
            RundownRoutine: rundown_routine.word(),
            NormalRoutine: normal_routine.word(),
            NormalContext: if is_special { 0 } else { context.word() },
            SystemArgument1: 0,
            SystemArgument2: 0,
            ApcStateIndex: index,
            ApcMode: if is_special { 0 } else { mode.0 },
            Inserted: 0,
        });
    }

    /// Queues an APC; FALSE if it is queued already or its thread is ending.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeInsertQueueApc(apc: Ptr<KAPC>, argument_1: Size, argument_2: Size, increment: Long) -> Boolean {
        let (thread, is_queued) = apc.with(|apc| (apc.Thread, apc.Inserted != 0));
        if is_queued || crate::ps::thread::is_ending(thread) {
            return false;
        }
        apc.with(|apc| {
            apc.SystemArgument1 = to_word(argument_1.0);
            apc.SystemArgument2 = to_word(argument_2.0);
        });
        insert(apc, increment);
        true
    }

    /// Takes an APC out of its thread's queue; FALSE if it is not in it.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeRemoveQueueApc(apc: Ptr<KAPC>) -> Boolean {
        let was_queued = apc.with(|apc| core::mem::take(&mut apc.Inserted)) != 0;
        if was_queued {
            link(apc).list_remove();
        }
        was_queued
    }

    /// Keeps normal kernel APCs away from the thread until KeLeaveCriticalRegion.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented bare(fast_enter_critical)
    fn KeEnterCriticalRegion() {
        disable(sched::current(), 1);
    }

    /// Undoes KeEnterCriticalRegion.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented bare(fast_leave_critical)
    fn KeLeaveCriticalRegion() {
        enable(sched::current(), 1);
    }

    /// As KeEnterCriticalRegion.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented bare(fast_enter_critical)
    fn FsRtlEnterFileSystem() {
        disable(sched::current(), 1);
    }

    /// As KeLeaveCriticalRegion.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented bare(fast_leave_critical)
    fn FsRtlExitFileSystem() {
        enable(sched::current(), 1);
    }

    /// Keeps all APCs away from the thread until KeLeaveGuardedRegion.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented bare(fast_enter_guarded)
    fn KeEnterGuardedRegion() {
        special_disable(sched::current()).with(|disable| *disable = disable.wrapping_sub(1));
    }

    /// Undoes KeEnterGuardedRegion.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented bare(fast_leave_guarded)
    fn KeLeaveGuardedRegion() {
        let thread = sched::current();
        special_disable(thread).with(|disable| *disable = disable.wrapping_add(1));
        look_again(thread);
    }

    /// Whether normal kernel APCs are kept away from the thread.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeAreApcsDisabled() -> Boolean {
        combined_disable(sched::current()) != 0
    }

    /// Whether all APCs are kept away from the thread, by a guarded region or by IRQL.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeAreAllApcsDisabled() -> Boolean {
        special_disable(sched::current()).read() != 0 || shared::irql() >= APC_LEVEL
    }

    /// Whether the thread was alerted in that mode, which ends with the question.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeTestAlertThread(mode: ProcessorMode) -> Boolean {
        let thread = sched::current();
        let index = usize::from(mode.0.min(1));
        let was_alerted = thread.with(|thread| thread.Alerted.get_mut(index).map_or(0, core::mem::take)) != 0;
        if !was_alerted && index == 1 && has_user_apc(thread) {
            thread.with(|thread| thread.UserApcPending = 1);
        }
        was_alerted
    }

    /// Alerts a thread: its alertable wait ends. TRUE if it was alerted already.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeAlertThread(thread: Ptr<KTHREAD>, mode: ProcessorMode) -> Boolean {
        alert(thread, mode.0)
    }
}
