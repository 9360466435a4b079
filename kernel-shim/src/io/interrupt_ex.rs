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
