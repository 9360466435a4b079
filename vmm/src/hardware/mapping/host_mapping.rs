//! Pages of an open file in this process: mmap(2), and munmap(2) at the end.

#![expect(
    unsafe_code,
    reason = "mmap(2) and munmap(2) of device memory; this module is their only user"
)]

use std::io;
use std::os::fd::RawFd;
use std::ptr;

/// Pages of the machine's memory, mapped as long as this lives.
#[derive(Debug)]
pub(crate) struct HostMapping {
    address: usize,
    bytes: usize,
}

impl HostMapping {
    /// `descriptor` is open, and its memory has `bytes` from `first` on.
    pub(super) fn map(
        descriptor: RawFd,
        first: u64,
        bytes: u64,
        is_writable: bool,
    ) -> io::Result<Self> {
        let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
        let offset = i64::try_from(first).map_err(io::Error::other)?;
        let protection = if is_writable {
            libc::PROT_READ | libc::PROT_WRITE
        } else {
            libc::PROT_READ
        };
        // SAFETY: the kernel chooses an address where nothing is; it fails for a descriptor that is not open.
        // Nothing here makes a reference to this memory: only the guest accesses it.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                protection,
                libc::MAP_SHARED,
                descriptor,
                offset,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            address: address.expose_provenance(),
            bytes,
        })
    }

    /// Host-virtual address of the first byte.
    pub(crate) fn address(&self) -> u64 {
        self.address as u64
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes as u64
    }
}

impl Drop for HostMapping {
    fn drop(&mut self) {
        // SAFETY: this is what `map` mapped, and whoever was told the address has promised not to outlive it.
        // It fails for no such range.
        let _ = unsafe { libc::munmap(ptr::with_exposed_provenance_mut(self.address), self.bytes) };
    }
}
