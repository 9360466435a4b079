//! The machines that a test runs on.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use abi::{DriverAbi, Privilege};
use vmm::machine::host::{self, KvmError, KvmKind};
use vmm::policy::Policy;
use vmm::session::driver::DriverError;
use vmm::session::{Launch, Machine, StartError, start};

/// Guest RAM of a test's machine, in bytes.
const MEMORY_BYTES: u64 = 16 << 20;

/// Whether this is the SVM lane's virtual machine, where everything is some fifty times slower.
#[must_use]
pub fn is_lane() -> bool {
    std::env::var_os("RINGFENCE_LANE").is_some_and(|lane| lane == "svm")
}

/// How long something that works may take.
#[must_use]
pub fn patience() -> Duration {
    Duration::from_secs(if is_lane() { 60 } else { 15 })
}

/// Says that something is not tested, on the real stderr; libtest hides only what print macros write.
///
/// # Panics
/// CI is set: there nothing may be skipped.
pub fn skip(what: &str) {
    assert!(
        std::env::var_os("CI").is_none(),
        "{what} (CI is set, so this is a failure)"
    );
    // A test without a stderr has nobody to tell.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}").is_ok();
}

/// Says that something is not tested for want of a program. The SVM lane has none beside the tests' own by design, and
/// says nothing.
///
/// # Panics
/// As [`skip`].
pub fn skip_without_program(what: &str) {
    if !is_lane() {
        skip(what);
    }
}

/// One kind of machine: a privilege mode and a driver ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// How shim and driver run.
    pub privilege: Privilege,
    /// For which drivers.
    pub abi: DriverAbi,
}

impl Target {
    /// Calls `check` if this machine's KVM offers the privilege mode.
    pub fn run(self, check: fn(Self)) {
        match offered() {
            Ok(privileges) if privileges.contains(&self.privilege) => check(self),
            // As documented: paravirtual KVM has ring3 mode only.
            Ok(_) => println!("this KVM does not offer {}", self.privilege.name()),
            Err(error) => skip(&format!("the tests that need KVM: {error}")),
        }
    }

    /// The sample driver `name`.
    #[must_use]
    pub fn sample(self, name: &str) -> PathBuf {
        crate::sample(name, self.abi)
    }

    /// What to start: `driver` under the policy `policy`.
    ///
    /// # Panics
    /// The policy is wrong.
    #[must_use]
    pub fn launch(self, driver: &Path, policy: &str) -> Launch {
        let policy = Policy::from_str("policy", policy)
            .unwrap_or_else(|error| panic!("{}", vmm::error_chain(&error)));
        Launch {
            drivers: vec![driver.to_owned()],
            available: Vec::new(),
            policy,
            privilege: Some(self.privilege),
            memory_bytes: MEMORY_BYTES,
            timeout: patience(),
            trace: None,
            recorder: None,
            save_registry: None,
            registry: None,
            files: None,
            is_strict: false,
            windows: None,
            is_verifying: true,
            is_pnp_held: false,
            processor_share: None,
        }
    }

    /// Starts `driver` under the policy `policy`.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn start(self, driver: &Path, policy: &str) -> Machine {
        start(self.launch(driver, policy))
            .unwrap_or_else(|error| panic!("{}: {}", driver.display(), vmm::error_chain(&error)))
    }

    /// Starts the sample driver `name` under the policy `policy`.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn start_sample(self, name: &str, policy: &str) -> Machine {
        self.start(&self.sample(name), policy)
    }

    /// Starts a sample driver that is going to hang. It gets three times as long as its start took, or a second and a half:
    /// what it does before must not be taken for hanging on a machine that is slow or busy. That time is the second result.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn start_impatient(self, name: &str) -> (Machine, Duration) {
        let mut timeout = Duration::from_millis(1500);
        loop {
            let launch = Launch {
                timeout,
                ..self.launch(&self.sample(name), "")
            };
            let began = Instant::now();
            match start(launch) {
                Ok(machine) if began.elapsed() * 3 <= timeout => return (machine, timeout),
                Ok(_) | Err(StartError::Driver(DriverError::TimedOut(_)))
                    if timeout < patience() => {}
                Ok(_) => panic!("{name} took {:?} to start", began.elapsed()),
                Err(error) => panic!("{error}"),
            }
            timeout *= 2;
        }
    }
}

/// Whether this machine has a KVM; says so if not.
#[must_use]
pub fn has_kvm() -> bool {
    offered().as_ref().map_or_else(
        |error| {
            skip(&format!("the tests that need KVM: {error}"));
            false
        },
        |_| true,
    )
}

/// The privilege modes that this machine's KVM offers.
///
/// # Errors
/// There is no KVM, or it may not be used.
pub fn offered() -> &'static Result<Vec<Privilege>, KvmError> {
    static OFFERED: OnceLock<Result<Vec<Privilege>, KvmError>> = OnceLock::new();
    OFFERED.get_or_init(|| {
        let kvm = host::open()?;
        let has_ring0 = match KvmKind::detect() {
            KvmKind::Intel | KvmKind::Amd => true,
            KvmKind::Paravirtual => false,
            KvmKind::Unknown => host::runs_sse_at_ring0(&kvm),
        };
        Ok(if has_ring0 {
            vec![Privilege::Ring0, Privilege::Ring3]
        } else {
            vec![Privilege::Ring3]
        })
    })
}

/// Makes tests of functions of type `fn(Target)`: one for each privilege mode and driver ABI.
#[macro_export]
macro_rules! machine_tests {
    ($($name:ident),+ $(,)?) => {$(
        mod $name {
            #[test]
            fn ring0_i386() {
                $crate::machine_tests!(@run $name Ring0 I386);
            }
            #[test]
            fn ring0_amd64() {
                $crate::machine_tests!(@run $name Ring0 Amd64);
            }
            #[test]
            fn ring3_i386() {
                $crate::machine_tests!(@run $name Ring3 I386);
            }
            #[test]
            fn ring3_amd64() {
                $crate::machine_tests!(@run $name Ring3 Amd64);
            }
        }
    )+};
    (@run $name:ident $privilege:ident $abi:ident) => {
        $crate::Target {
            privilege: ::abi::Privilege::$privilege,
            abi: ::abi::DriverAbi::$abi,
        }
        .run(super::$name)
    };
}

/// As [`machine_tests`], for drivers that exist for one ABI: `machine_tests_for!(I386: a, b)`.
#[macro_export]
macro_rules! machine_tests_for {
    ($abi:ident: $($name:ident),+ $(,)?) => {$(
        mod $name {
            #[test]
            fn ring0() {
                $crate::machine_tests!(@run $name Ring0 $abi);
            }
            #[test]
            fn ring3() {
                $crate::machine_tests!(@run $name Ring3 $abi);
            }
        }
    )+};
}
