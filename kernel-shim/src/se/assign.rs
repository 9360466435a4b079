//! The security descriptor of a new object: its creator's wish, what it inherits, the creator's token.

use alloc::vec::Vec;

use super::access::map_generic;
use super::acl::{self, Ace, CONTAINER_INHERIT, INHERIT_ONLY, NO_PROPAGATE, OBJECT_INHERIT};
use super::descriptor::{DACL_DEFAULTED, DACL_PRESENT, Parts};
use super::object::{driver_block, relative};
use super::subject::judged;
use crate::api::nt_api;
use crate::ex::pool;
use crate::nt::{GENERIC_MAPPING, NtStatus, SECURITY_SUBJECT_CONTEXT};
use crate::raw::{Ptr, Word};
use crate::value::{Boolean, ULong};

/// INHERITED_ACE.
const INHERITED: u8 = 0x10;

/// What a new object inherits of its parent's ACEs.
fn inherited(parent: Ptr<u8>, is_container: bool, mapping: &GENERIC_MAPPING) -> Vec<Ace> {
    acl::access_aces(parent)
        .into_iter()
        .filter_map(|mut ace| {
            let (objects, containers) = (
                ace.flags & OBJECT_INHERIT != 0,
                ace.flags & CONTAINER_INHERIT != 0,
            );
            let has_effect = if is_container { containers } else { objects };
            let is_passed_on =
                is_container && (objects || containers) && ace.flags & NO_PROPAGATE == 0;
            if !has_effect && !is_passed_on {
                return None;
            }
            ace.flags = if is_passed_on {
                ace.flags & !INHERIT_ONLY | if has_effect { 0 } else { INHERIT_ONLY }
            } else {
                0
            };
            ace.flags &= !INHERITED;
            if has_effect {
                ace.mask = map_generic(ace.mask, mapping);
            }
            Some(ace)
        })
        .collect()
}

fn assign(
    parent: Ptr<u8>,
    explicit: Ptr<u8>,
    is_container: bool,
    context: &SECURITY_SUBJECT_CONTEXT,
    mapping: &GENERIC_MAPPING,
) -> Result<Vec<u8>, NtStatus> {
    let token = judged(context).ok_or(NtStatus::NO_TOKEN)?;
    let read = |at: Ptr<u8>| at.non_null().map(Parts::read).unwrap_or_default();
    let (parent, explicit) = (read(parent), read(explicit));
    let sid = |at: Ptr<u8>, default: &super::sid::Sid| {
        at.non_null()
            .and_then(super::sid::Sid::read)
            .unwrap_or_else(|| default.clone())
            .bytes()
    };
    let mut owner = sid(explicit.owner, &token.owner);
    let mut group = sid(explicit.group, &token.primary_group);
    let mut control = 0;
    let has_explicit =
        explicit.control & DACL_PRESENT != 0 && explicit.control & DACL_DEFAULTED == 0;
    let from_parent = inherited_or_none(&parent, is_container, mapping);
    let mut dacl = if has_explicit {
        control |= DACL_PRESENT;
        explicit
            .dacl
            .non_null()
            .map(|dacl| mapped(&acl::access_aces(dacl), mapping))
    } else if let Some(aces) = from_parent {
        control |= DACL_PRESENT;
        Some(acl::build(&aces))
    } else if explicit.control & DACL_PRESENT != 0 {
        control |= DACL_PRESENT | DACL_DEFAULTED;
        explicit
            .dacl
            .non_null()
            .map(|dacl| mapped(&acl::access_aces(dacl), mapping))
    } else {
        control |= DACL_PRESENT | DACL_DEFAULTED;
        let mut default = token.default_dacl.clone();
        let aces = acl::access_aces(Ptr::of(&mut default[0]));
        Some(mapped(&aces, mapping))
    };
    Ok(relative(
        control,
        &mut owner,
        &mut group,
        None,
        dacl.as_mut(),
    ))
}

fn mapped(aces: &[Ace], mapping: &GENERIC_MAPPING) -> Vec<u8> {
    let aces: Vec<Ace> = aces
        .iter()
        .map(|ace| Ace {
            mask: map_generic(ace.mask, mapping),
            ..ace.clone()
        })
        .collect();
    acl::build(&aces)
}

fn inherited_or_none(
    parent: &Parts,
    is_container: bool,
    mapping: &GENERIC_MAPPING,
) -> Option<Vec<Ace>> {
    let aces = inherited(parent.dacl.non_null()?, is_container, mapping);
    (!aces.is_empty()).then_some(aces)
}

nt_api! { module = se_assign;
    /// SeAssignSecurity: the descriptor of a new object, from its creator's wish, its parent and the creator's token.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("system ACLs; ACEs for CREATOR OWNER are not replaced")
    fn SeAssignSecurity(
        parent_descriptor: Ptr<u8>, explicit_descriptor: Ptr<u8>, new_descriptor: Ptr<Word>,
        is_directory_object: Boolean, subject_context: Ptr<SECURITY_SUBJECT_CONTEXT>,
        generic_mapping: Ptr<GENERIC_MAPPING>, pool_type: ULong,
    ) -> NtStatus {
        let result = assign(
            parent_descriptor, explicit_descriptor, is_directory_object, &subject_context.read(),
            &generic_mapping.read(),
        );
        match result.map(|bytes| driver_block(&bytes)) {
            Ok(block) if !block.is_null() => {
                new_descriptor.write(block.word());
                NtStatus::SUCCESS
            }
            Ok(_) => NtStatus::INSUFFICIENT_RESOURCES,
            Err(status) => status,
        }
    }

    /// SeDeassignSecurity: frees what SeAssignSecurity made.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn SeDeassignSecurity(security_descriptor: Ptr<Word>) -> NtStatus {
        let block = crate::raw::from_word(security_descriptor.read());
        if block != 0 {
            pool::free(Ptr::new(block), 0);
            security_descriptor.write(0);
        }
        NtStatus::SUCCESS
    }
}
