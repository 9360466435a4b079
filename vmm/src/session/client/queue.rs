//! The host end of a client's split queue: the queue of [`channel`] over a memory file that the VMM makes.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::client::QueueLayout;
use abi::clients::QueueState;
use displaydoc::Display;
use rustix::fs::{MemfdFlags, SealFlags};
use thiserror::Error;
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

pub use channel::{CHAIN_MAX, Chain, ChainError, Violation};

/// Why the memory cannot be made.
#[derive(Debug, Display, Error)]
pub enum MemoryError {
    /// cannot make a memory file
    File(#[from] rustix::io::Errno),
    /// cannot map it
    Map(#[from] vm_memory::mmap::MmapRegionError),
}

/// A client's memory, mapped. It is shared with the guest while the client is attached to one.
#[derive(Clone, Debug)]
pub struct Shared(Arc<MmapRegion>);

impl Shared {
    /// The mapping.
    #[must_use]
    pub fn region(&self) -> &Arc<MmapRegion> {
        &self.0
    }
}

impl channel::Memory for Shared {
    fn load(&self, at: u64) -> Option<u16> {
        let at = usize::try_from(at).ok()?;
        let value = self.0.as_volatile_slice().load(at, Ordering::Acquire);
        value.ok().map(u16::from_le)
    }

    fn store(&self, at: u64, value: u16) -> Option<()> {
        let at = usize::try_from(at).ok()?;
        let memory = self.0.as_volatile_slice();
        memory.store(value.to_le(), at, Ordering::Release).ok()
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Option<()> {
        let at = usize::try_from(at).ok()?;
        self.0.as_volatile_slice().read_slice(into, at).ok()
    }

    fn write(&self, at: u64, from: &[u8]) -> Option<()> {
        let at = usize::try_from(at).ok()?;
        self.0.as_volatile_slice().write_slice(from, at).ok()
    }
}

/// A client's queue.
pub type Queue = channel::Queue<Shared>;

/// Makes the memory: a memfd that nobody can shrink or grow, so that no access faults. Also returns the file.
///
/// # Errors
/// See [`MemoryError`].
pub fn create(layout: QueueLayout) -> Result<(Queue, OwnedFd), MemoryError> {
    let file = rustix::fs::memfd_create(
        "ringfence-channel",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )?;
    rustix::fs::ftruncate(&file, layout.bytes())?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    let ours = rustix::io::fcntl_dupfd_cloexec(file.as_fd(), 3)?;
    let bytes = usize::try_from(layout.bytes()).map_err(|_| rustix::io::Errno::NOMEM)?;
    let memory = MmapRegion::from_file(FileOffset::new(ours.into(), 0), bytes)?;
    let queue = Queue::new(Shared(Arc::new(memory)), layout, QueueState::default());
    Ok((queue, file))
}
