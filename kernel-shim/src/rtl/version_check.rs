//! RtlVerifyVersionInfo: whether the version of Windows is what a driver wants.

use super::misc::{BUILD, MAJOR, MINOR, RTL_OSVERSIONINFOEXW, SERVICE_PACK};
use crate::api::nt_api;
use crate::nt::NtStatus;
use crate::raw::Ptr;
use crate::value::{UChar, ULong, ULongLong};

/// VER_ types, each with its bit and its number in a condition mask.
const VERSION_TYPES: [u32; 4] = [2, 1, 0x20, 0x10];
const BUILD_NUMBER: u32 = 4;
const PLATFORM: u32 = 8;
const SUITE: u32 = 0x40;
const PRODUCT: u32 = 0x80;

/// VER_PLATFORM_WIN32_NT, VER_SUITE_SINGLEUSERTS, VER_NT_WORKSTATION: as RtlGetVersion says.
const PLATFORM_NT: u32 = 2;
const SINGLE_USER: u32 = 0x100;
const WORKSTATION: u32 = 1;

/// VER_ conditions.
const EQUAL: u64 = 1;
const AND: u64 = 6;
const OR: u64 = 7;

/// Bits of a condition.
const CONDITION_BITS: u32 = 3;

fn condition_of(mask: u64, kind: u32) -> u64 {
    mask >> (kind.trailing_zeros() * CONDITION_BITS) & 7
}

/// Whether `actual` is to `wanted` as a condition says.
fn holds(condition: u64, actual: u32, wanted: u32) -> bool {
    match condition {
        EQUAL => actual == wanted,
        2 => actual > wanted,
        3 => actual >= wanted,
        4 => actual < wanted,
        5 => actual <= wanted,
        _ => false,
    }
}

fn verify(wanted: &RTL_OSVERSIONINFOEXW, types: u32, mask: u64) -> NtStatus {
    let known = VERSION_TYPES
        .iter()
        .fold(BUILD_NUMBER | PLATFORM | SUITE | PRODUCT, |all, kind| {
            all | kind
        });
    let has_condition = |kind: u32| condition_of(mask, kind) != 0;
    let used = (0..8).map(|bit| 1 << bit).filter(|kind| types & kind != 0);
    if types & known == 0 || mask == 0 || !used.clone().all(has_condition) {
        return NtStatus::INVALID_PARAMETER;
    }
    let single = [
        (BUILD_NUMBER, BUILD, wanted.dwBuildNumber),
        (PLATFORM, PLATFORM_NT, wanted.dwPlatformId),
        (PRODUCT, WORKSTATION, u32::from(wanted.wProductType)),
    ];
    for (kind, actual, wanted) in single {
        if types & kind != 0 && !holds(condition_of(mask, kind), actual, wanted) {
            return NtStatus::REVISION_MISMATCH;
        }
    }
    if types & SUITE != 0 {
        let suite = u32::from(wanted.wSuiteMask);
        let is_good = match condition_of(mask, SUITE) {
            AND => suite & SINGLE_USER == suite,
            OR => suite == 0 || suite & SINGLE_USER != 0,
            _ => return NtStatus::INVALID_PARAMETER,
        };
        if !is_good {
            return NtStatus::REVISION_MISMATCH;
        }
    }
    // Versions are compared from the major one down; a difference decides, with the condition that is in force.
    let actual = [MAJOR, MINOR, u32::from(SERVICE_PACK), 0];
    let wanted = [
        wanted.dwMajorVersion,
        wanted.dwMinorVersion,
        u32::from(wanted.wServicePackMajor),
        u32::from(wanted.wServicePackMinor),
    ];
    let mut condition = 0;
    for (kind, (actual, wanted)) in VERSION_TYPES
        .into_iter()
        .zip(actual.into_iter().zip(wanted))
    {
        if types & kind == 0 {
            continue;
        }
        if condition == 0 || condition == EQUAL {
            condition = condition_of(mask, kind);
        }
        if actual != wanted {
            let is_good = holds(condition, actual, wanted);
            return if is_good {
                NtStatus::SUCCESS
            } else {
                NtStatus::REVISION_MISMATCH
            };
        }
    }
    if condition == 0 || holds(condition, 0, 0) {
        NtStatus::SUCCESS
    } else {
        NtStatus::REVISION_MISMATCH
    }
}

nt_api! { module = rtl_version_check;
    /// Adds a condition (1 to 7) for version types to a mask.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn VerSetConditionMask(condition_mask: ULongLong, type_mask: ULong, condition: UChar) -> ULongLong {
        let bits = (0..8).filter(|bit| type_mask & (1 << bit) != 0);
        bits.fold(condition_mask, |mask, bit| mask | (u64::from(condition) & 7) << (bit * CONDITION_BITS))
    }

    /// Compares the version of Windows with a wanted one. STATUS_REVISION_MISMATCH: a condition does not hold;
    /// STATUS_INVALID_PARAMETER: no types, or one without a condition.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlVerifyVersionInfo(
        version_info: Ptr<RTL_OSVERSIONINFOEXW>, type_mask: ULong, condition_mask: ULongLong,
    ) -> NtStatus {
        verify(&version_info.read(), type_mask, condition_mask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_from_the_major_one_down() {
        let mut wanted = RTL_OSVERSIONINFOEXW {
            dwOSVersionInfoSize: 284,
            dwMajorVersion: 0,
            dwMinorVersion: 0,
            dwBuildNumber: 0,
            dwPlatformId: 2,
            szCSDVersion: [0; 128],
            wServicePackMajor: 0,
            wServicePackMinor: 0,
            wSuiteMask: 0,
            wProductType: 1,
            wReserved: 0,
        };
        let mut check = |major, minor, condition| {
            (wanted.dwMajorVersion, wanted.dwMinorVersion) = (major, minor);
            let mask = VerSetConditionMask(VerSetConditionMask(0, 2, condition), 1, condition);
            RtlVerifyVersionInfo(Ptr::of(&mut wanted), 3, mask)
        };
        assert_eq!(check(6, 1, 3), NtStatus::SUCCESS);
        assert_eq!(check(5, 2, 3), NtStatus::SUCCESS);
        assert_eq!(check(6, 2, 3), NtStatus::REVISION_MISMATCH);
        assert_eq!(check(6, 1, 2), NtStatus::REVISION_MISMATCH);
        assert_eq!(check(6, 0, 2), NtStatus::SUCCESS);
        assert_eq!(check(6, 1, 1), NtStatus::SUCCESS);
        assert_eq!(check(10, 0, 4), NtStatus::SUCCESS);
        assert_eq!(check(6, 1, 0), NtStatus::INVALID_PARAMETER);
    }
}
