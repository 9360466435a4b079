//! Formatted output: printf's conversions as NT's kernel has them.
//!
//! Flags `- + blank # 0`, width and precision (numbers or `*`), sizes `h l ll w I I32 I64`, and the conversions
//! `d i u x X o c C s S p Z %`. `Z` takes a counted string: ANSI_STRING, with `w` UNICODE_STRING. `C` and `S` are of
//! the other width than the format. As in the kernel, which has no floating-point state of its own, `e f g a` print
//! nothing; their 8-byte argument is passed over. `n` writes nothing. Any other character stands for itself.

use alloc::vec::Vec;

use super::number::digits;
use crate::nt::{STRING, UNICODE_STRING};
use crate::raw::{Ptr, Word, low8, low16, unicode_string};
use crate::rtl::ansi::ansi_string;
use crate::rtl::codepage::{to_ansi, to_unicode};
use crate::value::VaList;

/// A format's own width: that of its characters and of what it prints.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    /// Bytes of the ANSI code page.
    Narrow,
    /// UTF-16 units.
    Wide,
}

/// The most characters that any conversion pads or cuts to; NT's own buffer for numbers holds 512.
const MOST: usize = 0x10_0000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Size {
    Default,
    Short,
    Long,
    LongLong,
    Pointer,
}

struct Conversion {
    is_left: bool,
    has_plus: bool,
    has_blank: bool,
    is_alternate: bool,
    is_zero_padded: bool,
    width: usize,
    precision: Option<usize>,
    size: Size,
}

/// Prints `format` with its arguments. The result is as wide as the format: bytes in the low halves if narrow.
#[must_use]
pub fn format(width: Width, format: &[u16], arguments: &mut VaList) -> Vec<u16> {
    let mut printer = Printer {
        width,
        arguments,
        output: Vec::new(),
    };
    let mut rest = format;
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == u16::from(b'%') {
            rest = printer.conversion(rest);
        } else {
            printer.output.push(*first);
        }
    }
    printer.output
}

struct Printer<'a> {
    width: Width,
    arguments: &'a mut VaList,
    output: Vec<u16>,
}

/// The first unit as an ASCII byte (0 for anything else), and what follows.
fn split(text: &[u16]) -> Option<(u8, &[u16])> {
    let (&first, rest) = text.split_first()?;
    Some((u8::try_from(first).unwrap_or(0), rest))
}

impl Printer<'_> {
    /// A number or `*`; `None` for a negative `*`, with its magnitude.
    fn number<'f>(&mut self, text: &'f [u16]) -> (Result<usize, usize>, &'f [u16]) {
        if let Some((b'*', rest)) = split(text) {
            let value = self.arguments.next_u32().cast_signed();
            let magnitude = usize::try_from(value.unsigned_abs())
                .unwrap_or(MOST)
                .min(MOST);
            return (
                if value < 0 {
                    Err(magnitude)
                } else {
                    Ok(magnitude)
                },
                rest,
            );
        }
        let mut rest = text;
        let mut value = 0_usize;
        while let Some((digit @ b'0'..=b'9', tail)) = split(rest) {
            value = (value * 10 + usize::from(digit - b'0')).min(MOST);
            rest = tail;
        }
        (Ok(value), rest)
    }

    /// What follows a `%`; returns the rest of the format.
    fn conversion<'f>(&mut self, mut text: &'f [u16]) -> &'f [u16] {
        let mut this = Conversion {
            is_left: false,
            has_plus: false,
            has_blank: false,
            is_alternate: false,
            is_zero_padded: false,
            width: 0,
            precision: None,
            size: Size::Default,
        };
        while let Some((flag @ (b'-' | b'+' | b' ' | b'#' | b'0'), rest)) = split(text) {
            match flag {
                b'-' => this.is_left = true,
                b'+' => this.has_plus = true,
                b' ' => this.has_blank = true,
                b'#' => this.is_alternate = true,
                _ => this.is_zero_padded = true,
            }
            text = rest;
        }
        let (width, rest) = self.number(text);
        this.is_left |= width.is_err();
        this.width = width.unwrap_or_else(|magnitude| magnitude);
        text = rest;
        if let Some((b'.', rest)) = split(text) {
            let (precision, rest) = self.number(rest);
            this.precision = precision.ok();
            text = rest;
        }
        (this.size, text) = size(text);
        let Some((conversion, rest)) = split(text) else {
            return text;
        };
        self.convert(&mut this, conversion, text[0]);
        rest
    }

    fn convert(&mut self, this: &mut Conversion, conversion: u8, unit: u16) {
        match conversion {
            b'd' | b'i' => {
                let value = self.integer(this.size, true);
                let sign: &[u8] = match value {
                    ..0 => b"-",
                    _ if this.has_plus => b"+",
                    _ if this.has_blank => b" ",
                    _ => b"",
                };
                self.number_text(this, sign, &digits(value.unsigned_abs(), 10, false));
            }
            b'u' => {
                let value = self.integer(this.size, false).cast_unsigned();
                self.number_text(this, b"", &digits(value, 10, false));
            }
            b'o' => {
                let value = self.integer(this.size, false).cast_unsigned();
                let prefix: &[u8] = if this.is_alternate && value != 0 {
                    b"0"
                } else {
                    b""
                };
                self.number_text(this, prefix, &digits(value, 8, false));
            }
            b'x' | b'X' => {
                let value = self.integer(this.size, false).cast_unsigned();
                let is_upper = conversion == b'X';
                let prefix: &[u8] = match (this.is_alternate && value != 0, is_upper) {
                    (false, _) => b"",
                    (true, false) => b"0x",
                    (true, true) => b"0X",
                };
                self.number_text(this, prefix, &digits(value, 16, is_upper));
            }
            b'p' => {
                let value = self.arguments.next_word();
                this.precision = Some(2 * size_of::<Word>());
                self.number_text(this, b"", &digits(value, 16, true));
            }
            b'c' | b'C' => {
                let word = u64::from(self.arguments.next_u32());
                let text = if self.is_wide(this.size, conversion == b'C') {
                    self.of_wide(&[low16(word)])
                } else {
                    self.of_narrow(&[low8(word)])
                };
                self.pad(this, &[], &text);
            }
            b's' | b'S' => {
                let text = self.string(this, conversion == b'S');
                self.pad(this, &[], &text);
            }
            b'Z' => {
                let text = self.counted(this);
                self.pad(this, &[], &text);
            }
            b'e' | b'E' | b'f' | b'g' | b'G' | b'a' | b'A' => {
                let _ = self.arguments.next_u64();
                self.pad(this, &[], &[]);
            }
            b'n' => {
                let _ = self.arguments.next_word();
            }
            _ => self.output.push(unit),
        }
    }

    /// An integer argument, sign- or zero-extended from its size.
    fn integer(&mut self, size: Size, is_signed: bool) -> i64 {
        let bits: u32 = match size {
            Size::Short => 16,
            Size::Default | Size::Long => 32,
            Size::LongLong => 64,
            Size::Pointer => Word::BITS,
        };
        if bits == 64 {
            return self.arguments.next_u64().cast_signed();
        }
        let word = self.arguments.next_u32();
        match (bits, is_signed) {
            (16, true) => i64::from(low16(u64::from(word)).cast_signed()),
            (16, false) => i64::from(low16(u64::from(word))),
            (_, true) => i64::from(word.cast_signed()),
            (_, false) => i64::from(word),
        }
    }

    /// Whether a character argument is UTF-16.
    fn is_wide(&self, size: Size, is_other: bool) -> bool {
        match size {
            Size::Short => false,
            Size::Long => true,
            _ => (self.width == Width::Wide) != is_other,
        }
    }

    fn string(&mut self, this: &Conversion, is_other: bool) -> Vec<u16> {
        let pointer = self.arguments.next_ptr::<u8>();
        let limit = this.precision.unwrap_or(usize::MAX);
        if pointer.is_null() {
            return self.of_narrow(&b"(null)"[..limit.min(6)]);
        }
        if self.is_wide(this.size, is_other) {
            self.of_wide(&crate::raw::wide_string(pointer.cast(), limit))
        } else {
            self.of_narrow(&crate::raw::narrow_string_bytes(pointer, limit))
        }
    }

    fn counted(&mut self, this: &Conversion) -> Vec<u16> {
        let pointer = self.arguments.next_ptr::<UNICODE_STRING>();
        if pointer.is_null() || pointer.read().Buffer.is_null() {
            return self.of_narrow(b"(null)");
        }
        let mut text = if this.size == Size::Long {
            self.of_wide(&unicode_string(pointer))
        } else {
            self.of_narrow(&ansi_string(Ptr::<STRING>::new(pointer.addr())))
        };
        text.truncate(this.precision.unwrap_or(usize::MAX));
        text
    }

    fn of_wide(&self, text: &[u16]) -> Vec<u16> {
        match self.width {
            Width::Wide => text.to_vec(),
            Width::Narrow => text.iter().map(|&unit| u16::from(to_ansi(unit))).collect(),
        }
    }

    fn of_narrow(&self, text: &[u8]) -> Vec<u16> {
        match self.width {
            Width::Wide => text.iter().map(|&byte| to_unicode(byte)).collect(),
            Width::Narrow => text.iter().map(|&byte| u16::from(byte)).collect(),
        }
    }

    fn number_text(&mut self, this: &Conversion, prefix: &[u8], digits: &[u8]) {
        let digits = match this.precision {
            Some(0) if digits == b"0" => &[][..],
            _ => digits,
        };
        let zeros = match this.precision {
            Some(precision) => precision.saturating_sub(digits.len()),
            None if this.is_zero_padded && !this.is_left => {
                this.width.saturating_sub(prefix.len() + digits.len())
            }
            None => 0,
        };
        let prefix: Vec<u16> = prefix.iter().map(|&byte| u16::from(byte)).collect();
        let mut text = alloc::vec![u16::from(b'0'); zeros];
        text.extend(digits.iter().map(|&byte| u16::from(byte)));
        self.pad(this, &prefix, &text);
    }

    fn pad(&mut self, this: &Conversion, prefix: &[u16], text: &[u16]) {
        let padding = this.width.saturating_sub(prefix.len() + text.len());
        let end = self.output.len() + padding;
        if !this.is_left {
            self.output.resize(end, u16::from(b' '));
        }
        self.output.extend_from_slice(prefix);
        self.output.extend_from_slice(text);
        if this.is_left {
            self.output
                .resize(self.output.len() + padding, u16::from(b' '));
        }
    }
}

/// The size prefix, and what follows it.
fn size(text: &[u16]) -> (Size, &[u16]) {
    let starts = |prefix: &[u8]| {
        prefix.len() <= text.len() && prefix.iter().zip(text).all(|(&a, &b)| u16::from(a) == b)
    };
    for (prefix, size) in [
        (&b"I64"[..], Size::LongLong),
        (b"I32", Size::Default),
        (b"I", Size::Pointer),
        (b"ll", Size::LongLong),
        (b"l", Size::Long),
        (b"w", Size::Long),
        (b"h", Size::Short),
    ] {
        if starts(prefix) {
            return (size, &text[prefix.len()..]);
        }
    }
    (Size::Default, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtl::test_strings::{at, narrow, narrow_z, wide, wide_z};

    fn run(width: Width, text: &str, slots: &[u64]) -> String {
        let mut slots = slots.to_vec();
        slots.push(0xDEAD);
        let mut list = VaList::new(at(&mut slots).addr(), 8);
        let format_units: Vec<u16> = text.encode_utf16().collect();
        let output = format(width, &format_units, &mut list);
        String::from_utf16(&output).expect("the test's text is UTF-16")
    }

    fn narrow_run(text: &str, slots: &[u64]) -> String {
        run(Width::Narrow, text, slots)
    }

    #[test]
    fn integers_have_sizes_and_signs() {
        let minus_one = u64::from(u32::MAX);
        assert_eq!(
            narrow_run("%d %i %u", &[minus_one, 5, minus_one]),
            "-1 5 4294967295"
        );
        assert_eq!(narrow_run("%ld %lu", &[minus_one, 7]), "-1 7");
        assert_eq!(narrow_run("%hd %hu", &[0xFFFF, 0x1_FFFF]), "-1 65535");
        assert_eq!(narrow_run("%I64d %lld", &[u64::MAX, u64::MAX]), "-1 -1");
        assert_eq!(
            narrow_run("%I64x %I32x %Ix", &[1 << 40, 0xABCD, 0x12_3456_789A]),
            "10000000000 abcd 123456789a"
        );
        assert_eq!(narrow_run("%I64d", &[1 << 63]), "-9223372036854775808");
    }

    #[test]
    fn flags_width_and_precision() {
        assert_eq!(
            narrow_run("[%5d|%-5d|%05d|%+d|% d]", &[42, 42, 42, 42, 42]),
            "[   42|42   |00042|+42| 42]"
        );
        assert_eq!(
            narrow_run("[%#x|%#X|%#o|%#x]", &[255, 255, 8, 0]),
            "[0xff|0XFF|010|0]"
        );
        assert_eq!(
            narrow_run("[%.4x|%8.4x|%08.4x|%.0d]", &[10, 10, 10, 0]),
            "[000a|    000a|    000a|]"
        );
        assert_eq!(narrow_run("[%#08x]", &[0x1F]), "[0x00001f]");
        let minus_four = u64::from((-4_i32).cast_unsigned());
        assert_eq!(
            narrow_run("[%*d|%*d|%.*d]", &[4, 1, minus_four, 1, 3, 1]),
            "[   1|1   |001]"
        );
        assert_eq!(narrow_run("%p", &[0xAB]), "00000000000000AB");
        assert_eq!(narrow_run("100%% %y", &[]), "100% y");
        assert_eq!(narrow_run("%", &[]), "");
        assert_eq!(narrow_run("%5", &[]), "");
        assert_eq!(narrow_run("<%f> %d", &[0x4000_0000_0000_0000, 3]), "<> 3");
    }

    #[test]
    fn strings_have_the_width_that_the_conversion_says() {
        let (mut n, mut w) = (narrow_z("byte"), wide_z("wide€"));
        let (n, w) = (at(&mut n).addr(), at(&mut w).addr());
        assert_eq!(
            narrow_run("%s %hs %.2s [%6s] [%-6s]", &[n, n, n, n, n]),
            "byte byte by [  byte] [byte  ]"
        );
        assert_eq!(
            narrow_run("%S %ws %ls", &[w, w, w]),
            "wide\u{80} wide\u{80} wide\u{80}"
        );
        assert_eq!(
            run(Width::Wide, "%s %ls %S %hs", &[w, w, n, n]),
            "wide€ wide€ byte byte"
        );
        assert_eq!(narrow_run("%s|%.3s|%ws", &[0, 0, 0]), "(null)|(nu|(null)");
        assert_eq!(
            narrow_run("%c%C%wc%3c", &[0x41, 0x42, 0x43, 0x44]),
            "ABC  D"
        );
        assert_eq!(run(Width::Wide, "%c%C", &[0x416, 0x80]), "Ж€");
    }

    #[test]
    fn counted_strings() {
        let (mut ansi, mut unicode) = (narrow(b"ansi", 9), wide("unicode", 9));
        let slots = [
            ansi.ptr().addr(),
            unicode.ptr().addr(),
            unicode.ptr().addr(),
            0,
        ];
        assert_eq!(
            narrow_run("%Z %wZ [%9.3wZ] %wZ", &slots),
            "ansi unicode [      uni] (null)"
        );
        assert_eq!(run(Width::Wide, "%Z %wZ", &slots), "ansi unicode");
    }

    #[test]
    fn i386_slots_are_four_bytes() {
        let mut slots = [1_u32, 0x8765_4321, 0x1, 9];
        let mut list = VaList::new(at(&mut slots).addr(), 4);
        let text: Vec<u16> = "%d %I64x %d".encode_utf16().collect();
        assert_eq!(
            String::from_utf16_lossy(&format(Width::Narrow, &text, &mut list)),
            "1 187654321 9"
        );
    }
}
