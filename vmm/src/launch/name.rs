//! Names of running drivers.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// Longest name, in bytes.
pub const NAME_MAX: usize = 48;

/// A running driver's name: a file's name too, so letters, digits and `._@+-`, none of `.` and `-` in front.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

fn is_allowed(character: char) -> bool {
    character.is_ascii_alphanumeric() || "._@+-".contains(character)
}

impl Name {
    /// The name that a driver gets by its file: `giveio` for `GIVEIO.SYS` is not it, cases stay.
    #[must_use]
    pub fn of_driver(file: &Path) -> Self {
        let stem = crate::session::service_name(file);
        let name: String = stem
            .chars()
            .map(|character| {
                if is_allowed(character) {
                    character
                } else {
                    '_'
                }
            })
            .take(NAME_MAX - 5)
            .collect();
        name.parse().unwrap_or_else(|_| Self("driver".to_owned()))
    }

    /// The same with a number behind it.
    #[must_use]
    pub fn numbered(&self, number: u32) -> Self {
        Self(format!("{self}-{number}"))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text.len() > NAME_MAX {
            return Err(format!("a name has 1 to {NAME_MAX} characters"));
        }
        if text.starts_with(['.', '-']) || !text.chars().all(is_allowed) {
            return Err(
                "a name is letters, digits and ._@+-, and begins with none of . and -".to_owned(),
            );
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_file_names() {
        for good in ["giveio", "lpt@2", "a.b_c+d-e", "9"] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        let long = "x".repeat(NAME_MAX + 1);
        for bad in ["", ".", "..", ".x", "-x", "a/b", "a b", "ü", "a\n", &long] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn drivers_have_names_by_their_files() {
        let name = |path: &str| Name::of_driver(Path::new(path)).to_string();
        assert_eq!(name("/x/giveio.sys"), "giveio");
        assert_eq!(name("my driver (1).sys"), "my_driver__1_");
        assert_eq!(name("-x.sys"), "driver");
        assert!(
            Name::of_driver(Path::new(&"y".repeat(300)))
                .numbered(9999)
                .as_str()
                .len()
                <= NAME_MAX
        );
    }
}
