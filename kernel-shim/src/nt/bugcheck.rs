//! Bugcheck codes, and stopping with one.

use core::fmt;

use crate::shared;
use abi::crash::CrashKind;

macro_rules! codes {
    ($($name:ident = $value:literal;)*) => {
        $(
            #[doc = concat!("Bugcheck ", stringify!($value), ".")]
            pub const $name: u32 = $value;
        )*

        /// The code's name in bugcodes.h; `None` for one that is not known here.
        #[must_use]
        pub const fn name(code: u32) -> Option<&'static str> {
            match code {
                $($value => Some(stringify!($name)),)*
                _ => None,
            }
        }
    };
}

codes! {
    APC_INDEX_MISMATCH = 0x01;
    INVALID_PROCESS_DETACH_ATTEMPT = 0x06;
    MAXIMUM_WAIT_OBJECTS_EXCEEDED = 0x0C;
    THREAD_NOT_MUTEX_OWNER = 0x11;
    THREAD_TERMINATE_HELD_MUTEX = 0x4000_008A;
    IRQL_NOT_GREATER_OR_EQUAL = 0x09;
    IRQL_NOT_LESS_OR_EQUAL = 0x0A;
    SPIN_LOCK_ALREADY_OWNED = 0x0F;
    SPIN_LOCK_NOT_OWNED = 0x10;
    INVALID_PROCESS_ATTACH_ATTEMPT = 0x05;
    REFERENCE_BY_POINTER = 0x18;
    BAD_POOL_HEADER = 0x19;
    MEMORY_MANAGEMENT = 0x1A;
    KMODE_EXCEPTION_NOT_HANDLED = 0x1E;
    CANCEL_STATE_IN_COMPLETED_IRP = 0x48;
    INCONSISTENT_IRP = 0x2A;
    NO_MORE_IRP_STACK_LOCATIONS = 0x35;
    DEVICE_REFERENCE_COUNT_NOT_ZERO = 0x36;
    SYSTEM_SERVICE_EXCEPTION = 0x3B;
    NO_MORE_SYSTEM_PTES = 0x3F;
    MULTIPLE_IRP_COMPLETE_REQUESTS = 0x44;
    IRQL_GT_ZERO_AT_SYSTEM_SERVICE = 0x4A;
    MUST_SUCCEED_POOL_EMPTY = 0x41;
    PFN_LIST_CORRUPT = 0x4E;
    PAGE_FAULT_IN_NONPAGED_AREA = 0x50;
    PROCESS_HAS_LOCKED_PAGES = 0x76;
    TARGET_MDL_TOO_SMALL = 0x40;
    KERNEL_STACK_INPAGE_ERROR = 0x77;
    INVALID_KERNEL_HANDLE = 0x93;
    SYSTEM_THREAD_EXCEPTION_NOT_HANDLED = 0x7E;
    UNEXPECTED_KERNEL_MODE_TRAP = 0x7F;
    KERNEL_MODE_EXCEPTION_NOT_HANDLED = 0x8E;
    ATTEMPTED_WRITE_TO_READONLY_MEMORY = 0xBE;
    SPECIAL_POOL_DETECTED_MEMORY_CORRUPTION = 0xC1;
    BAD_POOL_CALLER = 0xC2;
    DRIVER_VERIFIER_DETECTED_VIOLATION = 0xC4;
    DRIVER_CORRUPTED_EXPOOL = 0xC5;
    DRIVER_CAUGHT_MODIFYING_FREED_POOL = 0xC6;
    TIMER_OR_DPC_INVALID = 0xC7;
    IRQL_UNEXPECTED_VALUE = 0xC8;
    DRIVER_VERIFIER_IOMANAGER_VIOLATION = 0xC9;
    PNP_DETECTED_FATAL_ERROR = 0xCA;
    DRIVER_LEFT_LOCKED_PAGES_IN_PROCESS = 0xCB;
    DRIVER_UNMAPPING_INVALID_VIEW = 0xD7;
    PAGE_FAULT_IN_FREED_SPECIAL_POOL = 0xCC;
    PAGE_FAULT_BEYOND_END_OF_ALLOCATION = 0xCD;
    DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS = 0xCE;
    DRIVER_IRQL_NOT_LESS_OR_EQUAL = 0xD1;
    DRIVER_PAGE_FAULT_IN_FREED_SPECIAL_POOL = 0xD5;
    DRIVER_PAGE_FAULT_BEYOND_END_OF_ALLOCATION = 0xD6;
    SYSTEM_PTE_MISUSE = 0xDA;
    MANUALLY_INITIATED_CRASH = 0xE2;
    DRIVER_OVERRAN_STACK_BUFFER = 0xF7;
    ATTEMPTED_EXECUTE_OF_NOEXECUTE_MEMORY = 0xFC;
    WDF_VIOLATION = 0x10D;
    DPC_WATCHDOG_VIOLATION = 0x133;
    KERNEL_SECURITY_CHECK_FAILURE = 0x139;
    WORKER_THREAD_RETURNED_AT_BAD_IRQL = 0xE1;
    RESOURCE_NOT_OWNED = 0xE3;
    WORKER_INVALID = 0xE4;
    DRIVER_VERIFIER_DMA_VIOLATION = 0xE6;
    INVALID_FLOATING_POINT_STATE = 0xE7;
    RESOURCE_OWNER_POINTER_INVALID = 0x132;
}

/// Stops the guest with a bugcheck; the crash record names the driver's return address of the current API call.
pub fn bugcheck(code: u32, parameters: [u64; 4]) -> ! {
    bugcheck_with_text(code, parameters, format_args!(""))
}

/// As [`bugcheck`], with a sentence for people.
pub fn bugcheck_with_text(code: u32, parameters: [u64; 4], text: fmt::Arguments<'_>) -> ! {
    let registers = shared::caller_registers();
    shared::crash(
        CrashKind::Bugcheck,
        code,
        parameters,
        &registers,
        None,
        text,
    )
}

/// Stops the guest with what Driver Verifier says of a violation: its number, and up to three parameters.
pub fn violation(number: u64, parameters: [u64; 3], text: fmt::Arguments<'_>) -> ! {
    let [first, second, third] = parameters;
    bugcheck_with_text(
        DRIVER_VERIFIER_DETECTED_VIOLATION,
        [number, first, second, third],
        text,
    )
}
