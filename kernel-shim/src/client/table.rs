//! The clients: attaching, their handles, detaching.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::memory::{self, Window};
use crate::io::{file, request};
use crate::nt::NtStatus;
use crate::raw::{Global, low32, to_usize, volatile_read, volatile_write};
use crate::shared;
use abi::channel::{Completion, Request};
use abi::client::QueueLayout;
use abi::clients::{Attach, QueueState, SLOTS, Slot};
use abi::layout::Shared;
use channel::{Chain, Queue};
use core::mem::offset_of;

/// A request that was taken from a client's queue.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) chain: Chain,
    pub(super) tag: u64,
    pub(super) process: u32,
    /// Bytes of output that it has room for.
    pub(super) output_bytes: u32,
    /// The driver works on the client's buffer itself: all of it comes back.
    pub(super) is_whole: bool,
    /// Bytes of pool that it takes.
    pub(super) bytes: u64,
    /// The time-stamp counter when it was taken.
    pub(super) started: u64,
}

/// A mapped client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) slot: usize,
    pub(super) queue: Queue<Window>,
    pub(super) process: u32,
    /// Process and handle there, by the client's number.
    pub(super) handles: BTreeMap<u64, (u32, u64)>,
    /// The same of handles that other clients have opened, and close.
    borrowed: BTreeMap<u64, (u32, u64)>,
    /// By head.
    pub(super) pending: BTreeMap<u16, Pending>,
    /// Bytes of pool that its requests take.
    pub(super) bytes: u64,
    /// It is gone: nothing more is taken from its queue.
    pub(super) is_gone: bool,
    /// The request to complete when nothing of it is left.
    detach: Option<u64>,
    served: u64,
    /// It wants to be notified.
    pub(super) is_waiting: bool,
}

/// All of them, by slot.
#[derive(Debug)]
pub(super) struct Clients {
    pub(super) all: [Option<Client>; SLOTS],
    /// A bit for each slot that has one.
    pub(super) present: u32,
    /// Whose turn it is.
    pub(super) next: usize,
    /// How many want to be notified of what was completed since the guest was entered.
    pub(super) waiting: usize,
    /// Opens under way, by the VMM's id: slot, the client's number for the handle, process.
    opening: BTreeMap<u64, (usize, u64, u32)>,
}

pub(super) static CLIENTS: Global<Clients> = Global::new(
    "clients",
    Clients {
        all: [const { None }; SLOTS],
        present: 0,
        next: 0,
        waiting: 0,
        opening: BTreeMap::new(),
    },
);

pub(super) fn initialize() {
    CLIENTS.with(|clients| {
        clients.all = [const { None }; SLOTS];
        clients.present = 0;
        clients.next = 0;
        clients.waiting = 0;
        clients.opening.clear();
    });
}

fn slot_address(slot: usize, field: usize) -> u64 {
    let slots = shared::platform().shared() + Shared::CLIENTS;
    slots + (slot * size_of::<Slot>() + field) as u64
}

impl Client {
    /// Shows the VMM that the next chain is for it.
    pub(super) fn decline(&self) {
        volatile_write(
            slot_address(self.slot, offset_of!(Slot, is_declined)),
            1_u32,
        );
    }

    /// Shows the VMM what has changed with the chain at `head`.
    pub(super) fn publish(&self, head: u16) {
        let queue = slot_address(self.slot, offset_of!(Slot, queue));
        let state = self.queue.state();
        let word = usize::from(head) / 64;
        if let Some(&busy) = state.busy.get(word) {
            let at = queue + (offset_of!(QueueState, busy) + word * 8) as u64;
            volatile_write(at, busy);
        }
        let indices = [state.next_available, state.used, state.signalled, 0];
        volatile_write(queue, indices);
    }

    /// Process and handle there of the client's number.
    pub(super) fn handle(&self, number: u64) -> Option<(u32, u64)> {
        let found = self.handles.get(&number);
        found.or_else(|| self.borrowed.get(&number)).copied()
    }

    /// One more is done.
    pub(super) fn count_served(&mut self) {
        self.served += 1;
        volatile_write(
            slot_address(self.slot, offset_of!(Slot, served)),
            self.served,
        );
    }

    /// Goes on where the VMM has left off.
    pub(super) fn take_over(&mut self) {
        let at = slot_address(self.slot, offset_of!(Slot, queue));
        self.queue.set_state(volatile_read(at));
        self.served = 0;
        self.is_waiting = false;
    }

    /// The request to complete because nothing of a client that is gone is left.
    pub(super) fn is_done(&self) -> Option<u64> {
        self.detach.filter(|_| self.pending.is_empty())
    }
}

impl Clients {
    pub(super) fn get(&mut self, slot: usize) -> Option<&mut Client> {
        self.all.get_mut(slot).and_then(Option::as_mut)
    }

    /// Bytes of pool that all of their requests take.
    pub(super) fn bytes(&self) -> u64 {
        let clients = self.turns().filter_map(|slot| self.all.get(slot)?.as_ref());
        clients.map(|client| client.bytes).sum()
    }

    /// The slots that have a client, from the one whose turn it is on.
    pub(super) fn turns(&self) -> impl Iterator<Item = usize> + use<> {
        let first = self.next % SLOTS;
        let mut left = self.present.rotate_right(low32(first as u64));
        core::iter::from_fn(move || {
            let step = (left != 0).then(|| left.trailing_zeros())?;
            left &= left - 1;
            Some((first + step as usize) % SLOTS)
        })
    }

    /// Goes on with all queues where the VMM has left off. It has notified who wanted that.
    pub(super) fn take_over(&mut self) {
        self.waiting = 0;
        for slot in self.turns() {
            if let Some(client) = self.get(slot) {
                client.take_over();
            }
        }
    }

    pub(super) fn remove(&mut self, slot: usize) {
        if let Some(client) = self.all.get_mut(slot).and_then(Option::take) {
            self.present &= !(1 << slot);
            self.waiting -= usize::from(client.is_waiting);
            memory::remove(slot);
        }
    }
}

/// A client's memory is mapped; its queue is served from now on.
///
/// # Errors
/// INVALID_PARAMETER: no such slot, or no such queue.
pub(crate) fn attach(request: &Request) -> Result<u64, NtStatus> {
    let attach = Attach::from_arguments(request.arguments);
    let slot = attach.slot as usize;
    let layout = QueueLayout::new(attach.queue_size, attach.data_bytes)
        .filter(|_| slot < SLOTS)
        .ok_or(NtStatus::INVALID_PARAMETER)?;
    memory::insert(slot, attach.offset, layout.bytes());
    let window = Window::new(attach.offset, layout.bytes());
    let client = Client {
        slot,
        queue: Queue::new(window, layout, QueueState::default()),
        process: attach.process,
        handles: BTreeMap::new(),
        borrowed: BTreeMap::new(),
        pending: BTreeMap::new(),
        bytes: 0,
        is_gone: false,
        detach: None,
        served: 0,
        is_waiting: false,
    };
    CLIENTS.with(|clients| {
        if let Some(entry) = clients.all.get_mut(slot) {
            let client = entry.insert(client);
            // The VMM has served it until now.
            client.take_over();
            clients.present |= 1 << slot;
        }
    });
    super::poll::set_max(attach.poll_max);
    Ok(0)
}

/// A client is gone: its requests are cancelled. `None`: the answer comes when the last of them is done; the client's
/// memory must be there until then.
pub(crate) fn detach(request: &Request) -> Option<Result<u64, NtStatus>> {
    let slot = to_usize(request.arguments[0]);
    let ids: Vec<u64> = CLIENTS.with(|clients| {
        let Some(client) = clients.get(slot) else {
            return Vec::new();
        };
        client.is_gone = true;
        client
            .pending
            .keys()
            .map(|&head| super::queue::id_of(slot, head))
            .collect()
    });
    for id in ids {
        // One that is not a driver's yet, or not any more, ends by itself.
        let _ = request::cancel_by_id(id);
    }
    CLIENTS.with(|clients| {
        let is_left = clients.get(slot).is_some_and(|client| {
            client.detach = Some(request.id);
            !client.pending.is_empty()
        });
        if !is_left {
            clients.remove(slot);
        }
        (!is_left).then_some(Ok(0))
    })
}

/// The last request of a client that is gone is done.
pub(super) fn detached(id: u64) {
    shared::post(&Completion {
        id,
        ..Completion::default()
    });
}

/// A client's slot in a request's argument: 0 is none.
fn slot_argument(argument: u64) -> Option<usize> {
    argument.checked_sub(1).map(to_usize)
}

/// An open is under way that may be a mapped client's.
pub(crate) fn opening(request: &Request) {
    let [_, _, _, slot, number, _] = request.arguments;
    if let Some(slot) = slot_argument(slot) {
        CLIENTS.with(|clients| {
            let opening = (slot, number, request.process);
            clients.opening.insert(request.id, opening)
        });
    }
}

/// It is done: the handle, if there is one.
pub(crate) fn opened(id: u64, handle: Option<u64>) {
    CLIENTS.with(|clients| {
        let Some((slot, number, process)) = clients.opening.remove(&id) else {
            return;
        };
        if let (Some(client), Some(handle)) = (clients.get(slot), handle) {
            client.handles.insert(number, (process, handle));
        }
    });
}

/// A mapped client uses a handle of another one.
///
/// # Errors
/// INVALID_HANDLE; OBJECT_TYPE_MISMATCH: the handle is not a file's.
pub(crate) fn borrow(request: &Request) -> Result<u64, NtStatus> {
    let [handle, slot, number, ..] = request.arguments;
    file::by_handle(request.process, handle)?;
    if let Some(slot) = slot_argument(slot) {
        CLIENTS.with(|clients| {
            if let Some(client) = clients.get(slot) {
                client.borrowed.insert(number, (request.process, handle));
            }
        });
    }
    Ok(0)
}

/// A handle is closed that may be a mapped client's, and others' who have borrowed it: its number is soon another file's.
pub(crate) fn closed(request: &Request) {
    let [handle, slot, number, ..] = request.arguments;
    CLIENTS.with(|clients| {
        if let Some(client) = slot_argument(slot).and_then(|slot| clients.get(slot)) {
            client.handles.remove(&number);
        }
        for client in clients.all.iter_mut().flatten() {
            client
                .borrowed
                .retain(|_, found| *found != (request.process, handle));
        }
    });
}

/// A process ends: nobody has handles of it any more.
pub(crate) fn forget_process(process: u32) {
    CLIENTS.with(|clients| {
        for client in clients.all.iter_mut().flatten() {
            client.handles.retain(|_, (owner, _)| *owner != process);
            client.borrowed.retain(|_, (owner, _)| *owner != process);
        }
    });
}
