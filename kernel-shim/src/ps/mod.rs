//! Processes and threads.

pub mod api;
pub(crate) mod client;
pub mod data;
pub mod notify;
pub mod process;
pub mod stack;
pub mod thread;
pub(crate) mod worker;

use alloc::vec::Vec;

use crate::nt::{KPROCESS, KTHREAD};
use crate::raw::Ptr;
use crate::shared;
use crate::value::ProcessorMode;

pub use process::{create, id_of, iopm_of, remove, set_iopm};

/// Id of the System process.
pub const SYSTEM_ID: u32 = 4;

/// Makes the System process and the boot thread.
pub fn initialize() {
    notify::initialize();
    client::initialize();
    worker::initialize();
    process::initialize();
}

/// The EPROCESS with that id.
#[must_use]
pub fn by_id(id: u32) -> Option<Ptr<u8>> {
    process::by_id(id).map(Ptr::cast)
}

/// The ids of all processes, in ascending order.
#[must_use]
pub fn ids() -> Vec<u32> {
    process::ids()
}

/// The process that the current thread is in.
#[must_use]
pub fn current_process() -> Ptr<u8> {
    process_of(thread::current()).cast()
}

/// The process that a thread is in, attached or not.
#[must_use]
pub fn process_of(thread: Ptr<KTHREAD>) -> Ptr<KPROCESS> {
    Ptr::new(crate::raw::from_word(
        thread.with(|thread| thread.ApcProcess),
    ))
}

/// The current thread.
#[must_use]
pub fn current_thread() -> Ptr<u8> {
    thread::current().cast()
}

/// Where the current thread's requests come from.
#[must_use]
pub fn previous_mode() -> ProcessorMode {
    ProcessorMode(u8::from(
        thread::current().with(|thread| thread.PreviousMode) != 0,
    ))
}

/// The id of the process that the current thread is in.
#[must_use]
pub fn current_process_id() -> u32 {
    shared::current_process()
}
