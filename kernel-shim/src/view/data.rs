//! Variables that say which kernel this is.

use crate::api::nt_data;
use crate::nt::LIST_ENTRY;
use crate::nt::module::ERESOURCE_BYTES;
use crate::raw::Ptr;

/// An ERESOURCE's bytes, aligned as one.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub struct ResourceBytes(pub [u8; ERESOURCE_BYTES]);

/// NtBuildLab's bytes.
pub const BUILD_LAB_BYTES: usize = 48;

nt_data! { module = view_data;
    /// The build, with 0xF0000000 for a free build.
    ntoskrnl both data(4, 4) implemented
    NtBuildNumber: u32 = 0xF000_0000;

    /// Build, branch and date, closed by NUL.
    ntoskrnl both data(48, 48) implemented
    NtBuildLab: [u8; BUILD_LAB_BYTES] = [0; BUILD_LAB_BYTES];

    /// FLG_ flags of gflags.exe: none.
    ntoskrnl both data(4, 4) implemented
    NtGlobalFlag: u32 = 0;

    /// 0: not a safe-mode boot.
    ntoskrnl both data(4, 4) implemented
    InitSafeBootMode: u32 = 0;

    /// The list of loaded modules: KLDR_DATA_TABLE_ENTRY by InLoadOrderLinks; ntoskrnl.exe, hal.dll, then drivers.
    ntoskrnl both data(8, 16) implemented
    PsLoadedModuleList: LIST_ENTRY = LIST_ENTRY { Flink: Ptr::null(), Blink: Ptr::null() };

    /// The ERESOURCE that guards PsLoadedModuleList; nobody else holds it while a driver runs.
    ntoskrnl both data(56, 104) implemented
    PsLoadedModuleResource: ResourceBytes = ResourceBytes([0; ERESOURCE_BYTES]);
}
