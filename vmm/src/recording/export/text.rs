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
        (Space::Port, Direction::Read) => moved(access, "in", "->", 6),
        (Space::Port, Direction::Write) => moved(access, "out", "<-", 6),
        (Space::Msr, Direction::Read) => {
            format!("rdmsr {:#x} -> {:#x}", access.address, access.value)
        }
        (Space::Msr, Direction::Write) => {
            format!("wrmsr {:#x} <- {:#x}", access.address, access.value)
        }
        (Space::DeviceMemory, Direction::Read) => moved(access, "load", "->", 0),
        (Space::DeviceMemory, Direction::Write) => moved(access, "store", "<-", 0),
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

/// A value that was moved, with all the digits of its width; the address has so many at least, its `0x` included.
fn moved(access: &Access, verb: &str, arrow: &str, address_digits: usize) -> String {
    let value_digits = usize::try_from(access.bytes).unwrap_or(1) * 2 + 2;
    format!(
        "{verb}{} {:#0address_digits$x} {arrow} {:#0value_digits$x}",
        access.bytes * 8,
        access.address,
        access.value,
    )
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
