//! The files that options name: none is lost, none is waited for.

use super::launching::Runs;
use super::*;

/// A folder with a driver, a policy, a registry file and a script, and that folder as the current one.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(driver("echo"), folder.path().join("echo.sys")).unwrap();
        for (name, content) in [
            ("policy.toml", "# mine\n"),
            ("registry.toml", "# mine\n"),
            ("script", "stats\n"),
        ] {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        Self(folder)
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        Running::start(command(arguments).current_dir(self.0.path())).wait()
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.0.path().join(name)).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

#[test]
fn input_is_not_overwritten() {
    let folder = Folder::new();
    let inputs = ["echo.sys", "policy.toml", "registry.toml", "script"];
    let before = inputs.map(|name| folder.read(name));
    let run = [
        "run",
        "echo.sys",
        "--policy",
        "policy.toml",
        "--registry",
        "registry.toml",
        "--script",
        "script",
    ];
    let learn = [&["policy", "learn"], &run[1..]].concat();
    for (start, output, input) in [
        (&run[..], ["--record", "echo.sys"], "DRIVER"),
        (&run, ["--record", "./policy.toml"], "--policy"),
        (&run, ["--trace", "script"], "--script"),
        (&run, ["--record", "registry.toml"], "--registry"),
        (&run, ["--save-registry", "policy.toml"], "--policy"),
        (
            &run,
            ["--device", "lpt:base=0x378,out=policy.toml"],
            "--policy",
        ),
        (&run, ["--device", "rtc:nvram=script"], "--script"),
        (&learn, ["--output", "policy.toml"], "--policy"),
        (&learn, ["--output", "echo.sys"], "DRIVER"),
    ] {
        let ended = folder.run(&[start, &output].concat());
        ended.assert_code(2);
        assert!(
            ended.stderr.contains(output[0]) && ended.stderr.contains(input),
            "{output:?}: {ended:#?}"
        );
        assert_eq!(inputs.map(|name| folder.read(name)), before, "{output:?}");
    }
    let both = ["--record", "new", "--trace", "new"];
    folder.run(&[&run[..], &both].concat()).assert_code(2);
    assert_eq!(folder.names(), inputs);
}

#[test]
fn recording_is_not_shown_into_itself() {
    let folder = Folder::new();
    let mut recording = b"RINGREC1".to_vec();
    recording.resize(32, 0);
    std::fs::write(folder.0.path().join("run.rec"), &recording).unwrap();

    let ended = folder.run(&["trace", "run.rec", "-o", "run.rec"]);

    ended.assert_code(2);
    assert!(ended.stderr.contains("--output and FILE"), "{ended:#?}");
    assert_eq!(folder.read("run.rec"), recording);
}

#[test]
fn nothing_is_learned_of_a_driver_that_has_not_run() {
    let folder = Folder::new();
    std::fs::write(folder.0.path().join("bad.sys"), "no driver").unwrap();
    let names = folder.names();

    folder
        .run(&["policy", "learn", "bad.sys", "--output", "policy.toml"])
        .assert_code(3);
    folder
        .run(&["policy", "learn", "bad.sys", "--output", "new.toml"])
        .assert_code(3);

    assert_eq!(folder.read("policy.toml"), b"# mine\n");
    assert_eq!(folder.names(), names);
}

#[test]
fn policy_is_learned_to_standard_output() {
    if !has_kvm() {
        return;
    }
    let folder = Folder::new();
    let names = folder.names();
    let learned = folder.run(&[
        "policy",
        "learn",
        "echo.sys",
        "-c",
        r"open \\.\echo",
        "--output",
        "-",
    ]);
    learned.assert_code(0);
    assert!(learned.stdout.contains("# "), "{learned:#?}");
    assert_eq!(folder.names(), names);
}

#[test]
fn only_regular_files_are_read() {
    let folder = Folder::new();
    let fifo = folder.0.path().join("fifo.toml");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.unwrap().success());
    for arguments in [
        &["inspect", "fifo.toml"][..],
        &["run", "fifo.toml"],
        &["run", "echo.sys", "--available", "fifo.toml"],
        &["run", "echo.sys", "--policy", "fifo.toml"],
        &["run", "echo.sys", "--script", "fifo.toml"],
        &["run", "echo.sys", "--registry", "fifo.toml"],
        &["policy", "check", "fifo.toml"],
        &["trace", "fifo.toml"],
    ] {
        let ended = folder.run(arguments);
        ended.assert_code(2);
        assert!(
            ended.stderr.contains("no regular file"),
            "{arguments:?}: {ended:#?}"
        );
    }
}

#[test]
fn output_that_cannot_be_written_is_told_before_the_run() {
    let folder = Folder::new();
    std::fs::create_dir(folder.0.path().join("dir.toml")).unwrap();
    std::fs::write(
        folder.0.path().join("run.rec"),
        b"RINGREC1\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    )
    .unwrap();
    let names = folder.names();
    for arguments in [
        &[
            "run",
            "echo.sys",
            "-c",
            "stats",
            "--save-registry",
            "/no/x.toml",
        ][..],
        &[
            "run",
            "echo.sys",
            "-c",
            "stats",
            "--save-registry",
            "dir.toml",
        ],
        &[
            "policy", "learn", "echo.sys", "-c", "stats", "--output", "/no/x",
        ],
        &[
            "policy", "learn", "echo.sys", "-c", "stats", "--output", "dir.toml",
        ],
        &["trace", "run.rec", "-o", "/no/x"],
        &["trace", "run.rec", "-o", "dir.toml"],
    ] {
        let ended = folder.run(arguments);
        ended.assert_code(2);
        // Nothing has run.
        assert_eq!(ended.stdout, "", "{arguments:?}");
        assert!(
            ended.stderr.contains("written") || ended.stderr.contains("write"),
            "{ended:#?}"
        );
    }
    assert_eq!(folder.names(), names);
}

#[test]
fn recording_is_one_from_the_start() {
    if !has_kvm() {
        return;
    }
    let runs = Runs::new();
    let recording = runs.path().join("run.rec");
    runs.detach(&[&driver("echo"), "--name", "e", "--record", text(&recording)]);

    runs.run(&["trace", text(&recording)]).assert_code(0);

    runs.run(&["stop", "e"]).assert_code(0);
    std::fs::write(&recording, "").unwrap();
    let empty = runs.run(&["trace", text(&recording)]);
    empty.assert_code(2);
    assert!(empty.stderr.contains("is empty"), "{empty:#?}");
}
