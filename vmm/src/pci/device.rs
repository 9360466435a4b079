//! A PCI function that is a device without hardware: a type 0 header (PCI Local Bus Specification 3.0, 6.1) with base
//! address registers, and device models behind them.
//!
//! What a register has no bits for cannot be written and reads as zero. A base address register keeps the bits above its
//! size, so that writing all ones and reading back tells the size (6.2.5.1). Where it is, is decoded while the command
//! register's I/O or memory bit is set; otherwise nobody answers: reads are all ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use super::CONFIG_BYTES;
use crate::devices::{DeviceError, Inputs, MemoryDevice, PortDevice, access_in_pieces};
use crate::machine::InterruptPin;
use crate::policy::{BarKind, PciBar, PciId, PciInterrupt, PciModel};
use crate::ports::Width;

const COMMAND: u16 = 0x04;
const STATUS: u16 = 0x06;
const FIRST_BAR: u16 = 0x10;
const INTERRUPT_LINE: u16 = 0x3C;
const INTERRUPT_PIN: u16 = 0x3D;
/// Header type 0, one function.
const HEADER_TYPE: u16 = 0x0E;
/// Where the header ends; behind it is whatever the device has.
const HEADER_END: u16 = 0x40;
const COMMAND_IO: u8 = 1 << 0;
const COMMAND_MEMORY: u8 = 1 << 1;
const COMMAND_BUS_MASTER: u8 = 1 << 2;
/// I/O space, memory space, bus master, parity error response.
const COMMAND_LOW: u8 = 0x47;
/// SERR# enable, interrupt disable.
const COMMAND_HIGH: u8 = 0x05;
const COMMAND_HIGH_INTERRUPT_DISABLE: u8 = 1 << 2;
const STATUS_INTERRUPT: u8 = 1 << 3;

/// What is behind a base address register.
#[derive(Debug)]
pub(super) enum Behind {
    /// Memory of whole pages, which is mapped into the guest.
    Ram(MmapRegion),
    /// Registers that ports reach: the device and how many bytes of registers it has.
    Ports(Box<dyn PortDevice>, u64),
    /// Registers in memory; each access leaves the guest.
    Memory(Box<dyn MemoryDevice>),
}

#[derive(Debug)]
struct Bar {
    kind: BarKind,
    size: u64,
    /// Its first register's offset in the header.
    register: u16,
    is_prefetchable: bool,
    behind: Behind,
}

/// The function.
#[derive(Debug)]
pub(super) struct PciDevice {
    bytes: Vec<u8>,
    bars: Vec<Bar>,
    pin: Option<InterruptPin>,
    /// The bus master bit, for whoever reads and writes memory for the function.
    is_master: Arc<AtomicBool>,
}

impl PciDevice {
    /// `behind` has what is behind each of the model's BARs, in their order; `is_master` is kept as the command register
    /// has it.
    pub(super) fn new(
        id: PciId,
        model: &PciModel,
        behind: Vec<Behind>,
        pin: Option<InterruptPin>,
        is_master: Arc<AtomicBool>,
    ) -> Self {
        let mut bytes = model.initial.clone();
        bytes.resize(usize::from(CONFIG_BYTES), 0);
        bytes[0..2].copy_from_slice(&id.vendor.to_le_bytes());
        bytes[2..4].copy_from_slice(&id.device.to_le_bytes());
        bytes[usize::from(HEADER_TYPE)] = 0;
        if let Some(PciInterrupt { line, pin }) = model.interrupt {
            bytes[usize::from(INTERRUPT_LINE)] = u8::try_from(line).unwrap_or(0xFF);
            bytes[usize::from(INTERRUPT_PIN)] = pin;
        }
        let bars = model.bars.iter().zip(behind).map(|(bar, behind)| Bar {
            kind: bar.kind,
            size: bar.size,
            register: FIRST_BAR + 4 * u16::from(bar.index),
            is_prefetchable: bar.is_prefetchable,
            behind,
        });
        let mut device = Self {
            bytes,
            bars: bars.collect(),
            pin,
            is_master,
        };
        device.publish_master();
        for (bar, spec) in model.bars.iter().enumerate() {
            device.place(bar, spec);
        }
        device
    }

    fn publish_master(&self) {
        let is_master = self.bytes[usize::from(COMMAND)] & COMMAND_BUS_MASTER != 0;
        self.is_master.store(is_master, Ordering::Release);
    }

    /// Puts a BAR where it is at the start.
    fn place(&mut self, bar: usize, spec: &PciBar) {
        let Bar { register, kind, .. } = self.bars[bar];
        let value = spec.base.unwrap_or(0).to_le_bytes();
        let at = usize::from(register);
        let length = 4 * usize::from(kind.registers());
        self.bytes[at..at + length].copy_from_slice(&value[..length]);
        self.bytes[at] |= self.bars[bar].flags();
    }

    pub(super) fn read(&self, register: u16, width: Width) -> u32 {
        let mut value = [0xFF; 4];
        for (byte, at) in value.iter_mut().zip(register..) {
            *byte = self.byte(at);
        }
        u32::from_le_bytes(value) & width.mask()
    }

    fn byte(&self, at: u16) -> u8 {
        let kept = self.bytes.get(usize::from(at)).copied().unwrap_or(0xFF);
        if at == STATUS && self.pin.as_ref().is_some_and(InterruptPin::is_asserted) {
            return kept | STATUS_INTERRUPT;
        }
        kept
    }

    /// Whether it may have changed what is decoded where.
    pub(super) fn write(&mut self, register: u16, width: Width, value: u32) -> bool {
        let bytes = value.to_le_bytes();
        for (byte, at) in bytes[..usize::from(width.bytes())].iter().zip(register..) {
            let mask = self.writable(at);
            if let Some(kept) = self.bytes.get_mut(usize::from(at)) {
                *kept = (*kept & !mask) | (byte & mask);
            }
        }
        self.publish_master();
        if let Some(pin) = &self.pin {
            let high = self.bytes[usize::from(COMMAND) + 1];
            pin.set_masked(high & COMMAND_HIGH_INTERRUPT_DISABLE != 0);
        }
        let bars_end = FIRST_BAR + 4 * u16::from(crate::policy::BARS);
        register < COMMAND + 2 || (register < bars_end && register + width.bytes() > FIRST_BAR)
    }

    /// The bits of a byte that can be written.
    fn writable(&self, at: u16) -> u8 {
        match at {
            COMMAND => COMMAND_LOW,
            0x05 => COMMAND_HIGH,
            // Cache line size, latency timer.
            0x0C | 0x0D | INTERRUPT_LINE => 0xFF,
            HEADER_END.. => 0xFF,
            _ => self
                .bars
                .iter()
                .find_map(|bar| bar.writable(at))
                .unwrap_or(0),
        }
    }

    /// Where a BAR is, whether or not it is decoded; `None`: nowhere.
    fn base(&self, bar: &Bar) -> Option<u64> {
        let at = usize::from(bar.register);
        let mut value = [0; 8];
        let length = 4 * usize::from(bar.kind.registers());
        value[..length].copy_from_slice(&self.bytes[at..at + length]);
        let base = u64::from_le_bytes(value) & !(bar.size - 1);
        let end = base.checked_add(bar.size - 1)?;
        (base != 0 && end <= bar.kind.address_max()).then_some(base)
    }

    fn is_decoded(&self, kind: BarKind) -> bool {
        let bit = match kind {
            BarKind::Port => COMMAND_IO,
            BarKind::Memory | BarKind::Memory64 => COMMAND_MEMORY,
        };
        self.bytes[usize::from(COMMAND)] & bit != 0
    }

    /// The BAR that has a port or a physical address, whether or not it is decoded, and the offset in it.
    pub(super) fn bar_at(&self, is_port: bool, address: u64) -> Option<(usize, u64)> {
        self.bars.iter().enumerate().find_map(|(index, bar)| {
            if (bar.kind == BarKind::Port) != is_port {
                return None;
            }
            let offset = address.checked_sub(self.base(bar)?)?;
            (offset < bar.size).then_some((index, offset))
        })
    }

    /// How far memory reaches that begins at `last` at most and ends at `first` at least: the highest address of it.
    pub(super) fn memory_reach(&self, first: u64, last: u64) -> Option<u64> {
        let ends = self.bars.iter().filter_map(|bar| {
            let base = self.base(bar).filter(|_| bar.kind != BarKind::Port)?;
            let end = base + (bar.size - 1);
            (base <= last && end >= first).then_some(end)
        });
        ends.max()
    }

    /// An access to neighbouring ports, 1 to 4, that all belong to a BAR. What was read.
    pub(super) fn access_port(
        &mut self,
        bar: usize,
        (port, offset): (u16, u64),
        bytes: u16,
        write: Option<u32>,
    ) -> u32 {
        if !self.is_decoded(BarKind::Port) {
            return u32::MAX;
        }
        let Some(Bar {
            behind: Behind::Ports(device, registers),
            ..
        }) = self.bars.get_mut(bar)
        else {
            return u32::MAX;
        };
        // What lies above the device's registers is not there.
        let there = registers.saturating_sub(offset).min(bytes.into());
        let absent = u32::MAX
            .checked_shl(u32::try_from(there * 8).unwrap_or(32))
            .unwrap_or(0);
        let (Ok(offset), Ok(there)) = (u16::try_from(offset), u16::try_from(there)) else {
            return u32::MAX;
        };
        let width_max = device.width_max();
        access_in_pieces(
            &mut **device,
            width_max,
            (port.into(), offset),
            there,
            write,
        ) | absent
    }

    /// An access of 1 to 8 bytes that all lie in a memory BAR. What was read.
    pub(super) fn access_memory(
        &mut self,
        bar: usize,
        offset: u64,
        bytes: u8,
        write: Option<u64>,
    ) -> u64 {
        let Some(kind) = self.bars.get(bar).map(|bar| bar.kind) else {
            return u64::MAX;
        };
        if !self.is_decoded(kind) {
            return u64::MAX;
        }
        let Ok(offset) = u32::try_from(offset) else {
            return u64::MAX;
        };
        match (&mut self.bars[bar].behind, write) {
            (Behind::Memory(device), Some(value)) => {
                device.store(offset, bytes, value);
                0
            }
            (Behind::Memory(device), None) => device.load(offset, bytes),
            (Behind::Ram(region), write) => access_ram(region, offset, bytes, write),
            (Behind::Ports(..), _) => u64::MAX,
        }
    }

    /// Memory that is to be mapped into the guest: where each such BAR is, if it is decoded, in the BARs' order.
    pub(super) fn ram(&self) -> impl Iterator<Item = (Option<u64>, &MmapRegion)> {
        self.bars.iter().filter_map(|bar| match &bar.behind {
            Behind::Ram(region) => {
                let base = self.base(bar).filter(|_| self.is_decoded(bar.kind));
                Some((base, region))
            }
            _ => None,
        })
    }

    /// What is behind each BAR, and what can be set of it.
    pub(super) fn models(&self) -> impl Iterator<Item = (String, Option<Arc<dyn Inputs>>)> {
        self.bars.iter().map(|bar| match &bar.behind {
            Behind::Ram(region) => (format!("ram ({} bytes)", region.size()), None),
            Behind::Ports(device, _) => (device.describe(), device.inputs()),
            Behind::Memory(device) => (device.describe(), device.inputs()),
        })
    }

    /// As [`PortDevice::flush`], for all that is behind its BARs.
    pub(super) fn flush(&mut self) -> impl Iterator<Item = DeviceError> {
        self.bars
            .iter_mut()
            .filter_map(|bar| match &mut bar.behind {
                Behind::Ports(device, _) => device.flush().err(),
                Behind::Memory(device) => device.flush().err(),
                Behind::Ram(_) => None,
            })
    }
}

impl Bar {
    /// The low bits, which tell what it is.
    fn flags(&self) -> u8 {
        match self.kind {
            BarKind::Port => 1,
            BarKind::Memory => u8::from(self.is_prefetchable) << 3,
            BarKind::Memory64 => 4 | u8::from(self.is_prefetchable) << 3,
        }
    }

    /// The bits of a byte of the header that can be written, if it is one of its own.
    fn writable(&self, at: u16) -> Option<u8> {
        let index = at.checked_sub(self.register)?;
        (index < 4 * u16::from(self.kind.registers()))
            .then(|| (!(self.size - 1)).to_le_bytes()[usize::from(index)])
    }
}

/// An access to mapped memory that left the guest all the same: it was made before the memory was there.
fn access_ram(region: &MmapRegion, offset: u32, bytes: u8, write: Option<u64>) -> u64 {
    let mut value = write.unwrap_or(u64::MAX).to_le_bytes();
    let slice = &mut value[..usize::from(bytes.min(8))];
    let memory = region.as_volatile_slice();
    let at = usize::try_from(offset).unwrap_or(usize::MAX);
    let done = match write {
        Some(_) => memory.write_slice(slice, at),
        None => memory.read_slice(slice, at),
    };
    // It lies in the BAR, which is as large as the region.
    debug_assert!(done.is_ok(), "an access outside of its BAR");
    u64::from_le_bytes(value)
}

#[cfg(test)]
mod tests;
