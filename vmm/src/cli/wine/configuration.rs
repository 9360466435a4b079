//! What the Wine end reads in a prefix: `C:\windows\ringfence`. wine/driver/config.c is its reader.
//!
//! | file | what |
//! |---|---|
//! | prefix.conf | `ringfence`, `log`, `run`, `intercept-policy`: the program, the log, the folder of sockets, the policy of drivers that programs install themselves |
//! | services/NAME.conf | `driver`, `policy`, and options of `ringfence run` (options.rs) |
//! | services/NAME.sys | a copy of ringfence.sys, which Wine loads in the driver's stead: services share a process, and need their own data |
//! | drivers/NAME.sys | the driver |
//! | ringfence.sys | what Wine loads for intercepted drivers, and for the host |
//! | ringfence32.sys | in a prefix for 64 and 32 bits: the same, for the services of 32-bit programs |
//! | winedevice.exe.wine, winedevice32.exe.wine | while the prefix intercepts: Wine's own winedevice.exe |

use std::ffi::OsStr;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::options::Options;
use super::prefix::Prefix;
use super::{Failure, port_files, sockets};

/// The service that keeps the process of the others, see wine/driver/entry.c.
pub(super) const HOST: &str = "ringfence";
/// The load order group of all services: Wine has them share a process.
pub(super) const GROUP: &str = "Ringfence";

/// Longest name of a service: Windows' own limit is 256, Linux' for a file with more behind the name 255.
const NAME_MAX: usize = 200;

/// Longest file that the reader takes.
const FILE_MAX: usize = 8191;

/// The folder in a prefix.
#[derive(Debug)]
pub(super) struct Configuration {
    folder: PathBuf,
}

/// An installed service.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) name: String,
    pub(super) driver: PathBuf,
    pub(super) policy: Option<PathBuf>,
    pub(super) options: Options,
}

/// Whether a name can be a service's here; the driver refuses others.
pub(super) fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_whole = !name.is_empty() && name.len() <= NAME_MAX && name.bytes().all(is_plain);
    is_whole && !name.starts_with('.') && !name.eq_ignore_ascii_case(HOST)
}

pub(super) fn value_of<'a>(text: &'a [u8], key: &str) -> Option<&'a [u8]> {
    let mut lines = text.split(|byte| *byte == b'\n');
    let value = lines.find_map(|line| line.strip_prefix(key.as_bytes())?.strip_prefix(b"="))?;
    (!value.is_empty()).then_some(value)
}

fn path_of(text: &[u8], key: &str) -> Option<PathBuf> {
    value_of(text, key).map(|value| PathBuf::from(OsStr::from_bytes(value)))
}

/// Lines KEY=VALUE.
fn lines<'a>(values: impl IntoIterator<Item = (&'a str, &'a OsStr)>) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    for (key, value) in values {
        let bytes = value.as_bytes();
        if bytes.contains(&b'\n') || bytes.len() > 1000 {
            let shown = crate::observe::escape::escape(&value.display().to_string());
            return Err(Failure::usage(format!(
                "{shown}: a path or an option's value has at most 1000 bytes here, and no line break"
            )));
        }
        text.extend_from_slice(key.as_bytes());
        text.push(b'=');
        text.extend_from_slice(bytes);
        text.push(b'\n');
    }
    if text.len() > FILE_MAX {
        return Err(Failure::usage(format!(
            "the paths and options of a service have {} bytes together, and may have {FILE_MAX}: put devices into the policy",
            text.len()
        )));
    }
    Ok(text)
}

/// Writes a file, whole or not at all. Others may be writing the same one: the last of them has written it.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let failed = |error| Failure::file(path, &error);
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    std::fs::create_dir_all(folder).map_err(failed)?;
    // As readable as any file that is made: the umask decides.
    let mut unfinished = tempfile::Builder::new()
        .prefix(".")
        .suffix(".new")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .map_err(failed)?;
    unfinished.write_all(bytes).map_err(failed)?;
    unfinished
        .persist(path)
        .map_err(|error| failed(error.error))?;
    Ok(())
}

/// Names of the files with such an ending in a folder, without it.
fn names(folder: &Path, ending: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(ending)?.to_owned()))
        .collect();
    names.sort();
    names
}

/// Removes a file; one that is not there is removed.
pub(super) fn remove(path: &Path) -> Result<(), Failure> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::file(path, &error))
        }
        _ => Ok(()),
    }
}

impl Configuration {
    pub(super) fn of(prefix: &Prefix) -> Self {
        Self {
            folder: prefix.windows().join("ringfence"),
        }
    }

    /// The log.
    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("ringfence.log")
    }

    /// Where the copy of a service's driver is.
    pub(super) fn driver(&self, name: &str) -> PathBuf {
        self.folder.join("drivers").join(format!("{name}.sys"))
    }

    /// What Wine loads for a service.
    fn image(&self, name: &str) -> PathBuf {
        self.folder.join("services").join(format!("{name}.sys"))
    }

    fn service_file(&self, name: &str) -> PathBuf {
        self.folder.join("services").join(format!("{name}.conf"))
    }

    /// Wine's own winedevice.exe, while the prefix intercepts.
    pub(super) fn winedevice(&self) -> PathBuf {
        self.folder.join("winedevice.exe.wine")
    }

    /// The same, of 32-bit programs in a 64-bit prefix.
    pub(super) fn winedevice_32(&self) -> PathBuf {
        self.folder.join("winedevice32.exe.wine")
    }

    /// The socket of a service's micro-VM; wine/driver/config.c makes the same.
    pub(super) fn socket(&self, name: &str) -> PathBuf {
        self.run().join(format!("{name}.socket"))
    }

    /// What ringfence.sys says of a service; wine/driver/state.c makes the same.
    pub(super) fn state(&self, name: &str) -> PathBuf {
        self.run().join(format!("{name}.state"))
    }

    /// Services of which there is such a file, by name: those that programs have installed are among them.
    pub(super) fn known(&self) -> Vec<String> {
        names(&self.run(), ".state")
    }

    fn run(&self) -> PathBuf {
        let text = std::fs::read(self.folder.join("prefix.conf")).unwrap_or_default();
        path_of(&text, "run").unwrap_or_else(|| self.folder.join("run"))
    }

    fn intercept_policy(&self) -> Option<PathBuf> {
        let text = std::fs::read(self.folder.join("prefix.conf")).unwrap_or_default();
        path_of(&text, "intercept-policy")
    }

    /// Whether the prefix intercepts.
    pub(super) fn is_intercepting(&self) -> bool {
        self.winedevice().exists()
    }

    /// Writes what all services need. `policy`: of intercepted drivers; `None` leaves it as it is.
    pub(super) fn write_common(
        &self,
        prefix: &Prefix,
        policy: Option<Option<&Path>>,
    ) -> Result<(), Failure> {
        let own = std::env::current_exe()
            .map_err(|error| Failure::failed(format!("where ringfence is: {error}")))?;
        let run = self.run_folder(prefix)?;
        let kept = self.intercept_policy();
        let policy = policy.unwrap_or(kept.as_deref());
        let log = self.log();
        let mut values = vec![
            ("ringfence", own.as_os_str()),
            ("log", log.as_os_str()),
            ("run", run.as_os_str()),
        ];
        values.extend(policy.map(|policy| ("intercept-policy", policy.as_os_str())));
        let text = lines(values)?;
        write(&self.folder.join("ringfence.sys"), prefix.files().driver)?;
        if let Some(files) = prefix.files_32() {
            write(&self.folder.join("ringfence32.sys"), files.driver)?;
        }
        port_files::place(&self.folder)?;
        write(&self.folder.join("prefix.conf"), &text)
    }

    /// Where sockets go: into the prefix, or beside it if their paths would be too long.
    fn run_folder(&self, prefix: &Prefix) -> Result<PathBuf, Failure> {
        let run = self.chosen_run_folder(prefix);
        if !run.starts_with(&self.folder) {
            sockets::make_own(&run)?;
        }
        Ok(run)
    }

    fn chosen_run_folder(&self, prefix: &Prefix) -> PathBuf {
        let own = self.folder.join("run");
        if sockets::is_short(&own) {
            return own;
        }
        // Once chosen, it stays: micro-VMs may be serving there.
        let chosen = self.run();
        if chosen == own {
            sockets::elsewhere(prefix.path(), std::env::var_os("XDG_RUNTIME_DIR"))
        } else {
            chosen
        }
    }

    /// Longest name that a service may have in the prefix: its socket's path has the name in it.
    pub(super) fn longest_name(&self, prefix: &Prefix) -> usize {
        let run = self.chosen_run_folder(prefix);
        sockets::longest_name(&run).min(NAME_MAX)
    }

    /// Writes a service's files.
    pub(super) fn write_service(&self, prefix: &Prefix, service: &Service) -> Result<(), Failure> {
        write(&self.image(&service.name), prefix.files().driver)?;
        let mut values = vec![("driver", service.driver.as_os_str())];
        values.extend(
            service
                .policy
                .as_ref()
                .map(|path| ("policy", path.as_os_str())),
        );
        values.extend(service.options.lines());
        let text = lines(values)?;
        write(&self.service_file(&service.name), &text)
    }

    /// An installed service.
    pub(super) fn service(&self, name: &str) -> Option<Service> {
        let text = std::fs::read(self.service_file(name)).ok()?;
        Some(Service {
            name: name.to_owned(),
            driver: path_of(&text, "driver")?,
            policy: path_of(&text, "policy"),
            options: Options::read(&text),
        })
    }

    /// All installed services, by name.
    pub(super) fn services(&self) -> Vec<Service> {
        let names = names(&self.folder.join("services"), ".conf");
        names.iter().filter_map(|name| self.service(name)).collect()
    }

    /// Takes a service's files away, and everything else with the last of them.
    pub(super) fn forget_service(&self, name: &str) -> Result<(), Failure> {
        remove(&self.service_file(name))?;
        remove(&self.image(name))?;
        remove(&self.driver(name))?;
        // One that was killed has left it.
        remove(&self.state(name))?;
        self.tidy()
    }

    /// Takes everything away if nothing needs it any more.
    pub(super) fn tidy(&self) -> Result<(), Failure> {
        if !self.services().is_empty() || self.is_intercepting() || !self.folder.exists() {
            return Ok(());
        }
        let run = self.run();
        if !run.starts_with(&self.folder) && run.exists() {
            std::fs::remove_dir_all(&run).map_err(|error| Failure::file(&run, &error))?;
        }
        std::fs::remove_dir_all(&self.folder).map_err(|error| Failure::file(&self.folder, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_services_are_plain() {
        for name in ["giveio", "inpoutx64", "My-Driver_2.1"] {
            assert!(is_name(name), "{name}");
        }
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a\\b",
            "a b",
            "ä",
            "Ringfence",
            &"x".repeat(201),
        ] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn file_that_many_write_at_once_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("services").join("a.sys");
        std::thread::scope(|scope| {
            for byte in 0..8_u8 {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..50 {
                        write(path, &[byte; 10_000]).unwrap();
                    }
                });
            }
        });
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes, [bytes[0]; 10_000]);
        let entries = std::fs::read_dir(path.parent().unwrap()).unwrap();
        assert_eq!(entries.count(), 1, "nothing else is left");
    }

    #[test]
    fn values_are_found_by_their_whole_key() {
        let text = b"driver-of=/x\ndriver=/a b/c.sys\npolicy=\n";
        assert_eq!(path_of(text, "driver"), Some(PathBuf::from("/a b/c.sys")));
        assert_eq!(path_of(text, "policy"), None);
        assert_eq!(path_of(text, "log"), None);
    }

    #[test]
    fn line_breaks_cannot_add_keys() {
        let long = "x".repeat(1001);
        for value in ["/a\npolicy=/evil", &long] {
            let failure = lines([("driver", OsStr::new(value))]).unwrap_err();
            assert_eq!(failure.code, crate::session::exit_code::ExitCode::Usage);
        }
        let text = lines([("driver", OsStr::new("/a")), ("memory", OsStr::new("1"))]).unwrap();
        assert_eq!(text, b"driver=/a\nmemory=1\n");
        let many = std::iter::repeat_n(("device", OsStr::new(long.get(1..).unwrap())), 9);
        assert!(lines(many).is_err(), "the reader takes no such file");
    }
}
