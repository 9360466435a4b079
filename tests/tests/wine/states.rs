//! What `ringfence wine list` says of drivers, whatever has become of them.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::Prefix;

prefix_tests!(
    driver_that_hangs_is_crashed,
    ; everywhere:
    state_is_what_is_so,
    intercepted_drivers_are_listed,
);

fn listed(prefix: &Prefix) -> Vec<Value> {
    let ended = prefix.ringfence(&["wine", "list", "--json"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.objects()
}

/// The state of the only service.
fn state(prefix: &Prefix) -> String {
    let object = listed(prefix).remove(0);
    let state = object["state"].as_str().unwrap().to_owned();
    assert_eq!(object["running"], state == "running", "{object}");
    state
}

/// Waits until the only service has crashed, for such a reason: that is known a moment later than that nobody serves.
fn wait_for_crash(prefix: &Prefix, reason: &str) {
    prefix.wait_for(|| {
        let object = listed(prefix).remove(0);
        let is_crashed = object["state"] == "crashed";
        is_crashed && object["reason"].as_str().unwrap().contains(reason)
    });
}

/// Wine's process that runs a service: it has made the socket.
fn wine_process(prefix: &Prefix, service: &str) -> Pid {
    let socket = UnixStream::connect(prefix.socket(service)).unwrap();
    rustix::net::sockopt::socket_peercred(&socket).unwrap().pid
}

/// Its child, the micro-VM's.
fn micro_vm(prefix: &Prefix, service: &str) -> Pid {
    let socket = prefix.socket(service).display().to_string();
    let found = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .find_map(|entry| {
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).into_owned();
            let is_its = line.contains("\0run\0") && line.contains(&socket);
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Pid::from_raw(pid).filter(|_| is_its)
        });
    found.unwrap()
}

fn state_is_what_is_so(prefix: &Prefix) {
    prefix.install("faulty", &[]);
    assert_eq!(state(prefix), "stopped");
    prefix.keep_session();
    assert_eq!(prefix.service("start", "faulty"), 0);
    assert_eq!(state(prefix), "running");

    prefix.run("faulty", &[]);

    wait_for_crash(prefix, "EXCEPTION");
    // Wine does not know.
    assert_eq!(
        prefix.run("service", &["state", "faulty"]).trim(),
        "state 4"
    );
    let object = listed(prefix).remove(0);
    let text = prefix.ringfence(&["wine", "list"]).stdout;
    let log = object["log"].as_str().unwrap();
    assert!(
        text.starts_with("faulty: crashed (") && text.contains(log),
        "{text}"
    );
    // Every line of the log says whose it is.
    let log = prefix.log();
    let is_named = |line: &str| line.starts_with("20") && line.contains("Z faulty: ");
    assert!(
        log.contains("EXCEPTION") && log.lines().all(is_named),
        "{log}"
    );
    assert_eq!(prefix.service("stop", "faulty"), 0);
    assert_eq!(state(prefix), "stopped");
    let folder = prefix.socket("faulty");
    let folder = folder.parent().unwrap();
    assert_eq!(
        std::fs::read_dir(folder).unwrap().count(),
        0,
        "nothing is left"
    );
    assert_eq!(prefix.service("start", "faulty"), 0);
    assert_eq!(state(prefix), "running");
    // Its process is killed.
    kill_process(micro_vm(prefix, "faulty"), Signal::KILL).unwrap();
    wait_for_crash(prefix, "killed by a signal");
    assert_eq!(prefix.service("stop", "faulty"), 0);
    assert_eq!(prefix.service("start", "faulty"), 0);
    // Wine's process is killed, which can say nothing more.
    kill_process(wine_process(prefix, "faulty"), Signal::KILL).unwrap();
    prefix.wait_for(|| state(prefix) == "stopped");
    assert!(folder.join("faulty.state").exists());
    prefix.keep_session();
    assert_eq!(state(prefix), "stopped");
    assert_eq!(prefix.service("start", "faulty"), 0, "{}", prefix.log());
    assert_eq!(state(prefix), "running");
}

fn driver_that_hangs_is_crashed(prefix: &Prefix) {
    prefix.install("faulty", &[]);
    prefix.keep_session();
    assert_eq!(prefix.service("start", "faulty"), 0);

    let text = prefix.run("options", &["hang"]);

    // ERROR_SEM_TIMEOUT.
    assert_eq!(text.trim(), "hanging request: error 121");
    wait_for_crash(prefix, "faulty.sys hung");
    let log = prefix.log();
    assert!(
        log.contains("the driver has hung; the report is above"),
        "{log}"
    );
}

fn intercepted_drivers_are_listed(prefix: &Prefix) {
    let ended = prefix.ringfence(&["wine", "intercept", "on"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    prefix.keep_session();
    let driver = prefix.sample("echo");
    let image = format!("Z:{}", driver.display()).replace('/', "\\");
    // As a program does that brings its driver.
    let created = prefix.wine(&["sc", "create", "own", "binPath=", &image, "type=", "kernel"]);
    assert_eq!(created.code, Some(0), "{created:?}");
    let intercepted = || -> Vec<Value> {
        let mut objects = listed(prefix);
        objects.retain(|object| object.get("intercepted").is_some());
        objects
    };
    assert!(intercepted().is_empty());

    let started = prefix.service("start", "own");

    assert_eq!(started, 0, "{}", prefix.log());
    let found = intercepted();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["intercepted"], "own");
    assert_eq!(found[0]["state"], "running");
    assert!(found[0].get("name").is_none());
    let path = std::fs::canonicalize(found[0]["driver"].as_str().unwrap()).unwrap();
    assert_eq!(path, driver.canonicalize().unwrap());
    let text = prefix.ringfence(&["wine", "list"]).stdout;
    assert!(text.contains("intercepted own: running"), "{text}");
    assert_eq!(prefix.service("stop", "own"), 0);
    assert!(intercepted().is_empty());
    // As with an installed one, nothing is believed of a process that has ended.
    assert_eq!(prefix.service("start", "own"), 0, "{}", prefix.log());
    kill_process(micro_vm(prefix, "own"), Signal::KILL).unwrap();
    prefix.wait_for(|| {
        intercepted()
            .first()
            .is_some_and(|own| own["state"] == "crashed")
    });
    prefix.end_session();
    std::thread::sleep(Duration::from_millis(100));
    assert!(intercepted().is_empty());
    prefix.keep_session();
    prefix.delete_service("own");
}
