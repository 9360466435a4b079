//! The processor's floating-point and SSE state.
#![expect(unsafe_code, reason = "fxsave and fxrstor")]

use core::arch::asm;

use super::{Ptr, to_usize};

/// Bytes of the area that the state is saved in; it lies on a 16-byte boundary.
pub const STATE_BYTES: u64 = 512;

/// Saves the state at `area`, and gives the caller a fresh one (fninit, all exceptions masked).
pub fn save(area: Ptr<u8>) {
    assert!(area.addr().is_multiple_of(16) && !area.is_null());
    let area = to_usize(area.addr());
    // SAFETY: the area is 512 bytes of driver-visible memory on a 16-byte boundary (just checked, allocated by the
    // caller); MXCSR and the x87 control word end up with all exceptions masked, as Rust expects them.
    unsafe { asm!("fxsave64 [{area}]", "fninit", area = in(reg) area, options(nostack)) }
}

/// Restores a state that [`save`] saved.
pub fn restore(area: Ptr<u8>) {
    assert!(area.addr().is_multiple_of(16) && !area.is_null());
    let area = to_usize(area.addr());
    // SAFETY: the area holds what `fxsave64` wrote, so no reserved bit of MXCSR is set; the SSE registers that the
    // compiler may have values in are declared as clobbered.
    unsafe {
        asm!("fxrstor64 [{area}]", area = in(reg) area, options(nostack),
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
            out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _);
    }
}
