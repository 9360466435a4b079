//! Writes a recording while the guest runs.

use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::{U32, U64};

use super::format::{
    ENTRY_BYTES, Entry, FLAG_ALLOWED, FLAG_WRITE, Header, Kind, MAGIC, UNFINISHED,
};
use super::writer::{BUFFER_BYTES, Writer};
use crate::observe::clock::Clock;
use crate::observe::memory::MemoryRecord;
use crate::observe::msr::MsrRecord;
use crate::observe::own_file;
use crate::observe::ports::{Decision, Direction, PortRecord};
use crate::observe::symbols::Symbols;

/// Longest name of a definition, in bytes.
const NAME_MAX: usize = 255;

/// The header until there is a clock.
const EMPTY: Header = Header {
    magic: MAGIC,
    boot_tsc: U64::ZERO,
    tsc_khz: U64::new(1),
    dropped: U64::new(UNFINISHED),
};

/// What a recording keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// Every access, written as it comes.
    All,
    /// The last so many, in memory until the end.
    Last(usize),
}

/// the recording cannot be written to {path}: {source}; name a file in a directory that exists and is writable
#[derive(Debug, thiserror::Error, displaydoc::Display)]
pub struct RecorderError {
    /// The file, as the user named it.
    pub path: String,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Takes accesses. A full disk costs the rest of the recording, not the run; a slow one has the guest wait.
#[derive(Debug)]
pub struct Recorder {
    name: String,
    /// What the writer has not got yet.
    buffer: Vec<u8>,
    /// `None` once writing has failed.
    writer: Option<Writer>,
    clock: Clock,
    /// Names by number.
    backends: Vec<&'static str>,
    keep: Keep,
    last: VecDeque<Entry>,
    dropped: u64,
}

impl Recorder {
    /// Creates (or empties) the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(path: &Path, keep: Keep) -> Result<Self, RecorderError> {
        let name = path.display().to_string();
        let file = own_file::create(path, 0).inspect(|file| {
            // Whoever reads the file before its first buffer is written sees what it is. The header that knows the clock
            // takes its place; an error will be told then.
            if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
                let _ = file.write_all_at(EMPTY.as_bytes(), 0).is_ok();
            }
        });
        match file.and_then(Writer::start) {
            Ok((writer, buffer)) => Ok(Self {
                name,
                buffer,
                writer: Some(writer),
                clock: Clock {
                    boot_tsc: 0,
                    tsc_khz: 1,
                },
                backends: Vec::new(),
                keep,
                last: VecDeque::new(),
                dropped: 0,
            }),
            Err(source) => Err(RecorderError { path: name, source }),
        }
    }

    /// Begins: writes the header and what images the guest holds.
    pub fn start(&mut self, clock: Clock, symbols: &Symbols) {
        self.clock = clock;
        let header = self.header(UNFINISHED);
        self.write(header.as_bytes());
        self.modules(symbols);
    }

    /// Images that came later.
    pub fn modules(&mut self, symbols: &Symbols) {
        for module in symbols.modules() {
            let entry = Entry {
                address: U64::new(module.base),
                value: U64::new(module.size),
                ..definition(Kind::Module, 0)
            };
            self.define(entry, &module.name);
        }
    }

    /// A port access.
    #[inline]
    pub fn port(&mut self, record: &PortRecord) {
        let entry = Entry {
            kind: Kind::Port as u8,
            // Widths are 1, 2 and 4.
            width: record.width >> 1,
            flags: flags(record.direction, &record.decision),
            backend: self.backend(record.decision.backend),
            rule_line: U32::new(record.decision.rule_line.unwrap_or(0)),
            tsc: U64::new(record.tsc),
            rip: U64::new(record.rip),
            address: U64::new(u64::from(record.port)),
            value: U64::new(u64::from(record.value)),
        };
        self.access(entry);
    }

    /// An access to an MSR.
    pub fn msr(&mut self, record: &MsrRecord) {
        let entry = Entry {
            kind: Kind::Msr as u8,
            width: 3,
            flags: flags(record.direction, &record.decision),
            backend: self.backend(record.decision.backend),
            rule_line: U32::new(record.decision.rule_line.unwrap_or(0)),
            tsc: U64::new(record.tsc),
            rip: U64::new(record.rip),
            address: U64::new(u64::from(record.number)),
            value: U64::new(record.value),
        };
        self.access(entry);
    }

    /// An access to a device's memory.
    pub fn memory(&mut self, record: &MemoryRecord) {
        let entry = Entry {
            kind: Kind::DeviceMemory as u8,
            width: record.bytes,
            flags: flags(record.direction, &record.decision),
            backend: self.backend(record.decision.backend),
            rule_line: U32::new(record.decision.rule_line.unwrap_or(0)),
            tsc: U64::new(record.tsc),
            rip: U64::new(record.rip),
            address: U64::new(record.address),
            value: U64::new(record.value),
        };
        self.access(entry);
    }

    /// A mapping of physical memory.
    pub fn mapping(
        &mut self,
        tsc: u64,
        rip: u64,
        address: u64,
        bytes: u64,
        direction: Direction,
        decision: Decision,
    ) {
        let entry = Entry {
            kind: Kind::Memory as u8,
            width: 0,
            flags: flags(direction, &decision),
            backend: self.backend(decision.backend),
            rule_line: U32::new(decision.rule_line.unwrap_or(0)),
            tsc: U64::new(tsc),
            rip: U64::new(rip),
            address: U64::new(address),
            value: U64::new(bytes),
        };
        self.access(entry);
    }

    /// Hands everything to the operating system.
    pub fn finish(&mut self) {
        for entry in std::mem::take(&mut self.last) {
            self.write(entry.as_bytes());
        }
        self.hand_over();
        // It has counted what was dropped meanwhile.
        let header = self.header(self.dropped).as_bytes().to_vec();
        if let Some(Err(error)) = self.writer.as_mut().map(|writer| writer.finish(header)) {
            self.fail(&error);
        }
    }

    #[inline]
    fn access(&mut self, entry: Entry) {
        match self.keep {
            Keep::All => self.write(entry.as_bytes()),
            Keep::Last(count) => {
                if self.last.len() >= count {
                    self.last.pop_front();
                    self.dropped += 1;
                }
                self.last.push_back(entry);
            }
        }
    }

    /// A back end's number; a name not met before is defined. Numbers end at 255, far above the names that there are.
    #[inline]
    fn backend(&mut self, name: &'static str) -> u8 {
        // Names are constants: the same one mostly has the same address.
        let known = self
            .backends
            .iter()
            .position(|known| std::ptr::eq(*known, name))
            .or_else(|| self.backends.iter().position(|known| *known == name));
        let number = known.unwrap_or_else(|| {
            self.backends.push(name);
            let number = self.backends.len() - 1;
            let id = u8::try_from(number).unwrap_or(u8::MAX);
            self.define(definition(Kind::Backend, id), name);
            number
        });
        u8::try_from(number).unwrap_or(u8::MAX)
    }

    fn define(&mut self, mut entry: Entry, name: &str) {
        let mut end = name.len().min(NAME_MAX);
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        let mut bytes = name.as_bytes().get(..end).unwrap_or_default().to_vec();
        entry.width = u8::try_from(end).unwrap_or(0);
        bytes.resize(end.next_multiple_of(ENTRY_BYTES), 0);
        self.write(entry.as_bytes());
        self.write(&bytes);
    }

    fn header(&self, dropped: u64) -> Header {
        Header {
            magic: MAGIC,
            boot_tsc: U64::new(self.clock.boot_tsc),
            tsc_khz: U64::new(self.clock.tsc_khz),
            dropped: U64::new(dropped),
        }
    }

    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        if self.buffer.len() + bytes.len() > BUFFER_BYTES {
            self.hand_over();
        }
        self.buffer.extend_from_slice(bytes);
    }

    #[cold]
    fn hand_over(&mut self) {
        let full = std::mem::take(&mut self.buffer);
        let Some(writer) = &mut self.writer else {
            // What nobody writes is not kept either.
            self.buffer = full;
            self.buffer.clear();
            return;
        };
        match writer.swap(full) {
            Ok(empty) => self.buffer = empty,
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&mut self, error: &io::Error) {
        tracing::warn!(
            "the recording ends here, the run goes on: cannot write to {}: {error}",
            self.name
        );
        self.writer = None;
        self.buffer.clear();
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.finish();
    }
}

fn definition(kind: Kind, backend: u8) -> Entry {
    Entry {
        kind: kind as u8,
        width: 0,
        flags: 0,
        backend,
        rule_line: U32::new(0),
        tsc: U64::new(0),
        rip: U64::new(0),
        address: U64::new(0),
        value: U64::new(0),
    }
}

fn flags(direction: Direction, decision: &Decision) -> u8 {
    let write = if direction == Direction::Write {
        FLAG_WRITE
    } else {
        0
    };
    let allowed = if decision.allowed { FLAG_ALLOWED } else { 0 };
    write | allowed
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::port;
    use super::super::{ReadError, Recording, Space};
    use super::*;

    fn record(keep: Keep, count: u32) -> Recording {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("recording");
        let mut recorder = Recorder::create(&path, keep).unwrap();
        let clock = Clock {
            boot_tsc: 1000,
            tsc_khz: 1_000_000,
        };
        let driver = crate::observe::symbols::Module::driver("echo.sys", 0x8200_0000, 0x5000);
        recorder.start(clock, &Symbols::new(vec![driver]));
        for number in 0..count {
            recorder.port(&port(
                1000 + u64::from(number),
                Direction::Write,
                0x378,
                number,
            ));
        }
        recorder.finish();
        Recording::from_path(&path).unwrap()
    }

    #[test]
    fn a_recording_is_one_runs() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let first = Recorder::create(file.path(), Keep::All).unwrap();
        let error = crate::error_chain(&Recorder::create(file.path(), Keep::All).unwrap_err());
        assert!(error.contains("a run that goes on"), "{error}");
        drop(first);
        Recorder::create(file.path(), Keep::All).unwrap();
    }

    #[test]
    fn a_recording_that_has_not_begun_is_one_without_accesses() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(
            Recording::from_path(file.path()),
            Err(ReadError::Empty { .. })
        ));
        let _recorder = Recorder::create(file.path(), Keep::All).unwrap();
        let recording = Recording::from_path(file.path()).unwrap();
        assert!(recording.accesses.is_empty());
        assert_eq!(recording.end, crate::recording::End::GoesOn);
    }

    #[test]
    fn everything_comes_back() {
        let recording = record(Keep::All, 3);
        assert_eq!(recording.accesses.len(), 3);
        assert_eq!(recording.dropped, 0);
        let last = &recording.accesses[2];
        assert_eq!((last.time_ns, last.space), (2, Space::Port));
        assert_eq!((last.address, last.value, last.bytes), (0x378, 2, 1));
        assert_eq!(recording.backend(last), "lpt");
        assert_eq!(recording.place(last.rip), "echo.sys+0x1000");
    }

    #[test]
    fn an_msr_comes_back_with_all_its_bits() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut recorder = Recorder::create(file.path(), Keep::All).unwrap();
        recorder.start(
            Clock {
                boot_tsc: 0,
                tsc_khz: 1000,
            },
            &Symbols::default(),
        );
        recorder.msr(&MsrRecord {
            tsc: 1,
            rip: 2,
            number: 0xC000_0080,
            direction: Direction::Write,
            value: u64::MAX - 1,
            decision: Decision {
                allowed: true,
                backend: "value",
                rule_line: Some(7),
            },
        });
        drop(recorder);
        let recording = Recording::from_path(file.path()).unwrap();
        let access = &recording.accesses[0];
        assert_eq!((access.space, access.bytes), (Space::Msr, 8));
        assert_eq!((access.address, access.value), (0xC000_0080, u64::MAX - 1));
        assert!(access.touches(0xC000_0080, 0xC000_0080));
        assert!(!access.touches(0xC000_0081, 0xC000_0087));
    }

    #[test]
    fn an_access_to_device_memory_comes_back() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut recorder = Recorder::create(file.path(), Keep::All).unwrap();
        let clock = Clock {
            boot_tsc: 0,
            tsc_khz: 1000,
        };
        recorder.start(clock, &Symbols::default());
        recorder.memory(&MemoryRecord {
            tsc: 1,
            rip: 2,
            address: 0xFEB0_0004,
            bytes: 3,
            direction: Direction::Read,
            value: 0x01_0203,
            decision: Decision {
                allowed: true,
                backend: "external",
                rule_line: Some(7),
            },
        });
        drop(recorder);
        let recording = Recording::from_path(file.path()).unwrap();
        let access = &recording.accesses[0];
        assert_eq!((access.space, access.bytes), (Space::DeviceMemory, 3));
        assert_eq!((access.address, access.value), (0xFEB0_0004, 0x01_0203));
        assert!(access.touches(0xFEB0_0006, 0xFEB0_0006));
        assert!(!access.touches(0xFEB0_0007, 0xFEB0_0007));
    }

    #[test]
    fn a_bounded_recording_keeps_the_last_and_counts_the_others() {
        let recording = record(Keep::Last(10), 25);
        let values: Vec<u64> = recording.accesses.iter().map(|entry| entry.value).collect();
        assert_eq!(values, (15..25).collect::<Vec<_>>());
        assert_eq!(recording.dropped, 15);
    }

    #[test]
    fn full_disk_ends_the_recording_without_a_panic() {
        let mut recorder = Recorder::create(Path::new("/dev/full"), Keep::All).unwrap();
        recorder.port(&port(0, Direction::Read, 1, 1));
        recorder.finish();
        recorder.port(&port(0, Direction::Read, 1, 1));
        assert!(recorder.writer.is_none());
    }

    #[test]
    fn missing_directory_is_an_error_up_front() {
        let error = Recorder::create(Path::new("/nonexistent/r"), Keep::All).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/r"), "{error}");
    }

    #[test]
    fn the_header_of_a_recording_without_accesses_is_enough() {
        assert!(record(Keep::All, 0).accesses.is_empty());
    }
}
