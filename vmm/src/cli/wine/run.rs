//! `ringfence wine run`

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::lock::Lock;
use super::prefix::Prefix;
use super::{Failure, Where, port_files};

/// Start a program under Wine, with the ports that its drivers grant it
///
/// Its in, out, ins and outs work as soon as a driver in a micro-VM has granted them, as on Windows; so do those of the
/// programs that it starts. Ends as the program ends.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The program is a path of Linux, or of Windows with either slash.

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

/// Returns only if it fails: Wine takes this process's place, and its exit status is the program's.
pub(super) fn main(arguments: &Arguments) -> Result<(), Failure> {
    let prefix = Prefix::find(&arguments.place)?;
    let folder = prefix.windows().join("ringfence");
    if !port_files::are_placed(&folder) {
        // Not until the program ends: it may run for days.
        let lock = Lock::of(&prefix)?;
        port_files::place(&folder)?;
        drop(lock);
    }
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

/// The program as the launcher gets it: absolute if it is a path of Linux, with backslashes if it is one of Windows with a
/// drive, else as it is.
fn name_for_launcher(program: &Path) -> OsString {
    let bytes = program.as_os_str().as_bytes();
    let is_path = bytes.contains(&b'/');
    let has_drive = matches!(bytes, [drive, b':', b'/' | b'\\', ..] if drive.is_ascii_alphabetic());
    let file = program.canonicalize().ok();
    match file.filter(|file| file.is_file()) {
        Some(file) => file.into_os_string(),
        None if has_drive => {
            let back = |byte: &u8| if *byte == b'/' { b'\\' } else { *byte };
            OsString::from_vec(bytes.iter().map(back).collect())
        }
        None if is_path => std::path::absolute(program)
            .map_or_else(|_| program.as_os_str().to_owned(), PathBuf::into_os_string),
        None => program.as_os_str().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_linux_become_absolute_and_those_of_windows_do_not() {
        assert_eq!(name_for_launcher(Path::new(r"C:\a b.exe")), r"C:\a b.exe");
        assert_eq!(
            name_for_launcher(Path::new("c:/a b/x.exe")),
            r"c:\a b\x.exe"
        );
        assert_eq!(name_for_launcher(Path::new(r"Z:\a/b.exe")), r"Z:\a\b.exe");
        assert_eq!(name_for_launcher(Path::new("notepad")), "notepad");
        let relative = name_for_launcher(Path::new("./none.exe"));
        assert!(Path::new(&relative).is_absolute(), "{relative:?}");
    }
}
