//! What modelled functions need at the start.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use vm_memory::{MmapRegion, VolatileMemory};

use super::{Behind, PciDevice, PciStartError};
use crate::devices::external::ModelRange;
use crate::devices::{Mapped, Ram};
use crate::machine::{Bus, BusMemory, InterruptLine, InterruptPin};
use crate::policy::{BarKind, DeviceSpec, PciBar, PciId, PciModel, Policy, PortBackend};
use crate::ports::{ModelPlace, open_external, open_model};

/// A modelled function with what is behind its BARs.
pub(super) fn open(
    policy: &Policy,
    id: PciId,
    model: &PciModel,
    bus: &Bus,
) -> Result<PciDevice, PciStartError> {
    let line = model.interrupt.and_then(|pin| bus.lines.line(pin.line));
    let pin = line.map(InterruptPin::new);
    let is_master = Arc::new(AtomicBool::new(false));
    let memory = bus.memory.of_function(Arc::clone(&is_master));
    let parts = (0..).zip(&model.bars);
    let behind = parts.map(|(part, bar)| {
        let interrupt = pin.as_ref().map(|pin| pin.part(part));
        open_bar(policy, bar, interrupt.as_ref(), &memory)
    });
    let behind = behind.collect::<Result<_, _>>()?;
    Ok(PciDevice::new(id, model, behind, pin, is_master))
}

fn open_bar(
    policy: &Policy,
    bar: &PciBar,
    interrupt: Option<&InterruptLine>,
    memory: &BusMemory,
) -> Result<Behind, PciStartError> {
    let is_port = bar.kind == BarKind::Port;
    let failed = |error| PciStartError::Device(Box::new(error));
    if let (PortBackend::Ram { initial, fill }, false, true) = (
        &bar.backend,
        is_port,
        bar.size.is_multiple_of(abi::layout::PAGE_SIZE),
    ) {
        return open_ram(policy, bar, initial, *fill);
    }
    let place = ModelPlace {
        file: policy.file(),
        line: bar.place.line,
        range: ModelRange {
            first: bar.base.unwrap_or(0),
            bytes: bar.size,
            is_memory: !is_port,
        },
    };
    let line = |_| interrupt.cloned();
    if let (PortBackend::Device(spec), false) = (&bar.backend, is_port)
        && let DeviceSpec::External(spec) = &**spec
    {
        let device = open_external(spec, &place, line, memory).map_err(failed)?;
        return Ok(Behind::Memory(Box::new(device)));
    }
    let device = open_model(&bar.backend, &place, line, memory).map_err(failed)?;
    // The parser lets nothing through that is no model.
    let device = device.unwrap_or_else(|| Box::new(Ram::new(0, &[], 0)));
    let registers = match &bar.backend {
        PortBackend::Ram { .. } => bar.size,
        PortBackend::Device(spec) if matches!(**spec, DeviceSpec::External(_)) => bar.size,
        backend => backend.registers().0,
    };
    Ok(if is_port {
        Behind::Ports(device, registers)
    } else {
        let registers = u32::try_from(registers).unwrap_or(u32::MAX);
        Behind::Memory(Box::new(Mapped::new(device, registers)))
    })
}

fn open_ram(
    policy: &Policy,
    bar: &PciBar,
    initial: &[u8],
    fill: u8,
) -> Result<Behind, PciStartError> {
    let no_memory = |reason: String| PciStartError::NoMemory {
        file: policy.file().to_owned(),
        line: bar.place.line,
        bytes: bar.size,
        reason,
    };
    let size = usize::try_from(bar.size).map_err(|error| no_memory(error.to_string()))?;
    let region: MmapRegion = MmapRegion::new(size).map_err(|error| no_memory(error.to_string()))?;
    let mut contents = initial.to_vec();
    if fill != 0 {
        contents.resize(size, fill);
    }
    region.as_volatile_slice().copy_from(&contents);
    Ok(Behind::Ram(region))
}
