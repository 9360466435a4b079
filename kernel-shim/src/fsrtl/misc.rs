//! Stack overflow, reparse points.

use crate::api::nt_api;
use crate::ex::pool;
use crate::ex::work::{self, WorkItem};
use crate::io::routine;
use crate::nt::{KEVENT, NtStatus, WORK_QUEUE_ITEM};
use crate::raw::{Ptr, Word, from_word, to_word};
use crate::rtl::raise_status;
use crate::shared;
use crate::value::ULong;
use abi::trace::Entry;

/// A work item that calls a routine with a context and an event.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Overflow {
    item: WORK_QUEUE_ITEM,
    routine: Word,
    context: Word,
    event: Word,
}

const OVERFLOW_TAG: [u8; 4] = *b"FSso";
/// HyperCriticalWorkQueue.
const HYPER_CRITICAL: u32 = 2;

fn post(context: Ptr<u8>, event: Ptr<KEVENT>, callback: Ptr<u8>) {
    let Some(block) = pool::allocate_zeroed(size_of::<Overflow>() as u64, OVERFLOW_TAG) else {
        raise_status(NtStatus::INSUFFICIENT_RESOURCES);
    };
    let block = block.cast::<Overflow>();
    block.with(|overflow| {
        overflow.item.WorkerRoutine = to_word(routine::callable("FsRtlpStackOverflow"));
        overflow.item.Parameter = block.word();
        overflow.routine = callback.word();
        overflow.context = context.word();
        overflow.event = event.word();
    });
    work::queue(WorkItem::Executive(block.cast()), HYPER_CRITICAL);
}

/// Bytes in front of a reparse point's data: tag, length, reserved; and with the GUID of tags that are not Microsoft's.
const REPARSE_HEADER: u64 = 8;
const REPARSE_GUID_HEADER: u64 = 24;
/// MAXIMUM_REPARSE_DATA_BUFFER_SIZE.
const REPARSE_MAXIMUM: u64 = 16 * 1024;
const MICROSOFT: u32 = 0x8000_0000;
const MOUNT_POINT: u32 = 0xA000_0003;
const SYMLINK: u32 = 0xA000_000C;

fn validate_reparse(bytes: u64, buffer: Ptr<u8>) -> Result<(), NtStatus> {
    let invalid = Err(NtStatus::IO_REPARSE_DATA_INVALID);
    if !(REPARSE_HEADER..=REPARSE_MAXIMUM).contains(&bytes) {
        return invalid;
    }
    let tag = buffer.cast::<u32>().read();
    let half = |at: u64| u64::from(buffer.add_bytes(at).cast::<u16>().read());
    let data = half(4);
    if data + REPARSE_HEADER != bytes && data + REPARSE_GUID_HEADER != bytes {
        return invalid;
    }
    // IO_REPARSE_TAG_RESERVED_ZERO and _ONE, and the bits that tags may not have.
    if tag <= 1 || tag & 0x0FFF_0000 != 0 {
        return Err(NtStatus::IO_REPARSE_TAG_INVALID);
    }
    if data + REPARSE_HEADER != bytes {
        // With a GUID; it may not be zero unless the tag is Microsoft's.
        let is_zero = (8..24).step_by(2).all(|at| half(at) == 0);
        return if tag & MICROSOFT == 0 && is_zero {
            invalid
        } else {
            Ok(())
        };
    }
    if tag & MICROSOFT == 0 {
        return invalid;
    }
    let fixed = match tag {
        MOUNT_POINT => 8,
        SYMLINK => 12,
        _ => return Ok(()),
    };
    if data < fixed {
        return invalid;
    }
    let [substitute, substitute_bytes, print, print_bytes] = [8, 10, 12, 14].map(half);
    if [substitute, substitute_bytes, print, print_bytes]
        .iter()
        .any(|value| value % 2 != 0)
    {
        return invalid;
    }
    if tag == MOUNT_POINT {
        // The substitute name first, then the other, each closed by NUL.
        let is_good = substitute == 0
            && print == substitute_bytes + 2
            && data == fixed + print + print_bytes + 2
            && substitute_bytes != 0;
        return if is_good { Ok(()) } else { invalid };
    }
    let is_inside = |start: u64, length: u64| fixed + start + length <= data;
    if substitute_bytes != 0
        && is_inside(substitute, substitute_bytes)
        && is_inside(print, print_bytes)
    {
        Ok(())
    } else {
        invalid
    }
}

nt_api! { module = fsrtl_misc;
    /// Calls a routine with a context and an event on a worker thread, which has a stack of its own.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlPostStackOverflow(context: Ptr<u8>, event: Ptr<KEVENT>, stack_overflow_routine: Ptr<u8>) {
        post(context, event, stack_overflow_routine);
    }

    /// As FsRtlPostStackOverflow, for requests of the paging file.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlPostPagingFileStackOverflow(
        context: Ptr<u8>,
        event: Ptr<KEVENT>,
        stack_overflow_routine: Ptr<u8>,
    ) {
        post(context, event, stack_overflow_routine);
    }

    /// The worker routine of FsRtlPostStackOverflow. NT does not export it; it needs an address.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlpStackOverflow(block: Ptr<u8>) {
        let Overflow { routine, context, event, .. } = block.cast::<Overflow>().read();
        pool::free(block, u32::from_le_bytes(OVERFLOW_TAG));
        shared::call_driver(Entry::Other, from_word(routine), &[from_word(context), from_word(event)]);
    }

    /// Whether a reparse point's buffer is well formed: its length, its tag, and a mount point's or link's names.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn FsRtlValidateReparsePointBuffer(buffer_length: ULong, reparse_buffer: Ptr<u8>) -> NtStatus {
        validate_reparse(u64::from(buffer_length), reparse_buffer).err().unwrap_or(NtStatus::SUCCESS)
    }
}
