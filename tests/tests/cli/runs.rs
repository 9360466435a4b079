//! Runs that work: every memory size, several drivers, warnings, no privileges.

use super::*;

#[test]
fn every_memory_size_starts() {
    if !has_kvm() {
        return;
    }
    for memory in ["8M", "16M", "64M"] {
        let ended = run(&[
            "run",
            &driver("echo"),
            "--memory",
            memory,
            "-c",
            r"open \\.\echo",
            "-c",
            "ioctl 0x222000 0102 2",
        ]);

        ended.assert_code(0);
        // Byte i is (input ^ 0xA5) + i.
        assert!(
            ended.stdout.contains("a4 a8") || ended.stdout.contains("a4a8"),
            "{ended:#?}"
        );
    }
}

#[test]
fn two_drivers_run_in_one_guest() {
    if !has_kvm() {
        return;
    }

    let ended = run(&[
        "run",
        &driver("lower"),
        &driver("upper"),
        "-c",
        r"open \\.\upper",
        "-c",
        "ioctl 0x222004 0100000002000000 4",
        "-c",
        "close",
        "-c",
        "unload",
    ]);

    ended.assert_code(0);
    assert!(
        ended.stdout.contains("03 00 00 00") || ended.stdout.contains("03000000"),
        "{ended:#?}"
    );
}

#[test]
fn resources_without_rules_and_missing_exporters_are_warned_of() {
    let text_of = "[[resource]]\ntype = \"port\"\nrange = \"0x300-0x307\"\n";
    let (_folder, policy) = file("p.toml", text_of.as_bytes());

    let checked = run(&["policy", "check", text(&policy)]);

    checked.assert_code(0);
    let warning = "no [[port]] rule allows 0x300-0x307 of this resource";
    assert!(checked.stdout.contains(warning), "{}", checked.stdout);
    assert!(
        checked.stdout.contains("1 resource(s)"),
        "{}",
        checked.stdout
    );
    if !has_kvm() {
        return;
    }
    let ended = run(&[
        "run",
        &driver("pnp"),
        "--policy",
        text(&policy),
        "--no-pnp-start",
        "-c",
        "pnp start",
        "-c",
        "! pnp start",
        "-c",
        "pnp remove",
        "-c",
        "unload",
    ]);
    ended.assert_code(0);
    assert!(ended.stderr.contains(warning), "{}", ended.stderr);
    let alone = run(&["run", &driver("upper")]);
    assert!(
        alone.stderr.contains("name lower.sys before this driver"),
        "{}",
        alone.stderr
    );
}

/// Every thread of a process: its name, effective and permitted capabilities, and whether it may gain some.
fn threads(process: u32) -> Vec<(String, String, String, String)> {
    let field = |status: &str, name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    std::fs::read_dir(format!("/proc/{process}/task"))
        .into_iter()
        .flatten()
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("status")).ok())
        .map(|status| {
            let [name, effective, permitted, no_new] =
                ["Name:", "CapEff:", "CapPrm:", "NoNewPrivs:"].map(|name| field(&status, name));
            (name, effective, permitted, no_new)
        })
        .collect()
}

#[test]
fn no_thread_has_a_privilege_when_the_driver_runs() {
    if !has_kvm() {
        return;
    }
    let output = tempfile::NamedTempFile::new().unwrap();
    let mut child = command(&["run", &driver("echo"), "--json"])
        .stdin(Stdio::null())
        .stdout(output.reopen().unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    // DriverEntry has returned.
    while !std::fs::read_to_string(output.path())
        .unwrap()
        .contains("started")
    {
        assert!(start.elapsed() < patience(), "it never started");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let threads = threads(child.id());
    child.kill().unwrap();
    child.wait().unwrap();
    for name in ["ringfence", "vcpu", "watchdog"] {
        assert!(threads.iter().any(|thread| thread.0 == name), "{threads:?}");
    }
    for (name, effective, permitted, no_new) in threads {
        assert_eq!(effective, "0000000000000000", "{name}");
        assert_eq!(permitted, "0000000000000000", "{name}");
        assert_eq!(no_new, "1", "{name}");
    }
}
