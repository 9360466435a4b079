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
    clippy::enum_variant_names,
    reason = "exports and structures are spelled as in the WDK"
)]

extern crate alloc;

pub(crate) mod api;
pub mod cc;
mod client;
pub mod cm;
pub mod dispatch;
mod emulate;
pub mod ex;
pub mod export;
pub mod fs;
pub mod fsrtl;
pub mod hal;
pub mod io;
pub mod ke;
mod main_loop;
pub mod mm;
pub mod nt;
pub mod ob;
pub mod platform;
pub mod pnp;
pub mod po;
pub mod ps;
pub mod raw;
pub mod rtl;
pub mod se;
pub mod seh;
pub mod shared;
pub mod table;
mod trap;
pub mod value;
pub mod view;
pub mod wdf;

pub use main_loop::{begin_interrupt, boot, finding, interrupt, shim_panic};
pub use trap::trap;

#[cfg(test)]
mod test_platform;
#[cfg(test)]
mod tests;
