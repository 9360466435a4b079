//! The I/O manager.

pub mod cancel;
pub mod device;
pub mod driver;
pub mod file;
pub mod irp;
pub mod mdl;
pub mod request;

/// Forgets every driver and request.
pub(crate) fn initialize() {
    driver::initialize();
    request::initialize();
    cancel::initialize();
}
