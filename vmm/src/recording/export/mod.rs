//! A recording in other forms.

mod chrome;
mod html;
mod json;
mod signal;
#[cfg(test)]
pub(crate) mod tests_support;
mod text;
mod vcd;

use std::io::{self, Write};

pub use signal::{Signal, SignalError, touched_ports};

use super::{Access, Recording};

/// A form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// A line for each access.
    Text,
    /// A JSON object for each access.
    Json,
    /// A value change dump of chosen ports' bits, for GTKWave and its kin (IEEE 1364-2005, clause 18).
    Vcd,
    /// Trace events in JSON, for Perfetto and chrome://tracing.
    Chrome,
    /// A page for a browser, with nothing to load from elsewhere.
    Html,
}

/// Writes the accesses. `signals` are for [`Form::Vcd`] and [`Form::Html`]; none: each port that was touched.
///
/// # Errors
/// The writer's.
pub fn write(
    form: Form,
    recording: &Recording,
    accesses: &[&Access],
    signals: &[Signal],
    to: &mut dyn Write,
) -> io::Result<()> {
    let touched;
    let signals = if signals.is_empty() {
        touched = touched_ports(accesses);
        touched.as_slice()
    } else {
        signals
    };
    match form {
        Form::Text => text::write(recording, accesses, to),
        Form::Json => json::write(recording, accesses, to),
        Form::Vcd => vcd::write(accesses, signals, to),
        Form::Chrome => chrome::write(recording, accesses, to),
        Form::Html => html::write(recording, accesses, signals, to),
    }
}
