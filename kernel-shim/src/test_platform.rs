//! A machine for the unit tests: its kernel space is one sparse allocation of the test process.
#![expect(
    unsafe_code,
    reason = "calls test drivers by address and writes the pages that a VMM would"
)]

use std::alloc::{Layout, alloc_zeroed};
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::main_loop;
use crate::nt::FxSave;
use crate::platform::{PageAccess, Platform, PortAccess, PortDenied};
use crate::raw::{Ptr, volatile_read, volatile_write};
use crate::{shared, table};
use abi::boot::{BootInfo, MAX_REGIONS, Region, RegionKind};
use abi::channel::{Completion, CompletionRing, Operation, RING_ENTRIES, Request};
use abi::crash::{CrashRecord, Registers};
use abi::doorbell::Call;
use abi::layout::{self, Shared, entries};

/// Bytes of the test machine's pool.
pub(crate) const POOL_BYTES: u64 = 0x20_0000;
/// Bytes of client memory.
pub(crate) const USER_BYTES: u64 = 0x8_0000;
/// Guest-physical address behind the pool.
pub(crate) const POOL_PHYSICAL: u64 = layout::RAM_BASE + 0x10_0000;

/// Index of the next user table's first entry.
static NEXT_TABLE: AtomicU64 = AtomicU64::new(entries::USER);
/// One time-stamp tick is 100 ns here.
static NOW: AtomicU64 = AtomicU64::new(0);

pub(crate) struct Fake {
    base: u64,
    pub(crate) calls: Mutex<Vec<(Call, [u64; 6])>>,
    /// Accesses by the kernel; a read answers with the port's number.
    pub(crate) ports: Mutex<Vec<PortAccess>>,
    /// A PCI bus: what port 0xCF8 was written last, and registers by that.
    pub(crate) pci: Mutex<Option<(u32, BTreeMap<u32, u32>)>>,
    pub(crate) iopm: Mutex<Option<Box<[u8; 8192]>>>,
    pub(crate) iopm_loads: AtomicU64,
    /// Pages that the shim has mapped: their guest-physical addresses, by address.
    pub(crate) pages: Mutex<BTreeMap<u64, u64>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Platform for Fake {
    fn shared(&self) -> u64 {
        self.base + layout::SHARED
    }

    fn doorbell(&self, call: Call, arguments: [u64; 6]) -> [u64; 4] {
        lock(&self.calls).push((call, arguments));
        if call == Call::Idle {
            assert_ne!(arguments[0], u64::MAX, "the guest idles for ever");
            NOW.fetch_max(arguments[0], Ordering::Relaxed);
        }
        if call == Call::MapUserTable {
            let entry = NEXT_TABLE.fetch_add(entries::PER_TABLE, Ordering::Relaxed);
            return [0, entry, 0, 0];
        }
        [0; 4]
    }

    fn call_driver(&self, function: u64, arguments: &[u64]) -> u64 {
        call(function, arguments)
    }

    fn call_funclet(&self, function: u64, frame_pointer: u64) -> u64 {
        call(function, &[0, frame_pointer])
    }

    fn prepare_stack(&self, top: u64, entry: extern "C" fn(u64) -> !, argument: u64) -> u64 {
        let words = [
            0,
            0,
            entry as *const () as u64,
            argument,
            0,
            0,
            thread_start as *const () as u64,
            // A null return address, and what aligns the stack.
            0,
            0,
        ];
        let stack_pointer = top - size_of_val(&words) as u64;
        Ptr::new(stack_pointer).write(words);
        stack_pointer
    }

    fn switch_stack(&self, save_at: u64, stack_pointer: u64) {
        if crate::ke::sched::left_idle() {
            MAIN_STACK_AT.store(save_at, Ordering::Relaxed);
        }
        // SAFETY: the scheduler passes its own word and the stack pointer of a stack that waits to go on.
        unsafe { switch(save_at, stack_pointer) };
        if let Some(payload) = lock(&PANIC).take() {
            resume_unwind(payload);
        }
    }

    fn resume(&self, _: &Registers, _: bool, _: Option<&FxSave>, _: u32) -> ! {
        panic!("test drivers are Rust functions: none can be resumed in its middle")
    }

    fn user_port(&self, access: PortAccess) -> Result<u32, PortDenied> {
        let map = lock(&self.iopm);
        let Some(map) = map.as_ref() else {
            return Err(PortDenied);
        };
        let last = u32::from(access.port) + u32::from(access.width) - 1;
        for port in u32::from(access.port)..=last {
            let denied = map
                .get(port as usize / 8)
                .is_none_or(|byte| byte & (1 << (port % 8)) != 0);
            if denied {
                return Err(PortDenied);
            }
        }
        Ok(0x5A)
    }

    fn kernel_port(&self, access: PortAccess) -> u32 {
        lock(&self.ports).push(access);
        if let (0xCF8..=0xCFF, Some((address, registers))) = (access.port, lock(&self.pci).as_mut())
        {
            return pci_port(address, registers, access);
        }
        if access.write.is_some() {
            0
        } else {
            u32::from(access.port)
        }
    }

    fn kernel_port_string(&self, port: u16, width: u8, buffer: u64, count: u32, is_write: bool) {
        for index in 0..u64::from(count) {
            let at = Ptr::<u8>::new(buffer + index * u64::from(width));
            let mut bytes = [0; 4];
            let write = is_write.then(|| {
                bytes[..width.into()].copy_from_slice(&at.read_slice(width.into()));
                u32::from_le_bytes(bytes)
            });
            let value = self.kernel_port(PortAccess { port, width, write });
            if !is_write {
                at.write_bytes(&value.to_le_bytes()[..width.into()]);
            }
        }
    }

    fn set_process_iopm(&self, map: Option<&[u8; 8192]>) {
        self.iopm_loads.fetch_add(1, Ordering::Relaxed);
        *lock(&self.iopm) = map.map(|map| Box::new(*map));
    }

    fn unmap_pages(&self, _: u64, address: u64, pages: u64) {
        for page in 0..pages {
            lock(&self.pages).remove(&(address + page * layout::PAGE_SIZE));
        }
    }

    /// The windows are plain memory here.
    fn map_pages(&self, _: u64, address: u64, physical: u64, pages: u64, _: PageAccess) {
        for page in 0..pages {
            let offset = page * layout::PAGE_SIZE;
            lock(&self.pages).insert(address + offset, physical + offset);
        }
    }

    fn time_stamp(&self) -> u64 {
        NOW.fetch_add(1, Ordering::Relaxed)
    }

    fn halt(&self) -> ! {
        resume_unwind(Box::new(Halted))
    }
}

/// Mechanism #1: registers that are not there read as ones.
fn pci_port(address: &mut u32, registers: &mut BTreeMap<u32, u32>, access: PortAccess) -> u32 {
    if access.port < 0xCFC {
        *address = access.write.unwrap_or(*address);
        return *address;
    }
    let shift = 8 * u32::from(access.port - 0xCFC);
    let old = registers.get(address).copied().unwrap_or(u32::MAX);
    let mask = u32::MAX >> (32 - 8 * u32::from(access.width));
    if let (Some(value), Some(register)) = (access.write, registers.get_mut(address)) {
        *register = (old & !(mask << shift)) | (value & mask) << shift;
    }
    (old >> shift) & mask
}

/// As guest-stub's switch, without 32-bit calls.
///
/// # Safety
/// `save_at` is the address of a u64, and `stack_pointer` comes from `prepare_stack` or an earlier switch.
#[unsafe(naked)]
unsafe extern "C" fn switch(save_at: u64, stack_pointer: u64) {
    core::arch::naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi], rsp",
        "mov rsp, rsi",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}

#[unsafe(naked)]
extern "C" fn thread_start() {
    core::arch::naked_asm!("mov rdi, r12", "call r13", "ud2")
}

struct Halted;

/// Where the test's own stack has its pointer, while a thread runs.
static MAIN_STACK_AT: AtomicU64 = AtomicU64::new(0);
/// What a thread panicked with, for the test's own stack.
static PANIC: Mutex<Option<Box<dyn std::any::Any + Send>>> = Mutex::new(None);

/// Runs a thread; its panic, and its stopping the guest, go on on the test's own stack.
pub(crate) fn run_on_thread_stack(run: impl FnOnce()) -> ! {
    let result = catch_unwind(AssertUnwindSafe(run));
    let payload = result.expect_err("a thread's first function does not return");
    *lock(&PANIC) = Some(payload);
    let main_stack = volatile_read(MAIN_STACK_AT.load(Ordering::Relaxed));
    let mut never_again = 0_u64;
    // SAFETY: the test's own stack waits in `switch_stack`; nothing switches back to this one.
    unsafe { switch(Ptr::of(&mut never_again).addr(), main_stack) };
    unreachable!("the stack of a thread that panicked")
}

/// Calls code by address in Microsoft's convention.
pub(crate) fn call(function: u64, arguments: &[u64]) -> u64 {
    type Routine = extern "win64-unwind" fn(u64, u64, u64, u64, u64, u64, u64, u64) -> u64;
    let mut all = [0; 8];
    all[..arguments.len()].copy_from_slice(arguments);
    let [a, b, c, d, e, f, g, h] = all;
    // SAFETY: tests only pass addresses of their own drivers' routines and of the table's entry points; superfluous
    // arguments are harmless in this convention, where the caller cleans up.
    let routine: Routine = unsafe { std::mem::transmute(usize::try_from(function).unwrap()) };
    routine(a, b, c, d, e, f, g, h)
}

/// Calls an export as a driver does, through its entry point.
pub(crate) fn api(name: &str, arguments: &[u64]) -> u64 {
    let index = table::find(name).unwrap() as usize;
    call(table::ENTRY_POINTS[index].addr(), arguments)
}

fn fake() -> &'static Fake {
    static FAKE: OnceLock<Fake> = OnceLock::new();
    FAKE.get_or_init(|| {
        let bytes = layout::THREAD_STACKS + 1100 * 0x2_0000 + 0x1000;
        let layout = Layout::from_size_align(usize::try_from(bytes).unwrap(), 16).unwrap();
        // SAFETY: the layout's size is not 0. Nothing of it is touched but what the tests use.
        let memory = unsafe { alloc_zeroed(layout) };
        assert!(!memory.is_null());
        Fake {
            base: (memory.expose_provenance() as u64).next_multiple_of(0x1000),
            calls: Mutex::default(),
            pages: Mutex::default(),
            ports: Mutex::default(),
            pci: Mutex::default(),
            iopm: Mutex::default(),
            iopm_loads: AtomicU64::new(0),
        }
    })
}

/// A booted machine; one test at a time.
pub(crate) struct Machine {
    pub(crate) fake: &'static Fake,
    ids: u64,
    early: VecDeque<Completion>,
    _serial: MutexGuard<'static, ()>,
}

/// Boots.
pub(crate) fn machine() -> Machine {
    boot(0)
}

/// Boots with drivers' use of the pool verified.
pub(crate) fn verifying_machine() -> Machine {
    boot(1)
}

fn boot(verify: u32) -> Machine {
    static SERIAL: Mutex<()> = Mutex::new(());
    let serial = lock(&SERIAL);
    let fake = fake();
    shared::set_platform(fake);
    Ptr::<u8>::new(fake.shared()).fill(0, Shared::SIZE);
    NOW.store(1000, Ordering::Relaxed);
    lock(&fake.calls).clear();
    lock(&fake.ports).clear();
    *lock(&fake.pci) = None;
    let region = |virtual_address, physical_address, bytes, kind: RegionKind| Region {
        virtual_address,
        physical_address,
        bytes,
        kind: kind as u32,
        flags: 1,
    };
    let mut regions = [region(0, 0, 0, RegionKind::Shim); MAX_REGIONS];
    let user = layout::RAM_BASE + 0x40_0000;
    regions[0] = region(
        fake.base + layout::POOL,
        POOL_PHYSICAL,
        POOL_BYTES,
        RegionKind::Pool,
    );
    regions[1] = region(layout::USER, user, USER_BYTES, RegionKind::User);
    regions[2] = region(
        fake.base + layout::USER_ALIAS,
        user,
        USER_BYTES,
        RegionKind::UserAlias,
    );
    regions[3] = region(
        fake.base + layout::STACK,
        layout::RAM_BASE,
        layout::STACK_SIZE,
        RegionKind::Stack,
    );
    let boot = BootInfo {
        version: abi::VERSION,
        privilege: 0,
        kernel_base: fake.base,
        ram_bytes: layout::RAM_DEFAULT,
        tsc_khz: 10_000,
        boot_tsc: 0,
        system_time: 1_000_000_000,
        pool_bytes: POOL_BYTES,
        user_bytes: USER_BYTES,
        trace_lossless: 0,
        verify,
        reserved: 0,
        region_count: 4,
        windows: 0,
        kernel_data_rva: 0,
        shim_data: 0,
        shim_data_bytes: 0,
        regions,
    };
    volatile_write(fake.shared() + Shared::BOOT_INFO, boot);
    main_loop::initialize();
    // What booting asked of the VMM is no test's.
    lock(&fake.calls).clear();
    Machine {
        fake,
        ids: 0,
        early: VecDeque::new(),
        _serial: serial,
    }
}

impl Machine {
    /// Kernel space's first address.
    pub(crate) fn kernel_base(&self) -> u64 {
        self.fake.base
    }

    /// Lets the pool hold code.
    pub(crate) fn make_pool_executable(&self) {
        let flags = std::mem::offset_of!(BootInfo, regions) + std::mem::offset_of!(Region, flags);
        volatile_write(self.fake.shared() + Shared::BOOT_INFO + flags as u64, 3_u32);
    }

    /// Writes client memory at an offset from its start; returns the user address.
    pub(crate) fn write_user(&self, offset: u64, bytes: &[u8]) -> u64 {
        Ptr::<u8>::new(self.fake.base + layout::USER_ALIAS + offset).write_bytes(bytes);
        layout::USER + offset
    }

    /// Reads client memory.
    pub(crate) fn read_user(&self, offset: u64, count: usize) -> Vec<u8> {
        Ptr::<u8>::new(self.fake.base + layout::USER_ALIAS + offset).read_slice(count)
    }

    /// Puts text into client memory; returns address and bytes.
    pub(crate) fn text(&self, text: &str) -> (u64, u64) {
        let bytes: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        (self.write_user(0xF000, &bytes), bytes.len() as u64)
    }

    /// Serves a request, as far as that goes without waiting; returns its id.
    pub(crate) fn send(&mut self, process: u32, operation: Operation, arguments: &[u64]) -> u64 {
        self.ids += 1;
        let mut all = [0; 6];
        all[..arguments.len()].copy_from_slice(arguments);
        main_loop::serve(&Request {
            id: self.ids,
            operation: operation as u32,
            process,
            arguments: all,
        });
        crate::ke::sched::run_ready();
        self.ids
    }

    /// The completion of a request, if there is one yet.
    pub(crate) fn completion(&mut self, id: u64) -> Option<Completion> {
        let ring = self.fake.shared() + Shared::COMPLETIONS;
        let consumed_at = ring + std::mem::offset_of!(CompletionRing, consumed) as u64;
        let mut consumed: u64 = volatile_read(consumed_at);
        while consumed != volatile_read::<u64>(ring) {
            let slot = consumed % RING_ENTRIES as u64;
            let entries = ring + std::mem::offset_of!(CompletionRing, entries) as u64;
            self.early.push_back(volatile_read(
                entries + slot * size_of::<Completion>() as u64,
            ));
            consumed += 1;
        }
        volatile_write(consumed_at, consumed);
        let position = self
            .early
            .iter()
            .position(|completion| completion.id == id)?;
        self.early.remove(position)
    }

    /// Serves a request and returns its completion.
    pub(crate) fn request(
        &mut self,
        process: u32,
        operation: Operation,
        arguments: &[u64],
    ) -> Completion {
        let id = self.send(process, operation, arguments);
        self.completion(id)
            .expect("the request is completed at once")
    }
}

/// Runs code that stops the guest; returns the crash record.
pub(crate) fn crash_of(run: impl FnOnce()) -> CrashRecord {
    let result = catch_unwind(AssertUnwindSafe(run));
    let payload = result.expect_err("the guest was to be stopped");
    if !payload.is::<Halted>() {
        resume_unwind(payload);
    }
    volatile_read(shared::platform().shared() + Shared::CRASH)
}
