//! A driver that hangs is in nobody's way but its own programs': wine/tests/hang.c. The order of what happens says so: the
//! hang is found out after 10 s, and until then what waits for the driver is under way.

use super::harness::Prefix;
use super::running::Steps;

prefix_tests!(
    what_waits_for_it_can_be_cancelled,
    its_service_can_be_stopped,
    ; everywhere:
    other_drivers_answer_meanwhile,
);

/// Programs that are ready to go on, the first of which has its driver hang.
fn programs<const COUNT: usize>(prefix: &Prefix, roles: [&str; COUNT]) -> [Steps; COUNT] {
    prefix.install("faulty", &[]);
    prefix.install("echo", &[]);
    prefix.keep_session();
    assert_eq!(prefix.service("start", "faulty"), 0);
    assert_eq!(prefix.service("start", "echo"), 0);
    roles.map(|role| {
        let program = Steps::start(prefix.command("hang", &[role]));
        assert_eq!(program.line(), "ready", "{role}: {}", prefix.log());
        program
    })
}

/// Lets a program go on, to a line of its.
#[track_caller]
fn go_on(program: &mut Steps, line: &str) {
    program.go_on();
    assert_eq!(program.line(), line);
}

fn other_drivers_answer_meanwhile(prefix: &Prefix) {
    let [mut hang, mut late, mut early, mut one, mut another] =
        programs(prefix, ["hang", "late", "early", "other", "other"]);

    go_on(&mut hang, "sent");
    go_on(&mut early, "sent");
    go_on(&mut one, "answered");
    go_on(&mut late, "sent");
    go_on(&mut another, "answered");

    for program in [&mut hang, &mut early, &mut late] {
        go_on(program, "under way");
    }
    // ERROR_SEM_TIMEOUT.
    for program in [&hang, &early, &late] {
        assert_eq!(program.line(), "ended: error 121");
    }
    assert_eq!(hang.line(), "next: error 121");
}

fn what_waits_for_it_can_be_cancelled(prefix: &Prefix) {
    let [mut hang, mut cancel] = programs(prefix, ["hang", "cancel"]);

    go_on(&mut hang, "sent");
    go_on(&mut cancel, "cancelled");

    go_on(&mut hang, "under way");
}

fn its_service_can_be_stopped(prefix: &Prefix) {
    let [mut hang, mut late, early, mut stop] = programs(prefix, ["hang", "late", "early", "stop"]);
    go_on(&mut hang, "sent");
    go_on(&mut late, "sent");
    // Its guest process is to end too.
    drop(early);

    go_on(&mut stop, "stopped");

    // ERROR_DEVICE_REMOVED.
    go_on(&mut late, "over");
    assert_eq!(late.line(), "ended: error 1617");
    go_on(&mut hang, "over");
    assert_eq!(hang.line(), "ended: error 1617");
    // ERROR_ACCESS_DENIED: its device is deleted.
    assert_eq!(hang.line(), "next: error 5");
    assert_eq!(prefix.service("start", "faulty"), 0);
    let mut again = Steps::start(prefix.command("hang", &["early"]));
    assert_eq!(again.line(), "ready");
    go_on(&mut again, "sent");
    again.go_on();
    // It has ended, or is about to.
    let _ = again.line();
    assert_eq!(again.line(), "ended: error 0");
}
