//! Files of the host, as a guest with a `--files` directory reaches them.
//!
//! [`crate::doorbell::Call::File`]: `arguments` = [`FileCall`] as a number, file id, guest-virtual address and bytes of
//! a buffer in the guest's pool, and two more as the call says; `results` = NTSTATUS and up to three values.
//! Paths are UTF-16, relative to the directory, with backslashes between components and none before the first.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The most bytes of one call's buffer.
pub const MAX_TRANSFER: u64 = 64 << 10;

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum FileCall {
    /// Is there a directory? Values: 1 if there is, 1 if it is read-only.
    Present = 0,
    /// Open or make a file. Buffer: its path. Arguments: [`open_word`]; attributes of a new one. Values: file id,
    /// IO_STATUS_BLOCK.Information, whether it is a directory.
    Open = 1,
    /// Close a file; it is cleaned up before, if it was not.
    Close = 2,
    /// Read into the buffer. Argument: byte offset. Value: bytes.
    Read = 3,
    /// Write from the buffer. Argument: byte offset; `u64::MAX`: at the end. Values: bytes, offset behind them.
    Write = 4,
    /// Fill the buffer with a [`FileMetadata`].
    Query = 5,
    /// Set the file's size. Argument: bytes.
    SetSize = 6,
    /// Set times: creation (not kept), last access, last write. Buffer: three u64, NT system time; 0: as it is.
    /// Argument: attributes; 0: as they are.
    SetBasic = 7,
    /// Delete the file when its last handle is closed, whoever has it, or not. Argument: nonzero: delete.
    SetDelete = 8,
    /// Give it another name. Buffer: the new path. Argument: nonzero: replace what is there.
    Rename = 9,
    /// Fill the buffer with as many [`DirectoryEntry`]s as fit, from entry number (argument) on; a second argument
    /// other than zero reads the directory anew. Values: entries, bytes.
    List = 10,
    /// Write what is buffered to the disk.
    Flush = 11,
    /// Values: total bytes, free bytes of the volume.
    Volume = 12,
    /// The path of an opened file, as it is on the host, into the buffer. Value: bytes.
    Name = 13,
    /// The last handle is closed: others may have what the file was not shared for, and it is deleted if that was asked for
    /// and no other handle is left. The file can still be read and written until it is closed.
    Cleanup = 14,
}

impl FileCall {
    /// Decodes a number.
    #[must_use]
    pub const fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            0 => Self::Present,
            1 => Self::Open,
            2 => Self::Close,
            3 => Self::Read,
            4 => Self::Write,
            5 => Self::Query,
            6 => Self::SetSize,
            7 => Self::SetBasic,
            8 => Self::SetDelete,
            9 => Self::Rename,
            10 => Self::List,
            11 => Self::Flush,
            12 => Self::Volume,
            13 => Self::Name,
            14 => Self::Cleanup,
            _ => return None,
        })
    }
}

/// The argument of [`FileCall::Open`]: access mask in the low 32 bits, disposition (FILE_OPEN ...) above, flags, and what
/// others may do meanwhile (FILE_SHARE_READ, FILE_SHARE_WRITE, FILE_SHARE_DELETE).
#[must_use]
pub const fn open_word(access: u32, disposition: u8, flags: u8, share: u8) -> u64 {
    access as u64 | (disposition as u64) << 32 | (flags as u64) << 40 | (share as u64) << 48
}

/// Flags of [`open_word`].
pub mod open_flag {
    /// FILE_DIRECTORY_FILE.
    pub const DIRECTORY: u8 = 1;
    /// FILE_NON_DIRECTORY_FILE.
    pub const NO_DIRECTORY: u8 = 2;
    /// FILE_DELETE_ON_CLOSE.
    pub const DELETE_ON_CLOSE: u8 = 4;
    /// FILE_WRITE_THROUGH.
    pub const WRITE_THROUGH: u8 = 8;
}

/// What is known of a file. Times are NT system time.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct FileMetadata {
    /// Creation.
    pub created: u64,
    /// Last access.
    pub accessed: u64,
    /// Last write.
    pub written: u64,
    /// Last change of anything.
    pub changed: u64,
    /// Bytes allocated.
    pub allocated: u64,
    /// Bytes.
    pub bytes: u64,
    /// Identity on its volume.
    pub index: u64,
    /// FILE_ATTRIBUTE_ flags.
    pub attributes: u32,
    /// Links.
    pub links: u32,
    /// Nonzero: deleted when closed.
    pub delete_pending: u32,
    /// Nonzero: a directory.
    pub is_directory: u32,
}

/// An entry of a directory; its name (UTF-16) follows, with zeros up to a multiple of 8.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DirectoryEntry {
    /// What is known of it.
    pub metadata: FileMetadata,
    /// Bytes of the name.
    pub name_bytes: u32,
    /// Its number in the directory.
    pub index: u32,
}
