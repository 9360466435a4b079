//! Mappings of physical memory.

use super::*;

/// A range of pages and what its rule says.
#[derive(Clone, Debug)]
struct Pages {
    first: u64,
    count: u64,
    access: &'static str,
    on_deny: usize,
}

/// Rules in ascending order, some next to each other, in any order of the file.
fn memory_rules() -> impl Strategy<Value = Vec<Pages>> {
    let rule = (
        0..3_u64,
        1..4_u64,
        prop::sample::select(vec!["r", "rw", ""]),
        0..2_usize,
    );
    prop::collection::vec(rule, 0..6)
        .prop_map(|rules| {
            let mut next = 0xD0;
            let mut all = Vec::new();
            for (gap, count, access, on_deny) in rules {
                let first = next + gap;
                next = first + count;
                all.push(Pages {
                    first,
                    count,
                    access,
                    // `ignore` or `stop`.
                    on_deny: 2 * on_deny,
                });
            }
            all
        })
        .prop_shuffle()
}

/// The action for a request; [`Action::Allowed`] if all its pages may be mapped. The first page that may not decides.
fn naive_memory(rules: &[Pages], default: usize, request: &MemoryRequest) -> Action {
    let end = u128::from(request.address) + u128::from(request.bytes);
    if request.bytes == 0 || end > 1 << 64 {
        return DENIALS[default].1;
    }
    let last = (end - 1) >> 12;
    let mut page = u128::from(request.address >> 12);
    while page <= last {
        let rule = rules.iter().find(|rule| {
            (u128::from(rule.first)..u128::from(rule.first + rule.count)).contains(&page)
        });
        let Some(rule) = rule else {
            return DENIALS[default].1;
        };
        // A mapping that may be written may be read; a read-only one needs no more than a rule.
        if !allows(rule.access, false) || (request.is_write && !allows(rule.access, true)) {
            return DENIALS[rule.on_deny].1;
        }
        page += 1;
    }
    Action::Allowed
}

fn memory_text(rules: &[Pages], default: usize) -> String {
    let mut text = format!(
        "[default]\nmax-log-rate = 0\nmemory-on-deny = \"{}\"\n",
        DENIALS[default].0
    );
    for rule in rules {
        let (first, last) = (rule.first << 12, ((rule.first + rule.count) << 12) - 1);
        let _ = write!(
            text,
            "[[memory]]\nrange = \"{first:#x}-{last:#x}\"\non-deny = \"{}\"\n",
            DENIALS[rule.on_deny].0
        );
        text += &match rule.access {
            "" => "backend = \"deny\"\n".to_owned(),
            access => format!("backend = \"ram\"\naccess = \"{access}\"\n"),
        };
    }
    text
}

proptest! {
    #[test]
    fn memory_is_decided_as_by_the_naive_reference(
        rules in memory_rules(),
        // `ignore` or `stop`.
        default in prop::sample::select(vec![0_usize, 2]),
        requests in prop::collection::vec((0xCE000..0xE4000_u64, 0..0x3800_u64, any::<bool>()), 40),
    ) {
        let text = memory_text(&rules, default);
        let policy = parsed(&text);
        let mut space = MemorySpace::new(&policy, 16 << 20).unwrap();
        let ends = [(u64::MAX, 1, false), (u64::MAX - 1, 4, false), (0, u64::MAX, true), (0xD0000, 0, false)];
        for (address, bytes, is_write) in requests.into_iter().chain(ends) {
            let request = MemoryRequest { address, bytes, is_write };
            let expected = naive_memory(&rules, default, &request);
            let (is_allowed, _, reason) = policy.decide_memory(&request);
            prop_assert_eq!(is_allowed, expected == Action::Allowed, "{:?} under\n{}", request, text);
            prop_assert_eq!(is_allowed, reason.is_none());
            let done = match space.map(&request) {
                MemoryDecision::Allowed(pieces) => {
                    let bytes: u64 = pieces.iter().map(|piece| piece.bytes).sum();
                    let pages = ((address + request.bytes - 1) >> 12) - (address >> 12) + 1;
                    prop_assert_eq!(bytes, pages << 12);
                    Action::Allowed
                }
                MemoryDecision::Denied { action, .. } => action,
            };
            prop_assert_eq!(done, expected, "{:?} under\n{}", request, text);
        }
    }
}
