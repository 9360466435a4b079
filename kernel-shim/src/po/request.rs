//! Power IRPs: sending them, one at a time for a device, and telling who asked.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::state;
use crate::api::nt_api;
use crate::io::{device, irp};
use crate::nt::{
    DEVICE_OBJECT, DEVICE_POWER_STATE, IRP, IRP_MJ_POWER, NtStatus, POWER_DEVICE_D0,
    POWER_DEVICE_MAXIMUM, POWER_SYSTEM_MAXIMUM, SYSTEM_POWER_STATE, power_minor,
};
use crate::pnp::irp::{Packet, make, send};
use crate::raw::{Global, Ptr, low32, to_word};
use crate::shared;
use crate::value::{UChar, ULong};
use abi::trace::Entry;

/// An IRP that a driver asked for with PoRequestPowerIrp.
#[derive(Clone, Copy, Debug)]
struct Requested {
    irp: u64,
    /// The top of the stack, which gets it.
    target: u64,
    /// The physical device object: one device IRP at a time for each.
    base: u64,
    /// The device that the driver named.
    device: u64,
    minor: u8,
    state: u32,
    routine: u64,
    context: u64,
    is_sent: bool,
}

static REQUESTED: Global<Vec<Requested>> = Global::new("power IRPs", Vec::new());

pub(super) fn initialize() {
    REQUESTED.with(Vec::clear);
}

/// Sends the first IRP that waits for a stack, unless one is on its way there.
fn send_next(base: u64) {
    let next = REQUESTED.with(|all| {
        let for_stack =
            |one: &&mut Requested| one.base == base && one.minor != power_minor::WAIT_WAKE;
        let first = all.iter_mut().find(|one| for_stack(one))?;
        if first.is_sent {
            return None;
        }
        first.is_sent = true;
        Some((first.target, first.irp))
    });
    if let Some((target, irp)) = next {
        state::PoCallDriver(Ptr::new(target), Ptr::new(irp));
    }
}

/// PoRequestPowerIrp.
fn request(
    device: Ptr<DEVICE_OBJECT>,
    minor: u8,
    state: u32,
    routine: u64,
    context: u64,
    result: Ptr<Ptr<IRP>>,
) -> NtStatus {
    let (kind, is_valid) = match minor {
        power_minor::SET_POWER | power_minor::QUERY_POWER => (
            DEVICE_POWER_STATE,
            (POWER_DEVICE_D0..POWER_DEVICE_MAXIMUM).contains(&state),
        ),
        power_minor::WAIT_WAKE => (SYSTEM_POWER_STATE, state < POWER_SYSTEM_MAXIMUM),
        _ => return NtStatus::INVALID_PARAMETER_2,
    };
    if !is_valid {
        return NtStatus::INVALID_PARAMETER_3;
    }
    let parameters = if minor == power_minor::WAIT_WAKE {
        [state, 0, 0, 0]
    } else {
        [0, kind, state, 0]
    };
    let packet = Packet {
        major: IRP_MJ_POWER,
        minor,
        parameters: parameters.map(|word| to_word(u64::from(word))),
        information: 0,
    };
    let Some((target, irp)) = make(device, &packet) else {
        return NtStatus::INSUFFICIENT_RESOURCES;
    };
    if !result.is_null() {
        result.write(irp);
    }
    let base = device::base_of(device).addr();
    let is_wait = minor == power_minor::WAIT_WAKE;
    REQUESTED.with(|all| {
        all.push(Requested {
            irp: irp.addr(),
            target: target.addr(),
            base,
            device: device.addr(),
            minor,
            state,
            routine,
            context,
            is_sent: is_wait,
        });
    });
    if is_wait {
        state::PoCallDriver(target, irp);
    } else {
        send_next(base);
    }
    NtStatus::PENDING
}

/// An IRP has come up its stack. False: nobody asked for it here.
pub(crate) fn finish(packet: Ptr<IRP>) -> bool {
    let found = REQUESTED.with(|all| {
        let index = all.iter().position(|one| one.irp == packet.addr())?;
        Some(all.remove(index))
    });
    let Some(done) = found else { return false };
    crate::io::request::trace_done(packet);
    if done.routine != 0 {
        let block = packet.add_bytes(core::mem::offset_of!(IRP, IoStatus) as u64);
        let arguments = [
            done.device,
            u64::from(done.minor),
            u64::from(done.state),
            done.context,
            block.addr(),
        ];
        shared::call_driver(Entry::Completion, done.routine, &arguments);
    }
    irp::free(packet);
    send_next(done.base);
    true
}

/// What a physical device object answers to a power IRP; `None`: it knows nothing of it.
pub(crate) fn physical(
    device: Ptr<DEVICE_OBJECT>,
    minor: u8,
    parameters: [u64; 4],
) -> Option<NtStatus> {
    match minor {
        power_minor::SET_POWER => {
            let (kind, value) = (low32(parameters[1]), low32(parameters[2]));
            state::set(device, kind, value);
            Some(NtStatus::SUCCESS)
        }
        power_minor::QUERY_POWER => Some(NtStatus::SUCCESS),
        _ => None,
    }
}

/// Sends the stack of a device a power state as the power manager does: a query first for one below the working state.
///
/// # Errors
/// What the drivers answered.
pub(crate) fn set_stack(
    device: Ptr<DEVICE_OBJECT>,
    kind: u32,
    state: u32,
) -> Result<u64, NtStatus> {
    let limit = if kind == SYSTEM_POWER_STATE {
        POWER_SYSTEM_MAXIMUM
    } else {
        POWER_DEVICE_MAXIMUM
    };
    if kind > DEVICE_POWER_STATE || !(1..limit).contains(&state) {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    // PowerActionSleep, or PowerActionNone for the working state.
    let action = if state > 1 { 2 } else { 0 };
    let packet = |minor| Packet {
        major: IRP_MJ_POWER,
        minor,
        parameters: [0, kind, state, action].map(|word: u32| to_word(u64::from(word))),
        information: 0,
    };
    if state > 1 {
        let (status, _) = send(device, &packet(power_minor::QUERY_POWER));
        if !status.is_success() {
            // The working state tells the drivers that the query failed.
            if kind == SYSTEM_POWER_STATE {
                let _ = set_stack(device, kind, 1);
            }
            return Err(status);
        }
    }
    let (status, _) = send(device, &packet(power_minor::SET_POWER));
    if status.is_success() {
        Ok(0)
    } else {
        Err(status)
    }
}

/// Power IRPs that a device has, and those that wait for it (PoCallDriver before Windows Vista): by device and type.
pub(super) type Queues = BTreeMap<(u64, u32), Vec<u64>>;

nt_api! { module = po_request;
    /// Sends a power IRP to the top of a device's stack; the routine is called when it has been completed. Of IRPs for
    /// one stack each waits for the one before. INVALID_PARAMETER_2, INVALID_PARAMETER_3: no such IRP, or state.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn PoRequestPowerIrp(
        device_object: Ptr<DEVICE_OBJECT>,
        minor_function: UChar,
        power_state: ULong,
        completion_function: Ptr<u8>,
        context: Ptr<u8>,
        irp: Ptr<Ptr<IRP>>,
    ) -> NtStatus {
        request(
            device_object,
            minor_function,
            power_state,
            completion_function.addr(),
            context.addr(),
            irp,
        )
    }
}
