//! packaging/systemd's units under a systemd that is process 1: tests/systemd/boot and what it runs there, tests/systemd/check.

use std::collections::HashMap;
use std::process::Command;

use super::*;
use integration_tests::{is_lane, program, skip_without_program};

/// sysexits.h's EX_UNAVAILABLE: boot cannot make its container.
const UNAVAILABLE: i32 = 69;

/// What `check` found, by name; `None`: it cannot run here.
fn facts() -> Option<HashMap<String, String>> {
    // The lane's machine has nothing but the tests.
    if is_lane() || !has_kvm() {
        return None;
    }
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let mut boot = Command::new(tests.join("systemd/boot"));
    boot.arg(program()).arg(tests.join("systemd/check"));
    for name in ["echo", "faulty"] {
        let driver = folder.path().join(format!("{name}.sys"));
        std::fs::copy(self::driver(name), &driver).unwrap();
        boot.arg(driver);
    }
    let broken = folder.path().join("broken.sys");
    std::fs::write(&broken, "no driver").unwrap();
    boot.arg(broken);
    for name in ["echo", "faulty", "broken"] {
        let policy = folder.path().join(format!("{name}.toml"));
        std::fs::write(&policy, "").unwrap();
        boot.arg(policy);
    }
    let output = boot.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(UNAVAILABLE) {
        skip_without_program(&format!("the units under systemd: {}", errors.trim()));
        return None;
    }
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{errors}");
    println!("{said}{errors}");
    let facts = said.lines().filter_map(|line| {
        let (name, value) = line.split_once(": ")?;
        Some((name.to_owned(), value.to_owned()))
    });
    Some(facts.collect())
}

#[test]
fn units_work_under_a_real_systemd() {
    let Some(facts) = facts() else { return };
    for (name, expected) in [
        // Socket activation: the first client's connection starts the driver, and is served.
        ("before the first client", "inactive"),
        ("first client", "0"),
        ("after the first client", "active"),
        // Readiness and watchdog.
        ("type", "notify"),
        ("status", "running"),
        ("watchdog", "seen"),
        // The sandbox, in which KVM works.
        ("user", "own"),
        ("capabilities", "0000000000000000"),
        ("no new privileges", "1"),
        ("seccomp", "2"),
        ("memory limit", "536870912"),
        ("tasks limit", "128"),
        // The end, and what is there afterwards.
        ("stopped", "inactive success 0"),
        ("socket after the stop", "active"),
        ("client after the stop", "0"),
        ("socket's file", "removed"),
        // Started again after a crash or a kill, and not when that would come again.
        ("crash", "4"),
        ("after the crash", "active, 1 restarts"),
        ("client after the crash", "0"),
        ("crash reports", "1"),
        ("after a kill", "active, 2 restarts"),
        ("no driver", "failed 3, 0 restarts"),
        // NotifyAccess=main.
        ("detached", "active, running"),
        ("detached's main process", "the one that stays"),
        ("detached's client", "0"),
    ] {
        assert_eq!(
            facts.get(name).map(String::as_str),
            Some(expected),
            "{name}: {facts:#?}"
        );
    }
    // In 100 ms, as the two kinds of cgroups say it.
    let processor = facts["processor limit"].as_str();
    assert!(
        ["100000", "100000 100000"].contains(&processor),
        "{facts:#?}"
    );
    let listed: Value = serde_json::from_str(&facts["listed"]).unwrap();
    assert_eq!(listed["name"], "echo");
    assert_eq!(listed["state"], "running");
}
