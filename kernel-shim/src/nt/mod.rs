//! NT's own names: structures with their exact layouts, status and bugcheck codes.
//!
//! Spelled as in the WDK's headers, because that is how a reader finds them. Layouts are those of Windows 7,
//! which drivers for XP and later share as far as they are public.

pub mod basic;
pub mod bugcheck;
pub mod exception;
pub mod io;
pub mod io_manager;
pub mod kernel;
pub mod lookaside;
pub mod module;
pub mod pnp;
pub mod rtl;
pub mod security;
pub mod status;
pub mod sync;
pub mod thread;

pub use basic::*;
pub use exception::*;
pub use io::*;
pub use io_manager::*;
pub use kernel::*;
pub use pnp::*;
pub use rtl::*;
pub use security::*;
pub use status::NtStatus;
pub use sync::*;
pub use thread::{
    CLIENT_ID, ETHREAD, KAPC, KAPC_STATE, KMUTANT, KPROCESS, KQUEUE, KSEMAPHORE, KTHREAD,
    KWAIT_BLOCK,
};
