//! The power manager.

pub mod request;
pub mod setting;
pub mod state;

/// Forgets all requests and registrations.
pub(crate) fn initialize() {
    request::initialize();
    setting::initialize();
    state::initialize();
}
