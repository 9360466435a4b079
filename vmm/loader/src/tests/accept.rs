//! What is accepted, and what is read from it.

use abi::DriverAbi;

use super::{AMD64, I386};
use crate::builder::SectionIndex::*;
use crate::builder::{BASE, FILE_HEADER, OPTIONAL_HEADER, offsets};
use crate::{
    CookieSource, Export, ExportTarget, Image, Import, ImportName, Relocation, RelocationKind,
    SecurityCookie,
};

fn import(dll: &str, name: &str, hint: u16, iat_rva: u32) -> Import {
    let name = name.to_owned();
    Import {
        dll: dll.to_owned(),
        name: ImportName::Name { name, hint },
        iat_rva,
    }
}

#[test]
fn amd64_image() {
    let built = AMD64.build();
    let image = Image::parse(&built.bytes).expect("valid");
    assert_eq!(image.abi, DriverAbi::Amd64);
    assert_eq!(image.preferred_base, BASE);
    assert_eq!(image.size_of_image, 0x7000);
    assert_eq!(image.page_count(), 7);
    assert_eq!(image.entry_rva, 0x4000);
    assert_eq!(image.time_stamp, 1_000_000_000);
    assert!(!image.is_single_mapping() && !image.is_export_driver);
    let names: Vec<_> = image.sections.iter().map(|s| s.name.as_str()).collect();
    let expected = [".text", ".rdata", ".data", "INIT", ".reloc", ".pdata"];
    assert_eq!(names, expected);
    assert!(
        image
            .section_at(0x4000)
            .is_some_and(|s| s.name == "INIT" && s.is_discardable())
    );
    assert!(image.section_at(0x4200).is_none(), "behind INIT's bytes");
    assert_eq!(
        image.imports,
        [
            import("ntoskrnl.exe", "IoCreateDevice", 300, 0x2000),
            import("ntoskrnl.exe", "DbgPrint", 40, 0x2008),
            import("HAL.dll", "HalTranslateBusAddress", 12, 0x2040),
            Import {
                dll: "HAL.dll".to_owned(),
                name: ImportName::Ordinal(7),
                iat_rva: 0x2048
            },
        ]
    );
    let kind = RelocationKind::Dir64;
    let places = [0x20D8, 0x3010].map(|rva| Relocation { rva, kind });
    assert_eq!(image.relocations, places);
    assert_eq!(image.function_table, Some(0x6000..0x6018));
}

#[test]
fn i386_single_mapping() {
    let built = I386.section_alignment(0x20).build();
    let image = Image::parse(&built.bytes).expect("valid");
    assert_eq!(image.abi, DriverAbi::I386);
    assert!(image.is_single_mapping());
    assert_eq!(image.size_of_image as usize, built.bytes.len());
    for section in &image.sections {
        assert_eq!(section.rva, section.file_range.start, "{}", section.name);
    }
    assert_eq!(
        image.imports[1],
        import("ntoskrnl.exe", "DbgPrint", 40, 0x604)
    );
    assert_eq!(image.function_table, None);
}

/// goblin reads the builder's images and finds the same imports: the builder is not only self-consistent.
#[test]
fn goblin_agrees() {
    for builder in [
        I386,
        AMD64,
        AMD64.with_exports(),
        I386.section_alignment(0x80),
    ] {
        let built = builder.build();
        let image = Image::parse(&built.bytes).expect("valid");
        let other = goblin::pe::PE::parse(&built.bytes).expect("goblin accepts it");
        assert_eq!(other.is_64, image.abi == DriverAbi::Amd64);
        assert_eq!(other.entry, image.entry_rva);
        let ours = image.imports.iter().map(|i| {
            let name = i.ordinal().map_or_else(
                || i.name().unwrap_or_default().to_owned(),
                |ordinal| format!("ORDINAL {ordinal}"),
            );
            (i.dll.clone(), name, i.iat_rva as usize)
        });
        let theirs = other
            .imports
            .iter()
            .map(|i| (i.dll.to_owned(), i.name.to_string(), i.offset));
        assert_eq!(ours.collect::<Vec<_>>(), theirs.collect::<Vec<_>>());
        let named = image.exports.iter().filter_map(|e| e.name.as_deref());
        let mut named: Vec<_> = named.collect();
        named.sort_unstable();
        let theirs: Vec<_> = other.exports.iter().filter_map(|e| e.name).collect();
        assert_eq!(named, theirs);
    }
}

#[test]
fn exports_with_aliases_gaps_and_forwarders() {
    let built = AMD64.with_exports().build();
    let image = Image::parse(&built.bytes).expect("valid");
    let export = |name: Option<&str>, ordinal, target| Export {
        name: name.map(str::to_owned),
        ordinal,
        target,
    };
    assert_eq!(
        image.exports,
        [
            export(Some("Alpha"), 5, ExportTarget::Rva(0x1000)),
            export(Some("Beta"), 5, ExportTarget::Rva(0x1000)),
            export(None, 7, ExportTarget::Rva(0x3000)),
            export(
                Some("Gamma"),
                8,
                ExportTarget::Forwarder("HAL.Delta".to_owned())
            ),
        ]
    );
}

#[test]
fn export_driver_has_the_dll_flag() {
    let mut built = AMD64.build();
    built.put_u16(FILE_HEADER + 18, 0x2022);
    assert!(Image::parse(&built.bytes).expect("valid").is_export_driver);
}

#[test]
fn image_without_directories() {
    let mut built = I386.build();
    built.put_u32(OPTIONAL_HEADER + 92, 0);
    let image = Image::parse(&built.bytes).expect("valid");
    assert!(image.imports.is_empty() && image.relocations.is_empty());
}

#[test]
fn checksum_is_reported() {
    let mut built = I386.build();
    let unset = Image::parse(&built.bytes).expect("valid").checksum;
    assert_eq!(unset.stored, 0);
    assert!(!unset.is_correct());
    // By hand: the sum of all words, carries folded in, plus the length.
    let words = built.bytes.chunks(2);
    let sum = words.fold(0_u32, |sum, word| {
        let sum = sum + u32::from(word[0]) + (u32::from(word[1]) << 8);
        (sum & 0xFFFF) + (sum >> 16)
    });
    assert_eq!(unset.computed, sum + 3584);
    built.put_u32(OPTIONAL_HEADER + 64, unset.computed);
    assert!(
        Image::parse(&built.bytes)
            .expect("valid")
            .checksum
            .is_correct()
    );
    built.bytes[0x500] ^= 1;
    assert!(
        !Image::parse(&built.bytes)
            .expect("valid")
            .checksum
            .is_correct()
    );
}

#[test]
fn virtual_size_zero_means_raw_size() {
    let mut built = I386.build();
    built.put_u32(built.section_field(Text, 8), 0);
    let image = Image::parse(&built.bytes).expect("valid");
    assert_eq!(image.sections[0].virtual_bytes, 0x200);
}

#[test]
fn cookie_from_load_config() {
    for builder in [I386, AMD64] {
        let image = Image::parse(&builder.build().bytes).expect("valid");
        let source = CookieSource::LoadConfig;
        let rva = 0x3000 + offsets::COOKIE;
        assert_eq!(image.security_cookie, Some(SecurityCookie { rva, source }));
    }
}

#[test]
fn cookie_with_another_value_is_left_alone() {
    let mut built = AMD64.build();
    built.put_word(built.raw(Data, offsets::COOKIE), 0x1234);
    let image = Image::parse(&built.bytes).expect("valid");
    assert_eq!(image.security_cookie, None);
}

#[test]
fn load_config_from_before_cookies() {
    let mut built = I386.build();
    built.put_u32(built.raw(Rdata, offsets::LOAD_CONFIG), 0x38);
    let image = Image::parse(&built.bytes).expect("valid");
    assert_eq!(image.security_cookie, None);
}

#[test]
fn cookie_by_its_default_value() {
    for builder in [I386, AMD64] {
        let built = builder.without_load_config().build();
        let image = Image::parse(&built.bytes).expect("valid");
        let source = CookieSource::DefaultValue;
        let rva = 0x3000 + offsets::COOKIE;
        assert_eq!(image.security_cookie, Some(SecurityCookie { rva, source }));
    }
}

#[test]
fn cookie_by_default_value_must_be_the_only_aligned_one_in_data() {
    let default = 0x0000_2B99_2DDF_A232_u64.to_le_bytes();
    let cookie_with = |section, offset| {
        let mut built = AMD64.without_load_config().build();
        built.put(built.raw(section, offset), &default);
        Image::parse(&built.bytes).expect("valid").security_cookie
    };
    assert!(
        cookie_with(Data, 0x44).is_some(),
        "unaligned: not a candidate"
    );
    assert!(cookie_with(Text, 0x40).is_some(), "code: not a candidate");
    assert!(
        cookie_with(Init, 0x180).is_some(),
        "writable code: not a candidate"
    );
    assert!(
        cookie_with(Rdata, 0x1C0).is_some(),
        "constant: not a candidate"
    );
    assert!(cookie_with(Data, 0x40).is_none(), "two candidates");
}

#[test]
fn imports_without_lookup_table() {
    let mut built = AMD64.build();
    for descriptor in [0, 20] {
        built.put_u32(built.raw(Init, offsets::DESCRIPTORS + descriptor), 0);
    }
    let image = Image::parse(&built.bytes).expect("valid");
    let expected = Image::parse(&AMD64.build().bytes).expect("valid").imports;
    assert_eq!(image.imports, expected);
}

#[test]
fn function_table_padding_is_not_part_of_it() {
    let mut built = AMD64.build();
    built.put_directory(3, 0x6000, 0x30);
    let image = Image::parse(&built.bytes).expect("valid");
    assert_eq!(image.function_table, Some(0x6000..0x6018));
}
