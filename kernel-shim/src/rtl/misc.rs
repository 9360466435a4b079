//! The version of Windows, and random numbers.

use crate::api::nt_api;
use crate::nt::NtStatus;
use crate::raw::{Global, Ptr, low32};
use crate::value::ULong;
use crate::view::{
    self,
    user_shared::{PRODUCT_WORKSTATION, SUITE_MASK},
};

/// RTL_OSVERSIONINFOEXW; RTL_OSVERSIONINFOW is all before `wServicePackMajor`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct RTL_OSVERSIONINFOEXW {
    /// Bytes of the structure, set by the caller.
    pub dwOSVersionInfoSize: u32,
    /// Major version.
    pub dwMajorVersion: u32,
    /// Minor version.
    pub dwMinorVersion: u32,
    /// Build.
    pub dwBuildNumber: u32,
    /// VER_PLATFORM_WIN32_NT.
    pub dwPlatformId: u32,
    /// The service pack's name, closed by NUL.
    pub szCSDVersion: [u16; 128],
    /// Service pack.
    pub wServicePackMajor: u16,
    /// Service pack, minor.
    pub wServicePackMinor: u16,
    /// VER_SUITE_ flags.
    pub wSuiteMask: u16,
    /// VER_NT_WORKSTATION.
    pub wProductType: u8,
    /// Not used.
    pub wReserved: u8,
}

const EX_BYTES: u32 = 284;
const PLAIN_BYTES: u64 = 276;
const _: () = assert!(size_of::<RTL_OSVERSIONINFOEXW>() == EX_BYTES as usize);

/// VER_PLATFORM_WIN32_NT.
const PLATFORM_NT: u32 = 2;

/// RtlUniform's modulus: the largest LONG, 2^31 - 1.
const MODULUS: u64 = 0x7FFF_FFFF;

/// One step of RtlUniform's linear congruential generator, as documented.
const fn step(seed: u32) -> u32 {
    low32((seed as u64 * 0x7FFF_FFED + 0x7FFF_FFC3) % MODULUS)
}

/// RtlRandom's table: what a step yields is exchanged for an earlier yield.
static TABLE: Global<[u32; 128]> = Global::new("RtlRandom's table", {
    let mut table = [0; 128];
    let mut seed = 1;
    let mut at = 0;
    while at < table.len() {
        seed = step(seed);
        table[at] = seed;
        at += 1;
    }
    table
});

fn random(seed: Ptr<u32>) -> u32 {
    let first = step(seed.read());
    let second = step(first);
    seed.write(second);
    TABLE.with(|table| core::mem::replace(&mut table[(second & 0x7F) as usize], first))
}

/// What RtlGetVersion says, with `size` as the structure's size.
#[must_use]
pub fn version_information(size: u32) -> RTL_OSVERSIONINFOEXW {
    let release = view::release();
    let mut name = [0; 128];
    for (unit, value) in name
        .iter_mut()
        .zip(release.service_pack_name.encode_utf16())
    {
        *unit = value;
    }
    RTL_OSVERSIONINFOEXW {
        dwOSVersionInfoSize: size,
        dwMajorVersion: u32::from(release.major),
        dwMinorVersion: u32::from(release.minor),
        dwBuildNumber: u32::from(release.build),
        dwPlatformId: PLATFORM_NT,
        szCSDVersion: name,
        wServicePackMajor: release.service_pack,
        wServicePackMinor: 0,
        wSuiteMask: SUITE_MASK,
        wProductType: PRODUCT_WORKSTATION,
        wReserved: 0,
    }
}

nt_api! { module = rtl_misc;
    /// The version of Windows ([`crate::view::windows`]), a workstation.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlGetVersion(information: Ptr<RTL_OSVERSIONINFOEXW>) -> NtStatus {
        let size = information.cast::<u32>().read();
        let mut version = version_information(size);
        if size == EX_BYTES {
            information.write(version);
        } else {
            information.cast::<u8>().copy_from(Ptr::of(&mut version).cast(), PLAIN_BYTES);
        }
        NtStatus::SUCCESS
    }

    /// A random number below 2^31 - 1; better distributed than RtlUniform's.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlRandom(seed: Ptr<u32>) -> ULong {
        random(seed)
    }

    /// A random number below 2^31 - 1.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlRandomEx(seed: Ptr<u32>) -> ULong {
        random(seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_structure_is_not_overrun() {
        let _machine = crate::test_platform::machine();
        let mut bytes = [0xEE_u8; 284];
        let pointer = Ptr::of(&mut bytes[0]);
        pointer.cast::<u32>().write(276);
        assert_eq!(RtlGetVersion(pointer.cast()), NtStatus::SUCCESS);
        assert_eq!(bytes[4], 10);
        assert_eq!(bytes[276..], [0xEE; 8]);
        pointer.cast::<u32>().write(284);
        let _ = RtlGetVersion(pointer.cast());
        assert_eq!(bytes[276..], [0, 0, 0, 0, 0, 1, 1, 0]);
        assert_eq!(
            u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]),
            19045
        );
    }

    #[test]
    fn random_numbers_stay_in_range_and_move_the_seed() {
        let mut seed = 12345;
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..1000 {
            let before = seed;
            let value = RtlRandomEx(Ptr::of(&mut seed));
            assert!(u64::from(value) < MODULUS);
            assert_ne!(seed, before);
            seen.insert(value);
        }
        assert!(seen.len() > 990, "only {} different numbers", seen.len());
    }
}
