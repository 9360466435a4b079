//! The PnP manager: the physical device objects of root-enumerated devices, and what becomes of their stacks.
//!
//! A driver that has set AddDevice gets one device, `ROOT\NAME\0000`, when DriverEntry has returned. Its physical device
//! object belongs to `\Driver\PnpManager`, a driver object without an image whose dispatch routine is [`pdo::dispatch`].

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::cm;
use crate::io::{device, driver, routine};
use crate::nt::{
    DEVICE_OBJECT, DO_DEVICE_INITIALIZING, DRIVER_EXTENSION, DRIVER_OBJECT, IO_TYPE_DRIVER,
    MAJOR_FUNCTIONS, NtStatus, PNP_DEVICE_FAILED, PNP_DEVICE_REMOVED, pnp_minor,
};
use crate::ob::{self, ObjectType, names};
use crate::raw::{Global, Ptr, from_word, low16, low32};
use crate::shared;
use abi::trace::{Entry, TraceKind};

pub mod interface;
pub(crate) mod irp;
pub mod notify;
pub mod pdo;
pub mod property;
pub mod resources;

use resources::Resource;

/// Where a device is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// No driver is on top of it.
    Bare,
    /// AddDevice has succeeded.
    Added,
    /// IRP_MN_START_DEVICE has succeeded.
    Started,
    /// IRP_MN_QUERY_STOP_DEVICE has succeeded.
    StopPending,
    /// IRP_MN_STOP_DEVICE was sent.
    Stopped,
    /// IRP_MN_QUERY_REMOVE_DEVICE has succeeded; the state before.
    RemovePending(bool),
    /// IRP_MN_SURPRISE_REMOVAL was sent.
    Gone,
}

/// A device.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Its physical device object.
    pub(crate) pdo: Ptr<DEVICE_OBJECT>,
    /// Its function driver.
    pub(crate) driver: Ptr<DRIVER_OBJECT>,
    /// The driver's name.
    pub(crate) service: String,
    /// Such as `ROOT\NAME\0000`.
    pub(crate) instance: String,
    /// Such as `{4D36E97D-E325-11CE-BFC1-08002BE10318}\0000`.
    pub(crate) software_key: String,
    pub(crate) state: State,
    pub(crate) resources: Vec<Resource>,
}

/// GUID_DEVCLASS_SYSTEM.
pub(crate) const CLASS_GUID: &str = "{4D36E97D-E325-11CE-BFC1-08002BE10318}";

static NODES: Global<(Vec<Node>, u32)> = Global::new("device nodes", (Vec::new(), 0));
/// The DRIVER_OBJECT of `\Driver\PnpManager`; 0 until there is a device.
static MANAGER: AtomicU64 = AtomicU64::new(0);

/// Forgets all devices.
pub(crate) fn initialize() {
    MANAGER.store(0, Ordering::Relaxed);
    NODES.with(|nodes| *nodes = (Vec::new(), 0));
    irp::initialize();
    interface::initialize();
    notify::initialize();
    property::initialize();
    resources::initialize();
}

/// Whether a device object is one of the PnP manager's own.
#[must_use]
pub(crate) fn is_physical(device: Ptr<DEVICE_OBJECT>) -> bool {
    let manager = MANAGER.load(Ordering::Relaxed);
    manager != 0 && device.read().DriverObject.addr() == manager
}

/// The node of a physical device object.
///
/// # Errors
/// INVALID_DEVICE_REQUEST: the device object is no physical one.
pub(crate) fn node_of(device: Ptr<DEVICE_OBJECT>) -> Result<Node, NtStatus> {
    NODES
        .with(|(nodes, _)| nodes.iter().find(|node| node.pdo == device).cloned())
        .ok_or(NtStatus::INVALID_DEVICE_REQUEST)
}

/// The device of a driver that the PnP manager made when it was loaded.
pub(crate) fn node_of_driver(driver: Ptr<DRIVER_OBJECT>) -> Option<Node> {
    NODES.with(|(nodes, _)| nodes.iter().find(|node| node.driver == driver).cloned())
}

fn set_state(pdo: Ptr<DEVICE_OBJECT>, state: State) {
    NODES.with(|(nodes, _)| {
        if let Some(node) = nodes.iter_mut().find(|node| node.pdo == pdo) {
            node.state = state;
        }
    });
}

fn manager() -> Result<Ptr<DRIVER_OBJECT>, NtStatus> {
    let known = MANAGER.load(Ordering::Relaxed);
    if known != 0 {
        return Ok(Ptr::new(known));
    }
    let lacking = NtStatus::INSUFFICIENT_RESOURCES;
    let extension_at = size_of::<DRIVER_OBJECT>() as u64;
    let bytes = extension_at + size_of::<DRIVER_EXTENSION>() as u64;
    let body = ob::create(ObjectType::Driver, bytes, None).ok_or(lacking)?;
    let object = Ptr::<DRIVER_OBJECT>::new(body);
    let extension = object.add_bytes(extension_at).cast::<DRIVER_EXTENSION>();
    let name = driver::counted_string("\\Driver\\PnpManager")
        .ok_or(lacking)?
        .read();
    let service = driver::counted_string("PnpManager").ok_or(lacking)?.read();
    let dispatch = routine::address_of("IopPnpDispatch");
    object.with(|object| {
        object.Type = IO_TYPE_DRIVER;
        object.Size = low16(extension_at).cast_signed();
        object.Flags = 4; // DRVO_BUILTIN_DRIVER
        object.DriverExtension = extension;
        object.DriverName = name;
        object.MajorFunction = [dispatch; MAJOR_FUNCTIONS];
    });
    extension.with(|extension| {
        extension.DriverObject = object;
        extension.ServiceKeyName = service;
    });
    names::insert_object("\\Driver\\PnpManager", body)?;
    MANAGER.store(body, Ordering::Relaxed);
    Ok(object)
}

/// Makes a physical device object for a driver.
///
/// # Errors
/// INSUFFICIENT_RESOURCES.
pub(crate) fn create(
    owner: Ptr<DRIVER_OBJECT>,
    service: &str,
    resources: Vec<Resource>,
) -> Result<Node, NtStatus> {
    let manager = manager()?;
    let upper = names::fold(service);
    let (number, index) = NODES.with(|(nodes, made)| {
        *made += 1;
        let prefix = format!("ROOT\\{upper}\\");
        let taken = |index: &u32| {
            nodes
                .iter()
                .any(|node| node.instance == format!("{prefix}{index:04}"))
        };
        (
            *made,
            (0..u32::MAX).find(|index| !taken(index)).unwrap_or(0),
        )
    });
    // FILE_DEVICE_UNKNOWN, FILE_AUTOGENERATED_DEVICE_NAME.
    let name = format!("\\Device\\{number:08x}");
    let pdo = device::create(manager, 0, &name, 0x22, 0x80, false)?;
    // DO_BUS_ENUMERATED_DEVICE.
    pdo.with(|pdo| pdo.Flags = pdo.Flags & !DO_DEVICE_INITIALIZING | 0x1000);
    let node = Node {
        pdo,
        driver: owner,
        service: String::from(service),
        instance: format!("ROOT\\{upper}\\{index:04}"),
        software_key: format!("{CLASS_GUID}\\{:04}", number - 1),
        state: State::Bare,
        resources,
    };
    cm::device::set_node(pdo, &node.instance, &node.software_key);
    property::describe(&node);
    NODES.with(|(nodes, _)| nodes.push(node.clone()));
    Ok(node)
}

fn failed(status: NtStatus) -> Result<(), NtStatus> {
    if status.is_success() {
        Ok(())
    } else {
        Err(status)
    }
}

fn note(node: &Node, what: &str, status: NtStatus) {
    shared::trace(
        TraceKind::Finding,
        0,
        0,
        &[node.pdo.addr(), u64::from(status.0)],
        &format!("{what} of {} failed: {status}", node.instance),
    );
}

/// Calls AddDevice for a device without drivers on it.
fn add(node: &Node) -> Result<(), NtStatus> {
    let routine = from_word(node.driver.read().DriverExtension.read().AddDevice);
    if routine == 0 {
        return Err(NtStatus::INVALID_DEVICE_REQUEST);
    }
    let arguments = [node.driver.addr(), node.pdo.addr()];
    let status = NtStatus(low32(shared::call_driver(
        Entry::Other,
        routine,
        &arguments,
    )));
    if !status.is_success() {
        note(node, "AddDevice", status);
        return Err(status);
    }
    set_state(node.pdo, State::Added);
    Ok(())
}

/// Sends what goes before and after IRP_MN_START_DEVICE, and that itself.
fn start(node: &Node) -> Result<(), NtStatus> {
    let pdo = node.pdo;
    let (status, list) = irp::send_pnp(pdo, pnp_minor::QUERY_RESOURCE_REQUIREMENTS, [0; 4]);
    let list = if status.is_success() { list } else { 0 };
    let filter = irp::Packet {
        major: crate::nt::IRP_MJ_PNP,
        minor: pnp_minor::FILTER_RESOURCE_REQUIREMENTS,
        parameters: [crate::raw::to_word(list), 0, 0, 0],
        information: list,
    };
    let (status, filtered) = irp::send(pdo, &filter);
    // Who filters may give another list, and frees the one that it got.
    let list = if status.is_success() { filtered } else { list };
    resources::free(list);
    let (raw, translated) = resources::lists(&node.resources)?;
    let (status, _) = irp::send_pnp(pdo, pnp_minor::START_DEVICE, [raw, translated, 0, 0]);
    resources::free(raw);
    resources::free(translated);
    if !status.is_success() {
        note(node, "IRP_MN_START_DEVICE", status);
        return Err(status);
    }
    set_state(pdo, State::Started);
    query_capabilities(pdo);
    check_state(node)?;
    query_relations(pdo);
    Ok(())
}

fn query_capabilities(pdo: Ptr<DEVICE_OBJECT>) {
    if let Some(buffer) = pdo::new_capabilities() {
        let _ = irp::send_pnp(pdo, pnp_minor::QUERY_CAPABILITIES, [buffer.addr(), 0, 0, 0]);
        resources::free(buffer.addr());
    }
}

/// Asks for the PnP state and does what it says.
pub(crate) fn check_state(node: &Node) -> Result<(), NtStatus> {
    let (status, flags) = irp::send_pnp(node.pdo, pnp_minor::QUERY_PNP_DEVICE_STATE, [0; 4]);
    if status.is_success() && low32(flags) & (PNP_DEVICE_FAILED | PNP_DEVICE_REMOVED) != 0 {
        surprise_remove(node);
        finish_remove(node);
        return Err(NtStatus::DEVICE_NOT_READY);
    }
    Ok(())
}

/// Asks for the children, which get no drivers here: their references are dropped.
pub(crate) fn query_relations(pdo: Ptr<DEVICE_OBJECT>) {
    let (status, list) = irp::send_pnp(pdo, pnp_minor::QUERY_DEVICE_RELATIONS, [0; 4]);
    if status.is_success() && list != 0 {
        let at = Ptr::<u32>::new(list);
        let count = at.read();
        let first =
            at.add_bytes(core::mem::offset_of!(crate::nt::DEVICE_RELATIONS, Objects) as u64);
        for index in 0..i64::from(count) {
            let child = first.cast::<Ptr<DEVICE_OBJECT>>().offset(index).read();
            ob::dereference(child.addr());
        }
        resources::free(list);
    }
}

/// Gives a driver that has set AddDevice its device, and starts that.
///
/// # Errors
/// What AddDevice or IRP_MN_START_DEVICE came to; nothing of the device is left then.
pub(crate) fn driver_loaded(owner: Ptr<DRIVER_OBJECT>, service: &str) -> Result<(), NtStatus> {
    if owner.read().DriverExtension.read().AddDevice == 0 {
        return Ok(());
    }
    // DRVO_LEGACY_DRIVER is for those without AddDevice.
    owner.with(|owner| owner.Flags &= !2);
    let node = create(owner, service, resources::assigned())?;
    let added = add(&node);
    if added.is_err() {
        delete(&node);
        return added;
    }
    let started = start(&node);
    if started.is_err() {
        if node_of(node.pdo).is_ok_and(|node| node.state == State::Added) {
            finish_remove(&node);
        }
        delete(&node);
    }
    started
}

/// Removes the devices of a driver that is to be unloaded.
///
/// # Errors
/// What the driver answered to IRP_MN_QUERY_REMOVE_DEVICE; DEVICE_BUSY: there are open files. The device stays then.
pub(crate) fn driver_unloading(owner: Ptr<DRIVER_OBJECT>) -> Result<(), NtStatus> {
    while let Some(node) = node_of_driver(owner) {
        remove(&node)?;
        delete(&node);
    }
    Ok(())
}

/// Files that are open on the stack of a device.
fn open_files(pdo: Ptr<DEVICE_OBJECT>) -> i32 {
    let mut count = 0;
    let mut next = pdo;
    while !next.is_null() {
        let device = next.read();
        count += device.ReferenceCount;
        next = device.AttachedDevice;
    }
    count
}

fn query_remove(node: &Node) -> Result<(), NtStatus> {
    let is_started = match node.state {
        State::Started | State::StopPending | State::Stopped => true,
        State::Added => false,
        _ => return Err(NtStatus::INVALID_DEVICE_STATE),
    };
    let vetoed = notify::target_event(node, notify::Target::QueryRemove);
    let answer = failed(vetoed).and_then(|()| {
        let (status, _) = irp::send_pnp(node.pdo, pnp_minor::QUERY_REMOVE_DEVICE, [0; 4]);
        failed(status)?;
        if open_files(node.pdo) > 0 {
            return Err(NtStatus::DEVICE_BUSY);
        }
        Ok(())
    });
    if answer.is_err() {
        let _ = irp::send_pnp(node.pdo, pnp_minor::CANCEL_REMOVE_DEVICE, [0; 4]);
        notify::target_event(node, notify::Target::RemoveCancelled);
    } else {
        set_state(node.pdo, State::RemovePending(is_started));
    }
    answer
}

fn surprise_remove(node: &Node) {
    let _ = irp::send_pnp(node.pdo, pnp_minor::SURPRISE_REMOVAL, [0; 4]);
    set_state(node.pdo, State::Gone);
    interface::disable_all(node.pdo);
    notify::target_event(node, notify::Target::RemoveComplete);
}

/// Sends IRP_MN_REMOVE_DEVICE. Drivers that stay attached are noted, and detached.
fn finish_remove(node: &Node) {
    interface::disable_all(node.pdo);
    let was_gone = node_of(node.pdo).is_ok_and(|node| node.state == State::Gone);
    let (status, _) = irp::send_pnp(node.pdo, pnp_minor::REMOVE_DEVICE, [0; 4]);
    if !status.is_success() {
        note(node, "IRP_MN_REMOVE_DEVICE", status);
    }
    if !node.pdo.read().AttachedDevice.is_null() {
        let text = format!(
            "{}: a device is still attached after IRP_MN_REMOVE_DEVICE",
            node.instance
        );
        shared::trace(TraceKind::Finding, 0, 0, &[node.pdo.addr()], &text);
        device::detach(node.pdo);
    }
    set_state(node.pdo, State::Bare);
    if !was_gone {
        notify::target_event(node, notify::Target::RemoveComplete);
    }
}

fn remove(node: &Node) -> Result<(), NtStatus> {
    match node.state {
        State::Bare => return Ok(()),
        State::Gone | State::RemovePending(_) => {}
        _ => query_remove(node)?,
    }
    finish_remove(node);
    Ok(())
}

/// Takes a physical device object away.
fn delete(node: &Node) {
    NODES.with(|(nodes, _)| nodes.retain(|other| other.pdo != node.pdo));
    interface::forget(node.pdo);
    notify::forget_device(node.pdo);
    property::forget(node.pdo);
    cm::device::forget_node(node.pdo);
    device::delete(node.pdo);
}

/// What a user can have done to a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Step {
    /// AddDevice if no driver is on it, and IRP_MN_START_DEVICE.
    Start = 0,
    /// QUERY_STOP if that was not done, and STOP.
    Stop = 1,
    /// IRP_MN_QUERY_STOP_DEVICE.
    QueryStop = 2,
    /// IRP_MN_CANCEL_STOP_DEVICE.
    CancelStop = 3,
    /// IRP_MN_QUERY_REMOVE_DEVICE.
    QueryRemove = 4,
    /// IRP_MN_CANCEL_REMOVE_DEVICE.
    CancelRemove = 5,
    /// QUERY_REMOVE if that was not done, and REMOVE.
    Remove = 6,
    /// IRP_MN_SURPRISE_REMOVAL, and IRP_MN_REMOVE_DEVICE when no file is open.
    SurpriseRemove = 7,
}

impl Step {
    /// From its number.
    #[must_use]
    pub const fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            0 => Self::Start,
            1 => Self::Stop,
            2 => Self::QueryStop,
            3 => Self::CancelStop,
            4 => Self::QueryRemove,
            5 => Self::CancelRemove,
            6 => Self::Remove,
            7 => Self::SurpriseRemove,
            _ => return None,
        })
    }
}

fn query_stop(node: &Node) -> Result<(), NtStatus> {
    let (status, _) = irp::send_pnp(node.pdo, pnp_minor::QUERY_STOP_DEVICE, [0; 4]);
    if !status.is_success() {
        let _ = irp::send_pnp(node.pdo, pnp_minor::CANCEL_STOP_DEVICE, [0; 4]);
        return Err(status);
    }
    set_state(node.pdo, State::StopPending);
    Ok(())
}

/// Does a step of the user's.
///
/// # Errors
/// INVALID_DEVICE_STATE: the device is not in a state for it; otherwise what the drivers answered.
pub(crate) fn perform(node: &Node, step: Step) -> Result<(), NtStatus> {
    let pdo = node.pdo;
    match (step, node.state) {
        (Step::Start, State::Bare) => {
            add(node)?;
            let node = node_of(pdo)?;
            start(&node).inspect_err(|_| {
                if node_of(pdo).is_ok_and(|node| node.state == State::Added) {
                    finish_remove(&node);
                }
            })
        }
        (Step::Start, State::Added | State::Stopped) => start(node),
        (Step::Stop | Step::QueryStop, State::Started) => {
            query_stop(node)?;
            if step == Step::Stop {
                perform(&node_of(pdo)?, Step::Stop)?;
            }
            Ok(())
        }
        (Step::Stop, State::StopPending) => {
            let (status, _) = irp::send_pnp(pdo, pnp_minor::STOP_DEVICE, [0; 4]);
            set_state(pdo, State::Stopped);
            failed(status)
        }
        (Step::CancelStop, State::StopPending) => {
            let (status, _) = irp::send_pnp(pdo, pnp_minor::CANCEL_STOP_DEVICE, [0; 4]);
            set_state(pdo, State::Started);
            failed(status)
        }
        (Step::QueryRemove, _) => query_remove(node),
        (Step::CancelRemove, State::RemovePending(is_started)) => {
            let (status, _) = irp::send_pnp(pdo, pnp_minor::CANCEL_REMOVE_DEVICE, [0; 4]);
            notify::target_event(node, notify::Target::RemoveCancelled);
            let state = if is_started {
                State::Started
            } else {
                State::Added
            };
            set_state(pdo, state);
            failed(status)
        }
        (Step::Remove, State::Bare) => Err(NtStatus::INVALID_DEVICE_STATE),
        (Step::Remove, _) => remove(node),
        (Step::SurpriseRemove, State::Bare | State::Gone) => Err(NtStatus::INVALID_DEVICE_STATE),
        (Step::SurpriseRemove, _) => {
            surprise_remove(node);
            if open_files(pdo) == 0 {
                finish_remove(node);
            }
            Ok(())
        }
        _ => Err(NtStatus::INVALID_DEVICE_STATE),
    }
}

/// Does a step for the device of the driver with that id, or, with id 0, of the one driver that has a device.
///
/// # Errors
/// NO_SUCH_DEVICE: it has none. INVALID_PARAMETER: no such step. Otherwise as the step.
pub(crate) fn perform_by_id(id: u64, step: u64) -> Result<u64, NtStatus> {
    let step = Step::from_number(step).ok_or(NtStatus::INVALID_PARAMETER)?;
    let node = node_by_id(id).ok_or(NtStatus::NO_SUCH_DEVICE)?;
    perform(&node, step).map(|()| 0)
}

/// The device of the driver with that id; with id 0, the first one.
pub(crate) fn node_by_id(id: u64) -> Option<Node> {
    if id == 0 {
        return NODES.with(|(nodes, _)| nodes.first().cloned());
    }
    node_of_driver(driver::find(|driver| driver.id == id)?.object)
}
