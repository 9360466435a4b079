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

/// One string instruction: as few exits as the machine makes of it, and the policy decides about each element in order.
/// Measured at CPL 3 on Linux KVM: `rep ins` exits once for up to 1 KiB, with a count; `rep outs` exits for each element.
fn string(port: u16, width: u8, buffer: u64, count: u32, is_write: bool) {
    if count > 0 {
        platform().kernel_port_string(port, width, buffer, count, is_write);
    }
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
        string(port(port_address), 1, buffer.addr(), count, false);
    }

    /// Writes a buffer to one port, `count` times.
    hal both stdcall irql(ANY_LEVEL) implemented
    fn WRITE_PORT_BUFFER_UCHAR(port_address: Ptr<u8>, buffer: Ptr<u8>, count: ULong) {
        string(port(port_address), 1, buffer.addr(), count, true);
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
        string(port(port_address), 2, buffer.addr(), count, false);
    }

    /// Writes a buffer to one port, `count` times.
    hal both stdcall irql(ANY_LEVEL) implemented
    fn WRITE_PORT_BUFFER_USHORT(port_address: Ptr<u16>, buffer: Ptr<u16>, count: ULong) {
        string(port(port_address), 2, buffer.addr(), count, true);
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
        string(port(port_address), 4, buffer.addr(), count, false);
    }

    /// Writes a buffer to one port, `count` times.
    hal both stdcall irql(ANY_LEVEL) implemented
    fn WRITE_PORT_BUFFER_ULONG(port_address: Ptr<u32>, buffer: Ptr<u32>, count: ULong) {
        string(port(port_address), 4, buffer.addr(), count, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtl::test_strings::at;
    use crate::test_platform::{api, machine};

    #[test]
    fn accesses_have_their_width_and_order() {
        let machine = machine();
        assert_eq!(api("READ_PORT_UCHAR", &[0x378]) & 0xFF, 0x78);
        assert_eq!(
            api("READ_PORT_USHORT", &[0xFFFF_FFFF_0000_0378]) & 0xFFFF,
            0x378
        );
        let mut buffer = [0x1234_u16, 0x5678];
        let address = at(&mut buffer).addr();
        api("WRITE_PORT_BUFFER_USHORT", &[0x1F0, address, 2]);
        api("READ_PORT_BUFFER_USHORT", &[0x1F0, address, 2]);
        assert_eq!(buffer, [0x1F0; 2]);
        api("WRITE_PORT_ULONG", &[0xCF8, 0x8000_0000]);
        let access = |port, width, write| PortAccess { port, width, write };
        let expected = [
            access(0x378, 1, None),
            access(0x378, 2, None),
            access(0x1F0, 2, Some(0x1234)),
            access(0x1F0, 2, Some(0x5678)),
            access(0x1F0, 2, None),
            access(0x1F0, 2, None),
            access(0xCF8, 4, Some(0x8000_0000)),
        ];
        assert_eq!(*machine.fake.ports.lock().unwrap(), expected);
    }
}
