//! What runs inside a guest: the two guest images, built with this crate.
//!
//! Built sample drivers are in images/drivers/; see tests/drivers/ for their sources.

use abi::DriverAbi;

/// An ELF image, aligned so that its headers can be read in place.
#[repr(C, align(4096))]
struct Aligned<Bytes: ?Sized>(Bytes);

static I386: &Aligned<[u8]> = &Aligned(*include_bytes!(env!("GUEST_IMAGE_I386")));
static AMD64: &Aligned<[u8]> = &Aligned(*include_bytes!(env!("GUEST_IMAGE_AMD64")));

/// The guest image (static ELF64) for drivers of `abi`.
#[must_use]
pub fn guest(abi: DriverAbi) -> &'static [u8] {
    match abi {
        DriverAbi::I386 => &I386.0,
        DriverAbi::Amd64 => &AMD64.0,
    }
}
