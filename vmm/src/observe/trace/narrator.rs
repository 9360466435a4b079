//! Decides how records become lines: a call that returns at once is one line, others open and close.

use super::super::clock::Timestamp;
use super::super::escape::{escape, escape_bytes};
use super::super::hex::Hex;
use super::super::memory::MemoryRecord;
use super::super::msr::MsrRecord;
use super::super::ports::PortRecord;
use super::super::symbols::Symbols;
use super::super::value::{self, Argument};
use super::TraceContext;
use abi::trace::{Entry, TraceKind, TraceRecord};
use kernel_shim::export::Export;
use kernel_shim::nt::major_function_name;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Deepest indentation. A guest that returns from nothing, or never returns, must not grow the host.
const DEPTH_MAX: usize = 64;

/// What has begun and not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Call(u32),
    Routine(u32),
}

/// Turns records into lines.
#[derive(Debug)]
pub struct Narrator {
    context: TraceContext,
    json: bool,
    /// A call whose return may come next, so that both fit one line.
    pending: Option<Box<TraceRecord>>,
    open: Vec<Open>,
    lines: Vec<String>,
}

impl Narrator {
    /// A narrator that writes lines for people, or JSON objects.
    #[must_use]
    pub fn new(context: TraceContext, json: bool) -> Self {
        Self {
            context,
            json,
            pending: None,
            open: Vec::new(),
            lines: Vec::new(),
        }
    }

    /// Takes a record. [`TraceKind::Log`] is not for it: see [`Narrator::log`].
    pub fn record(&mut self, record: &TraceRecord) {
        let kind = TraceKind::from_number(record.kind);
        if kind == Some(TraceKind::Return)
            && let Some(call) = self.pending.take_if(|call| call.index == record.index)
        {
            self.whole_call(&call, record.arguments[0]);
            return;
        }
        self.flush_pending();
        match kind {
            Some(TraceKind::Call) => self.pending = Some(Box::new(*record)),
            Some(TraceKind::Return) => self.call_end(record),
            Some(TraceKind::Irp) => self.irp(record),
            Some(TraceKind::IrpDone) => self.irp_done(record),
            Some(TraceKind::Enter) => self.enter(record),
            Some(TraceKind::Leave) => self.leave(record),
            Some(TraceKind::Leak | TraceKind::Finding) => self.finding(record),
            // The second is not in a complete trace.
            Some(TraceKind::Log | TraceKind::Returned) => {}
            None => self.emit(
                record,
                &format!("record of unknown kind {}", record.kind),
                "unknown",
                json!({"kind": record.kind}),
            ),
        }
    }

    /// Takes a port access.
    pub fn port(&mut self, record: &PortRecord) {
        self.access(record.tsc, record, |time| record.json(time));
    }

    /// Takes an access to a device's memory.
    pub fn memory(&mut self, record: &MemoryRecord) {
        self.access(record.tsc, record, |time| record.json(time));
    }

    /// Takes an access to an MSR.
    pub fn msr(&mut self, record: &MsrRecord) {
        self.access(record.tsc, record, |time| record.json(time));
    }

    fn access<J: serde::Serialize>(
        &mut self,
        tsc: u64,
        record: &impl std::fmt::Display,
        json: impl FnOnce(Timestamp) -> J,
    ) {
        self.flush_pending();
        let time = self.context.clock.since_boot(tsc);
        if self.json {
            let line = serde_json::to_string(&json(time)).unwrap_or_default();
            self.lines.push(line);
        } else {
            self.text_line(time, 0, &record.to_string());
        }
    }

    /// Takes a whole log line, escaped already.
    pub fn log(&mut self, time: Timestamp, line: &str) {
        self.flush_pending();
        if self.json {
            let object = json!({"event": "log", "t_us": time.0, "text": line});
            self.lines.push(object.to_string());
        } else {
            self.text_line(time, 0, &format!("log: {line}"));
        }
    }

    /// Writes what waits for its end.
    pub fn finish(&mut self) {
        self.flush_pending();
    }

    /// The lines that are ready.
    pub fn take_lines(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }

    pub(super) fn set_symbols(&mut self, symbols: Arc<Symbols>) {
        self.context.symbols = symbols;
    }

    fn export(&self, index: u32) -> Option<&'static Export> {
        self.context.exports.get(usize::try_from(index).ok()?)
    }

    fn name(&self, index: u32) -> String {
        self.export(index)
            .map_or_else(|| format!("export {index}"), |export| export.name.into())
    }

    fn arguments(&self, record: &TraceRecord) -> Vec<Argument> {
        self.export(record.index)
            .map(|export| value::arguments(export, record))
            .unwrap_or_default()
    }

    fn result(&self, index: u32, word: u64) -> Option<String> {
        match self.export(index) {
            Some(export) => value::result(export, word),
            None => Some(format!("{word:#x}")),
        }
    }

    fn whole_call(&mut self, call: &TraceRecord, result: u64) {
        let name = self.name(call.index);
        let arguments = self.arguments(call);
        let result = self.result(call.index, result);
        let mut text = format!("{name}({})", value::join(&arguments));
        if let Some(result) = &result {
            text = format!("{text} = {result}");
        }
        let object = json!({
            "name": name, "args": json_arguments(arguments), "result": result,
            "from": self.context.symbols.describe(call.caller).name,
        });
        self.emit(call, &text, "call", object);
    }

    fn flush_pending(&mut self) {
        let Some(call) = self.pending.take() else {
            return;
        };
        let name = self.name(call.index);
        let arguments = self.arguments(&call);
        let text = format!("{name}({}) ...", value::join(&arguments));
        let object = json!({
            "name": name, "args": json_arguments(arguments),
            "from": self.context.symbols.describe(call.caller).name,
        });
        self.emit(&call, &text, "call", object);
        self.push(Open::Call(call.index));
    }

    fn call_end(&mut self, record: &TraceRecord) {
        self.pop(Open::Call(record.index));
        let name = self.name(record.index);
        let result = self.result(record.index, record.arguments[0]);
        let text = match &result {
            Some(result) => format!("... {name} = {result}"),
            None => format!("... {name} returned"),
        };
        self.emit(
            record,
            &text,
            "return",
            json!({"name": name, "result": result}),
        );
    }

    fn enter(&mut self, record: &TraceRecord) {
        let routine = entry_name(record.index);
        let [address, arguments @ ..] = &record.arguments;
        let count = usize::from(record.argument_count).saturating_sub(1);
        let arguments: Vec<String> = arguments
            .iter()
            .take(count)
            .map(|word| format!("{word:#x}"))
            .collect();
        let location = self.context.symbols.describe(*address).name;
        let text = format!("{routine} {location}({})", arguments.join(", "));
        let object = json!({"routine": routine, "at": location, "args": arguments});
        self.emit(record, &text, "enter", object);
        self.push(Open::Routine(record.index));
    }

    fn leave(&mut self, record: &TraceRecord) {
        self.pop(Open::Routine(record.index));
        let routine = entry_name(record.index);
        let word = record.arguments[0];
        let result = match routine {
            "DriverEntry" | "dispatch" | "completion routine" => {
                value::format(kernel_shim::export::ValueKind::NtStatus, word)
            }
            "DriverUnload" | "DPC" | "cancel routine" => String::new(),
            _ => format!("{word:#x}"),
        };
        let text = if result.is_empty() {
            format!("... {routine} returned")
        } else {
            format!("... {routine} = {result}")
        };
        self.emit(
            record,
            &text,
            "leave",
            json!({"routine": routine, "result": result}),
        );
    }

    fn irp(&mut self, record: &TraceRecord) {
        let [irp, device, detail, input, output, ..] = record.arguments;
        let major = major_name(record.index);
        let device_name = escape_bytes(trim_nul(value::text_bytes(record)));
        let detail_text = if is_device_control(record.index) {
            control_code(detail)
        } else if matches!(record.index, 3 | 4) {
            format!(" bytes={detail}")
        } else {
            String::new()
        };
        let sizes = if is_device_control(record.index) {
            format!(" in={input} out={output}")
        } else {
            String::new()
        };
        let target = if device_name.is_empty() {
            format!(" device={device:#x}")
        } else {
            format!(" {device_name}")
        };
        let text = format!("{major}{target}{detail_text}{sizes} irp={irp:#x}");
        let object = json!({
            "major": major, "irp": Hex(irp), "device": Hex(device), "device_name": device_name,
            "detail": Hex(detail), "in": input, "out": output,
        });
        self.emit(record, &text, "irp", object);
    }

    fn irp_done(&mut self, record: &TraceRecord) {
        let [irp, status, information, ..] = record.arguments;
        let status = value::format(kernel_shim::export::ValueKind::NtStatus, status);
        let text = format!("IRP completed: {status}, information={information:#x} irp={irp:#x}");
        let object = json!({"irp": Hex(irp), "status": status, "information": Hex(information)});
        self.emit(record, &text, "irp_done", object);
    }

    fn finding(&mut self, record: &TraceRecord) {
        let text = finding(record, &self.context.symbols);
        let kind = if record.kind == TraceKind::Leak as u16 {
            "leak"
        } else {
            "finding"
        };
        self.emit(record, &text, kind, json!({"text": text}));
    }

    fn emit(&mut self, record: &TraceRecord, text: &str, event: &str, object: Value) {
        let time = self.context.clock.since_boot(record.tsc);
        if !self.json {
            self.text_line(time, record.process, text);
            return;
        }
        let mut line = Map::new();
        line.insert("event".into(), event.into());
        line.insert("t_us".into(), time.0.into());
        line.insert("irql".into(), record.irql.into());
        if record.process != 0 {
            line.insert("process".into(), record.process.into());
        }
        if let Value::Object(fields) = object {
            line.extend(fields.into_iter().filter(|field| !field.1.is_null()));
        }
        self.lines.push(Value::Object(line).to_string());
    }

    fn text_line(&mut self, time: Timestamp, process: u32, text: &str) {
        let client = if process == 0 {
            String::new()
        } else {
            format!("p{process}")
        };
        let indent = self.open.len() * 2;
        self.lines
            .push(format!("[{time:>12}] {client:<4} {:indent$}{text}", ""));
    }

    fn push(&mut self, open: Open) {
        if self.open.len() < DEPTH_MAX {
            self.open.push(open);
        }
    }

    /// Closes `open` and what was begun inside it: an exception may have ended those without a return.
    fn pop(&mut self, open: Open) {
        if let Some(index) = self.open.iter().rposition(|&other| other == open) {
            self.open.truncate(index);
        }
    }
}

/// A leak or finding as a sentence.
pub(super) fn finding(record: &TraceRecord, symbols: &Symbols) -> String {
    let text = escape_bytes(trim_nul(value::text_bytes(record)));
    let [first, second, third, fourth, ..] = record.arguments;
    if record.kind == TraceKind::Leak as u16 {
        let tag = u32::try_from(third & 0xFFFF_FFFF).unwrap_or(0);
        let tag = if tag == 0 {
            String::new()
        } else {
            format!(", tag {}", value::tag(tag))
        };
        return format!(
            "leak: {text} at {first:#x}, {second} bytes{tag}, allocated by {}",
            symbols.describe(fourth)
        );
    }
    let count = usize::from(record.argument_count).min(record.arguments.len());
    let arguments: Vec<String> = record
        .arguments
        .iter()
        .take(count)
        .map(|&word| symbols.describe(word).name)
        .collect();
    if arguments.is_empty() {
        format!("finding: {text}")
    } else {
        format!("finding: {text} ({})", arguments.join(", "))
    }
}

fn trim_nul(text: &[u8]) -> &[u8] {
    text.strip_suffix(b"\0").unwrap_or(text)
}

fn json_arguments(arguments: Vec<Argument>) -> Value {
    arguments
        .into_iter()
        .enumerate()
        .map(|(index, (name, value))| {
            let name = if name.is_empty() {
                index.to_string()
            } else {
                name.into()
            };
            (name, Value::from(escape(&value)))
        })
        .collect::<Map<String, Value>>()
        .into()
}

fn entry_name(number: u32) -> &'static str {
    const NAMES: [(Entry, &str); 8] = [
        (Entry::DriverEntry, "DriverEntry"),
        (Entry::DriverUnload, "DriverUnload"),
        (Entry::Dispatch, "dispatch"),
        (Entry::Dpc, "DPC"),
        (Entry::Completion, "completion routine"),
        (Entry::Cancel, "cancel routine"),
        (Entry::Interrupt, "interrupt service routine"),
        (Entry::Other, "callback"),
    ];
    NAMES
        .iter()
        .find(|(entry, _)| *entry as u32 == number)
        .map_or("routine", |(_, name)| name)
}

fn major_name(number: u32) -> String {
    u8::try_from(number)
        .ok()
        .and_then(major_function_name)
        .map_or_else(|| format!("IRP_MJ {number:#x}"), str::to_owned)
}

fn is_device_control(major: u32) -> bool {
    matches!(major, 14 | 15)
}

/// A control code and its parts (CTL_CODE of wdm.h).
fn control_code(code: u64) -> String {
    let method = match code & 3 {
        0 => "METHOD_BUFFERED",
        1 => "METHOD_IN_DIRECT",
        2 => "METHOD_OUT_DIRECT",
        _ => "METHOD_NEITHER",
    };
    let function = (code >> 2) & 0xFFF;
    format!(" code={code:#010x} (function {function:#x}, {method})")
}
