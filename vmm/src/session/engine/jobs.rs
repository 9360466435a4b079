//! Jobs on their way to the guest and back: their buffers in client memory, their results.

use std::time::{Duration, Instant};

use abi::channel::{Operation, RING_ENTRIES, Request};

use super::super::client::connection::Outcome;
use super::{Done, Engine, InFlight, Job, Reply};
use crate::machine::MemoryError;

/// STATUS_INSUFFICIENT_RESOURCES: client memory is used up.
const STATUS_INSUFFICIENT_RESOURCES: u32 = 0xC000_009A;

impl Engine {
    /// Moves jobs to the ring while there is room; returns how many.
    pub(super) fn submit(&mut self) -> Result<usize, MemoryError> {
        let mut count = 0;
        while self.in_flight.len() < RING_ENTRIES {
            let Some(job) = self.backlog.pop_front() else {
                break;
            };
            count += usize::from(self.submit_one(job)?);
        }
        Ok(count)
    }

    fn submit_one(&mut self, job: Job) -> Result<bool, MemoryError> {
        let mut arguments = job.arguments;
        let mut buffers = [None, None];
        let wishes = [
            job.input
                .as_ref()
                .map(|(index, bytes)| (*index, bytes.len() as u64)),
            job.output
                .as_ref()
                .map(|output| (output.argument, output.bytes)),
        ];
        for (buffer, wish) in buffers.iter_mut().zip(wishes) {
            let Some((index, bytes)) = wish else { continue };
            if bytes == 0 {
                // As an application that passes NULL, 0.
                continue;
            }
            let Some(address) = self.memory.allocate(job.process, bytes) else {
                self.release(job.process, &buffers);
                let done = Done {
                    status: STATUS_INSUFFICIENT_RESOURCES,
                    information: 0,
                    value: 0,
                    output: Vec::new(),
                    elapsed: Duration::ZERO,
                };
                self.finished(&job.reply, done);
                self.clients.signal();
                return Ok(false);
            };
            *buffer = Some((address, bytes));
            if let Some(argument) = arguments.get_mut(index) {
                *argument = address;
            }
        }
        let [input, output] = buffers;
        if let (Some((address, _)), Some((_, bytes))) = (input, &job.input) {
            self.vm.write(address, bytes)?;
        }
        let contents = job.output.and_then(|output| output.contents);
        let is_whole = contents.is_some();
        if let Some((address, bytes)) = output {
            // Nothing of another client's data may be left there.
            let mut contents = contents.unwrap_or_default();
            contents.resize(usize::try_from(bytes).unwrap_or(0), 0);
            self.vm.write(address, &contents)?;
        }
        let request = Request {
            id: job.id,
            operation: job.operation as u32,
            process: job.process,
            arguments,
        };
        self.channel.submit(&self.vm, &request)?;
        self.requests += 1;
        self.in_flight.insert(
            job.id,
            InFlight {
                reply: job.reply,
                operation: job.operation,
                process: job.process,
                input,
                output,
                is_whole,
                started: Instant::now(),
            },
        );
        match job.operation {
            Operation::CreateProcess => self.processes += 1,
            Operation::ExitProcess => {
                self.processes = self.processes.saturating_sub(1);
                self.responder.mirror.remove_process(job.process);
            }
            _ => {}
        }
        Ok(true)
    }

    fn release(&mut self, process: u32, buffers: &[Option<(u64, u64)>; 2]) {
        for (address, bytes) in buffers.iter().flatten() {
            self.memory.release(process, *address, *bytes);
        }
    }

    pub(super) fn complete(&mut self) -> Result<(), MemoryError> {
        for completion in self.channel.completions(&self.vm)? {
            let Some(request) = self.in_flight.remove(&completion.id) else {
                tracing::warn!(
                    "the guest completed request {:#x}, which is not under way",
                    completion.id
                );
                continue;
            };
            let mut output = Vec::new();
            if let Some((address, bytes)) = request.output {
                // The driver's number may exceed the buffer; the buffer's end is ours.
                let count = if request.is_whole {
                    bytes
                } else {
                    completion.information.min(bytes)
                };
                output.resize(usize::try_from(count).unwrap_or(0), 0);
                self.vm.view().read(address, &mut output)?;
            }
            self.release(request.process, &[request.input, request.output]);
            if request.operation == Operation::CreateProcess {
                self.process_created(&request.reply, request.process);
            }
            if request.operation == Operation::Open && completion.status >> 31 == 0 {
                self.handle_opened(&request.reply, request.process, completion.value);
            }
            let done = Done {
                status: completion.status,
                information: completion.information,
                value: completion.value,
                output,
                elapsed: request.started.elapsed(),
            };
            self.finished(&request.reply, done);
        }
        self.clients.signal();
        Ok(())
    }

    /// Hands over a result.
    fn finished(&mut self, reply: &Reply, done: Done) {
        match reply {
            Reply::Waiter(sender) => {
                let _ = sender.send(Ok(done)).is_ok();
            }
            Reply::Client(client, head) => {
                let outcome = Outcome {
                    status: done.status,
                    information: done.information,
                    value: done.value,
                    output: &done.output,
                };
                self.clients.complete(*client, *head, outcome);
            }
            Reply::Attached(client, slot) => self.attached(*client, *slot, done.status),
            Reply::Detached(slot) => self.detached(*slot, done.status),
            Reply::Nobody => {}
        }
    }
}
