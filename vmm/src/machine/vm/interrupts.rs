//! What interrupts a guest: the tick and devices' lines.

use abi::channel::State;
use abi::header::INTERRUPT_VECTOR;
use abi::layout::{self, Shared};

use super::Vm;
use crate::machine::backend::Stop;
use crate::machine::builder::CreateError;
use crate::machine::kick::Due;

/// IRQL from which no tick is injected.
const DISPATCH_LEVEL: u32 = 2;
/// How often a guest that has not answered in time is let run on, a millisecond at least each, when it is in kernel code.
const LATE_STOPS_MAX: u32 = 50;

/// Whether an address is in the shim, in an import stub, or in the stub of ports: not in code of a driver.
fn is_kernel_code(kernel_base: u64, address: u64) -> bool {
    let stubs = kernel_base + layout::NTOSKRNL..kernel_base + layout::DRIVERS;
    (layout::SHIM_BASE..layout::SHIM_BASE + layout::SHIM_MAX).contains(&address)
        || (layout::USER_STUB..layout::USER_STUB + layout::PAGE_SIZE).contains(&address)
        || stubs.contains(&address)
}

impl Vm {
    /// Shows the guest what its interrupt lines did. Only the vCPU thread does so, and the guest does not run meanwhile.
    pub(super) fn publish_lines(&mut self) -> Result<(), CreateError> {
        let Some(new) = self.lines.take() else {
            return Ok(());
        };
        let mut lines: abi::interrupt::InterruptLines =
            self.view().read_shared(Shared::INTERRUPTS)?;
        lines.asserted = new.asserted;
        lines.raised ^= new.edges & !lines.edges();
        self.view().write_shared(Shared::INTERRUPTS, &lines)?;
        if new.edges != 0 {
            let mut state: State = self.view().read_shared(Shared::STATE)?;
            state.interrupt_due = 1;
            self.view().write_shared(Shared::STATE, &state)?;
            self.lines.set_offered(true);
            // Shim code looks by itself; driver code is interrupted.
            self.is_exit_wanted = state.shim_depth == 0;
        }
        Ok(())
    }

    /// A signal came: interrupt the guest if a tick or a device is due and it can take that.
    pub(super) fn interrupted(&mut self) -> Result<Option<Stop>, CreateError> {
        self.is_exit_wanted = false;
        let is_tick = match self.watchdog.due() {
            Due::Nothing => false,
            Due::Deadline => return self.deadline(),
            Due::Stop => return Ok(Some(Stop::Asked)),
            Due::Tick => true,
        };
        let mut state: State = self.view().read_shared(Shared::STATE)?;
        if state.interrupt_due == 0 {
            self.lines.set_offered(false);
        }
        // A tick handler that runs sees no other.
        let is_tick = is_tick && state.in_tick == 0;
        let is_device = self.lines.is_offered();
        if !is_tick && !is_device {
            return Ok(None);
        }
        if is_tick && state.tick_due == 0 {
            state.tick_due = 1;
            self.view().write_shared(Shared::STATE, &state)?;
        }
        let is_tick_deferred =
            state.shim_depth != 0 || state.irql >= DISPATCH_LEVEL || state.interrupts_masked != 0;
        if is_tick && is_tick_deferred {
            self.watchdog.ticked();
        }
        // A device's interrupt may come at DISPATCH_LEVEL: the guest decides.
        let takes_device = is_device && state.shim_depth == 0 && state.interrupts_masked == 0;
        if !takes_device && (!is_tick || is_tick_deferred) {
            return Ok(None);
        }
        let rip = self.vcpu.registers()?.rip;
        let is_in_trap_window =
            (self.header.trap_window_start..self.header.trap_window_end).contains(&rip);
        let is_in_gate = (self.header.vectors..self.header.trap_window_start).contains(&rip);
        if is_in_trap_window || is_in_gate || !self.vcpu.can_interrupt() {
            return Ok(None);
        }
        self.vcpu.interrupt(INTERRUPT_VECTOR)?;
        if is_tick {
            self.watchdog.ticked();
        }
        Ok(None)
    }

    /// A report is to say where the driver loops. In kernel code the guest may be for an interrupt just now, or for one call
    /// of many: then it runs on a little.
    fn deadline(&mut self) -> Result<Option<Stop>, CreateError> {
        let rip = self.vcpu.registers()?.rip;
        if self.late_stops >= LATE_STOPS_MAX || !is_kernel_code(self.plan.kernel_base, rip) {
            return Ok(Some(Stop::Hung));
        }
        self.late_stops += 1;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::{DriverAbi, Privilege};

    #[test]
    fn code_of_drivers_is_not_the_kernels() {
        for (abi, privilege) in [
            (DriverAbi::I386, Privilege::Ring3),
            (DriverAbi::Amd64, Privilege::Ring0),
        ] {
            let base = layout::kernel_base(abi, privilege);
            for kernel in [
                layout::SHIM_BASE + 0x5E0,
                layout::USER_STUB,
                base + layout::EXPORTS,
                base + layout::HAL_EXPORTS,
            ] {
                assert!(is_kernel_code(base, kernel), "{kernel:#x}");
            }
            for driver in [
                base + layout::DRIVERS,
                base + layout::DRIVERS + layout::DRIVERS_SIZE - 1,
                base + layout::POOL,
                0,
            ] {
                assert!(!is_kernel_code(base, driver), "{driver:#x}");
            }
        }
    }
}
