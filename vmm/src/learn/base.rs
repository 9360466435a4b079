//! A rule's text in the policy that it comes from.

/// A line, from 1.
pub(super) fn line(text: &str, number: u32) -> Option<&str> {
    let index = usize::try_from(number).ok()?.checked_sub(1)?;
    text.lines().nth(index)
}

/// The text of the rule whose table header is at `line` (from 1): up to the next header at a line's beginning behind
/// which the text is whole again. Its sub-tables come along.
pub(super) fn rule_text(policy: &str, line: u32) -> Option<String> {
    let start = usize::try_from(line).ok()?.checked_sub(1)?;
    let lines: Vec<&str> = policy.lines().collect();
    let header = table_name(lines.get(start)?)?;
    let mut end = start + 1;
    loop {
        while lines
            .get(end)
            .is_some_and(|line| table_name(line).is_none_or(|name| is_below(name, header)))
        {
            end += 1;
        }
        let text = lines.get(start..end)?.join("\n");
        // A line of an array over several lines looks like a header too.
        if text.parse::<toml::Table>().is_ok() {
            return Some(without_tail(&text));
        }
        if end >= lines.len() {
            return None;
        }
        end += 1;
    }
}

/// The name in `[name]` or `[[name]]`.
fn table_name(line: &str) -> Option<&str> {
    let inner = line.trim_start().strip_prefix('[')?;
    let inner = inner.strip_prefix('[').unwrap_or(inner);
    Some(inner.split_once(']')?.0.trim())
}

fn is_below(name: &str, table: &str) -> bool {
    name.strip_prefix(table)
        .is_some_and(|rest| rest.starts_with('.'))
}

/// Comments and blank lines at the end belong to what comes next.
fn without_tail(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    while lines.last().is_some_and(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#')
    }) {
        lines.pop();
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "\
[[port]]
range = \"1\"
values = [
[1, 2][0],
]

# next
[[pci]]
device = \"8086:100e\"
[[pci.register]]
range = \"4\"
[[port]]
range = \"2\"";

    #[test]
    fn a_rule_ends_where_the_next_begins() {
        let text = rule_text(POLICY, 8).unwrap();
        assert_eq!(
            text,
            "[[pci]]\ndevice = \"8086:100e\"\n[[pci.register]]\nrange = \"4\"\n"
        );
        assert_eq!(rule_text(POLICY, 12).unwrap(), "[[port]]\nrange = \"2\"\n");
    }

    #[test]
    fn an_array_over_lines_is_part_of_it() {
        let policy = "[[port]]\nrange = \"1\"\ninitial = [\n[1],\n]\n# of the next\n[default]\n";
        assert_eq!(
            rule_text(policy, 1).unwrap(),
            "[[port]]\nrange = \"1\"\ninitial = [\n[1],\n]\n"
        );
    }

    #[test]
    fn other_lines_are_no_rules() {
        for line in [0, 2, 100, u32::MAX] {
            assert_eq!(rule_text(POLICY, line), None, "{line}");
        }
    }
}
