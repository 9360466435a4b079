//! What a driver must not do: each fault ends in NT's bugcheck with a readable report, and only its machine ends.

use std::io::Write;
use std::sync::{Arc, Mutex};

use abi::DriverAbi;
use integration_tests::codes::{faulty, status};
use integration_tests::{Client, Target, crash, fields, machine_tests, timed_out};
use vmm::observe::crash::{Cause, CrashReport};
use vmm::observe::output::TraceOutput;
use vmm::session::driver::{DriverError, RunningDriver, RunningMachine};
use vmm::session::{Launch, Machine, start};

machine_tests!(
    null_write_is_access_violation,
    division_by_zero_is_unhandled_exception,
    undefined_instruction_is_unhandled_exception,
    call_of_null_is_access_violation,
    passive_call_at_dispatch_is_irql_bugcheck,
    return_at_raised_irql_is_irql_bugcheck,
    stack_overflow_is_double_fault,
    double_completion_is_bugcheck,
    pool_overrun_is_bad_pool_header,
    double_free_is_bad_pool_caller,
    verified_overrun_faults_where_it_happens,
    verified_double_free_names_both_frees,
    write_to_code_is_bugcheck,
    execution_of_data_is_bugcheck,
    fail_fast_is_security_check_failure,
    own_bugcheck_has_its_code_and_parameters,
    missing_import_is_named,
    endless_loops_time_out,
    lost_request_times_out,
    crashed_machine_answers_with_its_report_and_another_starts,
    leaks_are_listed_at_unload,
    pages_left_locked_are_a_bugcheck_when_the_client_ends,
    port_flood_is_survived,
    print_flood_is_survived,
);

const STATUS_INTEGER_DIVIDE_BY_ZERO: u64 = 0xC000_0094;
const STATUS_ILLEGAL_INSTRUCTION: u64 = 0xC000_001D;
const STATUS_ACCESS_VIOLATION: u64 = 0xC000_0005;

/// The report of a fault, after checks of what every report has.
fn report_of(target: Target, code: u32, input: &[u8]) -> CrashReport {
    report_from(target, &target.start_sample("faulty", ""), code, input)
}

/// As [`report_of`], in a machine that does not verify the driver.
fn unverified_report_of(target: Target, code: u32) -> CrashReport {
    let launch = Launch {
        is_verifying: false,
        ..target.launch(&target.sample("faulty"), "")
    };
    let machine = start(launch).unwrap_or_else(|error| panic!("{error}"));
    report_from(target, &machine, code, &[])
}

fn report_from(target: Target, machine: &Machine, code: u32, input: &[u8]) -> CrashReport {
    let mut client = Client::open(machine, r"\\.\faulty");

    let report = crash(client.process.ioctl(client.handle, code, input, 0));

    assert_eq!(
        (&report.driver[..], report.abi, report.privilege),
        ("faulty.sys", target.abi.name(), target.privilege.name())
    );
    assert!(
        report
            .history
            .iter()
            .any(|line| line.text.starts_with("IoCreateDevice(")
                && line.from.starts_with("faulty.sys+0x")),
        "no API calls in {report}"
    );
    report
}

/// The bugcheck's code by name, and its parameters.
fn bugcheck(report: &CrashReport) -> (&'static str, Vec<u64>) {
    match &report.cause {
        Cause::Bugcheck {
            name: Some(name),
            parameters,
            ..
        } => (
            name,
            parameters
                .iter()
                .map(|parameter| parameter.value.0)
                .collect(),
        ),
        _ => panic!("not a bugcheck of NT's: {report}"),
    }
}

/// The fault is in the driver itself: its code is on top of the stack.
fn assert_in_driver(report: &CrashReport) {
    assert!(report.location.starts_with("faulty.sys+0x"), "{report}");
    let top = report.stack.first().map(|frame| &frame.name[..]);
    assert_eq!(top, Some(&report.location[..]), "{report}");
}

/// The fault is found by the kernel; the driver's code that led to it is on the stack.
fn assert_led_by_driver(report: &CrashReport) {
    assert!(
        report
            .stack
            .iter()
            .any(|frame| frame.name.starts_with("faulty.sys+0x")),
        "{report}"
    );
}

/// The exception code of an exception that nobody handled, in a request of a process: NT's bugcheck for that
/// depends on the machine.
fn unhandled_exception(target: Target, report: &CrashReport) -> u64 {
    let (name, parameters) = bugcheck(report);
    let expected = match target.abi {
        DriverAbi::I386 => "KERNEL_MODE_EXCEPTION_NOT_HANDLED",
        DriverAbi::Amd64 => "SYSTEM_SERVICE_EXCEPTION",
    };
    assert_eq!(name, expected, "{report}");
    // Sign-extended by NT.
    parameters[0] & 0xFFFF_FFFF
}

fn null_write_is_access_violation(target: Target) {
    let report = report_of(target, faulty::NULL_WRITE, &[]);

    assert_eq!(
        unhandled_exception(target, &report),
        STATUS_ACCESS_VIOLATION
    );
    let exception = report.exception.as_ref().expect("a page fault");
    assert_eq!(exception.vector, 14);
    assert!(
        exception.explanation.contains("wrote to 0x0"),
        "{}",
        exception.explanation
    );
    assert_in_driver(&report);
}

fn division_by_zero_is_unhandled_exception(target: Target) {
    let report = report_of(target, faulty::DIVIDE_BY_ZERO, &[]);

    assert_eq!(
        unhandled_exception(target, &report),
        STATUS_INTEGER_DIVIDE_BY_ZERO
    );
    let instruction = report
        .instruction
        .as_ref()
        .and_then(|instruction| instruction.text.clone());
    assert!(
        instruction.is_some_and(|text| text.starts_with("div ")),
        "{report}"
    );
    assert_in_driver(&report);
}

fn undefined_instruction_is_unhandled_exception(target: Target) {
    let report = report_of(target, faulty::ILLEGAL_INSTRUCTION, &[]);

    assert_eq!(
        unhandled_exception(target, &report),
        STATUS_ILLEGAL_INSTRUCTION
    );
    assert_in_driver(&report);
}

fn call_of_null_is_access_violation(target: Target) {
    let report = report_of(target, faulty::CALL_NULL, &[]);

    assert_eq!(
        unhandled_exception(target, &report),
        STATUS_ACCESS_VIOLATION
    );
    // Nothing is at 0: the caller is what helps.
    assert_led_by_driver(&report);
}

fn passive_call_at_dispatch_is_irql_bugcheck(target: Target) {
    let report = report_of(target, faulty::PASSIVE_AT_DISPATCH, &[]);

    let (name, _) = bugcheck(&report);
    assert_eq!(name, "IRQL_NOT_LESS_OR_EQUAL");
    assert!(
        report.message.contains("IoDeleteSymbolicLink"),
        "{}",
        report.message
    );
    assert_led_by_driver(&report);
}

fn return_at_raised_irql_is_irql_bugcheck(target: Target) {
    let report = report_of(target, faulty::RETURN_RAISED, &[]);

    let (name, _) = bugcheck(&report);
    assert!(
        matches!(
            name,
            "IRQL_UNEXPECTED_VALUE" | "IRQL_NOT_LESS_OR_EQUAL" | "IRQL_GT_ZERO_AT_SYSTEM_SERVICE"
        ),
        "{report}"
    );
}

fn stack_overflow_is_double_fault(target: Target) {
    let report = report_of(target, faulty::STACK_OVERFLOW, &[]);

    let (name, parameters) = bugcheck(&report);
    assert_eq!((name, parameters[0]), ("UNEXPECTED_KERNEL_MODE_TRAP", 8));
    assert!(report.location.starts_with("faulty.sys+0x"), "{report}");
    assert_in_driver(&report);
}

fn double_completion_is_bugcheck(target: Target) {
    let report = report_of(target, faulty::DOUBLE_COMPLETION, &[]);

    let (name, parameters) = bugcheck(&report);
    assert_eq!(name, "MULTIPLE_IRP_COMPLETE_REQUESTS");
    assert_ne!(parameters[0], 0);
    assert_led_by_driver(&report);
}

fn pool_overrun_is_bad_pool_header(target: Target) {
    let report = unverified_report_of(target, faulty::POOL_OVERRUN);

    assert_eq!(bugcheck(&report).0, "BAD_POOL_HEADER");
    assert_led_by_driver(&report);
}

fn double_free_is_bad_pool_caller(target: Target) {
    let report = unverified_report_of(target, faulty::DOUBLE_FREE);

    // 7: the block is free already.
    let (name, parameters) = bugcheck(&report);
    assert_eq!((name, parameters[0]), ("BAD_POOL_CALLER", 7));
    assert_led_by_driver(&report);
}

fn verified_overrun_faults_where_it_happens(target: Target) {
    let report = report_of(target, faulty::POOL_OVERRUN, &[]);

    let (name, parameters) = bugcheck(&report);
    assert_eq!(name, "DRIVER_PAGE_FAULT_BEYOND_END_OF_ALLOCATION");
    assert_eq!(parameters[1], 1, "a write");
    assert_in_driver(&report);
    let text = report.to_string();
    assert!(text.contains("allocated by faulty.sys+0x"), "{text}");
    assert!(text.contains(", tag '"), "{text}");
}

fn verified_double_free_names_both_frees(target: Target) {
    let report = report_of(target, faulty::DOUBLE_FREE, &[]);

    let (name, parameters) = bugcheck(&report);
    assert_eq!(name, "SPECIAL_POOL_DETECTED_MEMORY_CORRUPTION");
    assert_eq!(parameters[3], 0x20);
    assert_led_by_driver(&report);
    let text = report.to_string();
    assert!(text.contains("freed by faulty.sys+0x"), "{text}");
    assert!(text.contains("freed again by faulty.sys+0x"), "{text}");
}

fn write_to_code_is_bugcheck(target: Target) {
    let report = report_of(target, faulty::WRITE_CODE, &[]);

    let (name, parameters) = bugcheck(&report);
    assert_eq!(name, "ATTEMPTED_WRITE_TO_READONLY_MEMORY");
    assert_ne!(parameters[0], 0);
    assert_in_driver(&report);
}

fn execution_of_data_is_bugcheck(target: Target) {
    let report = report_of(target, faulty::EXECUTE_DATA, &[]);

    assert_eq!(bugcheck(&report).0, "ATTEMPTED_EXECUTE_OF_NOEXECUTE_MEMORY");
    assert_in_driver(&report);
}

fn fail_fast_is_security_check_failure(target: Target) {
    let report = report_of(target, faulty::FAST_FAIL, &[]);

    let (name, parameters) = bugcheck(&report);
    assert_eq!(
        (name, parameters[0]),
        ("KERNEL_SECURITY_CHECK_FAILURE", 2),
        "{report}"
    );
    assert_in_driver(&report);
}

fn own_bugcheck_has_its_code_and_parameters(target: Target) {
    let input = fields!(0xE2_u32, 0_u32, 0x11_u64, 0x22_u64, 0x33_u64, 0x44_u64);

    let report = report_of(target, faulty::BUGCHECK, &input);

    let (name, parameters) = bugcheck(&report);
    assert_eq!(name, "MANUALLY_INITIATED_CRASH");
    assert_eq!(parameters, [0x11, 0x22, 0x33, 0x44]);
    assert_led_by_driver(&report);
}

fn missing_import_is_named(target: Target) {
    let report = report_of(target, faulty::MISSING_IMPORT, &[]);

    assert_eq!(
        report.cause,
        Cause::UnboundImport {
            dll: "ntoskrnl.exe".to_owned(),
            function: "LpcRequestPort".to_owned(),
        }
    );
    assert_led_by_driver(&report);
}

fn endless_loops_time_out(target: Target) {
    let codes = [
        faulty::INFINITE_LOOP,
        faulty::SPIN_RAISED,
        faulty::SPIN_CLI,
        faulty::LOOP_OF_CALLS,
    ];
    for code in codes {
        let (machine, timeout) = target.start_impatient("faulty");
        let mut client = Client::open(&machine, r"\\.\faulty");

        let report = timed_out(client.process.ioctl(client.handle, code, &[], 0));

        assert!(
            matches!(report.cause, Cause::Hang { timeout_ms } if u128::from(timeout_ms) == timeout.as_millis()),
            "{report}"
        );
        assert_in_driver(&report);
        assert!(matches!(machine.stopped(), Some(DriverError::TimedOut(_))));
    }
}

fn lost_request_times_out(target: Target) {
    let (machine, _) = target.start_impatient("faulty");
    let mut client = Client::open(&machine, r"\\.\faulty");

    let lost = client
        .process
        .ioctl(client.handle, faulty::LOST_REQUEST, &[], 0);

    let report = timed_out(lost);
    assert!(matches!(report.cause, Cause::Hang { .. }), "{report}");
    // Only the request hangs, not the machine.
    client.control(faulty::NOTHING, &[], 0);
}

fn crashed_machine_answers_with_its_report_and_another_starts(target: Target) {
    let machine = target.start_sample("faulty", "");
    let mut bystander = machine.process().unwrap();
    let mut client = Client::open(&machine, r"\\.\faulty");
    let first = crash(
        client
            .process
            .ioctl(client.handle, faulty::NULL_WRITE, &[], 0),
    );

    assert_eq!(crash(bystander.open(r"\\.\faulty")), first);
    assert_eq!(crash(bystander.stats()), first);
    assert!(matches!(machine.process(), Err(DriverError::Crashed(_))));
    assert!(matches!(machine.stopped(), Some(DriverError::Crashed(_))));
    let next = target.start_sample("faulty", "");
    Client::open(&next, r"\\.\faulty").control(faulty::NOTHING, &[], 0);
}

/// A trace that can be read while it is written.
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

fn pages_left_locked_are_a_bugcheck_when_the_client_ends(target: Target) {
    let ended = |is_verifying: bool| {
        let machine = start(Launch {
            is_verifying,
            ..target.launch(&target.sample("faulty"), "")
        })
        .unwrap();
        let mut client = Client::open(&machine, r"\\.\faulty");
        client.control(faulty::LEAVE_LOCKED, b"locked", 0);
        drop(client);
        // Asked after the end of the first process.
        crash(machine.process().map(drop))
    };

    let verified = ended(true);
    let unverified = ended(false);

    let (name, parameters) = bugcheck(&verified);
    assert_eq!(name, "DRIVER_LEFT_LOCKED_PAGES_IN_PROCESS");
    // One page, locked by the driver.
    assert_eq!(parameters[3], 1, "{verified}");
    let (name, parameters) = bugcheck(&unverified);
    assert_eq!((name, parameters[2]), ("PROCESS_HAS_LOCKED_PAGES", 1));
}

fn leaks_are_listed_at_unload(target: Target) {
    let trace = Lines::default();
    let mut launch = target.launch(&target.sample("faulty"), "");
    let output = TraceOutput::to_writer("the test", Box::new(trace.clone()));
    launch.trace = Some((output, false));
    let machine = start(launch).unwrap();
    let mut client = Client::open(&machine, r"\\.\faulty");
    client.control(faulty::LEAK, &[], 0);
    let again = client.ioctl(faulty::LEAK, &[], 0);
    client.process.close(client.handle).unwrap();

    let leaked = client.process.unload().unwrap();
    drop(client);
    drop(machine);

    assert_eq!(again.status.0, status::OBJECT_NAME_COLLISION);
    // Two blocks, a device, a link.
    assert_eq!(leaked, 4);
    let trace = String::from_utf8(trace.0.lock().unwrap().clone()).unwrap();
    let leaks: Vec<&str> = trace
        .lines()
        .filter(|line| line.contains("leak: "))
        .collect();
    assert_eq!(leaks.len(), 4, "{leaks:#?}");
    let has = |text: &str| leaks.iter().filter(|line| line.contains(text)).count();
    assert_eq!(has("160 bytes, tag 'Leak'"), 2, "{leaks:#?}");
    assert_eq!(has("allocated by faulty.sys+0x"), 2, "{leaks:#?}");
    assert!(has("faulty_leak") >= 1, "{leaks:#?}");
}

fn port_flood_is_survived(target: Target) {
    let machine = target.start_sample("faulty", "");
    let mut client = Client::open(&machine, r"\\.\faulty");

    let flood = client.ioctl(faulty::PORT_FLOOD, &fields!(0x80_u32, 2000_u32), 0);

    assert_eq!(flood.status.0, status::SUCCESS);
    client.control(faulty::NOTHING, &[], 0);
    assert_eq!(client.process.stats().unwrap().port_denied, 2000);
}

fn print_flood_is_survived(target: Target) {
    let machine = target.start_sample("faulty", "");
    let mut client = Client::open(&machine, r"\\.\faulty");

    let flood = client.ioctl(faulty::PRINT_FLOOD, &fields!(0_u32, 2000_u32), 0);

    assert_eq!(flood.status.0, status::SUCCESS);
    client.control(faulty::NOTHING, &[], 0);
}
