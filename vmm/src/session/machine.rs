//! A running machine, for whoever started it.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use abi::channel::Operation;
use vmm_sys_util::eventfd::EventFd;

use super::client::{Attachment, Caller, handshake};
use super::driver::{DriverError, RunningDriver, RunningMachine, Stats};
use super::engine::Message;
use super::hangup::Hangup;
use super::link::{Call, Link};
use super::process::{AttachedClient, Process};
use crate::hardware::HostInterrupts;
use crate::machine::{InterruptLine, InterruptLines};
use crate::observe::ntstatus::NtStatus;

/// The most bytes of registry contents that are taken from a guest.
const REGISTRY_MAX: u64 = abi::doorbell::REGISTRY_MAX;
/// STATUS_INSUFFICIENT_RESOURCES.
const STATUS_INSUFFICIENT_RESOURCES: u32 = 0xC000_009A;

/// Where the registry goes at the end.
#[derive(Debug, Default)]
pub(super) struct RegistryOutput {
    path: Option<PathBuf>,
    failure: Option<String>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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
            client: Hangup::default(),
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
