//! The thread that owns a guest: takes jobs, runs the vCPU, answers.

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use abi::DriverAbi;
use abi::Privilege;
use abi::channel::Operation;
use vmm_sys_util::eventfd::EventFd;

use super::channel::Channel;
use super::client::connection::ClientEnd;
use super::client::set::Clients;
use super::client::status;
use super::client::waker::Waker;
use super::client_memory::ClientMemory;
use super::driver::{DriverError, Stats};
use super::hangup::Answer;
use super::link::ProcessIds;
use super::responder::Responder;
use crate::devices::RunningModel;
use crate::hardware::DmaWindow;
use crate::machine::{InterruptLines, PortExit, Stop, Vm};
use crate::observe::clock::Clock;
use crate::observe::crash::CrashReport;
use crate::observe::symbols::Symbols;
use crate::ports::{PortOutcome, Width};

mod clients;
mod jobs;
mod mapped;
mod report;

/// STATUS_PRIVILEGED_INSTRUCTION: the IOPM denies a port.
pub(super) const STATUS_PRIVILEGED_INSTRUCTION: u32 = 0xC000_0096;

/// A request with the buffers that it needs.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: u64,
    pub(super) operation: Operation,
    pub(super) process: u32,
    pub(super) arguments: [u64; 6],
    /// Bytes to place in client memory, and which argument receives their address.
    pub(super) input: Option<(usize, Vec<u8>)>,
    pub(super) output: Option<Output>,
    pub(super) reply: Reply,
}

/// A request's output buffer.
#[derive(Debug)]
pub(super) struct Output {
    /// Which argument receives its address.
    pub(super) argument: usize,
    /// Its bytes.
    pub(super) bytes: u64,
    /// What lies there before, where the driver sees it: then all of it is read back, whatever Information is. Zeroes
    /// otherwise.
    pub(super) contents: Option<Vec<u8>>,
}

/// Who gets a request's result.
#[derive(Debug)]
pub(super) enum Reply {
    /// A thread that waits.
    Waiter(Arc<Answer>),
    /// A client of the channel: its id, and the head of the request's chain.
    Client(u64, u16),
    /// The engine: the shim serves this client's queue, in that slot.
    Attached(u64, u32),
    /// The engine: the shim has nothing of that slot's client any more.
    Detached(u32),
    /// Nobody.
    Nobody,
}

impl Reply {
    /// Tells a thread that waits; the clients of the channel are told by [`Clients`].
    fn fail(&self, error: impl FnOnce() -> DriverError) {
        if let Self::Waiter(sender) = self {
            // A client that is gone needs no answer.
            let _ = sender.send(Err(error())).is_ok();
        }
    }
}

/// A completed request.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) status: u32,
    pub(super) information: u64,
    pub(super) value: u64,
    pub(super) output: Vec<u8>,
    pub(super) elapsed: Duration,
}

/// What the engine can be asked.
#[derive(Debug)]
pub(super) enum Message {
    Request(Job),
    /// A port access answered by the mirror of the IOPMs, without entering the guest.
    MirrorPort {
        process: u32,
        access: PortExit,
        reply: Sender<Result<u32, DriverError>>,
    },
    Stats(Sender<Result<Stats, DriverError>>),
    /// A report on a guest that does not answer.
    Diagnose(Sender<Box<CrashReport>>),
    /// An interrupt line wants the guest to run.
    Interrupt,
    /// A client of the channel has connected.
    Attach(u64, Box<ClientEnd>),
    /// It is gone.
    Detach(u64),
    Shutdown,
}

/// Why the guest stopped by itself.
#[derive(Debug, Clone)]
pub(super) enum Death {
    Crashed(Box<CrashReport>),
    Hung(Box<CrashReport>),
    Gone(String),
}

impl Death {
    pub(super) fn error(&self) -> DriverError {
        match self {
            Self::Crashed(report) => DriverError::Crashed(report.clone()),
            Self::Hung(report) => DriverError::TimedOut(report.clone()),
            Self::Gone(reason) => DriverError::Gone(reason.clone()),
        }
    }
}

/// What handles on a machine share with its engine.
#[derive(Debug, Default)]
pub(super) struct Fate {
    pub(super) death: OnceLock<Death>,
    pub(super) watchers: Mutex<Vec<EventFd>>,
    /// Device models that failed, once each.
    pub(super) failed_devices: Mutex<Vec<String>>,
    /// Where new processes get their ids.
    pub(super) process_ids: ProcessIds,
    /// The device models, while they run.
    pub(super) models: Mutex<Vec<RunningModel>>,
}

impl Fate {
    /// Why a request could not be answered.
    pub(super) fn error(&self) -> DriverError {
        self.death.get().map_or_else(
            || DriverError::Gone("it was shut down".to_owned()),
            Death::error,
        )
    }

    fn device_failures(&self, errors: Vec<crate::devices::DeviceError>) {
        let mut failed = self
            .failed_devices
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for error in errors {
            let text = crate::error_chain(&error);
            // A device goes on failing with growing numbers; its name says that it is the same.
            if !failed.iter().any(|known| known.starts_with(&error.device)) {
                tracing::error!("{text}");
                failed.push(text);
            }
        }
    }

    /// The device models that run.
    pub(super) fn models(&self) -> MutexGuard<'_, Vec<RunningModel>> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells those who wait for the machine's end, or for that of its drivers, which are unloaded. Clients have had their
    /// farewell by then: the server ends their connections when it is told.
    pub(super) fn announce(&self) {
        let watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        for watcher in watchers.iter() {
            // A watcher that is gone needs no news.
            let _ = watcher.write(1).is_ok();
        }
    }
}

/// What reports need to know of a run.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) driver: String,
    pub(super) abi: DriverAbi,
    pub(super) privilege: Privilege,
    pub(super) symbols: Arc<Symbols>,
    pub(super) unbound: Vec<(String, String)>,
    pub(super) clock: Clock,
    pub(super) timeout: Duration,
}

#[derive(Debug)]
struct InFlight {
    reply: Reply,
    operation: Operation,
    process: u32,
    input: Option<(u64, u64)>,
    output: Option<(u64, u64)>,
    /// The output is read back whole.
    is_whole: bool,
    started: Instant,
}

/// The guest with all that belongs to it.
#[derive(Debug)]
pub(super) struct Engine {
    // Before `vm`: devices reach the guest's memory as long as this lives.
    dma: Option<DmaWindow>,
    // Before `responder`: the guest's memory slots point into its memory.
    vm: Vm,
    responder: Responder,
    identity: Identity,
    channel: Channel,
    memory: ClientMemory,
    inbox: Receiver<Message>,
    backlog: VecDeque<Job>,
    in_flight: HashMap<u64, InFlight>,
    clients: Clients,
    /// A client's next request is the shim's to take.
    is_shim_wanted: bool,
    /// Requests of clients of the channel that were made.
    client_jobs: u64,
    /// A port access that the VMM answered itself ended the guest, by the policy.
    policy_stop: Option<String>,
    fate: Arc<Fate>,
    started: Instant,
    requests: u64,
    processes: u64,
}

impl Engine {
    pub(super) fn new(
        vm: Vm,
        dma: Option<DmaWindow>,
        responder: Responder,
        identity: Identity,
        inbox: Receiver<Message>,
        waker: Arc<Waker>,
        fate: Arc<Fate>,
    ) -> std::io::Result<Self> {
        let memory = ClientMemory::new(vm.user_bytes());
        Ok(Self {
            dma,
            vm,
            responder,
            identity,
            channel: Channel::default(),
            memory,
            inbox,
            backlog: VecDeque::new(),
            in_flight: HashMap::new(),
            clients: Clients::new(waker)?,
            is_shim_wanted: false,
            client_jobs: 0,
            policy_stop: None,
            fate,
            started: Instant::now(),
            requests: 0,
            processes: 0,
        })
    }

    /// A handle by which other threads can stop the guest.
    pub(super) fn stopper(&self) -> crate::machine::Stopper {
        self.vm.stopper()
    }

    /// The guest's interrupt lines.
    pub(super) fn interrupt_lines(&self) -> InterruptLines {
        self.vm.interrupt_lines().clone()
    }

    /// Serves until shut down or dead.
    pub(super) fn run(mut self) {
        let death = self.serve();
        self.finish();
        let is_dead = death.is_some();
        if let Some(death) = death {
            // The first reason stands.
            let _ = self.fate.death.set(death).is_ok();
        }
        self.end_clients();
        if is_dead {
            self.fate.announce();
        }
        for (_, request) in self.in_flight.drain() {
            request.reply.fail(|| self.fate.error());
        }
        for job in self.backlog.drain(..) {
            job.reply.fail(|| self.fate.error());
        }
        while let Ok(message) = self.inbox.try_recv() {
            match message {
                Message::Request(job) => job.reply.fail(|| self.fate.error()),
                // A client that is gone needs no answer; the same below.
                Message::Attach(id, end) => {
                    self.clients.attach(id, *end);
                    self.end_clients();
                }
                Message::Stats(reply) => {
                    let _ = reply.send(Err(self.fate.error())).is_ok();
                }
                Message::MirrorPort { reply, .. } => {
                    let _ = reply.send(Err(self.fate.error())).is_ok();
                }
                Message::Diagnose(_)
                | Message::Interrupt
                | Message::Detach(_)
                | Message::Shutdown => {}
            }
        }
    }

    fn finish(&mut self) {
        // Handles on the machine keep none of them alive.
        self.fate.models().clear();
        self.responder.observer.finish();
        let mut errors = self.responder.ports.finish();
        errors.extend(self.responder.memory.flush());
        self.fate.device_failures(errors);
    }

    /// Hands over what devices have buffered: whoever watches an output sees it while the guest is idle.
    fn flush_devices(&mut self) {
        self.responder.observer.end_line();
        let mut errors = self.responder.ports.flush();
        errors.extend(self.responder.memory.flush());
        self.fate.device_failures(errors);
    }

    /// `None`: shut down in order.
    fn serve(&mut self) -> Option<Death> {
        // When the guest wants to run next, with no request: its earliest timer.
        let mut wake_at: Option<Instant> = None;
        let mut is_first = true;
        // It has only come for its clients, and goes on.
        let mut is_awake = false;
        loop {
            let is_idle = self.requests_waiting() == 0 && !is_first && !is_awake;
            if self.take_messages(is_idle, wake_at).is_err() {
                return None;
            }
            self.take_client_requests();
            if let Some(reason) = self.policy_stop.take() {
                return Some(self.died(Stop::PolicyStop(reason)));
            }
            let submitted = match self.submit() {
                Ok(count) => count,
                Err(error) => return Some(Death::Gone(crate::error_chain(&error))),
            };
            let is_timer_due = wake_at.is_some_and(|at| at <= Instant::now());
            let is_interrupted = self.vm.interrupt_lines().is_wanted();
            let is_wanted = submitted != 0 || is_timer_due || is_interrupted || self.is_shim_wanted;
            if !is_wanted && !is_first && !is_awake {
                continue;
            }
            is_first = false;
            if let Err(error) = self.lend_queues() {
                return Some(Death::Gone(crate::error_chain(&error)));
            }
            let stop = self.vm.run(&mut self.responder);
            if let Err(error) = self.take_queues_back() {
                return Some(Death::Gone(crate::error_chain(&error)));
            }
            is_awake = matches!(stop, Stop::Clients);
            match stop {
                Stop::Idle(delay) => wake_at = delay.map(|delay| Instant::now() + delay),
                Stop::Clients => {}
                Stop::Asked => return None,
                stop => return Some(self.died(stop)),
            }
            if let Err(error) = self.complete() {
                return Some(Death::Gone(crate::error_chain(&error)));
            }
            self.flush_devices();
        }
    }

    fn requests_waiting(&self) -> usize {
        self.backlog.len()
    }

    /// Takes what is in the inbox; waits for the first message when the guest has nothing to do. `Err`: shut down.
    fn take_messages(&mut self, may_wait: bool, wake_at: Option<Instant>) -> Result<(), ()> {
        if may_wait {
            let mut first = None;
            let inbox = &self.inbox;
            let (responder, fate) = (&mut self.responder, &self.fate);
            // Port accesses that the mirror answers have left bytes in devices, and the guest has not run since.
            let flush = || fate.device_failures(responder.ports.flush());
            self.clients.wait(wake_at, flush, || {
                // A message, or that there will be none any more.
                first = match inbox.try_recv() {
                    Ok(message) => Some(Ok(message)),
                    Err(TryRecvError::Empty) => None,
                    Err(TryRecvError::Disconnected) => Some(Err(())),
                };
                first.is_some()
            });
            if let Some(message) = first {
                self.take(message?)?;
            }
        }
        loop {
            match self.inbox.try_recv() {
                Ok(message) => self.take(message)?,
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(()),
            }
        }
    }

    fn take(&mut self, message: Message) -> Result<(), ()> {
        match message {
            Message::Request(job) => self.backlog.push_back(job),
            Message::MirrorPort {
                process,
                access,
                reply,
            } => {
                let _ = reply.send(self.mirror_port(process, access)).is_ok();
            }
            Message::Stats(reply) => {
                let _ = reply.send(Ok(self.stats())).is_ok();
            }
            Message::Diagnose(reply) => {
                let _ = reply.send(Box::new(self.hung_report())).is_ok();
            }
            // It has only ended the wait.
            Message::Interrupt => {}
            Message::Attach(id, end) => self.attach_client(id, *end),
            Message::Detach(id) => self.detach_client(id),
            Message::Shutdown => return Err(()),
        }
        Ok(())
    }

    fn mirror_port(&mut self, process: u32, access: PortExit) -> Result<u32, DriverError> {
        let is_allowed = Width::from_bytes(access.width)
            .is_some_and(|width| self.responder.mirror.allows(process, access.port, width));
        if !is_allowed {
            return Err(DriverError::Status(crate::observe::ntstatus::NtStatus(
                STATUS_PRIVILEGED_INSTRUCTION,
            )));
        }
        let PortOutcome { value, .. } = self.responder.access(access);
        Ok(value)
    }

    fn stats(&self) -> Stats {
        let responder = &self.responder;
        Stats {
            uptime_us: u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX),
            exits: responder.exits,
            requests: self.requests,
            processes: self.processes,
            ..Stats::of_rules(&responder.ports, &responder.memory, &responder.msrs)
        }
    }
}
