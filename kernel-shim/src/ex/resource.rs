//! Executive resources (ERESOURCE): reader/writer locks with owners, recursion and waiters.
//!
//! The owner table has NT's form: the entry inside the resource, and behind it an array in pool memory whose first
//! entry holds only its length. Who releases a resource for the last time passes it on: to all who wait for shared
//! access when it was owned exclusively, to one who waits for exclusive access when it was shared.

use crate::ex::pool;
use crate::ke::waiters::{self, Waiter};
use crate::nt::bugcheck::{
    RESOURCE_NOT_OWNED, RESOURCE_OWNER_POINTER_INVALID, bugcheck_with_text, violation,
};
use crate::nt::{ERESOURCE, LIST_ENTRY, OWNER_ENTRY};
use crate::ps;
use crate::raw::{Ptr, Word, from_word};

/// [`ERESOURCE::Flag`]: owned exclusively.
const OWNED_EXCLUSIVE: u16 = 0x80;
/// [`ERESOURCE::Flag`]: no priority boost for owners.
pub(super) const DISABLE_BOOST: u16 = 0x08;
/// Low bits of an owner that is not a thread.
const OWNER_POINTER: Word = 3;
/// By how many entries the owner table grows.
const GROWTH: u32 = 4;
/// Driver Verifier's number of a self-deadlock.
const SELF_DEADLOCK: u64 = 0x1000;
const TABLE_TAG: [u8; 4] = *b"ReTa";

type Resource = Ptr<ERESOURCE>;

/// How shared access treats those who wait for exclusive access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shared {
    /// Waits behind them, unless the thread has access already.
    Normal,
    /// Goes before them.
    StarveExclusive,
    /// Waits behind them even if the thread has shared access already.
    WaitForExclusive,
}

/// The current thread as an owner.
pub(super) fn current() -> Word {
    ps::current_thread().word()
}

fn is_exclusive(resource: Resource) -> bool {
    resource.read().Flag & OWNED_EXCLUSIVE != 0
}

fn inner_entry(resource: Resource) -> Ptr<OWNER_ENTRY> {
    resource
        .add_bytes(core::mem::offset_of!(ERESOURCE, OwnerEntry) as u64)
        .cast()
}

/// All owner entries, free ones too.
fn entries(resource: Resource) -> impl Iterator<Item = Ptr<OWNER_ENTRY>> {
    let table = resource.read().OwnerTable;
    let length = table.non_null().map_or(0, |table| table.read().OwnerCount);
    core::iter::once(inner_entry(resource))
        .chain((1..i64::from(length)).map(move |index| table.offset(index)))
}

/// The entry of `owner`; of 0 the first free one.
fn find(resource: Resource, owner: Word) -> Option<Ptr<OWNER_ENTRY>> {
    entries(resource).find(|entry| entry.read().OwnerThread == owner)
}

fn grow(resource: Resource) -> Ptr<OWNER_ENTRY> {
    let old = resource.read().OwnerTable;
    let length = old.non_null().map_or(0, |table| table.read().OwnerCount);
    let bytes = |entries: u32| u64::from(entries) * size_of::<OWNER_ENTRY>() as u64;
    let new_length = length.max(1) + GROWTH;
    // NT waits until there is memory; nothing here would bring any.
    let table: Ptr<OWNER_ENTRY> = pool::allocate_zeroed(bytes(new_length), TABLE_TAG)
        .expect("the pool has room for a resource's owner table")
        .cast();
    if !old.is_null() {
        table.cast::<u8>().copy_from(old.cast(), bytes(length));
        pool::free(old.cast(), u32::from_le_bytes(TABLE_TAG));
    }
    table.with(|entry| entry.OwnerCount = new_length);
    resource.with(|resource| resource.OwnerTable = table);
    table.offset(i64::from(length.max(1)))
}

fn add_owner(resource: Resource, owner: Word) {
    let entry = find(resource, 0).unwrap_or_else(|| grow(resource));
    entry.write(OWNER_ENTRY {
        OwnerThread: owner,
        OwnerCount: 1,
    });
    resource.with(|resource| {
        resource.ActiveCount = resource.ActiveCount.wrapping_add(1);
        resource.ActiveEntries += 1;
    });
}

fn own_exclusively(resource: Resource, owner: Word) {
    resource.with(|resource| {
        resource.ActiveCount = 1;
        resource.ActiveEntries = 1;
        resource.Flag |= OWNED_EXCLUSIVE;
        resource.OwnerEntry = OWNER_ENTRY {
            OwnerThread: owner,
            OwnerCount: 1,
        };
    });
}

fn deadlock(resource: Resource) -> ! {
    violation(
        SELF_DEADLOCK,
        [resource.addr(), 0, 0],
        format_args!(
            "resource {:#x}: a thread with shared access waits for exclusive access, for ever",
            resource.addr()
        ),
    )
}

fn block(resource: Resource, is_exclusive: bool) {
    resource.with(|resource| {
        resource.ContentionCount = resource.ContentionCount.wrapping_add(1);
        if is_exclusive {
            resource.NumberOfExclusiveWaiters += 1;
        } else {
            resource.NumberOfSharedWaiters += 1;
        }
    });
    waiters::block(resource.addr(), is_exclusive);
}

/// Makes a resource free; what was in the memory is forgotten.
pub(super) fn initialize(resource: Resource, address: u64) {
    resource.cast::<u8>().fill(0, size_of::<ERESOURCE>() as u64);
    resource.cast::<LIST_ENTRY>().list_initialize();
    resource.with(|resource| resource.Address = crate::raw::to_word(address));
}

/// Frees what the resource has outside of its own memory.
pub(super) fn delete(resource: Resource) {
    let table = resource.with(|resource| core::mem::take(&mut resource.OwnerTable));
    if !table.is_null() {
        pool::free(table.cast(), u32::from_le_bytes(TABLE_TAG));
    }
}

/// Acquires exclusively. False: it is not free, and the caller does not want to wait.
pub(super) fn acquire_exclusive(resource: Resource, may_wait: bool) -> bool {
    let thread = current();
    let state = resource.read();
    if state.ActiveEntries == 0 {
        own_exclusively(resource, thread);
        return true;
    }
    if state.Flag & OWNED_EXCLUSIVE != 0 && state.OwnerEntry.OwnerThread == thread {
        resource.with(|resource| resource.OwnerEntry.OwnerCount += 1);
        return true;
    }
    if !may_wait {
        return false;
    }
    if find(resource, thread).is_some() {
        deadlock(resource);
    }
    block(resource, true);
    true
}

/// Acquires shared. False: it cannot be had at once, and the caller does not want to wait.
pub(super) fn acquire_shared(resource: Resource, may_wait: bool, how: Shared) -> bool {
    let thread = current();
    let state = resource.read();
    if state.ActiveEntries == 0 {
        add_owner(resource, thread);
        return true;
    }
    let mine = find(resource, thread);
    let is_mine = mine.is_some();
    let is_granted = if state.Flag & OWNED_EXCLUSIVE != 0 {
        is_mine
    } else {
        state.NumberOfExclusiveWaiters == 0
            || how == Shared::StarveExclusive
            || (how == Shared::Normal && is_mine)
    };
    if is_granted {
        match mine {
            Some(entry) => entry.with(|entry| entry.OwnerCount += 1),
            None => add_owner(resource, thread),
        }
        return true;
    }
    if !may_wait {
        return false;
    }
    if is_mine {
        deadlock(resource);
    }
    block(resource, false);
    true
}

fn wake_shared(resource: Resource) {
    let is_reader = |waiter: &Waiter| !waiter.is_exclusive;
    while let Some(waiter) = waiters::take(resource.addr(), is_reader) {
        resource.with(|resource| resource.NumberOfSharedWaiters -= 1);
        add_owner(resource, waiter.thread);
        waiters::wake(waiter);
    }
}

fn wake_exclusive(resource: Resource) {
    if let Some(waiter) = waiters::take(resource.addr(), |waiter| waiter.is_exclusive) {
        resource.with(|resource| resource.NumberOfExclusiveWaiters -= 1);
        own_exclusively(resource, waiter.thread);
        waiters::wake(waiter);
    }
}

fn not_owned(resource: Resource, owner: Word) -> ! {
    bugcheck_with_text(
        RESOURCE_NOT_OWNED,
        [
            resource.addr(),
            from_word(owner),
            resource.read().OwnerTable.addr(),
            0,
        ],
        format_args!(
            "resource {:#x} is released by {owner:#x}, which does not own it",
            resource.addr()
        ),
    )
}

/// Releases it once for an owner; not owning it is a bugcheck.
pub(super) fn release(resource: Resource, owner: Word) {
    let Some(entry) = find(resource, owner).filter(|_| owner != 0) else {
        not_owned(resource, owner)
    };
    let left = entry.with(|entry| {
        entry.OwnerCount -= 1;
        entry.OwnerCount
    });
    if left > 0 {
        return;
    }
    entry.write(OWNER_ENTRY::default());
    let was_exclusive = is_exclusive(resource);
    let entries = resource.with(|resource| {
        resource.Flag &= !OWNED_EXCLUSIVE;
        resource.ActiveEntries -= 1;
        resource.ActiveCount = resource.ActiveCount.wrapping_sub(1);
        resource.ActiveEntries
    });
    if entries > 0 {
        return;
    }
    let state = resource.read();
    if state.NumberOfSharedWaiters > 0 && (was_exclusive || state.NumberOfExclusiveWaiters == 0) {
        wake_shared(resource);
    } else if state.NumberOfExclusiveWaiters > 0 {
        wake_exclusive(resource);
    }
}

/// Lets the exclusive owner keep shared access, and lets those in who wait for that.
pub(super) fn convert_to_shared(resource: Resource) {
    if !is_exclusive(resource) || resource.read().OwnerEntry.OwnerThread != current() {
        not_owned(resource, current());
    }
    resource.with(|resource| resource.Flag &= !OWNED_EXCLUSIVE);
    wake_shared(resource);
}

/// How often `owner` has acquired it.
pub(super) fn count_of(resource: Resource, owner: Word) -> u32 {
    find(resource, owner).map_or(0, |entry| entry.read().OwnerCount)
}

/// Whether the current thread owns it exclusively.
pub(super) fn is_mine_exclusively(resource: Resource) -> bool {
    is_exclusive(resource) && resource.read().OwnerEntry.OwnerThread == current()
}

/// Names another owner than the current thread; a thread's address only where `is_thread` allows it.
pub(super) fn set_owner(resource: Resource, owner: Word, is_thread: bool) {
    if !is_thread && owner & OWNER_POINTER != OWNER_POINTER {
        bugcheck_with_text(
            RESOURCE_OWNER_POINTER_INVALID,
            [resource.addr(), from_word(owner), 0, 0],
            format_args!("owner pointer {owner:#x} does not have its two low bits set"),
        );
    }
    let thread = current();
    let Some(entry) = find(resource, thread) else {
        not_owned(resource, thread)
    };
    match find(resource, owner).filter(|other| *other != entry) {
        Some(other) => {
            let count = entry.read().OwnerCount;
            other.with(|other| other.OwnerCount += count);
            entry.write(OWNER_ENTRY::default());
            resource.with(|resource| {
                resource.ActiveEntries -= 1;
                resource.ActiveCount = resource.ActiveCount.wrapping_sub(1);
            });
        }
        None => entry.with(|entry| entry.OwnerThread = owner),
    }
}
