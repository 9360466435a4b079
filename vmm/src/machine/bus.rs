//! What device models reach of a guest: interrupt lines, and, if the policy lets them be bus masters, memory.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::InterruptLines;

/// The guest's side of all its device models; clones are the same.
#[derive(Clone, Default, Debug)]
pub struct Bus {
    /// Its interrupt lines.
    pub lines: InterruptLines,
    /// Its memory.
    pub memory: BusMemory,
}

/// The guest's memory as bus masters reach it: by guest-physical addresses, and of all memory only what drivers may hand to
/// a device, which is what [`super::Vm::dma_memory`] has. There is none before the guest is laid out.
#[derive(Clone, Default, Debug)]
pub struct BusMemory {
    reach: Arc<RwLock<Option<Reach>>>,
    /// A PCI function's bus master bit; `None`: it has none.
    is_master: Option<Arc<AtomicBool>>,
}

/// Memory, and the parts of it that devices reach: first address and bytes, ascending, none next to another.
#[derive(Debug)]
pub(super) struct Reach {
    pub(super) memory: GuestMemoryMmap,
    pub(super) ranges: Vec<(u64, u64)>,
}

/// Why a device has not read or written memory; nothing was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BusError {
    /// Some of it is nothing that devices reach.
    #[error("no memory for devices is there")]
    NoMemory,
    /// The function's bus master bit is not set.
    #[error("the function is no bus master")]
    NoMaster,
}

impl BusMemory {
    /// The same memory for a PCI function, reached while its bus master bit is set.
    #[must_use]
    pub(crate) fn of_function(&self, is_master: Arc<AtomicBool>) -> Self {
        Self {
            reach: Arc::clone(&self.reach),
            is_master: Some(is_master),
        }
    }

    pub(super) fn attach(&self, reach: Reach) {
        *self.reach.write().unwrap_or_else(PoisonError::into_inner) = Some(reach);
    }

    /// Reads memory.
    ///
    /// # Errors
    /// [`BusError`]; `bytes` is as it was.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), BusError> {
        self.access(address, bytes.len(), |memory| {
            memory.read_slice(bytes, GuestAddress(address)).is_ok()
        })
    }

    /// Writes memory.
    ///
    /// # Errors
    /// [`BusError`]; memory is as it was.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), BusError> {
        self.access(address, bytes.len(), |memory| {
            memory.write_slice(bytes, GuestAddress(address)).is_ok()
        })
    }

    fn access(
        &self,
        address: u64,
        bytes: usize,
        run: impl FnOnce(&GuestMemoryMmap) -> bool,
    ) -> Result<(), BusError> {
        let is_off = |bit: &Arc<AtomicBool>| !bit.load(Ordering::Acquire);
        if self.is_master.as_ref().is_some_and(is_off) {
            return Err(BusError::NoMaster);
        }
        let reach = self.reach.read().unwrap_or_else(PoisonError::into_inner);
        let reach = reach.as_ref().ok_or(BusError::NoMemory)?;
        let end = u64::try_from(bytes)
            .ok()
            .and_then(|bytes| address.checked_add(bytes))
            .ok_or(BusError::NoMemory)?;
        let is_there = reach
            .ranges
            .iter()
            .any(|(first, bytes)| *first <= address && end - *first <= *bytes);
        if is_there && run(&reach.memory) {
            Ok(())
        } else {
            Err(BusError::NoMemory)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> BusMemory {
        let bus = BusMemory::default();
        bus.attach(Reach {
            memory: GuestMemoryMmap::from_ranges(&[(GuestAddress(0x1000), 0x8000)]).unwrap(),
            ranges: vec![(0x2000, 0x1000), (0x5000, 0x2000)],
        });
        bus
    }

    #[test]
    fn devices_reach_their_ranges_and_no_byte_beside() {
        let bus = memory();
        for address in [0x2000, 0x2FFC, 0x5000, 0x6FFC] {
            bus.write(address, &[1, 2, 3, 4]).unwrap();
            let mut read = [0; 4];
            bus.read(address, &mut read).unwrap();
            assert_eq!(read, [1, 2, 3, 4]);
        }
        for address in [0, 0x1000, 0x1FFF, 0x2FFD, 0x3000, 0x4FFD, 0x6FFD, 0x7000] {
            let mut read = [9; 4];
            assert_eq!(bus.read(address, &mut read), Err(BusError::NoMemory));
            assert_eq!(bus.write(address, &[5; 4]), Err(BusError::NoMemory));
            assert_eq!(read, [9; 4]);
        }
        for address in [u64::MAX, u64::MAX - 3] {
            assert_eq!(bus.write(address, &[5; 4]), Err(BusError::NoMemory));
        }
        let mut whole = [0; 0x1001];
        assert_eq!(bus.read(0x2000, &mut whole), Err(BusError::NoMemory));
        assert_eq!(bus.read(0x2000, &mut whole[..0x1000]), Ok(()));
        assert_eq!(whole[..4], [1, 2, 3, 4]);
        assert_eq!(
            BusMemory::default().read(0x2000, &mut [0]),
            Err(BusError::NoMemory)
        );
    }

    #[test]
    fn a_function_reaches_memory_as_a_bus_master_only() {
        let bit = Arc::new(AtomicBool::new(false));
        let bus = memory().of_function(Arc::clone(&bit));
        assert_eq!(bus.write(0x2000, &[7]), Err(BusError::NoMaster));
        bit.store(true, Ordering::Release);
        assert_eq!(bus.write(0x2000, &[7]), Ok(()));
        bit.store(false, Ordering::Release);
        assert_eq!(bus.read(0x2000, &mut [0]), Err(BusError::NoMaster));
    }
}
