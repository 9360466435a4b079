//! The keep-alive pings that a service manager may ask for (WATCHDOG_USEC, sd_watchdog_enabled(3)).
//!
//! A ping says that the thread which owns the guest takes messages. While it runs the guest it does not, for as long as
//! `--timeout` allows: whether the guest hangs is decided there, so until then pings go on.

use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::notify;
use crate::session::Machine;

/// Pings from a thread of its own, if that is asked for. It ends with the machine.
pub(super) fn start(machine: &Arc<Machine>, timeout: Duration) {
    let Some(allowed) = notify::keep_alive() else {
        return;
    };
    let machine = Arc::downgrade(machine);
    let started = std::thread::Builder::new()
        .name("keep-alive".into())
        .stack_size(64 << 10)
        .spawn(move || ping(&machine, allowed / 2, timeout));
    if let Err(error) = started {
        tracing::error!("no keep-alive pings: {error}");
    }
}

fn ping(machine: &Weak<Machine>, interval: Duration, timeout: Duration) {
    loop {
        let Some(answer) = machine
            .upgrade()
            .and_then(|machine| machine.ask_stats().ok())
        else {
            return;
        };
        let asked = Instant::now();
        loop {
            match answer.recv_timeout(interval) {
                Ok(_) => break,
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) if asked.elapsed() < timeout + interval => {
                    notify::alive();
                }
                Err(RecvTimeoutError::Timeout) => {
                    tracing::error!("the guest's thread does not answer: no more keep-alive pings");
                    return;
                }
            }
        }
        notify::alive();
        std::thread::sleep(interval.saturating_sub(asked.elapsed()));
    }
}
