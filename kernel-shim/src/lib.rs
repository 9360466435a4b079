//! The NT kernel as drivers see it.
//!
//! Stands in for ntoskrnl.exe and hal.dll. The same source is built twice for the guest (with
//! `--cfg nt_i386` for i386 drivers and without it for amd64 ones; always 64-bit code) and once natively,
//! as the amd64 ABI: there the VMM reads the export table from it, and its unit tests run.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod export;
pub mod platform;
