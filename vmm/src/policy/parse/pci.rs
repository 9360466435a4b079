//! `[[pci]]` rules.

use super::choices::{ACCESS, DMA, ON_DENY, PCI_BACKENDS, PciKind};
use super::common::{
    access, bit_masks, check_keys, comment, limits, name, place, required_backend,
};
use super::pci_bar::parse_function;
use super::rule_tables;
use crate::policy::fields::{Context, Fields};
use crate::policy::overlap;
use crate::policy::schema::{PCI, PCI_REGISTER};
use crate::policy::{
    Defaults, PciAddress, PciBackendKind, PciId, PciRegister, PciRule, PciTarget, Widths,
};

/// Reads one rule; `None` when something is wrong with it.
pub(super) fn parse_pci(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    defaults: &Defaults,
) -> Option<PciRule> {
    let found_before = context.diagnostics.len();
    let kind = required_backend(context, fields, PCI_BACKENDS);
    check_keys(context, fields, &PCI, kind.is_some());
    let target = target(context, fields, kind);
    if kind == Some(PciKind::Deny) && fields.table.get("access").is_some() {
        // Says so.
        access(context, fields, Some(true));
    }
    let access = fields.choice(context, "access", ACCESS);
    let on_deny = fields.choice(context, "on-deny", ON_DENY);
    let denied_read = fields.number(context, "denied-read", u32::MAX);
    let name = name(context, fields);
    let comment = comment(context, fields);
    let widths = fields.widths(context, "widths");
    let limits = limits(context, fields, &PCI);
    let is_danger_accepted = fields.flag(context, "i-know-what-this-does");
    let dma = fields.choice(context, "dma", DMA);
    let mut registers = Vec::new();
    for table in rule_tables(context, fields, "register", PCI_REGISTER.title) {
        registers.extend(parse_register(context, &table));
    }
    registers.sort_by_key(|register: &PciRegister| register.first);
    overlap::between_registers(context, "register", &registers);
    let model = (kind == Some(PciKind::Model)).then(|| parse_function(context, fields));
    if context.diagnostics.len() > found_before {
        return None;
    }
    Some(PciRule {
        target,
        backend: match kind? {
            PciKind::Passthrough => PciBackendKind::Passthrough,
            PciKind::Deny => PciBackendKind::Deny,
            PciKind::Model => PciBackendKind::Model(Box::new(model?)),
        },
        access,
        widths: widths.unwrap_or(Widths::ALL),
        limits,
        registers,
        asks_for_dma: dma.is_some(),
        is_danger_accepted,
        on_deny: on_deny.unwrap_or(defaults.pci_on_deny),
        denied_read: denied_read.unwrap_or(defaults.denied_read),
        name,
        comment,
        place: place(context, fields),
    })
}

fn target(context: &mut Context<'_>, fields: &Fields<'_>, kind: Option<PciKind>) -> PciTarget {
    let id_example = "vendor and device as lspci -n has them, such as \"8086:100e\"";
    let address_example = "as lspci -D has it, such as \"0000:00:03.0\"";
    let id = fields
        .string(context, "device", id_example)
        .and_then(|(text, span)| {
            let id = PciId::parse(text);
            if id.is_none() {
                context.error(&span, format!("`device` cannot be \"{text}\""), id_example);
            }
            id
        });
    let address = fields
        .string(context, "bdf", address_example)
        .and_then(|(text, span)| {
            let address = PciAddress::parse(text);
            if address.is_none() {
                context.error(
                    &span,
                    format!("`bdf` cannot be \"{text}\""),
                    address_example,
                );
            }
            address
        });
    let has = |key| fields.table.get(key).is_some();
    if kind == Some(PciKind::Model) {
        for (key, example) in [("device", id_example), ("bdf", address_example)] {
            if !has(key) {
                fields.missing(context, key, example.to_owned());
            }
        }
    } else if !has("device") && !has("bdf") {
        fields.missing(
            context,
            "device",
            format!("`device` ({id_example}) or `bdf` ({address_example})"),
        );
    }
    PciTarget { address, id }
}

fn parse_register(context: &mut Context<'_>, fields: &Fields<'_>) -> Option<PciRegister> {
    let found_before = context.diagnostics.len();
    fields.check_keys(context, &PCI_REGISTER.names(), |_| None);
    let range = fields.range(
        context,
        "range",
        0xFFF,
        "\"FIRST-LAST\" or one byte of configuration space, 0 to 0xfff, such as \"0x04-0x05\"",
    );
    let access = access(context, fields, Some(false));
    let masks = bit_masks(context, fields, &PCI_REGISTER, access);
    if let Some(range) = &range {
        let bytes = range.last - range.first + 1;
        let bits = 8 * bytes.min(8);
        for key in ["write-mask", "write-fixed", "read-mask", "read-fixed"] {
            if fields.table.get(key).is_none() {
                continue;
            }
            let value = match key {
                "write-mask" => masks.write,
                "write-fixed" => masks.write_fixed.unwrap_or(0),
                "read-mask" => masks.read,
                _ => masks.read_fixed,
            };
            if bytes > 8 || (bits < 64 && value >> bits != 0) {
                context.error(
                    &fields.span_of(key),
                    format!("`{key}` does not fit a register of {bytes} byte(s)"),
                    "a register of at most 8 bytes, and a mask of its size",
                );
            }
        }
    }
    let name = name(context, fields);
    comment(context, fields);
    if context.diagnostics.len() > found_before {
        return None;
    }
    let range = range?;
    Some(PciRegister {
        first: u16::try_from(range.first).ok()?,
        last: u16::try_from(range.last).ok()?,
        access,
        masks,
        name,
        place: place(context, fields),
    })
}
