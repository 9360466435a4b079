//! `ringfence wine remove`

use super::configuration::{Configuration, is_name};
use super::lock::Lock;
use super::prefix::Prefix;
use super::{Failure, Where, say, service};
use crate::observe::escape::escape;

/// Remove a driver from a Wine prefix
///
/// Its service is stopped and deleted, its files are removed; with the last one goes everything else of Ringfence's in the
/// prefix, the log too.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The service's name; `ringfence wine list` shows them
    name: String,
    #[command(flatten)]
    place: Where,
}

pub(super) fn main(arguments: &Arguments) -> Result<(), Failure> {
    let prefix = Prefix::find(&arguments.place)?;
    let configuration = Configuration::of(&prefix);
    let _lock = Lock::of(&prefix)?;
    let name = &arguments.name;
    if !is_name(name) || configuration.service(name).is_none() {
        return Err(Failure::usage(format!(
            "{} is not installed in {}; `ringfence wine list` shows what is",
            escape(name),
            prefix.path().display()
        )));
    }
    service::delete(&prefix, name)?;
    service::forget(&prefix, &configuration, name)?;
    say(&format!("{name}: removed from {}", prefix.path().display()));
    Ok(())
}
