//! Learns a policy: the narrowest that covers what a recording's driver touched.
//!
//! What a rule of the run's own policy allowed keeps that rule, as its owner wrote it. What no rule named becomes new
//! rules with [`Options::backend`], one for each range whose ports were used alike. What a rule denied stays denied: its
//! owner has said so. Each rule says who touched it and how often.

mod base;
mod touched;

use std::fmt::Write as _;

use crate::policy::Policy;
use crate::recording::Recording;
use touched::{Touched, Use};

/// How to learn.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// The back end of new rules, as policies spell it: `passthrough` or `ram`.
    pub backend: String,
    /// What the policy says of its origin, such as the driver's name.
    pub title: String,
}

/// A learned policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Learned {
    /// The file's text.
    pub text: String,
    /// How many rules it has.
    pub rules: usize,
    /// Rules that would be refused as they are, and are there as comments with the reason.
    pub refused: usize,
    /// Kinds of accesses that a rule of the run's policy denied: they stay denied.
    pub denied: usize,
}

/// Makes a policy of a recording that was made under `base`.
#[must_use]
pub fn learn(recording: &Recording, base: &Policy, options: &Options) -> Learned {
    let touched = Touched::of(recording);
    let mut learned = Learned {
        text: String::new(),
        rules: 0,
        refused: 0,
        denied: 0,
    };
    learned.head(recording, options);
    for (line, users) in &touched.by_rule {
        learned.keep(base, *line, users);
    }
    for range in touched.ports() {
        let widths: Vec<String> = range.uses.widths().map(|width| width.to_string()).collect();
        let rule = format!(
            "[[port]]\nrange = \"{}\"\naccess = \"{}\"\nwidths = [{}]\nbackend = \"{}\"\n",
            span(range.first, range.last),
            range.uses.access(),
            widths.join(", "),
            options.backend,
        );
        learned.add(&rule, &range.users);
    }
    for range in touched.memory() {
        let rule = format!(
            "[[memory]]\nrange = \"{}\"\naccess = \"{}\"\nbackend = \"{}\"\n",
            span(range.first, range.last),
            range.uses.access(),
            options.backend,
        );
        learned.add(&rule, &range.users);
    }
    for range in touched.msrs() {
        // Registers for tests are a fixed number here: MSRs have no register file.
        let backend = match options.backend.as_str() {
            "ram" => "backend = \"value\"\nvalue = 0".to_owned(),
            other => format!("backend = \"{other}\""),
        };
        let rule = format!(
            "[[msr]]\nrange = \"{}\"\naccess = \"{}\"\n{backend}\n",
            span(range.first, range.last),
            range.uses.access(),
        );
        learned.add(&rule, &range.users);
    }
    for (line, users) in &touched.denied_by_rule {
        learned.denied += 1;
        let _ = writeln!(
            learned.text,
            "\n# Line {line} of {} denied this, and nothing here allows it:",
            base.file()
        );
        learned.users(users);
    }
    learned
}

impl Learned {
    fn head(&mut self, recording: &Recording, options: &Options) {
        let count = recording.accesses.len();
        let _ = writeln!(
            self.text,
            "# Learned from {}: {count} accesses. It covers what that run touched and nothing else: another run, a\n\
             # longer one, another device may touch more. Read it before you use it.",
            one_line(&options.title)
        );
        if recording.dropped != 0 {
            let _ = writeln!(
                self.text,
                "# INCOMPLETE: the recording had lost {} earlier accesses.",
                recording.dropped
            );
        }
    }

    /// A rule that allowed accesses, as its owner wrote it.
    fn keep(&mut self, base: &Policy, line: u32, users: &[String]) {
        match base::rule_text(base.text(), line) {
            Some(rule) => self.add(&rule, users),
            None => {
                self.refused += 1;
                let _ = writeln!(
                    self.text,
                    "\n# The rule at line {line} of {} is not where it was.",
                    base.file()
                );
                self.users(users);
            }
        }
    }

    /// A rule, as a comment if it is refused.
    fn add(&mut self, rule: &str, users: &[String]) {
        self.text.push('\n');
        self.users(users);
        match Policy::from_str("learned", rule) {
            Ok(_) => {
                self.rules += 1;
                self.text.push_str(rule);
            }
            Err(error) => {
                self.refused += 1;
                let reason = crate::error_chain(&error);
                self.text.push_str("# NOT ALLOWED as it stands:\n");
                for line in reason.lines().chain(rule.lines()) {
                    let _ = writeln!(self.text, "# {}", one_line(line));
                }
            }
        }
    }

    fn users(&mut self, users: &[String]) {
        for user in users {
            let _ = writeln!(self.text, "# {}", one_line(user));
        }
    }
}

fn span(first: u64, last: u64) -> String {
    if first == last {
        format!("{first:#x}")
    } else {
        format!("{first:#x}-{last:#x}")
    }
}

/// Names come from images: nothing in them may end a comment's line.
fn one_line(text: &str) -> String {
    crate::observe::escape::escape(text)
}

impl Use {
    fn access(self) -> &'static str {
        match (self.is_read, self.is_written) {
            (true, false) => "r",
            (false, true) => "w",
            _ => "rw",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::export::tests_support::recording;

    fn options(backend: &str) -> Options {
        Options {
            backend: backend.into(),
            title: "echo.sys".into(),
        }
    }

    fn base() -> Policy {
        // The recording's rule is at line 3.
        let text = "# a parallel port\n\n[[port]] # mine\nrange = \"0x378-0x37a\"\naccess = \"rw\"\nbackend = \"lpt\"\noutput = \"-\"\n";
        Policy::from_str("base.toml", text).unwrap()
    }

    #[test]
    fn what_a_rule_allowed_keeps_it_and_the_rest_is_new() {
        let learned = learn(&recording(), &base(), &options("ram"));
        assert_eq!((learned.rules, learned.refused, learned.denied), (3, 0, 0));
        let text = &learned.text;
        assert!(
            text.contains("[[port]] # mine\nrange = \"0x378-0x37a\""),
            "{text}"
        );
        assert!(
            text.contains("# program: 1 read of 2 bytes at 0x70\n[[port]]\nrange = \"0x70-0x71\"\naccess = \"r\"\nwidths = [2]\nbackend = \"ram\"\n"),
            "{text}"
        );
        assert!(
            text.contains("[[memory]]\nrange = \"0xa0000-0xa0fff\"\naccess = \"rw\"\n"),
            "{text}"
        );
        assert!(
            text.contains("# echo.sys+0x1000: 2 writes of 1 byte at 0x37a\n"),
            "{text}"
        );
        let policy = Policy::from_str("learned.toml", text).unwrap();
        assert_eq!(policy.port_rules().len(), 2);
    }

    #[test]
    fn a_dangerous_rule_is_a_comment_with_the_reason() {
        let learned = learn(&recording(), &base(), &options("no-such-backend"));
        assert_eq!((learned.rules, learned.refused), (1, 2));
        assert!(
            learned.text.contains("# NOT ALLOWED as it stands:\n# "),
            "{}",
            learned.text
        );
        Policy::from_str("learned.toml", &learned.text).unwrap();
    }
}
