//! What is wrong with a policy, said so that its owner can mend it: place, message, what is allowed, the line.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

/// Diagnostics that an error prints; the rest is counted.
const SHOWN_MAX: usize = 20;

/// Characters of a line that a diagnostic quotes: enough to see it, however long the line is.
const QUOTED_MAX: usize = 400;

/// One thing that is wrong, with its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// The policy's file name, as it was given.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What is allowed instead; empty when the message says it all.
    pub allowed: String,
    /// The source line; of a very long one the part around the place.
    pub source_line: String,
    /// Characters of the line before that part.
    pub skipped: usize,
    /// Characters to underline, at least 1.
    pub width: usize,
    /// The other rule that it is about.
    pub related: Option<RelatedLine>,
}

/// Another line that a diagnostic is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RelatedLine {
    /// Line, from 1.
    pub line: usize,
    /// Its text.
    pub source_line: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}:{}:{}: {}",
            self.file, self.line, self.column, self.message
        )?;
        let number = self.line.to_string();
        writeln!(f, " {number} | {}", self.source_line)?;
        // A tab stays a tab, so that the caret stands under its character at any tab width.
        let before: String = self
            .source_line
            .chars()
            .take((self.column - 1).saturating_sub(self.skipped))
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        let margin = " ".repeat(number.len());
        write!(f, " {margin} | {before}{}", "^".repeat(self.width))?;
        if let Some(related) = &self.related {
            let number = related.line;
            write!(
                f,
                "\n {number:>0$} | {1}",
                margin.len(),
                related.source_line
            )?;
        }
        if !self.allowed.is_empty() {
            write!(f, "\n {margin} = allowed: {}", self.allowed)?;
        }
        Ok(())
    }
}

/// A policy that cannot be used.
#[derive(Debug)]
pub enum PolicyError {
    /// The file cannot be read.
    Unreadable {
        /// Its path, as given.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The text is wrong; everything found, in order of place. Never empty.
    Invalid(Vec<Diagnostic>),
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, .. } => {
                write!(
                    f,
                    "cannot read the policy {}, which is to be a TOML file",
                    path.display()
                )
            }
            Self::Invalid(diagnostics) => {
                for (index, diagnostic) in diagnostics.iter().take(SHOWN_MAX).enumerate() {
                    if index > 0 {
                        writeln!(f)?;
                    }
                    write!(f, "{diagnostic}")?;
                }
                match diagnostics.len().checked_sub(SHOWN_MAX) {
                    None | Some(0) => Ok(()),
                    Some(more) => write!(f, "\n… and {more} more"),
                }
            }
        }
    }
}

impl std::error::Error for PolicyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable { source, .. } => Some(source),
            Self::Invalid(_) => None,
        }
    }
}

/// A policy's text, from which diagnostics take their places.
#[derive(Clone, Debug)]
pub(super) struct Source<'a> {
    pub(super) file: &'a str,
    pub(super) text: &'a str,
    /// Byte offset of each line's first character.
    line_starts: Vec<usize>,
}

impl<'a> Source<'a> {
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        let line_starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(newline, _)| newline + 1))
            .collect();
        Self {
            file,
            text,
            line_starts,
        }
    }

    /// A line (from 1) without its end.
    fn line(&self, number: usize) -> &'a str {
        let start = number
            .checked_sub(1)
            .and_then(|index| self.line_starts.get(index))
            .map_or(self.text.len(), |start| *start);
        let line = self.text[start..].split('\n').next().unwrap_or("");
        line.strip_suffix('\r').unwrap_or(line)
    }

    /// The rest of a line from a column (both from 1) on, as a span.
    pub(super) fn rest_of_line(&self, number: usize, column: usize) -> Range<usize> {
        let line = self.line(number);
        let before: usize = line
            .chars()
            .take(column.saturating_sub(1))
            .map(char::len_utf8)
            .sum();
        let start = self.line_starts[number.clamp(1, self.line_starts.len()) - 1] + before;
        start..start + line[before..].trim_end().len()
    }

    /// Line and column (from 1, in characters) of a byte offset.
    pub(super) fn place(&self, offset: usize) -> (usize, usize) {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        // The first line starts at 0, so there is always one that starts before.
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let line_start = self.line_starts[line - 1];
        (line, self.text[line_start..offset].chars().count() + 1)
    }

    /// A diagnostic that underlines `span`, as far as it lies on its first line.
    pub(super) fn diagnostic(
        &self,
        span: &Range<usize>,
        message: String,
        allowed: String,
    ) -> Diagnostic {
        let (line, column) = self.place(span.start);
        let raw_line = self.line(line);
        let line_characters = raw_line.chars().count();
        let underlined = self
            .text
            .get(span.clone())
            .map_or(1, |text| text.chars().count());
        let width = underlined
            .min((line_characters + 1).saturating_sub(column))
            .max(1);
        let skipped = if line_characters > QUOTED_MAX {
            column.saturating_sub(QUOTED_MAX / 2)
        } else {
            0
        };
        let width = width.min(QUOTED_MAX / 2);
        let source_line = printable(raw_line, skipped);
        Diagnostic {
            file: self.file.to_owned(),
            line,
            column,
            message,
            allowed,
            source_line,
            skipped,
            width,
            related: None,
        }
    }

    /// The line of another rule that a diagnostic is about.
    pub(super) fn related(&self, line: usize) -> RelatedLine {
        RelatedLine {
            line,
            source_line: printable(self.line(line), 0),
        }
    }
}

/// A line's characters after those that are skipped, at most [`QUOTED_MAX`]. Control characters would let a pasted policy
/// drive the terminal that shows the error.
fn printable(line: &str, skipped: usize) -> String {
    line.chars()
        .skip(skipped)
        .take(QUOTED_MAX)
        .map(|c| {
            if c.is_control() && c != '\t' {
                '\u{FFFD}'
            } else {
                c
            }
        })
        .collect()
}

/// The name among `allowed` that was probably meant, for a suggestion.
pub(super) fn nearest<'a>(given: &str, allowed: &[&'a str]) -> Option<&'a str> {
    allowed
        .iter()
        .map(|name| (edit_distance(given, name), *name))
        .filter(|(distance, name)| *distance <= name.len().div_ceil(3))
        .min()
        .map(|(_, name)| name)
}

/// Damerau's distance, in characters: how many to insert, to leave out, to replace, or to swap with the next one.
fn edit_distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    let mut row_before = row.clone();
    let mut before = None;
    for (i, a) in from.chars().take(64).enumerate() {
        let mut next = vec![i + 1];
        for (j, b) in to.iter().enumerate() {
            let substituted = row[j] + usize::from(a != *b);
            let mut least = substituted.min(next[j] + 1).min(row[j + 1] + 1);
            if j > 0 && before == Some(*b) && to[j - 1] == a {
                least = least.min(row_before[j - 1] + 1);
            }
            next.push(least);
        }
        row_before = std::mem::replace(&mut row, next);
        before = Some(a);
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diagnostic_shows_place_line_caret_and_what_is_allowed() {
        let source = Source::new("p.toml", "a = 1\n\tbäck = \"lp\"\r\n");
        let start = source.text.find("\"lp\"").unwrap();
        let diagnostic = source.diagnostic(
            &(start..start + 4),
            "no such back end".to_owned(),
            "\"lpt\"".to_owned(),
        );
        assert_eq!(
            diagnostic.to_string(),
            "p.toml:2:9: no such back end\n 2 | \tbäck = \"lp\"\n   | \t       ^^^^\n   = allowed: \"lpt\""
        );
    }

    #[test]
    fn diagnostic_at_end_of_text_or_over_lines_stays_on_its_line() {
        let source = Source::new("p", "ab\ncd");
        let whole = source.diagnostic(&(1..5), String::new(), String::new());
        assert_eq!((whole.line, whole.column, whole.width), (1, 2, 1));
        let end = source.diagnostic(&(5..5), String::new(), String::new());
        assert_eq!((end.line, end.column, end.width), (2, 3, 1));
        let beyond = source.diagnostic(&(90..99), String::new(), String::new());
        assert_eq!((beyond.line, beyond.column), (2, 3));
    }

    #[test]
    fn part_of_a_very_long_line_is_quoted() {
        let text = format!("{}here{}", "x".repeat(5000), "y".repeat(5000));
        let source = Source::new("p", &text);
        let found = source.diagnostic(&(5000..5004), "m".to_owned(), String::new());
        assert_eq!((found.column, found.width), (5001, 4));
        assert_eq!(found.source_line.len(), QUOTED_MAX);
        let printed = found.to_string();
        let lines: Vec<&str> = printed.lines().collect();
        assert_eq!(lines[1].find("here"), lines[2].find("^^^^"));
        // However much is underlined.
        let all = source.diagnostic(&(0..text.len()), "m".to_owned(), String::new());
        assert!(all.to_string().len() < 4 * QUOTED_MAX);
    }

    #[test]
    fn nearest_suggests_typos_only() {
        let names = ["access", "backend", "range"];
        assert_eq!(nearest("acess", &names), Some("access"));
        assert_eq!(nearest("rnage", &names), Some("range"));
        assert_eq!(nearest("colour", &names), None);
        // Two letters in the wrong order are one mistake: `name` has two.
        assert_eq!(nearest("rnage", &["name", "range"]), Some("range"));
        assert_eq!(edit_distance("rnage", "range"), 1);
        assert_eq!(edit_distance("", "range"), 5);
        assert_eq!(edit_distance("range", ""), 5);
    }
}
