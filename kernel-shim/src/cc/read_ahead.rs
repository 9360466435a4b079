//! Read-ahead: a reader whose last reads are a pattern finds the next pages in the cache already.
//!
//! The pattern is NT's: three reads each of which begins where the one before ended, or at the same distance from it. A file
//! opened for sequential access alone (FO_SEQUENTIAL_ONLY) needs no history. A worker thread reads, between the file
//! system's callbacks.

use alloc::collections::VecDeque;

use super::{Cache, PAGE, adopt, fetch, key_of, resident, with};
use crate::api::nt_api;
use crate::ex::pool;
use crate::ex::work::{self, WorkItem};
use crate::io::routine;
use crate::nt::{FILE_OBJECT, WORK_QUEUE_ITEM};
use crate::ob;
use crate::raw::{Global, Ptr, from_word, to_word};
use crate::shared;
use abi::trace::Entry;

/// FO_SEQUENTIAL_ONLY.
const SEQUENTIAL_ONLY: u32 = 0x20;
/// FO_RANDOM_ACCESS.
const RANDOM_ACCESS: u32 = 0x0010_0000;
/// Most pages that one request reads.
const RUN: u64 = 16;
/// Most bytes that are read ahead at a time.
const LIMIT: u64 = 0x8_0000;
/// DelayedWorkQueue.
const DELAYED: u32 = 1;

/// What a user of a cache has read.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Reader {
    /// CcSetReadAheadGranularity, in bytes; 0: a page.
    granularity: u64,
    /// The last two reads, the older first: offset, bytes.
    reads: [(u64, u64); 2],
    /// The range that was asked for last.
    asked: (u64, u64),
}

impl Reader {
    /// A read takes place: the range that is worth reading next.
    fn read(&mut self, offset: u64, bytes: u64, is_sequential: bool) -> Option<(u64, u64)> {
        let granularity = self.granularity.max(PAGE);
        let [older, last] = self.reads;
        self.reads = [last, (offset, bytes)];
        let end = offset.checked_add(bytes)?;
        let length = bytes.checked_next_multiple_of(granularity)?.min(LIMIT);
        let follows = |before: (u64, u64), start: u64| {
            before.1 > 0 && before.0.checked_add(before.1) == Some(start)
        };
        let range = if is_sequential || follows(older, last.0) && follows(last, offset) {
            let ahead = end.checked_next_multiple_of(granularity)?;
            (end - end % PAGE, ahead.checked_add(length)?)
        } else {
            let stride = offset.wrapping_sub(last.0);
            if older.1 == 0 || last.1 == 0 || stride == 0 || last.0.wrapping_sub(older.0) != stride
            {
                return None;
            }
            let next = offset.checked_add_signed(stride.cast_signed())?;
            (next - next % PAGE, next.checked_add(length)?)
        };
        if self.asked == range {
            return None;
        }
        self.asked = range;
        Some(range)
    }
}

/// A range that is to be read: the file, referenced, and first and last byte.
#[derive(Clone, Copy, Debug)]
struct Ahead {
    file: Ptr<FILE_OBJECT>,
    start: u64,
    end: u64,
}

#[derive(Debug)]
struct State {
    waiting: VecDeque<Ahead>,
    /// WORK_QUEUE_ITEM of the worker; null before it is needed first.
    item: u64,
}

static STATE: Global<State> = Global::new(
    "read-ahead",
    State {
        waiting: VecDeque::new(),
        item: 0,
    },
);

pub(super) fn initialize() {
    STATE.with(|state| {
        state.waiting.clear();
        state.item = 0;
    });
}

/// Sets the least that is read ahead of a user; what is no power of two has no effect.
pub(super) fn set_granularity(file: Ptr<FILE_OBJECT>, bytes: u32) {
    with(key_of(file), |cache| {
        if let Some(reader) = cache.users.get_mut(&file.addr())
            && bytes.is_power_of_two()
        {
            reader.granularity = u64::from(bytes);
        }
    });
}

/// A user of a cache has read: what it will read next is fetched, if that can be known.
pub(super) fn note(file: Ptr<FILE_OBJECT>, offset: u64, bytes: u64) {
    let flags = file.read().Flags;
    let wanted = with(key_of(file), |cache| {
        if bytes == 0 || !cache.is_read_ahead || flags & RANDOM_ACCESS != 0 {
            return None;
        }
        let is_sequential = flags & SEQUENTIAL_ONLY != 0;
        let reader = cache.users.get_mut(&file.addr())?;
        let (start, end) = reader.read(offset, bytes, is_sequential)?;
        let end = end.min(cache.sizes.FileSize);
        is_missing(cache, start, end).then_some((start, end))
    });
    let Some((start, end)) = wanted.flatten() else {
        return;
    };
    let Some(item) = item() else {
        return;
    };
    ob::reference(file.addr());
    STATE.with(|state| state.waiting.push_back(Ahead { file, start, end }));
    if !work::is_queued(item) {
        work::queue(WorkItem::Executive(item), DELAYED);
    }
}

fn is_missing(cache: &Cache, start: u64, end: u64) -> bool {
    start < end && (start / PAGE..end.div_ceil(PAGE)).any(|index| !cache.pages.contains_key(&index))
}

/// The worker's item; `None` when the pool is exhausted.
fn item() -> Option<Ptr<WORK_QUEUE_ITEM>> {
    let known = STATE.with(|state| state.item);
    if known != 0 {
        return Some(Ptr::new(known));
    }
    let block = pool::allocate_zeroed(size_of::<WORK_QUEUE_ITEM>() as u64, *b"CcRa")?;
    let item = block.cast::<WORK_QUEUE_ITEM>();
    item.with(|item| item.WorkerRoutine = to_word(routine::callable("CcpReadAhead")));
    STATE.with(|state| state.item = item.addr());
    Some(item)
}

/// Reads one range, between the file system's callbacks.
fn perform(ahead: Ahead) {
    let key = key_of(ahead.file);
    let is_user = |cache: &mut Cache| {
        let is_user = cache.users.contains_key(&ahead.file.addr());
        is_user.then_some((cache.callbacks, cache.context))
    };
    let Some((callbacks, context)) = with(key, is_user).flatten() else {
        return;
    };
    let acquire = from_word(callbacks.AcquireForReadAhead);
    if acquire != 0 && shared::call_driver(Entry::Other, acquire, &[context, 1]) & 0xFF == 0 {
        return;
    }
    let end = ahead.end.div_ceil(PAGE);
    let mut index = ahead.start / PAGE;
    // The file may be closed, or read by others, while a request is under way.
    while index < end && with(key, is_user).flatten().is_some() {
        if resident(key, index).is_some() {
            index += 1;
            continue;
        }
        let run = (index..end.min(index + RUN))
            .take_while(|&next| resident(key, next).is_none())
            .count() as u64;
        // A page that cannot be read now is read, and its error raised, when it is needed.
        let Ok(block) = fetch(key, index, run, false) else {
            break;
        };
        adopt(key, index, run, block);
        index += run;
    }
    let release = from_word(callbacks.ReleaseFromReadAhead);
    if release != 0 {
        shared::call_driver(Entry::Other, release, &[context]);
    }
}

nt_api! { module = cc_read_ahead;
    /// The worker routine of read-ahead. NT does not export it; it needs an address.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CcpReadAhead(context: Ptr<u8>) {
        while let Some(ahead) = STATE.with(|state| state.waiting.pop_front()) {
            perform(ahead);
            ob::dereference(ahead.file.addr());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{PAGE, Reader};

    #[test]
    fn the_third_read_in_sequence_is_a_pattern() {
        let mut reader = Reader::default();
        assert_eq!(reader.read(0, 100, false), None);
        assert_eq!(reader.read(100, 100, false), None);
        assert_eq!(reader.read(200, 100, false), Some((0, 2 * PAGE)));
        assert_eq!(reader.read(300, 100, false), None, "it was asked for");
        assert_eq!(reader.read(9000, 100, false), None);
    }

    #[test]
    fn reads_at_equal_distances_are_a_pattern_in_both_directions() {
        let mut reader = Reader::default();
        for offset in [0x9000, 0x7000] {
            assert_eq!(reader.read(offset, 10, false), None);
        }
        assert_eq!(
            reader.read(0x5000, 10, false),
            Some((0x3000, 0x3000 + PAGE))
        );
        assert_eq!(reader.read(0x5000, 10, false), None);
        assert_eq!(reader.read(0x1000, 10, false), None);
    }

    #[test]
    fn granularity_and_sequential_access() {
        let mut reader = Reader {
            granularity: 0x4000,
            ..Reader::default()
        };
        assert_eq!(reader.read(0, 1, true), Some((0, 0x8000)));
        assert_eq!(reader.read(u64::MAX - 1, 1, true), None, "no overflow");
    }
}
