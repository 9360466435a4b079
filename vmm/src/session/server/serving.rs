//! One client of a socket: its commands, or its channel.

use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::refusals::{Refusals, say};
use crate::launch::memory::Share;
use crate::machine::processor_share;
use crate::session::admission::Admission;
use crate::session::client::handshake::{self, Wanted};
use crate::session::client::{Caller, status};
use crate::session::command::Command;
use crate::session::driver::{DriverError, RunningMachine};
use crate::session::hangup::Hangup;
use crate::session::interpreter::{Interpreter, Outcome};
use crate::session::protocol::{REQUEST_MAX, Request, read_line, reply};

/// What a client's thread works with.
pub(super) struct Serving {
    pub(super) machine: Arc<dyn RunningMachine>,
    pub(super) is_ending: Arc<AtomicBool>,
    pub(super) live: Live,
    pub(super) admission: Admission,
    pub(super) refusals: Arc<Refusals>,
    /// How long the client may take to say what it wants.
    pub(super) patience: Duration,
    /// Says when it is gone.
    pub(super) hangup: Hangup,
    /// Of memory, for itself.
    pub(super) _share: Option<Share>,
}

/// A client that is connected, counted as long as it is.
pub(super) struct Live(Arc<AtomicU64>);

impl Live {
    pub(super) fn new(count: &Arc<AtomicU64>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }

    /// How many there are, this one among them.
    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) fn serve_client(stream: UnixStream, serving: &Serving) {
    // Until it has said something: who is silent must not keep a place from others.
    if stream.set_read_timeout(Some(serving.patience)).is_err() {
        return;
    }
    match handshake::wanted(&stream) {
        Wanted::Text => serve_commands(stream, serving),
        Wanted::Channel => serve_channel(stream, serving),
        Wanted::Silent => refuse_silent(&stream, serving),
        Wanted::Nothing => {}
    }
}

fn refuse_silent(stream: &UnixStream, serving: &Serving) {
    let why = format!(
        "it has sent no command within {} s of connecting",
        serving.patience.as_secs()
    );
    serving.refusals.log(&why);
    say(stream, &Outcome::refused(&why));
}

/// Gives a client its channel, and waits until it is gone.
fn serve_channel(stream: UnixStream, serving: &Serving) {
    let hello = match handshake::receive(&stream) {
        Ok(hello) => hello,
        Err(error) => {
            tracing::debug!("a client's hello could not be read: {error}");
            handshake::refuse(&stream, status::INVALID_PARAMETER);
            return;
        }
    };
    let Ok(_share) = serving.admission.channel(&hello) else {
        return handshake::refuse(&stream, status::INSUFFICIENT_RESOURCES);
    };
    let caller = Caller {
        hello,
        socket: stream,
    };
    let attachment = match serving.machine.attach(&caller) {
        Ok(attachment) => attachment,
        Err(error) => {
            let status = match error {
                DriverError::Status(status) => status.0,
                DriverError::Crashed(_) => status::DRIVER_PROCESS_TERMINATED,
                DriverError::TimedOut(_) => status::IO_TIMEOUT,
                DriverError::Gone(_) => status::DEVICE_REMOVED,
            };
            handshake::refuse(&caller.socket, status);
            return;
        }
    };
    // The client has nothing more to say here: what ends this is its end, or the server's.
    let mut byte = [0];
    while let Ok(1) = (&caller.socket).read(&mut byte) {}
    drop(attachment);
}

fn serve_commands(stream: UnixStream, serving: &Serving) {
    // A client that does not read its replies must not keep this thread for ever.
    let _ = stream.set_write_timeout(Some(Duration::from_secs(10)));
    let _share = match serving.admission.text() {
        Ok(share) => share,
        Err(refused) => return say(&stream, &refused.outcome()),
    };
    let mut driver = match serving.machine.connect() {
        Ok(driver) => driver,
        Err(error) => {
            say(&stream, &Outcome::driver_error("connect", &error));
            return;
        }
    };
    driver.watch(&serving.hangup);
    let mut interpreter = Interpreter::new(driver);
    let Ok(mut writer) = stream.try_clone() else {
        return;
    };
    let mut reader = BufReader::new(stream);
    let mut is_first = true;
    while !serving.is_ending.load(Ordering::SeqCst) {
        processor_share::pay();
        // Held until the reply is on its way.
        let mut _share = None;
        let mut outcome = match read_line(&mut reader, REQUEST_MAX) {
            Ok(None) => return,
            Ok(Some(line)) => {
                // From now on it may take its time.
                if std::mem::take(&mut is_first) && writer.set_read_timeout(None).is_err() {
                    return;
                }
                match serde_json::from_str::<Request>(&line) {
                    Ok(request) => {
                        let (outcome, share) =
                            execute(&mut interpreter, &request.command, &serving.admission);
                        _share = share;
                        outcome
                    }
                    Err(error) => Outcome::refused(&format!(
                        "not a request ({error}); send one line such as {{\"command\": \"stats\"}}"
                    )),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                say(&writer, &Outcome::refused(&error.to_string()));
                return;
            }
            Err(error) if is_first && error.kind() == io::ErrorKind::WouldBlock => {
                return refuse_silent(&writer, serving);
            }
            Err(_) => return,
        };
        if outcome.fields.contains_key("stats") {
            // The guest knows of processes, which need not be clients.
            let clients = serving.live.count();
            outcome.fields.insert("clients".into(), clients.into());
            outcome
                .text
                .push_str(&format!("\n  {:<22}{clients}", "clients"));
        }
        if writeln!(writer, "{}", reply(&outcome)).is_err() || outcome.is_over {
            return;
        }
    }
}

fn execute(
    interpreter: &mut Interpreter,
    line: &str,
    admission: &Admission,
) -> (Outcome, Option<Share>) {
    let command = match line.parse::<Command>() {
        Ok(command) => command,
        Err(error) => return (Outcome::malformed(&error), None),
    };
    match admission.command(&command) {
        Ok(share) => (interpreter.execute(&command), share),
        Err(refused) => (refused.outcome(), None),
    }
}
