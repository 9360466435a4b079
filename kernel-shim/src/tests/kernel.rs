//! Pool, IOPMs, timers, waits, locks, traps.

use super::{CLIENT, opened};
use crate::ex::pool;
use crate::ke::{event, iopm, time, timer};
use crate::nt::FxSave;
use crate::nt::{KDPC, KTIMER, NtStatus, bugcheck};
use crate::platform::{Outcome, Trap};
use crate::raw::Ptr;
use crate::test_platform::{POOL_PHYSICAL, crash_of, machine};
use crate::value::{Size, Tag};
use crate::{ps, shared};
use abi::channel::Operation;
use abi::crash::Registers;
use abi::doorbell::Call;
use abi::layout;
use std::sync::atomic::{AtomicU64, Ordering};

#[test]
fn pool_places_blocks_as_nt_does() {
    let machine = machine();
    let tag = u32::from_le_bytes(*b"Test");
    let small: Vec<u64> = (0..64)
        .map(|_| pool::allocate(600, tag, 1).addr())
        .collect();
    for address in &small {
        assert_eq!(address % 16, 0);
        assert!(address % 4096 + 600 <= 4096, "{address:#x} crosses a page");
    }
    let large = pool::allocate(4096, tag, 1);
    assert_eq!(large.addr() % 4096, 0);
    assert_eq!(pool::blocks_of(1).len(), 65);
    let physical = crate::mm::physical_address(large.addr()).unwrap();
    assert_eq!(
        physical - POOL_PHYSICAL,
        large.addr() - machine.kernel_base() - layout::POOL
    );
    for address in small {
        pool::free(Ptr::new(address), tag);
    }
    pool::free(large, 0);
    assert!(
        pool::allocate(crate::test_platform::POOL_BYTES, tag, 1).is_null(),
        "the guard does not fit"
    );
    assert!(pool::blocks_of(1).is_empty());
}

#[test]
fn pool_overrun_and_bad_frees_are_bugchecks() {
    let _machine = machine();
    let allocate = || crate::ex::pool_api::ExAllocatePoolWithTag(0, Size(10), Tag(1));
    let block = allocate();
    block.add_bytes(10).write(0);
    let crash = crash_of(|| pool::free(block, 1));
    assert_eq!(
        (crash.code, crash.parameters[..2].to_vec()),
        (bugcheck::BAD_POOL_HEADER, vec![0x20, block.addr()])
    );
    let block = allocate();
    pool::free(block, 1);
    let crash = crash_of(|| pool::free(block, 1));
    assert_eq!(
        (crash.code, crash.parameters[0]),
        (bugcheck::BAD_POOL_CALLER, 7)
    );
    let block = allocate();
    let crash = crash_of(|| pool::free(block, 2));
    assert_eq!(
        (crash.code, crash.parameters[0]),
        (bugcheck::BAD_POOL_CALLER, 0xA)
    );
    let crash = crash_of(|| pool::free(Ptr::new(0x1234), 0));
    assert_eq!(
        (crash.code, crash.parameters[0]),
        (bugcheck::BAD_POOL_CALLER, 0x40)
    );
}

#[test]
fn iopm_functions_have_nts_semantics() {
    let (mut machine, _, _) = opened();
    let mut map = [0xFF_u8; 8192];
    map[0x378 / 8] = 0xFE;
    let address = Ptr::of(&mut map[0]);
    let process = ps::by_id(CLIENT).unwrap();
    let loads = machine.fake.iopm_loads.load(Ordering::Relaxed);
    assert!(!iopm::Ke386SetIoAccessMap(0, address));
    assert!(!iopm::Ke386SetIoAccessMap(2, address));
    assert!(iopm::Ke386SetIoAccessMap(1, address));
    assert!(!iopm::Ke386IoSetAccessProcess(process, 2));
    let denied = machine.request(CLIENT, Operation::PortIn, &[0x378, 1]);
    assert_eq!(
        denied.status,
        NtStatus::PRIVILEGED_INSTRUCTION.0,
        "no map yet"
    );
    assert!(iopm::Ke386IoSetAccessProcess(process, 1));
    let read = machine.request(CLIENT, Operation::PortIn, &[0x378, 1]);
    assert_eq!((read.status, read.value), (0, 0x5A));
    assert_eq!(
        machine
            .request(CLIENT, Operation::PortOut, &[0x378, 2, 1])
            .status,
        NtStatus::PRIVILEGED_INSTRUCTION.0
    );
    assert_eq!(
        machine
            .request(CLIENT, Operation::PortIn, &[0x378, 3])
            .status,
        NtStatus::INVALID_PARAMETER.0
    );
    let loaded = machine.fake.iopm_loads.load(Ordering::Relaxed) - loads;
    assert_eq!(
        loaded, 2,
        "none, then the map, which the next accesses find loaded"
    );
    let mut back = [0_u8; 8192];
    assert!(iopm::Ke386QueryIoAccessMap(1, Ptr::of(&mut back[0])));
    assert_eq!(back, map);
    assert!(iopm::Ke386QueryIoAccessMap(0, Ptr::of(&mut back[0])));
    assert_eq!(back, [0xFF; 8192]);
    assert!(!iopm::Ke386QueryIoAccessMap(2, Ptr::of(&mut back[0])));
    let calls = machine.fake.calls.lock().unwrap();
    let told: Vec<_> = calls
        .iter()
        .filter(|(call, _)| *call == Call::SetProcessIoAccessMap)
        .collect();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].1[..2], [u64::from(CLIENT), 1]);
}

static DPC_RUNS: AtomicU64 = AtomicU64::new(0);

extern "win64-unwind" fn on_dpc(_dpc: u64, context: u64, _first: u64, _second: u64) -> u64 {
    assert_eq!((context, shared::irql()), (77, 2));
    DPC_RUNS.fetch_add(1, Ordering::Relaxed)
}

#[test]
fn timers_expire_in_order_and_queue_their_dpcs() {
    let machine = machine();
    DPC_RUNS.store(0, Ordering::Relaxed);
    let block = crate::ex::pool_api::ExAllocatePoolWithTag(0, Size(256), Tag(1));
    let (timer, dpc) = (block.cast::<KTIMER>(), block.add_bytes(128).cast::<KDPC>());
    timer::KeInitializeTimerEx(timer, 1);
    crate::ke::dpc::KeInitializeDpc(dpc, Ptr::new(on_dpc as *const () as u64), Ptr::new(77));
    let start = time::interrupt_time();
    assert!(!timer::set(timer, -100_000, 10, dpc));
    assert!(timer::set(timer, -50_000, 10, dpc), "it was set already");
    let armed = machine
        .fake
        .calls
        .lock()
        .unwrap()
        .iter()
        .filter(|(call, _)| *call == Call::ArmTimer)
        .count();
    assert_eq!(armed, 2, "each time moved the earliest forward");
    let mut timeout = -260_000_i64;
    event::KeDelayExecutionThread(crate::value::ProcessorMode(0), false, Ptr::of(&mut timeout));
    assert!(time::interrupt_time() >= start + 260_000);
    assert_eq!(DPC_RUNS.load(Ordering::Relaxed), 3, "at 5, 15 and 25 ms");
    assert!(timer::cancel(timer));
    assert_eq!(timer::next_due(), u64::MAX);
    assert_eq!(shared::irql(), 0);
}

#[test]
fn a_wait_times_out_and_a_signalled_event_satisfies_one_wait() {
    let _machine = machine();
    let event = crate::ex::pool_api::ExAllocatePoolWithTag(0, Size(64), Tag(1)).cast();
    event::KeInitializeEvent(event, 1, true);
    let mut timeout = -10_000_i64;
    let mut wait = || {
        event::KeWaitForSingleObject(
            event.cast(),
            0,
            crate::value::ProcessorMode(0),
            false,
            Ptr::of(&mut timeout),
        )
    };
    assert_eq!(wait(), NtStatus::SUCCESS);
    assert_eq!(wait(), NtStatus::TIMEOUT);
}

#[test]
fn spin_locks_that_would_deadlock_are_bugchecks() {
    let _machine = machine();
    let mut lock = 0;
    let lock = Ptr::of(&mut lock);
    let old = crate::ke::spin_lock::KeAcquireSpinLockRaiseToDpc(lock);
    assert_eq!((old.0, shared::irql()), (0, 2));
    let crash = crash_of(|| crate::ke::spin_lock::acquire(lock));
    assert_eq!(crash.code, bugcheck::SPIN_LOCK_ALREADY_OWNED);
    crate::ke::spin_lock::KeReleaseSpinLock(lock, old);
    assert_eq!(shared::irql(), 0);
    assert_eq!(
        crash_of(|| crate::ke::spin_lock::release(lock)).code,
        bugcheck::SPIN_LOCK_NOT_OWNED
    );
}

/// Handles a trap as guest-stub does.
fn take(trap: &mut Trap) {
    if crate::trap(trap) == Outcome::Dispatch {
        let depth = crate::seh::begin_dispatch();
        crate::seh::dispatch_trap(trap, &mut FxSave([0; 512]), depth);
    }
}

/// The crash that a page fault at `address` makes.
fn page_fault(address: u64, error_code: u32) -> abi::crash::CrashRecord {
    let registers = Registers {
        rip: 0x1234,
        cr2: address,
        ..Registers::default()
    };
    let mut trap = Trap {
        vector: 14,
        error_code,
        registers,
        is_32_bit: false,
    };
    crash_of(|| take(&mut trap))
}

#[test]
fn page_faults_become_nts_bugchecks() {
    let machine = machine();
    let crash = page_fault(0, 2);
    assert_eq!(crash.code, bugcheck::SYSTEM_THREAD_EXCEPTION_NOT_HANDLED);
    assert_eq!(
        crash.parameters[..2],
        [u64::from(NtStatus::ACCESS_VIOLATION.0), 0x1234]
    );
    assert_eq!((crash.vector, crash.registers.cr2), (14, 0));
    assert_eq!(
        page_fault(machine.kernel_base(), 3).code,
        bugcheck::ATTEMPTED_WRITE_TO_READONLY_MEMORY
    );
    assert_eq!(
        page_fault(machine.kernel_base(), 17).code,
        bugcheck::ATTEMPTED_EXECUTE_OF_NOEXECUTE_MEMORY
    );
    let crash = page_fault(machine.kernel_base() + layout::STACK - 8, 2);
    assert_eq!(
        (crash.code, crash.parameters[0]),
        (bugcheck::UNEXPECTED_KERNEL_MODE_TRAP, 8)
    );
    shared::set_current_process(CLIENT);
    assert_eq!(page_fault(0, 0).code, bugcheck::SYSTEM_SERVICE_EXCEPTION);
    shared::set_irql(2);
    let crash = page_fault(0x10, 2);
    assert_eq!(
        (crash.code, crash.parameters),
        (
            bugcheck::DRIVER_IRQL_NOT_LESS_OR_EQUAL,
            [0x10, 2, 1, 0x1234]
        )
    );
}

#[test]
fn fail_fast_is_told_from_an_illegal_instruction() {
    let machine = machine();
    let code = crate::ex::pool_api::ExAllocatePoolWithTag(0, Size(16), Tag(1));
    code.write_bytes(&[0xCD, 0x29]);
    let mut registers = Registers {
        rip: code.addr(),
        ..Registers::default()
    };
    registers.general[1] = 2;
    let mut trap = Trap {
        vector: 6,
        error_code: 0,
        registers,
        is_32_bit: false,
    };
    let crash = crash_of(|| take(&mut trap));
    assert_eq!(
        crash.code,
        bugcheck::SYSTEM_THREAD_EXCEPTION_NOT_HANDLED,
        "the pool holds no code"
    );
    machine.make_pool_executable();
    let crash = crash_of(|| take(&mut trap));
    assert_eq!(
        (crash.code, crash.parameters[0]),
        (bugcheck::KERNEL_SECURITY_CHECK_FAILURE, 2)
    );
}

#[test]
fn a_tick_that_must_not_interrupt_is_served_later() {
    let _machine = machine();
    let timer = crate::ex::pool_api::ExAllocatePoolWithTag(0, Size(128), Tag(1)).cast::<KTIMER>();
    timer::KeInitializeTimer(timer);
    timer::set(timer, -1, 0, Ptr::null());
    shared::set_tick_due(1);
    assert!(!crate::begin_interrupt(), "shim code was interrupted");
    assert!(!timer::KeReadStateTimer(timer));
    crate::ke::deliver_deferred();
    assert!(timer::KeReadStateTimer(timer));
    assert_eq!(shared::tick_due(), 0);
}
