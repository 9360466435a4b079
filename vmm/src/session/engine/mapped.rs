//! Clients whose memory is mapped into the guest: the shim serves their queues while the guest runs, the engine while it
//! does not.

use abi::channel::Operation;
use abi::clients::{Attach, Slot};

use super::super::client::connection::{ClientEnd, Mapping};
use super::super::client::polling;
use super::clients::CLIENT_JOB;
use super::{Engine, Job, Reply};
use crate::machine::MemoryError;

impl Engine {
    /// A client has connected: its memory is mapped, if there is room for it, and the shim told.
    pub(super) fn attach_client(&mut self, id: u64, end: ClientEnd) {
        let layout = *end.queue.layout();
        let process = end.process;
        if self.dma.is_some() {
            // Devices reach the guest's own client memory and no mapped client's: drivers hand them the pages of MDLs.
            self.clients.attach(id, end);
            return;
        }
        let place = self.vm.map_client(end.queue.memory().region());
        self.clients.attach(id, end);
        let place = match place {
            Ok(Some(place)) => place,
            Ok(None) => {
                tracing::info!(
                    "there is no room in the guest for the memory of the client with process {process:#x}: its data is \
                     copied"
                );
                return;
            }
            Err(error) => {
                tracing::warn!(
                    "a client's memory cannot be mapped into the guest, its data is copied: {}",
                    crate::error_chain(&error)
                );
                return;
            }
        };
        if let Some(client) = self.clients.get(id) {
            client.mapping = Some(Mapping {
                slot: place.slot,
                is_attached: false,
                is_declined: false,
            });
        }
        let attach = Attach {
            slot: place.slot,
            offset: place.offset,
            queue_size: u32::from(layout.size),
            data_bytes: layout.data_bytes,
            process,
            poll_max: polling::guest_max(),
        };
        self.tell_shim(
            Operation::AttachClient,
            attach.arguments(),
            Reply::Attached(id, place.slot),
        );
    }

    /// A client whose memory is mapped is gone: the shim cancels what it has of it.
    pub(super) fn detach_mapped(&mut self, slot: u32) {
        self.tell_shim(
            Operation::DetachClient,
            [u64::from(slot), 0, 0, 0, 0, 0],
            Reply::Detached(slot),
        );
    }

    fn tell_shim(&mut self, operation: Operation, arguments: [u64; 6], reply: Reply) {
        self.client_jobs += 1;
        self.backlog.push_back(Job {
            id: CLIENT_JOB | self.client_jobs,
            operation,
            process: 0,
            arguments,
            input: None,
            output: None,
            reply,
        });
    }

    /// The shim serves a client's queue, or cannot.
    pub(super) fn attached(&mut self, id: u64, slot: u32, status: u32) {
        let Some(client) = self.clients.get(id) else {
            // It is gone already; its detaching is on its way.
            return;
        };
        if status == 0 {
            if let Some(mapping) = &mut client.mapping {
                mapping.is_attached = true;
            }
            return;
        }
        client.mapping = None;
        tracing::warn!("the guest cannot serve a client's queue ({status:#x}): its data is copied");
        self.unmap(slot);
    }

    /// The shim has nothing of a client any more.
    pub(super) fn detached(&mut self, slot: u32, status: u32) {
        if status == 0 {
            self.unmap(slot);
        } else {
            // It had no memory for a thread to do it on.
            self.detach_mapped(slot);
        }
    }

    fn unmap(&mut self, slot: u32) {
        if let Err(error) = self.vm.unmap_client(slot) {
            tracing::warn!(
                "the memory of a client that is gone stays: {}",
                crate::error_chain(&error)
            );
        }
    }

    /// Whether a client's next request is the shim's to take; then the guest is to run.
    pub(super) fn is_next_for_shim(&mut self, id: u64) -> bool {
        let is_next = self
            .clients
            .get(id)
            .is_some_and(|client| client.is_next_for_shim());
        self.is_shim_wanted |= is_next;
        is_next
    }

    /// The guest is about to run: the queues are the shim's.
    pub(super) fn lend_queues(&mut self) -> Result<(), MemoryError> {
        for client in self.clients.iter_mut() {
            let Some(mapping) = &client.mapping else {
                continue;
            };
            let slot = Slot {
                served: 0,
                is_declined: 0,
                reserved: 0,
                queue: *client.end.queue.state(),
            };
            self.vm.write_client_slot(mapping.slot, &slot)?;
        }
        Ok(())
    }

    /// The guest has run.
    pub(super) fn take_queues_back(&mut self) -> Result<(), MemoryError> {
        for client in self.clients.iter_mut() {
            let Some(mapping) = &mut client.mapping else {
                continue;
            };
            let slot = self.vm.client_slot(mapping.slot)?;
            mapping.is_declined = slot.is_declined != 0;
            client.end.queue.set_state(slot.queue);
            self.requests = self.requests.wrapping_add(slot.served);
        }
        Ok(())
    }
}
