//! What drivers and ports cost a Windows program, beside the same driver in Wine's own winedevice.
//! `cargo bench -p integration-tests --bench wine [-- PART...]`
//!
//! Parts are start, ioctl, floor, programs and ports; all of them unless some are named. `prepare` only makes what they need:
//! the program and the prefixes.
//!
//! In the SVM lane (scripts/bench-svm-lane wine), where everything is some twenty times slower, what `prepare` has made outside is
//! taken as it is, and there are fewer requests. RINGFENCE_BENCH_PRIVILEGE (ring0, ring3) is the privilege mode of the micro-VMs
//! of a prefix.
//!
//! One program (wine/tests/bench.c), one driver (echo.sys), two prefixes, in turns. The table goes to standard output and to
//! target/benchmarks-wine.md. Figures of a busy machine are upper bounds; read the ratios.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use integration_tests::is_lane;

#[expect(dead_code, reason = "the other benchmarks use the rest of it")]
mod floor;
mod wine_prefix;

use wine_prefix::{Prefix, numbers, ringfence, root};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Turns of each measurement; the fastest counts.
const TURNS: usize = 3;
/// Programs at once.
const PROGRAMS: [usize; 3] = [1, 4, 16];
/// What they all have to start in.
const STARTS: Duration = Duration::from_secs(12);
/// How long they make requests.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Requests of one measurement.
fn requests() -> usize {
    if is_lane() { 400 } else { 4000 }
}

fn micro(ns: u64) -> String {
    format!("{}.{:02} µs", ns / 1000, ns % 1000 / 10)
}

/// The fastest of the turns, by the first number.
fn fastest(results: &[Vec<u64>]) -> Result<Vec<u64>, Failure> {
    let fastest = results.iter().min_by_key(|numbers| numbers.first());
    Ok(fastest.ok_or("no measurement")?.clone())
}

struct Table(String);

impl Table {
    fn row(&mut self, what: &str, ours: &str, theirs: &str, ratio: &str) {
        let line = format!("| {what} | {ours} | {theirs} | {ratio} |\n");
        print!("{line}");
        self.0.push_str(&line);
    }

    fn compare(&mut self, what: &str, ours: &[u64], theirs: &[u64]) {
        let (Some(&one), Some(&other)) = (ours.first(), theirs.first()) else {
            return;
        };
        let hundredths = one * 100 / other.max(1);
        let show = |numbers: &[u64]| {
            let tail = numbers.last().copied().unwrap_or(0);
            format!("p50 {}, p99 {}", micro(numbers[0]), micro(tail))
        };
        let ratio = format!("{}.{:02}", hundredths / 100, hundredths % 100);
        self.row(what, &show(ours), &show(theirs), &ratio);
    }
}

/// Programs at once, all of which make requests at the same time: how many of all a second, and of the one with the least and
/// the one with the most.
fn at_once(
    prefix: &Prefix,
    program: &Path,
    count: usize,
    is_direct: bool,
) -> Result<[u64; 3], Failure> {
    let begin = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)? + STARTS;
    let moment = |time: Duration| time.as_millis().to_string();
    let children: Vec<_> = (0..count)
        .map(|_| {
            let mut command = if is_direct {
                prefix.run(program)
            } else {
                let mut command = prefix.command(&prefix.wine);
                command.arg(program);
                command
            };
            command.arg("between");
            command.args([moment(begin), moment(begin + AT_ONCE)]);
            command.stdout(Stdio::piped()).spawn()
        })
        .collect();
    let mut rates = Vec::new();
    for child in children {
        let output = child?.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            return Err(text.into_owned().into());
        }
        rates.extend(
            numbers(&text)?
                .iter()
                .map(|requests| requests / AT_ONCE.as_secs()),
        );
    }
    let least = rates.iter().min().copied().ok_or("no rates")?;
    let most = rates.iter().max().copied().ok_or("no rates")?;
    Ok([rates.iter().sum(), least, most])
}

/// Parts that are named.
fn named() -> impl Iterator<Item = String> {
    std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
}

fn is_named(part: &str) -> bool {
    named().any(|name| name == part)
}

/// Whether a part is wanted.
fn wants(part: &str) -> bool {
    named().next().is_none() || is_named(part)
}

/// What the measurements need.
struct Bench {
    program: PathBuf,
    ours: Prefix,
    theirs: Prefix,
}

impl Bench {
    fn new() -> Self {
        let wine = std::env::var_os("WINE")
            .map_or_else(|| PathBuf::from("/usr/lib/wine/wine64"), PathBuf::from);
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("wine-bench");
        let [ours, theirs] = ["ours", "theirs"].map(|name| Prefix {
            path: folder.join(name),
            wine: wine.clone(),
            is_pinned: false,
        });
        Self {
            program: folder.join("bench.exe"),
            ours,
            theirs,
        }
    }

    /// Builds the program, makes the prefixes, installs the drivers.
    fn prepare(&self) -> Result<(), Failure> {
        let folder = self.program.parent().ok_or("a folder")?;
        std::fs::create_dir_all(folder)?;
        let built = Command::new("x86_64-w64-mingw32-gcc")
            .args(["-O2", "-o"])
            .arg(&self.program)
            .arg(root().join("wine/tests/bench.c"))
            .status()?;
        if !built.success() {
            return Err("bench.c does not compile".into());
        }
        for prefix in [&self.ours, &self.theirs] {
            prefix.wine(&["wineboot", "-u"])?;
        }
        let ours_command = |arguments: &[&str]| {
            let mut command = self.ours.command(&ringfence());
            let (what, rest) = arguments.split_first().unwrap_or((&"list", &[]));
            command.args(["wine", what, "--wine"]).arg(&self.ours.wine);
            command.args(["--prefix"]).arg(&self.ours.path).args(rest);
            command.stderr(Stdio::inherit());
            command.status()
        };
        let policy = folder.join("policy.toml");
        std::fs::write(
            &policy,
            "[[port]]\nrange = \"0x300-0x30f\"\naccess = \"rw\"\nbackend = \"ram\"\n",
        )?;
        let text = |path: &Path| path.to_str().map(str::to_owned).ok_or("a path");
        let echo_text = text(&root().join("images/drivers/amd64/echo.sys"))?;
        let policy_text = text(&policy)?;
        let ioperm = text(&root().join("images/drivers/amd64/ioperm.sys"))?;
        for name in ["echo", "ioperm"] {
            // One of an earlier run, perhaps of another version.
            let _ = ours_command(&["remove", name])?;
        }
        let demand = ["install", "--start", "demand"];
        let _ = ours_command(&[&demand[..], &[&echo_text]].concat())?;
        let _ = ours_command(&[&demand[..], &["--policy", &policy_text, &ioperm]].concat())?;
        let native = format!("Z:{}", echo_text.replace('/', "\\"));
        let _ = self
            .theirs
            .wine(&[
                "sc", "create", "echo", "binPath=", &native, "type=", "kernel", "start=", "demand",
            ])
            .is_ok();
        Ok(())
    }
}

fn main() -> Result<(), Failure> {
    let Bench {
        program,
        mut ours,
        mut theirs,
    } = {
        let bench = Bench::new();
        if !is_lane() {
            bench.prepare()?;
        }
        bench
    };
    if is_named("prepare") {
        // Their registries are written when their sessions end.
        ours.pin(false);
        theirs.pin(false);
        return Ok(());
    }
    if let Some(privilege) = std::env::var_os("RINGFENCE_BENCH_PRIVILEGE") {
        ours.set_privilege(privilege.to_str().ok_or("a privilege mode")?)?;
    }

    let mut table = Table(String::new());
    table.row("what", "Ringfence", "winedevice", "ratio");
    table.row("---", "---", "---", "---");
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    for (is_pinned, how) in [(true, "pinned to one processor"), (false, "not pinned")] {
        if !wants("start") && !wants("ioctl") || (!is_pinned && processors == 1) {
            break;
        }
        ours.pin(is_pinned);
        theirs.pin(is_pinned);
        ours.keep_session()?;
        theirs.keep_session()?;
        let mut starts = [Vec::new(), Vec::new()];
        let mut ioctls = [Vec::new(), Vec::new()];
        let mut direct = Vec::new();
        for _ in 0..TURNS {
            for (index, prefix) in [&ours, &theirs].into_iter().enumerate() {
                if wants("start") {
                    starts[index].push(prefix.measure(&program, &["start", "echo", "10"])?);
                }
                if wants("ioctl") {
                    let _ = prefix.wine(&["sc", "start", "echo"]).is_ok();
                    ioctls[index]
                        .push(prefix.measure(&program, &["ioctl", &requests().to_string()])?);
                    if index == 0 {
                        direct.push(
                            prefix.measure_direct(&program, &["ioctl", &requests().to_string()])?,
                        );
                    }
                }
            }
        }
        if wants("ioctl") {
            let what = format!("DeviceIoControl of 64 bytes, by `wine run`, {how}");
            table.compare(&what, &fastest(&direct)?, &fastest(&ioctls[1])?);
            let what = format!("DeviceIoControl of 64 bytes, by winedevice, {how}");
            table.compare(&what, &fastest(&ioctls[0])?, &fastest(&ioctls[1])?);
        }
        if wants("start") {
            let what = format!("StartService, {how}");
            table.compare(&what, &fastest(&starts[0])?, &fastest(&starts[1])?);
            alone(&ours, &theirs, &program, how, &mut table)?;
        }
    }
    if wants("floor") {
        floors(&mut table)?;
    }
    if wants("programs") {
        programs(&ours, &theirs, &program, &mut table)?;
    }
    if wants("ports") {
        ports(&program, &mut table)?;
    }
    let text = format!("{}\n", table.0);
    std::fs::write(root().join("target/benchmarks-wine.md"), text)?;
    Ok(())
}

/// Programs that make requests at the same time.
fn programs(
    ours: &Prefix,
    theirs: &Prefix,
    program: &Path,
    table: &mut Table,
) -> Result<(), Failure> {
    let show =
        |[all, least, most]: [u64; 3]| format!("{all} requests a second, {least} to {most} each");
    for count in PROGRAMS {
        let mut rates = Vec::new();
        for (prefix, is_direct) in [(ours, true), (ours, false), (theirs, false)] {
            // Wine ends a session soon after its last program, and the service with it.
            let _ = prefix.wine(&["sc", "start", "echo"]).is_ok();
            rates.push(show(at_once(prefix, program, count, is_direct)?));
        }
        table.row(
            &format!("{count} programs at once, by `wine run`"),
            &rates[0],
            &rates[2],
            "",
        );
        table.row(
            &format!("{count} programs at once, by winedevice"),
            &rates[1],
            &rates[2],
            "",
        );
    }
    Ok(())
}

/// What no request can be cheaper than when everything is on one processor, without Ringfence and Wine.
fn floors(table: &mut Table) -> Result<(), Failure> {
    let samples = std::thread::spawn(|| -> Result<_, Failure> {
        // The thread, and those that it starts.
        let own = std::fs::read_link("/proc/thread-self")?;
        let status = Command::new("taskset")
            .args(["-pc", "0"])
            .arg(own.file_name().ok_or("no thread id")?)
            .stdout(Stdio::null())
            .status()?;
        if !status.success() {
            return Err("taskset failed".into());
        }
        let wakes = floor::eventfd_round_trips(requests())?;
        let kvm = vmm::machine::host::KvmKind::detect();
        let privilege = if kvm == vmm::machine::host::KvmKind::Paravirtual {
            abi::Privilege::Ring3
        } else {
            abi::Privilege::Ring0
        };
        let exits = floor::memory_writes(privilege, requests())?;
        Ok([wakes, exits])
    });
    let [wakes, exits] = samples.join().map_err(|_| "a thread panicked")??;
    for (what, mut samples) in [
        ("two threads wake each other by eventfds", wakes),
        ("a bare guest's exit and entry", exits),
    ] {
        samples.sort();
        let nanoseconds = |percent: usize| -> Result<u64, Failure> {
            let sample = samples.get(samples.len() * percent / 100);
            Ok(u64::try_from(sample.ok_or("no samples")?.as_nanos())?)
        };
        table.row(
            &format!("floor: {what}, pinned to one processor"),
            &format!(
                "p50 {}, p99 {}",
                micro(nanoseconds(50)?),
                micro(nanoseconds(99)?)
            ),
            "",
            "",
        );
    }
    Ok(())
}

/// Starts without the host, which keeps the process of Wine's: what a session pays once.
fn alone(
    ours: &Prefix,
    theirs: &Prefix,
    program: &Path,
    how: &str,
    table: &mut Table,
) -> Result<(), Failure> {
    let mut starts = [Vec::new(), Vec::new()];
    for _ in 0..TURNS {
        for (index, prefix) in [ours, theirs].into_iter().enumerate() {
            if index == 0 {
                // Each time: a new session starts it again.
                let _ = ours.wine(&["sc", "stop", "ringfence"]).is_ok();
            }
            starts[index].push(prefix.measure(program, &["start", "echo", "10"])?);
        }
    }
    let what = format!("StartService, {how}, without the host");
    table.compare(&what, &fastest(&starts[0])?, &fastest(&starts[1])?);
    let _ = ours.wine(&["sc", "start", "ringfence"]).is_ok();
    Ok(())
}

/// `in` and `out`, of a model, by each way that the port DLL has.
fn ports(program: &Path, table: &mut Table) -> Result<(), Failure> {
    use ringfence_client::{Connection, Opcode, Request};
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("socket");
    let policy = folder.path().join("policy.toml");
    std::fs::write(
        &policy,
        "[[port]]\nrange = \"0x300-0x30f\"\naccess = \"rw\"\nbackend = \"ram\"\n",
    )?;
    let mut driver = Command::new(ringfence())
        .arg("run")
        .arg(root().join("images/drivers/amd64/ioperm.sys"))
        .arg("--policy")
        .arg(&policy)
        .arg("--socket")
        .arg(&socket)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let began = Instant::now();
    let connection = loop {
        match Connection::connect(&socket) {
            Ok(connection) => break connection,
            Err(error) if began.elapsed() > Duration::from_secs(30) => return Err(error.into()),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let process = connection.attach()?;
    let token: String = connection
        .share(process)?
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let name: Vec<u8> = r"\\.\ioperm"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let opened = connection.call(&Request {
        process,
        input: &name,
        ..Request::new(Opcode::Open)
    })?;
    if opened.status != 0 {
        return Err("ioperm.sys does not open".into());
    }
    let prefix = Path::new(env!("CARGO_TARGET_TMPDIR")).join("wine-bench/ours");
    for (patch, how) in [("1", "as a jump"), ("0", "by the signal handler")] {
        let mut results = Vec::new();
        for _ in 0..TURNS {
            let output = Command::new(ringfence())
                .args(["wine", "run", "--wine", "/usr/lib/wine/wine64", "--prefix"])
                .arg(&prefix)
                .arg(program)
                .args(["ports", "4000"])
                .env("RINGFENCE_PORTS", format!("{}={token}", socket.display()))
                .env("RINGFENCE_PORT_PATCH", patch)
                .env("WINEDEBUG", "-all")
                .env_remove("DISPLAY")
                .stderr(Stdio::null())
                .output()?;
            results.push(numbers(&String::from_utf8_lossy(&output.stdout))?);
        }
        let best = fastest(&results)?;
        if let [least, median, tail] = best[..] {
            table.row(
                &format!("in or out of a model, {how}"),
                &format!(
                    "p50 {}, p99 {}, least {}",
                    micro(median),
                    micro(tail),
                    micro(least)
                ),
                "the program dies",
                "",
            );
        }
    }
    driver.kill()?;
    driver.wait()?;
    Ok(())
}
