//! PCI configuration space.

use super::*;
use crate::pci::{PciRequest, PciSpace};

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

proptest! {
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
}
