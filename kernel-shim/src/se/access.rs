//! Access checks: a descriptor's DACL against a token.

use alloc::vec::Vec;

use super::ace::{self, AccessAce, Label};
use super::condition::Subject;
use super::descriptor::{DACL_PRESENT, Parts};
use super::sid::Sid;
use super::subject::judged;
use super::token::{self, Token, privilege};
use crate::api::nt_api;
use crate::ex::pool;
use crate::nt::{GENERIC_MAPPING, LUID, NtStatus, SECURITY_SUBJECT_CONTEXT};
use crate::raw::{Ptr, Word, low32};
use crate::value::{Boolean, ProcessorMode, ULong};
use crate::view::windows;
use abi::windows::Windows;

/// MAXIMUM_ALLOWED.
pub const MAXIMUM_ALLOWED: u32 = 0x0200_0000;
/// ACCESS_SYSTEM_SECURITY.
const SYSTEM_SECURITY: u32 = 0x0100_0000;
const WRITE_OWNER: u32 = 0x0008_0000;
const WRITE_DAC: u32 = 0x0004_0000;
const READ_CONTROL: u32 = 0x0002_0000;
const GENERIC_BITS: u32 = 0xF000_0000;
/// SE_PRIVILEGE_USED_FOR_ACCESS.
const USED: u32 = 0x8000_0000;
/// Bytes of LUID_AND_ATTRIBUTES.
const PRIVILEGE_BYTES: u64 = 12;

/// Replaces generic rights by what they mean (RtlMapGenericMask).
#[must_use]
pub fn map_generic(mask: u32, mapping: &GENERIC_MAPPING) -> u32 {
    [
        (0x8000_0000, mapping.GenericRead),
        (0x4000_0000, mapping.GenericWrite),
        (0x2000_0000, mapping.GenericExecute),
        (0x1000_0000, mapping.GenericAll),
    ]
    .iter()
    .fold(mask & !GENERIC_BITS, |access, &(generic, specific)| {
        if mask & generic == 0 {
            access
        } else {
            access | specific
        }
    })
}

/// What a check found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Access granted; meaningful with success alone.
    pub granted: u32,
    /// SUCCESS, ACCESS_DENIED or PRIVILEGE_NOT_HELD.
    pub status: NtStatus,
    /// Privileges that it took.
    pub privileges: Vec<u64>,
}

/// Whether an ACE counts for this token.
fn applies(ace: &AccessAce, subject: &Subject<'_>, token: &Token) -> bool {
    if !token.has_sid(&ace.sid, ace.is_denial) {
        return false;
    }
    // Nobody asks about one type of object only: what is denied for one is denied, what is allowed for one is not.
    if ace.has_object_type && !ace.is_denial {
        return false;
    }
    match &ace.condition {
        None => true,
        Some(condition) => {
            let truth = subject.evaluate(condition, ace.is_denial);
            truth.unwrap_or(ace.is_denial)
        }
    }
}

/// What the DACL and ownership grant of `wanted` (all there is, for MAXIMUM_ALLOWED).
fn from_dacl(
    parts: &Parts,
    token: &Token,
    wanted: u32,
    mapping: &GENERIC_MAPPING,
    is_maximum: bool,
) -> u32 {
    if parts.control & DACL_PRESENT == 0 || parts.dacl.is_null() {
        return if is_maximum {
            mapping.GenericAll | wanted
        } else {
            wanted
        };
    }
    let owner = Sid::read(parts.owner);
    let mut granted = 0;
    if owner.is_some_and(|owner| token.has_sid(&owner, false)) {
        granted |= READ_CONTROL | WRITE_DAC;
    }
    let mut denied = 0;
    let subject = Subject::new(token, parts.sacl);
    for entry in ace::access(parts.dacl) {
        if !applies(&entry, &subject, token) {
            continue;
        }
        let mask = map_generic(entry.mask, mapping);
        if entry.is_denial {
            denied |= mask & !granted;
        } else {
            granted |= mask & !denied;
        }
    }
    if is_maximum {
        granted
    } else {
        granted & wanted
    }
}

/// What an object's mandatory label lets a token have: all, unless the object's integrity level is higher. An object
/// without a label is one of medium integrity that nobody below may write.
fn mandatory(parts: &Parts, token: &Token, mapping: &GENERIC_MAPPING) -> u32 {
    /// SECURITY_MANDATORY_MEDIUM_RID.
    const MEDIUM: u32 = 0x2000;
    /// SYSTEM_MANDATORY_LABEL_NO_WRITE_UP, NO_READ_UP, NO_EXECUTE_UP.
    const NO_WRITE_UP: u32 = 1;
    const NO_READ_UP: u32 = 2;
    const NO_EXECUTE_UP: u32 = 4;
    let label = parts.sacl.non_null().and_then(ace::label).unwrap_or(Label {
        level: MEDIUM,
        policy: NO_WRITE_UP,
    });
    // Windows XP has no integrity levels.
    if matches!(windows(), Windows::Xp) || token.integrity().unwrap_or(MEDIUM) >= label.level {
        return u32::MAX;
    }
    let unless = |flag: u32, access: u32| if label.policy & flag == 0 { access } else { 0 };
    unless(NO_READ_UP, mapping.GenericRead)
        | unless(NO_WRITE_UP, mapping.GenericWrite)
        | unless(NO_EXECUTE_UP, mapping.GenericExecute)
        | if token.has_privilege(privilege::RELABEL) {
            WRITE_OWNER
        } else {
            0
        }
}

/// Judges a wish for access by a token.
#[must_use]
pub fn check(
    descriptor: Ptr<u8>,
    token: &Token,
    desired: u32,
    previously: u32,
    mapping: &GENERIC_MAPPING,
) -> Verdict {
    let parts = Parts::read(descriptor);
    let is_maximum = desired & MAXIMUM_ALLOWED != 0;
    let mut wanted = map_generic(desired, mapping) & !MAXIMUM_ALLOWED;
    let mut granted = previously;
    let mut privileges = Vec::new();
    let verdict = |granted, status, privileges| Verdict {
        granted,
        status,
        privileges,
    };
    if wanted & SYSTEM_SECURITY != 0 {
        if !token.has_privilege(privilege::SECURITY) {
            return verdict(0, NtStatus::PRIVILEGE_NOT_HELD, privileges);
        }
        granted |= SYSTEM_SECURITY;
        privileges.push(privilege::SECURITY);
    }
    wanted &= !granted;
    let allowed = mandatory(&parts, token, mapping);
    if wanted & !allowed != 0 {
        return verdict(0, NtStatus::ACCESS_DENIED, Vec::new());
    }
    granted |= from_dacl(&parts, token, wanted, mapping, is_maximum) & allowed;
    // A restricted token must have the access by its restricting SIDs too.
    if let Some(restricted) = token.as_restricted() {
        let second = from_dacl(&parts, &restricted, wanted, mapping, is_maximum);
        granted &= second | previously | SYSTEM_SECURITY;
    }
    wanted &= !granted;
    if wanted & WRITE_OWNER != 0 && token.has_privilege(privilege::TAKE_OWNERSHIP) {
        granted |= WRITE_OWNER;
        wanted &= !WRITE_OWNER;
        privileges.push(privilege::TAKE_OWNERSHIP);
    }
    if wanted != 0 || granted == 0 {
        return verdict(0, NtStatus::ACCESS_DENIED, Vec::new());
    }
    verdict(granted, NtStatus::SUCCESS, privileges)
}

/// A PRIVILEGE_SET of privileges that were used, in a block of its own; null when the pool is exhausted.
fn privilege_set(privileges: &[u64]) -> Ptr<u8> {
    let bytes = 8 + PRIVILEGE_BYTES * privileges.len() as u64;
    let Some(set) = pool::allocate_zeroed(bytes, *b"SePr") else {
        return Ptr::null();
    };
    set.cast::<u32>().write(low32(privileges.len() as u64));
    for (index, luid) in (0..).zip(privileges) {
        let at = set.add_bytes(8 + PRIVILEGE_BYTES * index);
        at.cast::<u64>().write(*luid);
        at.add_bytes(8).cast::<u32>().write(USED);
    }
    set
}

nt_api! { module = se_access;
    /// RtlMapGenericMask.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn RtlMapGenericMask(access_mask: Ptr<u32>, generic_mapping: Ptr<GENERIC_MAPPING>) {
        access_mask.write(map_generic(access_mask.read(), &generic_mapping.read()));
    }

    /// SeAccessCheck: whether a subject may have the access that it desires, by the object's mandatory label, its owner and
    /// its DACL, conditional ACEs included. Kernel mode may have everything.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn SeAccessCheck(
        security_descriptor: Ptr<u8>, subject_security_context: Ptr<SECURITY_SUBJECT_CONTEXT>,
        subject_context_locked: Boolean, desired_access: ULong, previously_granted_access: ULong,
        privileges: Ptr<Word>, generic_mapping: Ptr<GENERIC_MAPPING>, access_mode: ProcessorMode,
        granted_access: Ptr<u32>, access_status: Ptr<u32>,
    ) -> Boolean {
        let answer = |granted, status: NtStatus| {
            granted_access.write(granted);
            access_status.write(status.0);
            status.is_success()
        };
        if access_mode.0 == 0 {
            let granted = if desired_access & MAXIMUM_ALLOWED == 0 {
                desired_access | previously_granted_access
            } else {
                generic_mapping.read().GenericAll | (desired_access & !MAXIMUM_ALLOWED) | previously_granted_access
            };
            return answer(granted, NtStatus::SUCCESS);
        }
        if security_descriptor.is_null() {
            return answer(0, NtStatus::ACCESS_DENIED);
        }
        let context = subject_security_context.read();
        if !context.ClientToken.is_null() && context.ImpersonationLevel < token::LEVEL_IMPERSONATION {
            return answer(0, NtStatus::BAD_IMPERSONATION_LEVEL);
        }
        if desired_access == 0 {
            let status = if previously_granted_access == 0 { NtStatus::ACCESS_DENIED } else { NtStatus::SUCCESS };
            return answer(previously_granted_access, status);
        }
        let Some(token) = judged(&context) else { return answer(0, NtStatus::ACCESS_DENIED) };
        let verdict =
            check(security_descriptor, &token, desired_access, previously_granted_access, &generic_mapping.read());
        if !privileges.is_null() && !verdict.privileges.is_empty() {
            privileges.write(privilege_set(&verdict.privileges).word());
        }
        answer(verdict.granted, verdict.status)
    }

    /// SeFreePrivileges: frees the set that SeAccessCheck returned.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn SeFreePrivileges(privileges: Ptr<u8>) {
        pool::free(privileges, 0);
    }

    /// SeSinglePrivilegeCheck: whether the current thread has a privilege enabled. Kernel mode has all.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn SeSinglePrivilegeCheck(privilege_value: u64, previous_mode: ProcessorMode) -> Boolean {
        previous_mode.0 == 0 || token::get(token::effective()).is_some_and(|token| token.has_privilege(privilege_value))
    }

    /// SePrivilegeCheck: whether a subject has all (or, as the set says, any) of some privileges enabled; marks those.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn SePrivilegeCheck(
        required_privileges: Ptr<u8>, subject_security_context: Ptr<SECURITY_SUBJECT_CONTEXT>,
        access_mode: ProcessorMode,
    ) -> Boolean {
        if access_mode.0 == 0 {
            return true;
        }
        let context = subject_security_context.read();
        if !context.ClientToken.is_null() && context.ImpersonationLevel < token::LEVEL_IMPERSONATION {
            return false;
        }
        let Some(token) = judged(&context) else { return false };
        let count = u64::from(required_privileges.cast::<u32>().read());
        let must_have_all = required_privileges.add_bytes(4).cast::<u32>().read() & 1 != 0;
        let mut held = 0;
        for index in 0..count {
            let at = required_privileges.add_bytes(8 + PRIVILEGE_BYTES * index);
            if token.has_privilege(at.cast::<LUID>().read()) {
                held += 1;
                at.add_bytes(8).cast::<u32>().with(|attributes| *attributes |= USED);
            }
        }
        if must_have_all { held == count } else { held > 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::se::acl;
    use crate::se::token::well_known;
    use crate::test_platform::machine;

    const MAPPING: GENERIC_MAPPING = GENERIC_MAPPING {
        GenericRead: 0x0012_0089,
        GenericWrite: 0x0012_0116,
        GenericExecute: 0x0012_00A0,
        GenericAll: 0x001F_01FF,
    };

    fn client() -> Token {
        assert!(crate::ps::create(8).is_success());
        token::get(token::of_process(crate::ps::by_id(8).unwrap())).unwrap()
    }

    /// An ACE: type, mask, what is before and behind the SID.
    fn ace_bytes(kind: u8, mask: u32, before: &[u8], sid: &Sid, behind: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind, 0, 0, 0];
        bytes.extend(mask.to_le_bytes());
        bytes.extend(before);
        bytes.extend(sid.bytes());
        bytes.extend(behind);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        let length = u16::try_from(bytes.len()).unwrap();
        bytes[2..4].copy_from_slice(&length.to_le_bytes());
        bytes
    }

    /// Judges a wish by a DACL and a SACL of these ACEs.
    fn ask(token: &Token, dacl: &[Vec<u8>], sacl: &[Vec<u8>], desired: u32) -> Option<u32> {
        let (mut dacl, mut sacl) = (acl::build_raw(dacl), acl::build_raw(sacl));
        let parts = Parts {
            control: DACL_PRESENT | crate::se::descriptor::SACL_PRESENT,
            owner: Ptr::null(),
            group: Ptr::null(),
            sacl: Ptr::of(&mut sacl[0]),
            dacl: Ptr::of(&mut dacl[0]),
        };
        let mut bytes = parts.to_relative();
        let verdict = check(Ptr::of(&mut bytes[0]), token, desired, 0, &MAPPING);
        verdict.status.is_success().then_some(verdict.granted)
    }

    #[test]
    fn a_label_above_the_tokens_keeps_writers_out() {
        let _machine = machine();
        let token = client();
        let world = well_known::world();
        let all = [ace_bytes(0, 0x001F_01FF, &[], &world, &[])];
        let label =
            |level: u32, policy| [ace_bytes(0x11, policy, &[], &Sid::new(16, &[level]), &[])];
        assert_eq!(
            ask(&token, &all, &[], 0x2),
            Some(0x2),
            "medium without a label"
        );
        assert_eq!(ask(&token, &all, &label(0x4000, 1), 0x2), None);
        assert_eq!(
            ask(&token, &all, &label(0x4000, 1), 0x1_0000),
            None,
            "DELETE"
        );
        assert_eq!(ask(&token, &all, &label(0x4000, 1), 0x1), Some(0x1));
        assert_eq!(ask(&token, &all, &label(0x4000, 2), 0x1), None);
        assert_eq!(ask(&token, &all, &label(0x4000, 2), 0x2), Some(0x2));
        assert_eq!(
            ask(&token, &all, &label(0x3000, 7), 0x001F_01FF),
            Some(0x001F_01FF)
        );
        let maximum = ask(&token, &all, &label(0x4000, 1), MAXIMUM_ALLOWED);
        assert_eq!(maximum, Some(MAPPING.GenericRead | MAPPING.GenericExecute));
    }

    #[test]
    fn object_and_conditional_aces_count_as_documented() {
        let _machine = machine();
        let token = client();
        let world = well_known::world();
        let one_type = [vec![1, 0, 0, 0], vec![9; 16]].concat();
        let allow = ace_bytes(0, 3, &[], &world, &[]);
        assert_eq!(
            ask(&token, &[ace_bytes(5, 1, &one_type, &world, &[])], &[], 1),
            None
        );
        assert_eq!(
            ask(&token, &[ace_bytes(5, 1, &[0; 4], &world, &[])], &[], 1),
            Some(1)
        );
        let denied = [ace_bytes(6, 1, &one_type, &world, &[]), allow.clone()];
        assert_eq!(ask(&token, &denied, &[], 1), None);
        assert_eq!(ask(&token, &denied, &[], 2), Some(2));
        // @User.x, which is unknown: it allows nothing, and denies.
        let unknown = [b"artx".as_slice(), &[0xF9, 2, 0, 0, 0, b'x', 0]].concat();
        assert_eq!(
            ask(&token, &[ace_bytes(9, 1, &[], &world, &unknown)], &[], 1),
            None
        );
        let denied = [ace_bytes(10, 1, &[], &world, &unknown), allow.clone()];
        assert_eq!(ask(&token, &denied, &[], 1), None);
        // Bytes that are no condition mean nothing to the kernel.
        let denied = [ace_bytes(10, 1, &[], &world, b"else"), allow];
        assert_eq!(ask(&token, &denied, &[], 1), Some(1));
    }
}
