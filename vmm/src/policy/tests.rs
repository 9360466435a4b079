use proptest::prelude::*;

use super::*;
use crate::ports::{PortRequest, Width};

pub(super) fn ok(text: &str) -> Policy {
    match Policy::from_str("p.toml", text) {
        Ok(policy) => policy,
        Err(error) => panic!("{error}"),
    }
}

pub(super) fn diagnostics(text: &str) -> Vec<Diagnostic> {
    match Policy::from_str("p.toml", text) {
        Ok(policy) => panic!("accepted: {policy:?}"),
        Err(PolicyError::Invalid(found)) => found,
        Err(error) => panic!("{error}"),
    }
}

/// The one mistake of a policy: line, column, and what message and remedy say.
#[track_caller]
pub(super) fn rejects(text: &str, line: usize, column: usize, message: &str, allowed: &str) {
    let found = diagnostics(text);
    assert_eq!(found.len(), 1, "{found:#?}");
    let diagnostic = &found[0];
    assert_eq!(
        (diagnostic.line, diagnostic.column),
        (line, column),
        "{diagnostic}"
    );
    assert!(diagnostic.message.contains(message), "{diagnostic}");
    assert!(diagnostic.allowed.contains(allowed), "{diagnostic}");
    let start = format!("p.toml:{line}:{column}: ");
    assert!(diagnostic.to_string().starts_with(&start), "{diagnostic}");
}

/// A port rule from its lines; the header is line 1.
pub(super) fn port(lines: &str) -> String {
    format!("[[port]]\n{lines}\n")
}

fn access(port: u16, width: Width, is_write: bool) -> PortRequest {
    PortRequest {
        port,
        width,
        write: is_write.then_some(0),
    }
}

pub(super) fn memory(lines: &str) -> String {
    format!("[[memory]]\n{lines}\n")
}

#[test]
fn every_key_is_read() {
    let policy = ok(r#"
[default]
on-deny = "fault"
denied-read = 0
max-log-rate = 3

[[port]]
range = "0x378-0x37a"
access = "rw"
backend = "lpt"
output = "out.bin"
status = 0x80
name = "printer"
comment = "first of two"

[[port]]
range = 0x3F8
access = "r"
backend = "passthrough"
on-deny = "stop"
denied-read = 0xAB

[[port]]
range = "768-775"
access = "w"
backend = "ram"
initial = [1, 2]

[[port]]
range = "0xcf8-0xcff"
backend = "deny"

[[memory]]
range = "0xd0000-0xd0fff"
access = "r"
backend = "ram"
file = "rom.bin"
"#);
    assert_eq!(
        *policy.defaults(),
        Defaults {
            on_deny: OnDeny::Fault,
            denied_read: 0,
            max_log_rate: 3,
            memory_on_deny: OnDeny::Ignore,
            pci_on_deny: OnDeny::Fault,
            msr_on_deny: OnDeny::Fault,
        }
    );
    let [lpt, serial, ram, deny] = policy.port_rules() else {
        panic!("{policy:?}");
    };
    assert_eq!((lpt.first, lpt.last, lpt.port_count()), (0x378, 0x37A, 3));
    assert_eq!(
        lpt.backend,
        PortBackend::Lpt(Box::new(LptSpec::new(
            DeviceOutput::File("out.bin".into()),
            0x80
        )))
    );
    assert_eq!((lpt.line, lpt.column), (7, 1));
    assert_eq!(lpt.name.as_deref(), Some("printer"));
    assert_eq!((lpt.on_deny, lpt.denied_read), (OnDeny::Fault, 0));
    assert_eq!((serial.first, serial.last), (0x3F8, 0x3F8));
    assert_eq!((serial.on_deny, serial.denied_read), (OnDeny::Stop, 0xAB));
    assert!(serial.allows(false) && !serial.allows(true));
    assert_eq!(serial.backend, PortBackend::Passthrough);
    assert_eq!((ram.first, ram.last), (768, 775));
    assert!(!ram.allows(false) && ram.allows(true));
    assert_eq!(
        ram.backend,
        PortBackend::Ram {
            initial: vec![1, 2],
            fill: 0
        }
    );
    assert_eq!(deny.access, None);
    assert!(!deny.allows(false) && !deny.allows(true));
    let [rom] = policy.memory_rules() else {
        panic!("{policy:?}");
    };
    assert_eq!(
        (rom.first, rom.last, rom.bytes()),
        (0xD_0000, 0xD_0FFF, 4096)
    );
    assert_eq!(
        rom.backend,
        MemoryBackend::Ram {
            file: Some("rom.bin".into())
        }
    );
    assert_eq!(rom.on_deny, OnDeny::Ignore, "memory has nothing to fault");
}

#[test]
fn empty_policy_denies_everything_as_no_policy_does() {
    let policy = ok("# nothing\n");
    assert!(policy.port_rules().is_empty());
    assert_eq!(policy.defaults(), Policy::deny_all().defaults());
    assert!(
        !policy
            .decide_port(&access(0x378, Width::Byte, true), 0)
            .is_allowed()
    );
}

#[test]
fn overlapping_rules_that_differ_name_both_lines() {
    let text = "\n[[port]]\nrange = \"0x378-0x37f\"\naccess = \"rw\"\nbackend = \"passthrough\"\n\
                [[port]]\nrange = \"0x37a\"\nbackend = \"deny\"\n";
    rejects(
        text,
        6,
        1,
        "(line 6) and the rule of line 2 both cover port 0x37a-0x37a",
        "one rule for each range",
    );
    let shadowed = "[[memory]]\nrange = \"0-0xffff\"\nbackend = \"deny\"\n\
                    [[memory]]\nrange = \"0x1000-0x1fff\"\naccess = \"r\"\nbackend = \"ram\"\n";
    rejects(shadowed, 4, 1, "the rule of line 1", "");
}

#[test]
fn overlap_behind_a_wide_rule_is_found() {
    let rule = |range: &str, access: &str| {
        format!("[[port]]\nrange = \"{range}\"\naccess = \"{access}\"\nbackend = \"passthrough\"\n")
    };
    let text = rule("0x300-0x340", "rw") + &rule("0x310-0x320", "rw") + &rule("0x330-0x334", "r");
    rejects(&text, 9, 1, "the rule of line 1", "");
    // Same intent may overlap in any way.
    assert_eq!(
        ok(&(rule("0x300-0x310", "rw") + &rule("0x308-0x320", "rw")))
            .port_rules()
            .len(),
        2
    );
}

#[test]
fn models_never_overlap_and_never_share_an_output() {
    let ram = "[[port]]\nrange = 1\naccess = \"rw\"\nbackend = \"ram\"\n";
    rejects(&ram.repeat(2), 5, 1, "the rule of line 1", "");
    let lpt = |range: &str| {
        format!(
            "[[port]]\nrange = \"{range}\"\naccess = \"rw\"\nbackend = \"lpt\"\noutput = \"-\"\n"
        )
    };
    rejects(
        &(lpt("0x378-0x37a") + &lpt("0x278-0x27a")),
        6,
        1,
        "the rule of line 1 writes to the same `output`",
        "one output",
    );
}

#[test]
fn unreadable_large_and_binary_files_are_refused() {
    let error = Policy::from_path("/nonexistent/p.toml".as_ref()).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/p.toml"), "{error}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"# fine\nname = \"\xFF\"\n").unwrap();
    let PolicyError::Invalid(found) = Policy::from_path(file.path()).unwrap_err() else {
        panic!("readable");
    };
    assert_eq!((found[0].line, found[0].column), (2, 9));
    assert!(found[0].message.contains("UTF-8"));
    std::fs::write(file.path(), vec![b'#'; (4 << 20) + 1]).unwrap();
    assert!(Policy::from_path(file.path()).is_err());
    assert!(Policy::from_path("/".as_ref()).is_err());
}

#[test]
fn explanation_names_rule_and_consequence() {
    let policy = ok(
        "[[port]]\nname = \"probe\"\nrange = \"0x10-0x11\"\naccess = \"r\"\nbackend = \"ram\"\non-deny = \"fault\"\n",
    );
    let read = policy.explain_port(&access(0x10, Width::Word, false), 0);
    assert!(read.contains("allowed"), "{read}");
    assert!(read.contains("rule \"probe\" at p.toml:1"), "{read}");
    let write = policy.explain_port(&access(0x10, Width::Byte, true), 0);
    assert!(write.contains("access is \"r\""), "{write}");
    assert!(write.contains("#GP"), "{write}");
    let straddling = policy.explain_port(&access(0x11, Width::Word, false), 0);
    assert!(straddling.contains("port 0x11: rule"), "{straddling}");
    assert!(straddling.contains("port 0x12: no rule"), "{straddling}");
    assert!(straddling.contains("returns 0xffff;"), "{straddling}");
    let last = policy.explain_port(&access(0xFFFF, Width::Word, false), 0);
    assert!(last.contains("0xffff: no rule"), "{last}");
    assert!(last.contains("past the last port"), "{last}");

    let policy = ok("[[memory]]\nrange = \"0xd0000-0xd0fff\"\naccess = \"r\"\nbackend = \"ram\"\n");
    let read = policy.explain_memory(0xD_0010, 4, false);
    assert!(
        read.contains("allowed") && read.contains("p.toml:1"),
        "{read}"
    );
    let write = policy.explain_memory(0xD_0010, 4, true);
    assert!(
        write.contains("read only") && write.contains("NULL"),
        "{write}"
    );
    let beyond = policy.explain_memory(0xD_0FFF, 2, false);
    assert!(
        beyond.contains("no rule covers address 0xd1000"),
        "{beyond}"
    );
}

#[test]
fn every_block_of_the_reference_is_a_policy_and_every_key_is_in_it() {
    let reference = include_str!("../../../docs/policy.md");
    let mut blocks = 0;
    for (number, block) in reference.split("```toml\n").skip(1).enumerate() {
        let text = block.split("```").next().unwrap();
        if let Err(error) = Policy::from_str(&format!("block {}", number + 1), text) {
            panic!("docs/policy.md: {error}");
        }
        blocks += 1;
    }
    assert!(blocks >= 5, "{blocks} blocks");
    for key in schema::all_keys() {
        assert!(reference.contains(&format!("`{key}`")), "{key}");
    }
}

#[test]
fn mistake_that_the_reference_shows_is_printed_so() {
    let text = "[[port]]\nrange = \"0x378-0x37a\"\naccess = \"rw\"\nbackend = \"lp\"\n";
    let printed = Policy::from_str("lab.toml", text).unwrap_err().to_string();
    let reference = include_str!("../../../docs/policy.md");
    assert!(
        reference.contains(&format!("```text\n{printed}\n```")),
        "{printed}"
    );
}

proptest! {
    /// Whatever is done to a policy's text, the answer is a policy or a place in the text.
    #[test]
    fn damaged_text_is_a_policy_or_has_a_place(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 0..6_usize, "[\\PC\n\t]{0,4}"), 1..6),
    ) {
        let reference = include_str!("../../../docs/policy.md");
        let seed: String = reference
            .split("```toml\n")
            .skip(1)
            .filter_map(|block| block.split("```").next())
            .collect();
        let mut characters: Vec<char> = seed.chars().collect();
        for (at, removed, inserted) in edits {
            let start = at.index(characters.len());
            let end = (start + removed).min(characters.len());
            characters.splice(start..end, inserted.chars());
        }
        let text: String = characters.into_iter().collect();
        if let Err(error) = Policy::from_str("p.toml", &text) {
            prop_assert!(!error.to_string().is_empty());
            let PolicyError::Invalid(found) = error else {
                panic!("{error}");
            };
            prop_assert!(!found.is_empty());
            for diagnostic in found {
                let line = text.split('\n').nth(diagnostic.line - 1);
                let length = line.map(|line| line.chars().count());
                prop_assert!(length.is_some_and(|length| diagnostic.column <= length + 1), "{}", diagnostic);
            }
        }
    }
}
