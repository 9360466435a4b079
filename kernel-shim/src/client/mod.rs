//! Clients of the channel whose memory is mapped: their queues are served here, on that memory, without the VMM.
//!
//! The VMM runs while the guest does not, and the other way round; the queue's state goes from one to the other in the
//! shared pages ([`abi::clients`]). What the shim does not understand or does not do itself stays in the queue and is
//! declined: the VMM takes it, and answers what is wrong with it.
//!
//! | module | what |
//! |---|---|
//! | `memory` | where a client's memory is: in the window, and for its own threads at a user address |
//! | `user` | mapping it at that address |
//! | `queue` | taking requests, completing them |
//! | `table` | the clients: attaching, handles, detaching |
//! | `poll` | how long to look for requests, and when to leave for the VMM |

pub(crate) mod memory;
mod poll;
mod queue;
mod table;
pub(crate) mod user;

pub(crate) use poll::{attend, look};
pub(crate) use queue::{complete, is_for_client, view_of};
pub(crate) use table::{attach, borrow, closed, detach, forget_process, opened, opening};

/// Forgets every client.
pub(crate) fn initialize() {
    table::initialize();
    memory::initialize();
    user::initialize();
    poll::initialize();
}
