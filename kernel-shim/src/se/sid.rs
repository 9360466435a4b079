//! SIDs.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::api::nt_api;
use crate::ex::pool;
use crate::nt::{NtStatus, UNICODE_STRING};
use crate::raw::{Ptr, low8, low16};
use crate::value::{Boolean, UChar, ULong};

/// SID_MAX_SUB_AUTHORITIES.
const MAX_SUB_AUTHORITIES: u8 = 15;
/// Bytes before the sub-authorities.
const HEAD: u64 = 8;

/// A SID, as a value.
#[derive(Clone, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub struct Sid {
    /// Identifier authority, big-endian as in memory.
    authority: [u8; 6],
    sub: Vec<u32>,
}

impl Sid {
    /// S-1-`authority`-`sub`...
    #[must_use]
    pub fn new(authority: u8, sub: &[u32]) -> Self {
        Self {
            authority: [0, 0, 0, 0, 0, authority],
            sub: sub.to_vec(),
        }
    }

    /// Reads the SID at an address; `None` if it is not valid.
    #[must_use]
    pub fn read(at: Ptr<u8>) -> Option<Self> {
        if at.is_null() || at.read() & 0x0F != 1 {
            return None;
        }
        let count = at.add_bytes(1).read();
        if count > MAX_SUB_AUTHORITIES {
            return None;
        }
        let mut authority = [0; 6];
        at.add_bytes(2).read_bytes(&mut authority);
        let sub = at
            .add_bytes(HEAD)
            .cast::<u32>()
            .read_slice(usize::from(count));
        Some(Self { authority, sub })
    }

    /// As it is in memory.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = alloc::vec![1, low8(self.sub.len() as u64)];
        bytes.extend_from_slice(&self.authority);
        bytes.extend(self.sub.iter().flat_map(|sub| sub.to_le_bytes()));
        bytes
    }

    /// The low byte of the last sub-authority; 0: there is none.
    #[must_use]
    pub fn last_byte(&self) -> u8 {
        self.sub.last().map_or(0, |&sub| low8(u64::from(sub)))
    }

    /// The last sub-authority, in a mandatory label the integrity level; `None`: there is none.
    #[must_use]
    pub fn last(&self) -> Option<u32> {
        self.sub.last().copied()
    }

    /// Its text: S-1-5-18.
    #[must_use]
    pub fn text(&self) -> String {
        let [high_1, high_0, low @ ..] = self.authority;
        let mut text = if high_1 | high_0 == 0 {
            format!("S-1-{}", u32::from_be_bytes(low))
        } else {
            let digits = self
                .authority
                .iter()
                .fold(String::new(), |text, byte| text + &format!("{byte:02X}"));
            format!("S-1-0x{digits}")
        };
        for sub in &self.sub {
            text += &format!("-{sub}");
        }
        text
    }
}

/// Bytes of the SID at an address, by its count alone (RtlLengthSid).
#[must_use]
pub fn length(sid: Ptr<u8>) -> u64 {
    HEAD + 4 * u64::from(sid.add_bytes(1).read())
}

/// Whether two SIDs in memory are equal.
fn is_equal(first: Ptr<u8>, second: Ptr<u8>) -> bool {
    // Revision and count first: bytes behind a shorter SID are nobody's.
    first.cast::<u16>().read() == second.cast::<u16>().read()
        && first.read_slice(crate::raw::to_usize(length(first)))
            == second.read_slice(crate::raw::to_usize(length(first)))
}

fn convert(string: Ptr<UNICODE_STRING>, sid: Ptr<u8>, is_allocated: bool) -> NtStatus {
    let Some(sid) = Sid::read(sid) else {
        return NtStatus::INVALID_SID;
    };
    let units: Vec<u8> = sid
        .text()
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let bytes = low16(units.len() as u64);
    if is_allocated {
        let Some(buffer) = pool::allocate_zeroed(u64::from(bytes) + 2, *b"Rtl ") else {
            return NtStatus::NO_MEMORY;
        };
        buffer.write_bytes(&units);
        string.write(UNICODE_STRING {
            Length: bytes,
            MaximumLength: bytes + 2,
            Buffer: buffer.cast(),
        });
        return NtStatus::SUCCESS;
    }
    let target = string.read();
    if bytes > target.MaximumLength {
        return NtStatus::BUFFER_OVERFLOW;
    }
    target.Buffer.cast().write_bytes(&units);
    if bytes + 2 <= target.MaximumLength {
        target
            .Buffer
            .add_bytes(u64::from(bytes))
            .cast::<u16>()
            .write(0);
    }
    string.with(|string| string.Length = bytes);
    NtStatus::SUCCESS
}

nt_api! { module = se_sid;
    /// RtlInitializeSid: writes a SID's head. INVALID_PARAMETER: more than 15 sub-authorities.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlInitializeSid(sid: Ptr<u8>, identifier_authority: Ptr<u8>, sub_authority_count: UChar) -> NtStatus {
        if sub_authority_count > MAX_SUB_AUTHORITIES {
            return NtStatus::INVALID_PARAMETER;
        }
        let mut authority = [0; 6];
        identifier_authority.read_bytes(&mut authority);
        sid.write_bytes(&[1, sub_authority_count]);
        sid.add_bytes(2).write_bytes(&authority);
        NtStatus::SUCCESS
    }

    /// RtlLengthSid: bytes of a SID.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlLengthSid(sid: Ptr<u8>) -> ULong {
        crate::raw::low32(length(sid))
    }

    /// RtlLengthRequiredSid: bytes of a SID with so many sub-authorities.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlLengthRequiredSid(sub_authority_count: ULong) -> ULong {
        sub_authority_count.wrapping_mul(4).wrapping_add(8)
    }

    /// RtlSubAuthoritySid: where a sub-authority is.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlSubAuthoritySid(sid: Ptr<u8>, sub_authority: ULong) -> Ptr<u32> {
        sid.add_bytes(HEAD).cast::<u32>().offset(i64::from(sub_authority))
    }

    /// RtlSubAuthorityCountSid: where the number of sub-authorities is.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlSubAuthorityCountSid(sid: Ptr<u8>) -> Ptr<u8> {
        sid.add_bytes(1)
    }

    /// RtlIdentifierAuthoritySid: where the identifier authority is.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlIdentifierAuthoritySid(sid: Ptr<u8>) -> Ptr<u8> {
        sid.add_bytes(2)
    }

    /// RtlEqualSid.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlEqualSid(sid_1: Ptr<u8>, sid_2: Ptr<u8>) -> Boolean {
        is_equal(sid_1, sid_2)
    }

    /// RtlEqualPrefixSid: whether all but the last sub-authority are equal.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlEqualPrefixSid(sid_1: Ptr<u8>, sid_2: Ptr<u8>) -> Boolean {
        let (Some(first), Some(second)) = (Sid::read(sid_1), Sid::read(sid_2)) else { return false };
        let prefix = first.sub.len().saturating_sub(1);
        first.sub.len() == second.sub.len()
            && first.authority == second.authority
            && first.sub[..prefix] == second.sub[..prefix]
    }

    /// RtlCopySid. BUFFER_TOO_SMALL: it does not fit.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlCopySid(destination_length: ULong, destination: Ptr<u8>, source: Ptr<u8>) -> NtStatus {
        let bytes = length(source);
        if u64::from(destination_length) < bytes {
            return NtStatus::BUFFER_TOO_SMALL;
        }
        destination.copy_from(source, bytes);
        NtStatus::SUCCESS
    }

    /// RtlValidSid: whether revision and count are ones that there are.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlValidSid(sid: Ptr<u8>) -> Boolean {
        !sid.is_null() && sid.read() & 0x0F == 1 && sid.add_bytes(1).read() <= MAX_SUB_AUTHORITIES
    }

    /// RtlConvertSidToUnicodeString. BUFFER_OVERFLOW: the caller's buffer is too small; INVALID_SID.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlConvertSidToUnicodeString(
        unicode_string: Ptr<UNICODE_STRING>, sid: Ptr<u8>, allocate_destination_string: Boolean,
    ) -> NtStatus {
        convert(unicode_string, sid, allocate_destination_string)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sid_survives_memory_and_has_its_text() {
        let sid = Sid::new(5, &[32, 544]);
        let mut bytes = sid.bytes();
        assert_eq!(bytes.len(), 16);
        assert_eq!(Sid::read(Ptr::of(&mut bytes[0])), Some(sid.clone()));
        assert_eq!(sid.text(), "S-1-5-32-544");
        bytes[2] = 1;
        let wide = Sid::read(Ptr::of(&mut bytes[0])).unwrap();
        assert_eq!(wide.text(), "S-1-0x010000000005-32-544");
        bytes[0] = 2;
        assert_eq!(Sid::read(Ptr::of(&mut bytes[0])), None);
    }

    #[test]
    fn shorter_sids_are_not_prefix_equal() {
        let (mut first, mut second) = (Sid::new(5, &[32, 544]).bytes(), Sid::new(5, &[32]).bytes());
        let (first, second) = (Ptr::of(&mut first[0]), Ptr::of(&mut second[0]));
        assert!(!RtlEqualSid(first, second) && !RtlEqualPrefixSid(first, second));
        assert!(RtlEqualSid(first, first));
    }
}
