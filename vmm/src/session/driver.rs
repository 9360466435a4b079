//! A running driver as a client sees it: the seam between what drives a driver (commands, sockets) and the
//! machine that runs it.

use super::client::{Attachment, Caller};
use super::device::{Device, PnpStep, PowerState};
use super::hangup::Hangup;
pub use super::stats::{RuleStats, Stats};
use crate::devices::RunningModel;
use crate::observe::crash::CrashReport;
use crate::observe::ntstatus::NtStatus;
use std::time::Duration;
use vmm_sys_util::eventfd::EventFd;

/// A handle of the guest's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle(pub u64);

/// Width of a port access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PortWidth {
    /// 1 byte.
    Byte,
    /// 2 bytes.
    Word,
    /// 4 bytes.
    Dword,
}

impl PortWidth {
    /// Bytes.
    #[must_use]
    pub const fn bytes(self) -> u8 {
        match self {
            Self::Byte => 1,
            Self::Word => 2,
            Self::Dword => 4,
        }
    }

    /// Largest value of that width.
    #[must_use]
    pub const fn max(self) -> u32 {
        match self {
            Self::Byte => 0xFF,
            Self::Word => 0xFFFF,
            Self::Dword => u32::MAX,
        }
    }
}

/// The outcome of a request that the driver completed, successfully or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoResult {
    /// IO_STATUS_BLOCK.Status.
    pub status: NtStatus,
    /// IO_STATUS_BLOCK.Information. The driver's own number: it may exceed the buffer.
    pub information: u64,
    /// What the driver put into the output buffer: never more than was asked for.
    pub output: Vec<u8>,
    /// From the request to its completion.
    pub elapsed: Duration,
}

/// Why a driver did not do what was asked.
#[derive(Debug, thiserror::Error, displaydoc::Display)]
pub enum DriverError {
    /// {0}
    Status(NtStatus),
    /// the driver crashed
    Crashed(Box<CrashReport>),
    /// the driver did not answer in time
    TimedOut(Box<CrashReport>),
    /// the driver is not running any more: {0}
    Gone(String),
}

/// A process of the guest that talks to the driver: one client connection.
///
/// Its handles are its own, and so is its IOPM. Dropping it ends the process, which closes its handles.
pub trait RunningDriver: Send {
    /// Says whose process it is. When the client has gone, opening, closing and transfers return at once with
    /// [`DriverError::Gone`]; what is under way is cancelled when this is dropped.
    fn watch(&mut self, client: &Hangup);
    /// Opens a device: a Win32 path (`\\.\giveio`) or an NT path (`\Device\giveio`, `\??\giveio`), UTF-8.
    ///
    /// # Errors
    /// The NTSTATUS of the open, or the machine's end.
    fn open(&mut self, path: &str) -> Result<Handle, DriverError>;
    /// Closes a handle.
    ///
    /// # Errors
    /// As for [`RunningDriver::open`].
    fn close(&mut self, handle: Handle) -> Result<(), DriverError>;
    /// IRP_MJ_DEVICE_CONTROL with an output buffer of `output_bytes`.
    ///
    /// # Errors
    /// The machine's end, or an NTSTATUS for a request that reached no driver. What the driver says, also a
    /// failure, is in the result.
    fn ioctl(
        &mut self,
        handle: Handle,
        code: u32,
        input: &[u8],
        output_bytes: u32,
    ) -> Result<IoResult, DriverError>;
    /// IRP_MJ_READ of `bytes` at `offset` (0 when `None`).
    ///
    /// # Errors
    /// As for [`RunningDriver::ioctl`].
    fn read(
        &mut self,
        handle: Handle,
        bytes: u32,
        offset: Option<u64>,
    ) -> Result<IoResult, DriverError>;
    /// IRP_MJ_WRITE at `offset` (0 when `None`).
    ///
    /// # Errors
    /// As for [`RunningDriver::ioctl`].
    fn write(
        &mut self,
        handle: Handle,
        data: &[u8],
        offset: Option<u64>,
    ) -> Result<IoResult, DriverError>;
    /// `in` by the process at CPL 3, under its IOPM.
    ///
    /// # Errors
    /// STATUS_PRIVILEGED_INSTRUCTION when the IOPM denies the port, or the machine's end.
    fn port_in(&mut self, port: u16, width: PortWidth) -> Result<u32, DriverError>;
    /// `out` by the process at CPL 3, under its IOPM.
    ///
    /// # Errors
    /// As for [`RunningDriver::port_in`].
    fn port_out(&mut self, port: u16, width: PortWidth, value: u32) -> Result<(), DriverError>;
    /// Counters of the whole machine.
    ///
    /// # Errors
    /// The machine's end.
    fn stats(&mut self) -> Result<Stats, DriverError>;
    /// The PnP devices that there are.
    ///
    /// # Errors
    /// The machine's end.
    fn devices(&mut self) -> Result<Vec<Device>, DriverError>;
    /// Does a step of plug and play with the device of that number; what it came to, also a failure.
    ///
    /// # Errors
    /// The machine's end.
    fn pnp(&mut self, device: u64, step: PnpStep) -> Result<NtStatus, DriverError>;
    /// Sends the stack of the device of that number a power state; what it came to, also a failure.
    ///
    /// # Errors
    /// The machine's end.
    fn power(&mut self, device: u64, state: PowerState) -> Result<NtStatus, DriverError>;
    /// The device models that the policy has.
    ///
    /// # Errors
    /// The machine's end.
    fn models(&mut self) -> Result<Vec<RunningModel>, DriverError>;
    /// Calls DriverUnload of each driver, the last started first; returns what they leaked (objects and pool blocks). When all
    /// are gone, those are told who wait for the machine's end ([`RunningMachine::notify_stop`]).
    ///
    /// # Errors
    /// STATUS_INVALID_DEVICE_REQUEST when one has no DriverUnload, what the driver answered when its device cannot be
    /// removed, STATUS_PENDING when files are open (it is called when
    /// the last is closed), or the machine's end.
    fn unload(&mut self) -> Result<u64, DriverError>;
}

/// A machine that runs a driver.
pub trait RunningMachine: Send + Sync {
    /// Makes a process for a new client.
    ///
    /// # Errors
    /// The machine's end, or an NTSTATUS when the guest has no room for another process.
    fn connect(&self) -> Result<Box<dyn RunningDriver>, DriverError>;
    /// Makes a process and a channel for a new client, and sends the client its end.
    ///
    /// # Errors
    /// As for [`RunningMachine::connect`], or an NTSTATUS that says what is wrong with what the client wants.
    fn attach(&self, caller: &Caller) -> Result<Box<dyn Attachment>, DriverError>;
    /// Asks for `event` to be written when the machine stops by itself, or has no driver any more: all were unloaded.
    fn notify_stop(&self, event: EventFd);
    /// Why the machine stopped by itself; `None` while it runs or after [`RunningMachine::shutdown`].
    fn stopped(&self) -> Option<DriverError>;
    /// Stops the guest. Calls that wait for it return [`DriverError::Gone`]. May be called from any thread, and again.
    fn shutdown(&self);
}
