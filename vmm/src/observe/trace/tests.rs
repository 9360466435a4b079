use super::super::ports::{Decision, Direction};
use super::super::symbols::Module;
use super::tests_support::{CLOCK, EXPORTS, call, record, returned};
use super::*;
use std::io::Write;
use std::sync::Mutex;

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(data);
        Ok(data.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn port() -> PortRecord {
    PortRecord {
        tsc: 30,
        rip: 0x8200_1000,
        port: 0x379,
        width: 1,
        direction: Direction::Read,
        value: 0x7F,
        decision: Decision {
            allowed: true,
            backend: "ram",
            rule_line: Some(4),
        },
    }
}

fn traced(json: bool, act: impl FnOnce(&mut Observer)) -> Vec<String> {
    let sink = Sink::default();
    let symbols = Symbols::new(vec![Module::driver("echo.sys", 0x8200_0000, 0x4000)]);
    let context = TraceContext {
        exports: EXPORTS,
        clock: CLOCK,
        symbols: Arc::new(symbols),
        driver: "echo.sys".into(),
    };
    let output = TraceOutput::to_writer("sink", Box::new(sink.clone()));
    let mut observer = Observer::new(context).with_trace(output, json);
    act(&mut observer);
    observer.finish();
    drop(observer);
    let bytes = sink.0.lock().unwrap().clone();
    String::from_utf8(bytes)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn whole_run_reads_as_a_story() {
    let lines = traced(false, |observer| {
        observer.record(&record(
            TraceKind::Enter,
            Entry::DriverEntry as u32,
            &[0x8200_1000, 0x9000, 0x9100],
            b"",
        ));
        observer.record(&call(0, &[0x9000, 0, 0x9200, 0x22], b"\\Device\\x\0"));
        observer.record(&returned(0, 0));
        observer.record(&call(2, &[0x379], b""));
        observer.port(&port());
        observer.record(&TraceRecord {
            tsc: 40,
            ..returned(2, 0x7F)
        });
        observer.record(&record(TraceKind::Log, 0, &[], b"hello "));
        observer.record(&record(TraceKind::Log, 0, &[], b"\x1b[31mworld\n"));
        observer.record(&record(
            TraceKind::Leave,
            Entry::DriverEntry as u32,
            &[0xC000_0022],
            b"",
        ));
        let mut irp = record(
            TraceKind::Irp,
            14,
            &[0x9300, 0x9400, 0x9C40_2004, 2, 1],
            b"\\Device\\x\0",
        );
        irp.process = 1;
        irp.tsc = 1_500_000;
        observer.record(&irp);
        observer.record(&record(TraceKind::IrpDone, 0, &[0x9300, 0, 1], b""));
    });
    assert_eq!(
        lines,
        [
            r"[    0.000000]      DriverEntry echo.sys+0x1000(0x9000, 0x9100)",
            r#"[    0.000000]        IoCreateDevice(driver: 0x9000, extension_bytes: 0, name: "\Device\x", device_type: 0x22) = STATUS_SUCCESS"#,
            r"[    0.000000]        READ_PORT_UCHAR(port: 0x379) ...",
            r"[    0.000030]          port read u8 0x379 -> 0x7f (ram, rule line 4)",
            r"[    0.000040]        ... READ_PORT_UCHAR = 0x7f",
            r"[    0.000000]        log: hello \x1b[31mworld",
            r"[    0.000000]      ... DriverEntry = STATUS_ACCESS_DENIED",
            r"[    1.500000] p1   IRP_MJ_DEVICE_CONTROL \Device\x code=0x9c402004 (function 0x801, METHOD_BUFFERED) in=2 out=1 irp=0x9300",
            r"[    0.000000]      IRP completed: STATUS_SUCCESS, information=0x1 irp=0x9300",
        ]
    );
}

#[test]
fn json_has_one_object_a_line() {
    let lines = traced(true, |observer| {
        let mut first = call(0, &[0x9000, 0, 0x9200, 0x22], b"\\Device\\x\0");
        first.caller = 0x8200_0010;
        observer.record(&first);
        observer.record(&returned(0, 0));
        observer.port(&port());
    });
    let objects: Vec<serde_json::Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        objects[0],
        serde_json::json!({
            "event": "call", "t_us": 0, "irql": 0, "name": "IoCreateDevice", "from": "echo.sys+0x10",
            "args": {"driver": "0x9000", "extension_bytes": "0", "name": "\"\\Device\\x\"", "device_type": "0x22"},
            "result": "STATUS_SUCCESS",
        })
    );
    assert_eq!(objects[1]["event"], "port");
}

#[test]
fn routine_left_by_an_exception_does_not_shift_the_rest() {
    let lines = traced(false, |observer| {
        observer.record(&record(TraceKind::Enter, Entry::Dpc as u32, &[0x10], b""));
        observer.record(&call(1, &[1], b"x\0"));
        observer.record(&call(3, &[2, 0], b""));
        observer.record(&record(TraceKind::Leave, Entry::Dpc as u32, &[0], b""));
    });
    assert_eq!(
        lines,
        [
            "[    0.000000]      DPC 0x10()",
            "[    0.000000]        DbgPrint(format: \"x\") ...",
            "[    0.000000]          IofCompleteRequest(irp: 0x2, boost: 0) ...",
            "[    0.000000]      ... DPC returned",
        ]
    );
}

#[test]
fn hostile_records_do_not_harm() {
    let lines = traced(false, |observer| {
        let mut odd = record(TraceKind::Call, u32::MAX, &[1], b"");
        observer.record(&odd);
        odd.kind = 999;
        observer.record(&odd);
        observer.record(&returned(7, 3));
        for _ in 0..1000 {
            observer.record(&record(TraceKind::Enter, 77, &[0], b""));
        }
    });
    assert_eq!(lines.len(), 1003);
    assert!(
        lines[0].ends_with("export 4294967295() ..."),
        "{}",
        lines[0]
    );
    assert!(lines[1].ends_with("record of unknown kind 999"));
    assert!(lines.last().unwrap().len() < 256);
}

#[test]
fn leak_is_a_sentence() {
    let lines = traced(false, |observer| {
        let tag = u64::from(u32::from_le_bytes(*b"Echo"));
        observer.record(&record(
            TraceKind::Leak,
            0,
            &[0x9000_0000, 64, tag, 0x8200_0123],
            b"pool block",
        ));
    });
    assert_eq!(
        lines,
        [
            "[    0.000000]      leak: pool block at 0x90000000, 64 bytes, tag 'Echo', allocated by echo.sys+0x123"
        ]
    );
}

use abi::trace::Entry;
