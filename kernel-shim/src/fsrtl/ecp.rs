//! Extra create parameters: blocks that travel with an IRP_MJ_CREATE in a list.

use alloc::collections::BTreeMap;

use crate::api::nt_api;
use crate::ex::pool;
use crate::nt::{GUID, IRP, LIST_ENTRY, NtStatus};
use crate::raw::{Global, Ptr, Word, from_word};
use crate::shared;
use crate::value::{Boolean, Tag, ULong};
use abi::trace::Entry;

/// ECP_LIST, opaque to drivers.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ECP_LIST {
    Signature: u32,
    Flags: u32,
    EcpList: LIST_ENTRY,
}

/// ECP_HEADER, in front of a parameter's context.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(16))]
struct ECP_HEADER {
    Links: LIST_ENTRY,
    EcpType: GUID,
    CleanupCallback: Word,
    Size: u32,
    Tag: u32,
    Flags: u32,
    List: Word,
}

const LIST_TAG: [u8; 4] = *b"FSel";
const LIST_SIGNATURE: u32 = u32::from_le_bytes(*b"EcpL");
/// ECP_HEADER.Flags: a driver has taken notice of it.
const ACKNOWLEDGED: u32 = 1;

/// IRPs' lists, and whether they are freed with the IRP.
static LISTS: Global<BTreeMap<u64, (u64, bool)>> =
    Global::new("IRPs' extra parameters", BTreeMap::new());

pub(super) fn initialize() {
    LISTS.with(BTreeMap::clear);
}

fn header_of(context: Ptr<u8>) -> Ptr<ECP_HEADER> {
    context.cast::<ECP_HEADER>().offset(-1)
}

fn context_of(header: Ptr<ECP_HEADER>) -> Ptr<u8> {
    header.offset(1).cast()
}

fn head_of(list: Ptr<ECP_LIST>) -> Ptr<LIST_ENTRY> {
    list.add_bytes(core::mem::offset_of!(ECP_LIST, EcpList) as u64)
        .cast()
}

fn next(list: Ptr<ECP_LIST>, current: Ptr<u8>) -> Option<Ptr<ECP_HEADER>> {
    let from = if current.is_null() {
        head_of(list)
    } else {
        header_of(current).cast()
    };
    let next = from.read().Flink;
    (next != head_of(list)).then(|| next.cast())
}

fn find(list: Ptr<ECP_LIST>, kind: GUID) -> Option<Ptr<ECP_HEADER>> {
    let mut current = Ptr::null();
    while let Some(header) = next(list, current) {
        if same(header.read().EcpType, kind) {
            return Some(header);
        }
        current = context_of(header);
    }
    None
}

fn same(left: GUID, right: GUID) -> bool {
    let bytes = |mut guid: GUID| {
        let mut bytes = [0_u8; 16];
        Ptr::of(&mut guid).cast::<u8>().read_bytes(&mut bytes);
        bytes
    };
    bytes(left) == bytes(right)
}

/// Hands a found parameter out.
fn give(header: Option<Ptr<ECP_HEADER>>, context: Ptr<Ptr<u8>>, size: Ptr<u32>) -> NtStatus {
    if !context.is_null() {
        context.write(header.map_or(Ptr::null(), context_of));
    }
    if !size.is_null() {
        size.write(header.map_or(0, |header| header.read().Size));
    }
    if header.is_some() {
        NtStatus::SUCCESS
    } else {
        NtStatus::NOT_FOUND
    }
}

fn free(context: Ptr<u8>) {
    let header = header_of(context);
    let ECP_HEADER {
        CleanupCallback: callback,
        Tag: tag,
        ..
    } = header.read();
    if callback != 0 {
        let kind = header.add_bytes(core::mem::offset_of!(ECP_HEADER, EcpType) as u64);
        let arguments = [context.addr(), kind.addr()];
        shared::call_driver(Entry::Other, from_word(callback), &arguments);
    }
    pool::free(header.cast(), tag);
}

nt_api! { module = fsrtl_ecp;
    /// Allocates an empty list of extra create parameters.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlAllocateExtraCreateParameterList(flags: ULong, ecp_list: Ptr<Ptr<ECP_LIST>>) -> NtStatus {
        ecp_list.write(Ptr::null());
        let Some(list) = pool::allocate_zeroed(size_of::<ECP_LIST>() as u64, LIST_TAG) else {
            return NtStatus::INSUFFICIENT_RESOURCES;
        };
        let list = list.cast::<ECP_LIST>();
        list.with(|list| {
            list.Signature = LIST_SIGNATURE;
            list.Flags = flags;
        });
        head_of(list).list_initialize();
        ecp_list.write(list);
        NtStatus::SUCCESS
    }

    /// Frees a list and what is in it.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlFreeExtraCreateParameterList(ecp_list: Ptr<ECP_LIST>) {
        while let Some(entry) = head_of(ecp_list).list_pop() {
            free(context_of(entry.cast()));
        }
        pool::free(ecp_list.cast(), u32::from_le_bytes(LIST_TAG));
    }

    /// Allocates a parameter's context, zeroed. The callback is called with it and its type when it is freed.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlAllocateExtraCreateParameter(
        ecp_type: Ptr<GUID>,
        size_of_context: ULong,
        flags: ULong,
        cleanup_callback: Ptr<u8>,
        pool_tag: Tag,
        ecp_context: Ptr<Ptr<u8>>,
    ) -> NtStatus {
        ecp_context.write(Ptr::null());
        let bytes = size_of::<ECP_HEADER>() as u64 + u64::from(size_of_context);
        let Some(block) = pool::allocate_zeroed(bytes, pool_tag.0.to_le_bytes()) else {
            return NtStatus::INSUFFICIENT_RESOURCES;
        };
        let header = block.cast::<ECP_HEADER>();
        header.cast::<LIST_ENTRY>().list_initialize();
        let kind = ecp_type.read();
        header.with(|header| {
            header.EcpType = kind;
            header.CleanupCallback = cleanup_callback.word();
            header.Size = size_of_context;
            header.Tag = pool_tag.0;
        });
        ecp_context.write(context_of(header));
        NtStatus::SUCCESS
    }

    /// Frees a parameter's context that is in no list.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlFreeExtraCreateParameter(ecp_context: Ptr<u8>) {
        free(ecp_context);
    }

    /// Puts a parameter into a list: STATUS_INVALID_PARAMETER if one of its type is there, or it is in a list already.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlInsertExtraCreateParameter(ecp_list: Ptr<ECP_LIST>, ecp_context: Ptr<u8>) -> NtStatus {
        let header = header_of(ecp_context);
        let ECP_HEADER { EcpType: kind, List: list, .. } = header.read();
        if list != 0 || find(ecp_list, kind).is_some() {
            return NtStatus::INVALID_PARAMETER;
        }
        head_of(ecp_list).list_insert_tail(header.cast());
        header.with(|header| header.List = ecp_list.word());
        NtStatus::SUCCESS
    }

    /// The parameter of a type: STATUS_NOT_FOUND if there is none.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlFindExtraCreateParameter(
        ecp_list: Ptr<ECP_LIST>,
        ecp_type: Ptr<GUID>,
        ecp_context: Ptr<Ptr<u8>>,
        ecp_context_size: Ptr<u32>,
    ) -> NtStatus {
        give(find(ecp_list, ecp_type.read()), ecp_context, ecp_context_size)
    }

    /// Takes the parameter of a type out of a list: STATUS_NOT_FOUND if there is none.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlRemoveExtraCreateParameter(
        ecp_list: Ptr<ECP_LIST>,
        ecp_type: Ptr<GUID>,
        ecp_context: Ptr<Ptr<u8>>,
        ecp_context_size: Ptr<u32>,
    ) -> NtStatus {
        let found = find(ecp_list, ecp_type.read());
        if let Some(header) = found {
            header.cast::<LIST_ENTRY>().list_remove();
            header.cast::<LIST_ENTRY>().list_initialize();
            header.with(|header| header.List = 0);
        }
        give(found, ecp_context, ecp_context_size)
    }

    /// The parameter after one, or the first after NULL: STATUS_NOT_FOUND at the end.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlGetNextExtraCreateParameter(
        ecp_list: Ptr<ECP_LIST>,
        current_ecp_context: Ptr<u8>,
        next_ecp_type: Ptr<GUID>,
        next_ecp_context: Ptr<Ptr<u8>>,
        next_ecp_context_size: Ptr<u32>,
    ) -> NtStatus {
        let found = next(ecp_list, current_ecp_context);
        if let (Some(header), false) = (found, next_ecp_type.is_null()) {
            next_ecp_type.write(header.read().EcpType);
        }
        give(found, next_ecp_context, next_ecp_context_size)
    }

    /// Notes that a driver has used a parameter.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlAcknowledgeEcp(ecp_context: Ptr<u8>) {
        header_of(ecp_context).with(|header| header.Flags |= ACKNOWLEDGED);
    }

    /// Whether a driver has used a parameter.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlIsEcpAcknowledged(ecp_context: Ptr<u8>) -> Boolean {
        header_of(ecp_context).read().Flags & ACKNOWLEDGED != 0
    }

    /// Whether a parameter came from a client; clients here send none.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlIsEcpFromUserMode(ecp_context: Ptr<u8>) -> Boolean {
        false
    }

    /// A create request's list, or NULL.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlGetEcpListFromIrp(irp: Ptr<IRP>, ecp_list: Ptr<Ptr<ECP_LIST>>) -> NtStatus {
        ecp_list.write(Ptr::new(LISTS.with(|lists| lists.get(&irp.addr()).map_or(0, |&(list, _)| list))));
        NtStatus::SUCCESS
    }

    /// Gives a create request a list, which is freed with it: STATUS_INVALID_PARAMETER if it has one.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn FsRtlSetEcpListIntoIrp(irp: Ptr<IRP>, ecp_list: Ptr<ECP_LIST>) -> NtStatus {
        LISTS.with(|lists| {
            if ecp_list.is_null() {
                lists.remove(&irp.addr());
                return NtStatus::SUCCESS;
            }
            if lists.contains_key(&irp.addr()) {
                return NtStatus::INVALID_PARAMETER;
            }
            lists.insert(irp.addr(), (ecp_list.addr(), true));
            NtStatus::SUCCESS
        })
    }
}

/// A create request has a list of its caller's (IoCreateFileEx), who frees it.
pub(crate) fn lend(irp: Ptr<IRP>, list: Ptr<ECP_LIST>) {
    LISTS.with(|lists| lists.insert(irp.addr(), (list.addr(), false)));
}

/// An IRP is freed, and with it the list that it was given.
pub(crate) fn forget_irp(irp: Ptr<IRP>) {
    if let Some((list, true)) = LISTS.with(|lists| lists.remove(&irp.addr())) {
        FsRtlFreeExtraCreateParameterList(Ptr::new(list));
    }
}

/// The context of a type in the list of a create request, and its bytes; `None`: there is none.
pub(super) fn of_irp(irp: Ptr<IRP>, kind: GUID) -> Option<(Ptr<u8>, u32)> {
    let (list, _) = LISTS.with(|lists| lists.get(&irp.addr()).copied())?;
    let header = find(Ptr::new(list), kind)?;
    Some((context_of(header), header.read().Size))
}
