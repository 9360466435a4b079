//! Mistakes in policies, and what is said about them.

use super::tests::{diagnostics, memory, port, rejects};
use super::*;

#[test]
fn syntax_error_has_its_place() {
    let found = diagnostics("[[port]]\nrange = \"0x378\naccess = \"r\"\n");
    assert_eq!(found[0].line, 2, "{}", found[0]);
    assert_eq!(found[0].source_line, "range = \"0x378");
    let found = diagnostics("[[port]]\nrange = 1\nrange = 2\n");
    assert_eq!((found[0].line, found[0].column), (3, 1), "{}", found[0]);
    assert!(found[0].message.contains("duplicate"), "{}", found[0]);
}

#[test]
fn unknown_keys_are_named_with_what_is_allowed() {
    let rest = "range = 1\nbackend = \"deny\"";
    rejects("[defaults]\n", 1, 2, "did you mean `default`?", "`port`");
    rejects("range = 1\n", 1, 1, "before the first [[port]]", "`memory`");
    rejects(
        "[default]\non-denny = \"stop\"\n",
        2,
        1,
        "did you mean `on-deny`?",
        "`max-log-rate`",
    );
    rejects(
        &port(&format!("{rest}\n  ranges = 2")),
        4,
        3,
        "[[port]] has no key `ranges`; did you mean `range`?",
        "`denied-read`",
    );
    rejects(
        &port(&format!("{rest}\noutput = \"x\"")),
        4,
        1,
        "`output` belongs to backend \"lpt\"",
        "`access`",
    );
    rejects(
        &port(&format!("{rest}\ninitial = 1")),
        4,
        1,
        "`initial` belongs to backend \"ram\"",
        "",
    );
    rejects(
        &memory("range = \"0-0xfff\"\nbackend = \"deny\"\ndenied-read = 1"),
        4,
        1,
        "[[memory]] has no key `denied-read`",
        "`comment`",
    );
}

#[test]
fn missing_keys_are_reported_at_the_rule() {
    rejects(
        &port("backend = \"deny\""),
        1,
        1,
        "[[port]] has no `range`",
        "0x378-0x37a",
    );
    rejects(&port("range = 1"), 1, 1, "no `backend`", "\"passthrough\"");
    rejects(
        &port("range = 1\nbackend = \"passthrough\""),
        1,
        1,
        "no `access`",
        "\"rw\"",
    );
    rejects(
        &port("range = \"1-3\"\nbackend = \"lpt\"\naccess = \"rw\""),
        1,
        1,
        "no `output`",
        "standard output",
    );
}

#[test]
fn bad_values_are_reported_where_they_stand() {
    let deny = "backend = \"deny\"";
    rejects(
        &port(&format!("range = \"0x37a-0x378\"\n{deny}")),
        2,
        9,
        "did you mean \"0x378-0x37a\"",
        "FIRST-LAST",
    );
    rejects(
        &port(&format!("range = \"0x378-0x10000\"\n{deny}")),
        2,
        9,
        "above 0xffff",
        "FIRST-LAST",
    );
    rejects(
        &port(&format!("range = 65536\n{deny}")),
        2,
        9,
        "65536 is not between 0 and 0xffff",
        "",
    );
    rejects(&port(&format!("range = -1\n{deny}")), 2, 9, "-1", "");
    rejects(
        &port(&format!("range = true\n{deny}")),
        2,
        9,
        "a boolean",
        "",
    );
    rejects(
        &port("range = 1\nbackend = \"lp\""),
        3,
        11,
        "did you mean \"lpt\"?",
        "\"deny\"",
    );
    rejects(
        &port("range = 1\naccess = \"x\"\nbackend = \"passthrough\""),
        3,
        10,
        "`access` cannot be \"x\"",
        "\"r\", \"w\", \"rw\"",
    );
    rejects(
        &port(&format!("range = 1\naccess = \"rw\"\n{deny}")),
        3,
        10,
        "has no `access`",
        "leave `access` out",
    );
    rejects(
        &port(&format!("range = 1\n{deny}\non-deny = 1")),
        4,
        11,
        "`on-deny` is an integer, not a string",
        "\"stop\"",
    );
    rejects(
        &port(&format!("range = 1\n{deny}\ndenied-read = 0x100000000")),
        4,
        15,
        "`denied-read` cannot be",
        "0xffffffff",
    );
    rejects(
        &port(&format!("range = 1\n{deny}\nname = \"a\\nb\"")),
        4,
        8,
        "`name`",
        "control characters",
    );
    rejects(
        "[default]\nmax-log-rate = 1001\n",
        2,
        16,
        "1001",
        "0 to 1000",
    );
    rejects("default = 3\n", 1, 11, "one table", "[default]");
    rejects("port = 3\n", 1, 8, "list of rules", "[[port]]");
    rejects("port = [3]\n", 1, 9, "a rule is a table", "[[port]]");
}

#[test]
fn back_ends_check_their_own_keys() {
    let lpt = "access = \"rw\"\nbackend = \"lpt\"";
    rejects(
        &port(&format!("range = 0x378\n{lpt}\noutput = \"-\"")),
        2,
        9,
        "1 port(s)",
        "\"0x378-0x37a\"",
    );
    rejects(
        &port(&format!("range = \"0x378-0x380\"\n{lpt}\noutput = \"-\"")),
        2,
        9,
        "9 port(s)",
        "3 to 8 ports",
    );
    rejects(
        &port(&format!("range = \"1-3\"\n{lpt}\noutput = \"\"")),
        5,
        10,
        "empty",
        "standard output",
    );
    rejects(
        &port(&format!(
            "range = \"1-3\"\n{lpt}\noutput = \"-\"\nstatus = 256"
        )),
        6,
        10,
        "256",
        "0 to 255",
    );
    let ram = "access = \"rw\"\nbackend = \"ram\"";
    rejects(
        &port(&format!("range = \"1-2\"\n{ram}\ninitial = [1, 2, 3]")),
        5,
        11,
        "3 bytes for 2 port(s)",
        "at most one byte a port",
    );
    rejects(
        &port(&format!("range = \"1-2\"\n{ram}\ninitial = [1, 256]")),
        5,
        15,
        "256",
        "0 to 255",
    );
}

#[test]
fn memory_rules_check_their_own_keys() {
    let ram = "access = \"rw\"\nbackend = \"ram\"";
    rejects(
        &memory(&format!("range = \"0xd0001-0xd0fff\"\n{ram}")),
        2,
        9,
        "whole pages",
        "\"0xd0000-0xd0fff\"",
    );
    rejects(
        &memory(&format!("range = 0xd0000\n{ram}")),
        2,
        9,
        "whole pages",
        "\"0xd0000-0xd0fff\"",
    );
    rejects(
        &memory(&format!("range = \"0-0xfffffffffffffff\"\n{ram}")),
        2,
        9,
        "above 0xfffffffffffff",
        "",
    );
    rejects(
        &memory("range = \"0xd0000-0xd0fff\"\naccess = \"rw\"\nbackend = \"passthrough\""),
        1,
        1,
        "no `source`",
        "dev-mem",
    );
    rejects(
        &memory("range = \"0xd0000-0xd0fff\"\naccess = \"w\"\nbackend = \"ram\""),
        3,
        10,
        "write-only",
        "\"r\", \"rw\"",
    );
    rejects(
        &memory("range = \"0xd0000-0xd0fff\"\nbackend = \"deny\"\nfile = \"x\""),
        4,
        1,
        "belongs to backend \"ram\"",
        "",
    );
    rejects(
        &memory(&format!(
            "range = \"0xd0000-0xd0fff\"\n{ram}\non-deny = \"fault\""
        )),
        5,
        11,
        "`on-deny` cannot be \"fault\"",
        "\"ignore\", \"stop\"",
    );
}

#[test]
fn all_mistakes_are_reported_in_the_order_of_the_file() {
    let found = diagnostics(
        "[[port]]\nrange = 1\nbackend = \"x\"\n[[memory]]\nrange = \"1-2\"\nbackend = \"deny\"\n[[port]]\nrang = 1\nbackend = \"deny\"\n",
    );
    let lines: Vec<usize> = found.iter().map(|diagnostic| diagnostic.line).collect();
    // Line 7: `range` is missing.
    assert_eq!(lines, [3, 5, 7, 8], "{found:#?}");
}

#[test]
fn long_lists_of_mistakes_are_cut() {
    let text = "[[port]]\nrange = 1\nbackend = \"x\"\naccess = \"r\"\n".repeat(30);
    let error = Policy::from_str("p.toml", &text).unwrap_err().to_string();
    assert!(error.ends_with("… and 10 more"), "{error}");
}
