//! Opening and making files.

use std::os::fd::{AsFd, OwnedFd};

use abi::file::open_flag;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, fstat, ftruncate, mkdirat, openat2, statat};

use super::name::Place;
use super::share::{Identity, Sharing, identity_of};
use super::{CONFINED, Files, MAX_OPEN, Opened, Status, status, status_of};

/// FILE_WRITE_DATA, FILE_APPEND_DATA, FILE_WRITE_EA, FILE_WRITE_ATTRIBUTES, DELETE, WRITE_DAC, WRITE_OWNER.
const WRITING: u32 = 2 | 4 | 0x10 | 0x100 | 0x1_0000 | 0x4_0000 | 0x8_0000;
/// DELETE.
const DELETE: u32 = 0x1_0000;
/// FILE_WRITE_DATA, FILE_APPEND_DATA.
const WRITE_DATA: u32 = 2 | 4;

/// FILE_SUPERSEDE to FILE_OVERWRITE_IF.
mod disposition {
    pub(super) const SUPERSEDE: u8 = 0;
    pub(super) const OPEN: u8 = 1;
    pub(super) const CREATE: u8 = 2;
    pub(super) const OPEN_IF: u8 = 3;
    pub(super) const OVERWRITE: u8 = 4;
    pub(super) const OVERWRITE_IF: u8 = 5;
}

/// FILE_SUPERSEDED, FILE_OPENED, FILE_CREATED, FILE_OVERWRITTEN.
const INFORMATION: [u64; 4] = [0, 1, 2, 3];

/// What an opening asks for.
#[derive(Clone, Copy, Debug)]
struct Wish {
    access: u32,
    disposition: u8,
    flags: u8,
    share: u8,
}

impl Wish {
    /// What others must share it for: overwriting takes writing, superseding deletion.
    fn sharing(self) -> Sharing {
        let more = match self.disposition {
            disposition::SUPERSEDE => DELETE,
            disposition::OVERWRITE | disposition::OVERWRITE_IF => WRITE_DATA,
            _ => 0,
        };
        Sharing::new(self.access | more, self.share)
    }

    fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn is_overwriting(self) -> bool {
        matches!(
            self.disposition,
            disposition::SUPERSEDE | disposition::OVERWRITE | disposition::OVERWRITE_IF
        )
    }
}

impl Files {
    /// Opens a file: its id, IO_STATUS_BLOCK.Information, whether it is a directory.
    pub(super) fn open(&mut self, path: &str, word: u64) -> Result<(u64, u64, bool), Status> {
        let [a, b, c, d, disposition, flags, share, _] = word.to_le_bytes();
        let wish = Wish {
            access: u32::from_le_bytes([a, b, c, d]),
            disposition,
            flags,
            share,
        };
        let is_contradictory = wish.has(open_flag::DIRECTORY)
            && (wish.has(open_flag::NO_DIRECTORY) || wish.is_overwriting());
        if disposition > disposition::OVERWRITE_IF || is_contradictory {
            return Err(status::INVALID_PARAMETER);
        }
        if self.opened.len() >= MAX_OPEN {
            return Err(status::TOO_MANY_OPENED_FILES);
        }
        let place = self.locate(path)?;
        let may_make = !matches!(wish.disposition, disposition::OPEN | disposition::OVERWRITE);
        if !place.exists && !may_make {
            return Err(status::OBJECT_NAME_NOT_FOUND);
        }
        if place.exists && wish.disposition == disposition::CREATE {
            return Err(status::OBJECT_NAME_COLLISION);
        }
        let is_changing = wish.access & WRITING != 0
            || wish.is_overwriting()
            || !place.exists
            || wish.has(open_flag::DELETE_ON_CLOSE);
        if self.is_read_only && is_changing {
            return Err(status::MEDIA_WRITE_PROTECTED);
        }
        let (opened, information) = if place.exists {
            open_existing(&place, wish, |file| {
                self.check_sharing(file, wish.sharing())
            })?
        } else {
            (make(&place, wish)?, INFORMATION[2])
        };
        let is_directory = opened.is_directory;
        let id = self.next;
        self.next += 1;
        self.opened.insert(id, opened);
        Ok((id, information, is_directory))
    }
}

fn into_opened(
    place: &Place,
    file: OwnedFd,
    is_directory: bool,
    wish: Wish,
) -> Result<Opened, Status> {
    let parent = place
        .parent
        .as_fd()
        .try_clone_to_owned()
        .map_err(|_| status::IO_DEVICE_ERROR)?;
    let identity = identity_of(&fstat(&file).map_err(status_of)?);
    Ok(Opened {
        file,
        place: (!place.name.is_empty()).then(|| (parent, place.name.clone())),
        path: format!("{}{}", place.above, place.name),
        is_directory,
        is_writable: !is_directory && wish.access & WRITE_DATA != 0,
        delete_on_close: wish.has(open_flag::DELETE_ON_CLOSE) && !place.name.is_empty(),
        identity,
        sharing: Sharing::new(wish.access, wish.share),
        is_cleaned: false,
        entries: None,
    })
}

fn open_existing(
    place: &Place,
    wish: Wish,
    check_sharing: impl FnOnce(Identity) -> Result<(), Status>,
) -> Result<(Opened, u64), Status> {
    let name = if place.name.is_empty() {
        "."
    } else {
        place.name.as_str()
    };
    let is_directory = kind(place, name)?;
    if is_directory && (wish.has(open_flag::NO_DIRECTORY) || wish.is_overwriting()) {
        return Err(status::FILE_IS_A_DIRECTORY);
    }
    if !is_directory && wish.has(open_flag::DIRECTORY) {
        return Err(status::NOT_A_DIRECTORY);
    }
    let needs_write = wish.access & WRITE_DATA != 0 || wish.is_overwriting();
    let direction = if is_directory {
        OFlags::RDONLY | OFlags::DIRECTORY
    } else if needs_write {
        OFlags::RDWR
    } else {
        OFlags::RDONLY
    };
    // Should a FIFO have taken the file's place meanwhile, opening it does not wait.
    let flags = direction | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = openat2(&place.parent, name, flags, Mode::empty(), CONFINED).map_err(status_of)?;
    check_sharing(check_kind(&file, is_directory)?)?;
    let mut information = INFORMATION[1];
    if wish.is_overwriting() {
        ftruncate(&file, 0).map_err(status_of)?;
        information = if wish.disposition == disposition::SUPERSEDE {
            INFORMATION[0]
        } else {
            INFORMATION[3]
        };
    }
    Ok((into_opened(place, file, is_directory, wish)?, information))
}

/// Whether the entry is a directory; regular files are the only others that are opened at all.
fn kind(place: &Place, name: &str) -> Result<bool, Status> {
    let stat = statat(&place.parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(status_of)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Ok(true),
        FileType::RegularFile => Ok(false),
        _ => Err(status::ACCESS_DENIED),
    }
}

/// What was opened is what was looked at.
fn check_kind(file: &OwnedFd, is_directory: bool) -> Result<Identity, Status> {
    let stat = fstat(file).map_err(status_of)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory if is_directory => Ok(identity_of(&stat)),
        FileType::RegularFile if !is_directory => Ok(identity_of(&stat)),
        _ => Err(status::ACCESS_DENIED),
    }
}

fn make(place: &Place, wish: Wish) -> Result<Opened, Status> {
    debug_assert!(wish.disposition != disposition::OPEN_IF || !place.exists);
    let name = place.name.as_str();
    let is_directory = wish.has(open_flag::DIRECTORY);
    let common = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = if is_directory {
        mkdirat(&place.parent, name, Mode::from_raw_mode(0o755)).map_err(status_of)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | common;
        openat2(&place.parent, name, flags, Mode::empty(), CONFINED)
    } else {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | common;
        openat2(
            &place.parent,
            name,
            flags,
            Mode::from_raw_mode(0o644),
            CONFINED,
        )
    }
    .map_err(status_of)?;
    into_opened(place, file, is_directory, wish)
}
