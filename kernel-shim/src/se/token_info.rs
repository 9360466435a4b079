//! What the token information classes answer.

use alloc::vec::Vec;

use super::sid::Sid;
use super::token::{IMPERSONATION, PRIMARY, Token};
use crate::nt::NtStatus;
use crate::raw::{Word, low32};
use crate::view::windows;
use abi::windows::Windows;

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

    fn dword(&mut self, value: u64) {
        self.bytes.extend(low32(value).to_le_bytes());
    }

    fn qword(&mut self, value: u64) {
        self.bytes.extend(value.to_le_bytes());
    }

    /// TOKEN_GROUPS_AND_PRIVILEGES: counts, bytes and pointers; then what they point to.
    fn groups_and_privileges(&mut self, token: &Token) {
        let head = 3 * (8 + WORD) + 8;
        let (sids, restricted) = (all_sids(token), token.restricted.as_slice());
        let bytes = |sids: &[(Sid, u32)]| {
            let one = |(sid, _): &(Sid, u32)| 2 * WORD + sid.bytes().len() as u64;
            sids.iter().map(one).sum::<u64>()
        };
        let privileges = token.privileges.len() as u64;
        let lists = [
            (sids.len() as u64, bytes(&sids)),
            (restricted.len() as u64, bytes(restricted)),
            (privileges, 12 * privileges),
        ];
        let mut next = self.base + head;
        for (count, length) in lists {
            self.dword(count);
            self.dword(length);
            self.word(if count == 0 { 0 } else { next });
            next += length.next_multiple_of(WORD);
        }
        self.qword(token.authentication);
        for list in [sids.as_slice(), restricted] {
            self.sids(list);
            self.align(WORD);
        }
        self.privileges(&token.privileges);
    }

    fn privileges(&mut self, privileges: &[(u64, u32)]) {
        for (luid, attributes) in privileges {
            self.qword(*luid);
            self.dword(u64::from(*attributes));
        }
    }

    /// TOKEN_ACCESS_INFORMATION: pointers to the hashed SIDs and the privileges, and what else an access check needs.
    fn access_information(&mut self, token: &Token, is_newer: bool) {
        let sids = all_sids(token);
        // The head ends where the first hash begins.
        let tail = if is_newer { WORD + 3 * WORD } else { 0 };
        let head = (3 * WORD + 8 + 16 + tail).next_multiple_of(8);
        let hash_bytes = 2 * WORD + HASH_ENTRIES as u64 * WORD;
        let sid_bytes = |sids: &[(Sid, u32)]| {
            let one = |(sid, _): &(Sid, u32)| 2 * WORD + sid.bytes().len() as u64;
            sids.iter().map(one).sum::<u64>().next_multiple_of(8)
        };
        let hashes = [sids, token.restricted.clone(), Vec::new()];
        let count = if is_newer { 3 } else { 2 };
        let mut at = self.base + head;
        let mut addresses = Vec::new();
        for list in &hashes[..count] {
            addresses.push(at);
            at += hash_bytes + sid_bytes(list);
        }
        self.word(addresses[0]);
        self.word(addresses[1]);
        self.word(at);
        self.qword(token.authentication);
        for value in [token.kind, token.level, MANDATORY_POLICY, 0] {
            self.dword(value.into());
        }
        if is_newer {
            // No app container: number 0, no package; no capabilities; no trust label.
            self.word(0);
            self.word(0);
            self.word(addresses[2]);
            self.word(0);
        }
        self.align(8);
        for list in &hashes[..count] {
            self.hash(list);
        }
        self.dword(token.privileges.len() as u64);
        self.privileges(&token.privileges);
    }

    /// SID_AND_ATTRIBUTES_HASH, then the SIDs: a bit for each of the first SIDs in the words that the two halves of
    /// the last byte of its sub-authorities choose.
    fn hash(&mut self, sids: &[(Sid, u32)]) {
        let mut words = [0_u64; HASH_ENTRIES];
        for (index, (sid, _)) in sids.iter().enumerate().take(Word::BITS as usize) {
            let low = usize::from(sid.last_byte());
            words[low & 0xF] |= 1 << index;
            words[HASH_ENTRIES / 2 + (low >> 4)] |= 1 << index;
        }
        self.dword(sids.len() as u64);
        self.align(WORD);
        let behind = self.base + self.bytes.len() as u64 + WORD * (1 + HASH_ENTRIES as u64);
        self.word(if sids.is_empty() { 0 } else { behind });
        for word in words {
            self.word(word);
        }
        self.sids(sids);
        self.align(8);
    }

    /// A pointer to bytes that follow.
    fn pointed(&mut self, bytes: &[u8]) {
        let at = self.base + self.bytes.len() as u64 + WORD;
        self.word(at);
        self.bytes.extend_from_slice(bytes);
    }
}

/// Words of a SID_AND_ATTRIBUTES_HASH.
const HASH_ENTRIES: usize = 32;
/// TOKEN_MANDATORY_POLICY_NO_WRITE_UP.
const MANDATORY_POLICY: u32 = 1;
/// SE_GROUP_LOGON_ID.
const LOGON_ID: u32 = 0xC000_0000;

/// Whether this Windows has app containers and claims: 8 and later.
fn has_app_containers() -> bool {
    matches!(windows(), Windows::Ten | Windows::Eleven)
}

/// The user and the groups.
fn all_sids(token: &Token) -> Vec<(Sid, u32)> {
    let mut all = alloc::vec![(token.user.clone(), 0)];
    all.extend_from_slice(&token.groups);
    all
}

/// The classes that Windows 8 brought: app containers, claims, device groups. Nobody here is in an app container, and
/// no token has claims or a device.
fn newer(writer: &mut Writer, token: &Token, class: u32) -> Result<(), NtStatus> {
    match class {
        // TokenIsAppContainer, TokenAppContainerNumber
        29 | 32 => writer.dword(0),
        // TokenCapabilities, TokenDeviceGroups, TokenRestrictedDeviceGroups
        30 | 37 | 38 => writer.groups(&[]),
        // TokenAppContainerSid, TokenProcessTrustLevel: a null pointer
        31 | 41 => writer.word(0),
        // Claims of the user and the device, as they are and restricted: CLAIM_SECURITY_ATTRIBUTES_INFORMATION,
        // version 1, of no attributes.
        33..=36 => claims(writer),
        // TokenIsRestricted
        40 => writer.dword(u64::from(!token.restricted.is_empty())),
        _ => return Err(NtStatus::INVALID_INFO_CLASS),
    }
    Ok(())
}

fn claims(writer: &mut Writer) {
    writer.dword(1);
    writer.dword(0);
    writer.word(0);
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
/// INVALID_INFO_CLASS: this Windows has no such class; INVALID_PARAMETER: the level of a primary token;
/// NO_SUCH_LOGON_SESSION: there is no linked token; NOT_FOUND: no logon SID.
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
        13 => writer.groups_and_privileges(token),
        15 => writer.bytes = u32s(&[0]), // TokenSandBoxInert
        17 => writer.bytes = token.authentication.to_le_bytes().to_vec(), // TokenOrigin
        18 => writer.bytes = u32s(&[1]), // TokenElevationTypeDefault
        // TokenLinkedToken: only a user who is split into two by UAC has one.
        19 => return Err(NtStatus::NO_SUCH_LOGON_SESSION),
        20 => writer.bytes = u32s(&[u32::from(token.kind != PRIMARY || token.is_administrator())]),
        21 => writer.bytes = u32s(&[u32::from(!token.restricted.is_empty())]),
        22 => writer.access_information(token, has_app_containers()),
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
        27 => writer.bytes = u32s(&[MANDATORY_POLICY]),
        28 => {
            let is_logon = |(_, attributes): &&(Sid, u32)| attributes & LOGON_ID == LOGON_ID;
            let logon = token.groups.iter().find(is_logon).cloned();
            writer.groups(&[logon.ok_or(NtStatus::NOT_FOUND)?]);
        }
        // TokenSecurityAttributes: none.
        39 if !matches!(windows(), Windows::Xp) => claims(&mut writer),
        _ if has_app_containers() => newer(&mut writer, token, class)?,
        _ => return Err(NtStatus::INVALID_INFO_CLASS),
    }
    Ok(writer.bytes)
}
