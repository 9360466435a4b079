//! Which statuses a file system may meet.

use crate::api::nt_api;
use crate::nt::NtStatus;
use crate::value::Boolean;

/// False for what only a bug raises.
pub(crate) fn is_expected(status: NtStatus) -> bool {
    !matches!(
        status,
        NtStatus::DATATYPE_MISALIGNMENT
            | NtStatus::ACCESS_VIOLATION
            | NtStatus::ILLEGAL_INSTRUCTION
            | NtStatus::INSTRUCTION_MISALIGNMENT
    )
}

/// The status, or `generic` if it is not expected.
pub(crate) fn normalize(status: NtStatus, generic: NtStatus) -> NtStatus {
    if is_expected(status) { status } else { generic }
}

/// CRC_ERROR, NONEXISTENT_SECTOR, DEVICE_DATA_ERROR, FT_ORPHANING, FT_MISSING_MEMBER, DATA_OVERRUN.
const OF_A_PLACE: [u32; 6] = [
    0xC000_003F,
    0xC000_0015,
    0xC000_009C,
    0xC000_016D,
    0xC000_015F,
    0xC000_003C,
];

nt_api! { module = fsrtl_status;
    /// FALSE for access violations, misalignment and illegal instructions: what a file system must not handle.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn FsRtlIsNtstatusExpected(exception: NtStatus) -> Boolean {
        is_expected(exception)
    }

    /// The status if it is expected, or else the generic one.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn FsRtlNormalizeNtstatus(exception: NtStatus, generic_exception: NtStatus) -> NtStatus {
        normalize(exception, generic_exception)
    }

    /// Whether a status means that the whole device has failed, not a place on its medium.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn FsRtlIsTotalDeviceFailure(status: NtStatus) -> Boolean {
        status.is_error() && !OF_A_PLACE.contains(&status.0)
    }
}
