//! JSON lines: an object for each access.

use std::io::{self, Write};

use serde::Serialize;

use super::super::{Access, Recording};
use crate::observe::hex::Hex;
use crate::observe::ports::Direction;

#[derive(Serialize)]
struct Line<'a> {
    t_ns: u64,
    space: &'static str,
    direction: Direction,
    address: Hex,
    bytes: u64,
    value: Hex,
    allowed: bool,
    backend: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule_line: Option<u32>,
    from: String,
}

pub(super) fn write(
    recording: &Recording,
    accesses: &[&Access],
    to: &mut dyn Write,
) -> io::Result<()> {
    for access in accesses {
        let line = Line {
            t_ns: access.time_ns,
            space: access.space.name(),
            direction: access.direction,
            address: Hex(access.address),
            bytes: access.bytes,
            value: Hex(access.value),
            allowed: access.is_allowed,
            backend: recording.backend(access),
            rule_line: (access.rule_line != 0).then_some(access.rule_line),
            from: recording.place(access.rip),
        };
        serde_json::to_writer(&mut *to, &line)?;
        to.write_all(b"\n")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::written;
    use crate::recording::Form;

    #[test]
    fn objects_one_a_line() {
        let text = written(Form::Json, &[]);
        assert_eq!(
            text.lines().nth(3).unwrap(),
            r#"{"t_ns":3000,"space":"port","direction":"read","address":"0x379","bytes":1,"value":"0xd8","allowed":true,"backend":"lpt","rule_line":3,"from":"echo.sys+0x1000"}"#
        );
        for line in text.lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
    }
}
