//! Port access: READ_PORT_* and WRITE_PORT_*.
//!
//! HAL exports on i386; amd64 drivers have `in` and `out` inline, and get the names all the same. Every access exits
//! to the VMM, which decides by policy.

use crate::api::nt_api;
use crate::platform::PortAccess;
use crate::raw::{Ptr, low8, low16};
use crate::shared::platform;
use crate::value::{UChar, ULong, UShort};

/// The port that a pointer-sized port address names: ports have 16 bits, and the processor looks at no more.
fn port<T>(address: Ptr<T>) -> u16 {
    low16(address.addr())
}

fn read(port: u16, width: u8) -> u32 {
    platform().kernel_port(PortAccess {
        port,
        width,
        write: None,
    })
}

fn write(port: u16, width: u8, value: u32) {
    platform().kernel_port(PortAccess {
        port,
        width,
        write: Some(value),
    });
}

nt_api! { module = hal_port;
    /// Reads a byte from a port.
    hal both stdcall irql(ANY_LEVEL) implemented
    fn READ_PORT_UCHAR(port_address: Ptr<u8>) -> UChar {
        low8(u64::from(read(port(port_address), 1)))
    }

    /// Writes a byte to a port.
    hal both stdcall irql(ANY_LEVEL) implemented
    fn WRITE_PORT_UCHAR(port_address: Ptr<u8>, value: UChar) {
        write(port(port_address), 1, u32::from(value));
    }

    /// Reads `count` times from one port into a buffer.
    hal both stdcall irql(ANY_LEVEL) implemented
    fn READ_PORT_BUFFER_UCHAR(port_address: Ptr<u8>, buffer: Ptr<u8>, count: ULong) {
        for at in 0..i64::from(count) {
            buffer.offset(at).write(READ_PORT_UCHAR(port_address));
        }
    }

    /// Writes a buffer to one port, `count` times.
    hal both stdcall irql(ANY_LEVEL) implemented
    fn WRITE_PORT_BUFFER_UCHAR(port_address: Ptr<u8>, buffer: Ptr<u8>, count: ULong) {
        for at in 0..i64::from(count) {
            WRITE_PORT_UCHAR(port_address, buffer.offset(at).read());
        }
    }

    /// Reads 2 bytes from a port.
    hal both stdcall irql(ANY_LEVEL) implemented
    fn READ_PORT_USHORT(port_address: Ptr<u16>) -> UShort {
        low16(u64::from(read(port(port_address), 2)))
    }

    /// Writes 2 bytes to a port.
    hal both stdcall irql(ANY_LEVEL) implemented
    fn WRITE_PORT_USHORT(port_address: Ptr<u16>, value: UShort) {
        write(port(port_address), 2, u32::from(value));
    }

    /// Reads `count` times from one port into a buffer.
    hal both stdcall irql(ANY_LEVEL) implemented
    fn READ_PORT_BUFFER_USHORT(port_address: Ptr<u16>, buffer: Ptr<u16>, count: ULong) {
        for at in 0..i64::from(count) {
            buffer.offset(at).write(READ_PORT_USHORT(port_address));
        }
    }

    /// Writes a buffer to one port, `count` times.
    hal both stdcall irql(ANY_LEVEL) implemented
    fn WRITE_PORT_BUFFER_USHORT(port_address: Ptr<u16>, buffer: Ptr<u16>, count: ULong) {
        for at in 0..i64::from(count) {
            WRITE_PORT_USHORT(port_address, buffer.offset(at).read());
        }
    }

    /// Reads 4 bytes from a port.
    hal both stdcall irql(ANY_LEVEL) implemented
    fn READ_PORT_ULONG(port_address: Ptr<u32>) -> ULong {
        read(port(port_address), 4)
    }

    /// Writes 4 bytes to a port.
    hal both stdcall irql(ANY_LEVEL) implemented
    fn WRITE_PORT_ULONG(port_address: Ptr<u32>, value: ULong) {
        write(port(port_address), 4, value);
    }

    /// Reads `count` times from one port into a buffer.
    hal both stdcall irql(ANY_LEVEL) implemented
    fn READ_PORT_BUFFER_ULONG(port_address: Ptr<u32>, buffer: Ptr<u32>, count: ULong) {
        for at in 0..i64::from(count) {
            buffer.offset(at).write(READ_PORT_ULONG(port_address));
        }
    }

    /// Writes a buffer to one port, `count` times.
    hal both stdcall irql(ANY_LEVEL) implemented
    fn WRITE_PORT_BUFFER_ULONG(port_address: Ptr<u32>, buffer: Ptr<u32>, count: ULong) {
        for at in 0..i64::from(count) {
            WRITE_PORT_ULONG(port_address, buffer.offset(at).read());
        }
    }
}
