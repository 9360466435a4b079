//! A real parallel port, in the SVM lane only: its QEMU writes each strobed byte to a file, in which
//! scripts/test-svm-lane looks for the lines that these tests print.

use std::sync::{Mutex, PoisonError};

use integration_tests::{Client, Target, fields, is_lane, machine_tests_for, third_party};
use vmm::session::driver::{PortWidth, RunningDriver};

/// There is one port: a line is printed without another one's bytes in between.
pub(super) static PORT: Mutex<()> = Mutex::new(());

const POLICY: &str = r#"
    [[port]]
    range = "0x378-0x37a"
    access = "rw"
    backend = "passthrough"
"#;

mod inpoutx64 {
    use super::*;

    machine_tests_for!(Amd64: driver_prints_to_the_real_port);

    fn driver_prints_to_the_real_port(target: Target) {
        const WRITE_U8: u32 = 0x9C40_2008;
        print_line(
            target,
            "inpout-amd64.sys",
            r"\\.\inpoutx64",
            |client, port, value| {
                client.control(WRITE_U8, &fields!(port, value), 0);
            },
        );
    }
}

mod winio_i386 {
    use super::*;

    machine_tests_for!(I386: process_prints_to_the_real_port);

    fn process_prints_to_the_real_port(target: Target) {
        const ENABLE_DIRECT: u32 = 0x8010_2048;
        let mut is_enabled = false;
        print_line(
            target,
            "winio2-i386.sys",
            r"\\.\WinIo",
            move |client, port, value| {
                if !std::mem::replace(&mut is_enabled, true) {
                    client.control(ENABLE_DIRECT, &[], 0);
                }
                client
                    .process
                    .port_out(port, PortWidth::Byte, u32::from(value))
                    .unwrap();
            },
        );
    }
}

/// Prints the line "FILE PRIVILEGE".
fn print_line(
    target: Target,
    file: &str,
    device: &str,
    mut write: impl FnMut(&mut Client, u16, u8),
) {
    if !is_lane() {
        return;
    }
    let Some(driver) = third_party(file) else {
        return;
    };
    let machine = target.start(&driver, POLICY);
    let mut client = Client::open(&machine, device);
    let _alone = PORT.lock().unwrap_or_else(PoisonError::into_inner);

    for byte in format!("{file} {}\n", target.privilege.name()).bytes() {
        // Initialised and selected, without and with STROBE.
        write(&mut client, 0x37A, 0x0C);
        write(&mut client, 0x378, byte);
        write(&mut client, 0x37A, 0x0D);
    }
    write(&mut client, 0x37A, 0x0C);

    let stats = client.process.stats().unwrap();
    assert_eq!(stats.port_denied, 0);
    assert_ne!(stats.port_writes, 0);
}
