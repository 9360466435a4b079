//! Port-I/O drivers as they are in the field: WinIo 2 and 3, inpout32 and inpoutx64.
//!
//! Their control codes and structures are those of their public documentation and user DLLs.

use std::path::Path;

use abi::DriverAbi;
use integration_tests::codes::status;
use integration_tests::{Client, Target, fields, machine_tests_for, status_of, third_party};
use vmm::session::Machine;
use vmm::session::driver::{PortWidth, RunningDriver};

/// A KMDF driver of network packets: its framework part works, and the filtering engine that it then asks for is not there.
mod windivert {
    use super::*;
    use vmm::session::{StartError, start};

    machine_tests_for!(I386: starts_as_far_as_the_filtering_engine_i386);
    machine_tests_for!(Amd64: starts_as_far_as_the_filtering_engine_amd64);

    fn starts_as_far_as_the_filtering_engine_i386(target: Target) {
        check(target, "windivert-i386.sys");
    }

    fn starts_as_far_as_the_filtering_engine_amd64(target: Target) {
        check(target, "windivert-amd64.sys");
    }

    fn check(target: Target, file: &str) {
        let Some(path) = third_party(file) else {
            return;
        };
        let report = match start(target.launch(&path, "")) {
            Err(StartError::Driver(error)) => integration_tests::crash::<()>(Err(error)),
            other => panic!("{file}: {other:?}"),
        };
        let text = report.to_string();
        assert!(
            text.contains("fwpkclnt.sys!FwpsInjectionHandleCreate0"),
            "{text}"
        );
        for call in [
            "WdfVersionBind",
            "WdfDriverCreate",
            "WdfDeviceCreate",
            "WdfIoQueueCreate",
            "WdfDeviceCreateSymbolicLink",
        ] {
            let line = text.lines().find(|line| line.contains(&format!("{call}(")));
            let is_success = line.is_some_and(|line| line.contains("= STATUS_SUCCESS"));
            assert!(is_success, "{call}: {line:?}");
        }
    }
}

mod winio2_i386 {
    use super::*;

    const DRIVER: Driver = Driver {
        file: "winio2-i386.sys",
        device: r"\\.\WinIo",
    };

    machine_tests_for!(I386: direct_access_is_granted_and_taken, bytes_reach_lpt_from_the_process, memory_follows_the_policy, close_and_unload_leave_nothing);

    fn direct_access_is_granted_and_taken(target: Target) {
        check_direct_access(target, &DRIVER);
    }

    fn bytes_reach_lpt_from_the_process(target: Target) {
        check_lpt_from_process(target, &DRIVER);
    }

    fn memory_follows_the_policy(target: Target) {
        check_memory(target, &DRIVER, winio::MAP, winio::UNMAP, Layout::Old);
    }

    fn close_and_unload_leave_nothing(target: Target) {
        check_unload(target, &DRIVER);
    }
}

mod winio3_i386 {
    use super::*;

    const DRIVER: Driver = Driver {
        file: "winio3-i386.sys",
        device: r"\\.\WinIo",
    };

    machine_tests_for!(I386: ports_of_every_width_read_back, bytes_reach_lpt, direct_access_is_granted_and_taken, bytes_reach_lpt_from_the_process, memory_follows_the_policy, close_and_unload_leave_nothing);

    fn ports_of_every_width_read_back(target: Target) {
        winio::check_ports(target, &DRIVER);
    }

    fn bytes_reach_lpt(target: Target) {
        check_lpt(target, &DRIVER, winio::write_byte);
    }

    fn direct_access_is_granted_and_taken(target: Target) {
        check_direct_access(target, &DRIVER);
    }

    fn bytes_reach_lpt_from_the_process(target: Target) {
        check_lpt_from_process(target, &DRIVER);
    }

    fn memory_follows_the_policy(target: Target) {
        check_memory(target, &DRIVER, winio::MAP, winio::UNMAP, Layout::WinIo3);
    }

    fn close_and_unload_leave_nothing(target: Target) {
        check_unload(target, &DRIVER);
    }
}

mod winio3_amd64 {
    use super::*;

    const DRIVER: Driver = Driver {
        file: "winio3-amd64.sys",
        device: r"\\.\WinIo",
    };

    machine_tests_for!(Amd64: ports_of_every_width_read_back, bytes_reach_lpt, direct_access_is_unknown, memory_follows_the_policy, close_and_unload_leave_nothing);

    fn ports_of_every_width_read_back(target: Target) {
        winio::check_ports(target, &DRIVER);
    }

    fn bytes_reach_lpt(target: Target) {
        check_lpt(target, &DRIVER, winio::write_byte);
    }

    /// 64-bit Windows has no Ke386 functions, so neither has this driver.
    fn direct_access_is_unknown(target: Target) {
        let Some((_machine, mut client)) = DRIVER.open(target, RAM) else {
            return;
        };

        let enabled = client.ioctl(winio::ENABLE_DIRECT, &[], 0);

        assert_eq!(enabled.status.0, status::INVALID_PARAMETER);
        let denied = client.process.port_in(0x300, PortWidth::Byte);
        assert_eq!(status_of(denied).0, status::PRIVILEGED_INSTRUCTION);
    }

    fn memory_follows_the_policy(target: Target) {
        check_memory(target, &DRIVER, winio::MAP, winio::UNMAP, Layout::WinIo3);
    }

    fn close_and_unload_leave_nothing(target: Target) {
        check_unload(target, &DRIVER);
    }
}

mod inpout_i386 {
    use super::*;

    const DRIVER: Driver = Driver {
        file: "inpout-i386.sys",
        device: r"\\.\inpout32",
    };

    machine_tests_for!(I386: ports_read_and_write, write_of_32_bits_goes_to_its_buffers_address, bytes_reach_lpt, memory_follows_the_policy, close_and_unload_leave_nothing);

    fn ports_read_and_write(target: Target) {
        inpout::check_ports(target, &DRIVER);
    }

    fn write_of_32_bits_goes_to_its_buffers_address(target: Target) {
        inpout::check_u32_write(target, &DRIVER);
    }

    fn bytes_reach_lpt(target: Target) {
        check_lpt(target, &DRIVER, inpout::write_byte);
    }

    fn memory_follows_the_policy(target: Target) {
        check_memory(target, &DRIVER, inpout::MAP, inpout::UNMAP, Layout::Old);
    }

    fn close_and_unload_leave_nothing(target: Target) {
        check_unload(target, &DRIVER);
    }
}

mod inpout_amd64 {
    use super::*;

    const DRIVER: Driver = Driver {
        file: "inpout-amd64.sys",
        device: r"\\.\inpoutx64",
    };

    machine_tests_for!(Amd64: ports_read_and_write, write_of_32_bits_goes_to_its_buffers_address, bytes_reach_lpt, memory_follows_the_policy, close_and_unload_leave_nothing);

    fn ports_read_and_write(target: Target) {
        inpout::check_ports(target, &DRIVER);
    }

    fn write_of_32_bits_goes_to_its_buffers_address(target: Target) {
        inpout::check_u32_write(target, &DRIVER);
    }

    fn bytes_reach_lpt(target: Target) {
        check_lpt(target, &DRIVER, inpout::write_byte);
    }

    fn memory_follows_the_policy(target: Target) {
        check_memory(target, &DRIVER, inpout::MAP, inpout::UNMAP, Layout::Old);
    }

    fn close_and_unload_leave_nothing(target: Target) {
        check_unload(target, &DRIVER);
    }
}

/// Sixteen registers that hold 0x10, 0x11...
const RAM: &str = r#"
    [[port]]
    range = "0x300-0x30f"
    access = "rw"
    backend = "ram"
    initial = [0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17]
"#;

struct Driver {
    file: &'static str,
    device: &'static str,
}

impl Driver {
    /// Starts it and opens its device; `None` if it is not there.
    fn open(&self, target: Target, policy: &str) -> Option<(Machine, Client)> {
        let path = third_party(self.file)?;
        let machine = target.start(&path, policy);
        let client = Client::open(&machine, self.device);
        Some((machine, client))
    }
}

/// How a driver's structure for physical memory is laid out.
#[derive(Clone, Copy)]
enum Layout {
    /// WinIo 2 and inpout: handle, size, physical address, linear address; each as wide as a pointer.
    Old,
    /// WinIo 3: u64 size, physical address, handle, linear address, section object.
    WinIo3,
}

impl Layout {
    fn request(self, abi: DriverAbi, address: u64, bytes: u64) -> Vec<u8> {
        match (self, abi) {
            (Self::WinIo3, _) => fields!(bytes, address, 0_u64, 0_u64, 0_u64),
            (Self::Old, DriverAbi::Amd64) => fields!(0_u64, bytes, address, 0_u64),
            (Self::Old, DriverAbi::I386) => {
                let narrow = |value: u64| u32::try_from(value).expect("a 32-bit address");
                fields!(0_u32, narrow(bytes), narrow(address), 0_u32)
            }
        }
    }

    fn linear_address(self, abi: DriverAbi, answer: &[u8]) -> u64 {
        let (offset, length) = match (self, abi) {
            (Self::WinIo3, _) | (Self::Old, DriverAbi::Amd64) => (24, 8),
            (Self::Old, DriverAbi::I386) => (12, 4),
        };
        let mut value = [0; 8];
        value[..length].copy_from_slice(&answer[offset..offset + length]);
        u64::from_le_bytes(value)
    }
}

/// WinIo's codes.
pub(crate) mod winio {
    use super::*;

    pub(super) const MAP: u32 = 0x8010_2040;
    pub(super) const UNMAP: u32 = 0x8010_2044;
    pub(crate) const ENABLE_DIRECT: u32 = 0x8010_2048;
    pub(super) const DISABLE_DIRECT: u32 = 0x8010_204C;
    const READ_PORT: u32 = 0x8010_2050;
    const WRITE_PORT: u32 = 0x8010_2054;

    /// u16 port, u32 value, u8 size, packed.
    pub(crate) fn write(client: &mut Client, port: u16, value: u32, size: u8) {
        client.control(WRITE_PORT, &fields!(port, value, size), 0);
    }

    pub(crate) fn read(client: &mut Client, port: u16, size: u8) -> u32 {
        let output = client.control(READ_PORT, &fields!(port, 0_u32, size), 4);
        u32::from_le_bytes(output.try_into().expect("4 bytes"))
    }

    pub(super) fn write_byte(client: &mut Client, port: u16, value: u8) {
        write(client, port, u32::from(value), 1);
    }

    pub(super) fn check_ports(target: Target, driver: &Driver) {
        let Some((_machine, mut client)) = driver.open(target, RAM) else {
            return;
        };

        assert_eq!(read(&mut client, 0x301, 1), 0x11);
        assert_eq!(read(&mut client, 0x301, 2), 0x1211);
        assert_eq!(read(&mut client, 0x301, 4), 0x1413_1211);
        for (size, value) in [(1, 0xA5), (2, 0xBEEF), (4, 0xDEAD_BEEF)] {
            write(&mut client, 0x308, value, size);
            assert_eq!(read(&mut client, 0x308, size), value, "{size} bytes");
        }
        // What the policy does not name: ones, and no error of the driver's.
        assert_eq!(read(&mut client, 0x400, 1), 0xFF);
        assert_eq!(read(&mut client, 0x400, 4), 0xFFFF_FFFF);
        write(&mut client, 0x400, 0, 2);
        assert_eq!(client.process.stats().unwrap().port_denied, 3);
    }
}

/// inpout's codes.
pub(crate) mod inpout {
    use super::*;

    pub(super) const MAP: u32 = 0x9C40_201C;
    pub(super) const UNMAP: u32 = 0x9C40_2020;
    const READ_U8: u32 = 0x9C40_2004;
    const WRITE_U8: u32 = 0x9C40_2008;
    const READ_U16: u32 = 0x9C40_200C;
    const WRITE_U16: u32 = 0x9C40_2010;
    const READ_U32: u32 = 0x9C40_2014;
    const WRITE_U32: u32 = 0x9C40_2018;

    pub(crate) fn read_byte(client: &mut Client, port: u16) -> u8 {
        client.control(READ_U8, &fields!(port), 1)[0]
    }

    pub(crate) fn write_byte(client: &mut Client, port: u16, value: u8) {
        client.control(WRITE_U8, &fields!(port, value), 0);
    }

    pub(super) fn check_ports(target: Target, driver: &Driver) {
        let Some((_machine, mut client)) = driver.open(target, RAM) else {
            return;
        };
        let mut control = |code, input: &[u8], output| {
            let result = client.ioctl(code, input, output);
            assert_eq!(result.status.0, status::SUCCESS, "{code:#x}");
            (result.information, result.output)
        };

        assert_eq!(control(READ_U8, &fields!(0x301_u16), 1), (1, vec![0x11]));
        assert_eq!(
            control(READ_U16, &fields!(0x301_u16), 2),
            (2, fields!(0x1211_u16))
        );
        assert_eq!(
            control(READ_U32, &fields!(0x301_u32), 4),
            (4, fields!(0x1413_1211_u32))
        );
        // Writes claim 10 bytes of output, and there is no room for any.
        assert_eq!(
            control(WRITE_U8, &fields!(0x308_u16, 0xA5_u8), 0),
            (10, Vec::new())
        );
        assert_eq!(control(READ_U8, &fields!(0x308_u16), 1), (1, vec![0xA5]));
        assert_eq!(
            control(WRITE_U16, &fields!(0x308_u16, 0xBEEF_u16), 0),
            (10, Vec::new())
        );
        assert_eq!(
            control(READ_U16, &fields!(0x308_u16), 2),
            (2, fields!(0xBEEF_u16))
        );
        assert_eq!(control(READ_U8, &fields!(0x400_u16), 1), (1, vec![0xFF]));
    }

    /// A bug of the driver's: the port is the low half of its buffer's address.
    pub(super) fn check_u32_write(target: Target, driver: &Driver) {
        let Some((_machine, mut client)) = driver.open(target, RAM) else {
            return;
        };

        let result = client.ioctl(WRITE_U32, &fields!(0x300_u32, 0xFFFF_FFFF_u32), 0);

        assert_eq!((result.status.0, result.information), (status::SUCCESS, 10));
        let stats = client.process.stats().unwrap();
        assert_eq!((stats.port_denied, stats.port_writes), (1, 0));
        let read = client.control(READ_U32, &fields!(0x300_u32), 4);
        assert_eq!(read, fields!(0x1312_1110_u32));
    }
}

/// Sets the data lines, then raises and lowers STROBE.
fn print(text: &[u8], mut write: impl FnMut(u16, u8)) {
    for byte in text {
        write(0x378, *byte);
        write(0x37A, 0x0D);
        write(0x37A, 0x0C);
    }
}

fn lpt_policy(printed: &Path) -> String {
    format!(
        "[[port]]\nrange = \"0x378-0x37a\"\naccess = \"rw\"\nbackend = \"lpt\"\noutput = {printed:?}\n"
    )
}

fn check_lpt(target: Target, driver: &Driver, write_byte: fn(&mut Client, u16, u8)) {
    let folder = tempfile::tempdir().unwrap();
    let printed = folder.path().join("printed");
    let Some((machine, mut client)) = driver.open(target, &lpt_policy(&printed)) else {
        return;
    };

    print(b"through the driver\n", |port, value| {
        write_byte(&mut client, port, value);
    });
    drop(client);
    drop(machine);

    assert_eq!(std::fs::read(&printed).unwrap(), b"through the driver\n");
}

fn check_lpt_from_process(target: Target, driver: &Driver) {
    let folder = tempfile::tempdir().unwrap();
    let printed = folder.path().join("printed");
    let Some((machine, mut client)) = driver.open(target, &lpt_policy(&printed)) else {
        return;
    };
    client.control(winio::ENABLE_DIRECT, &[], 0);

    print(b"by the program\n", |port, value| {
        client
            .process
            .port_out(port, PortWidth::Byte, u32::from(value))
            .unwrap();
    });
    drop(client);
    drop(machine);

    assert_eq!(std::fs::read(&printed).unwrap(), b"by the program\n");
}

fn check_direct_access(target: Target, driver: &Driver) {
    let Some((machine, mut client)) = driver.open(target, RAM) else {
        return;
    };
    let mut other = machine.process().unwrap();

    let before = client.process.port_in(0x300, PortWidth::Byte);
    client.control(winio::ENABLE_DIRECT, &[], 0);
    let during = client.process.port_in(0x300, PortWidth::Dword);
    let others = other.port_in(0x300, PortWidth::Byte);
    client.control(winio::DISABLE_DIRECT, &[], 0);
    let after = client.process.port_in(0x300, PortWidth::Byte);

    assert_eq!(status_of(before).0, status::PRIVILEGED_INSTRUCTION);
    assert_eq!(during.unwrap(), 0x1312_1110);
    assert_eq!(status_of(others).0, status::PRIVILEGED_INSTRUCTION);
    assert_eq!(status_of(after).0, status::PRIVILEGED_INSTRUCTION);
}

fn check_memory(target: Target, driver: &Driver, map: u32, unmap: u32, layout: Layout) {
    let policy = "[[memory]]\nrange = \"0xd0000-0xd1fff\"\naccess = \"rw\"\nbackend = \"ram\"\n";
    let Some((_machine, mut client)) = driver.open(target, policy) else {
        return;
    };

    // Twice: what was unmapped can be mapped again.
    for _ in 0..2 {
        let allowed = layout.request(target.abi, 0xD_0000, 0x2000);
        let answer = client.control(map, &allowed, 40);
        assert_ne!(layout.linear_address(target.abi, &answer), 0);
        client.control(unmap, &answer, 0);
    }
    // Not named, partly named, and the guest's own memory.
    for (address, bytes) in [(0xC_0000, 0x1000), (0xD_1000, 0x2000), (0x100_0000, 0x1000)] {
        let denied = layout.request(target.abi, address, bytes);
        let result = client.ioctl(map, &denied, 40);
        assert!(
            !result.status.is_success(),
            "{address:#x}: {:?}",
            result.output
        );
    }

    let stats = client.process.stats().unwrap();
    assert_eq!((stats.memory_mapped, stats.memory_denied), (2, 3));
}

fn check_unload(target: Target, driver: &Driver) {
    let Some((_machine, mut client)) = driver.open(target, "") else {
        return;
    };

    client.process.close(client.handle).unwrap();

    assert_eq!(client.process.unload().unwrap(), 0);
    assert!(client.process.open(driver.device).is_err());
}
