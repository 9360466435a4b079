//! A driver's log: pieces of DbgPrint output joined into lines, and a limit on how many reach the log.

use super::clock::Timestamp;
use super::escape::escape_bytes;

/// Longest line, in bytes; longer ones are broken here.
const LINE_BYTES: usize = 1024;
/// Lines that pass in each second of guest time. A driver can print in a loop; the host's log must survive it.
const LINES_PER_SECOND: u32 = 200;

/// Joins pieces into lines.
#[derive(Debug, Default)]
pub struct LineJoiner {
    pending: Vec<u8>,
}

impl LineJoiner {
    /// Adds a piece; returns the lines that it completes, escaped and without line ends.
    pub fn push(&mut self, piece: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for &byte in piece {
            match byte {
                b'\n' => lines.extend(self.finish_line()),
                _ => {
                    self.pending.push(byte);
                    if self.pending.len() >= LINE_BYTES {
                        lines.extend(self.finish_line());
                    }
                }
            }
        }
        lines
    }

    /// Ends a line that has begun.
    pub fn finish_line(&mut self) -> Option<String> {
        if self.pending.is_empty() {
            return None;
        }
        let mut line = std::mem::take(&mut self.pending);
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Some(escape_bytes(&line))
    }
}

/// Lets a number of lines pass in each second and counts the others.
#[derive(Debug, Default)]
pub struct RateLimit {
    second: u64,
    passed: u32,
    dropped: u64,
}

/// What [`RateLimit::admit`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Whether this line passes.
    pub passes: bool,
    /// Lines dropped in seconds before this one, to be mentioned now.
    pub dropped_before: u64,
}

impl RateLimit {
    /// Asks for one line at `time`.
    pub fn admit(&mut self, time: Timestamp) -> Admission {
        let second = time.0 / 1_000_000;
        let mut dropped_before = 0;
        if second != self.second {
            dropped_before = std::mem::take(&mut self.dropped);
            self.second = second;
            self.passed = 0;
        }
        let passes = self.passed < LINES_PER_SECOND;
        if passes {
            self.passed += 1;
        } else {
            self.dropped += 1;
        }
        Admission {
            passes,
            dropped_before,
        }
    }

    /// Lines dropped that have not been mentioned yet.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_joined_into_lines() {
        let mut joiner = LineJoiner::default();
        assert!(joiner.push(b"port ").is_empty());
        assert_eq!(joiner.push(b"378\r\nnext\nrest"), ["port 378", "next"]);
        assert_eq!(joiner.finish_line().as_deref(), Some("rest"));
        assert_eq!(joiner.finish_line(), None);
    }

    #[test]
    fn endless_line_is_broken() {
        let mut joiner = LineJoiner::default();
        let lines = joiner.push(&[b'x'; 2500]);
        assert_eq!(lines.iter().map(String::len).collect::<Vec<_>>(), [1024; 2]);
    }

    #[test]
    fn flood_is_limited_and_counted() {
        let mut limit = RateLimit::default();
        let passed = (0..1000)
            .filter(|_| limit.admit(Timestamp(10)).passes)
            .count();
        assert_eq!(passed, 200);
        assert_eq!(
            limit.admit(Timestamp(1_000_000)),
            Admission {
                passes: true,
                dropped_before: 800
            }
        );
    }
}
