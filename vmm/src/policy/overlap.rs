//! Rules against each other, and against guest RAM.

use std::collections::HashMap;

use super::diagnostic::{Diagnostic, Source};
use super::fields::Context;
use super::{
    BarKind, DeviceOutput, IndexPair, IndexRegister, MemoryBackend, MemoryRule, MsrBackendKind,
    MsrRule, PciBar, PciRegister, PciRule, Place, Policy, PortBackend, PortRule, memory_space,
};

/// What the checks need to know of a rule.
trait Rule {
    fn first(&self) -> u64;
    fn last(&self) -> u64;
    fn place(&self) -> Place;
    /// Whether both say the same about the accesses that both cover.
    fn has_same_intent(&self, other: &Self) -> bool;
}

/// A claim to ports.
#[derive(Clone, Copy)]
enum PortClaim<'a> {
    Rule(&'a PortRule),
    Pair(&'a IndexPair, u16),
    Bar(BarClaim<'a>),
}

/// Where a modelled function's BAR is at the start.
#[derive(Clone, Copy)]
struct BarClaim<'a> {
    bar: &'a PciBar,
    first: u64,
    last: u64,
}

/// Of ports, or of memory.
fn bar_claims(policy: &Policy, is_port: bool) -> impl Iterator<Item = BarClaim<'_>> {
    policy
        .pci_rules
        .iter()
        .filter_map(PciRule::model)
        .flat_map(|model| &model.bars)
        .filter(move |bar| (bar.kind == BarKind::Port) == is_port)
        .filter_map(|bar| {
            let (first, last) = bar.range()?;
            Some(BarClaim { bar, first, last })
        })
}

/// A claim to physical memory.
#[derive(Clone, Copy)]
enum MemoryClaim<'a> {
    Rule(&'a MemoryRule),
    Bar(BarClaim<'a>),
}

fn memory_claims(policy: &Policy) -> Vec<MemoryClaim<'_>> {
    let rules = policy.memory_rules.iter().map(MemoryClaim::Rule);
    rules
        .chain(bar_claims(policy, false).map(MemoryClaim::Bar))
        .collect()
}

impl Rule for MemoryClaim<'_> {
    fn first(&self) -> u64 {
        match self {
            Self::Rule(rule) => rule.first,
            Self::Bar(claim) => claim.first,
        }
    }
    fn last(&self) -> u64 {
        match self {
            Self::Rule(rule) => rule.last,
            Self::Bar(claim) => claim.last,
        }
    }
    fn place(&self) -> Place {
        match self {
            Self::Rule(rule) => rule.place(),
            Self::Bar(claim) => claim.bar.place,
        }
    }
    fn has_same_intent(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Rule(one), Self::Rule(other)) => {
                one.backend == MemoryBackend::Deny
                    && other.backend == MemoryBackend::Deny
                    && one.on_deny == other.on_deny
            }
            _ => false,
        }
    }
}

impl Rule for PortClaim<'_> {
    fn first(&self) -> u64 {
        match self {
            Self::Rule(rule) => rule.first.into(),
            Self::Pair(_, port) => (*port).into(),
            Self::Bar(claim) => claim.first,
        }
    }
    fn last(&self) -> u64 {
        match self {
            Self::Rule(rule) => rule.last.into(),
            Self::Pair(_, port) => (*port).into(),
            Self::Bar(claim) => claim.last,
        }
    }
    fn place(&self) -> Place {
        match self {
            Self::Rule(rule) => rule.place(),
            Self::Pair(pair, _) => pair.place,
            Self::Bar(claim) => claim.bar.place,
        }
    }
    fn has_same_intent(&self, other: &Self) -> bool {
        let (Self::Rule(one), Self::Rule(other)) = (self, other) else {
            return false;
        };
        // Two models are two devices with two states, however alike their rules; so are two counts or two lasts.
        matches!(one.backend, PortBackend::Deny | PortBackend::Passthrough)
            && one.backend == other.backend
            && one.access == other.access
            && one.on_deny == other.on_deny
            && one.denied_read == other.denied_read
            && one.is_plain()
            && other.is_plain()
            && host_distance(one) == host_distance(other)
    }
}

/// How far the machine's ports are from the driver's.
fn host_distance(rule: &PortRule) -> i32 {
    i32::from(rule.host_first) - i32::from(rule.first)
}

impl Rule for MsrRule {
    fn first(&self) -> u64 {
        self.first.into()
    }
    fn last(&self) -> u64 {
        self.last.into()
    }
    fn place(&self) -> Place {
        self.place
    }
    fn has_same_intent(&self, other: &Self) -> bool {
        self.backend == MsrBackendKind::Deny
            && other.backend == MsrBackendKind::Deny
            && self.on_deny == other.on_deny
            && self.denied_read == other.denied_read
    }
}

impl Rule for PciRegister {
    fn first(&self) -> u64 {
        self.first.into()
    }
    fn last(&self) -> u64 {
        self.last.into()
    }
    fn place(&self) -> Place {
        self.place
    }
    fn has_same_intent(&self, _: &Self) -> bool {
        false
    }
}

impl Rule for IndexRegister {
    fn first(&self) -> u64 {
        self.first.into()
    }
    fn last(&self) -> u64 {
        self.last.into()
    }
    fn place(&self) -> Place {
        self.place
    }
    fn has_same_intent(&self, _: &Self) -> bool {
        false
    }
}

fn port_claims(policy: &Policy) -> Vec<PortClaim<'_>> {
    let rules = policy.port_rules.iter().map(PortClaim::Rule);
    let pairs = policy
        .index_pairs
        .iter()
        .flat_map(|pair| [pair.index, pair.data].map(|port| PortClaim::Pair(pair, port)));
    rules
        .chain(pairs)
        .chain(bar_claims(policy, true).map(PortClaim::Bar))
        .collect()
}

/// Reports rules that overlap and mean different things, and devices that two rules would reach.
pub(super) fn between_rules(
    policy: &Policy,
    source: &Source<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) {
    overlaps(source, "port", &port_claims(policy), diagnostics);
    overlaps(source, "address", &memory_claims(policy), diagnostics);
    overlaps(source, "MSR", &policy.msr_rules, diagnostics);
    same_host_ports(policy, source, diagnostics);
    same_functions(policy, source, diagnostics);

    let mut writers: HashMap<&DeviceOutput, usize> = HashMap::new();
    let rules = policy
        .port_rules
        .iter()
        .map(|rule| (&rule.backend, rule.place()));
    let bars = policy
        .pci_rules
        .iter()
        .filter_map(PciRule::model)
        .flat_map(|model| &model.bars)
        .map(|bar| (&bar.backend, bar.place));
    for (backend, place) in rules.chain(bars) {
        let Some(output) = backend.exclusive_output() else {
            continue;
        };
        if let Some(line) = writers.insert(output, place.line) {
            diagnostics.push(Diagnostic {
                related: Some(source.related(line)),
                ..at_place(
                    source,
                    place,
                    format!("the rule of line {line} writes to the same `output`"),
                    "one output for each device".to_owned(),
                )
            });
        }
    }
}

/// Two names for the same real ports would let one rule get round the other's limits.
fn same_host_ports(policy: &Policy, source: &Source<'_>, diagnostics: &mut Vec<Diagnostic>) {
    let mut rules: Vec<&PortRule> = policy
        .port_rules
        .iter()
        .filter(|rule| rule.backend == PortBackend::Passthrough)
        .collect();
    rules.sort_by_key(|rule| (rule.host_first, rule.line));
    let mut furthest: Option<&PortRule> = None;
    for rule in rules {
        if let Some(other) = furthest.filter(|other| rule.host_first <= other.host_last()) {
            if host_distance(rule) != host_distance(other) {
                let (earlier, later) = in_order(other, rule, |rule| rule.line);
                diagnostics.push(Diagnostic {
                    related: Some(source.related(earlier.line)),
                    ..at_place(
                        source,
                        later.place(),
                        format!(
                            "this rule (line {}) and the rule of line {} both reach the machine's port {:#x}",
                            later.line, earlier.line, rule.host_first
                        ),
                        "one rule for each of the machine's ports".to_owned(),
                    )
                });
            }
            if rule.host_last() <= other.host_last() {
                continue;
            }
        }
        furthest = Some(rule);
    }
}

fn same_functions(policy: &Policy, source: &Source<'_>, diagnostics: &mut Vec<Diagnostic>) {
    // A rule with an address is about that address; one without, about all functions with the ids.
    let mut seen = HashMap::new();
    for rule in &policy.pci_rules {
        let target = match (rule.target.address, rule.target.id) {
            (Some(address), _) => (Some(address), None),
            (None, id) => (None, id),
        };
        if let Some(line) = seen.insert(target, rule.place.line) {
            diagnostics.push(Diagnostic {
                related: Some(source.related(line)),
                ..at_place(
                    source,
                    rule.place,
                    format!(
                        "this rule (line {}) and the rule of line {line} are both about {}",
                        rule.place.line, rule.target
                    ),
                    "one rule for each function: [[pci.register]] says more about its registers"
                        .to_owned(),
                )
            });
        }
    }
}

/// Reports registers of one rule that overlap; they are in ascending order.
#[expect(private_bounds, reason = "the trait is for the rules that are here")]
pub(super) fn between_registers<R: Rule>(context: &mut Context<'_>, noun: &str, registers: &[R]) {
    overlaps(&context.source, noun, registers, &mut context.diagnostics);
}

/// What is allowed but probably not meant.
pub(super) fn warnings(policy: &Policy, source: &Source<'_>) -> Vec<Diagnostic> {
    let mut warnings = Vec::new();
    shadowed(source, &port_claims(policy), &mut warnings);
    shadowed(source, &memory_claims(policy), &mut warnings);
    shadowed(source, &policy.msr_rules, &mut warnings);
    let mechanism = 0xCF8..=0xCFF_u64;
    let cover = port_claims(policy)
        .into_iter()
        .find(|claim| claim.first() <= *mechanism.end() && claim.last() >= *mechanism.start());
    if let (Some(pci), Some(cover)) = (policy.pci_rules.first(), cover) {
        warnings.push(Diagnostic {
            related: Some(source.related(cover.place().line)),
            ..at_place(
                source,
                pci.place,
                format!(
                    "no port access meets [[pci]] rules: the rule of line {} covers ports {:#x}-{:#x}, by which \
                     configuration space is reached",
                    cover.place().line,
                    cover.first().max(*mechanism.start()),
                    cover.last().min(*mechanism.end())
                ),
                "no rule for ports 0xcf8-0xcff".to_owned(),
            )
        });
    }
    warnings.sort_by_key(|warning| (warning.line, warning.column));
    warnings
}

/// Rules that others with the same meaning cover wholly. (With another meaning they are errors.)
fn shadowed<R: Rule>(source: &Source<'_>, rules: &[R], warnings: &mut Vec<Diagnostic>) {
    let mut sorted: Vec<&R> = rules.iter().collect();
    sorted.sort_by_key(|rule| (rule.first(), std::cmp::Reverse(rule.last()), rule.place()));
    let mut furthest: Option<&R> = None;
    for rule in sorted {
        match furthest.filter(|other| rule.last() <= other.last()) {
            Some(other) => warnings.push(Diagnostic {
                related: Some(source.related(other.place().line)),
                ..at_place(
                    source,
                    rule.place(),
                    format!(
                        "the rule of line {} says the same about all of this",
                        other.place().line
                    ),
                    "no such rule".to_owned(),
                )
            }),
            None => furthest = Some(rule),
        }
    }
}

/// Reports memory rules that cover guest RAM.
pub(super) fn with_guest_memory(policy: &Policy, ram_bytes: u64) -> Vec<Diagnostic> {
    let ram_first = abi::layout::RAM_BASE;
    let Some(ram_last) = ram_bytes
        .checked_sub(1)
        .and_then(|bytes| ram_first.checked_add(bytes))
    else {
        return Vec::new();
    };
    let source = source_of(policy);
    memory_claims(policy)
        .iter()
        .filter(|claim| claim.first() <= ram_last && claim.last() >= ram_first)
        .map(|claim| {
            at_place(
                &source,
                claim.place(),
                format!(
                    "{:#x}-{:#x} overlaps the guest's own memory, {ram_first:#x}-{ram_last:#x}",
                    claim.first(),
                    claim.last()
                ),
                format!(
                    "addresses below {ram_first:#x} or above {ram_last:#x} (--memory moves the latter)"
                ),
            )
        })
        .collect()
}

/// Reports the rule with which there is more memory than a guest can map.
pub(super) fn above_memory_max(policy: &Policy) -> Option<Diagnostic> {
    let (line, bytes) = memory_space::above_max(policy)?;
    let rule = policy.memory_rules.iter().find(|rule| rule.line == line)?;
    Some(at_place(
        &source_of(policy),
        rule.place(),
        format!("with this rule, \"ram\" and \"passthrough\" memory has {bytes} bytes"),
        format!(
            "at most {} bytes together (64 MiB) can be mapped",
            memory_space::RAM_BYTES_MAX
        ),
    ))
}

fn in_order<R: Copy>(one: R, other: R, line: impl Fn(R) -> usize) -> (R, R) {
    if line(one) <= line(other) {
        (one, other)
    } else {
        (other, one)
    }
}

fn overlaps<R: Rule>(
    source: &Source<'_>,
    noun: &str,
    rules: &[R],
    diagnostics: &mut Vec<Diagnostic>,
) {
    let mut sorted: Vec<&R> = rules.iter().collect();
    sorted.sort_by_key(|rule| (rule.first(), rule.place()));
    // The rule seen so far that reaches furthest. Comparing with it alone is enough: whatever overlaps another
    // earlier rule overlaps this one too, and sameness of intent carries over.
    let mut furthest: Option<&R> = None;
    for rule in sorted {
        if let Some(other) = furthest.filter(|other| rule.first() <= other.last()) {
            if !rule.has_same_intent(other) {
                let (earlier, later) = in_order(other, rule, |rule| rule.place().line);
                let first = rule.first().max(other.first());
                let last = rule.last().min(other.last());
                diagnostics.push(Diagnostic {
                    related: Some(source.related(earlier.place().line)),
                    ..at_place(
                        source,
                        later.place(),
                        format!(
                            "this rule (line {}) and the rule of line {} both cover {noun} {first:#x}-{last:#x} \
                             and differ",
                            later.place().line,
                            earlier.place().line
                        ),
                        "one rule for each range: no rule hides another".to_owned(),
                    )
                });
            }
            if rule.last() <= other.last() {
                continue;
            }
        }
        furthest = Some(rule);
    }
}

pub(super) fn source_of(policy: &Policy) -> Source<'_> {
    Source::new(&policy.file, &policy.text)
}

/// A diagnostic at a rule's header.
pub(super) fn at_place(
    source: &Source<'_>,
    place: Place,
    message: String,
    allowed: String,
) -> Diagnostic {
    let span = source.rest_of_line(place.line, place.column);
    source.diagnostic(&span, message, allowed)
}
