//! A model as a bus master: transfers between the guest's memory and a buffer that Ringfence shares with the model.
//!
//! The model sees none of the guest's memory. It names a piece of the buffer and an address, and Ringfence copies, if what
//! is there is for devices ([`BusMemory`]).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use super::memory::shared;
use super::protocol::{DMA_BYTES, Transfer, TransferEnd};
use crate::machine::{BusError, BusMemory};

/// The buffer, and the memory that it is copied from and to.
#[derive(Debug)]
pub(super) struct Dma {
    memory: BusMemory,
    file: File,
    buffer: MmapRegion,
}

impl Dma {
    pub(super) fn new(memory: BusMemory) -> io::Result<Self> {
        let (file, buffer) = shared("ringfence-dma", DMA_BYTES)?;
        Ok(Self {
            memory,
            file,
            buffer,
        })
    }

    /// To be sent with the hello.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Carries out a transfer that the protocol has let through. The model may write to the buffer meanwhile, which changes
    /// nothing but the bytes that it asked for.
    pub(super) fn transfer(&self, transfer: Transfer) -> TransferEnd {
        let size = usize::try_from(transfer.bytes).unwrap_or(usize::MAX);
        let at = usize::try_from(transfer.buffer_offset).unwrap_or(usize::MAX);
        let mut bytes = vec![0; size.min(DMA_BYTES)];
        let buffer = self.buffer.as_volatile_slice();
        let done = if transfer.is_write {
            // It lies in the buffer: the protocol has checked that.
            match buffer.read_slice(&mut bytes, at) {
                Ok(()) => self.memory.write(transfer.address, &bytes),
                Err(_) => Err(BusError::NoMemory),
            }
        } else {
            self.memory
                .read(transfer.address, &mut bytes)
                .and_then(|()| {
                    buffer
                        .write_slice(&bytes, at)
                        .map_err(|_| BusError::NoMemory)
                })
        };
        match done {
            Ok(()) => TransferEnd::Done,
            Err(BusError::NoMemory) => TransferEnd::NoMemory,
            Err(BusError::NoMaster) => TransferEnd::NoMaster,
        }
    }
}
