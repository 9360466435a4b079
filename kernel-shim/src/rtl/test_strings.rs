//! Counted strings for the unit tests.

use crate::nt::{STRING, UNICODE_STRING};
use crate::raw::Ptr;

/// A counted string with the buffer it points into; boxed, so that its address stays.
pub(crate) struct Counted<S, T> {
    /// The buffer, filled up with 0xCC.. beyond the text.
    pub(crate) buffer: Vec<T>,
    string: Box<S>,
}

pub(crate) type Wide = Counted<UNICODE_STRING, u16>;
pub(crate) type Narrow = Counted<STRING, u8>;

fn short(bytes: usize) -> u16 {
    u16::try_from(bytes).expect("a test string is short")
}

/// A UNICODE_STRING with room for `capacity` units.
pub(crate) fn wide(text: &str, capacity: usize) -> Wide {
    let units: Vec<u16> = text.encode_utf16().collect();
    let mut buffer = vec![0xCCCC; capacity.max(1)];
    buffer[..units.len()].copy_from_slice(&units);
    let string = Box::new(UNICODE_STRING {
        Length: short(units.len() * 2),
        MaximumLength: short(capacity * 2),
        Buffer: Ptr::of(&mut buffer[0]),
    });
    Counted { buffer, string }
}

/// An ANSI_STRING with room for `capacity` bytes.
pub(crate) fn narrow(text: &[u8], capacity: usize) -> Narrow {
    let mut buffer = vec![0xCC; capacity.max(1)];
    buffer[..text.len()].copy_from_slice(text);
    let string = Box::new(STRING {
        Length: short(text.len()),
        MaximumLength: short(capacity),
        Buffer: Ptr::of(&mut buffer[0]),
    });
    Counted { buffer, string }
}

impl<S: Copy, T> Counted<S, T> {
    pub(crate) fn ptr(&mut self) -> Ptr<S> {
        Ptr::of(&mut *self.string)
    }
}

impl Wide {
    pub(crate) fn text(&mut self) -> String {
        crate::raw::unicode_text(self.ptr())
    }
}

impl Narrow {
    pub(crate) fn bytes(&mut self) -> Vec<u8> {
        let string = self.ptr().read();
        string.Buffer.read_slice(usize::from(string.Length))
    }
}

/// A NUL-terminated wide string.
pub(crate) fn wide_z(text: &str) -> Vec<u16> {
    text.encode_utf16().chain([0]).collect()
}

/// A NUL-terminated byte string.
pub(crate) fn narrow_z(text: &str) -> Vec<u8> {
    text.bytes().chain([0]).collect()
}

/// The address of a slice's first element.
pub(crate) fn at<T>(slice: &mut [T]) -> Ptr<T> {
    Ptr::of(&mut slice[0])
}
