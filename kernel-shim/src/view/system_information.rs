//! ZwQuerySystemInformation.
//!
//! As documented, `ReturnLength` is the size of the information, whether or not it fitted; a length that a class does not
//! accept is INFO_LENGTH_MISMATCH, and then the buffer is not touched.

use super::structure::{Accepts, Structure, fixed};
use super::{counters, data, handle_information, modules, process_information};
use crate::api::nt_api;
use crate::ke::time;
use crate::mm::data::MmSystemRangeStart;
use crate::nt::NtStatus;
use crate::raw::{Ptr, from_word, low32};
use crate::shared;
use crate::value::ULong;
use crate::view::windows;
use abi::layout;
use abi::windows::Windows;

/// SYSTEM_INFORMATION_CLASS.
mod class {
    pub(super) const BASIC: u32 = 0;
    pub(super) const PROCESSOR: u32 = 1;
    pub(super) const PERFORMANCE: u32 = 2;
    pub(super) const TIME_OF_DAY: u32 = 3;
    pub(super) const PROCESS: u32 = 5;
    pub(super) const PROCESSOR_PERFORMANCE: u32 = 8;
    pub(super) const FLAGS: u32 = 9;
    pub(super) const MODULE: u32 = 11;
    pub(super) const HANDLES: u32 = 16;
    pub(super) const PAGE_FILE: u32 = 18;
    pub(super) const INTERRUPT: u32 = 23;
    pub(super) const DPC_BEHAVIOR: u32 = 24;
    pub(super) const TIME_ADJUSTMENT: u32 = 28;
    pub(super) const KERNEL_DEBUGGER: u32 = 35;
    pub(super) const REGISTRY_QUOTA: u32 = 37;
    pub(super) const TIME_ZONE: u32 = 44;
    pub(super) const RANGE_START: u32 = 50;
    pub(super) const EXTENDED_PROCESS: u32 = 57;
    pub(super) const EMULATION_BASIC: u32 = 62;
    pub(super) const EMULATION_PROCESSOR: u32 = 63;
    pub(super) const EXTENDED_HANDLES: u32 = 64;
    pub(super) const LOGICAL_PROCESSOR: u32 = 73;
    pub(super) const FIRMWARE_TABLE: u32 = 76;
    pub(super) const MODULE_EX: u32 = 77;
    pub(super) const BOOT_ENVIRONMENT: u32 = 90;
    pub(super) const CODE_INTEGRITY: u32 = 103;
    pub(super) const SECURE_BOOT: u32 = 145;
    pub(super) const KERNEL_DEBUGGER_EX: u32 = 149;
}

/// Where user space begins, and the granularity of reservations.
const GRANULARITY: u32 = 0x1_0000;
/// Smallest SYSTEM_FIRMWARE_TABLE_INFORMATION.
const FIRMWARE_HEADER: u32 = 16;
/// SYSTEM_CODEINTEGRITY_INFORMATION's bytes.
const CODE_INTEGRITY_BYTES: u32 = 8;
/// Registry quota, in bytes: there is no limit but this.
const REGISTRY_QUOTA: u32 = 0x0800_0000;
const PROCESSOR_ARCHITECTURE: u16 = if cfg!(nt_i386) { 0 } else { 9 };
/// Family 6.
const PROCESSOR_LEVEL: u16 = 6;

fn basic() -> Structure {
    let first = layout::RAM_BASE / layout::PAGE_SIZE;
    let pages = shared::ram_bytes() / layout::PAGE_SIZE;
    Structure::default()
        .dword(0)
        .dword(low32(time::TICK)) // TimerResolution
        .dword(low32(layout::PAGE_SIZE))
        .dword(low32(pages))
        .dword(low32(first)) // LowestPhysicalPageNumber
        .dword(low32(first + pages - 1))
        .dword(GRANULARITY)
        .word(u64::from(GRANULARITY)) // MinimumUserModeAddress
        .word(layout::HIGHEST_USER_ADDRESS)
        .word(1) // ActiveProcessorsAffinityMask
        .half(1) // NumberOfProcessors
        .aligned()
}

fn processor() -> Structure {
    Structure::default()
        .half(PROCESSOR_ARCHITECTURE)
        .half(PROCESSOR_LEVEL)
        .half(0)
        .half(1) // MaximumProcessors
        .dword(0)
}

fn time_of_day() -> Structure {
    Structure::default()
        .qword(shared::system_time()) // BootTime
        .qword(time::system_time())
        .qword(0) // TimeZoneBias: UTC
        .dword(0)
        .dword(0)
        .qword(0)
        .qword(0)
}

/// Whether this Windows has the classes that came with Windows 8.
fn has_newer_classes() -> bool {
    matches!(windows(), Windows::Ten | Windows::Eleven)
}

/// RTL_TIME_ZONE_INFORMATION: UTC, whose names are both "UTC", and which has no dates of change.
fn time_zone() -> Structure {
    const NAME_UNITS: usize = 32;
    const DATE_BYTES: usize = 16;
    let name = |structure: Structure| {
        let end = structure.0.len() + 2 * NAME_UNITS;
        "UTC"
            .encode_utf16()
            .fold(structure, Structure::half)
            .extended(end)
    };
    let change = |structure: Structure| {
        let end = structure.0.len() + DATE_BYTES + 4; // a date, a bias
        structure.extended(end)
    };
    change(name(change(name(Structure::default().dword(0)))))
}

/// SYSTEM_BOOT_ENVIRONMENT_INFORMATION: started by a BIOS.
fn boot_environment() -> Structure {
    const FIRMWARE_BIOS: u32 = 1;
    Structure::default()
        .qword(0) // BootIdentifier
        .qword(0)
        .dword(FIRMWARE_BIOS)
        .aligned_to(8)
        .qword(0)
}

fn registry_quota() -> Structure {
    Structure::default()
        .dword(REGISTRY_QUOTA)
        .dword(0)
        .word(shared::pool_bytes())
}

/// SYSTEM_CODEINTEGRITY_INFORMATION: the caller sets Length. Nothing enforces signatures here.
fn code_integrity(buffer: Ptr<u8>, length: u32) -> (NtStatus, u32) {
    if length != CODE_INTEGRITY_BYTES || buffer.cast::<u32>().read() != CODE_INTEGRITY_BYTES {
        return (NtStatus::INFO_LENGTH_MISMATCH, CODE_INTEGRITY_BYTES);
    }
    buffer.add_bytes(4).cast().write(0_u32);
    (NtStatus::SUCCESS, CODE_INTEGRITY_BYTES)
}

/// Status and bytes for `ReturnLength`.
fn answer(class: u32, buffer: Ptr<u8>, length: u32) -> (NtStatus, u32) {
    use Accepts::{AtLeast, AtMost, Exactly, Prefix};
    let (structure, accepts) = match class {
        class::BASIC | class::EMULATION_BASIC => (basic(), Exactly),
        class::PROCESSOR | class::EMULATION_PROCESSOR => (processor(), AtLeast),
        class::TIME_OF_DAY => (time_of_day(), AtMost),
        class::FLAGS => {
            let flags = super::exported(&data::NtGlobalFlag).read();
            (Structure::default().dword(flags), Exactly)
        }
        class::TIME_ADJUSTMENT => {
            let increment = low32(time::TICK);
            let structure = Structure::default().dword(increment).dword(increment);
            // Enable: no adjustment is made.
            (structure.dword(1), Exactly)
        }
        class::KERNEL_DEBUGGER => {
            // KernelDebuggerEnabled, KernelDebuggerNotPresent: there is none.
            let structure = Structure::default().half(u16::from_le_bytes([0, 1]));
            (structure, AtLeast)
        }
        class::REGISTRY_QUOTA => (registry_quota(), AtLeast),
        class::RANGE_START => {
            let start = from_word(MmSystemRangeStart.ptr().read());
            (Structure::default().word(start), Exactly)
        }
        // What Windows 7's has more than its predecessors' is behind the rest.
        class::PERFORMANCE => (counters::performance(), Prefix(counters::PERFORMANCE_BYTES)),
        class::PROCESSOR_PERFORMANCE => (counters::processor_performance(), AtLeast),
        class::INTERRUPT => (counters::interrupts(), AtLeast),
        class::DPC_BEHAVIOR => (counters::dpc_behavior(), Exactly),
        class::LOGICAL_PROCESSOR => (counters::logical_processors(), AtLeast),
        class::PAGE_FILE => return (NtStatus::SUCCESS, 0), // there are none
        class::TIME_ZONE => (time_zone(), AtLeast),
        class::BOOT_ENVIRONMENT if !matches!(windows(), Windows::Xp) => {
            (boot_environment(), AtLeast)
        }
        class::SECURE_BOOT if has_newer_classes() => {
            // SecureBootEnabled, SecureBootCapable: a PC without it.
            (Structure::default().half(0), AtLeast)
        }
        class::KERNEL_DEBUGGER_EX if has_newer_classes() => {
            // DebuggerAllowed, DebuggerEnabled, DebuggerPresent
            (Structure::default().half(0).byte(0), AtLeast)
        }
        class::MODULE => return modules::query(buffer, length),
        class::MODULE_EX if !matches!(windows(), Windows::Xp) => {
            return modules::query_ex(buffer, length);
        }
        class::HANDLES => return handle_information::query(buffer, length),
        class::EXTENDED_HANDLES => return handle_information::query_extended(buffer, length),
        class::PROCESS => return process_information::query(buffer, length, false),
        class::EXTENDED_PROCESS => return process_information::query(buffer, length, true),
        class::CODE_INTEGRITY => return code_integrity(buffer, length),
        class::FIRMWARE_TABLE if length < FIRMWARE_HEADER => {
            return (NtStatus::INFO_LENGTH_MISMATCH, FIRMWARE_HEADER);
        }
        // No provider of firmware tables is registered.
        class::FIRMWARE_TABLE => return (NtStatus::NOT_IMPLEMENTED, 0),
        _ => return (NtStatus::INVALID_INFO_CLASS, 0),
    };
    fixed(&structure, accepts, buffer, length)
}

fn query(class: u32, buffer: Ptr<u8>, length: u32, return_length: Ptr<u32>) -> NtStatus {
    let (status, bytes) = answer(class, buffer, length);
    if !return_length.is_null() {
        return_length.write(bytes);
    }
    status
}

nt_api! { module = view_system_information;
    /// Information about the system, by class: basic (0), processor (1), performance (2), time of day (3), processes and
    /// their threads (5, 57), processor performance (8), flags (9), modules (11, 77), handles (16, 64), page files (18),
    /// interrupts (23), DPC behaviour (24), time adjustment (28), kernel debugger (35, 149), registry quota (37), time
    /// zone (44), range start (50), emulation (62, 63), logical processors (73), firmware tables (76), boot environment
    /// (90), code integrity (103), secure boot (145). Another class is STATUS_INVALID_INFO_CLASS.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwQuerySystemInformation(
        system_information_class: ULong,
        system_information: Ptr<u8>,
        system_information_length: ULong,
        return_length: Ptr<u32>,
    ) -> NtStatus {
        query(system_information_class, system_information, system_information_length, return_length)
    }

    /// As ZwQuerySystemInformation: the callers are kernel code.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn NtQuerySystemInformation(
        system_information_class: ULong,
        system_information: Ptr<u8>,
        system_information_length: ULong,
        return_length: Ptr<u32>,
    ) -> NtStatus {
        query(system_information_class, system_information, system_information_length, return_length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_platform::machine;

    /// Status, ReturnLength and what was written.
    fn ask(class: u32, length: u32) -> (NtStatus, u32, Vec<u8>) {
        let mut bytes = vec![0xEE_u8; 4096];
        let mut returned = 0xDEAD_u32;
        let status = ZwQuerySystemInformation(
            class,
            Ptr::of(&mut bytes[0]),
            length,
            Ptr::of(&mut returned),
        );
        (status, returned, bytes)
    }

    #[test]
    fn lengths_are_as_each_class_wants_them() {
        let _machine = machine();
        for (class, bytes, shorter, longer) in [
            (class::BASIC, 0x40, false, false),
            (class::PROCESSOR, 12, false, true),
            (class::TIME_OF_DAY, 48, true, false),
            (class::FLAGS, 4, false, false),
            (class::TIME_ADJUSTMENT, 12, false, false),
            (class::KERNEL_DEBUGGER, 2, false, true),
            (class::REGISTRY_QUOTA, 16, false, true),
            (class::RANGE_START, 8, false, false),
            (class::PROCESSOR_PERFORMANCE, 48, false, true),
            (class::INTERRUPT, 24, false, true),
            (class::DPC_BEHAVIOR, 20, false, false),
            (class::TIME_ZONE, 172, false, true),
            (class::LOGICAL_PROCESSOR, 96, false, true),
            (class::BOOT_ENVIRONMENT, 32, false, true),
            (class::SECURE_BOOT, 2, false, true),
            (class::KERNEL_DEBUGGER_EX, 3, false, true),
        ] {
            assert_eq!(ask(class, bytes).0, NtStatus::SUCCESS, "class {class}");
            assert_eq!(ask(class, bytes).1, bytes, "class {class}");
            for (length, is_accepted) in [(bytes - 1, shorter), (bytes + 1, longer)] {
                let (status, returned, written) = ask(class, length);
                if is_accepted {
                    assert_eq!(status, NtStatus::SUCCESS, "class {class}, {length}");
                    assert_eq!(returned, bytes.min(length));
                } else {
                    assert_eq!(status, NtStatus::INFO_LENGTH_MISMATCH, "class {class}");
                    assert_eq!(returned, bytes);
                    assert!(written.iter().all(|&byte| byte == 0xEE));
                }
            }
        }
        assert_eq!(ask(9999, 8).0, NtStatus::INVALID_INFO_CLASS);
        assert_eq!(
            ask(class::FIRMWARE_TABLE, 15).0,
            NtStatus::INFO_LENGTH_MISMATCH
        );
        assert_eq!(ask(class::FIRMWARE_TABLE, 16).0, NtStatus::NOT_IMPLEMENTED);
        assert_eq!(
            ask(class::CODE_INTEGRITY, 8).0,
            NtStatus::INFO_LENGTH_MISMATCH
        );
    }

    #[test]
    fn basic_information_describes_the_guest() {
        let _machine = machine();
        let (_, _, bytes) = ask(class::BASIC, 0x40);
        let dword = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!(dword(8), 4096);
        assert_eq!(u64::from(dword(12)) * 4096, layout::RAM_DEFAULT);
        assert_eq!(u64::from(dword(16)) * 4096, layout::RAM_BASE);
        assert_eq!(bytes[0x38], 1);
    }

    #[test]
    fn performance_information_may_be_the_shorter_one() {
        let _machine = machine();
        assert_eq!(ask(class::PERFORMANCE, 311).1, 344);
        assert_eq!(ask(class::PERFORMANCE, 312).1, 312);
        let (status, returned, bytes) = ask(class::PERFORMANCE, 1000);
        assert_eq!((status, returned), (NtStatus::SUCCESS, 344));
        let available = u32::from_le_bytes(bytes[0x2C..0x30].try_into().unwrap());
        assert!(available != 0, "AvailablePages");
    }

    #[test]
    fn a_process_has_its_threads_behind_it() {
        let _machine = machine();
        let (_, needed, _) = ask(class::PROCESS, 0);
        let (status, _, bytes) = ask(class::PROCESS, needed);
        assert_eq!(status, NtStatus::SUCCESS);
        // The Idle process with the thread that the guest has booted on, as NT numbers it.
        assert_eq!(bytes[4], 1, "NumberOfThreads");
        let thread = &bytes[0x100..0x150];
        assert_eq!(thread[0x28..0x38], [0; 16], "CLIENT_ID");
        assert_eq!(thread[0x44], 2, "ThreadState: running");
        let (_, extended, _) = ask(class::EXTENDED_PROCESS, 0);
        assert_eq!(extended - needed, 0x38);
    }

    #[test]
    fn handles_are_listed_in_both_forms() {
        let _machine = machine();
        let body = crate::ps::by_id(crate::ps::SYSTEM_ID).unwrap().addr();
        let handle = crate::ob::handles::insert(crate::ob::handles::SYSTEM, body, 0x1234);
        let (_, needed, _) = ask(class::HANDLES, 0);
        assert_eq!(needed, 8 + 24);
        let (status, _, bytes) = ask(class::HANDLES, needed);
        assert_eq!(status, NtStatus::SUCCESS);
        assert_eq!(bytes[..4], [1, 0, 0, 0]);
        assert_eq!(bytes[8..10], [4, 0], "UniqueProcessId");
        assert_eq!(bytes[14..16], [4, 0], "HandleValue");
        assert_eq!(bytes[16..24], body.to_le_bytes());
        assert_eq!(bytes[24..28], 0x1234_u32.to_le_bytes());
        let (_, needed, _) = ask(class::EXTENDED_HANDLES, 0);
        assert_eq!(needed, 16 + 40);
        let (status, _, bytes) = ask(class::EXTENDED_HANDLES, needed);
        assert_eq!(status, NtStatus::SUCCESS);
        assert_eq!(bytes[16..24], body.to_le_bytes());
        assert_eq!(bytes[40..44], 0x1234_u32.to_le_bytes());
        assert!(crate::ob::handles::close(
            crate::ob::handles::SYSTEM,
            handle
        ));
    }

    #[test]
    fn processes_are_a_chain() {
        let _machine = machine();
        assert!(crate::ps::create(8).is_success());
        let (status, needed, _) = ask(class::PROCESS, 0);
        assert_eq!(status, NtStatus::INFO_LENGTH_MISMATCH);
        let (status, _, bytes) = ask(class::PROCESS, needed);
        assert_eq!(status, NtStatus::SUCCESS);
        let (mut at, mut ids) = (0, Vec::new());
        loop {
            let next = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            ids.push(bytes[at + 0x50]);
            if next == 0 {
                break;
            }
            at += next as usize;
        }
        assert_eq!(ids, [0, 4, 8]);
    }
}
