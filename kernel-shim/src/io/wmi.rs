//! WMI: providers, which say what blocks of data they have when they are asked (IRP_MN_REGINFO_EX), and events. The data
//! itself is [`super::wmi_block`]'s.
//!
//! A registration is asked about by a system worker, after the driver's call has returned, as on NT.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::{device, wmi_block};
use crate::api::nt_api;
use crate::cm;
use crate::ex::pool;
use crate::ex::work::{self, WorkItem};
use crate::nt::{DEVICE_OBJECT, NtStatus, WORK_QUEUE_ITEM};
use crate::ob::{self, ObjectType};
use crate::pnp::irp::{self, Packet};
use crate::raw::{Global, Ptr, low32, to_usize, to_word};
use crate::value::ULong;

/// A GUID's bytes.
pub(super) type Guid = [u8; 16];

const REGISTER: u32 = 1;
const DEREGISTER: u32 = 2;
const REREGISTER: u32 = 3;
const UPDATE_GUIDS: u32 = 4;
const BLOCK_IRPS: u32 = 5;
/// WMIREG_FLAG_CALLBACK: the object is a callback, not a device.
const FLAG_CALLBACK: u32 = 0x8000_0000;

/// IRP_MJ_SYSTEM_CONTROL.
const IRP_MJ_SYSTEM_CONTROL: u8 = 0x17;
/// IRP_MN_REGINFO.
const REGINFO: u8 = 8;
/// IRP_MN_REGINFO_EX.
const REGINFO_EX: u8 = 11;
/// IRP_MN_ENABLE_EVENTS.
const ENABLE_EVENTS: u8 = 4;
/// IRP_MN_DISABLE_EVENTS.
const DISABLE_EVENTS: u8 = 5;

/// WMIREGISTER: what the provider has.
const WMIREGISTER: u64 = 0;
/// WMIUPDATE: what has changed.
const WMIUPDATE: u64 = 1;

/// WMIREG_FLAG_ bits of a block: how its instances are named, and whether it goes.
const INSTANCE_LIST: u32 = 0x4;
const INSTANCE_BASENAME: u32 = 0x8;
const INSTANCE_PDO: u32 = 0x20;
const REMOVE_GUID: u32 = 0x1_0000;

/// Bytes of WMIREGINFO before its WMIREGGUIDs, and of one of these.
const INFO_HEAD: usize = if cfg!(nt_i386) { 20 } else { 24 };
const INFO_GUID: usize = if cfg!(nt_i386) { 28 } else { 32 };
/// First size of the buffer for WMIREGINFO, and the largest.
const INFO_BYTES: u64 = 4096;
const INFO_MAX: u64 = 0x1_0000;
/// Most instances of a block.
const MAX_INSTANCES: u32 = 1024;

/// A block of data that a provider has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Block {
    pub(super) guid: Guid,
    /// Its instances' names; `None`: the provider makes them up as it goes.
    pub(super) names: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default)]
struct Provider {
    blocks: Vec<Block>,
    /// It takes no more IRPs.
    is_blocked: bool,
}

/// What a worker is to do.
#[derive(Debug)]
enum Job {
    /// Ask a device, to which there is a reference, what it has.
    Ask { device: u64, path: u64 },
    /// Hand an event to its consumers.
    Event { wnode: Ptr<u8>, guid: Guid },
    /// Nobody wants the events of a block any more.
    Disable { guid: Guid },
}

static PROVIDERS: Global<BTreeMap<u64, Provider>> = Global::new("WMI providers", BTreeMap::new());
static JOBS: Global<VecDeque<Job>> = Global::new("WMI jobs", VecDeque::new());

pub(super) fn initialize() {
    PROVIDERS.with(BTreeMap::clear);
    JOBS.with(VecDeque::clear);
    wmi_block::initialize();
}

/// Hands a job to a worker. False: the pool is exhausted, and nothing happens.
fn queue(job: Job) -> bool {
    let bytes = size_of::<WORK_QUEUE_ITEM>() as u64;
    let Some(item) = pool::allocate_zeroed(bytes, *b"Wmi ") else {
        return false;
    };
    JOBS.with(|jobs| jobs.push_back(job));
    work::queue(WorkItem::Wmi(item.cast()), 1);
    true
}

/// Does one job; on a worker.
pub(crate) fn run_job() {
    match JOBS.with(VecDeque::pop_front) {
        Some(Job::Ask { device, path }) => {
            ask(device, path);
            ob::dereference(device);
        }
        Some(Job::Event { wnode, guid }) => {
            wmi_block::deliver(wnode, &guid);
            pool::free(wnode, 0);
        }
        Some(Job::Disable { guid }) => switch_events(&guid, false),
        None => {}
    }
}

/// A consumer of a block's events is gone, and it was the last.
pub(super) fn last_consumer_gone(guid: Guid) {
    queue(Job::Disable { guid });
}

/// Tells a block's providers that its events are wanted, or no longer.
pub(super) fn switch_events(guid: &Guid, is_wanted: bool) {
    let minor = if is_wanted {
        ENABLE_EVENTS
    } else {
        DISABLE_EVENTS
    };
    for (device, _) in providers_of(guid) {
        // A provider that has none of these says so.
        let _ = wmi_block::exchange(device, minor, wmi_block::header(guid, 0), 0);
    }
}

/// The providers that have a block, with what they say of it.
pub(super) fn providers_of(guid: &Guid) -> Vec<(u64, Block)> {
    PROVIDERS.with(|providers| {
        let active = providers
            .iter()
            .filter(|(_, provider)| !provider.is_blocked);
        active
            .filter_map(|(&device, provider)| {
                let mut blocks = provider.blocks.iter();
                Some((device, blocks.find(|block| block.guid == *guid)?.clone()))
            })
            .collect()
    })
}

/// Sends a provider an IRP_MJ_SYSTEM_CONTROL and waits: status and Information.
pub(super) fn send(
    provider: u64,
    minor: u8,
    path: u64,
    buffer: Ptr<u8>,
    bytes: u64,
) -> (NtStatus, u64) {
    let target = Ptr::<DEVICE_OBJECT>::new(provider);
    if ob::type_of(provider) != Some(ObjectType::Device) || device::is_going(target) {
        return (NtStatus::NO_SUCH_DEVICE, 0);
    }
    irp::send(
        target,
        &Packet {
            major: IRP_MJ_SYSTEM_CONTROL,
            minor,
            parameters: [provider, path, bytes, buffer.addr()].map(to_word),
            information: 0,
        },
    )
}

/// Asks a provider for its WMIREGINFO.
fn reginfo(provider: u64, path: u64) -> Option<Vec<u8>> {
    let mut minor = REGINFO_EX;
    let mut room = INFO_BYTES;
    loop {
        let buffer = pool::allocate_zeroed(room, *b"Wmi ")?;
        let (status, information) = send(provider, minor, path, buffer, room);
        let first = u64::from(buffer.cast::<u32>().read());
        let content = buffer.read_slice(to_usize(information.min(room)));
        pool::free(buffer, 0);
        // A buffer that is too small gets the size that is needed, with either status.
        let is_too_small = information == 4
            && (status.is_success() || status == NtStatus::BUFFER_TOO_SMALL)
            && first > room;
        if is_too_small && first <= INFO_MAX {
            room = first;
        } else if status.is_success() {
            return Some(content);
        } else if minor == REGINFO_EX {
            minor = REGINFO;
        } else {
            return None;
        }
    }
}

fn ask(provider: u64, path: u64) {
    let is_known = PROVIDERS.with(|providers| providers.contains_key(&provider));
    let Some(content) = is_known.then(|| reginfo(provider, path)).flatten() else {
        return;
    };
    let found = parse(&content);
    PROVIDERS.with(|providers| {
        let Some(provider) = providers.get_mut(&provider) else {
            return;
        };
        if path == WMIREGISTER {
            provider.blocks.clear();
        }
        for (block, is_removed) in found {
            provider.blocks.retain(|known| known.guid != block.guid);
            if !is_removed {
                provider.blocks.push(block);
            }
        }
    });
}

fn dword(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*four))
}

/// Text with its length in bytes before it, and where it ends.
pub(super) fn counted_text(bytes: &[u8], at: usize) -> Option<(String, usize)> {
    let length = usize::from(u16::from_le_bytes(*bytes.get(at..)?.first_chunk::<2>()?));
    let end = at.checked_add(2)?.checked_add(length)?;
    let units: Vec<u16> = bytes
        .get(at + 2..end)?
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .collect();
    Some((String::from_utf16_lossy(&units), end))
}

/// The names of a block's instances, as its WMIREGGUID says.
fn names(info: &[u8], flags: u32, count: u32, value: u64) -> Option<Vec<String>> {
    let count = count.min(MAX_INSTANCES);
    let at = usize::try_from(value).ok();
    if flags & INSTANCE_PDO != 0 {
        let pdo = Ptr::<DEVICE_OBJECT>::new(value);
        let path = cm::device::instance_of(pdo)?;
        if ob::type_of(value) == Some(ObjectType::Device) {
            // The provider has referenced it for this.
            ob::dereference(value);
        }
        return Some((0..count).map(|index| format!("{path}_{index}")).collect());
    }
    if flags & INSTANCE_BASENAME != 0 {
        let (base, _) = counted_text(info, at?)?;
        return Some((0..count).map(|index| format!("{base}{index}")).collect());
    }
    if flags & INSTANCE_LIST != 0 {
        let mut at = at?;
        let mut all = Vec::new();
        for _ in 0..count {
            let (name, end) = counted_text(info, at)?;
            all.push(name);
            at = end;
        }
        return Some(all);
    }
    None
}

/// The blocks of WMIREGINFOs, and whether each is to go.
fn parse(content: &[u8]) -> Vec<(Block, bool)> {
    let mut found = Vec::new();
    let mut info = content;
    loop {
        let count = dword(info, 16).unwrap_or(0);
        for index in 0..count as usize {
            let at = INFO_HEAD + index * INFO_GUID;
            let Some(guid) = info.get(at..).and_then(<[u8]>::first_chunk::<16>) else {
                break;
            };
            let (Some(flags), Some(instances), Some(low)) = (
                dword(info, at + 16),
                dword(info, at + 20),
                dword(info, at + 24),
            ) else {
                break;
            };
            // An offset is a ULONG; a PDO's address is as wide as the union.
            let high = if cfg!(nt_i386) || flags & INSTANCE_PDO == 0 {
                0
            } else {
                dword(info, at + 28).unwrap_or(0)
            };
            let value = u64::from(low) | u64::from(high) << 32;
            let block = Block {
                guid: *guid,
                names: names(info, flags, instances, value),
            };
            found.push((block, flags & REMOVE_GUID != 0));
        }
        let next = dword(info, 4).unwrap_or(0) as usize;
        match info.get(next..) {
            Some(rest) if next >= INFO_HEAD => info = rest,
            _ => return found,
        }
    }
}

/// Has a provider asked for what it has, or what has changed.
fn ask_later(object: u64, action: u32, path: u64) {
    if action & FLAG_CALLBACK != 0 || ob::type_of(object) != Some(ObjectType::Device) {
        return;
    }
    ob::reference(object);
    if !queue(Job::Ask {
        device: object,
        path,
    }) {
        ob::dereference(object);
    }
}

fn control(object: u64, action: u32) -> NtStatus {
    let kind = action & !FLAG_CALLBACK;
    let is_known = PROVIDERS.with(|providers| match kind {
        REGISTER => {
            providers.insert(object, Provider::default());
            true
        }
        DEREGISTER => providers.remove(&object).is_some(),
        BLOCK_IRPS => providers
            .get_mut(&object)
            .map(|provider| provider.is_blocked = true)
            .is_some(),
        REREGISTER | UPDATE_GUIDS => providers.contains_key(&object),
        _ => false,
    });
    if !is_known {
        return NtStatus::INVALID_PARAMETER;
    }
    match kind {
        REGISTER | REREGISTER => ask_later(object, action, WMIREGISTER),
        UPDATE_GUIDS => ask_later(object, action, WMIUPDATE),
        _ => {}
    }
    NtStatus::SUCCESS
}

nt_api! { module = io_wmi;
    /// Registers a device with WMI, which then asks it what it has, or undoes or changes that. INVALID_PARAMETER: no such
    /// action, or not registered.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoWMIRegistrationControl(device: Ptr<u8>, action: ULong) -> NtStatus {
        control(device.addr(), action)
    }

    /// Sends an event to its consumers (IoWMISetNotificationCallback), which a worker calls, and frees its block.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoWMIWriteEvent(wnode_event_item: Ptr<u8>) -> NtStatus {
        if wnode_event_item.is_null() {
            return NtStatus::INVALID_PARAMETER;
        }
        let guid = wmi_block::guid_of(wnode_event_item);
        if !wmi_block::has_consumers(&guid) {
            pool::free(wnode_event_item, 0);
        } else if !queue(Job::Event { wnode: wnode_event_item, guid }) {
            return NtStatus::INSUFFICIENT_RESOURCES;
        }
        NtStatus::SUCCESS
    }

    /// The id of a device's provider: its address's low bits; 0 if it is not registered.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoWMIDeviceObjectToProviderId(device: Ptr<u8>) -> ULong {
        let is_registered = PROVIDERS.with(|providers| providers.contains_key(&device.addr()));
        if is_registered { low32(device.addr()) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(bytes: &mut Vec<u8>, at: usize, value: u32) {
        if bytes.len() < at + 4 {
            bytes.resize(at + 4, 0);
        }
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn text(value: &str) -> Vec<u8> {
        let units: Vec<u8> = value.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let length = u16::try_from(units.len()).unwrap();
        [length.to_le_bytes().to_vec(), units].concat()
    }

    #[test]
    fn registration_information_names_blocks_and_instances() {
        let mut info = vec![0; INFO_HEAD + 3 * INFO_GUID];
        put(&mut info, 16, 3);
        let blocks = [
            (INSTANCE_BASENAME, 2_u32),
            (INSTANCE_LIST, 2),
            (REMOVE_GUID, 0),
        ];
        for (index, (flags, count)) in blocks.into_iter().enumerate() {
            let at = INFO_HEAD + index * INFO_GUID;
            info[at] = u8::try_from(index).unwrap() + 1;
            put(&mut info, at + 16, flags);
            put(&mut info, at + 20, count);
            let here = u32::try_from(info.len()).unwrap();
            put(&mut info, at + 24, here);
            match index {
                0 => info.extend(text("Base")),
                1 => info.extend([text("one"), text("two")].concat()),
                _ => {}
            }
        }
        let found = parse(&info);
        assert_eq!(found.len(), 3);
        let names = |index: usize| found[index].0.names.clone().unwrap();
        assert_eq!(names(0), ["Base0", "Base1"]);
        assert_eq!(names(1), ["one", "two"]);
        assert_eq!(found[2].0.names, None);
        assert_eq!(
            found.iter().map(|(_, goes)| *goes).collect::<Vec<_>>(),
            [false, false, true]
        );
        for length in 0..info.len() {
            // Cut off anywhere, it is less or nothing, and no more.
            assert!(parse(&info[..length]).len() <= 3);
        }
    }
}
