//! A Wine prefix, and Wine's own tools in it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use rustix::fs::MemfdFlags;

use super::{Failure, Where};

/// The PE files of one width.
#[derive(Debug)]
pub(super) struct Files {
    /// ringfence.sys.
    pub(super) driver: &'static [u8],
    /// winedevice.exe for prefixes that are set to intercept.
    pub(super) winedevice: &'static [u8],
}

macro_rules! file {
    ($name:literal) => {
        include_bytes!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../wine/images/",
            $name
        ))
    };
}

static AMD64: Files = Files {
    driver: file!("amd64/ringfence.sys"),
    winedevice: file!("amd64/winedevice.exe"),
};

static I386: Files = Files {
    driver: file!("i386/ringfence.sys"),
    winedevice: file!("i386/winedevice.exe"),
};

/// A prefix that exists.
#[derive(Debug)]
pub(super) struct Prefix {
    path: PathBuf,
    wine: OsString,
    is_32: bool,
}

impl Prefix {
    /// Finds the prefix that is meant.
    pub(super) fn find(place: &Where) -> Result<Self, Failure> {
        let named = place.prefix.clone();
        let path = named
            .or_else(|| {
                std::env::var_os("WINEPREFIX")
                    .filter(|path| !path.is_empty())
                    .map(PathBuf::from)
            })
            .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".wine")))
            .ok_or_else(|| Failure::usage("no prefix: give --prefix, or set WINEPREFIX or HOME"))?;
        let path = path.canonicalize().map_err(|error| {
            Failure::usage(format!(
                "{}: {error}; make the prefix with `WINEPREFIX={0} wineboot`",
                path.display()
            ))
        })?;
        let registry = path.join("system.reg");
        let text = std::fs::read(&registry).map_err(|error| {
            Failure::usage(format!(
                "{} is no Wine prefix: {}: {error}",
                path.display(),
                registry.display()
            ))
        })?;
        // In one of the first lines; prefixes before Wine 1.4 have none, and are for 32 bits.
        let is_64 = text
            .split(|byte| *byte == b'\n')
            .take(8)
            .any(|line| line.starts_with(b"#arch=win64"));
        Ok(Self {
            path,
            wine: place.wine.clone(),
            is_32: !is_64,
        })
    }

    /// Whether it is for 32-bit programs alone.
    pub(super) fn is_32(&self) -> bool {
        self.is_32
    }

    /// Its folder.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// C:\windows.
    pub(super) fn windows(&self) -> PathBuf {
        self.path.join("drive_c/windows")
    }

    /// The PE files of its width.
    pub(super) fn files(&self) -> &'static Files {
        if self.is_32 { &I386 } else { &AMD64 }
    }

    /// In a 64-bit prefix that has 32-bit programs: the PE files for what these install. Without 32-bit Wine the folder is
    /// there, and all but empty.
    pub(super) fn files_32(&self) -> Option<&'static Files> {
        let is_there = self.windows().join("syswow64/winedevice.exe").exists();
        (!self.is_32 && is_there).then_some(&I386)
    }

    /// Runs a Windows program of Wine's that has the prefix's width.
    ///
    /// Where Wine is installed for both widths, `wine sc` is the 32-bit one even in a 64-bit prefix, and Wine would run a
    /// service that it has created in a 32-bit process. Only from 32-bit programs `sysnative` leads to the other's folder.
    pub(super) fn run_native(&self, program: &str, arguments: &[&str]) -> Result<String, Failure> {
        let native = format!(r"C:\windows\sysnative\{program}.exe");
        let is_there = format!("if exist {native} exit 64");
        let is_other =
            self.files_32().is_some() && self.status(&["cmd", "/c", &is_there]) == Some(64);
        if is_other {
            self.run(&[&["cmd", "/c", &native], arguments].concat())
        } else {
            self.run(&[&[program], arguments].concat())
        }
    }

    /// How a Windows program of Wine's ends in the prefix.
    fn status(&self, arguments: &[&str]) -> Option<i32> {
        let mut command = Command::new(&self.wine);
        command
            .args(arguments)
            .env("WINEPREFIX", &self.path)
            .env("WINEDEBUG", "-all");
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null());
        quiet.stderr(Stdio::null()).status().ok()?.code()
    }

    /// Runs a Windows program of Wine's in the prefix. What it prints, if it succeeds, or else what it says.
    pub(super) fn run<Text: AsRef<OsStr>>(&self, arguments: &[Text]) -> Result<String, Failure> {
        let mut said = self.try_run(arguments)?;
        if said.as_ref().is_err_and(|(_, text)| text.is_empty()) {
            // A session's services end a moment after its last program: whoever asks just then gets no answer.
            said = self.try_run(arguments)?;
        }
        said.map_err(|(status, text)| {
            let shown: Vec<String> = arguments
                .iter()
                .map(|argument| argument.as_ref().display().to_string())
                .collect();
            Failure::failed(format!(
                "`{} {}` failed ({status}): {}",
                self.wine.display(),
                shown.join(" "),
                crate::observe::escape::escape(&text)
            ))
        })
    }

    /// As [`Self::run`], once. What a program that fails says, with its status.
    fn try_run<Text: AsRef<OsStr>>(
        &self,
        arguments: &[Text],
    ) -> Result<Result<String, (ExitStatus, String)>, Failure> {
        let wine = self.wine.display();
        // Not pipes: the first program of a session starts services, which would hold them open.
        let make = || -> std::io::Result<File> {
            Ok(rustix::fs::memfd_create("wine", MemfdFlags::CLOEXEC)?.into())
        };
        let failed = |error| Failure::failed(format!("no memory for what Wine says: {error}"));
        let (mut stdout, mut stderr) = (make().map_err(failed)?, make().map_err(failed)?);
        let status = Command::new(&self.wine)
            .args(arguments)
            .env("WINEPREFIX", &self.path)
            // What `sc` says of errors is a debug message.
            .env("WINEDEBUG", "-all,err+sc")
            .stdin(Stdio::null())
            .stdout(stdout.try_clone().map_err(failed)?)
            .stderr(stderr.try_clone().map_err(failed)?)
            .status()
            .map_err(|error| {
                Failure::failed(format!(
                    "{wine} cannot be started: {error}; is Wine installed?"
                ))
            })?;
        let text = |file: &mut File| -> Result<String, Failure> {
            let mut bytes = Vec::new();
            let read = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
            read.map_err(failed)?;
            Ok(String::from_utf8_lossy(&bytes).replace('\r', ""))
        };
        let printed = text(&mut stdout)?;
        if status.success() {
            return Ok(Ok(printed));
        }
        let said = if printed.trim().is_empty() {
            text(&mut stderr)?
        } else {
            printed
        };
        Ok(Err((status, said.trim().to_owned())))
    }
}
