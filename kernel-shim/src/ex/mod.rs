//! The executive: pool, locks, lists, work items, callbacks.

pub mod callback;
pub mod fast_mutex;
pub mod firmware;
pub mod interlocked;
pub mod interlocked_list;
pub mod lookaside;
pub mod misc;
pub mod pool;
pub mod pool_api;
pub mod push_lock;
mod region;
mod resource;
pub mod resource_api;
pub mod rundown;
pub mod slist;
pub mod spin_lock;
pub mod timer;
pub mod work;

/// Puts what is built on the kernel and the object manager into its first state.
pub(crate) fn initialize() {
    callback::initialize();
    misc::initialize();
    work::initialize();
}
