//! The memory that Ringfence shares with a model: one page with an access and its answer.
//!
//! The model may write anything at any time. Each word is read once where it is used, and only the answer's value, which
//! may be any, goes further. The memory cannot be made smaller behind Ringfence's back: its size is sealed.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;

use rustix::fs::{MemfdFlags, SealFlags};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

use super::protocol::{Access, PAGE_BYTES, Version, page};

/// Ringfence's view of it.
#[derive(Debug)]
pub(super) struct SharedPage {
    file: File,
    region: MmapRegion,
}

impl SharedPage {
    pub(super) fn new() -> io::Result<Self> {
        let (file, region) = shared("ringfence-model", PAGE_BYTES)?;
        Ok(Self { file, region })
    }

    /// To be sent with the hello.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn words(&self) -> VolatileSlice<'_> {
        self.region.as_volatile_slice()
    }

    fn load(&self, offset: usize) -> u32 {
        // All offsets lie in the page, aligned.
        self.words().load(offset, Ordering::SeqCst).unwrap_or(0)
    }

    fn store(&self, offset: usize, value: u32) {
        // As above.
        let stored = self.words().store(value, offset, Ordering::SeqCst);
        debug_assert!(stored.is_ok(), "a word outside of the page");
    }

    /// Hands an access over; whether the model has to be told by a doorbell.
    pub(super) fn put(&self, number: u32, access: Access, version: Version) -> bool {
        let [low, high] = halves(access.write.unwrap_or(0));
        self.store(page::REQUEST, access.word(version));
        self.store(page::REQUEST_VALUE, low);
        if version >= Version::Two {
            self.store(page::REQUEST_OFFSET, access.offset);
            self.store(page::REQUEST_VALUE_HIGH, high);
        }
        self.store(page::REQUEST_NUMBER, number);
        self.load(page::MODEL_POLLS) == 0
    }

    /// Whether doorbells are wanted for answers.
    pub(super) fn set_polling(&self, is_polling: bool) {
        self.store(page::RINGFENCE_POLLS, u32::from(is_polling));
    }

    /// The answer to an access, if it is there.
    pub(super) fn answer(&self, number: u32, version: Version) -> Option<u64> {
        (self.load(page::ANSWER_NUMBER) == number).then(|| {
            let low = u64::from(self.load(page::ANSWER_VALUE));
            match version {
                Version::One => low,
                Version::Two => low | u64::from(self.load(page::ANSWER_VALUE_HIGH)) << 32,
            }
        })
    }
}

/// Memory of a sealed size, and a view of it.
pub(super) fn shared(name: &str, bytes: usize) -> io::Result<(File, MmapRegion)> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = File::from(rustix::fs::memfd_create(name, flags)?);
    file.set_len(bytes as u64)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    let region = MmapRegion::from_file(FileOffset::new(file.try_clone()?, 0), bytes)
        .map_err(io::Error::other)?;
    Ok((file, region))
}

/// Low and high.
fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_where_the_protocol_has_them_and_the_size_is_sealed() {
        let shared = SharedPage::new().unwrap();
        let theirs = SharedPage {
            file: shared.file.try_clone().unwrap(),
            region: MmapRegion::from_file(
                FileOffset::new(shared.file.try_clone().unwrap(), 0),
                PAGE_BYTES,
            )
            .unwrap(),
        };
        let access = Access {
            offset: 3,
            bytes: 1,
            write: Some(0x5A),
        };
        assert!(shared.put(9, access, Version::One));
        assert_eq!([0, 4, 8].map(|at| theirs.load(at)), [9, 0x0003_0103, 0x5A]);
        assert_eq!(shared.answer(9, Version::One), None);
        theirs.store(0x44, 77);
        theirs.store(0x4C, 1);
        theirs.store(0x40, 9);
        theirs.store(0x48, 1);
        assert_eq!(shared.answer(9, Version::One), Some(77));
        assert_eq!(shared.answer(9, Version::Two), Some(0x1_0000_004D));
        let wide = Access {
            offset: 0x12_3456,
            bytes: 8,
            write: Some(0x1122_3344_5566_7788),
        };
        assert!(!shared.put(10, wide, Version::Two), "it polls");
        assert_eq!(
            [0, 4, 8, 0x10, 0x14].map(|at| theirs.load(at)),
            [10, 0x0803, 0x5566_7788, 0x12_3456, 0x1122_3344]
        );
        assert!(theirs.file.set_len(0).is_err());
        assert!(theirs.file.set_len(8192).is_err());
    }
}
