//! Harness for the integration tests.

pub mod coverage;
