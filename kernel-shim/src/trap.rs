//! Traps: which exception of NT's each one is, or which bugcheck.

use crate::emulate;
use crate::ex::pool::{self, SpecialFault};
use crate::mm;
use crate::nt::bugcheck as code;
use crate::nt::bugcheck::bugcheck_with_text;
use crate::nt::{DISPATCH_LEVEL, EXCEPTION_RECORD, NtStatus};
use crate::platform::{Outcome, Trap};
use crate::raw::{Ptr, from_word, held, low8};
use crate::{ps, shared};
use abi::boot::{RegionFlags, RegionKind};
use abi::crash::CrashKind;
use abi::layout::{self, PAGE_SIZE};

const DIVIDE_ERROR: u32 = 0;
const DEBUG: u32 = 1;
const BREAKPOINT: u32 = 3;
const OVERFLOW: u32 = 4;
const BOUND: u32 = 5;
const INVALID_OPCODE: u32 = 6;
const DOUBLE_FAULT: u32 = 8;
const STACK_FAULT: u32 = 12;
const GENERAL_PROTECTION: u32 = 13;
const PAGE_FAULT: u32 = 14;
const ALIGNMENT_CHECK: u32 = 17;

/// Bits of a page fault's error code (Intel SDM volume 3, 4.7).
const PF_PRESENT: u32 = 1;
const PF_WRITE: u32 = 2;
const PF_FETCH: u32 = 16;

/// Bit of a general protection fault's error code: the selector is a gate of the IDT (Intel SDM volume 3, 6.13).
const GATE: u32 = 2;

/// An exception of the interrupted code.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exception {
    pub(crate) status: NtStatus,
    words: [u64; 2],
    word_count: usize,
    text: &'static str,
}

impl Exception {
    fn plain(status: NtStatus, text: &'static str) -> Verdict {
        Verdict::Exception(Self {
            status,
            words: [0; 2],
            word_count: 0,
            text,
        })
    }

    fn with_words(status: NtStatus, words: [u64; 2], text: &'static str) -> Verdict {
        Verdict::Exception(Self {
            status,
            words,
            word_count: 2,
            text,
        })
    }

    /// ExceptionInformation.
    pub(crate) fn information(&self) -> &[u64] {
        &self.words[..self.word_count]
    }
}

/// What a trap is to NT.
enum Verdict {
    /// For the driver's handlers; a bugcheck if there is none.
    Exception(Exception),
    /// Nothing can handle it.
    Bugcheck {
        code: u32,
        parameters: [u64; 4],
        text: &'static str,
    },
}

/// Handles a trap in driver or shim code: emulates the instruction, leaves an exception to be dispatched, or stops the
/// guest with NT's bugcheck.
pub fn trap(trap: &mut Trap) -> Outcome {
    if emulate::try_emulate(trap) || is_copied(trap) || is_paged_in(trap) {
        return Outcome::Resume;
    }
    match verdict(trap) {
        Verdict::Bugcheck {
            code,
            parameters,
            text,
        } => stop(trap, code, parameters, text),
        // An exception in shim code that has its state half-changed, or that serves no call, has no one to handle it.
        Verdict::Exception(exception) if shared::depth() > 0 && !can_be_raised() => {
            unhandled_stop(trap, &exception)
        }
        Verdict::Exception(_) => Outcome::Dispatch,
    }
}

/// Whether a fault was the first use of a page of a client's memory at its user address: it is mapped now.
fn is_paged_in(trap: &Trap) -> bool {
    trap.vector == PAGE_FAULT
        && trap.error_code & (PF_PRESENT | PF_FETCH) == 0
        && held() == 0
        && page_in(trap.registers.cr2)
}

/// As shim code: no tick interrupts it half-way.
fn page_in(address: u64) -> bool {
    let depth = shared::depth();
    shared::set_depth(depth.max(1));
    let is_in = crate::client::user::page_in(address);
    shared::set_depth(depth);
    is_in
}

/// Whether a fault was the first store to a page of a view that is copied then: it is, and the store can be made.
fn is_copied(trap: &Trap) -> bool {
    const STORE: u32 = PF_PRESENT | PF_WRITE;
    trap.vector == PAGE_FAULT
        && trap.error_code & STORE == STORE
        && shared::irql() < DISPATCH_LEVEL
        && held() == 0
        && mm::address_space::copy_on_write(trap.registers.cr2)
}

fn can_be_raised() -> bool {
    held() == 0 && shared::caller() != 0
}

/// The exception that a trap is; the trap's registers are as NT reports them (behind a breakpoint's instruction is
/// before it).
pub(crate) fn exception_of(trap: &mut Trap) -> Option<Exception> {
    match verdict(trap) {
        Verdict::Exception(exception) => {
            if exception.status == NtStatus::GUARD_PAGE_VIOLATION {
                // The next access is none.
                mm::address_space::take_guard(trap.registers.cr2);
            }
            Some(exception)
        }
        Verdict::Bugcheck { .. } => None,
    }
}

fn stop(trap: &Trap, code: u32, parameters: [u64; 4], text: &str) -> ! {
    shared::crash(
        CrashKind::Bugcheck,
        code,
        parameters,
        &trap.registers,
        Some(trap),
        format_args!("{text}"),
    )
}

/// Stops the guest because nothing handles the exception of a trap.
pub(crate) fn unhandled_stop(trap: &Trap, exception: &Exception) -> ! {
    let (code, parameters) = unhandled(
        exception.status,
        trap.registers.rip,
        exception.information(),
    );
    stop(trap, code, parameters, exception.text)
}

/// Stops the guest because nothing handles an exception that was raised.
pub(crate) fn unhandled_raise(record: &EXCEPTION_RECORD) -> ! {
    let status = NtStatus(record.ExceptionCode);
    let words = [
        from_word(record.ExceptionInformation[0]),
        from_word(record.ExceptionInformation[1]),
    ];
    let (code, parameters) = unhandled(status, from_word(record.ExceptionAddress), &words);
    bugcheck_with_text(
        code,
        parameters,
        format_args!("the exception {status:?} was raised and not handled"),
    )
}

fn verdict(trap: &mut Trap) -> Verdict {
    if let Some(vector) = software_interrupt(trap) {
        match vector {
            0x29 => {
                return Verdict::Bugcheck {
                    code: code::KERNEL_SECURITY_CHECK_FAILURE,
                    parameters: [trap.registers.general[1], trap.registers.general[4], 0, 0],
                    text: "the driver failed fast (int 29h)",
                };
            }
            0x2C => {
                return Exception::plain(
                    NtStatus::ASSERTION_FAILURE,
                    "an assertion failed (int 2Ch)",
                );
            }
            0x2D => {
                return Exception::plain(
                    NtStatus::BREAKPOINT,
                    "a debug service was called (int 2Dh)",
                );
            }
            _ => {}
        }
    }
    if is_refused_breakpoint(trap) {
        return Exception::plain(NtStatus::BREAKPOINT, "breakpoint");
    }
    match trap.vector {
        DIVIDE_ERROR => Exception::plain(division_error(trap), "division by zero"),
        DEBUG => Exception::plain(NtStatus::SINGLE_STEP, "single step"),
        BREAKPOINT => {
            // The processor reports the next instruction, NT the breakpoint.
            if trap.error_code != BREAKPOINT_SEEN {
                trap.registers.rip = trap.registers.rip.wrapping_sub(1);
                trap.error_code = BREAKPOINT_SEEN;
            }
            Exception::plain(NtStatus::BREAKPOINT, "breakpoint")
        }
        OVERFLOW => Exception::plain(NtStatus::INTEGER_OVERFLOW, "integer overflow"),
        BOUND => Exception::plain(NtStatus::ARRAY_BOUNDS_EXCEEDED, "array bounds exceeded"),
        INVALID_OPCODE => Exception::plain(NtStatus::ILLEGAL_INSTRUCTION, "illegal instruction"),
        // NT reports it as a read of the highest address.
        STACK_FAULT | GENERAL_PROTECTION => Exception::with_words(
            NtStatus::ACCESS_VIOLATION,
            [0, u64::MAX],
            "general protection fault",
        ),
        ALIGNMENT_CHECK => Exception::plain(NtStatus::DATATYPE_MISALIGNMENT, "misaligned access"),
        PAGE_FAULT => page_fault(trap),
        DOUBLE_FAULT => hardware(trap, "double fault"),
        _ => hardware(trap, "an exception that no driver can handle"),
    }
}

/// An `int3` that an interpreting KVM does not execute: #UD at the instruction itself.
fn is_refused_breakpoint(trap: &Trap) -> bool {
    const INT3: u8 = 0xCC;
    let rip = trap.registers.rip;
    let is_code =
        mm::region_of(rip).is_some_and(|region| region.flags & RegionFlags::EXECUTE.bits() != 0);
    trap.vector == INVALID_OPCODE && is_code && Ptr::<u8>::new(rip).read() == INT3
}

/// Marks a breakpoint whose address has been corrected; vector 3 has no error code of its own.
const BREAKPOINT_SEEN: u32 = 3;

/// A division whose divisor is not 0 has overflowed. Only the divisor in a register is looked at; a memory operand is
/// taken for 0.
fn division_error(trap: &Trap) -> NtStatus {
    let at = |offset: u64| Ptr::<u8>::new(trap.registers.rip.wrapping_add(offset)).read();
    let (rex, opcode_at) = if trap.is_32_bit || at(0) & 0xF0 != 0x40 {
        (0, 0)
    } else {
        (at(0), 1)
    };
    let opcode = at(opcode_at);
    let operand = at(opcode_at + 1);
    if opcode & 0xFE != 0xF6 || operand < 0xC0 {
        return NtStatus::INTEGER_DIVIDE_BY_ZERO;
    }
    let register = usize::from(operand & 7) + 8 * usize::from(rex & 1);
    let value = trap.registers.general[register];
    let divisor = match (opcode & 1, rex & 8) {
        (0, _) => value & 0xFF,
        (_, 0) => value & 0xFFFF_FFFF,
        _ => value,
    };
    if divisor == 0 {
        NtStatus::INTEGER_DIVIDE_BY_ZERO
    } else {
        NtStatus::INTEGER_OVERFLOW
    }
}

/// `n` of an `int n` that faulted: it may not be executed at CPL 3, or there is no gate for it.
fn software_interrupt(trap: &mut Trap) -> Option<u8> {
    const INT: u8 = 0xCD;
    if !matches!(trap.vector, INVALID_OPCODE | GENERAL_PROTECTION) {
        return None;
    }
    let interrupt_at = |rip: u64| {
        let is_code = |address| {
            mm::region_of(address)
                .is_some_and(|region| region.flags & RegionFlags::EXECUTE.bits() != 0)
        };
        if !is_code(rip) || !is_code(rip.wrapping_add(1)) {
            return None;
        }
        let at = Ptr::<u8>::new(rip);
        (at.read() == INT).then(|| at.add_bytes(1).read())
    };
    let rip = trap.registers.rip;
    // A hypervisor that had to deliver the interrupt a second time reports the next instruction; the error code
    // still says that a gate was the cause.
    let is_gate_error = trap.vector == GENERAL_PROTECTION && trap.error_code & GATE != 0;
    interrupt_at(rip).or_else(|| {
        let before = rip.wrapping_sub(2);
        let vector = is_gate_error.then(|| interrupt_at(before))??;
        trap.registers.rip = before;
        Some(vector)
    })
}

/// UNEXPECTED_KERNEL_MODE_TRAP.
fn hardware(trap: &Trap, text: &'static str) -> Verdict {
    Verdict::Bugcheck {
        code: code::UNEXPECTED_KERNEL_MODE_TRAP,
        parameters: [
            u64::from(trap.vector),
            trap.registers.cr2,
            0,
            trap.registers.rip,
        ],
        text,
    }
}

/// NT's bugcheck for an exception that nothing handles: code and parameters.
fn unhandled(status: NtStatus, address: u64, information: &[u64]) -> (u32, [u64; 4]) {
    let status = u64::from(status.0);
    if shared::irql() >= DISPATCH_LEVEL && !cfg!(nt_i386) {
        let word = |index: usize| information.get(index).copied().unwrap_or(0);
        let parameters = [status, address, word(0), word(1)];
        (code::KMODE_EXCEPTION_NOT_HANDLED, parameters)
    } else if shared::current_process() == ps::SYSTEM_ID {
        (
            code::SYSTEM_THREAD_EXCEPTION_NOT_HANDLED,
            [status, address, 0, 0],
        )
    } else if cfg!(nt_i386) {
        (
            code::KERNEL_MODE_EXCEPTION_NOT_HANDLED,
            [status, address, 0, 0],
        )
    } else {
        (code::SYSTEM_SERVICE_EXCEPTION, [status, address, 0, 0])
    }
}

/// An access beyond a block of the special pool, or to one that was freed: stops the guest.
fn special_pool_fault(trap: &Trap, operation: u64, fault: &SpecialFault) -> ! {
    let rip = trap.registers.rip;
    let is_driver = mm::is_in(rip, RegionKind::Driver);
    let bugcheck = match (fault.is_freed, is_driver) {
        (true, true) => code::DRIVER_PAGE_FAULT_IN_FREED_SPECIAL_POOL,
        (true, false) => code::PAGE_FAULT_IN_FREED_SPECIAL_POOL,
        (false, true) => code::DRIVER_PAGE_FAULT_BEYOND_END_OF_ALLOCATION,
        (false, false) => code::PAGE_FAULT_BEYOND_END_OF_ALLOCATION,
    };
    let address = trap.registers.cr2;
    let verb = ["read", "written to"][usize::from(operation == 1)];
    let parameters = [address, operation, rip, 0];
    let stop = |text| {
        shared::crash(
            CrashKind::Bugcheck,
            bugcheck,
            parameters,
            &trap.registers,
            Some(trap),
            text,
        )
    };
    let block = fault.block;
    if fault.is_freed {
        let freed_by = pool::site(fault.freed_by);
        stop(format_args!(
            "{address:#x} was {verb} after it was freed by {freed_by}: {block}"
        ))
    } else {
        stop(format_args!(
            "{address:#x} was {verb}, beyond the end of {block}"
        ))
    }
}

fn page_fault(trap: &Trap) -> Verdict {
    let address = trap.registers.cr2;
    let rip = trap.registers.rip;
    let error = trap.error_code;
    // 0 read, 1 write, 8 execute: as an access violation's first word and DRIVER_IRQL_NOT_LESS_OR_EQUAL's third.
    let operation = if error & PF_FETCH != 0 {
        8
    } else {
        u64::from(low8(u64::from(error & PF_WRITE)) >> 1)
    };
    if let Some(fault) = pool::special_fault(address) {
        special_pool_fault(trap, operation, &fault);
    }
    let region = mm::region_of(address);
    let is_present = error & PF_PRESENT != 0;
    if mm::region_of(address.wrapping_add(PAGE_SIZE))
        .is_some_and(|above| above.kind == RegionKind::Stack as u32)
        && region.is_none()
    {
        return Verdict::Bugcheck {
            code: code::UNEXPECTED_KERNEL_MODE_TRAP,
            parameters: [u64::from(DOUBLE_FAULT), address, 0, rip],
            text: "the kernel stack is used up",
        };
    }
    let irql = shared::irql();
    let is_user = address <= layout::HIGHEST_USER_ADDRESS;
    if is_present && operation == 8 {
        return Verdict::Bugcheck {
            code: code::ATTEMPTED_EXECUTE_OF_NOEXECUTE_MEMORY,
            parameters: [address, 0, 0, 0],
            text: "memory that holds no code was executed",
        };
    }
    if is_present && operation == 1 && !is_user {
        return Verdict::Bugcheck {
            code: code::ATTEMPTED_WRITE_TO_READONLY_MEMORY,
            parameters: [address, 0, 0, 0],
            text: "read-only memory was written to",
        };
    }
    if irql >= DISPATCH_LEVEL {
        return Verdict::Bugcheck {
            code: code::DRIVER_IRQL_NOT_LESS_OR_EQUAL,
            parameters: [address, u64::from(irql), operation, rip],
            text: "an address that is not valid was used at raised IRQL",
        };
    }
    if is_user && mm::address_space::is_guarded(address) {
        return Exception::with_words(
            NtStatus::GUARD_PAGE_VIOLATION,
            [operation, address],
            "a guard page was accessed",
        );
    }
    if !is_user {
        // Handlers are not asked: an address of the system's that is not valid means damaged state.
        return Verdict::Bugcheck {
            code: code::PAGE_FAULT_IN_NONPAGED_AREA,
            parameters: [address, operation, rip, 0],
            text: "an address of kernel space that is not valid was used",
        };
    }
    Exception::with_words(
        NtStatus::ACCESS_VIOLATION,
        [operation, address],
        match operation {
            0 => "an address that is not valid was read",
            1 => "an address that is not valid was written to",
            _ => "an address that is not valid was executed",
        },
    )
}
