//! NTSTATUS.

use core::fmt;

/// NTSTATUS: any 32-bit number, some with a name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct NtStatus(pub u32);

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)*) => {
        impl NtStatus {
            $($(#[$doc])* pub const $name: Self = Self($value);)*

            /// Its name in ntstatus.h; `None` for one that is not known here.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(concat!("STATUS_", stringify!($name))),)*
                    _ => None,
                }
            }
        }
    };
}

statuses! {
    /// There is no such logon session: a token has no linked one.
    NO_SUCH_LOGON_SESSION = 0xC000_005F;
    /// The create would break an oplock, and does not want to.
    CANNOT_BREAK_OPLOCK = 0xC000_0909;
    /// The oplock is another handle's with the same key now.
    OPLOCK_SWITCHED_TO_NEW_HANDLE = 0x0000_0215;
    /// A device that is not in the file's stack.
    INVALID_DEVICE_OBJECT_PARAMETER = 0xC000_0369;
    /// A recognizer knows the volume; its file system has to be loaded.
    FS_DRIVER_REQUIRED = 0xC000_019C;
    /// No file system knows the volume.
    UNRECOGNIZED_VOLUME = 0xC000_014F;
    /// No provider knows the UNC name.
    BAD_NETWORK_PATH = 0xC000_00BE;
    /// The file system has no extended attributes.
    EAS_NOT_SUPPORTED = 0xC000_004F;
    /// A reparse point that nobody serves.
    IO_REPARSE_TAG_NOT_HANDLED = 0xC000_0279;
    /// No lock covers exactly that range.
    RANGE_NOT_LOCKED = 0xC000_007E;
    /// The range is locked already.
    LOCK_NOT_GRANTED = 0xC000_0055;
    /// The range is locked by another.
    FILE_LOCK_CONFLICT = 0xC000_0054;
    /// The range runs over the end of all offsets.
    INVALID_LOCK_RANGE = 0xC000_01A1;
    /// The oplock cannot be had.
    OPLOCK_NOT_GRANTED = 0xC000_00E2;
    /// An acknowledgement that no break waits for.
    INVALID_OPLOCK_PROTOCOL = 0xC000_00E3;
    /// An oplock is being broken.
    OPLOCK_BREAK_IN_PROGRESS = 0x0000_0108;
    /// The watched handle was closed.
    NOTIFY_CLEANUP = 0x0000_010B;
    /// A reserved reparse tag.
    IO_REPARSE_TAG_INVALID = 0xC000_0276;
    /// A reparse buffer that contradicts itself.
    IO_REPARSE_DATA_INVALID = 0xC000_0278;
    /// An I/O error that has no business here.
    UNEXPECTED_IO_ERROR = 0xC000_00E9;
    /// An instruction is misaligned.
    INSTRUCTION_MISALIGNMENT = 0xC000_00AA;
    /// A checksum does not fit.
    CRC_ERROR = 0xC000_003F;
    /// The operation succeeded.
    SUCCESS = 0x0000_0000;
    /// WAIT_1: the second object was signalled.
    WAIT_1 = 0x0000_0001;
    /// The mutant was abandoned by its last owner; of several objects, the first.
    ABANDONED = 0x0000_0080;
    /// The wait was ended by an APC.
    USER_APC = 0x0000_00C0;
    /// A wait is to be begun again after a kernel APC.
    KERNEL_APC = 0x0000_0100;
    /// The wait was ended by an alert.
    ALERTED = 0x0000_0101;
    /// The time was over.
    TIMEOUT = 0x0000_0102;
    /// The operation goes on.
    PENDING = 0x0000_0103;
    /// There is no debugger.
    DEBUGGER_INACTIVE = 0xC000_0354;
    /// The name continues behind a reparse point.
    REPARSE = 0x0000_0104;
    /// The security descriptor's revision is not known.
    UNKNOWN_REVISION = 0xC000_0058;
    /// The ACL is not valid.
    INVALID_ACL = 0xC000_0077;
    /// The SID is not valid.
    INVALID_SID = 0xC000_0078;
    /// The security descriptor is not valid.
    INVALID_SECURITY_DESCR = 0xC000_0079;
    /// There is no room left in what was allocated.
    ALLOTTED_SPACE_EXCEEDED = 0xC000_0099;
    /// The impersonation level does not allow it.
    BAD_IMPERSONATION_LEVEL = 0xC000_00A5;
    /// The token cannot be opened for an anonymous client.
    CANT_OPEN_ANONYMOUS = 0xC000_00A6;
    /// The token has another type.
    BAD_TOKEN_TYPE = 0xC000_00A8;
    /// The object has no security descriptor.
    NO_SECURITY_ON_OBJECT = 0xC000_00D7;
    /// Absolute where it must be self-relative, or the other way round.
    BAD_DESCRIPTOR_FORMAT = 0xC000_00E7;
    /// The thread impersonates nobody.
    NO_TOKEN = 0xC000_007C;
    /// The SID cannot be an owner.
    INVALID_OWNER = 0xC000_005A;
    /// There are no more files.
    NO_MORE_FILES = 0x8000_0006;
    /// The key was notified of a change.
    NOTIFY_ENUM_DIR = 0x0000_010C;
    /// The file is a directory.
    FILE_IS_A_DIRECTORY = 0xC000_00BA;
    /// The file is no directory.
    NOT_A_DIRECTORY = 0xC000_0103;
    /// The directory has entries.
    DIRECTORY_NOT_EMPTY = 0xC000_0101;
    /// The file may not be deleted.
    CANNOT_DELETE = 0xC000_0121;
    /// The volume is write-protected.
    MEDIA_WRITE_PROTECTED = 0xC000_00A2;
    /// The volume is full.
    DISK_FULL = 0xC000_007F;
    /// Too many files are open.
    TOO_MANY_OPENED_FILES = 0xC000_011F;
    /// Two names on different volumes.
    NOT_SAME_DEVICE = 0xC000_00D4;
    /// The device reported an error.
    IO_DEVICE_ERROR = 0xC000_0185;
    /// Extended attributes are malformed.
    EA_LIST_INCONSISTENT = 0x8000_0014;
    /// The key was deleted.
    KEY_DELETED = 0xC000_017C;
    /// A key with subkeys of the volatile sort.
    CHILD_MUST_BE_VOLATILE = 0xC000_0181;
    /// The object was there already.
    OBJECT_NAME_EXISTS = 0x4000_0000;
    /// The image was not loaded where it was linked to.
    IMAGE_NOT_AT_BASE = 0x4000_0003;
    /// A guard page was touched.
    GUARD_PAGE_VIOLATION = 0x8000_0001;
    /// A misaligned access.
    DATATYPE_MISALIGNMENT = 0x8000_0002;
    /// A breakpoint was reached.
    BREAKPOINT = 0x8000_0003;
    /// A single step was made.
    SINGLE_STEP = 0x8000_0004;
    /// The buffer holds only the first part.
    BUFFER_OVERFLOW = 0x8000_0005;
    /// There are no more entries.
    NO_MORE_ENTRIES = 0x8000_001A;
    /// The device is busy.
    DEVICE_BUSY = 0x8000_0011;
    /// An exception was raised that cannot be continued, and a handler continued it.
    NONCONTINUABLE_EXCEPTION = 0xC000_0025;
    /// A handler returned what no handler may.
    INVALID_DISPOSITION = 0xC000_0026;
    /// Frames are being left.
    UNWIND = 0xC000_0027;
    /// A registration is not on the stack, or not aligned.
    BAD_STACK = 0xC000_0028;
    /// The stack has no such frame.
    INVALID_UNWIND_TARGET = 0xC000_0029;
    /// There are more entries than fit.
    MORE_ENTRIES = 0x0000_0105;
    /// The request was not completed by fast I/O, or the driver is loaded already.
    IMAGE_ALREADY_LOADED = 0xC000_010E;
    /// A routine is registered already.
    DEVICE_ALREADY_ATTACHED = 0xC000_0038;
    /// A handle may not be closed.
    HANDLE_NOT_CLOSABLE = 0xC000_0235;
    /// The object was not given a name of its type.
    WMI_GUID_NOT_FOUND = 0xC000_0295;
    /// A WMI block has no instance of that name.
    WMI_INSTANCE_NOT_FOUND = 0xC000_0297;
    /// The altitude of a callback is taken.
    FLT_INSTANCE_ALTITUDE_COLLISION = 0xC01C_0011;
    /// It failed.
    UNSUCCESSFUL = 0xC000_0001;
    /// Not implemented.
    NOT_IMPLEMENTED = 0xC000_0002;
    /// The information class is not known.
    INVALID_INFO_CLASS = 0xC000_0003;
    /// A length is wrong.
    INFO_LENGTH_MISMATCH = 0xC000_0004;
    /// An address that is not accessible was used.
    ACCESS_VIOLATION = 0xC000_0005;
    /// The page could not be read.
    IN_PAGE_ERROR = 0xC000_0006;
    /// The handle is not valid.
    INVALID_HANDLE = 0xC000_0008;
    /// A parameter is not valid.
    INVALID_PARAMETER = 0xC000_000D;
    /// There is no such device.
    NO_SUCH_DEVICE = 0xC000_000E;
    /// There is no such file.
    NO_SUCH_FILE = 0xC000_000F;
    /// The device does not know this request.
    INVALID_DEVICE_REQUEST = 0xC000_0010;
    /// The end of the file was reached.
    END_OF_FILE = 0xC000_0011;
    /// There is no medium.
    NO_MEDIA_IN_DEVICE = 0xC000_0013;
    /// More processing is needed: the I/O manager stops completing the IRP.
    MORE_PROCESSING_REQUIRED = 0xC000_0016;
    /// There is not enough memory.
    NO_MEMORY = 0xC000_0017;
    /// The addresses are in use.
    CONFLICTING_ADDRESSES = 0xC000_0018;
    /// Not a view of a section.
    NOT_MAPPED_VIEW = 0xC000_0019;
    /// The instruction does not exist.
    ILLEGAL_INSTRUCTION = 0xC000_001D;
    /// Access is denied.
    ACCESS_DENIED = 0xC000_0022;
    /// Memory could not be freed.
    UNABLE_TO_FREE_VM = 0xC000_001A;
    /// A section could not be deleted.
    UNABLE_TO_DELETE_SECTION = 0xC000_001B;
    /// The view is larger than the section.
    INVALID_VIEW_SIZE = 0xC000_001F;
    /// The file is empty.
    MAPPED_FILE_SIZE_ZERO = 0xC000_011E;
    /// There is no room for what is to be committed.
    COMMITMENT_LIMIT = 0xC000_012D;
    /// The view is not of a file.
    NOT_MAPPED_DATA = 0xC000_0088;
    /// The file cannot have a section.
    INVALID_FILE_FOR_SECTION = 0xC000_0020;
    /// The memory is committed already.
    ALREADY_COMMITTED = 0xC000_0021;
    /// The memory is not committed.
    NOT_COMMITTED = 0xC000_002D;
    /// The section is too large.
    SECTION_TOO_BIG = 0xC000_0040;
    /// The section is no image.
    SECTION_NOT_IMAGE = 0xC000_0049;
    /// The address is not the base of the allocation.
    FREE_VM_NOT_AT_BASE = 0xC000_009F;
    /// The memory is not allocated.
    MEMORY_NOT_ALLOCATED = 0xC000_00A0;
    /// The fifth parameter is not valid.
    INVALID_PARAMETER_5 = 0xC000_00F3;
    /// The sixth parameter is not valid.
    INVALID_PARAMETER_6 = 0xC000_00F4;
    /// The seventh parameter is not valid.
    INVALID_PARAMETER_7 = 0xC000_00F5;
    /// The buffer is too small.
    BUFFER_TOO_SMALL = 0xC000_0023;
    /// The object has another type.
    OBJECT_TYPE_MISMATCH = 0xC000_0024;
    /// The name is malformed.
    OBJECT_NAME_INVALID = 0xC000_0033;
    /// There is no object of that name.
    OBJECT_NAME_NOT_FOUND = 0xC000_0034;
    /// There is an object of that name already.
    OBJECT_NAME_COLLISION = 0xC000_0035;
    /// A component of the path is malformed.
    OBJECT_PATH_INVALID = 0xC000_0039;
    /// A directory of the path does not exist.
    OBJECT_PATH_NOT_FOUND = 0xC000_003A;
    /// A component of the path is no directory.
    OBJECT_PATH_SYNTAX_BAD = 0xC000_003B;
    /// The protection is not valid.
    INVALID_PAGE_PROTECTION = 0xC000_0045;
    /// A section could not be mapped so.
    SECTION_PROTECTION = 0xC000_004E;
    /// The mutant has another owner, or none.
    MUTANT_NOT_OWNED = 0xC000_0046;
    /// The semaphore's count would exceed its limit.
    SEMAPHORE_LIMIT_EXCEEDED = 0xC000_0047;
    /// The thread is ending.
    THREAD_IS_TERMINATING = 0xC000_004B;
    /// The mutant was acquired too often.
    MUTANT_LIMIT_EXCEEDED = 0xC000_0191;
    /// No other thread was ready.
    NO_YIELD_PERFORMED = 0x4000_0024;
    /// Shared in a way that does not allow it.
    SHARING_VIOLATION = 0xC000_0043;
    /// The object is being deleted.
    DELETE_PENDING = 0xC000_0056;
    /// The privilege is missing.
    PRIVILEGE_NOT_HELD = 0xC000_0061;
    /// The procedure was not found.
    PROCEDURE_NOT_FOUND = 0xC000_007A;
    /// The image is not valid.
    INVALID_IMAGE_FORMAT = 0xC000_007B;
    /// A division by zero.
    INTEGER_DIVIDE_BY_ZERO = 0xC000_0094;
    /// A result does not fit.
    INTEGER_OVERFLOW = 0xC000_0095;
    /// A privileged instruction was executed.
    PRIVILEGED_INSTRUCTION = 0xC000_0096;
    /// Resources are exhausted.
    INSUFFICIENT_RESOURCES = 0xC000_009A;
    /// The device is not ready.
    DEVICE_NOT_READY = 0xC000_00A3;
    /// Not supported.
    NOT_SUPPORTED = 0xC000_00BB;
    /// The device does not exist (any more).
    DEVICE_DOES_NOT_EXIST = 0xC000_00C0;
    /// An assertion failed.
    ASSERTION_FAILURE = 0xC000_0420;
    /// An argument is not valid.
    INVALID_PARAMETER_1 = 0xC000_00EF;
    /// An argument is not valid.
    INVALID_PARAMETER_2 = 0xC000_00F0;
    /// An argument is not valid.
    INVALID_PARAMETER_3 = 0xC000_00F1;
    /// An argument is not valid.
    INVALID_PARAMETER_4 = 0xC000_00F2;
    /// A character has no counterpart in the code page.
    UNMAPPABLE_CHARACTER = 0xC000_0162;
    /// An argument is not valid.
    INVALID_PARAMETER_8 = 0xC000_00F6;
    /// An argument is not valid.
    INVALID_PARAMETER_9 = 0xC000_00F7;
    /// The address or offset is not aligned as a view must be.
    MAPPED_ALIGNMENT = 0xC000_0220;
    /// An entry does not match.
    NO_MATCH = 0xC000_0272;
    /// No further entry matches.
    NO_MORE_MATCHES = 0xC000_0273;
    /// Some characters could not be converted.
    SOME_NOT_MAPPED = 0x0000_0107;
    /// The compressed data is malformed.
    BAD_COMPRESSION_BUFFER = 0xC000_0242;
    /// The compression format is not known.
    UNSUPPORTED_COMPRESSION = 0xC000_025F;
    /// The buffer holds nothing but zeros.
    BUFFER_ALL_ZEROS = 0x0000_0117;
    /// An address is not valid.
    INVALID_ADDRESS = 0xC000_0141;
    /// The stack is used up.
    STACK_OVERFLOW = 0xC000_00FD;
    /// The process is ending.
    PROCESS_IS_TERMINATING = 0xC000_010A;
    /// The operation was cancelled.
    CANCELLED = 0xC000_0120;
    /// The file has been closed.
    FILE_CLOSED = 0xC000_0128;
    /// An array index is out of range.
    ARRAY_BOUNDS_EXCEEDED = 0xC000_008C;
    /// A client id is not known.
    INVALID_CID = 0xC000_000B;
    /// An export was not found.
    ENTRYPOINT_NOT_FOUND = 0xC000_0139;
    /// Not found.
    NOT_FOUND = 0xC000_0225;
    /// The stack was overrun (security cookie).
    STACK_BUFFER_OVERRUN = 0xC000_0409;
    /// No character can stand for it.
    NO_UNICODE_TRANSLATION = 0xC000_02DB;
    /// The name is too long.
    NAME_TOO_LONG = 0xC000_0106;
    /// The string ends early.
    INVALID_BUFFER_SIZE = 0xC000_0206;
    /// A user buffer is not valid.
    INVALID_USER_BUFFER = 0xC000_00E8;
    /// Too many links to follow.
    TOO_MANY_LINKS = 0xC000_0265;
    /// The revision is not known.
    REVISION_MISMATCH = 0xC000_0059;
    /// STATUS_INVALID_DEVICE_STATE.
    INVALID_DEVICE_STATE = 0xC000_0184;
    /// STATUS_POWER_STATE_INVALID.
    POWER_STATE_INVALID = 0xC000_02D3;
}

impl NtStatus {
    /// NT_SUCCESS: success or information.
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.0 < 0x8000_0000
    }

    /// NT_ERROR.
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.0 >= 0xC000_0000
    }
}

impl fmt::Debug for NtStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#010x}", self.0),
        }
    }
}

impl fmt::Display for NtStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
