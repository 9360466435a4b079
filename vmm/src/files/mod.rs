//! The host directory that a guest's file functions see, and nothing outside of it.
//!
//! The guest names files by paths below the directory. Each component is looked up by itself, relative to its
//! directory's descriptor, by openat2 with RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS and RESOLVE_NO_MAGICLINKS: symbolic
//! links are not followed, whoever made them and whenever. Files that are neither regular nor directories are refused.

mod name;
mod open;
mod request;
mod share;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use share::{Identity, Sharing};

/// NTSTATUS values that this module answers with.
mod status {
    pub(super) const OBJECT_NAME_INVALID: u32 = 0xC000_0033;
    pub(super) const OBJECT_NAME_NOT_FOUND: u32 = 0xC000_0034;
    pub(super) const OBJECT_NAME_COLLISION: u32 = 0xC000_0035;
    pub(super) const OBJECT_PATH_NOT_FOUND: u32 = 0xC000_003A;
    pub(super) const ACCESS_DENIED: u32 = 0xC000_0022;
    pub(super) const INVALID_HANDLE: u32 = 0xC000_0008;
    pub(super) const INVALID_PARAMETER: u32 = 0xC000_000D;
    pub(super) const END_OF_FILE: u32 = 0xC000_0011;
    pub(super) const INVALID_DEVICE_REQUEST: u32 = 0xC000_0010;
    pub(super) const FILE_IS_A_DIRECTORY: u32 = 0xC000_00BA;
    pub(super) const NOT_A_DIRECTORY: u32 = 0xC000_0103;
    pub(super) const DIRECTORY_NOT_EMPTY: u32 = 0xC000_0101;
    pub(super) const MEDIA_WRITE_PROTECTED: u32 = 0xC000_00A2;
    pub(super) const DISK_FULL: u32 = 0xC000_007F;
    pub(super) const TOO_MANY_OPENED_FILES: u32 = 0xC000_011F;
    pub(super) const SHARING_VIOLATION: u32 = 0xC000_0043;
    pub(super) const DELETE_PENDING: u32 = 0xC000_0056;
    pub(super) const CANNOT_DELETE: u32 = 0xC000_0121;
    pub(super) const NO_MORE_FILES: u32 = 0x8000_0006;
    pub(super) const BUFFER_TOO_SMALL: u32 = 0xC000_0023;
    pub(super) const IO_DEVICE_ERROR: u32 = 0xC000_0185;
}

/// An NTSTATUS that is an error.
type Status = u32;

/// The most files that a guest may have open.
const MAX_OPEN: usize = 256;
/// How a path is resolved: never out of the directory, never through a link.
const CONFINED: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// The status of a host's error.
fn status_of(error: Errno) -> Status {
    match error {
        Errno::NOENT => status::OBJECT_NAME_NOT_FOUND,
        Errno::EXIST => status::OBJECT_NAME_COLLISION,
        Errno::NOTDIR => status::OBJECT_PATH_NOT_FOUND,
        Errno::ISDIR => status::FILE_IS_A_DIRECTORY,
        // Links and whatever would lead out of the directory.
        Errno::ACCESS | Errno::PERM | Errno::LOOP | Errno::XDEV | Errno::AGAIN | Errno::TXTBSY => {
            status::ACCESS_DENIED
        }
        Errno::NOTEMPTY => status::DIRECTORY_NOT_EMPTY,
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => status::DISK_FULL,
        Errno::ROFS => status::MEDIA_WRITE_PROTECTED,
        Errno::MFILE | Errno::NFILE => status::TOO_MANY_OPENED_FILES,
        Errno::NAMETOOLONG | Errno::ILSEQ => status::OBJECT_NAME_INVALID,
        Errno::INVAL => status::INVALID_PARAMETER,
        _ => status::IO_DEVICE_ERROR,
    }
}

/// A directory as it is given to a guest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FilesOption {
    /// The directory.
    pub path: PathBuf,
    /// Whether the guest may only read.
    pub is_read_only: bool,
}

impl FilesOption {
    /// Reads `DIR` or `DIR:ro`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text.strip_suffix(":ro") {
            Some(path) if !path.is_empty() => Self {
                path: PathBuf::from(path),
                is_read_only: true,
            },
            _ => Self {
                path: PathBuf::from(text),
                is_read_only: false,
            },
        }
    }
}

/// A file that the guest has open.
#[derive(Debug)]
struct Opened {
    file: OwnedFd,
    /// The directory that it is in, and its name there; `None` for the root.
    place: Option<(OwnedFd, String)>,
    /// Path below the root, with backslashes, as it is on the host.
    path: String,
    is_directory: bool,
    is_writable: bool,
    /// Deleted with its handle (FILE_DELETE_ON_CLOSE).
    delete_on_close: bool,
    identity: Identity,
    sharing: Sharing,
    /// Its last handle is closed.
    is_cleaned: bool,
    /// Names in it, once it was listed.
    entries: Option<Vec<String>>,
}

/// The files of a guest.
#[derive(Debug)]
pub struct Files {
    root: OwnedFd,
    is_read_only: bool,
    opened: BTreeMap<u64, Opened>,
    /// Files that are deleted when their last handle is closed; nobody else can open them.
    doomed: BTreeSet<Identity>,
    next: u64,
}

impl Files {
    /// Opens the directory.
    ///
    /// # Errors
    /// When it is not there, no directory, or may not be read.
    pub fn new(option: &FilesOption) -> std::io::Result<Self> {
        Ok(Self {
            root: open_root(&option.path)?,
            is_read_only: option.is_read_only,
            opened: BTreeMap::new(),
            doomed: BTreeSet::new(),
            next: 1,
        })
    }
}

/// The user's own path: links in it are the user's.
fn open_root(path: &Path) -> std::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests;
