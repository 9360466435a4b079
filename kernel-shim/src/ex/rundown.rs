//! Rundown protection (EX_RUNDOWN_REF): a word that counts users in steps of two.
//!
//! Bit 0 says that the object is being run down: nobody new gets protection. While somebody waits for the last user to
//! go, the rest of the word is the address of a block on that waiter's stack, which counts the users left.

use crate::api::nt_api;
use crate::ex::pool;
use crate::io::driver::owner_of;
use crate::ke::{event, waiters};
use crate::nt::bugcheck::{KERNEL_SECURITY_CHECK_FAILURE, bugcheck_with_text};
use crate::nt::{DISPATCHER_HEADER, KEVENT, LIST_ENTRY, dispatcher};
use crate::raw::{Ptr, Word, from_word, low32, to_word};
use crate::shared;
use crate::value::{Boolean, Size, Tag, ULong};

/// The object is being run down.
const ACTIVE: Word = 1;
/// One user.
const USER: Word = 2;
/// FAST_FAIL_INVALID_REFERENCE_COUNT.
const INVALID_REFERENCE_COUNT: u64 = 14;

/// EX_RUNDOWN_WAIT_BLOCK.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
struct WaitBlock {
    users: Word,
    event: KEVENT,
}

type Reference = Ptr<Word>;

fn acquire(reference: Reference, count: u32) -> bool {
    reference.with(|value| {
        let is_granted = *value & ACTIVE == 0;
        if is_granted {
            *value += USER * Word::from(count);
        }
        is_granted
    })
}

fn unbalanced(reference: Reference) -> ! {
    bugcheck_with_text(
        KERNEL_SECURITY_CHECK_FAILURE,
        [INVALID_REFERENCE_COUNT, reference.addr(), 0, 0],
        format_args!(
            "rundown protection {:#x} is released more often than it was acquired",
            reference.addr()
        ),
    )
}

fn release(reference: Reference, count: u32) {
    let value = reference.read();
    if value & ACTIVE == 0 {
        match value.checked_sub(USER * Word::from(count)) {
            Some(left) => reference.write(left),
            None => unbalanced(reference),
        }
        return;
    }
    let block = Ptr::<WaitBlock>::new(from_word(value & !ACTIVE));
    if block.is_null() {
        unbalanced(reference);
    }
    let Some(left) = block.read().users.checked_sub(Word::from(count)) else {
        unbalanced(reference)
    };
    block.with(|block| block.users = left);
    if left == 0 {
        event::KeSetEvent(event_of(block), 0, false);
    }
}

fn event_of(block: Ptr<WaitBlock>) -> Ptr<KEVENT> {
    block
        .add_bytes(core::mem::offset_of!(WaitBlock, event) as u64)
        .cast()
}

fn wait(reference: Reference) {
    let value = reference.read();
    if value & !ACTIVE == 0 || value & ACTIVE != 0 {
        reference.write(value | ACTIVE);
        return;
    }
    let mut memory = WaitBlock {
        users: value / USER,
        event: KEVENT {
            Header: DISPATCHER_HEADER {
                Type: dispatcher::SYNCHRONIZATION_EVENT,
                Absolute: 0,
                Size: 0,
                Inserted: 0,
                SignalState: 0,
                WaitListHead: LIST_ENTRY {
                    Flink: Ptr::null(),
                    Blink: Ptr::null(),
                },
            },
        },
    };
    let block = Ptr::of(&mut memory);
    event::initialize(event_of(block), dispatcher::SYNCHRONIZATION_EVENT, false);
    reference.write(block.word() | ACTIVE);
    waiters::wait_for(event_of(block).cast());
    reference.write(ACTIVE);
}

/// EX_RUNDOWN_REF_CACHE_AWARE: one reference, for the one processor.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct EX_RUNDOWN_REF_CACHE_AWARE {
    /// The processors' references.
    pub RunRefs: Ptr<Word>,
    /// Address to free.
    pub PoolToFree: Word,
    /// Bytes between two references.
    pub RunRefSize: u32,
    /// Number of references.
    pub Number: u32,
    /// The reference.
    pub Reference: Word,
}

fn inner(protection: Ptr<EX_RUNDOWN_REF_CACHE_AWARE>) -> Reference {
    protection
        .add_bytes(core::mem::offset_of!(EX_RUNDOWN_REF_CACHE_AWARE, Reference) as u64)
        .cast()
}

fn initialize_cache_aware(protection: Ptr<EX_RUNDOWN_REF_CACHE_AWARE>, pool_to_free: Word) {
    protection.write(EX_RUNDOWN_REF_CACHE_AWARE {
        RunRefs: inner(protection),
        PoolToFree: pool_to_free,
        RunRefSize: low32(size_of::<Word>() as u64),
        Number: 1,
        Reference: 0,
    });
}

nt_api! { module = ex_rundown;
    /// Makes rundown protection: no users, not run down.
    ntoskrnl both fastcall irql(ANY_LEVEL) implemented
    fn ExInitializeRundownProtection(reference: Ptr<Word>) {
        reference.write(0);
    }

    /// Makes rundown protection usable again after it was run down.
    ntoskrnl both fastcall irql(ANY_LEVEL) implemented
    fn ExReInitializeRundownProtection(reference: Ptr<Word>) {
        reference.write(0);
    }

    /// Adds a user. FALSE: the object is being run down.
    ntoskrnl both fastcall irql(ANY_LEVEL) implemented
    fn ExAcquireRundownProtection(reference: Ptr<Word>) -> Boolean {
        acquire(reference, 1)
    }

    /// Adds users. FALSE: the object is being run down.
    ntoskrnl both fastcall irql(ANY_LEVEL) implemented
    fn ExAcquireRundownProtectionEx(reference: Ptr<Word>, count: ULong) -> Boolean {
        acquire(reference, count)
    }

    /// Takes a user away.
    ntoskrnl both fastcall irql(DISPATCH_LEVEL) implemented
    fn ExReleaseRundownProtection(reference: Ptr<Word>) {
        release(reference, 1);
    }

    /// Takes users away.
    ntoskrnl both fastcall irql(DISPATCH_LEVEL) implemented
    fn ExReleaseRundownProtectionEx(reference: Ptr<Word>, count: ULong) {
        release(reference, count);
    }

    /// Refuses new users and waits until the last one is gone.
    ntoskrnl both fastcall irql(APC_LEVEL) implemented
    fn ExWaitForRundownProtectionRelease(reference: Ptr<Word>) {
        wait(reference);
    }

    /// Marks the object as run down.
    ntoskrnl both fastcall irql(ANY_LEVEL) implemented
    fn ExRundownCompleted(reference: Ptr<Word>) {
        reference.write(ACTIVE);
    }

    /// Bytes of cache-aware rundown protection.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn ExSizeOfRundownProtectionCacheAware() -> Size {
        Size(size_of::<EX_RUNDOWN_REF_CACHE_AWARE>() as u64)
    }

    /// Allocates cache-aware rundown protection; null when the pool is exhausted.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExAllocateCacheAwareRundownProtection(pool_type: ULong, tag: Tag) -> Ptr<EX_RUNDOWN_REF_CACHE_AWARE> {
        let bytes = size_of::<EX_RUNDOWN_REF_CACHE_AWARE>() as u64;
        let protection = pool::allocate(bytes, tag.0, owner_of(shared::caller())).cast();
        if !protection.is_null() {
            initialize_cache_aware(protection, protection.word());
        }
        protection
    }

    /// Frees what ExAllocateCacheAwareRundownProtection allocated.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn ExFreeCacheAwareRundownProtection(protection: Ptr<EX_RUNDOWN_REF_CACHE_AWARE>) {
        pool::free(Ptr::new(from_word(protection.read().PoolToFree)), 0);
    }

    /// Makes cache-aware rundown protection in memory of the driver's, of ExSizeOfRundownProtectionCacheAware bytes.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn ExInitializeRundownProtectionCacheAware(protection: Ptr<EX_RUNDOWN_REF_CACHE_AWARE>, bytes: Size) {
        // Memory that must not be freed is told by an address that no block has.
        initialize_cache_aware(protection, to_word(0x0BAD_CA11));
    }

    /// Makes cache-aware rundown protection usable again.
    ntoskrnl both fastcall irql(ANY_LEVEL) implemented
    fn ExReInitializeRundownProtectionCacheAware(protection: Ptr<EX_RUNDOWN_REF_CACHE_AWARE>) {
        inner(protection).write(0);
    }

    /// Adds a user. FALSE: the object is being run down.
    ntoskrnl both fastcall irql(ANY_LEVEL) implemented
    fn ExAcquireRundownProtectionCacheAware(protection: Ptr<EX_RUNDOWN_REF_CACHE_AWARE>) -> Boolean {
        acquire(inner(protection), 1)
    }

    /// Adds users. FALSE: the object is being run down.
    ntoskrnl both fastcall irql(ANY_LEVEL) implemented
    fn ExAcquireRundownProtectionCacheAwareEx(protection: Ptr<EX_RUNDOWN_REF_CACHE_AWARE>, count: ULong) -> Boolean {
        acquire(inner(protection), count)
    }

    /// Takes a user away.
    ntoskrnl both fastcall irql(DISPATCH_LEVEL) implemented
    fn ExReleaseRundownProtectionCacheAware(protection: Ptr<EX_RUNDOWN_REF_CACHE_AWARE>) {
        release(inner(protection), 1);
    }

    /// Takes users away.
    ntoskrnl both fastcall irql(DISPATCH_LEVEL) implemented
    fn ExReleaseRundownProtectionCacheAwareEx(protection: Ptr<EX_RUNDOWN_REF_CACHE_AWARE>, count: ULong) {
        release(inner(protection), count);
    }

    /// Refuses new users and waits until the last one is gone.
    ntoskrnl both fastcall irql(APC_LEVEL) implemented
    fn ExWaitForRundownProtectionReleaseCacheAware(protection: Ptr<EX_RUNDOWN_REF_CACHE_AWARE>) {
        wait(inner(protection));
    }

    /// Marks the object as run down.
    ntoskrnl both fastcall irql(ANY_LEVEL) implemented
    fn ExRundownCompletedCacheAware(protection: Ptr<EX_RUNDOWN_REF_CACHE_AWARE>) {
        inner(protection).write(ACTIVE);
    }
}
