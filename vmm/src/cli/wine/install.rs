//! `ringfence wine install`

use std::path::PathBuf;

use super::configuration::{self, Configuration, Service, is_name};
use super::lock::Lock;
use super::options::{Options, whole};
use super::prefix::Prefix;
use super::service::{self, Start};
use super::{Failure, Where, say};
use crate::cli::driver_options::{Limits, Surroundings};
use crate::error_chain;
use crate::loader::Image;
use crate::observe::escape::escape;
use crate::policy::device_help;
use crate::session::exit_code::ExitCode;
use crate::session::read_driver;

/// Install a driver in a Wine prefix, as a service that runs in a micro-VM
///
/// Programs open the driver's devices as on Windows. The micro-VM runs while the service does; stop and start it with
/// `wine sc stop NAME` and `wine sc start NAME`. Drivers of 32 and of 64 bits go into any prefix.
/// Options that `ringfence run` has too are given to it at each start; files that they name stay where they are.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ringfence wine install giveio.sys --policy lpt.toml
  ringfence wine install adc.sys --registry adc.reg --device adc12:base=0x300 --memory 32M
  ringfence wine install --prefix ~/.wine-lab --name hasp --start demand haspnt.sys")]
pub(super) struct Arguments {
    /// The driver's file (.sys); it is copied
    driver: PathBuf,
    /// The service's name [default: the file's, without .sys]
    #[arg(long)]
    name: Option<String>,
    /// What the driver may touch; the file stays where it is, and is read at each start [default: nothing]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// When Wine starts it: with each session, or when a program or `wine sc start` asks for it
    #[arg(long, value_enum, default_value_t = Start::Auto)]
    start: Start,
    #[command(flatten)]
    surroundings: Surroundings,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    place: Where,
}

/// The options that the service keeps, as far as they can be checked without a start. `name`: the service's, which the
/// registry contents are for.
fn options(arguments: &Arguments, name: &str) -> Result<Options, Failure> {
    let (surroundings, limits) = (&arguments.surroundings, &arguments.limits);
    limits.check(surroundings.memory).map_err(Failure::usage)?;
    let policy = arguments.policy.as_deref();
    surroundings
        .check(&arguments.driver, policy, name)
        .map_err(Failure::usage)?;
    Options::of(surroundings, limits)
}

pub(super) fn main(arguments: &Arguments) -> Result<(), Failure> {
    if arguments.surroundings.asks_for_help() {
        say(&device_help());
        return Ok(());
    }
    let stem = arguments
        .driver
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default();
    let name = arguments.name.as_deref().unwrap_or(stem);
    if !is_name(name) {
        return Err(Failure::usage(format!(
            "`{}` cannot be the service's name: it is 1 to 200 letters, digits, dots, dashes and underscores, and not ringfence; give --name",
            escape(name)
        )));
    }
    let prefix = Prefix::find(&arguments.place)?;
    let shown = escape(&arguments.driver.display().to_string());
    let bytes = read_driver(&arguments.driver)
        .map_err(|error| Failure::usage(escape(&error_chain(&error))))?;
    Image::parse(&bytes).map_err(|error| Failure {
        code: ExitCode::ImageRejected,
        message: format!("{shown} is rejected: {}", escape(&error_chain(&error))),
    })?;
    let options = options(arguments, name)?;
    let policy = arguments.policy.as_deref().map(whole);
    let configuration = Configuration::of(&prefix);
    let _lock = Lock::of(&prefix)?;
    let longest = configuration.longest_name(&prefix);
    if name.len() > longest {
        return Err(Failure::usage(format!(
            "`{name}` cannot be the service's name: in this prefix it has at most {longest} bytes, because its socket's path, which it is part of, has at most 107; give a shorter --name"
        )));
    }
    let service = Service {
        name: name.to_owned(),
        driver: configuration.driver(name),
        policy: policy.transpose()?,
        options,
    };
    if configuration.service(name).is_some() {
        return Err(Failure::usage(format!(
            "{name} is installed already: `ringfence wine remove {name}` first, or give another --name"
        )));
    }
    let installed = install(&prefix, &configuration, &service, &bytes, arguments.start);
    if installed.is_err() {
        // What was made is taken away again; the first error is the one to tell.
        let _ = service::forget(&prefix, &configuration, name).is_ok();
    }
    installed?;
    let policy = service
        .policy
        .map_or_else(|| "nothing".to_owned(), |path| path.display().to_string());
    say(&format!(
        "{name}: installed in {}; allowed: {policy}; log: {}",
        prefix.path().display(),
        configuration.log().display()
    ));
    Ok(())
}

fn install(
    prefix: &Prefix,
    configuration: &Configuration,
    service: &Service,
    driver: &[u8],
    start: Start,
) -> Result<(), Failure> {
    configuration.write_common(prefix, None)?;
    configuration::write(&service.driver, driver)?;
    configuration.write_service(prefix, service)?;
    service::create(prefix, configuration, &service.name, start)
}
