//! One client: its queue, what it has under way, its processes.

use std::collections::{HashMap, HashSet};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use abi::client::{Farewell, FarewellReason, IN_FLIGHT_MAX, MAGIC, PROCESSES_MAX, ResultHeader};
use rustix::net::SendFlags;
use vmm_sys_util::eventfd::EventFd;
use zerocopy::IntoBytes;

use super::queue::{Chain, Queue, Violation};
use super::request::{Incoming, RESULT, Refusal};
use super::sharing::Sharing;
use super::status;

/// Most handles of a client.
const HANDLES_MAX: usize = 4096;
/// What a handle takes of the shim's heap, with its file object, and what it takes of another client that uses it too.
pub(in crate::session) const HANDLE_BYTES: u64 = 320;
const BORROWED_BYTES: u64 = 96;
/// Handles are multiples of four, as NT's.
const HANDLE_STEP: u64 = 4;

/// What the engine gets of a client that has connected.
#[derive(Debug)]
pub(in crate::session) struct ClientEnd {
    /// Its queue.
    pub(in crate::session) queue: Queue,
    /// What it writes to notify the VMM. Never read: an edge-triggered epoll sees each write, and a read could block,
    /// because the client shares the descriptor's flags.
    pub(in crate::session) kick: EventFd,
    /// The pipe by which the VMM notifies it. Not an eventfd: the client could make a write to it block.
    pub(in crate::session) call: OwnedFd,
    /// Its connection.
    pub(in crate::session) socket: UnixStream,
    /// Its process in the guest.
    pub(in crate::session) process: u32,
}

/// A request under way.
#[derive(Debug)]
pub(in crate::session) struct Pending {
    pub(in crate::session) chain: Chain,
    pub(in crate::session) tag: u64,
    pub(in crate::session) process: u32,
    /// The engine's id for it; `None` for what the engine does without the guest.
    pub(in crate::session) job: Option<u64>,
    /// Bytes of guest memory that it takes.
    bytes: u64,
    /// What is done besides when it succeeds.
    pub(in crate::session) follow_up: FollowUp,
    started: Instant,
}

/// What a completed request changes for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) enum FollowUp {
    /// Nothing.
    Nothing,
    /// There is one more process.
    Attached(u32),
    /// The process has one more handle: the guest's is the value, the client's this number.
    Opened(u32, u64),
    /// The client has a number of its own for a handle of the process's owner: process, number, the owner's number.
    Borrowed(u32, u64, u64),
}

/// A handle as the client knows it. The numbers are the VMM's: the guest uses its own again as soon as they are closed,
/// while a client may still have to close what it has cleaned up.
#[derive(Clone, Copy, Debug)]
struct Handle {
    process: u32,
    /// The guest's number; `None` after the cleanup, and of a borrowed one.
    guest: Option<u64>,
    /// The number that the process's owner has for it, who has opened it and closes it.
    borrowed: Option<u64>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::session) struct Outcome<'a> {
    pub(in crate::session) status: u32,
    pub(in crate::session) information: u64,
    pub(in crate::session) value: u64,
    pub(in crate::session) output: &'a [u8],
}

impl Outcome<'_> {
    pub(in crate::session) fn of_status(status: u32) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }
}

/// A connected client.
#[derive(Debug)]
pub(in crate::session) struct Client {
    pub(in crate::session) end: ClientEnd,
    pending: HashMap<u16, Pending>,
    processes: HashSet<u32>,
    /// Processes that it shares with other clients.
    pub(in crate::session) sharing: Sharing,
    /// Processes of [`abi::client::Opcode::Attach`] that the guest has not answered for yet.
    attaching: usize,
    handles: HashMap<u64, Handle>,
    next_handle: u64,
    /// Opens that are under way.
    opening: usize,
    /// Bytes of guest memory that its requests take.
    pub(in crate::session) bytes: u64,
    /// Why it is being disconnected: it is not served any more.
    pub(in crate::session) violation: Option<Violation>,
    /// Its memory in the guest.
    pub(in crate::session) mapping: Option<Mapping>,
}

/// A client's memory in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) struct Mapping {
    /// Number of its [`abi::clients::Slot`].
    pub(in crate::session) slot: u32,
    /// The shim serves the queue.
    pub(in crate::session) is_attached: bool,
    /// The shim has left the next chain to the VMM.
    pub(in crate::session) is_declined: bool,
}

impl Client {
    pub(in crate::session) fn new(end: ClientEnd) -> Self {
        Self {
            processes: HashSet::from([end.process]),
            end,
            pending: HashMap::new(),
            sharing: Sharing::default(),
            attaching: 0,
            handles: HashMap::new(),
            next_handle: HANDLE_STEP,
            opening: 0,
            bytes: 0,
            violation: None,
            mapping: None,
        }
    }

    /// Whether there is something to take.
    pub(in crate::session) fn has_available(&self) -> bool {
        // A violation is something that `take` finds.
        self.violation.is_none() && self.end.queue.available() != Ok(0)
    }

    /// Requests under way, those that the shim has taken too.
    pub(in crate::session) fn in_flight(&self) -> usize {
        self.end.queue.busy_count()
    }

    /// Whether the next request is the shim's to take.
    pub(in crate::session) fn is_next_for_shim(&self) -> bool {
        let is_served = |mapping: &Mapping| mapping.is_attached && !mapping.is_declined;
        self.violation.is_none()
            && self.mapping.as_ref().is_some_and(is_served)
            && matches!(self.end.queue.peek(), Ok(Some(head))
                if Incoming::decode(&self.end.queue, head).is_ok_and(|next| next.is_for_shim()))
    }

    /// The client's slot as an argument of requests to the shim; 0: it has none.
    pub(in crate::session) fn slot_argument(&self) -> u64 {
        self.mapping
            .map_or(0, |mapping| u64::from(mapping.slot) + 1)
    }

    /// The number of the next handle.
    pub(in crate::session) fn take_handle_number(&mut self) -> u64 {
        let number = self.next_handle;
        self.next_handle += HANDLE_STEP;
        number
    }

    /// Takes the next request that may be carried out; answers those that may not.
    pub(in crate::session) fn take(&mut self) -> Option<(u16, Incoming)> {
        if let Some(mapping) = &mut self.mapping {
            mapping.is_declined = false;
        }
        while self.violation.is_none() {
            let head = match self.end.queue.take() {
                Ok(head) => head?,
                Err(violation) => {
                    self.disconnect(violation);
                    return None;
                }
            };
            match Incoming::decode(&self.end.queue, head) {
                Ok(incoming) => return Some((head, incoming)),
                Err(Refusal::Unanswerable) => self.give_back(head, 0),
                Err(Refusal::Status(chain, status)) => {
                    self.answer(head, &chain, Outcome::of_status(status), 0);
                }
            }
        }
        None
    }

    /// The process that a request is for.
    pub(in crate::session) fn process(&self, number: u32) -> Option<u32> {
        if number == 0 {
            return Some(self.end.process);
        }
        (self.owns(number) || self.sharing.has_joined(number)).then_some(number)
    }

    /// Whether a process is the client's own, not one that it has joined.
    pub(in crate::session) fn owns(&self, process: u32) -> bool {
        self.processes.contains(&process)
    }

    pub(in crate::session) fn processes(&self) -> impl Iterator<Item = u32> + '_ {
        self.processes.iter().copied()
    }

    /// Whether it may have one more process.
    pub(in crate::session) fn may_attach(&self) -> bool {
        self.processes.len() + self.attaching + self.sharing.count() < PROCESSES_MAX
    }

    pub(in crate::session) fn forget_process(&mut self, process: u32) {
        self.processes.remove(&process);
        self.sharing.forget(process);
        self.handles.retain(|_, handle| handle.process != process);
    }

    /// Handles on processes that it has joined: `(process, guest handle)`.
    pub(in crate::session) fn joined_handles(&self) -> Vec<(u32, u64)> {
        let handles = self.handles.values();
        handles
            .filter(|handle| self.sharing.has_joined(handle.process))
            .filter_map(|handle| Some((handle.process, handle.guest?)))
            .collect()
    }

    /// Requests under way on processes that it has joined: `(process, job)`.
    pub(in crate::session) fn joined_jobs(&self) -> Vec<(u32, u64)> {
        let pending = self.pending.values();
        pending
            .filter(|pending| self.sharing.has_joined(pending.process))
            .filter_map(|pending| Some((pending.process, pending.job?)))
            .collect()
    }

    /// Whether it may have one more handle.
    pub(in crate::session) fn may_open(&self) -> bool {
        self.handles.len() + self.opening < HANDLES_MAX
    }

    /// What its handles take of the shim's heap.
    pub(in crate::session) fn handle_bytes(&self) -> u64 {
        let bytes = self.handles.values().map(|handle| match handle.borrowed {
            Some(_) => BORROWED_BYTES,
            None => HANDLE_BYTES,
        });
        bytes.sum::<u64>() + self.opening as u64 * HANDLE_BYTES
    }

    /// The guest's number of a handle; `None` if the process has no such handle, or has cleaned it up.
    pub(in crate::session) fn guest_handle(&self, process: u32, handle: u64) -> Option<u64> {
        let found = self.handles.get(&handle)?;
        (found.process == process).then_some(found.guest).flatten()
    }

    /// The owner's number of a handle that the client has borrowed.
    pub(in crate::session) fn borrowed_handle(&self, process: u32, handle: u64) -> Option<u64> {
        let found = self.handles.get(&handle)?;
        (found.process == process)
            .then_some(found.borrowed)
            .flatten()
    }

    /// Its own number for a handle of the owner's that it has borrowed already.
    pub(in crate::session) fn number_of_borrowed(&self, process: u32, owners: u64) -> Option<u64> {
        let mut handles = self.handles.iter();
        handles
            .find(|(_, handle)| handle.process == process && handle.borrowed == Some(owners))
            .map(|(number, _)| *number)
    }

    /// The owner of a process closes a handle there.
    pub(in crate::session) fn forget_borrowed(&mut self, process: u32, owners: u64) {
        self.handles
            .retain(|_, handle| handle.process != process || handle.borrowed != Some(owners));
    }

    /// The handle is cleaned up.
    pub(in crate::session) fn clean(&mut self, handle: u64) {
        if let Some(handle) = self.handles.get_mut(&handle) {
            handle.guest = None;
        }
    }

    /// The handle's number is free. Whether the process had it.
    pub(in crate::session) fn forget_handle(&mut self, process: u32, handle: u64) -> bool {
        let is_known = self
            .handles
            .get(&handle)
            .is_some_and(|found| found.process == process && found.borrowed.is_none());
        is_known && self.handles.remove(&handle).is_some()
    }

    /// Whether one more request of that many bytes is within the client's quota, when `free` bytes of guest memory are left.
    /// A client never takes more than two thirds of what there is, so that others get theirs.
    pub(in crate::session) fn has_quota(&self, bytes: u64, free: u64) -> bool {
        // The request itself is under way by now.
        self.in_flight() <= IN_FLIGHT_MAX as usize
            && bytes <= free
            && self.bytes.saturating_add(bytes) <= 2 * (free - bytes)
    }

    /// Remembers a request until it is completed.
    pub(in crate::session) fn begin(
        &mut self,
        head: u16,
        incoming: Incoming,
        process: u32,
        job: Option<u64>,
        follow_up: FollowUp,
    ) {
        let bytes = incoming.bytes();
        self.bytes = self.bytes.saturating_add(bytes);
        self.attaching += usize::from(matches!(follow_up, FollowUp::Attached(_)));
        self.opening += usize::from(matches!(
            follow_up,
            FollowUp::Opened(..) | FollowUp::Borrowed(..)
        ));
        let pending = Pending {
            tag: incoming.header.tag,
            chain: incoming.chain,
            process,
            job,
            bytes,
            follow_up,
            started: Instant::now(),
        };
        self.pending.insert(head, pending);
    }

    /// The engine's id for the request with that tag.
    pub(in crate::session) fn job_of_tag(&self, process: u32, tag: u64) -> Option<u64> {
        let mut pending = self.pending.values();
        pending
            .find(|pending| {
                pending.tag == tag && pending.process == process && pending.job.is_some()
            })
            .and_then(|pending| pending.job)
    }

    /// Completes a request that was begun.
    pub(in crate::session) fn complete(&mut self, head: u16, mut outcome: Outcome<'_>) {
        let Some(pending) = self.pending.remove(&head) else {
            return;
        };
        self.bytes = self.bytes.saturating_sub(pending.bytes);
        let is_error = outcome.status >> 31 != 0;
        match pending.follow_up {
            FollowUp::Nothing => {}
            FollowUp::Attached(process) => {
                self.attaching = self.attaching.saturating_sub(1);
                if !is_error {
                    outcome.value = u64::from(process);
                    self.processes.insert(process);
                }
            }
            FollowUp::Opened(process, number) => {
                self.opening = self.opening.saturating_sub(1);
                if !is_error {
                    let handle = Handle {
                        process,
                        guest: Some(outcome.value),
                        borrowed: None,
                    };
                    outcome.value = number;
                    self.handles.insert(number, handle);
                }
            }
            FollowUp::Borrowed(process, number, owners) => {
                self.opening = self.opening.saturating_sub(1);
                if !is_error {
                    let handle = Handle {
                        process,
                        guest: None,
                        borrowed: Some(owners),
                    };
                    outcome.value = number;
                    self.handles.insert(number, handle);
                }
            }
        }
        let elapsed = pending.started.elapsed().as_nanos();
        let elapsed = u64::try_from(elapsed).unwrap_or(u64::MAX);
        self.answer(head, &pending.chain, outcome, elapsed);
    }

    /// Completes everything that is under way with a status.
    pub(in crate::session) fn complete_all(&mut self, status: u32) {
        let heads: Vec<u16> = self.pending.keys().copied().collect();
        for head in heads {
            self.complete(head, Outcome::of_status(status));
        }
        // What the shim had taken: the client may have changed the chains since, to its own harm.
        let heads: Vec<u16> = self.end.queue.busy().collect();
        for head in heads {
            match Incoming::decode(&self.end.queue, head) {
                Ok(Incoming { chain, .. }) | Err(Refusal::Status(chain, _)) => {
                    self.answer(head, &chain, Outcome::of_status(status), 0);
                }
                Err(Refusal::Unanswerable) => self.give_back(head, 0),
            }
        }
    }

    /// Writes a result and gives the chain back.
    pub(in crate::session) fn answer(
        &mut self,
        head: u16,
        chain: &Chain,
        outcome: Outcome<'_>,
        elapsed_ns: u64,
    ) {
        let written = self.end.queue.write(chain, RESULT, outcome.output);
        let output_bytes = u32::try_from(written).unwrap_or(u32::MAX);
        let result = ResultHeader {
            status: outcome.status,
            output_bytes,
            information: outcome.information,
            value: outcome.value,
            elapsed_ns,
        };
        self.end.queue.write(chain, 0, result.as_bytes());
        let header = u32::try_from(RESULT).unwrap_or(0);
        self.give_back(head, output_bytes.saturating_add(header));
    }

    fn give_back(&mut self, head: u16, length: u32) {
        if let Err(violation) = self.end.queue.give_back(head, length) {
            self.disconnect(violation);
        }
    }

    /// Notifies the client of what was given back, if it wants that.
    pub(in crate::session) fn signal(&mut self) {
        match self.end.queue.is_signal_due() {
            Ok(false) => {}
            // A full pipe is a notification that the client has not taken yet; one without a reader is a client that is gone.
            Ok(true) => {
                let _ = rustix::io::write(&self.end.call, &[1]).is_ok();
            }
            Err(violation) => self.disconnect(violation),
        }
    }

    /// Says farewell and ends the connection; whoever reads from it sees its end.
    pub(in crate::session) fn farewell(&mut self, status: u32, reason: FarewellReason) {
        let farewell = Farewell {
            magic: MAGIC,
            status,
            reason: reason as u32,
        };
        // A client that does not read gets no farewell.
        let _ = rustix::net::send(
            &self.end.socket,
            farewell.as_bytes(),
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        )
        .is_ok();
        let _ = self.end.socket.shutdown(Shutdown::Both).is_ok();
    }

    fn disconnect(&mut self, violation: Violation) {
        if self.violation.is_none() {
            tracing::warn!(
                "the client with process {:#x} is disconnected: {violation}",
                self.end.process
            );
            self.violation = Some(violation);
            self.farewell(status::INVALID_PARAMETER, FarewellReason::Protocol);
        }
    }
}
