//! Programs under the real Wine. They are C programs in wine/tests, built here with mingw-w64.
//!
//! 64-bit programs run in Debian's wine64. 32-bit ones need a Wine that can: RINGFENCE_WINE32 names one (scripts/wine-i386 is
//! Debian's wine32 in a folder of its own), else they are skipped with a message.

mod ports;
mod rig;
