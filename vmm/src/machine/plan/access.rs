//! Guest-virtual memory, as the regions say where it is.

use abi::layout;

use super::super::memory::MemoryError;
use super::Plan;

impl Plan {
    /// Guest-physical address behind a guest-virtual one, with the bytes that follow contiguously.
    #[must_use]
    pub(in crate::machine) fn translate(&self, address: u64) -> Option<(u64, u64)> {
        self.regions.iter().find_map(|region| {
            let offset = address.checked_sub(region.virtual_address)?;
            (offset < region.bytes)
                .then(|| (region.physical_address + offset, region.bytes - offset))
        })
    }

    /// Reads guest-virtual memory.
    ///
    /// # Errors
    /// When part of it is not mapped.
    pub(in crate::machine) fn read_virtual(
        &self,
        address: u64,
        into: &mut [u8],
    ) -> Result<(), MemoryError> {
        let bytes = into.len() as u64;
        let (physical, available) = self
            .translate(address)
            .ok_or(MemoryError::OutOfRange { address, bytes })?;
        if bytes > available {
            return Err(MemoryError::OutOfRange { address, bytes });
        }
        self.ram.read(physical, into)
    }

    /// Writes guest-virtual memory, whatever its protection.
    ///
    /// # Errors
    /// When part of it is not mapped.
    pub(in crate::machine) fn write_virtual(
        &self,
        address: u64,
        from: &[u8],
    ) -> Result<(), MemoryError> {
        let bytes = from.len() as u64;
        let (physical, available) = self
            .translate(address)
            .ok_or(MemoryError::OutOfRange { address, bytes })?;
        if bytes > available {
            return Err(MemoryError::OutOfRange { address, bytes });
        }
        self.ram.write(physical, from)
    }

    /// Writes guest-virtual memory of the pool.
    ///
    /// # Errors
    /// When the range is not inside the pool.
    pub(in crate::machine) fn write_pool(
        &self,
        address: u64,
        from: &[u8],
    ) -> Result<(), MemoryError> {
        let bytes = from.len() as u64;
        let is_inside = address
            .checked_sub(self.kernel_base + layout::POOL)
            .and_then(|offset| offset.checked_add(bytes))
            .is_some_and(|end| end <= self.pool_bytes);
        if is_inside {
            self.write_virtual(address, from)
        } else {
            Err(MemoryError::OutOfRange { address, bytes })
        }
    }
}
