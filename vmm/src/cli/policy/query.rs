//! An access to explain.

use super::number;
use crate::pci::PciRequest;
use crate::policy::{MemoryRequest, PciAddress, PciId, PciTarget, Policy, action_name};
use crate::ports::{Decision, DenialReason, PortRequest, Width};
use serde_json::{Value, json};

/// One access, by options.
#[derive(Debug, clap::Args)]
pub(super) struct Query {
    /// Explain an access to this port
    #[arg(long, value_parser = number, group = "place")]
    port: Option<u64>,
    /// Explain a mapping of physical memory at this address
    #[arg(long, value_parser = number, group = "place")]
    memory: Option<u64>,
    /// Explain an access to the configuration space of this PCI function: 0000:00:03.0 or 8086:100e
    #[arg(long, group = "place")]
    pci: Option<String>,
    /// Explain an access to this MSR
    #[arg(long, value_parser = number, group = "place")]
    msr: Option<u64>,
    /// The value written; without it, it is a read (for a mapping: a read-only one)
    #[arg(long, value_parser = number, requires = "place")]
    write: Option<u64>,
    /// Bytes of a port or PCI access: 1, 2 or 4
    #[arg(long, default_value_t = 1, requires = "place")]
    width: u8,
    /// Bytes of a mapping
    #[arg(long, value_parser = number, default_value = "4096", requires = "memory")]
    bytes: u64,
    /// What was written to the index port before, for the data port of an [[index-pair]]
    #[arg(long, value_parser = number, default_value = "0", requires = "port")]
    index: u64,
    /// First byte in PCI configuration space
    #[arg(long, value_parser = number, default_value = "0", requires = "pci")]
    register: u64,
}

/// An access to explain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Port {
        request: PortRequest,
        index: u8,
    },
    Memory(MemoryRequest),
    Pci {
        target: PciTarget,
        request: PciRequest,
    },
    Msr {
        number: u32,
        write: Option<u64>,
    },
}

impl Query {
    /// The access, if one was given.
    pub(super) fn access(&self) -> Result<Option<Access>, String> {
        let width = Width::from_bytes(self.width)
            .ok_or_else(|| format!("--width {}: an access has 1, 2 or 4 bytes", self.width))?;
        let value = || {
            self.write
                .map(|value| {
                    u32::try_from(value)
                        .ok()
                        .filter(|value| value & !width.mask() == 0)
                        .ok_or_else(|| {
                            format!(
                                "--write {value:#x} has more than --width {} byte(s)",
                                self.width
                            )
                        })
                })
                .transpose()
        };
        if let Some(port) = self.port {
            let port = u16::try_from(port).map_err(|_| "ports end at 0xffff".to_owned())?;
            let index =
                u8::try_from(self.index).map_err(|_| "an index has 8 bits: --index 0 to 0xff")?;
            let request = PortRequest {
                port,
                width,
                write: value()?,
            };
            return Ok(Some(Access::Port { request, index }));
        }
        if let Some(address) = self.memory {
            return Ok(Some(Access::Memory(MemoryRequest {
                address,
                bytes: self.bytes,
                is_write: self.write.is_some(),
            })));
        }
        if let Some(text) = &self.pci {
            let target = PciTarget {
                address: PciAddress::parse(text),
                id: PciId::parse(text),
            };
            if target.address.is_none() && target.id.is_none() {
                return Err(format!("--pci {text}: write 0000:00:03.0 or 8086:100e"));
            }
            let register = u16::try_from(self.register)
                .ok()
                .filter(|register| *register < 4096)
                .ok_or("configuration space ends at 0xfff")?;
            let request = PciRequest {
                address: target.address.unwrap_or(PciAddress {
                    segment: 0,
                    bus: 0,
                    device: 0,
                    function: 0,
                }),
                register,
                width,
                write: value()?,
            };
            return Ok(Some(Access::Pci { target, request }));
        }
        self.msr
            .map(|number| {
                let number = u32::try_from(number)
                    .map_err(|_| "MSR numbers end at 0xffffffff".to_owned())?;
                Ok(Access::Msr {
                    number,
                    write: self.write,
                })
            })
            .transpose()
    }
}

impl Access {
    /// What becomes of it: for people, and for programs.
    pub(super) fn explain(self, policy: &Policy) -> (String, Value) {
        match self {
            Self::Port { request, index } => {
                let text = policy.explain_port(&request, index);
                let object = object(&text, &policy.decide_port(&request, index));
                (text, object)
            }
            Self::Memory(request) => {
                let MemoryRequest {
                    address,
                    bytes,
                    is_write,
                } = request;
                let text = policy.explain_memory(address, bytes, is_write);
                let (is_allowed, line, reason) = policy.decide_memory(&request);
                let object =
                    json!({"allowed": is_allowed, "line": line, "reason": reason, "text": text});
                (text, object)
            }
            Self::Pci { target, request } => {
                let text = policy.explain_pci(&target, &request);
                let object = object(&text, &policy.decide_pci(&target, &request));
                (text, object)
            }
            Self::Msr { number, write } => {
                let text = policy.explain_msr(number, write);
                let object = object(&text, &policy.decide_msr(number, write));
                (text, object)
            }
        }
    }
}

fn object(text: &str, decision: &Decision) -> Value {
    json!({
        "allowed": decision.is_allowed(),
        "action": action_name(decision.action),
        "line": decision.origin.line(),
        "reason": decision.reason.map(DenialReason::text),
        "text": text,
    })
}
