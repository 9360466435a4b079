//! The run-time library: strings, memory, the C library's string functions, time, numbers, formatted output.

pub(crate) mod allocation;
pub mod ansi;
pub mod ansi_unicode;
pub mod arithmetic;
pub mod codepage;
pub mod crt_narrow;
pub mod crt_print;
pub mod crt_wide;
pub mod dbg;
pub mod memory;
pub mod misc;
pub mod number;
pub mod print;
pub mod raise;
pub mod time;
pub mod unicode;

pub use raise::raise_status;

#[cfg(test)]
pub(crate) mod test_strings;
