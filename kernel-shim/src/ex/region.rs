//! Entering and leaving regions without APCs, for the functions that do it beside taking a lock.

/// KeEnterCriticalRegion.
pub(super) fn enter_critical() {}

/// KeLeaveCriticalRegion.
pub(super) fn leave_critical() {}

/// KeEnterGuardedRegion.
pub(super) fn enter_guarded() {}

/// KeLeaveGuardedRegion.
pub(super) fn leave_guarded() {}
