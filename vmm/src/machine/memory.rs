//! Guest RAM: one region from [`abi::layout::RAM_BASE`], and the frames handed out from it.

use super::own_file;
use abi::layout::{PAGE_SIZE, RAM_BASE};
use displaydoc::Display;
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Why guest memory could not be had or accessed.
#[derive(Debug, Display, Error)]
pub enum MemoryError {
    /// cannot allocate {bytes} bytes of guest memory
    Allocate {
        /// How much.
        bytes: u64,
        /// The reason.
        #[source]
        source: vm_memory::mmap::FromRangesError,
    },
    /// guest memory is used up: {needed} more bytes are needed of {total}; give the guest more with --memory
    Exhausted {
        /// What was asked for.
        needed: u64,
        /// RAM in all.
        total: u64,
    },
    /// guest-physical address {address:#x} (+{bytes}) is outside guest memory
    OutOfRange {
        /// First address.
        address: u64,
        /// Length.
        bytes: u64,
    },
}

/// Guest RAM with a bump allocator over its frames.
#[derive(Debug)]
pub struct GuestRam {
    memory: GuestMemoryMmap,
    bytes: u64,
    next_frame: u64,
}

impl GuestRam {
    /// Allocates `bytes` (a multiple of the page size) of zeroed guest RAM.
    ///
    /// # Errors
    /// When the host cannot give that much.
    pub fn new(bytes: u64) -> Result<Self, MemoryError> {
        let length = usize::try_from(bytes).unwrap_or(usize::MAX);
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(RAM_BASE), length)])
            .map_err(|source| MemoryError::Allocate { bytes, source })?;
        Ok(Self {
            memory,
            bytes,
            next_frame: RAM_BASE,
        })
    }

    /// Bytes of RAM.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The memory itself; clones are the same.
    pub(super) fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// Host address of the first byte, for the KVM memslot.
    ///
    /// # Errors
    /// Never in practice: the region exists.
    pub fn host_address(&self) -> Result<u64, MemoryError> {
        self.memory
            .get_host_address(GuestAddress(RAM_BASE))
            .map(|pointer| pointer as u64)
            .map_err(|_| MemoryError::OutOfRange {
                address: RAM_BASE,
                bytes: self.bytes,
            })
    }

    /// Takes `bytes` (rounded up to pages) of contiguous, zeroed, unused RAM; returns the guest-physical address.
    ///
    /// # Errors
    /// [`MemoryError::Exhausted`].
    pub fn allocate(&mut self, bytes: u64) -> Result<u64, MemoryError> {
        let rounded = bytes.div_ceil(PAGE_SIZE) * PAGE_SIZE;
        if rounded > self.remaining() {
            return Err(MemoryError::Exhausted {
                needed: rounded,
                total: self.bytes,
            });
        }
        let frame = self.next_frame;
        self.next_frame += rounded;
        Ok(frame)
    }

    /// Bytes not handed out yet.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        RAM_BASE + self.bytes - self.next_frame
    }

    /// Copies bytes into guest-physical memory.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`].
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        self.memory
            .write_slice(bytes, GuestAddress(address))
            .map_err(|_| MemoryError::OutOfRange {
                address,
                bytes: bytes.len() as u64,
            })
    }

    /// Puts a part of a guest image into guest-physical memory that was not written before: as [`Self::write`] does, but
    /// without copying what this program's file has.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`].
    pub(super) fn place(&self, address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        let region = self.memory.find_region(GuestAddress(RAM_BASE));
        let offset = address
            .checked_sub(RAM_BASE)
            .and_then(|offset| usize::try_from(offset).ok());
        let shown = match (region, offset) {
            (Some(region), Some(offset)) => own_file::show(region, offset, bytes),
            _ => 0,
        };
        let rest = bytes.get(shown..).unwrap_or_default();
        self.write(address + shown as u64, rest)
    }

    /// Copies bytes out of guest-physical memory.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`].
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        let bytes = into.len() as u64;
        self.memory
            .read_slice(into, GuestAddress(address))
            .map_err(|_| MemoryError::OutOfRange { address, bytes })
    }

    /// Copies a value into guest-physical memory.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`].
    pub fn write_value<T: IntoBytes + Immutable>(
        &self,
        address: u64,
        value: &T,
    ) -> Result<(), MemoryError> {
        self.write(address, value.as_bytes())
    }

    /// Copies a value out of guest-physical memory.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`].
    pub fn read_value<T: FromBytes + IntoBytes>(&self, address: u64) -> Result<T, MemoryError> {
        let mut value = T::new_zeroed();
        self.read(address, value.as_mut_bytes())?;
        Ok(value)
    }
}
