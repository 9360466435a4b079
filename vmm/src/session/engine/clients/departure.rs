//! Clients that are gone, and what they have left behind; the end of all.

use abi::channel::Operation;
use abi::client::FarewellReason;

use super::super::{Death, Engine, Job, Reply, status};
use super::CLIENT_JOB;

impl Engine {
    /// A client is gone. Its own process ends when whoever made it lets go of it, those that it has made end here: the
    /// shim cancels what they wait for and closes their handles.
    pub(in crate::session::engine) fn detach_client(&mut self, id: u64) {
        let Some(client) = self.clients.detach(id) else {
            return;
        };
        self.backlog
            .retain(|job| !matches!(job.reply, Reply::Client(of, _) if of == id));
        if let Some(mapping) = client.mapping {
            self.detach_mapped(mapping.slot);
        }
        let processes: Vec<u32> = client.processes().collect();
        for process in processes {
            self.clients.forget_process(process);
            if process != client.end.process {
                self.exit_process(process);
            }
        }
        // What it did in processes that go on ends one by one.
        for (process, job) in client.joined_jobs() {
            self.do_unasked(Operation::Cancel, process, job);
        }
        for (process, handle) in client.joined_handles() {
            self.do_unasked(Operation::Close, process, handle);
        }
    }

    /// A device was opened for a client. If the client is gone and the process is not, nobody else closes it.
    pub(in crate::session::engine) fn handle_opened(
        &mut self,
        reply: &Reply,
        process: u32,
        handle: u64,
    ) {
        if let Reply::Client(id, _) = reply
            && self.clients.get(*id).is_none()
            && self.clients.is_owned(process)
        {
            self.do_unasked(Operation::Close, process, handle);
        }
    }

    /// A process was created for a client, or could not be. If the client is gone, nobody else ends it.
    pub(in crate::session::engine) fn process_created(&mut self, reply: &Reply, process: u32) {
        if let Reply::Client(id, _) = reply
            && self.clients.get(*id).is_none()
        {
            self.exit_process(process);
        }
    }

    fn exit_process(&mut self, process: u32) {
        self.do_unasked(Operation::ExitProcess, process, 0);
    }

    /// Has the guest do what a client that is gone left behind.
    fn do_unasked(&mut self, operation: Operation, process: u32, argument: u64) {
        self.client_jobs += 1;
        self.backlog.push_back(Job {
            id: CLIENT_JOB | self.client_jobs,
            operation,
            process,
            arguments: [argument, 0, 0, 0, 0, 0],
            input: None,
            output: None,
            reply: Reply::Nobody,
        });
    }

    /// Tells all clients that the machine is over, and why.
    pub(in crate::session::engine) fn end_clients(&mut self) {
        let (status, reason) = match self.fate.death.get() {
            None | Some(Death::Gone(_)) => (status::DEVICE_REMOVED, FarewellReason::ShutDown),
            Some(Death::Crashed(_)) => (status::DRIVER_PROCESS_TERMINATED, FarewellReason::Crashed),
            Some(Death::Hung(_)) => (status::IO_TIMEOUT, FarewellReason::Hung),
        };
        self.clients.end(status, reason);
    }
}
