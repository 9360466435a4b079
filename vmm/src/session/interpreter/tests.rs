//! What commands come to.

use super::*;
use crate::session::driver::RunningMachine;
use crate::session::fake::{Fake, FakeMachine};

fn run(lines: &[&str]) -> Vec<Outcome> {
    let machine = FakeMachine::default();
    let mut interpreter = Interpreter::new(machine.connect().unwrap());
    lines
        .iter()
        .map(|line| interpreter.execute_line(line))
        .collect()
}

fn texts(lines: &[&str]) -> Vec<String> {
    run(lines).into_iter().map(|outcome| outcome.text).collect()
}

#[test]
fn session_reads_as_a_transcript() {
    assert_eq!(
        texts(&[
            "! outb 0x378 0x41",
            r"open \\.\fake",
            "outb 0x378 0x41",
            "inb 0x378",
            "ioctl 0x222004 0102 8",
            "write \"abc\"",
            "read 3",
            "close",
            "read 3",
            "unload",
        ]),
        [
            "! outb 0x378 0x41: STATUS_PRIVILEGED_INSTRUCTION (0xc0000096): the process may not do this; for a port access, its I/O permission map denies the port; as expected",
            r"open \\.\fake: STATUS_SUCCESS, handle 0x4",
            "outb 0x378 0x41: STATUS_SUCCESS",
            "inb 0x378: 0x41",
            "ioctl 0x00222004: STATUS_SUCCESS, 2 bytes: 01 02",
            "write 616263: STATUS_SUCCESS, 3 bytes",
            "read 3: STATUS_SUCCESS, 3 bytes: 00 00 00",
            "close: STATUS_SUCCESS",
            "read 3: STATUS_INVALID_HANDLE (0xc0000008): the handle is not open",
            "unload: STATUS_SUCCESS, 2 leaks",
        ]
    );
}

#[test]
fn failure_of_the_driver_fails_the_command() {
    let outcomes = run(&[r"open \\.\fake", "ioctl 0x9 - 4", "! ioctl 0x9", "! inb 1"]);
    assert_eq!(outcomes[1].exit, ExitCode::CommandFailed);
    assert!(
        outcomes[1]
            .text
            .starts_with("ioctl 0x00000009: STATUS_INVALID_DEVICE_REQUEST (0xc0000010): ")
    );
    assert!(outcomes[2].is_success());
    assert_eq!(outcomes[3].exit, ExitCode::CommandFailed);
    assert_eq!(outcomes[3].text, "! inb 0x1: 0x00; it was expected to fail");
}

#[test]
fn devices_are_listed_stepped_and_powered() {
    let outcomes = run(&[
        "pnp list",
        "pnp stop",
        "pnp stop fake.sys",
        "power D3",
        "power S0",
        "pnp start nobody",
    ]);
    assert!(
        outcomes[0]
            .text
            .starts_with("pnp list: 1 device\n  ROOT\\FAKE\\0000 (driver fake): started, D0\n"),
        "{}",
        outcomes[0].text
    );
    assert_eq!(outcomes[0].object()["devices"][0]["service"], "fake");
    assert_eq!(
        outcomes[1].text,
        r"pnp stop: STATUS_SUCCESS, ROOT\FAKE\0000 is stopped"
    );
    assert_eq!(outcomes[1].object()["state"], "stopped");
    assert_eq!(outcomes[2].exit, ExitCode::CommandFailed);
    assert_eq!(
        outcomes[2].object()["status"],
        "STATUS_INVALID_DEVICE_STATE"
    );
    assert_eq!(outcomes[3].object()["power"], "D3");
    assert_eq!(outcomes[4].object()["power"], "S0");
    assert!(
        outcomes[5].text.ends_with(
            r"STATUS_NO_SUCH_DEVICE: no device is called nobody; there is ROOT\FAKE\0000"
        )
    );
}

#[test]
fn device_models_are_listed_and_set() {
    let outcomes = run(&[
        "device joystick buttons=3 axis1=7",
        "device",
        "device 0x201 axis9=1",
        "device 513 buttons=99",
        "device 0x300 a=1",
        "device mouse",
        "! device joystick x=1",
    ]);
    assert_eq!(
        outcomes[0].text,
        "device joystick buttons=3 axis1=7: STATUS_SUCCESS"
    );
    assert_eq!(
        outcomes[1].text,
        "device: 2 device models\n  joystick (0x201): gameport\n    axis0=0  (a number from 0 to 255)\n    \
         axis1=7  (a number from 0 to 255)\n    axis2=0  (a number from 0 to 255)\n    \
         axis3=0  (a number from 0 to 255)\n    buttons=3  (a number from 0 to 15: a bit for each that is pressed)\n  \
         0x300: ram (8 registers)"
    );
    let models = &outcomes[1].object()["models"];
    assert_eq!(models[0]["inputs"][1]["value"], "7");
    assert_eq!(outcomes[2].exit, ExitCode::CommandFailed);
    assert!(outcomes[2].text.ends_with(
        "STATUS_INVALID_PARAMETER: axis9=1: joystick (0x201) has axis0, axis1, axis2, axis3, buttons"
    ), "{}", outcomes[2].text);
    assert!(
        outcomes[3].text.ends_with(
            "buttons=99: buttons is a number from 0 to 15: a bit for each that is pressed"
        )
    );
    assert!(
        outcomes[4]
            .text
            .ends_with("a=1: nothing of 0x300 can be set")
    );
    assert!(outcomes[5].text.ends_with(
        "STATUS_NO_SUCH_DEVICE: no device model is called mouse; there is joystick (0x201), 0x300"
    ));
    assert!(outcomes[6].is_success());
}

#[test]
fn crash_is_never_expected() {
    let outcomes = run(&[r"open \\.\fake", "! ioctl 0xdead"]);
    assert_eq!(outcomes[1].exit, ExitCode::DriverCrashed);
    assert!(outcomes[1].is_over);
    assert!(
        outcomes[1]
            .text
            .contains("bugcheck 0xd1 DRIVER_IRQL_NOT_LESS_OR_EQUAL"),
        "{}",
        outcomes[1].text
    );
    assert_eq!(outcomes[1].object()["crash"]["cause"]["code"], "0xd1");
}

#[test]
fn objects_have_everything() {
    let outcomes = run(&[r"open \\.\fake", "ioctl 0x222004 7f 4", "frob"]);
    assert_eq!(
        Value::Object(outcomes[1].object()),
        json!({
            "ok": true, "exit_code": 0, "command": "ioctl", "line": "ioctl 0x00222004",
            "status": "STATUS_SUCCESS", "status_code": "0x00000000", "meaning": "success",
            "information": 1, "output": "7f", "elapsed_us": 3,
        })
    );
    assert_eq!(outcomes[2].object()["exit_code"], 2);
    assert_eq!(outcomes[2].object()["column"], 1);
}

#[test]
fn information_beyond_the_buffer_and_long_output_are_shown() {
    let result = |information, output: &[u8]| IoResult {
        status: NtStatus::SUCCESS,
        information,
        output: output.to_vec(),
        elapsed: Fake::ELAPSED,
    };
    assert_eq!(
        transferred(&result(10, &[]), true).text,
        "STATUS_SUCCESS, 0 bytes (Information 10)"
    );
    assert!(
        transferred(&result(40, &[0x41; 40]), true)
            .text
            .starts_with("STATUS_SUCCESS, 40 bytes:\n  0000  41 41")
    );
}
