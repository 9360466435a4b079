//! The seeds of the corpora. The workspace's tests read this file too: they check that the seeds in the repository are these.
//!
//! They are our own builder's images, and such images damaged in one place each, so that the fuzzer starts behind every
//! table's front door; the policies of the reference; what device models say; and requests of clients. Inputs that the fuzzer
//! finds are not kept in the repository.

use abi::DriverAbi;
use abi::client::{Opcode, QueueLayout, RequestHeader};
use loader::Image;
use loader::builder::{Builder, Built, FILE_HEADER, OPTIONAL_HEADER, SectionIndex, offsets};
use vmm::devices::external::protocol::{FromModel, Signal, Version};
use zerocopy::IntoBytes;

/// A file's name and its bytes.
pub(crate) type Seed = (String, Vec<u8>);

/// Each target's.
pub(crate) fn all() -> [(&'static str, Vec<Seed>); 5] {
    [
        ("pe_image", image_seeds()),
        ("readiness", code_seeds()),
        ("policy", policy_seeds()),
        ("external_model", message_seeds()),
        ("channel", channel_seeds()),
    ]
}

/// The policies of the reference, and of docs/examples.
fn policy_seeds() -> Vec<Seed> {
    let reference = include_str!("../../docs/policy.md");
    let blocks = reference.split("```toml\n").skip(1);
    let texts = blocks.filter_map(|block| block.split("```").next());
    let example = include_str!("../../docs/examples/parallel-port.toml");
    (1..)
        .zip(texts.chain([example]))
        .map(|(number, text)| (format!("policy-{number:02}.toml"), text.into()))
        .collect()
}

/// What models say: hello, then each message, of both versions and in pieces of several sizes; and each message of version 1
/// damaged in one byte.
fn message_seeds() -> Vec<Seed> {
    let hello = |version, takes_page| FromModel::Hello {
        version,
        width: 1,
        takes_page,
        has_event: false,
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
    let bytes = |version: Version, takes_page| -> Vec<u8> {
        let all = [hello(version, takes_page)]
            .into_iter()
            .chain(talk.iter().copied());
        all.flat_map(|message| message.encode(version).to_vec())
            .collect()
    };
    let mut seeds = Vec::new();
    for (version, suffix) in [(Version::One, ""), (Version::Two, "-2")] {
        for (name, first, takes_page) in [
            ("bytes", 0, false),
            ("memory", 15, true),
            ("at-once", 255, true),
        ] {
            let seed = [vec![first], bytes(version, takes_page)].concat();
            seeds.push((format!("{name}{suffix}"), seed));
        }
    }
    for at in [0, 1, 2, 4, 8, 12] {
        let mut damaged = [vec![31], bytes(Version::One, true)].concat();
        damaged[17 + at] ^= 1;
        seeds.push((format!("damaged-{at}"), damaged));
    }
    seeds
}

/// The memory of a client that makes one request, and of one whose chain has no end.
fn channel_seeds() -> Vec<Seed> {
    const NEXT: u16 = 1;
    const WRITE: u16 = 2;
    // As the target makes its queue.
    let Some(layout) = QueueLayout::new(8, 4096) else {
        return Vec::new();
    };
    let request = RequestHeader {
        opcode: Opcode::DeviceControl as u16,
        process: 0,
        tag: 1,
        handle: 4,
        code: 0x0022_2000,
        output_bytes: 64,
        ..RequestHeader::default()
    };
    // A chain may lie anywhere in the memory, of which the target writes a KiB at a time.
    let header = 0x200;
    let result = header + 0x80;
    let memory = |flags: u16| {
        let mut bytes = vec![0; 1024];
        let mut put = |at: u64, from: &[u8]| {
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            if let Some(into) = bytes.get_mut(at..at + from.len()) {
                into.copy_from_slice(from);
            }
        };
        let descriptor = |address: u64, length: u32, flags: u16, next: u16| {
            [
                &address.to_le_bytes()[..],
                &length.to_le_bytes(),
                &flags.to_le_bytes(),
                &next.to_le_bytes(),
            ]
            .concat()
        };
        let length = u32::try_from(size_of::<RequestHeader>()).unwrap_or(0);
        put(layout.descriptor(0), &descriptor(header, length, NEXT, 1));
        put(layout.descriptor(1), &descriptor(result, 32 + 64, flags, 0));
        put(layout.available_index(), &1_u16.to_le_bytes());
        put(header, request.as_bytes());
        bytes
    };
    vec![
        ("ioctl".to_owned(), memory(WRITE)),
        ("loop".to_owned(), memory(WRITE | NEXT)),
    ]
}

/// Images with code: a DriverEntry that sets a dispatch routine and calls an import, and what a dispatch routine may do.
fn code_seeds() -> Vec<Seed> {
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

/// Images of our own builder, and such images damaged in one place each.
fn image_seeds() -> Vec<Seed> {
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
