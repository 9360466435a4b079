//! From TOML to a checked [`Policy`].

mod device;
mod memory;
mod port;

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::Source;
use super::fields::{Context, Fields, quoted};
use super::{AccessMode, Defaults, OnDeny, Policy, PolicyError, RULES_MAX, overlap};

const TOP_KEYS: &[&str] = &["default", "port", "memory", "device", "resource"];
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
        device: device::parse(&mut context, &top),
    };
    if let Some(table) = single_table(&mut context, &top, "default", "[default]") {
        policy.defaults = parse_defaults(&mut context, &table);
    }
    for fields in rule_tables(&mut context, &top, "port", "[[port]]") {
        let rule = port::parse_port(&mut context, &fields, &policy.defaults);
        policy.port_rules.extend(rule);
    }
    for fields in rule_tables(&mut context, &top, "memory", "[[memory]]") {
        let rule = memory::parse_memory(&mut context, &fields, &policy.defaults);
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

fn single_table<'t>(
    context: &mut Context<'_>,
    top: &Fields<'t>,
    key: &str,
    title: &'static str,
) -> Option<Fields<'t>> {
    let value = top.table.get(key)?;
    match value.get_ref() {
        DeValue::Table(table) => Some(Fields {
            title,
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
        port::LPT_KEYS,
        port::RAM_KEYS,
        MEMORY_KEYS,
        device::DEVICE_KEYS,
        device::RESOURCE_KEYS,
    ]
    .concat()
}
