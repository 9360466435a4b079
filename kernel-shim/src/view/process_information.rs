//! SystemProcessInformation and SystemExtendedProcessInformation: the processes of the guest and their threads. As on NT
//! the idle thread is that of a process of its own, id 0, though its KTHREAD says System.

use alloc::vec::Vec;

use super::structure::Structure;
use crate::ke::{sched, time};
use crate::nt::thread::{field, process as fields};
use crate::nt::{KTHREAD, NtStatus, UNICODE_STRING};
use crate::ob::handles;
use crate::ps::{self, process, thread};
use crate::raw::{Ptr, Word, from_word, low32};

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

/// A process with its threads.
struct Process {
    id: u32,
    name: &'static str,
    threads: Vec<Ptr<KTHREAD>>,
}

fn processes() -> Vec<Process> {
    let idle = sched::idle();
    let mut all = alloc::vec![Process {
        id: 0,
        name: "",
        threads: alloc::vec![idle],
    }];
    for id in ps::ids() {
        let mut threads = process::threads_of(id);
        threads.retain(|&thread| thread != idle);
        let name = if id == ps::SYSTEM_ID {
            "System"
        } else {
            "client.exe"
        };
        all.push(Process { id, name, threads });
    }
    all
}

fn ticks_of(thread: Ptr<KTHREAD>) -> u32 {
    sched::private(thread).with(|private| private.ticks)
}

/// SYSTEM_THREAD_INFORMATION, or SYSTEM_EXTENDED_THREAD_INFORMATION, of a thread. All time is kernel time: nothing of
/// user mode runs here.
fn of_thread(thread: Ptr<KTHREAD>, is_extended: bool) -> Structure {
    let is_idle = thread == sched::idle();
    let client = if is_idle {
        [0, 0]
    } else {
        [thread::process_id_of(thread), thread::id_of(thread)].map(u64::from)
    };
    let kernel_time = if is_idle {
        time::idle_time()
    } else {
        u64::from(ticks_of(thread)) * time::TICK
    };
    let dword = |offset: u64| thread.add_bytes(offset).cast::<u32>().read();
    let (priority, base, reason, stack, limit) = thread.with(|thread| {
        let (priority, base) = (thread.Priority, thread.BasePriority);
        let bounds = [thread.StackBase, thread.StackLimit].map(from_word);
        (priority, base, thread.WaitReason, bounds[0], bounds[1])
    });
    let number = |value: i8| low32(i64::from(value).cast_unsigned());
    let start = thread::start_address(thread);
    let structure = Structure::default()
        .qword(kernel_time)
        .qword(0) // UserTime
        .qword(thread::times(thread).0)
        .dword(dword(field::WAIT_TIME))
        .word(start)
        .word(client[0])
        .word(client[1])
        .dword(number(priority))
        .dword(number(base))
        .dword(dword(field::CONTEXT_SWITCHES))
        .dword(u32::from(sched::state_of(thread).read()))
        .dword(u32::from(reason))
        .aligned_to(8);
    if !is_extended {
        return structure;
    }
    structure
        .word(stack)
        .word(limit)
        .word(start) // Win32StartAddress
        .word(0) // TebBase
        .word(0)
        .word(0)
        .word(0)
        .aligned_to(8)
}

impl Process {
    /// Bytes of its name with the closing NUL.
    fn name_bytes(&self) -> u64 {
        if self.name.is_empty() {
            0
        } else {
            2 * self.name.len() as u64 + 2
        }
    }

    fn header(&self) -> SYSTEM_PROCESS_INFORMATION {
        let body = process::by_id(self.id);
        let created = body.map_or(0, |body| {
            body.add_bytes(fields::CREATE_TIME).cast::<u64>().read()
        });
        let parent = body.map_or(0, |body| {
            body.add_bytes(fields::INHERITED_FROM).cast::<Word>().read()
        });
        let is_idle = self.id == 0;
        let ticks = self
            .threads
            .iter()
            .map(|&thread| u64::from(ticks_of(thread)));
        let ticks = ticks.sum::<u64>() + u64::from(process::ended_ticks(self.id));
        let handles = if is_idle {
            0
        } else {
            handles::of_process(self.id).len() as u64
        };
        SYSTEM_PROCESS_INFORMATION {
            NextEntryOffset: 0,
            NumberOfThreads: low32(self.threads.len() as u64),
            Reserved: [0; 3],
            CreateTime: created,
            UserTime: 0,
            KernelTime: if is_idle {
                time::idle_time()
            } else {
                ticks * time::TICK
            },
            ImageName: UNICODE_STRING {
                Length: crate::raw::low16(self.name_bytes().saturating_sub(2)),
                MaximumLength: crate::raw::low16(self.name_bytes()),
                Buffer: Ptr::null(),
            },
            BasePriority: if is_idle { 0 } else { PRIORITY },
            UniqueProcessId: crate::raw::to_word(u64::from(self.id)),
            InheritedFromUniqueProcessId: parent,
            HandleCount: low32(handles),
            SessionId: 0,
            Counters: [0; COUNTER_WORDS],
            IoCounters: [0; 6],
        }
    }
}

/// Fills the buffer; status and the bytes that all processes need.
pub(super) fn query(buffer: Ptr<u8>, length: u32, is_extended: bool) -> (NtStatus, u32) {
    // Making a list may not change what is listed: all of it is read first.
    let entries: Vec<(Process, Vec<u8>)> = processes()
        .into_iter()
        .map(|process| {
            let parts = process.threads.iter();
            let bytes = parts.flat_map(|&thread| of_thread(thread, is_extended).0);
            let bytes = bytes.collect();
            (process, bytes)
        })
        .collect();
    let header_bytes = size_of::<SYSTEM_PROCESS_INFORMATION>() as u64;
    let entry_bytes = |(process, threads): &(Process, Vec<u8>)| {
        (header_bytes + threads.len() as u64 + process.name_bytes()).next_multiple_of(8)
    };
    let needed: u64 = entries.iter().map(entry_bytes).sum();
    if u64::from(length) < needed {
        return (NtStatus::INFO_LENGTH_MISMATCH, low32(needed));
    }
    let mut at = buffer;
    let count = entries.len();
    for (index, entry) in entries.into_iter().enumerate() {
        let bytes = entry_bytes(&entry);
        let (process, threads) = entry;
        at.fill(0, bytes);
        at.add_bytes(header_bytes).write_bytes(&threads);
        let mut header = process.header();
        if index + 1 < count {
            header.NextEntryOffset = low32(bytes);
        }
        if !process.name.is_empty() {
            let text = at.add_bytes(header_bytes + threads.len() as u64);
            let units = process.name.encode_utf16().flat_map(u16::to_le_bytes);
            text.write_bytes(&units.collect::<Vec<u8>>());
            header.ImageName.Buffer = text.cast();
        }
        at.cast().write(header);
        at = at.add_bytes(bytes);
    }
    (NtStatus::SUCCESS, low32(needed))
}
