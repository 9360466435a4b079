//! The NT kernel as drivers see it.
//!
//! Stands in for ntoskrnl.exe and hal.dll. The same source is built twice for the guest (with
//! `--cfg nt_i386` for i386 drivers and without it for amd64 ones; always 64-bit code) and once natively,
//! as the amd64 ABI: there the VMM reads the export table from it, and its unit tests run.
#![cfg_attr(not(test), no_std)]
#![expect(
    non_snake_case,
    non_upper_case_globals,
    non_camel_case_types,
    clippy::upper_case_acronyms,
    reason = "exports and structures are spelled as in the WDK"
)]

extern crate alloc;

pub(crate) mod api;
pub mod dispatch;
pub mod export;
pub mod hal;
pub mod ke;
pub mod nt;
pub mod platform;
pub mod raw;
pub mod rtl;
pub mod shared;
pub mod table;
pub mod value;

#[cfg(test)]
mod test_platform;

/// Delivers what was deferred while shim code ran.
fn deliver_deferred() {}
