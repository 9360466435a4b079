//! From TOML to a checked [`Policy`].

use std::ops::Range;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::Source;
use super::fields::{Context, Fields, SpannedRange, quoted};
use super::{
    AccessMode, Defaults, LPT_STATUS_DEFAULT, LptOutput, MemoryBackend, MemoryRule, OnDeny, Policy,
    PolicyError, PortBackend, PortRule, RULES_MAX, overlap,
};

const TOP_KEYS: &[&str] = &["default", "port", "memory"];
const DEFAULT_KEYS: &[&str] = &["on-deny", "denied-read", "max-log-rate"];
/// Keys of every `[[port]]` rule; each back end adds its own.
const PORT_KEYS: &[&str] = &[
    "range",
    "access",
    "backend",
    "on-deny",
    "denied-read",
    "name",
    "comment",
];
const LPT_KEYS: &[&str] = &["output", "status"];
const RAM_PORT_KEYS: &[&str] = &["initial"];
const MEMORY_KEYS: &[&str] = &[
    "range", "access", "backend", "on-deny", "name", "comment", "file",
];

const ACCESS: &[(&str, AccessMode)] = &[
    ("r", AccessMode::Read),
    ("w", AccessMode::Write),
    ("rw", AccessMode::ReadWrite),
];
const ON_DENY: &[(&str, OnDeny)] = &[
    ("ignore", OnDeny::Ignore),
    ("fault", OnDeny::Fault),
    ("stop", OnDeny::Stop),
];

const PORT_RANGE: &str = "\"FIRST-LAST\" or one port, 0 to 0xffff, such as \"0x378-0x37a\"";
const MEMORY_RANGE: &str =
    "\"FIRST-LAST\" in whole pages of 4096 bytes, such as \"0xd0000-0xd0fff\"";
/// Physical addresses have at most 52 bits (AMD64 Architecture Programmer's Manual vol. 2, 1.1.2).
const ADDRESS_MAX: u64 = (1 << 52) - 1;
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

/// Reads and checks a policy.
pub(super) fn parse(file: &str, text: &str) -> Result<Policy, PolicyError> {
    let mut context = Context {
        source: Source { file, text },
        diagnostics: Vec::new(),
    };
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let span = error.span().unwrap_or(0..0);
        context.error(&span, error.message().trim(), "");
    }
    if !errors.is_empty() {
        return Err(PolicyError::Invalid(context.diagnostics));
    }
    let top = Fields {
        title: "a policy",
        table: document.get_ref(),
        span: 0..0,
    };
    top.check_keys(&mut context, TOP_KEYS, |key| {
        (PORT_KEYS.contains(&key) || MEMORY_KEYS.contains(&key))
            .then(|| format!("`{key}` stands before the first [[port]] or [[memory]]"))
    });

    let mut policy = Policy {
        file: file.to_owned(),
        text: text.to_owned(),
        port_rules: Vec::new(),
        memory_rules: Vec::new(),
        defaults: Defaults::default(),
    };
    if let Some(table) = single_table(&mut context, &top, "default") {
        policy.defaults = parse_defaults(&mut context, &table);
    }
    for fields in rule_tables(&mut context, &top, "port", "[[port]]") {
        let rule = parse_port(&mut context, &fields, &policy.defaults);
        policy.port_rules.extend(rule);
    }
    for fields in rule_tables(&mut context, &top, "memory", "[[memory]]") {
        let rule = parse_memory(&mut context, &fields, &policy.defaults);
        policy.memory_rules.extend(rule);
    }
    overlap::between_rules(&policy, &mut context.diagnostics);
    if context.diagnostics.is_empty() {
        return Ok(policy);
    }
    context
        .diagnostics
        .sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
    Err(PolicyError::Invalid(context.diagnostics))
}

fn single_table<'t>(context: &mut Context<'_>, top: &Fields<'t>, key: &str) -> Option<Fields<'t>> {
    let value = top.table.get(key)?;
    match value.get_ref() {
        DeValue::Table(table) => Some(Fields {
            title: "[default]",
            table,
            span: value.span(),
        }),
        _ => {
            context.error(
                &value.span(),
                format!("`{key}` is one table"),
                format!("[{key}] on a line of its own, then its keys"),
            );
            None
        }
    }
}

fn rule_tables<'t>(
    context: &mut Context<'_>,
    top: &Fields<'t>,
    key: &str,
    title: &'static str,
) -> Vec<Fields<'t>> {
    let Some(value) = top.table.get(key) else {
        return Vec::new();
    };
    let allowed = format!("{title} before each rule");
    let elements: Vec<&Spanned<DeValue<'_>>> = match value.get_ref() {
        DeValue::Array(array) => array.iter().collect(),
        _ => {
            context.error(
                &value.span(),
                format!("`{key}` is a list of rules"),
                allowed,
            );
            return Vec::new();
        }
    };
    if elements.len() > RULES_MAX {
        context.error(
            &value.span(),
            format!("{} {title} rules", elements.len()),
            format!("at most {RULES_MAX}"),
        );
        return Vec::new();
    }
    let mut tables = Vec::new();
    for element in elements {
        match element.get_ref() {
            DeValue::Table(table) => tables.push(Fields {
                title,
                table,
                span: element.span(),
            }),
            _ => context.error(&element.span(), "a rule is a table", allowed.clone()),
        }
    }
    tables
}

fn parse_defaults(context: &mut Context<'_>, fields: &Fields<'_>) -> Defaults {
    fields.check_keys(context, DEFAULT_KEYS, |_| None);
    let built_in = Defaults::default();
    Defaults {
        on_deny: fields
            .choice(context, "on-deny", ON_DENY)
            .unwrap_or(built_in.on_deny),
        denied_read: fields
            .number(context, "denied-read", u32::MAX)
            .unwrap_or(built_in.denied_read),
        max_log_rate: fields
            .number(context, "max-log-rate", super::LOG_RATE_MAX)
            .unwrap_or(built_in.max_log_rate),
    }
}

fn parse_port(
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
        Some(PortKind::Ram) => RAM_PORT_KEYS,
        Some(PortKind::Passthrough | PortKind::Deny) => &[],
        // The back end is unknown and was reported: do not report its keys as well.
        None => &["output", "status", "initial"],
    };
    let allowed = [PORT_KEYS, own].concat();
    fields.check_keys(context, &allowed, |key| {
        let owner = if LPT_KEYS.contains(&key) {
            "lpt"
        } else if RAM_PORT_KEYS.contains(&key) {
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

fn parse_memory(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    defaults: &Defaults,
) -> Option<MemoryRule> {
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Kind {
        Ram,
        Deny,
    }
    const BACKENDS: &[(&str, Kind)] = &[("ram", Kind::Ram), ("deny", Kind::Deny)];

    let found_before = context.diagnostics.len();
    let kind = if is_string(fields, "backend", "passthrough") {
        context.error(
            &fields.span_of("backend"),
            "physical memory cannot be passed through in this version: only ports can",
            quoted(&["ram", "deny"], '"'),
        );
        None
    } else {
        required_backend(context, fields, BACKENDS)
    };
    fields.check_keys(context, MEMORY_KEYS, |_| None);
    let range = fields.range(context, "range", ADDRESS_MAX, MEMORY_RANGE);
    if let Some(range) = &range {
        check_pages(context, range);
    }
    let is_deny = kind == Some(Kind::Deny);
    if is_string(fields, "access", "w") {
        context.error(
            &fields.span_of("access"),
            "memory cannot be write-only: the processor has no such page",
            quoted(&["r", "rw"], '"'),
        );
    }
    let access = access(context, fields, kind.map(|_| is_deny));
    // A mapping that is denied is a NULL pointer: there is no access that could fault.
    let on_deny = fields.choice(
        context,
        "on-deny",
        &[("ignore", OnDeny::Ignore), ("stop", OnDeny::Stop)],
    );
    let name = name(context, fields);
    let file = fields.string(context, "file", "a file's path");
    if let Some((path, span)) = &file {
        if is_deny {
            context.error(span, "`file` belongs to backend \"ram\"", "");
        } else if path.is_empty() || path.contains('\0') {
            context.error(span, "`file` is no path", "a file's path");
        }
    }
    if context.diagnostics.len() > found_before {
        return None;
    }
    let range = range?;
    let (line, column) = context.source.place(fields.span.start);
    Some(MemoryRule {
        first: range.first,
        last: range.last,
        access,
        backend: match kind? {
            Kind::Deny => MemoryBackend::Deny,
            Kind::Ram => MemoryBackend::Ram {
                file: file.map(|(path, _)| PathBuf::from(path)),
            },
        },
        on_deny: on_deny.unwrap_or(match defaults.on_deny {
            OnDeny::Stop => OnDeny::Stop,
            OnDeny::Ignore | OnDeny::Fault => OnDeny::Ignore,
        }),
        name,
        line,
        column,
    })
}

/// Mappings have page granularity: a rule that ended inside a page would either give away the rest of it or not
/// be what it says.
fn check_pages(context: &mut Context<'_>, range: &SpannedRange) {
    let mask = abi::layout::PAGE_SIZE - 1;
    if range.first & mask != 0 || range.last & mask != mask {
        context.error(
            &range.span,
            "memory is given in whole pages of 4096 bytes",
            format!(
                "\"{:#x}-{:#x}\" covers this range",
                range.first & !mask,
                range.last | mask
            ),
        );
    }
}

fn is_string(fields: &Fields<'_>, key: &str, text: &str) -> bool {
    fields
        .table
        .get(key)
        .is_some_and(|value| value.get_ref().as_str() == Some(text))
}

fn required_backend<T: Copy>(
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
fn access(
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

fn name(context: &mut Context<'_>, fields: &Fields<'_>) -> Option<String> {
    fields.string(context, "comment", "any text");
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

/// Every key that a policy may have, for the test of the reference.
#[cfg(test)]
pub(super) fn all_keys() -> Vec<&'static str> {
    [
        TOP_KEYS,
        DEFAULT_KEYS,
        PORT_KEYS,
        LPT_KEYS,
        RAM_PORT_KEYS,
        MEMORY_KEYS,
    ]
    .concat()
}
