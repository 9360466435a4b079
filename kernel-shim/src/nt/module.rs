//! Loaded modules, as the kernel's loader lists them.

use super::{LIST_ENTRY, UNICODE_STRING};
use crate::raw::Word;

/// Bytes of an ERESOURCE.
pub const ERESOURCE_BYTES: usize = if cfg!(nt_i386) { 0x38 } else { 0x68 };

/// KLDR_DATA_TABLE_ENTRY: an entry of PsLoadedModuleList, and what DRIVER_OBJECT.DriverSection points to.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct KLDR_DATA_TABLE_ENTRY {
    /// Links in load order.
    pub InLoadOrderLinks: LIST_ENTRY,
    /// The image's RUNTIME_FUNCTION table (amd64).
    pub ExceptionTable: Word,
    /// Bytes of it.
    pub ExceptionTableSize: u32,
    /// Not used.
    pub GpValue: Word,
    /// Not used.
    pub NonPagedDebugInfo: Word,
    /// First address of the image.
    pub DllBase: Word,
    /// The entry point.
    pub EntryPoint: Word,
    /// Bytes of the image.
    pub SizeOfImage: u32,
    /// The file with its path.
    pub FullDllName: UNICODE_STRING,
    /// The file alone.
    pub BaseDllName: UNICODE_STRING,
    /// LDRP_ flags.
    pub Flags: u32,
    /// How often it was loaded.
    pub LoadCount: u16,
    /// Not used.
    pub Reserved: u16,
    /// Not used.
    pub SectionPointer: Word,
    /// The header's CheckSum.
    pub CheckSum: u32,
    /// amd64: not used.
    #[cfg(not(nt_i386))]
    pub CoverageSectionSize: u32,
    /// amd64: not used.
    #[cfg(not(nt_i386))]
    pub CoverageSection: Word,
    /// Not used.
    pub LoadedImports: Word,
    /// Not used.
    pub PatchInformation: Word,
}

/// LDRP_ENTRY_PROCESSED | LDRP_DRIVER_... as WinDbg shows for loaded drivers.
pub const LDRP_ENTRY_PROCESSED: u32 = 0x4000;

/// RTL_PROCESS_MODULE_INFORMATION: an element of SystemModuleInformation.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct RTL_PROCESS_MODULE_INFORMATION {
    /// Not used.
    pub Section: Word,
    /// Not used.
    pub MappedBase: Word,
    /// First address.
    pub ImageBase: Word,
    /// Bytes.
    pub ImageSize: u32,
    /// LDRP_ flags.
    pub Flags: u32,
    /// Position in the list.
    pub LoadOrderIndex: u16,
    /// Position in the order of initialization: not used by the kernel.
    pub InitOrderIndex: u16,
    /// How often it was loaded.
    pub LoadCount: u16,
    /// Where the file's name begins in `FullPathName`.
    pub OffsetToFileName: u16,
    /// Path, closed by NUL.
    pub FullPathName: [u8; 256],
}

/// RTL_PROCESS_MODULE_INFORMATION_EX: an element of SystemModuleInformationEx.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct RTL_PROCESS_MODULE_INFORMATION_EX {
    /// Bytes to the next element; 0: there is none, nor this one.
    pub NextOffset: u16,
    /// What SystemModuleInformation says.
    pub BaseInfo: RTL_PROCESS_MODULE_INFORMATION,
    /// CheckSum.
    pub ImageChecksum: u32,
    /// TimeDateStamp.
    pub TimeDateStamp: u32,
    /// ImageBase.
    pub DefaultBase: Word,
}

const _: () = {
    use core::mem::offset_of;
    macro_rules! at {
        ($field:ident, $i386:literal, $amd64:literal) => {
            assert!(
                offset_of!(KLDR_DATA_TABLE_ENTRY, $field)
                    == if cfg!(nt_i386) { $i386 } else { $amd64 }
            );
        };
    }
    at!(DllBase, 0x18, 0x30);
    at!(EntryPoint, 0x1C, 0x38);
    at!(SizeOfImage, 0x20, 0x40);
    at!(FullDllName, 0x24, 0x48);
    at!(BaseDllName, 0x2C, 0x58);
    at!(Flags, 0x34, 0x68);
    at!(LoadCount, 0x38, 0x6C);
    at!(CheckSum, 0x40, 0x78);
    assert!(size_of::<RTL_PROCESS_MODULE_INFORMATION>() == if cfg!(nt_i386) { 284 } else { 296 });
    assert!(
        size_of::<RTL_PROCESS_MODULE_INFORMATION_EX>() == if cfg!(nt_i386) { 300 } else { 320 }
    );
};
