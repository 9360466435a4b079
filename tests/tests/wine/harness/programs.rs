//! The programs of wine/tests: built, started, run to their end.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use integration_tests::program;
use integration_tests::program::Ended;

use super::prefix::{Prefix, Shared};
use super::wine::{Release, Width};
use super::{root, run_to_end};

impl Shared {
    pub(super) fn build_programs(&self) {
        let sources = root().join("wine/tests");
        for name in [
            "direct",
            "echo",
            "faulty",
            "hang",
            "inpout",
            "limits",
            "options",
            "overlapped",
            "ports",
            "processes",
            "service",
            "winio",
        ] {
            let mut command = Command::new(self.wine.width.compiler());
            command
                .args(["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-o"])
                .arg(self.programs.join(format!("{name}.exe")))
                .arg(sources.join(format!("{name}.c")))
                .arg("-lntdll");
            let built = command.output().unwrap();
            let errors = String::from_utf8_lossy(&built.stderr);
            assert!(built.status.success(), "{name}: {errors}");
        }
    }

    /// A test program of the other width.
    pub(super) fn build_other(&self, name: &str) -> PathBuf {
        let width = match self.wine.width {
            Width::Bits32 => Width::Bits64,
            Width::Bits64 => Width::Bits32,
        };
        let program = self
            .programs
            .join(format!("{name}-of-{}.exe", width.name()));
        let mut command = Command::new(width.compiler());
        command.args(["-std=gnu11", "-O2", "-o"]).arg(&program);
        let source = root().join(format!("wine/tests/{name}.c"));
        let built = command.arg(source).output().unwrap();
        assert!(built.status.success(), "{name}: {built:?}");
        program
    }
}

impl Prefix {
    fn program(&self, name: &str) -> PathBuf {
        self.shared.programs.join(format!("{name}.exe"))
    }

    /// Runs a test program to its end, in a folder of choice.
    pub(crate) fn run_in(&self, folder: &Path, name: &str, arguments: &[&str]) -> Ended {
        let mut command = self.shared.command("wine");
        command
            .arg(self.program(name))
            .args(arguments)
            .current_dir(folder);
        run_to_end(&mut command, name)
    }

    /// Runs a test program from a folder that it was copied to.
    pub(crate) fn run_placed(&self, folder: &Path, name: &str, arguments: &[&str]) -> Ended {
        let mut command = self.shared.command("wine");
        command
            .arg(self.place(folder, name))
            .args(arguments)
            .current_dir(folder);
        run_to_end(&mut command, name)
    }

    /// The same by `ringfence wine run`.
    pub(crate) fn ringfence_run_placed(
        &self,
        folder: &Path,
        name: &str,
        arguments: &[&str],
    ) -> Ended {
        let own = program();
        let mut command = self.shared.command(own.to_str().unwrap());
        command.args(["wine", "run"]).arg(self.place(folder, name));
        run_to_end(command.args(arguments).current_dir(folder), name)
    }

    /// Copies a test program to a folder.
    pub(crate) fn place(&self, folder: &Path, name: &str) -> PathBuf {
        let placed = folder.join(format!("{name}.exe"));
        std::fs::copy(self.program(name), &placed).unwrap();
        placed
    }

    /// Runs a test program to its end. It must be content.
    #[track_caller]
    pub(crate) fn run(&self, name: &str, arguments: &[&str]) -> String {
        let ended = self.run_in(root(), name, arguments);
        assert_eq!(ended.code, Some(0), "{ended:?}\n{}", self.log());
        ended.stdout.replace('\r', "")
    }

    /// A test program, not started.
    pub(crate) fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = self.shared.command("wine");
        command.arg(self.program(name)).args(arguments);
        command
    }

    /// `ringfence wine run` with a test program, not started.
    pub(crate) fn ringfence_run(&self, name: &str, arguments: &[&str]) -> Command {
        let own = program();
        let mut command = self.shared.command(own.to_str().unwrap());
        command.args(["wine", "run"]);
        command.arg(self.program(name)).args(arguments);
        command
    }

    /// `ringfence ARGUMENTS` for this prefix, not started.
    pub(crate) fn ringfence_command<Text: AsRef<OsStr>>(&self, arguments: &[Text]) -> Command {
        let own = program();
        let mut command = self.shared.command(own.to_str().unwrap());
        command.args(arguments);
        command
    }

    /// A test program's path as Windows has it.
    pub(crate) fn windows_path(&self, name: &str) -> String {
        windows_path(&self.program(name))
    }

    /// The same, of one that is built for the other width. `None`: it does not run in this prefix.
    pub(crate) fn windows_path_of_other(&self, name: &str) -> Option<String> {
        let is_for_both = self.path().join("drive_c/windows/syswow64").exists()
            && self.shared.wine.release != Release::Own;
        is_for_both.then(|| windows_path(&self.shared.build_other(name)))
    }

    /// Starts a test program.
    pub(crate) fn start(&self, name: &str, arguments: &[&str]) -> Program {
        let mut command = self.command(name, arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        Program {
            stdin: child.stdin.take(),
            stdout: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }
}

fn windows_path(path: &Path) -> String {
    format!("Z:{}", path.to_str().unwrap().replace('/', "\\"))
}

/// A test program that runs. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Program {
    /// Waits for its next line.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Ends it as `kill -9` does.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end; the rest of what it says.
    pub(crate) fn finish(mut self) -> String {
        if let Some(mut stdin) = self.stdin.take() {
            let _ = stdin.write_all(b"\n").is_ok();
        }
        let mut text = String::new();
        self.stdout.read_to_string(&mut text).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {text}");
        text.replace('\r', "")
    }
}
