//! The PnP manager's own IRPs: sent to the top of a stack, and waited for.

use alloc::collections::BTreeMap;

use crate::ex::pool;
use crate::io::device::top_of;
use crate::io::irp;
use crate::ke::event;
use crate::nt::{DEVICE_OBJECT, IO_STACK_LOCATION, IRP, IRP_MJ_PNP, NtStatus};
use crate::ps;
use crate::raw::{Global, Ptr, Word, from_word, to_word};

/// IRPs that are waited for, by address; their status and Information once they are done.
static SENT: Global<BTreeMap<u64, Option<(NtStatus, u64)>>> =
    Global::new("PnP requests", BTreeMap::new());

pub(super) fn initialize() {
    SENT.with(BTreeMap::clear);
}

/// An IRP to send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    /// IRP_MJ_ code.
    pub(crate) major: u8,
    /// IRP_MN_ code.
    pub(crate) minor: u8,
    /// Parameters of the first stack location.
    pub(crate) parameters: [Word; 4],
    /// Information at the start.
    pub(crate) information: u64,
}

/// Makes an IRP for the stack of `device` whose status is what PnP and power IRPs start with, STATUS_NOT_SUPPORTED; with
/// the device at the top of the stack. `None`: the pool is exhausted.
pub(crate) fn make(
    device: Ptr<DEVICE_OBJECT>,
    packet: &Packet,
) -> Option<(Ptr<DEVICE_OBJECT>, Ptr<IRP>)> {
    let target = top_of(device);
    let irp = irp::allocate(target.read().StackSize, pool::SHIM).non_null()?;
    let stack = irp.with(|irp| {
        irp.IoStatus.Status = to_word(u64::from(NtStatus::NOT_SUPPORTED.0));
        irp.IoStatus.Information = to_word(packet.information);
        irp.Thread = ps::current_thread().word();
        irp.CurrentStackLocation.offset(-1)
    });
    stack.write(IO_STACK_LOCATION {
        MajorFunction: packet.major,
        MinorFunction: packet.minor,
        Parameters: packet.parameters,
        ..IO_STACK_LOCATION::default()
    });
    Some((target, irp))
}

/// Sends an IRP to the top of the stack of `device` and waits until it is completed: status and Information.
pub(crate) fn send(device: Ptr<DEVICE_OBJECT>, packet: &Packet) -> (NtStatus, u64) {
    let Some((target, irp)) = make(device, packet) else {
        return (NtStatus::INSUFFICIENT_RESOURCES, 0);
    };
    SENT.with(|sent| sent.insert(irp.addr(), None));
    irp::call(target, irp);
    let mut result = (NtStatus::UNSUCCESSFUL, 0);
    event::wait_until(u64::MAX, || {
        SENT.with(|sent| {
            let Some(&Some(done)) = sent.get(&irp.addr()) else {
                return false;
            };
            sent.remove(&irp.addr());
            result = done;
            true
        })
    });
    irp::free(irp);
    result
}

/// As [`send`] for IRP_MJ_PNP.
pub(crate) fn send_pnp(
    device: Ptr<DEVICE_OBJECT>,
    minor: u8,
    parameters: [u64; 4],
) -> (NtStatus, u64) {
    send(
        device,
        &Packet {
            major: IRP_MJ_PNP,
            minor,
            parameters: parameters.map(to_word),
            information: 0,
        },
    )
}

/// An IRP has come up its stack. False: it is none of these.
pub(crate) fn finish(packet: Ptr<IRP>) -> bool {
    if !SENT.with(|sent| sent.contains_key(&packet.addr())) {
        return false;
    }
    let result = (
        irp::status_of(packet),
        from_word(packet.read().IoStatus.Information),
    );
    crate::io::request::trace_done(packet);
    SENT.with(|sent| sent.insert(packet.addr(), Some(result)));
    // The waiter must not find the address reused before it has looked: it takes the result under it.
    event::progress();
    true
}
