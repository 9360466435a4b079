//! Runs: results, crashes, time limits, signals, outputs that fail.

use super::*;

const LPT: &str = "[[port]]\nrange = \"0x378-0x37a\"\naccess = \"rw\"\nbackend = \"lpt\"\n";

/// A policy file with an lpt model, and where it prints.
fn lpt() -> (TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let printed = folder.path().join("printed");
    let policy = folder.path().join("lab.toml");
    std::fs::write(&policy, format!("{LPT}output = {printed:?}\n")).unwrap();
    (folder, policy, printed)
}

#[test]
fn port_is_denied_before_and_allowed_after_open() {
    if !has_kvm() {
        return;
    }
    let (_folder, policy, printed) = lpt();

    let ended = run(&[
        "run",
        &driver("ioperm"),
        "--policy",
        text(&policy),
        "-c",
        "! outb 0x378 0x41",
        "-c",
        r"open \\.\ioperm",
        "-c",
        "outb 0x378 0x41",
        "-c",
        "outb 0x37a 0x0d",
        "-c",
        "outb 0x37a 0x0c",
        "-c",
        "inb 0x379",
        "-c",
        "close",
        "-c",
        "unload",
    ]);

    ended.assert_code(0);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(lines.len(), 8, "{}", ended.stdout);
    assert!(lines[0].contains("STATUS_PRIVILEGED_INSTRUCTION"));
    assert!(lines[5].contains("0xd8"), "{}", lines[5]);
    assert_eq!(std::fs::read(printed).unwrap(), b"A");
}

/// The second run would have emptied the first one's file.
#[test]
fn one_output_is_not_for_two_runs() {
    if !has_kvm() {
        return;
    }
    let (folder, policy, printed) = lpt();
    let socket = folder.path().join("socket");
    let ioperm = driver("ioperm");
    let of_policy = ["run", &ioperm, "--policy", text(&policy)];
    let mut first = Running::start(&mut command(
        &[&of_policy[..], &["--socket", text(&socket)]].concat(),
    ));
    first.wait_for_socket(&socket);
    let strobe = ["outb 0x378 0x41", "outb 0x37a 0x0d", "outb 0x37a 0x0c"];
    run(&[&["ctl", text(&socket), r"open \\.\ioperm"][..], &strobe].concat()).assert_code(0);

    let second = run(&[&of_policy[..], &["-c", "stats"]].concat());
    first.signal("TERM");
    first.wait().assert_code(0);
    let kept = std::fs::read(&printed).unwrap();
    let third = run(&[&of_policy[..], &["-c", "stats"]].concat());

    second.assert_code(1);
    assert!(
        second.stderr.contains("lab.toml:1: ") && second.stderr.contains("ringfence ps"),
        "{second:#?}"
    );
    assert_eq!(kept, b"A");
    third.assert_code(0);
    assert_eq!(std::fs::read(printed).unwrap(), b"");
}

#[test]
fn doctor_tells_of_hardware() {
    let doctor = run(&["doctor", "--json"]);
    let report: Value = serde_json::from_str(&doctor.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let subjects: Vec<&str> = checks
        .iter()
        .map(|check| check["subject"].as_str().unwrap())
        .collect();
    let expected = [
        "ioperm",
        "/dev/port",
        "lockdown",
        "/dev/mem",
        "/dev/cpu/*/msr",
        "ppdev",
        "PCI",
        "UIO",
        "IOMMU",
    ];
    for subject in expected {
        assert!(subjects.contains(&subject), "{subjects:?}");
    }
    let absent = run(&["doctor", "--pci", "ffff:ff:1f.7"]);
    absent.assert_code(1);
    assert!(absent.stderr.contains("lspci"), "{absent:#?}");
    run(&["doctor", "--pci", "card"]).assert_code(2);
}

#[test]
fn devices_of_the_command_line_take_bytes() {
    if !has_kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let [printed, sent] = ["printed", "sent"].map(|name| folder.path().join(name));
    let lpt = format!("lpt:base=0x378,irq=7,out={}", printed.display());
    let uart = format!("uart16550:out={},input=[0x5a]", sent.display());
    let ended = run(&[
        "run",
        &driver("ioperm"),
        "--device",
        &lpt,
        "--device",
        &uart,
        "-c",
        r"open \\.\ioperm",
        "-c",
        "outb 0x378 0x41",
        "-c",
        "outb 0x37a 0x0d",
        "-c",
        "outb 0x3f8 0x42",
        "-c",
        "inb 0x3fd",
        "-c",
        "inb 0x3f8",
        "-c",
        "inb 0x3fd",
    ]);
    ended.assert_code(0);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    let read = lines.get(4..).unwrap_or_default();
    for (line, value) in read.iter().zip(["0x61", "0x5a", "0x60"]) {
        assert!(line.contains(value), "{}", ended.stdout);
    }
    assert_eq!(read.len(), 3, "{}", ended.stdout);
    assert_eq!(std::fs::read(printed).unwrap(), b"A");
    assert_eq!(std::fs::read(sent).unwrap(), b"B");
}

#[test]
fn devices_are_listed_and_mistakes_in_them_are_refused() {
    let ended = run(&["run", "--device", "help"]);
    ended.assert_code(0);
    assert!(ended.stdout.contains("uart16550: "), "{}", ended.stdout);
    let ended = run(&["run", "none.sys", "--device", "lpt:base=0x378,irq=99"]);
    ended.assert_code(2);
    assert!(
        ended.stderr.contains("--device:1:29: `irq`"),
        "{}",
        ended.stderr
    );
}

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
fn failed_command_is_exit_code_1_and_ends_the_run() {
    if !has_kvm() {
        return;
    }

    let ended = run(&[
        "run",
        &driver("echo"),
        "-c",
        r"open \\.\nobody",
        "-c",
        "stats",
    ]);

    ended.assert_code(1);
    assert!(ended.stdout.contains("STATUS_OBJECT_NAME_NOT_FOUND"));
    assert!(!ended.stdout.contains("uptime"));
}

#[test]
fn crash_is_exit_code_4_and_an_object() {
    if !has_kvm() {
        return;
    }
    let arguments = [
        "run",
        &driver("faulty"),
        "-c",
        r"open \\.\faulty",
        "-c",
        "ioctl 0x222018",
    ];

    let for_people = run(&arguments);
    let for_machines = run(&[&arguments[..], &["--json"]].concat());

    for_people.assert_code(4);
    for part in [
        "0x44 MULTIPLE_IRP_COMPLETE_REQUESTS",
        "Registers:",
        "Stack:",
        "faulty.sys+0x",
        "Last API calls and port accesses:",
        "IofCompleteRequest(",
    ] {
        assert!(for_people.stdout.contains(part), "{part}: {for_people:#?}");
    }
    for_machines.assert_code(4);
    let objects = for_machines.objects();
    let last = objects.last().unwrap();
    assert_eq!(last["ok"], false);
    assert_eq!(last["exit_code"], 4);
    let crash = &last["crash"];
    assert_eq!(crash["cause"]["name"], "MULTIPLE_IRP_COMPLETE_REQUESTS");
    assert!(
        crash["stack"]
            .as_array()
            .is_some_and(|stack| !stack.is_empty())
    );
    assert!(crash["registers"]["rip"].is_string());
}

#[test]
fn hang_is_exit_code_6() {
    if !has_kvm() {
        return;
    }

    let ended = run(&[
        "run",
        &driver("faulty"),
        "--timeout",
        "2",
        "-c",
        r"open \\.\faulty",
        "-c",
        "ioctl 0x222010",
    ]);

    ended.assert_code(6);
    assert!(ended.stdout.contains("hung"), "{}", ended.stdout);
}

#[test]
fn no_kvm_is_exit_code_5_with_a_way_out() {
    // A folder of devices without any, in a mount namespace of the program's own.
    let script = "mount -t tmpfs none /dev && exec \"$@\"";
    let hidden = |arguments: &[&str]| {
        let mut command = std::process::Command::new("unshare");
        command
            .args(["-m", "sh", "-c", script, "sh"])
            .args(arguments);
        command
    };
    if !hidden(&["true"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
    {
        skip("a run without /dev/kvm: it cannot be hidden here (unshare, mount)");
        return;
    }
    let program = integration_tests::program();

    let ended = Ended::from(
        hidden(&[text(&program), "run", &driver("echo")])
            .stdin(Stdio::null())
            .output()
            .unwrap(),
    );
    let doctor = Ended::from(
        hidden(&[text(&program), "doctor"])
            .stdin(Stdio::null())
            .output()
            .unwrap(),
    );

    ended.assert_code(5);
    assert!(
        ended.stderr.contains("/dev/kvm") && ended.stderr.contains("modprobe"),
        "{}",
        ended.stderr
    );
    assert!(
        doctor.stdout.contains("/dev/kvm") && !doctor.stderr.contains("panicked"),
        "{doctor:#?}"
    );
}

#[test]
fn flood_of_prints_is_bounded_in_the_log() {
    if !has_kvm() {
        return;
    }

    let ended = run(&[
        "run",
        &driver("faulty"),
        "-c",
        r"open \\.\faulty",
        "-c",
        "ioctl 0x222038 u32:0,u32:3000",
    ]);

    ended.assert_code(0);
    let lines = ended.stderr.lines().count();
    assert!(ended.stderr.contains("of a flood"), "{}", ended.stderr);
    assert!(lines < 2900, "{lines} lines of log");
}

#[test]
fn flood_of_denied_ports_is_bounded_in_the_log() {
    if !has_kvm() {
        return;
    }

    let ended = run(&[
        "run",
        &driver("faulty"),
        "-c",
        r"open \\.\faulty",
        "-c",
        "ioctl 0x222034 u32:0x80,u32:3000",
        "-c",
        "stats",
    ]);

    ended.assert_code(0);
    let lines = ended.stderr.lines().count();
    assert!(lines < 300, "{lines} lines of log");
    assert!(ended.stdout.contains(" 3000"), "{}", ended.stdout);
}

#[test]
fn trace_has_calls_and_ports_in_order() {
    if !has_kvm() {
        return;
    }
    let (folder, policy, _printed) = lpt();
    let trace = folder.path().join("trace");

    let ended = run(&[
        "run",
        &driver("portio"),
        "--policy",
        text(&policy),
        "--trace",
        text(&trace),
        "-c",
        r"open \\.\portio",
        "-c",
        "ioctl 0x222004 u32:0x378,u32:1,u32:0x41",
        "-c",
        "ioctl 0x222000 u32:0x379,u32:1 4",
    ]);

    ended.assert_code(0);
    let trace = std::fs::read_to_string(trace).unwrap();
    let mut rest = trace.as_str();
    for step in [
        "DriverEntry",
        "IoCreateDevice(",
        "IRP_MJ_CREATE",
        "IRP_MJ_DEVICE_CONTROL",
        "HalTranslateBusAddress(",
        "port write u8 0x378",
        "IofCompleteRequest(",
        "IRP_MJ_DEVICE_CONTROL",
        "port read u8 0x379",
        "IofCompleteRequest(",
    ] {
        let at = rest.find(step);
        rest = at.map_or_else(
            || panic!("no {step} where it should be in\n{trace}"),
            |at| &rest[at + step.len()..],
        );
    }
    assert!(trace.ends_with('\n'));
    // Time does not run backwards.
    let times: Vec<f64> = trace
        .lines()
        .map(|line| line[1..13].trim().parse().unwrap())
        .collect();
    assert!(times.is_sorted(), "{trace}");
}

#[test]
fn trace_with_json_is_objects() {
    if !has_kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");

    let ended = run(&[
        "run",
        &driver("ioperm"),
        "--json",
        "--trace",
        text(&trace),
        "-c",
        r"open \\.\ioperm",
        "-c",
        "inb 0x379",
    ]);

    ended.assert_code(0);
    assert!(ended.objects().iter().all(Value::is_object));
    let lines = std::fs::read_to_string(trace).unwrap();
    assert!(lines.lines().count() > 10);
    for line in lines.lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}");
    }
}

#[test]
fn closed_stdout_ends_the_run_quietly() {
    if !has_kvm() {
        return;
    }
    let mut child = command(&[
        "run",
        &driver("echo"),
        "-c",
        r"open \\.\echo",
        "-c",
        "stats",
        "-c",
        "stats",
    ])
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();

    drop(child.stdout.take());
    let ended = Ended::from(child.wait_with_output().unwrap());

    assert!(ended.code.is_some(), "a signal ended it");
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("roken pipe"), "{}", ended.stderr);
}

#[test]
fn verified_runs_stop_at_the_violation() {
    if !has_kvm() {
        return;
    }
    let driver = driver("faulty");
    let overrun = format!(
        "ioctl {:#x}",
        integration_tests::codes::faulty::POOL_OVERRUN
    );
    let stopped = |flags: &[&str]| {
        let mut arguments = vec!["run", &driver];
        arguments.extend_from_slice(flags);
        arguments.extend_from_slice(&["-c", "open \\\\.\\faulty", "-c", &overrun]);
        let ended = run(&arguments);
        ended.assert_code(4);
        format!("{}{}", ended.stdout, ended.stderr)
    };
    let verified = stopped(&["--verify"]);
    assert!(
        verified.contains("DRIVER_PAGE_FAULT_BEYOND_END_OF_ALLOCATION"),
        "{verified}"
    );
    assert!(
        verified.contains("allocated by faulty.sys+0x"),
        "{verified}"
    );
    for flags in [&["--no-verify"][..], &["--verify", "--no-verify"], &[]] {
        let plain = stopped(flags);
        assert!(plain.contains("BAD_POOL_HEADER"), "{flags:?}: {plain}");
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
