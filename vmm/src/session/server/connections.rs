//! The clients of a socket: admitted, each served in a thread, ended.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::refusals::{Refusal, Refusals};
use super::serving::{Live, Serving, serve_client};
use crate::session::access::Access;
use crate::session::admission::{Admission, CLIENT_STACK};
use crate::session::driver::RunningMachine;
use crate::session::hangup::Hangup;
use crate::session::interpreter::Outcome;

/// Connections at a time; each is a process of the guest and a thread.
const CONNECTIONS_MAX: usize = 32;
/// Events of the epoll instance below this are the server's own.
const FIRST_CLIENT: u64 = 2;

struct Connection {
    id: u64,
    stream: UnixStream,
    thread: thread::JoinHandle<()>,
    hangup: Hangup,
}

pub(super) struct Connections {
    open: Mutex<Vec<Connection>>,
    epoll: Epoll,
    next_id: AtomicU64,
    is_ending: Arc<AtomicBool>,
    live: Arc<AtomicU64>,
    access: Access,
    admission: Admission,
    refusals: Arc<Refusals>,
    patience: Duration,
}

impl Connections {
    pub(super) fn new(
        access: Access,
        admission: Admission,
        patience: Duration,
    ) -> io::Result<Self> {
        Ok(Self {
            open: Mutex::default(),
            epoll: Epoll::new()?,
            next_id: AtomicU64::new(FIRST_CLIENT),
            is_ending: Arc::default(),
            live: Arc::default(),
            access,
            admission,
            refusals: Arc::default(),
            patience,
        })
    }

    /// Watches a descriptor of the server's own; `event` is below [`FIRST_CLIENT`].
    pub(super) fn watch(&self, descriptor: RawFd, event: u64) -> io::Result<()> {
        let wanted = EpollEvent::new(EventSet::IN, event);
        self.epoll.ctl(ControlOperation::Add, descriptor, wanted)
    }

    pub(super) fn forget(&self, descriptor: RawFd) -> io::Result<()> {
        self.epoll
            .ctl(ControlOperation::Delete, descriptor, EpollEvent::default())
    }

    /// Waits for events of the server's own, and gives up what clients wanted that are gone meanwhile.
    pub(super) fn wait(&self) -> io::Result<Vec<u64>> {
        let mut events = [EpollEvent::default(); 16];
        let count = match self.epoll.wait(-1, &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        let (clients, own): (Vec<u64>, Vec<u64>) = events
            .iter()
            .take(count)
            .map(EpollEvent::data)
            .partition(|event| *event >= FIRST_CLIENT);
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for connection in open.iter().filter(|known| clients.contains(&known.id)) {
            connection.hangup.hang_up();
        }
        Ok(own)
    }

    /// Takes a client in, if it may come in and there is room.
    pub(super) fn begin(&self, stream: UnixStream, machine: &Arc<dyn RunningMachine>) {
        // Before anything is taken for it: whom the policy does not name can keep nobody out.
        if let Err(why) = self.access.check(&stream) {
            self.refusals.log(&why);
            return self.refuse(stream, Refusal::access_denied());
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|connection| !connection.thread.is_finished());
        if open.len() >= CONNECTIONS_MAX {
            let why = format!("{CONNECTIONS_MAX} clients are connected already");
            self.refusals.log(&why);
            return self.refuse(stream, Refusal::no_room(Outcome::refused(&why)));
        }
        let share = match self.admission.client() {
            Ok(share) => share,
            Err(refused) => return self.refuse(stream, Refusal::no_room(refused.outcome())),
        };
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let hangup = Hangup::default();
        let serving = Serving {
            machine: Arc::clone(machine),
            is_ending: Arc::clone(&self.is_ending),
            live: Live::new(&self.live),
            admission: self.admission.clone(),
            refusals: Arc::clone(&self.refusals),
            patience: self.patience,
            hangup: hangup.clone(),
            _share: share,
        };
        let started = stream
            .set_nonblocking(false)
            .and_then(|()| stream.try_clone())
            .and_then(|theirs| {
                let client = thread::Builder::new()
                    .name("client".into())
                    .stack_size(CLIENT_STACK);
                client.spawn(move || {
                    let ours = theirs.try_clone();
                    serve_client(theirs, &serving);
                    // The list of connections still has a descriptor: without this the client would
                    // never see the end.
                    if let Ok(ours) = ours {
                        let _ = ours.shutdown(std::net::Shutdown::Both);
                    }
                })
            });
        match started {
            Ok(thread) => {
                // Once, and only for the end of both directions, which is always told: a client that has said all that it
                // wants to say still waits for answers.
                let wanted = EventSet::EDGE_TRIGGERED | EventSet::ONE_SHOT;
                let watched = self.epoll.ctl(
                    ControlOperation::Add,
                    stream.as_raw_fd(),
                    EpollEvent::new(wanted, id),
                );
                if let Err(error) = watched {
                    tracing::warn!("a client that goes away may be noticed late: {error}");
                }
                open.push(Connection {
                    id,
                    stream,
                    thread,
                    hangup,
                });
            }
            Err(error) => {
                let why = format!("no room for one more client: {error}");
                self.refusals.log(&why);
                self.refuse(stream, Refusal::no_room(Outcome::refused(&why)));
            }
        }
    }

    fn refuse(&self, stream: UnixStream, refusal: Refusal) {
        self.refusals.refuse(stream, refusal, self.patience);
    }

    pub(super) fn end(&self) {
        self.is_ending.store(true, Ordering::SeqCst);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for connection in open.drain(..) {
            // A reply that is on its way still arrives.
            let _ = connection.stream.shutdown(std::net::Shutdown::Read);
            if connection.thread.join().is_err() {
                tracing::error!("a client's thread panicked");
            }
        }
    }
}
