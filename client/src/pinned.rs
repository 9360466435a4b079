//! Buffers of the data area that a program fills and reads in place: with direct I/O the driver works on these very pages.

use std::sync::{Arc, Mutex, PoisonError};

use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use crate::buffers::Buffers;
use crate::error::Error;

const OUTSIDE: Error = Error::Protocol("an offset is outside of the buffer");

/// The data area: the mapping, and what of it is free.
#[derive(Clone, Debug)]
pub(crate) struct DataArea {
    pub(crate) memory: Arc<MmapRegion>,
    free: Arc<Mutex<Buffers>>,
}

impl DataArea {
    pub(crate) fn new(memory: Arc<MmapRegion>, offset: u64, bytes: u64) -> Self {
        Self {
            memory,
            free: Arc::new(Mutex::new(Buffers::new(offset, bytes))),
        }
    }

    /// Takes `bytes`, at a multiple of `alignment`; `None` if there is no piece that large.
    pub(crate) fn allocate(&self, bytes: u64, alignment: u64) -> Option<u64> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.allocate(bytes, alignment)
    }

    pub(crate) fn release(&self, at: u64, bytes: u64) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.release(at, bytes);
    }
}

#[derive(Debug)]
struct Region {
    area: DataArea,
    at: u64,
    bytes: u64,
}

impl Drop for Region {
    fn drop(&mut self) {
        self.area.release(self.at, self.bytes);
    }
}

/// A buffer that driver and program share: whole pages of the connection's memory. With METHOD_IN_DIRECT,
/// METHOD_OUT_DIRECT and devices of DO_DIRECT_IO the driver's MDL describes these pages, and nothing is copied.
///
/// It is freed when the last clone, and the last [`Part`] that a request has, is gone. The driver may write to it at any
/// time while such a request is under way.
#[derive(Clone, Debug)]
pub struct Buffer(Arc<Region>);

/// A part of a [`Buffer`], for [`Request::part`](crate::Request::part).
#[derive(Clone, Debug)]
pub struct Part {
    region: Arc<Region>,
    at: u64,
    bytes: u32,
}

impl PartialEq for Part {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.region, &other.region) && (self.at, self.bytes) == (other.at, other.bytes)
    }
}

impl Eq for Part {}

impl Part {
    /// Offset of its first byte in the connection's memory.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// Whether it lies in that memory.
    pub(crate) fn is_in(&self, area: &DataArea) -> bool {
        Arc::ptr_eq(&self.region.area.memory, &area.memory)
    }

    /// Bytes.
    #[must_use]
    pub fn bytes(&self) -> u32 {
        self.bytes
    }
}

impl Buffer {
    pub(crate) const ALIGNMENT: u64 = 4096;

    pub(crate) fn allocate(area: &DataArea, bytes: u32) -> Result<Self, Error> {
        let no_room = Error::NoRoom(u64::from(bytes));
        let bytes = u64::from(bytes).next_multiple_of(Self::ALIGNMENT);
        let at = area
            .allocate(bytes, Self::ALIGNMENT)
            .filter(|_| bytes != 0)
            .ok_or(no_room)?;
        Ok(Self(Arc::new(Region {
            area: area.clone(),
            at,
            bytes,
        })))
    }

    /// Bytes: whole pages.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// The address of its first byte in this program. It is valid as long as the buffer; the driver shares the memory, so
    /// it is not for references.
    #[must_use]
    pub fn pointer(&self) -> *mut u8 {
        let offset = usize::try_from(self.0.at).unwrap_or(usize::MAX);
        self.0.area.memory.as_ptr().wrapping_add(offset)
    }

    fn offset(&self, offset: u64, bytes: u64) -> Result<u64, Error> {
        let end = offset.checked_add(bytes).ok_or(OUTSIDE)?;
        if end > self.0.bytes {
            return Err(OUTSIDE);
        }
        Ok(self.0.at + offset)
    }

    /// A part of it, for a request.
    ///
    /// # Errors
    /// It is not inside the buffer.
    pub fn part(&self, offset: u64, bytes: u32) -> Result<Part, Error> {
        Ok(Part {
            at: self.offset(offset, u64::from(bytes))?,
            region: Arc::clone(&self.0),
            bytes,
        })
    }

    /// Copies bytes into it.
    ///
    /// # Errors
    /// There are not so many behind `offset`.
    pub fn write(&self, offset: u64, from: &[u8]) -> Result<(), Error> {
        let at = usize::try_from(self.offset(offset, from.len() as u64)?).map_err(|_| OUTSIDE)?;
        let memory = self.0.area.memory.as_volatile_slice();
        memory.write_slice(from, at).map_err(|_| OUTSIDE)
    }

    /// Copies bytes out of it.
    ///
    /// # Errors
    /// As for [`Self::write`].
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        let at = usize::try_from(self.offset(offset, into.len() as u64)?).map_err(|_| OUTSIDE)?;
        let memory = self.0.area.memory.as_volatile_slice();
        memory.read_slice(into, at).map_err(|_| OUTSIDE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffer_is_freed_with_its_last_part() {
        let memory = Arc::new(MmapRegion::new(4 * 4096).unwrap());
        let area = DataArea::new(memory, 100, 4 * 4096 - 100);
        let buffer = Buffer::allocate(&area, 5000).unwrap();
        assert_eq!((buffer.bytes(), buffer.0.at % 4096), (8192, 0));
        let part = buffer.part(8000, 192).unwrap();
        assert!(buffer.part(8001, 192).is_err());
        assert!(buffer.part(u64::MAX, 2).is_err());
        buffer.write(1, &[1, 2, 3]).unwrap();
        let mut read = [0; 4];
        buffer.read(0, &mut read).unwrap();
        assert_eq!(read, [0, 1, 2, 3]);
        drop(buffer);
        assert!(Buffer::allocate(&area, 8192).is_err());
        drop(part);
        assert!(Buffer::allocate(&area, 8192).is_ok());
    }
}
