//! The buffers of a request, by the method that the device or the control code asks for.

use super::mdl;
use crate::ex::pool;
use crate::mm;
use crate::nt::{DO_BUFFERED_IO, DO_DIRECT_IO, MDL, Method, NtStatus};
use crate::raw::{Ptr, low32};

/// Largest buffer of a request: client memory is smaller anyway.
pub(super) const MAX_BYTES: u64 = 1 << 30;

/// Whose addresses a request has (KPROCESSOR_MODE).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// A driver's: believed.
    Kernel,
    /// A client's: must be client memory.
    User,
}

/// Where a request's data is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Buffers {
    /// The kernel's copy; null if there is none.
    pub(super) system: Ptr<u8>,
    /// Kernel alias of the client's output buffer, if the kernel's copy goes there at the end.
    output: Ptr<u8>,
    output_bytes: u64,
    /// Client buffer of direct I/O.
    pub(super) mdl: Ptr<MDL>,
}

impl Buffers {
    /// Where the requestor's memory is for the kernel: a client's at its alias, a driver's where the driver says.
    fn memory(mode: Mode, address: u64, bytes: u64) -> Result<Ptr<u8>, NtStatus> {
        match mode {
            Mode::User => Self::alias(address, bytes),
            Mode::Kernel => Ok(Ptr::new(address)),
        }
    }

    /// The kernel alias of client memory.
    ///
    /// # Errors
    /// ACCESS_VIOLATION: it is not client memory.
    pub fn alias(address: u64, bytes: u64) -> Result<Ptr<u8>, NtStatus> {
        if bytes > MAX_BYTES {
            return Err(NtStatus::INVALID_PARAMETER);
        }
        mm::user_alias(address, bytes)
            .map(Ptr::new)
            .ok_or(NtStatus::ACCESS_VIOLATION)
    }

    /// A kernel copy of `bytes`, with the client's first `input_bytes` in it.
    pub(super) fn buffered(
        mode: Mode,
        input: u64,
        input_bytes: u64,
        bytes: u64,
    ) -> Result<Self, NtStatus> {
        if bytes == 0 {
            return Ok(Self::default());
        }
        let source = if input_bytes == 0 {
            Ptr::null()
        } else {
            Self::memory(mode, input, input_bytes)?
        };
        let system =
            pool::allocate_zeroed(bytes, *b"IoSB").ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
        system.copy_from(source, input_bytes);
        Ok(Self {
            system,
            ..Self::default()
        })
    }

    /// The kernel's copy is copied to client memory at the end.
    pub(super) fn with_output(
        self,
        mode: Mode,
        address: u64,
        bytes: u64,
    ) -> Result<Self, NtStatus> {
        if bytes == 0 {
            return Ok(self);
        }
        match Self::memory(mode, address, bytes) {
            Ok(output) => Ok(Self {
                output,
                output_bytes: bytes,
                ..self
            }),
            Err(status) => {
                self.free();
                Err(status)
            }
        }
    }

    /// An MDL for client memory.
    pub(super) fn with_mdl(self, mode: Mode, address: u64, bytes: u64) -> Result<Self, NtStatus> {
        if bytes == 0 {
            return Ok(self);
        }
        let locked = Self::memory(mode, address, bytes).and_then(|_| {
            let mdl = mdl::allocate(address, low32(bytes), pool::SHIM);
            if mdl.is_null() {
                return Err(NtStatus::INSUFFICIENT_RESOURCES);
            }
            if !mdl::lock(mdl) {
                mdl::free(mdl);
                return Err(NtStatus::ACCESS_VIOLATION);
            }
            Ok(mdl)
        });
        match locked {
            Ok(mdl) => Ok(Self { mdl, ..self }),
            Err(status) => {
                self.free();
                Err(status)
            }
        }
    }

    /// Copies what the driver produced, as far as it goes; an error produces nothing.
    pub(super) fn copy_back(&self, status: NtStatus, information: u64) {
        if !status.is_error() && !self.system.is_null() && !self.output.is_null() {
            self.output
                .copy_from(self.system, information.min(self.output_bytes));
        }
    }

    pub(super) fn free(&self) {
        if !self.system.is_null() {
            pool::free(self.system, 0);
        }
        let mut next = self.mdl;
        while !next.is_null() {
            let mdl = next;
            next = mdl.read().Next;
            mdl::free(mdl);
        }
    }
}

/// A device control request's two buffers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Data {
    pub(super) input: u64,
    pub(super) input_bytes: u64,
    pub(super) output: u64,
    pub(super) output_bytes: u64,
}

/// What a control code's method makes of the two buffers.
#[derive(Clone, Copy, Debug)]
pub(super) struct ControlBuffers {
    pub(super) buffers: Buffers,
    /// Parameters.DeviceIoControl.Type3InputBuffer.
    pub(super) type_3: u64,
    /// Irp->UserBuffer.
    pub(super) user_buffer: u64,
}

impl ControlBuffers {
    /// # Errors
    /// ACCESS_VIOLATION, INVALID_PARAMETER, INSUFFICIENT_RESOURCES.
    pub(super) fn new(mode: Mode, method: Method, data: &Data) -> Result<Self, NtStatus> {
        let Data {
            input,
            input_bytes,
            output,
            output_bytes,
        } = *data;
        Ok(match method {
            Method::Buffered => {
                let bytes = input_bytes.max(output_bytes);
                let copy = Buffers::buffered(mode, input, input_bytes, bytes)?;
                Self {
                    buffers: copy.with_output(mode, output, output_bytes)?,
                    type_3: 0,
                    user_buffer: output,
                }
            }
            Method::InDirect | Method::OutDirect => {
                let copy = Buffers::buffered(mode, input, input_bytes, input_bytes)?;
                Self {
                    buffers: copy.with_mdl(mode, output, output_bytes)?,
                    type_3: 0,
                    user_buffer: 0,
                }
            }
            Method::Neither => Self {
                buffers: Buffers::default(),
                type_3: input,
                user_buffer: output,
            },
        })
    }
}

impl Buffers {
    /// The buffer of a read or write, as the device's DO_ flags ask.
    ///
    /// # Errors
    /// ACCESS_VIOLATION, INVALID_PARAMETER, INSUFFICIENT_RESOURCES.
    pub(super) fn of_transfer(
        mode: Mode,
        device_flags: u32,
        is_write: bool,
        address: u64,
        bytes: u64,
    ) -> Result<Self, NtStatus> {
        if device_flags & DO_BUFFERED_IO != 0 {
            if is_write {
                Self::buffered(mode, address, bytes, bytes)
            } else {
                Self::buffered(mode, 0, 0, bytes)?.with_output(mode, address, bytes)
            }
        } else if device_flags & DO_DIRECT_IO != 0 {
            Self::default().with_mdl(mode, address, bytes)
        } else {
            Ok(Self::default())
        }
    }
}
