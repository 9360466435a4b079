//! A running driver: requests, processes, commands.

pub mod command;
pub mod driver;
