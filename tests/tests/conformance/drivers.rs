//! Where the conformance drivers come from: built here, or brought along.

use std::path::{Path, PathBuf};
use std::process::Command;

use abi::DriverAbi;
use integration_tests::{imports, skip};

/// The families and where their images are.
pub(crate) struct Drivers {
    /// With a folder of images for each driver ABI.
    pub(crate) folder: PathBuf,
    /// Names, sorted.
    pub(crate) families: Vec<String>,
    /// What the build said, if it failed.
    pub(crate) build_failure: Option<String>,
}

/// The build script's exit status when a compiler is missing.
const COMPILER_MISSING: i32 = 69;

/// Files of `folder` that end in `extension`, without it.
fn stems(folder: &Path, extension: &str) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let stem = path.file_stem()?.to_str()?.to_owned();
            (path.extension()? == extension).then_some(stem)
        })
        .collect();
    names.sort();
    names
}

impl Drivers {
    /// Those in RINGFENCE_CONFORMANCE, or else builds what is out of date. `None` after a message: no compilers.
    ///
    /// # Panics
    /// The target directory cannot be written; or a compiler is missing although CI is set.
    pub(crate) fn find() -> Option<Self> {
        if let Some(folder) = std::env::var_os("RINGFENCE_CONFORMANCE") {
            let folder = PathBuf::from(folder);
            let mut families = stems(&folder.join("amd64"), "sys");
            families.extend(stems(&folder.join("i386"), "sys"));
            families.sort();
            families.dedup();
            return Some(Self {
                families,
                folder,
                build_failure: None,
            });
        }
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("drivers/conformance");
        let test = std::env::current_exe().expect("a test knows its own path");
        // target/PROFILE/deps/TEST
        let target = test.ancestors().nth(3).unwrap_or_else(|| Path::new("/"));
        let folder = target.join("conformance");
        // A file of each process, so that none reads another's half.
        let definitions = tempfile::tempdir().expect("a temporary folder");
        imports::write_definitions(definitions.path()).expect("a writable folder");
        let build = Command::new(sources.join("build"))
            .arg(&folder)
            .env("RINGFENCE_IMPORTS", definitions.path())
            .output();
        let (succeeded, text) = match build {
            Ok(output) if output.status.code() == Some(COMPILER_MISSING) => {
                let why = String::from_utf8_lossy(&output.stderr).into_owned();
                skip(&format!("the conformance suite: {}", why.trim()));
                return None;
            }
            Ok(output) => (
                output.status.success(),
                String::from_utf8_lossy(&output.stderr).into_owned(),
            ),
            Err(error) => (false, error.to_string()),
        };
        Some(Self {
            families: stems(&sources, "c"),
            folder,
            build_failure: (!succeeded).then_some(text),
        })
    }

    /// The image of a family.
    pub(crate) fn image(&self, family: &str, abi: DriverAbi) -> PathBuf {
        self.folder.join(abi.name()).join(format!("{family}.sys"))
    }
}
