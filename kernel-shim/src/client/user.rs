//! A client's memory at user addresses.
//!
//! Drivers that get a caller's own addresses (METHOD_NEITHER, devices with neither flag, FastIoDeviceControl, pointers in a
//! buffer) use them directly. A page of the client's memory is mapped there when it is first used, as a page fault of NT's
//! would do it, and stays while no other client's thread runs. So what a driver reaches, and what ProbeForWrite,
//! MmIsAddressValid and MmProbeAndLockPages say of it, is the memory of the client whose thread runs, and nobody else's.

use alloc::collections::BTreeSet;
use core::sync::atomic::{AtomicBool, Ordering};

use super::memory::{self, View};
use crate::mm::window;
use crate::raw::Global;
use abi::layout::{CLIENT_USER, PAGE_SIZE, entries};

/// Page tables for it, at most, each of 2 MiB: user space has few, and drivers map there too. What lies further up in a
/// client's memory is no user address.
const TABLES: u64 = 8;
/// Pages that stay mapped, at most.
const PAGES: usize = 1024;

#[derive(Debug)]
struct Shown {
    /// Whose pages they are.
    view: View,
    /// Addresses of those that are mapped.
    pages: BTreeSet<u64>,
}

static SHOWN: Global<Shown> = Global::new(
    "clients' user addresses",
    Shown {
        view: 0,
        pages: BTreeSet::new(),
    },
);
/// Whether any page is mapped: asked at each change of threads.
static IS_ANY: AtomicBool = AtomicBool::new(false);

impl Shown {
    fn hide(&mut self) {
        let mut run: Option<(u64, u64)> = None;
        for page in core::mem::take(&mut self.pages) {
            run = match run {
                Some((first, pages)) if first + pages * PAGE_SIZE == page => {
                    Some((first, pages + 1))
                }
                before => {
                    if let Some((first, pages)) = before {
                        window::unmap(first, pages);
                    }
                    Some((page, 1))
                }
            };
        }
        if let Some((first, pages)) = run {
            window::unmap(first, pages);
        }
        IS_ANY.store(false, Ordering::Relaxed);
    }
}

/// Forgets everything; [`window::initialize`] does the rest.
pub(super) fn initialize() {
    SHOWN.with(|shown| shown.pages.clear());
    IS_ANY.store(false, Ordering::Relaxed);
}

/// Whether a page of the user addresses can be mapped: its page table is there, or is made.
pub(super) fn is_mappable(address: u64) -> bool {
    address
        .checked_sub(CLIENT_USER)
        .is_some_and(|inside| inside < TABLES * entries::TABLE_BYTES)
        && window::prepare(address & !(PAGE_SIZE - 1), PAGE_SIZE).is_ok()
}

/// Maps the page at a user address that the running thread has used. False: it has none there, or it is mapped.
pub(crate) fn page_in(address: u64) -> bool {
    let page = address & !(PAGE_SIZE - 1);
    let view = memory::current_view();
    if SHOWN.is_busy() || !memory::is_user(address) || view == 0 || !is_mappable(page) {
        return false;
    }
    let Some(Some(physical)) = memory::physical(page) else {
        return false;
    };
    SHOWN.with(|shown| {
        if shown.view != view || shown.pages.len() >= PAGES {
            shown.hide();
            shown.view = view;
        }
        if !shown.pages.insert(page) {
            return false;
        }
        window::map(page, physical, 1, window::READ_WRITE);
        IS_ANY.store(true, Ordering::Relaxed);
        true
    })
}

/// A thread with that view runs from now on: it does not see what is another's.
pub(crate) fn switch_to(view: View) {
    if IS_ANY.load(Ordering::Relaxed) {
        SHOWN.with(|shown| {
            if shown.view != view {
                shown.hide();
            }
        });
    }
}

/// A client's memory goes.
pub(super) fn forget(view: View) {
    SHOWN.with(|shown| {
        if shown.view == view {
            shown.hide();
        }
    });
}
