//! `ringfence wine list`

use std::os::unix::net::UnixStream;

use serde_json::json;

use super::super::output::Output;
use super::configuration::Configuration;
use super::prefix::Prefix;
use super::{Failure, Where};

/// List the drivers that are installed in a Wine prefix
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Where,
}

pub(super) fn main(arguments: &Arguments) -> Result<(), Failure> {
    let prefix = Prefix::find(&arguments.place)?;
    let configuration = Configuration::of(&prefix);
    let mut output = Output::new(arguments.json);
    for service in configuration.services() {
        let socket = configuration.socket(&service.name);
        let is_running = UnixStream::connect(&socket).is_ok();
        let state = if is_running { "running" } else { "stopped" };
        let policy = service
            .policy
            .as_ref()
            .map_or_else(|| "nothing".to_owned(), |path| path.display().to_string());
        let text = format!("{}: {state}; allowed: {policy}", service.name);
        let object = json!({
            "name": service.name,
            "running": is_running,
            "driver": service.driver,
            "policy": service.policy,
            "socket": socket,
            "log": configuration.log(),
        });
        if output.result(&text, &object).is_err() {
            return Ok(());
        }
    }
    let is_intercepting = configuration.is_intercepting();
    let text = if is_intercepting {
        "intercept: on; drivers that programs install themselves run in micro-VMs"
    } else {
        "intercept: off"
    };
    // A closed standard output changes nothing.
    let _ = output
        .result(text, &json!({"intercept": is_intercepting}))
        .is_ok();
    Ok(())
}
