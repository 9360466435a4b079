//! Instructions that cannot run as they are and are made up for: privileged instructions of a driver at CPL 3, and
//! KUSER_SHARED_DATA at its fixed address where that cannot be mapped.

use crate::platform::Trap;

/// Emulates the instruction at fault and moves past it. False: it is not one to emulate; the trap is the driver's.
pub(crate) fn try_emulate(trap: &mut Trap) -> bool {
    let _ = trap;
    false
}
