//! A guest's calls: numbers are checked, buffers are copies.

use abi::file::{DirectoryEntry, FileCall, FileMetadata, MAX_TRANSFER};
use rustix::fs::{
    AtFlags, FileType, RenameFlags, Stat, Timespec, Timestamps, UTIME_OMIT, fstat, fstatvfs, fsync,
    ftruncate, futimens, renameat_with, statat,
};
use rustix::io::{pread, pwrite};
use zerocopy::IntoBytes;

use super::name::names_in;
use super::{Files, Opened, Status, status, status_of};

/// Offset of NT's epoch (1601) from Unix's, in seconds.
const EPOCH_SECONDS: i64 = 11_644_473_600;
/// FILE_ATTRIBUTE_READONLY, HIDDEN, DIRECTORY, ARCHIVE.
const READ_ONLY: u32 = 1;
const HIDDEN: u32 = 2;
const DIRECTORY: u32 = 0x10;
const ARCHIVE: u32 = 0x20;
/// "At the end" as an offset.
const END: u64 = u64::MAX;

/// What a call answers beside its status: values, and what the buffer then holds.
type Answer = Result<[u64; 3], Status>;

fn nt_time(seconds: i64, nanoseconds: i64) -> u64 {
    let ticks = (seconds.saturating_add(EPOCH_SECONDS))
        .saturating_mul(10_000_000)
        .saturating_add(nanoseconds / 100);
    u64::try_from(ticks).unwrap_or(0)
}

fn timespec(time: u64) -> Timespec {
    let ticks = i64::try_from(time).unwrap_or(i64::MAX);
    if ticks <= 0 {
        return Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        };
    }
    Timespec {
        tv_sec: ticks / 10_000_000 - EPOCH_SECONDS,
        tv_nsec: ticks % 10_000_000 * 100,
    }
}

fn nanoseconds(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(0)
}

fn metadata(stat: &Stat, name: &str, delete: bool) -> FileMetadata {
    let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let mut attributes = if is_directory { DIRECTORY } else { ARCHIVE };
    if stat.st_mode & 0o222 == 0 {
        attributes |= READ_ONLY;
    }
    if name.starts_with('.') {
        attributes |= HIDDEN;
    }
    let bytes = if is_directory {
        0
    } else {
        u64::try_from(stat.st_size).unwrap_or(0)
    };
    let written = nt_time(stat.st_mtime, nanoseconds(stat.st_mtime_nsec));
    let changed = nt_time(stat.st_ctime, nanoseconds(stat.st_ctime_nsec));
    FileMetadata {
        created: written.min(changed),
        accessed: nt_time(stat.st_atime, nanoseconds(stat.st_atime_nsec)),
        written,
        changed,
        allocated: if is_directory {
            0
        } else {
            bytes.next_multiple_of(4096)
        },
        bytes,
        index: stat.st_ino,
        attributes,
        links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        delete_pending: u32::from(delete),
        is_directory: u32::from(is_directory),
    }
}

fn text(bytes: &[u8]) -> Result<String, Status> {
    let (pairs, odd) = bytes.as_chunks::<2>();
    let units: Vec<u16> = pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
    let text = String::from_utf16(&units).map_err(|_| status::OBJECT_NAME_INVALID)?;
    if odd.is_empty() {
        Ok(text)
    } else {
        Err(status::OBJECT_NAME_INVALID)
    }
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

impl Opened {
    fn name(&self) -> &str {
        self.place.as_ref().map_or("", |(_, name)| name.as_str())
    }

    fn data(&self) -> Result<&Self, Status> {
        if self.is_directory {
            Err(status::INVALID_DEVICE_REQUEST)
        } else {
            Ok(self)
        }
    }

    fn writable(&self) -> Result<&Self, Status> {
        if self.data()?.is_writable {
            Ok(self)
        } else {
            Err(status::ACCESS_DENIED)
        }
    }
}

impl Files {
    /// Serves a call. `buffer` is a copy of the guest's, at most [`MAX_TRANSFER`] bytes; what it holds afterwards, cut to
    /// its length before, goes back for a call that fills it.
    pub fn call(&mut self, arguments: [u64; 6], buffer: &mut Vec<u8>) -> [u64; 4] {
        let [call, id, _, _, first, second] = arguments;
        let answer = match FileCall::from_number(call) {
            None => Err(status::INVALID_PARAMETER),
            Some(_) if buffer.len() as u64 > MAX_TRANSFER => Err(status::INVALID_PARAMETER),
            Some(call) => self.serve(call, id, first, second, buffer),
        };
        match answer {
            Ok([a, b, c]) => [0, a, b, c],
            Err(status) => [u64::from(status), 0, 0, 0],
        }
    }

    fn file(&self, id: u64) -> Result<&Opened, Status> {
        self.opened.get(&id).ok_or(status::INVALID_HANDLE)
    }

    fn serve(
        &mut self,
        call: FileCall,
        id: u64,
        first: u64,
        second: u64,
        buffer: &mut Vec<u8>,
    ) -> Answer {
        match call {
            FileCall::Present => Ok([1, u64::from(self.is_read_only), 0]),
            FileCall::Open => {
                let (id, information, is_directory) = self.open(&text(buffer)?, first)?;
                Ok([id, information, u64::from(is_directory)])
            }
            FileCall::Close => self.close(id),
            FileCall::Cleanup => self.cleanup(id).map(|()| [0; 3]),
            FileCall::Read => self.read(id, first, buffer),
            FileCall::Write => {
                let file = self.file(id)?.writable()?;
                let offset = match first {
                    END => {
                        u64::try_from(fstat(&file.file).map_err(status_of)?.st_size).unwrap_or(0)
                    }
                    offset => offset,
                };
                let count = pwrite(&file.file, buffer, offset).map_err(status_of)? as u64;
                Ok([count, offset.saturating_add(count), 0])
            }
            FileCall::Query => {
                let file = self.file(id)?;
                let stat = fstat(&file.file).map_err(status_of)?;
                *buffer = metadata(&stat, file.name(), self.doomed.contains(&file.identity))
                    .as_bytes()
                    .to_vec();
                Ok([0; 3])
            }
            FileCall::SetSize => {
                ftruncate(&self.file(id)?.writable()?.file, first).map_err(status_of)?;
                Ok([0; 3])
            }
            FileCall::SetBasic => self.set_times(id, buffer),
            FileCall::SetDelete => self.set_delete(id, first != 0),
            FileCall::Rename => self.rename(id, &text(buffer)?, first != 0),
            FileCall::List => self.list(id, first, second != 0, buffer),
            FileCall::Flush => {
                fsync(&self.file(id)?.file).map_err(status_of)?;
                Ok([0; 3])
            }
            FileCall::Volume => {
                let volume = fstatvfs(&self.root).map_err(status_of)?;
                let bytes = |blocks: u64| blocks.saturating_mul(volume.f_frsize);
                Ok([bytes(volume.f_blocks), bytes(volume.f_bavail), 0])
            }
            FileCall::Name => {
                let name = utf16(&self.file(id)?.path);
                if name.len() > buffer.len() {
                    return Err(status::BUFFER_TOO_SMALL);
                }
                let bytes = name.len() as u64;
                *buffer = name;
                Ok([bytes, 0, 0])
            }
        }
    }

    fn read(&self, id: u64, offset: u64, buffer: &mut Vec<u8>) -> Answer {
        let file = self.file(id)?.data()?;
        let wanted = buffer.len();
        let count = pread(&file.file, buffer.as_mut_slice(), offset).map_err(status_of)?;
        if count == 0 && wanted > 0 {
            return Err(status::END_OF_FILE);
        }
        buffer.truncate(count);
        Ok([count as u64, 0, 0])
    }

    fn close(&mut self, id: u64) -> Answer {
        let cleaned = self.cleanup(id);
        self.opened.remove(&id).ok_or(status::INVALID_HANDLE)?;
        cleaned.map(|()| [0; 3])
    }

    fn set_times(&self, id: u64, buffer: &[u8]) -> Answer {
        if self.is_read_only {
            return Err(status::MEDIA_WRITE_PROTECTED);
        }
        let file = self.file(id)?;
        let (words, _) = buffer.as_chunks::<8>();
        let [_, accessed, written] = words else {
            return Err(status::INVALID_PARAMETER);
        };
        let times = Timestamps {
            last_access: timespec(u64::from_le_bytes(*accessed)),
            last_modification: timespec(u64::from_le_bytes(*written)),
        };
        futimens(&file.file, &times).map_err(status_of)?;
        Ok([0; 3])
    }

    fn set_delete(&mut self, id: u64, delete: bool) -> Answer {
        if self.is_read_only {
            return Err(status::MEDIA_WRITE_PROTECTED);
        }
        let file = self.file(id)?;
        let stat = fstat(&file.file).map_err(status_of)?;
        if file.place.is_none() || delete && stat.st_mode & 0o222 == 0 {
            return Err(status::CANNOT_DELETE);
        }
        if delete && file.is_directory && !names_in(&file.file)?.is_empty() {
            return Err(status::DIRECTORY_NOT_EMPTY);
        }
        let identity = file.identity;
        if delete {
            self.doomed.insert(identity);
        } else {
            self.doomed.remove(&identity);
        }
        Ok([0; 3])
    }

    fn rename(&mut self, id: u64, path: &str, replace: bool) -> Answer {
        if self.is_read_only {
            return Err(status::MEDIA_WRITE_PROTECTED);
        }
        let target = self.locate(path)?;
        let file = self.opened.get_mut(&id).ok_or(status::INVALID_HANDLE)?;
        let Some((parent, name)) = &file.place else {
            return Err(status::ACCESS_DENIED);
        };
        if target.name.is_empty() {
            return Err(status::ACCESS_DENIED);
        }
        let flags = if replace {
            RenameFlags::empty()
        } else {
            RenameFlags::NOREPLACE
        };
        // A name that differs in case alone is the file's own.
        if target.exists && !replace {
            return Err(status::OBJECT_NAME_COLLISION);
        }
        renameat_with(
            parent,
            name.as_str(),
            &target.parent,
            target.name.as_str(),
            flags,
        )
        .map_err(status_of)?;
        file.path = format!("{}{}", target.above, target.name);
        file.place = Some((target.parent, target.name));
        Ok([0; 3])
    }

    fn list(&mut self, id: u64, first: u64, restart: bool, buffer: &mut Vec<u8>) -> Answer {
        let file = self.opened.get_mut(&id).ok_or(status::INVALID_HANDLE)?;
        if !file.is_directory {
            return Err(status::INVALID_PARAMETER);
        }
        if restart || file.entries.is_none() {
            let mut names = vec![".".to_owned(), "..".to_owned()];
            names.extend(names_in(&file.file)?);
            file.entries = Some(names);
        }
        let room = buffer.len();
        let mut output = Vec::new();
        let mut count = 0;
        let names = file.entries.as_deref().unwrap_or_default();
        let start = usize::try_from(first).unwrap_or(usize::MAX);
        for name in names.iter().skip(start) {
            // The directory above the root is not the guest's to look at.
            let looked_at = if name == ".." { "." } else { name.as_str() };
            let Ok(stat) = statat(&file.file, looked_at, AtFlags::SYMLINK_NOFOLLOW) else {
                count += 1;
                continue;
            };
            let is_shown = matches!(
                FileType::from_raw_mode(stat.st_mode),
                FileType::Directory | FileType::RegularFile
            );
            if !is_shown {
                count += 1;
                continue;
            }
            let name_bytes = utf16(name);
            let shown = if name.starts_with("..") || name == "." {
                ""
            } else {
                name
            };
            let entry = DirectoryEntry {
                metadata: metadata(&stat, shown, false),
                name_bytes: u32::try_from(name_bytes.len()).unwrap_or(0),
                index: u32::try_from(first.saturating_add(count)).unwrap_or(u32::MAX),
            };
            let bytes = (size_of::<DirectoryEntry>() + name_bytes.len()).next_multiple_of(8);
            if output.len() + bytes > room {
                break;
            }
            output.extend_from_slice(entry.as_bytes());
            output.extend(name_bytes);
            output.resize(output.len().next_multiple_of(8), 0);
            count += 1;
        }
        if count == 0 {
            return Err(status::NO_MORE_FILES);
        }
        let bytes = output.len() as u64;
        *buffer = output;
        Ok([count, bytes, 0])
    }
}
