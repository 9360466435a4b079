//! The `[device]` table and the `[[resource]]`s.

use toml::de::DeValue;

use super::common::{comment, name};
use super::{rule_tables, single_table};
use crate::policy::device::{Device, RESOURCES_MAX, Resource, ResourceKind, Share};
use crate::policy::fields::{Context, Fields, quoted};
use crate::policy::schema::{DEVICE, RESOURCE};
use crate::policy::{ADDRESS_MAX, PciAddress, PciRule};

/// Ids of a list, at most: as many as the guest takes.
pub(in crate::policy) const IDS_MAX: usize = 16;
/// Characters of an id: MAX_DEVICE_ID_LEN without its NUL.
pub(in crate::policy) const ID_MAX: usize = 199;
/// The highest interrupt line of an I/O APIC.
pub(in crate::policy) const LINE_MAX: u32 = 23;
/// The highest channel of a PC's DMA controllers.
pub(in crate::policy) const CHANNEL_MAX: u32 = 7;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::policy) enum Kind {
    Port,
    Memory,
    Interrupt,
    Dma,
}

pub(in crate::policy) const KINDS: &[(&str, Kind); 4] = &[
    ("port", Kind::Port),
    ("memory", Kind::Memory),
    ("interrupt", Kind::Interrupt),
    ("dma", Kind::Dma),
];
pub(in crate::policy) const SHARES: &[(&str, Share); 3] = &[
    ("device", Share::Device),
    ("driver", Share::Driver),
    ("shared", Share::Shared),
];
pub(in crate::policy) const MODES: &[(&str, bool); 2] = &[("level", false), ("latched", true)];

/// Reads both.
pub(super) fn parse(context: &mut Context<'_>, top: &Fields<'_>, functions: &[PciRule]) -> Device {
    let mut device = match single_table(context, top, "device", DEVICE.title) {
        Some(fields) => {
            let mut device = parse_device(context, &fields);
            if let Some(function) = function(context, &fields, functions) {
                device.add_function(function);
            }
            device
        }
        None => Device::default(),
    };
    let tables = rule_tables(context, top, "resource", RESOURCE.title);
    if let Some(fields) = tables.get(RESOURCES_MAX) {
        context.error(
            &fields.span,
            format!("{} [[resource]]s", tables.len()),
            format!("at most {RESOURCES_MAX}"),
        );
        return device;
    }
    for fields in tables {
        let Some(resource) = parse_resource(context, &fields) else {
            continue;
        };
        let clash = device
            .resources
            .iter()
            .find(|other| other.overlaps(&resource));
        if let Some(other) = clash {
            context.error(
                &fields.span,
                format!("this resource and the one of line {} overlap", other.line),
                "resources of one device that do not overlap",
            );
        }
        device.resources.push(resource);
    }
    device
}

fn parse_device(context: &mut Context<'_>, fields: &Fields<'_>) -> Device {
    fields.check_keys(context, &DEVICE.names(), |key| {
        RESOURCE
            .key(key)
            .is_some()
            .then(|| format!("`{key}` belongs to a [[resource]]"))
    });
    comment(context, fields);
    Device {
        driver: text(context, fields, "driver", is_file_name, "a driver's name"),
        instance_id: text(
            context,
            fields,
            "instance-id",
            is_instance,
            "1 to 199 characters, without space, comma, \\, / and #",
        ),
        description: text(
            context,
            fields,
            "description",
            is_text,
            "1 to 199 characters, no control characters",
        ),
        hardware_ids: ids(context, fields, "hardware-ids"),
        compatible_ids: ids(context, fields, "compatible-ids"),
        resources: Vec::new(),
    }
}

/// The modelled function that `pci` names.
fn function<'r>(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    functions: &'r [PciRule],
) -> Option<&'r PciRule> {
    let allowed = "the `bdf` of a [[pci]] rule with backend \"model\" and an interrupt or BARs";
    let (text, span) = fields.string(context, "pci", allowed)?;
    let Some(address) = PciAddress::parse(text) else {
        context.error(&span, format!("`pci` cannot be \"{text}\""), allowed);
        return None;
    };
    let found = functions
        .iter()
        .find(|rule| rule.target.address == Some(address));
    match found.and_then(PciRule::model) {
        Some(model) if model.is_device() => {
            // What the guest's resource lists can say.
            let line = model.interrupt.map(|interrupt| interrupt.line);
            if let Some(line) = line.filter(|line| *line > LINE_MAX) {
                context.error(
                    &span,
                    format!(
                        "the function's interrupt line, {line}, is no resource of a PnP device"
                    ),
                    format!("an `interrupt-line` from 0 to {LINE_MAX}"),
                );
                return None;
            }
            found
        }
        _ => {
            context.error(
                &span,
                format!("no [[pci]] rule models a device at {text}"),
                allowed,
            );
            None
        }
    }
}

fn is_text(text: &str) -> bool {
    let units = text.encode_utf16().count();
    (1..=ID_MAX).contains(&units) && !text.chars().any(char::is_control)
}

fn is_id(text: &str) -> bool {
    is_text(text) && !text.contains([' ', ','])
}

fn is_instance(text: &str) -> bool {
    is_id(text) && !text.contains(['\\', '/', '#'])
}

fn is_file_name(text: &str) -> bool {
    is_text(text) && !text.contains(['\\', '/'])
}

fn text(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    key: &str,
    is_valid: fn(&str) -> bool,
    allowed: &str,
) -> Option<String> {
    let (text, span) = fields.string(context, key, allowed)?;
    if !is_valid(text) {
        context.error(&span, format!("`{key}` cannot be this text"), allowed);
        return None;
    }
    Some(text.to_owned())
}

fn ids(context: &mut Context<'_>, fields: &Fields<'_>, key: &str) -> Vec<String> {
    let allowed = format!(
        "a list of at most {IDS_MAX} ids such as [\"ROOT\\\\CARD\"], each of 1 to {ID_MAX} characters without space and comma"
    );
    let Some(value) = fields.table.get(key) else {
        return Vec::new();
    };
    let DeValue::Array(array) = value.get_ref() else {
        context.error(&value.span(), format!("`{key}` is no list"), allowed);
        return Vec::new();
    };
    if array.len() > IDS_MAX {
        let message = format!("`{key}` has {} ids", array.len());
        context.error(&value.span(), message, allowed);
        return Vec::new();
    }
    let mut ids = Vec::new();
    for element in array {
        match element.get_ref().as_str() {
            Some(text) if is_id(text) => ids.push(text.to_owned()),
            _ => context.error(&element.span(), "this is no id", allowed.clone()),
        }
    }
    ids
}

fn parse_resource(context: &mut Context<'_>, fields: &Fields<'_>) -> Option<Resource> {
    let found_before = context.diagnostics.len();
    let kind = if fields.table.get("type").is_none() {
        let names: Vec<&str> = KINDS.iter().map(|(name, _)| *name).collect();
        fields.missing(context, "type", quoted(&names, '"'));
        None
    } else {
        fields.choice(context, "type", KINDS)
    };
    let own: &[&str] = match kind {
        Some(Kind::Port | Kind::Memory) => &["range"],
        Some(Kind::Interrupt) => &["line", "mode"],
        Some(Kind::Dma) => &["channel"],
        None => &["range", "line", "mode", "channel"],
    };
    let allowed = [&["type", "share", "name", "comment"], own].concat();
    fields.check_keys(context, &allowed, |key| {
        RESOURCE
            .key(key)
            .is_some()
            .then(|| format!("`{key}` belongs to a resource of another type"))
    });
    let share = fields.choice(context, "share", SHARES);
    name(context, fields);
    comment(context, fields);
    let kind = kind.and_then(|kind| parse_kind(context, fields, kind));
    if context.diagnostics.len() > found_before {
        return None;
    }
    let (line, _) = context.source.place(fields.span.start);
    Some(Resource {
        kind: kind?,
        share: share.unwrap_or(Share::Device),
        line,
        span: (fields.span.start, fields.span.end),
    })
}

fn parse_kind(context: &mut Context<'_>, fields: &Fields<'_>, kind: Kind) -> Option<ResourceKind> {
    let number = |context: &mut Context<'_>, key: &str, max: u32| {
        if fields.table.get(key).is_none() {
            fields.missing(context, key, format!("a whole number from 0 to {max}"));
            return None;
        }
        fields
            .number(context, key, max)
            .and_then(|number| u8::try_from(number).ok())
    };
    Some(match kind {
        Kind::Port => {
            let example = "\"FIRST-LAST\" or one port, 0 to 0xffff, such as \"0x378-0x37a\"";
            let range = fields.range(context, "range", 0xFFFF, example)?;
            ResourceKind::Port(range.first.try_into().ok()?, range.last.try_into().ok()?)
        }
        Kind::Memory => {
            let example = "\"FIRST-LAST\", such as \"0xd0000-0xd0fff\"";
            let range = fields.range(context, "range", ADDRESS_MAX, example)?;
            if range.last - range.first >= u64::from(u32::MAX) {
                context.error(
                    &range.span,
                    "a memory resource has less than 4 GiB",
                    "several resources",
                );
                return None;
            }
            ResourceKind::Memory(range.first, range.last)
        }
        Kind::Interrupt => ResourceKind::Interrupt {
            is_latched: fields.choice(context, "mode", MODES).unwrap_or(false),
            line: number(context, "line", LINE_MAX)?,
        },
        Kind::Dma => ResourceKind::Dma(number(context, "channel", CHANNEL_MAX)?),
    })
}
