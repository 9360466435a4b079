//! The run directory: `--detach`, `ps`, `stop`, `logs`, `stats`.

use super::*;
use std::time::Duration;

/// Runs in a run directory of their own. Dropping it kills what still runs.
pub(crate) struct Runs {
    folder: TempDir,
}

impl Runs {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The program in this run directory, not started.
    pub(crate) fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = command(arguments);
        command.env("RINGFENCE_RUN_DIR", self.path());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        Running::start(&mut self.command(arguments)).wait()
    }

    /// Starts a detached run.
    pub(crate) fn detach(&self, arguments: &[&str]) {
        self.run(&[&["run", "--detach"], arguments].concat())
            .assert_code(0);
    }

    /// What `ps` says, a run a line.
    pub(crate) fn listed(&self) -> Vec<Value> {
        let ended = self.run(&["ps", "--json"]);
        ended.assert_code(0);
        ended.objects()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let name = |run: &Value| run["name"].as_str().unwrap().to_owned();
        self.listed().iter().map(name).collect()
    }

    /// Waits until `ps` shows the only run like that.
    pub(crate) fn wait_until(&self, is_wanted: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let listed = self.listed();
            if let [run] = listed.as_slice()
                && is_wanted(run)
            {
                return run.clone();
            }
            assert!(started.elapsed() < patience(), "{listed:#?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        for run in self.run(&["ps", "--json"]).objects() {
            kill(&run, "KILL");
        }
    }
}

/// Sends a signal to the process that a line of `ps` names.
pub(crate) fn kill(run: &Value, signal: &str) {
    let pid = run["pid"].as_u64().unwrap();
    let status = std::process::Command::new("sh")
        .arg("-c")
        .arg(format!("kill -{signal} {pid}"))
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn detached_driver_is_listed_answers_and_stops() {
    if !has_kvm() {
        return;
    }
    let runs = Runs::new();

    let started = runs.run(&[
        "run",
        &driver("echo"),
        "--detach",
        "--name",
        "e.1",
        "--json",
    ]);

    started.assert_code(0);
    let objects = started.objects();
    assert_eq!(objects[0]["event"], "started");
    assert_eq!(objects[0]["name"], "e.1");
    let socket = runs.path().join("e.1.sock");
    assert_eq!(objects[0]["socket"], text(&socket));
    let [run] = runs.listed().try_into().unwrap();
    assert_eq!(run["state"], "running");
    assert_eq!(run["guest_memory"], 16 << 20);
    assert!(run["resident_memory"].as_u64().unwrap() > 1 << 20);
    assert!(run["requests"].as_u64().unwrap() > 0);
    assert_eq!(run["clients"], 0);
    assert_eq!(run["drivers"][0], driver("echo"));
    let shown = runs.run(&["ps"]);
    assert!(
        shown.stdout.starts_with("NAME") && shown.stdout.contains("e.1"),
        "{shown:#?}"
    );
    runs.run(&["ctl", "e.1", r"open \\.\echo"]).assert_code(0);
    let stats = runs.run(&["stats", "e.1", "--json"]);
    stats.assert_code(0);
    assert!(stats.objects()[0]["stats"]["requests"].as_u64().unwrap() > 0);
    assert_eq!(stats.objects()[0]["clients"], 1);
    let log = runs.run(&["logs", "e.1"]);
    assert!(log.stdout.contains("echo.sys is running"), "{log:#?}");

    let stopped = runs.run(&["stop", "e.1"]);

    stopped.assert_code(0);
    assert!(stopped.stdout.starts_with("e.1: stopped"), "{stopped:#?}");
    assert!(runs.listed().is_empty());
    assert!(!socket.exists());
    // The log stays.
    runs.run(&["logs", "e.1"]).assert_code(0);
}

#[test]
fn detached_start_that_fails_says_why_and_leaves_nothing() {
    if !has_kvm() {
        return;
    }
    let runs = Runs::new();
    let (_folder, no_driver) = file("x.sys", b"no driver");
    let rejected = runs.run(&["run", text(&no_driver), "--detach"]);
    rejected.assert_code(3);
    assert!(rejected.stderr.contains("not a PE image"), "{rejected:#?}");
    let usage = runs.run(&["run", &driver("echo"), "--detach", "--policy", "/nowhere"]);
    usage.assert_code(2);
    assert!(usage.stderr.contains("/nowhere"), "{usage:#?}");
    let restarting = ["--detach", "--restart", "always"];
    runs.run(&[&["run", text(&no_driver)], &restarting[..]].concat())
        .assert_code(3);
    let left = || std::fs::read_dir(runs.path()).unwrap().count();
    assert_eq!(left(), 0, "an empty folder is left behind");

    // What a log says stays, and where that is is said.
    let open = ["-c", r"open \\.\nobody"];
    for restart in ["never", "always"] {
        let start = ["run", &driver("echo"), "--detach", "--restart", restart];
        let failed = runs.run(&[&start, &open[..]].concat());
        failed.assert_code(1);
        let log = runs.path().join("echo/log");
        let said = format!("its log is {}", log.display());
        assert!(failed.stderr.contains(&said), "{failed:#?}");
        let log = std::fs::read_to_string(log).unwrap();
        assert!(log.contains("echo: loaded"), "{log}");
    }

    let faulty = driver("faulty");
    let crash = ["-c", r"open \\.\faulty", "-c", "ioctl 0x222000"];
    let crashed = runs.run(&[&["run", &faulty, "--detach"][..], &crash].concat());
    crashed.assert_code(4);
    assert!(
        crashed.stdout.contains("SYSTEM_SERVICE_EXCEPTION"),
        "{crashed:#?}"
    );
    assert!(runs.listed().is_empty());
    // The crash's report is kept.
    let report = runs.run(&["logs", "faulty", "--crash"]);
    report.assert_code(0);
    assert!(
        report.stdout.contains("SYSTEM_SERVICE_EXCEPTION"),
        "{report:#?}"
    );
    assert_eq!(runs.run(&["logs", "faulty", "--crash", "2"]).code, Some(1));
}

#[test]
fn name_is_one_runs() {
    if !has_kvm() {
        return;
    }
    let runs = Runs::new();
    runs.detach(&[&driver("echo"), "--name", "echo"]);

    let second = runs.run(&["run", &driver("echo"), "--name", "echo"]);
    runs.detach(&[&driver("echo")]);

    second.assert_code(2);
    assert!(second.stderr.contains("running already"), "{second:#?}");
    assert_eq!(runs.names(), ["echo", "echo-2"]);
    for bad in ["", "../x", ".x", "a b"] {
        runs.run(&["run", &driver("echo"), "--name", bad])
            .assert_code(2);
    }
    runs.run(&["stop", "echo", "echo-2"]).assert_code(0);
}

#[test]
fn run_in_the_foreground_is_listed_while_it_serves() {
    if !has_kvm() {
        return;
    }
    let runs = Runs::new();
    let socket = runs.path().join("s");
    let mut running =
        Running::start(&mut runs.command(&["run", &driver("echo"), "--socket", text(&socket)]));
    running.wait_for_socket(&socket);
    let client = UnixStream::connect(&socket).unwrap();

    let run = runs.wait_until(|run| run["clients"] == 1);

    assert_eq!(run["name"], "echo");
    assert_eq!(run["socket"], text(&socket));
    drop(client);
    running.signal("TERM");
    let ended = running.wait();
    ended.assert_code(0);
    assert!(runs.listed().is_empty());
    // Its log has what its standard error had.
    let log = runs.run(&["logs", "echo"]);
    assert!(log.stdout.contains("echo: loaded"), "{log:#?}");
    assert!(ended.stderr.contains("echo: loaded"), "{ended:#?}");
    let last = runs.run(&["logs", "echo", "-n", "1"]);
    assert_eq!(last.stdout.lines().count(), 1);
    assert!(log.stdout.ends_with(&last.stdout));
}

#[test]
fn killed_run_is_forgotten() {
    if !has_kvm() {
        return;
    }
    let runs = Runs::new();
    runs.detach(&[&driver("echo")]);
    let [run] = runs.listed().try_into().unwrap();
    let socket = PathBuf::from(run["socket"].as_str().unwrap());
    kill(&run, "KILL");

    let started = Instant::now();
    while !runs.listed().is_empty() {
        assert!(started.elapsed() < patience());
    }

    assert!(!socket.exists());
    runs.detach(&[&driver("echo"), "--name", "echo"]);
    assert_eq!(runs.names(), ["echo"]);
    runs.run(&["ctl", "echo", "stats"]).assert_code(0);
}

#[test]
fn unknown_names_are_told_those_that_there_are() {
    let runs = Runs::new();
    for command in [
        &["stop", "x"][..],
        &["stats", "x"],
        &["ctl", "x", "stats"],
        &["logs", "x"],
    ] {
        let ended = runs.run(command);
        ended.assert_code(2);
        assert!(
            ended.stderr.contains("no driver x is running"),
            "{ended:#?}"
        );
        assert!(ended.stderr.contains("none is"), "{ended:#?}");
    }
    if !has_kvm() {
        return;
    }
    runs.detach(&[&driver("echo"), "--name", "known"]);
    let ended = runs.run(&["stop", "x"]);
    assert!(ended.stderr.contains("known is"), "{ended:#?}");
}

#[test]
fn run_that_does_not_end_is_killed() {
    if !has_kvm() {
        return;
    }
    let runs = Runs::new();
    runs.detach(&[&driver("echo")]);
    let [run] = runs.listed().try_into().unwrap();
    kill(&run, "STOP");

    let stopped = runs.run(&["stop", "echo", "--timeout", "0.2", "--json"]);

    stopped.assert_code(6);
    assert_eq!(stopped.objects()[0]["was_killed"], true);
    assert!(runs.listed().is_empty());
    assert!(!runs.path().join("echo.sock").exists());
}

#[test]
fn log_is_followed_until_the_driver_ends() {
    if !has_kvm() {
        return;
    }
    let runs = Runs::new();
    runs.detach(&[&driver("faulty")]);
    let following = Running::start(&mut runs.command(&["logs", "faulty", "-f"]));
    let crash = runs.run(&["ctl", "faulty", r"open \\.\faulty", "ioctl 0x222000"]);

    let followed = following.wait();

    crash.assert_code(4);
    followed.assert_code(0);
    assert!(followed.stdout.contains("faulty: loaded"), "{followed:#?}");
    assert!(
        followed.stdout.contains("SYSTEM_SERVICE_EXCEPTION"),
        "{followed:#?}"
    );
}

#[test]
fn policies_are_not_learned_by_detached_runs() {
    for option in [&["--detach"][..], &["--restart", "always"]] {
        let learn = ["policy", "learn", "x.sys", "-o", "/nowhere/x"];
        run(&[&learn[..], option].concat()).assert_code(2);
    }
}
