//! Names of devices and symbolic links in an image.

use std::collections::BTreeSet;

use serde::Serialize;

use super::code::Code;

/// Longest name, in characters.
const NAME_MAX: usize = 200;
/// Most names that are listed.
const NAMES_MAX: usize = 256;

/// What a name is by its beginning.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NameKind {
    /// `\Device\...`
    Device,
    /// `\DosDevices\...`, `\??\...`: what programs open as `\\.\...`.
    SymbolicLink,
}

/// A name in the image.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct ObjectName {
    /// What it is.
    pub kind: NameKind,
    /// The name.
    pub name: String,
    /// Whether the decoded code names its address, or that of a string structure that points to it.
    pub is_referenced: bool,
}

const PREFIXES: [(&str, NameKind); 3] = [
    ("\\device\\", NameKind::Device),
    ("\\dosdevices\\", NameKind::SymbolicLink),
    ("\\??\\", NameKind::SymbolicLink),
];

/// The names in the image, each once.
pub(super) fn find(code: &Code<'_>, references: &BTreeSet<u64>) -> Vec<ObjectName> {
    let memory = code.memory();
    let pointed: BTreeSet<u64> = code
        .image
        .relocations
        .iter()
        .map(|relocation| code.base + u64::from(relocation.rva))
        .filter_map(|place| code.pointer(place))
        .collect();
    let mut names: BTreeSet<ObjectName> = BTreeSet::new();
    let mut at = 0;
    while names.len() < NAMES_MAX
        && let Some(distance) = memory.iter().skip(at).position(|&byte| byte == b'\\')
    {
        at += distance;
        let bytes = memory.get(at..).unwrap_or_default();
        let Some((kind, name, unit)) = [2, 1].into_iter().find_map(|unit| named(bytes, unit))
        else {
            at += 1;
            continue;
        };
        // A compiler may copy a text in pieces.
        let length = unit * name.len();
        let address = code.base + at as u64;
        let is_referenced = references
            .range(address..address + length as u64)
            .next()
            .is_some()
            || pointed.contains(&address);
        names.insert(ObjectName {
            kind,
            name,
            is_referenced,
        });
        // What is inside a name is none of its own, and no byte is looked at again.
        at += length;
    }
    let mut all: Vec<ObjectName> = names.into_iter().collect();
    // The same text twice: what matters is whether one of them is used.
    all.sort_by(|a, b| {
        (a.kind, &a.name, !a.is_referenced).cmp(&(b.kind, &b.name, !b.is_referenced))
    });
    all.dedup_by(|second, first| second.name == first.name);
    all
}

/// The name of a device or link at the start of `bytes`, in units of that many bytes.
fn named(bytes: &[u8], unit: usize) -> Option<(NameKind, String, usize)> {
    let begins_with = |prefix: &str| {
        let mut units = bytes.chunks_exact(unit);
        prefix.bytes().all(|wanted| {
            let first = units.next().and_then(|one| one.first());
            first.is_some_and(|byte| byte.eq_ignore_ascii_case(&wanted))
        })
    };
    let (prefix, kind) = PREFIXES.iter().find(|(prefix, _)| begins_with(prefix))?;
    let name = text(bytes, unit)?;
    (name.len() > prefix.len()).then_some((*kind, name, unit))
}

/// The printable ASCII text at the start of `bytes`, in units of that many bytes.
fn text(bytes: &[u8], unit: usize) -> Option<String> {
    let mut name = String::new();
    for character in bytes.chunks_exact(unit).take(NAME_MAX) {
        let (low, high) = character.split_first()?;
        if !(0x20..0x7F).contains(low) || high.iter().any(|&byte| byte != 0) {
            break;
        }
        name.push(char::from(*low));
    }
    (name.len() > 4).then_some(name)
}
