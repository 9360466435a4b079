//! Who decides about a port: one look into a table.

use super::{DenialReason, Width};
use crate::pci::BarId;
use crate::policy::Policy;

const NUMBER: u32 = 0xFFFF;
const READ: u32 = 1 << 16;
const WRITE: u32 = 1 << 17;
const PLAIN: u32 = 1 << 18;
const RUN_SHIFT: u32 = 19;
/// The number of the ports of configuration mechanism #1.
const MECHANISM: u32 = 0xFFFF;
/// Ports of configuration mechanism #1.
pub(super) const CONFIG_PORTS: std::ops::RangeInclusive<u16> = 0xCF8..=0xCFF;

/// Who decides about a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    /// Nobody: it is denied.
    Nobody,
    /// A port rule, by its place in the policy.
    Rule(usize),
    /// An index/data pair, by its place in the policy.
    Pair {
        pair: usize,
        /// Whether it is the data port.
        is_data: bool,
    },
    /// PCI configuration mechanism #1.
    Mechanism,
    /// A base address register of a modelled PCI function. The table does not know of it: it moves.
    Bar(BarId),
}

/// Adds to the entries of ports that have an owner how many from there on have the same.
fn count_runs(entries: &mut [u32], mut owned: Vec<(u16, u16)>) {
    // Downwards: what is above a port is done before it.
    owned.sort_unstable_by_key(|(_, last)| std::cmp::Reverse(*last));
    for (first, last) in owned {
        for port in (usize::from(first)..=usize::from(last)).rev() {
            let next = entries.get(port + 1).copied().unwrap_or(0);
            let entry = &mut entries[port];
            let is_same = *entry & NUMBER == next & NUMBER;
            let more = if is_same {
                ((next >> RUN_SHIFT) + 1).min(3)
            } else {
                0
            };
            *entry = (*entry & ((1 << RUN_SHIFT) - 1)) | (more << RUN_SHIFT);
        }
    }
}

/// For each port its rule, and what the usual case needs to know of it.
///
/// An entry has the owner's number in its low half: 0 for nobody, rules from 1, then two for each index/data pair. Above
/// are flags: reads allowed, writes allowed, nothing else to check; and how many ports behind this one, up to 3, have
/// the same owner, if it has one. So most accesses are decided by one load from 256 KiB, however many rules there are.
#[derive(Clone, Debug)]
pub struct DecisionTable {
    entries: Box<[u32]>,
    rules: usize,
}

impl DecisionTable {
    /// The table of a policy.
    #[must_use]
    pub fn compile(policy: &Policy) -> Self {
        // Pages of ports that nobody has are not even touched.
        let mut entries = vec![0_u32; 0x1_0000].into_boxed_slice();
        let mut owned: Vec<(u16, u16)> = Vec::new();
        for (number, rule) in (1..).zip(policy.port_rules()) {
            let mut entry = number;
            if rule.allows(false) {
                entry |= READ;
            }
            if rule.allows(true) {
                entry |= WRITE;
            }
            if rule.is_plain() {
                entry |= PLAIN;
            }
            owned.push((rule.first, rule.last));
            for target in &mut entries[usize::from(rule.first)..=usize::from(rule.last)] {
                // Rules overlap only when they mean the same; the first then counts.
                if *target == 0 {
                    *target = entry;
                }
            }
        }
        let rules = policy.port_rules().len();
        let first_pair = u32::try_from(rules).unwrap_or(NUMBER) + 1;
        for (number, pair) in (first_pair..).step_by(2).zip(policy.index_pairs()) {
            owned.extend([(pair.index, pair.index), (pair.data, pair.data)]);
            entries[usize::from(pair.index)] = number;
            entries[usize::from(pair.data)] = number + 1;
        }
        let config = usize::from(*CONFIG_PORTS.start())..=usize::from(*CONFIG_PORTS.end());
        if !policy.pci_rules().is_empty() && entries[config.clone()].iter().all(|entry| *entry == 0)
        {
            owned.push((*CONFIG_PORTS.start(), *CONFIG_PORTS.end()));
            entries[config].fill(MECHANISM);
        }
        count_runs(&mut entries, owned);
        Self { entries, rules }
    }

    /// The rule of an access that one rule allows as it is, with nothing more to check; the usual case.
    #[inline]
    #[must_use]
    pub fn plain(&self, port: u16, width: Width, is_write: bool) -> Option<usize> {
        let entry = self.entries[usize::from(port)];
        let wanted = PLAIN | if is_write { WRITE } else { READ };
        let run = (entry >> RUN_SHIFT) + 1;
        if entry & wanted == wanted && run >= u32::from(width.bytes()) {
            (entry & NUMBER).checked_sub(1).map(|rule| rule as usize)
        } else {
            None
        }
    }

    /// Whether place and direction let an access through: the rule of its first byte, or the first port that is
    /// denied and why. Index/data pairs and PCI configuration are let through here; their spaces decide.
    ///
    /// # Errors
    /// The port and the reason.
    #[inline]
    pub fn decide(
        &self,
        port: u16,
        width: Width,
        is_write: bool,
    ) -> Result<Option<usize>, (u16, DenialReason)> {
        if let Some(rule) = self.plain(port, width, is_write) {
            return Ok(Some(rule));
        }
        let mut first = None;
        for byte in 0..width.bytes() {
            let Some(at) = port.checked_add(byte) else {
                return Err((u16::MAX, DenialReason::PastLastPort));
            };
            match self.owner(at) {
                Owner::Nobody => return Err((at, DenialReason::Unnamed)),
                Owner::Rule(rule) if !self.allows(at, is_write) => {
                    let _ = rule;
                    return Err((at, DenialReason::Direction));
                }
                Owner::Rule(rule) if byte == 0 => first = Some(rule),
                Owner::Rule(_) | Owner::Pair { .. } | Owner::Mechanism | Owner::Bar(_) => {}
            }
        }
        Ok(first)
    }

    /// Who decides about a port.
    #[inline]
    pub(super) fn owner(&self, port: u16) -> Owner {
        match self.entries[usize::from(port)] & NUMBER {
            0 => Owner::Nobody,
            MECHANISM => Owner::Mechanism,
            number => {
                let index = number as usize - 1;
                match index.checked_sub(self.rules) {
                    None => Owner::Rule(index),
                    Some(half) => Owner::Pair {
                        pair: half / 2,
                        is_data: half % 2 == 1,
                    },
                }
            }
        }
    }

    /// Whether the port's rule allows the direction.
    #[inline]
    pub(super) fn allows(&self, port: u16, is_write: bool) -> bool {
        self.entries[usize::from(port)] & if is_write { WRITE } else { READ } != 0
    }
}
