//! `[[memory]]` rules.

use std::path::PathBuf;

use super::{MEMORY_KEYS, access, is_string, name, required_backend};
use crate::policy::fields::{Context, Fields, SpannedRange, quoted};
use crate::policy::{Defaults, MemoryBackend, MemoryRule, OnDeny};

const MEMORY_RANGE: &str =
    "\"FIRST-LAST\" in whole pages of 4096 bytes, such as \"0xd0000-0xd0fff\"";
/// Physical addresses have at most 52 bits (AMD64 Architecture Programmer's Manual vol. 2, 1.1.2).
const ADDRESS_MAX: u64 = (1 << 52) - 1;
/// Reads one rule; `None` when something is wrong with it.
pub(super) fn parse_memory(
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
