//! Two drivers in one guest: upper.sys imports from lower.sys, asks its device and attaches to it.

use std::io::Write;
use std::sync::{Arc, Mutex};

use integration_tests::codes::status;
use integration_tests::{Client, Target, crash, fields, machine_tests, status_of};
use vmm::observe::crash::{Cause, CrashReport};
use vmm::observe::output::TraceOutput;
use vmm::session::driver::RunningDriver;
use vmm::session::{Launch, Machine, start};

machine_tests!(
    functions_are_imported_by_name_and_ordinal,
    device_of_other_driver_is_asked,
    attached_device_sees_requests_first,
    importer_without_its_exporter_does_not_start,
    crash_in_exporter_names_both_modules,
    fault_in_exporter_is_located_there,
    drivers_unload_in_reverse_order,
    unload_waits_for_open_files,
    exporter_in_use_is_unloaded_after_its_user,
    available_driver_is_loaded_from_inside,
);

const LOWER_STATE: u32 = 0x22_2000;
const LOWER_ADD: u32 = 0x22_2004;
const ASK_LOWER: u32 = 0x22_2008;
const LOWER_CRASH: u32 = 0x22_200C;
const UNLOAD_LOWER: u32 = 0x22_2010;
const LOAD_SERVICE: u32 = 0x22_2014;
const LOWER_WRITE: u32 = 0x22_2018;
const ATTACH: u32 = 0x22_201C;
const DETACH: u32 = 0x22_2020;
/// A code of lower.sys.
const DOUBLE: u32 = 0x22_2000;

const STATUS_PENDING: u32 = 0x103;
const STATUS_IMAGE_ALREADY_LOADED: u32 = 0xC000_010E;

fn launch(target: Target) -> Launch {
    let mut launch = target.launch(&target.sample("lower"), "");
    launch.drivers.push(target.sample("upper"));
    launch
}

fn start_both(target: Target) -> Machine {
    started(launch(target))
}

fn started(launch: Launch) -> Machine {
    start(launch).unwrap_or_else(|error| panic!("{}", vmm::error_chain(&error)))
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// What the drivers printed of their ends, in order.
    fn ends(&self) -> Vec<&'static str> {
        let trace = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        trace
            .lines()
            .filter_map(|line| {
                [
                    "upper: DriverUnload",
                    "lower: DriverUnload",
                    "lower: DllUnload",
                ]
                .into_iter()
                .find(|text| line.contains(text) && line.contains("DbgPrint("))
            })
            .collect()
    }
}

const IN_ORDER: [&str; 3] = [
    "upper: DriverUnload",
    "lower: DriverUnload",
    "lower: DllUnload",
];

fn traced(target: Target) -> (Machine, Lines) {
    let lines = Lines::default();
    let output = TraceOutput::to_writer("the test", Box::new(lines.clone()));
    let machine = started(Launch {
        trace: Some((output, false)),
        ..launch(target)
    });
    (machine, lines)
}

fn functions_are_imported_by_name_and_ordinal(target: Target) {
    let machine = start_both(target);
    let mut client = Client::open(&machine, r"\\.\upper");

    // 2: DllInitialize was called, and DriverEntry after it.
    assert_eq!(client.control_u32(LOWER_STATE, &[]), 2);
    let sum = client.control_u32(LOWER_ADD, &fields!(40_u32, 2_u32));
    assert_eq!(sum, 42);
    let wrapped = client.control_u32(LOWER_ADD, &fields!(u32::MAX, 2_u32));
    assert_eq!(wrapped, 1);
}

fn device_of_other_driver_is_asked(target: Target) {
    let machine = start_both(target);
    let mut client = Client::open(&machine, r"\\.\upper");
    let mut direct = Client::open(&machine, r"\\.\lower");

    assert_eq!(client.control_u32(ASK_LOWER, &fields!(21_u32)), 42);
    assert_eq!(direct.control_u32(DOUBLE, &fields!(100_u32)), 200);
    let short = direct.ioctl(DOUBLE, &[1, 2], 4);
    assert_eq!(short.status.0, status::BUFFER_TOO_SMALL);
}

fn attached_device_sees_requests_first(target: Target) {
    let machine = start_both(target);
    let mut upper = Client::open(&machine, r"\\.\upper");
    let mut before = Client::open(&machine, r"\\.\lower");
    assert_eq!(before.control_u32(DOUBLE, &fields!(5_u32)), 10);

    assert_eq!(upper.control_u32(ATTACH, &[]), 0);
    let mut after = Client::open(&machine, r"\\.\lower");

    // What lower.sys made of it and 1 of upper.sys's completion routine.
    assert_eq!(after.control_u32(DOUBLE, &fields!(5_u32)), 11);
    let refused = after.ioctl(0x22_2FFC, &fields!(5_u32), 4);
    assert_eq!(refused.status.0, status::INVALID_DEVICE_REQUEST);
    after.process.close(after.handle).unwrap();
    upper.control(DETACH, &[], 0);
    let mut detached = Client::open(&machine, r"\\.\lower");
    assert_eq!(detached.control_u32(DOUBLE, &fields!(5_u32)), 10);
}

fn importer_without_its_exporter_does_not_start(target: Target) {
    let alone = start(target.launch(&target.sample("upper"), ""));

    // Its device's search fails before it calls a function that nobody exports.
    let error = vmm::error_chain(&alone.err().unwrap());
    assert!(error.contains("STATUS_OBJECT_NAME_NOT_FOUND"), "{error}");
}

fn crash_report(target: Target, code: u32) -> CrashReport {
    let machine = start_both(target);
    let mut client = Client::open(&machine, r"\\.\upper");
    let report = crash(client.process.ioctl(client.handle, code, &[], 0));
    drop(machine);
    report
}

fn assert_calls(report: &CrashReport) {
    let frame = |module: &str| {
        report
            .stack
            .iter()
            .position(|frame| frame.name.starts_with(module))
            .unwrap_or_else(|| panic!("no {module} on the stack of {report}"))
    };
    assert!(frame("lower.sys") < frame("upper.sys"), "{report}");
}

fn crash_in_exporter_names_both_modules(target: Target) {
    let report = crash_report(target, LOWER_CRASH);

    assert!(
        matches!(report.cause, Cause::Bugcheck { code, .. } if code.0 == 0xE2),
        "{report}"
    );
    assert_calls(&report);
}

fn fault_in_exporter_is_located_there(target: Target) {
    let report = crash_report(target, LOWER_WRITE);

    assert!(report.location.starts_with("lower.sys"), "{report}");
    assert_calls(&report);
}

fn drivers_unload_in_reverse_order(target: Target) {
    let (machine, lines) = traced(target);
    let mut client = Client::open(&machine, r"\\.\upper");
    client.process.close(client.handle).unwrap();

    assert_eq!(client.process.unload().unwrap(), 0);

    assert!(client.process.open(r"\\.\lower").is_err());
    drop(client);
    drop(machine);
    assert_eq!(lines.ends(), IN_ORDER);
}

fn unload_waits_for_open_files(target: Target) {
    let (machine, lines) = traced(target);
    let mut client = Client::open(&machine, r"\\.\upper");

    let waits = client.process.unload();

    assert_eq!(status_of(waits).0, STATUS_PENDING);
    // The open file works on; the devices cannot be opened any more.
    let sum = client.control_u32(LOWER_ADD, &fields!(1_u32, 2_u32));
    assert_eq!(sum, 3);
    assert!(client.process.open(r"\\.\upper").is_err());
    client.process.close(client.handle).unwrap();
    assert!(client.process.open(r"\\.\lower").is_err());
    drop(client);
    drop(machine);
    assert_eq!(lines.ends(), IN_ORDER);
}

fn exporter_in_use_is_unloaded_after_its_user(target: Target) {
    let (machine, lines) = traced(target);
    let mut client = Client::open(&machine, r"\\.\upper");

    // upper.sys has a file open on it.
    assert_eq!(client.control_u32(UNLOAD_LOWER, &[]), 0);
    assert_eq!(client.control_u32(ASK_LOWER, &fields!(4_u32)), 8);
    assert!(client.process.open(r"\\.\lower").is_err());
    client.process.close(client.handle).unwrap();
    let unloaded = client.process.unload();
    drop(client);
    drop(machine);
    assert_eq!(lines.ends(), IN_ORDER, "{unloaded:?}");
}

fn available_driver_is_loaded_from_inside(target: Target) {
    let machine = started(Launch {
        available: vec![target.sample("echo")],
        ..launch(target)
    });
    let mut client = Client::open(&machine, r"\\.\upper");
    let mut load = |name: &str| {
        let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        client.control_u32(LOAD_SERVICE, &name)
    };
    assert!(machine.process().unwrap().open(r"\\.\echo").is_err());

    assert_eq!(load("nobody"), status::OBJECT_NAME_NOT_FOUND);
    assert_eq!(load("echo"), 0);
    assert_eq!(load("echo"), STATUS_IMAGE_ALREADY_LOADED);

    let mut echo = Client::open(&machine, r"\\.\echo");
    assert_eq!(echo.control(0x22_2000, &[1, 2], 2), [0xA4, 0xA8]);
}
