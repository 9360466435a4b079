//! What the handles of a file let each other do: share modes, and deletion with the last handle.
//!
//! Only this guest's handles count: the host's programs have no share modes.

use rustix::fs::{AtFlags, Stat, unlinkat};

use super::{Files, Opened, Status, status, status_of};

/// FILE_READ_DATA, FILE_EXECUTE.
const READING: u32 = 1 | 0x20;
/// FILE_WRITE_DATA, FILE_APPEND_DATA.
const WRITING: u32 = 2 | 4;
/// DELETE.
const DELETING: u32 = 0x1_0000;

/// Which file it is, whatever its name: device and inode.
pub(super) type Identity = (u64, u64);

/// The file that a status is of.
pub(super) fn identity_of(stat: &Stat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

/// What an open file is used for and shared for, as FILE_SHARE_ bits: read, write, delete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sharing {
    uses: u8,
    shares: u8,
}

impl Sharing {
    /// Of an access mask and a share mode.
    pub(super) const fn new(access: u32, shares: u8) -> Self {
        let uses = [READING, WRITING, DELETING];
        Self {
            uses: (access & uses[0] != 0) as u8
                | ((access & uses[1] != 0) as u8) << 1
                | ((access & uses[2] != 0) as u8) << 2,
            shares,
        }
    }

    /// Whether both can be open at once. A handle for attributes alone is in nobody's way (IoCheckShareAccess).
    pub(super) const fn is_compatible(self, other: Self) -> bool {
        self.uses == 0
            || other.uses == 0
            || self.uses & !other.shares == 0 && other.uses & !self.shares == 0
    }
}

impl Opened {
    /// Takes the file's name out of its directory.
    fn unlink(&self) -> Result<(), Status> {
        let Some((parent, name)) = &self.place else {
            return Ok(());
        };
        let flags = if self.is_directory {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        unlinkat(parent, name.as_str(), flags).map_err(status_of)
    }
}

impl Files {
    /// Whether a file may be opened beside those who have it open.
    ///
    /// # Errors
    /// DELETE_PENDING, SHARING_VIOLATION.
    pub(super) fn check_sharing(&self, file: Identity, wanted: Sharing) -> Result<(), Status> {
        if self.doomed.contains(&file) {
            return Err(status::DELETE_PENDING);
        }
        let others = self.with_handles(file);
        let is_free = others
            .into_iter()
            .all(|other| wanted.is_compatible(other.sharing));
        if is_free {
            Ok(())
        } else {
            Err(status::SHARING_VIOLATION)
        }
    }

    fn with_handles(&self, file: Identity) -> Vec<&Opened> {
        let all = self.opened.values();
        all.filter(|opened| opened.identity == file && !opened.is_cleaned)
            .collect()
    }

    /// The last handle of an opened file is closed; a second time nothing happens.
    ///
    /// # Errors
    /// INVALID_HANDLE; what the host says when the file cannot be deleted.
    pub(super) fn cleanup(&mut self, id: u64) -> Result<(), Status> {
        let opened = self.opened.get_mut(&id).ok_or(status::INVALID_HANDLE)?;
        if opened.is_cleaned {
            return Ok(());
        }
        opened.is_cleaned = true;
        let (file, delete) = (opened.identity, opened.delete_on_close);
        if delete {
            self.doomed.insert(file);
        }
        if self.with_handles(file).is_empty() && self.doomed.remove(&file) {
            self.opened.get(&id).map_or(Ok(()), Opened::unlink)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_must_share_what_the_other_does() {
        let of = Sharing::new;
        assert!(of(1, 1).is_compatible(of(1, 1)));
        assert!(!of(1, 0).is_compatible(of(1, 1)) && !of(1, 1).is_compatible(of(1, 0)));
        assert!(of(2, 1).is_compatible(of(1, 3)) && !of(2, 2).is_compatible(of(1, 3)));
        assert!(of(4, 3).is_compatible(of(0x20, 3)));
        assert!(!of(DELETING, 7).is_compatible(of(1, 3)));
        assert!(of(0x80, 0).is_compatible(of(3, 0)), "attributes alone");
    }
}
