//! docs/nt-coverage.md, from the export table.

use std::fmt::Write as _;

use kernel_shim::export::{Convention, Coverage, Export, ExportKind, Machines, Module};

/// Where the generated document is.
pub const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/nt-coverage.md");

/// What refreshes the document.
pub const REFRESH: &str = "RINGFENCE_BLESS=1 cargo test -p integration-tests --test coverage_doc";

const fn dll(module: Module) -> &'static str {
    match module {
        Module::Ntoskrnl => "ntoskrnl",
        Module::Hal => "hal",
        Module::Either => "ntoskrnl, hal",
        Module::Wdfldr => "wdfldr",
        Module::Wdf => "KMDF",
    }
}

const fn machines(machines: Machines) -> &'static str {
    match machines {
        Machines::Both => "i386, amd64",
        Machines::I386 => "i386",
        Machines::Amd64 => "amd64",
    }
}

const fn convention(kind: &ExportKind) -> &'static str {
    match kind {
        ExportKind::Function {
            convention,
            is_variadic,
            ..
        } => match (convention, is_variadic) {
            (Convention::Stdcall, _) => "stdcall",
            (Convention::Fastcall, _) => "fastcall",
            (Convention::Cdecl, false) => "cdecl",
            (Convention::Cdecl, true) => "cdecl, ...",
        },
        ExportKind::Data { .. } => "data",
    }
}

fn irql(kind: &ExportKind) -> String {
    match kind {
        ExportKind::Function { irql_max: 0, .. } => "PASSIVE".into(),
        ExportKind::Function { irql_max: 1, .. } => "APC".into(),
        ExportKind::Function { irql_max: 2, .. } => "DISPATCH".into(),
        ExportKind::Function { irql_max, .. } if *irql_max >= kernel_shim::nt::HIGH_LEVEL => {
            "any".into()
        }
        ExportKind::Function { irql_max, .. } => irql_max.to_string(),
        ExportKind::Data { .. } => String::new(),
    }
}

fn coverage(coverage: Coverage) -> String {
    match coverage {
        Coverage::Implemented => "implemented".into(),
        Coverage::Partial(lacks) => format!("partial: {lacks}"),
        Coverage::Missing => "missing".into(),
    }
}

/// The first sentence of a documentation, on one line.
fn first_sentence(documentation: &str) -> String {
    let text = documentation
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let end = text.find(". ").map_or(text.len(), |end| end + 1);
    text[..end].to_owned()
}

/// A cell's text: a bar would end the cell, brackets and asterisks would be markup.
fn cell(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        if matches!(character, '|' | '*' | '[' | ']' | '<' | '\\' | '_') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

fn count(exports: &[&Export], is_counted: impl Fn(Coverage) -> bool) -> usize {
    exports
        .iter()
        .filter(|export| is_counted(export.coverage))
        .count()
}

/// The document for a table.
#[must_use]
pub fn document(table: &[Export]) -> String {
    let mut exports: Vec<&Export> = table.iter().collect();
    exports.sort_by_key(|export| {
        (
            export.name.trim_start_matches('_').to_ascii_lowercase(),
            export.name,
        )
    });
    let implemented = count(&exports, |coverage| coverage == Coverage::Implemented);
    let partial = count(&exports, |coverage| {
        matches!(coverage, Coverage::Partial(_))
    });
    let missing = count(&exports, |coverage| coverage == Coverage::Missing);
    let mut text = format!(
        "# NT coverage\n\n\
         Generated from the export table; refresh with `{REFRESH}`.\n\n\
         {} exports: {implemented} implemented, {partial} partial, {missing} missing. A call of a missing one, or of one\n\
         that is not here, stops the guest with a report that names it. \"IRQL\" is the highest level at which the\n\
         function may be called; a call above it is bugcheck IRQL_NOT_LESS_OR_EQUAL.\n\n\
         | export | DLL | machines | i386 convention | IRQL | coverage | |\n\
         |---|---|---|---|---|---|---|\n",
        exports.len(),
    );
    for export in exports {
        writeln!(
            text,
            "| `{}` | {} | {} | {} | {} | {} | {} |",
            export.name,
            dll(export.module),
            machines(export.machines),
            convention(&export.kind),
            irql(&export.kind),
            cell(&coverage(export.coverage)),
            cell(&first_sentence(export.documentation)),
        )
        .expect("writing to a String cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_and_cells() {
        assert_eq!(first_sentence(" One.\n Two.\n"), "One.");
        assert_eq!(
            first_sentence(" Over two\n lines, no end"),
            "Over two lines, no end"
        );
        assert_eq!(cell("a|b READ_*"), "a\\|b READ\\_\\*");
    }
}
