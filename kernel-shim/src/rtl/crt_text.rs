//! NUL-terminated strings of bytes and of UTF-16 units: what the C library's narrow and wide functions share.

use alloc::vec::Vec;

use crate::raw::{Ptr, to_usize};

/// EINVAL.
pub(crate) const EINVAL: i32 = 22;
/// ERANGE.
pub(crate) const ERANGE: i32 = 34;
/// STRUNCATE: the text was cut off, as was asked for.
pub(crate) const STRUNCATE: i32 = 80;
/// _TRUNCATE as a count: as much as fits.
pub(crate) const TRUNCATE: u64 = if cfg!(nt_i386) {
    u32::MAX as u64
} else {
    u64::MAX
};

/// A character: a byte or a UTF-16 unit.
pub(crate) trait Unit: Copy + Default + Ord {
    /// Its number.
    fn number(self) -> u16;
    /// The character of an ASCII byte.
    fn ascii(byte: u8) -> Self;
}

impl Unit for u8 {
    fn number(self) -> u16 {
        u16::from(self)
    }
    fn ascii(byte: u8) -> Self {
        byte
    }
}

impl Unit for u16 {
    fn number(self) -> u16 {
        self
    }
    fn ascii(byte: u8) -> Self {
        Self::from(byte)
    }
}

/// The place of a character.
pub(crate) fn at<T>(string: Ptr<T>, index: u64) -> Ptr<T> {
    string.add_bytes(index * size_of::<T>() as u64)
}

/// Number of characters before the NUL, at most `limit`.
pub(crate) fn length<T: Unit>(string: Ptr<T>, limit: u64) -> u64 {
    let mut index = 0;
    while index < limit && at(string, index).read() != T::default() {
        index += 1;
    }
    index
}

/// The characters before the NUL.
pub(crate) fn text<T: Unit>(string: Ptr<T>) -> Vec<T> {
    string.read_slice(to_usize(length(string, u64::MAX)))
}

/// The lower-case form of an ASCII letter.
pub(crate) fn lower<T: Unit>(unit: T) -> T {
    match u8::try_from(unit.number()) {
        Ok(byte) if byte.is_ascii_uppercase() => T::ascii(byte.to_ascii_lowercase()),
        _ => unit,
    }
}

/// The upper-case form of an ASCII letter.
pub(crate) fn upper<T: Unit>(unit: T) -> T {
    match u8::try_from(unit.number()) {
        Ok(byte) if byte.is_ascii_lowercase() => T::ascii(byte.to_ascii_uppercase()),
        _ => unit,
    }
}

/// Compares at most `limit` characters, up to and including the NUL; -1, 0 or 1.
pub(crate) fn compare<T: Unit>(
    first: Ptr<T>,
    second: Ptr<T>,
    limit: u64,
    ignore_case: bool,
) -> i32 {
    let fold = |unit| if ignore_case { lower(unit) } else { unit };
    for index in 0..limit {
        let (a, b) = (
            fold(at(first, index).read()),
            fold(at(second, index).read()),
        );
        if a != b {
            return if a < b { -1 } else { 1 };
        }
        if a == T::default() {
            break;
        }
    }
    0
}

/// Copies at most `limit` characters of a string; returns how many, without the NUL, and whether the NUL came.
pub(crate) fn copy<T: Unit>(destination: Ptr<T>, source: Ptr<T>, limit: u64) -> (u64, bool) {
    for index in 0..limit {
        let unit = at(source, index).read();
        at(destination, index).write(unit);
        if unit == T::default() {
            return (index, true);
        }
    }
    (limit, false)
}

/// strncpy.
pub(crate) fn copy_padded<T: Unit>(destination: Ptr<T>, source: Ptr<T>, count: u64) -> Ptr<T> {
    let (copied, _) = copy(destination, source, count);
    for index in copied..count {
        at(destination, index).write(T::default());
    }
    destination
}

/// strncat.
pub(crate) fn append<T: Unit>(destination: Ptr<T>, source: Ptr<T>, count: u64) -> Ptr<T> {
    let end = at(destination, length(destination, u64::MAX));
    if let (copied, false) = copy(end, source, count) {
        at(end, copied).write(T::default());
    }
    destination
}

/// The first (or last) occurrence of a character; the NUL counts.
pub(crate) fn find<T: Unit>(string: Ptr<T>, wanted: T, is_last: bool) -> Ptr<T> {
    let mut places =
        (0..=length(string, u64::MAX)).filter(|&index| at(string, index).read() == wanted);
    let found = if is_last {
        places.next_back()
    } else {
        places.next()
    };
    found.map_or(Ptr::null(), |index| at(string, index))
}

/// strstr.
pub(crate) fn find_text<T: Unit>(string: Ptr<T>, wanted: Ptr<T>) -> Ptr<T> {
    let count = length(wanted, u64::MAX);
    (0..=length(string, u64::MAX))
        .map(|index| at(string, index))
        .find(|&place| compare(place, wanted, count, false) == 0)
        .unwrap_or_default()
}

/// Number of characters at the start that are in `set` (or are not).
pub(crate) fn span<T: Unit>(string: Ptr<T>, set: Ptr<T>, is_in: bool) -> u64 {
    let set = text(set);
    let end = length(string, u64::MAX);
    (0..end)
        .find(|&index| set.contains(&at(string, index).read()) != is_in)
        .unwrap_or(end)
}

/// strtok_s: the next token of `string`, or, if that is null, from where the last one ended.
pub(crate) fn token<T: Unit>(string: Ptr<T>, set: Ptr<T>, context: Ptr<Ptr<T>>) -> Ptr<T> {
    if context.is_null() || set.is_null() {
        return Ptr::null();
    }
    let Some(from) = string.non_null().or_else(|| context.read().non_null()) else {
        return Ptr::null();
    };
    let start = at(from, span(from, set, true));
    let mut end = at(start, span(start, set, false));
    let is_empty = start == end;
    if end.read() != T::default() {
        end.write(T::default());
        end = at(end, 1);
    }
    context.write(end);
    if is_empty { Ptr::null() } else { start }
}

/// Changes every character before the NUL, at most `limit` of them.
pub(crate) fn change<T: Unit>(string: Ptr<T>, limit: u64, map: impl Fn(T) -> T) -> Ptr<T> {
    for index in 0..length(string, limit) {
        let place = at(string, index);
        place.write(map(place.read()));
    }
    string
}

/// _strrev.
pub(crate) fn reverse<T: Unit>(string: Ptr<T>) -> Ptr<T> {
    for (index, unit) in (0..).zip(text(string).into_iter().rev()) {
        at(string, index).write(unit);
    }
    string
}

/// Empties a buffer and returns an error.
pub(crate) fn refuse<T: Unit>(destination: Ptr<T>, error: i32) -> i32 {
    destination.write(T::default());
    error
}

/// Copies at most `count` characters and a NUL behind the `used` ones of a buffer of `size`: the second half of strcpy_s,
/// strncpy_s, strcat_s and strncat_s.
fn fit<T: Unit>(destination: Ptr<T>, size: u64, used: u64, source: Ptr<T>, count: u64) -> i32 {
    let room = size - used;
    let place = at(destination, used);
    let wanted = length(source, count.min(room));
    if wanted == room {
        if count != TRUNCATE {
            return refuse(destination, ERANGE);
        }
        copy_closed(place, source, room - 1);
        return STRUNCATE;
    }
    copy_closed(place, source, wanted);
    0
}

/// Copies `count` characters, and adds a NUL.
fn copy_closed<T: Unit>(destination: Ptr<T>, source: Ptr<T>, count: u64) {
    let bytes = count * size_of::<T>() as u64;
    destination.cast::<u8>().copy_from(source.cast(), bytes);
    at(destination, count).write(T::default());
}

/// strcpy_s (`count` is `None`) and strncpy_s.
pub(crate) fn copy_secure<T: Unit>(
    destination: Ptr<T>,
    size: u64,
    source: Ptr<T>,
    count: Option<u64>,
) -> i32 {
    if count == Some(0) && destination.is_null() && size == 0 {
        return 0;
    }
    if destination.is_null() || size == 0 {
        return EINVAL;
    }
    if count == Some(0) {
        return refuse(destination, 0);
    }
    if source.is_null() {
        return refuse(destination, EINVAL);
    }
    fit(destination, size, 0, source, count.unwrap_or(TRUNCATE - 1))
}

/// strcat_s (`count` is `None`) and strncat_s.
pub(crate) fn append_secure<T: Unit>(
    destination: Ptr<T>,
    size: u64,
    source: Ptr<T>,
    count: Option<u64>,
) -> i32 {
    if count == Some(0) && destination.is_null() && size == 0 {
        return 0;
    }
    if destination.is_null() || size == 0 {
        return EINVAL;
    }
    if source.is_null() && count != Some(0) {
        return refuse(destination, EINVAL);
    }
    let used = length(destination, size);
    if used == size {
        return refuse(destination, EINVAL);
    }
    if count == Some(0) {
        return 0;
    }
    fit(
        destination,
        size,
        used,
        source,
        count.unwrap_or(TRUNCATE - 1),
    )
}

/// _strset_s (`count` is `None`) and _strnset_s.
pub(crate) fn set_secure<T: Unit>(string: Ptr<T>, size: u64, value: T, count: Option<u64>) -> i32 {
    if count == Some(0) && string.is_null() && size == 0 {
        return 0;
    }
    if string.is_null() || size == 0 {
        return EINVAL;
    }
    if length(string, size) == size {
        return refuse(string, EINVAL);
    }
    change(string, count.unwrap_or(u64::MAX), |_| value);
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtl::test_strings::{at as start, narrow_z, wide_z};

    #[test]
    fn secure_copies_refuse_what_does_not_fit() {
        let (mut text, mut buffer) = (narrow_z("abcd"), [b'~'; 8]);
        let (text, place) = (start(&mut text), start(&mut buffer));
        assert_eq!(copy_secure(place, 5, text, None), 0);
        assert_eq!(&buffer, b"abcd\0~~~");
        assert_eq!(copy_secure(place, 4, text, None), ERANGE);
        assert_eq!(buffer[0], 0);
        assert_eq!(copy_secure(place, 0, text, None), EINVAL);
        assert_eq!(copy_secure(Ptr::null(), 4, text, None), EINVAL);
        assert_eq!(copy_secure(Ptr::null(), 0, text, Some(0)), 0);
        buffer[0] = b'x';
        assert_eq!(copy_secure(place, 4, Ptr::null(), None), EINVAL);
        assert_eq!(buffer[0], 0);
        assert_eq!(copy_secure(place, 4, text, Some(3)), 0);
        assert_eq!(&buffer[..4], b"abc\0");
        assert_eq!(copy_secure(place, 4, text, Some(4)), ERANGE);
        assert_eq!(copy_secure(place, 4, text, Some(TRUNCATE)), STRUNCATE);
        assert_eq!(&buffer[..4], b"abc\0");
        assert_eq!(append_secure(place, 8, text, Some(2)), 0);
        assert_eq!(&buffer[..6], b"abcab\0");
        assert_eq!(append_secure(place, 8, text, Some(TRUNCATE)), STRUNCATE);
        assert_eq!(&buffer, b"abcabab\0");
        assert_eq!(append_secure(place, 8, text, Some(1)), ERANGE);
        assert_eq!(buffer[0], 0);
        let mut full = [b'~'; 8];
        let place = start(&mut full);
        assert_eq!(append_secure(place, 8, text, None), EINVAL, "unterminated");
    }

    #[test]
    fn tokens_and_spans() {
        let (mut text, mut set) = (wide_z("::a:bc::"), wide_z(":"));
        let (text, set) = (start(&mut text), start(&mut set));
        assert_eq!((span(text, set, true), span(text, set, false)), (2, 0));
        let mut context = Ptr::null();
        let mut tokens = Vec::new();
        let mut next = text;
        while let Some(found) = token(next, set, Ptr::of(&mut context)).non_null() {
            tokens.push(String::from_utf16_lossy(&super::text(found)));
            next = Ptr::null();
        }
        assert_eq!(tokens, ["a", "bc"]);
    }
}
