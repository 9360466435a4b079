//! Decisions about memory, PCI functions and MSRs are those of a naive reference, for random rules and accesses.
//!
//! The reference knows nothing of [`Policy`]: it is computed from the generated rules as docs/policy.md words them, one
//! byte, page or register after the other. Ports have the same in `ports/space/rule_tests.rs`.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use super::gate::Gate;
use super::*;
use crate::machine::InterruptLines;
use crate::msr::MsrSpace;
use crate::pci::{PciRequest, PciSpace};
use crate::ports::{Action, DenialReason, Width};

const DENIALS: [(&str, Action); 3] = [
    ("ignore", Action::Ignored),
    ("fault", Action::Fault),
    ("stop", Action::Stop),
];
/// The last one is `deny`, which has no access.
const ACCESSES: [&str; 4] = ["r", "w", "rw", ""];

fn allows(access: &str, is_write: bool) -> bool {
    access.contains(if is_write { 'w' } else { 'r' })
}

fn parsed(text: &str) -> Policy {
    Policy::from_str("random.toml", text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

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

/// A register range of a function: bytes, access, and a mask of writes with what stands for the rest.
#[derive(Clone, Debug)]
struct Registers {
    first: u16,
    count: u16,
    access: &'static str,
    write_mask: u64,
    write_fixed: Option<u64>,
    read_mask: u64,
    read_fixed: u64,
}

fn mask_of(count: u16) -> u64 {
    u64::MAX >> (64 - 8 * u32::from(count))
}

fn registers() -> impl Strategy<Value = Vec<Registers>> {
    let register = (
        0..5_u16,
        1..=8_u16,
        prop::sample::select(vec!["r", "w", "rw"]),
        any::<u64>(),
        prop::option::of(any::<u64>()),
        any::<u64>(),
        any::<u64>(),
    );
    prop::collection::vec(register, 0..8).prop_map(|all| {
        let mut next = 4;
        let mut registers = Vec::new();
        for (gap, count, access, write_mask, write_fixed, read_mask, read_fixed) in all {
            let first = next + gap;
            next = first + count;
            let mask = mask_of(count);
            // Masks of a direction that is not allowed are mistakes: everything passes there.
            let (reads, writes) = (allows(access, false), allows(access, true));
            registers.push(Registers {
                first,
                count,
                access,
                write_mask: if writes { write_mask & mask } else { mask },
                write_fixed: write_fixed.filter(|_| writes).map(|fixed| fixed & mask),
                read_mask: if reads { read_mask & mask } else { mask },
                read_fixed: if reads { read_fixed & mask } else { 0 },
            });
        }
        registers
    })
}

/// A number as a policy writes one of any size.
fn number(value: u64) -> String {
    if i64::try_from(value).is_ok() {
        value.to_string()
    } else {
        format!("\"{value:#x}\"")
    }
}

fn byte_of(value: u64, byte: u16) -> u8 {
    value.to_le_bytes()[usize::from(byte)]
}

/// A function as a policy describes it.
#[derive(Debug)]
struct NaiveFunction {
    registers: Vec<Registers>,
    access: &'static str,
    widths: Vec<u16>,
    quota: u64,
    on_deny: usize,
    bytes: Vec<u8>,
}

impl NaiveFunction {
    fn denied(&self, reason: DenialReason) -> (Action, Option<DenialReason>, u32) {
        (DENIALS[self.on_deny].1, Some(reason), 0)
    }

    /// Action, reason, and what is read.
    fn access(&mut self, request: &PciRequest) -> (Action, Option<DenialReason>, u32) {
        let width = request.width.bytes();
        let is_write = request.write.is_some();
        if request.register + width > 256 {
            return self.denied(DenialReason::PastEnd);
        }
        if !self.widths.contains(&width) {
            return self.denied(DenialReason::Width);
        }
        let register = |at: u16| {
            self.registers
                .iter()
                .find(move |one| (one.first..one.first + one.count).contains(&at))
                .cloned()
        };
        for at in request.register..request.register + width {
            let access = register(at).map_or(self.access, |one| one.access);
            if access.is_empty() {
                return self.denied(DenialReason::Register);
            }
            if !allows(access, is_write) {
                return self.denied(DenialReason::Direction);
            }
        }
        if self.quota == 0 {
            return self.denied(DenialReason::Quota);
        }
        self.quota -= 1;
        let mut read = [0; 4];
        for index in 0..width {
            let at = request.register + index;
            let old = self.bytes[usize::from(at)];
            let rule = register(at);
            if let Some(value) = request.write {
                let value = value.to_le_bytes()[usize::from(index)];
                let new = rule.map_or(value, |one| {
                    let bits = byte_of(one.write_mask, at - one.first);
                    let others = one
                        .write_fixed
                        .map_or(old, |fixed| byte_of(fixed, at - one.first));
                    (value & bits) | (others & !bits)
                });
                // The ids are the function's own.
                if at >= 4 {
                    self.bytes[usize::from(at)] = new;
                }
            } else {
                read[usize::from(index)] = rule.map_or(old, |one| {
                    let bits = byte_of(one.read_mask, at - one.first);
                    (old & bits) | (byte_of(one.read_fixed, at - one.first) & !bits)
                });
            }
        }
        (Action::Allowed, None, u32::from_le_bytes(read))
    }
}

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

fn pci_text(function: &NaiveFunction) -> String {
    let mut text = format!(
        "[default]\nmax-log-rate = 0\n[[pci]]\nbdf = \"00:03.0\"\ndevice = \"8086:100e\"\nbackend = \"model\"\n\
         widths = {:?}\nquota = {}\non-deny = \"{}\"\n",
        function.widths, function.quota, DENIALS[function.on_deny].0
    );
    if !function.access.is_empty() {
        let _ = writeln!(text, "access = \"{}\"", function.access);
    }
    for one in &function.registers {
        let last = one.first + one.count - 1;
        let _ = write!(
            text,
            "[[pci.register]]\nrange = \"{}-{last}\"\naccess = \"{}\"\n",
            one.first, one.access
        );
        if allows(one.access, true) {
            let _ = writeln!(text, "write-mask = {}", number(one.write_mask));
            if let Some(fixed) = one.write_fixed {
                let _ = writeln!(text, "write-fixed = {}", number(fixed));
            }
        }
        if allows(one.access, false) {
            let _ = write!(
                text,
                "read-mask = {}\nread-fixed = {}\n",
                number(one.read_mask),
                number(one.read_fixed)
            );
        }
    }
    text
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

/// A bucket as docs/policy.md words it: `burst` accesses at once after a pause, `rate` a second after that, `quota` in all.
/// It keeps tokens, in billionths, where the real one keeps a time.
#[derive(Debug)]
struct NaiveLimits {
    rate: Option<(u64, u64)>,
    delays: bool,
    quota: Option<u64>,
    tokens: i128,
    /// When the tokens were last counted, in nanoseconds.
    counted_at: u64,
    used: u64,
}

const TOKEN: i128 = 1_000_000_000;

impl NaiveLimits {
    fn new(rate: Option<(u64, u64)>, delays: bool, quota: Option<u64>) -> Self {
        Self {
            rate,
            delays,
            quota,
            tokens: rate.map_or(0, |(_, burst)| TOKEN * i128::from(burst)),
            counted_at: 0,
            used: 0,
        }
    }

    fn fill(&mut self, now: u64) {
        if let Some((rate, burst)) = self.rate {
            let new = i128::from(now - self.counted_at) * i128::from(rate);
            self.tokens = (self.tokens + new).min(TOKEN * i128::from(burst));
        }
        self.counted_at = now;
    }

    /// How many nanoseconds an access at `now` has to wait, or why it is denied.
    fn access(&mut self, now: u64) -> Result<u64, DenialReason> {
        if self.quota.is_some_and(|quota| self.used >= quota) {
            return Err(DenialReason::Quota);
        }
        self.fill(now);
        let mut wait = 0;
        if let Some((rate, _)) = self.rate {
            let lacking = TOKEN - self.tokens;
            if lacking > 0 {
                if !self.delays {
                    return Err(DenialReason::Rate);
                }
                wait = u64::try_from(lacking).unwrap().div_ceil(rate);
                self.fill(now + wait);
            }
            self.tokens -= TOKEN;
        }
        self.used += 1;
        Ok(wait)
    }
}

/// Rates whose interval is a whole number of nanoseconds, with bursts.
fn rates() -> impl Strategy<Value = Option<(u64, u64)>> {
    let rate = prop::sample::select(vec![1_u64, 2, 8, 50, 1000, 12_500, 1_000_000]);
    prop::option::weighted(0.8, (rate, 1..6_u64))
}

/// Pauses between accesses, in nanoseconds: none, near the intervals, and long ones.
fn pauses() -> impl Strategy<Value = Vec<u64>> {
    let pause = prop_oneof![
        Just(0_u64),
        0..3000_u64,
        79_990..80_010_u64,
        0..30_000_000_u64,
        499_999_990..500_000_010_u64,
        0..5_000_000_000_u64,
    ];
    prop::collection::vec(pause, 60)
}

proptest! {
    #[test]
    fn rates_and_quotas_are_those_of_the_naive_reference(
        rate in rates(),
        delays in any::<bool>(),
        quota in prop::option::of(0..50_u64),
        pauses in pauses(),
    ) {
        let on_rate = if delays { OnRate::Delay } else { OnRate::Deny };
        let mut gate = Gate::new(Limits {
            rate: rate.map(|(per_second, burst)| Rate {
                per_second: u32::try_from(per_second).unwrap(),
                burst: u32::try_from(burst).unwrap(),
                on_rate,
            }),
            quota,
        });
        let mut naive = NaiveLimits::new(rate, delays, quota);
        let mut now = 0;
        for pause in pauses {
            now += pause;
            let expected = naive.access(now);
            let found = gate.check(Duration::from_nanos(now));
            prop_assert_eq!(found, expected.map(Duration::from_nanos), "at {} ns", now);
            if let Ok(wait) = expected {
                // The guest stands still meanwhile.
                now += wait;
                gate.take(Duration::from_nanos(now));
            }
        }
    }

    #[test]
    fn limits_of_a_policy_are_kept_on_a_virtual_clock(
        rate in rates(),
        quota in prop::option::of(0..50_u64),
        pauses in pauses(),
    ) {
        let mut text = "[[pci]]\ndevice = \"8086:100e\"\nbdf = \"00:03.0\"\nbackend = \"model\"\naccess = \"rw\"\n".to_owned();
        if let Some((per_second, burst)) = rate {
            let _ = writeln!(text, "rate = {per_second}\nburst = {burst}");
        }
        if let Some(quota) = quota {
            let _ = writeln!(text, "quota = {quota}");
        }
        let policy = parsed(&text);
        let time = Arc::new(AtomicU64::new(0));
        let for_space = Arc::clone(&time);
        let clock = Box::new(move || Duration::from_nanos(for_space.load(Ordering::Relaxed)));
        let lines = InterruptLines::default();
        let mut space = PciSpace::with_clock(&policy, None, &lines, clock).unwrap();
        let mut naive = NaiveLimits::new(rate, false, quota);
        let address = PciAddress { segment: 0, bus: 0, device: 3, function: 0 };
        for (number, pause) in (0..).zip(pauses) {
            let now = time.fetch_add(pause, Ordering::Relaxed) + pause;
            let write = (number % 2 == 0).then_some(number);
            let request = PciRequest { address, register: 0x40, width: Width::Dword, write };
            // Asking costs nothing.
            let decided = space.decide(&request).reason;
            let outcome = space.access(&request);
            let expected = naive.access(now).err();
            prop_assert_eq!(outcome.decision.reason, expected, "at {} ns under\n{}", now, text);
            prop_assert_eq!(decided, expected);
        }
    }

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

    #[test]
    fn pci_is_decided_as_by_the_naive_reference(
        registers in registers(),
        access in prop::sample::select(ACCESSES.to_vec()),
        widths in prop::sample::subsequence(vec![1_u16, 2, 4], 1..=3),
        quota in 0..60_u64,
        on_deny in 0..3_usize,
        accesses in prop::collection::vec(
            (prop_oneof![0..80_u16, 0xFA..0x104_u16], 0..3_usize, prop::option::of(any::<u32>())),
            60,
        ),
    ) {
        let mut bytes = vec![0; 256];
        bytes[..4].copy_from_slice(&[0x86, 0x80, 0x0E, 0x10]);
        let mut naive = NaiveFunction { registers, access, widths, quota, on_deny, bytes };
        let text = pci_text(&naive);
        let policy = parsed(&text);
        let mut space = PciSpace::new(&policy, None).unwrap();
        for (register, width, write) in accesses {
            let address = PciAddress { segment: 0, bus: 0, device: 3, function: 0 };
            let request = PciRequest { address, register, width: Width::ALL[width], write };
            let (action, reason, value) = naive.access(&request);
            let outcome = space.access(&request);
            prop_assert_eq!(outcome.decision.action, action, "{:?} under\n{}", request, text);
            prop_assert_eq!(outcome.decision.reason, reason, "{:?} under\n{}", request, text);
            if action == Action::Allowed {
                prop_assert_eq!(outcome.value, value, "{:?} under\n{}", request, text);
            }
        }
    }

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
