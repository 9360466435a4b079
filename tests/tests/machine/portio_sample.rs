//! Port and memory access by a driver for its client: HAL routines, mappings, instructions of its own.

use integration_tests::codes::{portio, status};
use integration_tests::{Client, Target, bytes, fields, machine_tests};
use vmm::session::Machine;
use vmm::session::driver::RunningDriver;

machine_tests!(
    ports_of_every_width_read_back,
    port_buffers_move_every_value_through_one_port,
    port_buffers_are_read_with_few_exits,
    instructions_of_the_driver_reach_the_policy,
    access_that_policy_denies_reads_ones,
    denied_access_with_fault_is_bugcheck,
    read_only_port_ignores_writes,
    bytes_are_strobed_into_lpt,
    bus_addresses_translate_one_to_one,
    allowed_memory_reads_back,
    memory_outside_policy_is_not_mapped,
    read_only_memory_is_not_mapped,
    unmapped_range_can_be_mapped_again,
    mappings_of_one_address_share_memory,
    bad_requests_are_refused,
    unload_unmaps,
);

const POLICY: &str = r#"
    [[port]]
    range = "0x300-0x30f"
    access = "rw"
    backend = "ram"

    [[port]]
    range = "0x310"
    access = "r"
    backend = "ram"
    initial = 0x5A

    [[memory]]
    range = "0xd0000-0xd1fff"
    access = "rw"
    backend = "ram"

    [[memory]]
    range = "0xe0000-0xe0fff"
    access = "r"
    backend = "ram"
"#;

const ALLOWED: u64 = 0xD_0000;
const READ_ONLY: u64 = 0xE_0000;
const UNNAMED: u64 = 0xC_0000;

fn start(target: Target) -> (Machine, Client) {
    let machine = target.start_sample("portio", POLICY);
    let client = Client::open(&machine, r"\\.\portio");
    (machine, client)
}

fn ports_of_every_width_read_back(target: Target) {
    let (_machine, mut client) = start(target);

    for (width, value) in [(1_u32, 0xA5_u32), (2, 0xBEEF), (4, 0xDEAD_BEEF)] {
        client.control(portio::WRITE_PORT, &fields!(0x304_u32, width, value), 0);
        let read = client.control_u32(portio::READ_PORT, &fields!(0x304_u32, width));
        assert_eq!(read, value, "width {width}");
    }

    // Bytes lie in the ports as they lie in memory.
    let byte = client.control_u32(portio::READ_PORT, &fields!(0x306_u32, 1_u32));
    assert_eq!(byte, 0xAD);
    let word = client.control_u32(portio::READ_PORT, &fields!(0x305_u32, 2_u32));
    assert_eq!(word, 0xADBE);
}

fn port_buffers_move_every_value_through_one_port(target: Target) {
    let (_machine, mut client) = start(target);

    for width in [1_u32, 2, 4] {
        let values = bytes(16);
        let written = [&fields!(0x300_u32, width)[..], &values].concat();
        client.control(portio::WRITE_PORT_BUFFER, &written, 0);
        let read = client.control(
            portio::READ_PORT_BUFFER,
            &fields!(0x300_u32, width),
            3 * width,
        );

        // The register keeps the last value.
        let last = &values[16 - width as usize..];
        assert_eq!(read, [last, last, last].concat(), "width {width}");
    }
    let stats = client.process.stats().unwrap();
    assert_eq!((stats.port_writes, stats.port_reads), (16 + 8 + 4, 3 * 3));
}

/// A `rep ins`, the driver's own on amd64 and HAL's on i386, leaves the guest once for as many elements as KVM asks for at
/// a time, 1 KiB of one page; a `rep outs` may leave it for each. Every element is an access of its own for the policy.
fn port_buffers_are_read_with_few_exits(target: Target) {
    const BYTES: u32 = 8192;
    let (_machine, mut client) = start(target);

    for width in [1_u32, 2, 4] {
        let register = fields!(0x300_u32, width);
        let one = (fields!(0x300_u32, width), width);
        let count = |client: &mut Client, is_write: bool, bytes: u32| {
            let before = client.process.stats().unwrap();
            if is_write {
                let values = vec![0xA5; bytes as usize];
                let input = [&register[..], &values].concat();
                client.control(portio::WRITE_PORT_BUFFER, &input, 0);
            } else {
                let read = client.control(portio::READ_PORT_BUFFER, &one.0, bytes);
                assert!(read.iter().all(|byte| *byte == 0xA5));
                assert_eq!(read.len(), bytes as usize);
            }
            let after = client.process.stats().unwrap();
            let accesses =
                (after.port_writes + after.port_reads) - (before.port_writes + before.port_reads);
            (after.exits - before.exits, accesses)
        };
        let elements = u64::from(BYTES / width);
        for is_write in [true, false] {
            let (exits_of_one, accesses) = count(&mut client, is_write, one.1);
            assert_eq!(accesses, 1);
            let (exits, accesses) = count(&mut client, is_write, BYTES);
            assert_eq!(accesses, elements);
            // Beyond those of a request with one element.
            let exits = exits.saturating_sub(exits_of_one);
            let what =
                format!("width {width}, write {is_write}: {exits} exits, {elements} elements");
            eprintln!("{what}");
            // 8 KiB in pieces of 1 KiB that end with a page: 8, and one more for each of 3 pages that it may lie in.
            let most = if is_write { elements } else { 11 };
            assert!(exits <= most, "{what}");
        }
    }
}

fn instructions_of_the_driver_reach_the_policy(target: Target) {
    let (_machine, mut client) = start(target);

    for (width, value) in [(1_u32, 0x5A_u32), (2, 0x1234), (4, 0x0BAD_F00D)] {
        client.control(portio::WRITE_INLINE, &fields!(0x308_u32, width, value), 0);
        let inline = client.control_u32(portio::READ_INLINE, &fields!(0x308_u32, width));
        let routine = client.control_u32(portio::READ_PORT, &fields!(0x308_u32, width));
        assert_eq!((inline, routine), (value, value), "width {width}");
    }
}

fn access_that_policy_denies_reads_ones(target: Target) {
    let (_machine, mut client) = start(target);

    let byte = client.control_u32(portio::READ_PORT, &fields!(0x400_u32, 1_u32));
    let word = client.control_u32(portio::READ_INLINE, &fields!(0x400_u32, 2_u32));
    // The last allowed port and the first that is not.
    let straddle = client.control_u32(portio::READ_PORT, &fields!(0x310_u32, 2_u32));
    client.control(portio::WRITE_PORT, &fields!(0x400_u32, 4_u32, 7_u32), 0);

    assert_eq!((byte, word, straddle), (0xFF, 0xFFFF, 0xFFFF));
    assert_eq!(client.process.stats().unwrap().port_denied, 4);
}

fn denied_access_with_fault_is_bugcheck(target: Target) {
    let machine = target.start_sample("portio", "[default]\non-deny = \"fault\"\n");
    let mut client = Client::open(&machine, r"\\.\portio");
    let input = fields!(0x300_u32, 1_u32);

    let result = client
        .process
        .ioctl(client.handle, portio::READ_INLINE, &input, 4);

    let report = integration_tests::crash(result);
    assert!(report.location.starts_with("portio.sys+0x"), "{report}");
    assert_eq!(
        report.exception.as_ref().map(|exception| exception.vector),
        Some(13),
        "{report}"
    );
}

fn read_only_port_ignores_writes(target: Target) {
    let (_machine, mut client) = start(target);

    client.control(portio::WRITE_PORT, &fields!(0x310_u32, 1_u32, 0_u32), 0);

    let read = client.control_u32(portio::READ_PORT, &fields!(0x310_u32, 1_u32));
    assert_eq!(read, 0x5A);
    assert_eq!(client.process.stats().unwrap().port_denied, 1);
}

fn bytes_are_strobed_into_lpt(target: Target) {
    let folder = tempfile::tempdir().unwrap();
    let printed = folder.path().join("printed");
    let policy = format!(
        "[[port]]\nrange = \"0x378-0x37a\"\naccess = \"rw\"\nbackend = \"lpt\"\noutput = {printed:?}\n"
    );
    let machine = target.start_sample("portio", &policy);
    let mut client = Client::open(&machine, r"\\.\portio");

    for (code, byte) in [
        (portio::WRITE_PORT, b'a'),
        (portio::WRITE_INLINE, b'b'),
        (portio::WRITE_PORT, 0),
    ] {
        for (port, value) in [(0x378_u32, u32::from(byte)), (0x37A, 0x0D), (0x37A, 0x0C)] {
            client.control(code, &fields!(port, 1_u32, value), 0);
        }
    }
    let status = client.control_u32(portio::READ_PORT, &fields!(0x379_u32, 1_u32));
    drop(client);
    drop(machine);

    assert_eq!(status, 0xD8);
    assert_eq!(std::fs::read(printed).unwrap(), b"ab\0");
}

fn bus_addresses_translate_one_to_one(target: Target) {
    let (_machine, mut client) = start(target);
    let mut translate = |address: u64, interface: u32, bus: u32, space: u32| {
        let input = fields!(address, interface, bus, space, 0_u32);
        let output = client.control(portio::TRANSLATE, &input, 16);
        let is_translated = output[12..16] != [0; 4];
        is_translated.then(|| output[..12].to_vec())
    };

    // Internal, Isa, PCIBus; I/O space, then memory.
    assert_eq!(translate(0x378, 1, 0, 1), Some(fields!(0x378_u64, 1_u32)));
    assert_eq!(translate(0xE050, 5, 0, 1), Some(fields!(0xE050_u64, 1_u32)));
    assert_eq!(
        translate(0xD_0000, 0, 0, 0),
        Some(fields!(0xD_0000_u64, 0_u32))
    );
    // No such port, bus, kind of bus.
    assert_eq!(translate(0x1_0000, 1, 0, 1), None);
    assert_eq!(translate(0x378, 1, 7, 1), None);
    assert_eq!(translate(0x378, 99, 0, 1), None);
}

fn allowed_memory_reads_back(target: Target) {
    let (_machine, mut client) = start(target);

    // In the last bytes of the first page and the first of the second.
    for width in [1_u32, 2, 4] {
        let data = bytes(8 * width as usize);
        let range = fields!(ALLOWED + 0xFF0, 8 * width, width);
        client.control(portio::WRITE_MEMORY, &[&range[..], &data].concat(), 0);
        let read = client.control(portio::READ_MEMORY, &range, 8 * width);
        assert_eq!(read, data, "width {width}");
    }

    assert_eq!(client.process.stats().unwrap().memory_mapped, 6);
}

fn memory_outside_policy_is_not_mapped(target: Target) {
    let (_machine, mut client) = start(target);

    for (address, length) in [
        (UNNAMED, 4_u32),
        // One byte beyond the last allowed page.
        (ALLOWED + 0x1FFC, 8),
        (0, 4),
        (0xFFFF_F000, 4),
        (0xF_FFFF_FFFF_F000, 4),
        // The guest's own memory is not there for the taking.
        (0x100_0000, 4),
    ] {
        let input = fields!(address, length, 4_u32);
        let read = client.ioctl(portio::READ_MEMORY, &input, length);
        assert_eq!(
            read.status.0,
            status::INSUFFICIENT_RESOURCES,
            "{address:#x}: {}",
            read.status
        );
    }
    let stats = client.process.stats().unwrap();
    assert_eq!((stats.memory_mapped, stats.memory_denied), (0, 6));
}

fn read_only_memory_is_not_mapped(target: Target) {
    let (_machine, mut client) = start(target);

    // MmMapIoSpace always asks for a writable mapping.
    let input = fields!(READ_ONLY, 4_u32, 4_u32);
    let read = client.ioctl(portio::READ_MEMORY, &input, 4);

    assert_eq!(read.status.0, status::INSUFFICIENT_RESOURCES);
}

fn unmapped_range_can_be_mapped_again(target: Target) {
    let (_machine, mut client) = start(target);
    let range = fields!(ALLOWED, 0x1000_u32, 0_u32);

    // More often than there is room for at once.
    for round in 0..20_u32 {
        let mapping = client.control_u32(portio::MAP, &range);
        let register = fields!(mapping, 0x10_u32, 4_u32);
        if round > 0 {
            let kept = client.control_u32(portio::READ_MAPPED, &register);
            assert_eq!(kept, round - 1);
        }
        let write = fields!(mapping, 0x10_u32, 4_u32, round);
        client.control(portio::WRITE_MAPPED, &write, 0);
        client.control(portio::UNMAP, &fields!(mapping), 0);
    }

    let twice = client.ioctl(portio::UNMAP, &fields!(0_u32), 0);
    assert_eq!(twice.status.0, status::INVALID_PARAMETER);
}

fn mappings_of_one_address_share_memory(target: Target) {
    let (_machine, mut client) = start(target);
    let whole = client.control_u32(portio::MAP, &fields!(ALLOWED, 0x2000_u32, 0_u32));
    // Not at a page's start.
    let part = client.control_u32(portio::MAP, &fields!(ALLOWED + 0x1234, 4_u32, 0_u32));

    let write = fields!(whole, 0x1234_u32, 4_u32, 0xCAFE_BABE_u32);
    client.control(portio::WRITE_MAPPED, &write, 0);

    assert_ne!(whole, part);
    let read = client.control_u32(portio::READ_MAPPED, &fields!(part, 0_u32, 4_u32));
    assert_eq!(read, 0xCAFE_BABE);
    client.control(portio::UNMAP, &fields!(whole), 0);
    let read = client.control_u32(portio::READ_MAPPED, &fields!(part, 2_u32, 2_u32));
    assert_eq!(read, 0xCAFE);
}

fn bad_requests_are_refused(target: Target) {
    let (_machine, mut client) = start(target);
    let mut status_of = |code, input: &[u8], output| client.ioctl(code, input, output).status.0;

    assert_eq!(
        status_of(portio::READ_PORT, &[], 4),
        status::BUFFER_TOO_SMALL
    );
    assert_eq!(
        status_of(portio::READ_PORT, &fields!(0x300_u32, 1_u32), 3),
        status::BUFFER_TOO_SMALL
    );
    assert_eq!(
        status_of(portio::READ_PORT, &fields!(0x300_u32, 3_u32), 4),
        status::INVALID_PARAMETER
    );
    assert_eq!(
        status_of(portio::READ_PORT, &fields!(0x1_0000_u32, 1_u32), 4),
        status::INVALID_PARAMETER
    );
    assert_eq!(
        status_of(0x0022_2FFC, &[], 0),
        status::INVALID_DEVICE_REQUEST
    );
}

fn unload_unmaps(target: Target) {
    let (_machine, mut client) = start(target);
    client.control_u32(portio::MAP, &fields!(ALLOWED, 0x1000_u32, 0_u32));
    client.control_u32(portio::MAP, &fields!(ALLOWED, 0x2000_u32, 0_u32));
    client.process.close(client.handle).unwrap();

    let leaked = client.process.unload().unwrap();

    assert_eq!(leaked, 0);
}
