//! The I/O manager's structures.

use core::mem::offset_of;

use super::{KDEVICE_QUEUE, KDPC, KEVENT, LIST_ENTRY, UNICODE_STRING};
use crate::raw::{Ptr, Word};

/// Number of major functions (IRP_MJ_MAXIMUM_FUNCTION + 1).
pub const MAJOR_FUNCTIONS: usize = 28;
/// IO_TYPE_DEVICE.
pub const IO_TYPE_DEVICE: i16 = 3;
/// IO_TYPE_DRIVER.
pub const IO_TYPE_DRIVER: i16 = 4;
/// IO_TYPE_FILE.
pub const IO_TYPE_FILE: i16 = 5;
/// IO_TYPE_IRP.
pub const IO_TYPE_IRP: i16 = 6;

/// IRP_MJ_CREATE.
pub const IRP_MJ_CREATE: u8 = 0x00;
/// IRP_MJ_CLOSE.
pub const IRP_MJ_CLOSE: u8 = 0x02;
/// IRP_MJ_READ.
pub const IRP_MJ_READ: u8 = 0x03;
/// IRP_MJ_WRITE.
pub const IRP_MJ_WRITE: u8 = 0x04;
/// IRP_MJ_DEVICE_CONTROL.
pub const IRP_MJ_DEVICE_CONTROL: u8 = 0x0E;
/// IRP_MJ_CLEANUP.
pub const IRP_MJ_CLEANUP: u8 = 0x12;

/// The name of a major function; `None` beyond IRP_MJ_MAXIMUM_FUNCTION.
#[must_use]
pub fn major_function_name(code: u8) -> Option<&'static str> {
    const NAMES: [&str; MAJOR_FUNCTIONS] = [
        "IRP_MJ_CREATE",
        "IRP_MJ_CREATE_NAMED_PIPE",
        "IRP_MJ_CLOSE",
        "IRP_MJ_READ",
        "IRP_MJ_WRITE",
        "IRP_MJ_QUERY_INFORMATION",
        "IRP_MJ_SET_INFORMATION",
        "IRP_MJ_QUERY_EA",
        "IRP_MJ_SET_EA",
        "IRP_MJ_FLUSH_BUFFERS",
        "IRP_MJ_QUERY_VOLUME_INFORMATION",
        "IRP_MJ_SET_VOLUME_INFORMATION",
        "IRP_MJ_DIRECTORY_CONTROL",
        "IRP_MJ_FILE_SYSTEM_CONTROL",
        "IRP_MJ_DEVICE_CONTROL",
        "IRP_MJ_INTERNAL_DEVICE_CONTROL",
        "IRP_MJ_SHUTDOWN",
        "IRP_MJ_LOCK_CONTROL",
        "IRP_MJ_CLEANUP",
        "IRP_MJ_CREATE_MAILSLOT",
        "IRP_MJ_QUERY_SECURITY",
        "IRP_MJ_SET_SECURITY",
        "IRP_MJ_POWER",
        "IRP_MJ_SYSTEM_CONTROL",
        "IRP_MJ_DEVICE_CHANGE",
        "IRP_MJ_QUERY_QUOTA",
        "IRP_MJ_SET_QUOTA",
        "IRP_MJ_PNP",
    ];
    NAMES.get(usize::from(code)).copied()
}

/// How a control code's buffers travel (its low two bits).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// METHOD_BUFFERED.
    Buffered,
    /// METHOD_IN_DIRECT.
    InDirect,
    /// METHOD_OUT_DIRECT.
    OutDirect,
    /// METHOD_NEITHER.
    Neither,
}

/// An I/O control code taken apart (CTL_CODE).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControlCode {
    /// Device type (FILE_DEVICE_...), 16 bits.
    pub device_type: u16,
    /// Access wanted: 1 read, 2 write.
    pub access: u8,
    /// Function, 12 bits.
    pub function: u16,
    /// Transfer method.
    pub method: Method,
}

impl ControlCode {
    /// Takes `code` apart.
    #[must_use]
    pub const fn new(code: u32) -> Self {
        use crate::raw::{low8, low16};
        Self {
            device_type: low16((code >> 16) as u64),
            access: low8(((code >> 14) & 3) as u64),
            function: low16(((code >> 2) & 0xFFF) as u64),
            method: match code & 3 {
                0 => Method::Buffered,
                1 => Method::InDirect,
                2 => Method::OutDirect,
                _ => Method::Neither,
            },
        }
    }
}

/// DEVICE_OBJECT.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[cfg_attr(not(nt_i386), repr(align(16)))]
pub struct DEVICE_OBJECT {
    /// [`IO_TYPE_DEVICE`].
    pub Type: i16,
    /// Bytes of this structure and the device extension.
    pub Size: u16,
    /// Open handles.
    pub ReferenceCount: i32,
    /// Its driver.
    pub DriverObject: Ptr<DRIVER_OBJECT>,
    /// Next device of the driver.
    pub NextDevice: Ptr<DEVICE_OBJECT>,
    /// Device attached on top.
    pub AttachedDevice: Ptr<DEVICE_OBJECT>,
    /// IRP that StartIo works on.
    pub CurrentIrp: Ptr<IRP>,
    /// Timer.
    pub Timer: Word,
    /// DO_ flags.
    pub Flags: u32,
    /// FILE_ characteristics.
    pub Characteristics: u32,
    /// Volume parameter block.
    pub Vpb: Word,
    /// The driver's own data.
    pub DeviceExtension: Word,
    /// FILE_DEVICE_ type.
    pub DeviceType: u32,
    /// Stack locations that an IRP for this device needs.
    pub StackSize: i8,
    /// Queue (WAIT_CONTEXT_BLOCK).
    pub Queue: [Word; if cfg!(nt_i386) { 10 } else { 9 }],
    /// FILE_..._ALIGNMENT.
    pub AlignmentRequirement: u32,
    /// Queue of IRPs for StartIo.
    pub DeviceQueue: KDEVICE_QUEUE,
    /// DPC for the interrupt service routine.
    pub Dpc: KDPC,
    /// File systems only.
    pub ActiveThreadCount: u32,
    /// Security.
    pub SecurityDescriptor: Word,
    /// Lock.
    pub DeviceLock: KEVENT,
    /// Bytes of a sector.
    pub SectorSize: u16,
    /// Spare.
    pub Spare1: u16,
    /// DEVOBJ_EXTENSION.
    pub DeviceObjectExtension: Word,
    /// Reserved.
    pub Reserved: Word,
}

/// DO_BUFFERED_IO.
pub const DO_BUFFERED_IO: u32 = 0x04;
/// DO_EXCLUSIVE.
pub const DO_EXCLUSIVE: u32 = 0x08;
/// DO_DIRECT_IO.
pub const DO_DIRECT_IO: u32 = 0x10;
/// DO_DEVICE_HAS_NAME.
pub const DO_DEVICE_HAS_NAME: u32 = 0x40;
/// DO_DEVICE_INITIALIZING.
pub const DO_DEVICE_INITIALIZING: u32 = 0x80;

/// DRIVER_OBJECT.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DRIVER_OBJECT {
    /// [`IO_TYPE_DRIVER`].
    pub Type: i16,
    /// Bytes.
    pub Size: i16,
    /// First device.
    pub DeviceObject: Ptr<DEVICE_OBJECT>,
    /// DRVO_ flags.
    pub Flags: u32,
    /// Image base.
    pub DriverStart: Word,
    /// Image bytes.
    pub DriverSize: u32,
    /// Loader data.
    pub DriverSection: Word,
    /// Extension.
    pub DriverExtension: Ptr<DRIVER_EXTENSION>,
    /// `\Driver\NAME`.
    pub DriverName: UNICODE_STRING,
    /// `\Registry\Machine\Hardware\Description\System`.
    pub HardwareDatabase: Ptr<UNICODE_STRING>,
    /// Fast I/O routines.
    pub FastIoDispatch: Word,
    /// DriverEntry.
    pub DriverInit: Word,
    /// StartIo.
    pub DriverStartIo: Word,
    /// DriverUnload.
    pub DriverUnload: Word,
    /// Dispatch routines.
    pub MajorFunction: [Word; MAJOR_FUNCTIONS],
}

/// DRIVER_EXTENSION.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DRIVER_EXTENSION {
    /// Back pointer.
    pub DriverObject: Ptr<DRIVER_OBJECT>,
    /// AddDevice.
    pub AddDevice: Word,
    /// Reinitialization count.
    pub Count: u32,
    /// The service's name.
    pub ServiceKeyName: UNICODE_STRING,
}

/// FILE_OBJECT.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct FILE_OBJECT {
    /// [`IO_TYPE_FILE`].
    pub Type: i16,
    /// Bytes.
    pub Size: i16,
    /// Device that was opened.
    pub DeviceObject: Ptr<DEVICE_OBJECT>,
    /// Volume parameter block.
    pub Vpb: Word,
    /// The driver's.
    pub FsContext: Word,
    /// The driver's.
    pub FsContext2: Word,
    /// Cache manager.
    pub SectionObjectPointer: Word,
    /// Cache manager.
    pub PrivateCacheMap: Word,
    /// Last status.
    pub FinalStatus: i32,
    /// File that the name is relative to.
    pub RelatedFileObject: Ptr<FILE_OBJECT>,
    /// Locks were used.
    pub LockOperation: u8,
    /// Delete on close.
    pub DeletePending: u8,
    /// Opened for reading.
    pub ReadAccess: u8,
    /// Opened for writing.
    pub WriteAccess: u8,
    /// Opened for deleting.
    pub DeleteAccess: u8,
    /// Shared.
    pub SharedRead: u8,
    /// Shared.
    pub SharedWrite: u8,
    /// Shared.
    pub SharedDelete: u8,
    /// FO_ flags.
    pub Flags: u32,
    /// The name behind the device's.
    pub FileName: UNICODE_STRING,
    /// Position.
    pub CurrentByteOffset: i64,
    /// Waiters.
    pub Waiters: u32,
    /// Busy.
    pub Busy: u32,
    /// Last lock.
    pub LastLock: Word,
    /// Lock of synchronous files.
    pub Lock: KEVENT,
    /// Signalled when an operation is done.
    pub Event: KEVENT,
    /// Completion port.
    pub CompletionContext: Word,
    /// Spin lock.
    pub IrpListLock: Word,
    /// IRPs.
    pub IrpList: LIST_ENTRY,
    /// Extension.
    pub FileObjectExtension: Word,
}

/// IO_STATUS_BLOCK.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct IO_STATUS_BLOCK {
    /// NTSTATUS in the low 4 bytes.
    pub Status: Word,
    /// Usually bytes transferred.
    pub Information: Word,
}

/// IRP. Its stack locations follow.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct IRP {
    /// [`IO_TYPE_IRP`].
    pub Type: i16,
    /// Bytes with stack locations.
    pub Size: u16,
    /// Buffer of direct I/O.
    pub MdlAddress: Ptr<MDL>,
    /// IRP_ flags.
    pub Flags: u32,
    /// AssociatedIrp.SystemBuffer.
    pub SystemBuffer: Word,
    /// Links of the thread's IRPs.
    pub ThreadListEntry: LIST_ENTRY,
    /// What the driver reports.
    pub IoStatus: IO_STATUS_BLOCK,
    /// KernelMode 0, UserMode 1.
    pub RequestorMode: i8,
    /// A driver marked it pending.
    pub PendingReturned: u8,
    /// Stack locations.
    pub StackCount: i8,
    /// Number of the current one, counted from 1.
    pub CurrentLocation: i8,
    /// To be cancelled.
    pub Cancel: u8,
    /// IRQL to return to when the cancel spin lock is released.
    pub CancelIrql: u8,
    /// APC environment.
    pub ApcEnvironment: i8,
    /// Allocation flags.
    pub AllocationFlags: u8,
    /// Where the status goes.
    pub UserIosb: Ptr<IO_STATUS_BLOCK>,
    /// Event to signal.
    pub UserEvent: Ptr<KEVENT>,
    /// Overlay.
    pub Overlay: [Word; 2],
    /// Cancel routine.
    pub CancelRoutine: Word,
    /// Output buffer of METHOD_NEITHER and METHOD_BUFFERED requests.
    pub UserBuffer: Word,
    /// Tail.Overlay.DriverContext.
    pub DriverContext: [Word; 4],
    /// Tail.Overlay.Thread.
    pub Thread: Word,
    /// Tail.Overlay.AuxiliaryBuffer.
    pub AuxiliaryBuffer: Word,
    /// Tail.Overlay.ListEntry: the driver's while it owns the IRP.
    pub ListEntry: LIST_ENTRY,
    /// Tail.Overlay.CurrentStackLocation.
    pub CurrentStackLocation: Ptr<IO_STACK_LOCATION>,
    /// Tail.Overlay.OriginalFileObject.
    pub OriginalFileObject: Ptr<FILE_OBJECT>,
    /// Rest of Tail.
    pub Rest: [Word; if cfg!(nt_i386) { 2 } else { 1 }],
}

/// IO_STACK_LOCATION.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct IO_STACK_LOCATION {
    /// IRP_MJ_ code.
    pub MajorFunction: u8,
    /// IRP_MN_ code.
    pub MinorFunction: u8,
    /// SL_ flags.
    pub Flags: u8,
    /// SL_ control flags.
    pub Control: u8,
    /// Four pointer-sized words. Read and Write: Length, Key, ByteOffset (two words on i386).
    /// DeviceIoControl: OutputBufferLength, InputBufferLength, IoControlCode, Type3InputBuffer.
    /// Create: SecurityContext, Options, FileAttributes and ShareAccess, EaLength.
    pub Parameters: [Word; 4],
    /// Target device.
    pub DeviceObject: Ptr<DEVICE_OBJECT>,
    /// File.
    pub FileObject: Ptr<FILE_OBJECT>,
    /// Completion routine of the driver above.
    pub CompletionRoutine: Word,
    /// Its context.
    pub Context: Word,
}

/// SL_PENDING_RETURNED.
pub const SL_PENDING_RETURNED: u8 = 0x01;
/// SL_INVOKE_ON_CANCEL.
pub const SL_INVOKE_ON_CANCEL: u8 = 0x20;
/// SL_INVOKE_ON_SUCCESS.
pub const SL_INVOKE_ON_SUCCESS: u8 = 0x40;
/// SL_INVOKE_ON_ERROR.
pub const SL_INVOKE_ON_ERROR: u8 = 0x80;

/// MDL. The page frame numbers follow.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct MDL {
    /// Next of a chain.
    pub Next: Ptr<MDL>,
    /// Bytes with page frame numbers.
    pub Size: i16,
    /// MDL_ flags.
    pub MdlFlags: i16,
    /// Owner.
    pub Process: Word,
    /// Address in kernel space, when mapped.
    pub MappedSystemVa: Word,
    /// Page of the buffer's first byte.
    pub StartVa: Word,
    /// Bytes of the buffer.
    pub ByteCount: u32,
    /// Offset of its first byte in its page.
    pub ByteOffset: u32,
}

/// MDL_MAPPED_TO_SYSTEM_VA.
pub const MDL_MAPPED_TO_SYSTEM_VA: i16 = 0x0001;
/// MDL_PAGES_LOCKED.
pub const MDL_PAGES_LOCKED: i16 = 0x0002;
/// MDL_SOURCE_IS_NONPAGED_POOL.
pub const MDL_SOURCE_IS_NONPAGED_POOL: i16 = 0x0004;
/// MDL_PARTIAL.
pub const MDL_PARTIAL: i16 = 0x0010;
/// MDL_PARTIAL_HAS_BEEN_MAPPED.
pub const MDL_PARTIAL_HAS_BEEN_MAPPED: i16 = 0x0020;
/// MDL_WRITE_OPERATION.
pub const MDL_WRITE_OPERATION: i16 = 0x0080;
/// MDL_MAPPING_CAN_FAIL.
pub const MDL_MAPPING_CAN_FAIL: i16 = 0x2000;

const fn per_abi(i386: usize, amd64: usize) -> usize {
    if cfg!(nt_i386) { i386 } else { amd64 }
}

const _: () = {
    assert!(size_of::<IRP>() == per_abi(0x70, 0xD0));
    assert!(offset_of!(IRP, IoStatus) == per_abi(0x18, 0x30));
    assert!(offset_of!(IRP, CancelRoutine) == per_abi(0x38, 0x68));
    assert!(offset_of!(IRP, CurrentStackLocation) == per_abi(0x60, 0xB8));
    assert!(size_of::<IO_STACK_LOCATION>() == per_abi(0x24, 0x48));
    assert!(offset_of!(IO_STACK_LOCATION, DeviceObject) == per_abi(0x14, 0x28));
    assert!(size_of::<DEVICE_OBJECT>() == per_abi(0xB8, 0x150));
    assert!(offset_of!(DEVICE_OBJECT, DeviceExtension) == per_abi(0x28, 0x40));
    assert!(offset_of!(DEVICE_OBJECT, AlignmentRequirement) == per_abi(0x5C, 0x98));
    assert!(offset_of!(DEVICE_OBJECT, Dpc) == per_abi(0x74, 0xC8));
    assert!(offset_of!(DEVICE_OBJECT, DeviceObjectExtension) == per_abi(0xB0, 0x138));
    assert!(size_of::<DRIVER_OBJECT>() == per_abi(0xA8, 0x150));
    assert!(offset_of!(DRIVER_OBJECT, DriverUnload) == per_abi(0x34, 0x68));
    assert!(size_of::<FILE_OBJECT>() == per_abi(0x80, 0xD8));
    assert!(offset_of!(FILE_OBJECT, FileName) == per_abi(0x30, 0x58));
    assert!(size_of::<MDL>() == per_abi(0x1C, 0x30));
};
