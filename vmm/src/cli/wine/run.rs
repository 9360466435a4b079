//! `ringfence wine run`

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::configuration;
use super::prefix::Prefix;
use super::{Failure, Where};

/// Start a program under Wine, with the ports that its drivers grant it
///
/// Its in, out, ins and outs work as soon as a driver in a micro-VM has granted them, as on Windows; so do those of the
/// programs that it starts. Ends as the program ends.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The program is a path of Linux, or of Windows.

Examples:
  ringfence wine run ./labview.exe
  ringfence wine run --prefix ~/.wine-lab 'C:\\tools\\jtag.exe' -p lpt1")]
pub(super) struct Arguments {
    #[command(flatten)]
    place: Where,
    /// The program to start
    program: OsString,
    /// Its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

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

/// Returns only if it fails: Wine takes this process's place, and its exit status is the program's.
pub(super) fn main(arguments: &Arguments) -> Result<(), Failure> {
    let prefix = Prefix::find(&arguments.place)?;
    let folder = prefix.windows().join("ringfence");
    place_files(&folder)?;
    let launcher = format!("ringfence-port{}.exe", if prefix.is_32() { 32 } else { 64 });
    let error = Command::new(&arguments.place.wine)
        .arg(folder.join(launcher))
        .arg(name_for_launcher(Path::new(&arguments.program)))
        .args(&arguments.arguments)
        .env("WINEPREFIX", prefix.path())
        .exec();
    Err(Failure::failed(format!(
        "{} cannot be started: {error}; is Wine installed?",
        arguments.place.wine.display()
    )))
}

/// Puts the files into the prefix. Those that are there already stay: programs may be using them.
fn place_files(folder: &Path) -> Result<(), Failure> {
    for (name, bytes) in FILES {
        let path = folder.join(name);
        if std::fs::read(&path).is_ok_and(|there| there == bytes) {
            continue;
        }
        configuration::write(&path, bytes)?;
    }
    Ok(())
}

/// The program as the launcher gets it: absolute if it is a path of Linux, else as it is.
fn name_for_launcher(program: &Path) -> OsString {
    let is_path = program.as_os_str().as_encoded_bytes().contains(&b'/');
    let file = program.canonicalize().ok();
    match file.filter(|file| file.is_file()) {
        Some(file) => file.into_os_string(),
        None if is_path => std::path::absolute(program)
            .map_or_else(|_| program.as_os_str().to_owned(), PathBuf::into_os_string),
        None => program.as_os_str().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_linux_become_absolute() {
        assert_eq!(name_for_launcher(Path::new(r"C:\a b.exe")), r"C:\a b.exe");
        assert_eq!(name_for_launcher(Path::new("notepad")), "notepad");
        let relative = name_for_launcher(Path::new("./none.exe"));
        assert!(Path::new(&relative).is_absolute(), "{relative:?}");
    }

    #[test]
    fn files_are_placed_once_and_renewed() {
        let folder = tempfile::tempdir().unwrap();
        place_files(folder.path()).unwrap();
        let dll = folder.path().join("ringfence-port64.dll");
        let placed = std::fs::metadata(&dll).unwrap().modified().unwrap();
        place_files(folder.path()).unwrap();
        assert_eq!(std::fs::metadata(&dll).unwrap().modified().unwrap(), placed);
        std::fs::write(&dll, b"of another version").unwrap();
        place_files(folder.path()).unwrap();
        assert_eq!(std::fs::read(&dll).unwrap(), FILES[1].1);
    }
}
