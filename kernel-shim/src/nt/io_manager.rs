//! Structures of the I/O manager that stand beside devices and IRPs: queues, attachments, DMA, interrupts, errors.

use core::mem::offset_of;

use super::{DEVICE_OBJECT, FILE_OBJECT, IRP, LIST_ENTRY};
use crate::raw::{Ptr, Word};

/// IRP_NOCACHE.
pub const IRP_NOCACHE: u32 = 0x0001;
/// IRP_PAGING_IO.
pub const IRP_PAGING_IO: u32 = 0x0002;
/// IRP_SYNCHRONOUS_PAGING_IO (its value is IRP_INPUT_OPERATION's too).
pub const IRP_SYNCHRONOUS_PAGING_IO: u32 = 0x0040;
/// IRP_SYNCHRONOUS_API.
pub const IRP_SYNCHRONOUS_API: u32 = 0x0004;
/// IRP_ASSOCIATED_IRP: its SystemBuffer is the master IRP's address.
pub const IRP_ASSOCIATED_IRP: u32 = 0x0008;
/// IRP_BUFFERED_IO.
pub const IRP_BUFFERED_IO: u32 = 0x0010;
/// IRP_DEALLOCATE_BUFFER: the I/O manager frees the system buffer.
pub const IRP_DEALLOCATE_BUFFER: u32 = 0x0020;
/// IRP_INPUT_OPERATION: the system buffer is copied to the user buffer at the end.
pub const IRP_INPUT_OPERATION: u32 = 0x0040;
/// IRP_READ_OPERATION.
pub const IRP_READ_OPERATION: u32 = 0x0100;
/// IRP_WRITE_OPERATION.
pub const IRP_WRITE_OPERATION: u32 = 0x0200;

/// DO_SHUTDOWN_REGISTERED.
pub const DO_SHUTDOWN_REGISTERED: u32 = 0x0800;

/// IO_TYPE_CONTROLLER.
pub const IO_TYPE_CONTROLLER: i16 = 2;
/// IO_TYPE_ERROR_LOG.
pub const IO_TYPE_ERROR_LOG: i16 = 0x0B;
/// IO_TYPE_ERROR_MESSAGE.
pub const IO_TYPE_ERROR_MESSAGE: i16 = 0x0C;
/// IO_TYPE_DEVICE_OBJECT_EXTENSION.
pub const IO_TYPE_DEVICE_OBJECT_EXTENSION: i16 = 0x0D;

/// DOE_UNLOAD_PENDING.
pub const DOE_UNLOAD_PENDING: u32 = 0x1;
/// DOE_DELETE_PENDING.
pub const DOE_DELETE_PENDING: u32 = 0x2;
/// DOE_REMOVE_PENDING.
pub const DOE_REMOVE_PENDING: u32 = 0x4;

/// DEVOBJ_EXTENSION.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DEVOBJ_EXTENSION {
    /// [`IO_TYPE_DEVICE_OBJECT_EXTENSION`].
    pub Type: i16,
    /// Of the device extension: 0.
    pub Size: u16,
    /// Its device.
    pub DeviceObject: Ptr<DEVICE_OBJECT>,
    /// Power manager.
    pub PowerFlags: u32,
    /// Power manager.
    pub Dope: Word,
    /// DOE_ flags.
    pub ExtensionFlags: u32,
    /// PnP manager's node.
    pub DeviceNode: Word,
    /// The device below.
    pub AttachedTo: Ptr<DEVICE_OBJECT>,
    /// Calls of StartIo in progress.
    pub StartIoCount: i32,
    /// Key for the next packet.
    pub StartIoKey: i32,
    /// DOE_SIO_ flags.
    pub StartIoFlags: u32,
    /// Volume parameter block.
    pub Vpb: Word,
}

/// KDEVICE_QUEUE_ENTRY.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct KDEVICE_QUEUE_ENTRY {
    /// Links.
    pub DeviceListEntry: LIST_ENTRY,
    /// Key of a sorted insertion.
    pub SortKey: u32,
    /// Whether it is in a queue.
    pub Inserted: u8,
}

/// IO_TYPE_CSQ_IRP_CONTEXT.
pub const IO_TYPE_CSQ_IRP_CONTEXT: u32 = 1;
/// IO_TYPE_CSQ.
pub const IO_TYPE_CSQ: u32 = 2;
/// IO_TYPE_CSQ_EX.
pub const IO_TYPE_CSQ_EX: u32 = 3;

/// IO_CSQ: a cancel-safe queue.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct IO_CSQ {
    /// [`IO_TYPE_CSQ`] or [`IO_TYPE_CSQ_EX`].
    pub Type: u32,
    /// (Csq, Irp); of an EX queue (Csq, Irp, InsertContext) with a status.
    pub CsqInsertIrp: Word,
    /// (Csq, Irp).
    pub CsqRemoveIrp: Word,
    /// (Csq, Irp, PeekContext): the next IRP behind `Irp`.
    pub CsqPeekNextIrp: Word,
    /// (Csq, `*Irql`).
    pub CsqAcquireLock: Word,
    /// (Csq, Irql).
    pub CsqReleaseLock: Word,
    /// (Csq, Irp).
    pub CsqCompleteCanceledIrp: Word,
    /// Reserved.
    pub ReservePointer: Word,
}

/// IO_CSQ_IRP_CONTEXT.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct IO_CSQ_IRP_CONTEXT {
    /// [`IO_TYPE_CSQ_IRP_CONTEXT`].
    pub Type: u32,
    /// The IRP, while it is queued.
    pub Irp: Ptr<IRP>,
    /// Its queue.
    pub Csq: Ptr<IO_CSQ>,
}

/// IO_ERROR_LOG_PACKET.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct IO_ERROR_LOG_PACKET {
    /// IRP_MJ_ code.
    pub MajorFunctionCode: u8,
    /// Retries so far.
    pub RetryCount: u8,
    /// Bytes of dump data.
    pub DumpDataSize: u16,
    /// Strings.
    pub NumberOfStrings: u16,
    /// Offset of the first string.
    pub StringOffset: u16,
    /// Category.
    pub EventCategory: u16,
    /// IO_ERR_ code.
    pub ErrorCode: u32,
    /// The driver's own number of the place.
    pub UniqueErrorValue: u32,
    /// NTSTATUS.
    pub FinalStatus: u32,
    /// Number of the packet.
    pub SequenceNumber: u32,
    /// Control code.
    pub IoControlCode: u32,
    /// Offset on the device.
    pub DeviceOffset: i64,
    /// Dump data.
    pub DumpData: [u32; 1],
}

/// Largest error log entry (ERROR_LOG_MAXIMUM_SIZE), as IoAllocateErrorLogEntry takes it.
pub const ERROR_LOG_MAXIMUM_SIZE: u8 = if cfg!(nt_i386) { 0x98 } else { 0xF0 };

/// CONTROLLER_OBJECT.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CONTROLLER_OBJECT {
    /// [`IO_TYPE_CONTROLLER`].
    pub Type: i16,
    /// Bytes.
    pub Size: i16,
    /// The driver's own data.
    pub ControllerExtension: Word,
    /// Devices that wait for it.
    pub DeviceWaitQueue: super::KDEVICE_QUEUE,
    /// Spare.
    pub Spare1: u32,
    /// Spare.
    pub Spare2: i64,
}

/// CONFIGURATION_INFORMATION.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CONFIGURATION_INFORMATION {
    /// Disks.
    pub DiskCount: u32,
    /// Floppies.
    pub FloppyCount: u32,
    /// CD-ROMs.
    pub CdRomCount: u32,
    /// Tapes.
    pub TapeCount: u32,
    /// SCSI ports.
    pub ScsiPortCount: u32,
    /// Serial ports.
    pub SerialCount: u32,
    /// Parallel ports.
    pub ParallelCount: u32,
    /// The primary AT disk ports are claimed.
    pub AtDiskPrimaryAddressClaimed: u8,
    /// The secondary AT disk ports are claimed.
    pub AtDiskSecondaryAddressClaimed: u8,
    /// Version: bytes of this structure.
    pub Version: u32,
    /// Media changers.
    pub MediumChangerCount: u32,
}

/// WAIT_CONTEXT_BLOCK's part of a DEVICE_OBJECT's Queue field.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct WAIT_CONTEXT_BLOCK {
    /// Links in the controller's or adapter's queue.
    pub WaitQueueEntry: KDEVICE_QUEUE_ENTRY,
    /// Routine.
    pub DeviceRoutine: Word,
    /// Context.
    pub DeviceContext: Word,
    /// Map registers wanted.
    pub NumberOfMapRegisters: u32,
    /// Device.
    pub DeviceObject: Word,
    /// IRP.
    pub CurrentIrp: Word,
    /// DPC.
    pub BufferChainingDpc: Word,
}

/// DMA_ADAPTER.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DMA_ADAPTER {
    /// 1 (2 for version 2).
    pub Version: u16,
    /// Bytes.
    pub Size: u16,
    /// DMA_OPERATIONS.
    pub DmaOperations: Word,
}

/// DMA_OPERATIONS, as far as Windows 7 has it: to BuildMdlFromScatterGatherList.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DMA_OPERATIONS {
    /// Bytes.
    pub Size: u32,
    /// Addresses of the routines, from PutDmaAdapter on.
    pub Routines: [Word; 15],
}

/// DEVICE_DESCRIPTION.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DEVICE_DESCRIPTION {
    /// Version: 0, 1 or 2.
    pub Version: u32,
    /// Bus master.
    pub Master: u8,
    /// Scatter and gather.
    pub ScatterGather: u8,
    /// Demand mode.
    pub DemandMode: u8,
    /// Auto-initialize.
    pub AutoInitialize: u8,
    /// 32-bit addresses.
    pub Dma32BitAddresses: u8,
    /// Ignore the count.
    pub IgnoreCount: u8,
    /// Reserved.
    pub Reserved1: u8,
    /// 64-bit addresses.
    pub Dma64BitAddresses: u8,
    /// Bus.
    pub BusNumber: u32,
    /// Channel.
    pub DmaChannel: u32,
    /// INTERFACE_TYPE.
    pub InterfaceType: u32,
    /// DMA_WIDTH.
    pub DmaWidth: u32,
    /// DMA_SPEED.
    pub DmaSpeed: u32,
    /// Longest transfer, in bytes.
    pub MaximumLength: u32,
    /// Port.
    pub DmaPort: u32,
}

/// SCATTER_GATHER_ELEMENT.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SCATTER_GATHER_ELEMENT {
    /// Physical address.
    pub Address: u64,
    /// Bytes.
    pub Length: u32,
    /// Reserved.
    pub Reserved: Word,
}

/// SCATTER_GATHER_LIST; the elements follow.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SCATTER_GATHER_LIST {
    /// Elements.
    pub NumberOfElements: u32,
    /// Reserved.
    pub Reserved: Word,
}

/// KINTERRUPT as far as it is ours: drivers only hold its address.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct KINTERRUPT {
    /// InterruptObject (22).
    pub Type: i16,
    /// Bytes.
    pub Size: i16,
    /// Links.
    pub InterruptListEntry: LIST_ENTRY,
    /// The service routine.
    pub ServiceRoutine: Word,
    /// Its context.
    pub ServiceContext: Word,
    /// The lock that is held while it runs.
    pub ActualLock: Ptr<Word>,
    /// The lock, if the driver gave none.
    pub SpinLock: Word,
    /// Vector.
    pub Vector: u32,
    /// IRQL of the interrupt.
    pub Irql: u8,
    /// IRQL at which the routine runs.
    pub SynchronizeIrql: u8,
    /// Others may use the vector too.
    pub ShareVector: u8,
    /// 0 level-sensitive, 1 latched.
    pub Mode: u8,
    /// IoReportInterruptInactive was not called for it.
    pub Active: u8,
}

/// OBJECT_HANDLE_INFORMATION.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct OBJECT_HANDLE_INFORMATION {
    /// OBJ_ flags of the handle.
    pub HandleAttributes: u32,
    /// Granted access.
    pub GrantedAccess: u32,
}

/// The file a driver made with IoCreateStreamFileObject (FO_STREAM_FILE).
pub const FO_STREAM_FILE: u32 = 0x0000_0100;
/// FO_SYNCHRONOUS_IO.
pub const FO_SYNCHRONOUS_IO: u32 = 0x0000_0002;
/// FO_ALERTABLE_IO.
pub const FO_ALERTABLE_IO: u32 = 0x0000_0004;

/// Where a file's fields are that an IRP's completion needs.
pub const FILE_EVENT_OFFSET: u64 = offset_of!(FILE_OBJECT, Event) as u64;

const fn per_abi(i386: usize, amd64: usize) -> usize {
    if cfg!(nt_i386) { i386 } else { amd64 }
}

const _: () = {
    assert!(size_of::<DEVOBJ_EXTENSION>() == per_abi(0x2C, 0x50));
    assert!(offset_of!(DEVOBJ_EXTENSION, AttachedTo) == per_abi(0x18, 0x30));
    assert!(size_of::<KDEVICE_QUEUE_ENTRY>() == per_abi(0x10, 0x18));
    assert!(size_of::<IO_CSQ>() == per_abi(0x20, 0x40));
    assert!(size_of::<IO_CSQ_IRP_CONTEXT>() == per_abi(0x0C, 0x18));
    assert!(offset_of!(IO_ERROR_LOG_PACKET, ErrorCode) == 0x0C);
    assert!(offset_of!(IO_ERROR_LOG_PACKET, DumpData) == per_abi(0x28, 0x28));
    assert!(offset_of!(CONTROLLER_OBJECT, DeviceWaitQueue) == per_abi(0x08, 0x10));
    assert!(size_of::<WAIT_CONTEXT_BLOCK>() == per_abi(0x28, 0x48));
    assert!(size_of::<DMA_ADAPTER>() == per_abi(8, 16));
    assert!(size_of::<DMA_OPERATIONS>() == per_abi(0x40, 0x80));
    assert!(size_of::<DEVICE_DESCRIPTION>() == 0x28);
    assert!(size_of::<SCATTER_GATHER_ELEMENT>() == per_abi(16, 24));
    assert!(size_of::<SCATTER_GATHER_LIST>() == per_abi(8, 16));
    assert!(size_of::<CONFIGURATION_INFORMATION>() == 0x28);
};
