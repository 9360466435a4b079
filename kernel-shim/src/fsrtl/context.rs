//! Contexts that filters hang onto streams.

use crate::api::nt_api;
use crate::nt::{LIST_ENTRY, NtStatus};
use crate::raw::{Ptr, Word, from_word};
use crate::shared;
use abi::trace::Entry;

/// FSRTL_ADVANCED_FCB_HEADER.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct FSRTL_ADVANCED_FCB_HEADER {
    NodeTypeCode: i16,
    NodeByteSize: i16,
    Flags: u8,
    IsFastIoPossible: u8,
    Flags2: u8,
    Reserved: u8,
    Resource: Word,
    PagingIoResource: Word,
    AllocationSize: i64,
    FileSize: i64,
    ValidDataLength: i64,
    FastMutex: Word,
    FilterContexts: LIST_ENTRY,
}

/// FSRTL_PER_STREAM_CONTEXT.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct FSRTL_PER_STREAM_CONTEXT {
    Links: LIST_ENTRY,
    OwnerId: Word,
    InstanceId: Word,
    FreeCallback: Word,
}

const _: () = {
    use core::mem::offset_of;
    assert!(
        offset_of!(FSRTL_ADVANCED_FCB_HEADER, FilterContexts)
            == if cfg!(nt_i386) { 0x2C } else { 0x38 }
    );
    assert!(size_of::<FSRTL_PER_STREAM_CONTEXT>() == if cfg!(nt_i386) { 20 } else { 40 });
};

/// FSRTL_FLAG2_SUPPORTS_FILTER_CONTEXTS.
const SUPPORTS_FILTER_CONTEXTS: u8 = 0x02;

fn head_of(header: Ptr<FSRTL_ADVANCED_FCB_HEADER>) -> Option<Ptr<LIST_ENTRY>> {
    let fields = header.non_null()?.read();
    let offset = core::mem::offset_of!(FSRTL_ADVANCED_FCB_HEADER, FilterContexts);
    (fields.Flags2 & SUPPORTS_FILTER_CONTEXTS != 0 && !fields.FilterContexts.Flink.is_null())
        .then(|| header.add_bytes(offset as u64).cast())
}

/// The context of an owner and an instance; a null instance is any, a null owner too.
fn find(
    header: Ptr<FSRTL_ADVANCED_FCB_HEADER>,
    owner: Word,
    instance: Word,
) -> Option<Ptr<FSRTL_PER_STREAM_CONTEXT>> {
    let head = head_of(header)?;
    let mut entry = head.read().Flink;
    while entry != head {
        let context = entry.cast::<FSRTL_PER_STREAM_CONTEXT>();
        let fields = context.read();
        if (owner == 0 || fields.OwnerId == owner)
            && (instance == 0 || fields.InstanceId == instance)
        {
            return Some(context);
        }
        entry = fields.Links.Flink;
    }
    None
}

nt_api! { module = fsrtl_context;
    /// Hangs a context onto a stream: STATUS_INVALID_DEVICE_REQUEST if its file system does not support that.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlInsertPerStreamContext(
        per_stream_context: Ptr<FSRTL_ADVANCED_FCB_HEADER>,
        context: Ptr<FSRTL_PER_STREAM_CONTEXT>,
    ) -> NtStatus {
        let Some(head) = head_of(per_stream_context) else { return NtStatus::INVALID_DEVICE_REQUEST };
        head.list_insert_head(context.cast());
        NtStatus::SUCCESS
    }

    /// The context of an owner and an instance (NULL: any); NULL if there is none.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlLookupPerStreamContextInternal(
        stream_context: Ptr<FSRTL_ADVANCED_FCB_HEADER>,
        owner_id: Ptr<u8>,
        instance_id: Ptr<u8>,
    ) -> Ptr<FSRTL_PER_STREAM_CONTEXT> {
        find(stream_context, owner_id.word(), instance_id.word()).unwrap_or_default()
    }

    /// Takes such a context off the stream; NULL if there is none.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlRemovePerStreamContext(
        stream_context: Ptr<FSRTL_ADVANCED_FCB_HEADER>,
        owner_id: Ptr<u8>,
        instance_id: Ptr<u8>,
    ) -> Ptr<FSRTL_PER_STREAM_CONTEXT> {
        let found = find(stream_context, owner_id.word(), instance_id.word()).unwrap_or_default();
        if !found.is_null() {
            found.cast::<LIST_ENTRY>().list_remove();
        }
        found
    }

    /// Takes all contexts off a stream and frees them by their callbacks.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlTeardownPerStreamContexts(advanced_header: Ptr<FSRTL_ADVANCED_FCB_HEADER>) {
        while let Some(context) = find(advanced_header, 0, 0) {
            context.cast::<LIST_ENTRY>().list_remove();
            let callback = from_word(context.read().FreeCallback);
            shared::call_driver(Entry::Other, callback, &[context.addr()]);
        }
    }
}
