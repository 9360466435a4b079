//! Services of a prefix, by the service manager itself: a registry file of a running prefix is not to be edited.

use super::Failure;
use super::configuration::{Configuration, GROUP, HOST};
use super::prefix::Prefix;

/// What Wine loads for the host.
const HOST_IMAGE: &str = r"C:\windows\ringfence\ringfence.sys";

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

/// Stops and deletes a service.
pub(super) fn delete(prefix: &Prefix, name: &str) -> Result<(), Failure> {
    // A service that does not run cannot be stopped, which is as well.
    let _ = prefix.run(&["sc", "stop", name]).is_ok();
    let deleted = prefix.run(&["sc", "delete", name]);
    // One that somebody has deleted already is gone.
    if let Err(failure) = deleted
        && prefix.run(&["sc", "query", name]).is_ok()
    {
        return Err(failure);
    }
    Ok(())
}
