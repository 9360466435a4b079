//! Where the tests find drivers and the command-line program.

use std::path::{Path, PathBuf};

use abi::DriverAbi;

/// The workspace: RINGFENCE_ROOT, or where this package was built.
fn root() -> PathBuf {
    std::env::var_os("RINGFENCE_ROOT").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join(".."),
        PathBuf::from,
    )
}

/// The built sample driver `name` for `abi`.
///
/// # Panics
/// It is not there: it is part of the repository.
#[must_use]
pub fn sample(name: &str, abi: DriverAbi) -> PathBuf {
    let path = root()
        .join("images/drivers")
        .join(abi.name())
        .join(format!("{name}.sys"));
    assert!(path.exists(), "{} is missing", path.display());
    path
}

/// A driver that scripts/fetch-drivers downloads, or `None` after a message.
///
/// # Panics
/// It is not there although CI is set.
#[must_use]
pub fn third_party(file: &str) -> Option<PathBuf> {
    let path = root().join("third-party/drivers").join(file);
    if path.exists() {
        return Some(path);
    }
    crate::skip(&format!(
        "{file} is not there; scripts/fetch-drivers gets it"
    ));
    None
}

/// The program `ringfence`: RINGFENCE_BIN, or the newest one in the target directory of this test.
///
/// # Panics
/// There is none; cargo does not build another package's program for a test, `cargo build -p vmm` does.
#[must_use]
pub fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("RINGFENCE_BIN") {
        return PathBuf::from(path);
    }
    let test = std::env::current_exe().expect("a test knows its own path");
    // target/PROFILE/deps/TEST
    let target = test.ancestors().nth(3).unwrap_or_else(|| Path::new("/"));
    ["debug", "release"]
        .iter()
        .map(|profile| target.join(profile).join("ringfence"))
        .filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
        .max()
        .map_or_else(
            || {
                panic!(
                    "no program ringfence in {}: run cargo build",
                    target.display()
                )
            },
            |(_, path)| path,
        )
}
