//! Compressed buffers.

use alloc::vec::Vec;

use super::lznt1::{CHUNK, compress_chunk, decompress_chunk, parse_header};
use crate::api::nt_api;
use crate::nt::NtStatus;
use crate::raw::{Ptr, low32};
use crate::value::{ULong, UShort};

/// COMPRESSION_FORMAT_LZNT1.
const LZNT1: u16 = 2;
/// COMPRESSION_ENGINE_MAXIMUM.
const ENGINE_MAXIMUM: u16 = 0x100;
/// Bytes of work space that a driver is told to provide; none of it is used.
const WORK_SPACE: u32 = 0x1000;

/// Checks a format, and an engine in the upper byte.
fn check(format_and_engine: u16) -> NtStatus {
    match (format_and_engine & 0xFF, format_and_engine & 0xFF00) {
        (0 | 1, _) => NtStatus::INVALID_PARAMETER,
        (LZNT1, 0 | ENGINE_MAXIMUM) => NtStatus::SUCCESS,
        (LZNT1, _) => NtStatus::NOT_SUPPORTED,
        _ => NtStatus::UNSUPPORTED_COMPRESSION,
    }
}

/// The chunks of a compressed buffer, decompressed, each with its offset.
fn chunks(source: Ptr<u8>, bytes: u32) -> impl Iterator<Item = Result<Vec<u8>, NtStatus>> {
    let mut at = 0_u64;
    let end = u64::from(bytes);
    core::iter::from_fn(move || {
        if at + 2 > end {
            return None;
        }
        let header = source.add_bytes(at).cast::<u16>().read();
        if header == 0 {
            return None;
        }
        let bad = Some(Err(NtStatus::BAD_COMPRESSION_BUFFER));
        let Some((size, is_compressed)) = parse_header(header) else {
            at = end;
            return bad;
        };
        let start = at + 2;
        at = start + size as u64;
        if at > end {
            at = end;
            return bad;
        }
        let data = source.add_bytes(start).read_slice(size);
        if !is_compressed {
            return Some(Ok(data));
        }
        Some(decompress_chunk(&data).ok_or(NtStatus::BAD_COMPRESSION_BUFFER))
    })
}

/// Decompresses from an offset on; stops when `room` bytes are there.
fn decompress(
    destination: Ptr<u8>,
    room: u32,
    source: Ptr<u8>,
    bytes: u32,
    offset: u32,
    written: Ptr<u32>,
) -> NtStatus {
    let (offset, end) = (u64::from(offset), u64::from(offset) + u64::from(room));
    let mut plain_end = 0;
    for (start, chunk) in (0..).step_by(CHUNK).zip(chunks(source, bytes)) {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(status) => return status,
        };
        // A chunk that is followed by another one stands for 4096 bytes, whatever it holds.
        if start > plain_end && plain_end < end {
            let from = plain_end.max(offset);
            destination
                .add_bytes(from - offset)
                .fill(0, start.min(end).saturating_sub(from));
        }
        let chunk_end = start + chunk.len() as u64;
        let (from, to) = (start.max(offset), chunk_end.min(end));
        if from < to {
            let part = &chunk[crate::raw::to_usize(from - start)..crate::raw::to_usize(to - start)];
            destination.add_bytes(from - offset).write_bytes(part);
        }
        plain_end = chunk_end;
        if plain_end >= end {
            break;
        }
    }
    written.write(low32(plain_end.min(end).saturating_sub(offset)));
    NtStatus::SUCCESS
}

nt_api! { module = rtl_compression;
    /// Bytes of work space for compressing and for decompressing a fragment. STATUS_INVALID_PARAMETER,
    /// STATUS_UNSUPPORTED_COMPRESSION: another format than LZNT1; STATUS_NOT_SUPPORTED: another engine.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlGetCompressionWorkSpaceSize(
        format_and_engine: UShort, buffer_work_space: Ptr<u32>, fragment_work_space: Ptr<u32>,
    ) -> NtStatus {
        let status = check(format_and_engine);
        if status.is_success() {
            buffer_work_space.write(WORK_SPACE);
            fragment_work_space.write(WORK_SPACE);
        }
        status
    }

    /// Compresses a buffer in LZNT1. STATUS_BUFFER_ALL_ZEROS: success, and all was zeros; STATUS_BUFFER_TOO_SMALL; for
    /// formats see RtlGetCompressionWorkSpaceSize.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlCompressBuffer(
        format_and_engine: UShort,
        uncompressed: Ptr<u8>,
        uncompressed_size: ULong,
        compressed: Ptr<u8>,
        compressed_size: ULong,
        chunk_size: ULong,
        final_size: Ptr<u32>,
        work_space: Ptr<u8>,
    ) -> NtStatus {
        let status = check(format_and_engine);
        if !status.is_success() {
            return status;
        }
        let (mut read, mut written) = (0_u64, 0_u64);
        let total = u64::from(uncompressed_size);
        let mut is_zero = true;
        while read < total {
            let bytes = (total - read).min(CHUNK as u64);
            let data = uncompressed.add_bytes(read).read_slice(crate::raw::to_usize(bytes));
            is_zero &= data.iter().all(|&byte| byte == 0);
            let chunk = compress_chunk(&data);
            if written + chunk.len() as u64 > u64::from(compressed_size) {
                return NtStatus::BUFFER_TOO_SMALL;
            }
            compressed.add_bytes(written).write_bytes(&chunk);
            written += chunk.len() as u64;
            read += bytes;
        }
        final_size.write(low32(written));
        if is_zero { NtStatus::BUFFER_ALL_ZEROS } else { NtStatus::SUCCESS }
    }

    /// Decompresses LZNT1, as much as there is room for. STATUS_BAD_COMPRESSION_BUFFER: malformed.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlDecompressBuffer(
        format: UShort,
        uncompressed: Ptr<u8>,
        uncompressed_size: ULong,
        compressed: Ptr<u8>,
        compressed_size: ULong,
        final_size: Ptr<u32>,
    ) -> NtStatus {
        let status = check(format & 0xFF);
        if !status.is_success() {
            return status;
        }
        decompress(uncompressed, uncompressed_size, compressed, compressed_size, 0, final_size)
    }

    /// Decompresses a part of LZNT1 data, from an offset of the uncompressed data on.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlDecompressFragment(
        format: UShort,
        fragment: Ptr<u8>,
        fragment_size: ULong,
        compressed: Ptr<u8>,
        compressed_size: ULong,
        fragment_offset: ULong,
        final_size: Ptr<u32>,
        work_space: Ptr<u8>,
    ) -> NtStatus {
        let status = check(format & 0xFF);
        if !status.is_success() {
            return status;
        }
        decompress(fragment, fragment_size, compressed, compressed_size, fragment_offset, final_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtl::test_strings::at;

    #[test]
    fn buffers_survive_and_parts_can_be_had() {
        let mut plain: Vec<u8> = b"chunk after chunk, "
            .iter()
            .copied()
            .cycle()
            .take(10_000)
            .collect();
        let (mut packed, mut back, mut bytes) = (vec![0; 10_000], vec![9_u8; 10_001], 0);
        let status = RtlCompressBuffer(
            2,
            at(&mut plain),
            10_000,
            at(&mut packed),
            10_000,
            4096,
            Ptr::of(&mut bytes),
            Ptr::null(),
        );
        assert_eq!(status, NtStatus::SUCCESS);
        assert!(bytes < 3000, "{bytes}");
        let size = bytes;
        let status = RtlDecompressBuffer(
            2,
            at(&mut back),
            10_001,
            at(&mut packed),
            size,
            Ptr::of(&mut bytes),
        );
        assert_eq!((status, bytes), (NtStatus::SUCCESS, 10_000));
        assert_eq!(back[..10_000], plain);
        let status = RtlDecompressFragment(
            2,
            at(&mut back),
            5000,
            at(&mut packed),
            size,
            4000,
            Ptr::of(&mut bytes),
            Ptr::null(),
        );
        assert_eq!((status, bytes), (NtStatus::SUCCESS, 5000));
        assert_eq!(back[..5000], plain[4000..9000]);
        packed[1] &= 0x8F;
        let status = RtlDecompressBuffer(
            2,
            at(&mut back),
            10_001,
            at(&mut packed),
            size,
            Ptr::of(&mut bytes),
        );
        assert_eq!(status, NtStatus::BAD_COMPRESSION_BUFFER);
    }

    #[test]
    fn formats_are_checked() {
        assert_eq!(
            [0, 1, 2, 0x102, 0x202, 3].map(check),
            [
                NtStatus::INVALID_PARAMETER,
                NtStatus::INVALID_PARAMETER,
                NtStatus::SUCCESS,
                NtStatus::SUCCESS,
                NtStatus::NOT_SUPPORTED,
                NtStatus::UNSUPPORTED_COMPRESSION,
            ]
        );
        let (mut zeros, mut packed, mut bytes) = ([0; 64], [0; 64], 0);
        let status = RtlCompressBuffer(
            2,
            at(&mut zeros),
            64,
            at(&mut packed),
            64,
            4096,
            Ptr::of(&mut bytes),
            Ptr::null(),
        );
        assert_eq!(status, NtStatus::BUFFER_ALL_ZEROS);
        let status = RtlCompressBuffer(
            2,
            at(&mut zeros),
            64,
            at(&mut packed),
            3,
            4096,
            Ptr::of(&mut bytes),
            Ptr::null(),
        );
        assert_eq!(status, NtStatus::BUFFER_TOO_SMALL);
    }
}
