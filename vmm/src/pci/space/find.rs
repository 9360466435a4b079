//! Which functions a rule is about, and what stands behind them.

use super::open::open;
use super::{Device, PciStartError};
use crate::machine::Bus;
use crate::pci::PciBackend;
use crate::pci::model::Model;
use crate::policy::{PciAddress, PciBackendKind, PciId, PciRule, Policy};

/// The functions that a rule is about.
pub(super) fn find(
    policy: &Policy,
    rule: &PciRule,
    host: &mut Option<Box<dyn PciBackend>>,
    present: &mut Option<Vec<(PciAddress, PciId)>>,
    bus: &Bus,
) -> Result<Vec<(PciAddress, Device)>, PciStartError> {
    let (file, line, target) = (policy.file().to_owned(), rule.place.line, rule.target);
    match (&rule.backend, rule.target.address, host) {
        (PciBackendKind::Model(model), address, _) => {
            // The parser wants both of a model.
            let id = target.id.unwrap_or(PciId {
                vendor: 0xFFFF,
                device: 0xFFFF,
            });
            let Some(address) = address else {
                return Ok(Vec::new());
            };
            let device = if model.is_device() {
                Device::Device(Box::new(open(policy, id, model, bus)?))
            } else {
                Device::Model(Model::new(id, &model.initial))
            };
            Ok(vec![(address, device)])
        }
        (PciBackendKind::Deny, Some(address), _) => Ok(vec![(address, Device::Nothing)]),
        // Where there is no machine's function there is nothing to deny.
        (PciBackendKind::Deny, None, None) => Ok(Vec::new()),
        (PciBackendKind::Passthrough, _, None) => Err(PciStartError::NoBackend { file, line }),
        (PciBackendKind::Deny | PciBackendKind::Passthrough, _, Some(host)) => {
            let failed = |source| PciStartError::Backend {
                file: file.clone(),
                line,
                target,
                source,
            };
            let present = match present {
                Some(present) => present,
                None => present.insert(host.functions().map_err(failed)?),
            };
            let found: Vec<PciAddress> = present
                .iter()
                .filter(|(address, id)| target.is_about(*address, *id))
                .map(|(address, _)| *address)
                .collect();
            if rule.backend == PciBackendKind::Deny {
                return Ok(found
                    .into_iter()
                    .map(|address| (address, Device::Nothing))
                    .collect());
            }
            if found.is_empty() {
                return Err(PciStartError::NotFound { file, line, target });
            }
            let is_writing = rule
                .registers
                .iter()
                .map(|register| register.access)
                .chain([rule.access])
                .flatten()
                .any(crate::policy::AccessMode::allows_write);
            if rule.may_master_the_bus() {
                for address in &found {
                    host.check_bus_mastering(*address).map_err(|source| {
                        PciStartError::BusMaster {
                            file: file.clone(),
                            line: rule.bus_master_line(),
                            address: *address,
                            source,
                        }
                    })?;
                }
            }
            for address in &found {
                host.attach(*address, is_writing).map_err(failed)?;
            }
            Ok(found
                .into_iter()
                .map(|address| (address, Device::Host))
                .collect())
        }
    }
}
