//! The files that options name: one that is written must not be one that is read, or written by something else.

use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::observe::escape::escape;

/// What a file is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Use {
    /// It is read.
    Input,
    /// It is replaced or emptied.
    Output,
}

/// A regular file, also one that is not there yet.
#[derive(PartialEq, Eq, Debug)]
struct Identity {
    device: u64,
    inode: u64,
    /// In the folder that these are of, as long as there is no such file.
    name: Option<OsString>,
}

/// Files, and the options that name them.
#[derive(Debug, Default)]
pub(super) struct NamedFiles {
    files: Vec<(Use, String, Identity, String)>,
}

impl NamedFiles {
    /// One that is read.
    pub(super) fn reads(&mut self, option: impl Into<String>, path: &Path) {
        self.add(Use::Input, option.into(), path);
    }

    /// One that is written; `-` is none.
    pub(super) fn writes(&mut self, option: impl Into<String>, path: &Path) {
        if path != Path::new("-") {
            self.add(Use::Output, option.into(), path);
        }
    }

    fn add(&mut self, what: Use, option: String, path: &Path) {
        // What is neither a file nor will be one is not overwritten.
        if let Some(identity) = identity(path) {
            let shown = escape(&path.display().to_string());
            self.files.push((what, option, identity, shown));
        }
    }

    /// # Errors
    /// The options that name the same file.
    pub(super) fn check(&self) -> Result<(), String> {
        for (index, (what, option, identity, path)) in self.files.iter().enumerate() {
            let before = self.files.iter().take(index);
            let same = before
                .filter(|(_, _, known, _)| known == identity)
                .find(|(known, ..)| (*known, *what) != (Use::Input, Use::Input));
            let Some((other_use, other, ..)) = same else {
                continue;
            };
            // `--save-registry` may replace what `--registry` reads.
            if [other.as_str(), option] == ["--registry", "--save-registry"] {
                continue;
            }
            let (output, input, loss) = match (other_use, what) {
                (Use::Output, Use::Output) => (option, other, "both would write it"),
                (Use::Output, Use::Input) => (other, option, "it would be overwritten"),
                (Use::Input, _) => (option, other, "it would be overwritten"),
            };
            return Err(format!(
                "{output} and {input} name the same file, {path}: {loss}; name another file for {output}"
            ));
        }
        Ok(())
    }
}

fn identity(path: &Path) -> Option<Identity> {
    let of = |metadata: &Metadata, name| Identity {
        device: metadata.dev(),
        inode: metadata.ino(),
        name,
    };
    match path.metadata() {
        Ok(metadata) => metadata.is_file().then(|| of(&metadata, None)),
        Err(_) => {
            let folder = match path.parent()? {
                empty if empty.as_os_str().is_empty() => Path::new("."),
                folder => folder,
            };
            let name = path.file_name()?.to_owned();
            Some(of(&folder.metadata().ok()?, Some(name)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_the_same_by_any_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("driver.sys");
        std::fs::write(&path, "x").unwrap();
        let links = ["hard", "soft"].map(|name| folder.path().join(name));
        std::fs::hard_link(&path, &links[0]).unwrap();
        std::os::unix::fs::symlink(&path, &links[1]).unwrap();
        for output in [&path, &links[0], &links[1]] {
            let mut files = NamedFiles::default();
            files.reads("DRIVER", &path);
            files.writes("--record", output);
            let message = files.check().unwrap_err();
            assert!(
                message.starts_with("--record and DRIVER name the same file"),
                "{message}"
            );
        }
    }

    #[test]
    fn outputs_that_are_not_there_yet_are_compared_too() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = NamedFiles::default();
        files.writes("--record", &folder.path().join("new"));
        files.writes("--trace", &folder.path().join("./new"));
        assert!(files.check().unwrap_err().contains("both would write it"));
    }

    #[test]
    fn files_of_their_own_and_devices_are_fine() {
        let folder = tempfile::tempdir().unwrap();
        let registry = folder.path().join("r.toml");
        std::fs::write(&registry, "").unwrap();
        let mut files = NamedFiles::default();
        files.reads("DRIVER", &folder.path().join("driver.sys"));
        files.reads("--available", &folder.path().join("driver.sys"));
        files.reads("--registry", &registry);
        files.writes("--save-registry", &registry);
        files.writes("--record", Path::new("/dev/null"));
        files.writes("--trace", Path::new("/dev/null"));
        files.writes("--output", Path::new("-"));
        assert_eq!(files.check(), Ok(()));
    }
}
