//! Interrupt objects: vectors, connected service routines, and what runs synchronized with them. A routine runs at its
//! synchronize IRQL with its lock held; [`super::interrupt_lines`] decides when.

use alloc::vec::Vec;

use super::driver::owner_of;
use super::interrupt_lines;
use crate::api::nt_api;
use crate::ex::pool;
use crate::ke::{irql, spin_lock};
use crate::nt::{HIGH_LEVEL, KINTERRUPT, NtStatus};
use crate::raw::{Global, Ptr, Word, from_word, low8, low16, to_word};
use crate::shared;
use crate::value::{Boolean, Irql, Size, ULong};
use abi::interrupt::LINES;
use abi::trace::Entry;

/// Addresses of connected KINTERRUPTs, in the order of their connection.
static CONNECTED: Global<Vec<u64>> = Global::new("connected interrupts", Vec::new());

/// InterruptObject.
const INTERRUPT_OBJECT: i16 = 22;
/// The vector of interrupt line 0; the other lines follow.
const FIRST_VECTOR: u32 = 0x30;
/// LevelSensitive.
pub(super) const LEVEL_SENSITIVE: u8 = 0;
/// Latched.
pub(super) const LATCHED: u8 = 1;
/// How often the routines of a shared latched interrupt are called for one edge at most.
const PASSES_MAX: u32 = 1000;

type Interrupt = Ptr<KINTERRUPT>;

pub(super) fn initialize() {
    CONNECTED.with(Vec::clear);
}

/// Vector and IRQL of an interrupt line; `None` if there is no such line.
#[must_use]
pub fn vector_of(line: u32) -> Option<(u32, u8)> {
    if line >= LINES {
        return None;
    }
    let vector = FIRST_VECTOR + line;
    // As PC HALs have it: 27 - line with a PIC on i386; on amd64 a vector's upper half is its IRQL.
    let irql = if cfg!(nt_i386) {
        27_u32.saturating_sub(line).max(3)
    } else {
        vector >> 4
    };
    Some((vector, low8(irql.into())))
}

/// The line of a vector.
fn line_of(vector: u32) -> Option<u32> {
    vector
        .checked_sub(FIRST_VECTOR)
        .filter(|&line| line < LINES)
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

/// Calls `look` with line and object of each active interrupt, in the order of connection.
pub(super) fn with_connected(mut look: impl FnMut(u32, &KINTERRUPT)) {
    CONNECTED.with(|connected| {
        for &address in connected.iter() {
            let object = Interrupt::new(address).read();
            if let (Some(line), 1) = (line_of(object.Vector), object.Active) {
                look(line, &object);
            }
        }
    });
}

/// An interrupt of `line` arrived: calls the routines connected to it; of a level-sensitive one until a routine says that
/// it was its device's. A shared latched one is over when none of them says so any more: an edge that comes while the
/// neighbours' routines run would be lost otherwise. True: a routine said so.
pub(super) fn run_chain(line: u32) -> bool {
    let chain: Vec<u64> = CONNECTED.with(|connected| {
        let is_of_line = |address: &&u64| {
            let object = Interrupt::new(**address).read();
            object.Vector == FIRST_VECTOR + line && object.Active != 0
        };
        connected.iter().filter(is_of_line).copied().collect()
    });
    let mut was_claimed = false;
    for _ in 0..PASSES_MAX {
        let mut is_claimed = false;
        for &address in &chain {
            let interrupt = Interrupt::new(address);
            let object = interrupt.read();
            let old = enter(interrupt);
            let arguments = [address, from_word(object.ServiceContext)];
            let routine = from_word(object.ServiceRoutine);
            let answer = shared::call_driver(Entry::Interrupt, routine, &arguments);
            leave(interrupt, old);
            if answer & 0xFF != 0 {
                is_claimed = true;
                if object.Mode == LEVEL_SENSITIVE {
                    return true;
                }
            }
        }
        was_claimed |= is_claimed;
        if !is_claimed || chain.len() < 2 {
            break;
        }
    }
    was_claimed
}

/// How a driver connects an interrupt.
pub(super) struct Wanted {
    pub(super) routine: Ptr<u8>,
    pub(super) context: Ptr<u8>,
    pub(super) lock: Ptr<Word>,
    pub(super) vector: u32,
    pub(super) irql: u8,
    pub(super) synchronize_irql: u8,
    pub(super) mode: u8,
    pub(super) share: bool,
}

/// Connects.
///
/// # Errors
/// INVALID_PARAMETER: no such vector, IRQLs that do not fit, or the vector is another's. INSUFFICIENT_RESOURCES: the pool
/// is exhausted.
pub(super) fn connect(wanted: &Wanted) -> Result<Interrupt, NtStatus> {
    let line = line_of(wanted.vector).ok_or(NtStatus::INVALID_PARAMETER)?;
    let is_valid = wanted.irql <= HIGH_LEVEL
        && wanted.synchronize_irql >= wanted.irql
        && wanted.synchronize_irql <= HIGH_LEVEL
        && wanted.mode <= LATCHED
        && !wanted.routine.is_null();
    let mut is_first = true;
    let is_taken = CONNECTED.with(|connected| {
        connected.iter().any(|&address| {
            let other = Interrupt::new(address).read();
            let is_same = other.Vector == wanted.vector;
            is_first &= !is_same;
            is_same && (other.ShareVector == 0 || !wanted.share || other.Mode != wanted.mode)
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
        interrupt.Active = 1;
    });
    if is_first {
        interrupt_lines::drop_edge(line);
    }
    CONNECTED.with(|connected| connected.push(interrupt.addr()));
    interrupt_lines::changed(line);
    Ok(interrupt)
}

pub(super) fn disconnect(interrupt: Interrupt) {
    let was_connected = CONNECTED.with(|connected| {
        let before = connected.len();
        connected.retain(|&address| address != interrupt.addr());
        before != connected.len()
    });
    if was_connected {
        if let Some(line) = line_of(interrupt.read().Vector) {
            interrupt_lines::changed(line);
        }
        pool::free(interrupt.cast(), 0);
    }
}

/// Makes a connected interrupt active or not. False: it is not connected.
pub(super) fn set_active(interrupt: Interrupt, is_active: bool) -> bool {
    let is_connected = CONNECTED.with(|connected| connected.contains(&interrupt.addr()));
    if is_connected {
        let vector = interrupt.with(|interrupt| {
            interrupt.Active = u8::from(is_active);
            interrupt.Vector
        });
        if let Some(line) = line_of(vector) {
            interrupt_lines::changed(line);
        }
    }
    is_connected
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

    /// Disconnects an interrupt.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoDisconnectInterrupt(interrupt: Ptr<KINTERRUPT>) {
        disconnect(interrupt);
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
        assert!(run_chain(5) && !run_chain(6));
        assert_eq!(SEEN.load(Ordering::Relaxed), 7);
        assert_eq!(shared::irql(), 0);
        let result = api(
            "KeSynchronizeExecution",
            &[interrupt, section as *const () as u64, 5],
        );
        assert_eq!(result & 0xFF, 1);
        api("IoDisconnectInterrupt", &[interrupt]);
        assert!(!run_chain(5));
    }
}
