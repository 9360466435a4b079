//! Names and expressions.

use alloc::vec;
use alloc::vec::Vec;

use crate::api::nt_api;
use crate::nt::{STRING, UNICODE_STRING};
use crate::raw::{Ptr, unicode_string};
use crate::rtl::codepage::{upcase, upcase_ansi};
use crate::value::Boolean;

/// DOS_STAR: like `*`, but it does not go over the name's last dot.
const DOS_STAR: u16 = b'<' as u16;
/// DOS_QM: one character, or none before a dot or at the end.
const DOS_QM: u16 = b'>' as u16;
/// DOS_DOT: a dot, or nothing at the end.
const DOS_DOT: u16 = b'"' as u16;
const STAR: u16 = b'*' as u16;
const QM: u16 = b'?' as u16;
const DOT: u16 = b'.' as u16;

fn is_wild(unit: u16) -> bool {
    matches!(unit, DOS_STAR | DOS_QM | DOS_DOT | STAR | QM)
}

/// Whether `name` is in `expression`; both have the case that is to be compared.
fn is_in_expression(expression: &[u16], name: &[u16]) -> bool {
    if expression.is_empty() || name.is_empty() {
        return expression.is_empty() && name.is_empty();
    }
    let last_dot = name.iter().rposition(|&unit| unit == DOT);
    // Whether the rest of the name is in the rest of the expression, for every start in the name; from the end back.
    let mut rest = vec![false; name.len() + 1];
    rest[name.len()] = true;
    for &unit in expression.iter().rev() {
        let mut next = vec![false; name.len() + 1];
        for at in (0..=name.len()).rev() {
            let here = name.get(at).copied();
            let eaten = here.is_some() && rest[at + 1];
            next[at] = match unit {
                STAR => rest[at] || here.is_some() && next[at + 1],
                DOS_STAR => rest[at] || here.is_some() && last_dot != Some(at) && next[at + 1],
                QM => eaten,
                DOS_QM if here.is_none_or(|unit| unit == DOT) => rest[at],
                DOS_QM => eaten,
                DOS_DOT => here.map_or(rest[at], |unit| unit == DOT && eaten),
                _ => here == Some(unit) && eaten,
            };
        }
        rest = next;
    }
    rest[0]
}

fn bytes_of(string: Ptr<STRING>) -> Vec<u8> {
    let STRING { Length, Buffer, .. } = string.read();
    let mut bytes = vec![0; usize::from(Length)];
    Buffer.read_bytes(&mut bytes);
    bytes
}

fn widened(bytes: &[u8], ignore_case: bool) -> Vec<u16> {
    let change = |byte: u8| if ignore_case { upcase_ansi(byte) } else { byte };
    bytes.iter().map(|&byte| u16::from(change(byte))).collect()
}

fn compared(mut units: Vec<u16>, ignore_case: bool, table: Ptr<u16>) -> Vec<u16> {
    if ignore_case {
        for unit in &mut units {
            *unit = if table.is_null() {
                upcase(*unit)
            } else {
                table.offset(i64::from(*unit)).read()
            };
        }
    }
    units
}

nt_api! { module = fsrtl_names;
    /// Whether a name has one of the wildcards `* ? < > "`.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn FsRtlDoesNameContainWildCards(name: Ptr<UNICODE_STRING>) -> Boolean {
        unicode_string(name).into_iter().any(is_wild)
    }

    /// As FsRtlDoesNameContainWildCards, for bytes.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn FsRtlDoesDbcsContainWildCards(name: Ptr<STRING>) -> Boolean {
        bytes_of(name).into_iter().any(|byte| is_wild(u16::from(byte)))
    }

    /// Whether a name is in an expression, which is in capitals if case is ignored. An empty one has only the empty name.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn FsRtlIsNameInExpression(
        expression: Ptr<UNICODE_STRING>,
        name: Ptr<UNICODE_STRING>,
        ignore_case: Boolean,
        upcase_table: Ptr<u16>,
    ) -> Boolean {
        let name = compared(unicode_string(name), ignore_case, upcase_table);
        is_in_expression(&unicode_string(expression), &name)
    }

    /// As FsRtlIsNameInExpression with case ignored, for bytes.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn FsRtlIsDbcsInExpression(expression: Ptr<STRING>, name: Ptr<STRING>) -> Boolean {
        is_in_expression(&widened(&bytes_of(expression), false), &widened(&bytes_of(name), true))
    }

    /// Whether two names are equal.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlAreNamesEqual(
        first: Ptr<UNICODE_STRING>,
        second: Ptr<UNICODE_STRING>,
        ignore_case: Boolean,
        upcase_table: Ptr<u16>,
    ) -> Boolean {
        let [first, second] =
            [first, second].map(|name| compared(unicode_string(name), ignore_case, upcase_table));
        first == second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(expression: &str, name: &str) -> bool {
        let units = |text: &str| text.encode_utf16().collect::<Vec<_>>();
        is_in_expression(&units(expression), &units(name))
    }

    #[test]
    fn expressions() {
        for (expression, name, expected) in [
            ("*", "A", true),
            ("*", "", false),
            ("", "", true),
            ("", "A", false),
            ("A?C", "ABC", true),
            ("A?C", "AC", false),
            ("*.*", "ABC", false),
            ("*.*", "A.B", true),
            ("A*B*C", "AXXBYYC", true),
            ("A*B*C", "AXXBYY", false),
            ("<.TXT", "A.B.TXT", true),
            ("<", "A.B", false),
            ("<\"*", "A.B", true),
            (">>>.TXT", "A.TXT", true),
            (">>>", "ABCD", false),
            ("ABC\"", "ABC", true),
            ("ABC\"", "ABC.", true),
            ("ABC\"", "ABCD", false),
        ] {
            assert_eq!(matches(expression, name), expected, "{expression} {name}");
        }
    }
}
