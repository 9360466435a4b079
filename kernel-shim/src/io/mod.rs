//! The I/O manager.

pub mod cancel;
pub mod device;
pub mod driver;
pub mod file;
pub mod irp;
pub mod mdl;
pub mod remove_lock;
pub mod request;
pub mod work_item;

/// Forgets every driver and request.
pub(crate) fn initialize() {
    driver::initialize();
    request::initialize();
    cancel::initialize();
    remove_lock::initialize();
}
