//! Loaded modules: PsLoadedModuleList, and queries over it.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::{data, exported, image};
use crate::api::nt_api;
use crate::ex::pool;
use crate::nt::module::{
    KLDR_DATA_TABLE_ENTRY, LDRP_ENTRY_PROCESSED, RTL_PROCESS_MODULE_INFORMATION,
    RTL_PROCESS_MODULE_INFORMATION_EX,
};
use crate::nt::{LIST_ENTRY, NtStatus, UNICODE_STRING};
use crate::raw::{Ptr, from_word, low16, low32, to_word, unicode_text};
use crate::value::ULong;
use crate::{mm, shared};
use abi::layout;

/// Bytes of a query's path.
const PATH_BYTES: usize = 256;
/// Where the kernel's own images are.
const SYSTEM32: &str = "\\SystemRoot\\system32\\";
/// Most modules that a walk visits: a driver may have broken the list.
const WALK_LIMIT: usize = 4096;

/// What is known about a module that is to be listed.
#[derive(Clone, Copy, Debug)]
pub struct Module<'a> {
    /// First address.
    pub base: u64,
    /// Bytes.
    pub bytes: u64,
    /// Entry point.
    pub entry: u64,
    /// Path up to the file's name.
    pub folder: &'a str,
    /// The file's name.
    pub file: &'a str,
}

/// Makes the list: ntoskrnl.exe and hal.dll.
pub(crate) fn initialize() {
    exported(&data::PsLoadedModuleList).list_initialize();
    // It cannot fail.
    let _ = crate::ex::resource_api::ExInitializeResourceLite(
        exported(&data::PsLoadedModuleResource).cast(),
    );
    for (offset, file) in [(layout::NTOSKRNL, "ntoskrnl.exe"), (layout::HAL, "hal.dll")] {
        let base = shared::kernel_base() + offset;
        let headers = headers_of(base);
        // A new pool has room; a list without the kernel would still be a list.
        let _ = insert(&Module {
            base,
            bytes: headers.map_or(0, |headers| u64::from(headers.image_bytes)),
            entry: headers.map_or(base, |headers| base + u64::from(headers.entry)),
            folder: SYSTEM32,
            file,
        });
    }
}

/// The headers of an image that the VMM placed; `None` where it placed none.
pub(crate) fn headers_of(base: u64) -> Option<image::Headers> {
    mm::region_of(base).and_then(|_| image::Headers::at(base))
}

/// Lists a module. Its entry, which DRIVER_OBJECT.DriverSection points to; `None` when the pool is exhausted.
#[must_use]
pub fn insert(module: &Module<'_>) -> Option<Ptr<KLDR_DATA_TABLE_ENTRY>> {
    let full: Vec<u8> = format!("{}{}", module.folder, module.file)
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let folder_bytes = 2 * module.folder.encode_utf16().count() as u64;
    let header = size_of::<KLDR_DATA_TABLE_ENTRY>() as u64;
    let block = pool::allocate_zeroed(header + full.len() as u64 + 2, *b"MmLd")?;
    let text = block.add_bytes(header);
    text.write_bytes(&full);
    let bytes = full.len() as u64;
    let name = |from: u64| UNICODE_STRING {
        Length: low16(bytes - from),
        MaximumLength: low16(bytes - from + 2),
        Buffer: text.add_bytes(from).cast(),
    };
    let headers = headers_of(module.base);
    let (table, table_bytes) = headers
        .and_then(|headers| headers.directory(image::EXCEPTION_DIRECTORY))
        .filter(|_| !cfg!(nt_i386))
        .map_or((0, 0), |(rva, bytes)| (module.base + u64::from(rva), bytes));
    let links = LIST_ENTRY {
        Flink: Ptr::null(),
        Blink: Ptr::null(),
    };
    let entry = block.cast::<KLDR_DATA_TABLE_ENTRY>();
    entry.write(KLDR_DATA_TABLE_ENTRY {
        InLoadOrderLinks: links,
        ExceptionTable: to_word(table),
        ExceptionTableSize: table_bytes,
        GpValue: 0,
        NonPagedDebugInfo: 0,
        DllBase: to_word(module.base),
        EntryPoint: to_word(module.entry),
        SizeOfImage: low32(module.bytes),
        FullDllName: name(0),
        BaseDllName: name(folder_bytes),
        Flags: LDRP_ENTRY_PROCESSED,
        LoadCount: 1,
        Reserved: 0,
        SectionPointer: 0,
        CheckSum: headers.map_or(0, |headers| headers.checksum),
        #[cfg(not(nt_i386))]
        CoverageSectionSize: 0,
        #[cfg(not(nt_i386))]
        CoverageSection: 0,
        LoadedImports: 0,
        PatchInformation: 0,
    });
    exported(&data::PsLoadedModuleList).list_insert_tail(entry.cast());
    Some(entry)
}

/// Takes a module off the list.
pub fn remove(base: u64) {
    for entry in entries() {
        if from_word(entry.read().DllBase) == base {
            entry.cast::<LIST_ENTRY>().list_remove();
            pool::free(entry.cast(), 0);
            return;
        }
    }
}

/// The entries in load order.
#[must_use]
pub fn entries() -> Vec<Ptr<KLDR_DATA_TABLE_ENTRY>> {
    let head = exported(&data::PsLoadedModuleList);
    let mut entries = Vec::new();
    let mut next = head.read().Flink;
    while next != head && !next.is_null() && entries.len() < WALK_LIMIT {
        entries.push(next.cast());
        next = next.read().Flink;
    }
    entries
}

/// The module that an address lies in.
#[must_use]
pub fn containing(address: u64) -> Option<KLDR_DATA_TABLE_ENTRY> {
    entries()
        .into_iter()
        .map(Ptr::read)
        .find(|entry| address.wrapping_sub(from_word(entry.DllBase)) < u64::from(entry.SizeOfImage))
}

/// A path as queries report it: bytes closed by NUL, and where the file's name begins.
fn path(mut full: UNICODE_STRING) -> ([u8; PATH_BYTES], u16) {
    let text: String = unicode_text(Ptr::of(&mut full));
    let mut bytes = [0; PATH_BYTES];
    for (byte, character) in bytes[..PATH_BYTES - 1].iter_mut().zip(text.chars()) {
        *byte = u8::try_from(character).unwrap_or(b'?');
    }
    let file = bytes
        .iter()
        .rposition(|&byte| byte == b'\\')
        .map_or(0, |at| at + 1);
    (bytes, low16(file as u64))
}

fn information(entry: &KLDR_DATA_TABLE_ENTRY, index: u16) -> RTL_PROCESS_MODULE_INFORMATION {
    let (full_path, file_at) = path(entry.FullDllName);
    RTL_PROCESS_MODULE_INFORMATION {
        Section: 0,
        MappedBase: 0,
        ImageBase: entry.DllBase,
        ImageSize: entry.SizeOfImage,
        Flags: entry.Flags,
        LoadOrderIndex: index,
        InitOrderIndex: 0,
        LoadCount: entry.LoadCount,
        OffsetToFileName: file_at,
        FullPathName: full_path,
    }
}

/// SystemModuleInformation: a count and the modules. NT fills as many as fit; the bytes that all need.
pub(super) fn query(buffer: Ptr<u8>, length: u32) -> (NtStatus, u32) {
    let modules = entries();
    let first = size_of::<crate::raw::Word>() as u64;
    let each = size_of::<RTL_PROCESS_MODULE_INFORMATION>() as u64;
    let needed = first + modules.len() as u64 * each;
    if u64::from(length) < needed {
        return (NtStatus::INFO_LENGTH_MISMATCH, low32(needed));
    }
    buffer.cast::<u32>().write(low32(modules.len() as u64));
    for (index, entry) in (0..).zip(modules) {
        let element = buffer.add_bytes(first + u64::from(index) * each);
        element.cast().write(information(&entry.read(), index));
    }
    (NtStatus::SUCCESS, low32(needed))
}

/// SystemModuleInformationEx: for each module where the next begins, what [`query`] says, checksum, time stamp and the
/// base that it was linked for; then an offset of 0.
pub(super) fn query_ex(buffer: Ptr<u8>, length: u32) -> (NtStatus, u32) {
    let each = size_of::<RTL_PROCESS_MODULE_INFORMATION_EX>() as u64;
    let modules = entries();
    let needed = modules.len() as u64 * each + size_of::<u16>() as u64;
    if u64::from(length) < needed {
        return (NtStatus::INFO_LENGTH_MISMATCH, low32(needed));
    }
    let mut at = buffer;
    for (index, entry) in (0..).zip(modules) {
        let entry = entry.read();
        let headers = headers_of(from_word(entry.DllBase));
        at.cast().write(RTL_PROCESS_MODULE_INFORMATION_EX {
            NextOffset: low16(each),
            BaseInfo: information(&entry, index),
            ImageChecksum: entry.CheckSum,
            TimeDateStamp: headers.map_or(0, |headers| headers.time_stamp),
            DefaultBase: entry.DllBase,
        });
        at = at.add_bytes(each);
    }
    at.cast::<u16>().write(0);
    (NtStatus::SUCCESS, low32(needed))
}

/// Bytes of AUX_MODULE_BASIC_INFO: an address.
const BASIC_BYTES: u32 = low32(size_of::<crate::raw::Word>() as u64);
/// Bytes of AUX_MODULE_EXTENDED_INFO: address, size, where the file's name begins, path; padded.
const EXTENDED_BYTES: u32 = if cfg!(nt_i386) { 268 } else { 272 };

nt_api! { module = view_modules;
    /// The modules as AUX_MODULE_BASIC_INFO or AUX_MODULE_EXTENDED_INFO, by the size of an element (AuxKlib's query).
    ///
    /// Without a buffer, the bytes that all need.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlQueryModuleInformation(buffer_size: Ptr<u32>, unit_size: ULong, buffer: Ptr<u8>) -> NtStatus {
        if unit_size != BASIC_BYTES && unit_size != EXTENDED_BYTES {
            return NtStatus::INVALID_PARAMETER_2;
        }
        let modules = entries();
        let needed = modules.len() as u64 * u64::from(unit_size);
        if buffer.is_null() {
            buffer_size.write(low32(needed));
            return NtStatus::SUCCESS;
        }
        if u64::from(buffer_size.read()) < needed {
            buffer_size.write(low32(needed));
            return NtStatus::BUFFER_TOO_SMALL;
        }
        for (index, entry) in (0..).zip(modules) {
            let entry = entry.read();
            let element = buffer.add_bytes(u64::from(unit_size) * index);
            element.cast().write(entry.DllBase);
            if unit_size == EXTENDED_BYTES {
                let (full_path, file_at) = path(entry.FullDllName);
                let behind = element.add_bytes(u64::from(BASIC_BYTES));
                behind.cast().write(entry.SizeOfImage);
                behind.add_bytes(4).cast().write(file_at);
                behind.add_bytes(6).write_bytes(&full_path);
            }
        }
        buffer_size.write(low32(needed));
        NtStatus::SUCCESS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::to_usize;
    use crate::test_platform::{api, machine};

    fn names() -> Vec<String> {
        entries()
            .into_iter()
            .map(|entry| {
                let mut name = entry.read().BaseDllName;
                unicode_text(Ptr::of(&mut name))
            })
            .collect()
    }

    #[test]
    fn drivers_follow_the_kernel_and_go_again() {
        let _machine = machine();
        assert_eq!(names(), ["ntoskrnl.exe", "hal.dll"]);
        let entry = insert(&Module {
            base: 0x9000_0000,
            bytes: 0x5000,
            entry: 0x9000_1000,
            folder: "\\??\\C:\\drivers\\",
            file: "echo.sys",
        })
        .unwrap();
        assert_eq!(names(), ["ntoskrnl.exe", "hal.dll", "echo.sys"]);
        let mut full = entry.read().FullDllName;
        assert_eq!(
            unicode_text(Ptr::of(&mut full)),
            "\\??\\C:\\drivers\\echo.sys"
        );
        let (bytes, file_at) = path(full);
        assert_eq!(&bytes[usize::from(file_at)..][..9], b"echo.sys\0");
        assert!(containing(0x9000_4FFF).is_some());
        assert!(containing(0x9000_5000).is_none());
        remove(0x9000_0000);
        assert_eq!(names().len(), 2);
    }

    #[test]
    fn the_query_says_how_much_it_needs() {
        let _machine = machine();
        let mut bytes = [0xEE_u8; 1024];
        let (status, needed) = query(Ptr::of(&mut bytes[0]), 8 + 2 * 296 - 1);
        assert_eq!(
            (status, needed),
            (NtStatus::INFO_LENGTH_MISMATCH, 8 + 2 * 296)
        );
        assert_eq!(bytes, [0xEE; 1024]);
        let (status, _) = query(Ptr::of(&mut bytes[0]), needed);
        assert_eq!(status, NtStatus::SUCCESS);
        assert_eq!(bytes[0], 2);
        assert_eq!(bytes[to_usize(u64::from(needed))], 0xEE);
        let path = &bytes[8 + 0x28..][..34];
        assert_eq!(path, b"\\SystemRoot\\system32\\ntoskrnl.exe\0");
    }

    #[test]
    fn aux_klib_asks_twice() {
        let _machine = machine();
        let mut size = 0_u32;
        let size_at = Ptr::of(&mut size).addr();
        assert_eq!(api("RtlQueryModuleInformation", &[size_at, 272, 0]), 0);
        assert_eq!(size, 544);
        let mut bytes = [0_u8; 544];
        let buffer = Ptr::of(&mut bytes[0]).addr();
        assert_eq!(api("RtlQueryModuleInformation", &[size_at, 272, buffer]), 0);
        assert_eq!(&bytes[272 + 14..][..28], b"\\SystemRoot\\system32\\hal.dll");
        Ptr::of(&mut size).write(543_u32);
        assert_eq!(
            low32(api("RtlQueryModuleInformation", &[size_at, 272, buffer])),
            NtStatus::BUFFER_TOO_SMALL.0
        );
        assert_eq!(
            low32(api("RtlQueryModuleInformation", &[size_at, 271, buffer])),
            NtStatus::INVALID_PARAMETER_2.0
        );
    }
}
