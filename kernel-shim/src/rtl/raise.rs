//! Raising exceptions on the driver's behalf.

use crate::nt::NtStatus;
use crate::nt::bugcheck::{KMODE_EXCEPTION_NOT_HANDLED, bugcheck_with_text};
use crate::shared;

/// Raises a software exception in the driver code that called the current export, as ExRaiseStatus does there.
///
/// This is the one place through which exports raise (ProbeForRead, MmProbeAndLockPages, pool types that raise). An
/// exception that no handler of the driver takes is a bugcheck.
pub fn raise_status(status: NtStatus) -> ! {
    bugcheck_with_text(
        KMODE_EXCEPTION_NOT_HANDLED,
        [u64::from(status.0), shared::caller(), 0, 0],
        format_args!("an exception was raised that nothing handles: {status:?}"),
    )
}
