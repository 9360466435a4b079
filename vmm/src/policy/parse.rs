//! From TOML to a checked [`Policy`].

pub(super) mod choices;
pub(super) mod clients;
mod common;
pub(super) mod device;
pub(super) mod device_file;
pub(super) mod device_option;
mod index_pair;
mod interrupt;
mod memory;
pub(super) mod model;
mod msr;
mod pci;
mod pci_bar;
mod port;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use self::choices::{MEMORY_ON_DENY, ON_DENY};
use super::diagnostic::Source;
use super::fields::{Context, Fields};
use super::schema::{DEFAULT, INDEX_PAIR, INTERRUPT, MEMORY, MSR, PCI, PORT, TOP};
use super::{
    Defaults, OnDeny, Policy, PolicyError, RULES_MAX, danger, numbers::Numbers, overlap,
    segments::Segments,
};

/// Reads and checks a policy.
pub(super) fn parse(file: &str, text: &str) -> Result<Policy, PolicyError> {
    let mut context = Context {
        source: Source::new(file, text),
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
        title: TOP.title,
        table: document.get_ref(),
        span: 0..0,
    };
    top.check_keys(&mut context, &TOP.names(), key_of_a_rule);

    let mut policy = Policy {
        file: file.to_owned(),
        text: text.to_owned(),
        ..Policy::deny_all()
    };
    if let Some(table) = single_table(&mut context, &top, "default", DEFAULT.title) {
        policy.defaults = parse_defaults(&mut context, &table);
    }
    let defaults = policy.defaults;
    for fields in rule_tables(&mut context, &top, "port", PORT.title) {
        if let Some((rule, second)) = port::parse_port(&mut context, &fields, &defaults) {
            policy.port_rules.push(rule);
            policy.port_rules.extend(second);
        }
    }
    for fields in rule_tables(&mut context, &top, "index-pair", INDEX_PAIR.title) {
        let rule = index_pair::parse_index_pair(&mut context, &fields, &defaults);
        policy.index_pairs.extend(rule);
    }
    for fields in rule_tables(&mut context, &top, "memory", MEMORY.title) {
        let rule = memory::parse_memory(&mut context, &fields, &defaults);
        policy.memory_rules.extend(rule);
    }
    for fields in rule_tables(&mut context, &top, "pci", PCI.title) {
        let rule = pci::parse_pci(&mut context, &fields, &defaults);
        policy.pci_rules.extend(rule);
    }
    for fields in rule_tables(&mut context, &top, "msr", MSR.title) {
        let rule = msr::parse_msr(&mut context, &fields, &defaults);
        policy.msr_rules.extend(rule);
    }
    policy.clients = clients::parse(&mut context, &top);
    policy.device = device::parse(&mut context, &top, &policy.pci_rules);
    for fields in rule_tables(&mut context, &top, "interrupt", INTERRUPT.title) {
        let rule = interrupt::parse_interrupt(&mut context, &fields, &policy.interrupt_rules);
        policy.interrupt_rules.extend(rule);
    }
    interrupt::check_functions(&policy, &mut context);
    overlap::between_rules(&policy, &context.source, &mut context.diagnostics);
    danger::refuse(&policy, &context.source, &mut context.diagnostics);
    if context.diagnostics.is_empty() {
        policy.warnings = overlap::warnings(&policy, &context.source);
        let of_device = super::device::warnings(&policy, &context.source);
        policy.warnings.extend(of_device);
        policy.memory_segments = Segments::new(
            policy
                .memory_rules
                .iter()
                .map(|rule| (rule.first, rule.last)),
        );
        policy.msr_numbers =
            Numbers::new(policy.msr_rules.iter().map(|rule| (rule.first, rule.last)));
        return Ok(policy);
    }
    context
        .diagnostics
        .sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
    Err(PolicyError::Invalid(context.diagnostics))
}

fn key_of_a_rule(key: &str) -> Option<String> {
    [&PORT, &INDEX_PAIR, &MEMORY, &PCI, &MSR, &INTERRUPT]
        .iter()
        .any(|table| table.key(key).is_some())
        .then(|| {
            if PORT.key(key).is_some() || MEMORY.key(key).is_some() {
                format!("`{key}` stands before the first [[port]] or [[memory]]")
            } else {
                format!("`{key}` stands before the first rule")
            }
        })
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

/// The tables of a list, such as `[[port]]`.
fn rule_tables<'t>(
    context: &mut Context<'_>,
    parent: &Fields<'t>,
    key: &str,
    title: &'static str,
) -> Vec<Fields<'t>> {
    let Some(value) = parent.table.get(key) else {
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
    fields.check_keys(context, &DEFAULT.names(), |_| None);
    let built_in = Defaults::default();
    let on_deny = fields.choice(context, "on-deny", ON_DENY);
    let for_all = on_deny.unwrap_or(built_in.on_deny);
    Defaults {
        on_deny: for_all,
        memory_on_deny: fields
            .choice(context, "memory-on-deny", MEMORY_ON_DENY)
            .unwrap_or(match for_all {
                OnDeny::Stop => OnDeny::Stop,
                OnDeny::Ignore | OnDeny::Fault => OnDeny::Ignore,
            }),
        pci_on_deny: fields
            .choice(context, "pci-on-deny", ON_DENY)
            .unwrap_or(for_all),
        msr_on_deny: fields
            .choice(context, "msr-on-deny", ON_DENY)
            .unwrap_or(built_in.msr_on_deny),
        denied_read: fields
            .number(context, "denied-read", u32::MAX)
            .unwrap_or(built_in.denied_read),
        max_log_rate: fields
            .number(context, "max-log-rate", super::LOG_RATE_MAX)
            .unwrap_or(built_in.max_log_rate),
    }
}
