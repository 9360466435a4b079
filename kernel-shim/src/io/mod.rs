//! The I/O manager.

pub mod attach;
pub mod buffers;
pub mod build;
pub mod cancel;
pub mod control_file;
pub mod controller;
mod create_context;
pub mod csq;
pub mod device;
pub mod dos_names;
pub mod driver;
pub mod driver_extension;
pub mod error_log;
pub(crate) mod fast_io;
pub mod file;
pub mod file_system;
pub mod interrupt;
pub mod interrupt_ex;
pub(crate) mod interrupt_lines;
pub mod irp;
pub mod load;
pub mod mdl;
pub mod misc;
pub mod open;
pub mod partial_mdl;
pub mod remove_lock;
pub mod request;
pub mod resources;
pub mod routine;
pub mod shutdown;
pub mod start_io;
pub mod timer;
pub mod volume;
pub mod wmi;
pub mod wmi_block;
pub mod work_item;

/// Forgets every driver and request.
pub(crate) fn initialize() {
    driver::initialize();
    request::initialize();
    resources::initialize();
    cancel::initialize();
    remove_lock::initialize();
    build::initialize();
    routine::initialize();
    shutdown::initialize();
    timer::initialize();
    error_log::initialize();
    driver_extension::initialize();
    file_system::initialize();
    volume::initialize();
    misc::initialize();
    interrupt::initialize();
    interrupt_lines::initialize();
    load::initialize();
    wmi::initialize();
    dos_names::initialize();
}
