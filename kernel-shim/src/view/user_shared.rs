//! KUSER_SHARED_DATA, the constant part: which Windows this is, what the processor can do. What changes with time is
//! [`crate::ke::time`]'s.

use alloc::vec::Vec;

use super::{release, windows};
use crate::nt::UNICODE_STRING;
use crate::raw::{Global, Ptr, low16, low32};
use crate::shared;
use abi::layout;
use abi::windows::Windows;

/// Offsets (WDK: ntddk.h, KUSER_SHARED_DATA).
mod offset {
    pub(super) const IMAGE_NUMBER_LOW: u64 = 0x02C;
    pub(super) const IMAGE_NUMBER_HIGH: u64 = 0x02E;
    pub(super) const SYSTEM_ROOT: u64 = 0x030;
    pub(super) const LARGE_PAGE_MINIMUM: u64 = 0x244;
    /// Since Windows 10.
    pub(super) const BUILD_NUMBER: u64 = 0x260;
    pub(super) const PRODUCT_TYPE: u64 = 0x264;
    pub(super) const PRODUCT_TYPE_IS_VALID: u64 = 0x268;
    /// Since Windows 8.
    pub(super) const NATIVE_ARCHITECTURE: u64 = 0x26A;
    pub(super) const MAJOR_VERSION: u64 = 0x26C;
    pub(super) const MINOR_VERSION: u64 = 0x270;
    pub(super) const PROCESSOR_FEATURES: u64 = 0x274;
    pub(super) const SUITE_MASK: u64 = 0x2D0;
    pub(super) const KD_DEBUGGER_ENABLED: u64 = 0x2D4;
    pub(super) const NX_SUPPORT_POLICY: u64 = 0x2D5;
    pub(super) const PHYSICAL_PAGES: u64 = 0x2E8;
    pub(super) const SAFE_BOOT_MODE: u64 = 0x2EC;
    pub(super) const TEST_RET_INSTRUCTION: u64 = 0x2F8;
    /// Since Windows 7.
    pub(super) const ACTIVE_PROCESSORS: u64 = 0x3C0;
    /// Since Windows 7.
    pub(super) const ACTIVE_GROUPS: u64 = 0x3C4;
}

/// VER_SUITE_SINGLEUSERTS.
pub const SUITE_MASK: u16 = 0x0100;
/// NtProductWinNt, VER_NT_WORKSTATION: a workstation.
pub const PRODUCT_WORKSTATION: u8 = 1;
/// PF_ numbers of the features that every amd64 processor has: CMPXCHG8B, MMX, SSE, RDTSC, PAE, SSE2, NX.
const PROCESSOR_FEATURES: [u64; 7] = [2, 3, 6, 8, 9, 10, 12];
/// Data execution prevention always on.
const NX_ALWAYS_ON: u8 = 1;
const IMAGE_FILE_MACHINE: u16 = if cfg!(nt_i386) { 0x014C } else { 0x8664 };
const PROCESSOR_ARCHITECTURE: u16 = if cfg!(nt_i386) { 0 } else { 9 };
/// Bytes of a large page: 2 MiB with PAE and on amd64.
const LARGE_PAGE: u32 = 2 << 20;

/// The service pack's name, in memory that drivers may read for ever.
static SERVICE_PACK: Global<Ptr<u16>> = Global::new("service pack", Ptr::null());

/// CmCSDVersionString.
pub(super) fn service_pack_name() -> UNICODE_STRING {
    let units = release().service_pack_name.len() as u64;
    UNICODE_STRING {
        Length: low16(2 * units),
        MaximumLength: if units == 0 { 0 } else { low16(2 * units + 2) },
        Buffer: SERVICE_PACK.with(|text| *text),
    }
}

/// Fills the page.
pub(crate) fn initialize() {
    let page = shared::kernel_base() + layout::KUSER;
    let byte = |offset: u64, value: u8| Ptr::<u8>::new(page + offset).write(value);
    let half = |offset: u64, value: u16| Ptr::<u16>::new(page + offset).write(value);
    let word = |offset: u64, value: u32| Ptr::<u32>::new(page + offset).write(value);
    let release = release();
    half(offset::IMAGE_NUMBER_LOW, IMAGE_FILE_MACHINE);
    half(offset::IMAGE_NUMBER_HIGH, IMAGE_FILE_MACHINE);
    for (index, unit) in (0..).zip("C:\\Windows".encode_utf16().chain([0])) {
        half(offset::SYSTEM_ROOT + 2 * index, unit);
    }
    word(offset::LARGE_PAGE_MINIMUM, LARGE_PAGE);
    if matches!(windows(), Windows::Ten | Windows::Eleven) {
        word(offset::BUILD_NUMBER, u32::from(release.build));
        half(offset::NATIVE_ARCHITECTURE, PROCESSOR_ARCHITECTURE);
    }
    word(offset::PRODUCT_TYPE, u32::from(PRODUCT_WORKSTATION));
    byte(offset::PRODUCT_TYPE_IS_VALID, 1);
    word(offset::MAJOR_VERSION, u32::from(release.major));
    word(offset::MINOR_VERSION, u32::from(release.minor));
    for feature in PROCESSOR_FEATURES {
        byte(offset::PROCESSOR_FEATURES + feature, 1);
    }
    word(offset::SUITE_MASK, u32::from(SUITE_MASK));
    byte(offset::KD_DEBUGGER_ENABLED, 0);
    byte(offset::NX_SUPPORT_POLICY, NX_ALWAYS_ON);
    word(
        offset::PHYSICAL_PAGES,
        low32(shared::ram_bytes() / layout::PAGE_SIZE),
    );
    word(offset::SAFE_BOOT_MODE, 0);
    byte(offset::TEST_RET_INSTRUCTION, 0xC3);
    if windows() != Windows::Xp {
        word(offset::ACTIVE_PROCESSORS, 1);
        half(offset::ACTIVE_GROUPS, 1);
    }
    let name: Vec<u8> = release
        .service_pack_name
        .encode_utf16()
        .chain([0])
        .flat_map(u16::to_le_bytes)
        .collect();
    let text = crate::ex::pool::allocate_copy(&name, *b"CmSP").unwrap_or_default();
    SERVICE_PACK.with(|place| *place = text.cast());
}
