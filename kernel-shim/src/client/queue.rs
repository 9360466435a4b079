//! Taking requests from clients' queues, and completing them.

use super::memory::{self, View};
use super::table::{self, CLIENTS, Client, Clients, Pending};
use super::user;
use crate::io::volume::related_device;
use crate::io::{fast_io, file};
use crate::nt::{ControlCode, DO_BUFFERED_IO, DO_DIRECT_IO, Method, NtStatus};
use crate::raw::{low16, low32, to_usize};
use crate::shared;
use abi::channel::{Completion, Operation, Request};
use abi::client::{IN_FLIGHT_MAX, Opcode, ResultHeader};
use abi::clients::SLOTS;
use abi::layout::CLIENT_USER;
use abi::layout::entries::TABLE_BYTES;
use channel::{HEADER, Incoming, Piece, RESULT};
use zerocopy::IntoBytes;

/// Ids of requests from clients' queues have this bit; the VMM's do not.
const FROM_QUEUE: u64 = 1 << 62;
const SLOT_SHIFT: u32 = 16;
/// Requests that each client may have under way, whatever the others do.
const GUARANTEED: usize = 8;
/// Requests of all clients together besides those: each takes memory for an IRP.
const SHARED: usize = 1408;

/// The id of the request at a head.
pub(super) fn id_of(slot: usize, head: u16) -> u64 {
    FROM_QUEUE | (slot as u64) << SLOT_SHIFT | u64::from(head)
}

fn slot_of(id: u64) -> usize {
    to_usize(id >> SLOT_SHIFT & (SLOTS as u64 - 1))
}

/// Whether a request came from a client's queue.
pub(crate) const fn is_for_client(id: u64) -> bool {
    id >> 62 == 1
}

/// The view in which a request is carried out.
pub(crate) fn view_of(id: u64) -> View {
    if is_for_client(id) {
        memory::view_of_slot(slot_of(id))
    } else {
        0
    }
}

/// What was found in the queues.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing that can be taken.
    Nothing,
    /// A request, which was taken.
    Request(Request),
    /// Something for the VMM.
    Declined,
}

impl Clients {
    /// Whether one more request may be taken from a client, as far as the others are concerned.
    fn has_share(&self, client: &Client) -> bool {
        let own = client.pending.len();
        let others = |client: &Client| client.pending.len().saturating_sub(GUARANTEED);
        own < GUARANTEED || self.all.iter().flatten().map(others).sum::<usize>() < SHARED
    }

    /// Whether there is something to take, or to decline.
    pub(super) fn has_available(&self) -> bool {
        self.turns().any(|slot| self.is_ready(slot))
    }

    fn is_ready(&self, slot: usize) -> bool {
        let client = self.all.get(slot).and_then(Option::as_ref);
        client.is_some_and(|client| {
            !client.is_gone && client.queue.available() != Ok(0) && self.has_share(client)
        })
    }

    /// Takes the next request, of each client in its turn.
    pub(super) fn take(&mut self) -> Found {
        for slot in self.turns() {
            if !self.is_ready(slot) {
                continue;
            }
            self.next = slot + 1;
            let free = shared::user_bytes().saturating_sub(self.bytes());
            let Some(client) = self.get(slot) else {
                continue;
            };
            return client.take(free).map_or_else(
                || {
                    client.decline();
                    Found::Declined
                },
                Found::Request,
            );
        }
        Found::Nothing
    }
}

/// What a request comes to: the operation, its arguments, whether all of the output comes back, bytes of pool.
struct Work {
    operation: Operation,
    arguments: [u64; 6],
    is_whole: bool,
    bytes: u64,
}

/// The user address of a piece; none is NULL, 0.
const fn address(piece: Piece) -> u64 {
    if piece.bytes == 0 {
        0
    } else {
        CLIENT_USER + piece.at
    }
}

/// Whether a driver can use a piece by its user address.
fn is_usable(piece: Piece) -> bool {
    let last = piece.at + piece.bytes.saturating_sub(1);
    piece.bytes == 0
        || (piece.at / TABLE_BYTES..=last / TABLE_BYTES)
            .all(|table| user::is_mappable(CLIENT_USER + table * TABLE_BYTES))
}

impl Client {
    /// Takes the next request if it is whole and for the shim; `None`: it is the VMM's.
    fn take(&mut self, free: u64) -> Option<Request> {
        if self.pending.len() >= IN_FLIGHT_MAX as usize {
            return None;
        }
        let head = self.queue.peek().ok()??;
        let incoming = Incoming::decode(&self.queue, head).ok()?;
        let process = match incoming.header.process {
            0 => self.process,
            process => process,
        };
        let work = self.work(process, &incoming)?;
        // As the VMM's own quota: no client takes more than two thirds of what there is.
        let is_within = work.bytes == 0
            || work.bytes <= free
                && self.bytes.saturating_add(work.bytes) <= 2 * (free - work.bytes);
        if !is_within {
            return None;
        }
        self.queue.take_peeked(head);
        self.publish(head);
        self.bytes += work.bytes;
        let pending = Pending {
            tag: incoming.header.tag,
            process,
            output_bytes: incoming.header.output_bytes,
            chain: incoming.chain,
            is_whole: work.is_whole,
            bytes: work.bytes,
            started: shared::platform().time_stamp(),
        };
        self.pending.insert(head, pending);
        Some(Request {
            id: id_of(self.slot, head),
            operation: work.operation as u32,
            process,
            arguments: work.arguments,
        })
    }

    fn work(&self, process: u32, incoming: &Incoming) -> Option<Work> {
        let header = &incoming.header;
        let (input_bytes, output_bytes) = (
            u64::from(header.input_bytes),
            u64::from(header.output_bytes),
        );
        let plain = |operation, arguments| Work {
            operation,
            arguments,
            is_whole: false,
            bytes: 0,
        };
        if incoming.opcode == Opcode::Cancel {
            let mut pending = self.pending.iter();
            let (&head, _) = pending.find(|(_, pending)| {
                pending.tag == header.argument && pending.process == process
            })?;
            let id = id_of(self.slot, head);
            return Some(plain(Operation::Cancel, [id, 0, 0, 0, 0, 0]));
        }
        let (owner, handle) = self.handle(header.handle)?;
        if owner != process {
            return None;
        }
        let transfer = |piece: Piece, bytes: u64, operation| {
            let (file, _) = file::by_handle(process, handle).ok()?;
            let flags = related_device(file).read().Flags;
            let is_neither = flags & (DO_BUFFERED_IO | DO_DIRECT_IO) == 0;
            if is_neither && !is_usable(piece) {
                return None;
            }
            let is_buffered = flags & DO_BUFFERED_IO != 0;
            Some(Work {
                bytes: if is_buffered { bytes } else { 0 },
                ..plain(
                    operation,
                    [handle, address(piece), bytes, header.argument, 0, 0],
                )
            })
        };
        match incoming.opcode {
            Opcode::DeviceControl => {
                let input = incoming.chain.single_readable(HEADER)?;
                let output = incoming.chain.single_writable(RESULT)?;
                let method = ControlCode::new(header.code).method;
                let bytes = match method {
                    Method::Buffered => input_bytes.max(output_bytes),
                    Method::InDirect | Method::OutDirect => input_bytes,
                    Method::Neither => 0,
                };
                let (file, _) = file::by_handle(process, handle).ok()?;
                let is_by_address = method == Method::Neither || fast_io::has_device_control(file);
                if is_by_address && !(is_usable(input) && is_usable(output)) {
                    return None;
                }
                let code = u64::from(header.code);
                let arguments = [
                    handle,
                    code,
                    address(input),
                    input_bytes,
                    address(output),
                    output_bytes,
                ];
                Some(Work {
                    is_whole: method != Method::Buffered,
                    bytes,
                    ..plain(Operation::DeviceControl, arguments)
                })
            }
            Opcode::Read if input_bytes == 0 => {
                let piece = incoming.chain.single_writable(RESULT)?;
                transfer(piece, output_bytes, Operation::Read)
            }
            Opcode::Write if output_bytes == 0 => {
                let piece = incoming.chain.single_readable(HEADER)?;
                transfer(piece, input_bytes, Operation::Write)
            }
            Opcode::Flush => Some(plain(Operation::Flush, [handle, 0, 0, 0, 0, 0])),
            _ => None,
        }
    }

    /// Writes a result and gives the chain back.
    fn complete(&mut self, head: u16, completion: &Completion) {
        let Some(pending) = self.pending.remove(&head) else {
            return;
        };
        self.bytes = self.bytes.saturating_sub(pending.bytes);
        let output_bytes = if pending.is_whole {
            pending.output_bytes
        } else if NtStatus(completion.status).is_error() {
            0
        } else {
            low32(completion.information.min(u64::from(pending.output_bytes)))
        };
        let ticks = shared::platform()
            .time_stamp()
            .wrapping_sub(pending.started);
        let result = ResultHeader {
            status: completion.status,
            output_bytes,
            information: completion.information,
            value: completion.value,
            elapsed_ns: ticks.saturating_mul(1_000_000) / shared::tsc_khz().max(1),
        };
        self.queue.write(&pending.chain, 0, result.as_bytes());
        // Offsets of the ring come from its layout: there is no error.
        let length = output_bytes.saturating_add(low32(RESULT));
        let _ = self.queue.give_back(head, length);
        self.publish(head);
        self.count_served();
        // A client that asks for it later looks once more before it sleeps.
        self.is_waiting |= self.queue.is_signal_wanted() == Ok(true);
    }
}

/// A request from a client's queue is done.
pub(crate) fn complete(completion: &Completion) {
    let slot = slot_of(completion.id);
    let detached = CLIENTS.with(|clients| {
        let client = clients.get(slot)?;
        let was_waiting = client.is_waiting;
        client.complete(low16(completion.id), completion);
        let is_new = client.is_waiting && !was_waiting;
        let detached = client.is_done();
        clients.waiting += usize::from(is_new);
        if detached.is_some() {
            clients.remove(slot);
        }
        detached
    });
    if let Some(id) = detached {
        table::detached(id);
    }
}
