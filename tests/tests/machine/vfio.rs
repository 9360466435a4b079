//! Bus master DMA by VFIO, in the SVM lane's machine with an IOMMU only (scripts/svm-lane --iommu): the device is QEMU's
//! `edu`, whose DMA engine moves bytes between memory and a buffer of its own.

mod functions;

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use integration_tests::codes::{edu, portio};
use integration_tests::program::run;
use integration_tests::{
    Client, Target, bytes, describe, fields, is_lane, machine_tests, patience,
};
use vmm::session::Machine;
use vmm::session::driver::RunningDriver;

use super::edu_device::{
    self, DEVICE, EDU, EDU_FUNCTION, IDENTIFICATION, LINE, REGISTERS, bar, read,
};
use super::real_hardware::alone;

machine_tests!(
    dma_moves_guest_memory,
    dma_needs_no_privileges_once_it_runs,
    dma_by_message_signaled_interrupts,
    dma_outside_of_the_guest_is_stopped,
    configuration_is_the_kernels,
    memory_space_turned_off_ends_the_guest,
    refusals_say_what_to_do,
);

const PAGE: usize = 4096;

/// Whether this machine has an IOMMU.
fn has_iommu() -> bool {
    is_lane() && std::env::var_os("RINGFENCE_IOMMU").is_some()
}

fn policy(is_message: bool) -> String {
    format!(
        r#"
        [[pci]]
        bdf = "0000:00:10.0"
        backend = "passthrough"
        access = "r"
        dma = "vfio"

        [[pci.register]]
        range = "0x04-0x05"
        access = "rw"

        [[pci.register]]
        range = "0x10-0x13"
        access = "rw"

        [[memory]]
        range = "{REGISTERS:#x}-{:#x}"
        access = "rw"
        backend = "passthrough"
        source = "{EDU}/resource0"

        [[interrupt]]
        line = {LINE}
        backend = "vfio"
        device = "0000:00:10.0"
        message-signaled = {is_message}
        "#,
        REGISTERS + 0xFFF
    )
}

/// The machine with the samples portio and edu, and a client of each.
fn start(target: Target, is_message: bool) -> (Machine, Client, Client) {
    edu_device::bind("vfio-pci");
    let mut launch = target.launch(&target.sample("portio"), &policy(is_message));
    launch.drivers.push(target.sample("edu"));
    let machine =
        vmm::session::start(launch).unwrap_or_else(|error| panic!("{}", vmm::error_chain(&error)));
    let ports = Client::open(&machine, r"\\.\portio");
    let mut client = Client::open(&machine, r"\\.\edu");
    client.control(edu::START, &fields!(REGISTERS, LINE, 0_u32), 0);
    (machine, ports, client)
}

/// Bytes through the device and back.
fn check_copy(client: &mut Client, count: usize) {
    let sent = bytes(count);
    let count = u32::try_from(count).unwrap();
    assert_eq!(client.control(edu::COPY, &sent, count), sent);
}

/// One transfer: the common buffer's logical address, and its second half.
fn transfer(client: &mut Client, address: u64, count: u32, to_memory: bool) -> (u64, Vec<u8>) {
    let input = fields!(address, count, u32::from(to_memory));
    let mut output = client.control(edu::TRANSFER, &input, 8 + 4096);
    let half = output.split_off(8);
    (u64::from_le_bytes(output.try_into().unwrap()), half)
}

fn dma_moves_guest_memory(target: Target) {
    if !has_iommu() {
        return;
    }
    let _alone = alone(&DEVICE);
    let (_machine, _ports, mut client) = start(target, false);
    assert_eq!(read(&mut client, 0, 1), IDENTIFICATION);
    for count in [1, 1000, 4095] {
        check_copy(&mut client, count);
    }
    edu_device::check_accesses_cost_no_exits(&mut client);
}

/// The command line gives up all capabilities before the driver's first instruction.
fn dma_needs_no_privileges_once_it_runs(target: Target) {
    if !has_iommu() {
        return;
    }
    let _alone = alone(&DEVICE);
    edu_device::bind("vfio-pci");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), policy(false)).unwrap();
    let start = format!("ioctl {:#x} u64:{REGISTERS},u32:{LINE},u32:0", edu::START);
    let copy = format!("ioctl {:#x} 52696e6766656e6365 9", edu::COPY);
    let ended = run(&[
        "run",
        target.sample("edu").to_str().unwrap(),
        "--policy",
        file.path().to_str().unwrap(),
        "--privilege",
        target.privilege.name(),
        "--json",
        "-c",
        r"open \\.\edu",
        "-c",
        &start,
        "-c",
        &copy,
    ]);
    ended.assert_code(0);
    assert!(ended.stdout.contains("52696e6766656e6365"), "{ended:#?}");
}

fn dma_by_message_signaled_interrupts(target: Target) {
    if !has_iommu() {
        return;
    }
    let _alone = alone(&DEVICE);
    let (_machine, _ports, mut client) = start(target, true);
    check_copy(&mut client, 1000);
    check_copy(&mut client, 100);
}

/// A page of this process and its physical address, which is none that the guest's memory has.
fn page_outside() -> (Vec<u8>, usize, u64) {
    // More than the guest has, whatever frames the kernel has taken.
    let memory = vec![0xC3_u8; 24 << 20];
    let start = memory.as_ptr().addr();
    let map = std::fs::File::open("/proc/self/pagemap").unwrap();
    for address in (start.next_multiple_of(PAGE)..start + memory.len() - PAGE).step_by(PAGE) {
        let mut entry = [0; 8];
        map.read_exact_at(&mut entry, (address / PAGE * 8) as u64)
            .unwrap();
        // Documentation/admin-guide/mm/pagemap.rst: bits 0-54 page frame, 63 present.
        let entry = u64::from_le_bytes(entry);
        let physical = (entry & ((1 << 55) - 1)) * PAGE as u64;
        let is_guests = (0x0100_0000..0x0200_0000).contains(&physical);
        if entry >> 63 != 0 && physical != 0 && physical < 1 << 32 && !is_guests {
            return (memory, address - start, physical);
        }
    }
    panic!("no page of this process has an address that the device could use");
}

/// How often the kernel has logged that the IOMMU stopped the device at this page.
fn faults(page: u64) -> usize {
    let log = std::process::Command::new("dmesg").output().unwrap().stdout;
    let expected = format!("fault addr {page:#x} ");
    String::from_utf8_lossy(&log)
        .lines()
        .filter(|line| line.contains("Request device [00:10.0]") && line.contains(&expected))
        .count()
}

/// A transfer to or from a page that the IOMMU is to stop, and the kernel's word that it has. The kernel logs no more than
/// some faults in five seconds, so that the device may have to try it again.
fn check_stopped(client: &mut Client, page: u64, to_memory: bool) {
    let before = faults(page);
    let end = Instant::now() + patience();
    while faults(page) == before {
        assert!(
            Instant::now() < end,
            "the kernel tells of no fault at {page:#x}"
        );
        transfer(client, page, 64, to_memory);
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn dma_outside_of_the_guest_is_stopped(target: Target) {
    if !has_iommu() {
        return;
    }
    let _alone = alone(&DEVICE);
    let (_machine, _ports, mut client) = start(target, false);
    let (memory, offset, physical) = page_outside();
    let secret = vec![0xC3_u8; PAGE];
    // The device's buffer holds these bytes when it is to store them where it must not.
    check_copy(&mut client, 64);
    check_stopped(&mut client, physical, true);
    assert_eq!(memory[offset..offset + PAGE], secret);
    // It does not read there either. What it got instead is stored where the driver sees it.
    check_stopped(&mut client, physical, false);
    let (logical, _) = transfer(&mut client, physical, 64, false);
    let (_, half) = transfer(&mut client, logical + PAGE as u64, 64, true);
    assert_ne!(half[..64], secret[..64]);
    assert_eq!(memory[offset..offset + PAGE], secret);
    // The guest's page tables, which come first in its memory, are out of the device's reach as well.
    check_stopped(&mut client, abi::layout::RAM_BASE, true);
    // And all goes on.
    check_copy(&mut client, 4095);
}

fn configuration_is_the_kernels(target: Target) {
    if !has_iommu() {
        return;
    }
    let _alone = alone(&DEVICE);
    let (_machine, mut ports, mut client) = start(target, false);
    let select = |ports: &mut Client, register: u32| {
        let address = 0x8000_0000 | (EDU_FUNCTION << 8) | register;
        ports.control(portio::WRITE_PORT, &fields!(0xCF8_u32, 4_u32, address), 0);
    };
    let register = |ports: &mut Client, number: u32| {
        select(ports, number);
        ports.control_u32(portio::READ_PORT, &fields!(0xCFC_u32, 4_u32))
    };
    assert_eq!(register(&mut ports, 0), 0x11E8_1234);
    assert_eq!(u64::from(register(&mut ports, 0x10) & !0xF), bar());
    // Memory space and bus master, which Ringfence has turned on.
    assert_eq!(register(&mut ports, 4) & 6, 6);
    // The driver asks for the BAR's size, as drivers do: the kernel answers, and the BAR stays where it is.
    select(&mut ports, 0x10);
    let ones = fields!(0xCFC_u32, 4_u32, u32::MAX);
    ports.control(portio::WRITE_PORT, &ones, 0);
    let register =
        |ports: &mut Client| ports.control_u32(portio::READ_PORT, &fields!(0xCFC_u32, 4_u32));
    assert_eq!(register(&mut ports), 0xFFF0_0000);
    assert_eq!(read(&mut client, 0, 1), IDENTIFICATION);
    assert_eq!(client.process.stats().unwrap().port_denied, 0);
}

fn memory_space_turned_off_ends_the_guest(target: Target) {
    if !has_iommu() {
        return;
    }
    let _alone = alone(&DEVICE);
    let (_machine, mut ports, mut client) = start(target, false);
    assert_eq!(read(&mut client, 0, 1), IDENTIFICATION);
    let command = 0x8000_0000 | (EDU_FUNCTION << 8) | 4;
    ports.control(portio::WRITE_PORT, &fields!(0xCF8_u32, 4_u32, command), 0);
    ports.control(portio::WRITE_PORT, &fields!(0xCFC_u32, 2_u32, 0_u32), 0);
    let error = client
        .process
        .ioctl(client.handle, edu::READ, &fields!(0_u32, 1_u32), 4)
        .unwrap_err();
    let text = describe(&error);
    assert!(text.contains("memory space is off"), "{text}");
}

fn refusals_say_what_to_do(target: Target) {
    if !has_iommu() {
        return;
    }
    let _alone = alone(&DEVICE);
    let refusal = |policy: &str| {
        let launch = target.launch(&target.sample("portio"), policy);
        vmm::error_chain(&vmm::session::start(launch).unwrap_err())
    };
    let by_vfio = |address: &str| {
        format!(
            "[[pci]]\nbdf = \"{address}\"\nbackend = \"passthrough\"\naccess = \"r\"\ndma = \"vfio\"\n"
        )
    };
    // pci-testdev, which no driver has.
    let text = refusal(&by_vfio("0000:00:11.0"));
    assert!(
        text.contains("policy:1: `dma = \"vfio\"` cannot start for 1b36:0005 at 0000:00:11.0")
            && text.contains("bound to no driver and not to vfio-pci: as root, modprobe vfio-pci")
            && text.contains("0000:00:11.0 to /sys/bus/pci/drivers_probe"),
        "{text}"
    );
    // A function whose group a driver of the kernel shares.
    if !std::path::Path::new("/sys/bus/pci/devices/0000:00:1f.3/driver").exists() {
        edu_device::bind_function("0000:00:1f.3", "uio_pci_generic");
    }
    let text = refusal(&by_vfio("0000:00:1f.2"));
    assert!(
        text.contains(
            "is not viable: it is in use by other drivers (0000:00:1f.3 by uio_pci_generic)"
        ),
        "{text}"
    );
    // Bus mastering without `dma`.
    edu_device::bind("vfio-pci");
    let text = refusal(
        "[[pci]]\nbdf = \"0000:00:10.0\"\nbackend = \"passthrough\"\naccess = \"rw\"\ni-know-what-this-does = true\n",
    );
    assert!(
        text.contains("without `dma = \"vfio\"`")
            && text.contains("write `dma = \"vfio\"` into its rule"),
        "{text}"
    );
    // One at a time.
    let (_machine, _ports, _client) = start(target, false);
    let text = refusal(&by_vfio("0000:00:10.0"));
    assert!(
        text.contains("/dev/vfio/") && text.contains("another program has it"),
        "{text}"
    );
}
