//! What rules of all kinds have.

use std::ops::Range;

use super::choices::{ACCESS, ON_RATE};
use crate::policy::fields::{Context, Fields, quoted};
use crate::policy::schema::Table;
use crate::policy::{AccessMode, BitMasks, Limits, OnRate, Place, Rate};

pub(super) fn is_string(fields: &Fields<'_>, key: &str, text: &str) -> bool {
    string_of(fields, key) == Some(text)
}

/// A key's value if it is a string; nothing is reported.
pub(super) fn string_of<'f>(fields: &'f Fields<'_>, key: &str) -> Option<&'f str> {
    fields
        .table
        .get(key)
        .and_then(|value| value.get_ref().as_str())
}

/// Reports keys that the table does not have, and those of other back ends. An unknown back end was reported
/// already: its keys are not reported as well.
pub(super) fn check_keys(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    table: &Table,
    is_backend_known: bool,
) {
    let backend = string_of(fields, "backend").filter(|_| is_backend_known);
    fields.check_keys(context, &table.names_for(backend), |key| {
        let owners = table.key(key)?.backends;
        Some(format!(
            "`{key}` belongs to backend {}",
            quoted(owners, '"')
        ))
    });
}

pub(super) fn required_backend<T: Copy>(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    choices: &[(&str, T)],
) -> Option<T> {
    if fields.table.get("backend").is_none() {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        fields.missing(context, "backend", quoted(&names, '"'));
        return None;
    }
    fields.choice(context, "backend", choices)
}

/// `access` must be said, except for `deny`, where it would read two ways ("denies rw" or "allows rw").
/// `is_deny` is `None` when the back end is unknown and that was reported.
pub(super) fn access(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    is_deny: Option<bool>,
) -> Option<AccessMode> {
    let is_given = fields.table.get("access").is_some();
    match (is_given, is_deny) {
        (true, Some(true)) => {
            context.error(
                &fields.span_of("access"),
                "backend \"deny\" denies reads and writes: it has no `access`",
                "leave `access` out, or choose another backend and allow one direction",
            );
            None
        }
        (false, Some(false)) => {
            fields.missing(context, "access", quoted(&["r", "w", "rw"], '"'));
            None
        }
        (false, _) => None,
        (true, _) => fields.choice(context, "access", ACCESS),
    }
}

/// `name`, and `comment` as far as it is a text.
pub(super) fn name(context: &mut Context<'_>, fields: &Fields<'_>) -> Option<String> {
    let (text, span): (&str, Range<usize>) =
        fields.string(context, "name", "a short text for logs and statistics")?;
    if text.is_empty() || text.chars().count() > 64 || text.chars().any(char::is_control) {
        context.error(
            &span,
            "`name` does not fit on a log line",
            "1 to 64 characters, no control characters",
        );
        return None;
    }
    Some(text.to_owned())
}

pub(super) fn comment(context: &mut Context<'_>, fields: &Fields<'_>) -> Option<String> {
    fields
        .string(context, "comment", "any text")
        .map(|(text, _)| text.to_owned())
}

/// `rate`, `burst`, `on-rate` and `quota`.
pub(super) fn limits(context: &mut Context<'_>, fields: &Fields<'_>, table: &Table) -> Limits {
    let number = |context: &mut Context<'_>, key: &str| {
        fields
            .bounded(context, table, key)
            .and_then(|number| u32::try_from(number).ok())
    };
    let per_second = number(context, "rate");
    let burst = number(context, "burst");
    let on_rate = fields.choice(context, "on-rate", ON_RATE);
    if fields.table.get("rate").is_none() {
        for key in ["burst", "on-rate"] {
            if fields.table.get(key).is_some() {
                context.error(
                    &fields.span_of(key),
                    format!("`{key}` without `rate`"),
                    "`rate` with it: accesses a second",
                );
            }
        }
    }
    Limits {
        rate: per_second.map(|per_second| Rate {
            per_second,
            burst: burst.unwrap_or(per_second),
            on_rate: on_rate.unwrap_or(OnRate::Deny),
        }),
        quota: fields.bounded(context, table, "quota"),
    }
}

/// The four mask keys of a register that is one number; `max` is all its bits.
pub(super) fn bit_masks(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    table: &Table,
    access: Option<AccessMode>,
) -> BitMasks {
    let mut number = |key| fields.bounded(context, table, key);
    let masks = BitMasks {
        write: number("write-mask").unwrap_or(u64::MAX),
        write_fixed: number("write-fixed"),
        read: number("read-mask").unwrap_or(u64::MAX),
        read_fixed: number("read-fixed").unwrap_or(0),
    };
    check_mask_keys(context, fields, access);
    masks
}

/// A `-fixed` key needs its mask, and a mask needs its direction.
pub(super) fn check_mask_keys(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    access: Option<AccessMode>,
) {
    for (mask, fixed) in [("write-mask", "write-fixed"), ("read-mask", "read-fixed")] {
        if fields.table.get(fixed).is_some() && fields.table.get(mask).is_none() {
            context.error(
                &fields.span_of(fixed),
                format!("`{fixed}` without `{mask}`: no bit is left for it"),
                format!("`{mask}` with it: the bits that pass"),
            );
        }
    }
    let Some(access) = access else { return };
    for (key, is_write) in [("write-mask", true), ("values", true), ("read-mask", false)] {
        if fields.table.get(key).is_some() && !access.allows(is_write) {
            let direction = if is_write { "writes" } else { "reads" };
            context.error(
                &fields.span_of(key),
                format!("`{key}` has no effect: the rule allows no {direction}"),
                "\"rw\" for `access`, or no such key",
            );
        }
    }
}

pub(super) fn place(context: &Context<'_>, fields: &Fields<'_>) -> Place {
    let (line, column) = context.source.place(fields.span.start);
    Place { line, column }
}
