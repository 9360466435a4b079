//! Traces, crash reports, symbols.
