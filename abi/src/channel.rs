//! Requests from the VMM to the shim and their completions, in shared memory.
//!
//! Two single-producer single-consumer rings. The VMM produces requests and consumes completions; the shim
//! does the opposite. Indices run freely and are taken modulo [`RING_ENTRIES`]; each is written by one side
//! only. The VMM never has more than [`RING_ENTRIES`] requests unanswered, so the completion ring cannot overflow.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Entries of each ring; a power of two.
pub const RING_ENTRIES: usize = 2048;

/// What a [`Request`] asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Operation {
    /// Create the DRIVER_OBJECT and call DriverEntry. Arguments: image base, image bytes, entry point (all
    /// guest-virtual), user address and byte length of the driver's name (UTF-16, without path and ".sys").
    /// Value of the completion: the driver's id.
    LoadDriver = 1,
    /// Call DriverUnload and list leaks. Arguments: driver id. Value: objects and pool blocks leaked.
    /// STATUS_INVALID_DEVICE_REQUEST if the driver has no DriverUnload.
    UnloadDriver = 2,
    /// A client connected: make an EPROCESS with the id in [`Request::process`].
    CreateProcess = 3,
    /// A client is gone: close its handles, delete its EPROCESS.
    ExitProcess = 4,
    /// Open a device (IRP_MJ_CREATE). Arguments: user address and byte length of the name (UTF-16, an NT
    /// path such as `\??\giveio`), desired access; of a client whose memory is mapped, its slot + 1 and its number for
    /// the handle, by which the shim knows it in the client's requests. Value: a handle.
    Open = 5,
    /// Close a handle (IRP_MJ_CLEANUP, IRP_MJ_CLOSE). Arguments: handle; a mapped client's slot + 1 and number for it.
    Close = 6,
    /// IRP_MJ_DEVICE_CONTROL. Arguments: handle, control code, input address and bytes, output address and bytes.
    DeviceControl = 7,
    /// IRP_MJ_READ. Arguments: handle, address, bytes, byte offset.
    Read = 8,
    /// IRP_MJ_WRITE. Arguments: handle, address, bytes, byte offset.
    Write = 9,
    /// Cancel the request whose id is the argument (IoCancelIrp).
    Cancel = 10,
    /// `in` by the process at CPL 3. Arguments: port, width in bytes. Value: what was read;
    /// STATUS_PRIVILEGED_INSTRUCTION when the process's IOPM denies it.
    PortIn = 11,
    /// `out` by the process at CPL 3. Arguments: port, width in bytes, value.
    PortOut = 12,
    /// Stop the guest in order.
    Shutdown = 13,
    /// Add to the registry. Arguments: user address and bytes of contents in the encoding of [`crate::registry`].
    LoadRegistry = 32,
    /// Write what of the registry is to be kept to client memory, in the same encoding. Arguments: user address and
    /// bytes (0: only the size is asked for). Information: bytes written; value: bytes of the contents.
    SaveRegistry = 33,
    /// Remember an image that ZwLoadDriver may start. Arguments: as [`Operation::LoadDriver`].
    OfferDriver = 14,
    /// Do a step of plug and play with a device. Arguments: device number as [`Operation::ListDevices`] gives it (0: the
    /// first device that there is), step: start 0, stop 1, query-stop 2, cancel-stop 3, query-remove 4, cancel-remove 5,
    /// remove 6, surprise-remove 7.
    Pnp = 34,
    /// Send a device's stack a power state. Arguments: device number as for [`Operation::Pnp`], type (0 system,
    /// 1 device), state (SYSTEM_POWER_STATE or DEVICE_POWER_STATE).
    Power = 35,
    /// Add to the resources that the next PnP driver's device gets. Arguments: kind (CmResourceTypeXxx: 1 ports,
    /// 2 interrupt, 3 memory, 4 DMA), first port or address, level, or channel; count, bytes, vector, or DMA port;
    /// CM_RESOURCE_ flags; affinity; CM_SHARE_DISPOSITION.
    AddResource = 36,
    /// Forget what devices of PnP drivers loaded later were to be. Arguments: nonzero if they are to get AddDevice only
    /// and are started by [`Operation::Pnp`]. Value: texts and resources that no device has taken.
    PrepareDevice = 37,
    /// Name the next PnP driver's device. Arguments: what (1 instance id, 2 description, 3 one more hardware id,
    /// 4 one more compatible id), user address and byte length of the text (UTF-16).
    DeviceText = 38,
    /// Write the device tree to client memory, as UTF-8 lines of fields separated by tabs. Arguments: user address and
    /// bytes (0: only the size is asked for). Information: bytes written; value: bytes of the whole. Each device is a
    /// line `device`, number, instance path, service, state, power state of the device (D0, or - if it is unknown);
    /// followed by lines `id` (kind as for [`Operation::DeviceText`], text), `object` (driver, device name; from the
    /// bottom of the stack), `resource` (arguments of [`Operation::AddResource`] in hexadecimal), `interface` (name,
    /// 1 if it is enabled).
    ListDevices = 39,
    /// IRP_MJ_FLUSH_BUFFERS. Arguments: handle.
    Flush = 40,
    /// Write the names of the drivers' devices, and the symbolic links to them, to client memory, as UTF-16 lines of fields
    /// separated by tabs: `device`, DEVICE_TYPE, characteristics and flags in hexadecimal, name; `link`, name, name of the
    /// device. Arguments: user address and bytes; STATUS_BUFFER_TOO_SMALL if that is not enough. Information: bytes
    /// written; value: the count of changes for [`Operation::WatchNames`].
    ListNames = 48,
    /// Answer when names of devices or symbolic links have changed. Arguments: the count of changes that is known. Value:
    /// what it is now. Can be cancelled.
    WatchNames = 49,
    /// A client's memory is mapped: serve its queue. Arguments: [`crate::clients::Attach`].
    AttachClient = 50,
    /// A client is gone: cancel its requests. Arguments: slot. Completed when no driver has a request of it any more;
    /// then its memory goes.
    DetachClient = 51,
    /// A mapped client uses a handle that another one has opened. Arguments: handle; its slot + 1 and its number for it.
    BorrowHandle = 52,
}

impl Operation {
    /// Decodes a request's operation; `None` for an unknown number.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::LoadDriver,
            2 => Self::UnloadDriver,
            3 => Self::CreateProcess,
            4 => Self::ExitProcess,
            5 => Self::Open,
            6 => Self::Close,
            7 => Self::DeviceControl,
            8 => Self::Read,
            9 => Self::Write,
            10 => Self::Cancel,
            11 => Self::PortIn,
            12 => Self::PortOut,
            13 => Self::Shutdown,
            32 => Self::LoadRegistry,
            33 => Self::SaveRegistry,
            14 => Self::OfferDriver,
            34 => Self::Pnp,
            35 => Self::Power,
            36 => Self::AddResource,
            37 => Self::PrepareDevice,
            38 => Self::DeviceText,
            39 => Self::ListDevices,
            40 => Self::Flush,
            48 => Self::ListNames,
            49 => Self::WatchNames,
            50 => Self::AttachClient,
            51 => Self::DetachClient,
            52 => Self::BorrowHandle,
            _ => return None,
        })
    }
}

/// One request. All addresses are guest-virtual addresses of client memory.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Request {
    /// Chosen by the VMM; its completion carries the same.
    pub id: u64,
    /// [`Operation`] as a number.
    pub operation: u32,
    /// Id of the process on whose behalf it is made.
    pub process: u32,
    /// As the operation says.
    pub arguments: [u64; 6],
}

/// The answer to a [`Request`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Completion {
    /// The request's id.
    pub id: u64,
    /// NTSTATUS.
    pub status: u32,
    /// Always zero.
    pub reserved: u32,
    /// IO_STATUS_BLOCK.Information: bytes transferred.
    pub information: u64,
    /// As the operation says.
    pub value: u64,
}

/// The VMM's ring of requests.
#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RequestRing {
    /// Requests ever produced; written by the VMM.
    pub produced: u64,
    /// Requests ever taken; written by the shim.
    pub consumed: u64,
    /// The entries.
    pub entries: [Request; RING_ENTRIES],
}

/// The shim's ring of completions.
#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CompletionRing {
    /// Completions ever produced; written by the shim.
    pub produced: u64,
    /// Completions ever taken; written by the VMM.
    pub consumed: u64,
    /// The entries.
    pub entries: [Completion; RING_ENTRIES],
}

/// State words that one side publishes for the other, without an exit.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct State {
    /// Current IRQL, written by the shim.
    pub irql: u32,
    /// How many API calls (or other shim code that must not be re-entered) are active; written by the shim.
    /// The VMM sets it to 1 before the first instruction, and injects the tick only when it is zero and `irql`
    /// is below DISPATCH_LEVEL.
    pub shim_depth: u32,
    /// Set by the VMM when a tick was due but could not be injected; the shim clears and serves it
    /// when it leaves its own code or lowers IRQL.
    pub tick_due: u32,
    /// Set by the VMM when [`crate::interrupt::InterruptLines`] has something new; the shim clears it before it looks.
    /// Beside `tick_due`, so that one load sees both.
    pub interrupt_due: u32,
    /// Nonzero while a tick handler runs; written by the shim. The VMM injects no other meanwhile.
    pub in_tick: u32,
    /// Process id of the client that the current request belongs to; written by the shim, for reports.
    pub current_process: u32,
    /// Nonzero while a driver at CPL 3 has executed `cli` without `sti`; written by the shim. The VMM injects no
    /// tick meanwhile. (At CPL 0 RFLAGS.IF itself says so.)
    pub interrupts_masked: u32,
    /// Always zero.
    pub reserved: u32,
    /// Guest-virtual address of 8 bytes that hold the return address of the API call that the driver is in, 0 outside
    /// of any; written by the shim before DriverEntry. What the shim does for a driver is told as the driver's.
    pub caller_at: u64,
}

const _: () = assert!(
    size_of::<RequestRing>() <= 0x2_2000,
    "request ring fits its pages"
);
const _: () = assert!(
    size_of::<CompletionRing>() <= 0x1_2000,
    "completion ring fits its pages"
);
