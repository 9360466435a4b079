//! Typed access to a TOML table, where every mistake becomes a diagnostic with its place.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, Source, nearest};
use super::schema::{Kind, Table};
use super::values::{parse_number, parse_range};
use super::{ValueSet, Widths};
use crate::ports::Width;

/// Mistakes that are remembered; the next ones are not told. A person mends the first ones first, and a hostile text
/// cannot make a report of any size.
const MISTAKES_MAX: usize = 1000;

/// The text being read and what was found wrong so far.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) source: Source<'a>,
    pub(super) diagnostics: Vec<Diagnostic>,
}

impl Context<'_> {
    /// Records a mistake at `span`.
    pub(super) fn error(
        &mut self,
        span: &Range<usize>,
        message: impl Into<String>,
        allowed: impl Into<String>,
    ) {
        if self.diagnostics.len() >= MISTAKES_MAX {
            return;
        }
        self.diagnostics
            .push(self.source.diagnostic(span, message.into(), allowed.into()));
    }
}

/// A range with the place where it is written.
#[derive(Clone, Debug)]
pub(super) struct SpannedRange {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) span: Range<usize>,
}

/// One table of the policy.
#[derive(Debug)]
pub(super) struct Fields<'t> {
    /// How messages name it, such as `[[port]]`.
    pub(super) title: &'static str,
    pub(super) table: &'t DeTable<'t>,
    /// Its header.
    pub(super) span: Range<usize>,
}

impl<'t> Fields<'t> {
    fn get(&self, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.table.get(key)
    }

    /// Where a key's value stands, or the table's header when it is not there.
    pub(super) fn span_of(&self, key: &str) -> Range<usize> {
        self.get(key)
            .map_or_else(|| self.span.clone(), Spanned::span)
    }

    /// Reports each key that is not in `allowed`. `elsewhere` may explain a key that belongs somewhere else.
    pub(super) fn check_keys(
        &self,
        context: &mut Context<'_>,
        allowed: &[&str],
        elsewhere: impl Fn(&str) -> Option<String>,
    ) {
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            if allowed.contains(&name) {
                continue;
            }
            let message = elsewhere(name).unwrap_or_else(|| {
                let suggestion = nearest(name, allowed)
                    .map_or(String::new(), |near| format!("; did you mean `{near}`?"));
                format!("{} has no key `{name}`{suggestion}", self.title)
            });
            context.error(&key.span(), message, quoted(allowed, '`'));
        }
    }

    /// Reports a key that must be there and is not.
    pub(super) fn missing(&self, context: &mut Context<'_>, key: &str, allowed: String) {
        context.error(
            &self.span,
            format!("{} has no `{key}`", self.title),
            allowed,
        );
    }

    /// A string, and where it stands.
    pub(super) fn string(
        &self,
        context: &mut Context<'_>,
        key: &str,
        allowed: &str,
    ) -> Option<(&'t str, Range<usize>)> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some((text.as_ref(), value.span())),
            other => {
                context.error(
                    &value.span(),
                    format!("`{key}` is {}, not a string", article(other.type_str())),
                    allowed,
                );
                None
            }
        }
    }

    /// One word of a fixed set.
    pub(super) fn choice<T: Copy>(
        &self,
        context: &mut Context<'_>,
        key: &str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let allowed = quoted(&names, '"');
        let (text, span) = self.string(context, key, &allowed)?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return Some(*value);
        }
        let suggestion = nearest(text, &names)
            .map_or(String::new(), |near| format!("; did you mean \"{near}\"?"));
        context.error(
            &span,
            format!("`{key}` cannot be \"{text}\"{suggestion}"),
            allowed,
        );
        None
    }

    /// A whole number, with the bounds that the table gives to the key.
    pub(super) fn bounded(
        &self,
        context: &mut Context<'_>,
        table: &Table,
        key: &str,
    ) -> Option<u64> {
        let Some(Kind::Number(min, max)) = table.key(key).map(|key| key.kind) else {
            unreachable!("`{key}` is a number");
        };
        let value = self.get(key)?;
        number64_value(context, key, value, min, max)
    }

    /// `true` or `false`; false when it is not there.
    pub(super) fn flag(&self, context: &mut Context<'_>, key: &str) -> bool {
        let Some(value) = self.get(key) else {
            return false;
        };
        if let DeValue::Boolean(flag) = value.get_ref() {
            return *flag;
        }
        context.error(
            &value.span(),
            format!(
                "`{key}` is {}, not true or false",
                article(value.get_ref().type_str())
            ),
            "true, false",
        );
        false
    }

    /// The elements of a list.
    pub(super) fn list(
        &self,
        context: &mut Context<'_>,
        key: &str,
        allowed: &str,
    ) -> Option<Vec<&'t Spanned<DeValue<'t>>>> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::Array(array) if !array.is_empty() => Some(array.iter().collect()),
            DeValue::Array(_) => {
                context.error(&value.span(), format!("`{key}` is empty"), allowed);
                None
            }
            other => {
                context.error(
                    &value.span(),
                    format!("`{key}` is {}, not a list", article(other.type_str())),
                    allowed,
                );
                None
            }
        }
    }

    /// A list of access widths in bytes.
    pub(super) fn widths(&self, context: &mut Context<'_>, key: &str) -> Option<Widths> {
        let allowed = "a list of 1, 2 and 4, such as [1, 2]";
        let mut widths = Widths::NONE;
        for element in self.list(context, key, allowed)? {
            let width = match element.get_ref() {
                DeValue::Integer(integer) => {
                    u8::from_str_radix(integer.as_str(), integer.radix()).ok()
                }
                _ => None,
            };
            let Some(width) = width.and_then(Width::from_bytes) else {
                context.error(
                    &element.span(),
                    "an access has 1, 2 or 4 bytes".to_owned(),
                    allowed,
                );
                return None;
            };
            widths = widths.with(width);
        }
        Some(widths)
    }

    /// A list of numbers and ranges.
    pub(super) fn values(
        &self,
        context: &mut Context<'_>,
        table: &Table,
        key: &str,
    ) -> Option<ValueSet> {
        let Some(Kind::Values(max)) = table.key(key).map(|key| key.kind) else {
            unreachable!("`{key}` is a list of values");
        };
        let allowed = "a list of numbers and ranges, such as [0x0c, \"0x10-0x1f\"]";
        let mut ranges = Vec::new();
        for element in self.list(context, key, allowed)? {
            match range_value(key, element, max) {
                Ok(range) => ranges.push(range),
                Err(message) => {
                    context.error(&element.span(), message, allowed);
                    return None;
                }
            }
        }
        Some(ValueSet::new(ranges))
    }

    /// A whole number from 0 to `max`.
    pub(super) fn number(&self, context: &mut Context<'_>, key: &str, max: u32) -> Option<u32> {
        let value = self.get(key)?;
        number_value(context, key, value, max)
    }

    /// A byte for all, or an array of bytes.
    pub(super) fn byte_or_bytes(
        &self,
        context: &mut Context<'_>,
        key: &str,
    ) -> Option<(Vec<u8>, u8)> {
        let value = self.get(key)?;
        let DeValue::Array(array) = value.get_ref() else {
            let fill = number_value(context, key, value, 0xFF)?;
            return Some((Vec::new(), u8::try_from(fill).ok()?));
        };
        let mut bytes = Vec::new();
        for element in array {
            let byte = number_value(context, key, element, 0xFF)?;
            bytes.push(u8::try_from(byte).ok()?);
        }
        Some((bytes, 0))
    }

    /// An array of at most `max` bytes.
    pub(super) fn bytes(
        &self,
        context: &mut Context<'_>,
        key: &str,
        max: usize,
    ) -> Option<Vec<u8>> {
        let allowed = format!("a list of at most {max} bytes");
        let value = self.get(key)?;
        if value.get_ref().is_array() {
            let (bytes, _) = self.byte_or_bytes(context, key)?;
            if bytes.len() <= max {
                return Some(bytes);
            }
        }
        context.error(&value.span(), format!("`{key}` is no such list"), allowed);
        None
    }

    /// A range: a string `FIRST-LAST` or `SINGLE`, or a number.
    pub(super) fn range(
        &self,
        context: &mut Context<'_>,
        key: &str,
        max: u64,
        example: &str,
    ) -> Option<SpannedRange> {
        let Some(value) = self.get(key) else {
            self.missing(context, key, example.to_owned());
            return None;
        };
        let span = value.span();
        let parsed = range_value(key, value, max);
        match parsed {
            Ok((first, last)) => Some(SpannedRange { first, last, span }),
            Err(message) => {
                context.error(&span, message, example);
                None
            }
        }
    }
}

fn range_value(key: &str, value: &Spanned<DeValue<'_>>, max: u64) -> Result<(u64, u64), String> {
    match value.get_ref() {
        DeValue::String(text) => parse_range(text, max),
        DeValue::Integer(integer) => u64::from_str_radix(integer.as_str(), integer.radix())
            .ok()
            .filter(|single| *single <= max)
            .map(|single| (single, single))
            .ok_or_else(|| format!("{integer} is not between 0 and {max:#x}")),
        other => Err(format!(
            "`{key}` is {}, not a string or a number",
            article(other.type_str())
        )),
    }
}

/// TOML's integers end at 2^63 - 1: where higher ones are allowed, a string has them.
fn number64_value(
    context: &mut Context<'_>,
    key: &str,
    value: &Spanned<DeValue<'_>>,
    min: u64,
    max: u64,
) -> Option<u64> {
    let takes_text = i64::try_from(max).is_err();
    let message = match value.get_ref() {
        DeValue::Integer(integer) => match u64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) if (min..=max).contains(&number) => return Some(number),
            _ => format!("`{key}` cannot be {integer}"),
        },
        DeValue::String(text) if takes_text => match parse_number(text) {
            Some(number) if (min..=max).contains(&number) => return Some(number),
            _ => format!("`{key}` cannot be \"{text}\""),
        },
        other => format!("`{key}` is {}, not a number", article(other.type_str())),
    };
    context.error(
        &value.span(),
        message,
        format!("a whole number from {min} to {max} ({max:#x})"),
    );
    None
}

fn number_value(
    context: &mut Context<'_>,
    key: &str,
    value: &Spanned<DeValue<'_>>,
    max: u32,
) -> Option<u32> {
    let allowed = format!("a whole number from 0 to {max} ({max:#x})");
    let message = match value.get_ref() {
        DeValue::Integer(integer) => match u32::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) if number <= max => return Some(number),
            _ => format!("`{key}` cannot be {integer}"),
        },
        other => format!("`{key}` is {}, not a number", article(other.type_str())),
    };
    context.error(&value.span(), message, allowed);
    None
}

/// Names in quotes, separated by commas.
pub(super) fn quoted(names: &[&str], quote: char) -> String {
    let mut text = String::new();
    for (index, name) in names.iter().enumerate() {
        if index > 0 {
            text.push_str(", ");
        }
        text.push(quote);
        text.push_str(name);
        text.push(quote);
    }
    text
}

fn article(type_name: &str) -> String {
    if type_name.starts_with(['a', 'e', 'i', 'o', 'u']) {
        format!("an {type_name}")
    } else {
        format!("a {type_name}")
    }
}
