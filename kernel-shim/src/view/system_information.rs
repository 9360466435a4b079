//! ZwQuerySystemInformation.
//!
//! As documented, `ReturnLength` is the size of the information, whether or not it fitted; a length that a class does not
//! accept is INFO_LENGTH_MISMATCH, and then the buffer is not touched.

use alloc::vec::Vec;

use super::{data, modules, process_information};
use crate::api::nt_api;
use crate::ke::time;
use crate::mm::data::MmSystemRangeStart;
use crate::nt::NtStatus;
use crate::raw::{Ptr, from_word, low32};
use crate::shared;
use crate::value::ULong;
use abi::layout;

/// SYSTEM_INFORMATION_CLASS.
mod class {
    pub(super) const BASIC: u32 = 0;
    pub(super) const PROCESSOR: u32 = 1;
    pub(super) const TIME_OF_DAY: u32 = 3;
    pub(super) const PROCESS: u32 = 5;
    pub(super) const FLAGS: u32 = 9;
    pub(super) const MODULE: u32 = 11;
    pub(super) const TIME_ADJUSTMENT: u32 = 28;
    pub(super) const KERNEL_DEBUGGER: u32 = 35;
    pub(super) const REGISTRY_QUOTA: u32 = 37;
    pub(super) const RANGE_START: u32 = 50;
    pub(super) const EMULATION_BASIC: u32 = 62;
    pub(super) const EMULATION_PROCESSOR: u32 = 63;
    pub(super) const FIRMWARE_TABLE: u32 = 76;
    pub(super) const CODE_INTEGRITY: u32 = 103;
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

/// A structure that is written field by field, with its padding.
#[derive(Debug, Default)]
struct Structure(Vec<u8>);

impl Structure {
    fn half(mut self, value: u16) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn dword(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn qword(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// A pointer-sized number, aligned.
    fn word(self, value: u64) -> Self {
        let aligned = self.aligned();
        if cfg!(nt_i386) {
            aligned.dword(low32(value))
        } else {
            aligned.qword(value)
        }
    }

    /// Padded for a pointer.
    fn aligned(mut self) -> Self {
        let word = size_of::<crate::raw::Word>();
        self.0.resize(self.0.len().next_multiple_of(word), 0);
        self
    }
}

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

fn registry_quota() -> Structure {
    Structure::default()
        .dword(REGISTRY_QUOTA)
        .dword(0)
        .word(shared::pool_bytes())
}

/// How long the caller's buffer may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Accepts {
    /// Exactly the structure.
    Exactly,
    /// The structure or more.
    AtLeast,
    /// The structure or less, which is then filled as far as it goes.
    AtMost,
}

fn fixed(structure: &Structure, accepts: Accepts, buffer: Ptr<u8>, length: u32) -> (NtStatus, u32) {
    let bytes = low32(structure.0.len() as u64);
    let is_accepted = match accepts {
        Accepts::Exactly => length == bytes,
        Accepts::AtLeast => length >= bytes,
        Accepts::AtMost => length <= bytes,
    };
    if !is_accepted {
        return (NtStatus::INFO_LENGTH_MISMATCH, bytes);
    }
    let count = bytes.min(length) as usize;
    buffer.write_bytes(&structure.0[..count]);
    (NtStatus::SUCCESS, low32(count as u64))
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
    use Accepts::{AtLeast, AtMost, Exactly};
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
        class::MODULE => return modules::query(buffer, length),
        class::PROCESS => return process_information::query(buffer, length),
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
    /// Information about the system, by class: basic (0), processor (1), time of day (3), processes (5), flags (9),
    /// modules (11), time adjustment (28), kernel debugger (35), registry quota (37), range start (50), emulation (62,
    /// 63), firmware tables (76), code integrity (103).
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("other classes are STATUS_INVALID_INFO_CLASS; processes are listed without their threads")
    fn ZwQuerySystemInformation(
        system_information_class: ULong,
        system_information: Ptr<u8>,
        system_information_length: ULong,
        return_length: Ptr<u32>,
    ) -> NtStatus {
        query(system_information_class, system_information, system_information_length, return_length)
    }

    /// As ZwQuerySystemInformation: the callers are kernel code.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("other classes are STATUS_INVALID_INFO_CLASS; processes are listed without their threads")
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
        let mut bytes = vec![0xEE_u8; 2048];
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
