//! Arguments and results of API calls as text, after the export table's declaration of each.

use super::escape::escape;
use super::ntstatus::NtStatus;
use abi::trace::TraceRecord;
use kernel_shim::export::{Export, ExportKind, Parameter, ValueKind};

/// An argument by name and printed form.
pub type Argument = (&'static str, String);

/// Formats one value of `kind`.
#[must_use]
pub fn format(kind: ValueKind, word: u64) -> String {
    match kind {
        ValueKind::Void => String::new(),
        ValueKind::Boolean => match low_byte(word) {
            0 => "FALSE".into(),
            1 => "TRUE".into(),
            other => format!("TRUE ({other:#x})"),
        },
        ValueKind::UChar => number(word & 0xFF),
        ValueKind::UShort => number(word & 0xFFFF),
        ValueKind::ULong => number(word & 0xFFFF_FFFF),
        ValueKind::Long => low_dword(word).cast_signed().to_string(),
        ValueKind::ULongLong | ValueKind::Size => number(word),
        ValueKind::LargeInteger => word.cast_signed().to_string(),
        ValueKind::PhysicalAddress | ValueKind::Handle => format!("{word:#x}"),
        ValueKind::NtStatus => NtStatus(low_dword(word)).to_string(),
        ValueKind::Irql => irql(low_byte(word)),
        ValueKind::ProcessorMode => match low_byte(word) {
            0 => "KernelMode".into(),
            1 => "UserMode".into(),
            other => format!("{other:#x}"),
        },
        ValueKind::Tag => tag(low_dword(word)),
        ValueKind::Pointer
        | ValueKind::UnicodeString
        | ValueKind::AnsiString
        | ValueKind::NarrowString
        | ValueKind::WideString
        | ValueKind::ObjectAttributes => pointer(word),
    }
}

/// An IRQL by NT's name where it has one on both machines.
#[must_use]
pub fn irql(level: u8) -> String {
    match level {
        0 => "PASSIVE_LEVEL".into(),
        1 => "APC_LEVEL".into(),
        2 => "DISPATCH_LEVEL".into(),
        other => other.to_string(),
    }
}

/// A pool tag as WinDbg shows it: its four bytes in memory order.
#[must_use]
pub fn tag(value: u32) -> String {
    format!("'{}'", super::escape::escape_bytes(&value.to_le_bytes()))
}

/// The arguments of a call: declared ones by name and type, variable ones as numbers.
#[must_use]
pub fn arguments(export: &Export, record: &TraceRecord) -> Vec<Argument> {
    let ExportKind::Function { parameters, .. } = export.kind else {
        return Vec::new();
    };
    let set = usize::from(record.argument_count).min(record.arguments.len());
    let words = record.arguments.get(..set).unwrap_or_default();
    let mut texts = CapturedText::new(record);
    let mut arguments: Vec<Argument> = parameters
        .iter()
        .enumerate()
        .map(|(index, parameter)| {
            let value = match words.get(index) {
                Some(&word) => argument(*parameter, word, &mut texts),
                // More parameters than a record holds.
                None => "?".into(),
            };
            (parameter.name, value)
        })
        .collect();
    let variable = words.get(parameters.len()..).unwrap_or_default();
    arguments.extend(variable.iter().map(|&word| ("", number(word))));
    arguments
}

/// The result of a call; `None` when the export returns nothing.
#[must_use]
pub fn result(export: &Export, word: u64) -> Option<String> {
    match export.kind {
        ExportKind::Function {
            result: ValueKind::Void,
            ..
        }
        | ExportKind::Data { .. } => None,
        ExportKind::Function { result, .. } => Some(format(result, word)),
    }
}

/// Arguments as the inside of a call's parentheses.
#[must_use]
pub fn join(arguments: &[Argument]) -> String {
    arguments
        .iter()
        .map(|(name, value)| {
            if name.is_empty() {
                value.clone()
            } else {
                format!("{name}: {value}")
            }
        })
        .collect::<Vec<_>>()
        .join(", ")
}

fn argument(parameter: Parameter, word: u64, texts: &mut CapturedText<'_>) -> String {
    if !parameter.kind.captures_text() {
        return format(parameter.kind, word);
    }
    match texts.next() {
        _ if word == 0 => "NULL".into(),
        Some((text, is_whole)) => {
            format!("\"{}\"{}", escape(text), if is_whole { "" } else { "..." })
        }
        None => pointer(word),
    }
}

fn pointer(word: u64) -> String {
    if word == 0 {
        "NULL".into()
    } else {
        format!("{word:#x}")
    }
}

/// Small numbers are decimal, others hexadecimal.
fn number(word: u64) -> String {
    if word < 10 {
        word.to_string()
    } else {
        format!("{word:#x}")
    }
}

fn low_byte(word: u64) -> u8 {
    word.to_le_bytes()[0]
}

fn low_dword(word: u64) -> u32 {
    let [a, b, c, d, ..] = word.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// The text of a record, cut to its valid part. The guest wrote the length and the bytes.
#[must_use]
pub fn text_bytes(record: &TraceRecord) -> &[u8] {
    let bytes = usize::try_from(record.text_bytes)
        .unwrap_or(usize::MAX)
        .min(record.text.len());
    record.text.get(..bytes).unwrap_or_default()
}

/// Walks the strings of a record; each is closed by NUL, the last one may have been cut.
struct CapturedText<'a> {
    rest: &'a [u8],
}

impl<'a> CapturedText<'a> {
    fn new(record: &'a TraceRecord) -> Self {
        Self {
            rest: text_bytes(record),
        }
    }

    fn next(&mut self) -> Option<(&'a str, bool)> {
        if self.rest.is_empty() {
            return None;
        }
        let (text, is_whole) = if let Some(end) = self.rest.iter().position(|&byte| byte == 0) {
            let (text, rest) = self.rest.split_at(end);
            self.rest = rest.get(1..).unwrap_or_default();
            (text, true)
        } else {
            (std::mem::take(&mut self.rest), false)
        };
        // The shim writes UTF-8; what is not, a damaged guest wrote, and it ends the text.
        let valid = text.utf8_chunks().next().map_or("", |chunk| chunk.valid());
        Some((valid, is_whole && valid.len() == text.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::trace::tests_support::{EXPORTS, call};
    use super::*;

    #[test]
    fn values_print_as_their_type() {
        assert_eq!(format(ValueKind::Boolean, 0xFF00), "FALSE");
        assert_eq!(format(ValueKind::Boolean, 2), "TRUE (0x2)");
        assert_eq!(format(ValueKind::Long, 0xFFFF_FFFF), "-1");
        assert_eq!(format(ValueKind::UShort, 0x1_0378), "0x378");
        assert_eq!(format(ValueKind::Irql, 2), "DISPATCH_LEVEL");
        assert_eq!(
            format(ValueKind::Tag, u32::from_le_bytes(*b"Io\x1b ").into()),
            r"'Io\x1b '"
        );
        assert_eq!(
            format(ValueKind::NtStatus, 0xC000_0022),
            "STATUS_ACCESS_DENIED"
        );
        assert_eq!(format(ValueKind::Pointer, 0), "NULL");
        assert_eq!(
            format(ValueKind::LargeInteger, (-10_000_000_i64).cast_unsigned()),
            "-10000000"
        );
    }

    #[test]
    fn arguments_have_names_and_captured_text() {
        let record = call(0, &[0x8000, 0, 0x9000, 34], b"\\Device\\x\0");
        assert_eq!(
            join(&arguments(&EXPORTS[0], &record)),
            r#"driver: 0x8000, extension_bytes: 0, name: "\Device\x", device_type: 0x22"#
        );
    }

    #[test]
    fn cut_text_is_marked_and_hostile_text_escaped() {
        let record = call(0, &[1, 2, 3, 4], b"\x1b]0;x");
        assert!(join(&arguments(&EXPORTS[0], &record)).contains(r#"name: "\x1b]0;x"..."#));
    }

    #[test]
    fn variable_arguments_follow_declared_ones() {
        let record = call(1, &[3, 0x1234, 5], b"value %d\n\0");
        assert_eq!(
            join(&arguments(&EXPORTS[1], &record)),
            r#"format: "value %d\n", 0x1234, 5"#
        );
    }

    #[test]
    fn hostile_counts_do_not_read_beyond_the_record() {
        let mut record = call(0, &[1], b"");
        record.argument_count = 255;
        record.text_bytes = u32::MAX;
        assert_eq!(arguments(&EXPORTS[0], &record).len(), 4 + 8);
        record.argument_count = 0;
        assert_eq!(
            join(&arguments(&EXPORTS[0], &record)),
            "driver: ?, extension_bytes: ?, name: ?, device_type: ?"
        );
    }
}
