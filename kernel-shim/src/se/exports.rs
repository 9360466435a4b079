//! Variables: well-known SIDs and privileges (SE_EXPORTS), default ACLs, the type of tokens.

use alloc::vec::Vec;

use super::acl::{self, Ace};
use super::sid::Sid;
use super::token::well_known;
use crate::api::nt_data;
use crate::ex::pool;
use crate::raw::{Ptr, Word, to_word};

/// GENERIC_ALL.
const ALL: u32 = 0x1000_0000;
/// GENERIC_READ | GENERIC_EXECUTE | READ_CONTROL.
const READ: u32 = 0xA002_0000;
/// GENERIC_READ | GENERIC_WRITE | GENERIC_EXECUTE.
const PUBLIC: u32 = 0xE000_0000;

nt_data! { module = se_exports;
    /// SeExports: SE_EXPORTS, the numbers of privileges and the addresses of well-known SIDs.
    ntoskrnl both data(4, 8) implemented
    SeExports: Word = 0;

    /// SePublicDefaultDacl: LocalSystem and Administrators may do everything, everyone may use.
    ntoskrnl both data(4, 8) implemented
    SePublicDefaultDacl: Word = 0;

    /// SeSystemDefaultDacl: LocalSystem may do everything, Administrators may read.
    ntoskrnl both data(4, 8) implemented
    SeSystemDefaultDacl: Word = 0;

    /// SeTokenObjectType: the type of token objects.
    ntoskrnl both data(4, 8) partial("an opaque block")
    SeTokenObjectType: Word = 0;
}

/// A member of SE_EXPORTS.
enum Member {
    /// The number of a privilege.
    Privilege(u64),
    /// The address of a SID.
    Sid(Sid),
}

/// SE_EXPORTS, in order.
fn members() -> Vec<Member> {
    let nt = |sub: &[u32]| Member::Sid(Sid::new(5, sub));
    let privileges = |range: core::ops::RangeInclusive<u64>| range.map(Member::Privilege);
    // SeCreateToken to SeRemoteShutdown; machine accounts (6) stand where unsolicited input once did.
    let mut all: Vec<Member> = privileges(2..=24).collect();
    all.extend([
        Member::Sid(Sid::new(0, &[0])),
        Member::Sid(well_known::world()),
        Member::Sid(Sid::new(2, &[0])),
        Member::Sid(Sid::new(3, &[0])),
        Member::Sid(Sid::new(3, &[1])),
        nt(&[]),
        nt(&[1]),
        nt(&[2]),
        nt(&[3]),
        nt(&[4]),
        nt(&[18]),
    ]);
    // Administrators, Users, Guests, Power Users, Account, Server, Print and Backup Operators.
    all.extend((544..=551).map(|alias| nt(&[32, alias])));
    all.extend([nt(&[11]), nt(&[12]), nt(&[7])]);
    // SeUndock, SeSyncAgent, SeEnableDelegation.
    all.extend(privileges(25..=27));
    all.extend([nt(&[19]), nt(&[20])]);
    // SeManageVolume, SeImpersonate, SeCreateGlobal; then those of Vista.
    all.extend(privileges(28..=35));
    all.push(nt(&[17]));
    all.extend([0, 4096, 8192, 12288, 16384].map(|level| Member::Sid(Sid::new(16, &[level]))));
    all.push(Member::Sid(Sid::new(3, &[4])));
    all
}

/// A block that lives as long as the guest.
fn block(bytes: &[u8]) -> Ptr<u8> {
    pool::allocate_copy(bytes, *b"SeEx").expect("a new pool has room for a few small blocks")
}

pub(super) fn initialize() {
    let mut bytes: Vec<u8> = Vec::new();
    for member in members() {
        match member {
            Member::Privilege(luid) => bytes.extend(luid.to_le_bytes()),
            Member::Sid(sid) => {
                // LUIDs are aligned to 4, pointers to their size.
                bytes.resize(bytes.len().next_multiple_of(size_of::<Word>()), 0);
                bytes.extend(to_word(block(&sid.bytes()).addr()).to_le_bytes());
            }
        }
    }
    SeExports.ptr().write(block(&bytes).word());
    let allow = |mask, sid| Ace {
        kind: acl::ALLOWED,
        flags: 0,
        mask,
        sid,
    };
    let public = [
        allow(PUBLIC, well_known::world()),
        allow(ALL, well_known::system()),
        allow(ALL, well_known::administrators()),
    ];
    let system = [
        allow(ALL, well_known::system()),
        allow(READ, well_known::administrators()),
    ];
    SePublicDefaultDacl
        .ptr()
        .write(block(&acl::build(&public)).word());
    SeSystemDefaultDacl
        .ptr()
        .write(block(&acl::build(&system)).word());
    SeTokenObjectType.ptr().write(block(&[0; 0x100]).word());
}
