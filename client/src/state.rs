//! What a connection has under way, and what has come of it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::thread::{JoinHandle, ThreadId};

use abi::client::{Opcode, QueueLayout, RequestHeader, ResultHeader};
use zerocopy::FromBytes;

use crate::buffers;
use crate::error::Error;
use crate::looking::Looking;
use crate::pinned::{DataArea, Part};
use crate::queue::Queue;
use crate::request::{Completion, Notify};
use crate::shown::Showing;

/// STATUS_DEVICE_NOT_CONNECTED: the connection ended without a farewell.
pub(crate) const NOT_CONNECTED: u32 = 0xC000_009D;
/// STATUS_CANCELLED: the program itself has ended the connection.
const CANCELLED: u32 = 0xC000_0120;
/// STATUS_INVALID_PARAMETER.
pub(crate) const INVALID_PARAMETER: u32 = 0xC000_000D;

pub(crate) const HEADER: u64 = size_of::<RequestHeader>() as u64;
pub(crate) const RESULT: u64 = size_of::<ResultHeader>() as u64;
/// What a request to cancel another takes of the data area.
const RESERVE: u64 = (HEADER + RESULT).next_multiple_of(buffers::ALIGNMENT);

/// A request that the VMM has.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) tag: u64,
    /// Its buffer in the data area: header, input, result, output.
    pub(crate) at: u64,
    pub(crate) bytes: u64,
    pub(crate) result_at: u64,
    pub(crate) output_bytes: u32,
    pub(crate) notify: Notify,
    /// What the driver works on is not freed before.
    pub(crate) _part: Option<Part>,
}

/// A callback that is to be called.
pub(crate) struct Due {
    pub(crate) call: Box<dyn FnOnce(Completion) + Send>,
    pub(crate) completion: Completion,
}

impl std::fmt::Debug for Due {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Due").field(&self.completion).finish()
    }
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) queue: Queue,
    pub(crate) area: DataArea,
    pub(crate) pending: HashMap<u16, Pending>,
    /// Completions that threads wait for, by tag.
    pub(crate) done: HashMap<u64, Completion>,
    pub(crate) queued: VecDeque<Completion>,
    /// In their order. Whoever adds some calls as many, or leaves them to others who do.
    pub(crate) due: VecDeque<Due>,
    /// The threads that are in a callback.
    pub(crate) calling: Vec<ThreadId>,
    /// Those that handle completions and nothing else.
    pub(crate) threads: Vec<JoinHandle<()>>,
    pub(crate) next_tag: u64,
    in_flight_max: usize,
    /// Where in the memory a request to cancel another has room when nothing else has.
    reserve: u64,
    is_reserve_free: bool,
    /// A thread waits for the VMM; it hands out what comes.
    pub(crate) is_waited: bool,
    /// The status of everything from now on: the connection has ended.
    pub(crate) end: Option<u32>,
    /// The program itself has ended it.
    pub(crate) is_disconnected: bool,
    pub(crate) looking: Looking,
    pub(crate) showing: Showing,
}

impl State {
    pub(crate) fn new(queue: Queue, layout: &QueueLayout, in_flight_max: u32) -> Self {
        let bytes = layout.data_bytes.saturating_sub(RESERVE);
        Self {
            area: DataArea::new(Arc::clone(queue.memory()), layout.data, bytes),
            queue,
            pending: HashMap::new(),
            done: HashMap::new(),
            queued: VecDeque::new(),
            due: VecDeque::new(),
            calling: Vec::new(),
            threads: Vec::new(),
            next_tag: 1,
            // One, and one that cancels it.
            in_flight_max: usize::try_from(in_flight_max).unwrap_or(0).max(2),
            reserve: layout.data + bytes,
            is_reserve_free: true,
            is_waited: false,
            end: None,
            is_disconnected: false,
            looking: Looking::new(),
            showing: Showing::default(),
        }
    }

    /// Takes room for a request, if there is some. One place is kept for cancelling what has all others.
    pub(crate) fn place(&mut self, opcode: Opcode, bytes: u64) -> Option<u64> {
        let is_cancel = opcode == Opcode::Cancel;
        let kept = usize::from(!is_cancel);
        if self.pending.len() + kept >= self.in_flight_max || !self.queue.has_room(1 + kept) {
            return None;
        }
        let at = self.area.allocate(bytes, buffers::ALIGNMENT);
        if at.is_none() && is_cancel && bytes <= RESERVE && self.is_reserve_free {
            self.is_reserve_free = false;
            return Some(self.reserve);
        }
        at
    }

    fn release(&mut self, pending: &Pending) {
        if pending.at == self.reserve {
            self.is_reserve_free = true;
        } else {
            self.area.release(pending.at, pending.bytes);
        }
    }

    fn deliver(&mut self, notify: Notify, completion: Completion) {
        match notify {
            Notify::Wait => {
                self.done.insert(completion.tag, completion);
            }
            Notify::Queue => self.queued.push_back(completion),
            Notify::Call(call) => self.due.push_back(Due { call, completion }),
        }
    }

    /// Takes what the VMM has given back. Whether there was something.
    pub(crate) fn reap(&mut self) -> Result<bool, Error> {
        let mut is_any = false;
        while let Some((head, length)) = self.queue.take_used()? {
            is_any = true;
            let Some(pending) = self.pending.remove(&head) else {
                continue;
            };
            let completion = self.completion(&pending, length)?;
            self.release(&pending);
            self.deliver(pending.notify, completion);
        }
        Ok(is_any)
    }

    /// As [`Self::reap`], until notifications are asked for and nothing has come before that.
    pub(crate) fn reap_and_arm(&mut self) -> Result<(), Error> {
        loop {
            self.reap()?;
            self.queue.arm()?;
            // What came before that was not notified.
            if !self.queue.has_used()? {
                return Ok(());
            }
        }
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
    pub(crate) fn end(&mut self, status: u32) {
        self.end_with(status, status);
    }

    /// The program ends the connection.
    pub(crate) fn disconnect(&mut self) {
        self.is_disconnected = true;
        if self.end.is_none() {
            // What is completed already, as far as it can be read.
            let _ = self.reap().is_ok();
            self.end_with(CANCELLED, NOT_CONNECTED);
        }
    }

    fn end_with(&mut self, under_way: u32, later: u32) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(later);
        let pending: Vec<Pending> = self.pending.drain().map(|(_, pending)| pending).collect();
        for Pending { tag, notify, .. } in pending {
            let completion = Completion {
                tag,
                status: under_way,
                ..Completion::default()
            };
            self.deliver(notify, completion);
        }
    }
}
