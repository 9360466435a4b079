//! What the shim needs from the machine below it.
//!
//! guest-stub implements [`Platform`] with the real thing; unit tests implement it natively. Nothing else in
//! this crate knows about privilege modes, descriptor tables or the doorbell page.

use abi::crash::Registers;
use abi::doorbell::Call;

use crate::nt::FxSave;

/// Width and direction of a port access, with the value of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortAccess {
    /// First port.
    pub port: u16,
    /// Bytes: 1, 2 or 4.
    pub width: u8,
    /// The value to write; `None` reads.
    pub write: Option<u32>,
}

/// A port access that the process's IOPM does not allow (#GP at CPL 3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortDenied;

/// What may be done with a page that is there; reading always.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageAccess {
    /// Stores.
    pub is_writable: bool,
    /// Code.
    pub is_executable: bool,
}

/// A trap as the shim sees it. Changes to `registers` take effect when the handler returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trap {
    /// Exception vector.
    pub vector: u32,
    /// Hardware error code; 0 for vectors that have none.
    pub error_code: u32,
    /// Registers of the interrupted code.
    pub registers: Registers,
    /// Whether the interrupted code is the driver's 32-bit code.
    pub is_32_bit: bool,
}

/// What is to happen with a trap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The interrupted code goes on with the registers as they are now.
    Resume,
    /// It is an exception for the driver's handlers: [`crate::seh::dispatch_trap`] on the interrupted stack.
    Dispatch,
}

/// The machine below the shim.
pub trait Platform: Sync {
    /// Address of the shared pages ([`abi::layout::Shared`]).
    fn shared(&self) -> u64;
    /// Makes a doorbell call; returns the call page's results.
    fn doorbell(&self, call: Call, arguments: [u64; 6]) -> [u64; 4];
    /// Calls a driver's routine in the driver ABI's convention (Microsoft x64, or stdcall on i386, where every
    /// argument is one 4-byte slot). At most 12 arguments. Returns RAX, or EDX:EAX.
    fn call_driver(&self, function: u64, arguments: &[u64]) -> u64;
    /// Calls a part of a driver's function that works in its frame (an exception filter or a `__finally` of i386):
    /// no arguments, EBP = `frame_pointer`. Returns EAX.
    fn call_funclet(&self, function: u64, frame_pointer: u64) -> u64;
    /// Lays out a new kernel stack so that the first [`Platform::switch_stack`] to it calls `entry(argument)`. `top` is
    /// its end, 16-byte aligned. Returns the stack pointer.
    fn prepare_stack(&self, top: u64, entry: extern "C" fn(u64) -> !, argument: u64) -> u64;
    /// Stores this stack's pointer to the u64 at address `save_at` and goes on with the other one; returns when
    /// something switches back to this stack.
    fn switch_stack(&self, save_at: u64, stack_pointer: u64);
    /// Continues driver code with all of its registers (unwinding, continuing after an exception), at that depth of
    /// shim code. `fpu` is an FXSAVE image; without one the FPU keeps its state.
    fn resume(&self, registers: &Registers, is_32_bit: bool, fpu: Option<&FxSave>, depth: u32)
    -> !;
    /// Executes `in`/`out` at CPL 3 in the ring-3 stub, under the bitmap set by [`Platform::set_process_iopm`].
    ///
    /// # Errors
    /// [`PortDenied`] when the processor raised #GP.
    fn user_port(&self, access: PortAccess) -> Result<u32, PortDenied>;
    /// Executes `in`/`out` as the kernel; never denied inside the guest. A read's value, 0 for a write.
    fn kernel_port(&self, access: PortAccess) -> u32;
    /// Executes `rep ins` or, for `is_write`, `rep outs` as the kernel: `count` accesses of `width` bytes to one port, with
    /// memory at `buffer`.
    fn kernel_port_string(&self, port: u16, width: u8, buffer: u64, count: u32, is_write: bool);
    /// Loads the bitmap that is in force while the ring-3 stub runs; `None` denies every port.
    fn set_process_iopm(&self, map: Option<&[u8; 8192]>);
    /// Puts pages of RAM, contiguous ones from guest-physical `physical`, at `address` and flushes what was there. `entry`
    /// is the index of the first page's entry ([`abi::layout::entries`]).
    fn map_pages(&self, entry: u64, address: u64, physical: u64, pages: u64, access: PageAccess);
    /// Makes pages absent (of [`Platform::map_pages`], or of a range that `Call::MapPhysical` mapped) and flushes their
    /// translations.
    fn unmap_pages(&self, entry: u64, address: u64, pages: u64);
    /// Reads the time-stamp counter.
    fn time_stamp(&self) -> u64;
    /// Stops for good after the crash record was filled or the shutdown call was made.
    fn halt(&self) -> !;
}
