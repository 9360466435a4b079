//! Rejections by what the data directories lead to.

use super::{AMD64, I386, rejections};
use crate::builder::SectionIndex::*;
use crate::builder::offsets::*;

/// File offsets in the images for both machines: .rdata 0x600, .data 0x800, INIT 0xA00, .reloc 0xC00, .pdata 0xE00.
const LOOKUP_HAL: u32 = LOOKUP + 0x40;

rejections! {
    import_directory_outside_sections: I386, |image| image.put_directory(1, 0x9_9999, 60)
        => "VirtualAddress of the import directory at 0x100 is 0x99999, which leads to 20 bytes at RVA 0x99999, outside";
    import_directory_not_terminated: I386, |image| image.put_directory(1, 0x41F0, 60)
        => "VirtualAddress of the import directory at 0x100 is 0x41f0, which leads to 20 bytes at RVA 0x41f0, outside";
    import_descriptors_run_out: I386, |image| {
        // Copies of the first descriptor up to the end of INIT.
        let descriptor = image.bytes[0xA10..0xA24].to_vec();
        for offset in (0x164..0x1F0).step_by(20) {
            image.put(image.raw(Init, offset), &descriptor);
        }
        image.put_directory(1, 0x4164, 60);
    } => "VirtualAddress of the import directory at 0x100 is 0x4164, which leads to 20 bytes at RVA 0x41f0, outside";
    dll_name_outside_sections: I386, |image| image.put_u32(image.raw(Init, DESCRIPTORS + 12), 0x7000)
        => "Name at 0xa1c is 0x7000, so the DLL name is at RVA 0x7000, outside the file data";
    dll_name_missing: I386, |image| image.put_u32(image.raw(Init, DESCRIPTORS + 12), 0)
        => "Name at 0xa1c is 0x0, so the DLL name is at RVA 0x0, outside the file data";
    address_table_missing: I386, |image| image.put_u32(image.raw(Init, DESCRIPTORS + 16), 0)
        => "FirstThunk at 0xa20 is 0x0, expected the RVA of an import address table";
    dll_name_not_ascii: I386, |image| image.put(image.raw(Init, DLL_NTOSKRNL), b"nt\xE4")
        => "Name at 0xa1c is 0x4140, but the DLL name at file offset 0xb40 is not printable ASCII: \"nt\\xe4";
    dll_name_empty: I386, |image| image.put(image.raw(Init, DLL_NTOSKRNL), &[0])
        => "Name at 0xa1c is 0x4140, but the DLL name at file offset 0xb40 is empty";
    dll_name_not_terminated: I386, |image| image.put(image.raw(Init, DLL_NTOSKRNL), &[b'x'; 0xC0])
        => "Name at 0xa1c is 0x4140, but the DLL name at file offset 0xb40 is not terminated within 192 bytes";
    bound_without_names: I386, |image| {
        image.put_u32(image.raw(Init, DESCRIPTORS), 0);
        image.put_u32(image.raw(Init, DESCRIPTORS + 4), 0x3333);
    } => "TimeDateStamp at 0xa14 is 0x3333, so the imports from ntoskrnl.exe are bound, but OriginalFirstThunk is 0";
    lookup_table_outside_sections: AMD64, |image| image.put_u32(image.raw(Init, DESCRIPTORS), 0x8000)
        => "OriginalFirstThunk at 0xa10 is 0x8000, which leads to 8 bytes at RVA 0x8000, outside";
    lookup_table_not_terminated: AMD64, |image| {
        image.put_u32(image.raw(Init, DESCRIPTORS), 0x41F8);
        image.put_word(image.raw(Init, 0x1F8), 0x40D0);
    } => "OriginalFirstThunk at 0xa10 is 0x41f8, which leads to 8 bytes at RVA 0x4200, outside";
    address_table_outside_sections: AMD64, |image| image.put_u32(image.raw(Init, DESCRIPTORS + 16), 0x21FC)
        => "FirstThunk at 0xa20 is 0x21fc, so the address of import 0 from ntoskrnl.exe belongs at RVA 0x21fc, outside";
    address_table_in_headers: I386, |image| image.put_u32(image.raw(Init, DESCRIPTORS + 16), 0x80)
        => "FirstThunk at 0xa20 is 0x80, so the address of import 0 from ntoskrnl.exe belongs at RVA 0x80, outside";
    import_name_outside_sections: I386, |image| image.put_u32(image.raw(Init, LOOKUP), 0x6FFF)
        => "import lookup entry at 0xa50 is 0x6fff, which leads to 2 bytes at RVA 0x6fff, outside";
    import_name_not_an_rva: AMD64, |image| image.put_word(image.raw(Init, LOOKUP), 0x1_0000_40D0)
        => "import lookup entry at 0xa50 is 0x1000040d0, neither an ordinal nor the RVA of a name";
    import_name_empty: I386, |image| image.put(image.raw(Init, NAME_CREATE + 2), &[0])
        => "import lookup entry at 0xa50 is 0x40d0, but the import name at file offset 0xad2 is empty";
    import_name_not_ascii: I386, |image| image.put(image.raw(Init, NAME_CREATE + 2), b"Io Create")
        => "import lookup entry at 0xa50 is 0x40d0, but the import name at file offset 0xad2 is not printable ASCII: \"Io Create";
    import_name_not_terminated: I386, |image| {
        image.put_u32(image.raw(Init, LOOKUP), 0x41F0);
        image.put(image.raw(Init, 0x1F0), &[b'A'; 16]);
    } => "import lookup entry at 0xa50 is 0x41f0, but the import name at file offset 0xbf2 is not terminated within 14 bytes";
    ordinal_too_large: AMD64, |image| image.put_word(image.raw(Init, LOOKUP_HAL + 8), 1 << 63 | 0x1_0000)
        => "import lookup entry at 0xa98 is 0x8000000000010000, expected an ordinal of at most 0xffff";

    too_many_imports: I386, |image| {
        let (rva, raw) = image.grow(0x1_0000);
        for index in 0..8193 {
            image.put_u32(raw + index * 4, 0x8000_0001);
        }
        image.put_u32(image.raw(Init, DESCRIPTORS), rva);
        image.put_u32(image.raw(Init, DESCRIPTORS + 16), rva);
    } => "import lookup entry at 0x8e00 is 0x80000001, expected at most 8192 imports";
    too_many_dlls: I386, |image| {
        let (rva, raw) = image.grow(0x2000);
        for index in 0..257 {
            let descriptor = raw + index * 20;
            image.put_u32(descriptor, rva + 0x1FFC);
            image.put_u32(descriptor + 12, image.rva(Init, DLL_HAL));
            image.put_u32(descriptor + 16, rva);
        }
        image.put_directory(1, rva, 0x2000);
    } => "Name at 0x220c is 0x4150, expected at most 256 import descriptors";

    too_many_relocations: I386, |image| {
        let entries = (1 << 20) + 1;
        let (rva, raw) = image.grow(0x20_1000);
        image.put_u32(raw, 0x3000);
        image.put_u32(raw + 4, 8 + entries * 2);
        for index in 0..entries {
            image.put_u16(raw + 8 + index * 2, 0x3000);
        }
        image.put_directory(5, rva, 8 + entries * 2);
    } => "relocation entry at 0x200e08 is 0x3000, expected at most 1048576 relocations";
    relocations_outside_sections: I386, |image| image.put_directory(5, 0x5000, 0x201)
        => "Size of the base relocation directory at 0x124 is 0x201, which leads to 513 bytes at RVA 0x5000, outside";
    relocation_directory_ends_in_header: I386, |image| image.put_directory(5, 0x5000, 28)
        => "Size of the base relocation directory at 0x124 is 0x1c, which leaves 4 bytes at 0xc18 for the last block";
    relocation_block_too_small: I386, |image| image.put_u32(image.raw(Reloc, 4), 4)
        => "relocation block's SizeOfBlock at 0xc04 is 0x4, expected an even number of bytes";
    relocation_block_odd: I386, |image| image.put_u32(image.raw(Reloc, 4), 11)
        => "relocation block's SizeOfBlock at 0xc04 is 0xb, expected an even number of bytes";
    relocation_block_beyond_directory: I386, |image| image.put_u32(image.raw(Reloc, 4), 26)
        => "relocation block's SizeOfBlock at 0xc04 is 0x1a, beyond the 24 bytes";
    relocation_block_unaligned: I386, |image| image.put_u32(image.raw(Reloc, 0), 0x2004)
        => "relocation block's VirtualAddress at 0xc00 is 0x2004, expected a multiple of the page size";
    relocation_blocks_out_of_order: I386, |image| image.put_u32(image.raw(Reloc, 12), 0x1000)
        => "relocation block's VirtualAddress at 0xc0c is 0x1000, expected blocks in ascending order, but the one before it is for 0x2000";
    relocation_outside_image: I386, |image| image.put_u32(image.raw(Reloc, 0), 0xFFFF_F000)
        => "relocation entry at 0xc08 is 0x30bc, which relocates 4 bytes at RVA 0xfffff0bc, outside every section";
    relocation_across_section_end: AMD64, |image| image.put_u16(image.raw(Reloc, 8), 0xA1FC)
        => "relocation entry at 0xc08 is 0xa1fc, which relocates 8 bytes at RVA 0x21fc, outside every section";
    relocation_type_of_other_machine: AMD64, |image| image.put_u16(image.raw(Reloc, 8), 0x30BC)
        => "relocation entry at 0xc08 is 0x30bc, of type 3: expected ABSOLUTE (0) or DIR64 (10) in an amd64 image";
    relocation_type_unknown: I386, |image| image.put_u16(image.raw(Reloc, 8), 0x10BC)
        => "relocation entry at 0xc08 is 0x10bc, of type 1: expected ABSOLUTE (0) or HIGHLOW (3) in an i386 image";

    load_config_outside_sections: AMD64, |image| image.put_directory(10, 0x7000, 0x60)
        => "VirtualAddress of the load config directory at 0x158 is 0x7000, which leads to 4 bytes at RVA 0x7000";
    load_config_cut: AMD64, |image| {
        image.put_directory(10, 0x21FC, 0x60);
        image.put_u32(image.raw(Rdata, 0x1FC), 0x60);
    } => "load config's Size at 0x7fc is 0x60, which leads to 96 bytes at RVA 0x21fc, outside";
    cookie_outside_image: AMD64, |image| image.put_word(image.raw(Rdata, LOAD_CONFIG + 0x58), 0x9_0000)
        => "load config's SecurityCookie at 0x6d8 is 0x90000, expected an address inside a section of the image at 0x10000";
    cookie_below_image: I386, |image| image.put_word(image.raw(Rdata, LOAD_CONFIG + 0x3C), 0xFFFF)
        => "load config's SecurityCookie at 0x6bc is 0xffff, expected an address inside a section";
    cookie_unaligned: AMD64, |image| image.put_word(image.raw(Rdata, LOAD_CONFIG + 0x58), 0x1_300C)
        => "load config's SecurityCookie at 0x6d8 is 0x1300c, expected a multiple of 8";

    function_table_size: AMD64, |image| image.put_directory(3, 0x6000, 20)
        => "Size of the exception directory at 0x124 is 0x14, expected a multiple of RUNTIME_FUNCTION's 12 bytes";
    function_table_outside_sections: AMD64, |image| image.put_directory(3, 0x6000, 0x600)
        => "Size of the exception directory at 0x124 is 0x600, which leads to 1536 bytes at RVA 0x6000, outside";
    function_ends_before_it_begins: AMD64, |image| image.put_u32(image.raw(Pdata, 4), 0x1000)
        => "RUNTIME_FUNCTION EndAddress at 0xe04 is 0x1000, expected the end of a function from 0x1000 on";
    function_leaves_section: AMD64, |image| image.put_u32(image.raw(Pdata, 4), 0x1201)
        => "RUNTIME_FUNCTION EndAddress at 0xe04 is 0x1201, expected the end of a function from 0x1000 on, inside one section";
    functions_out_of_order: AMD64, |image| image.put_u32(image.raw(Pdata, 12), 0x1000)
        => "RUNTIME_FUNCTION BeginAddress at 0xe0c is 0x1000, expected functions in ascending order, but the one before it ends at 0x1001";
    unwind_data_outside_image: AMD64, |image| image.put_u32(image.raw(Pdata, 8), 0x9000)
        => "RUNTIME_FUNCTION UnwindData at 0xe08 is 0x9000, expected the RVA of UNWIND_INFO";

    export_directory_outside_sections: I386.with_exports(), |image| image.put_directory(0, 0x7000, 0x80)
        => "VirtualAddress of the export directory at 0xf8 is 0x7000, which leads to 40 bytes at RVA 0x7000";
    too_many_exports: I386.with_exports(), |image| image.put_u32(image.raw(Rdata, EXPORTS + 20), 8193)
        => "NumberOfFunctions at 0x714 is 0x2001, expected at most 8192 exports";
    export_functions_outside_sections: I386.with_exports(), |image| image.put_u32(image.raw(Rdata, EXPORTS + 28), 0x21F4)
        => "AddressOfFunctions at 0x71c is 0x21f4, which leads to 16 bytes at RVA 0x21f4, outside";
    export_names_outside_sections: I386.with_exports(), |image| {
        image.put_u32(image.raw(Rdata, EXPORTS + 24), 1024);
        image.put_u32(image.raw(Rdata, EXPORTS + 32), 0);
    } => "AddressOfNames at 0x720 is 0x0, which leads to 4096 bytes at RVA 0x0, outside";
    export_ordinals_outside_sections: I386.with_exports(), |image| image.put_u32(image.raw(Rdata, EXPORTS + 36), 0x8000)
        => "AddressOfNameOrdinals at 0x724 is 0x8000, which leads to 6 bytes at RVA 0x8000, outside";
    export_name_outside_sections: I386.with_exports(), |image| image.put_u32(image.raw(Rdata, EXPORTS + 56), 0x8000)
        => "entry of the export name pointer table at 0x738 is 0x8000, so the export name is at RVA 0x8000, outside";
    export_ordinal_too_large: I386.with_exports(), |image| image.put_u16(image.raw(Rdata, EXPORTS + 68), 4)
        => "entry of the export ordinal table at 0x744 is 0x4, so export Alpha is none of the 4";
    export_outside_sections: I386.with_exports(), |image| image.put_u32(image.raw(Rdata, EXPORTS + 40), 0x8000)
        => "entry of the export address table at 0x728 is 0x8000, expected an RVA inside a section";
    forwarder_empty: I386.with_exports(), |image| image.put(image.raw(Rdata, EXPORTS + 0x70), &[0])
        => "entry of the export address table at 0x734 is 0x2170, but the forwarder at file offset 0x770 is empty";
}
