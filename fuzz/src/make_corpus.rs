//! Writes the seeds of the corpora: `cargo run --bin make_corpus` in this folder.
//!
//! The seeds are our own builder's images, and such images damaged in one place each, so that the fuzzer starts
//! behind every table's front door. Inputs that the fuzzer finds are not kept in the repository.

use std::io;
use std::path::Path;

use abi::DriverAbi;
use loader::builder::{Builder, Built, FILE_HEADER, OPTIONAL_HEADER, SectionIndex, offsets};

fn main() -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/pe_image");
    std::fs::create_dir_all(&folder)?;
    for (name, bytes) in seeds() {
        std::fs::write(folder.join(name), bytes)?;
    }
    Ok(())
}

fn seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for abi in [DriverAbi::I386, DriverAbi::Amd64] {
        let builder = Builder::new(abi);
        let mut add = |kind: &str, built: Built| {
            seeds.push((format!("{}-{kind}.sys", abi.name()), built.bytes));
        };
        add("plain", builder.build());
        add("exports", builder.with_exports().build());
        add("old", builder.without_load_config().build());
        add("alignment-20", builder.section_alignment(0x20).build());
        add("alignment-800", builder.section_alignment(0x800).build());
        add("cut", {
            let mut built = builder.build();
            built.bytes.truncate(0x900);
            built
        });
        add("stripped", {
            let mut built = builder.build();
            built.put_u16(FILE_HEADER + 18, 0x103);
            built.put_directory(5, 0, 0);
            built
        });
        add("no-directories", {
            let mut built = builder.build();
            built.put_u32(built.directory(0) - 4, 0);
            built
        });
        add("huge", {
            let mut built = builder.build();
            built.put_u32(OPTIONAL_HEADER + 56, 64 << 20);
            built
        });
        add("no-lookup-table", {
            let mut built = builder.build();
            for descriptor in [0, 20] {
                let offset = offsets::DESCRIPTORS + descriptor;
                built.put_u32(built.raw(SectionIndex::Init, offset), 0);
            }
            built
        });
    }
    seeds
}
