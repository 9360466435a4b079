//! `[[memory]]` rules.

use std::path::PathBuf;

use super::choices::{CACHE, MEMORY_BACKENDS, MEMORY_ON_DENY, MemoryKind};
use super::common::{access, check_keys, comment, is_string, name, required_backend};
use super::model::parse_external;
use crate::policy::fields::{Context, Fields, SpannedRange, quoted};
use crate::policy::schema::MEMORY;
use crate::policy::{ADDRESS_MAX, CacheMode, Defaults, MemoryBackend, MemoryRule, MemorySource};

const MEMORY_RANGE: &str =
    "\"FIRST-LAST\" in whole pages of 4096 bytes, such as \"0xd0000-0xd0fff\"";
const SOURCE: &str =
    "\"dev-mem\", or a BAR such as \"/sys/bus/pci/devices/0000:00:03.0/resource0\"";

/// Most bytes of an external model's range.
const EXTERNAL_BYTES_MAX: u64 = 1 << 30;

/// Reads one rule; `None` when something is wrong with it.
pub(super) fn parse_memory(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    defaults: &Defaults,
) -> Option<MemoryRule> {
    let found_before = context.diagnostics.len();
    let kind = required_backend(context, fields, MEMORY_BACKENDS);
    check_keys(context, fields, &MEMORY, kind.is_some());
    let range = fields.range(context, "range", ADDRESS_MAX, MEMORY_RANGE);
    if let Some(range) = &range {
        check_pages(context, range);
    }
    let is_write_only = is_string(fields, "access", "w");
    if is_write_only {
        context.error(
            &fields.span_of("access"),
            "memory cannot be write-only: the processor has no such page",
            quoted(&["r", "rw"], '"'),
        );
    }
    let access = access(context, fields, kind.map(|kind| kind == MemoryKind::Deny));
    let on_deny = fields.choice(context, "on-deny", MEMORY_ON_DENY);
    let name = name(context, fields);
    let comment = comment(context, fields);
    let is_danger_accepted = fields.flag(context, "i-know-what-this-does");
    let backend = match kind {
        Some(MemoryKind::Deny) => Some(MemoryBackend::Deny),
        Some(MemoryKind::Ram) => Some(MemoryBackend::Ram {
            file: path(context, fields),
        }),
        Some(MemoryKind::External) => {
            if let Some(range) = &range {
                check_reach(context, range);
            }
            parse_external(context, fields, &MEMORY)
                .map(|spec| MemoryBackend::External(Box::new(spec)))
        }
        Some(MemoryKind::Passthrough) => passthrough(context, fields, range.as_ref()),
        None => None,
    };
    if context.diagnostics.len() > found_before {
        return None;
    }
    let range = range?;
    let (line, column) = context.source.place(fields.span.start);
    Some(MemoryRule {
        first: range.first,
        last: range.last,
        access,
        backend: backend?,
        is_danger_accepted,
        on_deny: on_deny.unwrap_or(defaults.memory_on_deny),
        name,
        comment,
        line,
        column,
    })
}

/// What exits has to have an address in the guest that says which it is.
fn check_reach(context: &mut Context<'_>, range: &SpannedRange) {
    let max = crate::machine::DEVICE_ADDRESS_MAX;
    if range.last > max {
        context.error(
            &range.span,
            "a model's memory cannot be that high up",
            format!("addresses up to {max:#x}"),
        );
    }
    if range.last - range.first >= EXTERNAL_BYTES_MAX {
        context.error(
            &range.span,
            "a model's memory has at most 1 GiB",
            "a smaller range",
        );
    }
}

fn path(context: &mut Context<'_>, fields: &Fields<'_>) -> Option<PathBuf> {
    let (path, span) = fields.string(context, "file", "a file's path")?;
    if path.is_empty() || path.contains('\0') {
        context.error(&span, "`file` is no path", "a file's path");
    }
    Some(PathBuf::from(path))
}

fn passthrough(
    context: &mut Context<'_>,
    fields: &Fields<'_>,
    range: Option<&SpannedRange>,
) -> Option<MemoryBackend> {
    if fields.table.get("source").is_none() {
        fields.missing(context, "source", SOURCE.to_owned());
    }
    let source = fields
        .string(context, "source", SOURCE)
        .and_then(|(text, span)| {
            let source = source(text);
            if source.is_none() {
                context.error(&span, format!("`source` cannot be \"{text}\""), SOURCE);
            }
            source
        });
    let cache = fields.choice(context, "cache", CACHE);
    let remap = fields.bounded(context, &MEMORY, "remap");
    let range = range?;
    let source_first = remap.unwrap_or(match &source {
        Some(MemorySource::PciResource(_)) => 0,
        Some(MemorySource::DevMem) | None => range.first,
    });
    if !source_first.is_multiple_of(abi::layout::PAGE_SIZE) {
        context.error(
            &fields.span_of("remap"),
            "memory is mapped in whole pages of 4096 bytes",
            format!("{:#x}", source_first & !(abi::layout::PAGE_SIZE - 1)),
        );
    }
    if source_first.saturating_add(range.last - range.first) > ADDRESS_MAX {
        context.error(
            &fields.span_of("remap"),
            "the range would end above the highest physical address",
            format!("at most {:#x}", ADDRESS_MAX - (range.last - range.first)),
        );
    }
    Some(MemoryBackend::Passthrough {
        source: source?,
        source_first,
        cache: cache.unwrap_or(CacheMode::Uncached),
    })
}

/// `dev-mem`, or a resource file of a PCI function. Nothing else can be mapped by a policy that was not read well.
fn source(text: &str) -> Option<MemorySource> {
    if text == "dev-mem" {
        return Some(MemorySource::DevMem);
    }
    let rest = text
        .strip_prefix("/sys/bus/pci/devices/")
        .or_else(|| text.strip_prefix("/sys/devices/"))?;
    let mut parts = rest.split('/');
    let file = parts.next_back()?;
    let bar = file.strip_prefix("resource")?;
    let bar = bar.strip_suffix("_wc").unwrap_or(bar);
    let is_bar = matches!(bar.as_bytes(), [b'0'..=b'5']);
    let mut folders = parts.peekable();
    let is_path = folders.peek().is_some()
        && folders.all(|folder| !folder.is_empty() && !folder.starts_with('.'))
        && !text.contains('\0');
    (is_bar && is_path).then(|| MemorySource::PciResource(PathBuf::from(text)))
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
