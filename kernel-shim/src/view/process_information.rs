//! SystemProcessInformation: the processes of the guest. There is no Idle process's thread to count.

use alloc::vec::Vec;

use crate::nt::{NtStatus, UNICODE_STRING};
use crate::ps;
use crate::raw::{Ptr, Word, low32};

/// SYSTEM_PROCESS_INFORMATION, of which only what is known here is not 0.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SYSTEM_PROCESS_INFORMATION {
    /// Bytes to the next process; 0: the last.
    pub NextEntryOffset: u32,
    /// Threads behind this structure.
    pub NumberOfThreads: u32,
    /// Not known.
    pub Reserved: [u64; 3],
    /// When it was made, 100 ns since 1601.
    pub CreateTime: u64,
    /// 100 ns.
    pub UserTime: u64,
    /// 100 ns.
    pub KernelTime: u64,
    /// The program's name; empty for the Idle process.
    pub ImageName: UNICODE_STRING,
    /// Base priority.
    pub BasePriority: i32,
    /// Process id.
    pub UniqueProcessId: Word,
    /// Id of the process that made it.
    pub InheritedFromUniqueProcessId: Word,
    /// Open handles.
    pub HandleCount: u32,
    /// Session.
    pub SessionId: u32,
    /// Memory and I/O counters.
    pub Counters: [Word; COUNTER_WORDS],
    /// I/O counters.
    pub IoCounters: [u64; 6],
}

/// Words from UniqueProcessKey to PrivatePageCount.
const COUNTER_WORDS: usize = 13;
/// Base priority of System and of clients.
const PRIORITY: i32 = 8;

const _: () = {
    use core::mem::offset_of;
    assert!(
        offset_of!(SYSTEM_PROCESS_INFORMATION, UniqueProcessId)
            == if cfg!(nt_i386) { 0x44 } else { 0x50 }
    );
    assert!(size_of::<SYSTEM_PROCESS_INFORMATION>() == if cfg!(nt_i386) { 0xB8 } else { 0x100 });
};

/// Fills the buffer; status and the bytes that all processes need.
pub(super) fn query(buffer: Ptr<u8>, length: u32) -> (NtStatus, u32) {
    let mut processes: Vec<(u32, &str)> = Vec::from([(0, "")]);
    for id in ps::ids() {
        processes.push((
            id,
            if id == ps::SYSTEM_ID {
                "System"
            } else {
                "client.exe"
            },
        ));
    }
    let header = size_of::<SYSTEM_PROCESS_INFORMATION>() as u64;
    let name_bytes = |name: &str| {
        if name.is_empty() {
            0
        } else {
            2 * name.len() as u64 + 2
        }
    };
    let entry_bytes = |name: &str| (header + name_bytes(name)).next_multiple_of(8);
    let needed: u64 = processes.iter().map(|(_, name)| entry_bytes(name)).sum();
    if u64::from(length) < needed {
        return (NtStatus::INFO_LENGTH_MISMATCH, low32(needed));
    }
    let mut at = buffer;
    let count = processes.len();
    for (index, (id, name)) in processes.into_iter().enumerate() {
        let bytes = entry_bytes(name);
        at.fill(0, bytes);
        let text = at.add_bytes(header);
        let units: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        text.write_bytes(&units);
        let is_last = index + 1 == count;
        let is_idle = id == 0;
        at.cast().write(SYSTEM_PROCESS_INFORMATION {
            NextEntryOffset: if is_last { 0 } else { low32(bytes) },
            NumberOfThreads: 0,
            Reserved: [0; 3],
            CreateTime: 0,
            UserTime: 0,
            KernelTime: 0,
            ImageName: UNICODE_STRING {
                Length: crate::raw::low16(units.len() as u64),
                MaximumLength: crate::raw::low16(name_bytes(name)),
                Buffer: if is_idle { Ptr::null() } else { text.cast() },
            },
            BasePriority: if is_idle { 0 } else { PRIORITY },
            UniqueProcessId: crate::raw::to_word(u64::from(id)),
            InheritedFromUniqueProcessId: 0,
            HandleCount: 0,
            SessionId: 0,
            Counters: [0; COUNTER_WORDS],
            IoCounters: [0; 6],
        });
        at = at.add_bytes(bytes);
    }
    (NtStatus::SUCCESS, low32(needed))
}
