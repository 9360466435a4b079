//! Plug and play and power of a WDM function driver, and the resources that the policy gives it.

use integration_tests::codes::{pnp, status};
use integration_tests::{Client, Target, fields, machine_tests};
use vmm::session::Machine;
use vmm::session::device::{Device, PnpStep, PowerState};
use vmm::session::driver::RunningDriver;
use vmm::session::interpreter::Interpreter;

machine_tests!(
    driver_is_started_with_resources_of_the_policy,
    resource_alone_grants_nothing,
    ports_of_the_resource_reach_their_model,
    device_stops_and_starts_again,
    cancelled_queries_leave_the_device_as_it_was,
    surprise_removal_ends_with_the_last_handle,
    open_files_veto_removal,
    device_is_removed_and_unloaded,
    power_goes_down_and_up,
    failed_device_is_removed,
    identity_of_the_policy_is_the_device_s,
    held_device_waits_for_its_start,
    wrong_commands_say_what_is_wrong,
    driver_without_a_device_leaves_it_unused,
);

const LINK: &str = r"\\?\ROOT#PNP#0000#{4d1e55b2-f16f-11cf-88cb-0011a0000031}";

const POLICY: &str = r#"
    [[resource]]
    type = "port"
    range = "0x300-0x307"

    [[resource]]
    type = "memory"
    range = "0xd0010-0xd001f"

    [[resource]]
    type = "interrupt"
    line = 7
    mode = "latched"

    [[resource]]
    type = "dma"
    channel = 3
    share = "shared"

    [[port]]
    range = "0x300-0x303"
    access = "rw"
    backend = "ram"
    initial = [0x11, 0x22]

    [[memory]]
    range = "0xd0000-0xd0fff"
    access = "rw"
    backend = "ram"
"#;

fn started(target: Target) -> (Machine, Client) {
    let machine = target.start_sample("pnp", POLICY);
    let client = Client::open(&machine, LINK);
    (machine, client)
}

/// The fields of struct pnp_report as u32, the low half of first_address at 12.
fn report(client: &mut Client) -> Vec<u32> {
    let output = client.control(pnp::REPORT, &[], pnp::REPORT_BYTES);
    let (words, rest) = output.as_chunks::<4>();
    assert!(rest.is_empty());
    words.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

fn device(process: &mut impl RunningDriver) -> Device {
    let mut devices = process.devices().unwrap();
    assert_eq!(devices.len(), 1, "{devices:?}");
    devices.remove(0)
}

fn step(client: &mut Client, step: PnpStep) -> u32 {
    let number = device(&mut client.process).number;
    client.process.pnp(number, step).unwrap().0
}

fn state(client: &mut Client) -> String {
    device(&mut client.process).state
}

fn driver_is_started_with_resources_of_the_policy(target: Target) {
    let (_machine, mut client) = started(target);

    let report = report(&mut client);
    let (state, starts) = (report[0], report[3]);
    assert_eq!((state, starts), (pnp::STARTED, 1));
    assert_eq!(&report[5..7], [1, 1], "ranges");
    assert_ne!(report[7], 0, "the interrupt is connected");
    assert_eq!(report[8], 7, "line of the raw list");
    assert_eq!(&report[9..11], [0x300, 8], "ports");
    assert_eq!(report[11], 3, "DMA channel");
    assert_eq!(&report[12..15], [0xD_0010, 0, 0x10], "memory");

    let device = device(&mut client.process);
    assert_eq!(device.instance, r"ROOT\PNP\0000");
    assert_eq!(
        (&*device.state, device.power.as_deref()),
        ("started", Some("D0"))
    );
    assert_eq!(device.stack.len(), 2);
    assert_eq!(device.stack[1].driver, r"\Driver\pnp");
    assert_eq!(
        device.resources,
        [
            "ports 0x300-0x307",
            "memory 0xd0010-0xd001f",
            "interrupt 7, latched",
            "DMA channel 3, shared"
        ]
    );
    assert_eq!(device.interfaces[0].name, LINK);
    assert!(device.interfaces[0].is_enabled);
}

fn resource_alone_grants_nothing(target: Target) {
    let (_machine, mut client) = started(target);

    assert_eq!(client.control_u32(pnp::READ_PORT, &fields!(1_u32)), 0x22);
    // The resource has 8 ports, the rule 4.
    assert_eq!(client.control_u32(pnp::READ_PORT, &fields!(4_u32)), 0xFF);
    assert_eq!(client.process.stats().unwrap().port_denied, 1);
    let beyond = client.ioctl(pnp::READ_PORT, &fields!(8_u32), 4);
    assert_eq!(beyond.status.0, status::INVALID_PARAMETER);

    client.control(pnp::WRITE_MEMORY, &fields!(12_u32, 0xCAFE_F00D_u32), 0);
    let read = client.control_u32(pnp::READ_MEMORY, &fields!(12_u32));
    assert_eq!(read, 0xCAFE_F00D);

    // Without a rule the memory is not mapped.
    let bare = "[[resource]]\ntype = \"memory\"\nrange = \"0xd0000-0xd0fff\"\n";
    let machine = target.start_sample("pnp", bare);
    let mut client = Client::open(&machine, LINK);
    let read = client.ioctl(pnp::READ_MEMORY, &fields!(0_u32), 4);
    assert_eq!(read.status.0, status::INSUFFICIENT_RESOURCES);
}

fn ports_of_the_resource_reach_their_model(target: Target) {
    let folder = tempfile::tempdir().unwrap();
    let printed = folder.path().join("printed");
    let policy = format!(
        "[[resource]]\ntype = \"port\"\nrange = \"0x378-0x37a\"\n[[port]]\nrange = \"0x378-0x37a\"\naccess = \"rw\"\n\
         backend = \"lpt\"\noutput = {printed:?}\n"
    );
    let machine = target.start_sample("pnp", &policy);
    let mut client = Client::open(&machine, LINK);

    for (offset, value) in [(0_u32, u32::from(b'x')), (2, 0x0D), (2, 0x0C)] {
        client.control(pnp::WRITE_PORT, &fields!(offset, value), 0);
    }
    drop(client);
    drop(machine);

    assert_eq!(std::fs::read(printed).unwrap(), b"x");
}

fn device_stops_and_starts_again(target: Target) {
    let (_machine, mut client) = started(target);

    assert_eq!(step(&mut client, PnpStep::Stop), 0);
    assert_eq!(state(&mut client), "stopped");
    let stopped = report(&mut client);
    assert_eq!((stopped[0], stopped[4], stopped[7]), (pnp::STOPPED, 1, 0));
    let read = client.ioctl(pnp::READ_PORT, &fields!(0_u32), 4);
    assert_eq!(read.status.0, status::DEVICE_NOT_READY);
    assert_eq!(
        step(&mut client, PnpStep::Stop),
        status::INVALID_DEVICE_STATE
    );

    assert_eq!(step(&mut client, PnpStep::Start), 0);
    let again = report(&mut client);
    assert_eq!((again[0], again[3], again[4]), (pnp::STARTED, 2, 1));
    assert_eq!(client.control_u32(pnp::READ_PORT, &fields!(0_u32)), 0x11);
    assert_eq!(
        step(&mut client, PnpStep::Start),
        status::INVALID_DEVICE_STATE
    );
}

fn cancelled_queries_leave_the_device_as_it_was(target: Target) {
    let (machine, mut client) = started(target);

    assert_eq!(step(&mut client, PnpStep::QueryStop), 0);
    assert_eq!(report(&mut client)[0], pnp::STOP_PENDING);
    assert_eq!(step(&mut client, PnpStep::CancelStop), 0);
    assert_eq!(report(&mut client)[0], pnp::STARTED);

    client.process.close(client.handle).unwrap();
    assert_eq!(step(&mut client, PnpStep::QueryRemove), 0);
    assert_eq!(state(&mut client), "remove-pending");
    // Nobody opens a device that is about to go.
    let refused = machine.process().unwrap().open(LINK);
    assert_eq!(
        integration_tests::status_of(refused).0,
        status::NO_SUCH_DEVICE
    );
    assert_eq!(step(&mut client, PnpStep::CancelRemove), 0);
    let mut other = Client::open(&machine, LINK);
    assert_eq!(report(&mut other)[0], pnp::STARTED);
}

fn surprise_removal_ends_with_the_last_handle(target: Target) {
    let (machine, mut client) = started(target);

    assert_eq!(step(&mut client, PnpStep::SurpriseRemove), 0);
    assert_eq!(state(&mut client), "surprise-removed");
    assert_eq!(report(&mut client)[0], pnp::SURPRISE_REMOVED);
    let read = client.ioctl(pnp::READ_PORT, &fields!(0_u32), 4);
    assert_eq!(read.status.0, status::NO_SUCH_DEVICE);
    // The interface is gone, and the device cannot be opened.
    let refused = machine.process().unwrap().open(LINK);
    assert_eq!(
        integration_tests::status_of(refused).0,
        status::OBJECT_NAME_NOT_FOUND
    );
    assert_eq!(
        step(&mut client, PnpStep::SurpriseRemove),
        status::INVALID_DEVICE_STATE
    );

    client.process.close(client.handle).unwrap();
    let gone = device(&mut client.process);
    assert_eq!((&*gone.state, gone.stack.len()), ("removed", 1));
    assert_eq!(client.process.unload().unwrap(), 0);
    assert!(client.process.devices().unwrap().is_empty());
}

fn open_files_veto_removal(target: Target) {
    let (_machine, mut client) = started(target);

    assert_eq!(step(&mut client, PnpStep::Remove), status::DEVICE_BUSY);
    assert_eq!(report(&mut client)[0], pnp::STARTED);
    assert_eq!(
        integration_tests::status_of(client.process.unload()).0,
        status::DEVICE_BUSY
    );

    client.process.close(client.handle).unwrap();
    assert_eq!(client.process.unload().unwrap(), 0);
}

fn device_is_removed_and_unloaded(target: Target) {
    let (machine, mut client) = started(target);
    client.process.close(client.handle).unwrap();

    assert_eq!(step(&mut client, PnpStep::Remove), 0);
    assert_eq!(state(&mut client), "removed");
    assert_eq!(
        step(&mut client, PnpStep::Remove),
        status::INVALID_DEVICE_STATE
    );
    // AddDevice and START_DEVICE again.
    assert_eq!(step(&mut client, PnpStep::Start), 0);
    let mut other = Client::open(&machine, LINK);
    assert_eq!(report(&mut other)[3], 1, "a new device object");
    other.process.close(other.handle).unwrap();
    assert_eq!(client.process.unload().unwrap(), 0);
    assert!(client.process.devices().unwrap().is_empty());
}

fn power_goes_down_and_up(target: Target) {
    let (_machine, mut client) = started(target);
    let number = device(&mut client.process).number;
    let power = |client: &mut Client, state| client.process.power(number, state).unwrap().0;

    assert_eq!(power(&mut client, PowerState::Device(3)), 0);
    assert_eq!(report(&mut client)[1], 4);
    let read = client.ioctl(pnp::READ_PORT, &fields!(0_u32), 4);
    assert_eq!(read.status.0, status::DEVICE_POWERED_OFF);
    assert_eq!(device(&mut client.process).power.as_deref(), Some("D3"));
    assert_eq!(power(&mut client, PowerState::Device(0)), 0);
    assert_eq!(client.control_u32(pnp::READ_PORT, &fields!(0_u32)), 0x11);

    // The driver turns the system's states into the device's.
    assert_eq!(power(&mut client, PowerState::System(3)), 0);
    assert_eq!(&report(&mut client)[1..3], [4, 4]);
    assert_eq!(power(&mut client, PowerState::System(0)), 0);
    assert_eq!(&report(&mut client)[1..3], [1, 1]);
}

fn failed_device_is_removed(target: Target) {
    let (_machine, mut client) = started(target);

    client.control(pnp::FAIL, &[], 0);

    // The PnP manager asks for the state on a thread of its own.
    let gone = (0..1000).any(|_| state(&mut client) == "surprise-removed");
    assert!(gone, "{}", state(&mut client));
    client.process.close(client.handle).unwrap();
    assert_eq!(state(&mut client), "removed");
}

fn identity_of_the_policy_is_the_device_s(target: Target) {
    let policy = r#"
        [device]
        driver = "PNP.sys"
        instance-id = "card7"
        description = "A card"
        hardware-ids = ["ISAPNP\\CARD0001", "*CARD0001"]
        compatible-ids = ["*CARD"]

        [[resource]]
        type = "port"
        range = 0x300
    "#;
    let machine = target.start_sample("pnp", policy);
    let link = LINK.replace("0000#", "card7#");
    let mut client = Client::open(&machine, &link);
    let mut property = |number: u32| client.control(pnp::PROPERTY, &fields!(number), 512);
    let utf16 =
        |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };

    assert_eq!(property(0), utf16("A card\0"));
    assert_eq!(property(1), utf16("ISAPNP\\CARD0001\0*CARD0001\0\0"));
    assert_eq!(property(2), utf16("*CARD\0\0"));
    // DevicePropertyBootConfiguration: a CM_RESOURCE_LIST with one descriptor.
    let list = property(3);
    assert_eq!(list[..4], [1, 0, 0, 0]);
    assert_eq!(list[16..22], [1, 0, 0, 0, 1, 1]);
    assert_eq!(list[24..26], [0, 3]);
    assert_eq!(device(&mut client.process).instance, r"ROOT\PNP\card7");
}

fn held_device_waits_for_its_start(target: Target) {
    let mut launch = target.launch(&target.sample("pnp"), POLICY);
    launch.is_pnp_held = true;
    let machine = vmm::session::start(launch).unwrap_or_else(|error| panic!("{error}"));
    let mut process = machine.process().unwrap();

    let held = device(&mut process);
    assert_eq!((&*held.state, held.power), ("added", None));
    assert!(!held.interfaces[0].is_enabled);
    assert_eq!(process.pnp(held.number, PnpStep::Start).unwrap().0, 0);
    let mut client = Client::open(&machine, LINK);
    assert_eq!(report(&mut client)[9], 0x300);
}

fn wrong_commands_say_what_is_wrong(target: Target) {
    let (machine, client) = started(target);
    drop(client);
    let mut interpreter = Interpreter::new(Box::new(machine.process().unwrap()));
    let mut text = |line: &str| interpreter.execute_line(line).text;

    assert!(text("pnp list").contains(LINK));
    assert_eq!(
        text("pnp stop nobody"),
        r"pnp stop nobody: STATUS_NO_SUCH_DEVICE: no device is called nobody; there is ROOT\PNP\0000"
    );
    assert_eq!(
        text(r"pnp stop ROOT\PNP\0000"),
        r"pnp stop ROOT\PNP\0000: STATUS_SUCCESS, ROOT\PNP\0000 is stopped"
    );
    let twice = text("pnp query-stop");
    assert!(
        twice.starts_with("pnp query-stop: STATUS_INVALID_DEVICE_STATE"),
        "{twice}"
    );
    assert!(twice.ends_with(r"ROOT\PNP\0000 is stopped"), "{twice}");
    assert_eq!(
        text("pnp start pnp.sys"),
        r"pnp start pnp.sys: STATUS_SUCCESS, ROOT\PNP\0000 is started"
    );
    assert_eq!(
        text("power d2"),
        r"power D2: STATUS_SUCCESS, ROOT\PNP\0000 is in D2"
    );
    assert!(text("pnp frob").starts_with("column 5: `frob`; expected list, or a step"));
    assert!(text("power D4").starts_with("column 7: `D4`; expected a power state"));
}

fn driver_without_a_device_leaves_it_unused(target: Target) {
    let machine = target.start_sample("echo", "[device]\ndescription = \"unused\"\n");
    let mut interpreter = Interpreter::new(Box::new(machine.process().unwrap()));

    assert_eq!(
        interpreter.execute_line("pnp list").text,
        "pnp list: no devices"
    );
    let refused = interpreter.execute_line("power D3").text;
    assert_eq!(
        refused,
        "power D3: STATUS_NO_SUCH_DEVICE: there is no PnP device: no driver has AddDevice"
    );
}
