//! Arguments, scripts, policies, and a machine without KVM.

use super::*;

#[track_caller]
fn assert_usage(arguments: &[&str], expected: &str) {
    let ended = run(arguments);
    ended.assert_code(2);
    assert_eq!(ended.stdout, "");
    assert!(ended.stderr.contains(expected), "{}", ended.stderr);
}

#[test]
fn wrong_arguments_are_exit_code_2_and_named() {
    let driver = &driver("echo");
    assert_usage(&["walk", driver], "walk");
    assert_usage(&["run"], "<DRIVER>");
    assert_usage(&["run", driver, "--polisy", "x"], "--polisy");
    assert_usage(&["run", driver, "--timeout", "soon"], "--timeout");
    assert_usage(&["run", driver, "--timeout", "0"], "timeout");
    assert_usage(&["run", driver, "--memory", "17"], "--memory");
    assert_usage(&["run", driver, "--privilege", "ring1"], "ring1");
    assert_usage(&["ctl", "/nowhere"], "<COMMAND>");
}

#[test]
fn help_succeeds() {
    for arguments in [&["--help"][..], &["run", "--help"], &["ctl", "--help"]] {
        let ended = run(arguments);
        ended.assert_code(0);
        assert!(ended.stdout.contains("Examples:") || ended.stdout.contains("First steps:"));
    }
}

#[test]
fn missing_files_are_named() {
    let driver = &driver("echo");
    assert_usage(&["run", "/nowhere/a.sys"], "/nowhere/a.sys");
    assert_usage(&["inspect", "/nowhere/a.sys"], "/nowhere/a.sys");
    assert_usage(&["run", driver, "--policy", "/nowhere/p"], "/nowhere/p");
    assert_usage(&["run", driver, "--script", "/nowhere/s"], "/nowhere/s");
    assert_usage(&["run", driver, "--trace", "/nowhere/t"], "/nowhere/t");
    assert_usage(&["run", driver, "--socket", "/nowhere/s"], "/nowhere/s");
    // A folder is no driver.
    let ended = run(&["run", "/"]);
    assert!(matches!(ended.code, Some(2 | 3)), "{ended:#?}");
}

#[test]
fn wrong_command_is_named_before_anything_starts() {
    let driver = &driver("echo");
    assert_usage(&["run", driver, "-c", "opne x"], "opne");
    assert_usage(
        &["run", driver, "-c", "open x", "-c", "inb 0x10000"],
        "0x10000",
    );
}

#[test]
fn wrong_script_line_has_its_number() {
    let (_folder, path) = file("steps", b"# steps\nopen \\\\.\\echo\n\nioctl\n");

    let ended = run(&["run", &driver("echo"), "--script", text(&path)]);

    ended.assert_code(2);
    let place = format!("{}:4: ", path.display());
    assert!(ended.stderr.contains(&place), "{}", ended.stderr);
}

#[test]
fn wrong_policy_has_line_column_and_what_is_allowed() {
    let (_folder, path) = file(
        "lab.toml",
        b"[[port]]\nrange = \"0x378\"\naccess = \"rw\"\nbackend = \"lp\"\n",
    );

    let ended = run(&["run", &driver("echo"), "--policy", text(&path)]);

    ended.assert_code(2);
    let place = format!("{}:4:11: ", path.display());
    assert!(
        ended.stderr.contains(&place) && ended.stderr.contains("allowed: \"passthrough\""),
        "{}",
        ended.stderr
    );
    let checked = run(&["policy", "check", text(&path)]);
    assert_eq!(checked.code, Some(2), "{checked:#?}");
}

/// The policy is well formed: it is the machine that does not have what it names.
#[test]
fn back_end_that_cannot_start_is_exit_code_1_and_names_its_line() {
    let rules = [
        "[[port]]\nrange = \"0x378-0x37a\"\naccess = \"rw\"\nbackend = \"lpt\"\noutput = \"/nowhere/o\"",
        "[[port]]\nrange = \"0x300\"\naccess = \"rw\"\nbackend = \"external\"\ncommand = [\"/nowhere/m\"]",
        "[[port]]\nrange = \"0x70-0x71\"\naccess = \"rw\"\nbackend = \"rtc\"\nnvram = \"/nowhere/n\"",
        "[[memory]]\nrange = \"0xd0000-0xd0fff\"\naccess = \"rw\"\nbackend = \"passthrough\"\n\
         source = \"/sys/bus/pci/devices/ffff:00:00.0/resource0\"",
        "[[interrupt]]\nline = 5\nbackend = \"eventfd\"\nfd = 999999",
        "[[interrupt]]\nline = 5\nbackend = \"uio\"\ndevice = \"/dev/uio999\"",
    ];
    for rule in rules {
        let (_folder, path) = file("lab.toml", format!("# lab\n{rule}\n").as_bytes());
        run(&["policy", "check", text(&path)]).assert_code(0);
        let ended = run(&["run", &driver("echo"), "--policy", text(&path)]);
        ended.assert_code(1);
        let place = format!("{}:2: ", path.display());
        assert!(ended.stderr.contains(&place), "{}", ended.stderr);
        assert!(ended.stderr.contains("cannot start"), "{}", ended.stderr);
    }
}

#[test]
fn no_kvm_is_exit_code_5_with_a_way_out() {
    // A folder of devices without any, in a mount namespace of the program's own.
    let script = "mount -t tmpfs none /dev && exec \"$@\"";
    let hidden = |arguments: &[&str]| {
        let mut command = std::process::Command::new("unshare");
        command
            .args(["-m", "sh", "-c", script, "sh"])
            .args(arguments);
        command
    };
    if !hidden(&["true"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
    {
        skip("a run without /dev/kvm: it cannot be hidden here (unshare, mount)");
        return;
    }
    let program = integration_tests::program();

    let ended = Ended::from(
        hidden(&[text(&program), "run", &driver("echo")])
            .stdin(Stdio::null())
            .output()
            .unwrap(),
    );
    let doctor = Ended::from(
        hidden(&[text(&program), "doctor"])
            .stdin(Stdio::null())
            .output()
            .unwrap(),
    );

    ended.assert_code(5);
    assert!(
        ended.stderr.contains("/dev/kvm") && ended.stderr.contains("modprobe"),
        "{}",
        ended.stderr
    );
    assert!(
        doctor.stdout.contains("/dev/kvm") && !doctor.stderr.contains("panicked"),
        "{doctor:#?}"
    );
}
