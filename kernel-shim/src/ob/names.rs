//! The namespace: directories, symbolic links, named objects. Names compare without case.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use crate::nt::NtStatus;
use crate::raw::Global;

/// How many symbolic links a name may lead through.
pub const MAX_LINKS: usize = 32;

#[derive(Clone, Debug)]
enum Entry {
    Directory,
    Link(String),
    Object(u64),
}

/// What a name stands for, for those who list and query names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A symbolic link, with its target.
    Link(String),
    /// An object, with its body.
    Object(u64),
}

/// Full names, folded, without a closing backslash (the root is the empty string).
static NAMES: Global<BTreeMap<String, Entry>> = Global::new("object names", BTreeMap::new());

/// The objects in [`NAMES`], each with its name: without it, taking one of many names away would look at all of them.
static NAMED: Global<BTreeSet<(u64, String)>> = Global::new("named objects", BTreeSet::new());

/// The DOS device directory, under all its names.
const DOS_DEVICES: &str = "\\??";

/// A name that an object was found by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The object's body.
    pub body: u64,
    /// What of the name lies behind the object's own, with its leading backslash; empty if nothing does.
    pub rest: String,
}

/// Makes the directories that NT has at boot.
pub fn initialize() {
    SPELLED.with(BTreeMap::clear);
    NAMED.with(BTreeSet::clear);
    NAMES.with(|names| {
        names.clear();
        for directory in [
            "",
            "\\Device",
            "\\Driver",
            DOS_DEVICES,
            "\\BaseNamedObjects",
            "\\Callback",
            "\\ObjectTypes",
            "\\ArcName",
            "\\FileSystem",
        ] {
            names.insert(fold(directory), Entry::Directory);
            let last = directory.rsplit('\\').next().unwrap_or_default();
            SPELLED.with(|spelled| spelled.insert(fold(directory), String::from(last)));
        }
    });
}

/// Folds case as NT does for file names: each character to its single upper-case character, if it has one.
#[must_use]
pub fn fold(name: &str) -> String {
    name.chars()
        .map(|character| {
            let mut upper = character.to_uppercase();
            match (upper.next(), upper.next()) {
                (Some(only), None) => only,
                _ => character,
            }
        })
        .collect()
}

/// Components of an absolute name.
fn components(name: &str) -> Result<Vec<&str>, NtStatus> {
    let inner = name
        .strip_prefix('\\')
        .ok_or(NtStatus::OBJECT_PATH_SYNTAX_BAD)?;
    if inner.is_empty() {
        return Ok(Vec::new());
    }
    Ok(inner.split('\\').collect())
}

/// Appends a component, mapping the names of the DOS device directory onto one.
fn descend(parent: &str, component: &str) -> String {
    let path = alloc::format!("{parent}\\{}", fold(component));
    match path.as_str() {
        "\\DOSDEVICES" | "\\GLOBAL??" | "\\??\\GLOBAL" | "\\??\\GLOBALROOT\\??" => {
            String::from(DOS_DEVICES)
        }
        "\\??\\GLOBALROOT" => String::new(),
        _ => path,
    }
}

/// Finds the object that a name leads to.
///
/// # Errors
/// OBJECT_PATH_SYNTAX_BAD: not absolute. OBJECT_NAME_INVALID: an empty component. OBJECT_NAME_NOT_FOUND,
/// OBJECT_PATH_NOT_FOUND: nothing there. OBJECT_TYPE_MISMATCH: a directory. NAME_TOO_LONG: a loop of links.
pub fn resolve(name: &str) -> Result<Found, NtStatus> {
    let mut path = String::from(name);
    for _ in 0..MAX_LINKS {
        match step(&path)? {
            Step::Found(found) => return Ok(found),
            Step::Link(target) => path = target,
        }
    }
    Err(NtStatus::NAME_TOO_LONG)
}

enum Step {
    Found(Found),
    Link(String),
}

fn step(name: &str) -> Result<Step, NtStatus> {
    let parts = components(name)?;
    NAMES.with(|names| {
        let mut current = String::new();
        for (index, part) in parts.iter().enumerate() {
            if part.is_empty() {
                return Err(NtStatus::OBJECT_NAME_INVALID);
            }
            current = descend(&current, part);
            let rest = || {
                parts[index + 1..]
                    .iter()
                    .fold(String::new(), |rest, part| rest + "\\" + part)
            };
            match names.get(&current) {
                Some(Entry::Directory) => {}
                Some(Entry::Link(target)) => {
                    return Ok(Step::Link(alloc::format!("{target}{}", rest())));
                }
                Some(Entry::Object(body)) => {
                    return Ok(Step::Found(Found {
                        body: *body,
                        rest: rest(),
                    }));
                }
                None if index + 1 == parts.len() => return Err(NtStatus::OBJECT_NAME_NOT_FOUND),
                None => return Err(NtStatus::OBJECT_PATH_NOT_FOUND),
            }
        }
        Err(NtStatus::OBJECT_TYPE_MISMATCH)
    })
}

/// The folded full name for something new: its directory must exist.
fn new_name(names: &BTreeMap<String, Entry>, name: &str) -> Result<String, NtStatus> {
    let parts = components(name)?;
    let Some((last, directories)) = parts.split_last() else {
        return Err(NtStatus::OBJECT_NAME_COLLISION);
    };
    let mut current = String::new();
    for part in directories {
        current = descend(&current, part);
        match names.get(&current) {
            Some(Entry::Directory) => {}
            Some(_) => return Err(NtStatus::OBJECT_PATH_SYNTAX_BAD),
            None => return Err(NtStatus::OBJECT_PATH_NOT_FOUND),
        }
    }
    if last.is_empty() {
        return Err(NtStatus::OBJECT_NAME_INVALID);
    }
    let path = descend(&current, last);
    if names.contains_key(&path) {
        Err(NtStatus::OBJECT_NAME_COLLISION)
    } else {
        Ok(path)
    }
}

/// A name has come or gone. Those of devices and links to them are watched.
fn tell(path: &str) {
    if path.starts_with("\\??\\") || path.starts_with("\\DEVICE\\") {
        crate::io::dos_names::changed();
    }
}

/// Adds an entry; returns its folded full name.
fn insert(name: &str, entry: Entry) -> Result<String, NtStatus> {
    let path = NAMES.with(|names| {
        let path = new_name(names, name)?;
        names.insert(path.clone(), entry);
        Ok::<_, NtStatus>(path)
    })?;
    let last = name.rsplit('\\').next().unwrap_or_default();
    SPELLED.with(|spelled| spelled.insert(path.clone(), String::from(last)));
    tell(&path);
    Ok(path)
}

/// Names an object.
///
/// # Errors
/// OBJECT_NAME_COLLISION: the name is taken. OBJECT_PATH_NOT_FOUND: no such directory. As [`resolve`] otherwise.
pub fn insert_object(name: &str, body: u64) -> Result<(), NtStatus> {
    let path = insert(name, Entry::Object(body))?;
    NAMED.with(|named| named.insert((body, path)));
    super::set_name(body, name);
    Ok(())
}

/// Makes a symbolic link.
///
/// # Errors
/// As [`insert_object`].
pub fn insert_link(name: &str, target: &str) -> Result<(), NtStatus> {
    insert(name, Entry::Link(String::from(target))).map(drop)
}

/// Removes a symbolic link.
///
/// # Errors
/// OBJECT_NAME_NOT_FOUND: there is none. OBJECT_TYPE_MISMATCH: the name is something else's.
pub fn remove_link(name: &str) -> Result<(), NtStatus> {
    let parts = components(name)?;
    let path = parts
        .iter()
        .fold(String::new(), |path, part| descend(&path, part));
    NAMES.with(|names| match names.get(&path) {
        Some(Entry::Link(_)) => {
            names.remove(&path);
            Ok(())
        }
        Some(_) => Err(NtStatus::OBJECT_TYPE_MISMATCH),
        None => Err(NtStatus::OBJECT_NAME_NOT_FOUND),
    })?;
    tell(&path);
    Ok(())
}

/// Takes an object's name away.
pub fn remove_object(body: u64) {
    while let Some(path) = NAMED.with(|named| take_name(named, body)) {
        NAMES.with(|names| names.remove(&path));
        SPELLED.with(|spelled| spelled.remove(&path));
        tell(&path);
    }
}

/// Takes one name of an object out of [`NAMED`].
fn take_name(named: &mut BTreeSet<(u64, String)>, body: u64) -> Option<String> {
    let first = named.range((body, String::new())..).next()?;
    let first = (first.0 == body).then(|| first.clone())?;
    named.take(&first).map(|(_, path)| path)
}

/// The symbolic links: (full name, folded; target).
#[must_use]
pub fn links() -> Vec<(String, String)> {
    NAMES.with(|names| {
        names
            .iter()
            .filter_map(|(name, entry)| match entry {
                Entry::Link(target) => Some((name.clone(), target.clone())),
                Entry::Directory | Entry::Object(_) => None,
            })
            .collect()
    })
}

/// The last components of names as they were given, by the folded full name.
static SPELLED: Global<BTreeMap<String, String>> =
    Global::new("spelling of names", BTreeMap::new());

impl Entry {
    fn kind(&self) -> Kind {
        match self {
            Self::Directory => Kind::Directory,
            Self::Link(target) => Kind::Link(target.clone()),
            Self::Object(body) => Kind::Object(*body),
        }
    }
}

/// What a name itself stands for (a link is not followed at the end), with the folded full name.
///
/// # Errors
/// As [`resolve`].
pub fn entry(name: &str) -> Result<(String, Kind), NtStatus> {
    let (directories, last) = match name.rsplit_once('\\') {
        Some((directories, last)) if !last.is_empty() => (directories, last),
        _ => return directory_path(name).map(|path| (path, Kind::Directory)),
    };
    let path = descend(&directory_path(directories)?, last);
    NAMES.with(|names| match names.get(&path) {
        Some(entry) => Ok((path.clone(), entry.kind())),
        None => Err(NtStatus::OBJECT_NAME_NOT_FOUND),
    })
}

/// The folded full name of a directory; links on the way are followed.
fn directory_path(name: &str) -> Result<String, NtStatus> {
    let mut path = String::from(name);
    for _ in 0..MAX_LINKS {
        if path.is_empty() {
            return Ok(path);
        }
        let parts: Vec<String> = components(&path)?.into_iter().map(String::from).collect();
        let mut current = String::new();
        let mut next = None;
        for (index, part) in parts.iter().enumerate() {
            if part.is_empty() {
                return Err(NtStatus::OBJECT_NAME_INVALID);
            }
            current = descend(&current, part);
            let found = NAMES.with(|names| names.get(&current).map(Entry::kind));
            match found {
                Some(Kind::Directory) => {}
                Some(Kind::Link(target)) => {
                    let rest = parts[index + 1..]
                        .iter()
                        .fold(String::new(), |rest, part| rest + "\\" + part);
                    next = Some(target + &rest);
                    break;
                }
                Some(Kind::Object(_)) => return Err(NtStatus::OBJECT_TYPE_MISMATCH),
                None => return Err(NtStatus::OBJECT_PATH_NOT_FOUND),
            }
        }
        match next {
            Some(target) => path = target,
            None => return Ok(current),
        }
    }
    Err(NtStatus::NAME_TOO_LONG)
}

/// Makes a directory.
///
/// # Errors
/// As [`insert_object`].
pub fn insert_directory(name: &str) -> Result<(), NtStatus> {
    insert(name, Entry::Directory).map(drop)
}

/// Removes a directory or link by its folded full name; a directory only if it is empty.
pub fn remove_entry(path: &str) {
    NAMES.with(|names| {
        let prefix = String::from(path) + "\\";
        let is_used = names
            .range(prefix.clone()..)
            .next()
            .is_some_and(|(name, _)| name.starts_with(&prefix));
        if !is_used && !matches!(names.get(path), Some(Entry::Object(_))) {
            names.remove(path);
        }
    });
    tell(path);
}

/// What a directory holds, in the order of the folded names: name as it was given, and what it stands for.
#[must_use]
pub fn list(path: &str) -> Vec<(String, Kind)> {
    let prefix = String::from(path) + "\\";
    let found: Vec<(String, Kind)> = NAMES.with(|names| {
        names
            .range(prefix.clone()..)
            .take_while(|(name, _)| name.starts_with(&prefix))
            .filter(|(name, _)| name.len() > prefix.len() && !name[prefix.len()..].contains('\\'))
            .map(|(name, entry)| (name.clone(), entry.kind()))
            .collect()
    });
    found
        .into_iter()
        .map(|(name, kind)| {
            let spelled = SPELLED.with(|spelled| spelled.get(&name).cloned());
            let last = spelled.unwrap_or_else(|| String::from(&name[prefix.len()..]));
            (last, kind)
        })
        .collect()
}
