//! Runs that fail: commands, crashes, time limits, violations, a closed stdout.

use super::*;

#[test]
fn failed_command_is_exit_code_1_and_ends_the_run() {
    if !has_kvm() {
        return;
    }

    let ended = run(&[
        "run",
        &driver("echo"),
        "-c",
        r"open \\.\nobody",
        "-c",
        "stats",
    ]);

    ended.assert_code(1);
    assert!(ended.stdout.contains("STATUS_OBJECT_NAME_NOT_FOUND"));
    assert!(!ended.stdout.contains("uptime"));
}

#[test]
fn crash_is_exit_code_4_and_an_object() {
    if !has_kvm() {
        return;
    }
    let arguments = [
        "run",
        &driver("faulty"),
        "-c",
        r"open \\.\faulty",
        "-c",
        "ioctl 0x222018",
    ];

    let for_people = run(&arguments);
    let for_machines = run(&[&arguments[..], &["--json"]].concat());

    for_people.assert_code(4);
    for part in [
        "0x44 MULTIPLE_IRP_COMPLETE_REQUESTS",
        "Registers:",
        "Stack:",
        "faulty.sys+0x",
        "Last API calls and port accesses:",
        "IofCompleteRequest(",
    ] {
        assert!(for_people.stdout.contains(part), "{part}: {for_people:#?}");
    }
    for_machines.assert_code(4);
    let objects = for_machines.objects();
    let last = objects.last().unwrap();
    assert_eq!(last["ok"], false);
    assert_eq!(last["exit_code"], 4);
    let crash = &last["crash"];
    assert_eq!(crash["cause"]["name"], "MULTIPLE_IRP_COMPLETE_REQUESTS");
    assert!(
        crash["stack"]
            .as_array()
            .is_some_and(|stack| !stack.is_empty())
    );
    assert!(crash["registers"]["rip"].is_string());
}

#[test]
fn hang_is_exit_code_6() {
    if !has_kvm() {
        return;
    }

    let ended = run(&[
        "run",
        &driver("faulty"),
        "--timeout",
        "2",
        "-c",
        r"open \\.\faulty",
        "-c",
        "ioctl 0x222010",
    ]);

    ended.assert_code(6);
    assert!(ended.stdout.contains("hung"), "{}", ended.stdout);
}

#[test]
fn closed_stdout_ends_the_run_quietly() {
    if !has_kvm() {
        return;
    }
    let mut child = command(&[
        "run",
        &driver("echo"),
        "-c",
        r"open \\.\echo",
        "-c",
        "stats",
        "-c",
        "stats",
    ])
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();

    drop(child.stdout.take());
    let ended = Ended::from(child.wait_with_output().unwrap());

    assert!(ended.code.is_some(), "a signal ended it");
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("roken pipe"), "{}", ended.stderr);
}

#[test]
fn verified_runs_stop_at_the_violation() {
    if !has_kvm() {
        return;
    }
    let driver = driver("faulty");
    let overrun = format!(
        "ioctl {:#x}",
        integration_tests::codes::faulty::POOL_OVERRUN
    );
    let stopped = |flags: &[&str]| {
        let mut arguments = vec!["run", &driver];
        arguments.extend_from_slice(flags);
        arguments.extend_from_slice(&["-c", "open \\\\.\\faulty", "-c", &overrun]);
        let ended = run(&arguments);
        ended.assert_code(4);
        format!("{}{}", ended.stdout, ended.stderr)
    };
    let verified = stopped(&["--verify"]);
    assert!(
        verified.contains("DRIVER_PAGE_FAULT_BEYOND_END_OF_ALLOCATION"),
        "{verified}"
    );
    assert!(
        verified.contains("allocated by faulty.sys+0x"),
        "{verified}"
    );
    for flags in [&["--no-verify"][..], &["--verify", "--no-verify"], &[]] {
        let plain = stopped(flags);
        assert!(plain.contains("BAD_POOL_HEADER"), "{flags:?}: {plain}");
    }
}
