//! Exceptions of i386 drivers: a chain of registrations on the stack, its head at fs:0.
//!
//! A handler is called while a registration of the shim's own is the head of the chain, so that an exception or unwind
//! inside it is noticed: its "handler" is one of three addresses that no code has.
//!
//! A driver's own handler that takes an exception calls RtlUnwind and then jumps to its frame. The shim's frames between
//! the two are gone with that, so nothing may depend on their coming to an end: what they would have to restore is either
//! what holds for running driver code anyway (depth 0, no call being served, no cell in use, all of which
//! `shared::call_driver` has set up for the handler) or found by the stack pointer (guest-stub's `thunk32`). The IRQL
//! stays as it is, as NT's does.

use super::Dispatched;
use super::link::outside;
use super::raise_nested;
use crate::nt::bugcheck::{DRIVER_OVERRAN_STACK_BUFFER, bugcheck_with_text};
use crate::nt::{
    CONTEXT, CONTEXT_FULL, EXCEPTION_EXIT_UNWIND, EXCEPTION_NESTED_CALL, EXCEPTION_NONCONTINUABLE,
    EXCEPTION_POINTERS, EXCEPTION_RECORD, EXCEPTION_STACK_INVALID, EXCEPTION_TARGET_UNWIND,
    EXCEPTION_UNWINDING, FxSave, NtStatus, Registration, disposition,
};
use crate::raw::{Ptr, fpu_state, let_driver_run, low32};
use crate::shared::{self, CallSite};
use alloc::vec::Vec;

use abi::crash::Registers;
use abi::layout;
use abi::trace::Entry;

/// Ends the chain.
pub(super) const CHAIN_END: u32 = u32::MAX;
/// Most registrations that are looked at.
const CHAIN_LIMIT: u32 = 4096;
/// Handlers of the shim's own registrations: around a handler for an exception, around one for an unwind, around the
/// `__finally` blocks of a frame that the shim's own handler unwinds.
const EXCEPTION_GUARD: u32 = 0xFFFF_FFF1;
const UNWIND_GUARD: u32 = 0xFFFF_FFF2;
const LOCAL_GUARD: u32 = 0xFFFF_FFF3;
/// Try level outside of every `__try`, for the two generations of handlers.
const NO_TRY: i32 = -1;
const NO_TRY_4: i32 = -2;

/// A CONTEXT of these registers.
pub(crate) fn context_of(registers: &Registers, fpu: &FxSave) -> CONTEXT {
    let general = |number: usize| low32(registers.general[number]);
    CONTEXT {
        ContextFlags: CONTEXT_FULL,
        Debug: [0; 6],
        FloatSave: [0; 28],
        Segments: [0, 0x30, 0x23, 0x23],
        Edi: general(7),
        Esi: general(6),
        Ebx: general(3),
        Edx: general(2),
        Ecx: general(1),
        Eax: general(0),
        Ebp: general(5),
        Eip: low32(registers.rip),
        SegCs: 8,
        EFlags: low32(registers.rflags),
        Esp: general(4),
        SegSs: 0x10,
        ExtendedRegisters: fpu.0,
    }
}

/// The registers of a CONTEXT.
pub(crate) fn registers_of(context: &CONTEXT) -> Registers {
    let mut registers = Registers {
        rip: context.Eip.into(),
        rflags: context.EFlags.into(),
        ..Registers::default()
    };
    let values = [
        context.Eax,
        context.Ecx,
        context.Edx,
        context.Ebx,
        context.Esp,
        context.Ebp,
        context.Esi,
        context.Edi,
    ];
    for (register, value) in registers.general.iter_mut().zip(values) {
        *register = value.into();
    }
    registers
}

/// The driver's context at an API call.
pub(crate) fn context_at(site: &CallSite) -> CONTEXT {
    context_of(&shared::registers_at(site), &fpu_state())
}

fn head() -> Ptr<u32> {
    Ptr::new(shared::kernel_base() + layout::PCR)
}

/// Changes the head of the chain; returns the one before.
pub(super) fn swap_chain(head_of: u32) -> u32 {
    let before = head().read();
    head().write(head_of);
    before
}

fn stack_limits() -> (u64, u64) {
    let base: u32 = head().add_bytes(4).read();
    let limit: u32 = head().add_bytes(8).read();
    (limit.into(), base.into())
}

fn is_valid(frame: u32) -> bool {
    let (limit, base) = stack_limits();
    let frame = u64::from(frame);
    frame >= limit && frame + 8 <= base && frame.is_multiple_of(4)
}

/// A registration of the shim's own, with what it guards.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Guard {
    next: u32,
    handler: u32,
    guarded: u32,
}

/// Calls a handler with a guard in the chain.
fn call_handler(
    kind: u32,
    frame: Ptr<Registration>,
    record: Ptr<EXCEPTION_RECORD>,
    context: Ptr<CONTEXT>,
    dispatcher: Ptr<u32>,
) -> u32 {
    let outer = head().read();
    let mut guard = Guard {
        next: outer,
        handler: kind,
        guarded: low32(frame.addr()),
    };
    head().write(low32(Ptr::of(&mut guard).addr()));
    let arguments = [
        record.addr(),
        frame.addr(),
        context.addr(),
        dispatcher.addr(),
    ];
    let handler = frame.read().Handler;
    let answer = shared::call_driver(Entry::Other, handler.into(), &arguments);
    head().write(outer);
    low32(answer)
}

/// Looks for a handler, from the code that `context` is of. It may change the context.
pub(super) fn dispatch(record: Ptr<EXCEPTION_RECORD>, context: Ptr<CONTEXT>) -> Dispatched {
    outside(|| {
        let mut frame = head().read();
        let mut nested = 0;
        for _ in 0..CHAIN_LIMIT {
            if frame == CHAIN_END {
                return Dispatched::Unhandled;
            }
            if !is_valid(frame) {
                record.with(|record| record.ExceptionFlags |= EXCEPTION_STACK_INVALID);
                return Dispatched::Unhandled;
            }
            let at = Ptr::<Registration>::new(frame.into());
            let registration = Ptr::<Guard>::new(frame.into()).read();
            if registration.handler == EXCEPTION_GUARD {
                // An exception in a handler: the frames up to the guarded one see it as nested.
                record.with(|record| record.ExceptionFlags |= EXCEPTION_NESTED_CALL);
                nested = nested.max(registration.guarded);
                frame = registration.next;
                continue;
            }
            if matches!(registration.handler, UNWIND_GUARD | LOCAL_GUARD) {
                frame = registration.next;
                continue;
            }
            if nested == frame {
                record.with(|record| record.ExceptionFlags &= !EXCEPTION_NESTED_CALL);
                nested = 0;
            }
            let mut dispatcher = 0;
            let answer = call_handler(
                EXCEPTION_GUARD,
                at,
                record,
                context,
                Ptr::of(&mut dispatcher),
            );
            match answer {
                disposition::CONTINUE_EXECUTION => {
                    if record.read().ExceptionFlags & EXCEPTION_NONCONTINUABLE != 0 {
                        return Dispatched::Raise(NtStatus::NONCONTINUABLE_EXCEPTION);
                    }
                    return Dispatched::Continue;
                }
                disposition::CONTINUE_SEARCH | disposition::NESTED_EXCEPTION => {}
                _ => return Dispatched::Raise(NtStatus::INVALID_DISPOSITION),
            }
            frame = at.read().Next;
        }
        Dispatched::Unhandled
    })
}

/// RtlUnwind: calls the handlers inside `target` to clean up and takes them off the chain. Null leaves all.
pub(super) fn unwind(target: u32, record: Ptr<EXCEPTION_RECORD>) {
    let site = CallSite::current();
    let mut own = EXCEPTION_RECORD {
        ExceptionCode: NtStatus::UNWIND.0,
        ExceptionAddress: low32(site.address),
        ..EXCEPTION_RECORD::default()
    };
    let record = if record.is_null() {
        Ptr::of(&mut own)
    } else {
        record
    };
    let exit = if target == 0 {
        EXCEPTION_EXIT_UNWIND
    } else {
        0
    };
    record.with(|record| record.ExceptionFlags |= EXCEPTION_UNWINDING | exit);
    let mut context = if site.stack == 0 {
        context_of(&Registers::default(), &fpu_state())
    } else {
        context_at(&site)
    };
    // The frame whose `__finally` blocks an earlier unwind was running.
    let mut unfinished = 0;
    for _ in 0..CHAIN_LIMIT {
        let frame = head().read();
        if frame == CHAIN_END || (target != 0 && frame == target) {
            return;
        }
        if target != 0 && frame > target {
            break;
        }
        if !is_valid(frame) {
            raise_nested(record, NtStatus::BAD_STACK);
        }
        let at = Ptr::<Registration>::new(frame.into());
        let guard = Ptr::<Guard>::new(frame.into()).read();
        match guard.handler {
            EXCEPTION_GUARD => head().write(guard.next),
            LOCAL_GUARD => {
                unfinished = guard.guarded;
                head().write(guard.next);
            }
            UNWIND_GUARD => {
                // A collided unwind: the frame's handler was at work, and is not called again. The shim's own is: the
                // blocks that are left are known by the try level.
                head().write(guard.next);
                if guard.guarded != unfinished {
                    unlink_through(guard.guarded);
                }
            }
            _ => {
                let mut dispatcher = frame;
                let dispatcher_at = Ptr::of(&mut dispatcher);
                let answer = call_handler(
                    UNWIND_GUARD,
                    at,
                    record,
                    Ptr::of(&mut context),
                    dispatcher_at,
                );
                match answer {
                    disposition::CONTINUE_SEARCH => unlink_through(frame),
                    // The handler says with which frame the earlier unwind was busy.
                    disposition::COLLIDED_UNWIND => unlink_through(dispatcher_at.read()),
                    _ => raise_nested(record, NtStatus::INVALID_DISPOSITION),
                }
            }
        }
    }
    raise_nested(record, NtStatus::INVALID_UNWIND_TARGET)
}

/// Takes a registration and all inside it off the chain.
fn unlink_through(frame: u32) {
    if is_valid(frame) {
        head().write(Ptr::<Registration>::new(frame.into()).read().Next);
    } else {
        // What the next step of the unwind finds, and raises for.
        head().write(frame);
    }
}

/// Goes on with a context, in the driver's code; what the stack has below it is abandoned.
pub(super) fn resume(context: &CONTEXT) -> ! {
    CallSite::default().make_current();
    let_driver_run(0);
    let fpu = FxSave(context.ExtendedRegisters);
    shared::platform().resume(&registers_of(context), true, Some(&fpu), 0)
}

/// A scope table's entry.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Scope {
    enclosing: i32,
    filter: u32,
    handler: u32,
}

/// How a generation of MSVC's handlers finds its scopes.
#[derive(Clone, Copy, Debug)]
struct Generation {
    scopes: u32,
    none: i32,
}

impl Generation {
    fn scope(self, level: i32) -> Scope {
        let index = i64::from(level);
        Ptr::<Scope>::new(self.scopes.into()).offset(index).read()
    }
}

/// EBP of the function that a registration belongs to.
fn frame_pointer(frame: Ptr<Registration>) -> u64 {
    frame.addr() + size_of::<Registration>() as u64
}

fn call_funclet(function: u32, frame: Ptr<Registration>) -> i32 {
    low32(shared::call_funclet(function.into(), frame_pointer(frame))).cast_signed()
}

/// Runs the `__finally` blocks from the frame's try level out to `stop`.
fn local_unwind(frame: Ptr<Registration>, generation: Generation, stop: i32) {
    let outer = head().read();
    let mut guard = Guard {
        next: outer,
        handler: LOCAL_GUARD,
        guarded: low32(frame.addr()),
    };
    head().write(low32(Ptr::of(&mut guard).addr()));
    for _ in 0..CHAIN_LIMIT {
        let level = frame.read().TryLevel;
        if level == generation.none || (stop != generation.none && level <= stop) {
            break;
        }
        let scope = generation.scope(level);
        frame.with(|registration| registration.TryLevel = scope.enclosing);
        if scope.filter == 0 {
            call_funclet(scope.handler, frame);
        }
    }
    head().write(outer);
}

fn handle(
    record: Ptr<EXCEPTION_RECORD>,
    frame: Ptr<Registration>,
    context: Ptr<CONTEXT>,
    generation: Generation,
) -> u32 {
    let flags = record.read().ExceptionFlags;
    if flags & (EXCEPTION_UNWINDING | EXCEPTION_EXIT_UNWIND) != 0 {
        if flags & EXCEPTION_TARGET_UNWIND == 0 {
            local_unwind(frame, generation, generation.none);
        }
        return disposition::CONTINUE_SEARCH;
    }
    let mut pointers = EXCEPTION_POINTERS {
        ExceptionRecord: record,
        ContextRecord: context,
    };
    // The word below the registration is what GetExceptionInformation reads.
    frame
        .sub_bytes(4)
        .cast()
        .write(low32(Ptr::of(&mut pointers).addr()));
    let mut level = frame.read().TryLevel;
    for _ in 0..CHAIN_LIMIT {
        if level == generation.none {
            break;
        }
        let scope = generation.scope(level);
        if scope.filter != 0 {
            let verdict = call_funclet(scope.filter, frame);
            if verdict < 0 {
                return disposition::CONTINUE_EXECUTION;
            }
            if verdict > 0 {
                unwind(low32(frame.addr()), record);
                local_unwind(frame, generation, level);
                frame.with(|registration| registration.TryLevel = scope.enclosing);
                enter_except_block(frame, scope.handler);
            }
        }
        level = scope.enclosing;
    }
    disposition::CONTINUE_SEARCH
}

/// Goes on in an `__except` block; it takes ESP from its frame, two words below the registration.
fn enter_except_block(frame: Ptr<Registration>, block: u32) -> ! {
    let mut context = context_of(&Registers::default(), &fpu_state());
    context.Eip = block;
    context.Ebp = low32(frame_pointer(frame));
    context.Esp = frame.sub_bytes(8).cast().read();
    context.EFlags = 0x202;
    resume(&context)
}

/// `_except_handler3`.
pub(super) fn except_handler3(
    record: Ptr<EXCEPTION_RECORD>,
    frame: Ptr<Registration>,
    context: Ptr<CONTEXT>,
) -> u32 {
    let generation = Generation {
        scopes: frame.read().ScopeTable,
        none: NO_TRY,
    };
    handle(record, frame, context, generation)
}

/// The head of a scope table of the fourth generation.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct CookieOffsets {
    gs_cookie: i32,
    gs_cookie_xor: i32,
    eh_cookie: i32,
    eh_cookie_xor: i32,
}

/// `_except_handler4_common`.
pub(super) fn except_handler4(
    cookie: Ptr<u32>,
    record: Ptr<EXCEPTION_RECORD>,
    frame: Ptr<Registration>,
    context: Ptr<CONTEXT>,
) -> u32 {
    let expected = cookie.read();
    let table = frame.read().ScopeTable ^ expected;
    let offsets = Ptr::<CookieOffsets>::new(table.into()).read();
    let ebp = frame_pointer(frame);
    let check = |value_at: i32, base_at: i32| {
        let value = Ptr::<u32>::new(ebp.wrapping_add_signed(value_at.into())).read();
        let base = low32(ebp.wrapping_add_signed(base_at.into()));
        if value ^ base != expected {
            bugcheck_with_text(
                DRIVER_OVERRAN_STACK_BUFFER,
                [
                    u64::from(value ^ base),
                    u64::from(expected),
                    u64::from(!expected),
                    0,
                ],
                format_args!("the security cookie of a function's frame was overwritten"),
            );
        }
    };
    const NO_GS_COOKIE: i32 = -2;
    if offsets.gs_cookie != NO_GS_COOKIE {
        check(offsets.gs_cookie, offsets.gs_cookie_xor);
    }
    check(offsets.eh_cookie, offsets.eh_cookie_xor);
    let generation = Generation {
        scopes: table + low32(size_of::<CookieOffsets>() as u64),
        none: NO_TRY_4,
    };
    handle(record, frame, context, generation)
}

/// `_local_unwind2`.
pub(super) fn local_unwind2(frame: Ptr<Registration>, stop: i32) {
    let generation = Generation {
        scopes: frame.read().ScopeTable,
        none: NO_TRY,
    };
    local_unwind(frame, generation, stop);
}

/// `_abnormal_termination`: whether a `__finally` block that asks runs because of an unwind.
pub(super) fn is_abnormal_termination() -> bool {
    // Its frame is being unwound locally exactly when the head of the chain is that unwind's guard.
    let frame = head().read();
    frame != CHAIN_END
        && is_valid(frame)
        && Ptr::<Guard>::new(frame.into()).read().handler == LOCAL_GUARD
}

/// Return addresses of the driver's frames from the code at `site` on, by frame pointers.
pub(super) fn back_trace(site: &CallSite, skip: usize, room: usize) -> Vec<u64> {
    let mut addresses = Vec::new();
    if site.stack == 0 || skip.saturating_add(room) == 0 {
        return addresses;
    }
    addresses.push(site.address);
    let (limit, base) = stack_limits();
    let mut ebp = u64::from(site.ebp);
    while addresses.len() < skip.saturating_add(room) {
        if ebp < limit || ebp + 8 > base || !ebp.is_multiple_of(4) {
            break;
        }
        let [next, return_address] = Ptr::<[u32; 2]>::new(ebp).read();
        if crate::io::driver::by_address(return_address.into()).is_none() {
            break;
        }
        addresses.push(return_address.into());
        if u64::from(next) <= ebp {
            break;
        }
        ebp = next.into();
    }
    addresses.drain(..skip.min(addresses.len()));
    addresses
}
