//! `[[index-pair]]` rules.

use super::choices::{INDEX_PAIR_BACKENDS, IndexPairKind, ON_DENY};
use super::common::{access, bit_masks, check_keys, comment, name, place, required_backend};
use super::rule_tables;
use crate::policy::fields::{Context, Fields};
use crate::policy::overlap;
use crate::policy::schema::{INDEX_PAIR, INDEX_REGISTER};
use crate::policy::{Defaults, IndexPair, IndexPairBackend, IndexRegister};

/// Reads one rule; `None` when something is wrong with it.
pub(super) fn parse_index_pair(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    defaults: &Defaults,
) -> Option<IndexPair> {
    let found_before = context.diagnostics.len();
    let kind = required_backend(context, fields, INDEX_PAIR_BACKENDS);
    check_keys(context, fields, &INDEX_PAIR, kind.is_some());
    let index = port(context, fields, "index");
    let data = port(context, fields, "data");
    if let (Some(index), Some(data)) = (index, data)
        && index == data
    {
        context.error(
            &fields.span_of("data"),
            "`data` is the index port",
            "another port",
        );
    }
    let index_mask = byte(context, fields, "index-mask");
    let index_fixed = byte(context, fields, "index-fixed");
    if index_fixed.is_some() && index_mask.is_none() {
        context.error(
            &fields.span_of("index-fixed"),
            "`index-fixed` without `index-mask`: no bit is left for it",
            "`index-mask` with it: the bits that select a register",
        );
    }
    let on_deny = fields.choice(context, "on-deny", ON_DENY);
    let denied_read = fields.number(context, "denied-read", u32::MAX);
    let name = name(context, fields);
    let comment = comment(context, fields);
    let is_danger_accepted = fields.flag(context, "i-know-what-this-does");
    let index_mask = index_mask.unwrap_or(0xFF);
    let mut registers = Vec::new();
    for table in rule_tables(context, fields, "register", INDEX_REGISTER.title) {
        registers.extend(parse_register(context, &table, index_mask));
    }
    registers.sort_by_key(|register: &IndexRegister| register.first);
    overlap::between_registers(context, "index", &registers);
    let initial = fields.bytes(context, "initial", 256);
    let remap = fields
        .bounded(context, &INDEX_PAIR, "remap")
        .and_then(|port| u16::try_from(port).ok());
    if context.diagnostics.len() > found_before {
        return None;
    }
    let (index, data) = (index?, data?);
    let backend = match kind? {
        IndexPairKind::Passthrough => {
            let host_index = remap.unwrap_or(index);
            let host_data = i32::from(host_index) + i32::from(data) - i32::from(index);
            let Ok(host_data) = u16::try_from(host_data) else {
                context.error(
                    &fields.span_of("remap"),
                    "the data port would be none of the machine's",
                    "ports 0 to 0xffff; the data port keeps its distance from the index port",
                );
                return None;
            };
            IndexPairBackend::Passthrough {
                index: host_index,
                data: host_data,
            }
        }
        IndexPairKind::Ram => IndexPairBackend::Ram {
            initial: initial.unwrap_or_default(),
        },
    };
    Some(IndexPair {
        index,
        data,
        index_mask,
        index_fixed: index_fixed.unwrap_or(0),
        backend,
        registers,
        is_danger_accepted,
        on_deny: on_deny.unwrap_or(defaults.on_deny),
        denied_read: denied_read.unwrap_or(defaults.denied_read),
        name,
        comment,
        place: place(context, fields),
    })
}

fn port(context: &mut Context<'_>, fields: &Fields<'_>, key: &str) -> Option<u16> {
    if fields.table.get(key).is_none() {
        fields.missing(context, key, "a port, 0 to 0xffff".to_owned());
        return None;
    }
    let port = fields.bounded(context, &INDEX_PAIR, key)?;
    u16::try_from(port).ok()
}

fn byte(context: &mut Context<'_>, fields: &Fields<'_>, key: &str) -> Option<u8> {
    let byte = fields.bounded(context, &INDEX_PAIR, key)?;
    u8::try_from(byte).ok()
}

fn parse_register(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    index_mask: u8,
) -> Option<IndexRegister> {
    let found_before = context.diagnostics.len();
    fields.check_keys(context, &INDEX_REGISTER.names(), |_| None);
    let range = fields.range(
        context,
        "range",
        0xFF,
        "\"FIRST-LAST\" or one index, 0 to 0xff",
    );
    if let Some(range) = &range
        && range.first & u64::from(!index_mask) != 0
    {
        context.error(
            &range.span,
            format!(
                "`index-mask` = {index_mask:#x} cannot select index {:#x}",
                range.first
            ),
            "indices within the mask",
        );
    }
    let access = access(context, fields, Some(false));
    let masks = bit_masks(context, fields, &INDEX_REGISTER, access);
    let values = fields.values(context, &INDEX_REGISTER, "values");
    let name = name(context, fields);
    comment(context, fields);
    if context.diagnostics.len() > found_before {
        return None;
    }
    let range = range?;
    Some(IndexRegister {
        first: u8::try_from(range.first).ok()?,
        last: u8::try_from(range.last).ok()?,
        access,
        masks,
        values,
        name,
        place: place(context, fields),
    })
}
