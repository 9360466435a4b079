//! Clients that are not served, and what they are told: they take no client's place.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::observe::clock::Timestamp;
use crate::observe::log::RateLimit;
use crate::session::client::handshake::{self, Wanted};
use crate::session::client::status;
use crate::session::interpreter::Outcome;
use crate::session::protocol::reply;

/// Clients at a time that may take their time to say in which protocol they want to be refused. They may be anybody.
const AT_ONCE: usize = 4;
/// Stack of the thread that waits for one of them.
const STACK: usize = 128 << 10;

/// What a client is told that is not served.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Over text.
    pub(super) outcome: Outcome,
    /// Over the channel.
    pub(super) status: u32,
}

impl Refusal {
    /// It is not one of those whom the policy names.
    pub(super) fn access_denied() -> Self {
        Self {
            outcome: Outcome::refused("the driver is another user's: STATUS_ACCESS_DENIED"),
            status: status::ACCESS_DENIED,
        }
    }

    /// There is no room for it.
    pub(super) fn no_room(outcome: Outcome) -> Self {
        Self {
            outcome,
            status: status::INSUFFICIENT_RESOURCES,
        }
    }

    /// Tells it, in the protocol of its first byte; a client that sends none within the socket's timeout is told nothing.
    pub(super) fn tell(&self, stream: &UnixStream) {
        match handshake::wanted(stream) {
            Wanted::Text => say(stream, &self.outcome),
            Wanted::Channel => handshake::refuse(stream, self.status),
            Wanted::Nothing | Wanted::Silent => return,
        }
        take_the_rest(stream);
    }
}

/// Sends a reply; a client that is gone needs none.
pub(super) fn say(mut stream: &UnixStream, outcome: &Outcome) {
    let _ = writeln!(stream, "{}", reply(outcome));
}

/// Takes what a client has sent by now: what is left unread when a connection is closed breaks the other end, also what that
/// has not read yet.
fn take_the_rest(mut stream: &UnixStream) {
    let mut bytes = [0; 4096];
    if stream.set_nonblocking(true).is_ok() {
        // Not for ever: some may go on sending.
        for _ in 0..16 {
            if !matches!(stream.read(&mut bytes), Ok(1..)) {
                break;
            }
        }
    }
}

/// Lets reads and writes of a client take so long.
pub(super) fn limit(stream: &UnixStream, patience: Duration) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))
}

/// The clients that are being refused.
#[derive(Debug)]
pub(super) struct Refusals {
    under_way: AtomicUsize,
    began: Instant,
    log: Mutex<RateLimit>,
}

impl Default for Refusals {
    fn default() -> Self {
        Self {
            under_way: AtomicUsize::new(0),
            began: Instant::now(),
            log: Mutex::default(),
        }
    }
}

impl Refusals {
    /// Logs why a client is not served, as often as a log is for.
    pub(super) fn log(&self, why: &str) {
        let now = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut limit = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let admission = limit.admit(Timestamp(now));
        drop(limit);
        if admission.dropped_before != 0 {
            tracing::warn!("{} more clients were refused", admission.dropped_before);
        }
        if admission.passes {
            tracing::warn!("a client is refused: {why}");
        }
    }

    /// Refuses a client, in a thread of its own if it has not said yet which protocol it speaks.
    pub(super) fn refuse(
        self: &Arc<Self>,
        stream: UnixStream,
        refusal: Refusal,
        patience: Duration,
    ) {
        let others = self.under_way.fetch_add(1, Ordering::Relaxed);
        let refusals = UnderWay(Arc::clone(self));
        if others >= AT_ONCE {
            // What it has sent by now is all that counts.
            if stream.set_nonblocking(true).is_ok() {
                refusal.tell(&stream);
            }
            return;
        }
        let thread = thread::Builder::new()
            .name("refused".into())
            .stack_size(STACK);
        let started = thread.spawn(move || {
            if limit(&stream, patience).is_ok() {
                refusal.tell(&stream);
            }
            drop(refusals);
        });
        if let Err(error) = started {
            tracing::debug!("a client is not told that it is refused: {error}");
        }
    }
}

/// A client that is being refused, counted as long as it is.
struct UnderWay(Arc<Refusals>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}
