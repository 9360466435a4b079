//! What a recording costs for each access: `cargo bench -p integration-tests --bench recording`.
//!
//! Port accesses go to an observer as a machine's exits do, with a recording and without one, in turns; the figure is
//! the difference of the fastest slices, for what others do on the machine only ever adds. An exit takes a thousand
//! times longer than the difference, so it could not be seen in a running machine. The table goes to standard output
//! and to target/benchmarks-recording.md.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmm::observe::clock::Clock;
use vmm::observe::ports::{Decision, Direction, PortRecord};
use vmm::observe::symbols::Symbols;
use vmm::observe::trace::{Observer, TraceContext};
use vmm::recording::{Keep, Recorder, Recording};

type Failure = Box<dyn std::error::Error>;

/// Accesses that are timed together: at 40 bytes each they fill the recorder's buffer of 1 MiB five times.
const SLICE: u32 = 1 << 17;
/// Slices of a recording.
const SLICES: u32 = 4;
const ACCESSES: u32 = SLICE * SLICES;
const ROUNDS: usize = 15;
/// What `--record-last` might keep.
const LAST: usize = 10_000;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map_or_else(PathBuf::new, Path::to_path_buf)
}

fn observer() -> Observer {
    Observer::new(TraceContext {
        exports: &[],
        clock: Clock {
            boot_tsc: 0,
            tsc_khz: 2_000_000,
        },
        symbols: Arc::new(Symbols::new(Vec::new())),
        driver: "benchmark".to_owned(),
    })
}

/// Time of the fastest slice.
fn round(mut observer: Observer) -> Duration {
    let mut best = Duration::MAX;
    let mut started = Instant::now();
    for number in 0..ACCESSES {
        if number % SLICE == 0 {
            started = Instant::now();
        }
        observer.port(black_box(&PortRecord {
            tsc: number.into(),
            rip: 0x8200_1000,
            port: 0x378,
            width: 1,
            direction: if number % 2 == 0 {
                Direction::Write
            } else {
                Direction::Read
            },
            value: number % 256,
            decision: Decision {
                allowed: true,
                backend: if number % 3 == 0 { "lpt" } else { "ram" },
                rule_line: Some(3),
            },
        }));
        if number % SLICE == SLICE - 1 {
            best = best.min(started.elapsed());
        }
    }
    observer.finish();
    best
}

fn main() -> Result<(), Failure> {
    let directory = root().join("target");
    std::fs::create_dir_all(&directory)?;
    let file = tempfile::NamedTempFile::new_in(&directory)?;
    let keeps = [
        ("every access, to a file", Keep::All),
        ("the last 10,000", Keep::Last(LAST)),
    ];
    let mut off = Duration::MAX;
    let mut on = [Duration::MAX; 2];
    for _ in 0..ROUNDS {
        off = off.min(round(observer()));
        for (best, (_, keep)) in on.iter_mut().zip(keeps) {
            let recorder = Recorder::create(file.path(), keep)?;
            *best = (*best).min(round(observer().with_recorder(recorder)));
        }
    }
    let kept = Recording::from_path(file.path())?;
    if kept.accesses.len() != LAST || kept.dropped != u64::from(ACCESSES) - LAST as u64 {
        return Err("the recording is not whole".into());
    }
    let each = |time: Duration| time.as_secs_f64() * 1e9 / f64::from(SLICE);
    let mut text = format!(
        "| recording | an access | more than without | wanted |\n|---|---|---|---|\n| off | {:.1} ns | | |\n",
        each(off)
    );
    for ((name, _), time) in keeps.iter().zip(on) {
        text += &format!(
            "| {name} | {:.1} ns | {:.1} ns | under 100 ns |\n",
            each(time),
            each(time) - each(off),
        );
    }
    print!("{text}");
    let file = directory.join("benchmarks-recording.md");
    std::fs::write(&file, text)?;
    println!("\nwritten to {}", file.display());
    Ok(())
}
