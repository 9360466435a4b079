//! Model-specific registers.

use super::*;
use crate::msr::MsrSpace;

/// MSRs from `first` on and what their rule says.
#[derive(Clone, Debug)]
struct Msrs {
    first: u32,
    count: u32,
    access: &'static str,
    value: u64,
    values: Option<(u64, u64)>,
    read_mask: u64,
    read_fixed: u64,
    quota: Option<u64>,
    on_deny: usize,
}

fn msr_rules() -> impl Strategy<Value = Vec<Msrs>> {
    let rule = (
        (0..3_u32, 1..4_u32, prop::sample::select(ACCESSES.to_vec())),
        (any::<u64>(), prop::option::of((0..8_u64, 0..8_u64))),
        (any::<u64>(), any::<u64>(), prop::option::of(0..6_u64)),
        0..3_usize,
    );
    prop::collection::vec(rule, 0..6)
        .prop_map(|rules| {
            let mut next = 0x10;
            let mut all = Vec::new();
            for ((gap, count, access), (value, values), (read_mask, read_fixed, quota), on_deny) in
                rules
            {
                let first = next + gap;
                next = first + count;
                let reads = allows(access, false);
                all.push(Msrs {
                    first,
                    count,
                    access,
                    value,
                    values: values
                        .filter(|_| allows(access, true))
                        .map(|(first, more)| (first, first + more)),
                    read_mask: if reads { read_mask } else { u64::MAX },
                    read_fixed: if reads { read_fixed } else { 0 },
                    quota: quota.filter(|_| !access.is_empty()),
                    on_deny,
                });
            }
            all
        })
        .prop_shuffle()
}

/// Action, reason, and what is read.
fn naive_msr(
    rules: &mut [Msrs],
    default: usize,
    msr: u32,
    write: Option<u64>,
) -> (Action, Option<DenialReason>, u64) {
    let rule = rules
        .iter_mut()
        .find(|rule| (rule.first..rule.first + rule.count).contains(&msr));
    let Some(rule) = rule else {
        return (DENIALS[default].1, Some(DenialReason::Unnamed), 0);
    };
    let denied = |reason| (DENIALS[rule.on_deny].1, Some(reason), 0);
    if !allows(rule.access, write.is_some()) {
        return denied(DenialReason::Direction);
    }
    if let (Some(value), Some((first, last))) = (write, rule.values)
        && !(first..=last).contains(&value)
    {
        return denied(DenialReason::Value);
    }
    if let Some(quota) = &mut rule.quota {
        if *quota == 0 {
            return denied(DenialReason::Quota);
        }
        *quota -= 1;
    }
    let read = match write {
        Some(_) => 0,
        None => (rule.value & rule.read_mask) | (rule.read_fixed & !rule.read_mask),
    };
    (Action::Allowed, None, read)
}

fn msr_text(rules: &[Msrs], default: usize) -> String {
    let mut text = format!(
        "[default]\nmax-log-rate = 0\nmsr-on-deny = \"{}\"\n",
        DENIALS[default].0
    );
    for rule in rules {
        let _ = write!(
            text,
            "[[msr]]\nrange = \"{}-{}\"\non-deny = \"{}\"\n",
            rule.first,
            rule.first + rule.count - 1,
            DENIALS[rule.on_deny].0
        );
        if rule.access.is_empty() {
            text += "backend = \"deny\"\n";
            continue;
        }
        let _ = write!(
            text,
            "backend = \"value\"\naccess = \"{}\"\nvalue = {}\n",
            rule.access,
            number(rule.value)
        );
        if let Some((first, last)) = rule.values {
            let _ = writeln!(text, "values = [\"{first}-{last}\"]");
        }
        if allows(rule.access, false) {
            let _ = write!(
                text,
                "read-mask = {}\nread-fixed = {}\n",
                number(rule.read_mask),
                number(rule.read_fixed)
            );
        }
        if let Some(quota) = rule.quota {
            let _ = writeln!(text, "quota = {quota}");
        }
    }
    text
}

proptest! {
    #[test]
    fn msrs_are_decided_as_by_the_naive_reference(
        mut rules in msr_rules(),
        default in 0..3_usize,
        accesses in prop::collection::vec((0x0E..0x2A_u32, prop::option::of(0..16_u64)), 60),
    ) {
        let text = msr_text(&rules, default);
        let policy = parsed(&text);
        let mut space = MsrSpace::new(&policy, None).unwrap();
        for (msr, write) in accesses {
            let (action, reason, value) = naive_msr(&mut rules, default, msr, write);
            let outcome = space.access(msr, write);
            prop_assert_eq!(outcome.decision.action, action, "{:#x} {:?} under\n{}", msr, write, text);
            prop_assert_eq!(outcome.decision.reason, reason, "{:#x} {:?} under\n{}", msr, write, text);
            if action == Action::Allowed {
                prop_assert_eq!(outcome.value, value, "{:#x} {:?} under\n{}", msr, write, text);
            }
        }
    }
}
