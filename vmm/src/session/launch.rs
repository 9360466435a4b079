//! The seam between the command line and what starts a machine.

use super::driver::{DriverError, RunningMachine};
use super::interrupt::Interrupt;
use crate::observe::output::TraceOutput;
use crate::policy::Policy;
use abi::Privilege;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What to start.
#[derive(Debug)]
pub struct LaunchOptions {
    /// The driver's file.
    pub driver: PathBuf,
    /// What it may touch.
    pub policy: Policy,
    /// The privilege mode; `None` picks the one that suits this KVM.
    pub privilege: Option<Privilege>,
    /// Guest RAM, in bytes.
    pub memory_bytes: u64,
    /// How long the guest may run without answering.
    pub timeout: Duration,
    /// Where the trace goes, if there is one.
    pub trace: Option<TraceOutput>,
    /// Whether the trace is JSON.
    pub json: bool,
    /// Set when the user wants the run to end, also before it has begun.
    pub interrupt: Interrupt,
}

/// Why a driver does not run.
#[derive(Debug, thiserror::Error, displaydoc::Display)]
pub enum LaunchError {
    /// the image was rejected: {0}
    ImageRejected(String),
    /// KVM cannot be used: {0}
    KvmUnavailable(String),
    /// the driver did not start
    Driver(DriverError),
    /// {0}
    Other(String),
}

/// Starts machines.
pub trait Launcher {
    /// Loads the driver into a guest of its own and calls its DriverEntry. Returns when that has returned STATUS_SUCCESS.
    ///
    /// # Errors
    /// See [`LaunchError`]; a DriverEntry that fails is [`DriverError::Status`].
    fn launch(&self, options: LaunchOptions) -> Result<Arc<dyn RunningMachine>, LaunchError>;
}
