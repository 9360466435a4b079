//! Memory: copy, fill, compare.

use crate::api::nt_api;
use crate::raw::{Ptr, low8};
use crate::rtl::crt_text::{EINVAL, ERANGE};
use crate::value::{Long, Size, UChar, ULong, ULongLong};

/// Number of leading bytes in which two ranges agree.
fn agreement(first: Ptr<u8>, second: Ptr<u8>, bytes: u64) -> u64 {
    (0..bytes)
        .find(|&at| first.add_bytes(at).read() != second.add_bytes(at).read())
        .unwrap_or(bytes)
}

nt_api! { module = rtl_memory;
    /// Copies memory; the ranges may overlap.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlMoveMemory(destination: Ptr<u8>, source: Ptr<u8>, length: Size) {
        destination.copy_from(source, length.0);
    }

    /// Copies memory that does not overlap. (A macro for memcpy on i386.)
    ntoskrnl amd64 stdcall irql(ANY_LEVEL) implemented
    fn RtlCopyMemory(destination: Ptr<u8>, source: Ptr<u8>, length: Size) {
        destination.copy_from(source, length.0);
    }

    /// Copies memory that does not overlap, past the caches on NT.
    ntoskrnl amd64 stdcall irql(ANY_LEVEL) implemented
    fn RtlCopyMemoryNonTemporal(destination: Ptr<u8>, source: Ptr<u8>, length: Size) {
        destination.copy_from(source, length.0);
    }

    /// Sets every byte.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlFillMemory(destination: Ptr<u8>, length: Size, fill: UChar) {
        destination.fill(fill, length.0);
    }

    /// Sets every byte to 0.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlZeroMemory(destination: Ptr<u8>, length: Size) {
        destination.fill(0, length.0);
    }

    /// The number of leading bytes in which two ranges agree.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlCompareMemory(source_1: Ptr<u8>, source_2: Ptr<u8>, length: Size) -> Size {
        Size(agreement(source_1, source_2, length.0))
    }

    /// The number of leading bytes that are a repetition of a ULONG; bytes behind the last whole ULONG do not count.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlCompareMemoryUlong(source: Ptr<u8>, length: Size, pattern: ULong) -> Size {
        let words = length.0 / 4;
        let same = (0..words).find(|&at| source.add_bytes(4 * at).cast::<u32>().read() != pattern);
        Size(4 * same.unwrap_or(words))
    }

    /// Fills memory with a ULONG; bytes behind the last whole one stay.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlFillMemoryUlong(destination: Ptr<u32>, length: Size, pattern: ULong) {
        for index in 0..length.0 / 4 {
            destination.add_bytes(4 * index).write(pattern);
        }
    }

    /// Fills memory with a ULONGLONG; bytes behind the last whole one stay.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlFillMemoryUlonglong(destination: Ptr<u64>, length: Size, pattern: ULongLong) {
        for index in 0..length.0 / 8 {
            destination.add_bytes(8 * index).write(pattern);
        }
    }

    /// Tells the processor that memory will be read soon, which changes nothing.
    ntoskrnl both fastcall irql(ANY_LEVEL) implemented
    fn RtlPrefetchMemoryNonTemporal(source: Ptr<u8>, length: Size) {}

    /// The CRC-32 of Ethernet and ZIP, going on from that of what came before (0 at the start).
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlComputeCrc32(partial_crc: ULong, buffer: Ptr<u8>, length: ULong) -> ULong {
        !(0..u64::from(length)).fold(!partial_crc, |crc, at| {
            (0..8).fold(crc ^ u32::from(buffer.add_bytes(at).read()), |crc, _| {
                crc >> 1 ^ if crc & 1 != 0 { 0xEDB8_8320 } else { 0 }
            })
        })
    }

    /// Copies memory into a buffer of a size: 0; EINVAL for NULL, ERANGE for too small a buffer, which is zeroed in both
    /// cases.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn memcpy_s(destination: Ptr<u8>, size: Size, source: Ptr<u8>, count: Size) -> Long {
        if count.0 == 0 {
            return 0;
        }
        if destination.is_null() {
            return EINVAL;
        }
        if source.is_null() || count.0 > size.0 {
            destination.fill(0, size.0);
            return if source.is_null() { EINVAL } else { ERANGE };
        }
        destination.copy_from(source, count.0);
        0
    }

    /// Copies memory that may overlap into a buffer of a size: 0, EINVAL for NULL, ERANGE for too small a buffer.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn memmove_s(destination: Ptr<u8>, size: Size, source: Ptr<u8>, count: Size) -> Long {
        if count.0 == 0 {
            return 0;
        }
        if destination.is_null() || source.is_null() {
            return EINVAL;
        }
        if count.0 > size.0 {
            return ERANGE;
        }
        destination.copy_from(source, count.0);
        0
    }

    /// Copies memory; overlap is allowed here, as in memmove.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn memcpy(destination: Ptr<u8>, source: Ptr<u8>, count: Size) -> Ptr<u8> {
        destination.copy_from(source, count.0);
        destination
    }

    /// Copies memory; the ranges may overlap.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn memmove(destination: Ptr<u8>, source: Ptr<u8>, count: Size) -> Ptr<u8> {
        destination.copy_from(source, count.0);
        destination
    }

    /// Sets every byte to the low byte of `value`.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn memset(destination: Ptr<u8>, value: Long, count: Size) -> Ptr<u8> {
        destination.fill(low8(u64::from(value.cast_unsigned())), count.0);
        destination
    }

    /// Compares bytes: less than, equal to or greater than 0 as the first range is.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn memcmp(first: Ptr<u8>, second: Ptr<u8>, count: Size) -> Long {
        let at = agreement(first, second, count.0);
        if at == count.0 {
            return 0;
        }
        i32::from(first.add_bytes(at).read()) - i32::from(second.add_bytes(at).read())
    }

    /// The first byte of that value; NULL if there is none.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn memchr(memory: Ptr<u8>, value: Long, count: Size) -> Ptr<u8> {
        let byte = low8(u64::from(value.cast_unsigned()));
        (0..count.0)
            .map(|at| memory.add_bytes(at))
            .find(|pointer| pointer.read() == byte)
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtl::test_strings::at;

    #[test]
    fn copying_respects_overlap_and_filling_bounds() {
        let mut bytes = *b"abcdefgh";
        let start = at(&mut bytes);
        RtlMoveMemory(start.add_bytes(2), start, Size(4));
        assert_eq!(&bytes, b"ababcdgh");
        RtlFillMemory(at(&mut bytes), Size(2), b'-');
        assert_eq!(
            memset(at(&mut bytes).add_bytes(7), 0x1_2B, Size(1)),
            at(&mut bytes).add_bytes(7)
        );
        assert_eq!(&bytes, b"--abcdg+");
        RtlZeroMemory(at(&mut bytes), Size(1));
        RtlZeroMemory(Ptr::null(), Size(0));
        assert_eq!(bytes[..2], [0, b'-']);
    }

    #[test]
    fn comparing_counts_what_agrees() {
        let (mut a, mut b) = (*b"ringfence", *b"ringfenCe");
        let (pa, pb) = (at(&mut a), at(&mut b));
        assert_eq!(RtlCompareMemory(pa, pb, Size(9)), Size(7));
        assert_eq!(RtlCompareMemory(pa, pb, Size(5)), Size(5));
        assert!(memcmp(pa, pb, Size(9)) > 0);
        assert!(memcmp(pb, pa, Size(9)) < 0);
        assert_eq!(memcmp(pa, pb, Size(7)), 0);
        let mut pattern = [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3];
        let word = u32::from_le_bytes([1, 2, 3, 4]);
        assert_eq!(
            RtlCompareMemoryUlong(at(&mut pattern), Size(11), word),
            Size(8)
        );
        assert_eq!(memchr(pa, i32::from(b'f'), Size(9)), pa.add_bytes(4));
        assert!(memchr(pa, i32::from(b'z'), Size(9)).is_null());
    }

    #[test]
    fn patterns_and_checksums() {
        let mut bytes = [0xEE_u8; 11];
        RtlFillMemoryUlong(at(&mut bytes).cast(), Size(7), 0x0403_0201);
        assert_eq!(bytes[..8], [1, 2, 3, 4, 0xEE, 0xEE, 0xEE, 0xEE]);
        let mut text = *b"123456789";
        assert_eq!(RtlComputeCrc32(0, at(&mut text), 9), 0xCBF4_3926);
        let half = RtlComputeCrc32(0, at(&mut text), 4);
        assert_eq!(
            RtlComputeCrc32(half, at(&mut text).add_bytes(4), 5),
            0xCBF4_3926
        );
    }

    #[test]
    fn secure_copies_zero_what_they_refuse() {
        let (mut from, mut to) = (*b"abc", [7_u8; 3]);
        let (source, destination) = (at(&mut from), at(&mut to));
        assert_eq!(memcpy_s(destination, Size(2), source, Size(3)), ERANGE);
        assert_eq!(to, [0, 0, 7]);
        assert_eq!(memmove_s(destination, Size(2), source, Size(3)), ERANGE);
        assert_eq!(memcpy_s(Ptr::null(), Size(2), source, Size(1)), EINVAL);
        assert_eq!(memcpy_s(Ptr::null(), Size(0), Ptr::null(), Size(0)), 0);
        assert_eq!(memcpy_s(destination, Size(3), source, Size(3)), 0);
        assert_eq!(&to, b"abc");
    }
}
