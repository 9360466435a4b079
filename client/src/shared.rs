//! What the threads of a program share of a connection: submitting, waiting, callbacks, the end.

use std::io::Read;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use abi::client::{Farewell, MAGIC};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use zerocopy::{FromBytes, IntoBytes};

use crate::error::Error;
use crate::handshake::shake_hands;
use crate::looking::Next;
use crate::pinned::{DataArea, Part};
use crate::queue::Queue;
use crate::request::{Completion, Notify, Request};
use crate::shown::Shown;
use crate::state::{Due, HEADER, INVALID_PARAMETER, NOT_CONNECTED, Pending, RESULT, State};

/// STATUS_QUOTA_EXCEEDED: as many requests are under way as can be.
const QUOTA_EXCEEDED: u32 = 0xC000_0044;

/// What is ready: the pipe of notifications, the socket.
const OF_CALL: u64 = 0;
const OF_SOCKET: u64 = 1;

/// What the threads of a program share of a connection.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    kick: OwnedFd,
    call: OwnedFd,
    socket: UnixStream,
    /// Readable when `call` or `socket` is.
    ready: OwnedFd,
    shown: Shown,
    pub(crate) area: DataArea,
    pub(crate) process: u32,
    transfer_max: u32,
}

impl Shared {
    pub(crate) fn new(mut socket: UnixStream, data_bytes: u64) -> Result<Self, Error> {
        let (welcome, layout, [memory, kick, call]) = shake_hands(&mut socket, data_bytes)?;
        let queue = Queue::map(memory.into(), layout)?;
        let ready = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&ready, &call, EventData::new_u64(OF_CALL), EventFlags::IN)?;
        let ended = EventFlags::IN | EventFlags::RDHUP;
        epoll::add(&ready, &socket, EventData::new_u64(OF_SOCKET), ended)?;
        socket.set_nonblocking(true)?;
        let state = State::new(queue, &layout, welcome.in_flight_max);
        Ok(Self {
            shown: Shown::new(&call, &socket)?,
            area: state.area.clone(),
            state: Mutex::new(state),
            changed: Condvar::new(),
            kick,
            call,
            socket,
            ready,
            process: welcome.process,
            transfer_max: welcome.transfer_max,
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a request; returns its tag. When there is no room: waits for it if it `may_wait`, and handles completions
    /// meanwhile.
    pub(crate) fn submit(
        &self,
        request: &Request<'_>,
        notify: Notify,
        may_wait: bool,
    ) -> Result<u64, Error> {
        let transfer_max = u64::from(self.transfer_max);
        let input_bytes = request.input.len() as u64;
        let output_bytes = u64::from(request.output_bytes);
        let (part_written, part_read) = request.part_bytes();
        let is_ours = |part: &Part| part.is_in(&self.area);
        if !request.part.as_ref().is_none_or(is_ours) {
            // The buffer is another connection's.
            return Err(Error::Status(INVALID_PARAMETER));
        }
        let most = u64::from(part_written.max(part_read));
        if most > transfer_max || most != 0 && input_bytes.max(output_bytes) > transfer_max - most {
            return Err(Error::NoRoom(most));
        }
        if input_bytes > transfer_max || output_bytes > transfer_max {
            return Err(Error::NoRoom(input_bytes.max(output_bytes)));
        }
        let result_at = (HEADER + input_bytes).next_multiple_of(8);
        let bytes = result_at + RESULT + output_bytes;
        let mut state = self.lock();
        let at = loop {
            if let Some(status) = state.end {
                return Err(Error::Status(status));
            }
            if let Some(at) = state.place(request.opcode, bytes) {
                break at;
            }
            if state.pending.is_empty() {
                // There will never be room.
                return Err(Error::NoRoom(bytes));
            }
            if !may_wait {
                return Err(Error::Status(QUOTA_EXCEEDED));
            }
            let before = state.pending.len();
            drop(state);
            self.run(|state| (state.pending.len() < before || state.end.is_some()).then_some(()))?;
            state = self.lock();
        };
        let tag = state.next_tag;
        state.next_tag += 1;
        let queue = &mut state.queue;
        queue.write(at, request.header(tag).as_bytes())?;
        queue.write(at + HEADER, request.input)?;
        let output = request
            .output
            .get(
                ..request
                    .output
                    .len()
                    .min(usize::try_from(output_bytes).unwrap_or(0)),
            )
            .unwrap_or_default();
        queue.write(at + result_at + RESULT, output)?;
        let readable = u32::try_from(HEADER + input_bytes);
        let writable = u32::try_from(RESULT + output_bytes);
        let (Ok(readable), Ok(writable)) = (readable, writable) else {
            return Err(Error::NoRoom(bytes));
        };
        let part = request.part.as_ref().map_or(0, Part::at);
        let readable = [(at, readable), (part, part_read)];
        let writable = [(at + result_at, writable), (part, part_written)];
        let head = queue.add(
            readable
                .get(..1 + usize::from(part_read != 0))
                .unwrap_or(&readable),
            writable
                .get(..1 + usize::from(part_written != 0))
                .unwrap_or(&writable),
        )?;
        let pending = Pending {
            tag,
            at,
            bytes,
            result_at: at + result_at,
            output_bytes: request.output_bytes,
            notify,
            _part: request.part.clone(),
        };
        let is_kick_due = state.queue.is_kick_due()?;
        state.pending.insert(head, pending);
        drop(state);
        if is_kick_due {
            rustix::io::write(&self.kick, &1_u64.to_ne_bytes())?;
        }
        Ok(tag)
    }

    /// Handles completions until `is_over` says that it has what it wants.
    pub(crate) fn run<T>(
        &self,
        mut is_over: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<T, Error> {
        let mut state = self.lock();
        loop {
            if let Some(result) = is_over(&mut state) {
                self.show_what_comes(&mut state);
                return Ok(result);
            }
            if let Some(status) = state.end {
                return Err(Error::Status(status));
            }
            if state.is_waited {
                // Whoever waits hands it out.
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.is_waited = true;
            drop(state);
            let ready = self.sleep();
            state = self.lock();
            state.is_waited = false;
            let reaped = state.reap();
            match (ready, reaped) {
                (Ok(None), Ok(_)) => {}
                (Ok(Some(status)), Ok(_)) => state.end(status),
                (Err(_), _) | (_, Err(_)) => state.end(NOT_CONNECTED),
            }
            self.show_what_is_there(&mut state);
            self.changed.notify_all();
            state = self.call_due(state);
        }
    }

    /// The descriptor for poll and epoll.
    pub(crate) fn show(&self) -> BorrowedFd<'_> {
        let mut state = self.lock();
        state.showing.is_asked_for = true;
        self.show_what_is_there(&mut state);
        self.show_what_comes(&mut state);
        self.shown.as_fd()
    }

    /// There are completions for the program to fetch, or the connection is over: it may be asleep until its descriptor says
    /// so.
    fn show_what_is_there(&self, state: &mut State) {
        let is_any = !state.queued.is_empty() || state.end.is_some();
        if state.showing.is_asked_for && is_any {
            self.shown.set(&mut state.showing);
        }
    }

    /// Has the VMM notify of what comes next, unless a thread waits for it, which does so before it sleeps.
    fn show_what_comes(&self, state: &mut State) {
        if !state.showing.is_asked_for || state.is_waited {
            return;
        }
        // What came before that was not notified.
        let is_used = state.queue.arm().and_then(|()| state.queue.has_used());
        if !matches!(is_used, Ok(false)) {
            self.shown.set(&mut state.showing);
        }
    }

    /// Calls the callbacks that are due by now, without the lock.
    fn call_due<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        // What others add meanwhile, they call: a thread that waits for an answer gets away.
        for _ in 0..state.due.len() {
            let Some(Due { call, completion }) = state.due.pop_front() else {
                break;
            };
            state.calling.push(std::thread::current().id());
            drop(state);
            let calling = Calling(self);
            call(completion);
            drop(calling);
            state = self.lock();
        }
        state
    }

    /// Ends the connection. On return each callback has been called and has returned, except for those that this thread is
    /// in, and so have the threads that only handle completions, except for this one.
    pub(crate) fn disconnect(&self) {
        let this_thread = std::thread::current().id();
        let mut state = self.lock();
        state.disconnect();
        // It wakes the thread that waits for the VMM, and tells the VMM.
        let _ = self.socket.shutdown(Shutdown::Both).is_ok();
        self.changed.notify_all();
        loop {
            if !state.due.is_empty() {
                state = self.call_due(state);
            } else if state.calling.iter().any(|thread| *thread != this_thread) {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            } else {
                break;
            }
        }
        let threads = std::mem::take(&mut state.threads);
        drop(state);
        for thread in threads {
            // A callback that ends the connection is in a thread that ends behind it.
            if thread.thread().id() != this_thread {
                // One that a callback has made panic has said so.
                let _ = thread.join().is_ok();
            }
        }
    }

    /// Waits until the VMM has given something back: looking for a short while, then asleep. `Some`: the connection is
    /// over.
    fn sleep(&self) -> Result<Option<u32>, Error> {
        if self.look()? {
            return Ok(None);
        }
        {
            let state = self.lock();
            state.queue.arm()?;
            if state.queue.has_used()? {
                return Ok(None);
            }
        }
        let asleep = Instant::now();
        let mut events = [const { MaybeUninit::uninit() }; 2];
        let (mut is_called, mut is_over) = (false, false);
        match epoll::wait(&self.ready, &mut events, None) {
            Ok((ready, _)) => {
                for event in ready {
                    let of_socket = event.data.u64() == OF_SOCKET;
                    is_over |= of_socket;
                    is_called |= !of_socket;
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let slept = asleep.elapsed();
        self.lock().looking.slept(slept);
        if is_called {
            self.drain();
        }
        if is_over { self.farewell() } else { Ok(None) }
    }

    /// Looks for what the VMM gives back, for as long as that is worth it. Whether there is something.
    fn look(&self) -> Result<bool, Error> {
        let Some(mut look) = self.lock().looking.begin() else {
            return Ok(false);
        };
        loop {
            {
                let mut state = self.lock();
                if state.queue.has_used()? {
                    state.looking.found();
                    return Ok(true);
                }
            }
            match look.go_on() {
                Next::Again => {}
                Next::Over => return Ok(false),
                Next::Lost(time) => {
                    let mut state = self.lock();
                    state.looking.lost(time);
                    return state.queue.has_used();
                }
            }
        }
    }

    /// Takes the notifications that there are.
    fn drain(&self) {
        let mut bytes = [0; 64];
        // It does not block: the pipe is empty then.
        while rustix::io::read(&self.call, &mut bytes).is_ok_and(|count| count == bytes.len()) {}
    }

    /// The VMM's last words; `None`: it has not said any.
    fn farewell(&self) -> Result<Option<u32>, Error> {
        let mut bytes = [0; size_of::<Farewell>()];
        match (&self.socket).read(&mut bytes) {
            Ok(0) => Ok(Some(NOT_CONNECTED)),
            Ok(_) => Ok(Some(
                Farewell::read_from_bytes(&bytes)
                    .ok()
                    .filter(|farewell| farewell.magic == MAGIC)
                    .map_or(NOT_CONNECTED, |farewell| farewell.status),
            )),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok(None),
            Err(_) => Ok(Some(NOT_CONNECTED)),
        }
    }

    pub(crate) fn next_completion(&self) -> Result<Option<Completion>, Error> {
        let mut state = self.lock();
        self.shown.clear(&mut state.showing);
        if state.queued.is_empty() && !state.is_waited && state.end.is_none() {
            self.handle(&mut state);
            self.changed.notify_all();
        }
        let result = match (state.queued.pop_front(), state.end) {
            (Some(completion), _) => Ok(Some(completion)),
            (None, Some(status)) => Err(Error::Status(status)),
            (None, None) => Ok(None),
        };
        drop(self.call_due(state));
        result
    }

    /// Takes what there is; when there is nothing for the program, notifications are asked for.
    fn handle(&self, state: &mut State) {
        self.drain();
        let is_armed = state.reap_and_arm();
        let ended = self.farewell();
        match (is_armed, ended) {
            (Ok(()), Ok(None)) => {}
            (Ok(()), Ok(Some(status))) => {
                // What the VMM completed before its farewell.
                let _ = state.reap().is_ok();
                state.end(status);
            }
            _ => state.end(NOT_CONNECTED),
        }
    }
}

/// A thread is in a callback.
struct Calling<'a>(&'a Shared);

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        let this_thread = std::thread::current().id();
        let mut state = self.0.lock();
        let entry = state
            .calling
            .iter()
            .position(|thread| *thread == this_thread);
        if let Some(entry) = entry {
            state.calling.swap_remove(entry);
        }
        if state.is_disconnected {
            self.0.changed.notify_all();
        }
    }
}
