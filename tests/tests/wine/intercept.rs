//! Programs that install drivers themselves, unmodified: inpout32/inpoutx64.dll and WinIo32/WinIo64.dll.

use std::path::Path;

use integration_tests::third_party;

use crate::harness::{Prefix, Width};

prefix_tests!(
    nothing_is_allowed_without_a_policy,
    off_puts_everything_back,
    ; everywhere:
    inpout_reaches_the_parallel_port,
    winio_reaches_the_parallel_port,
);

/// A parallel port that is captured in a file.
fn policy(folder: &Path) -> String {
    let path = folder.join("policy.toml");
    let output = folder.join("lpt.bin");
    let text = format!(
        "[[port]]\nname = \"LPT1\"\nrange = \"0x378-0x37a\"\naccess = \"rw\"\nbackend = \"lpt\"\noutput = \"{}\"\n",
        output.display()
    );
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn captured(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("lpt.bin")).unwrap()
}

fn turn_on(prefix: &Prefix, options: &[&str]) {
    let ended = prefix.ringfence(&[&["wine", "intercept", "on"], options].concat());
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

/// The name of the DLL for a width, put into a folder; `None`: it could not be downloaded.
fn place(
    width: Width,
    folder: &Path,
    names: [&'static str; 2],
    beside: &[(&str, &str)],
) -> Option<&'static str> {
    let name = match width {
        Width::Bits32 => names[0],
        Width::Bits64 => names[1],
    };
    std::fs::copy(third_party(name)?, folder.join(name)).unwrap();
    for (file, wanted) in beside {
        std::fs::copy(third_party(file)?, folder.join(wanted)).unwrap();
    }
    Some(name)
}

fn place_inpout(prefix: &Prefix, folder: &Path) -> Option<&'static str> {
    let names = ["inpout32.dll", "inpoutx64.dll"];
    place(prefix.width(), folder, names, &[])
}

/// Takes away what the program leaves behind on Windows too: its service, and the driver's file. A 32-bit program in a 64-bit
/// prefix brings a driver for 64 bits.
fn delete_inpout(prefix: &Prefix) {
    let mut is_found = false;
    for name in ["inpout32", "inpoutx64"] {
        for folder in ["system32", "syswow64"] {
            let file = format!("drive_c/windows/{folder}/drivers/{name}.sys");
            if std::fs::remove_file(prefix.path().join(file)).is_ok() {
                prefix.delete_service(name);
                is_found = true;
            }
        }
    }
    assert!(is_found);
}

fn inpout_reaches_the_parallel_port(prefix: &Prefix) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let Some(dll) = place_inpout(prefix, folder) else {
        return;
    };
    turn_on(prefix, &["--policy", &policy(folder)]);

    let ended = prefix.run_in(folder, "inpout", &[dll, "Hello"]);

    assert_eq!(ended.code, Some(0), "{ended:?}{}", prefix.log());
    assert!(
        ended
            .stdout
            .contains("status register d8, data register 6f"),
        "{ended:?}"
    );
    // A port that the policy does not name reads as all ones.
    assert!(ended.stdout.contains("denied port ff"), "{ended:?}");
    assert_eq!(captured(folder), "Hello");
    let log = prefix.log();
    assert!(log.contains("port 0x61"), "{log}");
    delete_inpout(prefix);
}

fn winio_reaches_the_parallel_port(prefix: &Prefix) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // It looks for its driver beside the program; which one, is a matter of Windows' width.
    let drivers = [
        ("winio3-amd64.sys", "WinIo64.sys"),
        ("winio3-i386.sys", "WinIo32.sys"),
    ];
    let names = ["winio32.dll", "winio64.dll"];
    let Some(dll) = place(prefix.width(), folder, names, &drivers) else {
        return;
    };
    turn_on(prefix, &["--policy", &policy(folder)]);

    // WinIo32.sys grants the program the ports, and WinIo32.dll executes `in` and `out` itself.
    let ended = match prefix.width() {
        Width::Bits32 => prefix.ringfence_run_placed(folder, "winio", &[dll, "World"]),
        Width::Bits64 => prefix.run_placed(folder, "winio", &[dll, "World"]),
    };

    assert_eq!(ended.code, Some(0), "{ended:?}{}", prefix.log());
    assert!(
        ended
            .stdout
            .contains("status register d8, data register 64"),
        "{ended:?}"
    );
    assert_eq!(captured(folder), "World");
    prefix.delete_service("WINIO");
}

fn nothing_is_allowed_without_a_policy(prefix: &Prefix) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let Some(dll) = place_inpout(prefix, folder) else {
        return;
    };
    turn_on(prefix, &[]);

    let ended = prefix.run_in(folder, "inpout", &[dll, "Hello"]);

    assert_eq!(ended.code, Some(0), "{ended:?}{}", prefix.log());
    assert!(
        ended
            .stdout
            .contains("status register ff, data register ff"),
        "{ended:?}"
    );
    delete_inpout(prefix);
}

fn off_puts_everything_back(prefix: &Prefix) {
    prefix.keep_session();
    prefix.end_session();
    let before = (prefix.registry(), prefix.files());
    let system = ["system32", "syswow64"].map(|folder| {
        let windows = prefix.path().join("drive_c/windows");
        windows.join(folder).join("winedevice.exe")
    });
    let programs = || system.each_ref().map(|program| std::fs::read(program).ok());
    let original = programs();
    turn_on(prefix, &[]);
    turn_on(prefix, &[]);
    // Wine's own drivers are loaded as ever.
    prefix.install("echo", &[]);
    prefix.keep_session();
    assert_eq!(prefix.service("start", "echo"), 0);
    assert!(prefix.run("echo", &["try-open"]).contains("open: ok"));
    assert_eq!(
        prefix.run("service", &["state", "MountMgr"]).trim(),
        "state 4"
    );
    for (now, original) in programs().iter().zip(&original) {
        assert!(original.is_none() || now != original);
    }
    let listed = prefix.ringfence(&["wine", "list"]);
    assert!(listed.stdout.contains("intercept: on"), "{listed:?}");
    let removed = prefix.ringfence(&["wine", "remove", "echo"]);
    assert_eq!(removed.code, Some(0), "{removed:?}");

    let ended = prefix.ringfence(&["wine", "intercept", "off"]);

    assert_eq!(ended.code, Some(0), "{ended:?}");
    prefix.end_session();
    assert!(programs() == original);
    assert_eq!(before.0, prefix.registry());
    assert_eq!(before.1, prefix.files());
}
