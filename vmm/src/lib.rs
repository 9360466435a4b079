//! Ringfence's host side: runs Windows kernel drivers, each in its own KVM guest.

pub mod cli;
pub mod devices;
pub mod files;
pub mod hardware;
mod input_file;
pub mod launch;
pub mod learn;
pub mod machine;
pub mod msr;
pub mod observe;
pub mod pci;
pub mod policy;
pub mod ports;
pub mod readiness;
pub mod recording;
pub mod registry;
pub mod session;

pub use loader;

/// An error and its sources, as one line.
#[must_use]
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
