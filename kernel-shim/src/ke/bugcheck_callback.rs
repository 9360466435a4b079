//! Callbacks at a bugcheck: they run at HIGH_LEVEL, once, before the crash is reported; what goes wrong in them
//! does not change the report.

use crate::api::nt_api;
use crate::ex::pool;
use crate::nt::{
    HIGH_LEVEL, KBUGCHECK_CALLBACK_RECORD, KBUGCHECK_REASON_CALLBACK_RECORD, LIST_ENTRY,
};
use crate::raw::{Global, ListHead, Ptr, Word, from_word};
use crate::shared;
use crate::value::{Boolean, ULong};
use abi::trace::Entry;

/// States of a record.
const EMPTY: u8 = 0;
const INSERTED: u8 = 1;
const STARTED: u8 = 2;
const FINISHED: u8 = 3;
/// KbCallbackSecondaryDumpData.
const SECONDARY_DUMP_DATA: u32 = 2;
/// Bytes that a callback may add to a dump.
const MOST_DUMP_DATA: u32 = 0x1000;

/// KBUGCHECK_SECONDARY_DUMP_DATA.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct SecondaryDumpData {
    in_buffer: Word,
    in_buffer_bytes: u32,
    most_bytes: u32,
    guid: [u8; 16],
    out_buffer: Word,
    out_buffer_bytes: u32,
}

/// Heads of the two lists, in pool memory: the lists go through drivers' records.
#[derive(Clone, Copy, Debug)]
struct Lists {
    plain: ListHead,
    reason: ListHead,
}

static LISTS: Global<Option<Lists>> = Global::new("bugcheck callbacks", None);

/// Nobody is registered.
pub(crate) fn initialize() {
    LISTS.with(|lists| *lists = None);
}

/// The lists, made at the first registration. `None` when the pool is exhausted.
fn lists() -> Option<Lists> {
    if let Some(lists) = LISTS.with(|lists| *lists) {
        return Some(lists);
    }
    let links = size_of::<LIST_ENTRY>() as u64;
    let plain = pool::allocate_zeroed(2 * links, *b"BgCb")?.cast::<LIST_ENTRY>();
    let made = Lists {
        plain,
        reason: plain.offset(1),
    };
    made.plain.list_initialize();
    made.reason.list_initialize();
    LISTS.with(|lists| *lists = Some(made));
    Some(made)
}

fn plain_sum(record: &KBUGCHECK_CALLBACK_RECORD) -> Word {
    record
        .CallbackRoutine
        .wrapping_add(record.Buffer)
        .wrapping_add(Word::from(record.Length))
        .wrapping_add(record.Component)
}

fn reason_sum(record: &KBUGCHECK_REASON_CALLBACK_RECORD) -> Word {
    record
        .CallbackRoutine
        .wrapping_add(Word::from(record.Reason))
        .wrapping_add(record.Component)
}

/// Whether the links around an entry agree: a damaged list is not followed.
fn is_sound(entry: ListHead) -> bool {
    let LIST_ENTRY { Flink, Blink } = entry.read();
    !Flink.is_null()
        && !Blink.is_null()
        && Flink.read().Blink == entry
        && Blink.read().Flink == entry
}

fn each(head: ListHead, mut call: impl FnMut(ListHead)) {
    let mut entry = head.read().Flink;
    while entry != head && is_sound(entry) {
        call(entry);
        entry = entry.read().Flink;
    }
}

fn run_plain(record: Ptr<KBUGCHECK_CALLBACK_RECORD>) {
    let state = record.read();
    if state.State != INSERTED || state.Checksum != plain_sum(&state) {
        return;
    }
    record.with(|record| record.State = STARTED);
    let arguments = [from_word(state.Buffer), state.Length.into()];
    shared::call_driver(Entry::Other, from_word(state.CallbackRoutine), &arguments);
    record.with(|record| record.State = FINISHED);
}

fn run_reason(record: Ptr<KBUGCHECK_REASON_CALLBACK_RECORD>) {
    let state = record.read();
    if state.State != INSERTED
        || state.Checksum != reason_sum(&state)
        || state.Reason != SECONDARY_DUMP_DATA
    {
        return;
    }
    let bytes = size_of::<SecondaryDumpData>() as u64;
    let buffer = pool::allocate_zeroed(MOST_DUMP_DATA.into(), *b"BgCb");
    let (Some(buffer), Some(data)) = (buffer, pool::allocate_zeroed(bytes, *b"BgCb")) else {
        return;
    };
    data.cast().write(SecondaryDumpData {
        in_buffer: buffer.word(),
        in_buffer_bytes: MOST_DUMP_DATA,
        most_bytes: MOST_DUMP_DATA,
        guid: [0; 16],
        out_buffer: 0,
        out_buffer_bytes: 0,
    });
    record.with(|record| record.State = STARTED);
    let arguments = [state.Reason.into(), record.addr(), data.addr(), bytes];
    shared::call_driver(Entry::Other, from_word(state.CallbackRoutine), &arguments);
    record.with(|record| record.State = FINISHED);
}

/// Runs all callbacks. The caller reports its own crash afterwards, or in the stead of one that happens here.
pub(crate) fn run() {
    if LISTS.is_busy() {
        return;
    }
    let Some(lists) = LISTS.with(|lists| *lists) else {
        return;
    };
    shared::set_irql(HIGH_LEVEL);
    each(lists.plain, |entry| run_plain(entry.cast()));
    each(lists.reason, |entry| run_reason(entry.cast()));
}

nt_api! { module = ke_bugcheck_callback;
    /// Registers a routine that is called at a bugcheck with a buffer. FALSE: the record is registered already.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeRegisterBugCheckCallback(
        record: Ptr<KBUGCHECK_CALLBACK_RECORD>, routine: Ptr<u8>, buffer: Ptr<u8>, bytes: ULong, component: Ptr<u8>,
    ) -> Boolean {
        let Some(lists) = lists() else { return false };
        if record.read().State != EMPTY {
            return false;
        }
        record.with(|record| {
            record.CallbackRoutine = routine.word();
            record.Buffer = buffer.word();
            record.Length = bytes;
            record.Component = component.word();
            record.Checksum = plain_sum(record);
            record.State = INSERTED;
        });
        lists.plain.list_insert_tail(record.cast());
        true
    }

    /// Takes a routine back. FALSE: the record is not registered.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeDeregisterBugCheckCallback(record: Ptr<KBUGCHECK_CALLBACK_RECORD>) -> Boolean {
        let was_inserted = record.read().State == INSERTED;
        if was_inserted {
            record.cast::<LIST_ENTRY>().list_remove();
            record.with(|record| record.State = EMPTY);
        }
        was_inserted
    }

    /// Registers a routine that is called at a bugcheck for a reason. FALSE: the record is registered already.
    ntoskrnl both stdcall irql(ANY_LEVEL) partial("only KbCallbackSecondaryDumpData is called, and its data is dropped")
    fn KeRegisterBugCheckReasonCallback(
        record: Ptr<KBUGCHECK_REASON_CALLBACK_RECORD>, routine: Ptr<u8>, reason: ULong, component: Ptr<u8>,
    ) -> Boolean {
        let Some(lists) = lists() else { return false };
        if record.read().State != EMPTY {
            return false;
        }
        record.with(|record| {
            record.CallbackRoutine = routine.word();
            record.Component = component.word();
            record.Reason = reason;
            record.Checksum = reason_sum(record);
            record.State = INSERTED;
        });
        lists.reason.list_insert_tail(record.cast());
        true
    }

    /// Takes a routine back. FALSE: the record is not registered.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeDeregisterBugCheckReasonCallback(record: Ptr<KBUGCHECK_REASON_CALLBACK_RECORD>) -> Boolean {
        let was_inserted = record.read().State == INSERTED;
        if was_inserted {
            record.cast::<LIST_ENTRY>().list_remove();
            record.with(|record| record.State = EMPTY);
        }
        was_inserted
    }
}
