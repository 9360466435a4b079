//! One client of a machine: a process of its guest.

use std::sync::mpsc::channel;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use abi::channel::Operation;

use super::client::Attachment;
use super::device::{Device, PnpStep, PowerState};
use super::driver::{DriverError, Handle, IoResult, PortWidth, RunningDriver, Stats};
use super::engine::Message;
use super::hangup::Hangup;
use super::link::{Call, Link, checked, is_error};
use super::machine::lock;
use crate::devices::RunningModel;
use crate::machine::PortExit;
use crate::observe::ntstatus::NtStatus;

/// FILE_GENERIC_READ | FILE_GENERIC_WRITE.
pub(super) const DESIRED_ACCESS: u64 = 0x0012_0089 | 0x0012_0116;
/// The most bytes of a device tree that are taken from a guest.
const DEVICES_MAX: u64 = 1 << 20;
/// STATUS_INSUFFICIENT_RESOURCES.
const STATUS_INSUFFICIENT_RESOURCES: u32 = 0xC000_009A;

/// One client: a process of the guest, with its own handles and IOPM.
#[derive(Debug)]
pub struct Process {
    pub(super) link: Arc<Link>,
    pub(super) id: u32,
    pub(super) client: Hangup,
}

impl Process {
    /// Its id in the guest (PsGetCurrentProcessId).
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// A port access decided by the VMM's mirror of the IOPMs, without entering the guest.
    ///
    /// # Errors
    /// As for [`RunningDriver::port_in`].
    pub fn port_by_mirror(
        &self,
        port: u16,
        width: PortWidth,
        write: Option<u32>,
    ) -> Result<u32, DriverError> {
        let (reply, answer) = channel();
        let access = PortExit {
            port,
            width: width.bytes(),
            write,
            rip: 0,
            element: 0,
        };
        self.link.send(Message::MirrorPort {
            process: self.id,
            access,
            reply,
        })?;
        answer.recv().map_err(|_| self.link.fate.error())?
    }

    fn call(&self, operation: Operation, arguments: [u64; 6]) -> Call {
        Call::new(operation, self.id, arguments)
    }

    fn transfer(&self, call: Call) -> Result<IoResult, DriverError> {
        let done = self.link.call_for(call, &self.client)?;
        Ok(IoResult {
            status: NtStatus(done.status),
            information: done.information,
            output: if is_error(done.status) {
                Vec::new()
            } else {
                done.output
            },
            elapsed: done.elapsed,
        })
    }
}

/// A client of the channel.
pub(super) struct AttachedClient {
    pub(super) id: u64,
    /// Dropped after the client is detached: then its requests are cancelled and its handles closed.
    pub(super) process: Process,
}

impl Attachment for AttachedClient {}

impl Drop for AttachedClient {
    fn drop(&mut self) {
        // A machine that is gone has no clients.
        let _ = self.process.link.send(Message::Detach(self.id)).is_ok();
    }
}

/// `\\.\NAME` is `\??\NAME` for NT; `\\?\` likewise. Other paths are NT's own.
fn nt_path(path: &str) -> String {
    path.strip_prefix(r"\\.\")
        .or_else(|| path.strip_prefix(r"\\?\"))
        .map_or_else(|| path.to_owned(), |name| format!(r"\??\{name}"))
}

impl RunningDriver for Process {
    fn watch(&mut self, client: &Hangup) {
        self.client = client.clone();
    }

    fn open(&mut self, path: &str) -> Result<Handle, DriverError> {
        let name: Vec<u8> = nt_path(path)
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        let mut call = self.call(
            Operation::Open,
            [0, name.len() as u64, DESIRED_ACCESS, 0, 0, 0],
        );
        call.input = Some((0, name));
        let done = checked(self.link.call_for(call, &self.client)?)?;
        Ok(Handle(done.value))
    }

    fn close(&mut self, handle: Handle) -> Result<(), DriverError> {
        let call = self.call(Operation::Close, [handle.0, 0, 0, 0, 0, 0]);
        checked(self.link.call_for(call, &self.client)?)?;
        Ok(())
    }

    fn ioctl(
        &mut self,
        handle: Handle,
        code: u32,
        input: &[u8],
        output_bytes: u32,
    ) -> Result<IoResult, DriverError> {
        let arguments = [
            handle.0,
            u64::from(code),
            0,
            input.len() as u64,
            0,
            u64::from(output_bytes),
        ];
        let mut call = self.call(Operation::DeviceControl, arguments);
        call.input = Some((2, input.to_vec()));
        call.output = Some((4, u64::from(output_bytes)));
        self.transfer(call)
    }

    fn read(
        &mut self,
        handle: Handle,
        bytes: u32,
        offset: Option<u64>,
    ) -> Result<IoResult, DriverError> {
        let arguments = [handle.0, 0, u64::from(bytes), offset.unwrap_or(0), 0, 0];
        let mut call = self.call(Operation::Read, arguments);
        call.output = Some((1, u64::from(bytes)));
        self.transfer(call)
    }

    fn write(
        &mut self,
        handle: Handle,
        data: &[u8],
        offset: Option<u64>,
    ) -> Result<IoResult, DriverError> {
        let arguments = [handle.0, 0, data.len() as u64, offset.unwrap_or(0), 0, 0];
        let mut call = self.call(Operation::Write, arguments);
        call.input = Some((1, data.to_vec()));
        self.transfer(call)
    }

    fn port_in(&mut self, port: u16, width: PortWidth) -> Result<u32, DriverError> {
        let arguments = [u64::from(port), u64::from(width.bytes()), 0, 0, 0, 0];
        let done = self
            .link
            .call_checked(self.call(Operation::PortIn, arguments))?;
        Ok(u32::try_from(done.value).unwrap_or(u32::MAX) & width.max())
    }

    fn port_out(&mut self, port: u16, width: PortWidth, value: u32) -> Result<(), DriverError> {
        let arguments = [
            u64::from(port),
            u64::from(width.bytes()),
            u64::from(value),
            0,
            0,
            0,
        ];
        self.link
            .call_checked(self.call(Operation::PortOut, arguments))?;
        Ok(())
    }

    fn stats(&mut self) -> Result<Stats, DriverError> {
        let (reply, answer) = channel();
        self.link.send(Message::Stats(reply))?;
        answer.recv().map_err(|_| self.link.fate.error())?
    }

    fn devices(&mut self) -> Result<Vec<Device>, DriverError> {
        let ask = self.call(Operation::ListDevices, [0; 6]);
        let size = self.link.call_checked(ask)?.value;
        if size == 0 {
            return Ok(Vec::new());
        }
        // The guest's number.
        if size > DEVICES_MAX {
            return Err(DriverError::Status(NtStatus(STATUS_INSUFFICIENT_RESOURCES)));
        }
        let mut call = self.call(Operation::ListDevices, [0, size, 0, 0, 0, 0]);
        call.output = Some((0, size));
        super::device::parse_tree(&self.link.call_checked(call)?.output)
    }

    fn pnp(&mut self, device: u64, step: PnpStep) -> Result<NtStatus, DriverError> {
        let arguments = [device, step.number(), 0, 0, 0, 0];
        let done = self.link.call(self.call(Operation::Pnp, arguments))?;
        Ok(NtStatus(done.status))
    }

    fn power(&mut self, device: u64, state: PowerState) -> Result<NtStatus, DriverError> {
        let (kind, value) = state.numbers();
        let arguments = [device, kind, value, 0, 0, 0];
        let done = self.link.call(self.call(Operation::Power, arguments))?;
        Ok(NtStatus(done.status))
    }

    fn models(&mut self) -> Result<Vec<RunningModel>, DriverError> {
        if self.link.fate.death.get().is_some() {
            return Err(self.link.fate.error());
        }
        Ok(self.link.fate.models().clone())
    }

    fn unload(&mut self) -> Result<u64, DriverError> {
        let drivers = {
            let mut drivers = self
                .link
                .drivers
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            // The last stays known: another `unload` is told by the guest that there is nothing left.
            let first = drivers.first().copied();
            std::mem::replace(&mut *drivers, first.into_iter().collect())
        };
        let (mut leaks, mut unloaded, mut missing) = (0, 0, None);
        for (index, driver) in drivers.iter().enumerate().rev() {
            let done = self.link.call(unload_call(*driver))?;
            let status = NtStatus(done.status);
            match done.status {
                STATUS_PENDING => lock(&self.link.waiting).push(*driver),
                // Another driver has unloaded it (ZwUnloadDriver).
                STATUS_INVALID_PARAMETER => missing = Some(status),
                // A device that cannot be removed: STATUS_DEVICE_BUSY is a warning.
                _ if !status.is_success() => {
                    // It and those below it may be unloaded later.
                    let left = drivers.get(..=index).unwrap_or_default();
                    lock(&self.link.drivers).clone_from(&left.to_vec());
                    return Err(DriverError::Status(status));
                }
                _ => {
                    unloaded += 1;
                    leaks += done.value;
                }
            }
        }
        if !lock(&self.link.waiting).is_empty() {
            await_unload(&self.link);
            return Err(DriverError::Status(NtStatus(STATUS_PENDING)));
        }
        self.link.fate.announce();
        match missing {
            Some(status) if unloaded == 0 => Err(DriverError::Status(status)),
            _ => Ok(leaks),
        }
    }
}

fn unload_call(driver: u64) -> Call {
    Call::new(Operation::UnloadDriver, 0, [driver, 0, 0, 0, 0, 0])
}

/// Announces the end when the drivers are gone whose DriverUnload waits for a file to be closed. The guest does not say when
/// that is: it is asked now and then.
fn await_unload(link: &Arc<Link>) {
    let link = Arc::clone(link);
    let started = std::thread::Builder::new()
        .name("unload".to_owned())
        .stack_size(64 << 10)
        .spawn(move || {
            loop {
                std::thread::sleep(UNLOAD_POLL);
                let waiting = lock(&link.waiting).clone();
                // Another thread has seen it; or a guest that is gone.
                let Some(driver) = waiting.last() else { return };
                let Ok(done) = link.call(unload_call(*driver)) else {
                    return;
                };
                if done.status != STATUS_INVALID_PARAMETER {
                    continue;
                }
                let mut waiting = lock(&link.waiting);
                waiting.retain(|known| known != driver);
                if waiting.is_empty() {
                    link.fate.announce();
                    return;
                }
            }
        });
    if let Err(error) = started {
        tracing::error!("the run will not end by itself when its driver is unloaded: {error}");
    }
}

/// How often it is looked whether a driver that waits for a file to be closed is gone.
const UNLOAD_POLL: Duration = Duration::from_millis(100);
/// What UnloadDriver answers for a driver that is not there.
const STATUS_INVALID_PARAMETER: u32 = 0xC000_000D;
/// What UnloadDriver answers for a driver with open files.
const STATUS_PENDING: u32 = 0x0000_0103;

impl Drop for Process {
    fn drop(&mut self) {
        // Nobody waits: the engine closes the process's handles when it gets there, and a machine that is gone
        // has no processes.
        let _ = self
            .link
            .submit(self.call(Operation::ExitProcess, [0; 6]))
            .is_ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn win32_device_paths_become_nt_paths() {
        assert_eq!(nt_path(r"\\.\giveio"), r"\??\giveio");
        assert_eq!(nt_path(r"\\?\giveio"), r"\??\giveio");
        assert_eq!(nt_path(r"\Device\giveio"), r"\Device\giveio");
    }
}
