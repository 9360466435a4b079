//! The blocking calls.

use abi::client::{Opcode, QUERY_STATISTICS, Statistics, TOKEN_BYTES};
use zerocopy::FromBytes;

use crate::connection::Connection;
use crate::error::Error;
use crate::request::{Completion, Notify, Request};

/// A handle of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle(pub u64);

/// Width of a port access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Width {
    /// 1 byte.
    Byte = 1,
    /// 2 bytes.
    Word = 2,
    /// 4 bytes.
    Dword = 4,
}

impl Connection {
    /// Makes a request and waits for it, however long that takes. Whatever the driver says is in the result.
    ///
    /// # Errors
    /// The connection's end.
    pub fn call(&self, request: &Request<'_>) -> Result<Completion, Error> {
        let tag = self.submit(request, Notify::Wait)?;
        self.wait(tag)
    }

    fn checked(&self, request: &Request<'_>) -> Result<Completion, Error> {
        let completion = self.call(request)?;
        if completion.is_error() {
            return Err(Error::Status(completion.status));
        }
        Ok(completion)
    }

    /// Opens a device, for reading and writing: `\\.\NAME` or an NT path.
    ///
    /// # Errors
    /// What the guest, or the driver, says; the connection's end.
    pub fn open(&self, path: &str) -> Result<Handle, Error> {
        self.open_for(path, 0)
    }

    /// As [`Self::open`], with the access wanted (ACCESS_MASK).
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn open_for(&self, path: &str, access: u32) -> Result<Handle, Error> {
        let name: Vec<u8> = path.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let request = Request {
            code: access,
            input: &name,
            ..Request::new(Opcode::Open)
        };
        Ok(Handle(self.checked(&request)?.value))
    }

    /// Closes a handle.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn close(&self, handle: Handle) -> Result<(), Error> {
        self.with_handle(Opcode::Close, handle)
    }

    /// IRP_MJ_FLUSH_BUFFERS.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn flush(&self, handle: Handle) -> Result<(), Error> {
        self.with_handle(Opcode::Flush, handle)
    }

    fn with_handle(&self, opcode: Opcode, handle: Handle) -> Result<(), Error> {
        let request = Request {
            handle: handle.0,
            ..Request::new(opcode)
        };
        self.checked(&request).map(|_| ())
    }

    /// DeviceIoControl. What the driver says, also a failure, is in the result.
    ///
    /// # Errors
    /// The connection's end.
    pub fn ioctl(
        &self,
        handle: Handle,
        code: u32,
        input: &[u8],
        output_bytes: u32,
    ) -> Result<Completion, Error> {
        self.call(&Request::ioctl(handle.0, code, input, output_bytes))
    }

    /// ReadFile.
    ///
    /// # Errors
    /// The connection's end.
    pub fn read(&self, handle: Handle, bytes: u32, offset: u64) -> Result<Completion, Error> {
        self.call(&Request::read(handle.0, bytes, offset))
    }

    /// WriteFile.
    ///
    /// # Errors
    /// The connection's end.
    pub fn write(&self, handle: Handle, data: &[u8], offset: u64) -> Result<Completion, Error> {
        self.call(&Request::write(handle.0, data, offset))
    }

    /// Asks the driver to cancel a request; the request still completes, usually with STATUS_CANCELLED.
    ///
    /// # Errors
    /// STATUS_NOT_FOUND when it is completed already; the connection's end.
    pub fn cancel(&self, tag: u64) -> Result<(), Error> {
        let request = Request {
            argument: tag,
            ..Request::new(Opcode::Cancel)
        };
        self.checked(&request).map(|_| ())
    }

    /// `in`, under this process's I/O permission map.
    ///
    /// # Errors
    /// STATUS_PRIVILEGED_INSTRUCTION when the map denies it; the connection's end.
    pub fn port_in(&self, port: u16, width: Width) -> Result<u32, Error> {
        let request = Request {
            code: u32::from(port),
            argument: width as u64,
            ..Request::new(Opcode::PortIn)
        };
        let value = self.checked(&request)?.value;
        u32::try_from(value).map_err(|_| Error::Protocol("a port's value has more than 32 bits"))
    }

    /// `out`, under this process's I/O permission map.
    ///
    /// # Errors
    /// As for [`Self::port_in`].
    pub fn port_out(&self, port: u16, width: Width, value: u32) -> Result<(), Error> {
        let request = Request {
            code: u32::from(port),
            argument: width as u64 | u64::from(value) << 32,
            ..Request::new(Opcode::PortOut)
        };
        self.checked(&request).map(|_| ())
    }

    /// Makes a further process in the guest, for [`Request::process`].
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn attach(&self) -> Result<u32, Error> {
        let value = self.checked(&Request::new(Opcode::Attach))?.value;
        u32::try_from(value).map_err(|_| Error::Protocol("a process id has more than 32 bits"))
    }

    /// Ends a process that [`Self::attach`] has made.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn exit(&self, process: u32) -> Result<(), Error> {
        let request = Request {
            process,
            ..Request::new(Opcode::Exit)
        };
        self.checked(&request).map(|_| ())
    }

    /// The token by which another connection may use a process of this one; 0: the connection's own.
    ///
    /// # Errors
    /// As for [`Self::open`]; STATUS_INVALID_CID for a process that is not this connection's own.
    pub fn share(&self, process: u32) -> Result<[u8; TOKEN_BYTES], Error> {
        let request = Request {
            process,
            output_bytes: u32::try_from(TOKEN_BYTES).unwrap_or(0),
            ..Request::new(Opcode::Share)
        };
        let token = self.checked(&request)?.output;
        <[u8; TOKEN_BYTES]>::try_from(token).map_err(|_| Error::Protocol("a token is cut short"))
    }

    /// Uses a process of another connection from now on, for [`Request::process`]; returns its id. The other connection
    /// ends the process; then it is unknown here too (STATUS_INVALID_CID).
    ///
    /// # Errors
    /// As for [`Self::open`]; STATUS_INVALID_CID if there is no such token.
    pub fn join(&self, token: &[u8; TOKEN_BYTES]) -> Result<u32, Error> {
        let request = Request {
            input: token,
            ..Request::new(Opcode::Join)
        };
        let value = self.checked(&request)?.value;
        u32::try_from(value).map_err(|_| Error::Protocol("a process id has more than 32 bits"))
    }

    /// Uses a handle that the owner of a joined process has opened there; for [`Request::process`] `process`. The owner
    /// closes it; then it is unknown here too (STATUS_INVALID_HANDLE).
    ///
    /// # Errors
    /// As for [`Self::open`]; STATUS_INVALID_CID for a process that this connection has not joined, STATUS_INVALID_HANDLE
    /// if its owner has no such handle.
    pub fn borrow(&self, process: u32, handle: Handle) -> Result<Handle, Error> {
        let request = Request {
            process,
            handle: handle.0,
            ..Request::new(Opcode::Borrow)
        };
        self.checked(&request).map(|done| Handle(done.value))
    }

    /// Counters of the whole machine.
    ///
    /// # Errors
    /// The connection's end.
    pub fn statistics(&self) -> Result<Statistics, Error> {
        let request = Request {
            code: QUERY_STATISTICS,
            output_bytes: u32::try_from(size_of::<Statistics>()).unwrap_or(0),
            ..Request::new(Opcode::Query)
        };
        let completion = self.checked(&request)?;
        Statistics::read_from_bytes(&completion.output)
            .map_err(|_| Error::Protocol("the counters are cut short"))
    }
}
