//! Rejections by the section table.

use abi::DriverAbi;

use super::{AMD64, I386, rejections};
use crate::Image;
use crate::builder::{Builder, OPTIONAL_HEADER, SectionIndex::*};

const VIRTUAL_SIZE: u32 = 8;
const VIRTUAL_ADDRESS: u32 = 12;
const RAW_SIZE: u32 = 16;
const RAW_POINTER: u32 = 20;

rejections! {
    section_unaligned: I386, |image| image.put_u32(image.section_field(Data, VIRTUAL_ADDRESS), 0x3010)
        => "VirtualAddress at 0x1d4 is 0x3010, section .data: expected a multiple of SectionAlignment (0x1000)";
    section_overlaps_headers: I386, |image| image.put_u32(image.section_field(Text, VIRTUAL_ADDRESS), 0)
        => "VirtualAddress at 0x184 is 0x0, section .text overlaps the headers, which end at 0x400";
    sections_overlap: I386, |image| image.put_u32(image.section_field(Text, VIRTUAL_SIZE), 0x1001)
        => "VirtualAddress at 0x1ac is 0x2000, section .rdata overlaps or precedes section .text at 0x1000-0x2001";
    sections_out_of_order: AMD64, |image| image.put_u32(image.section_field(Data, VIRTUAL_ADDRESS), 0x1000)
        => "VirtualAddress at 0x1e4 is 0x1000, section .data overlaps or precedes section .rdata";
    section_empty: I386, |image| {
        image.put_u32(image.section_field(Data, VIRTUAL_SIZE), 0);
        image.put_u32(image.section_field(Data, RAW_SIZE), 0);
    } => "SizeOfRawData at 0x1d8 is 0x0, section .data is empty in the file and in memory";
    section_begins_beyond_image: I386, |image| image.put_u32(OPTIONAL_HEADER + 56, 0x5000)
        => "VirtualAddress at 0x224 is 0x5000, section .reloc begins beyond SizeOfImage (0x5000)";
    section_ends_beyond_image: I386, |image| image.put_u32(image.section_field(Reloc, VIRTUAL_SIZE), 0x1001)
        => "VirtualSize at 0x220 is 0x1001, section .reloc at 0x5000 ends beyond SizeOfImage (0x6000)";
    section_size_wraps: I386, |image| image.put_u32(image.section_field(Reloc, VIRTUAL_SIZE), 0xFFFF_F000)
        => "VirtualSize at 0x220 is 0xfffff000, section .reloc at 0x5000 ends beyond SizeOfImage (0x6000)";
    section_begins_beyond_file: I386, |image| image.put_u32(image.section_field(Reloc, RAW_POINTER), 0xE00)
        => "PointerToRawData at 0x22c is 0xe00, section .reloc begins beyond the file's 3584 bytes";
    section_ends_beyond_file: I386, |image| image.put_u32(image.section_field(Reloc, RAW_SIZE), 0x400)
        => "SizeOfRawData at 0x228 is 0x400, section .reloc at file offset 0xc00 ends beyond the file's 3584 bytes";
    file_truncated_in_section: I386, |image| image.bytes.truncate(0xD00)
        => "SizeOfRawData at 0x228 is 0x200, section .reloc at file offset 0xc00 ends beyond the file's 3328 bytes";
    raw_size_wraps: I386, |image| image.put_u32(image.section_field(Reloc, RAW_SIZE), 0xFFFF_FFFF)
        => "SizeOfRawData at 0x228 is 0xffffffff, section .reloc at file offset 0xc00 ends beyond";
    raw_data_unaligned: I386, |image| image.put_u32(image.section_field(Text, RAW_POINTER), 0x410)
        => "PointerToRawData at 0x18c is 0x410, section .text: expected a multiple of FileAlignment (0x200)";
    raw_data_overlaps_headers: I386, |image| image.put_u32(image.section_field(Text, RAW_POINTER), 0x200)
        => "PointerToRawData at 0x18c is 0x200, section .text overlaps the headers in the file";
    raw_data_overlaps: I386, |image| image.put_u32(image.section_field(Data, RAW_POINTER), 0x400)
        => "PointerToRawData at 0x1dc is 0x400, section .data overlaps section .text in the file, 0x400-0x600";
    single_mapping_moved: I386.section_alignment(0x80),
        |image| image.put_u32(image.section_field(Data, RAW_POINTER), 0x880)
        => "PointerToRawData at 0x1dc is 0x880, section .data: expected its VirtualAddress (0x800)";
}

/// However a file is cut, it is rejected: nothing in it is optional.
#[test]
fn truncated_anywhere() {
    for abi in [DriverAbi::I386, DriverAbi::Amd64] {
        for alignment in [0x20, 0x1000] {
            let built = Builder::new(abi).section_alignment(alignment).build();
            for length in 0..built.bytes.len() {
                let error = Image::parse(&built.bytes[..length]);
                assert!(error.is_err(), "cut to {length} bytes");
            }
        }
    }
}
