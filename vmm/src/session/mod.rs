//! A running driver: requests, processes, commands.

pub mod command;
pub mod driver;
pub mod exit_code;
#[cfg(test)]
pub(crate) mod fake;
pub mod interpreter;
pub mod interrupt;
pub mod launch;
pub mod protocol;
pub mod server;
