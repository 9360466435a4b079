//! All clients of a driver, and how the engine waits for them.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use abi::client::FarewellReason;
use channel::polling::{LONGEST, Look, Polling, Step};
use rustix::event::{PollFd, PollFlags, Timespec};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::connection::{Client, ClientEnd, Outcome};
use super::polling;
use super::request::Incoming;
use super::sharing::Token;
use super::waker::Waker;

/// Requests taken from one client before the others have their turn.
const TURN: usize = 64;
/// Requests of all clients together that the VMM has under way, besides [`GUARANTEED`] of each: with the others' it is less
/// than the guest's ring holds.
const SHARED: usize = 1408;
/// Requests that each client may have under way, whatever the others do.
const GUARANTEED: usize = 8;

/// A request with where it came from.
#[derive(Debug)]
pub(in crate::session) struct Taken {
    pub(in crate::session) client: u64,
    pub(in crate::session) head: u16,
    pub(in crate::session) incoming: Incoming,
}

/// The clients.
#[derive(Debug)]
pub(in crate::session) struct Clients {
    clients: BTreeMap<u64, Client>,
    epoll: Epoll,
    waker: Arc<Waker>,
    polling: Polling,
}

impl Clients {
    pub(in crate::session) fn new(waker: Arc<Waker>) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let wanted = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, 0);
        epoll.ctl(ControlOperation::Add, waker.as_raw_fd(), wanted)?;
        Ok(Self {
            clients: BTreeMap::new(),
            epoll,
            waker,
            polling: Polling::new(polling::longest(), LONGEST),
        })
    }

    /// A client is there.
    pub(in crate::session) fn attach(&mut self, id: u64, end: ClientEnd) {
        let wanted = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, id);
        let added = self
            .epoll
            .ctl(ControlOperation::Add, end.kick.as_raw_fd(), wanted);
        let mut client = Client::new(end);
        if let Err(error) = added {
            tracing::warn!("a client's notifications cannot be waited for: {error}");
            client.farewell(
                super::status::INSUFFICIENT_RESOURCES,
                FarewellReason::ShutDown,
            );
        }
        self.clients.insert(id, client);
    }

    /// A client is gone.
    pub(in crate::session) fn detach(&mut self, id: u64) -> Option<Client> {
        let client = self.clients.remove(&id)?;
        // Closing the descriptor would do it too, were it not the client's as well.
        let _ = self
            .epoll
            .ctl(
                ControlOperation::Delete,
                client.end.kick.as_raw_fd(),
                EpollEvent::default(),
            )
            .is_ok();
        Some(client)
    }

    pub(in crate::session) fn get(&mut self, id: u64) -> Option<&mut Client> {
        self.clients.get_mut(&id)
    }

    /// Bytes of guest memory that all requests take.
    pub(in crate::session) fn bytes(&self) -> u64 {
        self.clients.values().map(|client| client.bytes).sum()
    }

    /// Whether a client may have one more request under way, as far as the others are concerned.
    pub(in crate::session) fn has_share(&self, id: u64) -> bool {
        let own = self.clients.get(&id).map_or(0, Client::in_flight);
        own < GUARANTEED || self.shared() < SHARED
    }

    /// All of them.
    pub(in crate::session) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Client> {
        self.clients.values_mut()
    }

    /// Ids of the clients.
    pub(in crate::session) fn ids(&self) -> Vec<u64> {
        self.clients.keys().copied().collect()
    }

    /// Takes the next request of a client.
    pub(in crate::session) fn take(&mut self, id: u64) -> Option<Taken> {
        let (head, incoming) = self.clients.get_mut(&id)?.take()?;
        Some(Taken {
            client: id,
            head,
            incoming,
        })
    }

    /// The process that a token stands for.
    pub(in crate::session) fn shared_process(&self, token: Token) -> Option<u32> {
        let mut clients = self.clients.values();
        clients.find_map(|client| client.sharing.process_of(token))
    }

    /// The guest's number of a client's handle, whether it has opened or borrowed it. The owner is asked each time: it may
    /// have closed what was borrowed from it.
    pub(in crate::session) fn guest_handle(
        &self,
        id: u64,
        process: u32,
        handle: u64,
    ) -> Option<u64> {
        let client = self.clients.get(&id)?;
        match client.borrowed_handle(process, handle) {
            Some(owners) => self.owners_handle(process, owners),
            None => client.guest_handle(process, handle),
        }
    }

    /// The guest's number of a handle of the client that owns the process.
    pub(in crate::session) fn owners_handle(&self, process: u32, handle: u64) -> Option<u64> {
        let mut clients = self.clients.values();
        let owner = clients.find(|client| client.owns(process))?;
        owner.guest_handle(process, handle)
    }

    /// The owner of a process closes a handle there: nobody has borrowed it any more.
    pub(in crate::session) fn forget_borrowed(&mut self, process: u32, handle: u64) {
        for client in self.clients.values_mut() {
            client.forget_borrowed(process, handle);
        }
    }

    /// What the handles of all clients take of the shim's heap.
    pub(in crate::session) fn handle_bytes(&self) -> u64 {
        self.clients.values().map(Client::handle_bytes).sum()
    }

    /// Whether a client that is connected owns a process.
    pub(in crate::session) fn is_owned(&self, process: u32) -> bool {
        self.clients.values().any(|client| client.owns(process))
    }

    /// A process ends: nobody uses it any more, neither its owner nor who has joined it.
    pub(in crate::session) fn forget_process(&mut self, process: u32) {
        for client in self.clients.values_mut() {
            client.forget_process(process);
        }
    }

    /// How many requests of a client are taken in a row.
    pub(in crate::session) const fn turn() -> usize {
        TURN
    }

    /// Completes a request. A client that is gone needs no answer.
    pub(in crate::session) fn complete(&mut self, id: u64, head: u16, outcome: Outcome<'_>) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.complete(head, outcome);
        }
    }

    /// Notifies the clients that want it of what was completed.
    pub(in crate::session) fn signal(&mut self) {
        for client in self.clients.values_mut() {
            client.signal();
        }
    }

    /// The machine is over.
    pub(in crate::session) fn end(&mut self, status: u32, reason: FarewellReason) {
        for client in self.clients.values_mut() {
            client.complete_all(status);
            client.signal();
            client.farewell(status, reason);
        }
        self.clients.clear();
    }

    fn shared(&self) -> usize {
        self.clients
            .values()
            .map(|client| client.in_flight().saturating_sub(GUARANTEED))
            .sum()
    }

    /// Whether a request can be taken.
    pub(in crate::session) fn is_ready(&self) -> bool {
        let mut ready = self
            .clients
            .values()
            .filter(|client| client.has_available());
        let Some(first) = ready.next() else {
            return false;
        };
        // Rarely asked: all the others are waiting for the guest.
        let is_shared_left = self.shared() < SHARED;
        is_shared_left
            || first.in_flight() < GUARANTEED
            || ready.any(|client| client.in_flight() < GUARANTEED)
    }

    /// Waits until a client has a request, `has_message` says so, or `wake_at`: first looking for a short while, then
    /// asleep, before which `before_sleep` is called.
    pub(in crate::session) fn wait(
        &mut self,
        wake_at: Option<Instant>,
        before_sleep: impl FnOnce(),
        mut has_message: impl FnMut() -> bool,
    ) {
        let began = Instant::now();
        let window = self.polling.window();
        if !window.is_zero() && !self.clients.is_empty() {
            let mut look = Look::new(window);
            loop {
                if has_message() || self.is_ready() {
                    self.polling.found();
                    return;
                }
                let now = Instant::now();
                if wake_at.is_some_and(|at| now >= at) {
                    break;
                }
                match look.step(now - began) {
                    Step::Spin => std::hint::spin_loop(),
                    Step::Yield => std::thread::yield_now(),
                    Step::Over => break,
                    Step::Lost => {
                        self.polling.in_vain();
                        break;
                    }
                }
            }
        }
        before_sleep();
        self.waker.begin_sleep();
        for client in self.clients.values() {
            // What cannot be armed is found to be available.
            let _ = client.end.queue.arm().is_ok();
        }
        if !has_message() && !self.is_ready() {
            let asleep = Instant::now();
            self.sleep(wake_at);
            if self.is_ready() {
                self.polling.slept(asleep.elapsed());
            }
        }
        self.waker.end_sleep();
    }

    fn sleep(&self, wake_at: Option<Instant>) {
        let mut events = [EpollEvent::default(); 32];
        let timeout = wake_at.map(|at| at.saturating_duration_since(Instant::now()));
        if let Some(timeout) = timeout {
            // epoll_wait counts in milliseconds, timers do not.
            let timeout =
                Timespec::try_from(timeout.min(Duration::from_secs(3600))).unwrap_or(Timespec {
                    tv_sec: 1,
                    tv_nsec: 0,
                });
            let mut polled = [PollFd::from_borrowed_fd(self.epoll_fd(), PollFlags::IN)];
            // A signal ends the wait as everything else does.
            let _ = rustix::event::poll(&mut polled, Some(&timeout)).is_ok();
        }
        let left = if timeout.is_some() { 0 } else { -1 };
        let _ = self.epoll.wait(left, &mut events).is_ok();
    }

    #[expect(unsafe_code, reason = "vmm-sys-util's Epoll has no AsFd")]
    fn epoll_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as `self.epoll`, which the result borrows.
        unsafe { std::os::fd::BorrowedFd::borrow_raw(self.epoll.as_raw_fd()) }
    }
}
