//! Device registers in memory: READ_REGISTER_* and WRITE_REGISTER_*.
//!
//! Exports of ntoskrnl on i386; amd64 drivers have them inline, and get the names all the same. Each access is one
//! access of its width, made by an instruction that the compiler neither drops nor splits.

use crate::api::nt_api;
use crate::raw::{Ptr, volatile_read, volatile_write};
use crate::value::{UChar, ULong, UShort};

/// Whether the access can be a volatile one; a misaligned register, or NULL, is accessed as memory is.
fn is_aligned<T>(register: Ptr<T>) -> bool {
    !register.is_null() && register.addr().is_multiple_of(size_of::<T>() as u64)
}

fn read<T: Copy>(register: Ptr<T>) -> T {
    if is_aligned(register) {
        volatile_read(register.addr())
    } else {
        register.read()
    }
}

fn write<T: Copy>(register: Ptr<T>, value: T) {
    if is_aligned(register) {
        volatile_write(register.addr(), value);
    } else {
        register.write(value);
    }
}

nt_api! { module = hal_register;
    /// Reads a register of 1 byte.
    either both stdcall irql(ANY_LEVEL) implemented
    fn READ_REGISTER_UCHAR(register: Ptr<u8>) -> UChar {
        read(register)
    }

    /// Writes a register of 1 byte.
    either both stdcall irql(ANY_LEVEL) implemented
    fn WRITE_REGISTER_UCHAR(register: Ptr<u8>, value: UChar) {
        write(register, value);
    }

    /// Reads `count` consecutive registers into a buffer.
    either both stdcall irql(ANY_LEVEL) implemented
    fn READ_REGISTER_BUFFER_UCHAR(register: Ptr<u8>, buffer: Ptr<u8>, count: ULong) {
        for at in 0..i64::from(count) {
            buffer.offset(at).write(read(register.offset(at)));
        }
    }

    /// Writes a buffer to `count` consecutive registers.
    either both stdcall irql(ANY_LEVEL) implemented
    fn WRITE_REGISTER_BUFFER_UCHAR(register: Ptr<u8>, buffer: Ptr<u8>, count: ULong) {
        for at in 0..i64::from(count) {
            write(register.offset(at), buffer.offset(at).read());
        }
    }

    /// Reads a register of 2 bytes.
    either both stdcall irql(ANY_LEVEL) implemented
    fn READ_REGISTER_USHORT(register: Ptr<u16>) -> UShort {
        read(register)
    }

    /// Writes a register of 2 bytes.
    either both stdcall irql(ANY_LEVEL) implemented
    fn WRITE_REGISTER_USHORT(register: Ptr<u16>, value: UShort) {
        write(register, value);
    }

    /// Reads `count` consecutive registers into a buffer.
    either both stdcall irql(ANY_LEVEL) implemented
    fn READ_REGISTER_BUFFER_USHORT(register: Ptr<u16>, buffer: Ptr<u16>, count: ULong) {
        for at in 0..i64::from(count) {
            buffer.offset(at).write(read(register.offset(at)));
        }
    }

    /// Writes a buffer to `count` consecutive registers.
    either both stdcall irql(ANY_LEVEL) implemented
    fn WRITE_REGISTER_BUFFER_USHORT(register: Ptr<u16>, buffer: Ptr<u16>, count: ULong) {
        for at in 0..i64::from(count) {
            write(register.offset(at), buffer.offset(at).read());
        }
    }

    /// Reads a register of 4 bytes.
    either both stdcall irql(ANY_LEVEL) implemented
    fn READ_REGISTER_ULONG(register: Ptr<u32>) -> ULong {
        read(register)
    }

    /// Writes a register of 4 bytes.
    either both stdcall irql(ANY_LEVEL) implemented
    fn WRITE_REGISTER_ULONG(register: Ptr<u32>, value: ULong) {
        write(register, value);
    }

    /// Reads `count` consecutive registers into a buffer.
    either both stdcall irql(ANY_LEVEL) implemented
    fn READ_REGISTER_BUFFER_ULONG(register: Ptr<u32>, buffer: Ptr<u32>, count: ULong) {
        for at in 0..i64::from(count) {
            buffer.offset(at).write(read(register.offset(at)));
        }
    }

    /// Writes a buffer to `count` consecutive registers.
    either both stdcall irql(ANY_LEVEL) implemented
    fn WRITE_REGISTER_BUFFER_ULONG(register: Ptr<u32>, buffer: Ptr<u32>, count: ULong) {
        for at in 0..i64::from(count) {
            write(register.offset(at), buffer.offset(at).read());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtl::test_strings::at;

    #[test]
    fn buffers_go_to_consecutive_registers() {
        let mut aligned = [0_u32; 2];
        let base = at(&mut aligned).cast::<u16>();
        let mut buffer = [1_u16, 2, 3];
        WRITE_REGISTER_BUFFER_USHORT(base.offset(1), at(&mut buffer), 3);
        assert_eq!(base.read_slice(4), [0, 1, 2, 3]);
        WRITE_REGISTER_UCHAR(base.cast(), 0xAB);
        assert_eq!(READ_REGISTER_ULONG(base.cast()), 0x1_00AB);
        READ_REGISTER_BUFFER_USHORT(base, at(&mut buffer), 2);
        assert_eq!(buffer, [0xAB, 1, 3]);
        assert_eq!(READ_REGISTER_ULONG(base.offset(1).cast()), 0x2_0001);
    }
}
