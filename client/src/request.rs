//! Requests and what comes of them.

use abi::client::{Opcode, RequestHeader};

use crate::pinned::Part;

/// A request: what [`Opcode`] says, with its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// What is asked for.
    pub opcode: Opcode,
    /// Guest process; 0: the connection's own.
    pub process: u32,
    /// Handle, where there is one.
    pub handle: u64,
    /// As the opcode says.
    pub code: u32,
    /// As the opcode says.
    pub argument: u64,
    /// Input.
    pub input: &'a [u8],
    /// Bytes of output buffer.
    pub output_bytes: u32,
    /// What lies in the output buffer before; at most `output_bytes`. The driver sees it with METHOD_IN_DIRECT,
    /// METHOD_OUT_DIRECT and METHOD_NEITHER.
    pub output: &'a [u8],
    /// A buffer that takes the place of `output`, or with [`Opcode::Write`] of `input`: nothing is copied for it, and what
    /// the driver has written is in it.
    pub part: Option<Part>,
}

impl<'a> Request<'a> {
    /// A request without data.
    #[must_use]
    pub const fn new(opcode: Opcode) -> Self {
        Self {
            opcode,
            process: 0,
            handle: 0,
            code: 0,
            argument: 0,
            input: &[],
            output_bytes: 0,
            output: &[],
            part: None,
        }
    }

    /// As [`Self::ioctl`]; the output goes to a part of a [`Buffer`](crate::Buffer).
    #[must_use]
    pub fn ioctl_to(handle: u64, code: u32, input: &'a [u8], part: Part) -> Self {
        Self {
            part: Some(part),
            ..Self::ioctl(handle, code, input, 0)
        }
    }

    /// As [`Self::read`], to a part of a [`Buffer`](crate::Buffer).
    #[must_use]
    pub fn read_to(handle: u64, part: Part, offset: u64) -> Self {
        Self {
            part: Some(part),
            ..Self::read(handle, 0, offset)
        }
    }

    /// As [`Self::write`], from a part of a [`Buffer`](crate::Buffer).
    #[must_use]
    pub fn write_from(handle: u64, part: Part, offset: u64) -> Self {
        Self {
            part: Some(part),
            ..Self::write(handle, &[], offset)
        }
    }

    /// Bytes of the part that the driver writes, and of the part that it reads.
    pub(crate) fn part_bytes(&self) -> (u32, u32) {
        match (&self.part, self.opcode) {
            (None, _) => (0, 0),
            (Some(part), Opcode::Write) => (0, part.bytes()),
            (Some(part), _) => (part.bytes(), 0),
        }
    }

    /// IRP_MJ_DEVICE_CONTROL.
    #[must_use]
    pub fn ioctl(handle: u64, code: u32, input: &'a [u8], output_bytes: u32) -> Self {
        Self {
            handle,
            code,
            input,
            output_bytes,
            ..Self::new(Opcode::DeviceControl)
        }
    }

    /// IRP_MJ_READ.
    #[must_use]
    pub fn read(handle: u64, bytes: u32, offset: u64) -> Self {
        Self {
            handle,
            argument: offset,
            output_bytes: bytes,
            ..Self::new(Opcode::Read)
        }
    }

    /// IRP_MJ_WRITE.
    #[must_use]
    pub fn write(handle: u64, data: &'a [u8], offset: u64) -> Self {
        Self {
            handle,
            argument: offset,
            input: data,
            ..Self::new(Opcode::Write)
        }
    }

    pub(crate) fn header(&self, tag: u64) -> RequestHeader {
        let (written, read) = self.part_bytes();
        RequestHeader {
            opcode: self.opcode as u16,
            process: self.process,
            tag,
            handle: self.handle,
            code: self.code,
            input_bytes: u32::try_from(self.input.len())
                .unwrap_or(u32::MAX)
                .saturating_add(read),
            output_bytes: self.output_bytes.saturating_add(written),
            argument: self.argument,
            ..RequestHeader::default()
        }
    }
}

/// How a request ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Completion {
    /// What [`Connection::submit`](crate::Connection::submit) returned for it.
    pub tag: u64,
    /// NTSTATUS.
    pub status: u32,
    /// IO_STATUS_BLOCK.Information: the driver's number, which may exceed the output.
    pub information: u64,
    /// As the opcode says.
    pub value: u64,
    /// Output; empty if it is in a [`Part`].
    pub output: Vec<u8>,
    /// Nanoseconds that the VMM and the driver took.
    pub elapsed_ns: u64,
}

impl Completion {
    /// NT_ERROR.
    #[must_use]
    pub const fn is_error(&self) -> bool {
        self.status >> 30 == 3
    }
}

/// What happens when a request is completed.
pub enum Notify {
    /// It is kept for [`Connection::next_completion`](crate::Connection::next_completion).
    Queue,
    /// This is called once, in the thread that handles completions: that of [`Connection::start_thread`], or one that is in
    /// any call that waits. If the connection ends first it is called for that, at the latest by
    /// [`Connection::disconnect`]. It may submit further requests, but not wait for them.
    ///
    /// [`Connection::start_thread`]: crate::Connection::start_thread
    /// [`Connection::disconnect`]: crate::Connection::disconnect
    Call(Box<dyn FnOnce(Completion) + Send>),
    /// It is kept for [`Connection::wait`](crate::Connection::wait) with its tag.
    Wait,
}

impl std::fmt::Debug for Notify {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Queue => "Queue",
            Self::Call(_) => "Call",
            Self::Wait => "Wait",
        })
    }
}
