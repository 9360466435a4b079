//! Which Windows this is.

use super::{data, exported, release};
use crate::api::nt_api;
use crate::nt::{NtStatus, UNICODE_STRING};
use crate::raw::{Ptr, low8};
use crate::rtl::misc::{RTL_OSVERSIONINFOEXW, version_information};
use crate::value::{Boolean, UChar, ULong, ULongLong};

/// NtBuildNumber's mark of a free (not checked) build.
const FREE_BUILD: u32 = 0xF000_0000;

/// VER_ type bits of RtlVerifyVersionInfo, with bits 0 to 7 in the order of the condition mask.
mod field {
    pub(super) const MINOR_VERSION: u32 = 0x01;
    pub(super) const MAJOR_VERSION: u32 = 0x02;
    pub(super) const BUILD_NUMBER: u32 = 0x04;
    pub(super) const PLATFORM_ID: u32 = 0x08;
    pub(super) const SERVICE_PACK_MINOR: u32 = 0x10;
    pub(super) const SERVICE_PACK_MAJOR: u32 = 0x20;
    pub(super) const SUITE_NAME: u32 = 0x40;
    pub(super) const PRODUCT_TYPE: u32 = 0x80;
    pub(super) const ALL: u32 = 0xFF;
}

/// VER_ conditions.
const EQUAL: u8 = 1;
const GREATER: u8 = 2;
const GREATER_EQUAL: u8 = 3;
const LESS: u8 = 4;
const LESS_EQUAL: u8 = 5;
const AND: u8 = 6;
const OR: u8 = 7;
/// Bits of a condition in the mask.
const CONDITION_BITS: u32 = 3;

/// Fills the variables that say the version.
pub(crate) fn initialize() {
    let release = release();
    exported(&data::NtBuildNumber).write(FREE_BUILD | u32::from(release.build));
    let mut lab = [0; data::BUILD_LAB_BYTES];
    for (byte, &character) in lab[..data::BUILD_LAB_BYTES - 1]
        .iter_mut()
        .zip(release.build_lab.as_bytes())
    {
        *byte = character;
    }
    exported(&data::NtBuildLab).write(lab);
}

/// The condition for a type bit.
fn condition(mask: u64, type_bit: u32) -> u8 {
    low8(mask >> (type_bit.trailing_zeros() * CONDITION_BITS)) & 7
}

/// Whether `actual CONDITION wanted`; `None` for a condition that compares nothing.
fn compare(condition: u8, actual: u32, wanted: u32) -> Option<bool> {
    Some(match condition {
        EQUAL => actual == wanted,
        GREATER => actual > wanted,
        GREATER_EQUAL => actual >= wanted,
        LESS => actual < wanted,
        LESS_EQUAL => actual <= wanted,
        _ => return None,
    })
}

/// Whether the running Windows satisfies a request; `None` for a condition that is not valid.
fn satisfies(wanted: &RTL_OSVERSIONINFOEXW, types: u32, mask: u64) -> Option<bool> {
    let actual = version_information(wanted.dwOSVersionInfoSize);
    if types & field::SUITE_NAME != 0 {
        let common = actual.wSuiteMask & wanted.wSuiteMask;
        let is_met = match condition(mask, field::SUITE_NAME) {
            AND => common == wanted.wSuiteMask,
            OR => common != 0 || wanted.wSuiteMask == 0,
            _ => return None,
        };
        if !is_met {
            return Some(false);
        }
    }
    // Versions are one number in several pieces: the first piece that differs decides, by the condition of the first
    // piece that is asked for.
    let pieces = [
        (
            field::MAJOR_VERSION,
            actual.dwMajorVersion,
            wanted.dwMajorVersion,
        ),
        (
            field::MINOR_VERSION,
            actual.dwMinorVersion,
            wanted.dwMinorVersion,
        ),
        (
            field::SERVICE_PACK_MAJOR,
            u32::from(actual.wServicePackMajor),
            u32::from(wanted.wServicePackMajor),
        ),
        (
            field::SERVICE_PACK_MINOR,
            u32::from(actual.wServicePackMinor),
            u32::from(wanted.wServicePackMinor),
        ),
    ];
    let mut asked = pieces.iter().filter(|(bit, ..)| types & bit != 0);
    if let Some(&(first, actual_first, wanted_first)) = asked.next() {
        let rule = condition(mask, first);
        let (actual_piece, wanted_piece) = core::iter::once((actual_first, wanted_first))
            .chain(asked.map(|&(_, actual, wanted)| (actual, wanted)))
            .find(|(actual, wanted)| actual != wanted)
            .unwrap_or((0, 0));
        if !compare(rule, actual_piece, wanted_piece)? {
            return Some(false);
        }
    }
    for (bit, actual, wanted) in [
        (
            field::BUILD_NUMBER,
            actual.dwBuildNumber,
            wanted.dwBuildNumber,
        ),
        (field::PLATFORM_ID, actual.dwPlatformId, wanted.dwPlatformId),
        (
            field::PRODUCT_TYPE,
            u32::from(actual.wProductType),
            u32::from(wanted.wProductType),
        ),
    ] {
        if types & bit != 0 && !compare(condition(mask, bit), actual, wanted)? {
            return Some(false);
        }
    }
    Some(true)
}

nt_api! { module = view_version;
    /// Major and minor version, build, and the service pack's name; FALSE: a free build.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn PsGetVersion(
        major_version: Ptr<u32>,
        minor_version: Ptr<u32>,
        build_number: Ptr<u32>,
        csd_version: Ptr<UNICODE_STRING>,
    ) -> Boolean {
        let release = release();
        for (to, value) in [
            (major_version, release.major),
            (minor_version, release.minor),
            (build_number, release.build),
        ] {
            if !to.is_null() {
                to.write(u32::from(value));
            }
        }
        if !csd_version.is_null() {
            csd_version.write(super::user_shared::service_pack_name());
        }
        false
    }

    /// Whether the running Windows satisfies a condition for each of the named fields.
    ///
    /// REVISION_MISMATCH: it does not. INVALID_PARAMETER: no fields, or a condition that their kind does not have.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlVerifyVersionInfo(
        version_info: Ptr<RTL_OSVERSIONINFOEXW>,
        type_mask: ULong,
        condition_mask: ULongLong,
    ) -> NtStatus {
        let has_conditions = (0..8)
            .map(|bit| 1 << bit)
            .filter(|bit| type_mask & bit != 0)
            .all(|bit| condition(condition_mask, bit) != 0);
        if type_mask & field::ALL == 0 || !has_conditions {
            return NtStatus::INVALID_PARAMETER;
        }
        match satisfies(&version_info.read(), type_mask, condition_mask) {
            Some(true) => NtStatus::SUCCESS,
            Some(false) => NtStatus::REVISION_MISMATCH,
            None => NtStatus::INVALID_PARAMETER,
        }
    }

    /// A condition mask with the condition for the named field added; of several fields, for the highest bit.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn VerSetConditionMask(condition_mask: ULongLong, type_mask: ULong, condition: UChar) -> ULongLong {
        let condition = u64::from(condition & 7);
        let fields = type_mask & field::ALL;
        if condition == 0 || fields == 0 {
            return condition_mask;
        }
        let bit = fields.ilog2();
        condition_mask | condition << (bit * CONDITION_BITS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_platform::{api, machine};

    #[test]
    fn conditions_are_met_or_not() {
        let _machine = machine();
        let mut wanted = version_information(284);
        let mut verify =
            |types: u32, conditions: &[(u32, u8)], change: &dyn Fn(&mut RTL_OSVERSIONINFOEXW)| {
                let mask = conditions.iter().fold(0, |mask, &(bit, condition)| {
                    VerSetConditionMask(mask, bit, condition)
                });
                let mut request = wanted;
                change(&mut request);
                let _ = &mut wanted;
                RtlVerifyVersionInfo(Ptr::of(&mut request), types, mask)
            };
        let version = field::MAJOR_VERSION | field::MINOR_VERSION;
        let at_least = [
            (field::MAJOR_VERSION, GREATER_EQUAL),
            (field::MINOR_VERSION, GREATER_EQUAL),
        ];
        assert_eq!(verify(version, &at_least, &|_| ()), NtStatus::SUCCESS);
        assert_eq!(
            verify(version, &at_least, &|request| {
                request.dwMajorVersion -= 1;
                request.dwMinorVersion = 99;
            }),
            NtStatus::SUCCESS,
            "a lower major version decides"
        );
        assert_eq!(
            verify(version, &at_least, &|request| request.dwMinorVersion += 1),
            NtStatus::REVISION_MISMATCH
        );
        assert_eq!(
            verify(field::BUILD_NUMBER, &[(field::BUILD_NUMBER, LESS)], &|_| ()),
            NtStatus::REVISION_MISMATCH
        );
        assert_eq!(
            verify(field::SUITE_NAME, &[(field::SUITE_NAME, AND)], &|_| ()),
            NtStatus::SUCCESS
        );
        assert_eq!(
            verify(field::SUITE_NAME, &[(field::SUITE_NAME, EQUAL)], &|_| ()),
            NtStatus::INVALID_PARAMETER
        );
        assert_eq!(verify(0, &at_least, &|_| ()), NtStatus::INVALID_PARAMETER);
    }

    #[test]
    fn everything_names_one_version() {
        let _machine = machine();
        let (mut major, mut minor, mut build) = (0_u32, 0_u32, 0_u32);
        let arguments = [
            Ptr::of(&mut major).addr(),
            Ptr::of(&mut minor).addr(),
            Ptr::of(&mut build).addr(),
            0,
        ];
        assert_eq!(api("PsGetVersion", &arguments) & 0xFF, 0);
        let information = version_information(284);
        assert_eq!(
            (major, minor, build),
            (
                information.dwMajorVersion,
                information.dwMinorVersion,
                information.dwBuildNumber
            )
        );
        assert_eq!(data::NtBuildNumber.ptr().read(), FREE_BUILD | build);
    }
}
