//! `[[msr]]` rules.

use super::choices::{MSR_BACKENDS, MsrKind, ON_DENY};
use super::common::{
    access, bit_masks, check_keys, comment, limits, name, place, required_backend,
};
use crate::policy::fields::{Context, Fields};
use crate::policy::schema::MSR;
use crate::policy::{Defaults, MsrBackendKind, MsrRule};

const MSR_RANGE: &str = "\"FIRST-LAST\", 0 to 0xffffffff, such as \"0xc0010000-0xc0010003\"";

/// Reads one rule; `None` when something is wrong with it.
pub(super) fn parse_msr(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    defaults: &Defaults,
) -> Option<MsrRule> {
    let found_before = context.diagnostics.len();
    let kind = required_backend(context, fields, MSR_BACKENDS);
    check_keys(context, fields, &MSR, kind.is_some());
    let has = |key| fields.table.get(key).is_some();
    let (first, last) = match (has("register"), has("range")) {
        (true, true) => {
            context.error(
                &fields.span_of("range"),
                "`register` and `range` both say which MSRs these are",
                "one of them",
            );
            None
        }
        (true, false) => fields
            .bounded(context, &MSR, "register")
            .map(|register| (register, register)),
        (false, true) => fields
            .range(context, "range", u32::MAX.into(), MSR_RANGE)
            .map(|range| (range.first, range.last)),
        (false, false) => {
            fields.missing(
                context,
                "register",
                format!("a number such as 0x1b; or `range`: {MSR_RANGE}"),
            );
            None
        }
    }
    .unzip();
    let access = access(context, fields, kind.map(|kind| kind == MsrKind::Deny));
    let masks = bit_masks(context, fields, &MSR, access);
    let values = fields.values(context, &MSR, "values");
    let limits = limits(context, fields, &MSR);
    let on_deny = fields.choice(context, "on-deny", ON_DENY);
    let denied_read = fields.bounded(context, &MSR, "denied-read");
    let name = name(context, fields);
    let comment = comment(context, fields);
    let is_danger_accepted = fields.flag(context, "i-know-what-this-does");
    if kind == Some(MsrKind::Value) && !has("value") {
        fields.missing(context, "value", "the number that reads return".to_owned());
    }
    let value = fields.bounded(context, &MSR, "value");
    if context.diagnostics.len() > found_before {
        return None;
    }
    Some(MsrRule {
        first: u32::try_from(first?).ok()?,
        last: u32::try_from(last?).ok()?,
        access,
        backend: match kind? {
            MsrKind::Passthrough => MsrBackendKind::Passthrough,
            MsrKind::Value => MsrBackendKind::Value(value?),
            MsrKind::Deny => MsrBackendKind::Deny,
        },
        masks,
        values,
        limits,
        is_danger_accepted,
        on_deny: on_deny.unwrap_or(defaults.msr_on_deny),
        denied_read: denied_read.unwrap_or(0),
        name,
        comment,
        place: place(context, fields),
    })
}
