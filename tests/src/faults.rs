//! How requests end.

use std::fmt::Debug;

use vmm::observe::crash::CrashReport;
use vmm::observe::ntstatus::NtStatus;
use vmm::session::driver::DriverError;

/// The NTSTATUS with which a request ended; STATUS_SUCCESS if it has a result.
///
/// # Panics
/// The machine has ended.
#[must_use]
pub fn status_of<T>(result: Result<T, DriverError>) -> NtStatus {
    match result {
        Ok(_) => NtStatus::SUCCESS,
        Err(DriverError::Status(status)) => status,
        Err(error) => panic!("{}", describe(&error)),
    }
}

/// The report of a crash.
///
/// # Panics
/// The driver did not crash.
#[must_use]
pub fn crash<T: Debug>(result: Result<T, DriverError>) -> CrashReport {
    match result {
        Err(DriverError::Crashed(report)) => *report,
        Ok(value) => panic!("no crash, but {value:?}"),
        Err(error) => panic!("no crash, but {}", describe(&error)),
    }
}

/// The report of a driver that did not answer in time.
///
/// # Panics
/// It answered, or crashed.
#[must_use]
pub fn timed_out<T: Debug>(result: Result<T, DriverError>) -> CrashReport {
    match result {
        Err(DriverError::TimedOut(report)) => *report,
        Ok(value) => panic!("not timed out, but {value:?}"),
        Err(error) => panic!("not timed out, but {}", describe(&error)),
    }
}

/// An error with its report, for a failed test's message.
#[must_use]
pub fn describe(error: &DriverError) -> String {
    match error {
        DriverError::Crashed(report) | DriverError::TimedOut(report) => report.to_string(),
        other => other.to_string(),
    }
}
