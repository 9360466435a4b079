//! Harness for the integration tests: real machines on the real KVM.
//!
//! | module | what |
//! |---|---|
//! | `target` | the machines to test on: each privilege mode that this KVM offers, each driver ABI |
//! | `files` | where drivers and the command-line program are |
//! | `program` | the command-line program, run as its users run it |
//! | `client` | a guest process with an open device, for short tests |
//! | `faults` | how requests end: statuses, crash reports |
//! | `codes` | the sample drivers' control codes |
//! | `coverage` | the document on NT coverage |
//! | `imports` | what the shim exports, as definitions that import libraries are made from |
//!
//! A test that needs what a machine may lack (/dev/kvm, third-party drivers) is skipped with a message that
//! libtest does not capture; with CI set in the environment it fails instead.

mod client;
pub mod codes;
pub mod coverage;
mod faults;
mod files;
pub mod imports;
pub mod program;
mod target;

pub use client::{Client, bytes};
pub use faults::{crash, describe, status_of, timed_out};
pub use files::{program, sample, third_party};
pub use target::{Target, has_kvm, is_lane, offered, patience, skip, skip_without_program};
