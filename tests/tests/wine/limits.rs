//! What docs/wine.md says of limits, of names and processes, and of programs that end: limits.c, processes.c and overlapped.c
//! of wine/tests.

use rustix::process::Signal;

use super::harness::{Prefix, run_to_end};
use super::ports::RAM;
use super::running::Steps;

prefix_tests!(
    more_requests_than_fit_wait_and_are_cancelled,
    requests_that_wait_for_room_are_answered,
    what_is_too_much_is_refused,
    driver_finds_processes_by_their_ids,
    handle_of_another_process_ends_with_its_opener,
    program_ends_with_wine_run_that_is_killed,
    children_of_a_killed_program_go_on,
    completions_are_told_by_every_way,
    policy_names_files_in_its_own_folder,
    ; everywhere:
    device_name_that_is_taken_is_the_first_drivers,
);

fn assert_echo_works(prefix: &Prefix) {
    let text = prefix.run("echo", &["methods", "overlapped"]);
    assert!(text.contains("methods: as it should be"), "{text}");
    assert!(text.contains("overlapped: as it should be"), "{text}");
}

fn more_requests_than_fit_wait_and_are_cancelled(prefix: &Prefix) {
    prefix.start_echo();
    let mut program = Steps::start(prefix.command("limits", &["many"]));
    for _ in 0..2 {
        assert_eq!(program.line(), "pending", "{}", prefix.log());

        // Another program's requests have room.
        assert_echo_works(prefix);

        program.go_on();
        assert_eq!(program.line(), "cancelled");
        program.go_on();
    }
    assert_eq!(program.line(), "pending");
    assert_echo_works(prefix);
    program.go_on();
    assert_eq!(program.line(), "closed");
    assert_eq!(program.line(), "many: as it should be");
    prefix.wait_for_processes("echo", 0);
    assert_echo_works(prefix);
}

fn requests_that_wait_for_room_are_answered(prefix: &Prefix) {
    prefix.start_echo();

    let program = Steps::start(prefix.command("limits", &["many-answered"]));
    assert_eq!(program.line(), "pending", "{}", prefix.log());

    let text = prefix.run("limits", &["release-many"]);

    assert_eq!(program.line(), "many-answered: as it should be");
    // So many of a program were under way.
    let first = text.lines().find_map(|line| line.strip_prefix("at first "));
    let first: u32 = first.unwrap().parse().unwrap();
    assert!((880..900).contains(&first), "{first}");
}

fn what_is_too_much_is_refused(prefix: &Prefix) {
    prefix.start_echo();

    let text = prefix.run("limits", &["sizes", "handles"]);

    assert!(text.contains("sizes: as it should be"), "{text}");
    let count = text.lines().find_map(|line| line.strip_prefix("handles: "));
    let count: u32 = count.unwrap().parse().unwrap();
    assert!((1500..3000).contains(&count), "{count}");
    assert_echo_works(prefix);
}

fn device_name_that_is_taken_is_the_first_drivers(prefix: &Prefix) {
    prefix.install("echo", &[]);
    prefix.install("echo", &["--name", "second"]);
    prefix.keep_session();
    assert_eq!(prefix.service("start", "echo"), 0, "{}", prefix.log());

    for _ in 0..2 {
        // ERROR_ALREADY_EXISTS.
        assert_eq!(prefix.service("start", "second"), 183, "{}", prefix.log());

        assert!(!prefix.socket("second").exists(), "the micro-VM has ended");
        // By all its names.
        let text = prefix.run("echo", &["try-open", "transfers", "methods"]);
        assert!(text.contains("open: ok"), "{text}");
        assert!(text.contains("transfers: as it should be"), "{text}");
    }
    let log = prefix.log();
    assert!(
        log.contains(r"\Device\echo cannot be made in Wine's namespace"),
        "{log}"
    );
    assert_eq!(prefix.service("stop", "echo"), 0);
    assert_eq!(prefix.service("start", "second"), 0, "{}", prefix.log());
    assert!(prefix.run("echo", &["try-open"]).contains("open: ok"));
    assert_eq!(prefix.service("start", "echo"), 183);
    assert_eq!(prefix.service("stop", "second"), 0);
    assert!(prefix.run("echo", &["try-open"]).contains("open: error 2"));
}

/// Under `ringfence wine run`, whose requests go directly, or not.
fn run(prefix: &Prefix, program: &str, scenario: &str, is_direct: bool) {
    let mut command = prefix.ringfence_run(program, &[scenario]);
    if !is_direct {
        command.env("RINGFENCE_DIRECT", "0");
    }
    let ended = run_to_end(&mut command, program);
    assert_eq!(ended.code, Some(0), "{ended:?}\n{}", prefix.log());
    let line = format!("{scenario}: as it should be");
    assert!(ended.stdout.contains(&line), "{ended:?}");
}

fn driver_finds_processes_by_their_ids(prefix: &Prefix) {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    std::fs::write(&policy, RAM).unwrap();
    prefix.install("ioperm", &["--policy", policy.to_str().unwrap()]);
    prefix.keep_session();
    assert_eq!(prefix.service("start", "ioperm"), 0, "{}", prefix.log());
    for is_direct in [true, false] {
        for scenario in ["own-id", "child-id", "grant-by-heir"] {
            run(prefix, "processes", scenario, is_direct);
        }
    }
}

fn handle_of_another_process_ends_with_its_opener(prefix: &Prefix) {
    prefix.start_echo();
    for scenario in ["leave-inherited", "leave-duplicated"] {
        for command in [
            prefix.command("processes", &[scenario]),
            prefix.ringfence_run("processes", &[scenario]),
        ] {
            let program = Steps::start(command);
            assert_eq!(program.line(), "works", "{}", prefix.log());
            assert_eq!(program.line(), format!("{scenario}: as it should be"));
            // ERROR_OPERATION_ABORTED, ERROR_INVALID_PARAMETER.
            assert_eq!(program.line(), "waited: error 995");
            assert_eq!(program.line(), "after: error 87");
            assert_eq!(program.line(), "opens");
            prefix.wait_for_processes("echo", 0);
        }
    }
}

fn program_ends_with_wine_run_that_is_killed(prefix: &Prefix) {
    prefix.start_echo();
    for signal in [Signal::TERM, Signal::KILL] {
        // As a program does that Wine alone has started.
        for command in [
            prefix.ringfence_run("echo", &["hold"]),
            prefix.command("echo", &["hold"]),
        ] {
            let mut program = Steps::start(command);
            assert_eq!(program.line(), "holding", "{}", prefix.log());
            prefix.wait_for_processes("echo", 1);

            program.signal(signal);

            assert!(program.ends(), "{signal:?}");
            prefix.wait_for_processes("echo", 0);
            // Nothing waits any more that a release would find.
            let text = prefix.run("echo", &["cancel", "try-open"]);
            assert!(text.contains("cancel: as it should be"), "{text}");
            assert!(text.contains("open: ok"), "{text}");
        }
    }
}

fn children_of_a_killed_program_go_on(prefix: &Prefix) {
    prefix.start_echo();
    let child = prefix.windows_path("echo");
    for command in [
        prefix.ringfence_run("ports", &["start", &child, "hold"]),
        prefix.command("ports", &["start", &child, "hold"]),
    ] {
        let mut program = Steps::start(command);
        assert_eq!(program.line(), "holding", "{}", prefix.log());

        program.signal(Signal::TERM);

        assert!(program.ends());
        assert_eq!(prefix.service("stop", "echo"), 0);
        // ERROR_DEVICE_REMOVED: it has waited until then.
        assert_eq!(program.line(), "ended: error 1617");
        assert_eq!(program.line(), "hold: as it should be");
        assert_eq!(prefix.service("start", "echo"), 0);
    }
}

fn completions_are_told_by_every_way(prefix: &Prefix) {
    prefix.start_echo();
    for scenario in ["results", "completion-port", "routines", "waiting"] {
        let text = prefix.run("overlapped", &[scenario]);
        assert!(text.contains("as it should be"), "{text}");
        run(prefix, "overlapped", scenario, true);
    }
}

fn policy_names_files_in_its_own_folder(prefix: &Prefix) {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    let rule = r#"
[[port]]
range = "0x378-0x37a"
access = "rw"
backend = "lpt"
output = "printed"
"#;
    std::fs::write(&policy, rule).unwrap();
    // Also where a link leads to it.
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("policy.toml");
    std::os::unix::fs::symlink(&policy, &link).unwrap();
    prefix.install("echo", &["--policy", policy.to_str().unwrap()]);
    let options = ["--name", "linked", "--policy", link.to_str().unwrap()];
    prefix.install("echo", &options);
    prefix.keep_session();
    let printed = folder.path().join("printed");
    for name in ["echo", "linked"] {
        assert_eq!(prefix.service("start", name), 0, "{}", prefix.log());

        std::fs::remove_file(&printed).unwrap();

        assert_eq!(prefix.service("stop", name), 0);
    }
}
