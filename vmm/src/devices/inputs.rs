//! What drives a device model from outside, such as a printer's status lines or a signal: it can be set while the guest
//! runs, from any thread, so that a driver that waits for it in a loop sees it.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// An input of a device model.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Input {
    /// Its name.
    pub key: String,
    /// What it is now, as it could be set.
    pub value: String,
    /// What it may be.
    pub allowed: &'static str,
}

impl Input {
    pub(super) fn new(key: &str, value: impl fmt::Display, allowed: &'static str) -> Self {
        Self {
            key: key.to_owned(),
            value: value.to_string(),
            allowed,
        }
    }
}

/// The inputs of a device model.
pub trait Inputs: Send + Sync + fmt::Debug {
    /// All of them.
    fn list(&self) -> Vec<Input>;

    /// Sets one.
    ///
    /// # Errors
    /// [`InputError`]; nothing has changed then.
    fn set(&self, key: &str, value: &str) -> Result<(), InputError>;
}

/// An input that cannot be set.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InputError {
    /// There is none of that name.
    #[error("there is no such input")]
    Unknown,
    /// The value is none of it.
    #[error("the value is {0}")]
    Value(&'static str),
}

/// A device model that runs.
#[derive(Clone, Debug)]
pub struct RunningModel {
    /// The owner's name for it.
    pub name: Option<String>,
    /// Where it is: its first port or address, or a PCI function's BAR.
    pub place: String,
    /// What it is.
    pub description: String,
    /// What can be set; `None`: nothing.
    pub inputs: Option<Arc<dyn Inputs>>,
}

impl RunningModel {
    /// Whether a user means it by `name`: its name, its place, or its first port or address in any notation.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        let number = |text: &str| crate::policy::parse_number(text);
        self.name.as_deref() == Some(name)
            || self.place.eq_ignore_ascii_case(name)
            || number(name).is_some_and(|named| number(&self.place) == Some(named))
    }
}

pub(super) const LINE: &str = "0 or 1";
pub(super) const BYTE: &str = "a number from 0 to 255";

/// A number of at most `max`, decimal or 0x.
pub(super) fn number(value: &str, max: u64, allowed: &'static str) -> Result<u64, InputError> {
    crate::policy::parse_number(value)
        .filter(|number| *number <= max)
        .ok_or(InputError::Value(allowed))
}

/// As [`number`].
pub(super) fn byte(value: &str) -> Result<u8, InputError> {
    number(value, 0xFF, BYTE).map(|value| value.to_le_bytes()[0])
}

/// A line: whether it is on.
pub(super) fn line(value: &str) -> Result<bool, InputError> {
    match value {
        "0" => Ok(false),
        "1" => Ok(true),
        _ => Err(InputError::Value(LINE)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_called_by_name_or_place() {
        let model = RunningModel {
            name: Some("LPT1".to_owned()),
            place: "0x378".to_owned(),
            description: "lpt".to_owned(),
            inputs: None,
        };
        for name in ["LPT1", "0x378", "0X378", "888"] {
            assert!(model.is_called(name), "{name}");
        }
        for name in ["lpt1", "378", "0x379", "", "lpt"] {
            assert!(!model.is_called(name), "{name}");
        }
    }
}
