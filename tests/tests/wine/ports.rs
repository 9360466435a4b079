//! Programs' in and out: wine/tests/ports.c under `ringfence wine run`.

use integration_tests::program::Ended;

use super::harness::{Prefix, Release, Width, Wine, run_to_end};
use super::running::{Access, Driver, Steps};

/// What the checks of ports.c expect: registers that keep what is written.
pub(crate) const RAM: &str = "\
[[port]]
range = \"0x300-0x36f\"
access = \"rw\"
backend = \"ram\"

[[port]]
range = \"0x80-0x83\"
access = \"rw\"
backend = \"ram\"
";

prefix_tests!(
    program_that_nobody_granted_a_port_sees_what_windows_shows,
    memory_faults_are_the_programs,
    single_steps_over_an_access,
    threads_at_once,
    registers_survive_a_jump_that_is_undone,
    before_and_after_the_grant,
    grants_of_several_drivers_add_up,
    one_process_is_granted_and_another_is_not,
    bytes_arrive_at_the_parallel_port,
    driver_that_stops_takes_its_ports_along,
    exit_code_is_the_programs,
    ; everywhere:
    every_form_and_width,
    code_that_is_loaded_again,
    threads_that_are_ended_in_an_access,
    program_that_opens_its_driver_has_its_ports,
    children_have_ports_too,
    child_of_a_program_that_ends_at_once_has_ports,
    children_of_the_other_width_have_ports_too,
);

/// `ringfence wine run` with ports.exe and the micro-VM that it may use.
fn command(prefix: &Prefix, arguments: &[&str], access: Option<&Access>) -> std::process::Command {
    let mut command = prefix.ringfence_run("ports", arguments);
    if let Some(access) = access {
        command.env("RINGFENCE_PORTS", access.variable());
    }
    command
}

/// The same, to its end.
fn run(prefix: &Prefix, arguments: &[&str], access: Option<&Access>) -> Ended {
    run_to_end(
        &mut command(prefix, arguments, access),
        "ringfence wine run",
    )
}

/// A driver whose access to all ports the program has, and the run of one check.
fn check(prefix: &Prefix, what: &str) {
    let driver = Driver::start(RAM);
    let access = driver.access();
    access.open();
    let ended = run(prefix, &[what], Some(&access));
    ended.assert_code(0);
    assert_eq!(ended.stdout.trim(), format!("{what}: 0 failures"));
}

fn program_that_nobody_granted_a_port_sees_what_windows_shows(prefix: &Prefix) {
    // With a driver that grants nothing, and without any.
    let driver = Driver::start(RAM);
    let access = driver.access();
    for access in [Some(&access), None] {
        let ended = run(prefix, &["denied"], access);
        ended.assert_code(0);
        assert_eq!(ended.stdout.trim(), "denied: 0 failures");
        let ended = run(prefix, &["unhandled"], access);
        ended.assert_code(3);
        assert_eq!(ended.stdout.trim(), "unhandled c0000096");
    }
}

fn every_form_and_width(prefix: &Prefix) {
    check(prefix, "forms");
}

fn memory_faults_are_the_programs(prefix: &Prefix) {
    check(prefix, "faults");
}

fn single_steps_over_an_access(prefix: &Prefix) {
    check(prefix, "step");
}

fn threads_at_once(prefix: &Prefix) {
    check(prefix, "threads");
}

fn code_that_is_loaded_again(prefix: &Prefix) {
    check(prefix, "again");
}

fn threads_that_are_ended_in_an_access(prefix: &Prefix) {
    check(prefix, "ended");
}

fn registers_survive_a_jump_that_is_undone(prefix: &Prefix) {
    let driver = Driver::start(RAM);
    let access = driver.access();
    access.open();
    let mut program = Steps::start(command(prefix, &["undone"], Some(&access)));
    program.go_on();
    access.revoke();
    program.go_on();
    assert_eq!(program.line(), "undone: 0 failures");
}

fn program_that_opens_its_driver_has_its_ports(prefix: &Prefix) {
    // All of it: the service, the proxy driver's device, the micro-VM, the token.
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    std::fs::write(&policy, RAM).unwrap();
    prefix.install("ioperm", &["--policy", policy.to_str().unwrap()]);
    let ended = run(prefix, &["giveio"], None);
    ended.assert_code(0);
    let lines: Vec<&str> = ended.stdout.lines().map(str::trim).collect();
    assert_eq!(
        lines,
        [
            "exception c0000096",
            "opened",
            "value 00",
            "value 3c",
            "closed",
            "value 3c",
            "giveio: 0 failures"
        ],
        "{}",
        prefix.log()
    );
}

fn before_and_after_the_grant(prefix: &Prefix) {
    let driver = Driver::start(RAM);
    let access = driver.access();
    let mut program = Steps::start(command(prefix, &["try", "5"], Some(&access)));
    assert_eq!(program.line(), "exception c0000096");
    access.open();
    program.go_on();
    assert_eq!(program.line(), "value 00");
    access.revoke();
    program.go_on();
    assert_eq!(program.line(), "exception c0000096");
    // Of other ports.
    access.grant(0x301, 0x320);
    program.go_on();
    assert_eq!(program.line(), "exception c0000096");
    access.grant(0x300, 0x300);
    program.go_on();
    assert_eq!(program.line(), "value 00");
}

fn grants_of_several_drivers_add_up(prefix: &Prefix) {
    let of = |value: &str| {
        format!(
            "[[port]]\nrange = \"0x300\"\naccess = \"r\"\nbackend = \"ram\"\ninitial = [{value}]\n"
        )
    };
    let (one, two) = (Driver::start(&of("0x11")), Driver::start(&of("0x22")));
    let (first, second) = (one.access(), two.access());
    let mut command = command(prefix, &["try", "4"], None);
    command.env(
        "RINGFENCE_PORTS",
        format!("{};{}", first.variable(), second.variable()),
    );
    let mut program = Steps::start(command);
    assert_eq!(program.line(), "exception c0000096");
    second.open();
    program.go_on();
    assert_eq!(program.line(), "value 22");
    second.revoke();
    first.open();
    program.go_on();
    assert_eq!(program.line(), "value 11");
    first.revoke();
    program.go_on();
    assert_eq!(program.line(), "exception c0000096");
}

fn one_process_is_granted_and_another_is_not(prefix: &Prefix) {
    let driver = Driver::start(RAM);
    let (granted, other) = (driver.access(), driver.access());
    let mut two = Steps::start(command(prefix, &["try", "3"], Some(&other)));
    let mut one = Steps::start(command(prefix, &["try", "2"], Some(&granted)));
    assert_eq!(one.line(), "exception c0000096");
    assert_eq!(two.line(), "exception c0000096");
    granted.open();
    one.go_on();
    two.go_on();
    assert_eq!(one.line(), "value 00");
    assert_eq!(two.line(), "exception c0000096");
    run(prefix, &["write", "5a"], Some(&granted)).assert_code(0);
    other.open();
    two.go_on();
    // The ports are the machine's, the maps are the processes'.
    assert_eq!(two.line(), "value 5a");
}

/// A parallel port that is captured in `printed`.
const LPT: &str = "\
[[port]]
range = \"0x378-0x37a\"
access = \"rw\"
backend = \"lpt\"
output = \"printed\"
";

fn bytes_arrive_at_the_parallel_port(prefix: &Prefix) {
    let driver = Driver::start(LPT);
    let access = driver.access();
    access.open();
    run(prefix, &["print", "Hello, port"], Some(&access)).assert_code(0);
    // While the driver runs: whoever watches the output sees it.
    let printed = wait_for(&driver.folder().join("printed"), "Hello, port".len());
    assert_eq!(printed, "Hello, port");
}

/// The contents of a file once it has so many bytes.
fn wait_for(file: &std::path::Path, bytes: usize) -> String {
    let began = std::time::Instant::now();
    loop {
        let contents = std::fs::read_to_string(file).unwrap_or_default();
        if contents.len() >= bytes || began.elapsed() > integration_tests::patience() {
            return contents;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn children_have_ports_too(prefix: &Prefix) {
    let driver = Driver::start(RAM);
    let access = driver.access();
    access.open();
    let program = prefix.windows_path("ports");
    let ended = run(prefix, &["start", &program, "forms"], Some(&access));
    ended.assert_code(0);
    assert_eq!(ended.stdout.trim(), "forms: 0 failures");
}

fn child_of_a_program_that_ends_at_once_has_ports(prefix: &Prefix) {
    let driver = Driver::start(LPT);
    let access = driver.access();
    access.open();
    let program = prefix.windows_path("ports");

    let ended = run(
        prefix,
        &["leave", &program, "print", "An orphan"],
        Some(&access),
    );

    ended.assert_code(0);
    let printed = wait_for(&driver.folder().join("printed"), "An orphan".len());
    assert_eq!(printed, "An orphan");
}

fn children_of_the_other_width_have_ports_too(prefix: &Prefix) {
    let Some(other) = prefix.windows_path_of_other("ports") else {
        return;
    };
    let driver = Driver::start(RAM);
    let access = driver.access();
    access.open();
    let own = prefix.windows_path("ports");
    // The launcher is for 64 bits. So each program below is put into by one of its width, and by one of the other.
    for arguments in [
        vec!["start", &other, "forms"],
        vec!["start", &other, "start", &own, "forms"],
        vec!["start", &other, "start", &own, "start", &other, "forms"],
    ] {
        let ended = run(prefix, &arguments, Some(&access));
        ended.assert_code(0);
        assert_eq!(ended.stdout.trim(), "forms: 0 failures", "{arguments:?}");
    }
}

fn driver_that_stops_takes_its_ports_along(prefix: &Prefix) {
    let driver = Driver::start(RAM);
    let access = driver.access();
    access.open();
    let mut program = Steps::start(command(prefix, &["try", "3"], Some(&access)));
    assert_eq!(program.line(), "value 00");
    driver.stop();
    for _ in 0..2 {
        program.go_on();
        assert_eq!(program.line(), "exception c0000096");
    }
}

fn exit_code_is_the_programs(prefix: &Prefix) {
    run(prefix, &["exit", "42"], None).assert_code(42);
    run(prefix, &["exit", "0"], None).assert_code(0);
}

/// A DLL's address is another one after the last process that had it has ended, so this depends on what else a session's first
/// moments bring. Where an address of the launcher's got into the program, one start of three failed.
#[test]
fn first_program_of_a_session_starts_under_new_wow64() {
    let wine = Wine {
        release: Release::TrixieWow64,
        width: Width::Bits32,
    };
    let Some(prefix) = Prefix::take(wine) else {
        return;
    };
    for session in 0..10 {
        prefix.end_session();

        let ended = run(&prefix, &["exit", "42"], None);

        ended.assert_code(42);
        let is_loaded = !ended.stderr.contains("was not loaded");
        assert!(is_loaded, "session {session}: {}", ended.stderr);
    }
}
