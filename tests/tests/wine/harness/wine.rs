//! Which Wine.

use std::process::Command;

use integration_tests::has_kvm;

use super::{has, root};

/// The width of a prefix's programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    Bits32,
    Bits64,
}

/// Where Wine comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    /// This machine's Debian.
    Own,
    /// Debian 13: Wine 10.
    Trixie,
    /// The same, with 32-bit programs in 64-bit processes ("new WoW64").
    TrixieWow64,
}

/// A Wine that the tests run with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wine {
    pub(crate) release: Release,
    pub(crate) width: Width,
}

impl From<Width> for Wine {
    fn from(width: Width) -> Self {
        Self {
            release: Release::Own,
            width,
        }
    }
}

impl Width {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Bits32 => "32",
            Self::Bits64 => "64",
        }
    }

    pub(super) fn compiler(self) -> &'static str {
        match self {
            Self::Bits32 => "i686-w64-mingw32-gcc",
            Self::Bits64 => "x86_64-w64-mingw32-gcc",
        }
    }
}

impl Wine {
    /// What scripts/other-wine calls it; `None`: it is the one that is installed.
    const fn elsewhere(self) -> Option<&'static str> {
        match (self.release, self.width) {
            (Release::Own, Width::Bits64) => None,
            (Release::Own, Width::Bits32) => Some("i386"),
            (Release::Trixie, _) => Some("trixie"),
            (Release::TrixieWow64, _) => Some("trixie-wow64"),
        }
    }

    /// Its prefix's kind, as WINEARCH has it.
    pub(super) const fn architecture(self) -> &'static str {
        match (self.release, self.width) {
            (Release::Own | Release::Trixie, Width::Bits32) => "win32",
            _ => "win64",
        }
    }

    /// The folder for its prefix and its test programs.
    pub(super) fn folder(self) -> String {
        let release = match self.release {
            Release::Own => "",
            Release::Trixie => "trixie",
            Release::TrixieWow64 => "wow64-",
        };
        format!("wine{release}{}", self.width.name())
    }

    /// A command in which `wine` is this one.
    pub(super) fn command(self, program: &str) -> Command {
        match self.elsewhere() {
            None => Command::new(program),
            Some(name) => {
                let mut command = Command::new(root().join("scripts/other-wine"));
                command.args([name, program]);
                command
            }
        }
    }

    /// Why there can be no tests.
    pub(super) fn missing(self) -> Option<String> {
        let what = format!("the tests with {self:?}");
        if !has_kvm() {
            return Some(format!("{what}: no KVM"));
        }
        // Only what is there is used: making it takes minutes.
        let is_set_up = self.elsewhere().is_none_or(|name| {
            let mut check = Command::new(root().join("scripts/other-wine"));
            has(check.args([name, "--check"]))
        });
        if !is_set_up || !has(self.command("wine").arg("--version")) {
            let how = self.elsewhere().map_or_else(
                || "scripts/setup installs it".to_owned(),
                |name| format!("`scripts/other-wine {name} --setup` makes it"),
            );
            return Some(format!("{what}: there is none; {how}"));
        }
        (!has(Command::new(self.width.compiler()).arg("--version")))
            .then(|| format!("{what}: no mingw-w64"))
    }
}
