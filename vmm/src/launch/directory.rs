//! The run directory: a folder for each running driver, in a folder of the user's.
//!
//! | file in `RUN_DIRECTORY/NAME/` | what |
//! |---|---|
//! | `lock` | locked (flock) as long as the run is there: a name is one run's |
//! | `state.json` | [`Registration`]: there while the run is, replaced as a whole |
//! | `log`, `log.1` | what the run has logged, and what was before that |
//! | `crash.1` ... | reports of the last crashes, the newest first |
//!
//! and `RUN_DIRECTORY/NAME.sock`, where a named run serves unless told otherwise. A folder without a line in a log and
//! without a report is removed when the run ends.

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use displaydoc::Display;
use thiserror::Error;

use super::entry::{self, Entry};
use super::lock::{self, lock};
use super::name::Name;
use super::registration::{self, Registration};

/// The environment variable that names the run directory.
pub const ENVIRONMENT: &str = "RINGFENCE_RUN_DIR";
/// Root's.
const OF_ROOT: &str = "/run/ringfence";
/// Names by number that are tried for a run that was given none.
const NUMBERS_MAX: u32 = 9999;

/// Why there is no run directory.
#[derive(Debug, Display, Error)]
pub enum DirectoryError {
    /// there is no run directory, because XDG_RUNTIME_DIR is not set: name one with --run-dir or RINGFENCE_RUN_DIR
    None,
    /// the run directory {path} cannot be used: name another one with --run-dir or RINGFENCE_RUN_DIR
    Unusable {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// the run directory {path} belongs to another user, or others may write to it: name another one with --run-dir or RINGFENCE_RUN_DIR
    Unsafe {
        /// Its path.
        path: String,
    },
}

/// Why a name is not to be had.
#[derive(Debug, Display, Error)]
pub enum ClaimError {
    /// {name} is running already (see `ringfence ps`): give this run another --name, or stop that one
    Taken {
        /// The name.
        name: String,
    },
    /// the folder {path} of this run cannot be made
    Folder {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// No driver of that name is running.
#[derive(Debug, Error)]
pub struct UnknownName {
    name: String,
    known: Vec<String>,
    directory: PathBuf,
}

impl std::fmt::Display for UnknownName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (name, directory) = (&self.name, self.directory.display());
        write!(f, "no driver {name} is running in {directory}; ")?;
        match self.known.as_slice() {
            [] => f.write_str("none is"),
            [one] => write!(f, "{one} is"),
            several => write!(f, "these are: {}", several.join(", ")),
        }
    }
}

/// A run that is there.
#[derive(Debug)]
pub struct Registered {
    /// What it says of itself.
    pub registration: Registration,
    /// Its folder.
    pub folder: PathBuf,
}

/// A run directory.
#[derive(Debug, Clone)]
pub struct RunDirectory {
    path: PathBuf,
}

impl RunDirectory {
    /// Where it is: `chosen`, else what RINGFENCE_RUN_DIR says, else root's /run/ringfence and everybody else's
    /// `$XDG_RUNTIME_DIR/ringfence`. It need not exist.
    ///
    /// # Errors
    /// [`DirectoryError::None`].
    pub fn locate(chosen: Option<&Path>) -> Result<Self, DirectoryError> {
        let of_environment = |name: &str| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let path = match (chosen, of_environment(ENVIRONMENT)) {
            (Some(chosen), _) => chosen.to_path_buf(),
            (None, Some(path)) => path,
            (None, None) if rustix::process::geteuid().is_root() => PathBuf::from(OF_ROOT),
            (None, None) => of_environment("XDG_RUNTIME_DIR")
                .ok_or(DirectoryError::None)?
                .join("ringfence"),
        };
        let path = std::path::absolute(&path).map_err(|source| DirectoryError::Unusable {
            path: path.display().to_string(),
            source,
        })?;
        Ok(Self { path })
    }

    /// As [`Self::locate`]; makes it, for its owner only, if it does not exist.
    ///
    /// # Errors
    /// See [`DirectoryError`].
    pub fn open(chosen: Option<&Path>) -> Result<Self, DirectoryError> {
        let directory = Self::locate(chosen)?;
        let path = directory.path.display().to_string();
        let unusable = |source| DirectoryError::Unusable {
            path: path.clone(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory.path)
            .map_err(unusable)?;
        let metadata = directory.path.metadata().map_err(unusable)?;
        let is_trusted =
            metadata.uid() == 0 || metadata.uid() == rustix::process::geteuid().as_raw();
        if !is_trusted || metadata.mode() & 0o022 != 0 {
            return Err(DirectoryError::Unsafe { path });
        }
        Ok(directory)
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of a name.
    #[must_use]
    pub fn folder(&self, name: &Name) -> PathBuf {
        self.path.join(name.as_str())
    }

    /// Where a named run serves unless told otherwise.
    #[must_use]
    pub fn socket(&self, name: &Name) -> PathBuf {
        self.path.join(format!("{name}.sock"))
    }

    /// Takes a name for this process.
    ///
    /// # Errors
    /// See [`ClaimError`].
    pub fn claim(&self, name: &Name) -> Result<Entry, ClaimError> {
        let folder = self.folder(name);
        let failed = |source| ClaimError::Folder {
            path: folder.display().to_string(),
            source,
        };
        let Some(lock) = lock::make(&folder).map_err(failed)? else {
            return Err(ClaimError::Taken {
                name: name.to_string(),
            });
        };
        if let Some(old) = clean(&folder) {
            tracing::info!(
                "an earlier run {name}, process {}, had not ended in order",
                old.process.pid
            );
        }
        let registration = Registration::new(name.as_str()).map_err(failed)?;
        Entry::new(folder.clone(), lock, registration).map_err(failed)
    }

    /// Takes `name`, or the same with the first number behind it that is free.
    ///
    /// # Errors
    /// See [`ClaimError`].
    pub fn claim_numbered(&self, name: &Name) -> Result<Entry, ClaimError> {
        let mut claimed = self.claim(name);
        for number in 2..=NUMBERS_MAX {
            if !matches!(claimed, Err(ClaimError::Taken { .. })) {
                break;
            }
            claimed = self.claim(&name.numbered(number));
        }
        claimed
    }

    /// The runs that are there, by name. What those that were killed have left is removed.
    ///
    /// # Errors
    /// The directory cannot be read; one that does not exist has no runs.
    pub fn list(&self) -> io::Result<Vec<Registered>> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            names.extend(name.to_str().and_then(|name| name.parse::<Name>().ok()));
        }
        names.sort();
        Ok(names.iter().filter_map(|name| self.get(name)).collect())
    }

    /// The run of that name.
    ///
    /// # Errors
    /// [`UnknownName`], with those that there are.
    pub fn find(&self, name: &str) -> Result<Registered, UnknownName> {
        let parsed: Option<Name> = name.parse().ok();
        parsed.and_then(|name| self.get(&name)).ok_or_else(|| {
            let known = self.list().unwrap_or_default();
            UnknownName {
                name: crate::observe::escape::escape(name),
                known: known.into_iter().map(|run| run.registration.name).collect(),
                directory: self.path.clone(),
            }
        })
    }

    fn get(&self, name: &Name) -> Option<Registered> {
        let folder = self.folder(name);
        let (registration, _) = Registration::read(&folder)
            .inspect_err(|error| {
                if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) {
                    tracing::warn!("{} is left out: {error}", folder.display());
                }
            })
            .ok()?;
        if registration.name == name.as_str() && registration.is_alive() {
            return Some(Registered {
                registration,
                folder,
            });
        }
        self.remove_stale(&folder);
        None
    }

    /// Removes what a run that was killed has left.
    pub fn remove_stale(&self, folder: &Path) {
        // Somebody else's folder, or a new run's: not for us to clean.
        if let Ok(Some(_lock)) = lock(folder) {
            clean(folder);
            entry::remove_empty(folder);
        }
    }
}

/// Removes a dead run's files, under its lock. Its log and crash reports stay.
fn clean(folder: &Path) -> Option<Registration> {
    let read = Registration::read(folder);
    if matches!(&read, Err(error) if error.kind() == ErrorKind::NotFound) {
        return None;
    }
    // One that this version cannot read is nobody's: the lock was free.
    let _ = fs::remove_file(folder.join(registration::FILE)).is_ok();
    let (registration, is_own) = read.ok()?;
    if let (true, true, Some(socket)) = (is_own, registration.owns_socket, &registration.socket) {
        remove_dead_socket(socket);
    }
    Some(registration)
}

fn remove_dead_socket(path: &Path) {
    let is_socket = path
        .symlink_metadata()
        .is_ok_and(|metadata| metadata.file_type().is_socket());
    let is_refused =
        UnixStream::connect(path).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
    if is_socket && is_refused {
        let _ = fs::remove_file(path).is_ok();
    }
}

#[cfg(test)]
mod tests {
    use super::super::registration::State;
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    fn directory() -> (tempfile::TempDir, RunDirectory) {
        let folder = tempfile::tempdir().unwrap();
        let directory = RunDirectory::open(Some(&folder.path().join("run"))).unwrap();
        (folder, directory)
    }

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn names(directory: &RunDirectory) -> Vec<String> {
        let runs = directory.list().unwrap();
        runs.into_iter().map(|run| run.registration.name).collect()
    }

    #[test]
    fn name_is_one_runs_until_it_ends() {
        let (_folder, directory) = directory();
        let entry = directory.claim(&name("lpt")).unwrap();
        assert!(matches!(
            directory.claim(&name("lpt")),
            Err(ClaimError::Taken { .. })
        ));
        let second = directory.claim_numbered(&name("lpt")).unwrap();
        assert_eq!(names(&directory), ["lpt", "lpt-2"]);
        drop(entry);
        assert_eq!(names(&directory), ["lpt-2"]);
        drop(directory.claim(&name("lpt")).unwrap());
        drop(second);
        assert!(names(&directory).is_empty());
    }

    #[test]
    fn unknown_names_are_told_those_that_there_are() {
        let (_folder, directory) = directory();
        let message = |name: &str| directory.find(name).unwrap_err().to_string();
        assert!(message("lpt").ends_with("; none is"), "{}", message("lpt"));
        let _entry = directory.claim(&name("giveio")).unwrap();
        assert!(message("lpt").ends_with("; giveio is"));
        let _other = directory.claim(&name("com1")).unwrap();
        assert!(message("../\u{1b}").ends_with("; these are: com1, giveio"));
        assert!(!message("../\u{1b}").contains('\u{1b}'));
        assert_eq!(directory.find("com1").unwrap().registration.name, "com1");
    }

    #[test]
    fn what_a_killed_run_left_is_removed() {
        let (folder, directory) = directory();
        let socket = folder.path().join("socket");
        drop(UnixListener::bind(&socket).unwrap());
        let run = directory.folder(&name("lpt"));
        let mut entry = directory.claim(&name("lpt")).unwrap();
        entry.update(|registration| {
            registration.process.start_time += 1;
            registration.socket = Some(socket.clone());
            registration.owns_socket = true;
            registration.state = State::Running;
        });
        // As a kill does: nothing of the entry's end happens.
        let left = fs::read(run.join("state.json")).unwrap();
        fs::write(run.join("log"), "x").unwrap();
        drop(entry);
        fs::write(run.join("state.json"), left).unwrap();
        assert!(socket.exists());

        assert!(names(&directory).is_empty());

        assert!(!socket.exists());
        assert!(!run.join("state.json").exists());
        assert!(run.join("log").exists());
    }

    #[test]
    fn run_that_has_said_nothing_leaves_nothing() {
        let (_folder, directory) = directory();
        let left = || fs::read_dir(directory.path()).unwrap().count();
        for log in [None, Some("")] {
            let entry = directory.claim(&name("lpt")).unwrap();
            if let Some(log) = log {
                fs::write(entry::log(entry.folder()), log).unwrap();
            }
            drop(entry);
            assert_eq!(left(), 0, "{log:?}");
        }
        for kept in ["log", "log.1", "crash.1"] {
            let entry = directory.claim(&name(kept)).unwrap();
            fs::write(entry.folder().join(kept), "x").unwrap();
            let file = entry.folder().join(kept);
            drop(entry);
            assert!(file.exists(), "{kept}");
        }
    }

    /// A folder goes away with its run, and two that begin at that moment do not both get the name.
    #[test]
    fn name_is_one_runs_while_others_end() {
        let (_folder, directory) = directory();
        let holders = std::sync::atomic::AtomicU32::new(0);
        let order = std::sync::atomic::Ordering::SeqCst;
        let claimed = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..300 {
                        match directory.claim(&name("lpt")) {
                            Ok(entry) => {
                                assert_eq!(holders.fetch_add(1, order), 0, "two have it");
                                claimed.fetch_add(1, order);
                                std::thread::yield_now();
                                holders.fetch_sub(1, order);
                                drop(entry);
                            }
                            Err(ClaimError::Taken { .. }) => {}
                            Err(error) => panic!("{error:?}"),
                        }
                    }
                });
            }
        });
        assert!(claimed.into_inner() > 1);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn garbage_in_the_directory_is_left_out() {
        let (_folder, directory) = directory();
        fs::write(directory.path().join("file"), "x").unwrap();
        fs::create_dir(directory.path().join("empty")).unwrap();
        let bad = directory.path().join("bad");
        fs::create_dir(&bad).unwrap();
        fs::write(bad.join("state.json"), "{}").unwrap();
        assert!(names(&directory).is_empty());
        // The name is free.
        let _entry = directory.claim(&name("bad")).unwrap();
        assert_eq!(names(&directory), ["bad"]);
    }

    #[test]
    fn directory_that_others_can_write_to_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(
            RunDirectory::open(Some(folder.path())),
            Err(DirectoryError::Unsafe { .. })
        ));
        assert!(matches!(
            RunDirectory::open(Some(Path::new("/dev/null/x"))),
            Err(DirectoryError::Unusable { .. })
        ));
    }
}
