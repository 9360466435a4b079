//! Interrupt objects. What raises an interrupt calls [`deliver`]; a routine runs at its synchronize IRQL with its lock held.

use alloc::vec::Vec;

use super::driver::owner_of;
use crate::api::nt_api;
use crate::ex::pool;
use crate::ke::{irql, spin_lock};
use crate::nt::{HIGH_LEVEL, KINTERRUPT, NtStatus};
use crate::raw::{Global, Ptr, Word, from_word, low8, low16, to_word};
use crate::shared;
use crate::value::{Boolean, Irql, Size, ULong};
use abi::trace::Entry;

/// Addresses of connected KINTERRUPTs, in the order of their connection.
static CONNECTED: Global<Vec<u64>> = Global::new("connected interrupts", Vec::new());

/// InterruptObject.
const INTERRUPT_OBJECT: i16 = 22;
/// The vector of interrupt line 0; lines 0 to 23 follow.
const FIRST_VECTOR: u32 = 0x30;
/// Interrupt lines.
const LINES: u32 = 24;
/// Latched.
const LATCHED: u8 = 1;

type Interrupt = Ptr<KINTERRUPT>;

pub(super) fn initialize() {
    CONNECTED.with(Vec::clear);
}

/// Vector and IRQL of an interrupt line; `None` if there is no such line.
#[must_use]
pub fn vector_of(line: u32) -> Option<(u32, u8)> {
    let is_there = line < LINES;
    // As PC HALs have it: 27 - line with a PIC on i386; on amd64 a vector's upper half is its IRQL.
    let irql = if cfg!(nt_i386) {
        27_u32.saturating_sub(line).max(3)
    } else {
        3 + line / 3
    };
    is_there.then(|| (FIRST_VECTOR + line, low8(irql.into())))
}

/// Raises IRQL to the interrupt's and takes its lock; returns the old IRQL.
fn enter(interrupt: Interrupt) -> u8 {
    let KINTERRUPT {
        SynchronizeIrql: level,
        ActualLock: lock,
        ..
    } = interrupt.read();
    let old = irql::raise(level);
    spin_lock::acquire(lock);
    old
}

fn leave(interrupt: Interrupt, old: u8) {
    spin_lock::release(interrupt.read().ActualLock);
    irql::lower(old);
}

/// An interrupt arrived: calls the routines connected to `vector`, of a level-sensitive one until a routine says that
/// it was its device's. True: one did.
pub fn deliver(vector: u32) -> bool {
    let mut was_served = false;
    let connected = CONNECTED.with(|connected| connected.clone());
    for address in connected {
        let interrupt = Interrupt::new(address);
        let object = interrupt.read();
        if object.Vector != vector {
            continue;
        }
        let old = enter(interrupt);
        let arguments = [address, from_word(object.ServiceContext)];
        let answer =
            shared::call_driver(Entry::Other, from_word(object.ServiceRoutine), &arguments);
        leave(interrupt, old);
        if answer & 0xFF != 0 {
            was_served = true;
            if object.Mode != LATCHED {
                break;
            }
        }
    }
    was_served
}

/// How a driver connects an interrupt.
struct Wanted {
    routine: Ptr<u8>,
    context: Ptr<u8>,
    lock: Ptr<Word>,
    vector: u32,
    irql: u8,
    synchronize_irql: u8,
    mode: u8,
    share: bool,
}

fn connect(wanted: &Wanted) -> Result<Interrupt, NtStatus> {
    let is_valid = wanted.irql <= HIGH_LEVEL
        && wanted.synchronize_irql >= wanted.irql
        && wanted.synchronize_irql <= HIGH_LEVEL
        && !wanted.routine.is_null()
        && (FIRST_VECTOR..FIRST_VECTOR + LINES).contains(&wanted.vector);
    let is_taken = CONNECTED.with(|connected| {
        connected.iter().any(|&address| {
            let other = Interrupt::new(address).read();
            other.Vector == wanted.vector
                && (other.ShareVector == 0 || !wanted.share || other.Mode != wanted.mode)
        })
    });
    if !is_valid || is_taken {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    let bytes = size_of::<KINTERRUPT>() as u64;
    let interrupt = pool::allocate(
        bytes,
        u32::from_le_bytes(*b"Intr"),
        owner_of(shared::caller()),
    )
    .non_null()
    .ok_or(NtStatus::INSUFFICIENT_RESOURCES)?
    .cast::<KINTERRUPT>();
    interrupt.cast::<u8>().fill(0, bytes);
    let own_lock = interrupt
        .add_bytes(core::mem::offset_of!(KINTERRUPT, SpinLock) as u64)
        .cast();
    interrupt.with(|interrupt| {
        interrupt.Type = INTERRUPT_OBJECT;
        interrupt.Size = low16(bytes).cast_signed();
        interrupt.ServiceRoutine = wanted.routine.word();
        interrupt.ServiceContext = wanted.context.word();
        interrupt.ActualLock = wanted.lock.non_null().unwrap_or(own_lock);
        interrupt.Vector = wanted.vector;
        interrupt.Irql = wanted.irql;
        interrupt.SynchronizeIrql = wanted.synchronize_irql;
        interrupt.ShareVector = u8::from(wanted.share);
        interrupt.Mode = wanted.mode;
    });
    CONNECTED.with(|connected| connected.push(interrupt.addr()));
    Ok(interrupt)
}

fn disconnect(interrupt: Interrupt) {
    let was_connected = CONNECTED.with(|connected| {
        let before = connected.len();
        connected.retain(|&address| address != interrupt.addr());
        before != connected.len()
    });
    if was_connected {
        pool::free(interrupt.cast(), 0);
    }
}

/// IO_CONNECT_INTERRUPT_PARAMETERS of CONNECT_FULLY_SPECIFIED.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct IO_CONNECT_INTERRUPT_PARAMETERS {
    /// 1: fully specified.
    pub Version: u32,
    /// The device.
    pub PhysicalDeviceObject: Word,
    /// Where the KINTERRUPT's address goes.
    pub InterruptObject: Ptr<Interrupt>,
    /// The service routine.
    pub ServiceRoutine: Ptr<u8>,
    /// Its context.
    pub ServiceContext: Ptr<u8>,
    /// The lock, or null.
    pub SpinLock: Ptr<Word>,
    /// IRQL at which the routine runs.
    pub SynchronizeIrql: u8,
    /// Save the floating point state.
    pub FloatingSave: u8,
    /// Others may use the vector too.
    pub ShareVector: u8,
    /// Vector.
    pub Vector: u32,
    /// IRQL of the interrupt.
    pub Irql: u8,
    /// KINTERRUPT_MODE.
    pub InterruptMode: u32,
    /// Processors.
    pub ProcessorEnableMask: Word,
    /// Processor group.
    pub Group: u16,
}

nt_api! { module = io_interrupt;
    /// Connects a service routine to an interrupt vector. INVALID_PARAMETER: the vector is another's, or the synchronize
    /// IRQL is below the interrupt's.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoConnectInterrupt(
        interrupt_object: Ptr<Ptr<KINTERRUPT>>,
        service_routine: Ptr<u8>,
        service_context: Ptr<u8>,
        spin_lock: Ptr<Word>,
        vector: ULong,
        irql: Irql,
        synchronize_irql: Irql,
        interrupt_mode: ULong,
        share_vector: Boolean,
        processor_enable_mask: Size,
        floating_save: Boolean,
    ) -> NtStatus {
        let wanted = Wanted {
            routine: service_routine,
            context: service_context,
            lock: spin_lock,
            vector,
            irql: irql.0,
            synchronize_irql: synchronize_irql.0,
            mode: low8(interrupt_mode.into()),
            share: share_vector,
        };
        interrupt_object.write(Ptr::null());
        match connect(&wanted) {
            Ok(interrupt) => {
                interrupt_object.write(interrupt);
                NtStatus::SUCCESS
            }
            Err(status) => status,
        }
    }

    /// As IoConnectInterrupt, with its arguments in a structure.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("only fully specified interrupts: no lines of PnP devices, no messages")
    fn IoConnectInterruptEx(parameters: Ptr<IO_CONNECT_INTERRUPT_PARAMETERS>) -> NtStatus {
        let given = parameters.read();
        if given.Version != 1 {
            // NT tells which versions it knows.
            parameters.cast::<u32>().write(1);
            return NtStatus::NOT_SUPPORTED;
        }
        let wanted = Wanted {
            routine: given.ServiceRoutine,
            context: given.ServiceContext,
            lock: given.SpinLock,
            vector: given.Vector,
            irql: given.Irql,
            synchronize_irql: given.SynchronizeIrql,
            mode: low8(given.InterruptMode.into()),
            share: given.ShareVector != 0,
        };
        match connect(&wanted) {
            Ok(interrupt) => {
                given.InterruptObject.write(interrupt);
                NtStatus::SUCCESS
            }
            Err(status) => status,
        }
    }

    /// Disconnects an interrupt.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoDisconnectInterrupt(interrupt: Ptr<KINTERRUPT>) {
        disconnect(interrupt);
    }

    /// Disconnects an interrupt; the structure is the version, then the interrupt.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoDisconnectInterruptEx(parameters: Ptr<[Word; 2]>) {
        disconnect(Ptr::new(from_word(parameters.read()[1])));
    }

    /// Runs a routine as the interrupt's service routine runs: at its IRQL, with its lock held.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeSynchronizeExecution(interrupt: Ptr<KINTERRUPT>, routine: Ptr<u8>, context: Ptr<u8>) -> Boolean {
        let old = enter(interrupt);
        let result = shared::call_driver(Entry::Other, routine.addr(), &[context.addr()]);
        leave(interrupt, old);
        result & 0xFF != 0
    }

    /// Takes an interrupt's lock; returns the old IRQL.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeAcquireInterruptSpinLock(interrupt: Ptr<KINTERRUPT>) -> Irql {
        Irql(enter(interrupt))
    }

    /// Gives an interrupt's lock back.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeReleaseInterruptSpinLock(interrupt: Ptr<KINTERRUPT>, old_irql: Irql) {
        leave(interrupt, old_irql.0);
    }

    /// Vector, IRQL and processors of a bus's interrupt line; 0 if there is no such line.
    hal both stdcall irql(ANY_LEVEL) implemented
    fn HalGetInterruptVector(
        interface_type: ULong,
        bus_number: ULong,
        bus_interrupt_level: ULong,
        bus_interrupt_vector: ULong,
        irql: Ptr<u8>,
        affinity: Ptr<Word>,
    ) -> ULong {
        let is_known = matches!(interface_type, 0 | 1 | 2 | 5) && bus_number == 0;
        let Some((vector, level)) = vector_of(bus_interrupt_level).filter(|_| is_known) else {
            irql.write(0);
            affinity.write(0);
            return 0;
        };
        irql.write(level);
        affinity.write(to_word(1));
        vector
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_platform::{api, machine};
    use std::sync::atomic::{AtomicU64, Ordering};

    static SEEN: AtomicU64 = AtomicU64::new(0);

    extern "win64-unwind" fn service(interrupt: u64, context: u64) -> u64 {
        let held = Interrupt::new(interrupt).read().ActualLock.read();
        assert_eq!((shared::irql(), held), (9, 1));
        SEEN.fetch_add(context, Ordering::Relaxed);
        1
    }

    extern "win64-unwind" fn section(context: u64) -> u64 {
        assert_eq!(shared::irql(), 9);
        context
    }

    #[test]
    fn a_service_routine_runs_at_its_irql_with_its_lock() {
        let _machine = machine();
        let connect = |synchronize_irql| {
            connect(&Wanted {
                routine: Ptr::new(service as *const () as u64),
                context: Ptr::new(7),
                lock: Ptr::null(),
                vector: 0x35,
                irql: 8,
                synchronize_irql,
                mode: LATCHED,
                share: false,
            })
        };
        assert_eq!(connect(7), Err(NtStatus::INVALID_PARAMETER));
        assert!(connect(9).is_ok());
        assert_eq!(connect(9), Err(NtStatus::INVALID_PARAMETER), "not shared");
        SEEN.store(0, Ordering::Relaxed);
        let interrupt = CONNECTED.with(|connected| connected[0]);
        assert!(deliver(0x35) && !deliver(0x36));
        assert_eq!(SEEN.load(Ordering::Relaxed), 7);
        assert_eq!(shared::irql(), 0);
        let result = api(
            "KeSynchronizeExecution",
            &[interrupt, section as *const () as u64, 5],
        );
        assert_eq!(result & 0xFF, 1);
        api("IoDisconnectInterrupt", &[interrupt]);
        assert!(!deliver(0x35));
    }
}
