//! QEMU's `edu` device in the SVM lane, as the `edu` sample drives it.

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use integration_tests::codes::edu;
use integration_tests::{Client, fields};
use vmm::session::driver::RunningDriver;

/// Where sysfs has it.
pub(crate) const EDU: &str = "/sys/bus/pci/devices/0000:00:10.0";
/// What its identification register says: version 1.0 and the magic.
pub(crate) const IDENTIFICATION: u32 = 0x0100_00ED;
/// Where the driver believes its registers to be.
pub(crate) const REGISTERS: u64 = 0xD000_0000;
pub(crate) const LINE: u32 = 11;
/// Device and function on bus 0, as mechanism #1 addresses it.
pub(crate) const EDU_FUNCTION: u32 = 0x10 << 3;

/// One test at a time drives it.
pub(crate) static DEVICE: Mutex<()> = Mutex::new(());

/// Physical address of its BAR 0.
pub(crate) fn bar() -> u64 {
    let lines = std::fs::read_to_string(Path::new(EDU).join("resource")).unwrap();
    let start = lines.split_whitespace().next().unwrap();
    u64::from_str_radix(start.trim_start_matches("0x"), 16).unwrap()
}

/// Has a driver of the lane's kernel take it.
pub(crate) fn bind(driver: &'static str) {
    static BOUND: Mutex<Option<&str>> = Mutex::new(None);
    let mut bound = BOUND.lock().unwrap_or_else(PoisonError::into_inner);
    if *bound != Some(driver) {
        bind_function("0000:00:10.0", driver);
        *bound = Some(driver);
    }
}

/// Has a driver take a function that has none.
pub(crate) fn bind_function(address: &str, driver: &str) {
    let status = Command::new("load-module").arg(driver).status().unwrap();
    assert!(status.success());
    let device = Path::new("/sys/bus/pci/devices").join(address);
    std::fs::write(device.join("driver_override"), driver).unwrap();
    std::fs::write("/sys/bus/pci/drivers_probe", address).unwrap();
    let bound = std::fs::canonicalize(device.join("driver")).unwrap();
    assert!(bound.ends_with(driver), "{}", bound.display());
}

/// Reads a register so many times; the last value.
pub(crate) fn read(client: &mut Client, offset: u32, times: u32) -> u32 {
    client.control_u32(edu::READ, &fields!(offset, times))
}

pub(crate) fn write(client: &mut Client, offset: u32, value: u32) {
    client.control(edu::WRITE, &fields!(offset, value), 0);
}

/// 2000 accesses to a register leave the guest no more often than one.
pub(crate) fn check_accesses_cost_no_exits(client: &mut Client) {
    let mut exits = |times| {
        let before = client.process.stats().unwrap().exits;
        assert_eq!(read(client, 0, times), IDENTIFICATION);
        client.process.stats().unwrap().exits - before
    };
    let one = exits(1);
    let many = exits(2000);
    // Beside the accesses there is the clock's tick.
    assert!(
        many < one + 500,
        "{one} exits for one access, {many} for 2000"
    );
}
