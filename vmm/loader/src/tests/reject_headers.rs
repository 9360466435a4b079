//! Rejections by the headers.

use super::{AMD64, I386, rejections};
use crate::builder::{FILE_HEADER, OPTIONAL_HEADER, SIGNATURE};
use crate::{Image, MAX_IMAGE_BYTES};

rejections! {
    empty_file: I386, |image| image.bytes.clear()
        => "e_magic at 0x0 has 2 bytes, beyond the file's 0 bytes";
    not_an_image: I386, |image| image.put(0, b"\x7FE")
        => "e_magic at 0x0 is 0x457f, expected \"MZ\" (0x5a4d): not a PE image";
    dos_header_cut: I386, |image| image.bytes.truncate(0x20)
        => "e_lfanew at 0x3c has 4 bytes, beyond the file's 32 bytes";
    new_header_inside_dos_header: I386, |image| image.put_u32(0x3C, 0x20)
        => "e_lfanew at 0x3c is 0x20, expected a multiple of 4 behind";
    new_header_unaligned: I386, |image| image.put_u32(0x3C, 0x82)
        => "e_lfanew at 0x3c is 0x82, expected a multiple of 4";
    new_header_beyond_file: I386, |image| image.put_u32(0x3C, 0x10_0000)
        => "e_lfanew at 0x3c is 0x100000, beyond the file's 3584 bytes";
    dos_program: I386, |image| image.put(SIGNATURE, &[0; 4])
        => "Signature at 0x80 is 0x0, expected \"PE\\0\\0\" (0x4550): a DOS program";
    vxd: I386, |image| image.put(SIGNATURE, b"LE")
        => "Signature at 0x80 is 0x454c, a VxD";
    windows_16_bit: I386, |image| image.put(SIGNATURE, b"NE")
        => "Signature at 0x80 is 0x454e, a 16-bit (NE) image";
    signature_damaged: I386, |image| image.put(SIGNATURE, b"PE\0\x01")
        => "Signature at 0x80 is 0x1004550, expected \"PE\\0\\0\"";
    headers_cut: I386, |image| image.bytes.truncate(0xA0)
        => "NumberOfRvaAndSizes at 0xf4 has 4 bytes, beyond the file's 160 bytes";
    section_table_cut: I386, |image| image.bytes.truncate(0x200)
        => "section table at 0x178 has 200 bytes, beyond the file's 512 bytes";

    arm64: AMD64, |image| image.put_u16(FILE_HEADER, 0xAA64)
        => "Machine at 0x84 is 0xaa64, ARM64: expected i386 (0x14c) or amd64 (0x8664)";
    unknown_machine: AMD64, |image| image.put_u16(FILE_HEADER, 0x1234)
        => "Machine at 0x84 is 0x1234, an unknown machine: expected i386";
    no_sections: I386, |image| image.put_u16(FILE_HEADER + 2, 0)
        => "NumberOfSections at 0x86 is 0x0, expected 1 to 96";
    too_many_sections: I386, |image| image.put_u16(FILE_HEADER + 2, 97)
        => "NumberOfSections at 0x86 is 0x61, expected 1 to 96";
    not_linked: I386, |image| image.put_u16(FILE_HEADER + 18, 0x100)
        => "Characteristics at 0x96 is 0x100, without IMAGE_FILE_EXECUTABLE_IMAGE";
    optional_header_short: I386, |image| image.put_u16(FILE_HEADER + 16, 90)
        => "SizeOfOptionalHeader at 0x94 is 0x5a, expected at least 0x60 bytes";

    pe32_magic_for_amd64: AMD64, |image| image.put_u16(OPTIONAL_HEADER, 0x10B)
        => "Magic at 0x98 is 0x10b, expected PE32+ (0x20b), as the machine is amd64";
    pe32_plus_magic_for_i386: I386, |image| image.put_u16(OPTIONAL_HEADER, 0x20B)
        => "Magic at 0x98 is 0x20b, expected PE32 (0x10b), as the machine is i386";
    too_many_directories: I386, |image| image.put_u32(OPTIONAL_HEADER + 92, 17)
        => "NumberOfRvaAndSizes at 0xf4 is 0x11, expected at most 16";
    directories_beyond_optional_header: AMD64, |image| image.put_u16(FILE_HEADER + 16, 200)
        => "NumberOfRvaAndSizes at 0x104 is 0x10, expected at most 16 data directories that fit SizeOfOptionalHeader (0xc8)";
    program: I386, |image| image.put_u16(OPTIONAL_HEADER + 68, 3)
        => "Subsystem at 0xdc is 0x3, a program for subsystem Windows console: expected a driver";
    dll: AMD64, |image| {
        image.put_u16(OPTIONAL_HEADER + 68, 2);
        image.put_u16(FILE_HEADER + 18, 0x2022);
    } => "Subsystem at 0xdc is 0x2, a DLL for subsystem Windows GUI: expected a driver";
    efi_program: AMD64, |image| image.put_u16(OPTIONAL_HEADER + 68, 10)
        => "Subsystem at 0xdc is 0xa, a program for subsystem EFI";
    section_alignment_odd: I386, |image| image.put_u32(OPTIONAL_HEADER + 32, 0x1001)
        => "SectionAlignment at 0xb8 is 0x1001, expected a power of two";
    section_alignment_zero: I386, |image| image.put_u32(OPTIONAL_HEADER + 32, 0)
        => "SectionAlignment at 0xb8 is 0x0, expected a power of two";
    file_alignment_odd: I386, |image| image.put_u32(OPTIONAL_HEADER + 36, 0x201)
        => "FileAlignment at 0xbc is 0x201, expected a power of two from 16 to 65536";
    file_alignment_tiny: I386, |image| image.put_u32(OPTIONAL_HEADER + 36, 1)
        => "FileAlignment at 0xbc is 0x1, expected a power of two from 16 to 65536";
    file_alignment_above_section_alignment: I386, |image| image.put_u32(OPTIONAL_HEADER + 36, 0x2000)
        => "FileAlignment at 0xbc is 0x2000, above SectionAlignment (0x1000)";
    file_alignment_of_single_mapping: I386.section_alignment(0x20),
        |image| image.put_u32(OPTIONAL_HEADER + 36, 0x10)
        => "FileAlignment at 0xbc is 0x10, expected SectionAlignment (0x20)";
    image_base_unaligned: I386, |image| image.put_u32(OPTIONAL_HEADER + 28, 0x1_1000)
        => "ImageBase at 0xb4 is 0x11000, expected a multiple of 0x10000";
    image_base_too_high: I386, |image| {
        image.put_u32(OPTIONAL_HEADER + 28, 0xFFFF_0000);
        image.put_u32(OPTIONAL_HEADER + 56, 0x2_0000);
    } => "ImageBase at 0xb4 is 0xffff0000, so SizeOfImage (0x20000) ends beyond the address space";
    image_base_overflows: AMD64, |image| {
        image.put(OPTIONAL_HEADER + 24, &0xFFFF_FFFF_FFFF_0000_u64.to_le_bytes());
        image.put_u32(OPTIONAL_HEADER + 56, 0x2_0000);
    } => "ImageBase at 0xb0 is 0xffffffffffff0000, so SizeOfImage (0x20000) ends beyond";
    size_of_image_zero: I386, |image| image.put_u32(OPTIONAL_HEADER + 56, 0)
        => "SizeOfImage at 0xd0 is 0x0, expected 1 byte to 64 MiB";
    size_of_image_huge: I386, |image| image.put_u32(OPTIONAL_HEADER + 56, MAX_IMAGE_BYTES + 1)
        => "SizeOfImage at 0xd0 is 0x4000001, expected 1 byte to 64 MiB";
    size_of_headers_beyond_file: I386, |image| image.put_u32(OPTIONAL_HEADER + 60, 0x9_9999)
        => "SizeOfHeaders at 0xd4 is 0x99999, beyond the file's 3584 bytes";
    size_of_headers_beyond_image: I386, |image| image.put_u32(OPTIONAL_HEADER + 56, 0x300)
        => "SizeOfHeaders at 0xd4 is 0x400, beyond SizeOfImage (0x300)";
    size_of_headers_before_section_table: AMD64, |image| image.put_u32(OPTIONAL_HEADER + 60, 0x200)
        => "SizeOfHeaders at 0xd4 is 0x200, before the end of the section table at 0x278";

    entry_zero: I386, |image| image.put_u32(OPTIONAL_HEADER + 16, 0)
        => "AddressOfEntryPoint at 0xa8 is 0x0, expected the RVA of DriverEntry";
    entry_outside_sections: I386, |image| image.put_u32(OPTIONAL_HEADER + 16, 0x10)
        => "AddressOfEntryPoint at 0xa8 is 0x10, outside every section";
    entry_in_data: I386, |image| image.put_u32(OPTIONAL_HEADER + 16, 0x3000)
        => "AddressOfEntryPoint at 0xa8 is 0x3000, in section .data, which is not executable";

    thread_local_storage: I386, |image| image.put_directory(9, 0x2000, 0x18)
        => "VirtualAddress of the TLS directory at 0x140 is 0x2000, but there is no thread-local storage";
    delayed_imports: I386, |image| image.put_directory(13, 0x2000, 0x20)
        => "VirtualAddress of the delay import directory at 0x160 is 0x2000, but delay-loaded";
    managed: AMD64, |image| image.put_directory(14, 0x2000, 0x48)
        => "VirtualAddress of the COM descriptor (CLR header) at 0x178 is 0x2000, so this is a managed";
}

#[test]
fn file_too_large() {
    let bytes = vec![0; MAX_IMAGE_BYTES as usize + 1];
    let error = Image::parse(&bytes).expect_err("too large");
    assert_eq!(
        error.to_string(),
        "the file has 67108865 bytes, more than the 67108864 that an image may have"
    );
}
