//! What a policy's port rules need at start.

use std::sync::Arc;

use super::host::{HostPorts, HostPortsError, Passthrough};
use super::index_pair::PairSlot;
use crate::devices::external::{ExternalError, ModelRange};
use crate::devices::{
    Adc12, External, Gameport, Lpt, OutputError, Pio8255, Pit, PortDevice, Ram, Rtc, Uart,
};
use crate::hardware::Ppdev;
use crate::machine::{Bus, BusMemory, InterruptLine};
use crate::pci::{ConfigMechanism, PciBackend, PciSpace, PciStartError};
use crate::policy::{DeviceSpec, ExternalSpec, IndexPairBackend, Policy, PortBackend, PortRule};

/// The ways to the machine that are not this module's own.
#[derive(Debug, Default)]
pub struct Backends {
    /// The machine's PCI functions, for `[[pci]]` rules with `passthrough`.
    pub pci: Option<Box<dyn PciBackend>>,
    /// The guest's lines and memory, for device models.
    pub bus: Bus,
}

/// A port rule's back end that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A device model's output.
    #[error("{file}:{line}: backend \"{backend}\" cannot start")]
    Output {
        /// The policy.
        file: String,
        /// The rule's line.
        line: usize,
        /// The model.
        backend: &'static str,
        /// Why.
        source: OutputError,
    },
    /// A model that is a process of its own.
    #[error("{file}:{line}: backend \"external\" cannot start")]
    External {
        /// The policy.
        file: String,
        /// The rule's line.
        line: usize,
        /// Why.
        source: ExternalError,
    },
    /// The machine's ports.
    #[error("{file}:{line}: backend \"passthrough\" cannot start")]
    HostPorts {
        /// The policy.
        file: String,
        /// The first `passthrough` rule's line.
        line: usize,
        /// Why.
        source: HostPortsError,
    },
    /// A parallel port of the kernel's.
    #[error("{file}:{line}: backend \"ppdev\" cannot start")]
    Ppdev {
        /// The policy.
        file: String,
        /// The rule's line.
        line: usize,
        /// Why.
        source: std::io::Error,
    },
    /// PCI functions.
    #[error(transparent)]
    Pci(#[from] PciStartError),
}

/// The machine's ports, if a rule passes some through.
pub(super) fn open_host(policy: &Policy) -> Result<Option<Arc<HostPorts>>, StartError> {
    let rules = policy
        .port_rules()
        .iter()
        .filter(|rule| rule.backend == PortBackend::Passthrough)
        .map(|rule| (rule.line, (rule.host_first, rule.host_last())));
    let pairs = policy
        .index_pairs()
        .iter()
        .filter_map(|pair| match pair.backend {
            IndexPairBackend::Passthrough { index, data } => {
                Some([index, data].map(|port| (pair.place.line, (port, port))))
            }
            IndexPairBackend::Ram { .. } => None,
        })
        .flatten();
    let (lines, ranges): (Vec<usize>, Vec<(u16, u16)>) = rules.chain(pairs).unzip();
    let Some(line) = lines.first() else {
        return Ok(None);
    };
    HostPorts::open(&ranges)
        .map(|host| Some(Arc::new(host)))
        .map_err(|source| StartError::HostPorts {
            file: policy.file().to_owned(),
            line: *line,
            source,
        })
}

/// The index/data pairs.
pub(super) fn open_pairs(policy: &Policy, host: Option<&Arc<HostPorts>>) -> Vec<PairSlot> {
    policy
        .index_pairs()
        .iter()
        // The machine's ports were opened if any pair needs them.
        .filter_map(|pair| PairSlot::new(pair.clone(), host))
        .collect()
}

/// What answers at ports 0xCF8-0xCFF, if the policy has rules for PCI functions.
pub(super) fn open_mechanism(
    policy: &Policy,
    backend: Option<Box<dyn PciBackend>>,
    bus: &Bus,
) -> Result<Option<ConfigMechanism>, StartError> {
    if policy.pci_rules().is_empty() {
        return Ok(None);
    }
    let space = PciSpace::with_bus(policy, backend, bus)?;
    Ok(Some(ConfigMechanism::new(space)))
}

/// All rules' back ends, in the rules' order.
pub(super) fn open_devices(
    policy: &Policy,
    host: Option<&Arc<HostPorts>>,
    bus: &Bus,
) -> Result<Vec<Option<Box<dyn PortDevice>>>, StartError> {
    let mut second = None;
    let rules = policy.port_rules().iter();
    rules
        .map(|rule| {
            let device = open_device(policy, rule, host, bus, &mut second)?;
            if let Some(device) = &device {
                second = device.second();
            }
            Ok(device)
        })
        .collect()
}

/// `second` is that of the device of the rule before.
fn open_device(
    policy: &Policy,
    rule: &PortRule,
    host: Option<&Arc<HostPorts>>,
    bus: &Bus,
    second: &mut Option<Box<dyn PortDevice>>,
) -> Result<Option<Box<dyn PortDevice>>, StartError> {
    Ok(match (&rule.backend, host) {
        (PortBackend::Deny, _) | (PortBackend::Passthrough, None) => None,
        (PortBackend::Passthrough, Some(host)) => Some(Box::new(Passthrough::new(
            Arc::clone(host),
            rule.host_first,
            rule.host_last(),
        ))),
        (PortBackend::Second(_), _) => second.take(),
        (backend, _) => {
            let place = ModelPlace {
                file: policy.file(),
                line: rule.line,
                range: ModelRange::ports(rule.first, rule.port_count()),
            };
            let line = |irq: Option<u32>| irq.and_then(|irq| bus.lines.line(irq));
            open_model(backend, &place, line, &bus.memory)?
        }
    })
}

/// Where a model is: in the policy, and in the guest.
#[derive(Debug)]
pub(crate) struct ModelPlace<'a> {
    /// The policy.
    pub(crate) file: &'a str,
    /// The rule's line.
    pub(crate) line: usize,
    /// Its ports or memory.
    pub(crate) range: ModelRange,
}

/// Opens a device model; `None` if the back end is none. `interrupt` has the line for the model's own `irq`,
/// `memory` is for one that may be a bus master.
pub(crate) fn open_model(
    backend: &PortBackend,
    place: &ModelPlace<'_>,
    interrupt: impl Fn(Option<u32>) -> Option<InterruptLine>,
    memory: &BusMemory,
) -> Result<Option<Box<dyn PortDevice>>, StartError> {
    let failed = |source| StartError::Output {
        file: place.file.to_owned(),
        line: place.line,
        backend: backend.name(),
        source,
    };
    Ok(match backend {
        PortBackend::Deny | PortBackend::Passthrough | PortBackend::Second(_) => None,
        PortBackend::Lpt(spec) => Some(Box::new(
            Lpt::open(spec, interrupt(spec.irq)).map_err(failed)?,
        )),
        PortBackend::Device(spec) => Some(match &**spec {
            DeviceSpec::Uart(spec) => {
                Box::new(Uart::open(spec, interrupt(spec.irq)).map_err(failed)?)
            }
            DeviceSpec::Adc(spec) => {
                Box::new(Adc12::open(spec, interrupt(spec.irq)).map_err(failed)?)
            }
            DeviceSpec::External(spec) => Box::new(open_external(spec, place, interrupt, memory)?),
            DeviceSpec::Ppdev {
                device,
                is_exclusive,
            } => Box::new(Ppdev::open(device, *is_exclusive).map_err(|source| {
                StartError::Ppdev {
                    file: place.file.to_owned(),
                    line: place.line,
                    source,
                }
            })?),
            DeviceSpec::Rtc(spec) => {
                Box::new(Rtc::open(spec, interrupt(spec.irq)).map_err(failed)?)
            }
            DeviceSpec::Pit { irq, .. } => {
                let pit = Pit::open(interrupt(*irq)).map_err(|source| OutputError {
                    path: "pit".to_owned(),
                    source,
                });
                Box::new(pit.map_err(failed)?)
            }
            DeviceSpec::Gameport { axes, buttons } => Box::new(Gameport::new(*axes, *buttons)),
            DeviceSpec::Pio { inputs, is_looped } => Box::new(Pio8255::new(*inputs, *is_looped)),
        }),
        PortBackend::Ram { initial, fill } => {
            let bytes = usize::try_from(place.range.bytes).unwrap_or(0);
            Some(Box::new(Ram::new(bytes, initial, *fill)))
        }
    })
}

/// Opens an external model, which may have ports or memory, as [`open_model`].
pub(crate) fn open_external(
    spec: &ExternalSpec,
    place: &ModelPlace<'_>,
    interrupt: impl Fn(Option<u32>) -> Option<InterruptLine>,
    memory: &BusMemory,
) -> Result<External, StartError> {
    let memory = spec.has_dma.then(|| memory.clone());
    External::with_memory(spec, place.range, interrupt(spec.irq), memory).map_err(|source| {
        StartError::External {
            file: place.file.to_owned(),
            line: place.line,
            source,
        }
    })
}
