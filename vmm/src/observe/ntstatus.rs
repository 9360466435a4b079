//! NTSTATUS values by name and meaning.
//!
//! Names, numbers and meanings are those of the WDK's ntstatus.h and of \[MS-ERREF\] 2.3.1, reworded shortly.

use std::fmt;

/// An NTSTATUS.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct NtStatus(pub u32);

impl NtStatus {
    /// STATUS_SUCCESS.
    pub const SUCCESS: Self = Self(0);
    /// STATUS_INVALID_HANDLE.
    pub const INVALID_HANDLE: Self = Self(0xC000_0008);
    /// STATUS_NO_SUCH_DEVICE.
    pub const NO_SUCH_DEVICE: Self = Self(0xC000_000E);
    /// STATUS_INVALID_PARAMETER
    pub const INVALID_PARAMETER: Self = Self(0xC000_000D);
    /// STATUS_INVALID_DEVICE_STATE.
    #[cfg(test)]
    pub const INVALID_DEVICE_STATE: Self = Self(0xC000_0184);
    /// STATUS_OBJECT_NAME_NOT_FOUND.
    pub const OBJECT_NAME_NOT_FOUND: Self = Self(0xC000_0034);
    /// STATUS_PRIVILEGED_INSTRUCTION: what a process gets for a port access that its IOPM denies.
    pub const PRIVILEGED_INSTRUCTION: Self = Self(0xC000_0096);

    /// NT_SUCCESS: success and informational values; warnings and errors are not.
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.0 < 0x8000_0000
    }

    /// NT's name; `None` for a value that is not in the table (drivers make up their own).
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        self.entry().map(|entry| entry.1)
    }

    /// What it means, as part of a sentence.
    #[must_use]
    pub fn meaning(self) -> Option<&'static str> {
        self.entry().map(|entry| entry.2)
    }

    fn entry(self) -> Option<&'static (u32, &'static str, &'static str)> {
        TABLE
            .binary_search_by_key(&self.0, |entry| entry.0)
            .ok()
            .and_then(|index| TABLE.get(index))
    }

    /// `STATUS_NAME (0x...)`, with the meaning if it is known.
    #[must_use]
    pub fn explained(self) -> String {
        match self.entry() {
            Some((code, name, meaning)) => format!("{name} (0x{code:08x}): {meaning}"),
            None => self.to_string(),
        }
    }
}

/// The name, or `NTSTATUS 0x...` for a value without one.
impl fmt::Display for NtStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "NTSTATUS 0x{:08x}", self.0),
        }
    }
}

impl fmt::Debug for NtStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Sorted by number.
#[rustfmt::skip]
const TABLE: &[(u32, &str, &str)] = &[
    (0x0000_0000, "STATUS_SUCCESS", "success"),
    (0x0000_0001, "STATUS_WAIT_1", "the second object of the wait was signaled"),
    (0x0000_0080, "STATUS_ABANDONED", "the wait ended because a mutex's owner went away"),
    (0x0000_00C0, "STATUS_USER_APC", "an APC ended the wait"),
    (0x0000_0100, "STATUS_KERNEL_APC", "a kernel APC interrupted the wait"),
    (0x0000_0101, "STATUS_ALERTED", "the wait was alerted"),
    (0x0000_0102, "STATUS_TIMEOUT", "the time given for the wait is over"),
    (0x0000_0103, "STATUS_PENDING", "the request is not finished; it completes later"),
    (0x0000_0104, "STATUS_REPARSE", "the name must be parsed again"),
    (0x0000_0105, "STATUS_MORE_ENTRIES", "there are more entries than fit the buffer"),
    (0x0000_0107, "STATUS_SOME_NOT_MAPPED", "some characters could not be converted"),
    (0x0000_0108, "STATUS_OPLOCK_BREAK_IN_PROGRESS", "an oplock is being broken"),
    (0x0000_010B, "STATUS_NOTIFY_CLEANUP", "the watched handle was closed"),
    (0x0000_010C, "STATUS_NOTIFY_ENUM_DIR", "the key was notified of a change"),
    (0x0000_0117, "STATUS_BUFFER_ALL_ZEROS", "the buffer holds nothing but zeros"),
    (0x0000_0215, "STATUS_OPLOCK_SWITCHED_TO_NEW_HANDLE", "the oplock is another handle's with the same key now"),
    (0x4000_0000, "STATUS_OBJECT_NAME_EXISTS", "an object of that name existed already"),
    (0x4000_0003, "STATUS_IMAGE_NOT_AT_BASE", "the image was loaded at another address than it was linked for"),
    (0x4000_0024, "STATUS_NO_YIELD_PERFORMED", "no other thread was ready to run"),
    (0x8000_0001, "STATUS_GUARD_PAGE_VIOLATION", "a guard page was touched"),
    (0x8000_0002, "STATUS_DATATYPE_MISALIGNMENT", "an address is not aligned as its type demands"),
    (0x8000_0003, "STATUS_BREAKPOINT", "a breakpoint was reached"),
    (0x8000_0004, "STATUS_SINGLE_STEP", "a single-step trap occurred"),
    (0x8000_0005, "STATUS_BUFFER_OVERFLOW", "the output buffer holds only a part of the data"),
    (0x8000_0006, "STATUS_NO_MORE_FILES", "there are no more entries"),
    (0x8000_000D, "STATUS_PARTIAL_COPY", "only a part of the data was copied"),
    (0x8000_000F, "STATUS_DEVICE_POWERED_OFF", "the device is in a low power state"),
    (0x8000_0011, "STATUS_DEVICE_BUSY", "the device is in use"),
    (0x8000_0014, "STATUS_EA_LIST_INCONSISTENT", "extended attributes are malformed"),
    (0x8000_001A, "STATUS_NO_MORE_ENTRIES", "there are no more entries"),
    (0xC000_0001, "STATUS_UNSUCCESSFUL", "the driver failed the request without saying why"),
    (0xC000_0002, "STATUS_NOT_IMPLEMENTED", "the request is not implemented"),
    (0xC000_0003, "STATUS_INVALID_INFO_CLASS", "the information class is not known"),
    (0xC000_0004, "STATUS_INFO_LENGTH_MISMATCH", "the buffer's length does not fit the information class"),
    (0xC000_0005, "STATUS_ACCESS_VIOLATION", "an address was used that may not be used that way"),
    (0xC000_0006, "STATUS_IN_PAGE_ERROR", "a page could not be read in"),
    (0xC000_0008, "STATUS_INVALID_HANDLE", "the handle is not open"),
    (0xC000_000B, "STATUS_INVALID_CID", "no process or thread has that id"),
    (0xC000_000D, "STATUS_INVALID_PARAMETER", "an argument is not valid"),
    (0xC000_000E, "STATUS_NO_SUCH_DEVICE", "there is no such device"),
    (0xC000_000F, "STATUS_NO_SUCH_FILE", "there is no such file"),
    (0xC000_0010, "STATUS_INVALID_DEVICE_REQUEST", "the driver does not handle this request (unknown control code, or no dispatch routine for it)"),
    (0xC000_0011, "STATUS_END_OF_FILE", "the end of the data was reached"),
    (0xC000_0013, "STATUS_NO_MEDIA_IN_DEVICE", "there is no medium in the device"),
    (0xC000_0016, "STATUS_MORE_PROCESSING_REQUIRED", "a completion routine keeps the IRP"),
    (0xC000_0017, "STATUS_NO_MEMORY", "there is not enough virtual memory"),
    (0xC000_0018, "STATUS_CONFLICTING_ADDRESSES", "the address range is in use"),
    (0xC000_0019, "STATUS_NOT_MAPPED_VIEW", "no view is mapped at the address"),
    (0xC000_001A, "STATUS_UNABLE_TO_FREE_VM", "memory could not be freed"),
    (0xC000_001B, "STATUS_UNABLE_TO_DELETE_SECTION", "A section could not be deleted"),
    (0xC000_001C, "STATUS_INVALID_SYSTEM_SERVICE", "there is no such system service"),
    (0xC000_001D, "STATUS_ILLEGAL_INSTRUCTION", "the processor does not know the instruction"),
    (0xC000_001F, "STATUS_INVALID_VIEW_SIZE", "the view is larger than the section"),
    (0xC000_0020, "STATUS_INVALID_FILE_FOR_SECTION", "the file cannot have a section"),
    (0xC000_0021, "STATUS_ALREADY_COMMITTED", "the memory is committed already"),
    (0xC000_0022, "STATUS_ACCESS_DENIED", "the access is not allowed"),
    (0xC000_0023, "STATUS_BUFFER_TOO_SMALL", "a buffer is too small for the request"),
    (0xC000_0024, "STATUS_OBJECT_TYPE_MISMATCH", "the object is of another type than the request needs"),
    (0xC000_0025, "STATUS_NONCONTINUABLE_EXCEPTION", "an exception cannot be continued from"),
    (0xC000_0026, "STATUS_INVALID_DISPOSITION", "an exception handler returned something unknown"),
    (0xC000_0027, "STATUS_UNWIND", "frames are being left"),
    (0xC000_0028, "STATUS_BAD_STACK", "A registration is not on the stack, or not aligned"),
    (0xC000_0029, "STATUS_INVALID_UNWIND_TARGET", "the stack has no such frame"),
    (0xC000_002D, "STATUS_NOT_COMMITTED", "the memory is not committed"),
    (0xC000_0033, "STATUS_OBJECT_NAME_INVALID", "the object's name is not well formed"),
    (0xC000_0034, "STATUS_OBJECT_NAME_NOT_FOUND", "no object has that name"),
    (0xC000_0035, "STATUS_OBJECT_NAME_COLLISION", "an object of that name exists already"),
    (0xC000_0038, "STATUS_DEVICE_ALREADY_ATTACHED", "A routine is registered already"),
    (0xC000_0039, "STATUS_OBJECT_PATH_INVALID", "a part of the path is no directory"),
    (0xC000_003A, "STATUS_OBJECT_PATH_NOT_FOUND", "a part of the path does not exist"),
    (0xC000_003B, "STATUS_OBJECT_PATH_SYNTAX_BAD", "the path is not well formed"),
    (0xC000_003F, "STATUS_CRC_ERROR", "A checksum does not fit"),
    (0xC000_0040, "STATUS_SECTION_TOO_BIG", "the section is too large"),
    (0xC000_0043, "STATUS_SHARING_VIOLATION", "the device or file is open in a way that excludes this"),
    (0xC000_0045, "STATUS_INVALID_PAGE_PROTECTION", "the page protection is not valid"),
    (0xC000_0046, "STATUS_MUTANT_NOT_OWNED", "the mutex belongs to another thread, or to none"),
    (0xC000_0047, "STATUS_SEMAPHORE_LIMIT_EXCEEDED", "the semaphore's count would exceed its limit"),
    (0xC000_0049, "STATUS_SECTION_NOT_IMAGE", "the section is no image"),
    (0xC000_004B, "STATUS_THREAD_IS_TERMINATING", "the thread is ending"),
    (0xC000_004E, "STATUS_SECTION_PROTECTION", "the section does not allow that protection"),
    (0xC000_004F, "STATUS_EAS_NOT_SUPPORTED", "the file system has no extended attributes"),
    (0xC000_0054, "STATUS_FILE_LOCK_CONFLICT", "the range is locked by another"),
    (0xC000_0055, "STATUS_LOCK_NOT_GRANTED", "the range is locked already"),
    (0xC000_0056, "STATUS_DELETE_PENDING", "the object is being deleted"),
    (0xC000_0058, "STATUS_UNKNOWN_REVISION", "the security descriptor's revision is not known"),
    (0xC000_0059, "STATUS_REVISION_MISMATCH", "the structure has another revision"),
    (0xC000_005A, "STATUS_INVALID_OWNER", "the SID cannot be an owner"),
    (0xC000_005F, "STATUS_NO_SUCH_LOGON_SESSION", "there is no such logon session"),
    (0xC000_0061, "STATUS_PRIVILEGE_NOT_HELD", "a privilege is missing"),
    (0xC000_0077, "STATUS_INVALID_ACL", "the ACL is not valid"),
    (0xC000_0078, "STATUS_INVALID_SID", "the SID is not valid"),
    (0xC000_0079, "STATUS_INVALID_SECURITY_DESCR", "the security descriptor is not valid"),
    (0xC000_007A, "STATUS_PROCEDURE_NOT_FOUND", "the function does not exist"),
    (0xC000_007B, "STATUS_INVALID_IMAGE_FORMAT", "the image is not well formed"),
    (0xC000_007C, "STATUS_NO_TOKEN", "the thread impersonates nobody"),
    (0xC000_007E, "STATUS_RANGE_NOT_LOCKED", "no lock covers exactly that range"),
    (0xC000_007F, "STATUS_DISK_FULL", "the volume is full"),
    (0xC000_0088, "STATUS_NOT_MAPPED_DATA", "the view is not of a file"),
    (0xC000_008C, "STATUS_ARRAY_BOUNDS_EXCEEDED", "an array bound was exceeded"),
    (0xC000_0094, "STATUS_INTEGER_DIVIDE_BY_ZERO", "an integer was divided by zero"),
    (0xC000_0095, "STATUS_INTEGER_OVERFLOW", "an integer operation overflowed"),
    (0xC000_0096, "STATUS_PRIVILEGED_INSTRUCTION", "the process may not do this; for a port access, its I/O permission map denies the port"),
    (0xC000_0099, "STATUS_ALLOTTED_SPACE_EXCEEDED", "there is no room left in what was allocated"),
    (0xC000_009A, "STATUS_INSUFFICIENT_RESOURCES", "there is not enough memory or another resource"),
    (0xC000_009D, "STATUS_DEVICE_NOT_CONNECTED", "the device is not connected"),
    (0xC000_009F, "STATUS_FREE_VM_NOT_AT_BASE", "the address is not the base of the allocation"),
    (0xC000_00A0, "STATUS_MEMORY_NOT_ALLOCATED", "the memory is not allocated"),
    (0xC000_00A2, "STATUS_MEDIA_WRITE_PROTECTED", "the volume is write-protected"),
    (0xC000_00A3, "STATUS_DEVICE_NOT_READY", "the device is not ready"),
    (0xC000_00A5, "STATUS_BAD_IMPERSONATION_LEVEL", "the impersonation level does not allow it"),
    (0xC000_00A6, "STATUS_CANT_OPEN_ANONYMOUS", "the token cannot be opened for an anonymous client"),
    (0xC000_00A8, "STATUS_BAD_TOKEN_TYPE", "the token has another type"),
    (0xC000_00AA, "STATUS_INSTRUCTION_MISALIGNMENT", "an instruction is misaligned"),
    (0xC000_00B5, "STATUS_IO_TIMEOUT", "the request took longer than allowed"),
    (0xC000_00BA, "STATUS_FILE_IS_A_DIRECTORY", "the file is a directory"),
    (0xC000_00BB, "STATUS_NOT_SUPPORTED", "the request is not supported"),
    (0xC000_00BE, "STATUS_BAD_NETWORK_PATH", "no provider knows the network path"),
    (0xC000_00C0, "STATUS_DEVICE_DOES_NOT_EXIST", "the device does not exist"),
    (0xC000_00D4, "STATUS_NOT_SAME_DEVICE", "two names on different volumes"),
    (0xC000_00D7, "STATUS_NO_SECURITY_ON_OBJECT", "the object has no security descriptor"),
    (0xC000_00E2, "STATUS_OPLOCK_NOT_GRANTED", "the oplock cannot be had"),
    (0xC000_00E3, "STATUS_INVALID_OPLOCK_PROTOCOL", "an acknowledgement that no break waits for"),
    (0xC000_00E7, "STATUS_BAD_DESCRIPTOR_FORMAT", "absolute where it must be self-relative, or the other way round"),
    (0xC000_00E8, "STATUS_INVALID_USER_BUFFER", "the caller's buffer is not accessible"),
    (0xC000_00E9, "STATUS_UNEXPECTED_IO_ERROR", "an I/O error that has no business here"),
    (0xC000_00EF, "STATUS_INVALID_PARAMETER_1", "the first argument is not valid"),
    (0xC000_00F0, "STATUS_INVALID_PARAMETER_2", "the second argument is not valid"),
    (0xC000_00F1, "STATUS_INVALID_PARAMETER_3", "the third argument is not valid"),
    (0xC000_00F2, "STATUS_INVALID_PARAMETER_4", "the fourth argument is not valid"),
    (0xC000_00F3, "STATUS_INVALID_PARAMETER_5", "the fifth argument is not valid"),
    (0xC000_00F4, "STATUS_INVALID_PARAMETER_6", "the sixth argument is not valid"),
    (0xC000_00F5, "STATUS_INVALID_PARAMETER_7", "the seventh argument is not valid"),
    (0xC000_00F6, "STATUS_INVALID_PARAMETER_8", "the eighth argument is not valid"),
    (0xC000_00F7, "STATUS_INVALID_PARAMETER_9", "the ninth argument is not valid"),
    (0xC000_00FD, "STATUS_STACK_OVERFLOW", "the stack is used up"),
    (0xC000_0101, "STATUS_DIRECTORY_NOT_EMPTY", "the directory is not empty"),
    (0xC000_0103, "STATUS_NOT_A_DIRECTORY", "the file is no directory"),
    (0xC000_0106, "STATUS_NAME_TOO_LONG", "the name is too long"),
    (0xC000_010A, "STATUS_PROCESS_IS_TERMINATING", "the process is ending"),
    (0xC000_010E, "STATUS_IMAGE_ALREADY_LOADED", "the driver is loaded already"),
    (0xC000_011E, "STATUS_MAPPED_FILE_SIZE_ZERO", "the file is empty"),
    (0xC000_011F, "STATUS_TOO_MANY_OPENED_FILES", "too many files are open"),
    (0xC000_0120, "STATUS_CANCELLED", "the request was cancelled"),
    (0xC000_0121, "STATUS_CANNOT_DELETE", "the object cannot be deleted"),
    (0xC000_0128, "STATUS_FILE_CLOSED", "the handle was closed"),
    (0xC000_012D, "STATUS_COMMITMENT_LIMIT", "there is no room for what is to be committed"),
    (0xC000_0139, "STATUS_ENTRYPOINT_NOT_FOUND", "the function does not exist"),
    (0xC000_0141, "STATUS_INVALID_ADDRESS", "the address is not valid"),
    (0xC000_014F, "STATUS_UNRECOGNIZED_VOLUME", "no file system knows the volume"),
    (0xC000_0162, "STATUS_UNMAPPABLE_CHARACTER", "A character has no counterpart in the code page"),
    (0xC000_017C, "STATUS_KEY_DELETED", "the key was deleted"),
    (0xC000_0181, "STATUS_CHILD_MUST_BE_VOLATILE", "A key with subkeys of the volatile sort"),
    (0xC000_0182, "STATUS_DEVICE_CONFIGURATION_ERROR", "the device's configuration is wrong"),
    (0xC000_0184, "STATUS_INVALID_DEVICE_STATE", "the device is in a state that does not allow the request"),
    (0xC000_0185, "STATUS_IO_DEVICE_ERROR", "the device reported an error"),
    (0xC000_0191, "STATUS_MUTANT_LIMIT_EXCEEDED", "the mutex was acquired too often"),
    (0xC000_019C, "STATUS_FS_DRIVER_REQUIRED", "the volume's file system has to be loaded first"),
    (0xC000_01A1, "STATUS_INVALID_LOCK_RANGE", "the range runs over the end of all offsets"),
    (0xC000_0206, "STATUS_INVALID_BUFFER_SIZE", "the buffer's size does not suit the request"),
    (0xC000_0207, "STATUS_INVALID_ADDRESS_COMPONENT", "a part of the address is not valid"),
    (0xC000_0220, "STATUS_MAPPED_ALIGNMENT", "base address or offset of the view is not aligned"),
    (0xC000_0225, "STATUS_NOT_FOUND", "what was asked for does not exist"),
    (0xC000_022D, "STATUS_RETRY", "the request should be made again"),
    (0xC000_0235, "STATUS_HANDLE_NOT_CLOSABLE", "A handle may not be closed"),
    (0xC000_0242, "STATUS_BAD_COMPRESSION_BUFFER", "the compressed data is malformed"),
    (0xC000_025F, "STATUS_UNSUPPORTED_COMPRESSION", "the compression format is not known"),
    (0xC000_0263, "STATUS_DRIVER_ENTRYPOINT_NOT_FOUND", "the driver imports a function that does not exist"),
    (0xC000_0265, "STATUS_TOO_MANY_LINKS", "there are too many links"),
    (0xC000_026C, "STATUS_DRIVER_UNABLE_TO_LOAD", "the driver could not be loaded"),
    (0xC000_0272, "STATUS_NO_MATCH", "nothing matches"),
    (0xC000_0273, "STATUS_NO_MORE_MATCHES", "no further entry matches"),
    (0xC000_0276, "STATUS_IO_REPARSE_TAG_INVALID", "A reserved reparse tag"),
    (0xC000_0278, "STATUS_IO_REPARSE_DATA_INVALID", "A reparse buffer that contradicts itself"),
    (0xC000_0279, "STATUS_IO_REPARSE_TAG_NOT_HANDLED", "nobody serves the reparse point"),
    (0xC000_0295, "STATUS_WMI_GUID_NOT_FOUND", "the object was not given a name of its type"),
    (0xC000_0297, "STATUS_WMI_INSTANCE_NOT_FOUND", "the WMI block has no instance of that name"),
    (0xC000_02D3, "STATUS_POWER_STATE_INVALID", "STATUS_POWER_STATE_INVALID"),
    (0xC000_02DB, "STATUS_NO_UNICODE_TRANSLATION", "the text has characters that cannot be converted"),
    (0xC000_0354, "STATUS_DEBUGGER_INACTIVE", "there is no debugger"),
    (0xC000_0365, "STATUS_FAILED_DRIVER_ENTRY", "DriverEntry failed"),
    (0xC000_0369, "STATUS_INVALID_DEVICE_OBJECT_PARAMETER", "the device is not in the file's stack"),
    (0xC000_0409, "STATUS_STACK_BUFFER_OVERRUN", "the driver failed fast (a security check found damage)"),
    (0xC000_0420, "STATUS_ASSERTION_FAILURE", "an assertion failed"),
    (0xC000_0909, "STATUS_CANNOT_BREAK_OPLOCK", "the create would break an oplock, and does not want to"),
    (0xC01C_0011, "STATUS_FLT_INSTANCE_ALTITUDE_COLLISION", "the altitude of a callback is taken"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_sorted_and_without_doubles() {
        assert!(TABLE.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn names_agree_with_the_shim() {
        use kernel_shim::nt::NtStatus as Shim;
        let severities = [0, 0x4000_0000, 0x8000_0000, 0xC000_0000];
        for code in severities
            .iter()
            .flat_map(|base| (0..0x1000).map(move |low| base + low))
        {
            if let Some(shim) = Shim(code).name() {
                assert_eq!(NtStatus(code).name(), Some(shim), "{code:#x}");
            }
        }
    }

    #[test]
    fn known_status_is_explained() {
        assert_eq!(
            NtStatus(0xC000_0022).explained(),
            "STATUS_ACCESS_DENIED (0xc0000022): the access is not allowed"
        );
    }

    #[test]
    fn unknown_status_is_a_number() {
        assert_eq!(NtStatus(0xE000_1234).explained(), "NTSTATUS 0xe0001234");
    }

    #[test]
    fn warnings_are_not_success() {
        assert!(NtStatus(0x103).is_success());
        assert!(!NtStatus(0x8000_0005).is_success());
    }
}
