//! What a rule says of an access.

use crate::pci::{CONFIG_BYTES, EXTENDED_CONFIG_BYTES, PciRequest};
use crate::policy::{PciBackendKind, PciRule};
use crate::ports::{Action, Decision, DenialReason, Origin};

/// Whether a rule lets an access through, limits aside.
pub(crate) fn decide_by_rule(rule: &PciRule, request: &PciRequest) -> Result<(), DenialReason> {
    let end = u32::from(request.register) + u32::from(request.width.bytes());
    if end > u32::from(EXTENDED_CONFIG_BYTES) {
        return Err(DenialReason::PastEnd);
    }
    if matches!(rule.backend, PciBackendKind::Model(_)) && end > u32::from(CONFIG_BYTES) {
        return Err(DenialReason::PastEnd);
    }
    if !rule.widths.contains(request.width) {
        return Err(DenialReason::Width);
    }
    if rule.backend == PciBackendKind::Deny {
        return Err(DenialReason::Direction);
    }
    for offset in request.register..request.register + request.width.bytes() {
        match rule.access_at(offset) {
            None => return Err(DenialReason::Register),
            Some(access) if !access.allows(request.write.is_some()) => {
                return Err(DenialReason::Direction);
            }
            Some(_) => {}
        }
    }
    Ok(())
}

impl Decision {
    pub(super) const fn absent() -> Self {
        Self {
            origin: Origin::AbsentFunction,
            action: Action::Ignored,
            reason: Some(DenialReason::Unnamed),
        }
    }
}
