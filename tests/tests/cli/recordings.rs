//! Recordings and learned policies.

use super::*;

const RAM: &str = "[[port]]\nrange = \"0x378-0x37a\"\naccess = \"rw\"\nbackend = \"ram\"\n";
/// The driver writes 0x41 to the data register by WRITE_PORT_UCHAR, reads the status, and tries a port that is denied.
const COMMANDS: [&str; 8] = [
    "-c",
    r"open \\.\portio",
    "-c",
    "ioctl 0x222004 u32:0x378,u32:1,u32:0x41",
    "-c",
    "ioctl 0x222000 u32:0x379,u32:1 4",
    "-c",
    "ioctl 0x222000 u32:0x300,u32:2 4",
];

/// A folder with a recording of [`COMMANDS`] under [`RAM`].
fn recorded(options: &[&str]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("ram.toml");
    std::fs::write(&policy, RAM).unwrap();
    let recording = folder.path().join("run.rec");
    let portio = driver("portio");
    let mut arguments = vec![
        "run",
        &portio,
        "--policy",
        text(&policy),
        "--record",
        text(&recording),
    ];
    arguments.extend(options);
    arguments.extend(COMMANDS);
    run(&arguments).assert_code(0);
    (folder, recording)
}

#[test]
fn accesses_are_recorded_with_who_made_them() {
    if !has_kvm() {
        return;
    }
    let (_folder, recording) = recorded(&[]);

    let all = run(&["trace", text(&recording)]);
    let denied = run(&["trace", text(&recording), "--denied", "--format", "json"]);

    all.assert_code(0);
    let lines: Vec<&str> = all.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{}", all.stdout);
    assert!(lines[0].contains("out8 0x0378 <- 0x41"), "{}", lines[0]);
    assert!(
        lines[0].contains("ram, rule line 1, from portio.sys+0x"),
        "{}",
        lines[0]
    );
    assert!(lines[2].contains("in16 0x0300 -> 0xffff"), "{}", lines[2]);
    denied.assert_code(0);
    let access: Value = serde_json::from_str(denied.stdout.trim()).unwrap();
    assert_eq!(access["address"], "0x300");
    assert_eq!(access["allowed"], false);
}

#[test]
fn a_bounded_recording_says_what_it_lost() {
    if !has_kvm() {
        return;
    }
    let (_folder, recording) = recorded(&["--record-last", "1"]);

    let all = run(&["trace", text(&recording)]);

    all.assert_code(0);
    assert_eq!(all.stdout.lines().count(), 1, "{}", all.stdout);
    assert!(
        all.stderr.contains("2 accesses before these were dropped"),
        "{}",
        all.stderr
    );
}

/// The run is killed before a buffer is full, so the file says nothing but that something is missing.
#[test]
fn recording_of_a_killed_run_is_not_taken_for_a_whole_one() {
    if !has_kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let recording = folder.path().join("run.rec");
    let socket = folder.path().join("socket");
    let mut running = Running::start(&mut command(&[
        "run",
        &driver("portio"),
        "--record",
        text(&recording),
        "--socket",
        text(&socket),
    ]));
    running.wait_for_socket(&socket);
    let denied = "ioctl 0x222000 u32:0x300,u32:2 4";
    run(&["ctl", text(&socket), r"open \\.\portio", denied]).assert_code(0);

    let meanwhile = run(&["trace", text(&recording)]);
    running.signal("KILL");
    assert_eq!(running.wait().code, None);
    let afterwards = run(&["trace", text(&recording), "--denied"]);

    meanwhile.assert_code(0);
    assert!(
        meanwhile.stderr.contains("the run goes on"),
        "{meanwhile:#?}"
    );
    afterwards.assert_code(1);
    assert!(
        afterwards.stderr.contains("is not finished"),
        "{afterwards:#?}"
    );
    let (_folder, whole) = recorded(&[]);
    let bytes = std::fs::read(&whole).unwrap();
    std::fs::write(&recording, &bytes[..bytes.len() - 7]).unwrap();
    let cut = run(&["trace", text(&recording)]);
    cut.assert_code(1);
    assert_eq!(cut.stdout.lines().count(), 2, "what is there is shown");
    assert!(cut.stderr.contains("is not finished"), "{cut:#?}");
}

#[test]
fn recordings_become_waves_events_and_pages() {
    if !has_kvm() {
        return;
    }
    let (folder, recording) = recorded(&[]);
    let convert = |format: &str, options: &[&str]| {
        let output = folder.path().join(format);
        let mut arguments = vec![
            "trace",
            text(&recording),
            "--format",
            format,
            "--output",
            text(&output),
        ];
        arguments.extend(options);
        run(&arguments).assert_code(0);
        std::fs::read_to_string(&output).unwrap()
    };

    let waves = convert("vcd", &["--signal", "0x378.0=D0", "--signal", "0x378=data"]);
    let events: Value = serde_json::from_str(&convert("chrome", &[])).unwrap();
    let page = convert("html", &[]);

    assert!(waves.contains("$var wire 1 ! D0 $end"), "{waves}");
    assert!(waves.contains("1!\nb1000001 \""), "{waves}");
    let instants = events["traceEvents"].as_array().unwrap();
    let denied = |event: &&Value| event["cat"] == "denied";
    assert_eq!(instants.iter().filter(denied).count(), 1);
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains("portio.sys+0x"));
}

#[test]
fn what_is_no_recording_or_signal_is_a_usage_error() {
    let (_folder, other) = file("other", b"not a recording at all, but long enough");
    let ended = run(&["trace", text(&other)]);
    ended.assert_code(2);
    assert!(ended.stderr.contains("is no recording"), "{}", ended.stderr);
    let ended = run(&["trace", text(&other), "--signal", "0x378.9"]);
    ended.assert_code(2);
    assert!(ended.stderr.contains("a bit is 0 to 7"), "{}", ended.stderr);
}

/// Runs `policy learn` with commands (`-c` and all), and the driver a second time under the policy that it wrote, which must
/// deny nothing. What the first run said, and the policy.
fn learn_and_run_again(folder: &TempDir, options: &[&str], commands: &[&str]) -> (Ended, PathBuf) {
    let learned = folder.path().join("learned.toml");
    let again = folder.path().join("again.rec");
    let portio = driver("portio");
    let head = ["policy", "learn", &portio, "--output", text(&learned)];
    let first = run(&[&head, options, commands].concat());
    first.assert_code(0);
    let recorded = ["--policy", text(&learned), "--record", text(&again)];
    run(&[&["run", &portio], &recorded[..], commands].concat()).assert_code(0);
    let denied = run(&["trace", text(&again), "--denied"]);
    denied.assert_code(0);
    assert_eq!(denied.stdout, "", "nothing is denied");
    (first, learned)
}

#[test]
fn under_a_learned_policy_nothing_is_denied() {
    if !has_kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("base.toml");
    std::fs::write(&base, RAM).unwrap();
    let options = ["--policy", text(&base), "--backend", "ram"];

    let (_, learned) = learn_and_run_again(&folder, &options, &COMMANDS);

    let policy = std::fs::read_to_string(&learned).unwrap();
    assert!(
        policy.contains("range = \"0x378-0x37a\""),
        "the rule that allowed it: {policy}"
    );
    assert!(
        policy.contains("range = \"0x300-0x301\"\naccess = \"r\"\nwidths = [2]\nbackend = \"ram\""),
        "{policy}"
    );
    assert!(policy.contains("# portio.sys+0x"), "{policy}");
    run(&["policy", "check", text(&learned)]).assert_code(0);
}

/// A driver that maps memory, asks for PCI functions and reads the clock goes on as if nothing were there; a policy of
/// what it touched lets all of it through.
#[test]
fn memory_functions_and_registers_are_learned() {
    if !has_kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let printed = folder.path().join("printed");
    let device = format!("lpt:base=0x378,out={}", printed.display());
    let commands = [
        r"open \\.\portio",
        "ioctl 0x222010 u64:0xd0000,u32:4,u32:4 4",
        "ioctl 0x222004 u32:0x70,u32:1,u32:4",
        "ioctl 0x222000 u32:0x71,u32:1 4",
        "ioctl 0x222004 u32:0xcf8,u32:4,u32:0x80008000",
        "ioctl 0x222000 u32:0xcfc,u32:4 4",
        "ioctl 0x222004 u32:0x378,u32:1,u32:0x41",
    ];
    let commands = commands.map(|command| ["-c", command]).concat();
    let options = ["--device", &device, "--backend", "ram"];

    let (first, learned) = learn_and_run_again(&folder, &options, &commands);

    assert!(first.stdout.contains("4 bytes: ff ff ff ff"), "{first:#?}");
    let policy = std::fs::read_to_string(&learned).unwrap();
    for expected in [
        "[[memory]]\nrange = \"0xd0000-0xd0fff\"",
        "[[index-pair.register]]\nrange = \"0x4\"\naccess = \"r\"",
        "# 0000:00:10.0, portio.sys+0x",
        "backend = \"lpt\"",
    ] {
        assert!(policy.contains(expected), "{policy}");
    }
}
