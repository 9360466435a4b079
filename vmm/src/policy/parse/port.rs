//! `[[port]]` rules.

use super::choices::{ON_DENY, PORT_BACKENDS, PortKind};
use super::common::{access, check_keys, check_mask_keys, comment, limits, name, required_backend};
use super::model;
use crate::policy::fields::{Context, Fields, SpannedRange};
use crate::policy::schema::PORT;
use crate::policy::{ByteMask, Bytes, Defaults, PortBackend, PortRule, Widths};

const PORT_RANGE: &str = "\"FIRST-LAST\" or one port, 0 to 0xffff, such as \"0x378-0x37a\"";
/// Reads one rule, and the one of its model's second range; `None` when something is wrong with it.
pub(super) fn parse_port(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    defaults: &Defaults,
) -> Option<(PortRule, Option<PortRule>)> {
    let found_before = context.diagnostics.len();
    let kind = required_backend(context, fields, PORT_BACKENDS);
    check_keys(context, fields, &PORT, kind.is_some());
    let range = fields.range(context, "range", 0xFFFF, PORT_RANGE);
    let access = access(context, fields, kind.map(|kind| kind == PortKind::Deny));
    let on_deny = fields.choice(context, "on-deny", ON_DENY);
    let denied_read = fields.number(context, "denied-read", u32::MAX);
    let name = name(context, fields);
    let comment = comment(context, fields);
    let widths = fields.widths(context, "widths");
    let write_mask = byte_mask(context, fields, "write-mask", "write-fixed", range.as_ref());
    let mut read_mask = byte_mask(context, fields, "read-mask", "read-fixed", range.as_ref());
    if let Some(mask) = &mut read_mask {
        // There is no last value of a read to keep.
        mask.fixed.get_or_insert(Bytes::all(0));
    }
    check_mask_keys(context, fields, access);
    let values = fields.values(context, &PORT, "values");
    let limits = limits(context, fields, &PORT);
    let is_danger_accepted = fields.flag(context, "i-know-what-this-does");
    let backend = match kind {
        Some(PortKind::Deny) => Some(PortBackend::Deny),
        Some(PortKind::Passthrough) => Some(PortBackend::Passthrough),
        Some(PortKind::Ram) => parse_ram(context, fields, range.as_ref()),
        Some(kind) => model::parse(context, fields, kind, range.as_ref()),
        None => None,
    };
    let second = range.as_ref().zip(backend.as_ref());
    let second = second.and_then(|(range, backend)| model::second_range(context, range, backend));
    let remap = remap(context, fields, range.as_ref());
    if context.diagnostics.len() > found_before {
        return None;
    }
    let range = range?;
    let first = u16::try_from(range.first).ok()?;
    let (line, column) = context.source.place(fields.span.start);
    let rule = PortRule {
        widths: widths.unwrap_or(Widths::ALL),
        write_mask,
        read_mask,
        values,
        limits,
        host_first: remap.unwrap_or(first),
        is_danger_accepted,
        on_deny: on_deny.unwrap_or(defaults.on_deny),
        denied_read: denied_read.unwrap_or(defaults.denied_read),
        name,
        comment,
        line,
        column,
        ..PortRule::new(first, u16::try_from(range.last).ok()?, access, backend?)
    };
    let second = second.map(|(first, last)| PortRule {
        on_deny: rule.on_deny,
        denied_read: rule.denied_read,
        name: rule.name.clone(),
        line,
        column,
        ..PortRule::new(
            first,
            last,
            access,
            PortBackend::Second(rule.backend.name()),
        )
    });
    Some((rule, second))
}

/// Where a pass-through range begins on the machine.
fn remap(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    range: Option<&SpannedRange>,
) -> Option<u16> {
    let first = fields.bounded(context, &PORT, "remap")?;
    let length = range.map_or(0, |range| range.last - range.first);
    if first + length > 0xFFFF {
        context.error(
            &fields.span_of("remap"),
            format!(
                "the range would end at port {:#x} of the machine",
                first + length
            ),
            format!("at most {:#x}", 0xFFFF - length),
        );
    }
    u16::try_from(first).ok()
}

fn byte_mask(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    mask_key: &str,
    fixed_key: &str,
    range: Option<&SpannedRange>,
) -> Option<ByteMask> {
    let mask = bytes_for_ports(context, fields, mask_key, 0xFF, range);
    let fixed = bytes_for_ports(context, fields, fixed_key, 0, range);
    Some(ByteMask { mask: mask?, fixed })
}

/// A byte for every port, or one for each from the first on and `rest` for the others.
fn bytes_for_ports(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    key: &str,
    rest: u8,
    range: Option<&SpannedRange>,
) -> Option<Bytes> {
    let (given, fill) = fields.byte_or_bytes(context, key)?;
    check_length(context, fields, key, given.len(), range);
    let is_list = fields
        .table
        .get(key)
        .is_some_and(|value| value.get_ref().is_array());
    Some(Bytes {
        given,
        fill: if is_list { rest } else { fill },
    })
}

/// A list of bytes has at most one for each port.
fn check_length(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    key: &str,
    length: usize,
    range: Option<&SpannedRange>,
) {
    let Some(range) = range else { return };
    let ports = range.last - range.first + 1;
    if u64::try_from(length).is_ok_and(|bytes| bytes > ports) {
        context.error(
            &fields.span_of(key),
            format!("`{key}` has {length} bytes for {ports} port(s)"),
            "one byte for all ports, or an array of at most one byte a port",
        );
    }
}

fn parse_ram(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    range: Option<&SpannedRange>,
) -> Option<PortBackend> {
    let (initial, fill) = fields
        .byte_or_bytes(context, "initial")
        .unwrap_or((Vec::new(), 0));
    check_length(context, fields, "initial", initial.len(), range);
    Some(PortBackend::Ram { initial, fill })
}
