//! A port rule with its live back end.

use std::time::Duration;

use super::{DenialReason, Width};
use crate::devices::{PortDevice, access_in_pieces};
use crate::policy::PortRule;
use crate::policy::gate::Gate;

/// A rule with its live back end, state and counts.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) rule: PortRule,
    pub(super) device: Option<Box<dyn PortDevice>>,
    width_max: Width,
    gate: Gate,
    /// For each port the last byte that was passed on; empty unless the write mask keeps bits.
    last: Vec<u8>,
    pub(super) reads: u64,
    pub(super) writes: u64,
    pub(super) denied_reads: u64,
    pub(super) denied_writes: u64,
}

impl Slot {
    pub(super) fn new(rule: PortRule, device: Option<Box<dyn PortDevice>>) -> Self {
        let keeps = rule
            .write_mask
            .as_ref()
            .is_some_and(|mask| mask.fixed.is_none());
        let ports = usize::from(rule.last - rule.first) + 1;
        Self {
            width_max: device
                .as_ref()
                .map_or(Width::Dword, |device| device.width_max()),
            gate: Gate::new(rule.limits),
            last: vec![0; if keeps { ports } else { 0 }],
            rule,
            device,
            reads: 0,
            writes: 0,
            denied_reads: 0,
            denied_writes: 0,
        }
    }

    /// Whether time matters.
    pub(super) fn is_limited(&self) -> bool {
        !self.gate.is_open()
    }

    /// How long a part of an access has to wait, or why it is denied. `width` is the whole access's, `value` the
    /// part's.
    pub(super) fn check(
        &self,
        width: Width,
        value: Option<u32>,
        now: Duration,
    ) -> Result<Duration, DenialReason> {
        if !self.rule.widths.contains(width) {
            return Err(DenialReason::Width);
        }
        if let (Some(values), Some(value)) = (&self.rule.values, value)
            && !values.contains(value.into())
        {
            return Err(DenialReason::Value);
        }
        self.gate.check(now)
    }

    /// Counts an access for the limits.
    pub(super) fn take(&mut self, now: Duration) {
        self.gate.take(now);
    }

    /// Carries out an access that one rule allows as it is.
    #[inline]
    pub(super) fn perform(&mut self, port: u16, width: Width, write: Option<u32>) -> u32 {
        match write {
            Some(_) => self.writes += 1,
            None => self.reads += 1,
        }
        if width > self.width_max {
            return self.perform_split(port, width.bytes(), write);
        }
        let offset = port - self.rule.first;
        let Some(device) = &mut self.device else {
            return u32::MAX;
        };
        match write {
            Some(value) => {
                device.write(offset, width, value & width.mask());
                0
            }
            None => device.read(offset, width) & width.mask(),
        }
    }

    /// Carries out a part of an access, 1 to 4 bytes, with the rule's masks.
    pub(super) fn perform_part(&mut self, port: u16, bytes: u16, write: Option<u32>) -> u32 {
        match write {
            Some(_) => self.writes += 1,
            None => self.reads += 1,
        }
        let first = port - self.rule.first;
        let write = write.map(|value| self.masked_write(first, bytes, value));
        let value = self.perform_split(port, bytes, write);
        match (&self.rule.read_mask, write) {
            (Some(mask), None) => {
                let mut masked = value.to_le_bytes();
                for (byte, offset) in masked.iter_mut().zip(first..first + bytes) {
                    *byte = mask.apply(offset, *byte, 0);
                }
                u32::from_le_bytes(masked)
            }
            _ => value,
        }
    }

    fn masked_write(&mut self, first: u16, bytes: u16, value: u32) -> u32 {
        let Some(mask) = &self.rule.write_mask else {
            return value;
        };
        let mut masked = value.to_le_bytes();
        for (byte, offset) in masked.iter_mut().zip(first..first + bytes) {
            match self.last.get_mut(usize::from(offset)) {
                Some(last) => {
                    *last = mask.apply(offset, *byte, *last);
                    *byte = *last;
                }
                None => *byte = mask.apply(offset, *byte, 0),
            }
        }
        u32::from_le_bytes(masked)
    }

    /// As the bus does it: see [`access_in_pieces`].
    fn perform_split(&mut self, port: u16, bytes: u16, write: Option<u32>) -> u32 {
        let place = (port.into(), port - self.rule.first);
        match &mut self.device {
            Some(device) => access_in_pieces(&mut **device, self.width_max, place, bytes, write),
            None => u32::MAX,
        }
    }
}
