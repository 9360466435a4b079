//! Ringfence's host side: runs Windows kernel drivers, each in its own KVM guest.

pub mod cli;
pub mod devices;
pub mod machine;
pub mod observe;
pub mod policy;
pub mod ports;
pub mod session;

pub use loader;
