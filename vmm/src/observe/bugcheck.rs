//! Bugcheck codes that a driver can cause: NT's name, what it means, and what its parameters say.
//!
//! Names, numbers and parameters are those of the WDK's "Bug check code reference", reworded shortly.

/// One bugcheck code.
#[derive(Clone, Copy, Debug)]
pub struct Bugcheck {
    /// The number.
    pub code: u32,
    /// NT's name.
    pub name: &'static str,
    /// What happened, a sentence.
    pub meaning: &'static str,
    /// What each parameter says; empty for one that says nothing.
    pub parameters: [&'static str; 4],
}

/// Looks a code up.
#[must_use]
pub fn find(code: u32) -> Option<&'static Bugcheck> {
    TABLE
        .binary_search_by_key(&code, |entry| entry.code)
        .ok()
        .and_then(|index| TABLE.get(index))
}

const fn entry(
    code: u32,
    name: &'static str,
    meaning: &'static str,
    parameters: [&'static str; 4],
) -> Bugcheck {
    Bugcheck {
        code,
        name,
        meaning,
        parameters,
    }
}

/// Sorted by code.
#[rustfmt::skip]
const TABLE: &[Bugcheck] = &[
    entry(0x01, "APC_INDEX_MISMATCH", "Calls that disable and enable APCs do not pair up.",
        ["address of the system call", "thread's ApcStateIndex", "disable counts", "call type"]),
    entry(0x05, "INVALID_PROCESS_ATTACH_ATTEMPT", "The driver attached to a process where it may not.",
        ["process", "process attached to", "", ""]),
    entry(0x06, "INVALID_PROCESS_DETACH_ATTEMPT", "The driver detached from a process that it is not attached to.",
        ["", "", "", ""]),
    entry(0x09, "IRQL_NOT_GREATER_OR_EQUAL", "A routine was called at an IRQL that is too low.",
        ["address of the routine", "IRQL at the time", "IRQL needed", ""]),
    entry(0x0A, "IRQL_NOT_LESS_OR_EQUAL", "Memory that may be paged out, or that does not exist, was touched at an IRQL that is too high.",
        ["address that was touched", "IRQL at the time", "0: read, 1: write, 8: execute", "address of the instruction"]),
    entry(0x0C, "MAXIMUM_WAIT_OBJECTS_EXCEEDED", "A wait names more objects than it may, or than it has wait blocks for.",
        ["number of objects", "", "", ""]),
    entry(0x0F, "SPIN_LOCK_ALREADY_OWNED", "A spin lock was acquired by the code that holds it already.",
        ["address of the lock", "", "", ""]),
    entry(0x10, "SPIN_LOCK_NOT_OWNED", "A spin lock was released that is not held.",
        ["address of the lock", "", "", ""]),
    entry(0x11, "THREAD_NOT_MUTEX_OWNER", "A mutex was released by a thread that does not own it.",
        ["thread", "mutex", "", ""]),
    entry(0x18, "REFERENCE_BY_POINTER", "An object's reference count is wrong: it was dereferenced too often, or its memory was damaged.",
        ["object type", "address of the object", "", "reference count"]),
    entry(0x19, "BAD_POOL_HEADER", "The memory around a pool block is damaged: something wrote beyond its allocation.",
        ["kind of damage", "address of the pool block", "", ""]),
    entry(0x1A, "MEMORY_MANAGEMENT", "Memory management data are damaged.",
        ["kind of damage", "", "", ""]),
    entry(0x1E, "KMODE_EXCEPTION_NOT_HANDLED", "The driver raised an exception and no handler took it.",
        ["exception code", "address of the instruction", "exception's first parameter", "exception's second parameter"]),
    entry(0x2A, "INCONSISTENT_IRP", "An IRP is in a state that makes no sense: freed, or never set up.",
        ["address of the IRP", "", "", ""]),
    entry(0x35, "NO_MORE_IRP_STACK_LOCATIONS", "An IRP was passed down although it has no stack location left.",
        ["address of the IRP", "", "", ""]),
    entry(0x36, "DEVICE_REFERENCE_COUNT_NOT_ZERO", "A device was deleted that is still referenced.",
        ["address of the device object", "", "", ""]),
    entry(0x3B, "SYSTEM_SERVICE_EXCEPTION", "An exception occurred in a system service on a process's behalf.",
        ["exception code", "address of the instruction", "address of the context record", ""]),
    entry(0x3F, "NO_MORE_SYSTEM_PTES", "There is no address space left to map memory at.",
        ["kind of entries", "entries asked for", "entries that are free", "entries there are"]),
    entry(0x40, "TARGET_MDL_TOO_SMALL", "IoBuildPartialMdl got a target MDL that is too small for the range.",
        ["", "", "", ""]),
    entry(0x41, "MUST_SUCCEED_POOL_EMPTY", "A must-succeed allocation found the pool exhausted.",
        ["bytes asked for", "blocks in use", "bytes in use", "bytes free"]),
    entry(0x44, "MULTIPLE_IRP_COMPLETE_REQUESTS", "An IRP was completed that was complete already, or that was freed.",
        ["address of the IRP", "", "", ""]),
    entry(0x48, "CANCEL_STATE_IN_COMPLETED_IRP", "An IRP was completed while its cancel routine was still set.",
        ["address of the IRP", "address of the cancel routine", "", ""]),
    entry(0x4A, "IRQL_GT_ZERO_AT_SYSTEM_SERVICE", "The driver returned to a process without lowering the IRQL again.",
        ["address of the system call", "IRQL at the time", "", ""]),
    entry(0x4E, "PFN_LIST_CORRUPT", "The list of page frames is damaged, for example by an MDL that was unlocked twice.",
        ["kind of damage", "", "", ""]),
    entry(0x50, "PAGE_FAULT_IN_NONPAGED_AREA", "Memory was touched that does not exist.",
        ["address that was touched", "0: read, 1: write, 2: execute", "address of the instruction", ""]),
    entry(0x76, "PROCESS_HAS_LOCKED_PAGES", "A process ended while the driver still had pages of it locked.",
        ["kind of failure", "process", "pages locked", ""]),
    entry(0x77, "KERNEL_STACK_INPAGE_ERROR", "A page of a kernel stack is not there.",
        ["", "", "", ""]),
    entry(0x7E, "SYSTEM_THREAD_EXCEPTION_NOT_HANDLED", "A system thread raised an exception and no handler took it.",
        ["exception code", "address of the instruction", "address of the exception record", "address of the context record"]),
    entry(0x7F, "UNEXPECTED_KERNEL_MODE_TRAP", "The processor raised an exception that kernel code may not cause (double fault: usually a stack overflow).",
        ["exception vector (0: divide error, 6: invalid opcode, 8: double fault)", "", "", ""]),
    entry(0x8E, "KERNEL_MODE_EXCEPTION_NOT_HANDLED", "The driver raised an exception and no handler took it.",
        ["exception code", "address of the instruction", "address of the trap frame", ""]),
    entry(0x93, "INVALID_KERNEL_HANDLE", "The driver used a handle that is not open, or protected.",
        ["handle", "0: not open, 1: protected", "", ""]),
    entry(0xBE, "ATTEMPTED_WRITE_TO_READONLY_MEMORY", "The driver wrote to memory that is read-only, such as its own code.",
        ["address that was written", "page table entry", "address of the instruction", ""]),
    entry(0xC1, "SPECIAL_POOL_DETECTED_MEMORY_CORRUPTION", "Something wrote beyond the bounds of its pool allocation.",
        ["address that was damaged", "", "", "kind of damage"]),
    entry(0xC2, "BAD_POOL_CALLER", "A pool routine was called in a way that is not allowed (freed twice, wrong address, IRQL too high).",
        ["kind of violation (7: block already free, 8/9: IRQL too high, 0x46: not the start of a block)", "depends on the kind", "depends on the kind", "address of the pool block"]),
    entry(0xC4, "DRIVER_VERIFIER_DETECTED_VIOLATION", "The driver broke a rule that its verifier checks.",
        ["kind of violation", "depends on the kind", "depends on the kind", "depends on the kind"]),
    entry(0xC5, "DRIVER_CORRUPTED_EXPOOL", "The pool is damaged, and was touched at an IRQL that is too high.",
        ["address that was touched", "IRQL at the time", "0: read, 1: write", "address of the instruction"]),
    entry(0xC6, "DRIVER_CAUGHT_MODIFYING_FREED_POOL", "The driver wrote to pool memory that it had freed.",
        ["address that was written", "0: read, 1: write", "", ""]),
    entry(0xC7, "TIMER_OR_DPC_INVALID", "A timer or DPC lies in memory that was freed, or ran where it may not.",
        ["kind (0: timer, 1: DPC, 2: DPC routine)", "address of the object", "start of the memory range", "end of the memory range"]),
    entry(0xC8, "IRQL_UNEXPECTED_VALUE", "The IRQL is not what it should be: the driver did not restore it.",
        ["IRQLs and routine, packed", "", "", ""]),
    entry(0xC9, "DRIVER_VERIFIER_IOMANAGER_VIOLATION", "The driver broke a rule of the I/O manager.", ["kind of violation", "", "", ""]),
    entry(0xCA, "PNP_DETECTED_FATAL_ERROR", "The PnP manager was given something that is not what it must be.", ["kind of error", "device object", "", ""]),
    entry(0xCB, "DRIVER_LEFT_LOCKED_PAGES_IN_PROCESS", "The driver did not unlock pages that it had locked.",
        ["address of the routine that locked them", "its caller", "address of the MDL", "pages"]),
    entry(0xCC, "PAGE_FAULT_IN_FREED_SPECIAL_POOL", "Pool memory was used after it was freed.",
        ["address", "0 read, 1 write", "address of the instruction", ""]),
    entry(0xCD, "PAGE_FAULT_BEYOND_END_OF_ALLOCATION", "Memory behind the end of a pool block was used.",
        ["address", "0 read, 1 write", "address of the instruction", ""]),
    entry(0xCE, "DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS", "The driver was unloaded with timers, DPCs or callbacks still set, and one of them ran.",
        ["address that was touched", "0: read, 1: write", "address of the instruction", ""]),
    entry(0xD1, "DRIVER_IRQL_NOT_LESS_OR_EQUAL", "The driver touched memory that may be paged out, or that does not exist, at an IRQL that is too high.",
        ["address that was touched", "IRQL at the time", "0: read, 1: write, 8: execute", "address of the instruction"]),
    entry(0xD3, "DRIVER_PORTION_MUST_BE_NONPAGED", "Pageable driver code was run at an IRQL that is too high.",
        ["address that was touched", "IRQL at the time", "0: read, 1: write", "address of the instruction"]),
    entry(0xD5, "DRIVER_PAGE_FAULT_IN_FREED_SPECIAL_POOL", "The driver touched pool memory that it had freed.",
        ["address that was touched", "0: read, 1: write", "address of the instruction", ""]),
    entry(0xD6, "DRIVER_PAGE_FAULT_BEYOND_END_OF_ALLOCATION", "The driver touched memory beyond the end of its pool allocation.",
        ["address that was touched", "0: read, 1: write", "address of the instruction", ""]),
    entry(0xD7, "DRIVER_UNMAPPING_INVALID_VIEW", "The driver unmapped a view that is not mapped there.",
        ["address", "1: session view, 0: system view", "", ""]),
    entry(0xDA, "SYSTEM_PTE_MISUSE", "Memory was unmapped in another way than it was mapped.",
        ["kind of misuse (2: another number of pages, 6: not mapped)", "depends on the kind", "depends on the kind", "depends on the kind"]),
    entry(0xE1, "WORKER_THREAD_RETURNED_AT_BAD_IRQL", "A work item returned at raised IRQL.",
        ["address of the work routine", "IRQL", "work item", ""]),
    entry(0xE2, "MANUALLY_INITIATED_CRASH", "The crash was asked for.", ["", "", "", ""]),
    entry(0xE3, "RESOURCE_NOT_OWNED", "A thread released a resource that it does not own.",
        ["resource", "thread", "owner table", ""]),
    entry(0xE4, "WORKER_INVALID", "A work item was queued twice, or memory that holds a queued one was freed.",
        ["kind (1: initialized while queued)", "work item", "", ""]),
    entry(0xE6, "DRIVER_VERIFIER_DMA_VIOLATION", "The driver broke the rules of DMA.",
        ["kind of violation", "depends on the kind", "depends on the kind", "depends on the kind"]),
    entry(0xE7, "INVALID_FLOATING_POINT_STATE", "A saved floating-point state was restored wrongly.",
        ["what is wrong", "saved or current value", "expected value", ""]),
    entry(0xEA, "THREAD_STUCK_IN_DEVICE_DRIVER", "A thread of the driver does not end.", ["thread", "", "", ""]),
    entry(0xF7, "DRIVER_OVERRAN_STACK_BUFFER", "A buffer on the stack was overrun: the security cookie is not what it was.",
        ["cookie found", "cookie expected", "complement of the cookie expected", ""]),
    entry(0xFC, "ATTEMPTED_EXECUTE_OF_NOEXECUTE_MEMORY", "The driver jumped to memory that holds no code.",
        ["address that was executed", "page table entry", "", ""]),
    entry(0x109, "CRITICAL_STRUCTURE_CORRUPTION", "Kernel code or data were changed.", ["", "", "", "kind of region"]),
    entry(0x10D, "WDF_VIOLATION", "A KMDF driver broke a rule of the framework.",
        ["kind of violation", "", "", ""]),
    entry(0x132, "RESOURCE_OWNER_POINTER_INVALID", "A resource's owner pointer is not valid.",
        ["", "", "", ""]),
    entry(0x133, "DPC_WATCHDOG_VIOLATION", "A DPC ran too long, or the IRQL was DISPATCH_LEVEL for too long.",
        ["0: one DPC, 1: DISPATCH_LEVEL in total", "time used, in ticks", "time allowed, in ticks", ""]),
    entry(0x139, "KERNEL_SECURITY_CHECK_FAILURE", "The driver failed fast (int 29h): it found its own data damaged.",
        ["kind of damage (2: stack cookie, 3: linked list)", "address of the trap frame", "address of the exception record", ""]),
    entry(0x4000_008A, "THREAD_TERMINATE_HELD_MUTEX", "A thread ended while it owned a mutex.",
        ["thread", "mutex", "", ""]),
    entry(0xDEAD_DEAD, "MANUALLY_INITIATED_CRASH1", "The crash was asked for.", ["", "", "", ""]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_sorted_and_without_doubles() {
        assert!(TABLE.windows(2).all(|pair| pair[0].code < pair[1].code));
    }

    #[test]
    fn names_agree_with_the_shim() {
        use kernel_shim::nt::bugcheck::name;
        for code in 0..0x1000 {
            if let Some(shim) = name(code) {
                assert_eq!(find(code).map(|entry| entry.name), Some(shim), "{code:#x}");
            }
        }
    }

    #[test]
    fn known_code_is_found_with_its_parameters() {
        let found = find(0xD1).unwrap();
        assert_eq!(found.name, "DRIVER_IRQL_NOT_LESS_OR_EQUAL");
        assert_eq!(found.parameters[3], "address of the instruction");
    }

    #[test]
    fn unknown_code_is_not_found() {
        assert!(find(0x1234_5678).is_none());
    }
}
