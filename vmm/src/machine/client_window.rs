//! The memory of clients of the channel, mapped into the guest.
//!
//! Each client's memory is a memslot, at the place in the client window ([`layout::client_window`]) that it was given. The
//! page-table entries of the window lead to the guest-physical address of the same offset and are never changed again, so
//! that only the memslot comes and goes with a client: a present entry could be changed by guest code alone (see
//! [`super::paging`]). An access to a part of the window without a client has no memory behind it, and stops the guest.
#![expect(
    unsafe_code,
    reason = "KVM_SET_USER_MEMORY_REGION takes a host address"
)]

use std::sync::Arc;

use abi::clients::{SLOTS, Slot};
use abi::layout::{self, LARGE_PAGE, Shared};
use kvm_bindings::kvm_userspace_memory_region;
use vm_memory::MmapRegion;
use zerocopy::FromZeros;

use super::builder::{CreateError, map_slot};
use super::memory::MemoryError;
use super::vm::Vm;

/// The first of their memslots; those below are RAM and host memory.
const FIRST_MEMSLOT: u32 = 400;

/// A client's place in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientPlace {
    /// Number of its [`Slot`].
    pub slot: u32,
    /// Offset of its memory in the client window.
    pub offset: u64,
}

#[derive(Debug)]
struct Mapped {
    offset: u64,
    /// Keeps the mapping that the memslot points to.
    memory: Arc<MmapRegion>,
}

/// The clients' memory.
#[derive(Debug)]
pub(super) struct ClientWindow {
    bytes: u64,
    slots: [Option<Mapped>; SLOTS],
}

/// Bytes of the window that a memory takes.
fn rounded(bytes: u64) -> u64 {
    bytes.next_multiple_of(LARGE_PAGE)
}

impl ClientWindow {
    /// An empty one of so many bytes.
    pub(super) fn new(bytes: u64) -> Self {
        Self {
            bytes,
            slots: [const { None }; SLOTS],
        }
    }

    /// The first place for `bytes`; `None`: there is none.
    fn find(&self, bytes: u64) -> Option<ClientPlace> {
        let slot = self.slots.iter().position(Option::is_none)?;
        let mut taken: Vec<(u64, u64)> = self
            .slots
            .iter()
            .flatten()
            .map(|mapped| {
                (
                    mapped.offset,
                    mapped.offset + rounded(mapped.memory.size() as u64),
                )
            })
            .collect();
        taken.sort_unstable();
        let mut offset = 0;
        for (start, end) in taken {
            if start - offset >= rounded(bytes) {
                break;
            }
            offset = end;
        }
        (self.bytes - offset >= rounded(bytes)).then(|| ClientPlace {
            slot: u32::try_from(slot).unwrap_or(u32::MAX),
            offset,
        })
    }
}

/// Where a client's [`Slot`] is in the shared pages.
fn slot_offset(slot: u32) -> u64 {
    Shared::CLIENTS + u64::from(slot) * size_of::<Slot>() as u64
}

impl Vm {
    /// Maps a client's memory into the guest. `None`: the window is full.
    ///
    /// # Errors
    /// When KVM refuses, or guest memory for page tables is used up.
    pub fn map_client(
        &mut self,
        memory: &Arc<MmapRegion>,
    ) -> Result<Option<ClientPlace>, CreateError> {
        let bytes = memory.size() as u64;
        let Some(place) = self.clients.find(bytes) else {
            return Ok(None);
        };
        self.plan.map_client_window(place.offset, rounded(bytes))?;
        self.write_client_slot(place.slot, &Slot::new_zeroed())?;
        self.set_client_memslot(place, memory, bytes)?;
        let mapped = Mapped {
            offset: place.offset,
            memory: Arc::clone(memory),
        };
        if let Some(slot) = self.clients.slots.get_mut(place.slot as usize) {
            *slot = Some(mapped);
        }
        Ok(Some(place))
    }

    /// Takes a client's memory out of the guest, which has nothing to do with it any more.
    ///
    /// # Errors
    /// When KVM refuses; then the memory stays.
    pub fn unmap_client(&mut self, slot: u32) -> Result<(), CreateError> {
        let Some(entry) = self.clients.slots.get_mut(slot as usize) else {
            return Ok(());
        };
        let Some(mapped) = entry.take() else {
            return Ok(());
        };
        let place = ClientPlace {
            slot,
            offset: mapped.offset,
        };
        // A size of 0 deletes the memslot (KVM API, 4.35).
        let deleted = self.set_client_memslot(place, &mapped.memory, 0);
        if deleted.is_err()
            && let Some(entry) = self.clients.slots.get_mut(slot as usize)
        {
            *entry = Some(mapped);
        }
        deleted
    }

    fn set_client_memslot(
        &self,
        place: ClientPlace,
        memory: &Arc<MmapRegion>,
        bytes: u64,
    ) -> Result<(), CreateError> {
        let region = kvm_userspace_memory_region {
            slot: FIRST_MEMSLOT + place.slot,
            flags: 0,
            guest_phys_addr: layout::CLIENT_WINDOW_GPA + place.offset,
            memory_size: bytes,
            userspace_addr: memory.as_ptr() as u64,
        };
        // SAFETY: `self.clients` keeps `memory`, and with it the mapping, until the memslot is deleted or, because its
        // field comes behind the descriptors', the VM is gone.
        unsafe { map_slot(&self.vm, region) }
    }

    /// What the shim says of a client.
    ///
    /// # Errors
    /// When the shared pages are not there.
    pub fn client_slot(&self, slot: u32) -> Result<Slot, MemoryError> {
        self.view().read_shared(slot_offset(slot))
    }

    /// Tells the shim of a client.
    ///
    /// # Errors
    /// When the shared pages are not there.
    pub fn write_client_slot(&self, slot: u32, state: &Slot) -> Result<(), MemoryError> {
        self.view().write_shared(slot_offset(slot), state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 4096;
    const LARGE: usize = 2 << 20;

    fn memory(bytes: usize) -> Arc<MmapRegion> {
        Arc::new(MmapRegion::new(bytes).unwrap())
    }

    fn insert(window: &mut ClientWindow, bytes: usize) -> Option<u64> {
        let place = window.find(bytes as u64)?;
        window.slots[place.slot as usize] = Some(Mapped {
            offset: place.offset,
            memory: memory(bytes),
        });
        Some(place.offset)
    }

    #[test]
    fn places_do_not_overlap_and_are_used_again() {
        let mut window = ClientWindow::new(4 * LARGE_PAGE);
        assert_eq!(insert(&mut window, PAGE), Some(0));
        assert_eq!(insert(&mut window, LARGE + PAGE), Some(LARGE_PAGE));
        assert_eq!(insert(&mut window, PAGE), Some(3 * LARGE_PAGE));
        assert_eq!(insert(&mut window, PAGE), None);
        window.slots[1] = None;
        assert_eq!(insert(&mut window, 3 * LARGE), None);
        assert_eq!(insert(&mut window, 2 * LARGE), Some(LARGE_PAGE));
    }

    #[test]
    fn there_are_so_many_slots() {
        let mut window = ClientWindow::new(64 * LARGE_PAGE);
        for _ in 0..SLOTS {
            assert!(insert(&mut window, PAGE).is_some());
        }
        assert_eq!(insert(&mut window, PAGE), None);
    }
}
