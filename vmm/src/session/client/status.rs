//! NTSTATUS values that the channel answers with itself.

/// STATUS_INVALID_PARAMETER: the request contradicts itself.
pub const INVALID_PARAMETER: u32 = 0xC000_000D;
/// STATUS_INVALID_HANDLE.
pub const INVALID_HANDLE: u32 = 0xC000_0008;
/// STATUS_INVALID_CID: the client has no such process.
pub const INVALID_CID: u32 = 0xC000_000B;
/// STATUS_QUOTA_EXCEEDED: the client has too much under way.
pub const QUOTA_EXCEEDED: u32 = 0xC000_0044;
/// STATUS_INSUFFICIENT_RESOURCES: the guest, or what others leave of it, is too small.
pub const INSUFFICIENT_RESOURCES: u32 = 0xC000_009A;
/// STATUS_DEVICE_NOT_READY: the driver has crashed, and is started again later.
pub const DEVICE_NOT_READY: u32 = 0xC000_00A3;
/// STATUS_IO_TIMEOUT: the driver hung.
pub const IO_TIMEOUT: u32 = 0xC000_00B5;
/// STATUS_NOT_SUPPORTED: unknown opcode, query or version.
pub const NOT_SUPPORTED: u32 = 0xC000_00BB;
/// STATUS_NAME_TOO_LONG.
pub const NAME_TOO_LONG: u32 = 0xC000_0106;
/// STATUS_INVALID_BUFFER_SIZE: a transfer longer than a request may have.
pub const INVALID_BUFFER_SIZE: u32 = 0xC000_0206;
/// STATUS_NOT_FOUND: there is nothing to cancel.
pub const NOT_FOUND: u32 = 0xC000_0225;
/// STATUS_DEVICE_REMOVED: the driver was shut down.
pub const DEVICE_REMOVED: u32 = 0xC000_02B6;
/// STATUS_DRIVER_PROCESS_TERMINATED: the driver crashed.
pub const DRIVER_PROCESS_TERMINATED: u32 = 0xC000_0450;
/// STATUS_BUFFER_TOO_SMALL.
pub const BUFFER_TOO_SMALL: u32 = 0xC000_0023;
/// STATUS_ACCESS_DENIED: the socket's peer may not use the driver.
pub const ACCESS_DENIED: u32 = 0xC000_0022;
