//! A live index/data pair.

use std::sync::Arc;

use super::host::HostPorts;
use super::stats::PairStats;
use super::{DenialReason, Width};
use crate::devices::DeviceError;
use crate::policy::{IndexPair, IndexPairBackend};

/// What stands behind the two ports.
#[derive(Debug)]
enum Registers {
    Host(Arc<HostPorts>),
    Ram(Box<[u8; 256]>),
}

/// An index/data pair: the index that the driver wrote, the device, and counts.
#[derive(Debug)]
pub(super) struct PairSlot {
    pub(super) rule: IndexPair,
    registers: Registers,
    /// What the driver wrote to the index port last.
    written: u8,
    failure: Option<String>,
    pub(super) reads: u64,
    pub(super) writes: u64,
    pub(super) denied_reads: u64,
    pub(super) denied_writes: u64,
}

impl PairSlot {
    /// `None` for a pass-through without the machine's ports.
    pub(super) fn new(rule: IndexPair, host: Option<&Arc<HostPorts>>) -> Option<Self> {
        let registers = match &rule.backend {
            IndexPairBackend::Passthrough { .. } => Registers::Host(Arc::clone(host?)),
            IndexPairBackend::Ram { initial } => {
                let mut bytes = Box::new([0; 256]);
                for (byte, initial) in bytes.iter_mut().zip(initial) {
                    *byte = *initial;
                }
                Registers::Ram(bytes)
            }
        };
        Some(Self {
            rule,
            registers,
            written: 0,
            failure: None,
            reads: 0,
            writes: 0,
            denied_reads: 0,
            denied_writes: 0,
        })
    }

    /// What the driver wrote to the index port last; 0 at start.
    pub(super) const fn written(&self) -> u8 {
        self.written
    }

    /// The index port: what is written is kept, and reads back. The device sees it with the next data access.
    pub(super) fn access_index(&mut self, write: Option<u8>) -> u8 {
        match write {
            Some(value) => {
                self.written = value;
                0
            }
            None => self.written,
        }
    }

    /// Carries out an allowed access to the data port.
    pub(super) fn access_data(&mut self, write: Option<u8>) -> u8 {
        let Some(masks) = self
            .rule
            .register(self.written)
            .map(|register| register.masks)
        else {
            return 0xFF;
        };
        match write {
            Some(value) => {
                self.writes += 1;
                let kept = if masks.keeps_bits() && masks.write & 0xFF != 0xFF {
                    self.read_device()
                } else {
                    0
                };
                let [value, ..] = masks.written(value.into(), kept.into()).to_le_bytes();
                self.write_device(value);
                0
            }
            None => {
                self.reads += 1;
                let [value, ..] = masks.seen(self.read_device().into()).to_le_bytes();
                value
            }
        }
    }

    fn read_device(&mut self) -> u8 {
        let index = self.rule.index_for_device(self.written);
        match &mut self.registers {
            Registers::Ram(bytes) => bytes[usize::from(index & self.rule.index_mask)],
            Registers::Host(host) => {
                let IndexPairBackend::Passthrough { index: port, data } = self.rule.backend else {
                    return 0xFF;
                };
                let value = host
                    .write(port, Width::Byte, index.into())
                    .and_then(|()| host.read(data, Width::Byte));
                match value {
                    Ok(value) => value.to_le_bytes()[0],
                    Err(error) => {
                        self.failure
                            .get_or_insert_with(|| format!("ports {port:#x}, {data:#x}: {error}"));
                        0xFF
                    }
                }
            }
        }
    }

    fn write_device(&mut self, value: u8) {
        let index = self.rule.index_for_device(self.written);
        match &mut self.registers {
            Registers::Ram(bytes) => bytes[usize::from(index & self.rule.index_mask)] = value,
            Registers::Host(host) => {
                let IndexPairBackend::Passthrough { index: port, data } = self.rule.backend else {
                    return;
                };
                let written = host
                    .write(port, Width::Byte, index.into())
                    .and_then(|()| host.write(data, Width::Byte, value.into()));
                if let Err(error) = written {
                    self.failure
                        .get_or_insert_with(|| format!("ports {port:#x}, {data:#x}: {error}"));
                }
            }
        }
    }

    pub(super) fn describe(&self) -> String {
        format!("index-pair, {}", self.rule.backend.name())
    }

    pub(super) fn stats(&self) -> PairStats {
        PairStats {
            line: self.rule.place.line,
            name: self.rule.name.clone(),
            index: self.rule.index,
            data: self.rule.data,
            backend: self.rule.backend.name(),
            reads: self.reads,
            writes: self.writes,
            denied_reads: self.denied_reads,
            denied_writes: self.denied_writes,
        }
    }

    pub(super) fn failure(&self) -> Option<DeviceError> {
        self.failure.as_ref().map(|message| DeviceError {
            device: self.describe(),
            message: message.clone(),
        })
    }
}

/// Whether a pair lets an access to its data port through when `written` is in its index port.
pub(crate) fn decide_data(
    rule: &IndexPair,
    written: u8,
    write: Option<u8>,
) -> Result<(), DenialReason> {
    let register = rule.register(written).ok_or(DenialReason::Register)?;
    if !register
        .access
        .is_some_and(|access| access.allows(write.is_some()))
    {
        return Err(DenialReason::Direction);
    }
    match (&register.values, write) {
        (Some(values), Some(value)) if !values.contains(value.into()) => Err(DenialReason::Value),
        _ => Ok(()),
    }
}
