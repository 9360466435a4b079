//! What programs that `ringfence wine run` starts need in the prefix.
//!
//! The other commands place it too: it goes with the last driver, and a program that runs on needs it again for the programs
//! that it starts once there is another driver.

use std::path::Path;

use super::{Failure, configuration};

macro_rules! files {
    ($($name:literal),+) => {
        [$((
            $name,
            include_bytes!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../wine/images/",
                $name
            )),
        )),+]
    };
}

/// The launcher and the DLL for programs of each width: a program may start one of the other.
static FILES: [(&str, &[u8]); 4] = files!(
    "ringfence-port64.exe",
    "ringfence-port64.dll",
    "ringfence-port32.exe",
    "ringfence-port32.dll"
);

/// Whether all of them are there.
pub(super) fn are_placed(folder: &Path) -> bool {
    FILES
        .iter()
        .all(|(name, bytes)| is_placed(&folder.join(name), bytes))
}

fn is_placed(path: &Path, bytes: &[u8]) -> bool {
    std::fs::read(path).is_ok_and(|there| there == bytes)
}

/// Puts them into the prefix's folder. Those that are there already stay: programs may be using them.
pub(super) fn place(folder: &Path) -> Result<(), Failure> {
    for (name, bytes) in FILES {
        let path = folder.join(name);
        if !is_placed(&path, bytes) {
            configuration::write(&path, bytes)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_placed_once_and_renewed() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!are_placed(folder.path()));
        place(folder.path()).unwrap();
        assert!(are_placed(folder.path()));
        let dll = folder.path().join("ringfence-port64.dll");
        let placed = std::fs::metadata(&dll).unwrap().modified().unwrap();
        place(folder.path()).unwrap();
        assert_eq!(std::fs::metadata(&dll).unwrap().modified().unwrap(), placed);
        std::fs::write(&dll, b"of another version").unwrap();
        assert!(!are_placed(folder.path()));
        place(folder.path()).unwrap();
        assert_eq!(std::fs::read(&dll).unwrap(), FILES[1].1);
    }
}
