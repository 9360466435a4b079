//! Feeds arbitrary text to the policy's parser as `ringfence policy check` and `ringfence run --policy` do.
//!
//! Nothing may panic, hang or take much more memory than the text; and whatever is a policy decides and explains every
//! access.
#![no_main]

use fuzz::counting_allocator::CountingAllocator;
use libfuzzer_sys::fuzz_target;
use vmm::pci::PciRequest;
use vmm::policy::{MemoryRequest, PciAddress, Policy, PolicyError};
use vmm::ports::{DecisionTable, PortRequest, Width};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

/// What a policy may cost beside its text: the table of ports and texts for people.
const FIXED_BYTES: usize = 16 << 20;
/// What a byte of the text may cost: a syntax tree, rules, and a line of each mistake.
const BYTES_FOR_A_BYTE: usize = 2048;

/// For rules that name no place.
const NOWHERE: PciAddress = PciAddress {
    segment: 0,
    bus: 0,
    device: 0,
    function: 0,
};

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let peak = ALLOCATOR.measure(|| run(text));
    let bound = FIXED_BYTES + BYTES_FOR_A_BYTE * text.len();
    assert!(
        peak <= bound,
        "{peak} bytes allocated for a policy of {} bytes",
        text.len()
    );
});

fn run(text: &str) {
    let policy = match Policy::from_str("fuzz.toml", text) {
        Ok(policy) => policy,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            if let PolicyError::Invalid(found) = error {
                assert!(!found.is_empty());
                assert!(found.iter().all(|one| one.line > 0 && one.column > 0));
            }
            return;
        }
    };
    check_ports(&policy);
    check_memory(&policy);
    for rule in policy.pci_rules() {
        for register in [0, 4, 0xFF, 0xFFF] {
            for write in [None, Some(0x55)] {
                let request = PciRequest {
                    address: rule.target.address.unwrap_or(NOWHERE),
                    register,
                    width: Width::Word,
                    write,
                };
                let decision = policy.decide_pci(&rule.target, &request);
                let explained = policy.explain_pci(&rule.target, &request);
                assert_eq!(explained.contains(": allowed\n"), decision.is_allowed());
            }
        }
    }
    let numbers = (policy.msr_rules().iter()).flat_map(|rule| [rule.first, rule.last]);
    for number in numbers.chain([0, u32::MAX]) {
        for write in [None, Some(u64::MAX)] {
            let decision = policy.decide_msr(number, write);
            let explained = policy.explain_msr(number, write);
            assert_eq!(explained.contains(": allowed\n"), decision.is_allowed());
        }
    }
}

/// Every port is decided by the table as by a search, but for limits and what stands behind index pairs and PCI.
fn check_ports(policy: &Policy) {
    let table = DecisionTable::compile(policy);
    let edges = (policy.port_rules().iter()).flat_map(|rule| [rule.first, rule.last]);
    let pairs = (policy.index_pairs().iter()).flat_map(|pair| [pair.index, pair.data]);
    let near = edges
        .chain(pairs)
        .take(64)
        .flat_map(|port| [port.saturating_sub(2), port, port.saturating_add(1)]);
    for port in near.chain([0, 0xCF8, 0xCFC, 0xFFFF]) {
        for width in Width::ALL {
            for write in [None, Some(0x55AA_1234)] {
                let request = PortRequest { port, width, write };
                let decision = policy.decide_port(&request, 0);
                let explained = policy.explain_port(&request, 0);
                assert!(explained.ends_with('\n'));
                if table.plain(port, width, write.is_some()).is_some() {
                    assert!(decision.is_allowed(), "{explained}");
                }
                if decision.is_allowed() {
                    let place = table.decide(port, width, write.is_some());
                    assert!(place.is_ok(), "{explained}");
                }
            }
        }
    }
}

fn check_memory(policy: &Policy) {
    let edges = (policy.memory_rules().iter()).flat_map(|rule| [rule.first, rule.last]);
    for address in edges.take(64).chain([0, u64::MAX]) {
        for bytes in [0, 1, 0x2000, u64::MAX] {
            for is_write in [false, true] {
                let request = MemoryRequest {
                    address,
                    bytes,
                    is_write,
                };
                let (is_allowed, _, reason) = policy.decide_memory(&request);
                assert_eq!(is_allowed, reason.is_none());
                let explained = policy.explain_memory(address, bytes, is_write);
                assert_eq!(explained.contains(": allowed\n"), is_allowed);
            }
        }
    }
}
