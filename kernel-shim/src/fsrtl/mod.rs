//! The file system runtime library: what file system drivers share.
//!
//! NT keeps the state of locks, oplocks and watched directories behind opaque pointers in the driver's structures; here
//! it is in tables by the structures' addresses.

pub mod context;
pub mod ecp;
pub mod legal;
pub mod lock;
pub mod misc;
pub mod mup;
pub mod names;
pub mod notify;
pub mod oplock;
pub mod oplock_key;
pub mod pending;
pub mod status;

use crate::nt::{IO_STACK_LOCATION, IRP};
use crate::raw::{Ptr, from_word};

/// Forgets every lock, oplock, watcher and provider.
pub(crate) fn initialize() {
    legal::initialize();
    lock::initialize();
    oplock::initialize();
    oplock_key::initialize();
    notify::initialize();
    ecp::initialize();
    mup::initialize();
    pending::initialize();
}

/// An IRP's current stack location.
fn stack_of(irp: Ptr<IRP>) -> IO_STACK_LOCATION {
    irp.read().CurrentStackLocation.read()
}

/// The ByteOffset of a read, write or lock request.
fn byte_offset(stack: &IO_STACK_LOCATION) -> u64 {
    let [_, _, low, high] = stack.Parameters.map(from_word);
    if cfg!(nt_i386) { low | high << 32 } else { low }
}
