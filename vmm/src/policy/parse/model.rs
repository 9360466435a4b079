//! Device models of `[[port]]` rules.

use std::path::PathBuf;

use toml::de::DeValue;

use super::choices::{EPP, PortKind};
use crate::policy::fields::{Context, Fields, SpannedRange};
use crate::policy::schema::PORT;
use crate::policy::{DeviceOutput, LPT_STATUS_DEFAULT, LptSpec, PortBackend};

/// How far an ECP port's extended registers are from its data register.
const ECP_OFFSET: u64 = 0x400;

const OUTPUT: &str =
    "a file's path, \"-\" for standard output, or \"pty\" for a new pseudo terminal";

/// The back end of a rule with a model; `None` when something is wrong or the kind is no model.
pub(super) fn parse(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    kind: PortKind,
    range: Option<&SpannedRange>,
) -> Option<PortBackend> {
    match kind {
        PortKind::Lpt | PortKind::Printer => {
            parse_lpt(context, fields, kind == PortKind::Printer, range)
        }
        PortKind::Passthrough | PortKind::Ram | PortKind::Deny => None,
    }
}

/// The ports that a model has besides those of its range.
pub(super) fn second_range(
    context: &mut Context<'_>,
    _fields: &Fields<'_>,
    range: &SpannedRange,
    backend: &PortBackend,
) -> Option<(u16, u16)> {
    match backend {
        PortBackend::Lpt(spec) if spec.is_ecp => {
            let first = u16::try_from(range.first + ECP_OFFSET).ok();
            let last = u16::try_from(range.first + ECP_OFFSET + 2).ok();
            let second = first.zip(last);
            if second.is_none() {
                context.error(
                    &range.span,
                    "`ecp` has its registers 0x400 ports further, past the last port",
                    "a range below 0xfbfe",
                );
            }
            second
        }
        _ => None,
    }
}

/// Reports a range that does not fit the model.
fn check_ports(
    context: &mut Context<'_>,
    range: Option<&SpannedRange>,
    model: &str,
    (min, max): (u64, u64),
    registers: &str,
) {
    let Some(range) = range else { return };
    let ports = range.last - range.first + 1;
    if (min..=max).contains(&ports) {
        return;
    }
    let first = range.first.min(0xFFFF - (min - 1));
    let count = if min == max {
        format!("{min} port(s)")
    } else {
        format!("{min} to {max} ports")
    };
    context.error(
        &range.span,
        format!("backend \"{model}\" cannot have {ports} port(s): its registers are {registers}"),
        format!("{count}, such as \"{first:#x}-{:#x}\"", first + min - 1),
    );
}

/// `output`, or `command` instead.
fn parse_output(context: &mut Context<'_>, fields: &Fields<'_>) -> Option<DeviceOutput> {
    let has_output = fields.table.get("output").is_some();
    if fields.table.get("command").is_some() {
        if has_output {
            context.error(
                &fields.span_of("command"),
                "`command` stands for `output`, which is there as well",
                "one of both",
            );
        }
        return parse_command(context, fields).map(DeviceOutput::Command);
    }
    if !has_output {
        fields.missing(context, "output", format!("{OUTPUT}; or `command`"));
        return None;
    }
    let (text, span) = fields.string(context, "output", OUTPUT)?;
    match text {
        "-" => Some(DeviceOutput::Stdout),
        "pty" => Some(DeviceOutput::Pty),
        "" => {
            context.error(&span, "`output` is empty", OUTPUT);
            None
        }
        path if path.contains('\0') => {
            context.error(&span, "`output` has a NUL character", OUTPUT);
            None
        }
        path => Some(DeviceOutput::File(PathBuf::from(path))),
    }
}

fn parse_command(context: &mut Context<'_>, fields: &Fields<'_>) -> Option<Vec<String>> {
    let allowed = "a list of the program and its arguments, such as [\"lp\", \"-s\"]";
    let mut words = Vec::new();
    for element in fields.list(context, "command", allowed)? {
        match element.get_ref() {
            DeValue::String(text) if !text.is_empty() && !text.contains('\0') => {
                words.push(text.clone().into_owned());
            }
            _ => {
                context.error(
                    &element.span(),
                    "this is no text, or an empty one, or has a NUL character",
                    allowed,
                );
                return None;
            }
        }
    }
    Some(words)
}

fn irq(context: &mut Context<'_>, fields: &Fields<'_>) -> Option<u32> {
    let number = fields.bounded(context, &PORT, "irq")?;
    u32::try_from(number).ok()
}

/// `input`: what the peer sends, at most this many bytes.
fn input(context: &mut Context<'_>, fields: &Fields<'_>) -> Vec<u8> {
    fields.bytes(context, "input", 1 << 20).unwrap_or_default()
}

fn byte(context: &mut Context<'_>, fields: &Fields<'_>, key: &str) -> Option<u8> {
    let number = fields.bounded(context, &PORT, key)?;
    u8::try_from(number).ok()
}

fn parse_lpt(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    is_printer: bool,
    range: Option<&SpannedRange>,
) -> Option<PortBackend> {
    let model = if is_printer { "printer" } else { "lpt" };
    check_ports(
        context,
        range,
        model,
        (3, 8),
        "data, status, control and up to five of EPP",
    );
    let status = byte(context, fields, "status").unwrap_or(LPT_STATUS_DEFAULT);
    let irq = irq(context, fields);
    let input = input(context, fields);
    let epp = fields.choice(context, "epp", EPP);
    let is_ecp = fields.flag(context, "ecp");
    if epp.is_some()
        && let Some(range) = range
        && range.last - range.first != 7
    {
        context.error(
            &fields.span_of("epp"),
            "EPP's registers are the fourth to the eighth port",
            format!(
                "a range of 8 ports, such as \"{0:#x}-{1:#x}\"",
                range.first,
                range.first + 7
            ),
        );
    }
    let output = parse_output(context, fields)?;
    Some(PortBackend::Lpt(Box::new(LptSpec {
        output,
        status,
        irq,
        input,
        epp,
        is_ecp,
        is_printer,
    })))
}
