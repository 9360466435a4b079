//! What a run tells while it goes on: its log, which floods do not fill, and its trace.

use super::devices::lpt;
use super::*;

/// What a flood may take in the lane's emulator beside other tests: thousands of exits.
const FLOOD_SECONDS: &str = "120";

#[test]
fn flood_of_prints_is_bounded_in_the_log() {
    if !has_kvm() {
        return;
    }

    let ended = run(&[
        "run",
        &driver("faulty"),
        "--timeout",
        FLOOD_SECONDS,
        "-c",
        r"open \\.\faulty",
        "-c",
        "ioctl 0x222038 u32:0,u32:3000",
    ]);

    ended.assert_code(0);
    let lines = ended.stderr.lines().count();
    assert!(ended.stderr.contains("of a flood"), "{}", ended.stderr);
    assert!(lines < 2900, "{lines} lines of log");
}

#[test]
fn flood_of_denied_ports_is_bounded_in_the_log() {
    if !has_kvm() {
        return;
    }

    let began = Instant::now();
    let ended = run(&[
        "run",
        &driver("faulty"),
        "--timeout",
        FLOOD_SECONDS,
        "-c",
        r"open \\.\faulty",
        "-c",
        "ioctl 0x222034 u32:0x80,u32:3000",
        "-c",
        "stats",
    ]);

    ended.assert_code(0);
    // Ten in any one second (max-log-rate) and a count with each; the log of the start and the end.
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap() + 1;
    let lines = ended.stderr.lines().count();
    assert!(
        lines < 2 * 10 * (seconds + 1) + 50,
        "{lines} lines of log in {seconds} s"
    );
    assert!(ended.stdout.contains(" 3000"), "{}", ended.stdout);
}

#[test]
fn trace_has_calls_and_ports_in_order() {
    if !has_kvm() {
        return;
    }
    let (folder, policy, _printed) = lpt();
    let trace = folder.path().join("trace");

    let ended = run(&[
        "run",
        &driver("portio"),
        "--policy",
        text(&policy),
        "--trace",
        text(&trace),
        "-c",
        r"open \\.\portio",
        "-c",
        "ioctl 0x222004 u32:0x378,u32:1,u32:0x41",
        "-c",
        "ioctl 0x222000 u32:0x379,u32:1 4",
    ]);

    ended.assert_code(0);
    let trace = std::fs::read_to_string(trace).unwrap();
    let mut rest = trace.as_str();
    for step in [
        "DriverEntry",
        "IoCreateDevice(",
        "IRP_MJ_CREATE",
        "IRP_MJ_DEVICE_CONTROL",
        "HalTranslateBusAddress(",
        "port write u8 0x378",
        "IofCompleteRequest(",
        "IRP_MJ_DEVICE_CONTROL",
        "port read u8 0x379",
        "IofCompleteRequest(",
    ] {
        let at = rest.find(step);
        rest = at.map_or_else(
            || panic!("no {step} where it should be in\n{trace}"),
            |at| &rest[at + step.len()..],
        );
    }
    assert!(trace.ends_with('\n'));
    // Time does not run backwards.
    let times: Vec<f64> = trace
        .lines()
        .map(|line| line[1..13].trim().parse().unwrap())
        .collect();
    assert!(times.is_sorted(), "{trace}");
}

#[test]
fn trace_with_json_is_objects() {
    if !has_kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");

    let ended = run(&[
        "run",
        &driver("ioperm"),
        "--json",
        "--trace",
        text(&trace),
        "-c",
        r"open \\.\ioperm",
        "-c",
        "inb 0x379",
    ]);

    ended.assert_code(0);
    assert!(ended.objects().iter().all(Value::is_object));
    let lines = std::fs::read_to_string(trace).unwrap();
    assert!(lines.lines().count() > 10);
    for line in lines.lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}");
    }
}
