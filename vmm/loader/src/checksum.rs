//! The CheckSum field of the optional header.

/// The stored and the computed checksum. Windows requires a correct one of boot-start and signed drivers
/// only; a wrong one usually means a patched file, so it is reported and not rejected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Checksum {
    /// What the header says; 0 when the linker did not fill it in.
    pub stored: u32,
    /// What the file's bytes give.
    pub computed: u32,
}

impl Checksum {
    /// Whether the file is as it was when its checksum was written.
    #[must_use]
    pub const fn is_correct(self) -> bool {
        self.stored == self.computed
    }

    /// Sums `bytes` as ImageHlp's CheckSumMappedFile documents it: the one's complement sum of all 16-bit
    /// words, the CheckSum field itself (at the even offset `field`) taken as zero, plus the file's length.
    pub(crate) fn compute(bytes: &[u8], field: u32, stored: u32) -> Self {
        let field = field as usize;
        let mut sum: u64 = 0;
        for (index, pair) in bytes.chunks(2).enumerate() {
            let offset = index.saturating_mul(2);
            if offset == field || offset == field.saturating_add(2) {
                continue;
            }
            let low = pair.first().copied().unwrap_or_default();
            let high = pair.get(1).copied().unwrap_or_default();
            sum = sum.saturating_add(u64::from(u16::from_le_bytes([low, high])));
        }
        while sum > 0xFFFF {
            sum = (sum & 0xFFFF).saturating_add(sum >> 16);
        }
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Self {
            stored,
            computed: u32::try_from(sum.saturating_add(length)).unwrap_or(u32::MAX),
        }
    }
}
