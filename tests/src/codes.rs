//! Control codes of the sample drivers (tests/drivers/include) and the NTSTATUS values that tests compare.

/// NTSTATUS values.
pub mod status {
    /// STATUS_SUCCESS.
    pub const SUCCESS: u32 = 0;
    /// STATUS_BUFFER_OVERFLOW, a warning.
    pub const BUFFER_OVERFLOW: u32 = 0x8000_0005;
    /// STATUS_DEVICE_BUSY, a warning.
    pub const DEVICE_BUSY: u32 = 0x8000_0011;
    /// STATUS_UNSUCCESSFUL.
    pub const UNSUCCESSFUL: u32 = 0xC000_0001;
    /// STATUS_ACCESS_VIOLATION.
    pub const ACCESS_VIOLATION: u32 = 0xC000_0005;
    /// STATUS_INVALID_HANDLE.
    pub const INVALID_HANDLE: u32 = 0xC000_0008;
    /// STATUS_INVALID_CID.
    pub const INVALID_CID: u32 = 0xC000_000B;
    /// STATUS_INVALID_PARAMETER.
    pub const INVALID_PARAMETER: u32 = 0xC000_000D;
    /// STATUS_NO_SUCH_DEVICE.
    pub const NO_SUCH_DEVICE: u32 = 0xC000_000E;
    /// STATUS_INVALID_DEVICE_REQUEST.
    pub const INVALID_DEVICE_REQUEST: u32 = 0xC000_0010;
    /// STATUS_END_OF_FILE.
    pub const END_OF_FILE: u32 = 0xC000_0011;
    /// STATUS_BUFFER_TOO_SMALL.
    pub const BUFFER_TOO_SMALL: u32 = 0xC000_0023;
    /// STATUS_OBJECT_NAME_NOT_FOUND.
    pub const OBJECT_NAME_NOT_FOUND: u32 = 0xC000_0034;
    /// STATUS_OBJECT_NAME_COLLISION.
    pub const OBJECT_NAME_COLLISION: u32 = 0xC000_0035;
    /// STATUS_PRIVILEGED_INSTRUCTION.
    pub const PRIVILEGED_INSTRUCTION: u32 = 0xC000_0096;
    /// STATUS_INSUFFICIENT_RESOURCES.
    pub const INSUFFICIENT_RESOURCES: u32 = 0xC000_009A;
    /// STATUS_DEVICE_NOT_READY.
    pub const DEVICE_NOT_READY: u32 = 0xC000_00A3;
    /// STATUS_INVALID_DEVICE_STATE.
    pub const INVALID_DEVICE_STATE: u32 = 0xC000_0184;
    /// STATUS_DEVICE_POWERED_OFF.
    pub const DEVICE_POWERED_OFF: u32 = 0x8000_000F;
    /// STATUS_CANCELLED.
    pub const CANCELLED: u32 = 0xC000_0120;
    /// STATUS_INVALID_BUFFER_SIZE.
    pub const INVALID_BUFFER_SIZE: u32 = 0xC000_0206;
}

/// tests/drivers/include/ioperm.h
pub mod ioperm {
    /// Allows all ports.
    pub const GRANT_ALL: u32 = 0x0022_2000;
    /// Allows u16 first to u16 last.
    pub const GRANT_RANGE: u32 = 0x0022_2004;
    /// Reads a map: 8192 bytes.
    pub const QUERY_MAP: u32 = 0x0022_2008;
    /// Takes the map away from the process.
    pub const REVOKE: u32 = 0x0022_200C;
    /// u32 number, 8192 bytes.
    pub const SET_MAP: u32 = 0x0022_2010;
    /// u32 process id (0: current), u32 map number.
    pub const SET_PROCESS: u32 = 0x0022_2014;
    /// Bytes of a map.
    pub const MAP_BYTES: u32 = 8192;
}

/// tests/drivers/include/irq.h
pub mod irq {
    /// u32 line, u32 mode (0 level-sensitive, 1 latched), u32 whether the service routine disclaims.
    pub const CONNECT: u32 = 0x0022_2000;
    /// Disconnects.
    pub const DISCONNECT: u32 = 0x0022_2004;
    /// Out: interrupts, DPCs, the service routine's IRQL, the IRQL that it should have; each u32.
    pub const COUNTS: u32 = 0x0022_2008;
    /// Waits for a DPC; out as COUNTS.
    pub const WAIT: u32 = 0x0022_200C;
    /// u32 IRQL: spins there until there was an interrupt; out as COUNTS.
    pub const SPIN: u32 = 0x0022_2010;
    /// u32 loops: spins synchronized with the interrupt; out u32: interrupts meanwhile.
    pub const HOLD: u32 = 0x0022_2014;
    /// As CONNECT, by IoConnectInterruptEx.
    pub const CONNECT_EX: u32 = 0x0022_2018;
    /// u32: 1 IoReportInterruptActive, 0 IoReportInterruptInactive.
    pub const ACTIVE: u32 = 0x0022_201C;
}

/// tests/drivers/include/edu.h
pub mod edu {
    /// u64 physical address, u32 line, u32 0.
    pub const START: u32 = 0x0022_2000;
    /// u32 offset, u32 times; out u32: the last value.
    pub const READ: u32 = 0x0022_2004;
    /// u32 offset, u32 value.
    pub const WRITE: u32 = 0x0022_2008;
    /// Waits for a DPC; out: interrupts, DPCs, all statuses, runs that disclaimed; each u32.
    pub const WAIT: u32 = 0x0022_200C;
    /// Bytes, at most 4095; out: as many, as they came back by the device's DMA.
    pub const COPY: u32 = 0x0022_2010;
    /// u64 logical address, u32 bytes, u32 whether to memory; out u64: the common buffer's logical address,
    /// then bytes of its second half.
    pub const TRANSFER: u32 = 0x0022_2014;
    /// Out: slot, first BAR, line, pin, subsystem, class and revision of the device; each u32.
    pub const FIND: u32 = 0x0022_2018;
    /// u32 slot, u32 offset, u32 0; out u32.
    pub const GET_CONFIG: u32 = 0x0022_201C;
    /// u32 slot, u32 offset, u32 value.
    pub const SET_CONFIG: u32 = 0x0022_2020;
    /// Undoes START.
    pub const STOP: u32 = 0x0022_2024;
}

/// tests/drivers/include/msr.h
pub mod msr {
    /// u64 0, u32 number, u32 0; out u64.
    pub const READ: u32 = 0x0022_2000;
    /// u64 value, u32 number, u32 0.
    pub const WRITE: u32 = 0x0022_2004;
}

/// tests/drivers/include/portio.h
pub mod portio {
    /// u32 port, u32 width.
    pub const READ_PORT: u32 = 0x0022_2000;
    /// u32 port, u32 width, u32 value.
    pub const WRITE_PORT: u32 = 0x0022_2004;
    /// u32 port, u32 width.
    pub const READ_PORT_BUFFER: u32 = 0x0022_2008;
    /// u32 port, u32 width, values.
    pub const WRITE_PORT_BUFFER: u32 = 0x0022_200C;
    /// u64 address, u32 length, u32 width.
    pub const READ_MEMORY: u32 = 0x0022_2010;
    /// u64 address, u32 length, u32 width, bytes.
    pub const WRITE_MEMORY: u32 = 0x0022_2014;
    /// u64 address, u32 length, u32 0; answers with the mapping.
    pub const MAP: u32 = 0x0022_2018;
    /// u32 mapping.
    pub const UNMAP: u32 = 0x0022_201C;
    /// u32 mapping, u32 offset, u32 width.
    pub const READ_MAPPED: u32 = 0x0022_2020;
    /// u32 mapping, u32 offset, u32 width, u32 value.
    pub const WRITE_MAPPED: u32 = 0x0022_2024;
    /// u64 address, u32 interface, u32 bus, u32 space, u32 0.
    pub const TRANSLATE: u32 = 0x0022_2028;
    /// u32 port, u32 width.
    pub const READ_INLINE: u32 = 0x0022_202C;
    /// u32 port, u32 width, u32 value.
    pub const WRITE_INLINE: u32 = 0x0022_2030;
}

/// tests/drivers/include/pnp.h
pub mod pnp {
    /// Answers with struct pnp_report.
    pub const REPORT: u32 = 0x0022_2000;
    /// u32 offset.
    pub const READ_PORT: u32 = 0x0022_2004;
    /// u32 offset, u32 byte.
    pub const WRITE_PORT: u32 = 0x0022_2008;
    /// u32 offset.
    pub const READ_MEMORY: u32 = 0x0022_200C;
    /// u32 offset, u32 value.
    pub const WRITE_MEMORY: u32 = 0x0022_2010;
    /// u32 DEVICE_REGISTRY_PROPERTY.
    pub const PROPERTY: u32 = 0x0022_2014;
    /// Reports a failure of the device.
    pub const FAIL: u32 = 0x0022_2018;
    /// Bytes of struct pnp_report.
    pub const REPORT_BYTES: u32 = 64;
    /// enum pnp_state.
    pub const STARTED: u32 = 1;
    /// enum pnp_state.
    pub const STOP_PENDING: u32 = 2;
    /// enum pnp_state.
    pub const STOPPED: u32 = 3;
    /// enum pnp_state.
    pub const SURPRISE_REMOVED: u32 = 5;
}

/// tests/drivers/include/echo.h
pub mod echo {
    /// METHOD_BUFFERED.
    pub const BUFFERED: u32 = 0x0022_2000;
    /// METHOD_IN_DIRECT.
    pub const IN_DIRECT: u32 = 0x0022_2005;
    /// METHOD_OUT_DIRECT.
    pub const OUT_DIRECT: u32 = 0x0022_200A;
    /// METHOD_NEITHER.
    pub const NEITHER: u32 = 0x0022_200F;
    /// u32 FNV-1a hash, u32 input length, u32 output length of the last transfer.
    pub const QUERY_HASH: u32 = 0x0022_2010;
    /// u32 delay in ms, u32 tag.
    pub const PEND: u32 = 0x0022_2040;
    /// u32 tag.
    pub const WAIT: u32 = 0x0022_2044;
    /// Completes all that wait.
    pub const RELEASE: u32 = 0x0022_2048;
    /// u32 status, u32 information, u32 fill.
    pub const COMPLETE: u32 = 0x0022_204C;
    /// METHOD_OUT_DIRECT; u32: its low byte fills the output.
    pub const FILL: u32 = 0x0022_2052;
    /// METHOD_OUT_DIRECT; u32 delay in ms, u32: its low byte fills the output then.
    pub const PEND_FILL: u32 = 0x0022_2056;

    /// What the driver makes of `bytes` with `key`.
    #[must_use]
    pub fn coded(bytes: &[u8], key: u8) -> Vec<u8> {
        (0..=255_u8)
            .cycle()
            .zip(bytes)
            .map(|(index, byte)| (byte ^ key).wrapping_add(index))
            .collect()
    }

    /// FNV-1a.
    #[must_use]
    pub fn hash(bytes: &[u8]) -> u32 {
        bytes.iter().fold(2_166_136_261, |hash, byte| {
            (hash ^ u32::from(*byte)).wrapping_mul(16_777_619)
        })
    }
}

/// tests/drivers/include/faulty.h
pub mod faulty {
    /// Writes to address 0.
    pub const NULL_WRITE: u32 = 0x0022_2000;
    /// Divides by zero.
    pub const DIVIDE_BY_ZERO: u32 = 0x0022_2004;
    /// Calls a PASSIVE_LEVEL function at DISPATCH_LEVEL.
    pub const PASSIVE_AT_DISPATCH: u32 = 0x0022_2008;
    /// Returns at DISPATCH_LEVEL.
    pub const RETURN_RAISED: u32 = 0x0022_200C;
    /// Loops at PASSIVE_LEVEL.
    pub const INFINITE_LOOP: u32 = 0x0022_2010;
    /// Recurses for ever.
    pub const STACK_OVERFLOW: u32 = 0x0022_2014;
    /// Completes a request twice.
    pub const DOUBLE_COMPLETION: u32 = 0x0022_2018;
    /// Writes 16 bytes behind a pool block.
    pub const POOL_OVERRUN: u32 = 0x0022_201C;
    /// Frees a pool block twice.
    pub const DOUBLE_FREE: u32 = 0x0022_2020;
    /// Writes to its own code.
    pub const WRITE_CODE: u32 = 0x0022_2024;
    /// Calls into its data.
    pub const EXECUTE_DATA: u32 = 0x0022_2028;
    /// u32 code, u32 0, 4 times u64.
    pub const BUGCHECK: u32 = 0x0022_202C;
    /// Calls an import that Ringfence does not have.
    pub const MISSING_IMPORT: u32 = 0x0022_2030;
    /// u32 port, u32 count.
    pub const PORT_FLOOD: u32 = 0x0022_2034;
    /// u32 unused, u32 count.
    pub const PRINT_FLOOD: u32 = 0x0022_2038;
    /// Leaves pool, a device and a link behind at unload.
    pub const LEAK: u32 = 0x0022_203C;
    /// Loops at HIGH_LEVEL.
    pub const SPIN_RAISED: u32 = 0x0022_2040;
    /// Calls address 0.
    pub const CALL_NULL: u32 = 0x0022_2044;
    /// int 29h.
    pub const FAST_FAIL: u32 = 0x0022_2048;
    /// STATUS_PENDING, never completed.
    pub const LOST_REQUEST: u32 = 0x0022_204C;
    /// ud2.
    pub const ILLEGAL_INSTRUCTION: u32 = 0x0022_2050;
    /// Loops with interrupts off.
    pub const SPIN_CLI: u32 = 0x0022_2054;
    /// STATUS_SUCCESS.
    pub const NOTHING: u32 = 0x0022_2058;
    /// Locks the pages of its input.
    pub const LEAVE_LOCKED: u32 = 0x0022_205F;
    /// Never returns, and calls the kernel again and again.
    pub const LOOP_OF_CALLS: u32 = 0x0022_2060;
}

/// tests/drivers/include/kmdf.h
pub mod kmdf {
    /// Key of reads.
    pub const READ_KEY: u8 = 0x44;
    /// METHOD_BUFFERED.
    pub const BUFFERED: u32 = 0x0022_2000;
    /// METHOD_IN_DIRECT.
    pub const IN_DIRECT: u32 = 0x0022_2005;
    /// METHOD_OUT_DIRECT.
    pub const OUT_DIRECT: u32 = 0x0022_200A;
    /// METHOD_NEITHER.
    pub const NEITHER: u32 = 0x0022_200F;
    /// Output: ten u32.
    pub const QUERY: u32 = 0x0022_2010;
    /// u32 milliseconds.
    pub const TIMER: u32 = 0x0022_2014;
    /// u32.
    pub const WORK: u32 = 0x0022_2018;
    /// u32.
    pub const WAIT: u32 = 0x0022_201C;
    /// Output: u32, how many.
    pub const RELEASE: u32 = 0x0022_2020;
    /// Input: a value's name.
    pub const STRING: u32 = 0x0022_2024;
    /// u32: 0 purges, 1 starts.
    pub const QUEUE: u32 = 0x0022_2028;
}
