//! What makes a modelled PCI function a device: `[[pci.bar]]`, its identification, its interrupt.

use super::choices::{BAR_BACKENDS, BAR_KINDS, PIN_NAMES, PortKind};
use super::common::{check_keys, comment, name, place, required_backend};
use super::{model, rule_tables};
use crate::policy::fields::{Context, Fields};
use crate::policy::schema::{PCI, PCI_BAR};
use crate::policy::{BARS, BarKind, PciBar, PciId, PciInterrupt, PciModel, PortBackend};

/// Offsets in a type 0 header (PCI Local Bus Specification 3.0, 6.1).
const COMMAND: usize = 0x04;
const REVISION: usize = 0x08;
const CLASS: usize = 0x09;
const SUBSYSTEM: usize = 0x2C;
/// Bits of the command register.
const IO_SPACE: u8 = 1 << 0;
const MEMORY_SPACE: u8 = 1 << 1;
const BUS_MASTER: u8 = 1 << 2;

/// Reads the keys of a function with backend "model".
pub(super) fn parse_function(context: &mut Context<'_>, fields: &Fields<'_>) -> PciModel {
    let given = fields.bytes(context, "initial", 256).unwrap_or_default();
    let bars = parse_bars(context, fields);
    let interrupt = parse_interrupt(context, fields);
    let mut initial = given.clone();
    let mut put = |at: usize, bytes: &[u8]| {
        if initial.len() < at + bytes.len() {
            initial.resize(at + bytes.len(), 0);
        }
        initial[at..at + bytes.len()].copy_from_slice(bytes);
    };
    if let Some(class) = fields.bounded(context, &PCI, "class") {
        put(CLASS, &class.to_le_bytes()[..3]);
    }
    if let Some(revision) = fields.bounded(context, &PCI, "revision") {
        put(REVISION, &revision.to_le_bytes()[..1]);
    }
    let example = "subsystem vendor and subsystem id, such as \"1af4:1100\"";
    if let Some((text, span)) = fields.string(context, "subsystem", example) {
        match PciId::parse(text) {
            Some(id) => {
                put(SUBSYSTEM, &id.vendor.to_le_bytes());
                put(SUBSYSTEM + 2, &id.device.to_le_bytes());
            }
            None => context.error(&span, format!("`subsystem` cannot be \"{text}\""), example),
        }
    }
    // As firmware and NT's PCI bus driver leave it: what has a place is decoded, what has DMA is a bus master.
    if given.len() <= COMMAND {
        let bits = bars.iter().filter(|bar| bar.base.is_some()).map(|bar| {
            if bar.kind == BarKind::Port {
                IO_SPACE
            } else {
                MEMORY_SPACE
            }
        });
        let mut command = bits.fold(0, |all, bit| all | bit);
        if bars.iter().any(|bar| bar.backend.has_dma()) {
            command |= BUS_MASTER;
        }
        if command != 0 {
            put(COMMAND, &[command]);
        }
    }
    PciModel {
        initial,
        bars,
        interrupt,
    }
}

fn parse_interrupt(context: &mut Context<'_>, fields: &Fields<'_>) -> Option<PciInterrupt> {
    let line = fields.bounded(context, &PCI, "interrupt-line");
    let pin = fields.choice(context, "interrupt-pin", PIN_NAMES);
    if line.is_none() && pin.is_some() {
        context.error(
            &fields.span_of("interrupt-pin"),
            "`interrupt-pin` without `interrupt-line`",
            "`interrupt-line` with it: where the pin is wired to",
        );
    }
    Some(PciInterrupt {
        line: u32::try_from(line?).ok()?,
        pin: pin.unwrap_or(1),
    })
}

fn parse_bars(context: &mut Context<'_>, fields: &Fields<'_>) -> Vec<PciBar> {
    let mut bars: Vec<PciBar> = Vec::new();
    for table in rule_tables(context, fields, "bar", PCI_BAR.title) {
        let Some(bar) = parse_bar(context, &table) else {
            continue;
        };
        let end = |bar: &PciBar| bar.index + bar.kind.registers();
        let clash = bars
            .iter()
            .find(|other| bar.index < end(other) && other.index < end(&bar));
        if let Some(other) = clash {
            context.error(
                &table.span_of("index"),
                format!(
                    "the [[pci.bar]] of line {} has this register as well",
                    other.place.line
                ),
                "one for each register; a \"memory64\" takes two",
            );
        }
        bars.push(bar);
    }
    bars.sort_by_key(|bar| bar.index);
    bars
}

fn parse_bar(context: &mut Context<'_>, fields: &Fields<'_>) -> Option<PciBar> {
    let found_before = context.diagnostics.len();
    let device = required_backend(context, fields, BAR_BACKENDS);
    check_keys(context, fields, &PCI_BAR, device.is_some());
    for (key, allowed) in [
        ("index", "a whole number from 0 to 5"),
        ("type", "\"port\", \"memory\", \"memory64\""),
        ("size", "a power of two"),
    ] {
        if fields.table.get(key).is_none() {
            fields.missing(context, key, allowed.to_owned());
        }
    }
    let index = fields.bounded(context, &PCI_BAR, "index");
    let kind = fields.choice(context, "type", BAR_KINDS);
    let size = fields.bounded(context, &PCI_BAR, "size");
    let base = fields.bounded(context, &PCI_BAR, "base");
    let is_prefetchable = fields.flag(context, "prefetchable");
    if let (Some(kind), Some(size)) = (kind, size) {
        check_place(context, fields, kind, size, base);
        if kind == BarKind::Port && is_prefetchable {
            context.error(
                &fields.span_of("prefetchable"),
                "`prefetchable` is for memory",
                "no such key, or another `type`",
            );
        }
        if kind == BarKind::Memory64 && index.is_some_and(|index| index >= 5) {
            context.error(
                &fields.span_of("index"),
                "a \"memory64\" has a second register after this one, and there is none",
                "0 to 4",
            );
        }
    }
    let backend = match device? {
        PortKind::Ram => {
            let (initial, fill) = fields
                .byte_or_bytes(context, "initial")
                .unwrap_or((Vec::new(), 0));
            if size.is_some_and(|size| initial.len() as u64 > size) {
                context.error(
                    &fields.span_of("initial"),
                    format!("`initial` has {} bytes, more than `size`", initial.len()),
                    "at most as many as `size`",
                );
            }
            Some(PortBackend::Ram { initial, fill })
        }
        device => model::parse(context, fields, device, None),
    };
    if let (Some(backend), Some(size)) = (&backend, size) {
        let (least, registers) = backend.registers();
        if size < least {
            context.error(
                &fields.span_of("size"),
                format!(
                    "backend \"{}\" has {least} bytes of registers ({registers})",
                    backend.name()
                ),
                format!("{} at least", least.next_power_of_two()),
            );
        }
    }
    let name = name(context, fields);
    comment(context, fields);
    if context.diagnostics.len() > found_before {
        return None;
    }
    Some(PciBar {
        index: u8::try_from(index?).ok().filter(|index| *index < BARS)?,
        kind: kind?,
        size: size?,
        base,
        is_prefetchable,
        backend: backend?,
        name,
        place: place(context, fields),
    })
}

fn check_place(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    kind: BarKind,
    size: u64,
    base: Option<u64>,
) {
    let (min, max) = kind.sizes();
    if !size.is_power_of_two() || !(min..=max).contains(&size) {
        context.error(
            &fields.span_of("size"),
            format!("a BAR of type \"{}\" cannot have {size} bytes", kind.name()),
            format!("a power of two from {min} to {max:#x}"),
        );
        return;
    }
    let Some(base) = base else { return };
    // A BAR decodes by its upper bits: it lies at a multiple of its size. 0 is "nowhere".
    let last = kind.address_max().min(match kind {
        BarKind::Port => 0xFFFF,
        BarKind::Memory | BarKind::Memory64 => crate::machine::DEVICE_ADDRESS_MAX,
    });
    if base == 0 || !base.is_multiple_of(size) || base.saturating_add(size - 1) > last {
        context.error(
            &fields.span_of("base"),
            format!("a BAR of {size:#x} bytes cannot be at {base:#x}"),
            format!("a multiple of its size, not 0, with its end at {last:#x} at most"),
        );
    }
}
