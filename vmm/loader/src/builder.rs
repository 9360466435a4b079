//! Small valid images, for tests and as seeds of the fuzzer's corpus.
//!
//! [`Builder::build`] returns a complete driver image: one code section, read-only data with imports and load
//! configuration, writable data with a security cookie, INIT, relocations, and for amd64 a function table. Tests
//! then change single fields by their offset in the file, which the constants and methods here give. Panics on
//! misuse: nothing here reads input.
#![cfg_attr(
    not(test),
    expect(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        reason = "a tool for tests: an impossible offset is a mistake in the test and may panic"
    )
)]

use abi::DriverAbi;

/// File offset of the PE signature.
pub const SIGNATURE: u32 = 0x80;
/// File offset of IMAGE_FILE_HEADER.
pub const FILE_HEADER: u32 = SIGNATURE + 4;
/// File offset of the optional header.
pub const OPTIONAL_HEADER: u32 = FILE_HEADER + 20;

/// Index of a section in the image's section table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SectionIndex {
    /// `.text`: code, `rx`.
    Text = 0,
    /// `.rdata`: import address table, load configuration, exports; `r`.
    Rdata = 1,
    /// `.data`: cookie and a pointer; `rw`.
    Data = 2,
    /// `INIT`: entry point and import descriptors, `rwx`, discardable.
    Init = 3,
    /// `.reloc`.
    Reloc = 4,
    /// `.pdata`, in amd64 images.
    Pdata = 5,
}

/// Offsets inside the sections, the same in every image.
pub mod offsets {
    /// In `.rdata`: import address table of ntoskrnl.exe; hal.dll's is 0x40 further.
    pub const IAT: u32 = 0x00;
    /// In `.rdata`: load configuration directory.
    pub const LOAD_CONFIG: u32 = 0x80;
    /// In `.rdata`: export directory.
    pub const EXPORTS: u32 = 0x100;
    /// In `.data`: security cookie.
    pub const COOKIE: u32 = 0x08;
    /// In `.data`: a pointer to the start of `.text`, relocated.
    pub const POINTER: u32 = 0x10;
    /// In `INIT`: the entry point.
    pub const ENTRY: u32 = 0x00;
    /// In `INIT`: import descriptors, 20 bytes each: ntoskrnl.exe, hal.dll, terminator.
    pub const DESCRIPTORS: u32 = 0x10;
    /// In `INIT`: import lookup table of ntoskrnl.exe; hal.dll's is 0x40 further.
    pub const LOOKUP: u32 = 0x50;
    /// In `INIT`: hint and name of IoCreateDevice, from ntoskrnl.exe.
    pub const NAME_CREATE: u32 = 0xD0;
    /// In `INIT`: hint and name of DbgPrint, from ntoskrnl.exe.
    pub const NAME_PRINT: u32 = 0xF0;
    /// In `INIT`: hint and name of HalTranslateBusAddress, from hal.dll. Ordinal 7 follows it in the lookup table.
    pub const NAME_TRANSLATE: u32 = 0x110;
    /// In `INIT`: the name `ntoskrnl.exe`.
    pub const DLL_NTOSKRNL: u32 = 0x140;
    /// In `INIT`: the name `HAL.dll`.
    pub const DLL_HAL: u32 = 0x150;
}

/// What the image is to be.
#[derive(Clone, Copy, Debug)]
pub struct Builder {
    /// Machine.
    pub abi: DriverAbi,
    /// SectionAlignment: 0x1000 or more, or less for a single mapping.
    pub section_alignment: u32,
    /// Whether there is a load configuration directory that names the cookie.
    pub load_config: bool,
    /// Whether there is an export directory (two functions, one with a name, and a forwarder).
    pub exports: bool,
}

impl Builder {
    /// An image as current linkers make it.
    #[must_use]
    pub const fn new(abi: DriverAbi) -> Self {
        Self {
            abi,
            section_alignment: 0x1000,
            load_config: true,
            exports: false,
        }
    }

    /// With another SectionAlignment; below the page size, FileAlignment is the same.
    #[must_use]
    pub const fn section_alignment(self, section_alignment: u32) -> Self {
        Self {
            section_alignment,
            ..self
        }
    }

    /// Without a load configuration directory, as before Visual Studio 2005.
    #[must_use]
    pub const fn without_load_config(self) -> Self {
        Self {
            load_config: false,
            ..self
        }
    }

    /// With an export directory.
    #[must_use]
    pub const fn with_exports(self) -> Self {
        Self {
            exports: true,
            ..self
        }
    }

    /// Makes the image.
    #[must_use]
    pub fn build(self) -> Built {
        let is_amd64 = self.abi == DriverAbi::Amd64;
        let file_alignment = if self.section_alignment < 0x1000 {
            self.section_alignment
        } else {
            0x200
        };
        let mut built = Built {
            abi: self.abi,
            bytes: Vec::new(),
            sections: Vec::new(),
        };
        let mut rva = HEADERS_BYTES.next_multiple_of(self.section_alignment);
        let mut raw = HEADERS_BYTES.next_multiple_of(file_alignment);
        for _ in 0..if is_amd64 { 6 } else { 5 } {
            built.sections.push((rva, raw));
            rva += SECTION_BYTES.next_multiple_of(self.section_alignment);
            raw += SECTION_BYTES.next_multiple_of(file_alignment);
        }
        built.bytes.resize(raw as usize, 0);
        self.write_headers(&mut built, rva, file_alignment);
        self.write_rdata(&mut built);
        self.write_data(&mut built);
        self.write_init(&mut built);
        self.write_relocations(&mut built);
        built.put(built.raw(SectionIndex::Text, 0), &[0xC3]);
        if is_amd64 {
            built.write_function_table();
        }
        if self.exports {
            built.write_exports();
        }
        built
    }

    fn write_headers(self, built: &mut Built, size_of_image: u32, file_alignment: u32) {
        let is_amd64 = self.abi == DriverAbi::Amd64;
        built.put(0, b"MZ");
        built.put_u32(0x3C, SIGNATURE);
        built.put(SIGNATURE, b"PE\0\0");
        built.put_u16(FILE_HEADER, if is_amd64 { 0x8664 } else { 0x14C });
        built.put_u16(FILE_HEADER + 2, if is_amd64 { 6 } else { 5 });
        built.put_u32(FILE_HEADER + 4, 1_000_000_000);
        built.put_u16(FILE_HEADER + 16, if is_amd64 { 240 } else { 224 });
        built.put_u16(FILE_HEADER + 18, if is_amd64 { 0x22 } else { 0x102 });
        let optional = OPTIONAL_HEADER;
        built.put_u16(optional, if is_amd64 { 0x20B } else { 0x10B });
        let entry = built.rva(SectionIndex::Init, offsets::ENTRY);
        built.put_u32(optional + 16, entry);
        built.put_word(optional + if is_amd64 { 24 } else { 28 }, BASE);
        built.put_u32(optional + 32, self.section_alignment);
        built.put_u32(optional + 36, file_alignment);
        built.put_u32(optional + 56, size_of_image);
        built.put_u32(optional + 60, HEADERS_BYTES);
        built.put_u16(optional + 68, 1);
        built.put_u32(built.directory(0) - 4, 16);

        let sections: [(&str, u32); 6] = [
            (".text", 0x6800_0020),
            (".rdata", 0x4800_0040),
            (".data", 0xC800_0040),
            ("INIT", 0xE200_0020),
            (".reloc", 0x4200_0040),
            (".pdata", 0x4800_0040),
        ];
        for (index, (rva, raw)) in built.sections.clone().into_iter().enumerate() {
            let header = built.section_table() + 40 * u32::try_from(index).unwrap_or(0);
            let (name, flags) = sections[index];
            built.put(header, name.as_bytes());
            built.put_u32(header + 8, SECTION_BYTES);
            built.put_u32(header + 12, rva);
            built.put_u32(header + 16, SECTION_BYTES);
            built.put_u32(header + 20, raw);
            built.put_u32(header + 36, flags);
        }
    }

    fn write_rdata(self, built: &mut Built) {
        let iat = built.rva(SectionIndex::Rdata, offsets::IAT);
        built.put_directory(12, iat, 0x80);
        if !self.load_config {
            return;
        }
        let load_config = built.raw(SectionIndex::Rdata, offsets::LOAD_CONFIG);
        let (bytes, field) = match self.abi {
            DriverAbi::I386 => (0x40, 0x3C),
            DriverAbi::Amd64 => (0x60, 0x58),
        };
        built.put_u32(load_config, bytes);
        let cookie = built.rva(SectionIndex::Data, offsets::COOKIE);
        built.put_word(load_config + field, BASE + u64::from(cookie));
        let rva = built.rva(SectionIndex::Rdata, offsets::LOAD_CONFIG);
        built.put_directory(10, rva, bytes);
    }

    fn write_data(self, built: &mut Built) {
        let cookie = match self.abi {
            DriverAbi::I386 => 0xBB40_E64E,
            DriverAbi::Amd64 => 0x0000_2B99_2DDF_A232,
        };
        built.put_word(built.raw(SectionIndex::Data, offsets::COOKIE), cookie);
        let text = built.rva(SectionIndex::Text, 0);
        built.put_word(
            built.raw(SectionIndex::Data, offsets::POINTER),
            BASE + u64::from(text),
        );
    }

    fn write_init(self, built: &mut Built) {
        let init = SectionIndex::Init;
        built.put(built.raw(init, offsets::ENTRY), &[0xC3]);
        for (at, hint, name) in [
            (offsets::NAME_CREATE, 300, "IoCreateDevice"),
            (offsets::NAME_PRINT, 40, "DbgPrint"),
            (offsets::NAME_TRANSLATE, 12, "HalTranslateBusAddress"),
        ] {
            built.put_u16(built.raw(init, at), hint);
            built.put(built.raw(init, at + 2), name.as_bytes());
        }
        built.put(built.raw(init, offsets::DLL_NTOSKRNL), b"ntoskrnl.exe");
        built.put(built.raw(init, offsets::DLL_HAL), b"HAL.dll");

        let (word, ordinal_flag) = match self.abi {
            DriverAbi::I386 => (4, 1 << 31),
            DriverAbi::Amd64 => (8, 1 << 63),
        };
        let name = |at| u64::from(built.rva(init, at));
        let thunks = [
            [name(offsets::NAME_CREATE), name(offsets::NAME_PRINT)],
            [name(offsets::NAME_TRANSLATE), ordinal_flag | 7],
        ];
        let dlls = [offsets::DLL_NTOSKRNL, offsets::DLL_HAL];
        for ((thunks, dll), index) in thunks.into_iter().zip(dlls).zip(0..) {
            let lookup = offsets::LOOKUP + index * 0x40;
            let addresses = offsets::IAT + index * 0x40;
            let descriptor = built.raw(init, offsets::DESCRIPTORS + index * 20);
            built.put_u32(descriptor, built.rva(init, lookup));
            built.put_u32(descriptor + 12, built.rva(init, dll));
            let iat = built.rva(SectionIndex::Rdata, addresses);
            built.put_u32(descriptor + 16, iat);
            for (thunk, slot) in thunks.into_iter().zip(0..) {
                built.put_word(built.raw(init, lookup) + slot * word, thunk);
                let slot = built.raw(SectionIndex::Rdata, addresses) + slot * word;
                built.put_word(slot, thunk);
            }
        }
        built.put_directory(1, built.rva(init, offsets::DESCRIPTORS), 60);
    }

    fn write_relocations(self, built: &mut Built) {
        let (kind, field) = match self.abi {
            DriverAbi::I386 => (3, 0x3C),
            DriverAbi::Amd64 => (10, 0x58),
        };
        let mut targets = vec![built.rva(SectionIndex::Data, offsets::POINTER)];
        if self.load_config {
            targets.insert(
                0,
                built.rva(SectionIndex::Rdata, offsets::LOAD_CONFIG + field),
            );
        }
        let reloc = built.raw(SectionIndex::Reloc, 0);
        let mut at = reloc;
        for target in targets {
            built.put_u32(at, target & !0xFFF);
            built.put_u32(at + 4, 12);
            let offset = u16::try_from(target & 0xFFF).unwrap_or(0);
            built.put_u16(at + 8, kind << 12 | offset);
            at += 12; // the second entry stays 0: padding
        }
        built.put_directory(5, built.rva(SectionIndex::Reloc, 0), at - reloc);
    }
}

const HEADERS_BYTES: u32 = 0x400;
const SECTION_BYTES: u32 = 0x200;
/// ImageBase.
pub const BASE: u64 = 0x1_0000;

/// A complete image.
#[derive(Clone, Debug)]
pub struct Built {
    /// Machine.
    pub abi: DriverAbi,
    /// The file.
    pub bytes: Vec<u8>,
    /// RVA and file offset of each section.
    sections: Vec<(u32, u32)>,
}

impl Built {
    /// RVA of a section's byte.
    ///
    /// # Panics
    /// If the image has no such section.
    #[must_use]
    pub fn rva(&self, section: SectionIndex, offset: u32) -> u32 {
        self.sections[section as usize].0 + offset
    }

    /// File offset of a section's byte.
    ///
    /// # Panics
    /// If the image has no such section.
    #[must_use]
    pub fn raw(&self, section: SectionIndex, offset: u32) -> u32 {
        self.sections[section as usize].1 + offset
    }

    /// File offset of a data directory's entry.
    #[must_use]
    pub fn directory(&self, index: u32) -> u32 {
        let fixed = match self.abi {
            DriverAbi::I386 => 96,
            DriverAbi::Amd64 => 112,
        };
        OPTIONAL_HEADER + fixed + index * 8
    }

    /// File offset of the section table.
    #[must_use]
    pub fn section_table(&self) -> u32 {
        self.directory(16)
    }

    /// File offset of a field in a section's header.
    #[must_use]
    pub fn section_field(&self, section: SectionIndex, field: u32) -> u32 {
        self.section_table() + 40 * (section as u32) + field
    }

    /// Overwrites bytes at a file offset.
    ///
    /// # Panics
    /// If they are outside the file.
    pub fn put(&mut self, offset: u32, bytes: &[u8]) {
        let start = offset as usize;
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
    }

    /// Overwrites 2 bytes.
    pub fn put_u16(&mut self, offset: u32, value: u16) {
        self.put(offset, &value.to_le_bytes());
    }

    /// Overwrites 4 bytes.
    pub fn put_u32(&mut self, offset: u32, value: u32) {
        self.put(offset, &value.to_le_bytes());
    }

    /// Overwrites a pointer-sized value, cut to the machine's width except for a flag in its highest bit.
    pub fn put_word(&mut self, offset: u32, value: u64) {
        self.put(offset, &value.to_le_bytes()[..self.abi.pointer_bytes()]);
    }

    /// Sets a data directory.
    pub fn put_directory(&mut self, index: u32, rva: u32, bytes: u32) {
        self.put_u32(self.directory(index), rva);
        self.put_u32(self.directory(index) + 4, bytes);
    }

    /// Makes the last section longer by `bytes` bytes (a multiple of both alignments), which are zero. Returns the
    /// RVA and the file offset of the first.
    ///
    /// # Panics
    /// If the file gets longer than 4 GiB.
    pub fn grow(&mut self, bytes: u32) -> (u32, u32) {
        let last = u32::try_from(self.sections.len()).expect("few sections") - 1;
        let header = self.section_table() + 40 * last;
        let (rva, raw) = self.sections[last as usize];
        self.put_u32(header + 8, SECTION_BYTES + bytes);
        self.put_u32(header + 16, SECTION_BYTES + bytes);
        self.put_u32(OPTIONAL_HEADER + 56, rva + SECTION_BYTES + bytes);
        let end = raw + SECTION_BYTES + bytes;
        self.bytes.resize(end as usize, 0);
        (rva + SECTION_BYTES, raw + SECTION_BYTES)
    }

    /// Two functions: the first byte of `.text` and the entry point. Their UNWIND_INFO follows the table.
    fn write_function_table(&mut self) {
        let pdata = SectionIndex::Pdata;
        let unwind = self.rva(pdata, 0x40);
        let functions = [
            self.rva(SectionIndex::Text, 0),
            self.rva(SectionIndex::Init, offsets::ENTRY),
        ];
        for (function, index) in functions.into_iter().zip(0..) {
            let entry = self.raw(pdata, index * 12);
            self.put_u32(entry, function);
            self.put_u32(entry + 4, function + 1);
            self.put_u32(entry + 8, unwind);
        }
        self.put(self.raw(pdata, 0x40), &[1]);
        self.put_directory(3, self.rva(pdata, 0), 24);
    }

    /// Ordinals 5 (`.text`, named Alpha and Beta), 6 (none), 7 (the start of `.data`, without a name) and 8 (Gamma,
    /// forwarded to HAL.Delta).
    fn write_exports(&mut self) {
        let rdata = SectionIndex::Rdata;
        let at = |offset: u32| offsets::EXPORTS + offset;
        let directory = self.raw(rdata, at(0));
        for (field, value) in [
            (16, 5),
            (20, 4),
            (24, 3),
            (28, self.rva(rdata, at(40))),
            (32, self.rva(rdata, at(56))),
            (36, self.rva(rdata, at(68))),
            (40, self.rva(SectionIndex::Text, 0)),
            (48, self.rva(SectionIndex::Data, 0)),
            (52, self.rva(rdata, at(0x70))),
            (56, self.rva(rdata, at(0x50))),
            (60, self.rva(rdata, at(0x58))),
            (64, self.rva(rdata, at(0x60))),
        ] {
            self.put_u32(directory + field, value);
        }
        for (field, ordinal) in [(68, 0), (70, 0), (72, 3)] {
            self.put_u16(directory + field, ordinal);
        }
        self.put(directory + 0x50, b"Alpha");
        self.put(directory + 0x58, b"Beta");
        self.put(directory + 0x60, b"Gamma");
        self.put(directory + 0x70, b"HAL.Delta");
        self.put_directory(0, self.rva(rdata, at(0)), 0x80);
    }
}
