//! The commands for PnP devices.

use super::{Done, fields, status_fields};
use crate::observe::escape::escape;
use crate::observe::ntstatus::NtStatus;
use crate::session::device::{Device, PnpStep, PowerState};
use crate::session::driver::{DriverError, RunningDriver};
use serde_json::json;

/// What `pnp list` shows.
pub(super) fn list(driver: &mut dyn RunningDriver) -> Result<Done, DriverError> {
    let devices = driver.devices()?;
    let mut text = match devices.len() {
        0 => "no devices".to_owned(),
        1 => "1 device".to_owned(),
        count => format!("{count} devices"),
    };
    for device in &devices {
        describe(&mut text, device);
    }
    Ok(Done {
        status: NtStatus::SUCCESS,
        text,
        fields: fields(json!({"devices": devices})),
    })
}

fn describe(text: &mut String, device: &Device) {
    let power = device.power.as_deref().unwrap_or("power state unknown");
    text.push_str(&format!(
        "\n  {} (driver {}): {}, {}",
        escape(&device.instance),
        escape(&device.service),
        escape(&device.state),
        escape(power)
    ));
    let mut row = |name: &str, value: &str| {
        text.push_str(&format!("\n    {name:<16}{}", escape(value)));
    };
    row("description", &device.description);
    row("hardware ids", &device.hardware_ids.join(", "));
    row("compatible ids", &device.compatible_ids.join(", "));
    for entry in &device.stack {
        let name = if entry.name.is_empty() {
            "without a name"
        } else {
            &entry.name
        };
        row("device object", &format!("{} ({name})", entry.driver));
    }
    for resource in &device.resources {
        row("resource", resource);
    }
    for interface in &device.interfaces {
        let state = if interface.is_enabled {
            "enabled"
        } else {
            "disabled"
        };
        row("interface", &format!("{} ({state})", interface.name));
    }
}

/// What makes a command that names no device fail.
fn refused(text: &str) -> Done {
    let mut more = status_fields(NtStatus::NO_SUCH_DEVICE);
    more.insert("error".into(), text.into());
    Done {
        status: NtStatus::NO_SUCH_DEVICE,
        text: format!("{}: {text}", NtStatus::NO_SUCH_DEVICE),
        fields: more,
    }
}

/// The devices that a command means: the one that is named, or all.
fn find(
    driver: &mut dyn RunningDriver,
    name: Option<&str>,
) -> Result<Result<Vec<Device>, Done>, DriverError> {
    let devices = driver.devices()?;
    if devices.is_empty() {
        return Ok(Err(refused(
            "there is no PnP device: no driver has AddDevice",
        )));
    }
    let Some(name) = name else {
        return Ok(Ok(devices));
    };
    let there: Vec<&str> = devices
        .iter()
        .map(|device| device.instance.as_str())
        .collect();
    let there = escape(&there.join(", "));
    let found: Vec<Device> = devices
        .iter()
        .filter(|device| device.is_called(name))
        .cloned()
        .collect();
    Ok(match found.len() {
        0 => Err(refused(&format!(
            "no device is called {}; there is {there}",
            escape(name)
        ))),
        1 => Ok(found),
        _ => Err(refused(&format!(
            "several devices are called {}; there is {there}",
            escape(name)
        ))),
    })
}

/// The only device, or the one that is named.
fn find_one(
    driver: &mut dyn RunningDriver,
    name: Option<&str>,
) -> Result<Result<Device, Done>, DriverError> {
    let mut found = match find(driver, name)? {
        Ok(found) => found,
        Err(done) => return Ok(Err(done)),
    };
    if found.len() > 1 {
        let there: Vec<&str> = found.iter().map(|device| &*device.instance).collect();
        return Ok(Err(refused(&format!(
            "there are {} devices, name one: {}",
            there.len(),
            escape(&there.join(", "))
        ))));
    }
    Ok(found.pop().ok_or_else(|| refused("")))
}

/// What a step came to, with what became of the device.
fn done(
    driver: &mut dyn RunningDriver,
    status: NtStatus,
    number: u64,
    what: impl Fn(&Device) -> String,
) -> Result<Done, DriverError> {
    let devices = driver.devices()?;
    let mut more = status_fields(status);
    let mut text = if status.is_success() {
        status.to_string()
    } else {
        status.explained()
    };
    if let Some(device) = devices.iter().find(|device| device.number == number) {
        text.push_str(&format!(", {}", what(device)));
        more.insert("device".into(), escape(&device.instance).into());
        more.insert("state".into(), escape(&device.state).into());
        more.insert("power".into(), device.power.clone().into());
    }
    Ok(Done {
        status,
        text,
        fields: more,
    })
}

/// `pnp STEP`.
pub(super) fn step(
    driver: &mut dyn RunningDriver,
    step: PnpStep,
    name: Option<&str>,
) -> Result<Done, DriverError> {
    let device = match find_one(driver, name)? {
        Ok(device) => device,
        Err(done) => return Ok(done),
    };
    let status = driver.pnp(device.number, step)?;
    done(driver, status, device.number, |device| {
        format!("{} is {}", escape(&device.instance), escape(&device.state))
    })
}

/// `power STATE`. A system state without a device is for all: those made last are asked first, and wake last.
pub(super) fn power(
    driver: &mut dyn RunningDriver,
    state: PowerState,
    name: Option<&str>,
) -> Result<Done, DriverError> {
    let mut devices = match (state, name) {
        (PowerState::System(_), None) => match find(driver, None)? {
            Ok(devices) => devices,
            Err(done) => return Ok(done),
        },
        _ => match find_one(driver, name)? {
            Ok(device) => vec![device],
            Err(done) => return Ok(done),
        },
    };
    if !matches!(state, PowerState::System(0)) {
        devices.reverse();
    }
    let mut last = (NtStatus::SUCCESS, 0);
    for device in devices {
        last = (driver.power(device.number, state)?, device.number);
        if !last.0.is_success() {
            break;
        }
    }
    done(driver, last.0, last.1, |device| {
        let power = device.power.as_deref().unwrap_or("an unknown power state");
        format!("{} is in {}", escape(&device.instance), escape(power))
    })
}
