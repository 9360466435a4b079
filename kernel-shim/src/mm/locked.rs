//! Pages of a process that a driver holds locked. They must be unlocked before the process is gone: NT then stops with
//! PROCESS_HAS_LOCKED_PAGES, or, under Driver Verifier, which knows who locked them, with
//! DRIVER_LEFT_LOCKED_PAGES_IN_PROCESS (WDK, "Bug Check 0x76" and "Bug Check 0xCB").

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::address_space;
use super::mdl::frame as frame_of;
use crate::nt::MDL;
use crate::nt::bugcheck::{
    DRIVER_LEFT_LOCKED_PAGES_IN_PROCESS, PROCESS_HAS_LOCKED_PAGES, bugcheck_with_text,
};
use crate::raw::{Global, Ptr, from_word};
use crate::{ps, shared};

/// Who locked the pages of an MDL.
#[derive(Clone, Copy)]
struct Lock {
    process: u32,
    pages: u64,
    /// The driver's return address.
    caller: u64,
}

/// By MDL.
static LOCKS: Global<BTreeMap<u64, Lock>> = Global::new("locked user pages", BTreeMap::new());

/// Forgets everything.
pub(crate) fn initialize() {
    LOCKS.with(BTreeMap::clear);
    KEPT.with(Vec::clear);
}

/// A driver has locked `pages` of a process's.
pub(super) fn note(mdl: Ptr<MDL>, process: u32, pages: u64) {
    let lock = Lock {
        process,
        pages,
        caller: shared::caller(),
    };
    LOCKS.with(|locks| locks.insert(mdl.addr(), lock));
}

/// Page frame numbers of memory that was freed while it was locked: it is kept until it is unlocked.
static KEPT: Global<Vec<u32>> = Global::new("kept pages", Vec::new());

/// Whether one of the locked MDLs describes a page of RAM.
fn is_locked(locks: &BTreeMap<u64, Lock>, frame: u32) -> bool {
    locks.iter().any(|(&mdl, lock)| {
        let mdl = Ptr::<MDL>::new(mdl);
        (0..lock.pages).any(|page| from_word(frame_of(mdl, page).read()) == u64::from(frame))
    })
}

/// A page of RAM is freed: whether it has to be kept because it is locked.
pub(super) fn keep(frame: u32) -> bool {
    let is_locked = LOCKS.with(|locks| is_locked(locks, frame));
    if is_locked {
        KEPT.with(|kept| kept.push(frame));
    }
    is_locked
}

/// They are unlocked.
pub(super) fn forget(mdl: Ptr<MDL>) {
    LOCKS.with(|locks| locks.remove(&mdl.addr()));
    if KEPT.with(|kept| kept.is_empty()) {
        return;
    }
    let free = LOCKS.with(|locks| {
        KEPT.with(|kept| {
            let (locked, free): (Vec<u32>, Vec<u32>) =
                kept.iter().partition(|&&frame| is_locked(locks, frame));
            *kept = locked;
            free
        })
    });
    free.into_iter().for_each(address_space::free_frame);
}

/// A process ends, and no request of it is left: a bugcheck if pages of it are still locked.
pub(crate) fn check_process(process: u32) {
    let left = LOCKS.with(|locks| {
        let mut of_process = locks.iter().filter(|(_, lock)| lock.process == process);
        let first = of_process.next().map(|(mdl, lock)| (*mdl, *lock));
        first.map(|(mdl, lock)| {
            let others: u64 = of_process.map(|(_, other)| other.pages).sum();
            (mdl, lock, lock.pages.saturating_add(others))
        })
    });
    let Some((mdl, lock, pages)) = left else {
        return;
    };
    let (code, parameters) = if shared::verify() == 0 {
        let object = ps::by_id(process).map_or(0, |process| process.addr());
        (PROCESS_HAS_LOCKED_PAGES, [0, object, pages, 0])
    } else {
        (
            DRIVER_LEFT_LOCKED_PAGES_IN_PROCESS,
            [lock.caller, 0, mdl, pages],
        )
    };
    bugcheck_with_text(
        code,
        parameters,
        format_args!(
            "process {process} ended while {pages} page(s) of it are locked; the first by an MDL at {mdl:#x} that {:#x} \
             locked",
            lock.caller
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_platform::{crash_of, machine, verifying_machine};

    #[test]
    fn unlocked_pages_are_forgotten() {
        let _machine = machine();
        note(Ptr::new(0x1000), 0x100, 2);
        forget(Ptr::new(0x1000));
        check_process(0x100);
    }

    #[test]
    fn pages_left_locked_are_a_bugcheck() {
        let _machine = machine();
        note(Ptr::new(0x2000), 0x200, 2);
        note(Ptr::new(0x2100), 0x200, 1);
        note(Ptr::new(0x2200), 0x208, 1);
        check_process(0x210);
        let record = crash_of(|| check_process(0x200));
        assert_eq!(
            (record.code, record.parameters[2]),
            (PROCESS_HAS_LOCKED_PAGES, 3)
        );
    }

    #[test]
    fn the_verifier_names_the_mdl() {
        let _machine = verifying_machine();
        note(Ptr::new(0x3000), 0x300, 2);
        let record = crash_of(|| check_process(0x300));
        assert_eq!(record.code, DRIVER_LEFT_LOCKED_PAGES_IN_PROCESS);
        assert_eq!(record.parameters[2..], [0x3000, 2]);
    }
}
