//! Telling the guest what the policy's PnP device is to be.

use abi::channel::Operation;

use super::image::DriverImage;
use super::interrupt::Interrupt;
use super::link::Call;
use super::machine::Machine;
use super::start::{Launch, StartError};
use crate::observe::ntstatus::NtStatus;
use crate::policy::device::Device;

/// The policy's device, and the driver whose it is.
pub(super) struct PreparedDevice {
    driver: String,
    device: Device,
    is_held: bool,
}

impl PreparedDevice {
    /// Finds the driver.
    ///
    /// # Errors
    /// [`StartError::NoDeviceDriver`]: it is not started.
    pub(super) fn new(launch: &Launch, images: &[DriverImage]) -> Result<Self, StartError> {
        let device = launch.policy.device().clone();
        let started = images.iter().filter(|image| image.is_started);
        let mut names = started.map(|image| image.name.as_str());
        let driver = match &device.driver {
            None => names.next_back().unwrap_or_default().to_owned(),
            Some(wanted) => {
                let stem = match wanted.rsplit_once('.') {
                    Some((stem, end)) if end.eq_ignore_ascii_case("sys") => stem,
                    _ => wanted,
                };
                names
                    .find(|name| name.eq_ignore_ascii_case(stem))
                    .ok_or_else(|| StartError::NoDeviceDriver(wanted.clone()))?
                    .to_owned()
            }
        };
        Ok(Self {
            driver,
            device,
            is_held: launch.is_pnp_held,
        })
    }

    fn is_for(&self, driver: &str) -> bool {
        driver == self.driver && !self.device.is_empty()
    }

    /// Before a driver is started: what its device is to be.
    ///
    /// # Errors
    /// [`StartError::Device`]: the guest refuses it; [`StartError::Driver`]: the guest is gone.
    pub(super) fn prepare(
        &self,
        machine: &Machine,
        driver: &str,
        interrupt: Option<Interrupt>,
    ) -> Result<(), StartError> {
        let begin = [u64::from(self.is_held), 0, 0, 0, 0, 0];
        call(
            machine,
            Call::new(Operation::PrepareDevice, 0, begin),
            interrupt,
        )?;
        if !self.is_for(driver) {
            return Ok(());
        }
        let Device {
            instance_id,
            description,
            hardware_ids,
            compatible_ids,
            resources,
            ..
        } = &self.device;
        let texts = (instance_id.iter().map(|text| (1, text)))
            .chain(description.iter().map(|text| (2, text)))
            .chain(hardware_ids.iter().map(|text| (3, text)))
            .chain(compatible_ids.iter().map(|text| (4, text)));
        for (what, text) in texts {
            let text: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
            let arguments = [what, 0, text.len() as u64, 0, 0, 0];
            let mut one = Call::new(Operation::DeviceText, 0, arguments);
            one.input = Some((1, text));
            call(machine, one, interrupt)?;
        }
        for resource in resources {
            let one = Call::new(Operation::AddResource, 0, resource.words());
            call(machine, one, interrupt)?;
        }
        Ok(())
    }

    /// After a driver was started: says so if it has not taken its device.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub(super) fn check(
        &self,
        machine: &Machine,
        driver: &str,
        interrupt: Option<Interrupt>,
    ) -> Result<(), StartError> {
        if !self.is_for(driver) {
            return Ok(());
        }
        let begin = [u64::from(self.is_held), 0, 0, 0, 0, 0];
        let left = call(
            machine,
            Call::new(Operation::PrepareDevice, 0, begin),
            interrupt,
        )?;
        if left != 0 {
            tracing::warn!(
                "the policy's [device] is not used: {driver} is no PnP driver (it has no AddDevice)"
            );
        }
        Ok(())
    }
}

fn call(machine: &Machine, call: Call, interrupt: Option<Interrupt>) -> Result<u64, StartError> {
    let done = machine
        .link
        .call_unless(call, interrupt)
        .map_err(StartError::Driver)?;
    let status = NtStatus(done.status);
    if !status.is_success() {
        return Err(StartError::Device(status));
    }
    Ok(done.value)
}
