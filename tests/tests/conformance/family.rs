//! Runs a family: its tests one after the other in one machine, those that must bugcheck each in a machine of its own.

use std::fmt::Write;
use std::path::Path;

use integration_tests::{Target, describe};
use vmm::observe::crash::Cause;
use vmm::session::driver::DriverError;

use crate::driver::{Outcome, Session, Test};

/// What was run, for the count at the end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    pub(crate) checks: u64,
    pub(crate) tests: u64,
    pub(crate) bugchecks: u64,
}

impl Count {
    pub(crate) fn add(&mut self, other: Self) {
        self.checks += other.checks;
        self.tests += other.tests;
        self.bugchecks += other.bugchecks;
    }
}

/// Gathers failures.
#[derive(Default)]
struct Report(String);

impl Report {
    fn add(&mut self, test: &str, what: &str) {
        let what = what.trim_end().replace('\n', "\n    ");
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{test}: {what}").is_ok();
    }
}

fn judge(test: &Test, outcome: &Outcome, count: &mut Count, report: &mut Report) {
    count.tests += 1;
    count.checks += u64::from(outcome.checks);
    if outcome.failures != 0 {
        let head = format!(
            "{} of {} checks failed:\n",
            outcome.failures, outcome.checks
        );
        report.add(&test.name, &(head + &outcome.text));
    }
    if outcome.checks == 0 {
        report.add(&test.name, "it made no check");
    }
    if outcome.irql != 0 {
        report.add(&test.name, &format!("it ended at IRQL {}", outcome.irql));
    }
}

/// Runs `test`, which must bugcheck, in a fresh machine.
fn run_bugcheck(target: Target, image: &Path, index: usize, code: u32) -> Result<(), String> {
    match Session::start(target, image)?.run(index) {
        Ok(outcome) => Err(format!(
            "it returned instead of bugcheck {code:#x}; failed checks:\n{}",
            outcome.text
        )),
        Err(DriverError::Crashed(report)) => match &report.cause {
            Cause::Bugcheck { code: found, .. } if found.0 == u64::from(code) => Ok(()),
            _ => Err(format!("expected bugcheck {code:#x}, but:\n{report}")),
        },
        Err(error) => Err(format!(
            "expected bugcheck {code:#x}, but:\n{}",
            describe(&error)
        )),
    }
}

/// Runs the family whose driver is `image`. What failed is the error.
pub(crate) fn run(target: Target, image: &Path, name: &str) -> (Count, Result<(), String>) {
    let mut count = Count::default();
    let mut report = Report::default();
    if let Err(why) = run_tests(target, image, name, &mut count, &mut report) {
        report.add(name, &why);
    }
    if count.tests == 0 || count.checks == 0 {
        report.add(name, "the family made no check");
    }
    let result = if report.0.is_empty() {
        Ok(())
    } else {
        Err(report.0)
    };
    (count, result)
}

fn run_tests(
    target: Target,
    image: &Path,
    name: &str,
    count: &mut Count,
    report: &mut Report,
) -> Result<(), String> {
    let mut session = Session::start(target, image)?;
    let (family, tests) = session.tests()?;
    if family != name {
        report.add(name, &format!("its KTEST_FAMILY says \"{family}\""));
    }
    let mut session = Some(session);
    let mut is_first_machine = true;
    for (index, test) in tests.iter().enumerate() {
        if let Some(code) = test.bugcheck {
            count.bugchecks += 1;
            if let Err(why) = run_bugcheck(target, image, index, code) {
                report.add(&test.name, &why);
            }
            continue;
        }
        let mut running = match session.take() {
            Some(session) => session,
            None => Session::start(target, image)?,
        };
        match running.run(index) {
            Ok(outcome) => {
                judge(test, &outcome, count, report);
                session = Some(running);
            }
            Err(error) => {
                count.tests += 1;
                is_first_machine = false;
                report.add(&test.name, &describe(&error));
            }
        }
    }
    if let Some(session) = session.filter(|_| is_first_machine) {
        // ZwFlushKey succeeds there.
        if name == "registry" && session.flushed_registry().is_none() {
            report.add(name, "a flushed key did not reach the host's file");
        }
        match session.unload() {
            Ok(0) => {}
            Ok(leaked) => report.add(name, &format!("{leaked} leaks at unload")),
            Err(error) => report.add(name, &format!("at unload: {}", describe(&error))),
        }
    }
    Ok(())
}
