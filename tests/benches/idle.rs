//! What drivers cost that nobody uses. `cargo bench -p integration-tests --bench idle [-- DRIVERS]` (100 unless given)
//!
//! Starts them with `ringfence run --detach`, leaves them alone, and reads what the kernel has counted: processor time and
//! context switches of each of their threads, and memory. The table goes to standard output and to
//! target/benchmarks-idle.md.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How long they are left alone.
const IDLE: Duration = Duration::from_secs(10);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map_or_else(PathBuf::new, Path::to_path_buf)
}

/// The drivers' run directory. Dropping it stops them.
struct Runs(tempfile::TempDir);

impl Runs {
    fn ringfence(&self, arguments: &[&str]) -> Result<String, Failure> {
        let output = Command::new(root().join("target/release/ringfence"))
            .args(arguments)
            .env("RINGFENCE_RUN_DIR", self.0.path())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()?;
        if !output.status.success() {
            return Err(format!("ringfence {arguments:?}: {}", output.status).into());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    fn listed(&self) -> Result<Vec<serde_json::Value>, Failure> {
        let text = self.ringfence(&["ps", "--json"])?;
        let rows: Result<_, _> = text.lines().map(serde_json::from_str).collect();
        Ok(rows?)
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        let names: Vec<String> = self
            .listed()
            .unwrap_or_default()
            .iter()
            .filter_map(|run| Some(run["name"].as_str()?.to_owned()))
            .collect();
        let arguments: Vec<&str> = std::iter::once("stop")
            .chain(names.iter().map(String::as_str))
            .collect();
        if let Err(error) = self.ringfence(&arguments) {
            eprintln!("{error}");
        }
    }
}

/// What the threads of processes have done.
#[derive(Clone, Copy, Default)]
struct Activity {
    /// Time on a processor, from schedstat.
    nanoseconds: u64,
    /// Voluntary and other context switches.
    switches: u64,
    threads: u64,
}

impl Activity {
    fn of(pids: &[u64]) -> Result<Self, Failure> {
        let mut activity = Self::default();
        for pid in pids {
            for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
                let task = task?.path();
                let schedstat = std::fs::read_to_string(task.join("schedstat"))?;
                let first = schedstat.split_whitespace().next();
                activity.nanoseconds += first.ok_or("no schedstat")?.parse::<u64>()?;
                let status = std::fs::read_to_string(task.join("status"))?;
                for line in status.lines().filter(|line| line.contains("ctxt_switches")) {
                    let count = line.split_whitespace().nth(1).ok_or("no count")?;
                    activity.switches += count.parse::<u64>()?;
                }
                activity.threads += 1;
            }
        }
        Ok(activity)
    }
}

/// A row for one kind of drivers.
fn measure(count: usize, what: &str, arguments: &[&str]) -> Result<String, Failure> {
    let driver = root().join("images/drivers/amd64/echo.sys");
    let driver = driver.to_str().ok_or("a path")?;
    let runs = Runs(tempfile::tempdir()?);
    let began = Instant::now();
    for number in 0..count {
        let name = format!("echo{number}");
        let run = [&["run", driver, "--detach", "--name", &name], arguments].concat();
        runs.ringfence(&run)?;
    }
    let started = began.elapsed() / u32::try_from(count.max(1))?;
    // What the start leaves to be done is done.
    std::thread::sleep(Duration::from_secs(2));
    let listed = runs.listed()?;
    let total = |field: &str| {
        listed
            .iter()
            .filter_map(|run| run[field].as_u64())
            .sum::<u64>()
    };
    let each = |field: &str| total(field) as f64 / count.max(1) as f64 / f64::from(1 << 20);
    let (resident, share) = (each("resident_memory"), each("proportional_memory"));
    // `ps` has asked each of them something.
    std::thread::sleep(Duration::from_secs(2));
    let pids = processes(runs.0.path())?;
    let before = Activity::of(&pids)?;
    let began = Instant::now();
    std::thread::sleep(IDLE);
    let after = Activity::of(&pids)?;
    let elapsed = began.elapsed();
    let used = Duration::from_nanos(after.nanoseconds - before.nanoseconds);
    Ok(format!(
        "| {count} drivers, {what} | {} | {:.4} % of a processor, {} wake-ups | {resident:.1} MiB, {share:.1} MiB | {started:.0?} |",
        after.threads,
        100.0 * used.as_secs_f64() / elapsed.as_secs_f64(),
        after.switches - before.switches,
    ))
}

/// All their processes, supervisors and what they supervise.
fn processes(directory: &Path) -> Result<Vec<u64>, Failure> {
    let mut pids = Vec::new();
    for run in std::fs::read_dir(directory)? {
        let state = run?.path().join("state.json");
        let Ok(text) = std::fs::read_to_string(state) else {
            continue;
        };
        let state: serde_json::Value = serde_json::from_str(&text)?;
        pids.extend(state["pid"].as_u64());
        pids.extend(state["worker"]["pid"].as_u64());
    }
    Ok(pids)
}

fn main() -> Result<(), Failure> {
    let count = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(100);
    let rows = [
        measure(count, "plain", &[])?,
        measure(
            count,
            "each with `--restart on-crash`",
            &["--restart", "on-crash"],
        )?,
    ];
    let kvm = vmm::machine::host::KvmKind::detect().name();
    let text = format!(
        "KVM: {kvm}; processors: {}; left alone for {IDLE:.0?}.\n\n\
         | what | threads | processor time of all | memory of each: resident, its share | start of each |\n\
         |---|---|---|---|---|\n{}\n",
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        rows.join("\n"),
    );
    print!("{text}");
    std::fs::write(root().join("target/benchmarks-idle.md"), text)?;
    Ok(())
}
