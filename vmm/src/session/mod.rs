//! A running driver: requests, processes, commands.
//!
//! | module | what |
//! |---|---|
//! | `start` | from a driver's file and a policy to a running machine |
//! | `engine` | the thread that owns the guest |
//! | `machine`, `process`, `link` | the handles that other threads hold on it |
//! | `channel`, `client_memory` | requests in shared memory, and their buffers |
//! | `client` | the channel that programs talk to the driver by |
//! | `responder` | answers exits: policy, devices, trace |
//! | `function_window` | memory of modelled PCI functions, where the guest has it |
//! | `host_memory` | the policy's memory for the guest, the guest's for devices |
//! | `driver` | the seam to whoever drives a driver |
//! | `stats` | counters of a run |
//! | `device` | the device tree, plug and play, power |
//! | `command` | the grammar of session commands |
//! | `interpreter` | executes commands and says what came of them |
//! | `server`, `admission`, `protocol` | the control socket |
//! | `access` | who may use it |
//! | `hangup` | giving up what a text client wanted that is gone |
//! | `interrupt` | SIGINT and SIGTERM |
//! | `privileges` | giving them up before the guest runs |

pub mod access;
mod admission;
mod channel;
pub mod client;
mod client_memory;
pub mod command;
pub mod device;
pub mod driver;
mod engine;
pub mod exit_code;
#[cfg(test)]
pub(crate) mod fake;
mod function_window;
pub mod hangup;
mod host_memory;
mod image;
pub mod interpreter;
pub mod interrupt;
mod link;
mod machine;
mod prepared_device;
mod privileges;
mod process;
pub mod protocol;
mod responder;
pub mod server;
mod start;
mod stats;

pub use image::read_driver;
pub use machine::Machine;
pub use privileges::Confinement;
pub use process::Process;
pub use start::{
    Launch, StartError, import_status, service_name, start, start_confined, start_unless,
};
