//! `ringfence ps`

use std::os::unix::net::UnixStream;
use std::time::Duration;

use ringfence_client::control::Control;
use serde::Serialize;
use serde_json::Value;

use super::launching::RunDirectoryArgument;
use super::output::Output;
use crate::error_chain;
use crate::launch::directory::Registered;
use crate::launch::process::Usage;
use crate::launch::registration::{Registration, State};
use crate::observe::escape::escape;
use crate::session::exit_code::ExitCode;
use crate::session::protocol::Request;

/// How long a driver may take for its counters.
const PATIENCE: Duration = Duration::from_secs(2);

/// List the running drivers
///
/// Memory is that of the driver's processes: resident, and as their share of what several of them have in common
/// (proportional). A - stands for what a driver that does not answer now cannot say.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    directory: RunDirectoryArgument,
}

/// A running driver.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    pid: u32,
    state: State,
    status: String,
    uptime_seconds: u64,
    restarts: u64,
    guest_memory: u64,
    resident_memory: u64,
    proportional_memory: u64,
    cpu_milliseconds: u64,
    requests: Option<u64>,
    clients: Option<u64>,
    drivers: Vec<String>,
    policy: Option<String>,
    socket: Option<String>,
    log: String,
}

pub(super) fn main(arguments: &Arguments) -> ExitCode {
    let mut output = Output::new(arguments.json);
    let directory = match arguments.directory.locate() {
        Ok(directory) => directory,
        Err(error) => return output.error(ExitCode::Usage, &error_chain(&error)),
    };
    let runs = match directory.list() {
        Ok(runs) => runs,
        Err(error) => {
            let message = format!("cannot read {}: {error}", directory.path().display());
            return output.error(ExitCode::CommandFailed, &message);
        }
    };
    let rows: Vec<Row> = runs.iter().map(Row::of).collect();
    if arguments.json {
        for row in &rows {
            if output.result("", row).is_err() {
                return ExitCode::CommandFailed;
            }
        }
        return ExitCode::Success;
    }
    match output.result(&table(&rows), &()) {
        Ok(()) => ExitCode::Success,
        Err(_) => ExitCode::CommandFailed,
    }
}

/// Requests and clients, if the driver tells.
fn counters(registration: &Registration) -> Option<(u64, u64)> {
    if registration.state != State::Running {
        return None;
    }
    let stream = UnixStream::connect(registration.socket.as_ref()?).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    let request = serde_json::to_string(&Request {
        command: "stats".to_owned(),
    });
    let reply = Control::new(stream).ask(&request.ok()?).ok()?;
    let reply: Value = serde_json::from_str(&reply).ok()?;
    let stats = reply.get("stats")?;
    let requests = stats.get("requests")?.as_u64()?;
    // Without the one that asks.
    let clients = reply.get("clients")?.as_u64()?.saturating_sub(1);
    Some((requests, clients))
}

impl Row {
    fn of(run: &Registered) -> Self {
        let registration = &run.registration;
        let processes = [Some(registration.process), registration.worker];
        let used: Vec<Usage> = processes
            .iter()
            .flatten()
            .filter_map(|process| process.usage())
            .collect();
        let counters = counters(registration);
        let processor: Duration = used.iter().map(|usage| usage.processor).sum();
        Self {
            name: registration.name.clone(),
            pid: registration.process.pid,
            state: registration.state,
            status: escape(&registration.status),
            uptime_seconds: registration.uptime().as_secs(),
            restarts: registration.restarts,
            guest_memory: registration.memory,
            resident_memory: used.iter().map(|usage| usage.resident).sum(),
            proportional_memory: used.iter().map(|usage| usage.proportional).sum(),
            cpu_milliseconds: u64::try_from(processor.as_millis()).unwrap_or(u64::MAX),
            requests: counters.map(|(requests, _)| requests),
            clients: counters.map(|(_, clients)| clients),
            drivers: registration
                .drivers
                .iter()
                .map(|path| escape(path))
                .collect(),
            policy: registration.policy.as_deref().map(escape),
            socket: registration
                .socket
                .as_ref()
                .map(|path| escape(&path.display().to_string())),
            log: crate::launch::entry::log(&run.folder).display().to_string(),
        }
    }

    fn cells(&self) -> [String; 10] {
        let count =
            |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
        [
            self.name.clone(),
            self.pid.to_string(),
            self.state.name().to_owned(),
            duration(self.uptime_seconds),
            mebibytes(self.guest_memory),
            mebibytes(self.resident_memory),
            mebibytes(self.proportional_memory),
            format!(
                "{}.{:02} s",
                self.cpu_milliseconds / 1000,
                self.cpu_milliseconds % 1000 / 10
            ),
            count(self.requests),
            count(self.clients),
        ]
    }
}

const HEADINGS: [&str; 10] = [
    "NAME", "PID", "STATE", "UPTIME", "GUEST", "RESIDENT", "SHARE", "CPU", "REQUESTS", "CLIENTS",
];

fn table(rows: &[Row]) -> String {
    let lines: Vec<[String; 10]> = std::iter::once(HEADINGS.map(str::to_owned))
        .chain(rows.iter().map(Row::cells))
        .collect();
    let widths: Vec<usize> = (0..HEADINGS.len())
        .map(|column| {
            lines
                .iter()
                .filter_map(|line| line.get(column))
                .map(String::len)
                .max()
        })
        .map(Option::unwrap_or_default)
        .collect();
    let shown: Vec<String> = lines
        .iter()
        .map(|line| {
            let cells: Vec<String> = line
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            cells.join("  ").trim_end().to_owned()
        })
        .collect();
    let status = rows.iter().filter(|row| !row.status.is_empty());
    let status: Vec<String> = status
        .map(|row| format!("{}: {}", row.name, row.status))
        .collect();
    [shown, status].concat().join("\n")
}

fn mebibytes(bytes: u64) -> String {
    format!("{}.{} MiB", bytes >> 20, ((bytes & 0xF_FFFF) * 10) >> 20)
}

fn duration(seconds: u64) -> String {
    match (
        seconds / 86_400,
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
    ) {
        (0, 0, 0, seconds) => format!("{seconds} s"),
        (0, 0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (0, hours, minutes, _) => format!("{hours} h {minutes} min"),
        (days, hours, _, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        assert_eq!(mebibytes(16 << 20), "16.0 MiB");
        assert_eq!(mebibytes((3 << 20) + (1 << 19)), "3.5 MiB");
        assert_eq!(duration(59), "59 s");
        assert_eq!(duration(61), "1 min 1 s");
        assert_eq!(duration(3 * 3600 + 60), "3 h 1 min");
        assert_eq!(duration(2 * 86_400), "2 d 0 h");
    }
}
