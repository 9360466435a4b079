//! How a run ends in order: by a signal, or when its driver is unloaded.

use super::launching::Runs;
use super::*;

/// What a run does at SIGHUP: whoever runs the tests may have it either way, and children inherit that.
enum Hangup {
    Ends,
    IsIgnored,
}

impl Hangup {
    /// What makes it so for a program, whose path and arguments come behind. A shell cannot undo what it has inherited, and
    /// busybox' `env` knows no signals.
    fn wrapper(&self) -> &'static [&'static str] {
        match self {
            Self::IsIgnored => &["sh", "-c", "trap '' HUP; exec \"$0\" \"$@\""],
            Self::Ends if is_hangup_ignored() => &["env", "--default-signal=HUP"],
            Self::Ends => &["env"],
        }
    }
}

/// SIGHUP's bit in a signal mask of /proc: signal(7) numbers it 1.
const SIGHUP_BIT: u64 = 1;

/// Whether this process ignores SIGHUP, as under nohup.
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = u64::from_str_radix(mask.unwrap().trim(), 16).unwrap();
    mask & SIGHUP_BIT != 0
}

/// A run in the foreground that serves `s`, with more options.
fn serving(runs: &Runs, options: &[&str]) -> (Running, PathBuf) {
    serving_with(&Hangup::Ends, runs, options)
}

fn serving_with(hangup: &Hangup, runs: &Runs, options: &[&str]) -> (Running, PathBuf) {
    let socket = runs.path().join("s");
    let echo = driver("echo");
    let arguments = [&["run", &echo, "--socket", text(&socket)], options].concat();
    let ringfence = runs.command(&arguments);
    let (wrapper, rest) = hangup.wrapper().split_first().unwrap();
    let mut command = std::process::Command::new(wrapper);
    command
        .args(rest)
        .arg(ringfence.get_program())
        .args(ringfence.get_args())
        .stdin(Stdio::null());
    for (name, value) in ringfence.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let mut running = Running::start(&mut command);
    running.wait_for_socket(&socket);
    (running, socket)
}

#[test]
fn closed_terminal_ends_a_run_in_order() {
    if !has_kvm() {
        return;
    }
    for restart in ["never", "always"] {
        let runs = Runs::new();
        let files = ["r.toml", "run.rec"].map(|name| runs.path().join(name));
        let options = [
            "--restart",
            restart,
            "--save-registry",
            text(&files[0]),
            "--record",
            text(&files[1]),
        ];
        let (running, socket) = serving(&runs, &options);

        running.signal("HUP");

        let ended = running.wait();
        ended.assert_code(0);
        assert!(files[0].exists() && !socket.exists(), "{ended:#?}");
        run(&["trace", text(&files[1])]).assert_code(0);
        let log = runs.run(&["logs", "echo"]);
        assert!(log.stdout.contains("the run ends: SIG"), "{log:#?}");
    }
}

#[test]
fn closed_terminal_is_nothing_to_a_run_that_ignores_it() {
    if !has_kvm() {
        return;
    }
    let runs = Runs::new();
    let (running, socket) = serving_with(&Hangup::IsIgnored, &runs, &[]);

    running.signal("HUP");

    runs.run(&["ctl", text(&socket), r"open \\.\echo"])
        .assert_code(0);
    running.signal("TERM");
    running.wait().assert_code(0);
}

#[test]
fn run_ends_when_its_driver_is_unloaded() {
    if !has_kvm() {
        return;
    }
    let runs = Runs::new();
    let (running, socket) = serving(&runs, &[]);

    let unloaded = runs.run(&["ctl", text(&socket), "unload"]);

    unloaded.assert_code(0);
    assert!(unloaded.stdout.contains("STATUS_SUCCESS"), "{unloaded:#?}");
    let ended = running.wait();
    ended.assert_code(0);
    assert!(
        ended.stderr.contains("the driver is unloaded"),
        "{ended:#?}"
    );
    assert!(!socket.exists());
}

#[test]
fn run_ends_when_the_last_file_of_a_driver_that_is_unloaded_is_closed() {
    if !has_kvm() {
        return;
    }
    let runs = Runs::new();
    let (running, socket) = serving(&runs, &[]);
    let client = ringfence_client::Connection::connect(&socket).unwrap();
    client.open(r"\\.\echo").unwrap();

    let waits = runs.run(&["ctl", text(&socket), "unload"]);

    waits.assert_code(1);
    assert!(waits.stdout.contains("STATUS_PENDING"), "{waits:#?}");
    runs.run(&["ctl", text(&socket), "stats"]).assert_code(0);
    drop(client);
    running.wait().assert_code(0);
}

#[test]
fn driver_that_is_unloaded_is_started_again_if_it_always_is() {
    if !has_kvm() {
        return;
    }
    let runs = Runs::new();
    runs.detach(&[&driver("echo"), "--name", "e", "--restart", "always"]);

    runs.run(&["ctl", "e", "unload"]).assert_code(0);

    runs.wait_until(|run| run["restarts"] == 1 && run["state"] == "running");
    runs.run(&["ctl", "e", r"open \\.\echo"]).assert_code(0);
    runs.run(&["stop", "e"]).assert_code(0);
}

#[test]
fn name_of_a_run_is_none_of_a_file() {
    if !has_kvm() {
        return;
    }
    let runs = Runs::new();
    runs.detach(&[&driver("echo"), "--name", "e"]);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("e"), "").unwrap();
    let _other = UnixListener::bind(folder.path().join("s")).unwrap();
    let ctl = |target: &str| {
        let mut command = runs.command(&["ctl", target, "stats"]);
        Running::start(command.current_dir(folder.path())).wait()
    };

    ctl("e").assert_code(0);

    // A socket of the current folder.
    let path = runs.path().join("e.sock");
    std::os::unix::fs::symlink(path, folder.path().join("link")).unwrap();
    ctl("link").assert_code(0);
    runs.run(&["stop", "e"]).assert_code(0);
}
