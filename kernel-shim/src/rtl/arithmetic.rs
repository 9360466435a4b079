//! Byte swaps.

use crate::api::nt_api;
use crate::value::{ULong, ULongLong, UShort};

nt_api! { module = rtl_arithmetic;
    /// Reverses the bytes of a USHORT.
    ntoskrnl both fastcall irql(ANY_LEVEL) implemented
    fn RtlUshortByteSwap(source: UShort) -> UShort {
        source.swap_bytes()
    }

    /// Reverses the bytes of a ULONG.
    ntoskrnl both fastcall irql(ANY_LEVEL) implemented
    fn RtlUlongByteSwap(source: ULong) -> ULong {
        source.swap_bytes()
    }

    /// Reverses the bytes of a ULONGLONG.
    ntoskrnl both fastcall irql(ANY_LEVEL) implemented
    fn RtlUlonglongByteSwap(source: ULongLong) -> ULongLong {
        source.swap_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_reversed() {
        assert_eq!(RtlUshortByteSwap(0x1234), 0x3412);
        assert_eq!(RtlUlongByteSwap(0x1234_5678), 0x7856_3412);
        assert_eq!(RtlUlonglongByteSwap(1), 1 << 56);
    }
}
