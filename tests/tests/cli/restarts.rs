//! `--restart`.

use super::launching::{Runs, kill};
use super::*;
use integration_tests::is_lane;

const CRASH: &str = "ioctl 0x222000";
const LOOP: &str = "ioctl 0x222010";

fn crash(runs: &Runs) {
    let crashed = runs.run(&["ctl", "f", r"open \\.\faulty", CRASH]);
    crashed.assert_code(4);
}

#[test]
fn crashed_driver_is_started_again_with_its_policy() {
    if !has_kvm() {
        return;
    }
    let runs = Runs::new();
    let bytes = runs.path().join("bytes");
    let device = format!("lpt:base=0x378,out={}", bytes.display());
    let drivers = [driver("ioperm"), driver("faulty")];
    let [ioperm, faulty] = drivers.each_ref().map(String::as_str);
    runs.detach(&[
        ioperm,
        faulty,
        "--name",
        "f",
        "--restart",
        "on-crash",
        "--device",
        &device,
    ]);
    let ports = ["ctl", "f", r"open \\.\ioperm", "inb 0x379", "inb 0x60"];
    let before = runs.run(&ports);

    crash(&runs);
    // It need not be there yet: clients wait.
    let after = runs.run(&ports);

    before.assert_code(0);
    assert!(before.stdout.contains("inb 0x379: 0xd8"), "{before:#?}");
    // Denied by the policy.
    assert!(before.stdout.contains("inb 0x60: 0xff"), "{before:#?}");
    assert_eq!(after.stdout, before.stdout);
    let [run] = runs.listed().try_into().unwrap();
    assert_eq!(run["restarts"], 1);
    assert_eq!(run["state"], "running");
    let report = runs.run(&["logs", "f", "--crash"]);
    assert!(
        report.stdout.contains("SYSTEM_SERVICE_EXCEPTION"),
        "{report:#?}"
    );
    let log = runs.run(&["logs", "f"]);
    assert!(
        log.stdout.contains("it is started again in 0.1 s"),
        "{log:#?}"
    );
    runs.run(&["stop", "f"]).assert_code(0);
    assert!(runs.listed().is_empty() && !runs.path().join("f.sock").exists());
}

#[test]
fn requests_under_way_get_their_error_and_the_next_connection_works() {
    if !has_kvm() {
        return;
    }
    let runs = Runs::new();
    runs.detach(&[&driver("faulty"), "--name", "f", "--restart", "on-crash"]);
    let socket = runs.path().join("f.sock");
    let client = ringfence_client::Connection::connect(&socket).unwrap();
    let handle = client.open(r"\\.\faulty").unwrap();

    let lost = client.ioctl(handle, 0x0022_2000, &[], 0);

    // STATUS_DRIVER_PROCESS_TERMINATED
    assert_eq!(lost.map(|done| done.status).unwrap(), 0xC000_0450);
    let client = ringfence_client::Connection::connect(&socket).unwrap();
    client.open(r"\\.\faulty").unwrap();
    drop(client);
    runs.run(&["stop", "f"]).assert_code(0);
}

/// The seventh start in a row comes 6.4 s after the crash.
#[test]
fn clients_are_told_when_a_driver_is_started_again_later() {
    if !has_kvm() {
        return;
    }
    let runs = Runs::new();
    runs.detach(&[&driver("faulty"), "--name", "f", "--restart", "on-crash"]);
    for restarts in 0..7 {
        runs.wait_until(|run| run["restarts"] == restarts && run["state"] == "running");
        crash(&runs);
    }
    runs.wait_until(|run| run["restarts"] == 7 && run["state"] == "restarting");
    let socket = runs.path().join("f.sock");

    let text = runs.run(&["ctl", "f", "stats"]);
    let channel = ringfence_client::Connection::connect(&socket);

    text.assert_code(1);
    assert!(text.stdout.contains("it is started again in"), "{text:#?}");
    // STATUS_DEVICE_NOT_READY
    assert_eq!(channel.unwrap_err().status(), 0xC000_00A3);
    runs.wait_until(|run| run["state"] == "running");
    runs.run(&["ctl", "f", "stats"]).assert_code(0);
    runs.run(&["stop", "f"]).assert_code(0);
}

#[test]
fn driver_that_hangs_is_started_again() {
    if !has_kvm() {
        return;
    }
    // An emulated machine needs its time to start.
    let timeout = if is_lane() { "20" } else { "0.5" };
    let runs = Runs::new();
    runs.detach(&[
        &driver("faulty"),
        "--name",
        "f",
        "--restart",
        "on-crash",
        "--timeout",
        timeout,
    ]);

    let hung = runs.run(&["ctl", "f", r"open \\.\faulty", LOOP]);
    let after = runs.run(&["ctl", "f", "stats"]);

    hung.assert_code(6);
    after.assert_code(0);
    assert_eq!(runs.listed()[0]["restarts"], 1);
}

#[test]
fn restarts_in_a_row_have_a_limit() {
    if !has_kvm() {
        return;
    }
    let runs = Runs::new();
    let arguments = [
        "run",
        &driver("faulty"),
        "--name",
        "f",
        "--restart",
        "on-crash:1",
    ];
    let mut running = Running::start(&mut runs.command(&arguments));
    running.wait_for_socket(&runs.path().join("f.sock"));
    crash(&runs);
    crash(&runs);

    let ended = running.wait();

    ended.assert_code(4);
    assert!(ended.stderr.contains("often enough"), "{ended:#?}");
    assert!(runs.listed().is_empty() && !runs.path().join("f.sock").exists());
    for number in ["1", "2"] {
        runs.run(&["logs", "f", "--crash", number]).assert_code(0);
    }
}

#[test]
fn driver_that_has_never_answered_is_not_started_again() {
    let runs = Runs::new();
    let (_folder, no_driver) = file("x.sys", b"no driver");

    let ended = runs.run(&["run", text(&no_driver), "--restart", "always"]);

    if has_kvm() {
        ended.assert_code(3);
    }
    assert!(runs.listed().is_empty());
}

#[test]
fn always_is_after_a_killed_process_too() {
    if !has_kvm() {
        return;
    }
    let runs = Runs::new();
    runs.detach(&[&driver("echo"), "--name", "f", "--restart", "always"]);
    let state = std::fs::read_to_string(runs.path().join("f/state.json")).unwrap();
    let state: Value = serde_json::from_str(&state).unwrap();

    kill(&state["worker"], "KILL");
    let run = runs.wait_until(|run| run["restarts"] == 1 && run["state"] == "running");

    assert_eq!(run["pid"], state["pid"]);
    runs.run(&["ctl", "f", "stats"]).assert_code(0);
}

#[test]
fn killed_supervisor_takes_the_driver_along() {
    if !has_kvm() {
        return;
    }
    let runs = Runs::new();
    runs.detach(&[&driver("echo"), "--name", "f", "--restart", "always"]);
    let state = std::fs::read_to_string(runs.path().join("f/state.json")).unwrap();
    let state: Value = serde_json::from_str(&state).unwrap();

    kill(&state, "KILL");

    let worker = format!("/proc/{}/stat", state["worker"]["pid"]);
    let started = Instant::now();
    // One that nobody has waited for has ended too.
    while std::fs::read_to_string(&worker).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(started.elapsed() < patience());
    }
    assert!(runs.listed().is_empty());
}

#[test]
fn restart_policies_are_checked() {
    for bad in ["sometimes", "never:3", "always:0", "on-crash:x"] {
        let ended = run(&["run", "x.sys", "--restart", bad]);
        ended.assert_code(2);
        assert!(ended.stderr.contains("on-crash:MAX"), "{ended:#?}");
    }
}
