//! The C library's formatted output to memory: sprintf and its like.

use alloc::vec::Vec;

use super::crt_text::{TRUNCATE, Unit, refuse};
use super::print::{Width, format};
use crate::api::nt_api;
use crate::raw::{Ptr, low8, low32, narrow_string_bytes, to_usize, wide_string};
use crate::value::{Long, NarrowStringPtr, Size, VaList, WideStringPtr};

/// What a narrow format prints.
pub(crate) fn narrow(text: Ptr<u8>, mut arguments: VaList) -> Vec<u8> {
    let units: Vec<u16> = narrow_string_bytes(text, usize::MAX)
        .into_iter()
        .map(u16::from)
        .collect();
    let printed = format(Width::Narrow, &units, &mut arguments);
    printed
        .into_iter()
        .map(|unit| low8(u64::from(unit)))
        .collect()
}

fn wide(text: Ptr<u16>, mut arguments: VaList) -> Vec<u16> {
    format(Width::Wide, &wide_string(text, usize::MAX), &mut arguments)
}

fn int(length: usize) -> i32 {
    low32(length as u64).cast_signed()
}

/// Writes text and NUL to a buffer without a known end.
fn unlimited<T: Copy + Default>(buffer: Ptr<T>, text: &[T]) -> i32 {
    limited(buffer, u64::MAX, text)
}

/// Writes at most `count` characters: with a NUL if there is room for it; -1 if the text was cut off.
fn limited<T: Copy + Default>(buffer: Ptr<T>, count: u64, text: &[T]) -> i32 {
    let mut next = buffer;
    for (at, &character) in (0..).zip(text) {
        if at == count {
            return -1;
        }
        next.write(character);
        next = next.offset(1);
    }
    if (text.len() as u64) < count {
        next.write(T::default());
    }
    int(text.len())
}

/// The secure functions: at most `count` characters and a NUL in a buffer of `size`.
fn secure<T: Unit>(
    buffer: Ptr<T>,
    size: u64,
    count: u64,
    format: Ptr<T>,
    print: impl FnOnce(Ptr<T>) -> Vec<T>,
) -> i32 {
    if buffer.is_null() && size == 0 && count == 0 && !format.is_null() {
        return 0;
    }
    if buffer.is_null() || size == 0 || format.is_null() {
        return -1;
    }
    let text = print(format);
    let wanted = (text.len() as u64).min(count);
    let shown = wanted.min(size - 1);
    if shown < wanted && count != TRUNCATE {
        refuse(buffer, 0);
        return -1;
    }
    unlimited(buffer, &text[..to_usize(shown)]);
    if shown < text.len() as u64 {
        -1
    } else {
        int(text.len())
    }
}

nt_api! { module = rtl_crt_print;
    /// Prints to a buffer; returns the number of characters without the NUL.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn sprintf(buffer: Ptr<u8>, format: NarrowStringPtr, arguments: VaList) -> Long {
        unlimited(buffer, &narrow(format.0, arguments))
    }

    /// Prints to a buffer; returns the number of characters without the NUL.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn vsprintf(buffer: Ptr<u8>, format: NarrowStringPtr, arguments: Ptr<u8>) -> Long {
        unlimited(buffer, &narrow(format.0, VaList::from_pointer(arguments)))
    }

    /// Prints at most `count` characters. Returns how many, or -1 if the text was cut off; the NUL is missing when the
    /// text fills the buffer.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _snprintf(buffer: Ptr<u8>, count: Size, format: NarrowStringPtr, arguments: VaList) -> Long {
        limited(buffer, count.0, &narrow(format.0, arguments))
    }

    /// Prints at most `count` characters; see _snprintf.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _vsnprintf(buffer: Ptr<u8>, count: Size, format: NarrowStringPtr, arguments: Ptr<u8>) -> Long {
        limited(buffer, count.0, &narrow(format.0, VaList::from_pointer(arguments)))
    }

    /// As swprintf.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _swprintf(buffer: Ptr<u16>, format: WideStringPtr, arguments: VaList) -> Long {
        unlimited(buffer, &wide(format.0, arguments))
    }

    /// Prints UTF-16 to a buffer; returns the number of units without the NUL.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _vswprintf(buffer: Ptr<u16>, format: WideStringPtr, arguments: Ptr<u8>) -> Long {
        unlimited(buffer, &wide(format.0, VaList::from_pointer(arguments)))
    }

    /// Prints to a buffer of a size, or empties it and returns -1.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn sprintf_s(buffer: Ptr<u8>, size: Size, format: NarrowStringPtr, arguments: VaList) -> Long {
        secure(buffer, size.0, u64::MAX - 1, format.0, |format| narrow(format, arguments))
    }

    /// Prints to a buffer of a size, or empties it and returns -1.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn vsprintf_s(buffer: Ptr<u8>, size: Size, format: NarrowStringPtr, arguments: Ptr<u8>) -> Long {
        secure(buffer, size.0, u64::MAX - 1, format.0, |format| narrow(format, VaList::from_pointer(arguments)))
    }

    /// Prints to a buffer of a size, or empties it and returns -1.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn swprintf_s(buffer: Ptr<u16>, size: Size, format: WideStringPtr, arguments: VaList) -> Long {
        secure(buffer, size.0, u64::MAX - 1, format.0, |format| wide(format, arguments))
    }

    /// Prints to a buffer of a size, or empties it and returns -1.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn vswprintf_s(buffer: Ptr<u16>, size: Size, format: WideStringPtr, arguments: Ptr<u8>) -> Long {
        secure(buffer, size.0, u64::MAX - 1, format.0, |format| wide(format, VaList::from_pointer(arguments)))
    }

    /// Prints at most `count` characters and a NUL to a buffer of a size; -1 if the text was cut off. Text that is to be
    /// printed but does not fit empties the buffer, unless `count` is _TRUNCATE.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _snprintf_s(buffer: Ptr<u8>, size: Size, count: Size, format: NarrowStringPtr, arguments: VaList) -> Long {
        secure(buffer, size.0, count.0, format.0, |format| narrow(format, arguments))
    }

    /// As _snprintf_s.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _vsnprintf_s(buffer: Ptr<u8>, size: Size, count: Size, format: NarrowStringPtr, arguments: Ptr<u8>) -> Long {
        secure(buffer, size.0, count.0, format.0, |format| narrow(format, VaList::from_pointer(arguments)))
    }

    /// As _snprintf_s.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _snwprintf_s(buffer: Ptr<u16>, size: Size, count: Size, format: WideStringPtr, arguments: VaList) -> Long {
        secure(buffer, size.0, count.0, format.0, |format| wide(format, arguments))
    }

    /// As _snprintf_s.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _vsnwprintf_s(buffer: Ptr<u16>, size: Size, count: Size, format: WideStringPtr, arguments: Ptr<u8>) -> Long {
        secure(buffer, size.0, count.0, format.0, |format| wide(format, VaList::from_pointer(arguments)))
    }

    /// Number of characters that a format prints, without the NUL.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _vscwprintf(format: WideStringPtr, arguments: Ptr<u8>) -> Long {
        int(wide(format.0, VaList::from_pointer(arguments)).len())
    }

    /// Number of characters that a format prints, without the NUL.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _vscprintf(format: NarrowStringPtr, arguments: Ptr<u8>) -> Long {
        int(narrow(format.0, VaList::from_pointer(arguments)).len())
    }

    /// Prints UTF-16 to a buffer; returns the number of units without the NUL. (The kernel's has no count.)
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn swprintf(buffer: Ptr<u16>, format: WideStringPtr, arguments: VaList) -> Long {
        unlimited(buffer, &wide(format.0, arguments))
    }

    /// Prints at most `count` UTF-16 units; see _snprintf.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _snwprintf(buffer: Ptr<u16>, count: Size, format: WideStringPtr, arguments: VaList) -> Long {
        limited(buffer, count.0, &wide(format.0, arguments))
    }

    /// Prints at most `count` UTF-16 units; see _snprintf.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn _vsnwprintf(buffer: Ptr<u16>, count: Size, format: WideStringPtr, arguments: Ptr<u8>) -> Long {
        limited(buffer, count.0, &wide(format.0, VaList::from_pointer(arguments)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtl::test_strings::{at, narrow_z, wide_z};

    #[test]
    fn limits_are_those_of_the_c_library() {
        let mut text = narrow_z("%d-%d");
        let mut slots = [12_u64, 34];
        let list = VaList::new(at(&mut slots).addr(), 8);
        let mut buffer = [b'~'; 8];
        let text = NarrowStringPtr(at(&mut text));
        assert_eq!(sprintf(at(&mut buffer), text, list), 5);
        assert_eq!(&buffer, b"12-34\0~~");
        buffer = [b'~'; 8];
        assert_eq!(_snprintf(at(&mut buffer), Size(5), text, list), 5);
        assert_eq!(&buffer, b"12-34~~~");
        assert_eq!(_snprintf(at(&mut buffer), Size(6), text, list), 5);
        assert_eq!(&buffer, b"12-34\0~~");
        buffer = [b'~'; 8];
        assert_eq!(
            _vsnprintf(at(&mut buffer), Size(3), text, at(&mut slots).cast()),
            -1
        );
        assert_eq!(&buffer, b"12-~~~~~");
        assert_eq!(vsprintf(at(&mut buffer), text, at(&mut slots).cast()), 5);
    }

    #[test]
    fn secure_functions_close_what_they_print() {
        let mut text = narrow_z("%d-%d");
        let mut slots = [12_u64, 34];
        let list = VaList::new(at(&mut slots).addr(), 8);
        let text = NarrowStringPtr(at(&mut text));
        let mut buffer = [b'~'; 8];
        let place = at(&mut buffer);
        assert_eq!(sprintf_s(place, Size(6), text, list), 5);
        assert_eq!(&buffer, b"12-34\0~~");
        assert_eq!(sprintf_s(place, Size(5), text, list), -1);
        assert_eq!(buffer[0], 0);
        assert_eq!(_snprintf_s(place, Size(6), Size(2), text, list), -1);
        assert_eq!(&buffer[..3], b"12\0");
        assert_eq!(_snprintf_s(place, Size(5), Size(5), text, list), -1);
        assert_eq!(buffer[0], 0);
        assert_eq!(_snprintf_s(place, Size(5), Size(TRUNCATE), text, list), -1);
        assert_eq!(&buffer[..5], b"12-3\0");
        assert_eq!(_snprintf_s(Ptr::null(), Size(5), Size(1), text, list), -1);
    }

    #[test]
    fn wide_output() {
        let (mut text, mut word) = (wide_z("%s!"), wide_z("wide"));
        let mut slots = [at(&mut word).addr()];
        let list = VaList::new(at(&mut slots).addr(), 8);
        let mut buffer = [7; 8];
        assert_eq!(
            swprintf(at(&mut buffer), WideStringPtr(at(&mut text)), list),
            5
        );
        assert_eq!(buffer[..6], wide_z("wide!"));
        assert_eq!(buffer[6], 7);
        assert_eq!(
            _snwprintf(at(&mut buffer), Size(2), WideStringPtr(at(&mut text)), list),
            -1
        );
        assert_eq!(
            _vsnwprintf(
                at(&mut buffer),
                Size(8),
                WideStringPtr(at(&mut text)),
                at(&mut slots).cast()
            ),
            5
        );
    }
}
