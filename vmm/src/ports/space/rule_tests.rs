//! Rules that ask for more than place and direction.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;
use crate::devices::PortDevice;

fn policy(text: &str) -> Policy {
    match Policy::from_str("r.toml", text) {
        Ok(policy) => policy,
        Err(error) => panic!("{error}"),
    }
}

fn space(text: &str) -> PortSpace {
    PortSpace::new(&policy(text)).unwrap()
}

fn access(space: &mut PortSpace, port: u16, width: Width, write: Option<u32>) -> PortOutcome {
    space.access(PortRequest { port, width, write })
}

/// What a device saw: offset, width, written value.
type Seen = Arc<Mutex<Vec<(u16, Width, Option<u32>)>>>;

/// Reads its offsets, and notes every access.
#[derive(Debug)]
struct Recorder {
    seen: Seen,
    width_max: Width,
}

impl PortDevice for Recorder {
    fn read(&mut self, offset: u16, width: Width) -> u32 {
        self.seen.lock().unwrap().push((offset, width, None));
        let bytes = [0, 1, 2, 3].map(|byte| (offset + byte).to_le_bytes()[0]);
        u32::from_le_bytes(bytes)
    }
    fn write(&mut self, offset: u16, width: Width, value: u32) {
        self.seen.lock().unwrap().push((offset, width, Some(value)));
    }
    fn width_max(&self) -> Width {
        self.width_max
    }
    fn describe(&self) -> String {
        "recorder".to_owned()
    }
}

/// A space whose rules all have recorders of a width.
fn recorded(text: &str, width_max: Width) -> (PortSpace, Seen) {
    let mut space = space(text);
    let seen = Seen::default();
    for slot in &mut space.slots {
        let device = Recorder {
            seen: Arc::clone(&seen),
            width_max,
        };
        *slot = Slot::new(slot.rule.clone(), Some(Box::new(device)));
    }
    (space, seen)
}

#[test]
fn one_wide_device_gets_one_access_and_narrow_ones_aligned_pieces() {
    let text = "[[port]]\nrange = \"0x301-0x308\"\naccess = \"rw\"\nbackend = \"ram\"\n";
    for (width_max, expected) in [
        (Width::Dword, vec![(0, Width::Dword, Some(0x4433_2211))]),
        (
            Width::Word,
            vec![
                (0, Width::Byte, Some(0x11)),
                (1, Width::Word, Some(0x3322)),
                (3, Width::Byte, Some(0x44)),
            ],
        ),
        (
            Width::Byte,
            vec![
                (0, Width::Byte, Some(0x11)),
                (1, Width::Byte, Some(0x22)),
                (2, Width::Byte, Some(0x33)),
                (3, Width::Byte, Some(0x44)),
            ],
        ),
    ] {
        let (mut space, seen) = recorded(text, width_max);
        access(&mut space, 0x301, Width::Dword, Some(0x4433_2211));
        assert_eq!(*seen.lock().unwrap(), expected);
        let value = access(&mut space, 0x302, Width::Dword, None).value;
        assert_eq!(value, 0x0403_0201, "{width_max:?}");
    }
}

#[test]
fn masks_keep_the_last_byte_or_have_their_own_bits() {
    let (mut space, seen) = recorded(
        "[[port]]\nrange = \"0x300-0x302\"\naccess = \"rw\"\nbackend = \"ram\"\nwrite-mask = [0x0f, 0xf0]\n\
         [[port]]\nrange = \"0x310-0x311\"\naccess = \"rw\"\nbackend = \"ram\"\nwrite-mask = 0x0f\nwrite-fixed = 0xa5\n\
         read-mask = 0x01\nread-fixed = [0x80]\n",
        Width::Dword,
    );
    let mut written = |port, width, value| {
        access(&mut space, port, width, Some(value));
        seen.lock().unwrap().pop().unwrap().2.unwrap()
    };
    assert_eq!(written(0x300, Width::Byte, 0xFF), 0x0F);
    assert_eq!(written(0x300, Width::Word, 0xFFF0), 0xF000);
    assert_eq!(written(0x300, Width::Word, 0x000A), 0x000A);
    assert_eq!(written(0x302, Width::Byte, 0x77), 0x77);
    assert_eq!(written(0x310, Width::Word, 0x0000), 0xA0A0);
    // The recorder reads 1 at the second port.
    assert_eq!(access(&mut space, 0x310, Width::Word, None).value, 0x0180);
}

#[test]
fn widths_values_and_quota_deny_with_their_reason() {
    let (mut space, seen) = recorded(
        "[[port]]\nrange = \"0x300-0x303\"\naccess = \"rw\"\nbackend = \"ram\"\nwidths = [1, 2]\n\
         values = [3, \"0x10-0x1f\"]\nquota = 2\non-deny = \"fault\"\n\
         [[port]]\nrange = \"0x304-0x307\"\naccess = \"rw\"\nbackend = \"ram\"\n",
        Width::Dword,
    );
    let mut reason = |port, width, write| access(&mut space, port, width, write).decision.reason;
    assert_eq!(reason(0x300, Width::Dword, None), Some(DenialReason::Width));
    assert_eq!(
        reason(0x302, Width::Dword, None),
        Some(DenialReason::Width),
        "it is a wide access however little of it lies here"
    );
    assert_eq!(
        reason(0x300, Width::Byte, Some(4)),
        Some(DenialReason::Value)
    );
    // Its part of the value is 0x10, and the neighbour gets 0xff.
    assert_eq!(reason(0x303, Width::Word, Some(0xFF10)), None);
    assert_eq!(reason(0x300, Width::Byte, Some(3)), None);
    assert_eq!(
        reason(0x300, Width::Byte, Some(3)),
        Some(DenialReason::Quota)
    );
    assert_eq!(
        *seen.lock().unwrap(),
        [
            (3, Width::Byte, Some(0x10)),
            (0, Width::Byte, Some(0xFF)),
            (0, Width::Byte, Some(3))
        ]
    );
    assert_eq!(space.stats().rules[0].denied_writes, 2);
    assert_eq!(space.stats().rules[0].denied_reads, 2);
}

#[test]
fn rate_denies_or_waits() {
    let now_ms = Arc::new(AtomicU64::new(0));
    let clock = Arc::clone(&now_ms);
    let policy = policy(
        "[[port]]\nrange = 0x300\naccess = \"rw\"\nbackend = \"ram\"\nrate = 10\nburst = 2\n\
         [[port]]\nrange = 0x301\naccess = \"rw\"\nbackend = \"ram\"\nrate = 10\nburst = 1\non-rate = \"delay\"\n",
    );
    let clock = Box::new(move || Duration::from_millis(clock.load(Ordering::Relaxed)));
    let mut space = PortSpace::with_clock(&policy, clock).unwrap();
    let slept = Arc::new(Mutex::new(Vec::new()));
    let naps = Arc::clone(&slept);
    space.sleep = Box::new(move |nap| naps.lock().unwrap().push(nap));
    let mut reason = |port| access(&mut space, port, Width::Byte, None).decision.reason;
    assert_eq!(
        [reason(0x300), reason(0x300), reason(0x300)],
        [None, None, Some(DenialReason::Rate)]
    );
    assert_eq!([reason(0x301), reason(0x301)], [None, None]);
    now_ms.store(100, Ordering::Relaxed);
    assert_eq!(reason(0x300), None);
    assert_eq!(*slept.lock().unwrap(), [Duration::from_millis(100)]);
}

const CMOS: &str = r#"
[[index-pair]]
index = 0x70
data = 0x71
backend = "ram"
index-mask = 0x7f
initial = [0x59, 0, 0x30]
on-deny = "fault"

[[index-pair.register]]
range = "0-9"
access = "r"

[[index-pair.register]]
range = 0x0b
access = "rw"
write-mask = 0x0f
values = ["0-0x7f"]
"#;

#[test]
fn index_selects_the_register_whose_rule_decides() {
    let mut space = space(CMOS);
    let mut select_and = |index, write| {
        access(&mut space, 0x70, Width::Byte, Some(index));
        assert_eq!(access(&mut space, 0x70, Width::Byte, None).value, index);
        access(&mut space, 0x71, Width::Byte, write)
    };
    // Bit 7 is none of the index.
    assert_eq!(select_and(0x82, None).value, 0x30);
    assert_eq!(
        select_and(0, Some(1)).decision.reason,
        Some(DenialReason::Direction)
    );
    assert_eq!(
        select_and(0x0A, None).decision.reason,
        Some(DenialReason::Register)
    );
    assert!(select_and(0x0B, Some(0x7F)).decision.is_allowed());
    assert_eq!(select_and(0x0B, None).value, 0x0F, "four bits keep");
    let denied = select_and(0x0B, Some(0x80)).decision;
    assert_eq!(denied.reason, Some(DenialReason::Value));
    assert_eq!(denied.action, crate::ports::Action::Fault);
}

#[test]
fn word_over_both_ports_is_an_index_and_its_data() {
    let mut space = space(CMOS);
    let written = access(&mut space, 0x70, Width::Word, Some(0x050B));
    assert!(written.decision.is_allowed());
    assert_eq!(access(&mut space, 0x71, Width::Byte, None).value, 5);
    // A denied data access leaves the index as it was: nothing of the word happens.
    let denied = access(&mut space, 0x70, Width::Word, Some(0x0533));
    assert_eq!(denied.decision.reason, Some(DenialReason::Register));
    assert_eq!(access(&mut space, 0x70, Width::Byte, None).value, 0x0B);
}

const FUNCTION: &str = r#"
[[pci]]
device = "10b5:9050"
bdf = "0000:01:1e.2"
backend = "model"
access = "r"
initial = [0, 0, 0, 0, 3, 0]
on-deny = "stop"

[[pci.register]]
range = "0x04-0x05"
access = "rw"
write-mask = 0x0101
"#;

fn select(space: &mut PortSpace, device: u32, register: u32) {
    let address = 0x8000_0000 | 1 << 16 | device << 11 | 2 << 8 | register;
    access(space, 0xCF8, Width::Dword, Some(address));
}

#[test]
fn configuration_ports_meet_the_pci_rules() {
    let mut space = space(FUNCTION);
    assert_eq!(
        access(&mut space, 0xCFC, Width::Dword, None).value,
        u32::MAX,
        "nothing is selected"
    );
    select(&mut space, 0x1E, 0);
    assert_eq!(
        access(&mut space, 0xCFC, Width::Dword, None).value,
        0x9050_10B5
    );
    assert_eq!(access(&mut space, 0xCFE, Width::Word, None).value, 0x9050);
    let denied = access(&mut space, 0xCFC, Width::Word, Some(0)).decision;
    assert_eq!(denied.action, crate::ports::Action::Stop);
    assert_eq!(denied.origin.line(), Some(2));
    select(&mut space, 0x1E, 4);
    assert!(
        access(&mut space, 0xCFC, Width::Word, Some(0xFFFC))
            .decision
            .is_allowed()
    );
    // Bits 0 and 8 pass, the others keep.
    assert_eq!(access(&mut space, 0xCFC, Width::Word, None).value, 0x0102);
    select(&mut space, 0x1F, 0);
    let absent = access(&mut space, 0xCFC, Width::Dword, None);
    assert_eq!(absent.value, u32::MAX);
    assert_ne!(absent.decision.action, crate::ports::Action::Stop);
    // Byte accesses of 0xcf8-0xcfb are other devices', such as the reset register.
    let reset = access(&mut space, 0xCF9, Width::Byte, Some(6)).decision;
    assert_eq!(reset.reason, Some(DenialReason::Unnamed));
}

/// Texts of rules with everything that has no clock: a run of ports from 0x300 on, then pairs.
fn arbitrary_rules() -> impl Strategy<Value = String> {
    let rule = (
        (0..3_u32, 1..6_u32, 0..4_usize),
        proptest::option::of(proptest::sample::subsequence(vec![1, 2, 4], 1..=3)),
        proptest::option::of((0..300_u32, 0..40_000_u32)),
        proptest::option::of((any::<u8>(), proptest::option::of(any::<u8>()))),
        proptest::option::of((any::<u8>(), any::<u8>())),
    );
    proptest::collection::vec(rule, 0..10).prop_map(|rules| {
        let mut text = String::from("[default]\nmax-log-rate = 0\n");
        let mut next = 0x300;
        for ((gap, length, kind), widths, values, write_mask, read_mask) in rules {
            let first = next + gap;
            next = first + length;
            text += &format!("[[port]]\nrange = \"{first}-{}\"\n", next - 1);
            let Some(access) = ["r", "w", "rw"].get(kind) else {
                text += "backend = \"deny\"\n";
                continue;
            };
            text += &format!("backend = \"ram\"\naccess = \"{access}\"\n");
            if let Some(widths) = widths {
                text += &format!("widths = {widths:?}\n");
            }
            if let (Some((first, more)), true) = (values, kind > 0) {
                text += &format!("values = [\"{first}-{}\"]\n", first + more);
            }
            if let (Some((mask, fixed)), true) = (write_mask, kind > 0) {
                text += &format!("write-mask = {mask}\n");
                if let Some(fixed) = fixed {
                    text += &format!("write-fixed = {fixed}\n");
                }
            }
            if let (Some((mask, fixed)), true) = (read_mask, kind != 1) {
                text += &format!("read-mask = {mask}\nread-fixed = {fixed}\n");
            }
        }
        text + "[[index-pair]]\nindex = 0x340\ndata = 0x341\nbackend = \"ram\"\n\
                [[index-pair.register]]\nrange = \"0-7\"\naccess = \"rw\"\nvalues = [\"0-0x3f\"]\nwrite-mask = 0x0f\n\
                [[index-pair.register]]\nrange = \"9\"\naccess = \"r\"\n"
    })
}

/// The plainest model there is: one byte at a time.
struct Naive {
    policy: Policy,
    ports: Vec<u8>,
    last: Vec<u8>,
    registers: [u8; 256],
    index: u8,
}

impl Naive {
    /// What a read returns, if the access is allowed.
    fn access(&mut self, request: &PortRequest) -> (Decision, Option<u32>) {
        let decision = self.policy.decide_port(request, self.index);
        if !decision.is_allowed() {
            return (decision, None);
        }
        let mut result = 0_u32;
        for byte in 0..request.width.bytes() {
            let port = request.port + byte;
            let value = request
                .write
                .map(|value| (value >> (8 * byte)).to_le_bytes()[0]);
            let read = self.access_byte(port, value);
            result |= u32::from(read) << (8 * byte);
        }
        (decision, request.write.is_none().then_some(result))
    }

    fn access_byte(&mut self, port: u16, value: Option<u8>) -> u8 {
        let at = usize::from(port);
        match (port, value) {
            (0x340, Some(value)) => {
                self.index = value;
                return 0;
            }
            (0x340, None) => return self.index,
            (0x341, Some(value)) => {
                let register = &mut self.registers[usize::from(self.index)];
                *register = (value & 0x0F) | (*register & 0xF0);
                return 0;
            }
            (0x341, None) => return self.registers[usize::from(self.index)],
            _ => {}
        }
        let rule = self
            .policy
            .port_rules()
            .iter()
            .find(|rule| rule.first <= port && port <= rule.last)
            .unwrap();
        let offset = port - rule.first;
        match value {
            Some(value) => {
                let passed = rule.write_mask.as_ref().map_or(value, |mask| {
                    let bits = mask.mask.at(offset);
                    let others = mask
                        .fixed
                        .as_ref()
                        .map_or(self.last[at], |fixed| fixed.at(offset));
                    (value & bits) | (others & !bits)
                });
                self.last[at] = passed;
                self.ports[at] = passed;
                0
            }
            None => rule.read_mask.as_ref().map_or(self.ports[at], |mask| {
                let bits = mask.mask.at(offset);
                let others = mask.fixed.as_ref().map_or(0, |fixed| fixed.at(offset));
                (self.ports[at] & bits) | (others & !bits)
            }),
        }
    }
}

proptest! {
    #[test]
    fn decisions_and_values_are_those_of_the_naive_model(
        text in arbitrary_rules(),
        accesses in proptest::collection::vec(
            (prop_oneof![0x2FE..0x345_u16, 0x33E..0x343_u16], 0..3_usize, proptest::option::of(any::<u32>()), any::<bool>()),
            60,
        ),
    ) {
        let policy = policy(&text);
        let mut space = PortSpace::new(&policy).unwrap();
        let mut naive = Naive {
            policy,
            ports: vec![0; 0x1_0000],
            last: vec![0; 0x1_0000],
            registers: [0; 256],
            index: 0,
        };
        for (port, width, write, is_small) in accesses {
            let width = Width::ALL[width];
            // Small values meet `values` and indices more often.
            let write = write.map(|value| if is_small { value & 0x0F0F } else { value });
            let request = PortRequest { port, width, write };
            let outcome = space.access(request);
            let (decision, value) = naive.access(&request);
            prop_assert_eq!(outcome.decision, decision, "{:?} under\n{}", request, text);
            if let Some(value) = value {
                prop_assert_eq!(outcome.value, value, "{:?} under\n{}", request, text);
            }
        }
    }

    #[test]
    fn pci_decisions_are_those_of_the_plain_search(
        registers in proptest::collection::vec((0..6_u16, 1..6_u16, 0..3_usize), 0..8),
        access in 0..4_usize,
        accesses in proptest::collection::vec((0..64_u16, 0..3_usize, any::<bool>(), any::<bool>()), 40),
    ) {
        let mut text = String::from("[default]\nmax-log-rate = 0\n[[pci]]\nbdf = \"00:03.0\"\ndevice = \"8086:100e\"\nbackend = \"model\"\n");
        if let Some(access) = ["r", "w", "rw"].get(access) {
            text += &format!("access = \"{access}\"\n");
        }
        let mut next = 0;
        for (gap, length, access) in registers {
            let first = next + gap;
            next = first + length;
            let access = ["r", "w", "rw"][access];
            text += &format!("[[pci.register]]\nrange = \"{first}-{}\"\naccess = \"{access}\"\n", next - 1);
        }
        let policy = policy(&text);
        let mut space = PciSpace::new(&policy, None).unwrap();
        for (register, width, is_write, is_absent) in accesses {
            let address = crate::policy::PciAddress {
                segment: 0,
                bus: 0,
                device: if is_absent { 4 } else { 3 },
                function: 0,
            };
            let request = crate::pci::PciRequest {
                address,
                register,
                width: Width::ALL[width],
                write: is_write.then_some(7),
            };
            let target = crate::policy::PciTarget { address: Some(address), id: None };
            prop_assert_eq!(space.access(&request).decision, policy.decide_pci(&target, &request), "{:?} under\n{}", request, text);
        }
    }
}
