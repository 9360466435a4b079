//! The shim as a whole, natively: a driver of the test's own under requests of a VMM that the test plays.

mod clients;
#[cfg(not(nt_i386))]
mod fast_paths;
mod kernel;
mod sync;
mod threads;

use crate::nt::{
    DEVICE_OBJECT, DO_BUFFERED_IO, DO_DIRECT_IO, DRIVER_OBJECT, IO_STACK_LOCATION, IRP, NtStatus,
    SL_PENDING_RETURNED, UNICODE_STRING, bugcheck,
};
use crate::ob::names;
use crate::raw::Ptr;
use crate::test_platform::{Machine, api, crash_of, machine};
use crate::{io, ps, shared};
use abi::channel::Operation;
use std::sync::atomic::{AtomicU64, Ordering};

const CLIENT: u32 = 1000;
const GENERIC_ALL: u64 = 0x1000_0000;
/// Codes of the test driver: device type 0x8000, function 0x800, any access; plus the method.
const ECHO: u64 = 0x8000_2000;
const PEND: u64 = 0x8000_2010;
const TWICE: u64 = 0x8000_2020;
const WARN: u64 = 0x8000_2030;
const FAIL: u64 = 0x8000_2040;
const RAISE: u64 = 0x8000_2050;
const LEAK: u64 = 0x8000_2060;

static PENDED: AtomicU64 = AtomicU64::new(0);

struct Name {
    units: Vec<u16>,
    string: UNICODE_STRING,
}

fn name(text: &str) -> Box<Name> {
    let mut name = Box::new(Name {
        units: text.encode_utf16().collect(),
        string: UNICODE_STRING::default(),
    });
    let bytes = u16::try_from(2 * name.units.len()).unwrap();
    name.string = UNICODE_STRING {
        Length: bytes,
        MaximumLength: bytes,
        Buffer: Ptr::of(&mut name.units[0]),
    };
    name
}

extern "win64-unwind" fn driver_entry(driver: u64, registry_path: u64) -> u64 {
    let path = crate::raw::unicode_text(Ptr::new(registry_path));
    assert_eq!(
        path,
        "\\Registry\\Machine\\System\\CurrentControlSet\\Services\\echo"
    );
    let (mut device_name, mut link) = (name("\\Device\\Echo"), name("\\DosDevices\\Echo"));
    let mut device = 0_u64;
    let [at, link_at] = [&mut device_name, &mut link].map(|name| Ptr::of(&mut name.string).addr());
    let status = api(
        "IoCreateDevice",
        &[driver, 32, at, 0x8000, 0, 0, Ptr::of(&mut device).addr()],
    );
    assert_eq!(status, 0);
    assert_eq!(api("IoCreateSymbolicLink", &[link_at, at]), 0);
    Ptr::<DRIVER_OBJECT>::new(driver).with(|driver| {
        driver.MajorFunction = [dispatch as *const () as u64; 28];
        driver.DriverUnload = unload as *const () as u64;
    });
    Ptr::<DEVICE_OBJECT>::new(device).with(|device| device.Flags |= DO_BUFFERED_IO);
    0
}

extern "win64-unwind" fn failing_entry(driver: u64, registry_path: u64) -> u64 {
    let _ = driver_entry(driver, registry_path);
    u64::from(NtStatus::NO_SUCH_DEVICE.0)
}

extern "win64-unwind" fn unload(driver: u64) -> u64 {
    let mut link = name("\\??\\Echo");
    assert_eq!(
        api("IoDeleteSymbolicLink", &[Ptr::of(&mut link.string).addr()]),
        0
    );
    api(
        "IoDeleteDevice",
        &[Ptr::<DRIVER_OBJECT>::new(driver).read().DeviceObject.addr()],
    );
    0
}

fn finish(irp: Ptr<IRP>, status: NtStatus, information: u64) -> u64 {
    irp.with(|irp| {
        irp.IoStatus.Status = u64::from(status.0);
        irp.IoStatus.Information = information;
    });
    io::irp::complete(irp);
    u64::from(status.0)
}

/// Adds 1 to each byte of input, for `count` bytes, wherever the method put it.
fn transform(source: Ptr<u8>, target: Ptr<u8>, count: u64) {
    for index in 0..count {
        target
            .add_bytes(index)
            .write(source.add_bytes(index).read() + 1);
    }
}

fn mapped(irp: Ptr<IRP>) -> Ptr<u8> {
    let mdl = irp.read().MdlAddress;
    Ptr::new(api(
        "MmMapLockedPagesSpecifyCache",
        &[mdl.addr(), 0, 1, 0, 0, 16],
    ))
}

extern "win64-unwind" fn dispatch(_device: u64, irp: u64) -> u64 {
    let irp = Ptr::<IRP>::new(irp);
    let packet = irp.read();
    let stack = packet.CurrentStackLocation;
    let IO_STACK_LOCATION {
        MajorFunction: major,
        Parameters: [output, input, code, type_3],
        ..
    } = stack.read();
    let system = Ptr::<u8>::new(packet.SystemBuffer);
    match (major, code) {
        (0x0E, code) if code & !3 == ECHO => {
            let count = input.min(output);
            match code & 3 {
                0 => transform(system, system, count),
                3 => {
                    let caller = abi::layout::USER..abi::layout::USER + 0x1000;
                    let is_callers = |address| {
                        caller.contains(&address) || crate::client::memory::is_user(address)
                    };
                    assert!(is_callers(type_3) && is_callers(packet.UserBuffer));
                    let alias = |address| Ptr::new(crate::mm::user_alias(address, count).unwrap());
                    transform(alias(type_3), alias(packet.UserBuffer), count);
                }
                _ => transform(system, mapped(irp), count),
            }
            finish(irp, NtStatus::SUCCESS, count)
        }
        (0x0E, PEND) => {
            stack.with(|stack| stack.Control |= SL_PENDING_RETURNED);
            irp.with(|irp| irp.CancelRoutine = on_cancel as *const () as u64);
            PENDED.store(irp.addr(), Ordering::Relaxed);
            u64::from(NtStatus::PENDING.0)
        }
        (0x0E, TWICE) => {
            finish(irp, NtStatus::SUCCESS, 0);
            finish(irp, NtStatus::SUCCESS, 0)
        }
        (0x0E, WARN) => {
            system.write_bytes(b"warn");
            finish(irp, NtStatus::BUFFER_OVERFLOW, 100)
        }
        (0x0E, FAIL) => {
            system.write_bytes(b"fail");
            finish(irp, NtStatus::INVALID_PARAMETER, 4)
        }
        (0x0E, RAISE) => {
            api("KfRaiseIrql", &[2]);
            finish(irp, NtStatus::SUCCESS, 0)
        }
        (0x0E, LEAK) => {
            assert_ne!(api("ExAllocatePoolWithTag", &[0, 100, 0x6B61_654C]), 0);
            finish(irp, NtStatus::SUCCESS, 0)
        }
        (3, _) => {
            if system.is_null() {
                mapped(irp).write_bytes(b"direct");
            } else {
                system.write_bytes(b"buffer");
            }
            finish(irp, NtStatus::SUCCESS, 6)
        }
        (4, _) => {
            let data = if system.is_null() {
                mapped(irp)
            } else {
                system
            };
            assert_eq!(data.read_slice(3), b"abc");
            finish(irp, NtStatus::SUCCESS, output)
        }
        _ => finish(irp, NtStatus::SUCCESS, 0),
    }
}

extern "win64-unwind" fn on_cancel(_device: u64, irp: u64) -> u64 {
    let irp = Ptr::<IRP>::new(irp);
    api(
        "IoReleaseCancelSpinLock",
        &[u64::from(irp.read().CancelIrql)],
    );
    finish(irp, NtStatus::CANCELLED, 0)
}

fn load(machine: &mut Machine, entry: u64) -> abi::channel::Completion {
    let (at, bytes) = machine.text("echo");
    // The whole address space is the driver's image, so that every caller is the driver.
    machine.request(0, Operation::LoadDriver, &[0, u64::MAX, entry, at, bytes])
}

fn open(machine: &mut Machine, path: &str) -> abi::channel::Completion {
    let (at, bytes) = machine.text(path);
    machine.request(CLIENT, Operation::Open, &[at, bytes, GENERIC_ALL])
}

/// A machine with the driver loaded and opened; the driver's id and the handle.
fn opened() -> (Machine, u64, u64) {
    let mut machine = machine();
    let driver = load(&mut machine, driver_entry as *const () as u64);
    assert_eq!(driver.status, 0);
    assert_eq!(
        machine
            .request(CLIENT, Operation::CreateProcess, &[])
            .status,
        0
    );
    let handle = open(&mut machine, "\\??\\eCHO");
    assert_eq!(handle.status, 0);
    (machine, driver.value, handle.value)
}

#[test]
fn device_control_moves_bytes_by_all_four_methods() {
    let (mut machine, _, handle) = opened();
    for method in 0..4 {
        let input = machine.write_user(0, b"abcd");
        let output = machine.write_user(0x100, &[0; 8]);
        let arguments = [handle, ECHO + method, input, 4, output, 8];
        let done = machine.request(CLIENT, Operation::DeviceControl, &arguments);
        assert_eq!((done.status, done.information), (0, 4), "method {method}");
        assert_eq!(
            machine.read_user(0x100, 8),
            b"bcde\0\0\0\0",
            "method {method}"
        );
    }
}

#[test]
fn warnings_copy_at_most_the_output_length_and_errors_nothing() {
    let (mut machine, _, handle) = opened();
    let output = machine.write_user(0, b"........");
    let done = machine.request(
        CLIENT,
        Operation::DeviceControl,
        &[handle, WARN, 0, 0, output, 4],
    );
    assert_eq!(
        (done.status, done.information),
        (NtStatus::BUFFER_OVERFLOW.0, 100)
    );
    assert_eq!(machine.read_user(0, 8), b"warn....");
    let done = machine.request(
        CLIENT,
        Operation::DeviceControl,
        &[handle, FAIL, 0, 0, output + 4, 4],
    );
    assert_eq!(done.status, NtStatus::INVALID_PARAMETER.0);
    assert_eq!(machine.read_user(0, 8), b"warn....");
}

#[test]
fn bad_client_buffers_and_handles_never_reach_the_driver() {
    let (mut machine, _, handle) = opened();
    let arguments = [handle, ECHO, abi::layout::USER - 1, 4, 0, 0];
    let done = machine.request(CLIENT, Operation::DeviceControl, &arguments);
    assert_eq!(done.status, NtStatus::ACCESS_VIOLATION.0);
    let done = machine.request(
        CLIENT,
        Operation::DeviceControl,
        &[handle + 4, ECHO, 0, 0, 0, 0],
    );
    assert_eq!(done.status, NtStatus::INVALID_HANDLE.0);
    let done = machine.request(CLIENT + 1, Operation::Close, &[handle]);
    assert_eq!(
        done.status,
        NtStatus::INVALID_HANDLE.0,
        "handles are per process"
    );
}

#[test]
fn read_and_write_follow_the_device_flags() {
    let (mut machine, _, handle) = opened();
    let address = machine.write_user(0, b"abc...");
    assert_eq!(
        machine
            .request(CLIENT, Operation::Write, &[handle, address, 3, 0])
            .information,
        3
    );
    assert_eq!(
        machine
            .request(CLIENT, Operation::Read, &[handle, address, 6, 0])
            .information,
        6
    );
    assert_eq!(machine.read_user(0, 6), b"buffer");
    let device = Ptr::<DEVICE_OBJECT>::new(names::resolve("\\Device\\Echo").unwrap().body);
    device.with(|device| device.Flags = (device.Flags & !DO_BUFFERED_IO) | DO_DIRECT_IO);
    machine.write_user(0, b"abc");
    assert_eq!(
        machine
            .request(CLIENT, Operation::Write, &[handle, address, 3, 0])
            .information,
        3
    );
    assert_eq!(
        machine
            .request(CLIENT, Operation::Read, &[handle, address, 6, 0])
            .information,
        6
    );
    assert_eq!(machine.read_user(0, 6), b"direct");
}

#[test]
fn a_pending_request_is_completed_later() {
    let (mut machine, _, handle) = opened();
    let id = machine.send(
        CLIENT,
        Operation::DeviceControl,
        &[handle, PEND, 0, 0, 0, 0],
    );
    assert!(machine.completion(id).is_none());
    let irp = Ptr::<IRP>::new(PENDED.load(Ordering::Relaxed));
    irp.with(|irp| irp.CancelRoutine = 0);
    finish(irp, NtStatus::SUCCESS, 0);
    assert_eq!(machine.completion(id).unwrap().status, 0);
}

#[test]
fn a_pending_request_can_be_cancelled_and_process_exit_cancels_it() {
    let (mut machine, _, handle) = opened();
    let id = machine.send(
        CLIENT,
        Operation::DeviceControl,
        &[handle, PEND, 0, 0, 0, 0],
    );
    assert_eq!(machine.request(CLIENT, Operation::Cancel, &[id]).status, 0);
    assert_eq!(
        machine.completion(id).unwrap().status,
        NtStatus::CANCELLED.0
    );
    assert_eq!(shared::irql(), 0);
    assert_eq!(
        machine.request(CLIENT, Operation::Cancel, &[id]).status,
        NtStatus::NOT_FOUND.0
    );
    let id = machine.send(
        CLIENT,
        Operation::DeviceControl,
        &[handle, PEND, 0, 0, 0, 0],
    );
    assert_eq!(
        machine.request(CLIENT, Operation::ExitProcess, &[]).status,
        0
    );
    assert_eq!(
        machine.completion(id).unwrap().status,
        NtStatus::CANCELLED.0
    );
    assert_eq!(io::request::outstanding(), 0);
    assert!(ps::by_id(CLIENT).is_none());
}

#[test]
fn completing_twice_is_a_bugcheck() {
    let (mut machine, _, handle) = opened();
    let crash = crash_of(|| {
        machine.send(
            CLIENT,
            Operation::DeviceControl,
            &[handle, TWICE, 0, 0, 0, 0],
        );
    });
    assert_eq!(crash.code, bugcheck::MULTIPLE_IRP_COMPLETE_REQUESTS);
}

#[test]
fn returning_at_raised_irql_is_a_bugcheck() {
    let (mut machine, _, handle) = opened();
    let crash = crash_of(|| {
        machine.send(
            CLIENT,
            Operation::DeviceControl,
            &[handle, RAISE, 0, 0, 0, 0],
        );
    });
    assert_eq!(
        (crash.code, crash.parameters[1]),
        (bugcheck::IRQL_GT_ZERO_AT_SYSTEM_SERVICE, 2)
    );
}

#[test]
fn unload_counts_what_the_driver_leaked() {
    let (mut machine, driver, handle) = opened();
    machine.request(
        CLIENT,
        Operation::DeviceControl,
        &[handle, LEAK, 0, 0, 0, 0],
    );
    assert_eq!(
        machine.request(CLIENT, Operation::Close, &[handle]).status,
        0
    );
    let done = machine.request(0, Operation::UnloadDriver, &[driver]);
    assert_eq!((done.status, done.value), (0, 1));
    assert_eq!(
        open(&mut machine, "\\??\\Echo").status,
        NtStatus::OBJECT_NAME_NOT_FOUND.0
    );
}

#[test]
fn unload_waits_for_the_last_file() {
    let (mut machine, driver, handle) = opened();
    let waits = machine.request(0, Operation::UnloadDriver, &[driver]);
    assert_eq!(waits.status, NtStatus::PENDING.0, "a file is open");
    assert_eq!(
        open(&mut machine, "\\??\\Echo").status,
        NtStatus::NO_SUCH_DEVICE.0
    );
    let again = machine.request(0, Operation::UnloadDriver, &[driver]);
    assert_eq!(again.status, NtStatus::INVALID_DEVICE_REQUEST.0);
    assert_eq!(
        machine.request(CLIENT, Operation::Close, &[handle]).status,
        0
    );
    assert_eq!(
        open(&mut machine, "\\??\\Echo").status,
        NtStatus::OBJECT_NAME_NOT_FOUND.0
    );
}

#[test]
fn a_failing_driver_entry_leaves_nothing_behind() {
    let mut machine = machine();
    let done = load(&mut machine, failing_entry as *const () as u64);
    assert_eq!(done.status, NtStatus::NO_SUCH_DEVICE.0);
    assert!(names::links().is_empty());
    assert_eq!(
        load(&mut machine, driver_entry as *const () as u64).status,
        0,
        "the names are free again"
    );
}

#[test]
fn the_rest_of_a_name_becomes_the_file_name() {
    let (_machine, _, _) = opened();
    let found = names::resolve("\\DosDevices\\Echo\\Sub\\Port1").unwrap();
    assert_eq!(found.rest, "\\Sub\\Port1");
    assert_eq!(names::resolve("\\GLOBAL??\\ECHO").unwrap().body, found.body);
    assert_eq!(
        names::resolve("\\Device\\None"),
        Err(NtStatus::OBJECT_NAME_NOT_FOUND)
    );
    assert_eq!(
        names::resolve("\\None\\Echo"),
        Err(NtStatus::OBJECT_PATH_NOT_FOUND)
    );
    assert_eq!(
        names::resolve("Echo"),
        Err(NtStatus::OBJECT_PATH_SYNTAX_BAD)
    );
    assert_eq!(names::insert_link("\\??\\loop", "\\??\\LOOP"), Ok(()));
    assert_eq!(names::resolve("\\??\\loop"), Err(NtStatus::NAME_TOO_LONG));
    assert_eq!(
        names::insert_link("\\DosDevices\\Loop", "\\Device"),
        Err(NtStatus::OBJECT_NAME_COLLISION)
    );
}
