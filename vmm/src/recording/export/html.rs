//! A page for a browser: heat map of ports over time, waves of chosen bits, list of accesses. Nothing is loaded from
//! elsewhere; the data lies in the page.

use std::collections::HashMap;
use std::io::{self, Write};

use serde_json::{Value, json};

use super::super::{Access, Recording, Space};
use super::Signal;
use crate::observe::ports::Direction;

/// The page up to and after its data.
const PAGE: &str = include_str!("timeline.html");
/// What stands in [`PAGE`] where the data goes.
const PLACEHOLDER: &str = "/*DATA*/";
/// Most accesses in a page: more make browsers slow.
const ACCESSES_MAX: usize = 200_000;

pub(super) fn write(
    recording: &Recording,
    accesses: &[&Access],
    signals: &[Signal],
    to: &mut dyn Write,
) -> io::Result<()> {
    let (before, after) = PAGE.split_once(PLACEHOLDER).unwrap_or((PAGE, ""));
    to.write_all(before.as_bytes())?;
    let data = data(recording, accesses, signals).to_string();
    // A script's text ends at the first `</`; JSON has another way to write it.
    to.write_all(
        data.replace("</", "<\\/")
            .replace("<!", "\\u003c!")
            .as_bytes(),
    )?;
    to.write_all(after.as_bytes())
}

fn data(recording: &Recording, accesses: &[&Access], signals: &[Signal]) -> Value {
    let shown = accesses.get(..ACCESSES_MAX).unwrap_or(accesses);
    let mut places: Vec<String> = Vec::new();
    let mut known: HashMap<u64, usize> = HashMap::new();
    let rows: Vec<Value> = shown
        .iter()
        .map(|access| {
            let place = *known.entry(access.rip).or_insert_with(|| {
                places.push(recording.place(access.rip));
                places.len() - 1
            });
            json!([
                access.time_ns,
                match access.space {
                    Space::Port => 0,
                    Space::Memory => 1,
                    Space::Msr => 2,
                    Space::DeviceMemory => 3,
                },
                u8::from(access.direction == Direction::Write),
                access.address,
                access.bytes,
                access.value,
                u8::from(access.is_allowed),
                access.backend,
                access.rule_line,
                place,
            ])
        })
        .collect();
    let signals: Vec<Value> = signals
        .iter()
        .map(|signal| {
            let direction = signal.direction.map(|direction| match direction {
                Direction::Read => 0,
                Direction::Write => 1,
            });
            json!({"port": signal.port, "high": signal.high, "low": signal.low, "direction": direction,
                "name": signal.name})
        })
        .collect();
    json!({
        "accesses": rows,
        "places": places,
        "backends": recording.backends,
        "signals": signals,
        "left_out": accesses.len() - shown.len(),
        "dropped": recording.dropped,
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::written;
    use super::*;
    use crate::recording::Form;

    fn embedded(page: &str) -> Value {
        let start = page.find("type=\"application/json\">").unwrap() + 24;
        let end = start + page[start..].find("</script>").unwrap();
        serde_json::from_str(&page[start..end]).unwrap()
    }

    #[test]
    fn the_page_holds_its_data_and_needs_nothing_else() {
        let page = written(Form::Html, &["0x37a.0=strobe"]);
        let data = embedded(&page);
        assert_eq!(data["accesses"].as_array().unwrap().len(), 6);
        assert_eq!(data["accesses"][1][3], 0x37A);
        assert_eq!(data["signals"][0]["name"], "strobe");
        assert!(!page.contains("src="), "nothing is loaded");
        assert!(!page.contains("http"), "nothing is loaded");
    }

    #[test]
    fn a_name_cannot_leave_the_data() {
        let page = written(Form::Html, &["0x37a.0=</script><script>alert(1)"]);
        assert_eq!(page.matches("</script>").count(), 2, "data and code");
        assert_eq!(
            embedded(&page)["signals"][0]["name"],
            "</script><script>alert(1)"
        );
    }
}
