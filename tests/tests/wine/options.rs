//! Options of `ringfence run` that `ringfence wine install` keeps for a service.

use std::path::Path;

use serde_json::json;

use crate::harness::{Prefix, run_to_end};

prefix_tests!(
    options_that_cannot_be_are_refused,
    ; everywhere:
    options_reach_the_driver,
);

/// Installs a sample driver from a folder.
fn install_in(prefix: &Prefix, folder: &Path, sample: &str, options: &[&str]) {
    let driver = prefix.sample(sample);
    let mut command = prefix.ringfence_command(&["wine", "install", "--start", "demand"]);
    command.args(options).arg(driver).current_dir(folder);
    let ended = run_to_end(&mut command, "ringfence");
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

/// What the process that serves a service's socket was started with.
fn arguments_of(prefix: &Prefix, service: &str) -> Vec<String> {
    let socket = prefix.socket(service).display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let arguments: Vec<String> = line.split('\0').map(str::to_owned).collect();
        if arguments.get(1).is_some_and(|word| word == "run") && arguments.contains(&socket) {
            found.push(arguments);
        }
    }
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

fn options_reach_the_driver(prefix: &Prefix) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    let values = "[\"Parameters\"]\nValue = 0x12345678\n";
    std::fs::write(folder.join("values.toml"), values).unwrap();
    install_in(
        prefix,
        &folder,
        "kmdf",
        &[
            "--registry",
            "values.toml",
            "--memory",
            "32M",
            "--cpu",
            "80",
        ],
    );
    install_in(
        prefix,
        &folder,
        "portio",
        &[
            "--device",
            "lpt:out=lpt.bin",
            "--device",
            "pit",
            "--files",
            ".:ro",
        ],
    );
    prefix.keep_session();
    for service in ["kmdf", "portio"] {
        assert_eq!(prefix.service("start", service), 0, "{}", prefix.log());
    }

    let text = prefix.run("options", &["registry"]);

    assert_eq!(text.trim(), "parameter 12345678");
    assert_eq!(prefix.run("options", &["port", "Hello"]).trim(), "sent");
    let captured = folder.join("lpt.bin");
    prefix.wait_for(|| std::fs::read(&captured).is_ok_and(|bytes| bytes == b"Hello"));
    let arguments = arguments_of(prefix, "kmdf");
    for option in [["--memory", "33554432"], ["--cpu", "80"]] {
        assert!(
            arguments.windows(2).any(|words| words == option),
            "{arguments:?}"
        );
    }
    // Each is its own service's.
    assert!(!arguments.contains(&"--device".to_owned()), "{arguments:?}");
    let listed = prefix.ringfence(&["wine", "list", "--json"]).objects();
    let path = |name: &str| folder.join(name).display().to_string();
    assert_eq!(listed[0]["registry"], json!(path("values.toml")));
    assert_eq!(listed[0]["memory"], json!(32 << 20));
    assert_eq!(listed[0]["cpu"], json!(80));
    assert_eq!(listed[0]["devices"], json!([]));
    let device = format!("lpt:out=\"{}\"", path("lpt.bin"));
    assert_eq!(listed[1]["devices"], json!([device, "pit"]));
    assert_eq!(
        listed[1]["files"],
        json!(format!("{}:ro", folder.display()))
    );
    let shown = prefix.ringfence(&["wine", "list"]).stdout;
    assert!(shown.contains("--device pit --files"), "{shown}");
    // A file that is gone is said at the start, by name.
    assert_eq!(prefix.service("stop", "kmdf"), 0);
    std::fs::remove_file(folder.join("values.toml")).unwrap();
    assert_eq!(prefix.service("start", "kmdf"), 87);
    let log = prefix.log();
    assert!(log.contains(&path("values.toml")), "{log}");
    assert!(
        log.contains("kmdf: ringfence: cannot read the registry file"),
        "{log}"
    );
    assert!(
        log.contains("kmdf: the micro-VM did not start: the policy, an option or"),
        "{log}"
    );
    for service in ["kmdf", "portio"] {
        let removed = prefix.ringfence(&["wine", "remove", service]);
        assert_eq!(removed.code, Some(0), "{removed:?}");
    }
    assert!(!prefix.ringfence_folder().exists());
}

fn options_that_cannot_be_are_refused(prefix: &Prefix) {
    let folder = tempfile::tempdir().unwrap();
    let values = folder.path().join("values.toml");
    std::fs::write(&values, "Value = \n").unwrap();
    let values = values.to_str().unwrap();
    let echo = prefix.sample("echo");
    let echo = echo.to_str().unwrap();
    for options in [
        &["--registry", "/nonexistent.reg"][..],
        &["--registry", values],
        &["--files", "/nonexistent"],
        &["--memory", "1M"],
        &["--memory", "much"],
        &["--cpu", "200"],
        &["--max-memory", "16M"],
        &["--windows", "95"],
        &["--device", "lp"],
        &["--device", "lpt:base=0x10000,out=-"],
        &["--device", "lpt:out=-", "--device", "printer:out=-"],
    ] {
        let installed = prefix.ringfence(&[&["wine", "install", echo][..], options].concat());
        let run = prefix.ringfence(&[&["run", echo, "-c", "open x"][..], options].concat());
        assert_eq!(
            (installed.code, run.code),
            (Some(2), Some(2)),
            "{installed:?}"
        );
        // In the same words; behind clap's comes how the command is used.
        let first = |text: &str| text.split("\n\n").next().unwrap().to_owned();
        assert_eq!(first(&installed.stderr), first(&run.stderr));
        assert!(!prefix.ringfence_folder().exists(), "{options:?}");
    }
    let policy = folder.path().join("policy.toml");
    let rule =
        "[[port]]\nrange = \"0x378-0x37a\"\naccess = \"rw\"\nbackend = \"lpt\"\noutput = \"-\"\n";
    std::fs::write(&policy, rule).unwrap();
    let policy = policy.to_str().unwrap();
    for (arguments, place) in [
        (
            &["install", echo, "--policy", policy][..],
            "the policy (line 1, `output`)",
        ),
        (
            &["install", echo, "--device", "lpt:out=-"],
            "--device (output)",
        ),
        (&["intercept", "on", "--policy", policy], "(line 1)"),
    ] {
        let ended = prefix.ringfence(&[&["wine"][..], arguments].concat());
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.stderr.contains(place), "{ended:?}");
        assert!(ended.stderr.contains("nobody reads"), "{ended:?}");
        assert!(!prefix.ringfence_folder().exists(), "{arguments:?}");
    }
    let help = prefix.ringfence(&["wine", "install", echo, "--device", "help"]);
    assert_eq!(help.code, Some(0), "{help:?}");
    assert!(help.stdout.contains("uart16550"), "{help:?}");
}
