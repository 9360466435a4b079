//! `--restart`: a process that starts the driver's process, waits for its end, and starts it again.
//!
//! It keeps what the driver's process gives up before the guest runs: the privileges, with which the next one opens what
//! the policy names anew. In turn nothing that a driver or a client says reaches it: it waits for signals, for the end of a
//! process, and for the words READY and WATCHDOG of that process. The listening socket is its own too. Clients that connect
//! between two starts wait in the socket's queue until the next process takes them; but when that is long ahead, they are
//! accepted here, and told when it will be. All that is read of them is their first byte.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::again::Again;
use super::detach;
use super::entry::Entry;
use super::notify::{self, Listener};
use super::process::{self, ProcessId};
use super::registration::State;
use super::restart::{BackOff, End, RestartPolicy};
use crate::session::exit_code::ExitCode;
use crate::session::interrupt::Interrupt;
use crate::session::server::Server;

const SIGNAL: u64 = 0;
const ENDED: u64 = 1;
const SAID: u64 = 2;
const CLIENT: u64 = 3;

/// When the next start is no further ahead than this, clients wait for it; before, they are turned away.
const CLIENTS_WAIT: Duration = Duration::from_secs(2);

struct Supervisor<'a> {
    again: Again,
    // Before the entry, so that its file is gone when the entry looks what is left in its folder.
    listener: Listener,
    entry: Entry,
    server: &'a Server,
    interrupt: Interrupt,
    epoll: Epoll,
    is_detached: bool,
    /// A driver has answered, at some time.
    was_ready: bool,
    is_stopping: bool,
}

/// Runs the driver in processes until there is to be no other one; returns the exit code of the last.
pub(super) fn supervise(
    entry: Entry,
    server: &Server,
    policy: RestartPolicy,
    is_detached: bool,
) -> io::Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    let listener = Listener::bind(entry.folder().join("notify"))?;
    let mut supervisor = Supervisor {
        again: Again::new()?,
        entry,
        server,
        listener,
        interrupt,
        epoll: Epoll::new()?,
        is_detached,
        was_ready: false,
        is_stopping: false,
    };
    supervisor.wait_for(supervisor.listener.as_raw_fd(), SAID)?;
    if let Some(signals) = interrupt.descriptor() {
        supervisor.wait_for(signals, SIGNAL)?;
    }
    let mut back_off = BackOff::new(policy);
    loop {
        let (end, ran) = supervisor.run()?;
        if is_detached && !supervisor.was_ready {
            supervisor.entry.tell_what_is_left();
        }
        if supervisor.is_stopping || !supervisor.was_ready || !policy.wants(end) {
            return Ok(end.exit_code());
        }
        let Some(wait) = back_off.next(ran) else {
            tracing::error!("{end}; it was started again often enough");
            return Ok(end.exit_code());
        };
        if supervisor.pause(end, wait)? {
            return Ok(ExitCode::Success);
        }
    }
}

impl Supervisor<'_> {
    fn wait_for(&self, descriptor: RawFd, what: u64) -> io::Result<()> {
        let wanted = EpollEvent::new(EventSet::IN, what);
        self.epoll.ctl(ControlOperation::Add, descriptor, wanted)
    }

    /// What has happened; empty when the time is up, or after a signal.
    fn events(&self, timeout: Option<Duration>) -> io::Result<Vec<u64>> {
        let mut events = [EpollEvent::default(); 4];
        let milliseconds = timeout.map_or(-1, |timeout| {
            i32::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
        });
        match self.epoll.wait(milliseconds, &mut events) {
            Ok(count) => Ok(events.iter().take(count).map(EpollEvent::data).collect()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// One process of the driver: how it ended, and how long its driver had answered.
    fn run(&mut self) -> io::Result<(End, Duration)> {
        let mut child = self
            .again
            .supervised(self.entry.folder(), self.listener.path())
            .stdin(Stdio::from(self.server.listener()?))
            .spawn()?;
        let process = ProcessId::of(child.id())?;
        self.entry.update(|registration| {
            registration.worker = Some(process);
            registration.state = State::Starting;
            registration.status = String::new();
        });
        let descriptor = process.open()?;
        if let Some(descriptor) = &descriptor {
            self.wait_for(descriptor.as_raw_fd(), ENDED)?;
        }
        let mut ready_since = None;
        loop {
            let end = self.ended(&mut child)?;
            // What it has said before its end.
            let said = self.listener.heard()?;
            if said.is_alive {
                notify::alive();
            }
            if said.is_ready && ready_since.is_none() {
                ready_since = Some(Instant::now());
                self.ready()?;
            }
            if let Some(end) = end {
                self.entry.update(|registration| registration.worker = None);
                return Ok((
                    end,
                    ready_since.map_or(Duration::ZERO, |since| since.elapsed()),
                ));
            }
            if self.events(None)?.contains(&SIGNAL) && !self.is_stopping {
                self.stop()?;
                if let Some(descriptor) = &descriptor {
                    process::send(descriptor, Signal::TERM)?;
                }
            }
        }
    }

    fn ended(&self, child: &mut Child) -> io::Result<Option<End>> {
        Ok(child.try_wait()?.map(End::of))
    }

    fn ready(&mut self) -> io::Result<()> {
        self.entry
            .update(|registration| registration.state = State::Running);
        let is_leaving = !self.was_ready && self.is_detached;
        let starter = is_leaving.then(|| detach::leave(false)).transpose()?;
        self.was_ready = true;
        notify::ready();
        if let Some(starter) = starter {
            starter.forget();
        }
        Ok(())
    }

    /// A signal has come.
    fn stop(&mut self) -> io::Result<()> {
        self.is_stopping = true;
        notify::stopping();
        self.entry
            .update(|registration| registration.state = State::Stopping);
        match self.interrupt.descriptor() {
            // It stays set.
            Some(signals) => {
                self.epoll
                    .ctl(ControlOperation::Delete, signals, EpollEvent::default())
            }
            None => Ok(()),
        }
    }

    /// Waits before the next start. Whether a signal has come instead.
    fn pause(&mut self, end: End, wait: Duration) -> io::Result<bool> {
        let status = format!("{end}; it is started again in {:.1} s", wait.as_secs_f64());
        tracing::warn!("{status}");
        notify::status(&status);
        self.entry.update(|registration| {
            registration.state = State::Restarting;
            registration.status = status;
            registration.restarts += 1;
        });
        let until = Instant::now() + wait;
        let clients = self.server.listener()?;
        let left = || until.saturating_duration_since(Instant::now());
        let may_wait = || left() <= CLIENTS_WAIT;
        let mut is_turning_away = !may_wait();
        if is_turning_away {
            self.wait_for(clients.as_raw_fd(), CLIENT)?;
        }
        loop {
            if is_turning_away && may_wait() {
                self.epoll.ctl(
                    ControlOperation::Delete,
                    clients.as_raw_fd(),
                    EpollEvent::default(),
                )?;
                is_turning_away = false;
            }
            if left().is_zero() {
                return Ok(false);
            }
            let next = if is_turning_away {
                left().saturating_sub(CLIENTS_WAIT)
            } else {
                left()
            };
            let events = self.events(Some(next))?;
            if events.contains(&SIGNAL) {
                let signal = self.interrupt.signal().unwrap_or("a signal");
                tracing::info!("the run ends: {signal} has come");
                self.stop()?;
                return Ok(true);
            }
            if events.contains(&CLIENT) {
                self.server.turn_away(&format!(
                    "{end}; it is started again in {:.1} s",
                    left().as_secs_f64()
                ));
            }
        }
    }
}
