//! [`Platform`] on the real machine: doorbell, driver calls, ports, TSS, time-stamp counter.
#![expect(
    unsafe_code,
    reason = "addresses that the boot protocol promises, and instructions"
)]

use core::mem::offset_of;
use core::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use abi::crash::Registers;
use abi::doorbell::{Call, CallPage};
use abi::layout::{self, Shared, tss};
use kernel_shim::nt::FxSave;
use kernel_shim::platform::{PageAccess, Platform, PortAccess, PortDenied};
use kernel_shim::raw::low16;

use crate::{entry, runtime, switch, trap, user};

static KERNEL_BASE: AtomicU64 = AtomicU64::new(0);

/// First address of kernel space.
pub(crate) fn kernel_base() -> u64 {
    KERNEL_BASE.load(Ordering::Relaxed)
}

/// The platform of a guest.
#[derive(Debug)]
struct Machine;

static MACHINE: Machine = Machine;

/// First Rust code, on the boot stack, at the mode's CPL. RDI = kernel base, RSI = bytes of the shim's heap.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn guest_start(kernel_base: u64, heap_bytes: u64) -> ! {
    KERNEL_BASE.store(kernel_base, Ordering::Relaxed);
    trap::initialize(kernel_base);
    runtime::claim_heap(kernel_base + layout::HEAP, heap_bytes);
    kernel_shim::boot(&MACHINE)
}

/// Selectors of the mode that shim and driver run in: 64-bit code, data.
pub(crate) fn code64_and_data() -> (u64, u64) {
    use abi::layout::selector;
    if entry::is_ring3() {
        (selector::USER_CODE64.into(), selector::USER_DATA.into())
    } else {
        (selector::KERNEL_CODE64.into(), selector::KERNEL_DATA.into())
    }
}

/// Selector of 32-bit code in the mode that the driver runs in.
pub(crate) fn code32() -> u64 {
    use abi::layout::selector;
    if entry::is_ring3() {
        selector::USER_CODE32.into()
    } else {
        selector::KERNEL_CODE32.into()
    }
}

fn tss_field(offset: u64) -> u64 {
    kernel_base() + layout::TSS + offset
}

impl Machine {
    /// Points the processor at the I/O bitmap that lies at `offset` in the TSS.
    fn set_io_map_base(offset: u16) {
        let field = tss_field(tss::IOMAP_BASE_FIELD) as *mut u16;
        // SAFETY: the TSS is mapped for reading and writing at this address for the guest's whole life, the
        // field is 2-byte aligned, and nothing in Rust refers to it otherwise.
        unsafe { field.write_volatile(offset) };
    }
}

impl Platform for Machine {
    fn shared(&self) -> u64 {
        kernel_base() + layout::SHARED
    }

    fn doorbell(&self, call: Call, arguments: [u64; 6]) -> [u64; 4] {
        let page = self.shared() + Shared::CALL_PAGE;
        let arguments_field = (page + offset_of!(CallPage, arguments) as u64) as *mut [u64; 6];
        // SAFETY: the call page is mapped and aligned; one vCPU, and the VMM looks at it only in the exit below.
        unsafe { arguments_field.write_volatile(arguments) };
        let doorbell = (kernel_base() + layout::DOORBELL) as *mut u32;
        // SAFETY: the doorbell page is mapped; the store exits to the VMM and changes no guest memory but the
        // call page and shared rings, which are only accessed volatile.
        unsafe { doorbell.write_volatile(call as u32) };
        let results_field = (page + offset_of!(CallPage, results) as u64) as *const [u64; 4];
        // SAFETY: as for the arguments.
        unsafe { results_field.read_volatile() }
    }

    #[cfg(nt_i386)]
    fn call_driver(&self, function: u64, arguments: &[u64]) -> u64 {
        crate::thunk32::call(function, arguments, 0)
    }

    #[cfg(nt_i386)]
    fn call_funclet(&self, function: u64, frame_pointer: u64) -> u64 {
        crate::thunk32::call(function, &[], frame_pointer)
    }

    #[cfg(not(nt_i386))]
    fn call_funclet(&self, function: u64, frame_pointer: u64) -> u64 {
        self.call_driver(function, &[0, frame_pointer])
    }

    #[cfg(not(nt_i386))]
    fn call_driver(&self, function: u64, arguments: &[u64]) -> u64 {
        type Four = extern "win64" fn(u64, u64, u64, u64) -> u64;
        type Twelve =
            extern "win64" fn(u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64) -> u64;
        let argument = |index: usize| arguments.get(index).copied().unwrap_or(0);
        if arguments.len() <= 4 {
            // SAFETY: any address is a valid value to jump to as far as Rust's types go; one that is not code
            // faults in the driver's context, which ends in a bugcheck. Surplus arguments are ignored (the
            // caller owns the stack in Microsoft's x64 convention).
            let routine = unsafe { core::mem::transmute::<u64, Four>(function) };
            return routine(argument(0), argument(1), argument(2), argument(3));
        }
        // SAFETY: as above.
        let routine = unsafe { core::mem::transmute::<u64, Twelve>(function) };
        routine(
            argument(0),
            argument(1),
            argument(2),
            argument(3),
            argument(4),
            argument(5),
            argument(6),
            argument(7),
            argument(8),
            argument(9),
            argument(10),
            argument(11),
        )
    }

    fn prepare_stack(&self, top: u64, entry: extern "C" fn(u64) -> !, argument: u64) -> u64 {
        switch::prepare(top, entry, argument)
    }

    fn switch_stack(&self, save_at: u64, stack_pointer: u64) {
        switch::switch(save_at, stack_pointer);
    }

    fn resume(
        &self,
        registers: &Registers,
        is_32_bit: bool,
        fpu: Option<&FxSave>,
        depth: u32,
    ) -> ! {
        trap::resume(registers, is_32_bit, fpu, depth)
    }

    fn user_port(&self, access: PortAccess) -> Result<u32, PortDenied> {
        Self::set_io_map_base(PROCESS_MAP.load(Ordering::Relaxed));
        let result = user::port(access);
        Self::set_io_map_base(if entry::is_ring3() {
            KERNEL_MAP
        } else {
            tss::NO_IOPM
        });
        result
    }

    fn kernel_port(&self, access: PortAccess) -> u32 {
        user::kernel_port(access)
    }

    fn kernel_port_string(&self, port: u16, width: u8, buffer: u64, count: u32, is_write: bool) {
        user::kernel_port_string(port, width, buffer, count, is_write);
    }

    fn set_process_iopm(&self, map: Option<&[u8; 8192]>) {
        let Some(map) = map else {
            PROCESS_MAP.store(tss::NO_IOPM, Ordering::Relaxed);
            return;
        };
        let bitmap = tss_field(tss::PROCESS_IOPM) as *mut [u8; 8192];
        // SAFETY: the TSS region is mapped read-write and large enough (abi::layout::tss::SIZE); only this
        // function writes the bitmap, and the processor reads it as memory at each access.
        unsafe { bitmap.write_volatile(*map) };
        PROCESS_MAP.store(low16(tss::PROCESS_IOPM), Ordering::Relaxed);
    }

    fn map_pages(&self, entry: u64, address: u64, physical: u64, pages: u64, access: PageAccess) {
        trap::fill_page_table_entries(entry, pages, address, physical, access);
    }

    fn unmap_pages(&self, entry: u64, address: u64, pages: u64) {
        trap::clear_page_table_entries(entry, pages, address);
    }

    fn time_stamp(&self) -> u64 {
        // SAFETY: RDTSC is allowed at every CPL here (CR4.TSD is clear) and touches no memory.
        unsafe { core::arch::x86_64::_rdtsc() }
    }

    fn halt(&self) -> ! {
        loop {
            self.doorbell(Call::Shutdown, [0; 6]);
        }
    }
}

/// I/O map base for the ring-3 stub: of the process's bitmap, or beyond the limit.
static PROCESS_MAP: AtomicU16 = AtomicU16::new(tss::NO_IOPM);
/// I/O map base for shim and driver at CPL 3.
const KERNEL_MAP: u16 = low16(tss::KERNEL_IOPM);
const _: () = assert!(tss::SIZE <= u16::MAX as u64, "an I/O map base has 16 bits");
