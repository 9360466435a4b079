//! Conversions between the widths that guest addresses, Rust lengths and the processor's fields have.

const _: () = assert!(size_of::<usize>() == size_of::<u64>(), "the host is x86-64");

/// A guest's length or offset as a Rust one: the host is always 64-bit code, so nothing is lost.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "usize has 64 bits, asserted above"
)]
pub(crate) const fn to_usize(value: u64) -> usize {
    value as usize
}

/// A constant's value in a 16-bit field; one that does not fit stops the build.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "the assertion excludes it")]
pub(super) const fn to_u16(value: u64) -> u16 {
    assert!(value <= u16::MAX as u64, "the value has 16 bits");
    value as u16
}
