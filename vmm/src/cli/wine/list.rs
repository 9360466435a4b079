//! `ringfence wine list`

use std::path::Path;

use serde_json::{Map, Value, json};

use super::super::output::{Closed, Output};
use super::configuration::{Configuration, Service, is_name};
use super::prefix::Prefix;
use super::state::{State, Status};
use super::{Failure, Where};

/// List the drivers that are installed in a Wine prefix, and those that programs have installed and that run
///
/// A service is starting, running, stopping, stopped or crashed: then its micro-VM has ended while Wine thinks that the service
/// runs. It has to be stopped and started (`wine sc stop NAME`, `wine sc start NAME`).
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
    // A closed standard output changes nothing.
    let _ = list(&configuration, &mut Output::new(arguments.json)).is_ok();
    Ok(())
}

fn list(configuration: &Configuration, output: &mut Output) -> Result<(), Closed> {
    let services = configuration.services();
    for service in &services {
        let status = status(configuration, &service.name);
        let (text, object) = installed(configuration, service, &status);
        output.result(&text, &object)?;
    }
    let is_intercepting = configuration.is_intercepting();
    let text = if is_intercepting {
        "intercept: on; drivers that programs install themselves run in micro-VMs"
    } else {
        "intercept: off"
    };
    output.result(text, &json!({"intercept": is_intercepting}))?;
    let is_installed = |name: &str| services.iter().any(|service| service.name == name);
    for name in configuration.known() {
        if !is_name(&name) || is_installed(&name) {
            continue;
        }
        let status = status(configuration, &name);
        if status.state != State::Stopped {
            let (text, object) = intercepted(configuration, &name, &status);
            output.result(&text, &object)?;
        }
    }
    Ok(())
}

fn status(configuration: &Configuration, name: &str) -> Status {
    Status::of(&configuration.state(name), &configuration.socket(name))
}

/// A state in words; of a crash, what is to be done.
fn shown(configuration: &Configuration, name: &str, status: &Status) -> String {
    let state = status.state.name();
    if status.state != State::Crashed {
        return state.to_owned();
    }
    let reason = status.reason.as_deref().unwrap_or("unknown");
    let log = configuration.log();
    format!(
        "{state} ({reason}; report in {}; start it again with `wine sc stop {name}` and `wine sc start {name}`)",
        log.display()
    )
}

fn allowed(policy: Option<&Path>) -> String {
    policy.map_or_else(|| "nothing".to_owned(), |path| path.display().to_string())
}

/// What both kinds have.
fn common(configuration: &Configuration, name: &str, status: &Status) -> Map<String, Value> {
    let object = json!({
        "state": status.state.name(),
        "running": status.state == State::Running,
        "reason": status.reason,
        "socket": configuration.socket(name),
        "log": configuration.log(),
    });
    match object {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

fn installed(
    configuration: &Configuration,
    service: &Service,
    status: &Status,
) -> (String, Map<String, Value>) {
    let name = &service.name;
    let options = service.options.shown();
    let options = if options.is_empty() {
        options
    } else {
        format!("; options: {options}")
    };
    let text = format!(
        "{name}: {}; allowed: {}{options}",
        shown(configuration, name, status),
        allowed(service.policy.as_deref())
    );
    let mut object = common(configuration, name, status);
    object.insert("name".to_owned(), json!(name));
    object.insert("driver".to_owned(), json!(service.driver));
    object.insert("policy".to_owned(), json!(service.policy));
    service.options.add_to(&mut object);
    (text, object)
}

/// A driver that a program has installed. It has no `name`, which is what `wine remove` takes.
fn intercepted(
    configuration: &Configuration,
    name: &str,
    status: &Status,
) -> (String, Map<String, Value>) {
    let driver = status.driver.as_deref().unwrap_or("unknown");
    let text = format!(
        "  intercepted {name}: {}; driver: {driver}; allowed: {}",
        shown(configuration, name, status),
        allowed(status.policy.as_deref().map(Path::new))
    );
    let mut object = common(configuration, name, status);
    object.insert("intercepted".to_owned(), json!(name));
    object.insert("driver".to_owned(), json!(status.driver));
    object.insert("policy".to_owned(), json!(status.policy));
    (text, object)
}
