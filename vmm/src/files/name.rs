//! Names: which ones there can be, and which host name one means.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat2, statat};
use rustix::io::Errno;

use super::{CONFINED, Files, Status, status, status_of};

/// Names that mean devices, whatever follows a dot.
const DEVICES: [&str; 6] = ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"];
/// The most characters of a component.
const MAX_COMPONENT: usize = 255;
/// The most components of a path.
const MAX_DEPTH: usize = 64;

/// Whether a component is one that a file can have: no device, no stream, no way up.
pub(super) fn is_valid(component: &str) -> bool {
    let stem = component.split('.').next().unwrap_or("").trim_end();
    let stem = stem.to_ascii_uppercase();
    let is_port = ["COM", "LPT"].iter().any(|kind| {
        stem.strip_prefix(kind).is_some_and(|number| {
            let mut digits = number.chars();
            matches!(
                (digits.next(), digits.next()),
                (Some('1'..='9' | '¹' | '²' | '³'), None)
            )
        })
    });
    let is_forbidden = |character: char| character < ' ' || "<>:\"/\\|?*\u{7f}".contains(character);
    !component.is_empty()
        && component.encode_utf16().count() <= MAX_COMPONENT
        && !component.contains(is_forbidden)
        && component.chars().any(|character| character != '.')
        && !DEVICES.contains(&stem.as_str())
        && !is_port
}

fn fold(name: &str) -> String {
    name.chars().flat_map(char::to_uppercase).collect()
}

/// The names in a directory, without "." and ".."; sorted without case. What is not UTF-8 is left out.
pub(super) fn names_in(directory: &OwnedFd) -> Result<Vec<String>, Status> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory).map_err(status_of)? {
        let entry = entry.map_err(status_of)?;
        if let Ok(name) = entry.file_name().to_str()
            && is_valid(name)
        {
            names.push(name.to_owned());
        }
    }
    names.sort_by_cached_key(|name| fold(name));
    Ok(names)
}

/// The host's name of an entry: exactly that, or one that differs in case.
pub(super) fn find(directory: &OwnedFd, component: &str) -> Result<Option<String>, Status> {
    match statat(directory, component, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => return Ok(Some(component.to_owned())),
        Err(Errno::NOENT) => {}
        Err(error) => return Err(status_of(error)),
    }
    let folded = fold(component);
    let names = names_in(directory)?;
    Ok(names.into_iter().find(|name| fold(name) == folded))
}

/// Where a path leads.
#[derive(Debug)]
pub(super) struct Place {
    /// The directory.
    pub(super) parent: OwnedFd,
    /// The name in it: the host's if there is one, else as given. Empty: the root itself.
    pub(super) name: String,
    /// Whether there is something of that name.
    pub(super) exists: bool,
    /// Path of the directory below the root, as on the host, each component closed by a backslash.
    pub(super) above: String,
}

impl Files {
    /// Finds where a path leads.
    pub(super) fn locate(&self, path: &str) -> Result<Place, Status> {
        let mut parent = self
            .root
            .as_fd()
            .try_clone_to_owned()
            .map_err(|_| status::IO_DEVICE_ERROR)?;
        let path = path.strip_suffix('\\').unwrap_or(path);
        if path.is_empty() {
            return Ok(Place {
                parent,
                name: String::new(),
                exists: true,
                above: String::new(),
            });
        }
        let components: Vec<&str> = path.split('\\').collect();
        if components.len() > MAX_DEPTH || !components.iter().all(|component| is_valid(component)) {
            return Err(status::OBJECT_NAME_INVALID);
        }
        let mut above = String::new();
        let (last, directories) = components.split_last().ok_or(status::OBJECT_NAME_INVALID)?;
        for component in directories {
            let name = find(&parent, component)?.ok_or(status::OBJECT_PATH_NOT_FOUND)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            parent = openat2(&parent, name.as_str(), flags, Mode::empty(), CONFINED).map_err(
                |error| match status_of(error) {
                    status::OBJECT_NAME_NOT_FOUND => status::OBJECT_PATH_NOT_FOUND,
                    other => other,
                },
            )?;
            above = above + &name + "\\";
        }
        let found = find(&parent, last)?;
        Ok(Place {
            parent,
            exists: found.is_some(),
            name: found.unwrap_or_else(|| (*last).to_owned()),
            above,
        })
    }
}
