//! A device model that is a process of its own and speaks the protocol of docs/external-models.md over a Unix socket.
//!
//! The model is as hostile as the driver: it gets the accesses that the policy allows and an interrupt line, and what it
//! sends is checked message by message. One that crashes, lies or is late is cut off: the ports read all ones and the log
//! says why, once. Its line is inactive then. A model behind a socket in the file system may come back.

mod dma;
mod link;
mod memory;
pub mod protocol;
mod start;
#[cfg(test)]
mod tests;

use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

pub use self::link::Lost;
use self::link::{Link, Opened};
pub use self::protocol::ModelRange;
use self::protocol::{Access, Hello};
pub use self::start::ExternalError;
use super::{DeviceError, MemoryDevice, PortDevice};
use crate::machine::{BusMemory, InterruptLine};
use crate::policy::ExternalSpec;
use crate::ports::Width;

/// How long a model that was lost is left alone, at first; twice as long after each further failure.
const PAUSE: Duration = Duration::from_secs(1);
/// At most.
const PAUSE_MAX: Duration = Duration::from_secs(64);
/// How long a model that was started here may go on after the end.
const END_PATIENCE: Duration = Duration::from_secs(2);
/// How long it may take for a process that has closed its socket to be over, for the log.
const REAP_PATIENCE: Duration = Duration::from_millis(100);

/// What the device and the thread that waits for interrupts share.
#[derive(Debug)]
struct State {
    name: String,
    line: Option<InterruptLine>,
    link: Option<Link>,
    /// Which connection `link` is, or was.
    connection: u64,
    /// Whether a model may come back.
    can_return: bool,
    retry_at: Instant,
    pause: Duration,
    child: Option<Child>,
    failure: Option<String>,
}

impl State {
    /// Ends the connection, and says why.
    fn lose(&mut self, lost: &Lost) {
        let Some(link) = self.link.take() else { return };
        link.close();
        drop(link);
        if let Some(line) = &self.line {
            line.deassert();
        }
        self.retry_at = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        let mut reason = lost.to_string();
        if let Some(end) = self.child.as_mut().and_then(ended) {
            reason = format!("{reason} ({end})");
        }
        let next = if self.can_return {
            "; a new connection is tried when the driver next uses it"
        } else {
            ""
        };
        let name = &self.name;
        if matches!(lost, Lost::Goodbye) {
            tracing::warn!("{name}: {reason}: all of it reads ones from now on{next}");
        } else {
            tracing::error!("{name}: {reason}: all of it reads ones from now on{next}");
            self.failure.get_or_insert(reason);
        }
    }
}

/// How a process has ended, if it has or is about to.
fn ended(child: &mut Child) -> Option<String> {
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status.to_string()),
            Ok(None) if start.elapsed() < REAP_PATIENCE => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Ok(None) | Err(_) => return None,
        }
    }
}

/// The ports or the memory of an external model.
#[derive(Debug)]
pub struct External {
    spec: ExternalSpec,
    range: ModelRange,
    /// The widest access that the model takes, in bytes.
    width: u8,
    /// If it may be a bus master.
    memory: Option<BusMemory>,
    state: Arc<Mutex<State>>,
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl External {
    /// Starts the model's command, if the spec has one, and connects. `line` is that of the spec's `irq`.
    ///
    /// # Errors
    /// The command cannot be started, nobody listens at the socket, or it is no model.
    pub fn open(
        spec: &ExternalSpec,
        range: ModelRange,
        line: Option<InterruptLine>,
    ) -> Result<Self, ExternalError> {
        Self::with_memory(spec, range, line, None)
    }

    /// As [`Self::open`], for a model that is a bus master if there is `memory`.
    ///
    /// # Errors
    /// As there.
    pub fn with_memory(
        spec: &ExternalSpec,
        range: ModelRange,
        line: Option<InterruptLine>,
        memory: Option<BusMemory>,
    ) -> Result<Self, ExternalError> {
        let (socket, child) = start::start(spec)?;
        let name = spec.to_string();
        let mut device = Self {
            spec: spec.clone(),
            range,
            width: 1,
            memory,
            state: Arc::new(Mutex::new(State {
                name,
                line,
                link: None,
                connection: 0,
                can_return: spec.socket.is_some(),
                retry_at: Instant::now(),
                pause: PAUSE,
                child,
                failure: None,
            })),
        };
        let state = Arc::clone(&device.state);
        device.width = device.connect(&mut locked(&state), socket, None)?;
        Ok(device)
    }

    /// Makes a connection out of a socket. `width` is what the model took before, if there was one.
    fn connect(&self, state: &mut State, socket: OwnedFd, width: Option<u8>) -> Result<u8, Lost> {
        let hello = Hello {
            range: self.range,
            has_line: state.line.is_some(),
            has_page: true,
            is_again: width.is_some(),
            has_dma: self.memory.is_some(),
        };
        let limit = match width {
            // A program may have to be loaded first.
            None => self.spec.answer_limit.max(start::PATIENCE),
            Some(_) => self.spec.answer_limit,
        };
        let for_thread = socket.try_clone()?;
        let (link, opened) = Link::open(
            socket,
            hello,
            state.line.clone(),
            self.memory.clone(),
            limit,
        )?;
        if width.is_some_and(|width| width != opened.width) {
            return Err(Lost::Changed);
        }
        state.connection += 1;
        let ears = Ears::new(for_thread, &opened, state.connection)?;
        let weak = Arc::downgrade(&self.state);
        std::thread::Builder::new()
            .name("external".to_owned())
            .spawn(move || ears.listen(&weak))?;
        state.link = Some(link);
        Ok(opened.width)
    }

    /// Tries to get a lost model back, if it is time.
    fn reconnect(&self, state: &mut State) {
        let Some(path) = self.spec.socket.as_ref().filter(|_| state.can_return) else {
            return;
        };
        if Instant::now() < state.retry_at {
            return;
        }
        let connected = start::connect(path)
            .map_err(Lost::Io)
            .and_then(|socket| self.connect(state, socket, Some(self.width)));
        let name = &state.name;
        match connected {
            Ok(_) => tracing::info!("{name}: it is there again"),
            Err(error) => {
                tracing::debug!("{name}: {error}");
                state.retry_at = Instant::now() + state.pause;
                state.pause = (state.pause * 2).min(PAUSE_MAX);
            }
        }
    }

    fn access(&self, access: Access) -> Option<u64> {
        let mut state = locked(&self.state);
        if state.link.is_none() {
            self.reconnect(&mut state);
        }
        match state.link.as_mut()?.access(access, self.spec.answer_limit) {
            Ok(value) => {
                state.pause = PAUSE;
                Some(value)
            }
            Err(lost) => {
                state.lose(&lost);
                None
            }
        }
    }

    /// An access in aligned pieces that the model takes, lowest first.
    fn access_in_pieces(&self, offset: u32, bytes: u8, write: Option<u64>) -> u64 {
        let mut value = 0;
        let mut done = 0;
        while done < bytes {
            let at = offset + u32::from(done);
            let width = [8, 4, 2, 1].into_iter().find(|width| {
                *width <= self.width && *width <= bytes - done && at.is_multiple_of((*width).into())
            });
            let width = width.unwrap_or(1);
            let mask = u64::MAX >> (64 - 8 * u32::from(width));
            let shift = 8 * u32::from(done);
            let piece = self.access(Access {
                offset: at,
                bytes: width,
                write: write.map(|value| (value >> shift) & mask),
            });
            value |= (piece.unwrap_or(u64::MAX) & mask) << shift;
            done += width;
        }
        value
    }

    fn failure(&self) -> Result<(), DeviceError> {
        match &locked(&self.state).failure {
            None => Ok(()),
            Some(reason) => Err(DeviceError {
                device: self.spec.to_string(),
                message: format!("{reason}; accesses after that were lost"),
            }),
        }
    }
}

/// An access that the bus has cut to the model's width already; aligned or not, it is one.
fn port_access(offset: u16, width: Width, write: Option<u64>) -> Access {
    Access {
        offset: offset.into(),
        bytes: width.bytes().to_le_bytes()[0],
        write,
    }
}

/// What a connection's thread listens to while the driver asks nothing.
struct Ears {
    /// In the epoll set, as the event.
    _socket: OwnedFd,
    _event: Option<OwnedFd>,
    epoll: Epoll,
    connection: u64,
}

const SOCKET: u64 = 0;
const EVENT: u64 = 1;

impl Ears {
    fn new(socket: OwnedFd, opened: &Opened, connection: u64) -> std::io::Result<Self> {
        let epoll = Epoll::new()?;
        let add = |descriptor: &OwnedFd, events, data| {
            let event = EpollEvent::new(events, data);
            epoll.ctl(ControlOperation::Add, descriptor.as_raw_fd(), event)
        };
        add(&socket, EventSet::IN, SOCKET)?;
        let event = opened.event.as_ref().map(OwnedFd::try_clone).transpose()?;
        if let Some(event) = &event {
            // Each write to an eventfd is an edge, whether or not it is read.
            add(event, EventSet::IN | EventSet::EDGE_TRIGGERED, EVENT)?;
        }
        Ok(Self {
            _socket: socket,
            _event: event,
            epoll,
            connection,
        })
    }

    /// Takes interrupts, and notices the end of the model.
    fn listen(&self, state: &Weak<Mutex<State>>) {
        let mut events = [EpollEvent::default(); 2];
        loop {
            let count = match self.epoll.wait(-1, &mut events) {
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                // There is no way to go on; an access still notices what the model does.
                Err(_) => return,
            };
            crate::machine::processor_share::pay();
            let has_event = events[..count].iter().any(|event| event.data() == EVENT);
            let Some(state) = state.upgrade() else { return };
            let mut state = locked(&state);
            if state.connection != self.connection {
                return;
            }
            let Some(link) = &mut state.link else { return };
            let mut heard = if has_event { link.event() } else { Ok(()) };
            while heard.is_ok() {
                match link.listen() {
                    Ok(true) => break,
                    Ok(false) => {}
                    Err(lost) => heard = Err(lost),
                }
            }
            if let Err(lost) = heard {
                state.lose(&lost);
                return;
            }
        }
    }
}

impl PortDevice for External {
    fn read(&mut self, offset: u16, width: Width) -> u32 {
        let value = self.access(port_access(offset, width, None));
        let [a, b, c, d, ..] = value.unwrap_or(u64::MAX).to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    fn write(&mut self, offset: u16, width: Width, value: u32) {
        let value = u64::from(value & width.mask());
        // What it comes to is in the log; a write has no answer.
        let _ = self.access(port_access(offset, width, Some(value)));
    }

    fn width_max(&self) -> Width {
        Width::from_bytes(self.width).unwrap_or(Width::Dword)
    }

    fn describe(&self) -> String {
        self.spec.to_string()
    }

    fn flush(&mut self) -> Result<(), DeviceError> {
        self.failure()
    }
}

impl MemoryDevice for External {
    fn load(&mut self, offset: u32, bytes: u8) -> u64 {
        self.access_in_pieces(offset, bytes, None)
    }

    fn store(&mut self, offset: u32, bytes: u8, value: u64) {
        // As above.
        self.access_in_pieces(offset, bytes, Some(value));
    }

    fn describe(&self) -> String {
        self.spec.to_string()
    }

    fn flush(&mut self) -> Result<(), DeviceError> {
        self.failure()
    }
}

impl Drop for External {
    fn drop(&mut self) {
        let mut state = locked(&self.state);
        let link = state.link.take();
        let is_told = link.is_some();
        if let Some(mut link) = link {
            link.say_goodbye();
        }
        let Some(mut child) = state.child.take() else {
            return;
        };
        let start = Instant::now();
        loop {
            match child.try_wait() {
                Ok(Some(_)) | Err(_) => return,
                // One that was cut off has had its time.
                Ok(None) if !is_told || start.elapsed() > END_PATIENCE => break,
                Ok(None) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        if is_told {
            tracing::warn!(
                "{}: it goes on after its goodbye, and is killed",
                state.name
            );
        }
        // It may have ended in this moment.
        let _ = child.kill().is_ok();
        let _ = child.wait().is_ok();
    }
}
