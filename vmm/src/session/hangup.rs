//! A text client that goes away while the driver has a request of it.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::driver::DriverError;
use super::engine::Done;

/// Where the answer to a request is sent.
pub(super) type Answer = Sender<Result<Done, DriverError>>;

/// Tells who waits for a driver on behalf of a client that the client is gone.
#[derive(Clone, Debug, Default)]
pub struct Hangup(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    has_hung_up: bool,
    /// Of the request that is under way. Not held: that the engine drops it says that there will be no answer.
    answer: Weak<Answer>,
}

impl Hangup {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client is gone: nobody waits any more for what was asked for it.
    pub fn hang_up(&self) {
        let mut state = self.lock();
        state.has_hung_up = true;
        if let Some(answer) = state.answer.upgrade() {
            give_up(&answer);
        }
    }

    /// A request is made for the client.
    pub(super) fn watch(&self, answer: &Arc<Answer>) {
        let mut state = self.lock();
        state.answer = Arc::downgrade(answer);
        if state.has_hung_up {
            give_up(answer);
        }
    }
}

fn give_up(answer: &Answer) {
    let gone = DriverError::Gone("its client has gone".to_owned());
    // Who has had an answer waits no more.
    let _ = answer.send(Err(gone)).is_ok();
}
