//! Device queues: busy or not, and entries in order of arrival or by key.

use core::mem::offset_of;

use crate::api::nt_api;
use crate::nt::{KDEVICE_QUEUE, KDEVICE_QUEUE_ENTRY};
use crate::raw::{ListHead, Ptr, Word, low16};
use crate::value::{Boolean, ULong};

/// DeviceQueueObject.
const DEVICE_QUEUE_OBJECT: i16 = 20;

type Queue = Ptr<KDEVICE_QUEUE>;
type Entry = Ptr<KDEVICE_QUEUE_ENTRY>;

fn head(queue: Queue) -> ListHead {
    queue
        .add_bytes(offset_of!(KDEVICE_QUEUE, DeviceListHead) as u64)
        .cast()
}

/// Busy is a BOOLEAN; on amd64 the bytes above it are the queue's own.
fn busy(queue: Queue) -> Ptr<u8> {
    queue
        .add_bytes(offset_of!(KDEVICE_QUEUE, Busy) as u64)
        .cast()
}

/// Makes an empty queue that is not busy.
pub fn initialize(queue: Queue) {
    queue.with(|queue| {
        queue.Type = DEVICE_QUEUE_OBJECT;
        queue.Size = low16(size_of::<KDEVICE_QUEUE>() as u64).cast_signed();
        queue.Lock = 0;
        queue.Busy = 0 as Word;
    });
    head(queue).list_initialize();
}

/// Makes the queue busy, or queues the entry: behind all, or with a key behind those whose key is not greater.
/// False: the queue was not busy, and the entry is not queued.
pub fn insert(queue: Queue, entry: Entry, key: Option<u32>) -> bool {
    let was_busy = busy(queue).read() != 0;
    entry.with(|entry| {
        entry.Inserted = u8::from(was_busy);
        if let Some(key) = key {
            entry.SortKey = key;
        }
    });
    if !was_busy {
        busy(queue).write(1);
        return false;
    }
    // Inserting at the tail of a position means in front of the next.
    let mut next = head(queue);
    if let Some(key) = key {
        next = next.read().Flink;
        while next != head(queue) && next.cast::<KDEVICE_QUEUE_ENTRY>().read().SortKey <= key {
            next = next.read().Flink;
        }
    }
    next.list_insert_tail(entry.cast());
    true
}

/// Takes out the first entry, or with a key the first whose key is not less (the first of all if there is none).
/// Null: it is empty, and not busy any more.
pub fn remove(queue: Queue, key: Option<u32>) -> Entry {
    let mut next = head(queue).read().Flink;
    if next == head(queue) {
        busy(queue).write(0);
        return Ptr::null();
    }
    if let Some(key) = key {
        while next != head(queue) && next.cast::<KDEVICE_QUEUE_ENTRY>().read().SortKey < key {
            next = next.read().Flink;
        }
        if next == head(queue) {
            next = next.read().Flink;
        }
    }
    next.list_remove();
    let entry: Entry = next.cast();
    entry.with(|entry| entry.Inserted = 0);
    entry
}

nt_api! { module = ke_device_queue;
    /// Makes a device queue: empty, not busy.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeInitializeDeviceQueue(queue: Ptr<KDEVICE_QUEUE>) {
        initialize(queue);
    }

    /// Queues an entry; FALSE: the queue was not busy and is now, and the entry is not queued.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeInsertDeviceQueue(queue: Ptr<KDEVICE_QUEUE>, entry: Ptr<KDEVICE_QUEUE_ENTRY>) -> Boolean {
        insert(queue, entry, None)
    }

    /// Queues an entry by its key, behind those with the same key.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeInsertByKeyDeviceQueue(
        queue: Ptr<KDEVICE_QUEUE>,
        entry: Ptr<KDEVICE_QUEUE_ENTRY>,
        sort_key: ULong,
    ) -> Boolean {
        insert(queue, entry, Some(sort_key))
    }

    /// Takes out the first entry; NULL: the queue is empty, and not busy any more.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeRemoveDeviceQueue(queue: Ptr<KDEVICE_QUEUE>) -> Ptr<KDEVICE_QUEUE_ENTRY> {
        remove(queue, None)
    }

    /// Takes out the first entry whose key is not less, or else the first.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeRemoveByKeyDeviceQueue(queue: Ptr<KDEVICE_QUEUE>, sort_key: ULong) -> Ptr<KDEVICE_QUEUE_ENTRY> {
        remove(queue, Some(sort_key))
    }

    /// As KeRemoveByKeyDeviceQueue, if the queue is busy; otherwise NULL.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeRemoveByKeyDeviceQueueIfBusy(queue: Ptr<KDEVICE_QUEUE>, sort_key: ULong) -> Ptr<KDEVICE_QUEUE_ENTRY> {
        if busy(queue).read() == 0 { Ptr::null() } else { remove(queue, Some(sort_key)) }
    }

    /// Takes an entry out; FALSE: it was not queued.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeRemoveEntryDeviceQueue(queue: Ptr<KDEVICE_QUEUE>, entry: Ptr<KDEVICE_QUEUE_ENTRY>) -> Boolean {
        let was_inserted = entry.with(|entry| core::mem::replace(&mut entry.Inserted, 0)) != 0;
        if was_inserted {
            entry.cast::<crate::nt::LIST_ENTRY>().list_remove();
        }
        was_inserted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_platform::machine;

    fn queue_of(bytes: &mut [u64; 8]) -> Queue {
        let queue = Ptr::of(&mut bytes[0]).cast();
        initialize(queue);
        queue
    }

    #[test]
    fn entries_come_by_key_and_the_queue_becomes_free() {
        let _machine = machine();
        let (mut memory, mut cells) = ([0; 8], [[0_u64; 4]; 4]);
        let queue = queue_of(&mut memory);
        let [a, b, c, d] = cells.each_mut().map(|cell| Ptr::of(&mut cell[0]).cast());
        assert!(!insert(queue, a, None));
        assert!(
            insert(queue, b, Some(7)) && insert(queue, c, Some(3)) && insert(queue, d, Some(7))
        );
        assert_eq!(remove(queue, Some(4)), b);
        assert_eq!(remove(queue, Some(8)), c, "none is as great: the first");
        assert_eq!(remove(queue, None), d);
        assert!(remove(queue, None).is_null());
        assert_eq!(busy(queue).read(), 0);
        assert!(KeRemoveByKeyDeviceQueueIfBusy(queue, 0).is_null());
    }
}
