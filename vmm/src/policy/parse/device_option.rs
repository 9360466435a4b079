//! `--device MODEL:KEY=VALUE,...`: a `[[port]]` rule from the command line.

use std::fmt::Write;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::port;
use crate::policy::diagnostic::{Source, nearest};
use crate::policy::fields::{Context, Fields, quoted};
use crate::policy::schema::{Kind, PORT};
use crate::policy::values::parse_number;
use crate::policy::{Defaults, Policy, PolicyError, PortRule, overlap};

/// A model that a rule may have as its back end.
struct Model {
    name: &'static str,
    /// Where it usually is.
    base: u16,
    /// Ports from there on.
    ports: u16,
    about: &'static str,
}

const MODELS: &[Model] = &[
    Model {
        name: "lpt",
        base: 0x378,
        ports: 3,
        about: "a parallel port that records (8 ports with epp)",
    },
    Model {
        name: "printer",
        base: 0x378,
        ports: 3,
        about: "a parallel port with a printer's handshake",
    },
    Model {
        name: "uart16550",
        base: 0x3f8,
        ports: 8,
        about: "a serial port",
    },
    Model {
        name: "rtc",
        base: 0x70,
        ports: 2,
        about: "a CMOS clock",
    },
    Model {
        name: "pit",
        base: 0x40,
        ports: 4,
        about: "an interval timer",
    },
    Model {
        name: "gameport",
        base: 0x201,
        ports: 1,
        about: "a game port",
    },
    Model {
        name: "pio8255",
        base: 0x300,
        ports: 4,
        about: "an 8255",
    },
    Model {
        name: "adc12",
        base: 0x300,
        ports: 8,
        about: "a 12-bit data acquisition card",
    },
    Model {
        name: "external",
        base: 0x300,
        ports: 8,
        about: "a process of its own (docs/external-models.md)",
    },
    Model {
        name: "ram",
        base: 0x300,
        ports: 8,
        about: "registers that read back",
    },
];

/// Short names for the command line, and the policy's.
pub(super) const ALIASES: &[(&str, &str)] = &[("out", "output")];
const EXAMPLE: &str =
    "MODEL:KEY=VALUE,..., such as lpt:base=0x378,irq=7,out=bytes.bin; see --device help";

/// What `--device help` prints.
pub(in crate::policy) fn help() -> String {
    let mut text = String::from(
        "--device MODEL:KEY=VALUE,...  (may be given several times)\n\n\
         A model has the keys of a [[port]] rule with it as `backend`; `base` is the first port, `range` all of them,\n\
         `out` is short for `output`, `access` is \"rw\" unless set. Lists are written [1,2] or [\"python3\",\"m.py\"]; a\n\
         single text needs quotes only around commas.\n",
    );
    for model in MODELS {
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "\n{}: {}\n  base={:#x}  ({} ports)\n",
            model.name, model.about, model.base, model.ports
        );
        for key in PORT
            .keys
            .iter()
            .filter(|key| key.backends.contains(&model.name))
        {
            let _ = writeln!(
                text,
                "  {:<14} {} ({})",
                key.name,
                key.meaning,
                form(key.kind)
            );
        }
    }
    text
}

fn form(kind: Kind) -> String {
    match kind {
        Kind::Number(min, max) => format!("{min} to {max:#x}"),
        Kind::Choice(words) => words.join(" or "),
        Kind::Flag => "true or false".to_owned(),
        Kind::ByteOrBytes => "a byte or a list of bytes".to_owned(),
        Kind::Bytes => "a list of bytes".to_owned(),
        Kind::Texts(..) => "a list of texts".to_owned(),
        _ => "text".to_owned(),
    }
}

/// Adds the arguments' rules to a policy. In what it reports afterwards, their lines follow the policy's.
pub(in crate::policy) fn add_devices(
    mut policy: Policy,
    arguments: &[String],
) -> Result<Policy, PolicyError> {
    if arguments.is_empty() {
        return Ok(policy);
    }
    let mut text = policy.text.clone();
    policy.file = if text.is_empty() && policy.port_rules.is_empty() {
        "--device".to_owned()
    } else {
        format!("{} with --device", policy.file)
    };
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let mut spans = Vec::new();
    for argument in arguments {
        text.push_str("--device ");
        let start = text.len();
        text.push_str(&argument.replace(['\n', '\r'], " "));
        spans.push(start..text.len());
        text.push('\n');
    }
    let file = policy.file.clone();
    let mut context = Context {
        source: Source::new(&file, &text),
        diagnostics: Vec::new(),
    };
    let defaults = policy.defaults;
    for span in spans {
        if let Some((rule, second)) = parse_argument(&mut context, &text, &span, &defaults) {
            policy.port_rules.push(rule);
            policy.port_rules.extend(second);
        }
    }
    overlap::between_rules(&policy, &context.source, &mut context.diagnostics);
    if !context.diagnostics.is_empty() {
        return Err(PolicyError::Invalid(context.diagnostics));
    }
    policy.warnings = overlap::warnings(&policy, &context.source);
    policy.text = text;
    Ok(policy)
}

/// The `[[port]]` rule that an argument is, as a policy has it. `None`: it is none.
pub(in crate::policy) fn rule_text(argument: &str) -> Option<String> {
    let mut context = Context {
        source: Source::new("", argument),
        diagnostics: Vec::new(),
    };
    with_table(&mut context, argument, &(0..argument.len()), |_, table| {
        let mut text = "[[port]]\n".to_owned();
        // The place first, as people write it.
        let order = ["range", "access", "backend"];
        let rank = |key: &str| {
            order
                .iter()
                .position(|one| *one == key)
                .unwrap_or(order.len())
        };
        let mut keys: Vec<_> = table.iter().collect();
        keys.sort_by_key(|(key, _)| (rank(key.get_ref()), key.get_ref().to_string()));
        for (key, value) in keys {
            let value = value_of(value.get_ref())?;
            let _ = writeln!(text, "{} = {value}", key.get_ref());
        }
        Some(text)
    })
}

fn value_of(value: &DeValue<'_>) -> Option<toml::Value> {
    Some(match value {
        DeValue::String(text) => toml::Value::String(text.to_string()),
        DeValue::Boolean(is_set) => toml::Value::Boolean(*is_set),
        DeValue::Integer(number) => {
            toml::Value::Integer(i64::from_str_radix(number.as_str(), number.radix()).ok()?)
        }
        DeValue::Array(values) => {
            let values = values.iter().map(|value| value_of(value.get_ref()));
            toml::Value::Array(values.collect::<Option<_>>()?)
        }
        _ => return None,
    })
}

/// One `KEY=VALUE`, as places in the text; a key alone is a flag.
pub(super) struct Item {
    pub(super) key: Range<usize>,
    pub(super) value: Option<Range<usize>>,
}

fn parse_argument(
    context: &mut Context<'_>,
    text: &str,
    span: &Range<usize>,
    defaults: &Defaults,
) -> Option<(PortRule, Option<PortRule>)> {
    with_table(context, text, span, |context, table| {
        let fields = Fields {
            title: "--device",
            table,
            span: span.clone(),
        };
        port::parse_port(context, &fields, defaults)
    })
}

/// Makes the table that an argument stands for, and hands it on.
fn with_table<T>(
    context: &mut Context<'_>,
    text: &str,
    span: &Range<usize>,
    done: impl FnOnce(&mut Context<'_>, &DeTable<'_>) -> Option<T>,
) -> Option<T> {
    let argument = text.get(span.clone())?;
    let name_length = argument.find(':').unwrap_or(argument.len());
    let name = argument.get(..name_length)?;
    let names: Vec<&str> = MODELS.iter().map(|model| model.name).collect();
    let Some(model) = MODELS.iter().find(|model| model.name == name) else {
        let suggestion = nearest(name, &names)
            .map_or(String::new(), |near| format!("; did you mean \"{near}\"?"));
        context.error(
            &(span.start..span.start + name_length),
            format!("there is no device model \"{name}\"{suggestion}"),
            quoted(&names, '"'),
        );
        return None;
    };
    let items = split(text, (span.start + name_length + 1).min(span.end)..span.end);
    // TOML reads values in their place, so that its spans are the text's.
    let padded: Vec<String> = items
        .iter()
        .map(|item| {
            let value = item.value.clone().unwrap_or(0..0);
            let margin = " ".repeat(value.start.saturating_sub(2));
            format!("{margin}v={}", text.get(value).unwrap_or(""))
        })
        .collect();
    let mut table = DeTable::new();
    let whole = span.clone();
    insert(
        &mut table,
        "backend",
        whole.clone(),
        string(model.name),
        whole.clone(),
    );
    insert(
        &mut table,
        "access",
        whole.clone(),
        string("rw"),
        whole.clone(),
    );
    let mut base = (u64::from(model.base), whole.clone());
    let mut has_range = false;
    let mut has_epp = false;
    let mut given = Vec::new();
    for (item, padded) in items.iter().zip(&padded) {
        let key = text.get(item.key.clone())?.trim();
        let key = ALIASES
            .iter()
            .find(|(alias, _)| *alias == key)
            .map_or(key, |(_, name)| *name);
        if key == "backend" || given.contains(&key) {
            let message = format!("`{key}` is there twice");
            context.error(&item.key, message, EXAMPLE);
            return None;
        }
        given.push(key);
        let kind = PORT.key(key).map(|key| key.kind);
        let Some(value_span) = item.value.clone() else {
            if !matches!(kind, Some(Kind::Flag)) {
                context.error(&item.key, format!("`{key}` has no value"), EXAMPLE);
                return None;
            }
            insert(
                &mut table,
                key,
                item.key.clone(),
                DeValue::Boolean(true),
                item.key.clone(),
            );
            continue;
        };
        let value = text.get(value_span.clone())?;
        if key == "base" {
            let Some(number) = parse_number(value).filter(|number| *number <= 0xFFFF) else {
                let message = format!("`base` cannot be {value}");
                context.error(&value_span, message, "a port, 0 to 0xffff, such as 0x378");
                return None;
            };
            base = (number, value_span);
            continue;
        }
        has_range |= key == "range";
        has_epp |= key == "epp";
        let is_text = matches!(
            kind,
            None | Some(Kind::Text(..) | Kind::Choice(_) | Kind::Form(_) | Kind::Range(_))
        );
        if is_text && !value.starts_with('"') {
            insert(&mut table, key, item.key.clone(), string(value), value_span);
            continue;
        }
        match DeTable::parse(padded) {
            Ok(document) => {
                let value = document.into_inner().remove("v")?;
                let span = value.span();
                insert(&mut table, key, item.key.clone(), value.into_inner(), span);
            }
            Err(error) => {
                let message = format!("`{key}` cannot be {value}: {}", error.message().trim());
                context.error(&value_span, message, EXAMPLE);
                return None;
            }
        }
    }
    if !has_range {
        let (first, span) = base;
        let ports = if has_epp { 8 } else { model.ports };
        let last = (first + u64::from(ports) - 1).min(0xFFFF);
        let range = format!("{first:#x}-{last:#x}");
        insert(&mut table, "range", span.clone(), string(&range), span);
    } else if given.contains(&"base") {
        context.error(&base.1, "`base` and `range` are both there", EXAMPLE);
        return None;
    }
    done(context, &table)
}

fn insert<'v>(
    table: &mut DeTable<'v>,
    key: &str,
    key_span: Range<usize>,
    value: DeValue<'v>,
    span: Range<usize>,
) {
    let key = Spanned::new(key_span, key.to_owned().into());
    // A key that is there twice was reported, but `access`, which overrides the default.
    drop(table.insert(key, Spanned::new(span, value)));
}

fn string(text: &str) -> DeValue<'static> {
    DeValue::String(text.to_owned().into())
}

/// Cuts at the commas outside of brackets and quotes.
pub(super) fn split(text: &str, span: Range<usize>) -> Vec<Item> {
    let mut items = Vec::new();
    let mut depth = 0_usize;
    let mut is_quoted = false;
    let mut start = span.start;
    let bytes = text.as_bytes();
    for at in span.start..=span.end {
        let byte = if at == span.end { b',' } else { bytes[at] };
        match byte {
            b'"' => is_quoted = !is_quoted,
            b'[' if !is_quoted => depth += 1,
            b']' if !is_quoted => depth = depth.saturating_sub(1),
            b',' if at == span.end || (depth == 0 && !is_quoted) => {
                if at > start {
                    let item = &bytes[start..at];
                    let equals = item.iter().position(|byte| *byte == b'=');
                    items.push(Item {
                        key: start..equals.map_or(at, |equals| start + equals),
                        value: equals.map(|equals| start + equals + 1..at),
                    });
                }
                start = at + 1;
            }
            _ => {}
        }
    }
    items
}
