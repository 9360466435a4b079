//! Trace events in the JSON object format that Perfetto and chrome://tracing read: an instant for each access on its
//! port's track, and a counter with the port's value.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde_json::{Value, json};

use super::super::{Access, Recording, Space};
use crate::observe::ports::Direction;

/// The track of mappings; ports have their own numbers, from 0 to 0xffff.
const MEMORY_TRACK: u64 = 0x1_0000;
/// The first track of MSRs, which have 32-bit numbers.
const MSR_TRACKS: u64 = 0x1_0000_0000;

pub(super) fn write(
    recording: &Recording,
    accesses: &[&Access],
    to: &mut dyn Write,
) -> io::Result<()> {
    writeln!(to, "{{\"displayTimeUnit\":\"ns\",\"traceEvents\":[")?;
    write!(
        to,
        "{}",
        json!({"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "hardware accesses"}})
    )?;
    let tracks: BTreeMap<u64, String> = accesses
        .iter()
        .map(|access| (track(access), name(access)))
        .collect();
    for (tid, name) in tracks {
        let event =
            json!({"ph": "M", "pid": 1, "tid": tid, "name": "thread_name", "args": {"name": name}});
        write!(to, ",\n{event}")?;
    }
    for access in accesses {
        write!(to, ",\n{}", instant(recording, access))?;
        if access.space == Space::Port && (access.is_allowed || access.direction == Direction::Read)
        {
            let event = json!({
                "ph": "C", "pid": 1, "ts": microseconds(access), "name": name(access),
                "args": {"value": access.value},
            });
            write!(to, ",\n{event}")?;
        }
    }
    writeln!(to, "\n]}}")
}

fn instant(recording: &Recording, access: &Access) -> Value {
    let verb = match (access.space, access.direction) {
        (Space::Memory, _) => "map",
        (Space::DeviceMemory, Direction::Read) => "load",
        (Space::DeviceMemory, Direction::Write) => "store",
        (Space::Port, Direction::Read) => "in",
        (Space::Port, Direction::Write) => "out",
        (Space::Msr, Direction::Read) => "rdmsr",
        (Space::Msr, Direction::Write) => "wrmsr",
    };
    let name = match (access.space, access.is_allowed) {
        (Space::DeviceMemory, true) => {
            format!("{verb} {:#x}: {:#x}", access.address, access.value)
        }
        (Space::DeviceMemory, false) => {
            format!("{verb} {:#x}: {:#x} (denied)", access.address, access.value)
        }
        (Space::Port | Space::Msr, true) => format!("{verb} {:#x}", access.value),
        (Space::Port | Space::Msr, false) => format!("{verb} {:#x} (denied)", access.value),
        (Space::Memory, true) => format!("{verb} {:#x}", access.address),
        (Space::Memory, false) => format!("{verb} {:#x} (denied)", access.address),
    };
    json!({
        "ph": "i", "s": "t", "pid": 1, "tid": track(access), "ts": microseconds(access), "name": name,
        "cat": if access.is_allowed { recording.backend(access) } else { "denied" },
        "args": {
            "address": format!("{:#x}", access.address),
            "bytes": access.bytes,
            "from": recording.place(access.rip),
            "rule_line": access.rule_line,
        },
    })
}

fn track(access: &Access) -> u64 {
    match access.space {
        Space::Port => access.address,
        Space::Memory => MEMORY_TRACK,
        Space::DeviceMemory => MEMORY_TRACK + 1,
        Space::Msr => MSR_TRACKS + access.address,
    }
}

fn name(access: &Access) -> String {
    match access.space {
        Space::Port => format!("port {:#06x}", access.address),
        Space::Memory => "memory mappings".to_owned(),
        Space::DeviceMemory => "devices' memory".to_owned(),
        Space::Msr => format!("MSR {:#x}", access.address),
    }
}

/// The format's unit.
#[expect(
    clippy::cast_precision_loss,
    reason = "below 104 days the nanosecond is kept"
)]
fn microseconds(access: &Access) -> f64 {
    access.time_ns as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::written;
    use crate::recording::Form;
    use serde_json::Value;

    #[test]
    fn events_lie_on_their_ports_tracks() {
        let trace: Value = serde_json::from_str(&written(Form::Chrome, &[])).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let of = |kind: &str| -> Vec<&Value> {
            events.iter().filter(|event| event["ph"] == kind).collect()
        };
        assert_eq!(of("i").len(), 6);
        assert_eq!(of("C").len(), 5, "no value of a mapping");
        assert_eq!(of("M").len(), 6, "process, four ports, mappings");
        let strobe = of("i")[1];
        assert_eq!(strobe["tid"], 0x37A);
        assert_eq!(strobe["ts"], 1.0);
        assert_eq!(strobe["name"], "out 0x1");
        assert_eq!(strobe["args"]["from"], "echo.sys+0x1000");
    }
}
