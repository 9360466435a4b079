//! Reports on a guest that has stopped, or that does not answer.

use std::sync::Arc;

use abi::crash::Registers;

use super::{Death, Engine};
use crate::machine::{Stop, Vm};
use crate::observe::crash::{CrashReport, Reporter};
use crate::observe::symbols::Module;
use crate::observe::unwind::MemoryReader;

/// Memory of the stopped guest, for reports.
struct VmMemory<'a>(&'a Vm);

impl MemoryReader for VmMemory<'_> {
    fn read(&self, address: u64, buffer: &mut [u8]) -> usize {
        // Whole, or byte by byte up to where memory ends.
        if self.0.view().read(address, buffer).is_ok() {
            return buffer.len();
        }
        let mut count = 0;
        for (offset, byte) in (0_u64..).zip(buffer.iter_mut()) {
            let Some(next) = address.checked_add(offset) else {
                break;
            };
            if self
                .0
                .view()
                .read(next, std::slice::from_mut(byte))
                .is_err()
            {
                break;
            }
            count += 1;
        }
        count
    }
}

impl Engine {
    pub(super) fn died(&mut self, stop: Stop) -> Death {
        self.complete_symbols();
        let registers = self.registers();
        let memory = VmMemory(&self.vm);
        let reporter = self.reporter(&memory);
        match stop {
            Stop::Crash(record) => Death::Crashed(Box::new(reporter.crashed(&record))),
            Stop::Hung => Death::Hung(Box::new(reporter.hung(self.identity.timeout, &registers))),
            Stop::PolicyStop(what) => {
                let reason =
                    format!("stopped by the policy: {what} is denied with on-deny = \"stop\"");
                Death::Crashed(Box::new(reporter.vm_failed(&reason, &registers)))
            }
            Stop::Failure(reason) => {
                Death::Crashed(Box::new(reporter.vm_failed(&reason, &registers)))
            }
            Stop::Shutdown => Death::Gone("the guest shut down".to_owned()),
            Stop::Idle(_) | Stop::Clients | Stop::Asked => {
                Death::Gone("the guest was stopped".to_owned())
            }
        }
    }

    /// Adds the shim's own symbols: only reports need them, and reading them takes time that a start has not.
    fn complete_symbols(&mut self) {
        match Module::shim(images::guest(self.identity.abi)) {
            Ok(module) => Arc::make_mut(&mut self.identity.symbols).add(module),
            Err(error) => tracing::debug!("no symbols of the shim: {}", crate::error_chain(&error)),
        }
    }

    pub(super) fn hung_report(&self) -> CrashReport {
        let memory = VmMemory(&self.vm);
        self.reporter(&memory)
            .hung(self.identity.timeout, &self.registers())
    }

    fn reporter<'a>(&'a self, memory: &'a VmMemory<'a>) -> Reporter<'a> {
        Reporter {
            driver: &self.identity.driver,
            abi: self.identity.abi,
            privilege: self.identity.privilege,
            symbols: &self.identity.symbols,
            memory,
            exports: &kernel_shim::table::EXPORTS,
            unbound: &self.identity.unbound,
            flight: self.responder.observer.flight(),
            clock: self.identity.clock,
        }
    }

    fn registers(&self) -> Registers {
        let Ok(from) = self.vm.registers() else {
            return Registers::default();
        };
        Registers {
            general: [
                from.rax, from.rcx, from.rdx, from.rbx, from.rsp, from.rbp, from.rsi, from.rdi,
                from.r8, from.r9, from.r10, from.r11, from.r12, from.r13, from.r14, from.r15,
            ],
            rip: from.rip,
            rflags: from.rflags,
            cr2: 0,
            cs: u64::from(self.vm.code_selector().unwrap_or(0)),
        }
    }
}
