//! IoConnectInterruptEx and its kin: interrupts by resource, and their activity.

use core::mem::offset_of;

use super::interrupt::{
    LATCHED, LEVEL_SENSITIVE, Wanted, connect, disconnect, set_active, vector_of,
};
use crate::api::nt_api;
use crate::nt::{DEVICE_OBJECT, KINTERRUPT, NtStatus};
use crate::pnp;
use crate::pnp::resources::Resource;
use crate::raw::{Ptr, Word, low8};

/// CONNECT_FULLY_SPECIFIED.
const FULLY_SPECIFIED: u32 = 1;
/// CONNECT_LINE_BASED.
const LINE_BASED: u32 = 2;
/// CONNECT_MESSAGE_BASED.
const MESSAGE_BASED: u32 = 3;
/// CONNECT_FULLY_SPECIFIED_GROUP.
const FULLY_SPECIFIED_GROUP: u32 = 4;

type Interrupt = Ptr<KINTERRUPT>;

/// IO_CONNECT_INTERRUPT_PARAMETERS of CONNECT_FULLY_SPECIFIED(_GROUP).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct IO_CONNECT_INTERRUPT_FULLY_SPECIFIED_PARAMETERS {
    /// 1 or 4.
    pub Version: u32,
    /// The device.
    pub PhysicalDeviceObject: Ptr<DEVICE_OBJECT>,
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

/// IO_CONNECT_INTERRUPT_PARAMETERS of CONNECT_LINE_BASED, and of CONNECT_MESSAGE_BASED, which has one more member.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct IO_CONNECT_INTERRUPT_LINE_BASED_PARAMETERS {
    /// 2 or 3.
    pub Version: u32,
    /// The device.
    pub PhysicalDeviceObject: Ptr<DEVICE_OBJECT>,
    /// Where the KINTERRUPT's address goes.
    pub InterruptObject: Ptr<Interrupt>,
    /// The service routine.
    pub ServiceRoutine: Ptr<u8>,
    /// Its context.
    pub ServiceContext: Ptr<u8>,
    /// The lock, or null.
    pub SpinLock: Ptr<Word>,
    /// IRQL at which the routine runs; 0: the interrupts' highest.
    pub SynchronizeIrql: u8,
    /// Save the floating point state.
    pub FloatingSave: u8,
    /// Of CONNECT_MESSAGE_BASED: the routine for a line.
    pub FallBackServiceRoutine: Ptr<u8>,
}

const _: () = {
    type Full = IO_CONNECT_INTERRUPT_FULLY_SPECIFIED_PARAMETERS;
    type Line = IO_CONNECT_INTERRUPT_LINE_BASED_PARAMETERS;
    assert!(size_of::<Full>() == if cfg!(nt_i386) { 48 } else { 80 });
    assert!(offset_of!(Full, Vector) == if cfg!(nt_i386) { 28 } else { 52 });
    assert!(offset_of!(Line, FallBackServiceRoutine) == if cfg!(nt_i386) { 28 } else { 56 });
};

/// IO_DISCONNECT_INTERRUPT_PARAMETERS, IO_REPORT_INTERRUPT_ACTIVE_STATE_PARAMETERS.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct IO_DISCONNECT_INTERRUPT_PARAMETERS {
    /// The version that the interrupt was connected with.
    pub Version: u32,
    /// The interrupt.
    pub InterruptObject: Interrupt,
}

fn connect_fully_specified(
    parameters: Ptr<IO_CONNECT_INTERRUPT_FULLY_SPECIFIED_PARAMETERS>,
) -> Result<(), NtStatus> {
    let given = parameters.read();
    let interrupt = connect(&Wanted {
        routine: given.ServiceRoutine,
        context: given.ServiceContext,
        lock: given.SpinLock,
        vector: given.Vector,
        irql: given.Irql,
        synchronize_irql: given.SynchronizeIrql,
        mode: low8(given.InterruptMode.into()),
        share: given.ShareVector != 0,
    })?;
    given.InterruptObject.write(interrupt);
    Ok(())
}

/// Connects a routine to the first interrupt line among a device's resources.
fn connect_line(
    given: &IO_CONNECT_INTERRUPT_LINE_BASED_PARAMETERS,
    routine: Ptr<u8>,
) -> Result<(), NtStatus> {
    let node = pnp::node_of(given.PhysicalDeviceObject).map_err(|_| NtStatus::INVALID_PARAMETER)?;
    let line = node.resources.iter().find_map(Resource::interrupt);
    let (line, is_latched) = line.ok_or(NtStatus::NOT_FOUND)?;
    let (vector, level) = vector_of(line).ok_or(NtStatus::NOT_FOUND)?;
    let interrupt = connect(&Wanted {
        routine,
        context: given.ServiceContext,
        lock: given.SpinLock,
        vector,
        irql: level,
        synchronize_irql: given.SynchronizeIrql.max(level),
        mode: if is_latched { LATCHED } else { LEVEL_SENSITIVE },
        share: !is_latched,
    })?;
    given.InterruptObject.write(interrupt);
    Ok(())
}

fn connect_ex(parameters: Ptr<u32>) -> Result<(), NtStatus> {
    match parameters.read() {
        FULLY_SPECIFIED | FULLY_SPECIFIED_GROUP => connect_fully_specified(parameters.cast()),
        LINE_BASED => {
            let given = parameters
                .cast::<IO_CONNECT_INTERRUPT_LINE_BASED_PARAMETERS>()
                .read();
            connect_line(&given, given.ServiceRoutine)
        }
        MESSAGE_BASED => {
            // No device here has messages: the line, if the driver has a routine for that.
            let given = parameters
                .cast::<IO_CONNECT_INTERRUPT_LINE_BASED_PARAMETERS>()
                .read();
            let routine = given
                .FallBackServiceRoutine
                .non_null()
                .ok_or(NtStatus::NOT_FOUND)?;
            connect_line(&given, routine)?;
            parameters.write(LINE_BASED);
            Ok(())
        }
        _ => {
            // NT tells the highest version that it knows.
            parameters.write(FULLY_SPECIFIED_GROUP);
            Err(NtStatus::NOT_SUPPORTED)
        }
    }
}

fn report(parameters: Ptr<IO_DISCONNECT_INTERRUPT_PARAMETERS>, is_active: bool) {
    let given = parameters.read();
    if (FULLY_SPECIFIED..=FULLY_SPECIFIED_GROUP).contains(&given.Version) {
        set_active(given.InterruptObject, is_active);
    }
}

nt_api! { module = io_interrupt_ex;
    /// Connects an interrupt: fully specified, or the line among a PnP device's resources. As no device has
    /// message-signaled interrupts, CONNECT_MESSAGE_BASED connects the fallback routine to the line and says so in Version.
    /// NOT_FOUND: the device has no interrupt, or there is no fallback routine. NOT_SUPPORTED: Version is unknown, and
    /// becomes the highest that is known.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoConnectInterruptEx(parameters: Ptr<u32>) -> NtStatus {
        match connect_ex(parameters) {
            Ok(()) => NtStatus::SUCCESS,
            Err(status) => status,
        }
    }

    /// Disconnects what IoConnectInterruptEx connected.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoDisconnectInterruptEx(parameters: Ptr<IO_DISCONNECT_INTERRUPT_PARAMETERS>) {
        disconnect(parameters.read().InterruptObject);
    }

    /// A connected interrupt is to be delivered again, after IoReportInterruptInactive.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoReportInterruptActive(parameters: Ptr<IO_DISCONNECT_INTERRUPT_PARAMETERS>) {
        report(parameters, true);
    }

    /// A connected interrupt is not to be delivered until IoReportInterruptActive: its device is powered down.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoReportInterruptInactive(parameters: Ptr<IO_DISCONNECT_INTERRUPT_PARAMETERS>) {
        report(parameters, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::interrupt::run_chain;
    use crate::nt::DRIVER_OBJECT;
    use crate::pnp::identity::Identity;
    use crate::shared;
    use crate::test_platform::machine;
    use std::sync::atomic::{AtomicU64, Ordering};

    static CALLS: AtomicU64 = AtomicU64::new(0);

    extern "win64-unwind" fn service(_: u64, context: u64) -> u64 {
        CALLS.fetch_add(context, Ordering::Relaxed);
        1
    }

    fn calls_of(line: u32) -> u64 {
        CALLS.store(0, Ordering::Relaxed);
        run_chain(line);
        CALLS.load(Ordering::Relaxed)
    }

    fn device(line: Option<u32>) -> Ptr<DEVICE_OBJECT> {
        let resources = line
            .map(|line| Resource::of_line(line, true))
            .into_iter()
            .collect();
        let driver = Ptr::<DRIVER_OBJECT>::null();
        pnp::create(driver, "test", (Identity::default(), resources))
            .unwrap()
            .pdo
    }

    fn full(version: u32, vector: u32) -> (NtStatus, Interrupt) {
        let mut object = Interrupt::null();
        let object_at = Ptr::of(&mut object);
        let mut parameters = IO_CONNECT_INTERRUPT_FULLY_SPECIFIED_PARAMETERS {
            Version: version,
            PhysicalDeviceObject: Ptr::null(),
            InterruptObject: object_at,
            ServiceRoutine: Ptr::new(service as *const () as u64),
            ServiceContext: Ptr::new(5),
            SpinLock: Ptr::null(),
            SynchronizeIrql: 10,
            FloatingSave: 0,
            ShareVector: 0,
            Vector: vector,
            Irql: 3,
            InterruptMode: 1,
            ProcessorEnableMask: 1,
            Group: 0,
        };
        let at = Ptr::of(&mut parameters);
        let status = IoConnectInterruptEx(at.cast());
        (status, object_at.read())
    }

    /// Status, the version that is left, and the interrupt.
    fn by_line(
        version: u32,
        pdo: Ptr<DEVICE_OBJECT>,
        fall_back: bool,
    ) -> (NtStatus, u32, Interrupt) {
        let mut object = Interrupt::null();
        let object_at = Ptr::of(&mut object);
        let routine = Ptr::new(service as *const () as u64);
        let mut parameters = IO_CONNECT_INTERRUPT_LINE_BASED_PARAMETERS {
            Version: version,
            PhysicalDeviceObject: pdo,
            InterruptObject: object_at,
            ServiceRoutine: routine,
            ServiceContext: Ptr::new(7),
            SpinLock: Ptr::null(),
            SynchronizeIrql: 0,
            FloatingSave: 0,
            FallBackServiceRoutine: if fall_back { routine } else { Ptr::null() },
        };
        let at = Ptr::of(&mut parameters);
        let status = IoConnectInterruptEx(at.cast());
        (status, at.read().Version, object_at.read())
    }

    fn named(interrupt: Interrupt) -> IO_DISCONNECT_INTERRUPT_PARAMETERS {
        IO_DISCONNECT_INTERRUPT_PARAMETERS {
            Version: FULLY_SPECIFIED,
            InterruptObject: interrupt,
        }
    }

    #[test]
    fn fully_specified_interrupts() {
        let _machine = machine();
        let (vector, _) = vector_of(4).unwrap();
        for version in [FULLY_SPECIFIED, FULLY_SPECIFIED_GROUP] {
            let (status, interrupt) = full(version, vector);
            assert_eq!(status, NtStatus::SUCCESS);
            assert_eq!(calls_of(4), 5);
            assert_eq!(
                full(version, vector).0,
                NtStatus::INVALID_PARAMETER,
                "it is taken"
            );
            let mut named = named(interrupt);
            let at = Ptr::of(&mut named);
            IoReportInterruptInactive(at);
            assert_eq!(calls_of(4), 0);
            IoReportInterruptActive(at);
            assert_eq!(calls_of(4), 5);
            IoDisconnectInterruptEx(at);
            assert_eq!(calls_of(4), 0);
            // It is gone: nothing happens.
            IoReportInterruptInactive(at);
        }
        assert_eq!(full(1, 0x2F).0, NtStatus::INVALID_PARAMETER);
        assert_eq!(shared::irql(), 0);
    }

    #[test]
    fn an_unknown_version_becomes_the_highest() {
        let _machine = machine();
        for version in [0, 5, u32::MAX] {
            let (status, left, interrupt) = by_line(version, Ptr::null(), false);
            assert_eq!(
                (status, left),
                (NtStatus::NOT_SUPPORTED, FULLY_SPECIFIED_GROUP)
            );
            assert!(interrupt.is_null());
        }
    }

    #[test]
    fn lines_are_those_of_the_device() {
        let _machine = machine();
        let pdo = device(Some(6));
        let (status, version, interrupt) = by_line(LINE_BASED, pdo, false);
        assert_eq!((status, version), (NtStatus::SUCCESS, LINE_BASED));
        let (vector, level) = vector_of(6).unwrap();
        let object = interrupt.read();
        assert_eq!(
            (object.Vector, object.Irql, object.SynchronizeIrql),
            (vector, level, level)
        );
        assert_eq!((object.Mode, calls_of(6)), (LATCHED, 7));
        let (status, ..) = by_line(LINE_BASED, device(None), false);
        assert_eq!(status, NtStatus::NOT_FOUND);
        let (status, ..) = by_line(LINE_BASED, Ptr::null(), false);
        assert_eq!(status, NtStatus::INVALID_PARAMETER);
    }

    #[test]
    fn without_messages_the_fall_back_gets_the_line() {
        let _machine = machine();
        let pdo = device(Some(9));
        assert_eq!(by_line(MESSAGE_BASED, pdo, false).0, NtStatus::NOT_FOUND);
        let (status, version, interrupt) = by_line(MESSAGE_BASED, pdo, true);
        assert_eq!((status, version), (NtStatus::SUCCESS, LINE_BASED));
        assert_eq!(calls_of(9), 7);
        let mut named = named(interrupt);
        IoDisconnectInterruptEx(Ptr::of(&mut named));
        assert_eq!(calls_of(9), 0);
    }
}
