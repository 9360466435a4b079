//! The guest images as they are embedded: what may be in them, and how large they may get.
//! scripts/check-guest-image shows that they are reproducible.

#![expect(
    clippy::unwrap_used,
    reason = "tests; clippy knows only functions with #[test] as such"
)]

use abi::DriverAbi;
use goblin::elf::program_header::{PF_R, PF_W, PF_X, PT_DYNAMIC, PT_INTERP, PT_LOAD};
use goblin::elf::section_header::{SHN_UNDEF, SHT_REL, SHT_RELA};
use goblin::elf::{Elf, header, sym};

const ABIS: [DriverAbi; 2] = [DriverAbi::I386, DriverAbi::Amd64];
/// Bytes of guest memory that an image's segments may take: a guest has 16 MiB, and two and a half may be the kernel.
const MEMORY_BUDGET: u64 = 5 << 19;
/// Bytes that an image may take in the program, with its symbols.
const FILE_BUDGET: usize = 3 << 20;

fn parse(abi: DriverAbi) -> Elf<'static> {
    Elf::parse(images::guest(abi)).unwrap()
}

#[test]
fn image_is_static_64_bit_executable() {
    for abi in ABIS {
        let elf = parse(abi);

        assert!(elf.is_64 && elf.little_endian);
        assert_eq!(elf.header.e_machine, header::EM_X86_64);
        assert_eq!(elf.header.e_type, header::ET_EXEC);
        let has = |kind| elf.program_headers.iter().any(|part| part.p_type == kind);
        assert!(!has(PT_DYNAMIC) && !has(PT_INTERP), "{}", abi.name());
        assert!(elf.dynamic.is_none());
    }
}

#[test]
fn segments_are_never_both_writable_and_executable() {
    for abi in ABIS {
        let elf = parse(abi);
        let loaded: Vec<_> = elf
            .program_headers
            .iter()
            .filter(|part| part.p_type == PT_LOAD && part.p_memsz != 0)
            .collect();

        assert!(loaded.iter().any(|part| part.p_flags & PF_X != 0));
        assert!(loaded.iter().any(|part| part.p_flags & PF_W != 0));
        for part in &loaded {
            assert_ne!(part.p_flags & PF_R, 0, "{}: {part:?}", abi.name());
            assert_ne!(
                part.p_flags & (PF_W | PF_X),
                PF_W | PF_X,
                "{}: {part:?}",
                abi.name()
            );
        }
        // And no page belongs to two of them.
        let pages = |part: &goblin::elf::ProgramHeader| {
            part.p_vaddr / 4096..(part.p_vaddr + part.p_memsz).div_ceil(4096)
        };
        let mut ranges: Vec<_> = loaded.iter().map(|part| pages(part)).collect();
        ranges.sort_by_key(|range| range.start);
        for pair in ranges.windows(2) {
            assert!(pair[0].end <= pair[1].start, "{}: {pair:?}", abi.name());
        }
    }
}

#[test]
fn nothing_is_left_to_link() {
    for abi in ABIS {
        let elf = parse(abi);

        let undefined: Vec<&str> = elf
            .syms
            .iter()
            .filter(|symbol| {
                symbol.st_shndx == SHN_UNDEF as usize
                    && sym::st_type(symbol.st_info) != sym::STT_FILE
                    && symbol.st_name != 0
            })
            .filter_map(|symbol| elf.strtab.get_at(symbol.st_name))
            .collect();
        assert!(undefined.is_empty(), "{}: {undefined:?}", abi.name());
        assert!(
            elf.syms.iter().count() > 100,
            "symbols are for crash reports"
        );
        let relocations: Vec<_> = elf
            .section_headers
            .iter()
            .filter(|section| matches!(section.sh_type, SHT_REL | SHT_RELA) && section.sh_size != 0)
            .filter_map(|section| elf.shdr_strtab.get_at(section.sh_name))
            .collect();
        assert!(relocations.is_empty(), "{}: {relocations:?}", abi.name());
    }
}

#[test]
fn sizes_are_within_their_budgets() {
    for abi in ABIS {
        let image = images::guest(abi);
        let in_memory: u64 = parse(abi)
            .program_headers
            .iter()
            .filter(|part| part.p_type == PT_LOAD)
            .map(|part| part.p_memsz)
            .sum();

        println!(
            "{}: {} bytes, {in_memory} in memory",
            abi.name(),
            image.len()
        );
        assert!(image.len() <= FILE_BUDGET, "{} bytes", image.len());
        assert!(in_memory <= MEMORY_BUDGET, "{in_memory} bytes in memory");
    }
}

#[test]
fn machines_paths_are_not_in_the_image() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/");
    for abi in ABIS {
        let image = images::guest(abi);
        let found = image
            .windows(root.len() - "tests/".len())
            .any(|window| root.as_bytes().starts_with(window));
        assert!(!found, "{}: the image depends on {root}", abi.name());
    }
}
