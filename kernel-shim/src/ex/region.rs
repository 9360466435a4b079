//! Entering and leaving regions without APCs, for the functions that do it beside taking a lock.

use crate::ke::apc;

/// KeEnterCriticalRegion.
pub(super) fn enter_critical() {
    apc::KeEnterCriticalRegion();
}

/// KeLeaveCriticalRegion.
pub(super) fn leave_critical() {
    apc::KeLeaveCriticalRegion();
}

/// KeEnterGuardedRegion.
pub(super) fn enter_guarded() {
    apc::KeEnterGuardedRegion();
}

/// KeLeaveGuardedRegion.
pub(super) fn leave_guarded() {
    apc::KeLeaveGuardedRegion();
}
