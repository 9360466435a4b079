//! The channel between a program and the VMM: what lies in their shared memory, and how they come to share it.
//!
//! docs/channel.md describes the same bytes in words. The memory is a virtio 1.x split queue with event index
//! (VIRTIO_F_EVENT_IDX) and a data area behind it; addresses in descriptors are offsets from the memory's first byte.
//! All numbers are little-endian. Its version is its own: programs are not built together with the VMM.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Version of the channel. Raised with every change that the other side can see.
pub const VERSION: u32 = 1;
/// The first bytes of a [`Hello`] and a [`Welcome`]. No text command begins with a zero.
pub const MAGIC: [u8; 8] = *b"\0RFchan\n";

/// Fewest descriptors of a queue.
pub const QUEUE_MIN: u16 = 8;
/// Most descriptors of a queue.
pub const QUEUE_MAX: u16 = 4096;
/// Least bytes of data area.
pub const DATA_MIN: u64 = 4096;
/// Most bytes of data area.
pub const DATA_MAX: u64 = 64 << 20;
/// Most bytes of a request's input, and of its output.
pub const TRANSFER_MAX: u32 = 16 << 20;
/// Most requests of one client that the VMM has taken and not completed; more are refused with
/// STATUS_QUOTA_EXCEEDED.
pub const IN_FLIGHT_MAX: u32 = 1024;
/// Most guest processes of one client: its own and those of [`Opcode::Attach`].
pub const PROCESSES_MAX: usize = 64;
/// Bytes of the token of [`Opcode::Share`].
pub const TOKEN_BYTES: usize = 16;
/// Most bytes of the name in [`Opcode::Open`]: 32,767 UTF-16 units.
pub const NAME_MAX: u32 = 2 * 32_767;

/// What a client sends first, over the driver's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Hello {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// The lowest version that the client speaks.
    pub version_min: u32,
    /// The highest version that the client speaks.
    pub version_max: u32,
    /// Descriptors wanted: a power of two from [`QUEUE_MIN`] to [`QUEUE_MAX`].
    pub queue_size: u32,
    /// Zero.
    pub flags: u32,
    /// Bytes of data area wanted: from [`DATA_MIN`] to [`DATA_MAX`]; rounded up to whole pages.
    pub data_bytes: u64,
}

/// The VMM's answer. If `status` is 0, three file descriptors come with it (SCM_RIGHTS): the memory (a sealed memfd), the
/// eventfd that the client writes to notify the VMM, and the pipe end that becomes readable when the VMM notifies the
/// client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Welcome {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// The version that both speak from now on; if they have none in common, the VMM's.
    pub version: u32,
    /// NTSTATUS; other than 0, the rest is zero and the connection ends.
    pub status: u32,
    /// Descriptors of the queue.
    pub queue_size: u32,
    /// Id of the client's process in the guest.
    pub process: u32,
    /// Most requests under way; [`IN_FLIGHT_MAX`].
    pub in_flight_max: u32,
    /// Most bytes of input, and of output; [`TRANSFER_MAX`].
    pub transfer_max: u32,
    /// Offset of the descriptor table.
    pub descriptors: u64,
    /// Offset of the available ring.
    pub available: u64,
    /// Offset of the used ring.
    pub used: u64,
    /// Offset of the data area.
    pub data: u64,
    /// Bytes of the data area.
    pub data_bytes: u64,
    /// [`crate::DriverAbi`] as a number.
    pub driver_abi: u32,
    /// Zero.
    pub reserved: u32,
}

/// The VMM's last words over the socket, before it closes the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Farewell {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// NTSTATUS: what requests under way are completed with.
    pub status: u32,
    /// [`FarewellReason`] as a number.
    pub reason: u32,
}

/// Why the VMM ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum FarewellReason {
    /// The driver was shut down.
    ShutDown = 1,
    /// The driver crashed.
    Crashed = 2,
    /// The driver hung.
    Hung = 3,
    /// The client broke the queue's rules.
    Protocol = 4,
}

/// Flag of a [`Descriptor`]: the chain goes on at `next`.
pub const DESCRIPTOR_NEXT: u16 = 1;
/// Flag of a [`Descriptor`]: the VMM writes the buffer, and reads it only where a control code's method says that the
/// driver sees what is in the output buffer.
pub const DESCRIPTOR_WRITE: u16 = 2;

/// virtq_desc.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Descriptor {
    /// Offset of the buffer.
    pub address: u64,
    /// Its bytes.
    pub length: u32,
    /// `DESCRIPTOR_` flags; indirect descriptors are not part of this version.
    pub flags: u16,
    /// The chain's next descriptor.
    pub next: u16,
}

/// virtq_used_elem.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct UsedElement {
    /// The chain's first descriptor.
    pub id: u32,
    /// Bytes written: [`ResultHeader`] and output. 0: the chain could not be understood, nothing was written.
    pub length: u32,
}

/// Where the queue's parts lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLayout {
    /// Descriptors; a power of two.
    pub size: u16,
    /// Offset of the descriptor table.
    pub descriptors: u64,
    /// Offset of the available ring: flags u16, idx u16, ring \[u16; size\], used_event u16.
    pub available: u64,
    /// Offset of the used ring: flags u16, idx u16, ring \[UsedElement; size\], avail_event u16.
    pub used: u64,
    /// Offset of the data area.
    pub data: u64,
    /// Bytes of the data area.
    pub data_bytes: u64,
}

impl QueueLayout {
    /// The layout for that many descriptors and bytes of data; `None` if they are out of bounds.
    #[must_use]
    pub const fn new(size: u32, data_bytes: u64) -> Option<Self> {
        if size < QUEUE_MIN as u32 || size > QUEUE_MAX as u32 || !size.is_power_of_two() {
            return None;
        }
        if data_bytes < DATA_MIN || data_bytes > DATA_MAX {
            return None;
        }
        let entries = size as u64;
        let available = entries * size_of::<Descriptor>() as u64;
        // Each ring is written by one side: they share no cache line.
        let used = (available + 4 + 2 * entries + 2).next_multiple_of(64);
        let data = (used + 4 + entries * size_of::<UsedElement>() as u64 + 2)
            .next_multiple_of(crate::layout::PAGE_SIZE);
        Some(Self {
            #[expect(clippy::cast_possible_truncation, reason = "at most QUEUE_MAX")]
            size: size as u16,
            descriptors: 0,
            available,
            used,
            data,
            data_bytes: data_bytes.next_multiple_of(crate::layout::PAGE_SIZE),
        })
    }

    /// Bytes of the whole memory.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.data + self.data_bytes
    }

    /// Offset of descriptor `index`.
    #[must_use]
    pub const fn descriptor(&self, index: u16) -> u64 {
        self.descriptors + index as u64 * size_of::<Descriptor>() as u64
    }

    /// Offset of the available ring's idx.
    #[must_use]
    pub const fn available_index(&self) -> u64 {
        self.available + 2
    }

    /// Offset of the available ring's entry for a running index.
    #[must_use]
    pub const fn available_entry(&self, index: u16) -> u64 {
        self.available + 4 + (index % self.size) as u64 * 2
    }

    /// Offset of used_event: the client wants to be notified when the used idx passes it.
    #[must_use]
    pub const fn used_event(&self) -> u64 {
        self.available + 4 + self.size as u64 * 2
    }

    /// Offset of the used ring's idx.
    #[must_use]
    pub const fn used_index(&self) -> u64 {
        self.used + 2
    }

    /// Offset of the used ring's entry for a running index.
    #[must_use]
    pub const fn used_entry(&self, index: u16) -> u64 {
        self.used + 4 + (index % self.size) as u64 * size_of::<UsedElement>() as u64
    }

    /// Offset of avail_event: the VMM wants to be notified when the available idx passes it.
    #[must_use]
    pub const fn available_event(&self) -> u64 {
        self.used + 4 + self.size as u64 * size_of::<UsedElement>() as u64
    }
}

/// vring_need_event: whether moving an index from `old` to `new` passes `event`.
#[must_use]
pub const fn needs_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// What a request asks for. [`RequestHeader`] says which field is what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Opcode {
    /// IRP_MJ_CREATE. Input: the path, UTF-16: `\\.\NAME` or an NT path. `code`: desired access (0: read and write).
    /// Value: a handle.
    Open = 1,
    /// IRP_MJ_CLEANUP, and IRP_MJ_CLOSE when its last request is completed; the handle is gone.
    Close = 2,
    /// As [`Opcode::Close`], but the handle's number stays taken until [`Opcode::Close`], which then sends nothing.
    Cleanup = 3,
    /// IRP_MJ_DEVICE_CONTROL. `code`: control code.
    DeviceControl = 4,
    /// IRP_MJ_READ. `argument`: byte offset.
    Read = 5,
    /// IRP_MJ_WRITE. `argument`: byte offset.
    Write = 6,
    /// IRP_MJ_FLUSH_BUFFERS.
    Flush = 7,
    /// IoCancelIrp. `argument`: the tag of the request. STATUS_NOT_FOUND if none under way has it.
    Cancel = 8,
    /// `in` under the process's IOPM. `code`: port; `argument`: width in bytes. Value: what was read.
    /// STATUS_PRIVILEGED_INSTRUCTION if the IOPM denies it.
    PortIn = 9,
    /// `out` under the process's IOPM. `code`: port; `argument`: width in bytes, in the upper half the value.
    PortOut = 10,
    /// Make a further process in the guest. `argument`: the id that it is to have, 0 for any. Value: its id, which is another
    /// one if that cannot be had.
    Attach = 11,
    /// End the process of [`RequestHeader::process`], which [`Opcode::Attach`] has made: requests are cancelled, handles
    /// closed.
    Exit = 12,
    /// Ask about the machine. `code`: [`QUERY_STATISTICS`], [`QUERY_NAMES`], [`QUERY_NAMES_CHANGED`].
    Query = 13,
    /// Give another connection a way to a process of this one. Output: [`TOKEN_BYTES`], the same ones each time; who knows
    /// them may join. STATUS_INVALID_CID for a process that this connection has joined itself.
    Share = 14,
    /// Use a process of another connection from now on. Input: its token. Value: its id. STATUS_INVALID_CID if no process
    /// has that token.
    Join = 15,
    /// Use a handle that the owner of a joined process has opened there. `process`: the process; `handle`: the owner's
    /// number. Value: this connection's number for it. Only the owner closes it; then it is unknown here too.
    Borrow = 16,
}

impl Opcode {
    /// Decodes a number; `None` if it is unknown.
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Open,
            2 => Self::Close,
            3 => Self::Cleanup,
            4 => Self::DeviceControl,
            5 => Self::Read,
            6 => Self::Write,
            7 => Self::Flush,
            8 => Self::Cancel,
            9 => Self::PortIn,
            10 => Self::PortOut,
            11 => Self::Attach,
            12 => Self::Exit,
            13 => Self::Query,
            14 => Self::Share,
            15 => Self::Join,
            16 => Self::Borrow,
            _ => return None,
        })
    }
}

/// [`Opcode::Query`]: counters of the machine. Output: [`Statistics`].
pub const QUERY_STATISTICS: u32 = 1;

/// [`Opcode::Query`]: the drivers' named devices and the symbolic links to them. Output: UTF-16 lines as
/// [`crate::channel::Operation::ListNames`] has them; STATUS_BUFFER_TOO_SMALL if they do not fit. Value: the count of changes.
pub const QUERY_NAMES: u32 = 2;
/// [`Opcode::Query`]: completes when [`QUERY_NAMES`] may give another answer. `argument`: the count of changes that it gave.
/// Value: the count now.
pub const QUERY_NAMES_CHANGED: u32 = 3;

/// The first bytes of a chain's readable part; the request's input follows.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct RequestHeader {
    /// [`Opcode`] as a number.
    pub opcode: u16,
    /// Zero.
    pub flags: u16,
    /// Guest process on whose behalf it is made; 0: the client's own.
    pub process: u32,
    /// The client's name for the request; [`Opcode::Cancel`] uses it.
    pub tag: u64,
    /// Handle.
    pub handle: u64,
    /// As the opcode says.
    pub code: u32,
    /// Bytes of input: all that is readable behind this header.
    pub input_bytes: u32,
    /// Bytes of output: all that is writable behind [`ResultHeader`].
    pub output_bytes: u32,
    /// Zero.
    pub reserved: u32,
    /// As the opcode says.
    pub argument: u64,
    /// Zero.
    pub reserved2: [u64; 2],
}

/// The first bytes of a chain's writable part; the request's output follows.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct ResultHeader {
    /// NTSTATUS.
    pub status: u32,
    /// Bytes of output written behind this header.
    pub output_bytes: u32,
    /// IO_STATUS_BLOCK.Information: the driver's number, which may exceed the buffer.
    pub information: u64,
    /// As the opcode says.
    pub value: u64,
    /// Nanoseconds from the VMM's taking of the request to its completion.
    pub elapsed_ns: u64,
}

/// Output of [`QUERY_STATISTICS`].
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Statistics {
    /// Time since the guest's boot, in microseconds.
    pub uptime_us: u64,
    /// Exits from the guest to the VMM.
    pub exits: u64,
    /// Requests sent to the driver.
    pub requests: u64,
    /// Client processes that exist.
    pub processes: u64,
    /// Port reads that reached a back end.
    pub port_reads: u64,
    /// Port writes that reached a back end.
    pub port_writes: u64,
    /// Port accesses that the policy denied.
    pub port_denied: u64,
    /// Physical ranges mapped.
    pub memory_mapped: u64,
    /// Physical ranges that the policy denied.
    pub memory_denied: u64,
}

const _: () = {
    assert!(size_of::<Hello>() == 32);
    assert!(size_of::<Welcome>() == 80);
    assert!(size_of::<Farewell>() == 16);
    assert!(size_of::<Descriptor>() == 16);
    assert!(size_of::<UsedElement>() == 8);
    assert!(size_of::<RequestHeader>() == 64);
    assert!(size_of::<ResultHeader>() == 32);
    assert!(size_of::<Statistics>() == 72);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_the_queue_do_not_overlap() {
        for size in [QUEUE_MIN, 64, QUEUE_MAX] {
            let layout = QueueLayout::new(u32::from(size), 5000).unwrap();
            assert_eq!(layout.descriptor(size), layout.available);
            assert!(layout.used_event() + 2 <= layout.used);
            assert!(layout.available_event() + 2 <= layout.data);
            assert_eq!(layout.data % 4096, 0);
            assert_eq!(layout.data_bytes, 8192);
            assert_eq!(layout.available_entry(size), layout.available_entry(0));
        }
    }

    #[test]
    fn layouts_out_of_bounds_are_refused() {
        for size in [0, 4, 12, 8192, u32::MAX] {
            assert_eq!(QueueLayout::new(size, 4096), None, "{size}");
        }
        for bytes in [0, DATA_MIN - 1, DATA_MAX + 1, u64::MAX] {
            assert_eq!(QueueLayout::new(64, bytes), None, "{bytes}");
        }
    }

    #[test]
    fn events_are_passed_also_where_indices_wrap() {
        assert!(needs_event(0, 1, 0));
        assert!(!needs_event(1, 1, 0));
        assert!(needs_event(0xFFFF, 1, 0xFFFE));
        assert!(!needs_event(5, 1, 0xFFFE));
    }

    #[test]
    fn opcodes_are_their_numbers() {
        for number in 0..u16::MAX {
            if let Some(opcode) = Opcode::from_number(number) {
                assert_eq!(opcode as u16, number);
            }
        }
    }
}
