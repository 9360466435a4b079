//! The command-line program: exit codes, messages, sockets, signals.

#![expect(
    clippy::unwrap_used,
    reason = "tests; clippy knows only functions with #[test] as such"
)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use abi::DriverAbi;
use integration_tests::program::{Ended, Running, command, run};
use integration_tests::{has_kvm, patience, sample, skip};
use loader::builder::{Builder, Built, SectionIndex};
use serde_json::Value;
use tempfile::TempDir;

fn driver(name: &str) -> String {
    sample(name, DriverAbi::Amd64).display().to_string()
}

/// A file of its own in a folder of its own.
fn file(name: &str, content: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    (folder, path)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

mod devices;
mod ends;
mod failures;
mod files;
mod images;
mod launching;
mod limits;
mod readiness;
mod recordings;
mod restarts;
mod runs;
mod sockets;
mod systemd;
mod traces;
mod usage;
