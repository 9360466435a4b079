//! What a request of a client's comes to: work for the guest, or an answer.

use abi::channel::Operation;
use abi::client::{
    Opcode, QUERY_NAMES, QUERY_NAMES_CHANGED, QUERY_STATISTICS, RequestHeader, Statistics,
    TOKEN_BYTES,
};
use zerocopy::IntoBytes;

use super::super::{Engine, PortExit, STATUS_PRIVILEGED_INSTRUCTION, Width, status};
use crate::machine::PortAnswer;
use crate::session::client::connection::{FollowUp, HANDLE_BYTES};
use crate::session::client::request::Incoming;
use crate::session::client::sharing;
use crate::session::process::DESIRED_ACCESS;

/// What is to be done for a request.
pub(super) enum Work {
    /// The guest does it.
    Guest {
        operation: Operation,
        arguments: [u64; 6],
        input: Option<usize>,
        output: Option<usize>,
        /// The driver sees what is in the output buffer.
        is_output_seen: bool,
        follow_up: FollowUp,
    },
    /// It is done.
    Done(u64, Vec<u8>),
}

impl Work {
    fn plain(operation: Operation, arguments: [u64; 6]) -> Self {
        Self::Guest {
            operation,
            arguments,
            input: None,
            output: None,
            is_output_seen: false,
            follow_up: FollowUp::Nothing,
        }
    }
}

/// Whether the driver sees what the caller has in its output buffer: METHOD_IN_DIRECT and METHOD_NEITHER hand it out as it
/// is, METHOD_OUT_DIRECT locks the caller's own pages.
const fn is_output_seen(code: u32) -> bool {
    code & 3 != 0
}

impl Engine {
    /// What a request comes to.
    pub(super) fn work(&mut self, id: u64, process: u32, incoming: &Incoming) -> Result<Work, u32> {
        let header = incoming.header;
        let fate = std::sync::Arc::clone(&self.fate);
        let handle = self.clients.guest_handle(id, process, header.handle);
        let known = handle.ok_or(status::INVALID_HANDLE);
        // The shim has no way to go on when its heap is used up.
        let has_heap = !matches!(incoming.opcode, Opcode::Open | Opcode::Borrow)
            || self.clients.handle_bytes() + HANDLE_BYTES <= self.vm.heap_bytes() / 8 * 7;
        let client = self.clients.get(id).ok_or(status::INVALID_CID)?;
        let (input, output) = (
            u64::from(header.input_bytes),
            u64::from(header.output_bytes),
        );
        Ok(match incoming.opcode {
            Opcode::Open => {
                if !client.may_open() {
                    return Err(status::QUOTA_EXCEEDED);
                }
                if !has_heap {
                    return Err(status::INSUFFICIENT_RESOURCES);
                }
                let access = match u64::from(header.code) {
                    0 => DESIRED_ACCESS,
                    access => access,
                };
                let number = client.take_handle_number();
                Work::Guest {
                    operation: Operation::Open,
                    arguments: [0, input, access, client.slot_argument(), number, 0],
                    input: Some(0),
                    output: None,
                    is_output_seen: false,
                    follow_up: FollowUp::Opened(process, number),
                }
            }
            Opcode::Close | Opcode::Cleanup => {
                let is_close = incoming.opcode == Opcode::Close;
                // Not one that it has borrowed.
                let handle = client.guest_handle(process, header.handle);
                if is_close && !client.forget_handle(process, header.handle) {
                    return Err(status::INVALID_HANDLE);
                }
                match handle {
                    Some(handle) => {
                        client.clean(header.handle);
                        let slot = client.slot_argument();
                        if client.owns(process) {
                            self.clients.forget_borrowed(process, header.handle);
                        }
                        Work::plain(Operation::Close, [handle, slot, header.handle, 0, 0, 0])
                    }
                    // It has had its cleanup.
                    None if is_close => Work::Done(0, Vec::new()),
                    None => return Err(status::INVALID_HANDLE),
                }
            }
            Opcode::DeviceControl => Work::Guest {
                operation: Operation::DeviceControl,
                arguments: [known?, u64::from(header.code), 0, input, 0, output],
                input: Some(2),
                output: Some(4),
                is_output_seen: is_output_seen(header.code),
                follow_up: FollowUp::Nothing,
            },
            Opcode::Read => Work::Guest {
                operation: Operation::Read,
                arguments: [known?, 0, output, header.argument, 0, 0],
                input: None,
                output: Some(1),
                is_output_seen: false,
                follow_up: FollowUp::Nothing,
            },
            Opcode::Write => Work::Guest {
                operation: Operation::Write,
                arguments: [known?, 0, input, header.argument, 0, 0],
                input: Some(1),
                output: None,
                is_output_seen: false,
                follow_up: FollowUp::Nothing,
            },
            Opcode::Flush => Work::plain(Operation::Flush, [known?, 0, 0, 0, 0, 0]),
            Opcode::Cancel => {
                let job = client
                    .job_of_tag(process, header.argument)
                    .ok_or(status::NOT_FOUND)?;
                Work::plain(Operation::Cancel, [job, 0, 0, 0, 0, 0])
            }
            Opcode::PortIn | Opcode::PortOut => {
                Work::Done(u64::from(self.client_port(process, &header)?), Vec::new())
            }
            Opcode::Attach => {
                if !client.may_attach() {
                    return Err(status::QUOTA_EXCEEDED);
                }
                Work::Guest {
                    operation: Operation::CreateProcess,
                    arguments: [0; 6],
                    input: None,
                    output: None,
                    is_output_seen: false,
                    follow_up: FollowUp::Attached(fate.process_ids.choose(header.argument)),
                }
            }
            Opcode::Exit => {
                // Its own ends with the connection, those that it has joined are others'.
                if process == client.end.process || !client.owns(process) {
                    return Err(status::INVALID_CID);
                }
                self.clients.forget_process(process);
                Work::plain(Operation::ExitProcess, [0; 6])
            }
            Opcode::Share => {
                if !client.owns(process) {
                    return Err(status::INVALID_CID);
                }
                if output < TOKEN_BYTES as u64 {
                    return Err(status::BUFFER_TOO_SMALL);
                }
                Work::Done(0, client.sharing.share(process)?.to_vec())
            }
            Opcode::Join => {
                if input != TOKEN_BYTES as u64 {
                    return Err(status::INVALID_PARAMETER);
                }
                if !client.may_attach() {
                    return Err(status::QUOTA_EXCEEDED);
                }
                let token = sharing::decode(&incoming.input(&client.end.queue))?;
                let process = self.clients.shared_process(token);
                let process = process.ok_or(status::INVALID_CID)?;
                match self.clients.get(id) {
                    // It knows its own already.
                    Some(client) if !client.owns(process) => client.sharing.join(process),
                    _ => {}
                }
                Work::Done(u64::from(process), Vec::new())
            }
            Opcode::Borrow => {
                if !client.sharing.has_joined(process) {
                    return Err(status::INVALID_CID);
                }
                let known = client.number_of_borrowed(process, header.handle);
                if known.is_none() && !client.may_open() {
                    return Err(status::QUOTA_EXCEEDED);
                }
                if known.is_none() && !has_heap {
                    return Err(status::INSUFFICIENT_RESOURCES);
                }
                // Programs ask again to see whether the file is still there.
                let number = known.unwrap_or_else(|| client.take_handle_number());
                let slot = client.slot_argument();
                let guest = self.clients.owners_handle(process, header.handle);
                let guest = guest.ok_or(status::INVALID_HANDLE)?;
                Work::Guest {
                    operation: Operation::BorrowHandle,
                    arguments: [guest, slot, number, 0, 0, 0],
                    input: None,
                    output: None,
                    is_output_seen: false,
                    follow_up: FollowUp::Borrowed(process, number, header.handle),
                }
            }
            Opcode::Query if header.code == QUERY_NAMES => Work::Guest {
                operation: Operation::ListNames,
                arguments: [0, output, 0, 0, 0, 0],
                input: None,
                output: Some(0),
                is_output_seen: false,
                follow_up: FollowUp::Nothing,
            },
            Opcode::Query if header.code == QUERY_NAMES_CHANGED => {
                Work::plain(Operation::WatchNames, [header.argument, 0, 0, 0, 0, 0])
            }
            Opcode::Query => {
                if header.code != QUERY_STATISTICS {
                    return Err(status::NOT_SUPPORTED);
                }
                if output < size_of::<Statistics>() as u64 {
                    return Err(status::BUFFER_TOO_SMALL);
                }
                Work::Done(0, self.statistics().as_bytes().to_vec())
            }
        })
    }

    /// A port access, answered by the mirror of the IOPMs: the guest need not run.
    fn client_port(&mut self, process: u32, header: &RequestHeader) -> Result<u32, u32> {
        let width = u8::try_from(header.argument & 0xFFFF_FFFF)
            .ok()
            .and_then(Width::from_bytes);
        let (Ok(port), Some(width)) = (u16::try_from(header.code), width) else {
            return Err(status::INVALID_PARAMETER);
        };
        let is_write = header.opcode == Opcode::PortOut as u16;
        // The value is the upper half.
        let value = u32::try_from(header.argument >> 32).unwrap_or(0);
        let access = PortExit {
            port,
            width: match width {
                Width::Byte => 1,
                Width::Word => 2,
                Width::Dword => 4,
            },
            write: is_write.then_some(value),
            rip: 0,
            element: 0,
        };
        if !self.responder.mirror.allows(process, port, width) {
            return Err(STATUS_PRIVILEGED_INSTRUCTION);
        }
        match PortAnswer::from(self.responder.access(access)) {
            PortAnswer::Value(value) => Ok(value),
            PortAnswer::Fault => Err(STATUS_PRIVILEGED_INSTRUCTION),
            PortAnswer::Stop => {
                self.policy_stop = Some(format!("access of a client to port {port:#x}"));
                Err(status::DRIVER_PROCESS_TERMINATED)
            }
        }
    }

    fn statistics(&self) -> Statistics {
        let stats = self.stats();
        Statistics {
            uptime_us: stats.uptime_us,
            exits: stats.exits,
            requests: stats.requests,
            processes: stats.processes,
            port_reads: stats.port_reads,
            port_writes: stats.port_writes,
            port_denied: stats.port_denied,
            memory_mapped: stats.memory_mapped,
            memory_denied: stats.memory_denied,
        }
    }
}
