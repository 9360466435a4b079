//! The trace of a run: API calls, IRPs, port accesses and log lines, in order, one line or JSON object for each.
//!
//! [`Observer`] takes every record that the machine drains from the shim's ring and every port access, feeds the
//! flight recorder and the log, and, if there is a trace, the [`Narrator`], which decides on the lines.

use super::clock::{Clock, Timestamp};
use super::escape::escape;
use super::flight::Flight;
use super::log::{LineJoiner, RateLimit};
use super::memory::MemoryRecord;
use super::msr::MsrRecord;
use super::output::TraceOutput;
use super::ports::PortRecord;
use super::symbols::Symbols;
use super::value;
use crate::recording::Recorder;
use abi::trace::{TraceKind, TraceRecord};
use kernel_shim::export::Export;
use std::sync::Arc;

mod narrator;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod tests_support;

pub use narrator::Narrator;

/// What a trace needs to know of a run.
#[derive(Clone, Debug)]
pub struct TraceContext {
    /// The export table by which the shim numbers its calls.
    pub exports: &'static [Export],
    /// Time.
    pub clock: Clock,
    /// Addresses.
    pub symbols: Arc<Symbols>,
    /// The driver's name, for its log lines.
    pub driver: String,
}

/// Takes everything that a running driver does.
#[derive(Debug)]
pub struct Observer {
    context: TraceContext,
    flight: Flight,
    log: LineJoiner,
    log_limit: RateLimit,
    /// When the last piece of a log line came.
    last_log: Timestamp,
    trace: Option<(Narrator, TraceOutput)>,
    recorder: Option<Recorder>,
}

impl Observer {
    /// Observes without a trace.
    #[must_use]
    pub fn new(context: TraceContext) -> Self {
        Self {
            context,
            flight: Flight::default(),
            log: LineJoiner::default(),
            log_limit: RateLimit::default(),
            last_log: Timestamp(0),
            trace: None,
            recorder: None,
        }
    }

    /// Adds a trace: lines for people, or with `json` one object a line.
    #[must_use]
    pub fn with_trace(mut self, output: TraceOutput, json: bool) -> Self {
        self.trace = Some((Narrator::new(self.context.clone(), json), output));
        self
    }

    /// Adds a recording of the accesses.
    #[must_use]
    pub fn with_recorder(mut self, mut recorder: Recorder) -> Self {
        recorder.start(self.context.clock, &self.context.symbols);
        self.recorder = Some(recorder);
        self
    }

    /// Whether there is a trace ([`abi::boot::BootInfo::trace_lossless`] must then be set).
    #[must_use]
    pub fn is_tracing(&self) -> bool {
        self.trace.is_some()
    }

    /// Takes one record from the shim's ring.
    pub fn record(&mut self, record: &TraceRecord) {
        self.flight.record(record);
        let time = self.context.clock.since_boot(record.tsc);
        match TraceKind::from_number(record.kind) {
            Some(TraceKind::Log) => {
                self.last_log = time;
                for line in self.log.push(value::text_bytes(record)) {
                    self.log_line(time, &line);
                }
            }
            Some(TraceKind::Leak | TraceKind::Finding) => {
                let text = narrator::finding(record, &self.context.symbols);
                self.limited(time, |driver| tracing::warn!("{driver}: {text}"));
                self.narrate(|narrator| narrator.record(record));
            }
            _ => self.narrate(|narrator| narrator.record(record)),
        }
    }

    /// Takes a port access. The ring must have been drained before.
    pub fn port(&mut self, record: &PortRecord) {
        self.flight.port(record);
        if let Some(recorder) = &mut self.recorder {
            recorder.port(record);
        }
        self.narrate(|narrator| narrator.port(record));
    }

    /// Takes an access to a device's memory. The ring must have been drained before.
    pub fn memory(&mut self, record: &MemoryRecord) {
        self.flight.memory(record);
        if let Some(recorder) = &mut self.recorder {
            recorder.memory(record);
        }
        self.narrate(|narrator| narrator.memory(record));
    }

    /// Takes an access to an MSR. The ring must have been drained before.
    pub fn msr(&mut self, record: &MsrRecord) {
        self.flight.msr(record);
        if let Some(recorder) = &mut self.recorder {
            recorder.msr(record);
        }
        self.narrate(|narrator| narrator.msr(record));
    }

    /// The recording, for mappings.
    pub fn recorder(&mut self) -> Option<&mut Recorder> {
        self.recorder.as_mut()
    }

    /// Ends a log line that a driver printed without a line feed: when the guest has gone idle, nothing will follow soon.
    pub fn end_line(&mut self) {
        if let Some(line) = self.log.finish_line() {
            self.log_line(self.last_log, &line);
        }
    }

    /// Ends half lines and hands the trace to the operating system: at exit and on a crash.
    pub fn finish(&mut self) {
        self.end_line();
        let dropped = self.log_limit.take_dropped();
        if dropped != 0 {
            tracing::warn!(
                "{}: {dropped} log lines were not shown",
                escape(&self.context.driver)
            );
        }
        self.narrate(Narrator::finish);
        if let Some((_, output)) = &mut self.trace {
            output.flush();
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.finish();
        }
    }

    /// The flight recorder.
    #[must_use]
    pub fn flight(&self) -> &Flight {
        &self.flight
    }

    /// What the observer was made with.
    #[must_use]
    pub fn context(&self) -> &TraceContext {
        &self.context
    }

    /// Replaces the symbols, after a driver was placed.
    pub fn set_symbols(&mut self, symbols: Arc<Symbols>) {
        self.context.symbols = Arc::clone(&symbols);
        if let Some(recorder) = &mut self.recorder {
            recorder.modules(&symbols);
        }
        if let Some((narrator, _)) = &mut self.trace {
            narrator.set_symbols(symbols);
        }
    }

    fn log_line(&mut self, time: Timestamp, line: &str) {
        self.limited(time, |driver| tracing::info!("{driver}: {line}"));
        self.narrate(|narrator| narrator.log(time, line));
    }

    fn limited(&mut self, time: Timestamp, log: impl FnOnce(&str)) {
        let driver = escape(&self.context.driver);
        let admission = self.log_limit.admit(time);
        if admission.dropped_before != 0 {
            tracing::warn!(
                "{driver}: {} log lines were not shown",
                admission.dropped_before
            );
        }
        if admission.passes {
            log(&driver);
        }
    }

    fn narrate(&mut self, action: impl FnOnce(&mut Narrator)) {
        if let Some((narrator, output)) = &mut self.trace {
            action(narrator);
            for line in narrator.take_lines() {
                output.line(&line);
            }
        }
    }
}
