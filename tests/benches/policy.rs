//! What a policy's decision costs, by number of rules.
//!
//! Prints a table and writes it to target/benchmarks-policy.md. Figures are the fastest of several rounds: what others
//! do on the machine only ever adds. Accesses are at random, so the caches have to hold what decides.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;

use vmm::policy::Policy;
use vmm::ports::{DecisionTable, PortRequest, PortSpace, Width};

type Failure = Box<dyn std::error::Error>;

const RULES: [u32; 3] = [10, 1000, 10_000];
const ACCESSES: usize = 100_000;
const ROUNDS: usize = 15;

/// Rules of four ports or fewer over the whole port space, every fourth of them denied.
fn policy(rules: u32) -> Result<Policy, Failure> {
    let stride = 0x1_0000 / rules;
    let length = stride.min(4);
    let mut text = String::from("[default]\nmax-log-rate = 0\n");
    for rule in 0..rules {
        let first = rule * stride;
        let backend = if rule % 4 == 3 {
            "backend = \"deny\""
        } else {
            "backend = \"ram\"\naccess = \"rw\""
        };
        let last = first + length - 1;
        text += &format!("[[port]]\nrange = \"{first}-{last}\"\n{backend}\n");
    }
    // MSRs close together: their table's nodes are full.
    for rule in 0..rules {
        text += &format!("[[msr]]\nregister = {}\nbackend = \"deny\"\n", rule * 7);
    }
    Ok(Policy::from_str("benchmark", &text)?)
}

/// Places of accesses: ports of rules, in no order (xorshift).
fn places(rules: u32) -> Vec<u16> {
    let stride = 0x1_0000 / rules;
    let mut state = 0x2545_F491_u32;
    (0..ACCESSES)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            u16::try_from((state % rules) * stride).unwrap_or(0)
        })
        .collect()
}

/// Nanoseconds of one call, the fastest round's.
fn nanoseconds(places: &[u16], mut call: impl FnMut(u16)) -> f64 {
    (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for place in places {
                call(*place);
            }
            start.elapsed().as_secs_f64() * 1e9 / places.len() as f64
        })
        .fold(f64::INFINITY, f64::min)
}

fn main() -> Result<(), Failure> {
    let mut text = String::from(
        "| rules | port: decision | port: decision and register file | MSR: decision | wanted |\n|---|---|---|---|---|\n",
    );
    for rules in RULES {
        let policy = policy(rules)?;
        let places = places(rules);
        let table = DecisionTable::compile(&policy);
        let decision = nanoseconds(&places, |port| {
            let _ = black_box(table.decide(black_box(port), Width::Byte, true)).is_ok();
        });
        let mut space = PortSpace::new(&policy)?;
        // Allowed accesses alone: a denied one is counted and its log line considered.
        let allowed: Vec<u16> = places
            .iter()
            .copied()
            .filter(|port| table.decide(*port, Width::Byte, true).is_ok())
            .collect();
        let whole = nanoseconds(&allowed, |port| {
            black_box(space.access(PortRequest {
                port: black_box(port),
                width: Width::Byte,
                write: Some(1),
            }));
        });
        let msr = nanoseconds(&places, |port| {
            black_box(policy.decide_msr(black_box(port.into()), None));
        });
        text += &format!(
            "| {rules} | {decision:.1} ns | {whole:.1} ns | {msr:.1} ns | decision under 20 ns |\n"
        );
    }
    print!("{text}");
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map_or_else(PathBuf::new, Path::to_path_buf)
        .join("target/benchmarks-policy.md");
    std::fs::write(&file, text)?;
    println!("\nwritten to {}", file.display());
    Ok(())
}
