//! Watched directories.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use super::{pending, stack_of};
use crate::api::nt_api;
use crate::ex::pool;
use crate::mm::mdl;
use crate::nt::{IRP, LIST_ENTRY, NtStatus, STRING};
use crate::raw::{Global, Ptr, Word, from_word, low32, to_word};
use crate::shared;
use crate::value::{Boolean, ULong, UShort};
use abi::trace::Entry;

const SYNC_TAG: [u8; 4] = *b"FSns";
/// FO_CLEANUP_COMPLETE.
const CLEANUP_COMPLETE: u32 = 0x4000;
/// Bytes of a FILE_NOTIFY_INFORMATION before its name.
const HEADER: usize = 12;

/// NOTIFY_CHANGE as far as drivers may see it: what is linked in their list.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct NOTIFY_CHANGE {
    NotifyList: LIST_ENTRY,
    FsContext: Word,
}

const CHANGE_TAG: [u8; 4] = *b"FSnc";

/// Links a new watch into the driver's list; raises if there is no memory.
fn link(list: Ptr<LIST_ENTRY>, context: u64) -> Ptr<NOTIFY_CHANGE> {
    let bytes = size_of::<NOTIFY_CHANGE>() as u64;
    let Some(block) = pool::allocate_zeroed(bytes, CHANGE_TAG) else {
        crate::rtl::raise_status(NtStatus::INSUFFICIENT_RESOURCES);
    };
    let entry = block.cast::<NOTIFY_CHANGE>();
    entry.with(|entry| entry.FsContext = to_word(context));
    list.list_insert_tail(entry.cast());
    entry
}

/// Takes a watch out of the driver's list.
fn unlink(entry: Ptr<NOTIFY_CHANGE>) {
    entry.cast::<LIST_ENTRY>().list_remove();
    pool::free(entry.cast(), u32::from_le_bytes(CHANGE_TAG));
}

/// A handle's watch on a directory.
#[derive(Clone, Debug)]
struct Watch {
    list: u64,
    /// Its entry there.
    entry: Ptr<NOTIFY_CHANGE>,
    context: u64,
    directory: Vec<u16>,
    is_tree: bool,
    filter: u32,
    traverse: u64,
    subject: u64,
    /// Bytes of changes to keep; 0: only that there were some.
    room: usize,
    changes: Vec<u8>,
    last_change: usize,
    is_overrun: bool,
    irps: VecDeque<Ptr<IRP>>,
}

/// In the order of their making.
static WATCHES: Global<BTreeMap<u64, Watch>> = Global::new("watched directories", BTreeMap::new());

pub(super) fn initialize() {
    WATCHES.with(BTreeMap::clear);
}

/// A name's units: it is Unicode if its second byte is zero, and code page text otherwise.
fn units_of(bytes: &[u8]) -> Vec<u16> {
    if bytes.get(1) == Some(&0) {
        bytes
            .chunks_exact(2)
            .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
            .collect()
    } else {
        bytes.iter().map(|&byte| u16::from(byte)).collect()
    }
}

fn bytes_of(string: Ptr<STRING>) -> Vec<u8> {
    let Some(string) = string.non_null() else {
        return Vec::new();
    };
    let STRING { Length, Buffer, .. } = string.read();
    let mut bytes = alloc::vec![0; usize::from(Length)];
    Buffer.read_bytes(&mut bytes);
    bytes
}

/// An IRP is cancelled.
pub(super) fn forget_irp(irp: Ptr<IRP>) {
    WATCHES.with(|all| {
        for watch in all.values_mut() {
            watch.irps.retain(|&other| other != irp);
        }
    });
}

/// Completes a request with changes; with STATUS_NOTIFY_ENUM_DIR if they are not kept or do not fit.
fn deliver(irp: Ptr<IRP>, changes: &[u8]) {
    let length = low32(from_word(stack_of(irp).Parameters[0]));
    if changes.is_empty() || changes.len() > length as usize {
        return pending::complete(irp, NtStatus::NOTIFY_ENUM_DIR, 0);
    }
    let IRP {
        MdlAddress,
        SystemBuffer,
        UserBuffer,
        ..
    } = irp.read();
    let target = if !MdlAddress.is_null() {
        mdl::map(MdlAddress)
    } else if SystemBuffer != 0 {
        Ptr::new(from_word(SystemBuffer))
    } else {
        Ptr::new(from_word(UserBuffer))
    };
    target.write_bytes(changes);
    pending::complete(irp, NtStatus::SUCCESS, changes.len() as u64);
}

impl Watch {
    /// Keeps a change until it is asked for.
    fn keep(&mut self, action: u32, name: &[u16]) {
        if self.is_overrun {
            return;
        }
        let start = self.changes.len().next_multiple_of(4);
        if start + HEADER + 2 * name.len() > self.room {
            self.is_overrun = true;
            self.changes.clear();
            return;
        }
        self.changes.resize(start, 0);
        if start != 0 {
            let distance = low32((start - self.last_change) as u64).to_le_bytes();
            self.changes[self.last_change..self.last_change + 4].copy_from_slice(&distance);
        }
        self.last_change = start;
        self.changes.extend(0_u32.to_le_bytes());
        self.changes.extend(action.to_le_bytes());
        self.changes
            .extend(low32(2 * name.len() as u64).to_le_bytes());
        self.changes
            .extend(name.iter().flat_map(|unit| unit.to_le_bytes()));
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        if !self.is_overrun && self.changes.is_empty() {
            return None;
        }
        self.is_overrun = false;
        self.last_change = 0;
        Some(core::mem::take(&mut self.changes))
    }

    /// The name of a target relative to the directory, if it is in there; and whether it is right in it.
    fn relative<'a>(&self, parent: &[u16], target: &'a [u16]) -> Option<(&'a [u16], bool)> {
        let slash = u16::from(b'\\');
        let directory = self
            .directory
            .strip_suffix(&[slash])
            .unwrap_or(&self.directory);
        let parent = parent.strip_suffix(&[slash]).unwrap_or(parent);
        let rest = target.strip_prefix(directory)?.strip_prefix(&[slash])?;
        if parent == directory {
            return Some((rest, true));
        }
        let is_below = parent.strip_prefix(directory)?.first() == Some(&slash);
        (self.is_tree && is_below).then_some((rest, false))
    }
}

/// A watch request.
struct Request {
    list: u64,
    context: u64,
    directory: Vec<u16>,
    is_tree: bool,
    ignores_buffer: bool,
    filter: u32,
    traverse: u64,
    subject: u64,
}

fn watch(request: Request, irp: Ptr<IRP>) {
    let stack = stack_of(irp);
    let file = stack.FileObject;
    if !file.is_null() && file.read().Flags & CLEANUP_COMPLETE != 0 {
        return pending::complete(irp, NtStatus::NOTIFY_CLEANUP, 0);
    }
    let length = low32(from_word(stack.Parameters[0]));
    let (list, context) = (request.list, request.context);
    let known = WATCHES.with(|all| {
        let mut all = all.iter();
        let known = all.find(|(_, watch)| watch.list == list && watch.context == context);
        known.map(|(&number, watch)| (number, watch.entry))
    });
    let (number, entry) = match known {
        Some((number, entry)) => (Some(number), entry),
        None => (None, link(Ptr::new(list), context)),
    };
    let (number, changes) = WATCHES.with(|all| {
        let number = number.unwrap_or_else(|| all.keys().next_back().map_or(0, |last| last + 1));
        let watch = all.entry(number).or_insert_with(|| Watch {
            list,
            entry,
            context,
            directory: request.directory,
            is_tree: request.is_tree,
            filter: request.filter,
            traverse: request.traverse,
            subject: request.subject,
            room: if request.ignores_buffer {
                0
            } else {
                length as usize
            },
            changes: Vec::new(),
            last_change: 0,
            is_overrun: false,
            irps: VecDeque::new(),
        });
        (number, watch.take())
    });
    if let Some(changes) = changes {
        return deliver(irp, &changes);
    }
    WATCHES.with(|all| {
        if let Some(watch) = all.get_mut(&number) {
            watch.irps.push_back(irp);
        }
    });
    pending::set_status(irp, NtStatus::PENDING, 0);
    if !pending::pend(irp) {
        forget_irp(irp);
    }
}

/// Takes a watch's next request.
fn next_irp(number: u64) -> Option<Ptr<IRP>> {
    loop {
        let irp = WATCHES.with(|all| all.get_mut(&number)?.irps.pop_front())?;
        if pending::take(irp) {
            return Some(irp);
        }
    }
}

/// Reports a change to the watches of a list.
fn report(
    list: u64,
    parent: &[u16],
    target: &[u16],
    stream: &[u16],
    change: [u32; 2],
    target_context: u64,
) {
    let [filter, action] = change;
    let watches = WATCHES.with(|all| {
        let mut found = Vec::new();
        for (&number, watch) in all.iter() {
            if watch.list != list || watch.filter & filter == 0 {
                continue;
            }
            if let Some((name, is_direct)) = watch.relative(parent, target) {
                let mut name = name.to_vec();
                if !stream.is_empty() {
                    name.push(u16::from(b':'));
                    name.extend(stream);
                }
                let call = (watch.traverse != 0 && !is_direct).then_some((
                    watch.traverse,
                    [watch.context, target_context, watch.subject],
                ));
                found.push((number, name, call));
            }
        }
        found
    });
    for (number, name, call) in watches {
        if let Some((routine, arguments)) = call
            && shared::call_driver(Entry::Other, routine, &arguments) & 0xFF == 0
        {
            continue;
        }
        WATCHES.with(|all| {
            if let Some(watch) = all.get_mut(&number) {
                watch.keep(action, &name);
            }
        });
        if let Some(irp) = next_irp(number) {
            let changes = WATCHES
                .with(|all| all.get_mut(&number).and_then(Watch::take))
                .unwrap_or_default();
            deliver(irp, &changes);
        }
    }
}

/// Ends the watches of a list, those of one context if there is one.
fn clean_up(list: u64, context: Option<u64>) {
    loop {
        let number = WATCHES.with(|all| {
            let is_meant = |watch: &Watch| {
                watch.list == list && context.is_none_or(|context| watch.context == context)
            };
            all.iter()
                .find(|(_, watch)| is_meant(watch))
                .map(|(&number, _)| number)
        });
        let Some(number) = number else { return };
        while let Some(irp) = next_irp(number) {
            pending::complete(irp, NtStatus::NOTIFY_CLEANUP, 0);
        }
        if let Some(watch) = WATCHES.with(|all| all.remove(&number)) {
            unlink(watch.entry);
        }
    }
}

nt_api! { module = fsrtl_notify;
    /// Allocates what guards lists of watches; raises if there is no memory.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlNotifyInitializeSync(notify_sync: Ptr<Ptr<u8>>) {
        notify_sync.write(Ptr::null());
        let Some(sync) = pool::allocate_zeroed(64, SYNC_TAG) else {
            crate::rtl::raise_status(NtStatus::INSUFFICIENT_RESOURCES);
        };
        notify_sync.write(sync);
    }

    /// Frees what FsRtlNotifyInitializeSync allocated.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlNotifyUninitializeSync(notify_sync: Ptr<Ptr<u8>>) {
        if let Some(sync) = notify_sync.read().non_null() {
            pool::free(sync, u32::from_le_bytes(SYNC_TAG));
            notify_sync.write(Ptr::null());
        }
    }

    /// Lets a request wait for changes of a directory, or completes it if there are some already. The watch is in the
    /// driver's list until its handle is cleaned up; raises if there is no memory for it.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlNotifyFullChangeDirectory(
        notify_sync: Ptr<u8>,
        notify_list: Ptr<LIST_ENTRY>,
        fs_context: Ptr<u8>,
        full_directory_name: Ptr<STRING>,
        watch_tree: Boolean,
        ignore_buffer: Boolean,
        completion_filter: ULong,
        notify_irp: Ptr<IRP>,
        traverse_callback: Ptr<u8>,
        subject_context: Ptr<u8>,
    ) {
        let list = notify_list.addr();
        if notify_irp.is_null() {
            // The directory is being deleted.
            let numbers: Vec<u64> = WATCHES.with(|all| {
                let of_it = |watch: &Watch| watch.list == list && watch.context == fs_context.addr();
                all.iter().filter(|(_, watch)| of_it(watch)).map(|(&number, _)| number).collect()
            });
            for number in numbers {
                while let Some(irp) = next_irp(number) {
                    pending::complete(irp, NtStatus::DELETE_PENDING, 0);
                }
            }
            return;
        }
        let request = Request {
            list,
            context: fs_context.addr(),
            directory: units_of(&bytes_of(full_directory_name)),
            is_tree: watch_tree,
            ignores_buffer: ignore_buffer,
            filter: completion_filter,
            traverse: traverse_callback.addr(),
            subject: subject_context.addr(),
        };
        watch(request, notify_irp);
    }

    /// Reports a change: completes requests of watches that it concerns, or keeps it for the next ones.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlNotifyFullReportChange(
        notify_sync: Ptr<u8>,
        notify_list: Ptr<LIST_ENTRY>,
        full_target_name: Ptr<STRING>,
        target_name_offset: UShort,
        stream_name: Ptr<STRING>,
        normalized_parent_name: Ptr<STRING>,
        filter_match: ULong,
        action: ULong,
        target_context: Ptr<u8>,
    ) {
        let name = bytes_of(full_target_name);
        let target = units_of(&name);
        let unit = if name.get(1) == Some(&0) { 2 } else { 1 };
        let parent = usize::from(target_name_offset) / unit;
        let parent = if normalized_parent_name.is_null() {
            target[..parent.min(target.len())].to_vec()
        } else {
            units_of(&bytes_of(normalized_parent_name))
        };
        let stream = units_of(&bytes_of(stream_name));
        let change = [filter_match, action];
        report(notify_list.addr(), &parent, &target, &stream, change, target_context.addr());
    }

    /// A handle is closed: its watch ends, its requests with STATUS_NOTIFY_CLEANUP.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlNotifyCleanup(notify_sync: Ptr<u8>, notify_list: Ptr<LIST_ENTRY>, fs_context: Ptr<u8>) {
        clean_up(notify_list.addr(), Some(fs_context.addr()));
    }

    /// Ends all watches of a list.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlNotifyCleanupAll(notify_sync: Ptr<u8>, notify_list: Ptr<LIST_ENTRY>) {
        clean_up(notify_list.addr(), None);
    }
}
