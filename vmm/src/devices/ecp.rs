//! The extended registers of a parallel port, 0x400 ports above its data register, after Microsoft's "Extended
//! Capabilities Port Protocol and ISA Interface Standard", revision 1.14.
//!
//! | offset | mode (ECR bits 7-5) | register |
//! |---|---|---|
//! | 0 | 010 parallel port FIFO | cFifo: each byte is strobed to the peer by the hardware |
//! | 0 | 011 ECP FIFO | ecpDFifo: data to the peer, or from it while the direction bit is set |
//! | 0 | 110 test | tFifo: what is written can be read back, nothing reaches the peer |
//! | 0, 1 | 111 configuration | cnfgA (0x10: 8 bits, ISA edge interrupts), cnfgB (bits 5-3: the interrupt line's code) |
//! | 2 | any | ECR: 4 nErrIntrEn, 3 dmaEn, 2 serviceIntr, 1 full, 0 empty |
//!
//! In modes 000 and 010 the port is an output whatever control bit 5 says. The peer takes each byte at once, so the FIFO is full in test
//! mode alone. The service interrupt comes when serviceIntr is cleared in a FIFO mode without DMA while there is room
//! (forward) or data (reverse), and sets the bit again. DMA is not modelled.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::PortDevice;
use super::lpt::{Port, locked};
use crate::ports::Width;

/// Bytes that the FIFO has room for.
const FIFO_BYTES: usize = 16;
const ECR_SERVICE: u8 = 1 << 2;
const ECR_DMA: u8 = 1 << 3;
const ECR_WRITABLE: u8 = 0xFC;
const ECR_FULL: u8 = 1 << 1;
const ECR_EMPTY: u8 = 1 << 0;
const CNFG_A: u8 = 0x10;

const MODE_SPP: u8 = 0b000;
const MODE_FIFO: u8 = 0b010;
const MODE_ECP: u8 = 0b011;
const MODE_TEST: u8 = 0b110;
const MODE_CONFIGURATION: u8 = 0b111;

/// The registers' state.
#[derive(Debug)]
pub(super) struct Ecp {
    ecr: u8,
    fifo: VecDeque<u8>,
    cnfg_b: u8,
}

impl Ecp {
    pub(super) fn new(irq: Option<u32>) -> Self {
        // The standard's codes; others are "selected by jumpers".
        let code = match irq {
            Some(7) => 1,
            Some(9) => 2,
            Some(10) => 3,
            Some(11) => 4,
            Some(14) => 5,
            Some(15) => 6,
            Some(5) => 7,
            _ => 0,
        };
        Self {
            ecr: 0x14,
            fifo: VecDeque::with_capacity(FIFO_BYTES),
            cnfg_b: code << 3,
        }
    }

    fn mode(&self) -> u8 {
        self.ecr >> 5
    }

    pub(super) fn is_forward_only(&self) -> bool {
        matches!(self.mode(), MODE_SPP | MODE_FIFO)
    }

    /// Whether the data register is the ECP address FIFO.
    pub(super) fn takes_addresses(&self) -> bool {
        self.mode() == MODE_ECP
    }

    fn flags(&self) -> u8 {
        match self.fifo.len() {
            0 => ECR_EMPTY,
            FIFO_BYTES => ECR_FULL,
            _ => 0,
        }
    }
}

/// The extended range of a parallel port.
#[derive(Debug)]
pub(super) struct EcpPort {
    port: Arc<Mutex<Port>>,
}

impl EcpPort {
    pub(super) fn new(port: Arc<Mutex<Port>>) -> Self {
        Self { port }
    }
}

/// Fills the FIFO with what the peer sends.
fn fill(port: &mut Port) {
    let is_input = port.is_input();
    while is_input
        && port
            .ecp
            .as_ref()
            .is_some_and(|ecp| ecp.mode() == MODE_ECP && ecp.fifo.len() < FIFO_BYTES)
    {
        let Some(byte) = port.receive() else { return };
        if let Some(ecp) = &mut port.ecp {
            ecp.fifo.push_back(byte);
        }
    }
}

/// Interrupts if the FIFO wants service and the driver wants to know.
fn service(port: &mut Port) {
    let is_input = port.is_input();
    let Some(ecp) = &mut port.ecp else { return };
    let is_fifo = matches!(ecp.mode(), MODE_FIFO | MODE_ECP | MODE_TEST);
    let wants = if is_input {
        !ecp.fifo.is_empty()
    } else {
        ecp.fifo.len() < FIFO_BYTES
    };
    if is_fifo && wants && ecp.ecr & (ECR_SERVICE | ECR_DMA) == 0 {
        ecp.ecr |= ECR_SERVICE;
        if let Some(line) = &port.line {
            line.pulse();
        }
    }
}

fn read_register(port: &mut Port, offset: u16) -> u8 {
    fill(port);
    let Some(ecp) = &mut port.ecp else {
        return 0xFF;
    };
    match (offset, ecp.mode()) {
        (0, MODE_ECP | MODE_TEST) => ecp.fifo.pop_front().unwrap_or(0xFF),
        (0, MODE_CONFIGURATION) => CNFG_A,
        (1, MODE_CONFIGURATION) => ecp.cnfg_b,
        (2, _) => ecp.ecr & ECR_WRITABLE | ecp.flags(),
        _ => 0xFF,
    }
}

fn write_register(port: &mut Port, offset: u16, value: u8) {
    let is_input = port.is_input();
    let Some(ecp) = &mut port.ecp else { return };
    match (offset, ecp.mode()) {
        (0, MODE_FIFO) => port.send(value),
        (0, MODE_ECP) if !is_input => port.send(value),
        (0, MODE_TEST) if ecp.fifo.len() < FIFO_BYTES => ecp.fifo.push_back(value),
        (2, before) => {
            ecp.ecr = value & ECR_WRITABLE;
            if ecp.mode() != before {
                ecp.fifo.clear();
            }
            if ecp.is_forward_only() {
                port.turn_forward();
            }
            fill(port);
            service(port);
        }
        _ => {}
    }
}

impl PortDevice for EcpPort {
    fn read(&mut self, offset: u16, width: Width) -> u32 {
        let mut port = locked(&self.port);
        let mut value = [0; 4];
        for (byte, target) in (0..width.bytes()).zip(&mut value) {
            *target = read_register(&mut port, offset + byte);
        }
        u32::from_le_bytes(value)
    }

    fn write(&mut self, offset: u16, width: Width, value: u32) {
        let mut port = locked(&self.port);
        for (byte, source) in (0..width.bytes()).zip(value.to_le_bytes()) {
            write_register(&mut port, offset + byte, source);
        }
    }

    fn width_max(&self) -> Width {
        Width::Byte
    }

    fn describe(&self) -> String {
        "the parallel port's ECP registers".to_owned()
    }
}
