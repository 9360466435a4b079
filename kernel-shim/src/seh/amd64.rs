//! Exceptions of amd64 drivers: tables in the image say how to unwind each function and which handler it has.

use super::Dispatched;
use super::link::{Link, LinkKind, above, with_exception, with_unwind};
use super::unwind::{
    UNW_FLAG_EHANDLER, UNW_FLAG_UHANDLER, leave_leaf, lookup, set_xmm, virtual_unwind,
};
use crate::io::driver;
use crate::mm;
use crate::nt::{
    CONTEXT, CONTEXT_FULL, DISPATCHER_CONTEXT, EXCEPTION_COLLIDED_UNWIND, EXCEPTION_EXIT_UNWIND,
    EXCEPTION_NONCONTINUABLE, EXCEPTION_POINTERS, EXCEPTION_RECORD, EXCEPTION_TARGET_UNWIND,
    EXCEPTION_UNWINDING, FxSave, NtStatus, disposition,
};
use crate::raw::{Held, Ptr, fpu_state, let_driver_run, low16, low32, saved_xmm};
use crate::shared::{self, CallSite};
use alloc::vec::Vec;

use abi::boot::RegionKind;
use abi::crash::Registers;
use abi::trace::Entry;

const RAX: usize = 0;
const RSP: usize = 4;
/// Most frames that are walked: a stack has no room for more.
const FRAME_LIMIT: u32 = 4096;

/// A CONTEXT of these registers.
pub(crate) fn context_of(registers: &Registers, fpu: &FxSave) -> CONTEXT {
    let mut mxcsr = [0; 4];
    mxcsr.copy_from_slice(&fpu.0[24..28]);
    CONTEXT {
        Home: [0; 6],
        ContextFlags: CONTEXT_FULL,
        MxCsr: u32::from_le_bytes(mxcsr),
        Segments: [low16(registers.cs), 0x2B, 0x2B, 0x53, 0x2B, 0x18],
        EFlags: low32(registers.rflags),
        Debug: [0; 6],
        General: registers.general,
        Rip: registers.rip,
        FltSave: *fpu,
        Vector: [0; 26],
        Rest: [0; 6],
    }
}

/// The registers of a CONTEXT.
pub(crate) fn registers_of(context: &CONTEXT) -> Registers {
    Registers {
        general: context.General,
        rip: context.Rip,
        rflags: u64::from(context.EFlags),
        ..Registers::default()
    }
}

/// The driver's context at an API call.
pub(crate) fn context_at(site: &CallSite) -> CONTEXT {
    let mut context = context_of(&shared::registers_at(site), &fpu_state());
    for (register, value) in (6..).zip(saved_xmm(site.stack)) {
        set_xmm(&mut context, register, value);
    }
    context
}

/// A frame of a walk.
#[derive(Clone, Copy, Debug)]
struct Frame {
    dispatcher: DISPATCHER_CONTEXT,
    has_handler: bool,
    /// The registers in the frame, before it is unwound.
    context: CONTEXT,
    /// An unwind of this frame was going on: its handler is called again for the scopes that are left.
    is_collided: bool,
}

/// A walk over the driver's frames, from the inside out.
#[derive(Debug)]
struct Walk {
    context: CONTEXT,
    links: u64,
    handler_type: u8,
    steps: u32,
}

impl Walk {
    fn new(context: CONTEXT, links: u64, handler_type: u8) -> Self {
        Self {
            context,
            links,
            handler_type,
            steps: 0,
        }
    }

    /// The next frame; `None` at the end of the stack or where it cannot be walked.
    fn next(&mut self) -> Option<Frame> {
        // A fault in here is the stack's or the image's: nothing to be handled by a driver.
        let _held = Held::new();
        loop {
            self.steps += 1;
            if self.steps > FRAME_LIMIT {
                return None;
            }
            let pc = self.context.Rip;
            let Some(image) = driver::by_address(pc) else {
                if !is_shim(pc) {
                    // A call of something that is no code has pushed a return address and no more.
                    leave_leaf(&mut self.context);
                    continue;
                }
                if let Some(frame) = self.cross()? {
                    return Some(frame);
                }
                continue;
            };
            let Some((entry_at, function)) = lookup(image.base, pc) else {
                leave_leaf(&mut self.context);
                continue;
            };
            let before = self.context;
            let unwound = virtual_unwind(
                self.handler_type,
                image.base,
                pc,
                function,
                &mut self.context,
            );
            return Some(Frame {
                dispatcher: DISPATCHER_CONTEXT {
                    ControlPc: pc,
                    ImageBase: image.base,
                    FunctionEntry: entry_at,
                    EstablisherFrame: unwound.establisher,
                    LanguageHandler: unwound.handler.map_or(0, |(handler, _)| handler),
                    HandlerData: unwound.handler.map_or(0, |(_, data)| data),
                    ..DISPATCHER_CONTEXT::default()
                },
                has_handler: unwound.handler.is_some(),
                context: before,
                is_collided: false,
            });
        }
    }

    /// Goes on behind shim code: at the innermost link. `None`: the walk ends there. `Some(Some(frame))`: in a frame
    /// that was being unwound.
    fn cross(&mut self) -> Option<Option<Frame>> {
        let link = Link::at(self.links)?;
        self.links = link.site.links;
        match link.kind {
            LinkKind::End => None,
            LinkKind::Call if link.site.stack != 0 => {
                self.context = context_at(&link.site);
                Some(None)
            }
            LinkKind::Call => match Link::at(self.links)?.kind {
                LinkKind::Exception | LinkKind::Unwind => self.cross(),
                LinkKind::Call | LinkKind::End => None,
            },
            LinkKind::Exception => {
                self.context = link.context.read();
                Some(None)
            }
            LinkKind::Unwind => {
                let dispatcher = link.dispatcher.read();
                let context = Ptr::<CONTEXT>::new(dispatcher.ContextRecord).read();
                self.context = context;
                let (_, function) = lookup(dispatcher.ImageBase, dispatcher.ControlPc)?;
                virtual_unwind(
                    self.handler_type,
                    dispatcher.ImageBase,
                    dispatcher.ControlPc,
                    function,
                    &mut self.context,
                );
                Some(Some(Frame {
                    dispatcher,
                    has_handler: true,
                    context,
                    is_collided: true,
                }))
            }
        }
    }
}

/// Whether an address is in the shim's code. Unit tests' drivers and the shim are one program.
fn is_shim(pc: u64) -> bool {
    cfg!(test) || mm::is_in(pc, RegionKind::Shim)
}

fn call_handler(
    frame: &mut Frame,
    record: Ptr<EXCEPTION_RECORD>,
    context: Ptr<CONTEXT>,
    dispatcher: Ptr<DISPATCHER_CONTEXT>,
) -> u32 {
    frame.dispatcher.ContextRecord = context.addr();
    dispatcher.write(frame.dispatcher);
    let arguments = [
        record.addr(),
        frame.dispatcher.EstablisherFrame,
        context.addr(),
        dispatcher.addr(),
    ];
    low32(shared::call_driver(
        Entry::Other,
        frame.dispatcher.LanguageHandler,
        &arguments,
    ))
}

/// Looks for a handler, from the code that `context` is of. It may change the context.
pub(super) fn dispatch(record: Ptr<EXCEPTION_RECORD>, context: Ptr<CONTEXT>) -> Dispatched {
    let links = CallSite::current().links;
    with_exception(context, || {
        let mut walk = Walk::new(context.read(), links, UNW_FLAG_EHANDLER);
        while let Some(mut frame) = walk.next() {
            if !frame.has_handler {
                continue;
            }
            let mut local = DISPATCHER_CONTEXT::default();
            let answer = call_handler(&mut frame, record, context, Ptr::of(&mut local));
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
        }
        Dispatched::Unhandled
    })
}

/// RtlUnwindEx: calls the termination handlers of the frames inside `target_frame`, then goes on at `target_ip` in that
/// frame. A null target frame leaves all.
pub(super) fn unwind_ex(
    target_frame: u64,
    target_ip: u64,
    record: Ptr<EXCEPTION_RECORD>,
    return_value: u64,
    history: u64,
) -> ! {
    let site = CallSite::current();
    let mut own = EXCEPTION_RECORD {
        ExceptionCode: NtStatus::UNWIND.0,
        ExceptionAddress: site.address,
        ..EXCEPTION_RECORD::default()
    };
    let record = if record.is_null() {
        Ptr::of(&mut own)
    } else {
        record
    };
    let exit = if target_frame == 0 {
        EXCEPTION_EXIT_UNWIND
    } else {
        0
    };
    let mut walk = Walk::new(context_at(&site), site.links, UNW_FLAG_UHANDLER);
    while let Some(mut frame) = walk.next() {
        let is_target = frame.dispatcher.EstablisherFrame == target_frame;
        if target_frame != 0 && frame.dispatcher.EstablisherFrame > target_frame {
            break;
        }
        if frame.has_handler {
            let mut flags = record.read().ExceptionFlags
                & !(EXCEPTION_COLLIDED_UNWIND | EXCEPTION_TARGET_UNWIND)
                | EXCEPTION_UNWINDING
                | exit;
            if is_target {
                flags |= EXCEPTION_TARGET_UNWIND;
            }
            if frame.is_collided {
                flags |= EXCEPTION_COLLIDED_UNWIND;
            }
            record.with(|record| record.ExceptionFlags = flags);
            frame.dispatcher.TargetIp = target_ip;
            frame.dispatcher.HistoryTable = history;
            let mut context = frame.context;
            context.General[RAX] = return_value;
            let mut local = DISPATCHER_CONTEXT::default();
            let at = Ptr::of(&mut local);
            let context_at = Ptr::of(&mut context);
            let answer = with_unwind(at, || call_handler(&mut frame, record, context_at, at));
            if answer != disposition::CONTINUE_SEARCH {
                super::raise_nested(record, NtStatus::INVALID_DISPOSITION);
            }
            frame.context = context_at.read();
        }
        if is_target {
            let mut context = frame.context;
            context.General[RAX] = return_value;
            context.Rip = target_ip;
            resume(&context)
        }
    }
    super::raise_nested(record, NtStatus::INVALID_UNWIND_TARGET)
}

/// Goes on with a context, in the driver's code; what the stack has below it is abandoned.
pub(super) fn resume(context: &CONTEXT) -> ! {
    CallSite {
        links: above(context.General[RSP]),
        ..CallSite::default()
    }
    .swap();
    let_driver_run(0);
    shared::platform().resume(&registers_of(context), false, Some(&context.FltSave), 0)
}

/// A C scope table's entry; addresses relative to the image.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Scope {
    begin: u32,
    end: u32,
    /// Filter (1: always taken), or the `__finally` if there is no target.
    handler: u32,
    /// The `__except` block; 0 for a `__finally`.
    target: u32,
}

/// `__C_specific_handler`.
pub(super) fn c_specific_handler(
    record: Ptr<EXCEPTION_RECORD>,
    establisher: u64,
    context: Ptr<CONTEXT>,
    dispatcher_at: Ptr<DISPATCHER_CONTEXT>,
) -> u32 {
    let dispatcher = dispatcher_at.read();
    let image = dispatcher.ImageBase;
    let pc = dispatcher.ControlPc.wrapping_sub(image);
    let table = dispatcher.HandlerData;
    let count = Ptr::<u32>::new(table).read();
    let flags = record.read().ExceptionFlags;
    let is_unwinding = flags & (EXCEPTION_UNWINDING | EXCEPTION_EXIT_UNWIND) != 0;
    let target_pc = dispatcher.TargetIp.wrapping_sub(image);
    for index in dispatcher.ScopeIndex..count {
        let at = table + 4 + u64::from(index) * size_of::<Scope>() as u64;
        let scope = Ptr::<Scope>::new(at).read();
        let covers = |pc: u64| (u64::from(scope.begin)..u64::from(scope.end)).contains(&pc);
        if !covers(pc) {
            continue;
        }
        let handler = image + u64::from(scope.handler);
        if !is_unwinding {
            if scope.target == 0 {
                continue;
            }
            let verdict = if scope.handler == 1 {
                1
            } else {
                let mut pointers = EXCEPTION_POINTERS {
                    ExceptionRecord: record,
                    ContextRecord: context,
                };
                let arguments = [Ptr::of(&mut pointers).addr(), establisher];
                low32(shared::call_driver(Entry::Other, handler, &arguments)).cast_signed()
            };
            if verdict < 0 {
                return disposition::CONTINUE_EXECUTION;
            }
            if verdict > 0 {
                let code = u64::from(record.read().ExceptionCode);
                unwind_ex(
                    establisher,
                    image + u64::from(scope.target),
                    record,
                    code,
                    dispatcher.HistoryTable,
                )
            }
        } else if flags & EXCEPTION_TARGET_UNWIND != 0
            && (covers(target_pc) || (scope.target != 0 && u64::from(scope.target) == target_pc))
        {
            // What follows encloses the target: it is not left.
            break;
        } else if scope.target == 0 {
            dispatcher_at.with(|dispatcher| dispatcher.ScopeIndex = index + 1);
            shared::call_driver(Entry::Other, handler, &[1, establisher]);
        }
    }
    disposition::CONTINUE_SEARCH
}

/// Return addresses of the driver's frames from the code at `site` on, without the first `skip`.
pub(super) fn back_trace(site: &CallSite, skip: usize, room: usize) -> Vec<u64> {
    if site.stack == 0 {
        return Vec::new();
    }
    let mut walk = Walk::new(context_at(site), site.links, 0);
    let mut addresses = Vec::new();
    while addresses.len() < skip.saturating_add(room) {
        let Some(frame) = walk.next() else { break };
        addresses.push(frame.dispatcher.ControlPc);
    }
    addresses.drain(..skip.min(addresses.len()));
    addresses
}
