//! How other threads reach the engine: requests with an id and a way back.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use abi::channel::Operation;

use super::client::waker::Postbox;
use super::driver::DriverError;
use super::engine::{Done, Fate, Job, Message, Output, Reply};
use super::hangup::Hangup;
use super::interrupt::Interrupt;
use crate::machine::Stopper;
use crate::machine::processor_share::held_back;
use crate::observe::ntstatus::NtStatus;

/// Added to a request's time before its client gives up: the engine's own watchdog comes first.
const GRACE: Duration = Duration::from_secs(2);
/// How often a wait that a signal may end looks for one.
const SIGNAL_POLL: Duration = Duration::from_millis(50);
/// Process ids from here on are multiples of eight. The other multiples of four are the shim's, for threads.
const FIRST_PROCESS: u32 = 0x4000;
const PROCESS_STEP: u32 = 8;
/// What clients may choose, in multiples of four: 4 is the System process.
const CHOSEN: Range<u32> = 8..FIRST_PROCESS;

/// Where new processes get their ids.
#[derive(Debug)]
pub(super) struct ProcessIds {
    next: AtomicU32,
    chosen: Mutex<HashSet<u32>>,
}

impl Default for ProcessIds {
    fn default() -> Self {
        Self {
            next: AtomicU32::new(FIRST_PROCESS),
            chosen: Mutex::default(),
        }
    }
}

impl ProcessIds {
    pub(super) fn next(&self) -> u32 {
        self.next.fetch_add(PROCESS_STEP, Ordering::Relaxed)
    }

    /// The id that a client wishes a process to have, if it is one of those that are not handed out here and nobody has ever
    /// had it: of a process that has ended, the guest may still know something.
    pub(super) fn choose(&self, wish: u64) -> u32 {
        let wish = u32::try_from(wish).ok();
        let is_possible = |id: &u32| id.is_multiple_of(4) && CHOSEN.contains(id);
        let mut chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        wish.filter(is_possible)
            .filter(|id| chosen.insert(*id))
            .unwrap_or_else(|| self.next())
    }
}

/// What all handles on a machine share.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) sender: Mutex<Postbox<Message>>,
    pub(super) fate: Arc<Fate>,
    pub(super) timeout: Duration,
    pub(super) next_request: AtomicU64,
    pub(super) next_client: AtomicU64,
    pub(super) driver_abi: abi::DriverAbi,
    /// Ids of the drivers that are started, in their order.
    pub(super) drivers: Mutex<Vec<u64>>,
    /// Those of them whose DriverUnload waits until the last file is closed.
    pub(super) waiting: Mutex<Vec<u64>>,
    pub(super) stopper: Stopper,
}

/// A request before it has an id and a way back.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) operation: Operation,
    pub(super) process: u32,
    pub(super) arguments: [u64; 6],
    pub(super) input: Option<(usize, Vec<u8>)>,
    pub(super) output: Option<(usize, u64)>,
}

impl Call {
    pub(super) fn new(operation: Operation, process: u32, arguments: [u64; 6]) -> Self {
        Self {
            operation,
            process,
            arguments,
            input: None,
            output: None,
        }
    }
}

/// A request that was made.
#[derive(Debug)]
pub(super) struct Submitted {
    id: u64,
    process: u32,
    answer: Receiver<Result<Done, DriverError>>,
}

impl Link {
    pub(super) fn new(
        sender: Postbox<Message>,
        fate: Arc<Fate>,
        timeout: Duration,
        stopper: Stopper,
        driver_abi: abi::DriverAbi,
    ) -> Self {
        Self {
            sender: Mutex::new(sender),
            fate,
            timeout,
            next_request: AtomicU64::new(1),
            next_client: AtomicU64::new(1),
            driver_abi,
            drivers: Mutex::default(),
            waiting: Mutex::default(),
            stopper,
        }
    }

    /// A driver was started.
    pub(super) fn started(&self, driver: u64) {
        self.drivers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(driver);
    }

    pub(super) fn send(&self, message: Message) -> Result<(), DriverError> {
        self.sender
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .send(message)
            .map_err(|_| self.fate.error())
    }

    pub(super) fn submit(&self, call: Call) -> Result<Submitted, DriverError> {
        self.submit_for(call, None)
    }

    fn submit_for(&self, call: Call, client: Option<&Hangup>) -> Result<Submitted, DriverError> {
        let (reply, answer) = channel();
        let reply = Arc::new(reply);
        if let Some(client) = client {
            client.watch(&reply);
        }
        let id = self.next_request.fetch_add(1, Ordering::Relaxed);
        let Call {
            operation,
            process,
            arguments,
            input,
            output,
        } = call;
        self.send(Message::Request(Job {
            id,
            operation,
            process,
            arguments,
            input,
            output: output.map(|(argument, bytes)| Output {
                argument,
                bytes,
                contents: None,
            }),
            reply: Reply::Waiter(reply),
        }))?;
        Ok(Submitted {
            id,
            process,
            answer,
        })
    }

    /// Makes a request and waits for its completion. One that stays pending for too long is cancelled, as an
    /// application would (CancelIo); a driver that does not complete it even then has timed out.
    pub(super) fn call(&self, call: Call) -> Result<Done, DriverError> {
        let asked = self.submit(call)?;
        self.answer(asked, None)
    }

    /// As [`Self::call`], for a client: when it has gone there is no wait. Who ends its process then cancels the request.
    pub(super) fn call_for(&self, call: Call, client: &Hangup) -> Result<Done, DriverError> {
        let asked = self.submit_for(call, Some(client))?;
        self.answer(asked, None)
    }

    /// As [`Self::call`]; a signal ends the wait, and the machine.
    pub(super) fn call_unless(
        &self,
        call: Call,
        interrupt: Option<Interrupt>,
    ) -> Result<Done, DriverError> {
        let asked = self.submit(call)?;
        self.answer(asked, interrupt)
    }

    fn answer(&self, asked: Submitted, interrupt: Option<Interrupt>) -> Result<Done, DriverError> {
        let Submitted {
            id,
            process,
            answer,
        } = asked;
        let (asked, held_before) = (Instant::now(), held_back());
        loop {
            // While the guest is held back (`--cpu`) it cannot answer.
            let held = held_back().saturating_sub(held_before);
            let patience = self.timeout.saturating_add(GRACE).saturating_add(held);
            let left = patience.saturating_sub(asked.elapsed());
            let slice = if interrupt.is_some() {
                left.min(SIGNAL_POLL)
            } else {
                left
            };
            match answer.recv_timeout(slice) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Disconnected) => return Err(self.fate.error()),
                Err(RecvTimeoutError::Timeout) if interrupt.is_some_and(Interrupt::is_set) => {
                    return Err(DriverError::Gone("interrupted by a signal".to_owned()));
                }
                Err(RecvTimeoutError::Timeout) if left.is_zero() => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        let cancel = Call::new(Operation::Cancel, process, [id, 0, 0, 0, 0, 0]);
        // Its own completion only says that it was delivered; what counts is the request's.
        let _cancelled = self.submit(cancel)?;
        match answer.recv_timeout(GRACE) {
            Ok(result) => result,
            Err(RecvTimeoutError::Disconnected) => Err(self.fate.error()),
            Err(RecvTimeoutError::Timeout) => {
                let (reply, report) = channel();
                self.send(Message::Diagnose(reply))?;
                let report = report.recv().map_err(|_| self.fate.error())?;
                Err(DriverError::TimedOut(report))
            }
        }
    }

    /// As [`Self::call`], with a failure status as an error.
    pub(super) fn call_checked(&self, call: Call) -> Result<Done, DriverError> {
        checked(self.call(call)?)
    }
}

/// A failure status as an error.
pub(super) fn checked(done: Done) -> Result<Done, DriverError> {
    if is_error(done.status) {
        return Err(DriverError::Status(NtStatus(done.status)));
    }
    Ok(done)
}

/// NT_ERROR: the two highest bits are set.
pub(super) const fn is_error(status: u32) -> bool {
    status >> 30 == 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_not_errors() {
        assert!(is_error(0xC000_0001));
        assert!(!is_error(0x8000_0005));
        assert!(!is_error(0x0000_0103));
    }

    #[test]
    fn chosen_process_ids_are_had_once() {
        let ids = ProcessIds::default();
        assert_eq!(ids.choose(0x14C), 0x14C);
        // Of others' ranges, no id at all, and one that was there before.
        for wish in [0x14C, 0, 4, 0x14E, 0x4000, 0x1_0000_0150] {
            let given = ids.choose(wish);
            assert!(given >= FIRST_PROCESS && given.is_multiple_of(PROCESS_STEP));
        }
        assert_ne!(ids.next(), ids.next());
    }
}
