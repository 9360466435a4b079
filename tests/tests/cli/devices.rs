//! Ports and device models, of a policy and of `--device`, and the hardware that `doctor` tells of.

use super::*;

const LPT: &str = "[[port]]\nrange = \"0x378-0x37a\"\naccess = \"rw\"\nbackend = \"lpt\"\n";

/// A policy file with an lpt model, and where it prints.
pub(super) fn lpt() -> (TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let printed = folder.path().join("printed");
    let policy = folder.path().join("lab.toml");
    std::fs::write(&policy, format!("{LPT}output = {printed:?}\n")).unwrap();
    (folder, policy, printed)
}

#[test]
fn port_is_denied_before_and_allowed_after_open() {
    if !has_kvm() {
        return;
    }
    let (_folder, policy, printed) = lpt();

    let ended = run(&[
        "run",
        &driver("ioperm"),
        "--policy",
        text(&policy),
        "-c",
        "! outb 0x378 0x41",
        "-c",
        r"open \\.\ioperm",
        "-c",
        "outb 0x378 0x41",
        "-c",
        "outb 0x37a 0x0d",
        "-c",
        "outb 0x37a 0x0c",
        "-c",
        "inb 0x379",
        "-c",
        "close",
        "-c",
        "unload",
    ]);

    ended.assert_code(0);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(lines.len(), 8, "{}", ended.stdout);
    assert!(lines[0].contains("STATUS_PRIVILEGED_INSTRUCTION"));
    assert!(lines[5].contains("0xd8"), "{}", lines[5]);
    assert_eq!(std::fs::read(printed).unwrap(), b"A");
}

/// The second run would have emptied the first one's file.
#[test]
fn one_output_is_not_for_two_runs() {
    if !has_kvm() {
        return;
    }
    let (folder, policy, printed) = lpt();
    let socket = folder.path().join("socket");
    let ioperm = driver("ioperm");
    let of_policy = ["run", &ioperm, "--policy", text(&policy)];
    let mut first = Running::start(&mut command(
        &[&of_policy[..], &["--socket", text(&socket)]].concat(),
    ));
    first.wait_for_socket(&socket);
    let strobe = ["outb 0x378 0x41", "outb 0x37a 0x0d", "outb 0x37a 0x0c"];
    run(&[&["ctl", text(&socket), r"open \\.\ioperm"][..], &strobe].concat()).assert_code(0);

    let second = run(&[&of_policy[..], &["-c", "stats"]].concat());
    first.signal("TERM");
    first.wait().assert_code(0);
    let kept = std::fs::read(&printed).unwrap();
    let third = run(&[&of_policy[..], &["-c", "stats"]].concat());

    second.assert_code(1);
    assert!(
        second.stderr.contains("lab.toml:1: ") && second.stderr.contains("ringfence ps"),
        "{second:#?}"
    );
    assert_eq!(kept, b"A");
    third.assert_code(0);
    assert_eq!(std::fs::read(printed).unwrap(), b"");
}

#[test]
fn doctor_tells_of_hardware() {
    let doctor = run(&["doctor", "--json"]);
    let report: Value = serde_json::from_str(&doctor.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let subjects: Vec<&str> = checks
        .iter()
        .map(|check| check["subject"].as_str().unwrap())
        .collect();
    let expected = [
        "ioperm",
        "/dev/port",
        "lockdown",
        "/dev/mem",
        "/dev/cpu/*/msr",
        "ppdev",
        "PCI",
        "UIO",
        "IOMMU",
    ];
    for subject in expected {
        assert!(subjects.contains(&subject), "{subjects:?}");
    }
    let absent = run(&["doctor", "--pci", "ffff:ff:1f.7"]);
    absent.assert_code(1);
    assert!(absent.stderr.contains("lspci"), "{absent:#?}");
    run(&["doctor", "--pci", "card"]).assert_code(2);
}

#[test]
fn devices_of_the_command_line_take_bytes() {
    if !has_kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let [printed, sent] = ["printed", "sent"].map(|name| folder.path().join(name));
    let lpt = format!("lpt:base=0x378,irq=7,out={}", printed.display());
    let uart = format!("uart16550:out={},input=[0x5a]", sent.display());
    let ended = run(&[
        "run",
        &driver("ioperm"),
        "--device",
        &lpt,
        "--device",
        &uart,
        "-c",
        r"open \\.\ioperm",
        "-c",
        "outb 0x378 0x41",
        "-c",
        "outb 0x37a 0x0d",
        "-c",
        "outb 0x3f8 0x42",
        "-c",
        "inb 0x3fd",
        "-c",
        "inb 0x3f8",
        "-c",
        "inb 0x3fd",
    ]);
    ended.assert_code(0);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    let read = lines.get(4..).unwrap_or_default();
    for (line, value) in read.iter().zip(["0x61", "0x5a", "0x60"]) {
        assert!(line.contains(value), "{}", ended.stdout);
    }
    assert_eq!(read.len(), 3, "{}", ended.stdout);
    assert_eq!(std::fs::read(printed).unwrap(), b"A");
    assert_eq!(std::fs::read(sent).unwrap(), b"B");
}

#[test]
fn devices_are_listed_and_mistakes_in_them_are_refused() {
    let ended = run(&["run", "--device", "help"]);
    ended.assert_code(0);
    assert!(ended.stdout.contains("uart16550: "), "{}", ended.stdout);
    let ended = run(&["run", "none.sys", "--device", "lpt:base=0x378,irq=99"]);
    ended.assert_code(2);
    assert!(
        ended.stderr.contains("--device:1:29: `irq`"),
        "{}",
        ended.stderr
    );
}
