//! Services of a prefix, by the service manager itself: a registry file of a running prefix is not to be edited.

use std::time::{Duration, Instant};

use super::Failure;
use super::configuration::{Configuration, GROUP, HOST};
use super::prefix::Prefix;

/// What Wine loads for the host.
const HOST_IMAGE: &str = r"C:\windows\ringfence\ringfence.sys";

/// SERVICE_STOPPED.
const STOPPED: u32 = 1;
/// What `sc` says of a service that is not there: ERROR_SERVICE_DOES_NOT_EXIST.
const NO_SUCH_SERVICE: &str = "failed to open service 1060";
/// How long a service may take to stop: a micro-VM that does not end is killed after three times 5 s.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(300);

/// When Wine starts a service.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum Start {
    Auto,
    Demand,
}

/// Makes a service that is loaded from the prefix's copy of ringfence.sys for it, and the host if it is the first.
pub(super) fn create(
    prefix: &Prefix,
    configuration: &Configuration,
    name: &str,
    start: Start,
) -> Result<(), Failure> {
    // With the first service comes the host. To ask costs a program of Wine's.
    if is_alone(configuration, name) && !has_host(prefix) {
        create_kernel_service(prefix, HOST, HOST_IMAGE, Start::Auto)?;
        // At the latest it starts with the next session.
        let _ = prefix.run(&["sc", "start", HOST]).is_ok();
    }
    let image = format!(r"C:\windows\ringfence\services\{name}.sys");
    create_kernel_service(prefix, name, &image, start)
}

fn create_kernel_service(
    prefix: &Prefix,
    name: &str,
    image: &str,
    start: Start,
) -> Result<(), Failure> {
    let start = match start {
        Start::Auto => "auto",
        Start::Demand => "demand",
    };
    prefix.run_native(
        "sc",
        &[
            "create", name, "binPath=", image, "type=", "kernel", "start=", start, "group=", GROUP,
        ],
    )?;
    Ok(())
}

/// Whether no other service is installed.
fn is_alone(configuration: &Configuration, name: &str) -> bool {
    let services = configuration.services();
    services.iter().all(|service| service.name == name)
}

/// Whether the host is there; a service of that name that is not ours does not count.
fn has_host(prefix: &Prefix) -> bool {
    let key = format!(r"HKLM\System\CurrentControlSet\Services\{HOST}");
    prefix
        .run(&["reg", "query", &key, "/v", "ImagePath"])
        .is_ok_and(|text| text.contains(HOST_IMAGE))
}

/// Takes a service's files away, with the last of them the host, and everything else.
pub(super) fn forget(
    prefix: &Prefix,
    configuration: &Configuration,
    name: &str,
) -> Result<(), Failure> {
    if is_alone(configuration, name) && has_host(prefix) {
        delete(prefix, HOST)?;
    }
    configuration.forget_service(name)
}

/// Stops and deletes a service. One that does not stop stays as it is.
pub(super) fn delete(prefix: &Prefix, name: &str) -> Result<(), Failure> {
    stop(prefix, name)?;
    let deleted = prefix.run(&["sc", "delete", name]);
    // One that somebody has deleted already is gone.
    if let Err(failure) = deleted
        && state(prefix, name)?.is_some()
    {
        return Err(failure);
    }
    Ok(())
}

fn stop(prefix: &Prefix, name: &str) -> Result<(), Failure> {
    // A service that does not run cannot be stopped, which is as well; whether it runs is asked next.
    let _ = prefix.run(&["sc", "stop", name]).is_ok();
    let began = Instant::now();
    loop {
        match state(prefix, name)? {
            None | Some(STOPPED) => return Ok(()),
            Some(state) if began.elapsed() >= STOP_PATIENCE => {
                return Err(Failure::failed(format!(
                    "{name} does not stop (state {state}), so nothing of it is removed; end the prefix's programs with `WINEPREFIX={} wineserver -k`, and try again",
                    prefix.path().display()
                )));
            }
            Some(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// A service's state, as Windows numbers them; `None`: there is no such service.
fn state(prefix: &Prefix, name: &str) -> Result<Option<u32>, Failure> {
    match prefix.run(&["sc", "query", name]) {
        Ok(text) => state_in(&text).map(Some).ok_or_else(|| {
            Failure::failed(format!(
                "`sc query {name}` does not say whether it runs: {}",
                crate::observe::escape::escape(&text)
            ))
        }),
        Err(failure) if failure.message.contains(NO_SUCH_SERVICE) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// The number in the line `STATE : 4 RUNNING` of what `sc query` prints.
fn state_in(text: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let value = line.trim().strip_prefix("STATE")?.trim_start();
        value
            .strip_prefix(':')?
            .split_ascii_whitespace()
            .next()?
            .parse()
            .ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_found_in_what_sc_prints() {
        let text = "SERVICE_NAME: STATE\n        TYPE               : 1  \n        STATE              : 3  STOP_PENDING\n        WIN32_EXIT_CODE    : 0  (0x0)\n";
        assert_eq!(state_in(text), Some(3));
        assert_eq!(state_in("SERVICE_NAME: x\nSTATE: RUNNING\n"), None);
    }
}
