//! Layout, relocation, binding, cookie, protections.

use abi::DriverAbi;

use super::{AMD64, I386};
use crate::builder::SectionIndex::*;
use crate::builder::{BASE, FILE_HEADER, offsets};
use crate::{Image, MapError, Mapped, PageProtection, SecurityCookie};

const COOKIE: u64 = 0x1234_5678;

fn u32_at(mapped: &Mapped, rva: u32) -> u32 {
    let at = rva as usize;
    u32::from_le_bytes(mapped.memory[at..at + 4].try_into().expect("4 bytes"))
}

fn u64_at(mapped: &Mapped, rva: u32) -> u64 {
    u64::from(u32_at(mapped, rva)) | u64::from(u32_at(mapped, rva + 4)) << 32
}

#[test]
fn amd64_at_another_address() {
    let image = Image::parse(&AMD64.build().bytes).expect("valid");
    let base = 0xFFFF_F800_1234_5000;
    let mut asked = Vec::new();
    let resolve = |import: &crate::Import| {
        asked.push(import.to_string());
        0xFFFF_F800_0100_0000 + u64::from(import.iat_rva)
    };
    let mapped = image.map(base, resolve, 0x1234_5678_9ABC).expect("maps");
    assert_eq!(
        asked,
        [
            "ntoskrnl.exe!IoCreateDevice",
            "ntoskrnl.exe!DbgPrint",
            "HAL.dll!HalTranslateBusAddress",
            "HAL.dll!#7"
        ]
    );
    assert_eq!(mapped.entry, base + 0x4000);
    assert_eq!(mapped.memory.len(), 7 * 4096);
    assert_eq!(&mapped.memory[..2], b"MZ", "headers are there");
    assert_eq!(mapped.memory[0x1000], 0xC3, ".text is there");
    assert_eq!(u64_at(&mapped, 0x3000 + offsets::POINTER), base + 0x1000);
    let cookie_address = 0x2000 + offsets::LOAD_CONFIG + 0x58;
    assert_eq!(u64_at(&mapped, cookie_address), base + 0x3008);
    for import in &image.imports {
        let expected = 0xFFFF_F800_0100_0000 + u64::from(import.iat_rva);
        assert_eq!(u64_at(&mapped, import.iat_rva), expected, "{import}");
    }
    assert_eq!(u64_at(&mapped, 0x2010), 0, "the table's end is kept");
    assert_eq!(u64_at(&mapped, 0x3000 + offsets::COOKIE), 0x1234_5678_9ABC);
}

#[test]
fn i386_single_mapping_at_another_address() {
    let image = Image::parse(&I386.section_alignment(0x80).build().bytes).expect("valid");
    let mapped = image
        .map(0x8200_0000, |_| 0x8100_0010, COOKIE)
        .expect("maps");
    assert_eq!(mapped.memory.len(), 4096);
    assert_eq!(u32_at(&mapped, 0x800 + offsets::POINTER), 0x8200_0400);
    assert_eq!(u32_at(&mapped, 0x800 + offsets::POINTER + 4), 0);
    assert_eq!(u32_at(&mapped, 0x600), 0x8100_0010);
    assert_eq!(
        u64_at(&mapped, 0x800 + offsets::COOKIE),
        COOKIE,
        "4 bytes only"
    );
}

#[test]
fn at_the_preferred_address_nothing_is_relocated() {
    let image = Image::parse(&I386.build().bytes).expect("valid");
    let mapped = image.map(BASE, |_| 0x8100_0000, COOKIE).expect("maps");
    assert_eq!(u32_at(&mapped, 0x3000 + offsets::POINTER), 0x1_1000);
}

#[test]
fn below_the_preferred_address() {
    let image = Image::parse(&I386.build().bytes).expect("valid");
    let mapped = image.map(0x1000, |_| 0, COOKIE).expect("maps");
    assert_eq!(u32_at(&mapped, 0x3000 + offsets::POINTER), 0x2000);
}

#[test]
fn stripped_relocations_fix_the_address() {
    let mut built = I386.build();
    built.put_u16(FILE_HEADER + 18, 0x103);
    built.put_directory(5, 0, 0);
    let image = Image::parse(&built.bytes).expect("valid");
    assert!(image.map(BASE, |_| 0, COOKIE).is_ok());
    let error = image.map(0x8200_0000, |_| 0, COOKIE).expect_err("fixed");
    assert_eq!(
        error.to_string(),
        "the image's relocations are stripped: it can only be mapped at 0x10000, not at 0x82000000"
    );
}

#[test]
fn addresses_that_cannot_be() {
    let i386 = Image::parse(&I386.build().bytes).expect("valid");
    let amd64 = Image::parse(&AMD64.build().bytes).expect("valid");
    assert_eq!(
        i386.map(0x8200_0010, |_| 0, COOKIE),
        Err(MapError::Unaligned { base: 0x8200_0010 })
    );
    for (image, base) in [
        (&i386, 0xFFFF_A000),
        (&i386, 0x1_0000_0000),
        (&amd64, 0xFFFF_FFFF_FFFF_F000),
    ] {
        let error = image.map(base, |_| 0, COOKIE).expect_err("too high");
        assert!(matches!(error, MapError::AddressSpace { .. }), "{error}");
    }
}

#[test]
fn import_above_4_gib_in_an_i386_driver() {
    let image = Image::parse(&I386.build().bytes).expect("valid");
    let error = image
        .map(0x8200_0000, |_| 1 << 32, COOKIE)
        .expect_err("too high");
    assert_eq!(
        error.to_string(),
        "ntoskrnl.exe!IoCreateDevice was resolved to 0x100000000, which an i386 driver cannot address"
    );
}

#[test]
fn cookies_that_drivers_take_for_unseeded() {
    let i386 = Image::parse(&I386.build().bytes).expect("valid");
    let amd64 = Image::parse(&AMD64.build().bytes).expect("valid");
    for (image, cookie) in [
        (&i386, 0),
        (&i386, 0xBB40_E64E),
        (&i386, 1 << 32),
        (&amd64, 0),
        (&amd64, 0x2B99_2DDF_A232),
        (&amd64, 1 << 48),
    ] {
        let error = image.map(BASE, |_| 0, cookie).expect_err("not a cookie");
        assert!(matches!(error, MapError::Cookie { .. }), "{error}");
    }
}

#[test]
fn any_random_number_makes_a_cookie() {
    for (abi, builder) in [(DriverAbi::I386, I386), (DriverAbi::Amd64, AMD64)] {
        let image = Image::parse(&builder.build().bytes).expect("valid");
        for random in [0, 1, 0xBB40, 0xBB40_E64E, 0x2B99_2DDF_A232, u64::MAX] {
            let cookie = SecurityCookie::value_from(abi, random);
            assert!(
                image.map(BASE, |_| 0, cookie).is_ok(),
                "{abi:?} {random:#x}"
            );
        }
    }
}

#[test]
fn padding_of_the_file_is_mapped_but_not_the_next_section() {
    let mut built = I386.build();
    built.put_u32(built.section_field(Text, 8), 0x10);
    built.put(built.raw(Text, 0x1FF), &[0xEE]);
    let image = Image::parse(&built.bytes).expect("valid");
    let mapped = image.map(BASE, |_| 0, COOKIE).expect("maps");
    assert_eq!(mapped.memory[0x11FF], 0xEE);
    assert_eq!(mapped.memory[0x1200..0x2000], [0; 0xE00]);
}

fn protections(bytes: &[u8]) -> Vec<&'static str> {
    let image = Image::parse(bytes).expect("valid");
    let mapped = image.map(BASE, |_| 0, COOKIE).expect("maps");
    assert_eq!(mapped.protection.len() * 4096, mapped.memory.len());
    let names = mapped.protection.iter().copied().map(PageProtection::name);
    names.collect()
}

#[test]
fn page_aligned_images_are_write_xor_execute() {
    // headers, .text, .rdata, .data, INIT (asks for rwx), .reloc, .pdata
    let expected = ["r--", "r-x", "r--", "rw-", "r-x", "r--", "r--"];
    assert_eq!(protections(&AMD64.build().bytes), expected);
}

#[test]
fn merged_code_and_data_keep_what_they_ask_for() {
    let mut built = I386.build();
    built.put_u32(built.section_field(Text, 36), 0xE000_0020);
    assert_eq!(protections(&built.bytes)[1], "rwx");
}

#[test]
fn single_mapping_is_rwx_only_where_code_and_data_meet() {
    // 0x800 apart: page 0 headers and .text; page 1 .rdata and .data; page 2 INIT and .reloc.
    let built = I386.section_alignment(0x800).build();
    assert_eq!(protections(&built.bytes), ["r-x", "rw-", "r-x"]);
    let built = I386.section_alignment(0x20).build();
    assert_eq!(protections(&built.bytes), ["rwx"]);
}

#[test]
fn runs_of_equal_protection() {
    let image = Image::parse(&AMD64.build().bytes).expect("valid");
    let mapped = image.map(BASE, |_| 0, COOKIE).expect("maps");
    let runs: Vec<_> = mapped.runs().map(|(run, p)| (run, p.name())).collect();
    let expected = [
        (0..1, "r--"),
        (1..2, "r-x"),
        (2..3, "r--"),
        (3..4, "rw-"),
        (4..5, "r-x"),
        (5..7, "r--"),
    ];
    assert_eq!(runs, expected);
    let flags = PageProtection::READ_WRITE.region_flags();
    assert_eq!(flags, abi::boot::RegionFlags::WRITE);
    let flags = PageProtection::READ_EXECUTE.region_flags();
    assert_eq!(flags, abi::boot::RegionFlags::EXECUTE);
}

/// Whatever single byte is changed: the image is rejected, or it can be mapped and described.
#[test]
fn any_changed_byte_is_survived() {
    let mut rejected = 0;
    for builder in [I386.section_alignment(0x80), AMD64.with_exports()] {
        let built = builder.build();
        for offset in 0..built.bytes.len() {
            for value in [0x01, 0xFF] {
                let mut bytes = built.bytes.clone();
                bytes[offset] = value;
                let Ok(image) = Image::parse(&bytes) else {
                    rejected += 1;
                    continue;
                };
                if image.size_of_image < 1 << 20 {
                    let _ = image.map(0x8200_0000, |_| 0, COOKIE);
                }
                let report = crate::report::InspectReport::new(&image, |_, _, _| {
                    crate::report::ImportStatus::Unknown
                });
                assert!(!report.to_string().is_empty());
            }
        }
    }
    assert!(rejected > 300, "only {rejected} changes were noticed");
}
