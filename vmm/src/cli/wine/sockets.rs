//! Where the sockets of a prefix go whose own path is too long for them.
//!
//! A reboot may take the folder away, and wine/driver/folder.c makes it again, with the same checks.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::Failure;

/// Longest path of a socket.
const SOCKET_MAX: usize = 107;
/// A socket's name as long as names of services are in practice.
const LONGEST_SOCKET: &str = "a-name-of-32-letters-or-so.socket";

/// Whether sockets in a folder have paths that a socket may have.
pub(super) fn is_short(folder: &Path) -> bool {
    folder.join(LONGEST_SOCKET).as_os_str().len() <= SOCKET_MAX
}

/// The most bytes that a socket's name, without `.socket`, may have in a folder.
pub(super) fn longest_name(folder: &Path) -> usize {
    let others = folder.join(".socket").as_os_str().len();
    SOCKET_MAX.saturating_sub(others)
}

/// A folder with a short path for the sockets of a prefix with a long one: in the user's run directory, or else in /tmp. Its
/// name is made from the prefix's path.
pub(super) fn elsewhere(prefix: &Path, run_directory: Option<OsString>) -> PathBuf {
    let hash = fnv1a(prefix.as_os_str().as_bytes());
    let user = rustix::process::getuid().as_raw();
    run_directory
        .map(PathBuf::from)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(format!("ringfence-wine-{hash:016x}")))
        .filter(|folder| is_short(folder))
        .unwrap_or_else(|| PathBuf::from(format!("/tmp/ringfence-wine-{user}-{hash:016x}")))
}

/// FNV-1a: the same in each version, which the standard library's hashes need not be.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Makes a folder that only this user may write to, in one that may be everybody's.
pub(super) fn make_own(folder: &Path) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::file(folder, &error);
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(failed(error));
        }
        _ => {}
    }
    // Who made it first may be somebody else, who would own the sockets in it.
    let found = std::fs::symlink_metadata(folder).map_err(failed)?;
    let is_own = found.is_dir()
        && found.uid() == rustix::process::getuid().as_raw()
        && found.mode() & 0o022 == 0;
    if is_own {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "{}: is needed for the sockets of this prefix, whose path is long, but others may write to it",
        folder.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_long_prefixes_have_short_paths() {
        let long = PathBuf::from(format!("/home/{}", "x".repeat(200)));
        for run in [
            None,
            Some("/run/user/1000"),
            Some("relative"),
            Some(long.to_str().unwrap()),
        ] {
            let folder = elsewhere(&long, run.map(OsString::from));
            assert!(is_short(&folder) && folder.is_absolute(), "{folder:?}");
            let longest = "x".repeat(longest_name(&folder));
            let socket = folder.join(format!("{longest}.socket"));
            assert_eq!(socket.as_os_str().len(), SOCKET_MAX);
            assert_ne!(
                folder,
                elsewhere(Path::new("/other"), run.map(OsString::from))
            );
        }
    }

    #[test]
    fn folders_of_others_are_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        make_own(&run).unwrap();
        make_own(&run).unwrap();
        let mode = std::fs::metadata(&run).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o700);
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o770);
        std::fs::set_permissions(&run, open).unwrap();
        assert!(make_own(&run).is_err());
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        assert!(make_own(&link).is_err());
    }
}
