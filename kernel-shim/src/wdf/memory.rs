//! WDFMEMORY and WDFLOOKASIDE.

use super::object::{self, Body, Parent};
use super::object_api::give;
use super::{WDF_OBJECT_ATTRIBUTES, Wdf, loader};
use crate::api::nt_api;
use crate::ex::pool;
use crate::nt::{MDL, NtStatus};
use crate::raw::{Ptr, Word, from_word, to_word};
use crate::value::{Size, Tag, ULong};

/// What a memory object is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    buffer: Ptr<u8>,
    bytes: u64,
    /// The framework's to free.
    is_own: bool,
    /// WdfMemoryAssignBuffer may change it.
    is_preallocated: bool,
    /// Describes locked pages of a client's; null: none.
    mdl: Ptr<MDL>,
}

impl Memory {
    /// Memory of somebody else's.
    pub(crate) fn of_driver(address: u64, bytes: u64) -> Self {
        Self {
            buffer: Ptr::new(address),
            bytes,
            is_own: false,
            is_preallocated: false,
            mdl: Ptr::null(),
        }
    }

    /// Locked pages of a client's.
    pub(crate) fn of_client(address: u64, bytes: u64, mdl: Ptr<MDL>) -> Self {
        Self {
            mdl,
            ..Self::of_driver(address, bytes)
        }
    }

    /// Frees what is the framework's.
    pub(crate) fn release(self) {
        if self.is_own {
            pool::free(self.buffer, 0);
        }
        if !self.mdl.is_null() {
            crate::mm::mdl::MmUnlockPages(self.mdl);
            crate::io::mdl::free(self.mdl);
        }
    }
}

/// What a lookaside list is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lookaside {
    bytes: u64,
    tag: u32,
    pool_type: u32,
    attributes: WDF_OBJECT_ATTRIBUTES,
    driver: u64,
}

pub(crate) fn create(
    attributes: Ptr<WDF_OBJECT_ATTRIBUTES>,
    driver: u64,
    pool_type: u32,
    tag: u32,
    bytes: u64,
) -> Result<u64, NtStatus> {
    if bytes == 0 {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    object::attributes(attributes)?;
    let buffer = pool::allocate_wanted(&pool::Wanted {
        bytes,
        tag: if tag == 0 {
            u32::from_le_bytes(*b"FxDr")
        } else {
            tag
        },
        owner: object::driver_object(driver).addr(),
        is_paged: pool_type & 1 != 0,
        is_page_aligned: false,
    });
    if buffer.is_null() {
        return Err(NtStatus::INSUFFICIENT_RESOURCES);
    }
    let memory = Memory {
        buffer,
        bytes,
        is_own: true,
        is_preallocated: false,
        mdl: Ptr::null(),
    };
    let made = object::create(attributes, Parent::Default(driver), Body::Memory(memory));
    if made.is_err() {
        memory.release();
    }
    made
}

fn inside(memory: &Memory, offset: u64, bytes: u64) -> Result<Ptr<u8>, NtStatus> {
    let end = offset.checked_add(bytes);
    if end.is_none_or(|end| end > memory.bytes) {
        return Err(NtStatus::BUFFER_TOO_SMALL);
    }
    Ok(memory.buffer.add_bytes(offset))
}

/// The bytes that a WDFMEMORY_OFFSET (NULL: all) of a memory object means.
pub(crate) fn part(handle: u64, part: Ptr<[Word; 2]>) -> Result<(Ptr<u8>, usize), NtStatus> {
    let memory = object::memory(handle, |memory| *memory);
    let [offset, bytes] = part
        .non_null()
        .map_or([0, memory.bytes], |part| part.read().map(from_word));
    let from = inside(&memory, offset, bytes)?;
    Ok((from, crate::raw::to_usize(bytes)))
}

nt_api! { module = wdf_memory;
    /// WdfMemoryCreate: memory of a pool, which goes with the object.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfMemoryCreate(
        globals: Wdf,
        attributes: Ptr<WDF_OBJECT_ATTRIBUTES>,
        pool_type: ULong,
        tag: Tag,
        bytes: Size,
        result: Ptr<Word>,
        buffer: Ptr<Word>,
    ) -> NtStatus {
        object::required(result, "Memory");
        let made = create(attributes, loader::driver_of(globals.0), pool_type, tag.0, bytes.0);
        if let (Ok(handle), false) = (made, buffer.is_null()) {
            buffer.write(object::memory(handle, |memory| memory.buffer.word()));
        }
        give(made, result)
    }

    /// WdfMemoryCreatePreallocated: for memory of the driver's own.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfMemoryCreatePreallocated(
        globals: Wdf,
        attributes: Ptr<WDF_OBJECT_ATTRIBUTES>,
        buffer: Ptr<u8>,
        bytes: Size,
        result: Ptr<Word>,
    ) -> NtStatus {
        object::required(buffer, "Buffer");
        object::required(result, "Memory");
        if bytes.0 == 0 {
            return NtStatus::INVALID_PARAMETER;
        }
        let memory = Memory { is_preallocated: true, ..Memory::of_driver(buffer.addr(), bytes.0) };
        give(object::create(attributes, Parent::Default(loader::driver_of(globals.0)), Body::Memory(memory)), result)
    }

    /// WdfMemoryGetBuffer: its address and bytes.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfMemoryGetBuffer(globals: Wdf, handle: Wdf, bytes: Ptr<Word>) -> Ptr<u8> {
        let memory = object::memory(handle.0, |memory| *memory);
        if !bytes.is_null() {
            bytes.write(to_word(memory.bytes));
        }
        memory.buffer
    }

    /// WdfMemoryAssignBuffer: other memory for an object of WdfMemoryCreatePreallocated.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfMemoryAssignBuffer(globals: Wdf, handle: Wdf, buffer: Ptr<u8>, bytes: Size) -> NtStatus {
        object::required(buffer, "Buffer");
        if bytes.0 == 0 {
            return NtStatus::INVALID_PARAMETER;
        }
        object::memory(handle.0, |memory| {
            if !memory.is_preallocated {
                return NtStatus::INVALID_DEVICE_REQUEST;
            }
            memory.buffer = buffer;
            memory.bytes = bytes.0;
            NtStatus::SUCCESS
        })
    }

    /// WdfMemoryCopyToBuffer: STATUS_BUFFER_TOO_SMALL: the object has fewer bytes behind the offset.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfMemoryCopyToBuffer(globals: Wdf, handle: Wdf, offset: Size, buffer: Ptr<u8>, bytes: Size) -> NtStatus {
        object::required(buffer, "Buffer");
        if bytes.0 == 0 {
            return NtStatus::INVALID_PARAMETER;
        }
        match inside(&object::memory(handle.0, |memory| *memory), offset.0, bytes.0) {
            Ok(from) => {
                buffer.copy_from(from, bytes.0);
                NtStatus::SUCCESS
            }
            Err(status) => status,
        }
    }

    /// WdfMemoryCopyFromBuffer: STATUS_BUFFER_TOO_SMALL: the object has fewer bytes behind the offset.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfMemoryCopyFromBuffer(globals: Wdf, handle: Wdf, offset: Size, buffer: Ptr<u8>, bytes: Size) -> NtStatus {
        object::required(buffer, "Buffer");
        if bytes.0 == 0 {
            return NtStatus::INVALID_PARAMETER;
        }
        match inside(&object::memory(handle.0, |memory| *memory), offset.0, bytes.0) {
            Ok(to) => {
                to.copy_from(buffer, bytes.0);
                NtStatus::SUCCESS
            }
            Err(status) => status,
        }
    }

    /// WdfLookasideListCreate: makes memory objects of one size. Nothing is kept for reuse.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfLookasideListCreate(
        globals: Wdf,
        attributes: Ptr<WDF_OBJECT_ATTRIBUTES>,
        bytes: Size,
        pool_type: ULong,
        memory_attributes: Ptr<WDF_OBJECT_ATTRIBUTES>,
        tag: Tag,
        result: Ptr<Word>,
    ) -> NtStatus {
        object::required(result, "Lookaside");
        if bytes.0 == 0 {
            return NtStatus::INVALID_PARAMETER;
        }
        let driver = loader::driver_of(globals.0);
        let made = object::attributes(memory_attributes).and_then(|own| {
            let body = Lookaside { bytes: bytes.0, tag: tag.0, pool_type, attributes: own, driver };
            object::create(attributes, Parent::Default(driver), Body::Lookaside(body))
        });
        give(made, result)
    }

    /// WdfMemoryCreateFromLookaside: a memory object of a lookaside list.
    wdf both stdcall irql(DISPATCH_LEVEL) implemented
    fn WdfMemoryCreateFromLookaside(globals: Wdf, lookaside: Wdf, result: Ptr<Word>) -> NtStatus {
        let mut list = object::lookaside(lookaside.0, |list| *list);
        let own = if list.attributes.Size == 0 { Ptr::null() } else { Ptr::of(&mut list.attributes) };
        give(create(own, list.driver, list.pool_type, list.tag, list.bytes), result)
    }
}
