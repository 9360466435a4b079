//! Where a client's memory is.
//!
//! All of it is in kernel space, in the client window. A process's own has a user address too, the same for every process:
//! which client's is meant follows from the thread that runs, as with NT's address spaces. [`super::user`] maps it there
//! when a driver uses it.

use core::sync::atomic::Ordering;

use crate::ke::sched;
use crate::raw::{Global, Ptr, low32, volatile_read, volatile_write};
use crate::shared;
use abi::DriverAbi;
use abi::clients::SLOTS;
use abi::layout::{self, CLIENT_USER, CLIENT_USER_SIZE, CLIENT_WINDOW_GPA};

/// Whose window it is; the unit tests' machine has the address space of the smaller one.
const ABI: DriverAbi = if cfg!(any(nt_i386, test)) {
    DriverAbi::I386
} else {
    DriverAbi::Amd64
};
const WINDOW: (u64, u64) = layout::client_window(ABI);

/// A thread's view: which client's memory it sees at the user address. 0: none; otherwise the number of a slot + 1.
pub(crate) type View = u32;

#[derive(Debug)]
struct Memory {
    /// Offset in the window and bytes, by slot.
    slots: [Option<(u64, u64)>; SLOTS],
}

static MEMORY: Global<Memory> = Global::new(
    "clients' memory",
    Memory {
        slots: [None; SLOTS],
    },
);

pub(super) fn initialize() {
    MEMORY.with(|memory| memory.slots = [None; SLOTS]);
}

/// A client's memory is there.
pub(super) fn insert(slot: usize, offset: u64, bytes: u64) {
    MEMORY.with(|memory| {
        if let Some(entry) = memory.slots.get_mut(slot) {
            *entry = Some((offset, bytes));
        }
    });
}

/// It goes.
pub(super) fn remove(slot: usize) {
    super::user::forget(view_of_slot(slot));
    MEMORY.with(|memory| {
        if let Some(entry) = memory.slots.get_mut(slot) {
            *entry = None;
        }
    });
}

fn base() -> u64 {
    shared::kernel_base() + WINDOW.0
}

fn slot_of(view: View) -> Option<(u64, u64)> {
    let slot = (view as usize).checked_sub(1)?;
    MEMORY.with(|memory| memory.slots.get(slot).copied().flatten())
}

/// The view of a slot's client.
pub(super) fn view_of_slot(slot: usize) -> View {
    low32(slot as u64 + 1)
}

/// The view of the thread that runs.
pub(super) fn current_view() -> View {
    sched::private(sched::current()).with(|private| private.view)
}

/// Sets the view of the thread that runs. It keeps it until its next request: what is mapped for it may stay.
pub(crate) fn set_view(view: View) {
    super::user::switch_to(view);
    sched::private(sched::current()).with(|private| private.view = view);
}

/// Whether an address is where a process sees its client's memory.
pub(crate) const fn is_user(address: u64) -> bool {
    address >= CLIENT_USER && address - CLIENT_USER < CLIENT_USER_SIZE
}

/// The kernel address of a range that the running thread sees; `None`: it does not see all of it.
pub(crate) fn alias(address: u64, bytes: u64) -> Option<u64> {
    let inside = address.checked_sub(CLIENT_USER)?;
    let (offset, size) = slot_of(current_view())?;
    let end = inside.checked_add(bytes)?;
    (end <= size).then(|| base() + offset + inside)
}

/// What is behind an address of the window or of its user addresses: `None` if it is neither, `Some(None)` if nothing is.
pub(crate) fn physical(address: u64) -> Option<Option<u64>> {
    if is_user(address) {
        let physical = alias(address, 1).map(|at| at - base() + CLIENT_WINDOW_GPA);
        return Some(physical);
    }
    let inside = address.checked_sub(base()).filter(|&at| at < WINDOW.1)?;
    let is_there = MEMORY.with(|memory| {
        let mut all = memory.slots.iter().flatten();
        all.any(|&(offset, bytes)| inside.wrapping_sub(offset) < bytes)
    });
    Some(is_there.then_some(CLIENT_WINDOW_GPA + inside))
}

/// What a driver that uses the address itself gets there: as [`physical`], but for user addresses that cannot be mapped.
pub(crate) fn usable(address: u64) -> Option<Option<u64>> {
    let found = physical(address)?;
    let is_usable = !is_user(address) || super::user::is_mappable(address);
    Some(found.filter(|_| is_usable))
}

/// The kernel address of a guest-physical one; `None`: it is no client's.
pub(crate) fn virtual_for(physical: u64) -> Option<u64> {
    let inside = physical.checked_sub(CLIENT_WINDOW_GPA)?;
    (inside < WINDOW.1).then(|| base() + inside)
}

/// A client's memory in the window, as its queue is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    at: u64,
    bytes: u64,
}

impl Window {
    pub(super) fn new(offset: u64, bytes: u64) -> Self {
        Self {
            at: base() + offset,
            bytes,
        }
    }

    fn address(&self, at: u64, bytes: u64) -> Option<u64> {
        let end = at.checked_add(bytes)?;
        (end <= self.bytes).then(|| self.at + at)
    }
}

impl channel::Memory for Window {
    fn load(&self, at: u64) -> Option<u16> {
        let value = volatile_read(self.address(at, 2)?);
        core::sync::atomic::fence(Ordering::Acquire);
        Some(u16::from_le(value))
    }

    fn store(&self, at: u64, value: u16) -> Option<()> {
        let address = self.address(at, 2)?;
        core::sync::atomic::fence(Ordering::Release);
        volatile_write(address, value.to_le());
        Some(())
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Option<()> {
        let address = self.address(at, into.len() as u64)?;
        Ptr::<u8>::new(address).read_bytes(into);
        Some(())
    }

    fn write(&self, at: u64, from: &[u8]) -> Option<()> {
        let address = self.address(at, from.len() as u64)?;
        Ptr::<u8>::new(address).write_bytes(from);
        Some(())
    }
}
