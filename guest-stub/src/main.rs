//! The guest binary: the first and last instructions in a guest, and everything that knows about privilege modes.
//!
//! | module | what |
//! |---|---|
//! | `entry` | first instructions, change to CPL 3 in ring3 mode |
//! | `trap` | gates for all exceptions and the tick, trap frames |
//! | `thunk32` | calls between 32-bit driver code and the 64-bit shim |
//! | `switch` | from one kernel stack to another |
//! | `user` | the ring-3 stub that executes in/out for a client process |
//! | `machine` | [`kernel_shim::platform::Platform`] on the real thing |
//! | `runtime` | heap, panic, the symbols that precompiled `core` wants |
//!
//! With `--cfg guest` (images/build.rs sets it) this is a freestanding kernel. Without, it is an ordinary program
//! that says so, which lets clippy and editors see all of it with no settings.
#![cfg_attr(guest, no_std, no_main)]

mod entry;
mod header;
mod machine;
mod runtime;
mod switch;
mod thunk32;
mod trap;
mod user;

#[cfg(not(guest))]
fn main() {
    println!("This is guest-stub built for the host; a guest's image is built by images/build.rs.");
}
