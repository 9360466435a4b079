//! The flight recorder: the last API calls and port accesses, for crash reports.
//!
//! It costs a copy for each record and formats nothing until a report is made. When no trace is asked for, the
//! shim's ring overwrites itself and the VMM hands over what is left of it at the time of the crash; port accesses
//! arrive one by one as they exit. Both carry the guest's time-stamp counter, by which they are put in order.

use super::clock::Clock;
use super::memory::MemoryRecord;
use super::msr::MsrRecord;
use super::ports::PortRecord;
use super::symbols::Symbols;
use super::value;
use abi::trace::{TraceKind, TraceRecord};
use kernel_shim::export::Export;
use serde::Serialize;
use std::collections::VecDeque;
use std::fmt;

/// How many API calls and port accesses are kept.
pub const KEPT: usize = 32;

/// The recorder.
#[derive(Debug, Default)]
pub struct Flight {
    calls: VecDeque<Call>,
    ports: VecDeque<PortRecord>,
    msrs: VecDeque<MsrRecord>,
    memory: VecDeque<MemoryRecord>,
}

#[derive(Debug)]
struct Call {
    record: TraceRecord,
    result: Option<u64>,
}

/// One line of a report's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HistoryLine {
    /// Microseconds since boot.
    pub t_us: u64,
    /// What happened.
    pub text: String,
    /// Where in the driver.
    pub from: String,
}

impl fmt::Display for HistoryLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = super::clock::Timestamp(self.t_us);
        write!(f, "[{time:>12}] {}  from {}", self.text, self.from)
    }
}

impl Flight {
    /// Keeps a record if it is an API call, or the result of one.
    pub fn record(&mut self, record: &TraceRecord) {
        match TraceKind::from_number(record.kind) {
            Some(TraceKind::Call) => {
                keep(
                    &mut self.calls,
                    Call {
                        record: *record,
                        result: None,
                    },
                );
            }
            Some(TraceKind::Returned) => {
                keep(
                    &mut self.calls,
                    Call {
                        record: *record,
                        result: record.arguments.last().copied(),
                    },
                );
            }
            Some(TraceKind::Return) => {
                let open = self
                    .calls
                    .iter_mut()
                    .rev()
                    .find(|call| call.result.is_none() && call.record.index == record.index);
                if let Some(call) = open {
                    call.result = Some(record.arguments[0]);
                }
            }
            _ => {}
        }
    }

    /// Keeps a port access.
    pub fn port(&mut self, record: &PortRecord) {
        keep(&mut self.ports, *record);
    }

    /// Keeps an access to a device's memory.
    pub fn memory(&mut self, record: &MemoryRecord) {
        keep(&mut self.memory, *record);
    }

    /// Keeps an access to an MSR.
    pub fn msr(&mut self, record: &MsrRecord) {
        keep(&mut self.msrs, *record);
    }

    /// The last [`KEPT`] calls and accesses, oldest first.
    #[must_use]
    pub fn history(&self, exports: &[Export], symbols: &Symbols, clock: Clock) -> Vec<HistoryLine> {
        let calls = self.calls.iter().map(|call| {
            let record = &call.record;
            (record.tsc, record.caller, call.text(exports))
        });
        let ports = self
            .ports
            .iter()
            .map(|record| (record.tsc, record.rip, record.to_string()));
        let msrs = self
            .msrs
            .iter()
            .map(|record| (record.tsc, record.rip, record.to_string()));
        let memory = self
            .memory
            .iter()
            .map(|record| (record.tsc, record.rip, record.to_string()));
        let mut lines: Vec<(u64, HistoryLine)> = calls
            .chain(ports)
            .chain(msrs)
            .chain(memory)
            .map(|(tsc, address, text)| {
                let line = HistoryLine {
                    t_us: clock.since_boot(tsc).0,
                    text,
                    from: symbols.describe(address).name,
                };
                (tsc, line)
            })
            .collect();
        lines.sort_by_key(|entry| entry.0);
        let skipped = lines.len().saturating_sub(KEPT);
        lines
            .into_iter()
            .skip(skipped)
            .map(|entry| entry.1)
            .collect()
    }
}

impl Call {
    fn text(&self, exports: &[Export]) -> String {
        let export = usize::try_from(self.record.index)
            .ok()
            .and_then(|index| exports.get(index));
        let Some(export) = export else {
            return format!("export {}(?)", self.record.index);
        };
        let arguments = value::join(&value::arguments(export, &self.record));
        match self.result.map(|word| value::result(export, word)) {
            None => format!("{}({arguments}) = ?", export.name),
            Some(None) => format!("{}({arguments})", export.name),
            Some(Some(result)) => format!("{}({arguments}) = {result}", export.name),
        }
    }
}

fn keep<T>(queue: &mut VecDeque<T>, item: T) {
    if queue.len() == KEPT {
        queue.pop_front();
    }
    queue.push_back(item);
}

#[cfg(test)]
mod tests {
    use super::super::ports::{Decision, Direction};
    use super::super::symbols::Module;
    use super::super::trace::tests_support::{CLOCK, EXPORTS, call, returned};
    use super::*;

    fn port(tsc: u64) -> PortRecord {
        PortRecord {
            tsc,
            rip: 0x8200_1000,
            port: 0x379,
            width: 1,
            direction: Direction::Read,
            value: 0x7F,
            decision: Decision {
                allowed: true,
                backend: "ram",
                rule_line: Some(1),
            },
        }
    }

    fn texts(flight: &Flight) -> Vec<String> {
        let symbols = Symbols::new(vec![Module::driver("a.sys", 0x8200_0000, 0x2000)]);
        flight
            .history(EXPORTS, &symbols, CLOCK)
            .iter()
            .map(HistoryLine::to_string)
            .collect()
    }

    #[test]
    fn calls_and_ports_are_in_order_of_time() {
        let mut flight = Flight::default();
        flight.port(&port(150));
        let mut first = call(2, &[0x379], b"");
        first.tsc = 100;
        first.caller = 0x8200_0004;
        flight.record(&first);
        flight.record(&returned(2, 0x7F));
        let mut second = call(3, &[0x9000, 0], b"");
        second.tsc = 200;
        flight.record(&second);
        assert_eq!(
            texts(&flight),
            [
                "[    0.000100] READ_PORT_UCHAR(port: 0x379) = 0x7f  from a.sys+0x4",
                "[    0.000150] port read u8 0x379 -> 0x7f (ram, rule line 1)  from a.sys+0x1000",
                "[    0.000200] IofCompleteRequest(irp: 0x9000, boost: 0) = ?  from 0x0",
            ]
        );
    }

    #[test]
    fn only_the_last_are_kept() {
        let mut flight = Flight::default();
        for tsc in 0..100 {
            flight.port(&port(tsc));
            flight.record(&TraceRecord {
                tsc,
                ..call(2, &[1], b"")
            });
        }
        let lines = texts(&flight);
        assert_eq!(lines.len(), KEPT);
        assert!(lines[0].starts_with("[    0.000084]"), "{}", lines[0]);
    }

    #[test]
    fn unknown_export_is_shown_by_number() {
        let mut flight = Flight::default();
        flight.record(&call(9999, &[], b""));
        assert_eq!(texts(&flight), ["[    0.000000] export 9999(?)  from 0x0"]);
    }
}
