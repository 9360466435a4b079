//! Requests that programs under `ringfence wine run` send to the micro-VM themselves: wine/tests/direct.c.

use std::process::Command;

use super::harness::{Prefix, run_to_end};
use super::running::Steps;

prefix_tests!(
    results_are_those_of_winedevice,
    threads_wait_end_and_are_cancelled,
    handles_are_told_apart,
    service_stops_under_a_request,
    connections_to_micro_vms_that_are_gone_are_given_back,
    driver_that_crashes_or_hangs_ends_its_requests,
    echo_scenarios_with_the_dll,
    ; everywhere:
    requests_do_not_need_winedevice,
);

/// What a scenario prints under `ringfence wine run`.
fn direct(prefix: &Prefix, program: &str, scenario: &str) -> String {
    let ended = run_to_end(&mut prefix.ringfence_run(program, &[scenario]), program);
    assert_eq!(ended.code, Some(0), "{ended:?}\n{}", prefix.log());
    let text = ended.stdout.replace('\r', "");
    let line = format!("{scenario}: as it should be");
    assert!(text.lines().any(|found| found == line), "{text}");
    text
}

/// The process of Wine that runs a service's driver: the parent of its micro-VM.
fn winedevice(prefix: &Prefix, service: &str) -> String {
    let socket = prefix.socket(service);
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        let line = String::from_utf8_lossy(&line).into_owned();
        let arguments: Vec<&str> = line.split('\0').collect();
        if arguments.get(1) == Some(&"run") && arguments.contains(&socket.to_str().unwrap()) {
            let status = std::fs::read_to_string(entry.path().join("status")).unwrap();
            let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
            return parent.unwrap().trim().to_owned();
        }
    }
    panic!("no micro-VM of {service} runs");
}

fn signal(process: &str, name: &str) {
    let sent = Command::new("kill").args(["-s", name, process]).status();
    assert!(sent.unwrap().success());
}

fn requests_do_not_need_winedevice(prefix: &Prefix) {
    prefix.start_echo();
    let mut program = Steps::start(prefix.ringfence_run("direct", &["requests"]));
    assert_eq!(program.line(), "ready", "{}", prefix.log());
    let winedevice = winedevice(prefix, "echo");
    signal(&winedevice, "STOP");

    program.go_on();
    let line = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| program.line()));

    signal(&winedevice, "CONT");
    assert_eq!(line.unwrap(), "done");
    program.go_on();
    assert_eq!(program.line(), "requests: as it should be");
}

fn results_are_those_of_winedevice(prefix: &Prefix) {
    prefix.start_echo();

    let text = direct(prefix, "direct", "results");

    assert_eq!(text, prefix.run("direct", &["results"]));
    let mut off = prefix.ringfence_run("direct", &["results"]);
    let ended = run_to_end(off.env("RINGFENCE_DIRECT", "0"), "direct");
    assert_eq!(text, ended.stdout.replace('\r', ""));
}

fn threads_wait_end_and_are_cancelled(prefix: &Prefix) {
    prefix.start_echo();
    for scenario in ["threads", "cancel", "close", "terminate", "suspend"] {
        let text = direct(prefix, "direct", scenario);
        assert_eq!(text, prefix.run("direct", &[scenario]), "{scenario}");
    }
}

fn handles_are_told_apart(prefix: &Prefix) {
    prefix.start_echo();
    for scenario in ["reuse", "child", "stolen"] {
        direct(prefix, "direct", scenario);
    }
    prefix.wait_for_processes("echo", 0);
}

fn service_stops_under_a_request(prefix: &Prefix) {
    prefix.start_echo();
    let program = Steps::start(prefix.ringfence_run("direct", &["hold"]));
    assert_eq!(program.line(), "holding");

    assert_eq!(prefix.service("stop", "echo"), 0);

    // ERROR_DEVICE_REMOVED.
    assert_eq!(program.line(), "ended: error 1617");
    assert_eq!(program.line(), "hold: as it should be");
}

/// Memory of the channels that a program's processes have in this prefix; other tests run the same program.
fn channels(prefix: &Prefix, scenario: &str) -> usize {
    let own = format!("WINEPREFIX={}", prefix.path().display());
    let is_channel = |link: &std::fs::DirEntry| {
        std::fs::read_link(link.path())
            .is_ok_and(|target| target.to_string_lossy().contains("ringfence-channel"))
    };
    let mut count = 0;
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        let line = String::from_utf8_lossy(&line).into_owned();
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let is_own = environment
            .split(|&byte| byte == 0)
            .any(|variable| variable == own.as_bytes());
        if is_own && line.contains("direct") && line.contains(scenario) {
            let links = std::fs::read_dir(entry.path().join("fd"));
            count += links
                .into_iter()
                .flatten()
                .flatten()
                .filter(is_channel)
                .count();
        }
    }
    count
}

fn connections_to_micro_vms_that_are_gone_are_given_back(prefix: &Prefix) {
    prefix.start_echo();
    let mut program = Steps::start(prefix.ringfence_run("direct", &["rounds"]));
    for round in 0..4 {
        assert_eq!(program.line(), "round", "{}", prefix.log());

        assert_eq!(channels(prefix, "rounds"), 1, "in round {round}");

        assert_eq!(prefix.service("stop", "echo"), 0);
        assert_eq!(prefix.service("start", "echo"), 0);
        program.go_on();
    }
    assert_eq!(program.line(), "rounds: as it should be");
}

fn driver_that_crashes_or_hangs_ends_its_requests(prefix: &Prefix) {
    prefix.install("faulty", &[]);
    prefix.keep_session();
    // ERROR_DRIVER_PROCESS_TERMINATED, ERROR_SEM_TIMEOUT.
    for (scenario, error) in [("crash", 1291), ("hang", 121)] {
        assert_eq!(prefix.service("start", "faulty"), 0);
        let mut program = Steps::start(prefix.ringfence_run("direct", &[scenario]));
        assert_eq!(program.line(), "settled", "{}", prefix.log());

        program.go_on();

        assert_eq!(program.line(), format!("ended: error {error}"));
        assert_eq!(program.line(), format!("{scenario}: as it should be"));
        assert_eq!(prefix.service("stop", "faulty"), 0);
    }
}

fn echo_scenarios_with_the_dll(prefix: &Prefix) {
    prefix.start_echo();
    for scenario in [
        "methods",
        "transfers",
        "overlapped",
        "cancel",
        "close-pending",
    ] {
        direct(prefix, "echo", scenario);
    }
}
