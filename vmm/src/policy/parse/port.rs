//! `[[port]]` rules.

use std::path::PathBuf;

use super::{ON_DENY, PORT_KEYS, access, name, required_backend};
use crate::policy::fields::{Context, Fields, SpannedRange};
use crate::policy::{Defaults, LPT_STATUS_DEFAULT, LptOutput, PortBackend, PortRule};

pub(super) const LPT_KEYS: &[&str] = &["output", "status"];
pub(super) const RAM_KEYS: &[&str] = &["initial"];

const PORT_RANGE: &str = "\"FIRST-LAST\" or one port, 0 to 0xffff, such as \"0x378-0x37a\"";
/// A parallel port with its EPP registers.
const LPT_PORTS_MAX: u64 = 8;
/// Data, status, control.
const LPT_PORTS_MIN: u64 = 3;

#[derive(Clone, Copy, PartialEq, Eq)]
enum PortKind {
    Passthrough,
    Lpt,
    Ram,
    Deny,
}

const PORT_BACKENDS: &[(&str, PortKind)] = &[
    ("passthrough", PortKind::Passthrough),
    ("lpt", PortKind::Lpt),
    ("ram", PortKind::Ram),
    ("deny", PortKind::Deny),
];

/// Reads one rule; `None` when something is wrong with it.
pub(super) fn parse_port(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    defaults: &Defaults,
) -> Option<PortRule> {
    let found_before = context.diagnostics.len();
    let kind = required_backend(context, fields, PORT_BACKENDS);
    check_port_keys(context, fields, kind);
    let range = fields.range(context, "range", 0xFFFF, PORT_RANGE);
    let access = access(context, fields, kind.map(|kind| kind == PortKind::Deny));
    let on_deny = fields.choice(context, "on-deny", ON_DENY);
    let denied_read = fields.number(context, "denied-read", u32::MAX);
    let name = name(context, fields);
    let backend = match kind {
        Some(PortKind::Deny) => Some(PortBackend::Deny),
        Some(PortKind::Passthrough) => Some(PortBackend::Passthrough),
        Some(PortKind::Lpt) => parse_lpt(context, fields, range.as_ref()),
        Some(PortKind::Ram) => parse_ram(context, fields, range.as_ref()),
        None => None,
    };
    if context.diagnostics.len() > found_before {
        return None;
    }
    let range = range?;
    let (line, column) = context.source.place(fields.span.start);
    Some(PortRule {
        first: u16::try_from(range.first).ok()?,
        last: u16::try_from(range.last).ok()?,
        access,
        backend: backend?,
        on_deny: on_deny.unwrap_or(defaults.on_deny),
        denied_read: denied_read.unwrap_or(defaults.denied_read),
        name,
        line,
        column,
    })
}

fn check_port_keys(context: &mut Context<'_>, fields: &Fields<'_>, kind: Option<PortKind>) {
    let own: &[&str] = match kind {
        Some(PortKind::Lpt) => LPT_KEYS,
        Some(PortKind::Ram) => RAM_KEYS,
        Some(PortKind::Passthrough | PortKind::Deny) => &[],
        // The back end is unknown and was reported: do not report its keys as well.
        None => &["output", "status", "initial"],
    };
    let allowed = [PORT_KEYS, own].concat();
    fields.check_keys(context, &allowed, |key| {
        let owner = if LPT_KEYS.contains(&key) {
            "lpt"
        } else if RAM_KEYS.contains(&key) {
            "ram"
        } else {
            return None;
        };
        Some(format!("`{key}` belongs to backend \"{owner}\""))
    });
}

fn parse_lpt(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    range: Option<&SpannedRange>,
) -> Option<PortBackend> {
    if let Some(range) = range {
        let ports = range.last - range.first + 1;
        if !(LPT_PORTS_MIN..=LPT_PORTS_MAX).contains(&ports) {
            context.error(
                &range.span,
                format!("backend \"lpt\" cannot have {ports} port(s): its registers are data, status, control"),
                format!(
                    "{LPT_PORTS_MIN} to {LPT_PORTS_MAX} ports, such as \"{:#x}-{:#x}\"",
                    range.first.min(0xFFFD),
                    range.first.min(0xFFFD) + 2
                ),
            );
        }
    }
    let allowed = "a file's path, or \"-\" for standard output";
    let status = fields.number(context, "status", 0xFF);
    if fields.table.get("output").is_none() {
        fields.missing(context, "output", allowed.to_owned());
        return None;
    }
    let (text, span) = fields.string(context, "output", allowed)?;
    let output = match text {
        "-" => LptOutput::Stdout,
        "" => {
            context.error(&span, "`output` is empty", allowed);
            return None;
        }
        path if path.contains('\0') => {
            context.error(&span, "`output` has a NUL character", allowed);
            return None;
        }
        path => LptOutput::File(PathBuf::from(path)),
    };
    Some(PortBackend::Lpt {
        output,
        status: status
            .and_then(|status| u8::try_from(status).ok())
            .unwrap_or(LPT_STATUS_DEFAULT),
    })
}

fn parse_ram(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    range: Option<&SpannedRange>,
) -> Option<PortBackend> {
    let (initial, fill) = fields
        .byte_or_bytes(context, "initial")
        .unwrap_or((Vec::new(), 0));
    let range = range?;
    let ports = range.last - range.first + 1;
    if u64::try_from(initial.len()).is_ok_and(|bytes| bytes > ports) {
        context.error(
            &fields.span_of("initial"),
            format!("`initial` has {} bytes for {ports} port(s)", initial.len()),
            "one byte for all ports, or an array of at most one byte a port",
        );
        return None;
    }
    Some(PortBackend::Ram { initial, fill })
}
