//! The options of `ringfence run` that a service is started with, and the lines of its configuration that they are.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::Failure;
use crate::cli::driver_options::{Limits, Surroundings};
use crate::observe::escape::escape;
use crate::policy::Policy;

/// The options. A line KEY=VALUE becomes `--KEY VALUE`; wine/driver/config.c has the same keys.
const KEYS: [&str; 7] = [
    "device",
    "registry",
    "files",
    "windows",
    "memory",
    "cpu",
    "max-memory",
];
/// wine/driver/config.c has room for so many.
const COUNT_MAX: usize = 32;

/// Options with their values, which mean the same in any folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options(Vec<(&'static str, OsString)>);

impl Options {
    /// What was asked for, and was checked.
    pub(super) fn of(surroundings: &Surroundings, limits: &Limits) -> Result<Self, Failure> {
        let folder = std::env::current_dir()
            .map_err(|error| Failure::failed(format!("the current folder: {error}")))?;
        let mut options = Vec::new();
        for device in &surroundings.device {
            let device = Policy::device_anywhere(device, &folder).ok_or_else(|| {
                Failure::usage(format!(
                    "--device {}: the file that it names is in {}, whose path cannot be written there; write a path without quotation marks",
                    escape(device),
                    folder.display()
                ))
            })?;
            options.push(("device", OsString::from(device)));
        }
        if let Some(path) = &surroundings.registry {
            options.push(("registry", whole(path)?.into_os_string()));
        }
        if let Some(files) = surroundings.files() {
            let mut path = whole(&files.path)?.into_os_string();
            if files.is_read_only {
                path.push(":ro");
            } else if path.as_bytes().ends_with(b":ro") {
                // A part of the folder's name.
                path.push("/");
            }
            options.push(("files", path));
        }
        if let Some(windows) = surroundings.windows {
            options.push(("windows", windows.name().into()));
        }
        options.push(("memory", surroundings.memory.to_string().into()));
        if let Some(share) = limits.cpu {
            options.push(("cpu", share.to_string().into()));
        }
        if let Some(max) = limits.max_memory {
            options.push(("max-memory", max.to_string().into()));
        }
        if options.len() > COUNT_MAX {
            return Err(Failure::usage(format!(
                "{} options for a service, which has at most {COUNT_MAX}: put devices into the policy",
                options.len()
            )));
        }
        Ok(Self(options))
    }

    /// Those in the text of a configuration file.
    pub(super) fn read(text: &[u8]) -> Self {
        let options = text.split(|byte| *byte == b'\n').filter_map(|line| {
            let key = KEYS.into_iter().find(|key| {
                let after = line.strip_prefix(key.as_bytes());
                after.is_some_and(|after| after.first() == Some(&b'='))
            })?;
            let value = line
                .get(key.len() + 1..)
                .filter(|value| !value.is_empty())?;
            Some((key, OsString::from_vec(value.to_vec())))
        });
        Self(options.collect())
    }

    /// The lines.
    pub(super) fn lines(&self) -> impl Iterator<Item = (&'static str, &OsStr)> {
        self.0.iter().map(|(key, value)| (*key, value.as_os_str()))
    }

    /// As they are written on a command line, without what each service has.
    pub(super) fn shown(&self) -> String {
        let default = abi::layout::RAM_DEFAULT.to_string();
        let given = self
            .0
            .iter()
            .filter(|(key, value)| (*key, value) != ("memory", &OsString::from(&default)));
        let shown: Vec<String> = given
            .map(|(key, value)| format!("--{key} {}", escape(&value.display().to_string())))
            .collect();
        shown.join(" ")
    }

    /// Adds each to an object: numbers as numbers, `null` for what is not set.
    pub(super) fn add_to(&self, object: &mut Map<String, Value>) {
        for key in KEYS {
            let mut values = self
                .0
                .iter()
                .filter(|(of, _)| *of == key)
                .map(|(_, value)| {
                    let text = value.display().to_string();
                    match text.parse::<u64>() {
                        Ok(number) if ["memory", "cpu", "max-memory"].contains(&key) => {
                            json!(number)
                        }
                        _ => json!(text),
                    }
                });
            let (name, value) = match key {
                "device" => ("devices", Value::Array(values.collect())),
                "max-memory" => ("max_memory", values.next().unwrap_or_default()),
                _ => (key, values.next().unwrap_or_default()),
            };
            object.insert(name.to_owned(), value);
        }
    }
}

/// A path that means the same in any folder.
pub(super) fn whole(path: &Path) -> Result<PathBuf, Failure> {
    path.canonicalize()
        .map_err(|error| Failure::file(path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args, FromArgMatches};

    fn options(arguments: &[&str]) -> Result<Options, Failure> {
        let command = Limits::augment_args(Surroundings::augment_args(clap::Command::new("x")));
        let matches = command
            .try_get_matches_from([&["x"], arguments].concat())
            .unwrap();
        let surroundings = Surroundings::from_arg_matches(&matches).unwrap();
        let limits = Limits::from_arg_matches(&matches).unwrap();
        Options::of(&surroundings, &limits)
    }

    fn text(options: &Options) -> String {
        options
            .lines()
            .map(|(key, value)| format!("{key}={}\n", value.display()))
            .collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let ro = folder.path().join("of:ro");
        std::fs::create_dir(&ro).unwrap();
        let dir = folder.path().canonicalize().unwrap();
        let dir = dir.display();
        let read_only = format!("{dir}/./:ro");
        let given = options(&[
            "--device",
            "lpt:out=/x",
            "--device",
            "pit",
            "--files",
            &read_only,
            "--memory",
            "32M",
            "--cpu",
            "50%",
            "--windows",
            "XP",
            "--max-memory",
            "1G",
        ])
        .unwrap();

        let written = text(&given);

        assert_eq!(
            written,
            format!(
                "device=lpt:out=/x\ndevice=pit\nfiles={dir}:ro\nwindows=xp\nmemory=33554432\ncpu=50\nmax-memory=1073741824\n"
            )
        );
        assert_eq!(Options::read(written.as_bytes()), given);
        let mut object = Map::new();
        given.add_to(&mut object);
        assert_eq!(
            Value::Object(object),
            json!({
                "devices": ["lpt:out=/x", "pit"], "registry": null, "files": format!("{dir}:ro"), "windows": "xp",
                "memory": 33_554_432, "cpu": 50, "max_memory": 1_073_741_824,
            })
        );
        assert!(
            given
                .shown()
                .starts_with("--device lpt:out=/x --device pit")
        );
        assert_eq!(options(&[]).unwrap().shown(), "");
        // A folder that is called so is not one to read alone: not the run's to say.
        let writable = options(&["--files", &format!("{}/", ro.display())]).unwrap();
        assert!(text(&writable).starts_with(&format!("files={dir}/of:ro/\n")));
    }

    #[test]
    fn only_options_are_read() {
        let text = b"driver=/a\ndevices=x\ndevice=\ndevice\nsocket=/evil\nmemory=1\n";
        assert_eq!(
            Options::read(text),
            Options(vec![("memory", OsString::from("1"))])
        );
        assert_eq!(Options::read(b""), Options::default());
    }

    #[test]
    fn there_are_at_most_so_many() {
        let arguments = ["--device", "pit"].repeat(COUNT_MAX);
        let failure = options(&arguments).unwrap_err();
        assert_eq!(failure.code, crate::session::exit_code::ExitCode::Usage);
    }
}
