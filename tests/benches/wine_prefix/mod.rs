//! A Wine prefix with one driver, and the program that measures it there.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use integration_tests::is_lane;

use crate::Failure;

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map_or_else(PathBuf::new, Path::to_path_buf)
}

pub(crate) fn ringfence() -> PathBuf {
    root().join("target/release/ringfence")
}

/// A prefix with one driver.
pub(crate) struct Prefix {
    pub(crate) path: PathBuf,
    pub(crate) wine: PathBuf,
    pub(crate) is_pinned: bool,
}

impl Prefix {
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = if self.is_pinned {
            let mut command = Command::new("taskset");
            command.args(["-c", "0"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command
            .env("WINEPREFIX", &self.path)
            .env("WINEDEBUG", "-all")
            .env("WINEDLLOVERRIDES", "mscoree,mshtml=")
            .env_remove("DISPLAY")
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    pub(crate) fn wine(&self, arguments: &[&str]) -> Result<String, Failure> {
        let output = self.command(&self.wine).args(arguments).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            Ok(text)
        } else {
            Err(format!("wine {arguments:?}: {}: {text}", output.status).into())
        }
    }

    /// Numbers that the program prints, in nanoseconds.
    pub(crate) fn measure(&self, program: &Path, arguments: &[&str]) -> Result<Vec<u64>, Failure> {
        let program = program.to_str().ok_or("a path")?;
        numbers(&self.wine(&[&[program], arguments].concat())?)
    }

    /// A program, by `ringfence wine run`.
    pub(crate) fn run(&self, program: &Path) -> Command {
        let mut command = self.command(&ringfence());
        command.args(["wine", "run", "--wine"]).arg(&self.wine);
        command.arg("--prefix").arg(&self.path).arg(program);
        command
    }

    /// The same of a program that `ringfence wine run` starts: its requests pass winedevice by.
    pub(crate) fn measure_direct(
        &self,
        program: &Path,
        arguments: &[&str],
    ) -> Result<Vec<u64>, Failure> {
        let output = self.run(program).args(arguments).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            numbers(&text)
        } else {
            Err(format!("wine run: {}: {text}", output.status).into())
        }
    }

    /// Has its micro-VMs run in a privilege mode: what prefix.conf names is a script that adds the option.
    pub(crate) fn set_privilege(&self, privilege: &str) -> Result<(), Failure> {
        use std::os::unix::fs::PermissionsExt;
        let script = self.path.join("ringfence-bench");
        let text = format!(
            "#!/bin/sh\nexec {} \"$@\" --privilege {privilege}\n",
            ringfence().display()
        );
        std::fs::write(&script, text)?;
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
        let file = self.path.join("drive_c/windows/ringfence/prefix.conf");
        let lines = std::fs::read_to_string(&file)?;
        let lines = lines.lines().map(|line| match line.split_once('=') {
            Some(("ringfence", _)) => format!("ringfence={}\n", script.display()),
            _ => format!("{line}\n"),
        });
        std::fs::write(&file, lines.collect::<String>())?;
        Ok(())
    }

    /// Ends everything that runs in it, so that what is started next is pinned, or not.
    pub(crate) fn pin(&mut self, is_pinned: bool) {
        self.is_pinned = false;
        // There may be nothing.
        if is_lane() {
            let _ = self.server("-k").is_ok();
        } else {
            let _ = self.wine(&["wineboot", "-k"]).is_ok();
        }
        std::thread::sleep(Duration::from_secs(1));
        self.is_pinned = is_pinned;
    }

    /// Has the session outlive its last program, where a program takes longer to start than a session waits.
    pub(crate) fn keep_session(&self) -> Result<(), Failure> {
        if is_lane() {
            self.server("-p")?;
        }
        Ok(())
    }

    fn server(&self, option: &str) -> Result<(), Failure> {
        let status = self
            .command(&self.wine.with_file_name("wineserver"))
            .arg(option)
            .stdout(Stdio::null())
            .status()?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("wineserver {option}: {status}").into())
        }
    }
}

pub(crate) fn numbers(text: &str) -> Result<Vec<u64>, Failure> {
    text.split_whitespace()
        .map(|word| {
            word.parse()
                .map_err(|_| format!("the program says {text:?}").into())
        })
        .collect()
}
