//! What the engine does for clients of the channel.

mod departure;
mod work;

use abi::channel::Operation;

use self::work::Work;
use super::super::client::connection::{FollowUp, Outcome};
use super::super::client::request::Incoming;
use super::super::client::set::Taken;
use super::{Clients, Engine, Job, Output, Reply, status};

/// Ids of clients' requests have this bit, those of threads that wait do not.
pub(super) const CLIENT_JOB: u64 = 1 << 63;

/// `\\.\NAME` and `\\?\NAME` as NT knows them, in UTF-16.
fn nt_name(input: &[u8]) -> Result<Vec<u8>, u32> {
    if !input.len().is_multiple_of(2) {
        return Err(status::INVALID_PARAMETER);
    }
    let prefix = |third: u8| [b'\\', 0, b'\\', 0, third, 0, b'\\', 0];
    let rest = input
        .strip_prefix(&prefix(b'.'))
        .or_else(|| input.strip_prefix(&prefix(b'?')));
    Ok(rest.map_or_else(
        || input.to_vec(),
        |rest| [&[b'\\', 0, b'?', 0, b'?', 0, b'\\', 0], rest].concat(),
    ))
}

impl Engine {
    /// Takes what clients have made available, from each in its turn.
    pub(super) fn take_client_requests(&mut self) {
        self.is_shim_wanted = false;
        for id in self.clients.ids() {
            for _ in 0..Clients::turn() {
                if !self.clients.has_share(id) {
                    break;
                }
                if self.is_next_for_shim(id) {
                    break;
                }
                let Some(taken) = self.clients.take(id) else {
                    break;
                };
                self.begin(taken);
            }
        }
        self.clients.signal();
    }

    fn begin(&mut self, taken: Taken) {
        let Taken {
            client,
            head,
            incoming,
        } = taken;
        match self.begin_checked(client, head, &incoming) {
            Ok(Some((value, output))) => {
                let outcome = Outcome {
                    status: 0,
                    information: output.len() as u64,
                    value,
                    output: &output,
                };
                self.answer(client, head, &incoming, outcome);
            }
            Ok(None) => {}
            Err(status) => self.answer(client, head, &incoming, Outcome::of_status(status)),
        }
    }

    fn answer(&mut self, client: u64, head: u16, incoming: &Incoming, outcome: Outcome<'_>) {
        if let Some(client) = self.clients.get(client) {
            client.answer(head, &incoming.chain, outcome, 0);
        }
    }

    /// Has a request carried out. `None`: its answer comes later.
    fn begin_checked(
        &mut self,
        id: u64,
        head: u16,
        incoming: &Incoming,
    ) -> Result<Option<(u64, Vec<u8>)>, u32> {
        let header = incoming.header;
        let Some(client) = self.clients.get(id) else {
            return Ok(None);
        };
        let process = client.process(header.process).ok_or(status::INVALID_CID)?;
        let (operation, arguments, input, output, is_output_seen, follow_up) =
            match self.work(id, process, incoming)? {
                Work::Done(value, output) => return Ok(Some((value, output))),
                Work::Guest {
                    operation,
                    arguments,
                    input,
                    output,
                    is_output_seen,
                    follow_up,
                } => (
                    operation,
                    arguments,
                    input,
                    output,
                    is_output_seen,
                    follow_up,
                ),
            };
        let taken = self.clients.bytes();
        let free = self.client_bytes().saturating_sub(taken);
        let Some(client) = self.clients.get(id) else {
            return Ok(None);
        };
        // What gives something back may always be asked for.
        let is_release = matches!(
            operation,
            Operation::Close | Operation::Cancel | Operation::ExitProcess
        );
        if !is_release && !client.has_quota(incoming.bytes(), free) {
            return Err(status::QUOTA_EXCEEDED);
        }
        let process = match follow_up {
            FollowUp::Attached(process) => process,
            _ => process,
        };
        // Nothing is copied before the quota has been looked at.
        let queue = &client.end.queue;
        let input = match (input, operation) {
            (None, _) => None,
            (Some(argument), Operation::Open) => Some((argument, nt_name(&incoming.input(queue))?)),
            (Some(argument), _) => Some((argument, incoming.input(queue))),
        };
        let mut arguments = arguments;
        if let (Operation::Open, Some((_, name))) = (operation, &input) {
            arguments[1] = name.len() as u64;
        }
        let output = output.map(|argument| Output {
            argument,
            bytes: u64::from(header.output_bytes),
            contents: is_output_seen.then(|| incoming.output(queue)),
        });
        self.client_jobs += 1;
        let job = CLIENT_JOB | self.client_jobs;
        client.begin(head, incoming.clone(), process, Some(job), follow_up);
        self.backlog.push_back(Job {
            id: job,
            operation,
            process,
            arguments,
            input,
            output,
            reply: Reply::Client(id, head),
        });
        Ok(None)
    }

    fn client_bytes(&self) -> u64 {
        self.vm.user_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str) -> Vec<u8> {
        text.encode_utf16().flat_map(u16::to_le_bytes).collect()
    }

    #[test]
    fn win32_names_become_nt_names() {
        for (from, to) in [
            (r"\\.\giveio", r"\??\giveio"),
            (r"\\?\giveio", r"\??\giveio"),
            (r"\Device\giveio", r"\Device\giveio"),
            ("", ""),
        ] {
            assert_eq!(nt_name(&utf16(from)), Ok(utf16(to)));
        }
        assert_eq!(nt_name(b"abc"), Err(status::INVALID_PARAMETER));
    }
}
