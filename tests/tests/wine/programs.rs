//! Programs and a driver that `ringfence wine install` has installed.

use integration_tests::program::{Running, command};

use crate::harness::{Prefix, Width, root};
use crate::running::Steps;

prefix_tests!(
    killed_programs_leave_nothing,
    service_that_cannot_start_says_why,
    two_services_run_at_once,
    names_follow_the_driver,
    driver_of_the_other_width_works,
    served_socket_is_used_and_left_alone,
    ; everywhere:
    programs_reach_the_driver_by_every_way,
    service_stops_under_a_program,
    crash_ends_requests_and_restart_heals,
    handle_outlives_its_driver,
);

fn programs_reach_the_driver_by_every_way(prefix: &Prefix) {
    prefix.install("echo", &[]);
    prefix.keep_session();
    assert_eq!(prefix.service("start", "echo"), 0);
    let scenarios = [
        "methods",
        "transfers",
        "overlapped",
        "cancel",
        "close-pending",
    ];

    let text = prefix.run("echo", &scenarios);

    for scenario in scenarios {
        let line = format!("{scenario}: as it should be");
        assert!(text.lines().any(|found| found == line), "{text}");
    }
    prefix.wait_for_processes("echo", 0);
}

fn service_stops_under_a_program(prefix: &Prefix) {
    prefix.install("echo", &[]);
    prefix.keep_session();
    assert_eq!(prefix.service("start", "echo"), 0);
    let mut holder = prefix.start("echo", &["hold"]);
    assert_eq!(holder.line(), "holding");

    assert_eq!(prefix.service("stop", "echo"), 0);

    // ERROR_DEVICE_REMOVED.
    assert_eq!(holder.line(), "ended: error 1617");
    holder.finish();
    // ERROR_FILE_NOT_FOUND.
    assert!(prefix.run("echo", &["try-open"]).contains("open: error 2"));
    assert!(!prefix.socket("echo").exists(), "the micro-VM has ended");
    assert_eq!(prefix.service("start", "echo"), 0);
    assert!(prefix.run("echo", &["try-open"]).contains("open: ok"));
}

fn killed_programs_leave_nothing(prefix: &Prefix) {
    prefix.install("echo", &[]);
    prefix.keep_session();
    assert_eq!(prefix.service("start", "echo"), 0);
    let mut first = prefix.start("echo", &["hold"]);
    let mut second = prefix.start("echo", &["hold"]);
    assert_eq!(first.line(), "holding");
    assert_eq!(second.line(), "holding");
    prefix.wait_for_processes("echo", 2);

    first.kill();

    prefix.wait_for_processes("echo", 1);
    second.kill();
    prefix.wait_for_processes("echo", 0);
    // Nothing waits any more that a release would find.
    let text = prefix.run("echo", &["cancel", "try-open"]);
    assert!(text.contains("cancel: as it should be"), "{text}");
    assert!(text.contains("open: ok"), "{text}");
}

fn crash_ends_requests_and_restart_heals(prefix: &Prefix) {
    prefix.install("faulty", &[]);
    prefix.keep_session();
    assert_eq!(prefix.service("start", "faulty"), 0);

    let text = prefix.run("faulty", &[]);

    // ERROR_DRIVER_PROCESS_TERMINATED.
    assert!(text.contains("pending requests: all ended"), "{text}");
    assert!(text.contains("crashing request: error 1291"), "{text}");
    assert!(text.contains("next request: error 1291"), "{text}");
    // There is nothing to open until the service is started again.
    let again = prefix.run_in(prefix.path(), "faulty", &[]);
    assert_eq!(again.code, Some(1), "{again:?}");
    assert!(again.stdout.contains("last error 2"), "{again:?}");
    let log = prefix.log();
    assert!(log.contains("the micro-VM has ended"), "{log}");
    assert!(
        log.contains("KERNEL_MODE_EXCEPTION_NOT_HANDLED")
            || log.contains("SYSTEM_SERVICE_EXCEPTION"),
        "{log}"
    );
    assert_eq!(prefix.service("stop", "faulty"), 0);
    assert_eq!(prefix.service("start", "faulty"), 0);
    let text = prefix.run("faulty", &[]);
    assert!(text.contains("pending requests: all ended"), "{text}");
}

fn handle_outlives_its_driver(prefix: &Prefix) {
    prefix.install("faulty", &[]);
    prefix.keep_session();
    assert_eq!(prefix.service("start", "faulty"), 0);
    let mut program = Steps::start(prefix.command("faulty", &["hold"]));
    // ERROR_DRIVER_PROCESS_TERMINATED.
    assert_eq!(program.line(), "pending requests: all ended");
    assert_eq!(program.line(), "crashing request: error 1291");
    assert_eq!(program.line(), "next request: error 1291");

    assert_eq!(prefix.service("stop", "faulty"), 0);
    assert_eq!(prefix.service("start", "faulty"), 0);

    program.go_on();
    // ERROR_ACCESS_DENIED: its device is deleted.
    assert_eq!(program.line(), "handle from before: error 5");
    assert_eq!(program.line(), "as it should be");
}

fn service_that_cannot_start_says_why(prefix: &Prefix) {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    std::fs::write(&policy, "").unwrap();
    prefix.install("echo", &["--policy", policy.to_str().unwrap()]);
    prefix.keep_session();
    std::fs::remove_file(&policy).unwrap();

    // ERROR_INVALID_PARAMETER.
    assert_eq!(prefix.service("start", "echo"), 87);

    let log = prefix.log();
    assert!(log.contains("cannot read the policy"), "{log}");
    // A file that is no driver any more: ERROR_BAD_EXE_FORMAT.
    std::fs::write(&policy, "").unwrap();
    let driver = prefix.ringfence_folder().join("drivers/echo.sys");
    let image = std::fs::read(&driver).unwrap();
    std::fs::write(&driver, "MZ").unwrap();
    assert_eq!(prefix.service("start", "echo"), 193);
    // Nothing of that is in the way of the next start.
    std::fs::write(&driver, image).unwrap();
    assert_eq!(prefix.service("start", "echo"), 0);
    assert!(prefix.run("echo", &["try-open"]).contains("open: ok"));
}

fn two_services_run_at_once(prefix: &Prefix) {
    prefix.install("echo", &[]);
    prefix.install("faulty", &[]);
    prefix.keep_session();
    assert_eq!(prefix.service("start", "echo"), 0);
    assert_eq!(prefix.service("start", "faulty"), 0);

    // One crashes.
    prefix.run("faulty", &[]);

    let text = prefix.run("echo", &["methods"]);
    assert!(text.contains("methods: as it should be"), "{text}");
    let listed = prefix.ringfence(&["wine", "list", "--json"]);
    let states: Vec<(String, bool)> = listed
        .objects()
        .iter()
        .filter_map(|object| {
            Some((
                object["name"].as_str()?.to_owned(),
                object["running"].as_bool()?,
            ))
        })
        .collect();
    assert_eq!(
        states,
        [("echo".to_owned(), true), ("faulty".to_owned(), false)]
    );
}

fn names_follow_the_driver(prefix: &Prefix) {
    prefix.install("echo", &[]);
    prefix.keep_session();
    assert_eq!(prefix.service("start", "echo"), 0);
    assert!(prefix.run("echo", &["try-open"]).contains("open: ok"));
    let socket = prefix.socket("echo");

    // The driver deletes its devices and links, of which Wine is told nothing but by the channel.
    let ended = prefix.ringfence(&["ctl", socket.to_str().unwrap(), "unload"]);

    assert_eq!(ended.code, Some(0), "{ended:?}");
    prefix.wait_for(|| prefix.run("echo", &["try-open"]).contains("open: error 2"));
    // The micro-VM is there, and so is the service.
    assert_eq!(prefix.run("service", &["state", "echo"]).trim(), "state 4");
    assert_eq!(prefix.service("stop", "echo"), 0);
}

fn served_socket_is_used_and_left_alone(prefix: &Prefix) {
    prefix.install("echo", &[]);
    prefix.keep_session();
    let socket = prefix.socket("echo");
    std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
    let driver = prefix.sample("echo");
    let arguments = [
        "run",
        driver.to_str().unwrap(),
        "--socket",
        socket.to_str().unwrap(),
    ];
    let mut running = Running::start(&mut command(&arguments));
    running.wait_for_socket(&socket);

    assert_eq!(prefix.service("start", "echo"), 0);

    assert!(prefix.run("echo", &["try-open"]).contains("open: ok"));
    assert_eq!(prefix.service("stop", "echo"), 0);
    let asked = prefix.ringfence(&["ctl", socket.to_str().unwrap(), "stats"]);
    assert_eq!(asked.code, Some(0), "{asked:?}");
    running.signal("TERM");
    running.wait().assert_code(0);
}

fn driver_of_the_other_width_works(prefix: &Prefix) {
    let abi = match prefix.width() {
        Width::Bits32 => "amd64",
        Width::Bits64 => "i386",
    };
    let driver = root().join(format!("images/drivers/{abi}/echo.sys"));
    let ended = prefix.ringfence(&["wine", "install", driver.to_str().unwrap()]);
    assert_eq!(ended.code, Some(0), "{ended:?}");

    prefix.end_session();
    let text = prefix.run("echo", &["try-open", "overlapped", "cancel"]);

    assert!(text.contains("open: ok"), "{text}");
}
