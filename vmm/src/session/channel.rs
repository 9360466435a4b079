//! The host end of the request channel ([`abi::channel`]).
//!
//! The rings are guest memory. The indices that the VMM owns are kept here and only written there; what the
//! guest writes is read once and checked: a completion counts only for a request that is under way.

use abi::channel::{Completion, CompletionRing, RING_ENTRIES, Request, RequestRing};
use abi::layout::Shared;
use zerocopy::IntoBytes;

use crate::machine::{MemoryError, Vm};

/// Our indices into the two rings.
#[derive(Debug, Default)]
pub(super) struct Channel {
    requests_produced: u64,
    completions_consumed: u64,
}

const fn entry_offset(entries: usize, entry_bytes: usize, index: u64) -> u64 {
    entries as u64 + index % RING_ENTRIES as u64 * entry_bytes as u64
}

impl Channel {
    /// Puts a request into the ring. The caller keeps no more than [`RING_ENTRIES`] under way.
    pub(super) fn submit(&mut self, vm: &Vm, request: &Request) -> Result<(), MemoryError> {
        let base = vm.view().kernel_base() + abi::layout::SHARED + Shared::REQUESTS;
        let entries = std::mem::offset_of!(RequestRing, entries);
        let entry = base + entry_offset(entries, size_of::<Request>(), self.requests_produced);
        vm.write(entry, request.as_bytes())?;
        self.requests_produced += 1;
        let produced = base + std::mem::offset_of!(RequestRing, produced) as u64;
        vm.write(produced, &self.requests_produced.to_le_bytes())
    }

    /// Takes the completions that are there: at most a ring full.
    pub(super) fn completions(&mut self, vm: &Vm) -> Result<Vec<Completion>, MemoryError> {
        let view = vm.view();
        let offset = |field: usize| Shared::COMPLETIONS + field as u64;
        let produced: u64 =
            view.read_shared(offset(std::mem::offset_of!(CompletionRing, produced)))?;
        let count = produced
            .wrapping_sub(self.completions_consumed)
            .min(RING_ENTRIES as u64);
        let entries = std::mem::offset_of!(CompletionRing, entries);
        let mut completions = Vec::new();
        for _ in 0..count {
            let entry = entry_offset(entries, size_of::<Completion>(), self.completions_consumed);
            completions.push(view.read_shared(Shared::COMPLETIONS + entry)?);
            self.completions_consumed += 1;
        }
        if count != 0 {
            view.write_shared(
                offset(std::mem::offset_of!(CompletionRing, consumed)),
                &self.completions_consumed,
            )?;
        }
        Ok(completions)
    }
}
