//! The registry itself: keys, values, and how names lead to them.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use crate::nt::NtStatus;
use crate::ob::names::{self, fold};

/// A key's number; never used twice.
pub type KeyId = u32;
/// `\Registry`.
pub const ROOT: KeyId = 0;
/// The most characters of a key's name.
const MAX_NAME: usize = 255;
/// The most characters of a value's name.
const MAX_VALUE_NAME: usize = 16383;
/// The most bytes of names and data in all: the shim's heap holds them.
pub const QUOTA: usize = 384 << 10;
/// What a key or value costs beside its bytes.
const COST: usize = 128;
/// How many links a name may lead through.
const MAX_LINKS: u32 = 32;

/// A value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Value {
    /// Its name; empty for the key's default value.
    pub name: String,
    /// REG_ type.
    pub value_type: u32,
    /// Data.
    pub data: Vec<u8>,
    /// Made by the shim itself, at boot: not worth saving.
    pub is_built_in: bool,
}

/// A key.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its own name.
    pub name: String,
    /// Class, UTF-16.
    pub class: Vec<u16>,
    /// The key that it is in; [`ROOT`] is in itself.
    pub parent: KeyId,
    /// Subkeys by folded name: that is also the order of enumeration.
    pub children: BTreeMap<String, KeyId>,
    /// Values in the order of their making.
    pub values: Vec<Value>,
    /// Whether it is a symbolic link.
    pub is_link: bool,
    /// Gone with the guest: never saved.
    pub is_volatile: bool,
    /// Made by the shim itself, at boot.
    pub is_built_in: bool,
    /// System time of the last change.
    pub written: u64,
}

impl Key {
    /// A value by name, whatever its case.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&Value> {
        let name = fold(name);
        self.values.iter().find(|value| fold(&value.name) == name)
    }

    /// Where a link leads.
    fn target(&self) -> Option<String> {
        let value = self.value("SymbolicLinkValue").filter(|_| self.is_link)?;
        Some(text(&value.data))
    }
}

/// UTF-16 bytes as text, up to the first NUL.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    let units: Vec<u16> = bytes
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .take_while(|&unit| unit != 0)
        .collect();
    String::from_utf16_lossy(&units)
}

/// Text as UTF-16 bytes, closed by NUL: REG_SZ data.
#[must_use]
pub fn string_data(text: &str) -> Vec<u8> {
    text.encode_utf16()
        .chain([0])
        .flat_map(u16::to_le_bytes)
        .collect()
}

/// How a key is to be made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// REG_OPTION_VOLATILE.
    pub is_volatile: bool,
    /// REG_OPTION_CREATE_LINK.
    pub is_link: bool,
    /// By the shim itself, at boot.
    pub is_built_in: bool,
}

/// The registry.
#[derive(Debug)]
pub struct Hive {
    keys: BTreeMap<KeyId, Key>,
    next: KeyId,
    used: usize,
}

impl Hive {
    /// Nothing, not even a root.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            keys: BTreeMap::new(),
            next: 0,
            used: 0,
        }
    }

    /// Forgets everything and makes the root.
    pub fn reset(&mut self) {
        *self = Self::empty();
        let root = Key {
            name: String::from("Registry"),
            class: Vec::new(),
            parent: ROOT,
            children: BTreeMap::new(),
            values: Vec::new(),
            is_link: false,
            is_volatile: false,
            is_built_in: true,
            written: 0,
        };
        self.keys.insert(ROOT, root);
        self.next = 1;
    }

    /// A key.
    ///
    /// # Errors
    /// KEY_DELETED.
    pub fn key(&self, id: KeyId) -> Result<&Key, NtStatus> {
        self.keys.get(&id).ok_or(NtStatus::KEY_DELETED)
    }

    fn key_mut(&mut self, id: KeyId) -> Result<&mut Key, NtStatus> {
        self.keys.get_mut(&id).ok_or(NtStatus::KEY_DELETED)
    }

    /// Full name of a key.
    #[must_use]
    pub fn path(&self, id: KeyId) -> String {
        let mut names = Vec::new();
        let mut current = id;
        while let Some(key) = self.keys.get(&current) {
            names.push(key.name.as_str());
            if current == ROOT {
                break;
            }
            current = key.parent;
        }
        names
            .iter()
            .rev()
            .fold(String::new(), |path, name| path + "\\" + name)
    }

    /// Whether `id` is `ancestor` or below it.
    #[must_use]
    pub fn is_below(&self, id: KeyId, ancestor: KeyId) -> bool {
        let mut current = id;
        loop {
            if current == ancestor {
                return true;
            }
            match self.keys.get(&current) {
                Some(key) if current != ROOT => current = key.parent,
                _ => return false,
            }
        }
    }

    /// Finds a key by an absolute name.
    ///
    /// # Errors
    /// As [`Self::walk`]; OBJECT_TYPE_MISMATCH and what the object manager says: not a name in the registry.
    pub fn resolve(&self, name: &str, open_link: bool) -> Result<KeyId, NtStatus> {
        self.walk(ROOT, relative_to_root(name)?, open_link, 0)
    }

    /// Finds a key by a name relative to another.
    ///
    /// # Errors
    /// OBJECT_NAME_NOT_FOUND; OBJECT_NAME_INVALID: a component is empty or too long.
    pub fn find(&self, from: KeyId, name: &str, open_link: bool) -> Result<KeyId, NtStatus> {
        self.walk(from, name, open_link, 0)
    }

    fn walk(
        &self,
        from: KeyId,
        name: &str,
        open_link: bool,
        links: u32,
    ) -> Result<KeyId, NtStatus> {
        let parts = components(name)?;
        let mut current = from;
        self.key(current)?;
        for (index, part) in parts.iter().enumerate() {
            let child = self
                .key(current)?
                .children
                .get(&fold(part))
                .copied()
                .ok_or(NtStatus::OBJECT_NAME_NOT_FOUND)?;
            let is_last = index + 1 == parts.len();
            current = match self.key(child)?.target() {
                Some(target) if !(is_last && open_link) => {
                    if links >= MAX_LINKS {
                        return Err(NtStatus::NAME_TOO_LONG);
                    }
                    self.walk(ROOT, relative_to_root(&target)?, false, links + 1)?
                }
                _ => child,
            };
        }
        Ok(current)
    }

    /// Finds a key or makes it; its parent must be there. Also whether it is new.
    ///
    /// # Errors
    /// As [`Self::find`]; CHILD_MUST_BE_VOLATILE; ACCESS_DENIED: nothing may be made at the top of the registry;
    /// INSUFFICIENT_RESOURCES: the registry is full.
    pub fn create(
        &mut self,
        from: KeyId,
        name: &str,
        options: Options,
    ) -> Result<(KeyId, bool), NtStatus> {
        match self.walk(from, name, options.is_link, 0) {
            Ok(id) => return Ok((id, false)),
            Err(NtStatus::OBJECT_NAME_NOT_FOUND) => {}
            Err(status) => return Err(status),
        }
        let parts = components(name)?;
        let (last, before) = parts.split_last().ok_or(NtStatus::OBJECT_NAME_INVALID)?;
        let parent = self.walk(from, &before.join("\\"), false, 0)?;
        let above = self.key(parent)?;
        if !options.is_built_in && (parent == ROOT || above.parent == ROOT) {
            return Err(NtStatus::ACCESS_DENIED);
        }
        if above.is_volatile && !options.is_volatile {
            return Err(NtStatus::CHILD_MUST_BE_VOLATILE);
        }
        self.charge(COST + 2 * last.len(), 0)?;
        let id = self.next;
        self.next += 1;
        let key = Key {
            name: String::from(*last),
            class: Vec::new(),
            parent,
            children: BTreeMap::new(),
            values: Vec::new(),
            is_link: options.is_link,
            is_volatile: options.is_volatile,
            is_built_in: options.is_built_in,
            written: now(),
        };
        self.keys.insert(id, key);
        let above = self.key_mut(parent)?;
        above.children.insert(fold(last), id);
        above.written = now();
        Ok((id, true))
    }

    /// Makes a key and those above it.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn create_all(&mut self, name: &str, options: Options) -> Result<KeyId, NtStatus> {
        let relative = relative_to_root(name)?;
        let mut current = ROOT;
        for part in components(relative)? {
            let is_volatile = self.key(current)?.is_volatile;
            let options = Options {
                is_volatile: options.is_volatile || is_volatile,
                ..options
            };
            (current, _) = self.create(current, part, options)?;
        }
        Ok(current)
    }

    /// Gives a key its class.
    pub fn set_class(&mut self, id: KeyId, class: Vec<u16>) {
        if let Ok(key) = self.key_mut(id) {
            key.class = class;
        }
    }

    /// Deletes a key without subkeys.
    ///
    /// # Errors
    /// KEY_DELETED; CANNOT_DELETE: it has subkeys, or is the root.
    pub fn delete(&mut self, id: KeyId) -> Result<(), NtStatus> {
        let key = self.key(id)?;
        if !key.children.is_empty() || id == ROOT {
            return Err(NtStatus::CANNOT_DELETE);
        }
        let (parent, name) = (key.parent, fold(&key.name));
        let freed = COST + 2 * key.name.len() + key.values.iter().map(cost).sum::<usize>();
        self.used = self.used.saturating_sub(freed);
        self.keys.remove(&id);
        let above = self.key_mut(parent)?;
        above.children.remove(&name);
        above.written = now();
        Ok(())
    }

    /// Deletes a key and everything below it.
    ///
    /// # Errors
    /// KEY_DELETED; CANNOT_DELETE: it is the root.
    pub fn delete_tree(&mut self, id: KeyId) -> Result<(), NtStatus> {
        while let Some(&child) = self.key(id)?.children.values().next() {
            self.delete_tree(child)?;
        }
        self.delete(id)
    }

    fn charge(&mut self, more: usize, less: usize) -> Result<(), NtStatus> {
        let used = (self.used + more).saturating_sub(less);
        if used > QUOTA && more > less {
            return Err(NtStatus::INSUFFICIENT_RESOURCES);
        }
        self.used = used;
        Ok(())
    }

    /// Sets a value.
    ///
    /// # Errors
    /// KEY_DELETED; INSUFFICIENT_RESOURCES: the registry is full; INVALID_PARAMETER: the name is too long;
    /// ACCESS_DENIED: a link has no value but its target.
    pub fn set_value(&mut self, id: KeyId, value: Value) -> Result<(), NtStatus> {
        let key = self.key(id)?;
        if value.name.chars().count() > MAX_VALUE_NAME {
            return Err(NtStatus::INVALID_PARAMETER);
        }
        if key.is_link && fold(&value.name) != fold("SymbolicLinkValue") {
            return Err(NtStatus::ACCESS_DENIED);
        }
        let before = key.value(&value.name).map_or(0, cost);
        self.charge(cost(&value), before)?;
        let key = self.key_mut(id)?;
        key.written = now();
        let name = fold(&value.name);
        match key.values.iter_mut().find(|old| fold(&old.name) == name) {
            Some(old) => {
                let name = core::mem::take(&mut old.name);
                *old = Value { name, ..value };
            }
            None => key.values.push(value),
        }
        Ok(())
    }

    /// Deletes a value.
    ///
    /// # Errors
    /// KEY_DELETED; OBJECT_NAME_NOT_FOUND.
    pub fn delete_value(&mut self, id: KeyId, name: &str) -> Result<(), NtStatus> {
        let key = self.key_mut(id)?;
        let folded = fold(name);
        let index = key
            .values
            .iter()
            .position(|value| fold(&value.name) == folded)
            .ok_or(NtStatus::OBJECT_NAME_NOT_FOUND)?;
        let value = key.values.remove(index);
        key.written = now();
        self.used = self.used.saturating_sub(cost(&value));
        Ok(())
    }

    /// Calls for every key below and with `id`, parents first.
    pub fn for_each(&self, id: KeyId, visit: &mut impl FnMut(KeyId, &Key)) {
        let Ok(key) = self.key(id) else { return };
        visit(id, key);
        for &child in key.children.values() {
            self.for_each(child, visit);
        }
    }
}

fn cost(value: &Value) -> usize {
    COST + 2 * value.name.len() + value.data.len()
}

fn now() -> u64 {
    crate::ke::time::system_time()
}

/// What follows `\Registry` in an absolute name.
fn relative_to_root(name: &str) -> Result<&str, NtStatus> {
    let inner = name
        .strip_prefix('\\')
        .ok_or(NtStatus::OBJECT_PATH_SYNTAX_BAD)?;
    let (first, rest) = inner.split_once('\\').unwrap_or((inner, ""));
    if first.eq_ignore_ascii_case("Registry") {
        return Ok(rest);
    }
    // Something else's name, or nobody's.
    Err(names::resolve(name)
        .err()
        .unwrap_or(NtStatus::OBJECT_TYPE_MISMATCH))
}

fn components(name: &str) -> Result<Vec<&str>, NtStatus> {
    let name = name.strip_suffix('\\').unwrap_or(name);
    if name.is_empty() {
        return Ok(Vec::new());
    }
    let parts: Vec<&str> = name.split('\\').collect();
    let is_bad = |part: &&str| part.is_empty() || part.chars().count() > MAX_NAME;
    if parts.iter().any(is_bad) {
        return Err(NtStatus::OBJECT_NAME_INVALID);
    }
    Ok(parts)
}
