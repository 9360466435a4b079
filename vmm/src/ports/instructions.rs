//! The instructions `in` and `out`, and the system call that allows them to a thread.

#![expect(
    unsafe_code,
    reason = "port instructions and ioperm(2) have no safe form; this module is their only user"
)]

use std::arch::asm;
use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Width;

thread_local! {
    /// The [`PortGrant`] that this thread's permissions were last set for; 0: none.
    static GRANTED: Cell<u64> = const { Cell::new(0) };
}

/// Ports that this process may access by `in` and `out`.
///
/// ioperm(2) is a permission of one thread. The grant therefore asks again on each thread that uses it, the first
/// time it does.
#[derive(Debug)]
pub(super) struct PortGrant {
    id: u64,
    /// First and last port of each range.
    ranges: Vec<(u16, u16)>,
}

impl PortGrant {
    /// Asks for the ranges (first and last port) on the calling thread.
    ///
    /// # Errors
    /// EPERM without CAP_SYS_RAWIO or under kernel lockdown; ENOSYS or EIO where the kernel has no port access.
    pub(super) fn new(ranges: &[(u16, u16)]) -> io::Result<Self> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let grant = Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            ranges: ranges.to_vec(),
        };
        grant.attach_thread()?;
        Ok(grant)
    }

    /// Asks for the ranges on the calling thread, unless it has them.
    pub(super) fn attach_thread(&self) -> io::Result<()> {
        if GRANTED.get() == self.id {
            return Ok(());
        }
        for (first, last) in &self.ranges {
            let count = u32::from(*last) - u32::from(*first) + 1;
            // SAFETY: ioperm takes three numbers and no pointer; it changes only what this thread's own port
            // instructions may do, and those are in this module.
            let result = unsafe { libc::ioperm((*first).into(), count.into(), 1) };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // Permissions add up: nothing in this process takes one back.
        GRANTED.set(self.id);
        Ok(())
    }

    /// Reads from ports of one of the ranges.
    ///
    /// # Errors
    /// The ports are not in one range, or the thread cannot get the permission.
    pub(super) fn read(&self, port: u16, width: Width) -> io::Result<u32> {
        self.check(port, width)?;
        // SAFETY: `check` saw that the ports lie in a range and that ioperm allowed it to this thread.
        Ok(unsafe { read(port, width) })
    }

    /// Writes the low bytes of `value` to ports of one of the ranges.
    ///
    /// # Errors
    /// As for [`PortGrant::read`].
    pub(super) fn write(&self, port: u16, width: Width, value: u32) -> io::Result<()> {
        self.check(port, width)?;
        // SAFETY: `check` saw that the ports lie in a range and that ioperm allowed it to this thread.
        unsafe { write(port, width, value) };
        Ok(())
    }

    fn check(&self, port: u16, width: Width) -> io::Result<()> {
        let last = u32::from(port) + u32::from(width.bytes()) - 1;
        let is_covered = self
            .ranges
            .iter()
            .any(|range| range.0 <= port && last <= u32::from(range.1));
        if !is_covered {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        self.attach_thread()
    }
}

/// Reads a port.
///
/// # Safety
/// ioperm(2) must have allowed all ports of the access to this thread; otherwise the process dies of SIGSEGV. The owner of the machine must have meant the driver to reach these ports: what a device does with an
/// access, up to writing memory by DMA, is the device's.
unsafe fn read(port: u16, width: Width) -> u32 {
    match width {
        Width::Byte => {
            let value: u8;
            // SAFETY: the caller vouches for the port; the instruction touches no memory, stack or flags.
            unsafe {
                asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags));
            }
            value.into()
        }
        Width::Word => {
            let value: u16;
            // SAFETY: the caller vouches for the ports; the instruction touches no memory, stack or flags.
            unsafe {
                asm!("in ax, dx", in("dx") port, out("ax") value, options(nomem, nostack, preserves_flags));
            }
            value.into()
        }
        Width::Dword => {
            let value: u32;
            // SAFETY: the caller vouches for the ports; the instruction touches no memory, stack or flags.
            unsafe {
                asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags));
            }
            value
        }
    }
}

/// Writes the low bytes of `value` to a port.
///
/// # Safety
/// As for [`read`].
unsafe fn write(port: u16, width: Width, value: u32) {
    match width {
        Width::Byte => {
            let [byte, ..] = value.to_le_bytes();
            // SAFETY: the caller vouches for the port; the instruction touches no memory, stack or flags.
            unsafe {
                asm!("out dx, al", in("dx") port, in("al") byte, options(nomem, nostack, preserves_flags));
            }
        }
        Width::Word => {
            let [low, high, ..] = value.to_le_bytes();
            let word = u16::from_le_bytes([low, high]);
            // SAFETY: the caller vouches for the ports; the instruction touches no memory, stack or flags.
            unsafe {
                asm!("out dx, ax", in("dx") port, in("ax") word, options(nomem, nostack, preserves_flags));
            }
        }
        Width::Dword => {
            // SAFETY: the caller vouches for the ports; the instruction touches no memory, stack or flags.
            unsafe {
                asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_outside_the_grant_never_reach_the_instruction() {
        // Made by hand: a grant that the kernel never gave. An `in` would kill the test.
        let grant = PortGrant {
            id: u64::MAX,
            ranges: vec![(0x378, 0x37A), (0xFFFE, 0xFFFF)],
        };
        for (port, width) in [
            (0x377, Width::Byte),
            (0x377, Width::Dword),
            (0x37A, Width::Word),
            (0x37B, Width::Byte),
            (0xFFFE, Width::Dword),
        ] {
            let error = grant.read(port, width).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{port:#x}");
            assert!(grant.write(port, width, 0).is_err(), "{port:#x}");
        }
    }
}
