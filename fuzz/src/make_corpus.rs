//! Writes the seeds of the corpora: `cargo run --bin make_corpus` in this folder.
//!
//! The seeds are our own builder's images, and such images damaged in one place each, so that the fuzzer starts
//! behind every table's front door; the policies of the reference; and what device models say. Inputs that the fuzzer finds are not kept in the repository.

use std::io;
use std::path::Path;

use abi::DriverAbi;
use loader::Image;
use loader::builder::{Builder, Built, FILE_HEADER, OPTIONAL_HEADER, SectionIndex, offsets};
use vmm::devices::external::protocol::{FromModel, Signal};
use vmm::ports::Width;

fn main() -> io::Result<()> {
    for (target, seeds) in [
        ("pe_image", seeds()),
        ("readiness", code_seeds()),
        ("policy", policy_seeds()),
        ("external_model", message_seeds()),
    ] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(target);
        std::fs::create_dir_all(&folder)?;
        for (name, bytes) in seeds {
            std::fs::write(folder.join(name), bytes)?;
        }
    }
    Ok(())
}

/// The policies of the reference, and of docs/examples.
fn policy_seeds() -> Vec<(String, Vec<u8>)> {
    let reference = include_str!("../../docs/policy.md");
    let blocks = reference.split("```toml\n").skip(1);
    let texts = blocks.filter_map(|block| block.split("```").next());
    let example = include_str!("../../docs/examples/parallel-port.toml");
    (1..)
        .zip(texts.chain([example]))
        .map(|(number, text)| (format!("policy-{number:02}.toml"), text.into()))
        .collect()
}

/// What models say: hello, then each message, in pieces of several sizes; and each message damaged in one byte.
fn message_seeds() -> Vec<(String, Vec<u8>)> {
    let hello = |takes_memory| FromModel::Hello {
        width: Width::Byte,
        takes_memory,
    };
    let signals = [Signal::Assert, Signal::Deassert, Signal::Pulse].map(FromModel::Signal);
    let mut talk: Vec<FromModel> = signals.to_vec();
    talk.extend([
        FromModel::Doorbell,
        FromModel::Done {
            number: 15,
            value: 0x1234_5678,
        },
        FromModel::Goodbye,
    ]);
    let bytes = |first: FromModel| -> Vec<u8> {
        let all = [first].into_iter().chain(talk.iter().copied());
        all.flat_map(FromModel::encode).collect()
    };
    let mut seeds = vec![
        ("bytes".to_owned(), [vec![0], bytes(hello(false))].concat()),
        ("memory".to_owned(), [vec![15], bytes(hello(true))].concat()),
        (
            "at-once".to_owned(),
            [vec![255], bytes(hello(true))].concat(),
        ),
    ];
    for at in [0, 1, 2, 4, 8, 12] {
        let mut damaged = [vec![31], bytes(hello(true))].concat();
        damaged[17 + at] ^= 1;
        seeds.push((format!("damaged-{at}"), damaged));
    }
    seeds
}

/// Images with code: a DriverEntry that sets a dispatch routine and calls an import, and what a dispatch routine may do.
fn code_seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for abi in [DriverAbi::I386, DriverAbi::Amd64] {
        for (name, dispatch) in dispatches(abi) {
            let mut built = Builder::new(abi).build();
            let entry = built.rva(SectionIndex::Init, offsets::ENTRY);
            let text = built.rva(SectionIndex::Text, 0);
            let jump = text.wrapping_sub(entry + 5).to_le_bytes();
            let at = built.raw(SectionIndex::Init, offsets::ENTRY);
            built.put(at, &[0xE9]);
            built.put(at + 1, &jump);
            let base = Image::parse(&built.bytes).map_or(0, |image| image.preferred_base);
            let routine = text + DISPATCH;
            let slot = built.rva(SectionIndex::Rdata, offsets::IAT);
            let mut code = Vec::new();
            match abi {
                DriverAbi::I386 => {
                    let base = u32::try_from(base).unwrap_or(0);
                    code.extend([0x8B, 0x4C, 0x24, 0x04]); // mov ecx, [esp+4]
                    code.extend([0xC7, 0x41, 0x70]); // mov dword [ecx+38h+14*4], routine
                    code.extend((base + routine).to_le_bytes());
                    code.extend([0xFF, 0x15]); // call [slot]
                    code.extend((base + slot).to_le_bytes());
                    code.extend([0x33, 0xC0, 0xC2, 0x08, 0x00]); // xor eax, eax; ret 8
                }
                DriverAbi::Amd64 => {
                    code.extend([0x48, 0x8D, 0x05]); // lea rax, [routine]
                    code.extend((DISPATCH - 7).to_le_bytes());
                    code.extend([0x48, 0x89, 0x81, 0xE0, 0, 0, 0]); // mov [rcx+70h+14*8], rax
                    code.extend([0xFF, 0x15]); // call [slot]
                    let next = text + u32::try_from(code.len() + 4).unwrap_or(0);
                    code.extend(slot.wrapping_sub(next).to_le_bytes());
                    code.extend([0x33, 0xC0, 0xC3]); // xor eax, eax; ret
                }
            }
            let at = built.raw(SectionIndex::Text, 0);
            built.put(at, &code);
            built.put(at + DISPATCH, &dispatch);
            seeds.push((format!("{}-{name}.sys", abi.name()), built.bytes));
        }
    }
    seeds
}

/// Where the dispatch routine is in `.text`.
const DISPATCH: u32 = 0x40;

/// Dispatch routines: each reads the I/O control code and does something with it.
fn dispatches(abi: DriverAbi) -> Vec<(&'static str, Vec<u8>)> {
    let load: &[u8] = match abi {
        // mov eax, [esp+8]; mov eax, [eax+60h]; mov eax, [eax+0Ch]
        DriverAbi::I386 => &[0x8B, 0x44, 0x24, 0x08, 0x8B, 0x40, 0x60, 0x8B, 0x40, 0x0C],
        // mov rax, [rdx+0B8h]; mov eax, [rax+18h]
        DriverAbi::Amd64 => &[0x48, 0x8B, 0x82, 0xB8, 0, 0, 0, 0x8B, 0x40, 0x18],
    };
    let end: &[u8] = match abi {
        DriverAbi::I386 => &[0xC2, 0x08, 0x00],
        DriverAbi::Amd64 => &[0xC3],
    };
    let with = |body: &[u8]| [load, body, end].concat();
    vec![
        // cmp eax, 222000h; je +3; in al, dx; nop; nop
        (
            "compare",
            with(&[0x3D, 0, 0x20, 0x22, 0, 0x74, 0x03, 0xEC, 0x90, 0x90]),
        ),
        // sub eax, 222000h; je +6; sub eax, 4; je +1; cli
        (
            "subtract",
            with(&[
                0x2D, 0, 0x20, 0x22, 0, 0x74, 0x06, 0x83, 0xE8, 0x04, 0x74, 0x01, 0xFA,
            ]),
        ),
        // shr eax, 2; and eax, 0FFFh; cmp eax, 800h; ja +2; movzx ecx, al; jmp through a table
        (
            "table",
            with(&[
                0xC1, 0xE8, 0x02, 0x25, 0xFF, 0x0F, 0, 0, 0x3D, 0, 0x08, 0, 0, 0x77, 0x0A, 0x0F,
                0xB6, 0xC8, 0xFF, 0x24, 0x8D, 0, 0x10, 0x01, 0,
            ]),
        ),
        // push eax; call +1; ret; pop ecx; ror eax, cl; bt eax, ecx; jb -6; leave; mov cr0, eax; rep outsb
        (
            "stack",
            with(&[
                0x50, 0xE8, 1, 0, 0, 0, 0xC3, 0x59, 0xD3, 0xC8, 0x0F, 0xA3, 0xC8, 0x72, 0xF9, 0xC9,
                0x0F, 0x22, 0xC0, 0xF3, 0x6E,
            ]),
        ),
    ]
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
