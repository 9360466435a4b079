//! Ring-3 port access: what a driver grants with the Ke386 calls, and nothing else.

use integration_tests::codes::{ioperm, status};
use integration_tests::{Client, Target, fields, machine_tests, status_of};
use vmm::session::driver::{PortWidth, RunningDriver};

machine_tests!(
    port_before_open_is_privileged_instruction,
    open_grants_every_port,
    open_of_none_grants_nothing,
    open_of_unknown_name_is_not_found,
    granted_range_ends_at_its_last_port,
    revoked_map_denies_again,
    map_reads_back_as_it_was_set,
    maps_other_than_one_cannot_be_set,
    process_can_be_pointed_at_map_by_another,
    other_process_keeps_its_own_map,
    close_keeps_grant_and_exit_ends_it,
    byte_reaches_lpt_only_when_strobed,
);

const STATUS_PORT: u16 = 0x379;
/// The model's status register reads 0x5A, which no denied read gives.
const POLICY: &str = r#"
    [[port]]
    range = "0x378-0x37a"
    access = "rw"
    backend = "ram"
    initial = [0x11, 0x5A, 0x33]
"#;

fn port_before_open_is_privileged_instruction(target: Target) {
    let machine = target.start_sample("ioperm", POLICY);
    let mut process = machine.process().unwrap();

    let read = process.port_in(STATUS_PORT, PortWidth::Byte);
    let write = process.port_out(0x378, PortWidth::Byte, 0xFF);

    assert_eq!(status_of(read).0, status::PRIVILEGED_INSTRUCTION);
    assert_eq!(status_of(write).0, status::PRIVILEGED_INSTRUCTION);
    // Neither got as far as the policy.
    let stats = process.stats().unwrap();
    assert_eq!(
        (stats.port_reads, stats.port_writes, stats.port_denied),
        (0, 0, 0)
    );
}

fn open_grants_every_port(target: Target) {
    let machine = target.start_sample("ioperm", POLICY);
    let mut client = Client::open(&machine, r"\\.\ioperm");
    let process = &mut client.process;

    assert_eq!(process.port_in(STATUS_PORT, PortWidth::Byte).unwrap(), 0x5A);
    assert_eq!(process.port_in(0x378, PortWidth::Word).unwrap(), 0x5A11);
    process.port_out(0x378, PortWidth::Byte, 0x77).unwrap();
    assert_eq!(process.port_in(0x378, PortWidth::Byte).unwrap(), 0x77);
    // Granted, but not by the policy: all ones.
    assert_eq!(
        process.port_in(0xFFFC, PortWidth::Dword).unwrap(),
        0xFFFF_FFFF
    );
    assert_eq!(process.port_in(0, PortWidth::Byte).unwrap(), 0xFF);
    assert_eq!(process.stats().unwrap().port_denied, 2);
}

fn open_of_none_grants_nothing(target: Target) {
    let machine = target.start_sample("ioperm", POLICY);
    let mut client = Client::open(&machine, r"\\.\ioperm\none");

    let denied = client.process.port_in(STATUS_PORT, PortWidth::Byte);

    assert_eq!(status_of(denied).0, status::PRIVILEGED_INSTRUCTION);
    client.control(ioperm::GRANT_ALL, &[], 0);
    assert_eq!(
        client
            .process
            .port_in(STATUS_PORT, PortWidth::Byte)
            .unwrap(),
        0x5A
    );
}

fn open_of_unknown_name_is_not_found(target: Target) {
    let machine = target.start_sample("ioperm", POLICY);
    let mut process = machine.process().unwrap();

    for path in [r"\\.\ioperm\nine", r"\\.\iopermx", r"\\.\", r"\Device\x\y"] {
        let opened = process.open(path);
        let status = status_of(opened);
        assert!(!status.is_success(), "{path}: {status}");
    }
    let by_driver = process.open(r"\\.\ioperm\nine");
    assert_eq!(status_of(by_driver).0, status::OBJECT_NAME_NOT_FOUND);
    // What is there can be opened by its other names, in any case.
    process.open(r"\??\IOPERM").unwrap();
    process.open(r"\Device\ioperm").unwrap();
}

fn granted_range_ends_at_its_last_port(target: Target) {
    let machine = target.start_sample("ioperm", POLICY);
    let mut client = Client::open(&machine, r"\\.\ioperm\none");

    client.control(ioperm::GRANT_RANGE, &fields!(0x378_u16, STATUS_PORT), 0);

    let mut read = |port, width| status_of(client.process.port_in(port, width)).0;
    assert_eq!(read(0x378, PortWidth::Byte), status::SUCCESS);
    assert_eq!(read(0x378, PortWidth::Word), status::SUCCESS);
    assert_eq!(read(0x377, PortWidth::Byte), status::PRIVILEGED_INSTRUCTION);
    assert_eq!(read(0x37A, PortWidth::Byte), status::PRIVILEGED_INSTRUCTION);
    // One denied byte denies the access.
    assert_eq!(
        read(STATUS_PORT, PortWidth::Word),
        status::PRIVILEGED_INSTRUCTION
    );
    assert_eq!(
        read(0x378, PortWidth::Dword),
        status::PRIVILEGED_INSTRUCTION
    );
    let empty = client.ioctl(ioperm::GRANT_RANGE, &fields!(2_u16, 1_u16), 0);
    assert_eq!(empty.status.0, status::INVALID_PARAMETER);
}

fn revoked_map_denies_again(target: Target) {
    let machine = target.start_sample("ioperm", POLICY);
    let mut client = Client::open(&machine, r"\\.\ioperm");
    client
        .process
        .port_in(STATUS_PORT, PortWidth::Byte)
        .unwrap();

    client.control(ioperm::REVOKE, &[], 0);

    let denied = client.process.port_in(STATUS_PORT, PortWidth::Byte);
    assert_eq!(status_of(denied).0, status::PRIVILEGED_INSTRUCTION);
    // The map itself is still there.
    client.control(ioperm::SET_PROCESS, &fields!(0_u32, 1_u32), 0);
    assert_eq!(
        client
            .process
            .port_in(STATUS_PORT, PortWidth::Byte)
            .unwrap(),
        0x5A
    );
}

fn map_reads_back_as_it_was_set(target: Target) {
    let machine = target.start_sample("ioperm", POLICY);
    let mut client = Client::open(&machine, r"\\.\ioperm\none");
    let map: Vec<u8> = (0..ioperm::MAP_BYTES)
        .map(|index| index.wrapping_mul(0x9E37_79B9).to_le_bytes()[3])
        .collect();

    client.control(ioperm::SET_MAP, &[&fields!(1_u32)[..], &map].concat(), 0);

    assert_eq!(
        client.control(ioperm::QUERY_MAP, &[], ioperm::MAP_BYTES),
        map
    );
    assert_eq!(
        client.control(ioperm::QUERY_MAP, &fields!(0_u32), ioperm::MAP_BYTES),
        [0xFF; 8192]
    );
    let short = client.ioctl(ioperm::QUERY_MAP, &[], ioperm::MAP_BYTES - 1);
    assert_eq!(short.status.0, status::BUFFER_TOO_SMALL);
    assert_eq!((short.information, short.output), (0, Vec::new()));
}

fn maps_other_than_one_cannot_be_set(target: Target) {
    let machine = target.start_sample("ioperm", POLICY);
    let mut client = Client::open(&machine, r"\\.\ioperm\none");

    for number in [0_u32, 2, 3, 0x8000_0000, 0xFFFF_FFFF] {
        let map = [&fields!(number)[..], &[0; 8192]].concat();
        let set = client.ioctl(ioperm::SET_MAP, &map, 0);
        assert_eq!(set.status.0, status::UNSUCCESSFUL, "map {number:#x}");
    }
    for number in [2_u32, 0xFFFF_FFFF] {
        let query = client.ioctl(ioperm::QUERY_MAP, &fields!(number), ioperm::MAP_BYTES);
        assert_eq!(query.status.0, status::UNSUCCESSFUL, "map {number:#x}");
        let point = client.ioctl(ioperm::SET_PROCESS, &fields!(0_u32, number), 0);
        assert_eq!(point.status.0, status::UNSUCCESSFUL, "map {number:#x}");
    }
    let denied = client.process.port_in(STATUS_PORT, PortWidth::Byte);
    assert_eq!(status_of(denied).0, status::PRIVILEGED_INSTRUCTION);
}

fn process_can_be_pointed_at_map_by_another(target: Target) {
    let machine = target.start_sample("ioperm", POLICY);
    let mut granter = Client::open(&machine, r"\\.\ioperm");
    let mut receiver = machine.process().unwrap();

    granter.control(ioperm::SET_PROCESS, &fields!(receiver.id(), 1_u32), 0);

    assert_eq!(
        receiver.port_in(STATUS_PORT, PortWidth::Byte).unwrap(),
        0x5A
    );
    let nobody = granter.ioctl(ioperm::SET_PROCESS, &fields!(0x7FFF_FFF0_u32, 1_u32), 0);
    assert_eq!(nobody.status.0, status::INVALID_PARAMETER);
}

fn other_process_keeps_its_own_map(target: Target) {
    let machine = target.start_sample("ioperm", POLICY);
    let mut bystander = machine.process().unwrap();
    let mut granted = Client::open(&machine, r"\\.\ioperm");
    let mut user = Client::open(&machine, r"\\.\ioperm\none");

    // In turns: the guest has one TSS bitmap for all of them.
    for _ in 0..3 {
        let allowed = granted.process.port_in(STATUS_PORT, PortWidth::Byte);
        assert_eq!(allowed.unwrap(), 0x5A);
        for denied in [&mut bystander, &mut user.process] {
            let read = denied.port_in(STATUS_PORT, PortWidth::Byte);
            assert_eq!(status_of(read).0, status::PRIVILEGED_INSTRUCTION);
        }
    }
}

fn close_keeps_grant_and_exit_ends_it(target: Target) {
    let machine = target.start_sample("ioperm", POLICY);
    let Client {
        mut process,
        handle,
    } = Client::open(&machine, r"\\.\ioperm");

    process.close(handle).unwrap();

    // As with GIVEIO: the grant belongs to the process.
    assert_eq!(process.port_in(STATUS_PORT, PortWidth::Byte).unwrap(), 0x5A);
    let closed = process.ioctl(handle, ioperm::GRANT_ALL, &[], 0);
    assert_eq!(
        closed
            .map_or_else(|error| status_of::<()>(Err(error)), |done| done.status)
            .0,
        status::INVALID_HANDLE
    );
    drop(process);
    let mut next = machine.process().unwrap();
    assert_eq!(
        status_of(next.port_in(STATUS_PORT, PortWidth::Byte)).0,
        status::PRIVILEGED_INSTRUCTION
    );
    assert_eq!(next.unload().unwrap(), 0);
}

fn byte_reaches_lpt_only_when_strobed(target: Target) {
    let folder = tempfile::tempdir().unwrap();
    let printed = folder.path().join("printed");
    let policy = format!(
        "[[port]]\nrange = \"0x378-0x37a\"\naccess = \"rw\"\nbackend = \"lpt\"\noutput = {printed:?}\n"
    );
    let machine = target.start_sample("ioperm", &policy);
    let mut client = Client::open(&machine, r"\\.\ioperm");
    let mut out = |port, value| {
        client
            .process
            .port_out(port, PortWidth::Byte, value)
            .unwrap();
    };

    out(0x378, u32::from(b'-'));
    for byte in b"Hi\0" {
        out(0x378, u32::from(*byte));
        out(0x37A, 0x0D);
        out(0x378, u32::from(b'-'));
        out(0x37A, 0x0C);
    }
    drop(client);
    drop(machine);

    assert_eq!(std::fs::read(printed).unwrap(), b"Hi\0");
}
