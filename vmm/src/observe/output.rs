//! Where a trace goes: a file or stderr, buffered. A full disk costs the trace, not the run.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::own_file;

/// Bytes gathered before a write.
const BUFFER_BYTES: usize = 64 << 10;

/// the trace cannot be written to {path}: {source}; name a file in a directory that exists and is writable, or - for stderr
#[derive(Debug, thiserror::Error, displaydoc::Display)]
pub struct TraceOpenError {
    /// The file, as the user named it.
    pub path: String,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// The trace's destination.
pub struct TraceOutput {
    name: String,
    writer: Option<BufWriter<Box<dyn Write + Send>>>,
}

impl TraceOutput {
    /// Creates the file at `path`; `-` is stderr.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn open(path: &Path) -> Result<Self, TraceOpenError> {
        if path == Path::new("-") {
            return Ok(Self::to_writer("stderr", Box::new(io::stderr())));
        }
        let name = PathBuf::from(path).display().to_string();
        match own_file::create(path, 0) {
            Ok(file) => Ok(Self::to_writer(&name, Box::new(file))),
            Err(source) => Err(TraceOpenError { path: name, source }),
        }
    }

    /// Writes to `writer`; `name` is for messages.
    #[must_use]
    pub fn to_writer(name: &str, writer: Box<dyn Write + Send>) -> Self {
        Self {
            name: name.into(),
            writer: Some(BufWriter::with_capacity(BUFFER_BYTES, writer)),
        }
    }

    /// Appends a line. The first error is logged and ends the trace.
    pub fn line(&mut self, line: &str) {
        self.attempt(|writer| {
            writer.write_all(line.as_bytes())?;
            writer.write_all(b"\n")
        });
    }

    /// Hands everything to the operating system.
    pub fn flush(&mut self) {
        self.attempt(Write::flush);
    }

    /// Whether the trace still goes somewhere.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.writer.is_some()
    }

    fn attempt(
        &mut self,
        action: impl FnOnce(&mut BufWriter<Box<dyn Write + Send>>) -> io::Result<()>,
    ) {
        let Some(writer) = &mut self.writer else {
            return;
        };
        if let Err(error) = action(writer)
            && let Some(writer) = self.writer.take()
        {
            tracing::warn!(
                "the trace ends here, the run goes on: cannot write to {}: {error}",
                self.name
            );
            // Dropping a BufWriter would try to write its buffer once more.
            let _ = writer.into_parts();
        }
    }
}

impl std::fmt::Debug for TraceOutput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TraceOutput")
            .field("name", &self.name)
            .field("is_alive", &self.is_alive())
            .finish()
    }
}

impl Drop for TraceOutput {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_directory_is_an_error_up_front() {
        let error = TraceOutput::open(Path::new("/nonexistent/trace")).unwrap_err();
        assert!(
            error.to_string().starts_with(
                "the trace cannot be written to /nonexistent/trace: No such file or directory"
            ),
            "{error}"
        );
    }

    #[test]
    fn full_disk_ends_the_trace_without_a_panic() {
        let mut output = TraceOutput::open(Path::new("/dev/full")).unwrap();
        output.line("x");
        assert!(output.is_alive(), "still in the buffer");
        output.flush();
        assert!(!output.is_alive());
        output.line("y");
        output.flush();
    }

    #[test]
    fn lines_arrive_when_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("trace");
        let mut output = TraceOutput::open(&path).unwrap();
        output.line("a");
        output.line("b");
        drop(output);
        assert_eq!(std::fs::read_to_string(path).unwrap(), "a\nb\n");
    }
}
