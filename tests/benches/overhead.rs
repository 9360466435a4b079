//! What Ringfence costs beside KVM itself, as ratios measured in one run. `cargo bench -p integration-tests`
//!
//! | figure | against |
//! |---|---|
//! | exec of `ringfence run` to DriverEntry's return | a program that creates a VM and a vCPU and takes one exit |
//! | a driver's port write through policy to a model | a bare KVM port exit at the same privilege level |
//! | a driver's port write through policy to the machine's own port | that exit and the host's own `out` |
//! | resident memory of a running driver beyond the guest's pages | (absolute) |
//!
//! The table goes to standard output and to target/benchmarks.md. `-- ports` measures the port writes alone. The machine's
//! own port is written to in the SVM lane only (scripts/bench-svm-lane).

#[expect(dead_code, reason = "the other benchmarks use the rest of it")]
mod floor;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use abi::Privilege;
use integration_tests::is_lane;
use vmm::machine::host;
use vmm::policy::Policy;
use vmm::session::driver::{RunningDriver, RunningMachine};
use vmm::session::{Launch, start};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Starts of each program; the two alternate, so that noise hits both.
const STARTS: usize = 40;
/// Port writes in one measurement.
const WRITES: u32 = 4000;
/// Measurements of port writes of each kind, alternating.
const ROUNDS: usize = 9;
/// Port that the measured writes go to, a `ram` model.
const PORT: u16 = 0x300;
/// `faulty`: {u32 port, u32 count} writes `count` times (tests/drivers/include/faulty.h).
const IOCTL_PORT_FLOOD: u32 = 0x0022_2034;
/// The data lines of the SVM lane's parallel port: a byte there has no effect without a strobe.
const REAL_PORT: u16 = 0x378;
const REAL_POLICY: &str =
    "[[port]]\nrange = \"0x378-0x37a\"\naccess = \"rw\"\nbackend = \"passthrough\"\n";
const POLICY: &str = "[[port]]\nrange = \"0x300-0x307\"\naccess = \"rw\"\nbackend = \"ram\"\n";

fn main() -> Result<(), Failure> {
    if std::env::args().any(|argument| argument == "--floor") {
        // The minimal program: the parent measures from our exec to this line.
        floor::one_exit()?;
        println!("exit");
        return Ok(());
    }
    let kvm = host::open()?;
    let privilege = host::choose_privilege(&kvm).privilege;
    drop(kvm);
    // `-- ports` only: what can be measured without the other programs.
    let is_ports_only = std::env::args().any(|argument| argument == "ports");
    let mut table = vec![model_write(privilege)?, real_write(privilege)?];
    if !is_ports_only {
        table.insert(0, start_time()?);
        table.push(resident_memory()?);
    }
    let mut text = format!(
        "Machine: {}; KVM: {}; privilege mode: {}.\n\n| figure | Ringfence | floor | ratio | wanted |\n|---|---|---|---|---|\n",
        processor(),
        host::KvmKind::detect().name(),
        privilege.name(),
    );
    for row in table {
        text.push_str(&row);
        text.push('\n');
    }
    print!("{text}");
    let file = root().join("target/benchmarks.md");
    std::fs::create_dir_all(root().join("target"))?;
    std::fs::write(&file, text)?;
    println!("\nwritten to {}", file.display());
    Ok(())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map_or_else(PathBuf::new, Path::to_path_buf)
}

fn processor() -> String {
    std::fs::read_to_string("/proc/cpuinfo")
        .unwrap_or_default()
        .lines()
        .find_map(|line| {
            line.strip_prefix("model name")?
                .split_once(':')
                .map(|(_, name)| name.trim().to_owned())
        })
        .unwrap_or_else(|| "unknown".to_owned())
}

fn ringfence() -> Result<PathBuf, Failure> {
    let binary = root().join("target/release/ringfence");
    if !binary.exists() {
        return Err("target/release/ringfence is missing: cargo build --release".into());
    }
    Ok(binary)
}

fn median(mut samples: Vec<Duration>) -> Duration {
    samples.sort();
    samples.get(samples.len() / 2).copied().unwrap_or_default()
}

/// Time from spawning a program to its first line of output.
fn first_line(command: &mut Command) -> Result<(Duration, Child, String), Failure> {
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut line = String::new();
    let stdout = child.stdout.take().ok_or("no pipe")?;
    let mut stdout = BufReader::new(stdout);
    stdout.read_line(&mut line)?;
    let elapsed = started.elapsed();
    std::thread::spawn(move || {
        // The program may write on; nobody needs it.
        let _ = stdout.read_to_end(&mut Vec::new()).is_ok();
    });
    Ok((elapsed, child, line))
}

fn start_time() -> Result<String, Failure> {
    let own = std::env::current_exe()?;
    let driver = root().join("images/drivers/amd64/ioperm.sys");
    let (mut floors, mut runs) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let (elapsed, mut child, line) = first_line(Command::new(&own).arg("--floor"))?;
        child.wait()?;
        if line.trim() != "exit" {
            return Err("the minimal program failed".into());
        }
        floors.push(elapsed);
        // The foreground run announces itself when DriverEntry has returned.
        let (elapsed, mut child, line) = first_line(
            Command::new(ringfence()?)
                .arg("run")
                .arg(&driver)
                .arg("--json"),
        )?;
        child.kill()?;
        child.wait()?;
        if !line.contains("\"started\"") {
            return Err(format!("ringfence run printed {line:?}, not that it has started").into());
        }
        runs.push(elapsed);
    }
    let (floor, run) = (median(floors), median(runs));
    Ok(format!(
        "| exec to DriverEntry's return (ioperm amd64), median of {STARTS} | {run:.2?} | {floor:.2?} (VM, vCPU, one exit) | {:.2} | at most 3 |",
        run.as_secs_f64() / floor.as_secs_f64(),
    ))
}

/// Medians of a floor and of a driver's writes to a port under a policy; the two alternate.
fn port_writes(
    privilege: Privilege,
    policy: &str,
    port: u16,
    mut floor: impl FnMut() -> Result<Duration, Failure>,
) -> Result<(Duration, Duration), Failure> {
    let machine = start(Launch {
        drivers: vec![root().join("images/drivers/amd64/faulty.sys")],
        available: Vec::new(),
        policy: Policy::from_str("benchmark", policy)?,
        privilege: Some(privilege),
        memory_bytes: abi::layout::RAM_DEFAULT,
        timeout: Duration::from_secs(60),
        trace: None,
        recorder: None,
        save_registry: None,
        is_verifying: false,
        is_pnp_held: false,
        processor_share: None,
        registry: None,
        files: None,
        is_strict: false,
        windows: None,
    })?;
    let mut process = machine.process()?;
    let handle = process.open(r"\\.\faulty")?;
    let mut input = u32::from(port).to_le_bytes().to_vec();
    input.extend_from_slice(&WRITES.to_le_bytes());
    let (mut floors, mut writes) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        floors.push(floor()?);
        let result = process.ioctl(handle, IOCTL_PORT_FLOOD, &input, 0)?;
        if result.status.0 != 0 {
            return Err(format!("the driver answered {}", result.status).into());
        }
        writes.push(result.elapsed / WRITES);
    }
    let stats = process.stats()?;
    if stats.port_denied != 0 {
        return Err(format!("{} accesses were denied", stats.port_denied).into());
    }
    drop(process);
    machine.shutdown();
    Ok((median(floors), median(writes)))
}

fn model_write(privilege: Privilege) -> Result<String, Failure> {
    let (floor, write) = port_writes(privilege, POLICY, PORT, || {
        Ok(floor::port_writes(privilege, WRITES)? / WRITES)
    })?;
    Ok(format!(
        "| port write from a driver to a model, median of {ROUNDS} times {WRITES} | {write:.2?} | {floor:.2?} (bare exit, {}) | {:.2} | at most 1.3 |",
        privilege.name(),
        write.as_secs_f64() / floor.as_secs_f64(),
    ))
}

fn real_write(privilege: Privilege) -> Result<String, Failure> {
    const NAME: &str = "port write from a driver to the machine's port";
    if !is_lane() {
        // Elsewhere there are no ports, or nobody says which one may be written to.
        return Ok(format!(
            "| {NAME} | not measured: no port access outside of scripts/bench-svm-lane | | | at most 1.5 |"
        ));
    }
    let mut own = Vec::new();
    let (floor, write) = port_writes(privilege, REAL_POLICY, REAL_PORT, || {
        let host = floor::host_writes(REAL_PORT, WRITES)? / WRITES;
        own.push(host);
        Ok(floor::port_writes(privilege, WRITES)? / WRITES + host)
    })?;
    Ok(format!(
        "| {NAME}, median of {ROUNDS} times {WRITES} | {write:.2?} | {floor:.2?} (bare exit, {}, and the host's own out: {:.2?}) | {:.2} | at most 1.5 |",
        privilege.name(),
        median(own),
        write.as_secs_f64() / floor.as_secs_f64(),
    ))
}

/// Resident KiB of a process, without mappings as large as guest RAM.
fn resident_beside_guest(pid: u32) -> Result<(u64, u64), Failure> {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let (mut own, mut guest, mut size) = (0, 0, 0);
    for line in smaps.lines() {
        let kib = || {
            line.split_whitespace()
                .nth(1)
                .and_then(|number| number.parse::<u64>().ok())
                .unwrap_or(0)
        };
        if line.starts_with("Size:") {
            size = kib();
        } else if line.starts_with("Rss:") {
            if size * 1024 == abi::layout::RAM_DEFAULT {
                guest += kib();
            } else {
                own += kib();
            }
        }
    }
    Ok((own, guest))
}

fn resident_memory() -> Result<String, Failure> {
    let driver = root().join("images/drivers/amd64/ioperm.sys");
    let (_, mut child, line) = first_line(
        Command::new(ringfence()?)
            .arg("run")
            .arg(driver)
            .arg("--json"),
    )?;
    let resident = resident_beside_guest(child.id());
    child.kill()?;
    child.wait()?;
    let (own, guest) = resident?;
    if !line.contains("\"started\"") {
        return Err("ringfence run did not start".into());
    }
    Ok(format!(
        "| resident memory beside guest pages | {:.1} MiB | guest pages touched: {:.1} MiB | - | under 8 MiB |",
        own as f64 / 1024.0,
        guest as f64 / 1024.0,
    ))
}
