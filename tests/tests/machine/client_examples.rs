//! The client library from other languages: its examples, as a user would build and run them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use abi::{DriverAbi, Privilege};
use integration_tests::codes::echo;
use integration_tests::{Target, has_kvm, skip_without_program};

use super::channel::Served;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The folder where cargo has put the libraries that this test was linked with.
fn libraries() -> PathBuf {
    let folder = std::env::current_exe().unwrap();
    let folder = folder.parent().unwrap().to_path_buf();
    assert!(
        folder.join("libringfence.so").exists(),
        "no shared library in {}",
        folder.display()
    );
    folder
}

fn served() -> Option<Served> {
    let target = Target {
        privilege: Privilege::Ring3,
        abi: DriverAbi::Amd64,
    };
    has_kvm().then(|| Served::start(target, "echo", ""))
}

fn succeeded(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    text
}

fn expected() -> String {
    coded(0xA5)
}

fn coded(key: u8) -> String {
    echo::coded(b"hello", key)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn has(program: &str) -> bool {
    let is_there = Command::new(program).arg("--version").output().is_ok();
    if !is_there {
        skip_without_program(&format!("the example that needs {program}"));
    }
    is_there
}

/// Compiles a C program of the repository with a library, and runs it.
fn run_c(source: &str, library: &str, socket: &Path) -> String {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("program");
    let compiled = Command::new("cc")
        .args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"])
        .arg("-D_POSIX_C_SOURCE=200809L")
        .arg(root().join(source))
        .arg("-I")
        .arg(root().join("client/c/include"))
        .arg("-L")
        .arg(libraries())
        .args([library, "-lpthread", "-ldl", "-lm", "-lgcc_s", "-o"])
        .arg(&program)
        .output()
        .unwrap();
    succeeded(&compiled);
    let run = Command::new(&program)
        .arg(socket)
        .env("LD_LIBRARY_PATH", libraries())
        .output()
        .unwrap();
    succeeded(&run)
}

#[test]
fn c_example_talks_to_a_driver() {
    let (true, Some(served)) = (has("cc"), served()) else {
        return;
    };
    // Linked with the shared library, and with the static one.
    for library in ["-lringfence", "-l:libringfence.a"] {
        let expected = expected();
        assert_eq!(
            run_c("client/c/examples/echo.c", library, &served.path),
            format!(
                "blocking: {expected}\ncallback: status 00000000, {expected}\nin place: {}\n",
                coded(0x5A)
            )
        );
    }
}

#[test]
fn c_program_frees_its_contexts_when_it_has_disconnected() {
    let (true, Some(served)) = (has("cc"), served()) else {
        return;
    };
    assert_eq!(
        run_c("tests/data/client_ends.c", "-lringfence", &served.path),
        "without a thread: 8 cancelled\nwith a thread: 8 cancelled\nin a callback: 8 cancelled\n\
         in a callback of the thread: 8 cancelled\nanother thread's call: ended\nfull: c0000044, cancel 00000000\n"
    );
}

#[test]
fn c_program_that_is_wrong_is_told_before_anything_is_done() {
    let (true, Some(served)) = (has("cc"), served()) else {
        return;
    };
    assert_eq!(
        run_c("tests/data/client_misuse.c", "-lringfence", &served.path),
        "null: c000000d c000000d c000000d c000000d c000000d c000000d c000000d c000000d\nhandles: 4 8\n\
         another's buffer: c000000d\noutside of it: c000000d\nended by the server: c000009d, not by a signal\n"
    );
}

#[test]
fn python_example_talks_to_a_driver() {
    let (true, Some(served)) = (has("python3"), served()) else {
        return;
    };
    let run = Command::new("python3")
        .arg(root().join("client/c/examples/echo.py"))
        .arg(&served.path)
        .env("RINGFENCE_CLIENT", libraries().join("libringfence.so"))
        .output()
        .unwrap();
    assert_eq!(
        succeeded(&run),
        format!(
            "blocking: {}\nin al, 0x378: NTSTATUS c0000096\n",
            expected()
        )
    );
}
