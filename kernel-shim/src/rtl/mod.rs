//! The run-time library: strings, memory, the C library's string functions, time, numbers, formatted output.

pub(crate) mod allocation;
pub mod ansi;
pub mod ansi_unicode;
pub mod arithmetic;
pub mod avl_table;
pub mod bitmap;
pub mod codepage;
pub mod compiler;
pub mod compression;
pub mod crt_ctype;
pub mod crt_itoa;
pub mod crt_narrow;
pub mod crt_number;
pub mod crt_print;
pub mod crt_sort;
pub(crate) mod crt_text;
pub mod crt_wide;
pub mod dbg;
pub mod generic_table;
pub mod large_integer;
pub(crate) mod links;
pub(crate) mod lznt1;
pub mod memory;
pub mod misc;
pub mod number;
pub mod oem;
pub mod prefix;
pub mod print;
pub mod raise;
pub mod run_once;
pub mod splay;
pub mod time;
pub mod unicode;
pub mod unicode_more;
pub mod utf8;
pub mod version_check;

pub use raise::raise_status;

#[cfg(test)]
pub(crate) mod test_strings;
#[cfg(test)]
pub(crate) mod test_tables;
