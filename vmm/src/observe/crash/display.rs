//! A crash report as text.

use super::{Cause, CrashReport};
use std::fmt::{self, Display, Formatter};

impl Display for CrashReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.heading(f)?;
        if !self.message.is_empty() {
            writeln!(f, "  {}", self.message)?;
        }
        if let Some(exception) = &self.exception {
            writeln!(
                f,
                "  exception {} ({}), error code {}: {}",
                exception.vector, exception.name, exception.error_code, exception.explanation
            )?;
        }
        write!(f, "  at {}", self.location)?;
        if let Some(irql) = &self.irql {
            write!(f, ", IRQL {irql}")?;
        }
        writeln!(f, " ({}, {})", self.abi, self.privilege)?;
        self.write_instruction(f)?;
        self.write_registers(f)?;
        writeln!(f, "\nStack:")?;
        for frame in &self.stack {
            writeln!(f, "  {frame}")?;
        }
        if self.stack.iter().any(|frame| frame.is_guess) {
            writeln!(
                f,
                "  (? = found by scanning the stack; may be left over from earlier calls)"
            )?;
        }
        if self.history.is_empty() {
            return write!(f, "\nNo API calls or port accesses were recorded.");
        }
        write!(f, "\nLast API calls and port accesses:")?;
        for line in &self.history {
            write!(f, "\n  {line}")?;
        }
        Ok(())
    }
}

impl CrashReport {
    /// One line that says what happened.
    #[must_use]
    pub fn headline(&self) -> String {
        let driver = &self.driver;
        match &self.cause {
            Cause::Bugcheck { code, name, .. } => match name {
                Some(name) => format!("{driver} crashed: bugcheck {code} {name}"),
                None => format!("{driver} crashed: bugcheck {code} (a code of its own)"),
            },
            Cause::UnboundImport { dll, function } => {
                format!(
                    "{driver} stopped: it called {dll}!{function}, which Ringfence does not have"
                )
            }
            Cause::ShimPanic => {
                format!("{driver} stopped: Ringfence's kernel shim failed")
            }
            Cause::Hang { timeout_ms } => format!(
                "{driver} hung: no answer for {}.{:03} s",
                timeout_ms / 1000,
                timeout_ms % 1000
            ),
            Cause::VmFailure { reason } => {
                format!("{driver} stopped: the virtual machine cannot go on: {reason}")
            }
            Cause::DamagedRecord { number } => {
                format!("{driver} stopped with a damaged crash record (kind {number})")
            }
        }
    }

    fn heading(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.headline())?;
        match &self.cause {
            Cause::Bugcheck {
                meaning,
                parameters,
                ..
            } => {
                if let Some(meaning) = meaning {
                    writeln!(f, "  {meaning}")?;
                }
                for (number, parameter) in (1..).zip(parameters) {
                    write!(f, "  parameter {number}: {:#018x}", parameter.value.0)?;
                    if let Some(name) = &parameter.name {
                        write!(f, " = {name}")?;
                    }
                    if !parameter.meaning.is_empty() {
                        write!(f, "  {}", parameter.meaning)?;
                    }
                    writeln!(f)?;
                }
                Ok(())
            }
            Cause::UnboundImport { .. } => {
                // The caller is the first frame inside the driver.
                let caller = self
                    .stack
                    .iter()
                    .find(|frame| frame.name.starts_with(&self.driver));
                if let Some(caller) = caller {
                    writeln!(f, "  called from {}", caller.name)?;
                }
                writeln!(
                    f,
                    "  `ringfence inspect` lists all imports of a driver that are missing or partial."
                )
            }
            Cause::ShimPanic => writeln!(
                f,
                "  This is a bug of Ringfence, not of the driver. Please report it with this text."
            ),
            Cause::Hang { .. } => writeln!(
                f,
                "  An endless loop, a wait that nothing ends, or work that needs a longer --timeout."
            ),
            Cause::VmFailure { .. } => writeln!(
                f,
                "  The driver did something that KVM cannot execute or recover from."
            ),
            Cause::DamagedRecord { .. } => {
                writeln!(
                    f,
                    "  The driver probably wrote over memory that is not its own."
                )
            }
        }
    }

    fn write_instruction(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.instruction {
            Some(instruction) => writeln!(
                f,
                "  {}    {}",
                instruction.bytes,
                instruction.text.as_deref().unwrap_or("(no instruction)")
            ),
            None => writeln!(f, "  (no memory at the instruction pointer)"),
        }
    }

    fn write_registers(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nRegisters:")?;
        let is_32_bit = self.registers.iter().any(|(name, _)| *name == "eip");
        let digits = if is_32_bit { 8 } else { 16 };
        for row in self.registers.chunks(4) {
            let cells: Vec<String> = row
                .iter()
                .map(|(name, value)| format!("{name:>6} {:0digits$x}", value.0))
                .collect();
            writeln!(f, " {}", cells.join(" "))?;
        }
        Ok(())
    }
}
