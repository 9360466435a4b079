//! A connection: submitting, waiting, completions.

use std::collections::{HashMap, VecDeque};
use std::io::Read;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use abi::client::{Farewell, MAGIC, RequestHeader, ResultHeader};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use zerocopy::{FromBytes, IntoBytes};

use crate::buffers;
use crate::error::Error;
use crate::handshake::shake_hands;
use crate::looking::{Looking, Next};
use crate::pinned::{Buffer, DataArea, Part};
use crate::queue::Queue;
use crate::request::{Completion, Notify, Request};

/// Bytes of data area that [`Connection::connect`] asks for; memory that is not used costs nothing.
const DATA_BYTES: u64 = 16 << 20;
/// STATUS_DEVICE_NOT_CONNECTED: the connection ended without a farewell.
const NOT_CONNECTED: u32 = 0xC000_009D;
/// STATUS_INVALID_PARAMETER.
const INVALID_PARAMETER: u32 = 0xC000_000D;

const HEADER: u64 = size_of::<RequestHeader>() as u64;
const RESULT: u64 = size_of::<ResultHeader>() as u64;

/// A request that the VMM has.
#[derive(Debug)]
struct Pending {
    tag: u64,
    /// Its buffer in the data area: header, input, result, output.
    at: u64,
    bytes: u64,
    result_at: u64,
    output_bytes: u32,
    notify: Notify,
    /// What the driver works on is not freed before.
    _part: Option<Part>,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    area: DataArea,
    pending: HashMap<u16, Pending>,
    /// Completions that threads wait for, by tag.
    done: HashMap<u64, Completion>,
    queued: VecDeque<Completion>,
    next_tag: u64,
    in_flight_max: usize,
    /// A thread waits for the VMM; it hands out what comes.
    is_waited: bool,
    /// The status of everything from now on: the connection has ended.
    end: Option<u32>,
    looking: Looking,
}

/// What is ready: the pipe of notifications, the socket.
const OF_CALL: u64 = 0;
const OF_SOCKET: u64 = 1;

type Calls = Vec<(Box<dyn FnOnce(Completion) + Send>, Completion)>;

impl State {
    fn deliver(&mut self, notify: Notify, completion: Completion, calls: &mut Calls) {
        match notify {
            Notify::Wait => {
                self.done.insert(completion.tag, completion);
            }
            Notify::Queue => self.queued.push_back(completion),
            Notify::Call(call) => calls.push((call, completion)),
        }
    }

    /// Takes what the VMM has given back. Whether there was something.
    fn reap(&mut self, calls: &mut Calls) -> Result<bool, Error> {
        let mut is_any = false;
        while let Some((head, length)) = self.queue.take_used()? {
            is_any = true;
            let Some(pending) = self.pending.remove(&head) else {
                continue;
            };
            let completion = self.completion(&pending, length)?;
            self.area.release(pending.at, pending.bytes);
            self.deliver(pending.notify, completion, calls);
        }
        Ok(is_any)
    }

    fn completion(&self, pending: &Pending, length: u32) -> Result<Completion, Error> {
        let mut completion = Completion {
            tag: pending.tag,
            status: INVALID_PARAMETER,
            ..Completion::default()
        };
        if u64::from(length) < RESULT {
            // The VMM did not understand the chain.
            return Ok(completion);
        }
        let mut bytes = [0; size_of::<ResultHeader>()];
        self.queue.read(pending.result_at, &mut bytes)?;
        let result =
            ResultHeader::read_from_bytes(&bytes).map_err(|_| Error::Protocol("a result"))?;
        let output_bytes = result.output_bytes.min(pending.output_bytes);
        completion.output = vec![0; usize::try_from(output_bytes).unwrap_or(0)];
        self.queue
            .read(pending.result_at + RESULT, &mut completion.output)?;
        completion.status = result.status;
        completion.information = result.information;
        completion.value = result.value;
        completion.elapsed_ns = result.elapsed_ns;
        Ok(completion)
    }

    /// Everything ends with a status, what is under way first.
    fn end(&mut self, status: u32, calls: &mut Calls) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(status);
        let pending: Vec<Pending> = self.pending.drain().map(|(_, pending)| pending).collect();
        for Pending { tag, notify, .. } in pending {
            let completion = Completion {
                tag,
                status,
                ..Completion::default()
            };
            self.deliver(notify, completion, calls);
        }
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    kick: OwnedFd,
    call: OwnedFd,
    socket: UnixStream,
    /// Readable when `call` or `socket` is.
    ready: OwnedFd,
    area: DataArea,
    process: u32,
    transfer_max: u32,
}

/// A connection to a driver: a process of its guest. May be used by many threads at once.
///
/// Dropping it ends the process: requests under way are cancelled, handles closed.
#[derive(Debug)]
pub struct Connection {
    shared: Arc<Shared>,
}

impl Connection {
    /// Connects to the socket of a `ringfence run --socket`.
    ///
    /// # Errors
    /// The socket's; the status with which the driver refuses a client.
    pub fn connect(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::connect_with(path, DATA_BYTES)
    }

    /// As [`Self::connect`], with a data area of so many bytes: what all requests under way have room in.
    ///
    /// # Errors
    /// As for [`Self::connect`].
    pub fn connect_with(path: impl AsRef<Path>, data_bytes: u64) -> Result<Self, Error> {
        let mut socket = UnixStream::connect(path)?;
        let (welcome, layout, [memory, kick, call]) = shake_hands(&mut socket, data_bytes)?;
        let queue = Queue::map(memory.into(), layout)?;
        let area = DataArea::new(Arc::clone(queue.memory()), layout.data, layout.data_bytes);
        let ready = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&ready, &call, EventData::new_u64(OF_CALL), EventFlags::IN)?;
        let ended = EventFlags::IN | EventFlags::RDHUP;
        epoll::add(&ready, &socket, EventData::new_u64(OF_SOCKET), ended)?;
        socket.set_nonblocking(true)?;
        let state = State {
            queue,
            area: area.clone(),
            pending: HashMap::new(),
            done: HashMap::new(),
            queued: VecDeque::new(),
            next_tag: 1,
            in_flight_max: usize::try_from(welcome.in_flight_max).unwrap_or(1).max(1),
            is_waited: false,
            end: None,
            looking: Looking::new(),
        };
        let shared = Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            kick,
            call,
            socket,
            ready,
            area,
            process: welcome.process,
            transfer_max: welcome.transfer_max,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Id of this process in the guest.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.shared.process
    }

    /// Memory that requests use in place ([`Request::read_to`] and its like): `bytes` of it, rounded up to whole pages.
    ///
    /// # Errors
    /// The data area has no room for it.
    pub fn buffer(&self, bytes: u32) -> Result<Buffer, Error> {
        Buffer::allocate(&self.shared.area, bytes)
    }

    /// Makes a request; returns its tag. Waits while too many are under way.
    ///
    /// # Errors
    /// The connection's end; more data than a request, or the data area, has room for.
    pub fn submit(&self, request: &Request<'_>, notify: Notify) -> Result<u64, Error> {
        self.shared.submit(request, notify)
    }

    /// Waits for a request that was submitted with [`Notify::Wait`].
    ///
    /// # Errors
    /// The connection's end; there is no such request.
    pub fn wait(&self, tag: u64) -> Result<Completion, Error> {
        self.shared.run(|state| {
            if let Some(completion) = state.done.remove(&tag) {
                return Some(Ok(completion));
            }
            let is_known = state.pending.values().any(|pending| pending.tag == tag);
            (!is_known).then_some(Err(Error::Status(state.end.unwrap_or(INVALID_PARAMETER))))
        })?
    }

    /// The next completion of a request that was submitted with [`Notify::Queue`]; runs callbacks that are due. Does not
    /// wait: `None` means that [`Self::as_fd`] will be readable when there is something.
    ///
    /// # Errors
    /// The connection's end, after all completions.
    pub fn next_completion(&self) -> Result<Option<Completion>, Error> {
        self.shared.next_completion()
    }

    /// Starts a thread that handles completions, so that callbacks run without anybody waiting. It ends with the
    /// connection.
    ///
    /// # Errors
    /// The operating system's.
    pub fn start_thread(&self) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        let run = move || {
            // It ends with the connection; there is nobody to tell.
            let _ = shared.run(|_| None::<()>).is_ok();
        };
        std::thread::Builder::new()
            .name("ringfence".to_owned())
            .spawn(run)?;
        Ok(())
    }
}

impl AsFd for Connection {
    /// Readable when [`Connection::next_completion`] may have something, for poll and epoll.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.ready.as_fd()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The thread of `start_thread` sees it, and so does the VMM.
        let _ = self.shared.socket.shutdown(Shutdown::Both).is_ok();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn submit(&self, request: &Request<'_>, notify: Notify) -> Result<u64, Error> {
        let transfer_max = u64::from(self.transfer_max);
        let input_bytes = request.input.len() as u64;
        let output_bytes = u64::from(request.output_bytes);
        let (part_written, part_read) = request.part_bytes();
        let is_ours = |part: &Part| part.is_in(&self.area);
        if !request.part.as_ref().is_none_or(is_ours) {
            return Err(Error::Protocol("a buffer belongs to another connection"));
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
            let has_room = state.pending.len() < state.in_flight_max && state.queue.has_room();
            if has_room && let Some(at) = state.area.allocate(bytes, buffers::ALIGNMENT) {
                break at;
            }
            if state.pending.is_empty() {
                // There will never be room.
                return Err(Error::NoRoom(bytes));
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
    fn run<T>(&self, mut is_over: impl FnMut(&mut State) -> Option<T>) -> Result<T, Error> {
        let mut state = self.lock();
        loop {
            if let Some(result) = is_over(&mut state) {
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
            let mut calls = Calls::new();
            let reaped = state.reap(&mut calls);
            match (ready, reaped) {
                (Ok(None), Ok(_)) => {}
                (Ok(Some(status)), Ok(_)) => state.end(status, &mut calls),
                (Err(_), _) | (_, Err(_)) => state.end(NOT_CONNECTED, &mut calls),
            }
            self.changed.notify_all();
            if !calls.is_empty() {
                drop(state);
                for (call, completion) in calls {
                    call(completion);
                }
                state = self.lock();
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

    fn next_completion(&self) -> Result<Option<Completion>, Error> {
        let mut calls = Calls::new();
        let result = {
            let mut state = self.lock();
            if state.queued.is_empty() && !state.is_waited && state.end.is_none() {
                self.handle(&mut state, &mut calls);
                self.changed.notify_all();
            }
            match (state.queued.pop_front(), state.end) {
                (Some(completion), _) => Ok(Some(completion)),
                (None, Some(status)) => Err(Error::Status(status)),
                (None, None) => Ok(None),
            }
        };
        for (call, completion) in calls {
            call(completion);
        }
        result
    }

    /// Takes what there is; when there is nothing for the program, notifications are asked for.
    fn handle(&self, state: &mut State, calls: &mut Calls) {
        self.drain();
        let is_armed = Self::reap_and_arm(state, calls);
        let ended = self.farewell();
        match (is_armed, ended) {
            (Ok(()), Ok(None)) => {}
            (Ok(()), Ok(Some(status))) => {
                // What the VMM completed before its farewell.
                let _ = state.reap(calls).is_ok();
                state.end(status, calls);
            }
            _ => state.end(NOT_CONNECTED, calls),
        }
    }

    fn reap_and_arm(state: &mut State, calls: &mut Calls) -> Result<(), Error> {
        loop {
            state.reap(calls)?;
            state.queue.arm()?;
            // What came before that was not notified.
            if !state.queue.has_used()? {
                return Ok(());
            }
        }
    }
}
