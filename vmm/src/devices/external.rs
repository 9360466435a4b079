//! A device model that is a process of its own and speaks the protocol of docs/external-models.md over a Unix socket.
//!
//! The model is as hostile as the driver: it gets the accesses that the policy allows and an interrupt line, and what it
//! sends is checked message by message. One that crashes, lies or is late is cut off: the ports read all ones and the log
//! says why, once. Its line is inactive then. A model behind a socket in the file system may come back.

mod link;
mod memory;
pub mod protocol;
mod start;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

pub use self::link::Lost;
use self::link::{Link, poll};
use self::protocol::{Access, Hello};
pub use self::start::ExternalError;
use super::{DeviceError, PortDevice};
use crate::machine::InterruptLine;
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
            tracing::warn!("{name}: {reason}: its ports read all ones from now on{next}");
        } else {
            tracing::error!("{name}: {reason}: its ports read all ones from now on{next}");
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

/// The ports of an external model.
#[derive(Debug)]
pub struct External {
    spec: ExternalSpec,
    first: u16,
    ports: u32,
    width: Width,
    state: Arc<Mutex<State>>,
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl External {
    /// Starts the model's command, if the spec has one, and connects. `first` and `ports` are the rule's range, `line` that
    /// of the spec's `irq`.
    ///
    /// # Errors
    /// The command cannot be started, nobody listens at the socket, or it is no model.
    pub fn open(
        spec: &ExternalSpec,
        first: u16,
        ports: u32,
        line: Option<InterruptLine>,
    ) -> Result<Self, ExternalError> {
        let (socket, child) = start::start(spec)?;
        let name = spec.to_string();
        let mut device = Self {
            spec: spec.clone(),
            first,
            ports,
            width: Width::Dword,
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
    fn connect(
        &self,
        state: &mut State,
        socket: OwnedFd,
        width: Option<Width>,
    ) -> Result<Width, Lost> {
        let hello = Hello {
            first: self.first,
            ports: self.ports,
            has_line: state.line.is_some(),
            has_memory: true,
            is_again: width.is_some(),
        };
        let limit = match width {
            // A program may have to be loaded first.
            None => self.spec.answer_limit.max(start::PATIENCE),
            Some(_) => self.spec.answer_limit,
        };
        let for_thread = socket.try_clone()?;
        let (link, new_width) = Link::open(socket, hello, state.line.clone(), limit)?;
        if width.is_some_and(|width| width != new_width) {
            return Err(Lost::Changed);
        }
        state.connection += 1;
        let connection = state.connection;
        let weak = Arc::downgrade(&self.state);
        std::thread::Builder::new()
            .name("external".to_owned())
            .spawn(move || listen(&for_thread, &weak, connection))?;
        state.link = Some(link);
        Ok(new_width)
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

    fn access(&self, access: Access) -> Option<u32> {
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
}

/// Takes interrupts while the driver asks nothing, and notices the end of the model.
fn listen(socket: &OwnedFd, state: &Weak<Mutex<State>>, connection: u64) {
    loop {
        // An error shows itself again where the socket is read.
        let _ = poll(socket, PollFlags::IN, None).is_ok();
        let Some(state) = state.upgrade() else { return };
        let mut state = locked(&state);
        if state.connection != connection {
            return;
        }
        let Some(link) = &mut state.link else { return };
        loop {
            match link.listen() {
                Ok(true) => break,
                Ok(false) => {}
                Err(lost) => {
                    state.lose(&lost);
                    return;
                }
            }
        }
    }
}

impl PortDevice for External {
    fn read(&mut self, offset: u16, width: Width) -> u32 {
        let access = Access {
            offset,
            width,
            write: None,
        };
        self.access(access).unwrap_or(u32::MAX)
    }

    fn write(&mut self, offset: u16, width: Width, value: u32) {
        let write = Some(value & width.mask());
        let access = Access {
            offset,
            width,
            write,
        };
        // What it comes to is in the log; a write has no answer.
        let _ = self.access(access);
    }

    fn width_max(&self) -> Width {
        self.width
    }

    fn describe(&self) -> String {
        self.spec.to_string()
    }

    fn flush(&mut self) -> Result<(), DeviceError> {
        match &locked(&self.state).failure {
            None => Ok(()),
            Some(reason) => Err(DeviceError {
                device: self.spec.to_string(),
                message: format!("{reason}; accesses after that were lost"),
            }),
        }
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
