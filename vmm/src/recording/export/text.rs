//! Lines for people.

use std::io::{self, Write};

use super::super::{Access, Recording, Space};
use crate::observe::ports::Direction;

pub(super) fn write(
    recording: &Recording,
    accesses: &[&Access],
    to: &mut dyn Write,
) -> io::Result<()> {
    for access in accesses {
        writeln!(to, "{}", line(recording, access))?;
    }
    Ok(())
}

fn line(recording: &Recording, access: &Access) -> String {
    let seconds = access.time_ns / 1_000_000_000;
    let nanoseconds = access.time_ns % 1_000_000_000;
    let what = match (access.space, access.direction) {
        (Space::Port, Direction::Read) => format!(
            "in{} {:#06x} -> {:#0width$x}",
            access.bytes * 8,
            access.address,
            access.value,
            width = digits(access)
        ),
        (Space::Port, Direction::Write) => format!(
            "out{} {:#06x} <- {:#0width$x}",
            access.bytes * 8,
            access.address,
            access.value,
            width = digits(access)
        ),
        (Space::Msr, Direction::Read) => {
            format!("rdmsr {:#x} -> {:#x}", access.address, access.value)
        }
        (Space::Msr, Direction::Write) => {
            format!("wrmsr {:#x} <- {:#x}", access.address, access.value)
        }
        (Space::DeviceMemory, Direction::Read) => format!(
            "load{} {:#x} -> {:#0width$x}",
            access.bytes * 8,
            access.address,
            access.value,
            width = digits(access)
        ),
        (Space::DeviceMemory, Direction::Write) => format!(
            "store{} {:#x} <- {:#0width$x}",
            access.bytes * 8,
            access.address,
            access.value,
            width = digits(access)
        ),
        (Space::Memory, direction) => format!(
            "map {:#x}+{:#x} {}",
            access.address,
            access.bytes,
            if direction == Direction::Write {
                "rw"
            } else {
                "r"
            }
        ),
    };
    let verdict = if access.is_allowed {
        recording.backend(access).to_owned()
    } else {
        "DENIED".to_owned()
    };
    let rule = match access.rule_line {
        0 => "no rule".to_owned(),
        number => format!("rule line {number}"),
    };
    format!(
        "[{seconds:>5}.{nanoseconds:09}] {what:<28} {verdict}, {rule}, from {}",
        recording.place(access.rip)
    )
}

/// Of the value with its `0x`.
fn digits(access: &Access) -> usize {
    usize::try_from(access.bytes).unwrap_or(1) * 2 + 2
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::written;
    use crate::recording::Form;

    #[test]
    fn lines_say_when_what_who_and_why() {
        let text = written(Form::Text, &[]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[1],
            "[    0.000001000] out8 0x037a <- 0x01          lpt, rule line 3, from echo.sys+0x1000"
        );
        assert_eq!(
            lines[4],
            "[    0.000004000] in16 0x0070 -> 0xffff        DENIED, no rule, from program"
        );
        assert_eq!(
            lines[5],
            "[    0.000005000] map 0xa0000+0x1000 rw        DENIED, no rule, from echo.sys+0x2000"
        );
    }
}
