//! A small recording for tests of the forms.

use crate::observe::clock::Clock;
use crate::observe::ports::{Decision, Direction, PortRecord};
use crate::observe::symbols::{Module, Symbols};
use crate::recording::{Access, Form, Keep, Recorder, Recording, Signal, export};

/// Accesses to ports that no rule names: port, bytes, what was written.
pub(crate) fn denied_ports(accesses: &[(u64, u64, Option<u64>)]) -> Recording {
    let mut recording = recording();
    let like = recording.accesses[0].clone();
    let access = |(address, bytes, write): &(u64, u64, Option<u64>)| Access {
        address: *address,
        bytes: *bytes,
        value: write.unwrap_or(u64::MAX),
        direction: match write {
            Some(_) => Direction::Write,
            None => Direction::Read,
        },
        rule_line: 0,
        is_allowed: false,
        ..like.clone()
    };
    recording.accesses = accesses.iter().map(access).collect();
    recording
}

/// Six accesses, a microsecond apart: a strobed byte, a status read, a denied word at 0x70, a denied mapping.
pub(crate) fn recording() -> Recording {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut recorder = Recorder::create(file.path(), Keep::All).unwrap();
    let clock = Clock {
        boot_tsc: 0,
        tsc_khz: 1_000_000,
    };
    recorder.start(
        clock,
        &Symbols::new(vec![Module::driver("echo.sys", 0x8200_0000, 0x5000)]),
    );
    let lpt = Decision {
        allowed: true,
        backend: "lpt",
        rule_line: Some(3),
    };
    let denied = Decision {
        allowed: false,
        backend: "deny",
        rule_line: None,
    };
    let record = PortRecord {
        tsc: 0,
        rip: 0x8200_1000,
        port: 0x378,
        width: 1,
        direction: Direction::Write,
        value: 0x41,
        decision: lpt,
    };
    for port in [
        record,
        PortRecord {
            tsc: 1000,
            port: 0x37A,
            value: 1,
            ..record
        },
        PortRecord {
            tsc: 2000,
            port: 0x37A,
            value: 0,
            ..record
        },
        PortRecord {
            tsc: 3000,
            port: 0x379,
            direction: Direction::Read,
            value: 0xD8,
            ..record
        },
        PortRecord {
            tsc: 4000,
            rip: 0,
            port: 0x70,
            width: 2,
            direction: Direction::Read,
            value: 0xFFFF,
            decision: denied,
        },
    ] {
        recorder.port(&port);
    }
    recorder.mapping(
        5000,
        0x8200_2000,
        0xA_0000,
        0x1000,
        Direction::Write,
        denied,
    );
    drop(recorder);
    Recording::from_path(file.path()).unwrap()
}

/// The recording in a form.
pub(super) fn written(form: Form, signals: &[&str]) -> String {
    let recording = recording();
    let accesses: Vec<&Access> = recording.accesses.iter().collect();
    let signals: Vec<Signal> = signals.iter().map(|text| text.parse().unwrap()).collect();
    let mut bytes = Vec::new();
    export::write(form, &recording, &accesses, &signals, &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}
