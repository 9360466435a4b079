//! How a driver's call of an export reaches its implementation, in both driver ABIs.
//!
//! Arguments are decoded in one place, from the declaration's parameter kinds: as 8-byte slots on amd64, and
//! on i386 as 4-byte slots on the stack (an 8-byte argument takes two) with, for fastcall, the first two arguments
//! of at most 4 bytes in ECX and EDX. How many slots were taken is what an i386 callee pops.
//!
//! Every call goes through the same steps: depth + 1 (the VMM injects no tick while shim code runs), trace record,
//! IRQL check, body, trace record, depth - 1, and, when the driver's own code continues below DISPATCH_LEVEL,
//! whatever was deferred meanwhile (DPCs, a tick).

use crate::export::{Convention, Export, ExportKind, ValueKind};
use crate::nt::{ANY_LEVEL, bugcheck};
use crate::raw::{Ptr, low8, low16, low32};
use crate::shared::CallSite;
use crate::value::VaList;
use crate::{shared, table};
use abi::DriverAbi;
use abi::crash::{CrashKind, Registers};

/// Most parameters that an export may have (IoCreateFile has 14).
pub const MAX_PARAMETERS: usize = 16;

/// A call in progress: the decoded arguments.
#[derive(Debug)]
pub struct Call {
    words: [u64; MAX_PARAMETERS],
    next: usize,
    variable: VaList,
}

impl Call {
    /// The next declared argument; unused upper bits are zero.
    pub fn next_word(&mut self) -> u64 {
        let word = self.words.get(self.next).copied().unwrap_or(0);
        self.next += 1;
        word
    }

    /// The arguments behind the declared ones.
    #[must_use]
    pub fn variable_arguments(&self) -> VaList {
        self.variable
    }
}

/// An implementation, as the table holds it: takes its arguments from the call and returns its result as a word.
pub type Body = fn(&mut Call) -> u64;

/// Where a caller put its arguments.
#[derive(Clone, Copy, Debug)]
pub enum Frame {
    /// Address of the return address; register arguments are spilled to their home slots behind it.
    Amd64(u64),
    /// Address of the return address, ECX, EDX, EBP.
    I386(u64, u32, u32, u32),
}

/// The result of [`dispatch_i386`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct I386Result {
    /// EDX:EAX.
    pub value: u64,
    /// Bytes of arguments that the callee pops.
    pub pop: u32,
}

/// Cuts a value to its declared width.
fn truncate(word: u64, bytes: usize) -> u64 {
    match bytes {
        1 => u64::from(low8(word)),
        2 => u64::from(low16(word)),
        4 => u64::from(low32(word)),
        _ => word,
    }
}

/// Decodes the arguments of a call; also returns the bytes of stack that the declared ones take.
fn decode(export: &Export, frame: Frame) -> (Call, u32) {
    let (parameters, convention) = match export.kind {
        ExportKind::Function {
            parameters,
            convention,
            ..
        } => (parameters, convention),
        ExportKind::Data { .. } => (&[][..], Convention::Cdecl),
    };
    let mut words = [0; MAX_PARAMETERS];
    let (stack, slot_bytes, abi) = match frame {
        Frame::Amd64(stack) => (stack, 8, DriverAbi::Amd64),
        Frame::I386(stack, ..) => (stack, 4, DriverAbi::I386),
    };
    let first = stack.wrapping_add(slot_bytes);
    let mut next = first;
    let mut registers = match (frame, convention) {
        (Frame::I386(_, ecx, edx, _), Convention::Fastcall) => [Some(ecx), Some(edx)],
        _ => [None, None],
    }
    .into_iter()
    .flatten();
    for (word, parameter) in words.iter_mut().zip(parameters) {
        let bytes = parameter.kind.bytes(abi);
        let in_register = if bytes <= 4 { registers.next() } else { None };
        let value = if let Some(register) = in_register {
            u64::from(register)
        } else if slot_bytes == 8 || bytes == 8 {
            let value = Ptr::<u64>::new(next).read();
            next = next.wrapping_add(8);
            value
        } else {
            let value = Ptr::<u32>::new(next).read();
            next = next.wrapping_add(4);
            u64::from(value)
        };
        *word = truncate(value, bytes);
    }
    let call = Call {
        words,
        next: 0,
        variable: VaList::new(next, slot_bytes),
    };
    (call, low32(next.wrapping_sub(first)))
}

/// Bytes of arguments that an i386 callee of this convention pops.
fn popped(convention: Convention, stack_bytes: u32) -> u32 {
    match convention {
        Convention::Cdecl => 0,
        Convention::Stdcall | Convention::Fastcall => stack_bytes,
    }
}

/// Runs export `index` for the driver.
fn run(index: u32, frame: Frame) -> I386Result {
    let slot = index as usize;
    let (Some(export), Some(body)) = (table::EXPORTS.get(slot), table::BODIES.get(slot)) else {
        panic!("call of export {index}, which does not exist");
    };
    let caller = match frame {
        Frame::Amd64(stack) => Ptr::<u64>::new(stack).read(),
        Frame::I386(stack, ..) => u64::from(Ptr::<u32>::new(stack).read()),
    };
    let ExportKind::Function {
        convention,
        parameters,
        result,
        irql_max,
        ..
    } = export.kind
    else {
        panic!("{} was called, which is data", export.name);
    };
    let (mut call, stack_bytes) = decode(export, frame);
    let site = match frame {
        Frame::Amd64(stack) => CallSite {
            address: caller,
            stack,
            export: index,
            ..CallSite::default()
        },
        Frame::I386(stack, _, _, ebp) => CallSite {
            address: caller,
            stack,
            ebp,
            export: index,
            ..CallSite::default()
        },
    };
    let outer_caller = shared::enter(site);
    let record = shared::trace_call(index, caller, parameters, &call.words);
    let irql = shared::irql();
    if irql_max < ANY_LEVEL && irql > irql_max {
        let address = table::ENTRY_POINTS
            .get(slot)
            .map_or(0, |entry| entry.addr());
        bugcheck::bugcheck_with_text(
            bugcheck::IRQL_NOT_LESS_OR_EQUAL,
            [address, u64::from(irql), 0, caller],
            format_args!(
                "{} was called at IRQL {irql}; it may be called at IRQL {irql_max} at most",
                export.name
            ),
        );
    }
    let value = body(&mut call);
    let has_result = result != ValueKind::Void;
    shared::trace_return(record, index, parameters.len(), has_result, value);
    shared::leave(outer_caller);
    I386Result {
        value,
        pop: popped(convention, stack_bytes),
    }
}

/// What a fast path returns when it has done nothing and the call has to take the ordinary path. No result of an
/// export with a fast path has this value.
#[cfg(not(nt_i386))]
pub(crate) const NOT_FAST: u64 = 0x8000_5A5A_0000_0001;

/// Runs the fast path of export `index`: `body` does the whole call, or nothing at all and returns `None`. It may not
/// bugcheck, call the driver, or wait. The steps are those of [`run`], without captured text and time stamp.
#[cfg(not(nt_i386))]
#[expect(
    clippy::inline_always,
    reason = "see the declaration's rules for fast paths"
)]
#[inline(always)]
pub(crate) fn run_fast<const COUNT: usize>(
    index: u32,
    irql_max: u8,
    caller: u64,
    arguments: [u64; COUNT],
    body: impl FnOnce() -> Option<u64>,
) -> u64 {
    let Some(call) = shared::FastCall::enter(index, irql_max, caller, arguments) else {
        return NOT_FAST;
    };
    let result = body();
    call.leave(result);
    result.unwrap_or(NOT_FAST)
}

/// The arguments of a call on a fast path: the first three, and the others behind the return address at `stack`.
#[cfg(not(nt_i386))]
#[expect(
    clippy::inline_always,
    reason = "see the declaration's rules for fast paths"
)]
#[inline(always)]
pub(crate) fn fast_arguments<const COUNT: usize>(first: [u64; 3], stack: u64) -> [u64; COUNT] {
    core::array::from_fn(|index| {
        let slot = (index as u64).wrapping_add(1).wrapping_mul(8);
        first
            .get(index)
            .copied()
            .unwrap_or_else(|| crate::raw::volatile_read(stack.wrapping_add(slot)))
    })
}

/// As [`run_fast`], without a record.
#[cfg(not(nt_i386))]
#[expect(
    clippy::inline_always,
    reason = "see the declaration's rules for fast paths"
)]
#[inline(always)]
pub(crate) fn run_bare(irql_max: u8, body: impl FnOnce() -> Option<u64>) -> u64 {
    let Some(call) = shared::BareCall::enter(irql_max) else {
        return NOT_FAST;
    };
    let result = body();
    call.leave();
    result.unwrap_or(NOT_FAST)
}

/// Where the amd64 entry code goes on. `stack` is the address of the return address.
pub extern "C" fn dispatch_amd64(index: u32, stack: u64) -> u64 {
    run(index, Frame::Amd64(stack)).value
}

/// Serves an i386 driver's call of export `index` (guest-stub's import thunk calls this).
///
/// `stack` is the address of the caller's `[esp]`: the return address, with the arguments behind it. An index
/// behind the table's end is an unbound import; that call does not return.
pub fn dispatch_i386(index: u32, stack: Ptr<u32>, ecx: u32, edx: u32, ebp: u32) -> I386Result {
    match index.checked_sub(low32(table::COUNT as u64)) {
        None => run(index, Frame::I386(stack.addr(), ecx, edx, ebp)),
        Some(number) => unbound_import(number, u64::from(stack.read())),
    }
}

/// A driver called an import that is not in the table: stops the guest. `number` is its number among the unbound
/// imports, `caller` the return address.
pub fn unbound_import(number: u32, caller: u64) -> ! {
    let registers = Registers {
        rip: caller,
        ..Registers::default()
    };
    shared::crash(
        CrashKind::UnboundImport,
        number,
        [caller, 0, 0, 0],
        &registers,
        None,
        format_args!("the driver called an import that Ringfence does not have"),
    )
}

/// A driver called a declared export that has no implementation yet: stops the guest and names it.
pub fn missing_export(name: &str) -> ! {
    let registers = shared::caller_registers();
    let index = table::find(name).unwrap_or(u32::MAX);
    shared::crash(
        CrashKind::ShimPanic,
        index,
        [registers.rip, 0, 0, 0],
        &registers,
        None,
        format_args!("the driver called {name}, which is declared but not implemented"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::{Machines, Module, Parameter};

    const WIDE: &[Parameter] = &[
        Parameter {
            name: "small",
            kind: ValueKind::UChar,
        },
        Parameter {
            name: "wide",
            kind: ValueKind::PhysicalAddress,
        },
        Parameter {
            name: "pointer",
            kind: ValueKind::Pointer,
        },
        Parameter {
            name: "last",
            kind: ValueKind::ULong,
        },
    ];

    fn export(convention: Convention) -> Export {
        Export {
            name: "Test",
            module: Module::Ntoskrnl,
            machines: Machines::Both,
            kind: ExportKind::Function {
                convention,
                parameters: WIDE,
                result: ValueKind::Void,
                irql_max: ANY_LEVEL,
                is_variadic: false,
                is_noreturn: false,
            },
            coverage: crate::export::Coverage::Implemented,
            documentation: "",
        }
    }

    /// A stack: return address, then the slots.
    fn i386_frame(slots: &[u32], ecx: u32, edx: u32) -> (Vec<u32>, u32, u32) {
        let mut stack = vec![0x1000];
        stack.extend_from_slice(slots);
        (stack, ecx, edx)
    }

    fn address(stack: &mut [u32]) -> u64 {
        Ptr::of(&mut stack[0]).addr()
    }

    #[test]
    fn stdcall_takes_all_from_the_stack_and_pops_them() {
        let (mut stack, ecx, edx) = i386_frame(&[0xAAAA_AA11, 2, 3, 0x8000_0000, 5], 9, 9);
        let declared = export(Convention::Stdcall);
        let (call, bytes) = decode(&declared, Frame::I386(address(&mut stack), ecx, edx, 0));
        assert_eq!(call.words[..4], [0x11, 0x3_0000_0002, 0x8000_0000, 5]);
        assert_eq!(popped(Convention::Stdcall, bytes), 20);
        assert_eq!(table::i386_pop(&declared), 20);
    }

    #[test]
    fn fastcall_takes_two_small_arguments_from_registers() {
        let (mut stack, ecx, edx) = i386_frame(&[2, 3, 5], 0xBBBB_BB11, 0x8000_0000);
        let declared = export(Convention::Fastcall);
        let (call, bytes) = decode(&declared, Frame::I386(address(&mut stack), ecx, edx, 0));
        assert_eq!(call.words[..4], [0x11, 0x3_0000_0002, 0x8000_0000, 5]);
        assert_eq!(popped(Convention::Fastcall, bytes), 12);
        assert_eq!(table::i386_pop(&declared), 12);
    }

    #[test]
    fn cdecl_pops_nothing_and_variable_arguments_follow() {
        let (mut stack, ecx, edx) = i386_frame(&[1, 2, 3, 4, 5, 6, 7, 8, 9], 0, 0);
        let declared = export(Convention::Cdecl);
        let (call, bytes) = decode(&declared, Frame::I386(address(&mut stack), ecx, edx, 0));
        assert_eq!(popped(Convention::Cdecl, bytes), 0);
        let mut rest = call.variable_arguments();
        assert_eq!(rest.next_u32(), 6);
        assert_eq!(rest.next_u64(), 0x8_0000_0007);
        assert_eq!(rest.next_word(), 9);
    }

    #[test]
    fn amd64_slots_are_eight_bytes() {
        let mut stack: Vec<u64> = vec![0x1000, 0xFF11, u64::MAX, 3, 0xFFFF_FFFF_0000_0004, 5];
        let frame = Frame::Amd64(Ptr::of(&mut stack[0]).addr());
        let (call, _) = decode(&export(Convention::Stdcall), frame);
        assert_eq!(call.words[..4], [0x11, u64::MAX, 3, 4]);
        assert_eq!(call.variable_arguments().next_word(), 5);
    }

    #[test]
    fn a_call_above_its_irql_limit_is_a_bugcheck() {
        let _machine = crate::test_platform::machine();
        shared::set_irql(2);
        let index = table::find("PsLookupProcessByProcessId").unwrap();
        let mut stack = [0x1234_u64, 4, 0, 0, 0, 0];
        let frame = Frame::Amd64(Ptr::of(&mut stack[0]).addr());
        let crash = crate::test_platform::crash_of(|| {
            run(index, frame);
        });
        assert_eq!(crash.code, bugcheck::IRQL_NOT_LESS_OR_EQUAL);
        assert_eq!((crash.parameters[1], crash.parameters[3]), (2, 0x1234));
        let text = core::str::from_utf8(&crash.text[..crash.text_bytes as usize]).unwrap();
        assert!(text.contains("PsLookupProcessByProcessId"), "{text}");
    }

    #[test]
    fn calls_are_recorded_with_caller_and_text() {
        use abi::trace::{TraceKind, TraceRecord, TraceRing};
        let _machine = crate::test_platform::machine();
        let ring = shared::platform().shared() + abi::layout::Shared::TRACE;
        let index = table::find("IoDeleteSymbolicLink").unwrap();
        let mut units: Vec<u16> = "\\??\\Ä".encode_utf16().collect();
        let bytes = u16::try_from(2 * units.len()).unwrap();
        let mut name = crate::nt::UNICODE_STRING {
            Length: bytes,
            MaximumLength: bytes,
            Buffer: Ptr::of(&mut units[0]),
        };
        let mut stack = [0x1234_u64, Ptr::of(&mut name).addr(), 0, 0, 0];
        let before: u64 = crate::raw::volatile_read(ring);
        let result = run(index, Frame::Amd64(Ptr::of(&mut stack[0]).addr()));
        assert_eq!(
            result.value,
            u64::from(crate::nt::NtStatus::OBJECT_NAME_NOT_FOUND.0)
        );
        assert_eq!(crate::raw::volatile_read::<u64>(ring), before + 1);
        let entries = ring + core::mem::offset_of!(TraceRing, entries) as u64;
        let record: TraceRecord =
            crate::raw::volatile_read(entries + before * size_of::<TraceRecord>() as u64);
        assert_eq!(
            (record.kind, record.caller, record.index),
            (TraceKind::Returned as u16, 0x1234, index)
        );
        assert_eq!(record.arguments.last(), Some(&result.value));
        assert_eq!(
            &record.text[..record.text_bytes as usize],
            "\\??\\Ä\0".as_bytes()
        );
    }

    #[test]
    fn i386_calls_report_result_and_popped_bytes() {
        let _machine = crate::test_platform::machine();
        let call = |name: &str, stack: &mut [u32], ecx| {
            dispatch_i386(
                table::find(name).unwrap(),
                Ptr::of(&mut stack[0]),
                ecx,
                0,
                0,
            )
        };
        assert_eq!(
            call("KfRaiseIrql", &mut [0x1000], 2),
            I386Result { value: 0, pop: 0 }
        );
        assert_eq!(
            call("KeGetCurrentIrql", &mut [0x1000], 9),
            I386Result { value: 2, pop: 0 }
        );
        assert_eq!(
            call("KeStallExecutionProcessor", &mut [0x1000, 1], 9),
            I386Result { value: 0, pop: 4 }
        );
    }

    #[test]
    fn an_unbound_import_stops_the_guest_with_its_number() {
        let _machine = crate::test_platform::machine();
        let mut stack = [0x8200_1234_u32];
        let index = low32(table::COUNT as u64) + 3;
        let crash = crate::test_platform::crash_of(|| {
            dispatch_i386(index, Ptr::of(&mut stack[0]), 0, 0, 0);
        });
        assert_eq!(
            (crash.kind, crash.code),
            (CrashKind::UnboundImport as u32, 3)
        );
        assert_eq!(crash.registers.rip, 0x8200_1234);
    }
}
