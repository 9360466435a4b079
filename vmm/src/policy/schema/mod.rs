//! What a policy may say: every table and key once. The parser takes its keys from here, and `ringfence policy
//! schema` prints it as a JSON schema.

mod json;
mod tables;
#[cfg(test)]
mod tests;

pub(super) use tables::{
    CLIENTS, DEFAULT, DEVICE, INDEX_PAIR, INDEX_REGISTER, INTERRUPT, MEMORY, MSR, PCI, PCI_BAR,
    PCI_REGISTER, PORT, RESOURCE, TOP,
};

/// What a key's value may be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// `"FIRST-LAST"`, `"SINGLE"` or a number, at most this.
    Range(u64),
    /// A whole number from .0 to .1. Numbers above 2^63 - 1 are written as strings.
    Number(u64, u64),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A text of this many characters.
    Text(usize, usize),
    /// A text of this form (a regular expression of ECMA 262).
    Form(&'static str),
    /// `true` or `false`.
    Flag,
    /// A list of access widths.
    Widths,
    /// A list of numbers and ranges, at most this.
    Values(u64),
    /// A byte, or a list of bytes.
    ByteOrBytes,
    /// A list of bytes.
    Bytes,
    /// A list of .0 to .1 texts, each of at most .2 characters.
    Texts(usize, usize, usize),
    /// A table.
    Table(&'static Table),
    /// A list of tables.
    Tables(&'static Table),
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// Whether it must be there.
    pub(super) is_required: bool,
    /// The back ends that have it; empty: all.
    pub(super) backends: &'static [&'static str],
    /// What it means.
    pub(super) meaning: &'static str,
}

/// A table and its keys.
#[derive(Debug)]
pub(super) struct Table {
    /// How messages name it.
    pub(super) title: &'static str,
    pub(super) keys: &'static [Key],
}

impl Table {
    /// The names of all keys.
    pub(super) fn names(&self) -> Vec<&'static str> {
        self.keys.iter().map(|key| key.name).collect()
    }

    /// A key by its name.
    pub(super) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// The names of the keys that rules with a back end have; all for a back end that is not known.
    pub(super) fn names_for(&self, backend: Option<&str>) -> Vec<&'static str> {
        self.keys
            .iter()
            .filter(|key| {
                key.backends.is_empty()
                    || backend.is_none_or(|backend| key.backends.contains(&backend))
            })
            .map(|key| key.name)
            .collect()
    }
}

/// The words of a list of choices.
pub(super) const fn words<const N: usize, T>(
    choices: &'static [(&'static str, T); N],
) -> [&'static str; N] {
    let mut words = [""; N];
    let mut index = 0;
    while index < N {
        words[index] = choices[index].0;
        index += 1;
    }
    words
}

/// The JSON schema (draft 2020-12) of policies, as text.
#[must_use]
pub fn json_schema() -> String {
    json::schema()
}

/// Every key that a policy may have, for the test of the reference.
#[cfg(test)]
pub(super) fn all_keys() -> Vec<&'static str> {
    [
        &TOP,
        &DEFAULT,
        &PORT,
        &INDEX_PAIR,
        &INDEX_REGISTER,
        &MEMORY,
        &PCI,
        &PCI_REGISTER,
        &PCI_BAR,
        &MSR,
        &DEVICE,
        &RESOURCE,
        &INTERRUPT,
        &CLIENTS,
    ]
    .iter()
    .flat_map(|table| table.names())
    .collect()
}
