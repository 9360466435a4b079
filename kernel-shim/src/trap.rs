//! Exceptions: which of NT's bugchecks each one is.

use crate::emulate;
use crate::ex::pool::{self, SpecialFault};
use crate::mm;
use crate::nt::bugcheck as code;
use crate::nt::{DISPATCH_LEVEL, NtStatus};
use crate::platform::Trap;
use crate::raw::{Ptr, low8};
use crate::{ps, shared};
use abi::boot::{RegionFlags, RegionKind};
use abi::crash::CrashKind;
use abi::layout::PAGE_SIZE;

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

/// A bugcheck to be made.
struct Verdict {
    code: u32,
    parameters: [u64; 4],
    text: &'static str,
}

/// Handles an exception in driver or shim code. Returns when the instruction was emulated; stops the guest otherwise.
pub fn trap(trap: &mut Trap) {
    if emulate::try_emulate(trap) {
        return;
    }
    let verdict = verdict(trap);
    shared::crash(
        CrashKind::Bugcheck,
        verdict.code,
        verdict.parameters,
        &trap.registers,
        Some(trap),
        format_args!("{}", verdict.text),
    );
}

fn verdict(trap: &mut Trap) -> Verdict {
    if let Some(vector) = software_interrupt(trap) {
        match vector {
            0x29 => {
                return Verdict {
                    code: code::KERNEL_SECURITY_CHECK_FAILURE,
                    parameters: [trap.registers.general[1], trap.registers.general[4], 0, 0],
                    text: "the driver failed fast (int 29h)",
                };
            }
            0x2C => {
                return unhandled(
                    trap,
                    NtStatus::ASSERTION_FAILURE,
                    "an assertion failed (int 2Ch)",
                );
            }
            0x2D => {
                return unhandled(
                    trap,
                    NtStatus::BREAKPOINT,
                    "a debug service was called (int 2Dh)",
                );
            }
            _ => {}
        }
    }
    match trap.vector {
        DIVIDE_ERROR => unhandled(trap, NtStatus::INTEGER_DIVIDE_BY_ZERO, "division by zero"),
        DEBUG => unhandled(trap, NtStatus::SINGLE_STEP, "single step"),
        BREAKPOINT => unhandled(trap, NtStatus::BREAKPOINT, "breakpoint"),
        OVERFLOW => unhandled(trap, NtStatus::INTEGER_OVERFLOW, "integer overflow"),
        BOUND => unhandled(
            trap,
            NtStatus::ARRAY_BOUNDS_EXCEEDED,
            "array bounds exceeded",
        ),
        INVALID_OPCODE => unhandled(trap, NtStatus::ILLEGAL_INSTRUCTION, "illegal instruction"),
        STACK_FAULT | GENERAL_PROTECTION => {
            unhandled(trap, NtStatus::ACCESS_VIOLATION, "general protection fault")
        }
        ALIGNMENT_CHECK => unhandled(trap, NtStatus::DATATYPE_MISALIGNMENT, "misaligned access"),
        PAGE_FAULT => page_fault(trap),
        DOUBLE_FAULT => hardware(trap, "double fault"),
        _ => hardware(trap, "an exception that no driver can handle"),
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
    Verdict {
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

/// An exception that nothing in the guest handles.
fn unhandled(trap: &Trap, status: NtStatus, text: &'static str) -> Verdict {
    let status = u64::from(status.0);
    let rip = trap.registers.rip;
    let (code, parameters) = if shared::current_process() == ps::SYSTEM_ID {
        (
            code::SYSTEM_THREAD_EXCEPTION_NOT_HANDLED,
            [status, rip, 0, 0],
        )
    } else if cfg!(nt_i386) {
        (code::KERNEL_MODE_EXCEPTION_NOT_HANDLED, [status, rip, 0, 0])
    } else {
        (code::SYSTEM_SERVICE_EXCEPTION, [status, rip, 0, 0])
    };
    Verdict {
        code,
        parameters,
        text,
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
    // 0 read, 1 write, 8 execute: parameter 3 of DRIVER_IRQL_NOT_LESS_OR_EQUAL.
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
        return Verdict {
            code: code::UNEXPECTED_KERNEL_MODE_TRAP,
            parameters: [u64::from(DOUBLE_FAULT), address, 0, rip],
            text: "the kernel stack is used up",
        };
    }
    if is_present && operation == 8 {
        return Verdict {
            code: code::ATTEMPTED_EXECUTE_OF_NOEXECUTE_MEMORY,
            parameters: [address, 0, 0, 0],
            text: "memory that holds no code was executed",
        };
    }
    if is_present && operation == 1 {
        return Verdict {
            code: code::ATTEMPTED_WRITE_TO_READONLY_MEMORY,
            parameters: [address, 0, 0, 0],
            text: "read-only memory was written to",
        };
    }
    let irql = shared::irql();
    if irql >= DISPATCH_LEVEL {
        return Verdict {
            code: code::DRIVER_IRQL_NOT_LESS_OR_EQUAL,
            parameters: [address, u64::from(irql), operation, rip],
            text: "an address that is not valid was used at raised IRQL",
        };
    }
    unhandled(
        trap,
        NtStatus::ACCESS_VIOLATION,
        match operation {
            0 => "an address that is not valid was read",
            1 => "an address that is not valid was written to",
            _ => "an address that is not valid was executed",
        },
    )
}
