//! `[[interrupt]]` rules.

use std::path::PathBuf;

use super::choices::{INTERRUPT_BACKENDS, InterruptKind};
use super::common::{check_keys, comment, name, place, required_backend};
use crate::policy::fields::{Context, Fields};
use crate::policy::overlap::at_place;
use crate::policy::schema::INTERRUPT;
use crate::policy::{InterruptRule, InterruptSource, PciAddress, Policy, Signal, UioDevice};

const FUNCTION: &str = "a PCI function such as \"0000:00:10.0\"";
const DEVICE: &str = "a PCI function such as \"0000:00:10.0\", or \"/dev/uio0\"";

/// Reads one rule; `None` when something is wrong with it.
pub(super) fn parse_interrupt(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    before: &[InterruptRule],
) -> Option<InterruptRule> {
    let found_before = context.diagnostics.len();
    let kind = required_backend(context, fields, INTERRUPT_BACKENDS);
    check_keys(context, fields, &INTERRUPT, kind.is_some());
    let mut required = |key, allowed: &str| {
        if fields.table.get(key).is_none() {
            fields.missing(context, key, allowed.to_owned());
        }
    };
    required("line", "a whole number from 0 to 63");
    match kind {
        Some(InterruptKind::Uio) => required("device", DEVICE),
        Some(InterruptKind::Vfio) => required("device", FUNCTION),
        Some(InterruptKind::EventFd) => required("fd", "a file descriptor's number"),
        None => {}
    }
    let line = fields.bounded(context, &INTERRUPT, "line");
    let is_message = fields.flag(context, "message-signaled");
    let vector = fields
        .bounded(context, &INTERRUPT, "msi-x")
        .and_then(|vector| u16::try_from(vector).ok());
    if is_message && vector.is_some() {
        context.error(
            &fields.span_of("msi-x"),
            "`message-signaled` and `msi-x` cannot both be: a function has MSI or MSI-X on"
                .to_owned(),
            "one of the two",
        );
    }
    let signal = match vector {
        Some(vector) => Signal::MsiX(vector),
        None if is_message => Signal::Msi,
        None => Signal::Pin,
    };
    let source = match kind {
        Some(InterruptKind::Uio) => {
            named(context, fields, DEVICE, device).map(InterruptSource::Uio)
        }
        Some(InterruptKind::Vfio) => named(context, fields, FUNCTION, PciAddress::parse)
            .map(|address| InterruptSource::Vfio { address, signal }),
        Some(InterruptKind::EventFd) => fields
            .bounded(context, &INTERRUPT, "fd")
            .and_then(|number| i32::try_from(number).ok())
            .map(InterruptSource::EventFd),
        None => None,
    };
    let name = name(context, fields);
    let comment = comment(context, fields);
    let line = line.and_then(|line| u32::try_from(line).ok());
    for other in before {
        for (key, is_same) in [
            ("line", line == Some(other.line)),
            (
                "device",
                source
                    .as_ref()
                    .is_some_and(|source| source.is_same(&other.source)),
            ),
        ] {
            if is_same {
                context.error(
                    &fields.span_of(key),
                    format!(
                        "the rule of line {} has this interrupt as well",
                        other.place.line
                    ),
                    "one rule for each line and each source",
                );
            }
        }
    }
    if context.diagnostics.len() > found_before {
        return None;
    }
    Some(InterruptRule {
        line: line?,
        source: source?,
        name,
        comment,
        place: place(context, fields),
    })
}

/// Refuses interrupts by VFIO of functions that no rule has opened by it.
pub(super) fn check_functions(policy: &Policy, context: &mut Context<'_>) {
    for rule in &policy.interrupt_rules {
        let InterruptSource::Vfio { address, .. } = rule.source else {
            continue;
        };
        let is_named = policy
            .pci_rules
            .iter()
            .any(|pci| pci.asks_for_dma && pci.target.address.is_none_or(|named| named == address));
        if !is_named {
            context.diagnostics.push(at_place(
                &context.source,
                rule.place,
                format!("no [[pci]] rule with `dma = \"vfio\"` is about {address}"),
                format!("a [[pci]] rule with `bdf = \"{address}\"` and `dma = \"vfio\"`"),
            ));
        }
    }
}

/// The key `device`.
fn named<T>(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    allowed: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Option<T> {
    let (text, span) = fields.string(context, "device", allowed)?;
    let device = parse(text);
    if device.is_none() {
        context.error(&span, format!("`device` cannot be \"{text}\""), allowed);
    }
    device
}

fn device(text: &str) -> Option<UioDevice> {
    if let Some(number) = text.strip_prefix("/dev/uio") {
        let is_number = !number.is_empty()
            && number.len() <= 4
            && number.bytes().all(|digit| digit.is_ascii_digit());
        return is_number.then(|| UioDevice::File(PathBuf::from(text)));
    }
    PciAddress::parse(text).map(UioDevice::Function)
}
