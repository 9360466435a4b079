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
    DEVICE_OBJECT, DO_DEVICE_INITIALIZING, DOE_REMOVE_PENDING, DRIVER_EXTENSION, DRIVER_OBJECT,
    IO_TYPE_DRIVER, MAJOR_FUNCTIONS, NtStatus, PNP_DEVICE_FAILED, PNP_DEVICE_REMOVED, pnp_minor,
};
use crate::ob::{self, ObjectType, names};
use crate::raw::{Global, Ptr, from_word, low16, low32};
use crate::shared;
use abi::trace::{Entry, TraceKind};

pub(crate) mod identity;
pub mod interface;
pub(crate) mod irp;
pub(crate) mod list;
pub mod notify;
pub mod pdo;
pub mod property;
pub mod report;
pub mod resources;
pub(crate) mod step;

use identity::Identity;
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
    /// From 1; never used again.
    pub(crate) number: u32,
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
    pub(crate) identity: Identity,
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
    identity::initialize();
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

/// All devices, in the order in which they were made.
pub(crate) fn devices() -> Vec<Node> {
    NODES.with(|(nodes, _)| nodes.clone())
}

/// Sets or clears a DOE_ flag of a whole stack: while one is set that says so, its devices cannot be opened.
fn mark(pdo: Ptr<DEVICE_OBJECT>, flag: u32, is_set: bool) {
    let mut next = pdo;
    while !next.is_null() {
        device::extension_of(next).with(|extension| {
            extension.ExtensionFlags &= !flag;
            if is_set {
                extension.ExtensionFlags |= flag;
            }
        });
        next = next.read().AttachedDevice;
    }
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
    (identity, resources): (Identity, Vec<Resource>),
) -> Result<Node, NtStatus> {
    let manager = manager()?;
    let upper = names::fold(service);
    let prefix = format!("ROOT\\{upper}\\");
    let (number, taken) = NODES.with(|(nodes, made)| {
        *made += 1;
        let taken: Vec<String> = nodes.iter().map(|node| node.instance.clone()).collect();
        (*made, taken)
    });
    let instance = match &identity.instance {
        Some(id) => format!("{prefix}{id}"),
        None => (0..u32::MAX)
            .map(|index| format!("{prefix}{index:04}"))
            .find(|instance| !taken.contains(instance))
            .unwrap_or_default(),
    };
    if taken.contains(&instance) {
        return Err(NtStatus::OBJECT_NAME_COLLISION);
    }
    // FILE_DEVICE_UNKNOWN, FILE_AUTOGENERATED_DEVICE_NAME.
    let name = format!("\\Device\\{number:08x}");
    let pdo = device::create(manager, 0, &name, 0x22, 0x80, false)?;
    // DO_BUS_ENUMERATED_DEVICE.
    pdo.with(|pdo| pdo.Flags = pdo.Flags & !DO_DEVICE_INITIALIZING | 0x1000);
    let node = Node {
        number,
        pdo,
        driver: owner,
        service: String::from(service),
        instance,
        software_key: format!("{CLASS_GUID}\\{:04}", number - 1),
        state: State::Bare,
        resources,
        identity,
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
        if open_files(node.pdo) == 0 {
            finish_remove(node);
        }
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
    let node = create(owner, service, identity::take())?;
    let added = add(&node);
    if added.is_err() {
        delete(&node);
        return added;
    }
    if identity::is_left_stopped() {
        return Ok(());
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
        mark(node.pdo, DOE_REMOVE_PENDING, true);
        set_state(node.pdo, State::RemovePending(is_started));
    }
    answer
}

fn surprise_remove(node: &Node) {
    mark(node.pdo, DOE_REMOVE_PENDING, true);
    let _ = irp::send_pnp(node.pdo, pnp_minor::SURPRISE_REMOVAL, [0; 4]);
    // Until here a file that is closed does not end the device.
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
    mark(node.pdo, DOE_REMOVE_PENDING, false);
    if !was_gone {
        notify::target_event(node, notify::Target::RemoveComplete);
    }
}

fn remove(node: &Node) -> Result<(), NtStatus> {
    match node.state {
        State::Bare => return Ok(()),
        State::Gone if open_files(node.pdo) > 0 => return Err(NtStatus::DEVICE_BUSY),
        State::Gone | State::RemovePending(_) => {}
        _ => query_remove(node)?,
    }
    finish_remove(node);
    Ok(())
}

/// A file on a device was closed. The last on one that was surprise-removed ends it.
pub(crate) fn file_closed(device: Ptr<DEVICE_OBJECT>) {
    if MANAGER.load(Ordering::Relaxed) == 0 {
        return;
    }
    let Ok(node) = node_of(device::base_of(device)) else {
        return;
    };
    if node.state == State::Gone && open_files(node.pdo) == 0 {
        finish_remove(&node);
    }
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
