//! The guest's calls to the VMM, by the doorbell.

use std::time::Duration;

use abi::Privilege;
use abi::channel::State;
use abi::crash::CrashRecord;
use abi::doorbell::{Call, CallPage};
use abi::layout::{self, PAGE_SIZE, Shared};

use super::{Vm, stopped_at_msr};
use crate::machine::backend::{Backend, GuestView, MsrAnswer, MsrExit, PhysicalAnswer, Stop};
use crate::machine::builder::CreateError;
use crate::machine::convert::to_usize;
use crate::machine::paging::Protection;

const STATUS_SUCCESS: u64 = 0;
const STATUS_CONFLICTING_ADDRESSES: u64 = 0xC000_0018;
const STATUS_INSUFFICIENT_RESOURCES: u64 = 0xC000_009A;
const STATUS_INVALID_PARAMETER: u64 = 0xC000_000D;

/// Why a physical range was not mapped.
enum Unmapped {
    Status(u64),
    Stop,
}

impl Vm {
    pub(super) fn doorbell(
        &mut self,
        backend: &mut dyn Backend,
        number: u32,
    ) -> Result<Option<Stop>, CreateError> {
        let Some(call) = Call::from_number(number) else {
            return Ok(Some(Stop::Failure(format!(
                "{number:#x} was stored to the doorbell, which is no call"
            ))));
        };
        let mut page: CallPage = self.view().read_shared(Shared::CALL_PAGE)?;
        let [first, second, third, fourth, ..] = page.arguments;
        match call {
            Call::Idle => {
                // Interrupts that came while the guest was on its way here.
                self.publish_lines()?;
                let state: State = self.view().read_shared(Shared::STATE)?;
                if state.interrupt_due != 0 {
                    return Ok(None);
                }
                let delay = (first != u64::MAX).then(|| self.until(first));
                return Ok(Some(Stop::Idle(delay)));
            }
            Call::Clients => return Ok(Some(Stop::Clients)),
            Call::DrainTrace => backend.drain_trace(&self.view()),
            Call::MapPhysical => {
                page.results = match self.map_physical(backend, first, second, third, fourth != 0) {
                    Ok(guest_physical) => [STATUS_SUCCESS, guest_physical, 0, 0],
                    Err(Unmapped::Status(status)) => [status, 0, 0, 0],
                    Err(Unmapped::Stop) => {
                        return Ok(Some(Stop::PolicyStop(format!(
                            "mapping of {second} bytes at physical address {first:#x}"
                        ))));
                    }
                };
            }
            Call::UnmapPhysical => {}
            Call::MapStack => {
                page.results[0] = match self.plan.map_stack(first, second, third) {
                    Ok(true) => STATUS_SUCCESS,
                    Ok(false) => STATUS_INVALID_PARAMETER,
                    Err(_) => STATUS_INSUFFICIENT_RESOURCES,
                };
            }
            Call::MapUserTable => {
                page.results = match self.plan.map_user_table(first) {
                    Ok(Some(entry)) => [STATUS_SUCCESS, entry, 0, 0],
                    Ok(None) => [STATUS_CONFLICTING_ADDRESSES, 0, 0, 0],
                    Err(_) => [STATUS_INSUFFICIENT_RESOURCES, 0, 0, 0],
                };
            }
            Call::Crash => {
                let record: CrashRecord = self.view().read_shared(Shared::CRASH)?;
                return Ok(Some(Stop::Crash(Box::new(record))));
            }
            Call::Shutdown => return Ok(Some(Stop::Shutdown)),
            Call::SetIoAccessMap => {
                let mut map = [0; 8192];
                if self.view().read(second, &mut map).is_ok() {
                    backend.io_access_map(first, &map);
                }
            }
            Call::SetProcessIoAccessMap => backend.process_io_access_map(first, second),
            Call::File => page.results = self.file(backend, page.arguments),
            Call::SaveRegistry => page.results[0] = self.save_registry(backend, first, second),
            Call::Msr => {
                let write = (second != 0).then_some(third);
                // A number that no instruction can have is the shim's bug or the driver's lie.
                let answer = u32::try_from(first).map_or(MsrAnswer::Fault, |number| {
                    let access = MsrExit {
                        number,
                        write,
                        rip: fourth,
                    };
                    backend.msr(&GuestView { plan: &self.plan }, access)
                });
                page.results = match answer {
                    MsrAnswer::Value(value) => [0, value, 0, 0],
                    MsrAnswer::Fault => [1, 0, 0, 0],
                    MsrAnswer::Stop => {
                        let number = u32::try_from(first).unwrap_or(u32::MAX);
                        return Ok(Some(stopped_at_msr(number, write)));
                    }
                };
            }
            Call::ArmTimer => self.watchdog.arm(self.until(first)),
        }
        self.view().write_shared(Shared::CALL_PAGE, &page)?;
        Ok(None)
    }

    /// A call for the host's files: the buffer is copied in before and out afterwards, never longer than it was.
    fn file(&self, backend: &mut dyn Backend, arguments: [u64; 6]) -> [u64; 4] {
        let [_, _, address, bytes, ..] = arguments;
        if bytes > abi::file::MAX_TRANSFER {
            return [STATUS_INVALID_PARAMETER, 0, 0, 0];
        }
        let mut buffer = vec![0; to_usize(bytes)];
        if bytes != 0 && self.view().read(address, &mut buffer).is_err() {
            return [STATUS_INVALID_PARAMETER, 0, 0, 0];
        }
        let results = backend.file(arguments, &mut buffer);
        buffer.truncate(to_usize(bytes));
        if results[0] == STATUS_SUCCESS
            && !buffer.is_empty()
            && self.view().write_pool(address, &buffer).is_err()
        {
            return [STATUS_INVALID_PARAMETER, 0, 0, 0];
        }
        results
    }

    /// A copy of the registry's contents is handed on; returns an NTSTATUS.
    fn save_registry(&self, backend: &mut dyn Backend, address: u64, bytes: u64) -> u64 {
        if bytes > abi::doorbell::REGISTRY_MAX {
            return STATUS_INVALID_PARAMETER;
        }
        let mut contents = vec![0; to_usize(bytes)];
        if self.view().read(address, &mut contents).is_err() {
            return STATUS_INVALID_PARAMETER;
        }
        backend.save_registry(&contents)
    }

    /// Time from now to an interrupt time (100 ns units since boot).
    fn until(&self, interrupt_time: u64) -> Duration {
        Duration::from_nanos(interrupt_time.saturating_mul(100))
            .saturating_sub(self.boot_time.elapsed())
    }

    /// Fills page-table entries for a physical range; `Err` is what the call answers, or stops with.
    fn map_physical(
        &mut self,
        backend: &mut dyn Backend,
        physical: u64,
        bytes: u64,
        address: u64,
        is_write: bool,
    ) -> Result<u64, Unmapped> {
        let window = self.plan.kernel_base + layout::IO_WINDOW;
        let is_whole = [address, physical, bytes]
            .iter()
            .all(|value| value % PAGE_SIZE == 0)
            && bytes != 0;
        let is_in_window = address
            .checked_sub(window)
            .and_then(|offset| offset.checked_add(bytes))
            .is_some_and(|end| end <= layout::IO_WINDOW_SIZE);
        let is_user = self.plan.has_user_tables(address, bytes);
        if !is_whole || !is_in_window && !is_user {
            return Err(Unmapped::Status(STATUS_INVALID_PARAMETER));
        }
        let pieces =
            match backend.physical(&GuestView { plan: &self.plan }, physical, bytes, is_write) {
                PhysicalAnswer::Mapped(pieces) => pieces,
                PhysicalAnswer::Denied(status) => return Err(Unmapped::Status(u64::from(status))),
                PhysicalAnswer::Stop => return Err(Unmapped::Stop),
            };
        let first = pieces
            .first()
            .map_or(0, |piece| layout::IO_WINDOW_GPA + piece.window_offset);
        let protection = Protection {
            write: is_write,
            user: is_user || self.privilege == Privilege::Ring3,
            ..Protection::default()
        };
        let mut next = address;
        for piece in pieces {
            if piece.bytes > address + bytes - next {
                return Err(Unmapped::Status(STATUS_INVALID_PARAMETER));
            }
            let guest_physical = layout::IO_WINDOW_GPA + piece.window_offset;
            self.plan
                .tables
                .map(
                    &self.plan.ram,
                    next,
                    guest_physical,
                    piece.bytes,
                    protection,
                )
                .map_err(|_| Unmapped::Status(STATUS_INSUFFICIENT_RESOURCES))?;
            next += piece.bytes;
        }
        Ok(first)
    }
}
