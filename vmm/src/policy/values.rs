//! Numbers and ranges as policies write them.

/// Reads a number: decimal, `0x` hexadecimal, `0o` octal or `0b` binary, `_` between digits.
pub(crate) fn parse_number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.get(..2) {
        Some("0x" | "0X") => (&text[2..], 16),
        Some("0o") => (&text[2..], 8),
        Some("0b") => (&text[2..], 2),
        _ => (text, 10),
    };
    // from_str_radix would take a sign.
    if digits.starts_with(['+', '-', '_']) || digits.ends_with('_') {
        return None;
    }
    u64::from_str_radix(&digits.replace('_', ""), radix).ok()
}

/// Reads `FIRST-LAST` (both included) or a single number; every number at most `max`.
pub(crate) fn parse_range(text: &str, max: u64) -> Result<(u64, u64), String> {
    let number = |part: &str| {
        let part = part.trim();
        let value = parse_number(part).ok_or_else(|| {
            if part.is_empty() {
                "a number is missing".to_owned()
            } else {
                format!("`{part}` is not a number")
            }
        })?;
        if value > max {
            Err(format!("{part} is above {max:#x}, the highest there is"))
        } else {
            Ok(value)
        }
    };
    let Some((first, last)) = text.split_once('-') else {
        let single = number(text)?;
        return Ok((single, single));
    };
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(format!(
            "the range runs backwards: did you mean \"{last:#x}-{first:#x}\"?"
        ));
    }
    Ok((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_every_base() {
        assert_eq!(parse_number("0x3_78"), Some(0x378));
        assert_eq!(parse_number("888"), Some(888));
        assert_eq!(parse_number("0b101"), Some(5));
        assert_eq!(parse_number("0o17"), Some(15));
        for bad in ["", "0x", "-1", "+1", "0x-1", "1_", "_1", "378h", "é", "0é"] {
            assert_eq!(parse_number(bad), None, "{bad}");
        }
    }

    #[test]
    fn ranges_include_both_ends() {
        assert_eq!(parse_range("0x378-0x37a", 0xFFFF), Ok((0x378, 0x37A)));
        assert_eq!(parse_range(" 1 - 2 ", 0xFFFF), Ok((1, 2)));
        assert_eq!(parse_range("0xffff", 0xFFFF), Ok((0xFFFF, 0xFFFF)));
        assert!(
            parse_range("0x10000", 0xFFFF)
                .unwrap_err()
                .contains("0xffff")
        );
        assert!(parse_range("2-1", 9).unwrap_err().contains("\"0x1-0x2\""));
        assert!(parse_range("1-", 9).unwrap_err().contains("missing"));
        assert!(
            parse_range("1-2-3", 9)
                .unwrap_err()
                .contains("`2-3` is not a number")
        );
    }
}
