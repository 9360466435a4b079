//! The report for people.

use std::fmt;

use super::{NameKind, Reach, Readiness, Verdict};

/// Most lines of one kind.
const LINES_MAX: usize = 40;

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => write!(f, "ready: everything that it imports is there"),
            Self::Probably { partial, missing } => {
                write!(f, "probably")?;
                if !partial.is_empty() {
                    write!(f, ": partial {}", partial.join(" "))?;
                }
                if !missing.is_empty() {
                    write!(
                        f,
                        ": missing, but not where DriverEntry leads, {}",
                        missing.join(" ")
                    )?;
                }
                Ok(())
            }
            Self::WillStop { at, missing } => {
                write!(f, "will stop at {at}, which DriverEntry can reach")?;
                match missing.len() {
                    0 | 1 => Ok(()),
                    all => write!(f, " (and {} more)", all - 1),
                }
            }
            Self::CannotLoad { why } => write!(f, "cannot load: {why}"),
        }
    }
}

impl Reach {
    /// The words that people see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DriverEntry => "DriverEntry",
            Self::Callbacks => "callbacks",
            Self::Other => "other code",
        }
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_routines(f)?;
        self.write_names(f)?;
        self.write_ioctls(f)?;
        self.write_privileged(f)?;
        self.write_reach(f)?;
        if self.is_incomplete {
            writeln!(
                f,
                "\nthe image is too large or too odd: there may be more than this"
            )?;
        }
        write!(f, "\nverdict: {}", self.verdict)
    }
}

/// Writes at most [`LINES_MAX`] lines.
fn lines(
    f: &mut fmt::Formatter<'_>,
    title: &str,
    all: impl ExactSizeIterator<Item = String>,
) -> fmt::Result {
    let count = all.len();
    if count == 0 {
        return Ok(());
    }
    writeln!(f, "\n  {title}")?;
    for line in all.take(LINES_MAX) {
        writeln!(f, "    {line}")?;
    }
    if count > LINES_MAX {
        writeln!(
            f,
            "    ... and {} more (--json has them)",
            count - LINES_MAX
        )?;
    }
    Ok(())
}

impl Readiness {
    fn write_routines(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut routines = Vec::new();
        for function in &self.major_functions {
            let places: Vec<String> = function
                .rvas
                .iter()
                .map(|rva| format!("+{rva:#x}"))
                .collect();
            routines.push(format!("{}  {}", function.name, places.join(" or ")));
        }
        if let Some(rva) = self.driver_unload {
            routines.push(format!("DriverUnload  +{rva:#x}"));
        }
        if let Some(rva) = self.add_device {
            routines.push(format!(
                "AddDevice  +{rva:#x}: a PnP driver, for which a device must be made"
            ));
        }
        if self.is_kmdf {
            routines.push("KMDF: its framework calls it".to_owned());
        }
        for library in &self.libraries {
            routines.push(format!("imports from {library}"));
        }
        lines(f, "routines and libraries", routines.into_iter())
    }

    fn write_names(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.names.iter().map(|name| {
            let kind = match name.kind {
                NameKind::Device => "device",
                NameKind::SymbolicLink => "link  ",
            };
            let note = if name.is_referenced {
                ""
            } else {
                "  (not seen in use)"
            };
            format!("{kind}  {}{note}", name.name)
        });
        lines(f, "names", names)
    }

    fn write_ioctls(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let codes = self.ioctls.iter().map(|code| {
            format!(
                "{:#010x}  device {:#x}, function {:#x}, {}, {} access",
                code.code, code.device_type, code.function, code.method, code.access
            )
        });
        lines(f, "I/O control codes", codes)
    }

    fn write_privileged(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instructions = self.privileged.iter().map(|found| {
            let port = found
                .port
                .map_or_else(String::new, |port| format!(" port {port:#x}"));
            format!(
                "+{:#x}  {}{port}, from {}",
                found.rva,
                found.instruction,
                found.reached_from.name()
            )
        });
        lines(f, "privileged instructions", instructions)
    }

    /// Where those imports are reached that are not all there.
    fn write_reach(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lacking: Vec<String> = self
            .reach
            .iter()
            .filter(|import| import.status != "implemented")
            .map(|import| {
                let from = import.reached_from.map_or("not seen in use", Reach::name);
                format!("{} ({}): {from}", import.import, import.status)
            })
            .collect();
        lines(
            f,
            "imports that are not all there, and from where they are reached",
            lacking.into_iter(),
        )
    }
}
