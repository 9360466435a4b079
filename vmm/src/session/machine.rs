//! Handles on a running machine: [`Machine`] for whoever started it, a [`Process`] for each client.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use abi::channel::Operation;
use vmm_sys_util::eventfd::EventFd;

use super::client::waker::Postbox;
use super::client::{Attachment, Caller, handshake};
use super::device::{Device, PnpStep, PowerState};
use super::driver::{
    DriverError, Handle, IoResult, PortWidth, RunningDriver, RunningMachine, Stats,
};
use super::engine::{Done, Fate, Job, Message, Output, Reply};
use super::interrupt::Interrupt;
use crate::devices::RunningModel;
use crate::hardware::HostInterrupts;
use crate::machine::processor_share::held_back;
use crate::machine::{InterruptLine, InterruptLines, PortExit, Stopper};
use crate::observe::ntstatus::NtStatus;

/// Added to a request's time before its client gives up: the engine's own watchdog comes first.
const GRACE: Duration = Duration::from_secs(2);
/// How often a wait that a signal may end looks for one.
const SIGNAL_POLL: Duration = Duration::from_millis(50);
/// Process ids are multiples of eight; 4 is the System process. The other multiples of four are the shim's, for threads.
const FIRST_PROCESS: u32 = 0x100;
const PROCESS_STEP: u32 = 8;
/// FILE_GENERIC_READ | FILE_GENERIC_WRITE.
pub(super) const DESIRED_ACCESS: u64 = 0x0012_0089 | 0x0012_0116;

/// The most bytes of registry contents that are taken from a guest.
const REGISTRY_MAX: u64 = abi::doorbell::REGISTRY_MAX;
/// The most bytes of a device tree that are taken from a guest.
const DEVICES_MAX: u64 = 1 << 20;
/// STATUS_INSUFFICIENT_RESOURCES.
const STATUS_INSUFFICIENT_RESOURCES: u32 = 0xC000_009A;

/// Where new processes get their ids.
#[derive(Debug)]
pub(super) struct ProcessIds(AtomicU32);

impl Default for ProcessIds {
    fn default() -> Self {
        Self(AtomicU32::new(FIRST_PROCESS))
    }
}

impl ProcessIds {
    pub(super) fn next(&self) -> u32 {
        self.0.fetch_add(PROCESS_STEP, Ordering::Relaxed)
    }
}

/// What all handles on a machine share.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) sender: Mutex<Postbox<Message>>,
    pub(super) fate: Arc<Fate>,
    pub(super) timeout: Duration,
    pub(super) next_request: AtomicU64,
    next_client: AtomicU64,
    driver_abi: abi::DriverAbi,
    /// Ids of the drivers that are started, in their order.
    drivers: Mutex<Vec<u64>>,
    pub(super) stopper: Stopper,
}

/// A request before it has an id and a way back.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) operation: Operation,
    pub(super) process: u32,
    pub(super) arguments: [u64; 6],
    pub(super) input: Option<(usize, Vec<u8>)>,
    pub(super) output: Option<(usize, u64)>,
}

impl Call {
    pub(super) fn new(operation: Operation, process: u32, arguments: [u64; 6]) -> Self {
        Self {
            operation,
            process,
            arguments,
            input: None,
            output: None,
        }
    }
}

impl Link {
    pub(super) fn new(
        sender: Postbox<Message>,
        fate: Arc<Fate>,
        timeout: Duration,
        stopper: Stopper,
        driver_abi: abi::DriverAbi,
    ) -> Self {
        Self {
            sender: Mutex::new(sender),
            fate,
            timeout,
            next_request: AtomicU64::new(1),
            next_client: AtomicU64::new(1),
            driver_abi,
            drivers: Mutex::default(),
            stopper,
        }
    }

    /// A driver was started.
    pub(super) fn started(&self, driver: u64) {
        self.drivers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(driver);
    }

    pub(super) fn send(&self, message: Message) -> Result<(), DriverError> {
        self.sender
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .send(message)
            .map_err(|_| self.fate.error())
    }

    fn submit(
        &self,
        call: Call,
    ) -> Result<(u64, Receiver<Result<Done, DriverError>>), DriverError> {
        let (reply, answer) = channel();
        let id = self.next_request.fetch_add(1, Ordering::Relaxed);
        let Call {
            operation,
            process,
            arguments,
            input,
            output,
        } = call;
        self.send(Message::Request(Job {
            id,
            operation,
            process,
            arguments,
            input,
            output: output.map(|(argument, bytes)| Output {
                argument,
                bytes,
                contents: None,
            }),
            reply: Reply::Waiter(reply),
        }))?;
        Ok((id, answer))
    }

    /// Makes a request and waits for its completion. One that stays pending for too long is cancelled, as an
    /// application would (CancelIo); a driver that does not complete it even then has timed out.
    pub(super) fn call(&self, call: Call) -> Result<Done, DriverError> {
        self.call_unless(call, None)
    }

    /// As [`Self::call`]; a signal ends the wait, and the machine.
    pub(super) fn call_unless(
        &self,
        call: Call,
        interrupt: Option<Interrupt>,
    ) -> Result<Done, DriverError> {
        let process = call.process;
        let (id, answer) = self.submit(call)?;
        let (asked, held_before) = (Instant::now(), held_back());
        loop {
            // While the guest is held back (`--cpu`) it cannot answer.
            let held = held_back().saturating_sub(held_before);
            let patience = self.timeout.saturating_add(GRACE).saturating_add(held);
            let left = patience.saturating_sub(asked.elapsed());
            let slice = if interrupt.is_some() {
                left.min(SIGNAL_POLL)
            } else {
                left
            };
            match answer.recv_timeout(slice) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Disconnected) => return Err(self.fate.error()),
                Err(RecvTimeoutError::Timeout) if interrupt.is_some_and(Interrupt::is_set) => {
                    return Err(DriverError::Gone("interrupted by a signal".to_owned()));
                }
                Err(RecvTimeoutError::Timeout) if left.is_zero() => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        let cancel = Call::new(Operation::Cancel, process, [id, 0, 0, 0, 0, 0]);
        // Its own completion only says that it was delivered; what counts is the request's.
        let _cancelled = self.submit(cancel)?;
        match answer.recv_timeout(GRACE) {
            Ok(result) => result,
            Err(RecvTimeoutError::Disconnected) => Err(self.fate.error()),
            Err(RecvTimeoutError::Timeout) => {
                let (reply, report) = channel();
                self.send(Message::Diagnose(reply))?;
                let report = report.recv().map_err(|_| self.fate.error())?;
                Err(DriverError::TimedOut(report))
            }
        }
    }

    /// As [`Self::call`], with a failure status as an error.
    pub(super) fn call_checked(&self, call: Call) -> Result<Done, DriverError> {
        let done = self.call(call)?;
        if is_error(done.status) {
            return Err(DriverError::Status(NtStatus(done.status)));
        }
        Ok(done)
    }
}

/// NT_ERROR: the two highest bits are set.
const fn is_error(status: u32) -> bool {
    status >> 30 == 3
}

/// Where the registry goes at the end.
#[derive(Debug, Default)]
pub(super) struct RegistryOutput {
    path: Option<PathBuf>,
    failure: Option<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running machine. Dropping it stops the guest.
#[derive(Debug)]
pub struct Machine {
    pub(super) link: Arc<Link>,
    pub(super) engine: Mutex<Option<JoinHandle<()>>>,
    pub(super) registry: Mutex<RegistryOutput>,
    pub(super) interrupts: InterruptLines,
    /// Threads that hand the machine's interrupts on, while it runs.
    pub(super) host_interrupts: Mutex<Option<HostInterrupts>>,
}

impl Machine {
    /// Device models that failed so far: what they could not write is lost.
    #[must_use]
    pub fn failed_devices(&self) -> Vec<String> {
        self.link
            .fate
            .failed_devices
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// An interrupt line of the guest, for whoever models or passes through a device; `None` if there is none of that
    /// number.
    #[must_use]
    pub fn interrupt_line(&self, number: u32) -> Option<InterruptLine> {
        self.interrupts.line(number)
    }

    /// Asks for the counters; the answer comes when the guest lets the engine take messages.
    pub(crate) fn ask_stats(&self) -> Result<Receiver<Result<Stats, DriverError>>, DriverError> {
        let (reply, answer) = channel();
        self.link.send(Message::Stats(reply))?;
        Ok(answer)
    }

    /// Makes a process for a new client.
    ///
    /// # Errors
    /// As for [`RunningMachine::connect`].
    pub fn process(&self) -> Result<Process, DriverError> {
        let id = self.link.fate.process_ids.next();
        self.link
            .call_checked(Call::new(Operation::CreateProcess, id, [0; 6]))?;
        Ok(Process {
            link: Arc::clone(&self.link),
            id,
        })
    }
}

impl Machine {
    /// What of the guest's registry is to be kept, encoded ([`crate::registry::save`] takes it).
    ///
    /// # Errors
    /// When the guest does not answer, or answers with more than a registry has.
    pub fn registry(&self) -> Result<Vec<u8>, DriverError> {
        let size = self
            .link
            .call_checked(Call::new(Operation::SaveRegistry, 0, [0; 6]))?
            .value;
        // The guest's number: its registry has a quota well below this.
        if size > REGISTRY_MAX {
            return Err(DriverError::Status(NtStatus(STATUS_INSUFFICIENT_RESOURCES)));
        }
        let mut call = Call::new(Operation::SaveRegistry, 0, [0, size, 0, 0, 0, 0]);
        call.output = Some((0, size));
        Ok(self.link.call_checked(call)?.output)
    }

    /// Has the registry written to a file when the machine is shut down, unless the guest is gone by then.
    pub fn save_registry_to(&self, path: &Path) {
        lock(&self.registry).path = Some(path.to_path_buf());
    }

    /// Why the registry could not be written.
    #[must_use]
    pub fn registry_failure(&self) -> Option<String> {
        lock(&self.registry).failure.clone()
    }

    /// The first who shuts the machine down writes the registry.
    fn save_registry(&self) {
        let Some(path) = lock(&self.registry).path.take() else {
            return;
        };
        if self.stopped().is_some() {
            tracing::warn!("the registry is not saved: the guest is gone");
            return;
        }
        let saved = self
            .registry()
            .map_err(|error| format!("cannot read the registry back: {error}"))
            .and_then(|contents| {
                crate::registry::save(&path, &contents).map_err(|error| crate::error_chain(&error))
            });
        lock(&self.registry).failure = saved.err();
    }
}

impl RunningMachine for Machine {
    fn connect(&self) -> Result<Box<dyn RunningDriver>, DriverError> {
        Ok(Box::new(self.process()?))
    }

    fn attach(&self, caller: &Caller) -> Result<Box<dyn Attachment>, DriverError> {
        let process = self.process()?;
        let made = handshake::make(
            &caller.hello,
            &caller.socket,
            process.id,
            self.link.driver_abi,
        );
        let (end, theirs) = made.map_err(|status| DriverError::Status(NtStatus(status)))?;
        let id = self.link.next_client.fetch_add(1, Ordering::Relaxed);
        self.link.send(Message::Attach(id, Box::new(end)))?;
        let attached = AttachedClient { id, process };
        handshake::welcome(&caller.socket, &theirs)
            .map_err(|error| DriverError::Gone(format!("the client is gone: {error}")))?;
        Ok(Box::new(attached))
    }

    fn notify_stop(&self, event: EventFd) {
        // Locked before it looks: a death that it does not see yet is announced to it.
        let watchers = self.link.fate.watchers.lock();
        let mut watchers = watchers.unwrap_or_else(PoisonError::into_inner);
        if self.link.fate.death.get().is_some() {
            // A watcher that is gone needs no news.
            let _ = event.write(1).is_ok();
        }
        watchers.push(event);
    }

    fn stopped(&self) -> Option<DriverError> {
        self.link.fate.death.get().map(super::engine::Death::error)
    }

    fn shutdown(&self) {
        self.save_registry();
        // An engine that is gone is shut down; one that runs the guest is interrupted.
        let _ = self.link.send(Message::Shutdown).is_ok();
        self.link.stopper.stop();
        let engine = self
            .engine
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        // They have nobody to interrupt any more.
        drop(
            self.host_interrupts
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        if let Some(engine) = engine {
            // A panic of the engine has been printed by then.
            let _ = engine.join().is_ok();
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// One client: a process of the guest, with its own handles and IOPM.
#[derive(Debug)]
pub struct Process {
    link: Arc<Link>,
    id: u32,
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
        let done = self.link.call(call)?;
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
struct AttachedClient {
    id: u64,
    /// Dropped after the client is detached: then its requests are cancelled and its handles closed.
    process: Process,
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
        self.link.call_checked(call).map(|done| Handle(done.value))
    }

    fn close(&mut self, handle: Handle) -> Result<(), DriverError> {
        self.link
            .call_checked(self.call(Operation::Close, [handle.0, 0, 0, 0, 0, 0]))?;
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
        let (mut leaks, mut waits) = (0, false);
        for (index, driver) in drivers.iter().enumerate().rev() {
            let arguments = [*driver, 0, 0, 0, 0, 0];
            let call = Call::new(Operation::UnloadDriver, self.id, arguments);
            let done = self.link.call(call)?;
            // A device that cannot be removed: STATUS_DEVICE_BUSY is a warning.
            if !NtStatus(done.status).is_success() {
                // It and those below it may be unloaded later.
                let left = drivers.get(..=index).unwrap_or_default();
                lock(&self.link.drivers).clone_from(&left.to_vec());
                return Err(DriverError::Status(NtStatus(done.status)));
            }
            if done.status == STATUS_PENDING {
                waits = true;
            } else {
                leaks += done.value;
            }
        }
        if waits {
            return Err(DriverError::Status(NtStatus(STATUS_PENDING)));
        }
        Ok(leaks)
    }
}

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

    #[test]
    fn warnings_are_not_errors() {
        assert!(is_error(0xC000_0001));
        assert!(!is_error(0x8000_0005));
        assert!(!is_error(0x0000_0103));
    }
}
