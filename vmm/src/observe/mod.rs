//! What a person or a program gets to see of a run: traces, crash reports, symbols.
//!
//! Everything here formats data that comes out of the guest, so a driver wrote it and it is hostile: numbers are
//! looked up, never used as indices unchecked, and text goes through [`escape`] before it reaches a terminal.
//!
//! [`trace::Observer`] is the entry point while a driver runs; [`crash::Reporter`] is the one after it crashed.

pub mod bugcheck;
pub mod clock;
pub mod crash;
pub mod escape;
pub mod flight;
pub mod hex;
pub mod log;
pub mod memory;
pub mod msr;
pub mod ntstatus;
pub mod output;
pub(crate) mod own_file;
pub mod ports;
pub mod stack;
pub mod symbols;
pub mod trace;
pub mod unwind;
pub mod value;
