//! The pages shared with the VMM: state words, trace ring, crash record, doorbell.

#![expect(
    clippy::inline_always,
    reason = "fast paths of exports are fast only if nothing is called; see crate::api"
)]

use alloc::string::String;
use core::fmt::{self, Write};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use crate::export::{Parameter, ValueKind};
#[cfg(not(nt_i386))]
use crate::nt::ANY_LEVEL;
use crate::nt::bugcheck::UNEXPECTED_KERNEL_MODE_TRAP;
use crate::nt::{OBJECT_ATTRIBUTES, STRING};
use crate::platform::{Platform, Trap};
use crate::raw::{
    Global, Ptr, low8, low32, narrow_string, prefix, unicode_text, volatile_read, volatile_write,
    wide_string,
};
use crate::seh::{LinkKind, across};
use abi::boot::BootInfo;
use abi::channel::{Completion, CompletionRing, RING_ENTRIES, Request, RequestRing, State};
use abi::crash::{CrashKind, CrashRecord, NO_VECTOR, Registers};
use abi::doorbell::Call;
use abi::interrupt::InterruptLines;
use abi::layout::{self, Shared};
use abi::trace::{
    Entry, TRACE_ARGUMENTS, TRACE_ENTRIES, TRACE_TEXT, TraceKind, TraceRecord, TraceRing,
};

mod record;

pub use record::trace;
use record::{BARE_DEPTH, FAST_DEPTH};
#[cfg(not(nt_i386))]
pub(crate) use record::{BareCall, FastCall};
pub(crate) use record::{trace_call, trace_return};

static PLATFORM: spin::Once<&'static dyn Platform> = spin::Once::new();
/// [`Platform::shared`], which every API call needs several times.
pub(crate) static SHARED: AtomicU64 = AtomicU64::new(0);
/// 1: calls may take the fast path, since nobody wants a complete trace. The entry code reads it.
pub(crate) static IS_FAST: AtomicU32 = AtomicU32::new(0);

/// The driver's return address of the API call that is being served, where that lies, and (i386) EBP.
static CALLER: AtomicU64 = AtomicU64::new(0);
static CALLER_STACK: AtomicU64 = AtomicU64::new(0);
static CALLER_EBP: AtomicU64 = AtomicU64::new(0);
/// The number of the export that is being served.
static EXPORT: AtomicU32 = AtomicU32::new(0);
/// The innermost boundary between driver and shim code on this stack: the address of a link of `seh::link`.
static LINKS: AtomicU64 = AtomicU64::new(0);

/// Where a driver called an export.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct CallSite {
    /// Return address; 0 outside of an API call.
    pub(crate) address: u64,
    /// Where the return address lies.
    pub(crate) stack: u64,
    /// EBP of an i386 caller.
    pub(crate) ebp: u32,
    /// The number of the export that was called.
    pub(crate) export: u32,
    /// The innermost link of `seh::link`; 0: none. Part of this because a thread switch changes all of it.
    pub(crate) links: u64,
}

impl CallSite {
    /// The current call site.
    pub(crate) fn current() -> Self {
        Self {
            address: CALLER.load(Ordering::Relaxed),
            stack: CALLER_STACK.load(Ordering::Relaxed),
            ebp: low32(CALLER_EBP.load(Ordering::Relaxed)),
            export: EXPORT.load(Ordering::Relaxed),
            links: LINKS.load(Ordering::Relaxed),
        }
    }

    /// Makes this the current call site; returns the one before.
    #[inline]
    pub(crate) fn swap(self) -> Self {
        // Loads and stores: nothing interrupts shim code, and an atomic exchange takes as long as ten of them.
        let before = Self::current();
        self.make_current();
        before
    }

    /// Makes this the current call site.
    #[inline]
    pub(crate) fn make_current(self) {
        LINKS.store(self.links, Ordering::Relaxed);
        CALLER.store(self.address, Ordering::Relaxed);
        CALLER_STACK.store(self.stack, Ordering::Relaxed);
        CALLER_EBP.store(u64::from(self.ebp), Ordering::Relaxed);
        EXPORT.store(self.export, Ordering::Relaxed);
    }
}

/// The driver's registers at the API call that is being served, as far as they are known.
#[must_use]
pub fn caller_registers() -> Registers {
    let stack = CALLER_STACK.load(Ordering::Relaxed);
    if stack == 0 {
        return Registers {
            rip: caller(),
            ..Registers::default()
        };
    }
    registers_at(&CallSite::current())
}

/// The driver's registers at a call, as far as they are known.
#[must_use]
pub(crate) fn registers_at(site: &CallSite) -> Registers {
    #[cfg(not(nt_i386))]
    {
        crate::raw::saved_registers(site.stack)
    }
    #[cfg(nt_i386)]
    {
        let mut registers = crate::raw::saved_registers(site.stack);
        registers.rip = site.address;
        registers.general[4] = site.stack + 4;
        registers.general[5] = u64::from(site.ebp);
        registers
    }
}

/// Installs the machine below the shim; the first one stays.
pub fn set_platform(platform: &'static dyn Platform) {
    let platform = *PLATFORM.call_once(|| platform);
    SHARED.store(platform.shared(), Ordering::Relaxed);
    IS_FAST.store(u32::from(trace_lossless() == 0), Ordering::Relaxed);
    volatile_write(
        state_address(offset_of!(State, caller_at)),
        CALLER.as_ptr() as u64,
    );
}

/// The machine below the shim.
///
/// # Panics
/// Before [`set_platform`].
#[must_use]
pub fn platform() -> &'static dyn Platform {
    *PLATFORM.get().expect("boot installs the platform first")
}

/// Address of the shared pages; [`set_platform`] comes first.
#[inline(always)]
fn shared_pages() -> u64 {
    SHARED.load(Ordering::Relaxed)
}

#[inline(always)]
fn state_address(field: usize) -> u64 {
    shared_pages().wrapping_add(Shared::STATE + field as u64)
}

macro_rules! state_word {
    ($($(#[$doc:meta])* $get:ident, $set:ident: $field:ident;)*) => {
        $(
            $(#[$doc])*
            #[inline(always)]
            #[must_use]
            pub fn $get() -> u32 {
                volatile_read(state_address(offset_of!(State, $field)))
            }
            $(#[$doc])*
            #[inline(always)]
            pub fn $set(value: u32) {
                volatile_write(state_address(offset_of!(State, $field)), value);
            }
        )*
    };
}

state_word! {
    /// [`State::shim_depth`].
    depth, set_depth: shim_depth;
    /// [`State::tick_due`].
    tick_due, set_tick_due: tick_due;
    /// [`State::interrupt_due`].
    interrupt_due, set_interrupt_due: interrupt_due;
    /// [`State::in_tick`].
    in_tick, set_in_tick: in_tick;
    /// [`State::current_process`].
    current_process, set_current_process: current_process;
    /// [`State::interrupts_masked`].
    interrupts_masked, set_interrupts_masked: interrupts_masked;
}

/// The interrupt lines as they are now.
pub(crate) fn interrupt_lines() -> InterruptLines {
    volatile_read(shared_pages() + Shared::INTERRUPTS)
}

fn lines_address(field: usize) -> u64 {
    shared_pages() + Shared::INTERRUPTS + field as u64
}

/// Takes pending edges: those of `edges`.
pub(crate) fn take_edges(edges: u64) {
    let taken = interrupt_lines().taken ^ edges;
    volatile_write(lines_address(offset_of!(InterruptLines, taken)), taken);
}

/// Sets [`InterruptLines::masked`].
pub(crate) fn set_masked_lines(masked: u64) {
    volatile_write(lines_address(offset_of!(InterruptLines, masked)), masked);
}

/// Where the shared pages lie in kernel space.
pub(crate) const PAGES_IN_KERNEL: u64 = layout::SHARED;
/// Bytes of the part of kernel space that is ever used.
pub(crate) const KERNEL_BYTES: u64 = layout::THREAD_STACKS + layout::THREAD_STACKS_SIZE;

/// Whether an address lies in the part of kernel space that is ever used: a fault there is a bugcheck, no handler of the
/// driver's is asked. (One is for an address that is not canonical.)
#[inline(always)]
pub(crate) fn is_kernel(address: u64) -> bool {
    let base = shared_pages().wrapping_sub(PAGES_IN_KERNEL);
    address.wrapping_sub(base) < KERNEL_BYTES
}

/// The address of [`State::shim_depth`].
#[must_use]
pub fn depth_address() -> u64 {
    state_address(offset_of!(State, shim_depth))
}

/// Current IRQL ([`State::irql`]).
#[must_use]
#[inline(always)]
pub fn irql() -> u8 {
    low8(u64::from(volatile_read::<u32>(state_address(offset_of!(
        State, irql
    )))))
}

/// Sets the current IRQL; see [`crate::ke`] for what lowering it has to deliver.
#[inline(always)]
pub fn set_irql(irql: u8) {
    volatile_write(state_address(offset_of!(State, irql)), u32::from(irql));
}

/// The address of a field of the boot information, by its offset.
#[must_use]
#[inline(always)]
pub fn boot_address(field: usize) -> u64 {
    shared_pages().wrapping_add(Shared::BOOT_INFO.wrapping_add(field as u64))
}

macro_rules! boot_word {
    ($($name:ident: $type:ty;)*) => {
        $(
            #[doc = concat!("[`BootInfo::", stringify!($name), "`].")]
            #[inline(always)]
            #[must_use]
            pub fn $name() -> $type {
                volatile_read(boot_address(offset_of!(BootInfo, $name)))
            }
        )*
    };
}

boot_word! {
    version: u32;
    privilege: u32;
    kernel_base: u64;
    tsc_khz: u64;
    boot_tsc: u64;
    ram_bytes: u64;
    system_time: u64;
    pool_bytes: u64;
    user_bytes: u64;
    trace_lossless: u32;
    windows: u32;
    kernel_data_rva: u32;
    shim_data: u64;
    shim_data_bytes: u64;
    verify: u32;
    region_count: u32;
}

/// Calls a routine of the driver: traced, and with the depth of shim code at 0 meanwhile, because the driver's
/// own code may be interrupted. No [`crate::raw::Global`] may be in use.
pub fn call_driver(entry: Entry, function: u64, arguments: &[u64]) -> u64 {
    let mut record = [0; TRACE_ARGUMENTS];
    record[0] = function;
    for (slot, argument) in record[1..].iter_mut().zip(arguments) {
        *slot = *argument;
    }
    let count = (arguments.len() + 1).min(TRACE_ARGUMENTS);
    trace(TraceKind::Enter, entry as u32, 0, &record[..count], "");
    let outer_depth = depth();
    let kind = if matches!(entry, Entry::Dpc | Entry::Interrupt) {
        LinkKind::End
    } else {
        LinkKind::Call
    };
    let result = across(kind, || {
        set_depth(0);
        let result = platform().call_driver(function, arguments);
        set_depth(outer_depth);
        result
    });
    trace(TraceKind::Leave, entry as u32, 0, &[result], "");
    result
}

/// Calls a part of a driver's function in its frame; see [`Platform::call_funclet`]. Otherwise as [`call_driver`].
#[cfg(nt_i386)]
pub(crate) fn call_funclet(function: u64, frame_pointer: u64) -> u64 {
    trace(
        TraceKind::Enter,
        Entry::Other as u32,
        0,
        &[function, frame_pointer],
        "",
    );
    let outer_depth = depth();
    let result = across(LinkKind::Call, || {
        set_depth(0);
        let result = platform().call_funclet(function, frame_pointer);
        set_depth(outer_depth);
        result
    });
    trace(TraceKind::Leave, Entry::Other as u32, 0, &[result], "");
    result
}

/// The driver's return address of the API call that is being served; 0 outside of one.
#[must_use]
pub fn caller() -> u64 {
    match depth() {
        BARE_DEPTH.. => return 0,
        FAST_DEPTH.. => return record::last_caller(),
        _ => {}
    }
    CALLER.load(Ordering::Relaxed)
}

/// [`caller`] on a fast path that leaves a record.
#[inline(always)]
pub(crate) fn fast_caller() -> u64 {
    record::last_caller()
}

/// Where that return address lies; 0 outside of an API call.
pub(crate) fn caller_stack() -> u64 {
    CALLER_STACK.load(Ordering::Relaxed)
}

/// Enters shim code from the driver. Returns what [`leave`] wants.
pub(crate) fn enter(site: CallSite) -> CallSite {
    set_depth(depth() + 1);
    CallSite {
        links: LINKS.load(Ordering::Relaxed),
        ..site
    }
    .swap()
}

/// Leaves shim code for the driver, after delivering what was deferred if it is the outermost call.
pub(crate) fn leave(outer_caller: CallSite) {
    outer_caller.make_current();
    if depth() == 1 {
        crate::ke::deliver_deferred();
    }
    set_depth(depth() - 1);
}

/// Text of bounded length; what does not fit is cut off.
struct Text<'a> {
    bytes: &'a mut [u8],
    used: usize,
}

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.bytes[self.used..];
        let text = prefix(text, room.len());
        room[..text.len()].copy_from_slice(text.as_bytes());
        self.used += text.len();
        Ok(())
    }
}

/// The crash that is to be reported, while bugcheck callbacks run.
static PENDING: Global<Option<CrashRecord>> = Global::new("pending crash", None);

/// Fills the crash record and stops the guest for good. Before that, the driver's bugcheck callbacks run; a crash in
/// one of them ends them, and the first crash is reported.
pub fn crash(
    kind: CrashKind,
    code: u32,
    parameters: [u64; 4],
    registers: &Registers,
    trap: Option<&Trap>,
    text: fmt::Arguments<'_>,
) -> ! {
    let platform = platform();
    let mut record = CrashRecord {
        kind: kind as u32,
        code,
        parameters,
        registers: *registers,
        vector: trap.map_or(NO_VECTOR, |trap| trap.vector),
        error_code: trap.map_or(0, |trap| trap.error_code),
        irql: u32::from(irql()),
        text_bytes: 0,
        text: [0; 512],
    };
    let mut writer = Text {
        bytes: &mut record.text,
        used: 0,
    };
    // Writing to `Text` cannot fail; what does not fit is cut off.
    let _ = writer.write_fmt(text);
    record.text_bytes = low32(writer.used as u64);
    // Behind a stack that has run over no callback can run.
    let can_call = kind == CrashKind::Bugcheck && code != UNEXPECTED_KERNEL_MODE_TRAP;
    let first = PENDING.with(|pending| pending.replace(record));
    if first.is_none() && can_call {
        crate::ke::bugcheck_callback::run();
    }
    PENDING.with(Option::take);
    let record = first.unwrap_or(record);
    volatile_write(shared_pages() + Shared::CRASH, record);
    platform.doorbell(Call::Crash, [0; 6]);
    platform.halt()
}

/// Takes the VMM's next request; `None` when there is none.
pub(crate) fn next_request() -> Option<Request> {
    let ring = shared_pages() + Shared::REQUESTS;
    let consumed_at = ring + offset_of!(RequestRing, consumed) as u64;
    let consumed: u64 = volatile_read(consumed_at);
    let produced: u64 = volatile_read(ring + offset_of!(RequestRing, produced) as u64);
    if produced == consumed {
        return None;
    }
    fence(Ordering::Acquire);
    let slot = consumed % RING_ENTRIES as u64;
    let entries = ring + offset_of!(RequestRing, entries) as u64;
    let request = volatile_read(entries + slot * size_of::<Request>() as u64);
    volatile_write(consumed_at, consumed.wrapping_add(1));
    Some(request)
}

/// Posts a completion: to the VMM, or to the client from whose queue the request came.
pub(crate) fn post(completion: &Completion) {
    if crate::client::is_for_client(completion.id) {
        crate::client::complete(completion);
        return;
    }
    let ring = shared_pages() + Shared::COMPLETIONS;
    let produced_at = ring + offset_of!(CompletionRing, produced) as u64;
    let produced: u64 = volatile_read(produced_at);
    let slot = produced % RING_ENTRIES as u64;
    let entries = ring + offset_of!(CompletionRing, entries) as u64;
    volatile_write(entries + slot * size_of::<Completion>() as u64, *completion);
    fence(Ordering::Release);
    volatile_write(produced_at, produced.wrapping_add(1));
}
