//! Rules against each other, and against guest RAM.

use std::collections::HashMap;

use super::diagnostic::{Diagnostic, Source};
use super::{LptOutput, MemoryBackend, MemoryRule, Policy, PortBackend, PortRule};

/// What the checks need to know of a rule.
trait Rule {
    fn first(&self) -> u64;
    fn last(&self) -> u64;
    fn line(&self) -> usize;
    fn column(&self) -> usize;
    /// Whether both say the same about the accesses that both cover.
    fn has_same_intent(&self, other: &Self) -> bool;
}

impl Rule for PortRule {
    fn first(&self) -> u64 {
        self.first.into()
    }
    fn last(&self) -> u64 {
        self.last.into()
    }
    fn line(&self) -> usize {
        self.line
    }
    fn column(&self) -> usize {
        self.column
    }
    fn has_same_intent(&self, other: &Self) -> bool {
        // Two models are two devices with two states, however alike their rules.
        matches!(self.backend, PortBackend::Deny | PortBackend::Passthrough)
            && self.backend == other.backend
            && self.access == other.access
            && self.on_deny == other.on_deny
            && self.denied_read == other.denied_read
    }
}

impl Rule for MemoryRule {
    fn first(&self) -> u64 {
        self.first
    }
    fn last(&self) -> u64 {
        self.last
    }
    fn line(&self) -> usize {
        self.line
    }
    fn column(&self) -> usize {
        self.column
    }
    fn has_same_intent(&self, other: &Self) -> bool {
        self.backend == MemoryBackend::Deny
            && other.backend == MemoryBackend::Deny
            && self.on_deny == other.on_deny
    }
}

/// Reports rules that overlap and mean different things, and outputs that two rules would write to.
pub(super) fn between_rules(policy: &Policy, diagnostics: &mut Vec<Diagnostic>) {
    let source = source_of(policy);
    overlaps(&source, "port", &policy.port_rules, diagnostics);
    overlaps(&source, "address", &policy.memory_rules, diagnostics);

    let mut writers: HashMap<&LptOutput, usize> = HashMap::new();
    for rule in &policy.port_rules {
        let PortBackend::Lpt { output, .. } = &rule.backend else {
            continue;
        };
        if let Some(line) = writers.insert(output, rule.line) {
            diagnostics.push(at_rule(
                &source,
                rule,
                format!("the rule of line {line} writes to the same `output`"),
                "one output for each parallel port".to_owned(),
            ));
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
    policy
        .memory_rules
        .iter()
        .filter(|rule| rule.first <= ram_last && rule.last >= ram_first)
        .map(|rule| {
            at_rule(
                &source,
                rule,
                format!(
                    "{:#x}-{:#x} overlaps the guest's own memory, {ram_first:#x}-{ram_last:#x}",
                    rule.first, rule.last
                ),
                format!(
                    "addresses below {ram_first:#x} or above {ram_last:#x} (--memory moves the latter)"
                ),
            )
        })
        .collect()
}

fn overlaps<R: Rule>(
    source: &Source<'_>,
    noun: &str,
    rules: &[R],
    diagnostics: &mut Vec<Diagnostic>,
) {
    let mut sorted: Vec<&R> = rules.iter().collect();
    sorted.sort_by_key(|rule| (rule.first(), rule.line()));
    // The rule seen so far that reaches furthest. Comparing with it alone is enough: whatever overlaps another
    // earlier rule overlaps this one too, and sameness of intent carries over.
    let mut furthest: Option<&R> = None;
    for rule in sorted {
        if let Some(other) = furthest.filter(|other| rule.first() <= other.last()) {
            if !rule.has_same_intent(other) {
                let (earlier, later) = if other.line() <= rule.line() {
                    (other, rule)
                } else {
                    (rule, other)
                };
                let first = rule.first().max(other.first());
                let last = rule.last().min(other.last());
                diagnostics.push(at_rule(
                    source,
                    later,
                    format!(
                        "this rule (line {}) and the rule of line {} both cover {noun} {first:#x}-{last:#x} \
                         and differ",
                        later.line(),
                        earlier.line()
                    ),
                    "one rule for each range: no rule hides another".to_owned(),
                ));
            }
            if rule.last() <= other.last() {
                continue;
            }
        }
        furthest = Some(rule);
    }
}

fn source_of(policy: &Policy) -> Source<'_> {
    Source {
        file: &policy.file,
        text: &policy.text,
    }
}

/// A diagnostic at a rule's header.
fn at_rule<R: Rule>(source: &Source<'_>, rule: &R, message: String, allowed: String) -> Diagnostic {
    let line_start: usize = source
        .text
        .split_inclusive('\n')
        .take(rule.line() - 1)
        .map(str::len)
        .sum();
    let line = source.text[line_start..].split('\n').next().unwrap_or("");
    let before: usize = line
        .chars()
        .take(rule.column() - 1)
        .map(char::len_utf8)
        .sum();
    let rest = line[before..].trim_end().len();
    let start = line_start + before;
    source.diagnostic(&(start..start + rest), message, allowed)
}
