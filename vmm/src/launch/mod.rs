//! How a run is started, found, kept running and ended: the launch command around one driver.
//!
//! | module | what |
//! |---|---|
//! | `presence` | a run as others see it: its name, socket, log, readiness |
//! | `directory`, `entry`, `registration`, `name`, `lock` | the run directory, and a run's place in it |
//! | `process` | processes by number and start time |
//! | `log_file` | the run's log |
//! | `notify`, `activation`, `watchdog` | systemd's protocols |
//! | `detach` | `--detach` |
//! | `supervisor`, `restart` | `--restart` |
//! | `memory` | `--max-memory` |
//! | `again` | this program once more, in another role |

pub mod activation;
mod again;
mod detach;
pub mod directory;
pub mod entry;
mod lock;
mod log_file;
pub mod memory;
pub mod name;
mod notify;
mod presence;
pub mod process;
pub mod registration;
pub mod restart;
mod supervisor;
mod watchdog;

pub use log_file::{LogWriter, to_standard_error};
pub use presence::{Begun, LaunchError, Presence, Wish, begin};

/// Tells whoever started this process that the driver is being stopped.
pub(crate) fn stopping() {
    notify::stopping();
}
