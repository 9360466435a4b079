//! What a request costs by the channel. `cargo bench -p integration-tests --bench channel [-- TABLE...]`
//!
//! TABLE: `latency`, `clients`, `reads`, `ports`, `idle`, `pinned`, `floor`; all of them if none is named.
//!
//! The table goes to standard output and to target/benchmarks-channel.md. Figures of a busy machine are upper bounds.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use abi::Privilege;
use ringfence_client::{Connection, Request};

#[expect(dead_code, reason = "the other benchmarks use the rest of it")]
mod floor;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// ECHO_BUFFERED.
const IOCTL_ECHO: u32 = 0x0022_2000;
/// ECHO_FILL.
const IOCTL_FILL: u32 = 0x0022_2052;
/// Requests of one measurement.
const REQUESTS: usize = 4000;
/// How long several clients make requests: many turns of as many threads.
const CLIENTS_TIME: Duration = Duration::from_secs(2);
/// Requests of one measurement of an i386 driver, which paravirtual KVM interprets.
const REQUESTS_I386: usize = 300;
/// A pause that is longer than anybody looks for.
const PAUSE: Duration = Duration::from_millis(2);
/// Reads of 1 MiB.
const READS: usize = 60;
const MEBIBYTE: u32 = 1 << 20;
/// Drivers that idle.
const DRIVERS: usize = 10;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map_or_else(PathBuf::new, Path::to_path_buf)
}

/// `ringfence run` with the echo driver, in a process of its own.
struct Driver {
    child: Child,
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

impl Driver {
    fn start(processor: Option<usize>) -> Result<Self, Failure> {
        Self::start_abi("amd64", processor)
    }

    fn start_abi(abi: &str, processor: Option<usize>) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let socket = folder.path().join("socket");
        let mut command = match processor {
            Some(number) => {
                let mut command = Command::new("taskset");
                command.arg("-c").arg(number.to_string());
                command.arg(root().join("target/release/ringfence"));
                command
            }
            None => Command::new(root().join("target/release/ringfence")),
        };
        let child = command
            .arg("run")
            .arg(root().join(format!("images/drivers/{abi}/echo.sys")))
            .args(["--memory", "64M", "--socket"])
            .arg(&socket)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let driver = Self {
            child,
            socket,
            _folder: folder,
        };
        let began = Instant::now();
        while Connection::connect(&driver.socket).is_err() {
            if began.elapsed() > Duration::from_secs(20) {
                return Err("the driver does not answer".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(driver)
    }

    /// Processor time that it has used.
    fn processor_time(&self) -> Result<Duration, Failure> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields = stat.rsplit_once(')').ok_or("no stat")?.1;
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        // USER_HZ is 100 on every Linux that there is.
        Ok(Duration::from_millis(ticks * 10))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill().is_ok();
        let _ = self.child.wait().is_ok();
    }
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or_default()
}

/// Round trips of 64 bytes with a pause between them, sorted, and exits for each.
fn round_trips(
    client: &Connection,
    count: usize,
    pause: Duration,
) -> Result<(Vec<Duration>, f64), Failure> {
    let handle = client.open(r"\\.\echo")?;
    let input = [7; 64];
    for _ in 0..(count / 10).min(200) {
        client.ioctl(handle, IOCTL_ECHO, &input, 64)?;
    }
    let before = client.statistics()?.exits;
    let mut samples = Vec::with_capacity(count);
    for _ in 0..count {
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
        let began = Instant::now();
        let done = client.ioctl(handle, IOCTL_ECHO, &input, 64)?;
        samples.push(began.elapsed());
        if done.status != 0 || done.output.len() != 64 {
            return Err("the echo is wrong".into());
        }
    }
    let exits = client.statistics()?.exits - before;
    samples.sort();
    client.close(handle)?;
    Ok((samples, exits as f64 / count as f64))
}

fn latency(
    abi: &str,
    processor: Option<usize>,
    pause: Duration,
    rows: &mut Vec<String>,
) -> Result<(), Failure> {
    let driver = Driver::start_abi(abi, processor)?;
    let how = match processor {
        Some(_) => "client and driver pinned to one processor",
        None if pause.is_zero() => "one after the other",
        None => "2 ms between them: nobody looks",
    };
    if let Some(number) = processor {
        pin(number)?;
    }
    let client = Connection::connect(&driver.socket)?;
    let count = match (abi, pause.is_zero()) {
        ("i386", _) | (_, false) => REQUESTS_I386,
        _ => REQUESTS,
    };
    let (samples, exits) = round_trips(&client, count, pause)?;
    rows.push(format!(
        "| DeviceIoControl of 64 bytes, {abi}, {how} | p50 {:.1?}, p99 {:.1?} | {exits:.3} exits a request |",
        percentile(&samples, 50),
        percentile(&samples, 99),
    ));
    Ok(())
}

/// Pins this process, as far as it has started threads.
fn pin(processor: usize) -> Result<(), Failure> {
    let status = Command::new("taskset")
        .arg("-pc")
        .arg(processor.to_string())
        .arg(std::process::id().to_string())
        .stdout(Stdio::null())
        .status()?;
    if !status.success() {
        return Err("taskset failed".into());
    }
    Ok(())
}

/// One request at a time until it is said to stop: how many, without those before the barrier.
fn requests_until(socket: &Path, barrier: &Barrier, is_over: &AtomicBool) -> Result<u64, Failure> {
    let client = Connection::connect(socket)?;
    let handle = client.open(r"\\.\echo")?;
    let input = [7; 64];
    for _ in 0..200 {
        client.ioctl(handle, IOCTL_ECHO, &input, 64)?;
    }
    barrier.wait();
    let mut count = 0;
    while !is_over.load(Ordering::Relaxed) {
        let done = client.ioctl(handle, IOCTL_ECHO, &input, 64)?;
        if done.status != 0 || done.output.len() != 64 {
            return Err("the echo is wrong".into());
        }
        count += 1;
    }
    Ok(count)
}

fn clients(rows: &mut Vec<String>) -> Result<(), Failure> {
    let driver = Driver::start(None)?;
    let watcher = Connection::connect(&driver.socket)?;
    for count in [1_usize, 2, 4, 8, 16] {
        let barrier = Arc::new(Barrier::new(count + 1));
        let is_over = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = (0..count)
            .map(|_| {
                let (socket, barrier) = (driver.socket.clone(), Arc::clone(&barrier));
                let is_over = Arc::clone(&is_over);
                std::thread::spawn(move || requests_until(&socket, &barrier, &is_over))
            })
            .collect();
        barrier.wait();
        let (began, exits) = (Instant::now(), watcher.statistics()?.exits);
        std::thread::sleep(CLIENTS_TIME);
        is_over.store(true, Ordering::Relaxed);
        let exits = watcher.statistics()?.exits - exits;
        let time = began.elapsed();
        let counts = threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| "a client panicked")?)
            .collect::<Result<Vec<u64>, Failure>>()?;
        let rate = |count: u64| count as f64 / time.as_secs_f64();
        let total: u64 = counts.iter().sum();
        let least = rate(counts.iter().copied().min().unwrap_or_default());
        let most = rate(counts.iter().copied().max().unwrap_or_default());
        let exits = exits as f64 / total as f64;
        let floor = rate(floor::eventfd_clients(count, time)?);
        rows.push(format!(
            "| {count} clients, one request at a time each | {:.0} requests a second (one client {least:.0} to {most:.0}), \
             {exits:.3} exits a request | by eventfds to one thread that answers: {floor:.0} |",
            rate(total),
        ));
    }
    Ok(())
}

fn reads(rows: &mut Vec<String>) -> Result<(), Failure> {
    let driver = Driver::start(None)?;
    let client = Connection::connect(&driver.socket)?;
    let handle = client.open(r"\\.\echo_direct")?;
    let input = 3_u32.to_le_bytes();
    let buffer = client.buffer(MEBIBYTE)?;
    let from = vec![5_u8; MEBIBYTE as usize];
    let mut to = vec![0_u8; MEBIBYTE as usize];
    let (mut in_place, mut copied, mut copies) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..READS {
        let began = Instant::now();
        to.copy_from_slice(std::hint::black_box(&from));
        std::hint::black_box(&mut to);
        copies.push(began.elapsed());
        // The driver fills its MDL's pages, which are the buffer's.
        let part = buffer.part(0, MEBIBYTE)?;
        let began = Instant::now();
        let done = client.call(&Request::ioctl_to(handle.0, IOCTL_FILL, &input, part))?;
        in_place.push(began.elapsed());
        if done.status != 0 || done.information != u64::from(MEBIBYTE) {
            return Err(format!("the read failed: {:#x}", done.status).into());
        }
        // The same, and the program gets it in memory of its own.
        let began = Instant::now();
        let done = client.ioctl(handle, IOCTL_FILL, &input, MEBIBYTE)?;
        copied.push(began.elapsed());
        if done.status != 0 || done.output.len() != MEBIBYTE as usize {
            return Err(format!("the read failed: {:#x}", done.status).into());
        }
    }
    copies.sort();
    let copy = percentile(&copies, 50);
    for (how, mut samples) in [
        ("into a shared buffer", in_place),
        ("copied to the program", copied),
    ] {
        samples.sort();
        let read = percentile(&samples, 50);
        rows.push(format!(
            "| 1 MiB that the driver writes, direct I/O, {how}, median of {READS} | {read:.1?}, {:.2} GB/s | memcpy {copy:.1?}: {:.0} % of its speed |",
            f64::from(MEBIBYTE) / read.as_secs_f64() / 1e9,
            100.0 * copy.as_secs_f64() / read.as_secs_f64(),
        ));
    }
    Ok(())
}

fn ports(rows: &mut Vec<String>) -> Result<(), Failure> {
    let driver = Driver::start(None)?;
    let client = Connection::connect(&driver.socket)?;
    let mut samples = Vec::new();
    for _ in 0..REQUESTS {
        let began = Instant::now();
        // Denied by the process's map: what is measured is the way there and back.
        let denied = client.port_in(0x300, ringfence_client::Width::Byte);
        samples.push(began.elapsed());
        if denied.is_ok() {
            return Err("a port was read without permission".into());
        }
    }
    samples.sort();
    rows.push(format!(
        "| port access, answered without the guest | p50 {:.1?}, p99 {:.1?} | |",
        percentile(&samples, 50),
        percentile(&samples, 99),
    ));
    Ok(())
}

fn idle(rows: &mut Vec<String>) -> Result<(), Failure> {
    let drivers = (0..DRIVERS)
        .map(|_| Driver::start(None))
        .collect::<Result<Vec<_>, _>>()?;
    let clients = drivers
        .iter()
        .map(|driver| Connection::connect(&driver.socket))
        .collect::<Result<Vec<_>, _>>()?;
    for client in &clients {
        round_trips(client, 10, Duration::ZERO)?;
    }
    std::thread::sleep(Duration::from_millis(500));
    let total = || {
        drivers
            .iter()
            .map(Driver::processor_time)
            .sum::<Result<Duration, Failure>>()
    };
    let before = total()?;
    let began = Instant::now();
    std::thread::sleep(Duration::from_secs(5));
    let used = total()?.saturating_sub(before);
    rows.push(format!(
        "| {DRIVERS} idle drivers, a client connected to each | {:.2} % of a processor together | over {:.0?} |",
        100.0 * used.as_secs_f64() / began.elapsed().as_secs_f64(),
        began.elapsed(),
    ));
    Ok(())
}

/// What a request on one processor cannot be cheaper than: two changes of threads, and the guest's exit and entry.
fn floors(rows: &mut Vec<String>) -> Result<(), Failure> {
    pin(0)?;
    let mut trips = floor::eventfd_round_trips(REQUESTS)?;
    trips.sort();
    let kvm = vmm::machine::host::KvmKind::detect();
    let privilege = if kvm == vmm::machine::host::KvmKind::Paravirtual {
        Privilege::Ring3
    } else {
        Privilege::Ring0
    };
    let mut exits = floor::memory_writes(privilege, REQUESTS)?;
    exits.sort();
    for (what, samples) in [
        ("two threads wake each other by eventfds", &trips),
        (
            "a bare guest's store to no memory: an exit and an entry",
            &exits,
        ),
    ] {
        rows.push(format!(
            "| floor: {what}, pinned to one processor | p50 {:.1?}, p99 {:.1?} | |",
            percentile(samples, 50),
            percentile(samples, 99),
        ));
    }
    Ok(())
}

fn main() -> Result<(), Failure> {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let names: Vec<String> = std::env::args()
        .skip(1)
        .filter(|name| !name.starts_with('-'))
        .collect();
    let is_wanted = |name: &str| names.is_empty() || names.iter().any(|wanted| wanted == name);
    let mut rows = Vec::new();
    if is_wanted("latency") {
        latency("amd64", None, Duration::ZERO, &mut rows)?;
        latency("amd64", None, PAUSE, &mut rows)?;
        latency("i386", None, Duration::ZERO, &mut rows)?;
    }
    if is_wanted("clients") {
        clients(&mut rows)?;
    }
    if is_wanted("reads") {
        reads(&mut rows)?;
    }
    if is_wanted("ports") {
        ports(&mut rows)?;
    }
    if is_wanted("idle") {
        idle(&mut rows)?;
    }
    // Last: they pin this process.
    if is_wanted("pinned") {
        latency("amd64", Some(0), Duration::ZERO, &mut rows)?;
    }
    if is_wanted("floor") {
        floors(&mut rows)?;
    }
    let kvm = vmm::machine::host::KvmKind::detect().name();
    let text = format!(
        "KVM: {kvm}; processors: {processors}.\n\n| what | cost | |\n|---|---|---|\n{}\n",
        rows.join("\n"),
    );
    print!("{text}");
    std::fs::write(root().join("target/benchmarks-channel.md"), text)?;
    Ok(())
}
