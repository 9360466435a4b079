//! What calls of the shim cost inside a guest, by rdtsc: `cargo bench -p integration-tests --bench guest`.
//!
//! The driver is tests/drivers/bench. Each figure is the fastest of several runs: what disturbs a run (ticks, a busy
//! host) only ever adds. The table goes to standard output and to target/benchmarks-guest.md. An argument selects
//! the driver ABI: `-- amd64` or `-- i386`; `-- calls` or `-- scaling` one of the two tables.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use abi::{DriverAbi, Privilege};
use integration_tests::imports;
use vmm::machine::host;
use vmm::policy::Policy;
use vmm::session::driver::{Handle, RunningDriver, RunningMachine};
use vmm::session::{Launch, Machine, Process, start};

type Failure = Box<dyn std::error::Error>;

/// BENCH_RUN (tests/drivers/bench/bench.h).
const RUN: u32 = 0x0022_2000;
const STATUS_NOT_IMPLEMENTED: u32 = 0xC000_0002;
/// Runs of each measurement.
const ROUNDS: usize = 7;
/// Room for 10,000 devices and 1,000 stacks.
const MEMORY_BYTES: u64 = 256 << 20;
/// Between the two time stamps that calibrate the counter.
const CALIBRATION: Duration = Duration::from_millis(300);

/// A measurement of one operation.
struct Single {
    what: u32,
    name: &'static str,
    wanted: &'static str,
    /// Show it as a multiple of this many plain calls; 0: do not.
    plain_calls: u32,
}

#[rustfmt::skip]
const SINGLES: &[Single] = &[
    Single { what: 1, name: "plain indirect call", wanted: "", plain_calls: 0 },
    Single { what: 2, name: "KeGetCurrentIrql", wanted: "3 plain calls", plain_calls: 1 },
    Single { what: 3, name: "ExAcquireFastMutex + ExReleaseFastMutex", wanted: "3 times 2 plain calls", plain_calls: 2 },
    Single { what: 4, name: "KeAcquireSpinLock + KeReleaseSpinLock", wanted: "", plain_calls: 2 },
    Single { what: 5, name: "KeSetEvent + satisfied wait", wanted: "", plain_calls: 2 },
    Single { what: 6, name: "64 bytes of pool: allocate + free", wanted: "100 ns", plain_calls: 0 },
    Single { what: 7, name: "DPC queued and run", wanted: "1 µs", plain_calls: 0 },
    Single { what: 8, name: "thread switch", wanted: "500 ns", plain_calls: 0 },
];

/// How the cost of one changes with how many there are.
struct Scale {
    what: u32,
    name: &'static str,
    most: u32,
}

#[rustfmt::skip]
const SCALES: &[Scale] = &[
    Scale { what: 9, name: "device made + deleted", most: 10_000 },
    Scale { what: 10, name: "pool block allocated + freed", most: 100_000 },
    // The floor of the row above: those blocks' memory in that order, touched by the driver, without the pool.
    Scale { what: 13, name: "the same blocks only touched (floor)", most: 100_000 },
    Scale { what: 11, name: "timer set + cancelled", most: 10_000 },
    Scale { what: 12, name: "thread made + ended", most: 1_000 },
];

/// The driver in its machine.
struct Bench {
    process: Process,
    handle: Handle,
    machine: Machine,
    ticks_per_ns: f64,
}

impl Bench {
    fn start(driver: &Path, privilege: Privilege) -> Result<Self, Failure> {
        let machine = start(Launch {
            drivers: vec![driver.to_owned()],
            available: Vec::new(),
            windows: None,
            registry: None,
            files: None,
            policy: Policy::from_str("benchmark", "")?,
            privilege: Some(privilege),
            memory_bytes: MEMORY_BYTES,
            timeout: Duration::from_secs(60),
            trace: None,
            recorder: None,
            save_registry: None,
            is_strict: false,
            is_verifying: false,
            is_pnp_held: false,
            processor_share: None,
        })?;
        let mut process = machine.process()?;
        let handle = process.open(r"\\.\ktest")?;
        let mut bench = Self {
            process,
            handle,
            machine,
            ticks_per_ns: 1.0,
        };
        let (started, (first, _)) = (Instant::now(), bench.stamps(0, 0)?.ok_or("no answer")?);
        std::thread::sleep(CALIBRATION);
        let (elapsed, (second, _)) = (started.elapsed(), bench.stamps(0, 0)?.ok_or("no answer")?);
        bench.ticks_per_ns = (second - first) as f64 / elapsed.as_nanos() as f64;
        Ok(bench)
    }

    /// Both time stamps of a run; `None`: the shim lacks what it needs.
    fn stamps(&mut self, what: u32, count: u32) -> Result<Option<(u64, u64)>, Failure> {
        let input = [what.to_le_bytes(), count.to_le_bytes()].concat();
        let result = self
            .process
            .ioctl(self.handle, RUN, &input, 16)
            .map_err(|error| integration_tests::describe(&error))?;
        match result.status.0 {
            0 => {}
            STATUS_NOT_IMPLEMENTED => return Ok(None),
            _ => return Err(format!("measurement {what}: {}", result.status).into()),
        }
        let (start, end) = result.output.split_at_checked(8).ok_or("a short answer")?;
        Ok(Some((
            u64::from_le_bytes(start.try_into()?),
            u64::from_le_bytes(end.try_into()?),
        )))
    }

    /// Nanoseconds of one operation, the fastest of `rounds` runs.
    fn cost(&mut self, what: u32, count: u32, rounds: usize) -> Result<Option<f64>, Failure> {
        let mut best: Option<f64> = None;
        for _ in 0..rounds {
            let Some((start, end)) = self.stamps(what, count)? else {
                return Ok(None);
            };
            let cost = (end - start) as f64 / self.ticks_per_ns / f64::from(count);
            best = Some(best.map_or(cost, |best| best.min(cost)));
        }
        Ok(best)
    }
}

fn time(ns: f64) -> String {
    if ns < 1000.0 {
        format!("{ns:.1} ns")
    } else {
        format!("{:.2} µs", ns / 1000.0)
    }
}

/// Which tables are made.
#[derive(Clone, Copy)]
struct Parts {
    calls: bool,
    scaling: bool,
}

fn table(
    bench: &mut Bench,
    abi: DriverAbi,
    privilege: Privilege,
    parts: Parts,
) -> Result<String, Failure> {
    // i386 code is interpreted by paravirtual KVM: a thousand times slower.
    let is_interpreted =
        abi == DriverAbi::I386 && host::KvmKind::detect() == host::KvmKind::Paravirtual;
    let (count, rounds) = if is_interpreted {
        (200, 3)
    } else {
        (100_000, ROUNDS)
    };
    let mut text = format!(
        "{} driver, {}{}\n\n| operation | cost | in plain calls | wanted at most |\n|---|---|---|---|\n",
        abi.name(),
        privilege.name(),
        if is_interpreted {
            ": i386 code is interpreted by this KVM"
        } else {
            ""
        },
    );
    let mut plain = 1.0;
    for single in SINGLES.iter().filter(|_| parts.calls) {
        let Some(cost) = bench.cost(single.what, count, rounds)? else {
            text.push_str(&format!(
                "| {} | not there | | {} |\n",
                single.name, single.wanted
            ));
            continue;
        };
        if single.what == 1 {
            plain = cost;
        }
        let ratio = if single.plain_calls == 0 {
            String::new()
        } else {
            format!("{:.1}", cost / plain / f64::from(single.plain_calls))
        };
        text.push_str(&format!(
            "| {} | {} | {ratio} | {} |\n",
            single.name,
            time(cost),
            single.wanted
        ));
    }
    text.push_str("\n| one of N | N/100 | N/10 | N | N is | N against N/100 | logarithmic |\n|---|---|---|---|---|---|---|\n");
    for scale in SCALES.iter().filter(|_| parts.scaling) {
        let most = if is_interpreted {
            scale.most / 100
        } else {
            scale.most
        };
        let counts = [most / 100, most / 10, most].map(|count| count.max(1));
        let (mut cells, mut costs) = (Vec::new(), Vec::new());
        for count in counts {
            let cost = bench.cost(scale.what, count, if is_interpreted { 1 } else { ROUNDS })?;
            cells.push(cost.map_or_else(|| "not there".to_owned(), time));
            costs.extend(cost);
        }
        let growth = match costs[..] {
            [least, _, cost] => format!("{:.2}", cost / least),
            _ => String::new(),
        };
        let logarithmic = f64::from(most).ln() / f64::from(counts[0]).max(2.0).ln();
        text.push_str(&format!(
            "| {} | {} | {most} | {growth} | {logarithmic:.2} |\n",
            scale.name,
            cells.join(" | ")
        ));
    }
    Ok(text)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map_or_else(PathBuf::new, Path::to_path_buf)
}

/// Builds the driver; returns the folder with one for each ABI.
fn build() -> Result<PathBuf, Failure> {
    let folder = root().join("target/bench-drivers");
    let definitions = tempfile::tempdir()?;
    imports::write_definitions(definitions.path())?;
    let status = Command::new(root().join("tests/drivers/conformance/build"))
        .arg(&folder)
        .arg("../bench/bench.c")
        .env("RINGFENCE_IMPORTS", definitions.path())
        .status()?;
    if !status.success() {
        return Err("the driver does not build".into());
    }
    Ok(folder)
}

fn main() -> Result<(), Failure> {
    let folder = build()?;
    let kvm = host::open()?;
    let privilege = host::choose_privilege(&kvm).privilege;
    drop(kvm);
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let is_any = |names: &[&str]| {
        names
            .iter()
            .any(|name| wanted.iter().any(|word| word == name))
    };
    let parts = Parts {
        calls: is_any(&["calls"]) || !is_any(&["scaling"]),
        scaling: is_any(&["scaling"]) || !is_any(&["calls"]),
    };
    let abis = [DriverAbi::Amd64, DriverAbi::I386];
    let is_every_abi = !is_any(&abis.map(DriverAbi::name));
    let mut text = format!("KVM: {}\n", host::KvmKind::detect().name());
    for abi in abis {
        if !is_every_abi && !is_any(&[abi.name()]) {
            continue;
        }
        let mut bench = Bench::start(&folder.join(abi.name()).join("bench.sys"), privilege)?;
        text.push('\n');
        text.push_str(&table(&mut bench, abi, privilege, parts)?);
        bench.machine.shutdown();
    }
    print!("{text}");
    let file = root().join("target/benchmarks-guest.md");
    std::fs::write(&file, text)?;
    println!("\nwritten to {}", file.display());
    Ok(())
}
