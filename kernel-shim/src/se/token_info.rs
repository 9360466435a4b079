//! What the token information classes answer.

use alloc::vec::Vec;

use super::sid::Sid;
use super::token::{IMPERSONATION, PRIMARY, Token};
use crate::nt::NtStatus;
use crate::raw::{Word, low32};

/// TokenUser.
pub const USER: u32 = 1;
/// TokenType.
pub const TYPE: u32 = 8;
/// TokenImpersonationLevel.
pub const LEVEL: u32 = 9;
/// TokenSessionId.
pub const SESSION: u32 = 12;

const WORD: u64 = size_of::<Word>() as u64;

/// A structure with pointers to what follows it.
struct Writer {
    base: u64,
    bytes: Vec<u8>,
}

impl Writer {
    fn word(&mut self, value: u64) {
        self.bytes
            .extend_from_slice(&crate::raw::to_word(value).to_le_bytes());
    }

    fn align(&mut self, alignment: u64) {
        let length = (self.bytes.len() as u64).next_multiple_of(alignment);
        self.bytes.resize(crate::raw::to_usize(length), 0);
    }

    /// SID_AND_ATTRIBUTES for each, then the SIDs.
    fn sids(&mut self, sids: &[(Sid, u32)]) {
        let mut next = self.base + self.bytes.len() as u64 + 2 * WORD * sids.len() as u64;
        for (sid, attributes) in sids {
            self.word(next);
            self.bytes.extend(attributes.to_le_bytes());
            self.align(WORD);
            next += sid.bytes().len() as u64;
        }
        for (sid, _) in sids {
            self.bytes.extend(sid.bytes());
        }
    }

    fn groups(&mut self, sids: &[(Sid, u32)]) {
        self.bytes.extend(low32(sids.len() as u64).to_le_bytes());
        self.align(WORD);
        self.sids(sids);
    }

    /// A pointer to bytes that follow.
    fn pointed(&mut self, bytes: &[u8]) {
        let at = self.base + self.bytes.len() as u64 + WORD;
        self.word(at);
        self.bytes.extend_from_slice(bytes);
    }
}

fn u32s(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// The answer of an information class, with pointers as they are right when it lies at `base`.
///
/// # Errors
/// INVALID_INFO_CLASS; INVALID_PARAMETER: the level of a primary token.
pub fn answer(token: &Token, class: u32, base: u64) -> Result<Vec<u8>, NtStatus> {
    let mut writer = Writer {
        base,
        bytes: Vec::new(),
    };
    match class {
        USER => writer.sids(&[(token.user.clone(), 0)]),
        2 => writer.groups(&token.groups),
        3 => {
            writer.bytes = u32s(&[low32(token.privileges.len() as u64)]);
            for (luid, attributes) in &token.privileges {
                writer.bytes.extend(luid.to_le_bytes());
                writer.bytes.extend(attributes.to_le_bytes());
            }
        }
        4 => writer.pointed(&token.owner.bytes()),
        5 => writer.pointed(&token.primary_group.bytes()),
        6 => writer.pointed(&token.default_dacl),
        7 => {
            writer.bytes.extend(token.source);
            writer.bytes.extend(token.source_id.to_le_bytes());
        }
        TYPE => writer.bytes = u32s(&[token.kind]),
        LEVEL if token.kind == IMPERSONATION => writer.bytes = u32s(&[token.level]),
        LEVEL => return Err(NtStatus::INVALID_PARAMETER),
        10 => {
            for luid in [token.id, token.authentication, i64::MAX.cast_unsigned()] {
                writer.bytes.extend(luid.to_le_bytes());
            }
            writer.bytes.extend(u32s(&[
                token.kind,
                token.level,
                4096,
                0,
                low32(token.groups.len() as u64),
                low32(token.privileges.len() as u64),
            ]));
            writer.bytes.extend(token.modified.to_le_bytes());
        }
        11 => writer.groups(&token.restricted),
        SESSION => writer.bytes = u32s(&[token.session]),
        15 => writer.bytes = u32s(&[0]), // TokenSandBoxInert
        17 => writer.bytes = token.authentication.to_le_bytes().to_vec(), // TokenOrigin
        18 => writer.bytes = u32s(&[1]), // TokenElevationTypeDefault
        20 => writer.bytes = u32s(&[u32::from(token.kind != PRIMARY || token.is_administrator())]),
        21 => writer.bytes = u32s(&[u32::from(!token.restricted.is_empty())]),
        23 | 24 | 26 => writer.bytes = u32s(&[0]), // no virtualization, no UIAccess
        25 => {
            let label = token
                .groups
                .iter()
                .find(|(_, attributes)| attributes & 0x20 != 0)
                .cloned()
                .unwrap_or_else(|| (Sid::new(16, &[8192]), 0x60));
            writer.sids(&[label]);
        }
        27 => writer.bytes = u32s(&[1]), // TOKEN_MANDATORY_POLICY_NO_WRITE_UP
        _ => return Err(NtStatus::INVALID_INFO_CLASS),
    }
    Ok(writer.bytes)
}
