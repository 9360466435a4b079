//! From an address in a guest to something that a person can look up.

use abi::layout::STUB_BYTES;
use kernel_shim::export::{Export, Module as Dll};
use serde::Serialize;
use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

/// What a module is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModuleKind {
    /// A driver's image.
    Driver,
    /// The import stubs: addresses that drivers see as ntoskrnl.exe's and hal.dll's functions.
    Stubs,
    /// The shim's image.
    Shim,
}

/// A range of guest-virtual addresses with a name.
#[derive(Clone, Debug)]
pub struct Module {
    /// File name, as in `inpoutx64.sys`.
    pub name: String,
    /// First guest-virtual address.
    pub base: u64,
    /// Bytes.
    pub size: u64,
    /// What it is.
    pub kind: ModuleKind,
    /// Guest-virtual ranges that hold code.
    pub executable: Vec<Range<u64>>,
    /// Guest-virtual address and bytes of an amd64 image's exception directory (.pdata).
    pub exception_directory: Option<(u64, u64)>,
    names: Names,
}

/// The names of a module's addresses.
#[derive(Clone, Debug)]
enum Names {
    /// By guest-virtual address, ascending.
    Sorted(Vec<(u64, String)>),
    /// A stub for each export, then one for each unbound import (DLL and name). Put together when they are asked for: a
    /// guest that does not crash never has them.
    Stubs {
        exports: &'static [Export],
        unbound: Vec<(String, String)>,
    },
}

impl Names {
    /// The nearest name at or below an address in a module at `base`, and the distance in bytes.
    fn nearest(&self, base: u64, address: u64) -> Option<(Cow<'_, str>, u64)> {
        match self {
            Self::Sorted(names) => {
                let count = names.partition_point(|entry| entry.0 <= address);
                let (start, name) = names.get(count.checked_sub(1)?)?;
                Some((name.into(), address - start))
            }
            Self::Stubs { exports, unbound } => {
                let offset = address.checked_sub(base)?;
                let index = usize::try_from(offset / STUB_BYTES).ok()?;
                let (dll, name) = match exports.get(index) {
                    Some(export) => (dll_of(export), export.name),
                    None => {
                        let (dll, name) = unbound.get(index.checked_sub(exports.len())?)?;
                        (dll.as_str(), name.as_str())
                    }
                };
                Some((format!("{dll}!{name}").into(), offset % STUB_BYTES))
            }
        }
    }
}

/// The DLL that drivers import an export from.
fn dll_of(export: &Export) -> &'static str {
    match export.module {
        Dll::Hal => "hal.dll",
        Dll::Wdfldr | Dll::Wdf => "wdfldr.sys",
        Dll::Ntoskrnl | Dll::Either => "ntoskrnl.exe",
    }
}

/// the guest image's symbols cannot be read: {0}
#[derive(Debug, thiserror::Error, displaydoc::Display)]
pub struct SymbolError(#[source] goblin::error::Error);

impl Module {
    /// A driver's image. All of it counts as code until [`Module::with_executable`] says which ranges are.
    #[must_use]
    pub fn driver(name: &str, base: u64, size: u64) -> Self {
        Self {
            name: name.into(),
            base,
            size,
            kind: ModuleKind::Driver,
            executable: std::iter::once(base..base.saturating_add(size)).collect(),
            exception_directory: None,
            names: Names::Sorted(Vec::new()),
        }
    }

    /// Adds the image's own exports, as offsets from its base with names.
    #[must_use]
    pub fn with_exports(mut self, exports: impl IntoIterator<Item = (u64, String)>) -> Self {
        let base = self.base;
        let mut names: Vec<(u64, String)> = exports
            .into_iter()
            .map(|(offset, name)| (base.saturating_add(offset), name))
            .collect();
        names.sort();
        self.names = Names::Sorted(names);
        self
    }

    /// Says which ranges, as offsets from the base, hold code.
    #[must_use]
    pub fn with_executable(mut self, ranges: impl IntoIterator<Item = Range<u64>>) -> Self {
        let base = self.base;
        self.executable = ranges
            .into_iter()
            .map(|range| base.saturating_add(range.start)..base.saturating_add(range.end))
            .collect();
        self
    }

    /// Says where the exception directory is, as an offset from the base, and its size in bytes.
    #[must_use]
    pub fn with_exception_directory(mut self, offset: u64, bytes: u64) -> Self {
        self.exception_directory = Some((self.base.saturating_add(offset), bytes));
        self
    }

    /// The import stubs at `base`: one for each export, then one for each unbound import (DLL and name).
    #[must_use]
    pub fn stubs(base: u64, exports: &'static [Export], unbound: &[(String, String)]) -> Self {
        let size = (exports.len() + unbound.len()) as u64 * STUB_BYTES;
        Self {
            name: "stubs".into(),
            base,
            size,
            kind: ModuleKind::Stubs,
            executable: std::iter::once(base..base + size).collect(),
            exception_directory: None,
            names: Names::Stubs {
                exports,
                unbound: unbound.to_vec(),
            },
        }
    }

    /// The shim's image, with the function symbols of its ELF file.
    ///
    /// # Errors
    /// The file is not a well-formed ELF file.
    pub fn shim(elf: &[u8]) -> Result<Self, SymbolError> {
        use goblin::elf::program_header::{PF_X, PT_LOAD};
        let elf = goblin::elf::Elf::parse(elf).map_err(SymbolError)?;
        let loaded = || {
            elf.program_headers
                .iter()
                .filter(|header| header.p_type == PT_LOAD)
        };
        let base = loaded().map(|header| header.p_vaddr).min().unwrap_or(0);
        let end = loaded()
            .map(|header| header.p_vaddr.saturating_add(header.p_memsz))
            .max()
            .unwrap_or(base);
        let mut names: Vec<(u64, String)> = elf
            .syms
            .iter()
            .filter(|symbol| symbol.is_function() && symbol.st_value != 0)
            .filter_map(|symbol| {
                let name = elf.strtab.get_at(symbol.st_name)?;
                // `{:#}` leaves the hash out.
                Some((
                    symbol.st_value,
                    format!("{:#}", rustc_demangle::demangle(name)),
                ))
            })
            .collect();
        names.sort();
        names.dedup_by_key(|entry| entry.0);
        Ok(Self {
            name: "shim".into(),
            base,
            size: end - base,
            kind: ModuleKind::Shim,
            executable: loaded()
                .filter(|header| header.p_flags & PF_X != 0)
                .map(|header| header.p_vaddr..header.p_vaddr.saturating_add(header.p_memsz))
                .collect(),
            exception_directory: None,
            names: Names::Sorted(names),
        })
    }

    /// Whether `address` lies in it.
    #[must_use]
    pub fn contains(&self, address: u64) -> bool {
        address >= self.base && address - self.base < self.size
    }

    /// Whether `address` lies in its code.
    #[must_use]
    pub fn is_code(&self, address: u64) -> bool {
        self.executable.iter().any(|range| range.contains(&address))
    }

    fn nearest(&self, address: u64) -> Option<(Cow<'_, str>, u64)> {
        self.names.nearest(self.base, address)
    }
}

/// What is known of an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Symbol {
    /// The module; `None` for an address in none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// The text that people see; see [`Symbols::describe`].
    pub name: String,
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// All modules of a guest.
#[derive(Clone, Debug, Default)]
pub struct Symbols {
    modules: Vec<Module>,
}

impl Symbols {
    /// Symbols of these modules.
    #[must_use]
    pub fn new(modules: Vec<Module>) -> Self {
        Self { modules }
    }

    /// Adds a module.
    pub fn add(&mut self, module: Module) {
        self.modules.push(module);
    }

    /// The module that `address` lies in.
    #[must_use]
    pub fn module(&self, address: u64) -> Option<&Module> {
        self.modules.iter().find(|module| module.contains(address))
    }

    /// All of them.
    pub fn modules(&self) -> impl Iterator<Item = &Module> {
        self.modules.iter()
    }

    /// The driver images.
    pub fn drivers(&self) -> impl Iterator<Item = &Module> {
        self.modules
            .iter()
            .filter(|module| module.kind == ModuleKind::Driver)
    }

    /// `driver.sys+0x1234` (with the nearest export, if the image has any), `ntoskrnl.exe!IoCreateDevice` for an
    /// import stub, `shim!function+0x12`, or the bare address.
    #[must_use]
    pub fn describe(&self, address: u64) -> Symbol {
        let Some(module) = self.module(address) else {
            return Symbol {
                module: None,
                name: format!("{address:#x}"),
            };
        };
        let nearest = module.nearest(address);
        let offset = address - module.base;
        let name = match (module.kind, nearest) {
            (ModuleKind::Driver, None) => format!("{}+{offset:#x}", module.name),
            (ModuleKind::Driver, Some((name, distance))) => {
                format!("{}+{offset:#x} ({})", module.name, plus(&name, distance))
            }
            (ModuleKind::Stubs, Some((name, _))) => name.into_owned(),
            (ModuleKind::Shim, Some((name, distance))) => {
                format!("{}!{}", module.name, plus(&name, distance))
            }
            (ModuleKind::Stubs | ModuleKind::Shim, None) => format!("{}+{offset:#x}", module.name),
        };
        // Names come out of the driver's image.
        Symbol {
            module: Some(super::escape::escape(&module.name)),
            name: super::escape::escape(&name),
        }
    }
}

fn plus(name: &str, distance: u64) -> String {
    if distance == 0 {
        name.into()
    } else {
        format!("{name}+{distance:#x}")
    }
}

#[cfg(test)]
mod tests {
    use super::super::trace::tests_support::EXPORTS;
    use super::*;

    fn symbols() -> Symbols {
        Symbols::new(vec![
            Module::driver("echo.sys", 0x8200_0000, 0x5000),
            Module::driver("lib.sys", 0x8210_0000, 0x5000)
                .with_exports([(0x2000, "LibB".to_owned()), (0x1000, "Lib\x1bA".to_owned())]),
            Module::stubs(
                0x8100_0000,
                EXPORTS,
                &[("hal.dll".into(), "HalFrobnicate".into())],
            ),
        ])
    }

    #[test]
    fn driver_addresses_are_offsets() {
        assert_eq!(
            symbols().describe(0x8200_1234).to_string(),
            "echo.sys+0x1234"
        );
    }

    #[test]
    fn nearest_export_is_named_and_escaped() {
        assert_eq!(
            symbols().describe(0x8210_1004).to_string(),
            r"lib.sys+0x1004 (Lib\x1bA+0x4)"
        );
        assert_eq!(
            symbols().describe(0x8210_0010).to_string(),
            "lib.sys+0x10",
            "below the first export"
        );
    }

    #[test]
    fn stubs_are_the_functions_they_stand_for() {
        assert_eq!(
            symbols().describe(0x8100_0000).to_string(),
            "ntoskrnl.exe!IoCreateDevice"
        );
        assert_eq!(
            symbols().describe(0x8100_0029).to_string(),
            "hal.dll!READ_PORT_UCHAR"
        );
        let unbound = 0x8100_0000 + 16 * EXPORTS.len() as u64;
        assert_eq!(
            symbols().describe(unbound).to_string(),
            "hal.dll!HalFrobnicate"
        );
    }

    #[test]
    fn other_addresses_stay_numbers() {
        assert_eq!(symbols().describe(0x10).to_string(), "0x10");
        assert_eq!(
            symbols().describe(u64::MAX).to_string(),
            format!("{:#x}", u64::MAX)
        );
    }

    #[test]
    fn elf_functions_are_demangled() {
        // This test program's own ELF file stands in for the guest's.
        let elf = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let shim = Module::shim(&elf).unwrap();
        let Names::Sorted(names) = &shim.names else {
            panic!("{:?}", shim.names);
        };
        let (address, name) = names
            .iter()
            .find(|(_, name)| name.ends_with("symbols::tests::elf_functions_are_demangled"))
            .cloned()
            .unwrap();
        assert!(shim.is_code(address));
        assert_eq!(
            Symbols::new(vec![shim]).describe(address + 1).name,
            format!("shim!{name}+0x1")
        );
    }

    #[test]
    fn damaged_elf_is_an_error() {
        assert!(Module::shim(b"\x7fELF damaged").is_err());
    }
}
