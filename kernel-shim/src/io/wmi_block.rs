//! WMI from the consumer's side: opening a block, asking its providers for data, changing it, executing methods, and the
//! callbacks for events.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use super::driver;
use super::wmi::{self, Block, Guid};
use crate::api::nt_api;
use crate::ex::pool;
use crate::nt::{DEVICE_OBJECT, NtStatus, UNICODE_STRING};
use crate::ob::names::fold;
use crate::ob::{self, ObjectType};
use crate::raw::{Global, Ptr, Word, low16, low32, to_usize, unicode_text};
use crate::shared;
use crate::value::{ULong, UnicodeStringPtr};
use abi::trace::Entry;

/// IRP_MN_ codes.
const QUERY_ALL_DATA: u8 = 0;
const QUERY_SINGLE_INSTANCE: u8 = 1;
const CHANGE_SINGLE_INSTANCE: u8 = 2;
const CHANGE_SINGLE_ITEM: u8 = 3;
const EXECUTE_METHOD: u8 = 9;

/// WNODE_FLAG_ bits.
const ALL_DATA: u32 = 0x1;
const SINGLE_INSTANCE: u32 = 0x2;
const SINGLE_ITEM: u32 = 0x4;
const TOO_SMALL: u32 = 0x20;
const STATIC_INSTANCE_NAMES: u32 = 0x80;
const METHOD_ITEM: u32 = 0x8000;

/// Offsets in WNODE_HEADER.
const VERSION_AT: usize = 8;
const LINKAGE_AT: usize = 12;
const GUID_AT: usize = 24;
const FLAGS_AT: usize = 44;
/// Its bytes.
const HEADER: usize = 48;
/// Offsets behind it: of WNODE_ALL_DATA, and of the WNODEs of one instance.
const INSTANCE_COUNT_AT: usize = 52;
const NAME_OFFSETS_AT: usize = 56;
const NAME_AT: usize = 48;
const INDEX_AT: usize = 52;
/// Bytes of WNODE_ALL_DATA as a question.
const ALL_DATA_BYTES: usize = 64;
/// First size of the buffer for data, and the largest.
const DATA_BYTES: usize = 4096;
const DATA_MAX: usize = 1 << 20;
/// WMIGUID_NOTIFICATION.
const NOTIFICATION: u32 = 4;

#[derive(Clone, Copy, Debug)]
struct Opened {
    guid: Guid,
    /// Routine for events, and its context; 0: none.
    callback: [u64; 2],
}

/// Open blocks by the object's body.
static OPENED: Global<BTreeMap<u64, Opened>> = Global::new("open WMI blocks", BTreeMap::new());
/// The next free instance id of each GUID.
static INSTANCE_IDS: Global<BTreeMap<Guid, u32>> = Global::new("WMI instance ids", BTreeMap::new());

pub(super) fn initialize() {
    OPENED.with(BTreeMap::clear);
    INSTANCE_IDS.with(BTreeMap::clear);
}

fn dword(bytes: &[u8], at: usize) -> u32 {
    let four = bytes.get(at..).and_then(<[u8]>::first_chunk::<4>);
    four.map_or(0, |four| u32::from_le_bytes(*four))
}

fn put(bytes: &mut Vec<u8>, at: usize, value: u32) {
    if bytes.len() < at + 4 {
        bytes.resize(at + 4, 0);
    }
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn number(length: usize) -> u32 {
    low32(length as u64)
}

/// The GUID of a WNODE.
pub(super) fn guid_of(wnode: Ptr<u8>) -> Guid {
    wnode.add_bytes(GUID_AT as u64).cast::<Guid>().read()
}

/// A WNODE_HEADER.
pub(super) fn header(guid: &Guid, flags: u32) -> Vec<u8> {
    let mut bytes = alloc::vec![0; HEADER];
    bytes[GUID_AT..GUID_AT + 16].copy_from_slice(guid);
    put(&mut bytes, FLAGS_AT, flags);
    bytes
}

/// Sends a provider a WNODE and returns what it made of it. `room`: what the answer needs at least.
///
/// # Errors
/// What the provider answers; INSUFFICIENT_RESOURCES.
pub(super) fn exchange(
    provider: u64,
    minor: u8,
    mut wnode: Vec<u8>,
    room: usize,
) -> Result<Vec<u8>, NtStatus> {
    let length = number(wnode.len());
    put(&mut wnode, 0, length); // BufferSize
    put(&mut wnode, 4, low32(provider)); // ProviderId
    let mut room = room.max(wnode.len()).max(DATA_BYTES);
    loop {
        let buffer =
            pool::allocate_zeroed(room as u64, *b"Wmi ").ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
        buffer.write_bytes(&wnode);
        let path = buffer.addr() + GUID_AT as u64;
        let (status, _) = wmi::send(provider, minor, path, buffer, room as u64);
        let mut content = buffer.read_slice(room);
        pool::free(buffer, 0);
        if !status.is_success() {
            return Err(status);
        }
        // The provider says so in a WNODE_TOO_SMALL, with the size that it needs.
        let needed = dword(&content, HEADER) as usize;
        if dword(&content, FLAGS_AT) & TOO_SMALL != 0 {
            if needed <= room || needed > DATA_MAX {
                return Err(NtStatus::INSUFFICIENT_RESOURCES);
            }
            room = needed;
            continue;
        }
        content.truncate((dword(&content, 0) as usize).max(HEADER));
        return Ok(content);
    }
}

fn counted(name: &str) -> Vec<u8> {
    let units: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut bytes = low16(units.len() as u64).to_le_bytes().to_vec();
    bytes.extend(units);
    bytes
}

/// Adds the names that WMI knows of a block's instances to a provider's WNODE_ALL_DATA.
fn add_names(wnode: &mut Vec<u8>, names: &[String]) {
    let count = (dword(wnode, INSTANCE_COUNT_AT) as usize).min(names.len());
    wnode.resize(wnode.len().next_multiple_of(4), 0);
    let offsets = wnode.len();
    put(wnode, NAME_OFFSETS_AT, number(offsets));
    wnode.resize(offsets + 4 * count, 0);
    for (index, name) in names.iter().take(count).enumerate() {
        let here = number(wnode.len());
        put(wnode, offsets + 4 * index, here);
        wnode.extend(counted(name));
    }
}

fn static_flag(block: &Block) -> u32 {
    if block.names.is_some() {
        STATIC_INSTANCE_NAMES
    } else {
        0
    }
}

/// The WNODE_ALL_DATAs of all providers of a block, each linked to the next.
fn all_data(guid: &Guid) -> Result<Vec<u8>, NtStatus> {
    let mut all: Vec<u8> = Vec::new();
    let mut last = None;
    let mut failure = NtStatus::WMI_GUID_NOT_FOUND;
    for (provider, block) in wmi::providers_of(guid) {
        let mut question = header(guid, ALL_DATA | static_flag(&block));
        question.resize(ALL_DATA_BYTES, 0);
        let mut answer = match exchange(provider, QUERY_ALL_DATA, question, 0) {
            Ok(answer) => answer,
            Err(status) => {
                failure = status;
                continue;
            }
        };
        if let Some(names) = &block.names {
            add_names(&mut answer, names);
        }
        answer.resize(answer.len().next_multiple_of(8), 0);
        let length = number(answer.len());
        put(&mut answer, 0, length);
        put(&mut answer, LINKAGE_AT, 0);
        if let Some(last) = last {
            let distance = number(all.len() - last);
            put(&mut all, last + LINKAGE_AT, distance);
        }
        last = Some(all.len());
        all.extend(answer);
    }
    if last.is_some() {
        Ok(all)
    } else {
        Err(failure)
    }
}

/// What is asked about one instance: the WNODE's kind, what stands between index and data, and the data.
struct Question<'a> {
    minor: u8,
    flags: u32,
    version: u32,
    /// DataItemId or MethodId.
    id: Option<u32>,
    data: &'a [u8],
    /// What the answer's data needs.
    room: usize,
}

/// Asks the provider that has an instance of that name; its WNODE.
fn about_instance(guid: &Guid, name: &str, question: &Question<'_>) -> Result<Vec<u8>, NtStatus> {
    let providers = wmi::providers_of(guid);
    let mut failure = if providers.is_empty() {
        NtStatus::WMI_GUID_NOT_FOUND
    } else {
        NtStatus::WMI_INSTANCE_NOT_FOUND
    };
    for (provider, block) in providers {
        let folded = fold(name);
        let index = match &block.names {
            Some(names) => match names.iter().position(|known| fold(known) == folded) {
                Some(index) => number(index),
                None => continue,
            },
            None => 0,
        };
        let mut wnode = header(guid, question.flags | static_flag(&block));
        put(&mut wnode, VERSION_AT, question.version);
        put(&mut wnode, INDEX_AT, index);
        if let Some(id) = question.id {
            put(&mut wnode, 56, id);
        }
        let sizes = sizes_at(question.id.is_some());
        put(&mut wnode, sizes + 4, number(question.data.len()));
        let name_at = number(wnode.len());
        put(&mut wnode, NAME_AT, name_at);
        wnode.extend(counted(name));
        wnode.resize(wnode.len().next_multiple_of(8), 0);
        let data_at = number(wnode.len());
        put(&mut wnode, sizes, data_at);
        wnode.extend_from_slice(question.data);
        let room = wnode.len() + question.room;
        match exchange(provider, question.minor, wnode, room) {
            Ok(answer) => return Ok(answer),
            Err(status) => failure = status,
        }
    }
    Err(failure)
}

/// Where DataBlockOffset and, behind it, the data's size are.
const fn sizes_at(has_id: bool) -> usize {
    if has_id { 60 } else { 56 }
}

/// The data in an instance's WNODE.
fn data_of(wnode: &[u8], has_id: bool) -> &[u8] {
    let at = dword(wnode, sizes_at(has_id)) as usize;
    let length = dword(wnode, sizes_at(has_id) + 4) as usize;
    let rest = wnode.get(at..).unwrap_or_default();
    rest.get(..length).unwrap_or(rest)
}

fn opened(object: Ptr<u8>) -> Result<Opened, NtStatus> {
    OPENED
        .with(|all| all.get(&object.addr()).copied())
        .ok_or(NtStatus::INVALID_PARAMETER)
}

/// Writes an answer to a caller's buffer, whose size is updated.
fn reply(answer: Result<Vec<u8>, NtStatus>, size: Ptr<u32>, buffer: Ptr<u8>) -> NtStatus {
    let bytes = match answer {
        Ok(bytes) => bytes,
        Err(status) => return status,
    };
    let available = size.read() as usize;
    size.write(number(bytes.len()));
    if buffer.is_null() || available < bytes.len() {
        return NtStatus::BUFFER_TOO_SMALL;
    }
    buffer.write_bytes(&bytes);
    NtStatus::SUCCESS
}

/// Changes an instance, or an item of it.
fn change(
    object: Ptr<u8>,
    name: UnicodeStringPtr,
    (version, id): (u32, Option<u32>),
    (buffer, bytes): (Ptr<u8>, u32),
) -> NtStatus {
    let result = opened(object).and_then(|opened| {
        let data = buffer.read_slice(to_usize(u64::from(bytes)));
        let (minor, flags) = if id.is_some() {
            (CHANGE_SINGLE_ITEM, SINGLE_ITEM)
        } else {
            (CHANGE_SINGLE_INSTANCE, SINGLE_INSTANCE)
        };
        let question = Question {
            minor,
            flags,
            version,
            id,
            data: &data,
            room: 0,
        };
        about_instance(&opened.guid, &unicode_text(name.0), &question)
    });
    result.err().unwrap_or(NtStatus::SUCCESS)
}

/// Whether somebody wants the events of a block.
pub(super) fn has_consumers(guid: &Guid) -> bool {
    OPENED.with(|all| {
        let mut all = all.values();
        all.any(|opened| opened.guid == *guid && opened.callback[0] != 0)
    })
}

/// Hands an event to its consumers.
pub(super) fn deliver(wnode: Ptr<u8>, guid: &Guid) {
    let consumers: Vec<(u64, [u64; 2])> = OPENED.with(|all| {
        let wanted = all
            .iter()
            .filter(|(_, opened)| opened.guid == *guid && opened.callback[0] != 0);
        wanted
            .map(|(&body, opened)| (body, opened.callback))
            .collect()
    });
    for &(body, _) in &consumers {
        ob::reference(body);
    }
    for (body, [routine, context]) in consumers {
        shared::call_driver(Entry::Other, routine, &[wnode.addr(), context]);
        ob::dereference(body);
    }
}

/// The last reference to an open block is gone.
fn delete(body: u64) {
    let Some(opened) = OPENED.with(|all| all.remove(&body)) else {
        return;
    };
    if opened.callback[0] != 0 && !has_consumers(&opened.guid) {
        wmi::last_consumer_gone(opened.guid);
    }
}

fn open(guid: Guid, access: u32) -> Result<u64, NtStatus> {
    // Events of a block can be waited for before anybody has it.
    if access & NOTIFICATION == 0 && wmi::providers_of(&guid).is_empty() {
        return Err(NtStatus::WMI_GUID_NOT_FOUND);
    }
    let body = ob::create(ObjectType::WmiGuid, 16, Some(delete))
        .ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
    Ptr::<Guid>::new(body).write(guid);
    let opened = Opened {
        guid,
        callback: [0; 2],
    };
    OPENED.with(|all| all.insert(body, opened));
    Ok(body)
}

/// A name in a block that the driver frees.
fn give_name(target: Ptr<UNICODE_STRING>, name: &str) -> NtStatus {
    let units: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let owner = driver::owner_of(shared::caller());
    let bytes = units.len() as u64 + 2;
    let block = pool::allocate(bytes, u32::from_le_bytes(*b"Wmi "), owner);
    if block.is_null() {
        return NtStatus::INSUFFICIENT_RESOURCES;
    }
    block.fill(0, bytes);
    block.write_bytes(&units);
    target.write(UNICODE_STRING {
        Length: low16(bytes - 2),
        MaximumLength: low16(bytes),
        Buffer: block.cast(),
    });
    NtStatus::SUCCESS
}

nt_api! { module = io_wmi_block;
    /// Opens a block of data, or its events: an object that ObDereferenceObject closes. WMI_GUID_NOT_FOUND: no provider
    /// has it.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoWMIOpenBlock(guid: Ptr<u8>, desired_access: ULong, data_block_object: Ptr<Word>) -> NtStatus {
        match open(guid.cast::<Guid>().read(), desired_access) {
            Ok(body) => {
                data_block_object.write(Ptr::<u8>::new(body).word());
                NtStatus::SUCCESS
            }
            Err(status) => status,
        }
    }

    /// All instances of a block: a WNODE_ALL_DATA for each provider. BUFFER_TOO_SMALL: the size says what is needed.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoWMIQueryAllData(data_block_object: Ptr<u8>, in_out_buffer_size: Ptr<u32>, out_buffer: Ptr<u8>) -> NtStatus {
        reply(opened(data_block_object).and_then(|opened| all_data(&opened.guid)), in_out_buffer_size, out_buffer)
    }

    /// One instance of a block: a WNODE_SINGLE_INSTANCE. WMI_INSTANCE_NOT_FOUND: there is none of that name.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoWMIQuerySingleInstance(
        data_block_object: Ptr<u8>, instance_name: UnicodeStringPtr, in_out_buffer_size: Ptr<u32>, out_buffer: Ptr<u8>,
    ) -> NtStatus {
        let question = Question {
            minor: QUERY_SINGLE_INSTANCE, flags: SINGLE_INSTANCE, version: 0, id: None, data: &[], room: 0,
        };
        let answer = opened(data_block_object)
            .and_then(|opened| about_instance(&opened.guid, &unicode_text(instance_name.0), &question));
        reply(answer, in_out_buffer_size, out_buffer)
    }

    /// Changes an instance of a block.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoWMISetSingleInstance(
        data_block_object: Ptr<u8>, instance_name: UnicodeStringPtr, version: ULong, value_buffer_size: ULong,
        value_buffer: Ptr<u8>,
    ) -> NtStatus {
        change(data_block_object, instance_name, (version, None), (value_buffer, value_buffer_size))
    }

    /// Changes an item of an instance of a block.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoWMISetSingleItem(
        data_block_object: Ptr<u8>, instance_name: UnicodeStringPtr, data_item_id: ULong, version: ULong,
        value_buffer_size: ULong, value_buffer: Ptr<u8>,
    ) -> NtStatus {
        change(data_block_object, instance_name, (version, Some(data_item_id)), (value_buffer, value_buffer_size))
    }

    /// Executes a method of an instance; the buffer has its input and gets its output.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoWMIExecuteMethod(
        data_block_object: Ptr<u8>, instance_name: UnicodeStringPtr, method_id: ULong, in_buffer_size: ULong,
        out_buffer_size: Ptr<u32>, in_out_buffer: Ptr<u8>,
    ) -> NtStatus {
        let answer = opened(data_block_object).and_then(|opened| {
            let data = in_out_buffer.read_slice(to_usize(u64::from(in_buffer_size)));
            let room = (out_buffer_size.read() as usize).min(DATA_MAX);
            let question = Question {
                minor: EXECUTE_METHOD, flags: METHOD_ITEM, version: 0, id: Some(method_id), data: &data, room,
            };
            let wnode = about_instance(&opened.guid, &unicode_text(instance_name.0), &question)?;
            Ok(data_of(&wnode, true).to_vec())
        });
        match answer {
            // A method without output needs no buffer for it.
            Ok(bytes) if bytes.is_empty() => {
                out_buffer_size.write(0);
                NtStatus::SUCCESS
            }
            answer => reply(answer, out_buffer_size, in_out_buffer),
        }
    }

    /// Has a routine called with each event of an open block, as (WNODE_EVENT_ITEM, context), at PASSIVE_LEVEL.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoWMISetNotificationCallback(object: Ptr<u8>, callback: Ptr<u8>, context: Ptr<u8>) -> NtStatus {
        let opened = match opened(object) {
            Ok(opened) => opened,
            Err(status) => return status,
        };
        let is_first = !has_consumers(&opened.guid);
        OPENED.with(|all| {
            if let Some(opened) = all.get_mut(&object.addr()) {
                opened.callback = [callback.addr(), context.addr()];
            }
        });
        if is_first && !callback.is_null() {
            wmi::switch_events(&opened.guid, true);
        }
        NtStatus::SUCCESS
    }

    /// The name of a device's first instance of an open block, in a buffer that the caller frees.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoWMIDeviceObjectToInstanceName(
        data_block_object: Ptr<u8>, device_object: Ptr<DEVICE_OBJECT>, instance_name: Ptr<UNICODE_STRING>,
    ) -> NtStatus {
        let guid = match opened(data_block_object) {
            Ok(opened) => opened.guid,
            Err(status) => return status,
        };
        let mut providers = wmi::providers_of(&guid).into_iter();
        let block = providers.find(|(provider, _)| *provider == device_object.addr());
        match block.and_then(|(_, block)| block.names?.into_iter().next()) {
            Some(name) => give_name(instance_name, &name),
            None => NtStatus::WMI_INSTANCE_NOT_FOUND,
        }
    }

    /// Numbers for instances of a block that nobody else gets: the first of so many.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoWMIAllocateInstanceIds(guid: Ptr<u8>, instance_count: ULong, first_instance_id: Ptr<u32>) -> NtStatus {
        let guid = guid.cast::<Guid>().read();
        let first = INSTANCE_IDS.with(|ids| {
            let next = ids.entry(guid).or_default();
            let first = *next;
            *next = first.wrapping_add(instance_count);
            first
        });
        first_instance_id.write(first);
        NtStatus::SUCCESS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_added_behind_the_data() {
        let mut wnode = header(&[7; 16], ALL_DATA);
        wnode.resize(70, 0);
        put(&mut wnode, INSTANCE_COUNT_AT, 2);
        let names = ["a", "bc", "unused"].map(String::from);
        add_names(&mut wnode, &names);
        let offsets = dword(&wnode, NAME_OFFSETS_AT) as usize;
        assert_eq!(offsets, 72);
        let name = |index: usize| {
            let at = dword(&wnode, offsets + 4 * index) as usize;
            wmi::counted_text(&wnode, at).unwrap().0
        };
        assert_eq!((name(0), name(1)), ("a".into(), "bc".into()));
    }

    #[test]
    fn data_ends_where_the_wnode_does() {
        let mut wnode = header(&[0; 16], METHOD_ITEM);
        put(&mut wnode, 60, 72);
        put(&mut wnode, 64, 100);
        wnode.resize(80, 9);
        assert_eq!(data_of(&wnode, true), [9; 8]);
        put(&mut wnode, 60, 5000);
        assert!(data_of(&wnode, true).is_empty());
        assert!(data_of(&[], false).is_empty());
    }
}
