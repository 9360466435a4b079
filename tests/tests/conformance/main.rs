//! The conformance suite: C drivers that check documented behaviour of the NT kernel's functions, a driver for each
//! family (tests/drivers/conformance), run for both driver ABIs in every privilege mode that this KVM offers.
//!
//! Trials are named FAMILY::PRIVILEGE_ABI. At the end come a line for each and the totals:
//! `conformance: FAMILY ABI PRIVILEGE: N checks in M tests, K bugchecks`. RINGFENCE_LOG=info shows the drivers' DbgPrint.
//! `--list` builds the drivers and says where they are, without KVM too: the SVM lane takes them from there.

mod driver;
mod drivers;
mod family;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use abi::DriverAbi;
use integration_tests::{Target, offered, skip};
use libtest_mimic::{Arguments, Failed, Trial};

use drivers::Drivers;
use family::Count;

type Counts = Arc<Mutex<BTreeMap<(String, &'static str, &'static str), Count>>>;

fn trial(drivers: &Arc<Drivers>, counts: &Counts, family: &str, target: Target) -> Trial {
    let (abi, privilege) = (target.abi.name(), target.privilege.name());
    let drivers = Arc::clone(drivers);
    let counts = Arc::clone(counts);
    let family = family.to_owned();
    Trial::test(format!("{family}::{privilege}_{abi}"), move || {
        let image = drivers.image(&family, target.abi);
        if !image.exists() {
            let said = drivers.build_failure.as_deref().unwrap_or("");
            return Err(Failed::from(format!(
                "{} was not built:\n{said}",
                image.display()
            )));
        }
        let (count, result) = family::run(target, &image, &family);
        counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert((family.clone(), abi, privilege), count);
        result.map_err(Failed::from)
    })
}

/// The lines at the end.
fn print_counts(counts: &Counts) {
    let counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
    let mut total = Count::default();
    // A family's checks once, however many machines it ran on.
    let mut distinct: BTreeMap<&str, u64> = BTreeMap::new();
    for ((family, abi, privilege), count) in counts.iter() {
        println!(
            "conformance: {family} {abi} {privilege}: {} checks in {} tests, {} bugchecks",
            count.checks, count.tests, count.bugchecks
        );
        total.add(*count);
        let most = distinct.entry(family).or_default();
        *most = (*most).max(count.checks + count.bugchecks);
    }
    println!(
        "conformance: total: {} checks in {} tests, {} bugchecks; {} distinct in {} families",
        total.checks,
        total.tests,
        total.bugchecks,
        distinct.values().sum::<u64>(),
        distinct.len()
    );
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_env("RINGFENCE_LOG"))
        .with_writer(std::io::stderr)
        .init();
    let Some(drivers) = Drivers::find() else {
        return ExitCode::SUCCESS;
    };
    if arguments.list {
        println!("drivers: {}", drivers.folder.display());
        if let Some(failure) = &drivers.build_failure {
            eprintln!("{failure}");
            return ExitCode::FAILURE;
        }
    }
    let privileges = match offered() {
        Ok(privileges) => privileges.clone(),
        Err(error) => {
            skip(&format!("the conformance suite needs KVM: {error}"));
            return ExitCode::SUCCESS;
        }
    };
    let drivers = Arc::new(drivers);
    let counts = Counts::default();
    let mut trials = Vec::new();
    for family in &drivers.families {
        for &privilege in &privileges {
            for abi in [DriverAbi::I386, DriverAbi::Amd64] {
                trials.push(trial(&drivers, &counts, family, Target { privilege, abi }));
            }
        }
    }
    assert!(!trials.is_empty(), "there are no conformance drivers");
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list {
        print_counts(&counts);
    }
    conclusion.exit_code()
}
