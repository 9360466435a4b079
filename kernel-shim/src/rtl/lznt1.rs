//! LZNT1, NT's compression: chunks of 4096 bytes, each either plain or a sequence of literals and copies
//! ([MS-XCA] 2.5).

use alloc::vec::Vec;

/// Bytes of a chunk before compression.
pub(crate) const CHUNK: usize = 4096;

/// Bits 12 to 14 of a chunk's header.
const SIGNATURE: u16 = 3 << 12;
/// Bit 15: the chunk is compressed.
const COMPRESSED: u16 = 1 << 15;
/// Shortest copy.
const SHORTEST: usize = 3;

/// Bits of a copy's length when `position` bytes of the chunk are there; the other bits of the 16 are its distance.
fn length_bits(position: usize) -> u32 {
    let mut bits = 12;
    let mut limit = 16;
    while position > limit {
        bits -= 1;
        limit *= 2;
    }
    bits
}

fn header(bytes: usize, flag: u16) -> [u8; 2] {
    let size = crate::raw::low16(bytes as u64 - 1);
    (size | SIGNATURE | flag).to_le_bytes()
}

/// Compresses one chunk (1 to 4096 bytes); the result has its header.
pub(crate) fn compress_chunk(data: &[u8]) -> Vec<u8> {
    let mut output = alloc::vec![0, 0];
    // Where a hash of 3 bytes was last seen, + 1.
    let mut seen = alloc::vec![0_u16; CHUNK];
    let mut position = 0;
    while position < data.len() && output.len() < data.len() + 2 {
        let flags_at = output.len();
        output.push(0);
        for bit in 0..8 {
            if position == data.len() {
                break;
            }
            let found = find_copy(data, position, &mut seen);
            if let Some((distance, length)) = found {
                let bits = length_bits(position);
                let token = (distance - 1) << bits | (length - SHORTEST);
                output.extend_from_slice(&crate::raw::low16(token as u64).to_le_bytes());
                output[flags_at] |= 1 << bit;
                position += length;
            } else {
                output.push(data[position]);
                position += 1;
            }
        }
    }
    if position < data.len() || output.len() >= data.len() + 2 {
        output.truncate(0);
        output.extend_from_slice(&header(data.len(), 0));
        output.extend_from_slice(data);
        return output;
    }
    let size = output.len() - 2;
    output[..2].copy_from_slice(&header(size, COMPRESSED));
    output
}

/// The copy (distance, length) to use at a position, if one is worth it.
fn find_copy(data: &[u8], position: usize, seen: &mut [u16]) -> Option<(usize, usize)> {
    let rest = &data[position..];
    let [a, b, c, ..] = *rest else {
        return None;
    };
    let key = u32::from(a) << 16 | u32::from(b) << 8 | u32::from(c);
    let slot = (key.wrapping_mul(0x9E37_79B1) >> 20) as usize;
    let last = usize::from(seen[slot]);
    seen[slot] = crate::raw::low16(position as u64 + 1);
    let from = last.checked_sub(1)?;
    let longest = (1 << length_bits(position)) - 1 + SHORTEST;
    let length = data[from..]
        .iter()
        .zip(rest)
        .take(longest)
        .take_while(|(a, b)| a == b)
        .count();
    (length >= SHORTEST).then_some((position - from, length))
}

/// Decompresses one chunk's data (without its header); `None` if it is malformed.
pub(crate) fn decompress_chunk(data: &[u8]) -> Option<Vec<u8>> {
    let mut output = Vec::new();
    let mut rest = data;
    while let [flags, tail @ ..] = rest {
        rest = tail;
        for bit in 0..8 {
            if flags >> bit & 1 == 0 {
                let [literal, tail @ ..] = rest else {
                    return Some(output);
                };
                output.push(*literal);
                rest = tail;
                continue;
            }
            let [low, high, tail @ ..] = rest else {
                return if rest.is_empty() { Some(output) } else { None };
            };
            rest = tail;
            let token = usize::from(u16::from_le_bytes([*low, *high]));
            let bits = length_bits(output.len());
            let distance = (token >> bits) + 1;
            let length = (token & ((1 << bits) - 1)) + SHORTEST;
            let from = output.len().checked_sub(distance)?;
            if output.len() + length > CHUNK {
                return None;
            }
            for index in from..from + length {
                output.push(output[index]);
            }
        }
    }
    (output.len() <= CHUNK).then_some(output)
}

/// A chunk's header: bytes of data behind it, and whether they are compressed. `None`: not a header.
pub(crate) fn parse_header(header: u16) -> Option<(usize, bool)> {
    let bytes = usize::from(header & 0xFFF) + 1;
    (header & (7 << 12) == SIGNATURE).then_some((bytes, header & COMPRESSED != 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(data: &[u8]) -> usize {
        let packed = compress_chunk(data);
        let (bytes, is_compressed) =
            parse_header(u16::from_le_bytes([packed[0], packed[1]])).unwrap();
        assert_eq!(bytes + 2, packed.len());
        let plain = if is_compressed {
            decompress_chunk(&packed[2..]).unwrap()
        } else {
            packed[2..].to_vec()
        };
        assert_eq!(plain, data);
        packed.len()
    }

    #[test]
    fn the_specifications_example() {
        // [MS-XCA] 3.3.
        let packed = [
            0x88, 0x46, 0x23, 0x20, 0x00, 0x20, 0x47, 0x20, 0x41, 0x00, 0x10, 0xA2, 0x47, 0x01,
            0xA0, 0x45, 0x20, 0x44, 0x00, 0x08, 0x45, 0x01, 0x50, 0x79, 0x00, 0xC0, 0x45, 0x20,
            0x05, 0x24, 0x13, 0x88, 0x05, 0xB4, 0x02, 0x4A, 0x44, 0xEF, 0x03, 0x58, 0x02, 0x8C,
            0x09, 0x16, 0x01, 0x48, 0x45, 0x00, 0xBE, 0x00, 0x9E, 0x00, 0x04, 0x01, 0x18, 0x90,
            0x00,
        ];
        let plain = b"F# F# G A A G F# E D D E F# F# E E F# F# G A A G F# E D D E F# E D D E E F# D E F# G F# D E F# \
            G F# E D E A F# F# G A A G F# E D D E F# E D D\0";
        assert_eq!(decompress_chunk(&packed).unwrap(), plain);
        assert!(round_trip(plain) <= packed.len() + 10);
    }

    #[test]
    fn repetition_shrinks_and_noise_stays_plain() {
        assert!(round_trip(&[7; CHUNK]) < 16);
        let mut state = 1_u32;
        let noise: Vec<u8> = (0..CHUNK)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                crate::raw::low8(u64::from(state >> 24))
            })
            .collect();
        assert_eq!(round_trip(&noise), CHUNK + 2);
        assert!(
            decompress_chunk(&[1, 0, 0]).is_none(),
            "a copy from before the start"
        );
    }

    proptest! {
        #[test]
        fn every_chunk_survives(data in proptest::collection::vec(0..4_u8, 1..CHUNK)) {
            round_trip(&data);
        }

        #[test]
        fn malformed_data_is_refused_or_short(data in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(decompress_chunk(&data).is_none_or(|plain| plain.len() <= CHUNK));
        }
    }
}
