//! Reads a recording. The file is hostile: each record is checked, nothing is allocated by a number in it.

use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;

use abi::layout;
use zerocopy::FromBytes;

use super::format::{
    ENTRY_BYTES, Entry, FLAG_ALLOWED, FLAG_WRITE, Header, Kind, MAGIC, UNFINISHED,
};
use super::{Access, Space};
use crate::observe::clock::Clock;
use crate::observe::escape::escape;
use crate::observe::own_file;
use crate::observe::ports::Direction;

/// Where programs' port accesses are executed.
const STUB: Range<u64> = layout::USER_STUB..layout::USER_STUB + layout::PAGE_SIZE;
/// Largest recording that is read, in bytes: 50 million accesses.
const FILE_MAX: u64 = 2 << 30;

/// A file that is no recording.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be read.
    #[error("cannot read the recording {path}")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// It is something else.
    #[error(
        "{path} is no recording (it does not begin with RINGREC1); `ringfence run --record FILE` makes one"
    )]
    Magic {
        /// The file.
        path: String,
    },
    /// It has no byte.
    #[error(
        "{path} is empty: whoever was to write a recording there was killed before it began; `ringfence run --record FILE` \
         makes one"
    )]
    Empty {
        /// The file.
        path: String,
    },
    /// A record makes no sense.
    #[error("{path} is damaged: record {number}, at byte {offset}: {what}")]
    Damaged {
        /// The file.
        path: String,
        /// The record's number, from 0.
        number: u64,
        /// Where it begins, in bytes.
        offset: u64,
        /// What is wrong.
        what: String,
    },
}

/// An image in the guest.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Module {
    name: String,
    base: u64,
    size: u64,
}

/// How a recording ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// It is whole.
    Finished,
    /// A run is writing it.
    GoesOn,
    /// Whoever wrote it was killed, or its disk was full: the last accesses are missing.
    Unfinished,
}

/// A recording, in memory.
#[derive(Debug)]
pub struct Recording {
    /// The accesses, in the order in which they were made.
    pub accesses: Vec<Access>,
    /// Accesses before these that a bounded recording has dropped.
    pub dropped: u64,
    /// Whether it has all that there was.
    pub end: End,
    /// Back ends' names by number.
    pub backends: Vec<String>,
    modules: Vec<Module>,
}

impl Recording {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ReadError`]. One that is not finished is no error.
    pub fn from_path(path: &Path) -> Result<Self, ReadError> {
        let name = escape(&path.display().to_string());
        let mut bytes = Vec::new();
        let mut is_written = false;
        let read = crate::input_file::open(path).and_then(|mut file| {
            // Asked first: a run that ends meanwhile has not written all that is read.
            is_written = own_file::is_owned(&file);
            file.by_ref().take(FILE_MAX + 1).read_to_end(&mut bytes)
        });
        match read {
            Ok(length) if length as u64 > FILE_MAX => Err(ReadError::File {
                path: name,
                source: io::Error::other(format!("it has more than {FILE_MAX} bytes")),
            }),
            Ok(_) => Self::parse(&bytes, &name).map(|mut recording| {
                if recording.end == End::Unfinished && is_written {
                    recording.end = End::GoesOn;
                }
                recording
            }),
            Err(source) => Err(ReadError::File { path: name, source }),
        }
    }

    /// Reads a file's bytes; `name` is for messages.
    ///
    /// # Errors
    /// As for [`Self::from_path`].
    pub fn parse(bytes: &[u8], name: &str) -> Result<Self, ReadError> {
        let magic = || ReadError::Magic {
            path: name.to_owned(),
        };
        if bytes.is_empty() {
            return Err(ReadError::Empty {
                path: name.to_owned(),
            });
        }
        let (header, rest) = Header::read_from_prefix(bytes).map_err(|_| magic())?;
        if header.magic != MAGIC {
            return Err(magic());
        }
        let clock = Clock {
            boot_tsc: header.boot_tsc.get(),
            tsc_khz: header.tsc_khz.get(),
        };
        let mut recording = Self {
            accesses: Vec::new(),
            dropped: match header.dropped.get() {
                UNFINISHED => 0,
                dropped => dropped,
            },
            end: if header.dropped.get() == UNFINISHED || rest.len() % ENTRY_BYTES != 0 {
                End::Unfinished
            } else {
                End::Finished
            },
            backends: Vec::new(),
            modules: Vec::new(),
        };
        let mut records = (0_u64..).zip(rest.chunks_exact(ENTRY_BYTES));
        while let Some((number, chunk)) = records.next() {
            let damaged = |what: String| ReadError::Damaged {
                path: name.to_owned(),
                number,
                offset: size_of::<Header>() as u64 + number * ENTRY_BYTES as u64,
                what,
            };
            // A chunk is as long as an entry.
            let Ok(entry) = Entry::read_from_bytes(chunk) else {
                break;
            };
            let kind = Kind::from_number(entry.kind)
                .ok_or_else(|| damaged(format!("its kind, {:#x}, is none", entry.kind)))?;
            match kind {
                Kind::Port | Kind::Memory | Kind::Msr | Kind::DeviceMemory => {
                    let access = access(kind, &entry, clock).map_err(damaged)?;
                    if usize::from(access.backend) >= recording.backends.len() {
                        return Err(damaged("its back end was not named before".to_owned()));
                    }
                    recording.accesses.push(access);
                }
                Kind::Backend | Kind::Module => {
                    let length = usize::from(entry.width);
                    let mut text = Vec::new();
                    for (_, piece) in records.by_ref().take(length.div_ceil(ENTRY_BYTES)) {
                        text.extend_from_slice(piece);
                    }
                    if text.len() < length {
                        // Its writer was killed here.
                        recording.end = End::Unfinished;
                        break;
                    }
                    text.truncate(length);
                    let text = escape(&String::from_utf8_lossy(&text));
                    recording.define(kind, &entry, text).map_err(damaged)?;
                }
            }
        }
        Ok(recording)
    }

    fn define(&mut self, kind: Kind, entry: &Entry, name: String) -> Result<(), String> {
        if kind == Kind::Backend {
            if usize::from(entry.backend) != self.backends.len() {
                return Err("back ends are not named in order".to_owned());
            }
            self.backends.push(name);
        } else {
            self.modules.push(Module {
                name,
                base: entry.address.get(),
                size: entry.value.get(),
            });
        }
        Ok(())
    }

    /// The name of an access's back end.
    #[must_use]
    pub fn backend(&self, access: &Access) -> &str {
        self.backends
            .get(usize::from(access.backend))
            .map_or("", String::as_str)
    }

    /// The name of the image that an address lies in, and the offset. Of images at one place the later counts.
    #[must_use]
    pub fn module(&self, address: u64) -> Option<(&str, u64)> {
        self.modules.iter().rev().find_map(|module| {
            let offset = address.checked_sub(module.base)?;
            (offset < module.size).then_some((module.name.as_str(), offset))
        })
    }

    /// `driver.sys+0x1234`, or the bare address. A program's port accesses are executed by the ring-3 stub, or (0) answered
    /// by the VMM without entering the guest.
    #[must_use]
    pub fn place(&self, address: u64) -> String {
        match self.module(address) {
            Some((name, offset)) => format!("{name}+{offset:#x}"),
            None if address == 0 || STUB.contains(&address) => "program".to_owned(),
            None => format!("{address:#x}"),
        }
    }
}

fn access(kind: Kind, entry: &Entry, clock: Clock) -> Result<Access, String> {
    let (space, bytes, value) = match kind {
        Kind::Port => {
            if entry.width > 2 {
                return Err(format!("a port access of 2^{} bytes", entry.width));
            }
            (Space::Port, 1 << entry.width, entry.value.get())
        }
        Kind::Msr => (Space::Msr, 8, entry.value.get()),
        Kind::DeviceMemory => {
            if !(1..=8).contains(&entry.width) {
                return Err(format!("a memory access of {} bytes", entry.width));
            }
            (Space::DeviceMemory, entry.width.into(), entry.value.get())
        }
        _ => (Space::Memory, entry.value.get(), 0),
    };
    let address = entry.address.get();
    if space == Space::Msr && address > u64::from(u32::MAX) {
        return Err(format!("MSR {address:#x} is above 0xffffffff"));
    }
    if space == Space::Port && address > 0xFFFF {
        return Err(format!("port {address:#x} is above 0xffff"));
    }
    if address.checked_add(bytes).is_none() {
        return Err(format!("the range at {address:#x} runs past the end"));
    }
    let ticks = u128::from(entry.tsc.get().saturating_sub(clock.boot_tsc));
    let time_ns = ticks * 1_000_000 / u128::from(clock.tsc_khz.max(1));
    Ok(Access {
        time_ns: u64::try_from(time_ns).unwrap_or(u64::MAX),
        space,
        direction: if entry.flags & FLAG_WRITE != 0 {
            Direction::Write
        } else {
            Direction::Read
        },
        bytes,
        address,
        value,
        rip: entry.rip.get(),
        is_allowed: entry.flags & FLAG_ALLOWED != 0,
        backend: entry.backend,
        rule_line: entry.rule_line.get(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::port;
    use super::super::{Keep, Recorder};
    use super::*;
    use crate::observe::symbols::Symbols;
    use proptest::prelude::*;

    fn bytes(count: u32) -> Vec<u8> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut recorder = Recorder::create(file.path(), Keep::All).unwrap();
        let clock = Clock {
            boot_tsc: 0,
            tsc_khz: 1000,
        };
        recorder.start(clock, &Symbols::default());
        for number in 0..count {
            recorder.port(&port(number.into(), Direction::Read, 0x60, number));
        }
        drop(recorder);
        std::fs::read(file.path()).unwrap()
    }

    #[test]
    fn something_else_is_no_recording() {
        for other in [&b"RINGREC"[..], b"#!/bin/sh and then some more of it ....."] {
            let error = Recording::parse(other, "x").unwrap_err();
            assert!(error.to_string().contains("no recording"), "{error}");
        }
        assert!(Recording::from_path(Path::new("/dev/zero")).is_err());
    }

    #[test]
    fn who_made_an_access_is_a_driver_or_a_program() {
        let recording = crate::recording::export::tests_support::recording();
        let place = |address| recording.place(address);
        assert_eq!(place(0x8200_1000), "echo.sys+0x1000");
        assert_eq!([place(0), place(layout::USER_STUB + 0x31)], ["program"; 2]);
        assert_eq!(place(0x1234), "0x1234");
    }

    #[test]
    fn a_cut_file_gives_what_is_whole() {
        let whole = bytes(4);
        let recording = Recording::parse(&whole[..whole.len() - 7], "x").unwrap();
        assert_eq!(recording.accesses.len(), 3);
        assert_eq!(recording.end, End::Unfinished);
        let definition = size_of::<Header>() + ENTRY_BYTES;
        let cut = Recording::parse(&whole[..definition], "x").unwrap();
        assert_eq!(cut.end, End::Unfinished);
        let whole = Recording::parse(&whole, "x").unwrap();
        assert_eq!(whole.end, End::Finished);
    }

    #[test]
    fn nonsense_is_named_with_its_place() {
        let mut damaged = bytes(2);
        // The second access: after header, definition, name, first access.
        let at = size_of::<Header>() + 3 * ENTRY_BYTES;
        damaged[at] = 0x77;
        let error = Recording::parse(&damaged, "x").unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("x is damaged: record 3, at byte {at}: its kind, 0x77, is none")
        );
        damaged[at] = 1;
        damaged[at + 1] = 3;
        assert!(Recording::parse(&damaged, "x").is_err(), "width");
        damaged[at + 1] = 0;
        damaged[at + 3] = 9;
        assert!(Recording::parse(&damaged, "x").is_err(), "back end");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut tail in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut all = bytes(1);
            all.append(&mut tail);
            if let Ok(recording) = Recording::parse(&all, "x") {
                for access in &recording.accesses {
                    let _ = (recording.backend(access), recording.place(access.rip));
                }
            }
        }
    }
}
