//! What the shim exports, as module-definition files: import libraries for test drivers are made from them, so that
//! every export can be imported, and nothing else.

use std::fmt::Write;
use std::path::Path;

use abi::DriverAbi;
use kernel_shim::export::{Convention, Export, ExportKind, Module};
use kernel_shim::table::EXPORTS;

/// Compiler support: MSVC's and clang's code calls these by their bare names, although they pop their arguments.
const BARE_PREFIXES: [&str; 2] = ["_all", "_aull"];

/// Bytes of all arguments on i386, those in registers too: the number behind a decorated name's last `@`.
fn argument_bytes(export: &Export) -> usize {
    match export.kind {
        ExportKind::Function { parameters, .. } => parameters
            .iter()
            .map(|parameter| parameter.kind.bytes(DriverAbi::I386).next_multiple_of(4))
            .sum(),
        ExportKind::Data { .. } => 0,
    }
}

/// An export's line.
fn line(export: &Export, abi: DriverAbi) -> String {
    let name = export.name;
    let ExportKind::Function { convention, .. } = export.kind else {
        return format!("{name} DATA");
    };
    let is_bare = BARE_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    match (abi, convention) {
        (DriverAbi::Amd64, _) | (DriverAbi::I386, Convention::Cdecl) => name.to_owned(),
        (DriverAbi::I386, _) if is_bare => name.to_owned(),
        (DriverAbi::I386, Convention::Stdcall) => format!("{name}@{}", argument_bytes(export)),
        (DriverAbi::I386, Convention::Fastcall) => format!("@{name}@{}", argument_bytes(export)),
    }
}

/// The definition of `dll` with those exports that `has` says are its.
fn definition(abi: DriverAbi, dll: &str, has: impl Fn(Module) -> bool) -> String {
    let mut text = format!("LIBRARY {dll}\nEXPORTS\n");
    for export in &EXPORTS {
        if export.machines.has(abi) && has(export.module) {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "    {}", line(export, abi)).is_ok();
        }
    }
    text
}

/// Writes `folder`/{i386,amd64}/{ntoskrnl,hal,wdfldr}.def; a file that is right already stays untouched.
///
/// # Errors
/// The folder cannot be written.
pub fn write_definitions(folder: &Path) -> std::io::Result<()> {
    for abi in [DriverAbi::I386, DriverAbi::Amd64] {
        let folder = folder.join(abi.name());
        std::fs::create_dir_all(&folder)?;
        let kernel = definition(abi, "ntoskrnl.exe", |module| {
            matches!(module, Module::Ntoskrnl | Module::Either)
        });
        let hal = definition(abi, "HAL.dll", |module| module == Module::Hal);
        let loader = definition(abi, "WDFLDR.SYS", |module| module == Module::Wdfldr);
        for (name, text) in [
            ("ntoskrnl.def", kernel),
            ("hal.def", hal),
            ("wdfldr.def", loader),
        ] {
            let path = folder.join(name);
            if std::fs::read_to_string(&path).ok().as_deref() != Some(&text) {
                std::fs::write(path, text)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(abi: DriverAbi) -> Vec<String> {
        definition(abi, "ntoskrnl.exe", |_| true)
            .lines()
            .map(|line| line.trim().to_owned())
            .collect()
    }

    #[test]
    fn i386_names_are_decorated_by_convention() {
        let lines = lines(DriverAbi::I386);
        for expected in [
            "KeWaitForSingleObject@20",
            "@KfRaiseIrql@4",
            "DbgPrint",
            "KeSetTimer@16",
            "_allmul",
            "MmSystemRangeStart DATA",
        ] {
            assert!(lines.iter().any(|line| line == expected), "{expected}");
        }
    }

    #[test]
    fn amd64_names_are_bare() {
        let lines = lines(DriverAbi::Amd64);
        assert!(lines.iter().any(|line| line == "KeWaitForSingleObject"));
        assert!(lines.iter().all(|line| !line.contains('@')));
    }
}
