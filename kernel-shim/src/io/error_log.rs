//! The error log. What drivers write there is a finding in the trace and the VMM's log.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;

use crate::api::nt_api;
use crate::ex::pool;
use crate::nt::{ERROR_LOG_MAXIMUM_SIZE, IO_ERROR_LOG_PACKET};
use crate::ob;
use crate::raw::{Global, Ptr, wide_string};
use crate::value::UChar;

#[derive(Debug)]
struct Log {
    /// Entries that are allocated and not written yet: address to the I/O object and bytes.
    entries: BTreeMap<u64, (u64, u8)>,
    sequence: u32,
}

static LOG: Global<Log> = Global::new(
    "error log",
    Log {
        entries: BTreeMap::new(),
        sequence: 0,
    },
);

const TAG: [u8; 4] = *b"IoEr";

pub(super) fn initialize() {
    LOG.with(|log| {
        log.entries.clear();
        log.sequence = 0;
    });
}

fn allocate(object: u64, bytes: u8) -> Ptr<u8> {
    let fixed = size_of::<IO_ERROR_LOG_PACKET>();
    if object == 0 || usize::from(bytes) < fixed || bytes > ERROR_LOG_MAXIMUM_SIZE {
        return Ptr::null();
    }
    let Some(entry) = pool::allocate_zeroed(u64::from(bytes), TAG) else {
        return Ptr::null();
    };
    LOG.with(|log| log.entries.insert(entry.addr(), (object, bytes)));
    entry
}

/// The insertion strings of a packet of `bytes`.
fn strings(packet: Ptr<IO_ERROR_LOG_PACKET>, bytes: u8) -> String {
    let IO_ERROR_LOG_PACKET {
        NumberOfStrings: count,
        StringOffset: offset,
        ..
    } = packet.read();
    let mut at = u64::from(offset);
    let mut text = String::new();
    for _ in 0..count {
        let room = u64::from(bytes).saturating_sub(at) / 2;
        if room == 0 {
            break;
        }
        let units = wide_string(packet.add_bytes(at).cast(), crate::raw::to_usize(room));
        at += 2 * (units.len() as u64 + 1);
        text.push_str(&format!(" '{}'", String::from_utf16_lossy(&units)));
    }
    text
}

fn write(entry: Ptr<u8>) {
    let Some((object, bytes)) = LOG.with(|log| log.entries.remove(&entry.addr())) else {
        return;
    };
    let packet = entry.cast::<IO_ERROR_LOG_PACKET>();
    let sequence = LOG.with(|log| {
        log.sequence += 1;
        log.sequence
    });
    let IO_ERROR_LOG_PACKET {
        ErrorCode: code,
        UniqueErrorValue: unique,
        FinalStatus: status,
        ..
    } = packet.read();
    let name = ob::lookup(object).map_or_else(String::new, |object| object.name);
    let words = [
        object,
        u64::from(code),
        u64::from(unique),
        u64::from(status),
        u64::from(sequence),
    ];
    crate::finding(
        &words,
        &format!(
            "error log: {name} code {code:#010x} status {status:#010x} value {unique:#x}{}",
            strings(packet, bytes)
        ),
    );
    pool::free(entry, 0);
}

nt_api! { module = io_error_log;
    /// Allocates an error log packet for a driver or device; NULL for a size below the packet's or above the maximum.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoAllocateErrorLogEntry(io_object: Ptr<u8>, entry_size: UChar) -> Ptr<u8> {
        allocate(io_object.addr(), entry_size)
    }

    /// Writes an error log packet and frees it.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoWriteErrorLogEntry(entry: Ptr<u8>) {
        write(entry);
    }

    /// Frees an error log packet that is not to be written.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoFreeErrorLogEntry(entry: Ptr<u8>) {
        if LOG.with(|log| log.entries.remove(&entry.addr())).is_some() {
            pool::free(entry, 0);
        }
    }
}
