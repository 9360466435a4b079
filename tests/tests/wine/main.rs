//! The Wine end, with the real Wine: Debian's, without a display.
//!
//! Programs of ours (wine/tests) and unmodified DLLs of others talk to drivers in micro-VMs, in a prefix for 64 bits, and in
//! one for 32 bits and those of a newer Wine where scripts/other-wine has made them. Wine's processes belong to a prefix, so
//! tests that share one run one after the other.

#![expect(
    clippy::unwrap_used,
    reason = "tests; clippy knows only functions with #[test] as such"
)]

#[macro_use]
mod harness;
mod channel_client;
mod commands;
mod direct;
mod hanging;
mod install;
mod intercept;
mod limits;
mod options;
mod ports;
mod programs;
mod running;
mod sharing;
mod states;
