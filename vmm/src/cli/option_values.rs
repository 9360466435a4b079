//! Options' values: sizes, times, versions of Windows.

use std::time::Duration;

use abi::layout;
use abi::windows::Windows;

/// A number of bytes.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.trim_end_matches("iB").char_indices().next_back() {
        Some((at, 'K' | 'k')) => (text.get(..at), 1 << 10),
        Some((at, 'M' | 'm')) => (text.get(..at), 1 << 20),
        Some((at, 'G' | 'g')) => (text.get(..at), 1 << 30),
        _ => (Some(text), 1),
    };
    digits
        .and_then(|digits| digits.parse::<u64>().ok())
        .and_then(|count| count.checked_mul(unit))
        .ok_or_else(|| "write a number of bytes, or of K, M or G: 16M".to_owned())
}

pub(super) fn parse_memory(text: &str) -> Result<u64, String> {
    let bytes = parse_size(text)?;
    let range = layout::RAM_MIN..=layout::RAM_MAX;
    if !range.contains(&bytes) || bytes % layout::PAGE_SIZE != 0 {
        return Err(format!(
            "a guest has {}M to {}M, in whole pages",
            layout::RAM_MIN >> 20,
            layout::RAM_MAX >> 20
        ));
    }
    Ok(bytes)
}

pub(super) fn parse_windows(text: &str) -> Result<Windows, String> {
    Windows::ALL
        .into_iter()
        .find(|windows| windows.name().eq_ignore_ascii_case(text))
        .ok_or_else(|| "one of xp, 7, 10, 11".to_owned())
}

pub(super) fn parse_timeout(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "write seconds: 10 or 0.5".to_owned())?;
    if !(0.01..=86_400.0).contains(&seconds) {
        return Err("a timeout is 0.01 to 86400 seconds".into());
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_checked() {
        assert_eq!(parse_memory("16M"), Ok(16 << 20));
        assert_eq!(parse_memory("16MiB"), Ok(16 << 20));
        assert_eq!(parse_memory("1G"), Ok(1 << 30));
        for bad in ["", "M", "1M", "2G", "-16M", "16777217", "99999999999G", "ü"] {
            assert!(parse_memory(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_timeout("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["0", "-1", "nan", "inf", "1e30", "x"] {
            assert!(parse_timeout(bad).is_err(), "{bad}");
        }
    }
}
