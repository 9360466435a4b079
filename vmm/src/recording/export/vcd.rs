//! Value change dump (IEEE 1364-2005, clause 18), a nanosecond a step.

use std::io::{self, Write};

use super::super::Access;
use super::Signal;

pub(super) fn write(
    accesses: &[&Access],
    signals: &[Signal],
    to: &mut dyn Write,
) -> io::Result<()> {
    writeln!(to, "$version ringfence $end")?;
    writeln!(to, "$timescale 1 ns $end")?;
    writeln!(to, "$scope module ports $end")?;
    for (number, signal) in signals.iter().enumerate() {
        let (id, name) = (identifier(number), &signal.name);
        match signal.width() {
            1 => writeln!(to, "$var wire 1 {id} {name} $end")?,
            width => writeln!(to, "$var wire {width} {id} {name} [{}:0] $end", width - 1)?,
        }
    }
    writeln!(to, "$upscope $end")?;
    writeln!(to, "$enddefinitions $end")?;
    writeln!(to, "$dumpvars")?;
    for (number, signal) in signals.iter().enumerate() {
        // Nobody knows what was there before the first access.
        change(to, signal, number, None)?;
    }
    writeln!(to, "$end")?;
    let mut known: Vec<Option<u8>> = vec![None; signals.len()];
    let mut shown_time = None;
    for access in accesses {
        for (number, (signal, known)) in signals.iter().zip(&mut known).enumerate() {
            let value = signal.value(access);
            if value.is_none() || value == *known {
                continue;
            }
            // Times do not go back, even if a guest's counter should.
            let time = access.time_ns.max(shown_time.unwrap_or(0));
            if shown_time != Some(time) {
                writeln!(to, "#{time}")?;
                shown_time = Some(time);
            }
            *known = value;
            change(to, signal, number, value)?;
        }
    }
    // So that a viewer shows the last values for as long as they lasted.
    if let Some(last) = accesses.last()
        && last.time_ns > shown_time.unwrap_or(0)
    {
        writeln!(to, "#{}", last.time_ns)?;
    }
    Ok(())
}

fn change(to: &mut dyn Write, signal: &Signal, number: usize, value: Option<u8>) -> io::Result<()> {
    let id = identifier(number);
    match (signal.width(), value) {
        (1, Some(value)) => writeln!(to, "{value}{id}"),
        (1, None) => writeln!(to, "x{id}"),
        (_, Some(value)) => writeln!(to, "b{value:b} {id}"),
        (_, None) => writeln!(to, "bx {id}"),
    }
}

/// Printable characters from `!` to `~`, least significant first.
fn identifier(mut number: usize) -> String {
    let mut text = String::new();
    loop {
        let digit = u8::try_from(number % 94).unwrap_or(0);
        text.push(char::from(b'!' + digit));
        number /= 94;
        if number == 0 {
            return text;
        }
        number -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::written;
    use super::*;
    use crate::recording::Form;

    #[test]
    fn a_strobe_is_a_pulse() {
        let text = written(Form::Vcd, &["0x37a.0=strobe", "0x378=data"]);
        assert_eq!(
            text,
            "$version ringfence $end\n$timescale 1 ns $end\n$scope module ports $end\n\
             $var wire 1 ! strobe $end\n$var wire 8 \" data [7:0] $end\n$upscope $end\n\
             $enddefinitions $end\n$dumpvars\nx!\nbx \"\n$end\n#0\nb1000001 \"\n#1000\n1!\n#2000\n0!\n#5000\n"
        );
    }

    #[test]
    fn identifiers_differ() {
        let all: std::collections::BTreeSet<String> = (0..10_000).map(identifier).collect();
        assert_eq!(all.len(), 10_000);
        assert!(
            all.iter()
                .all(|id| id.bytes().all(|byte| (33..127).contains(&byte)))
        );
    }
}
