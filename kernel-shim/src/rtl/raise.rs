//! Raising exceptions on the driver's behalf.

use crate::nt::NtStatus;

/// Raises a software exception in the driver code that called the current export, as ExRaiseStatus does there.
///
/// This is the one place through which exports raise (ProbeForRead, MmProbeAndLockPages, pool types that raise). An
/// exception that no handler of the driver takes is a bugcheck; so is one while a [`crate::raw::Global`] is in use.
pub fn raise_status(status: NtStatus) -> ! {
    crate::seh::raise_status(status, &[])
}
