//! Typed access to a TOML table, where every mistake becomes a diagnostic with its place.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, Source, nearest};
use super::values::parse_range;

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
        let parsed = match value.get_ref() {
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
        };
        match parsed {
            Ok((first, last)) => Some(SpannedRange { first, last, span }),
            Err(message) => {
                context.error(&span, message, example);
                None
            }
        }
    }
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
