//! Feeds arbitrary bytes to the PE loader as `ringfence inspect` and `ringfence run` do.
//!
//! Nothing may panic, hang or take much more memory than the file and the image it describes.
#![no_main]

use fuzz::counting_allocator::CountingAllocator;
use libfuzzer_sys::fuzz_target;
use loader::report::{ImportStatus, InspectReport};
use loader::{Image, SecurityCookie};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

/// What a file may cost beside copies of itself: names, relocations and reports at their limits.
const FIXED_BYTES: usize = 48 << 20;

/// Images above this size are parsed but not mapped: filling 64 MiB of zeros finds nothing and takes long.
const MAPPED_BYTES_MAX: u32 = 1 << 20;

fuzz_target!(|file: &[u8]| {
    let peak = ALLOCATOR.measure(|| run(file));
    let bound = FIXED_BYTES + 4 * file.len() + 2 * MAPPED_BYTES_MAX as usize;
    assert!(
        peak <= bound,
        "{peak} bytes allocated for a file of {} bytes",
        file.len()
    );
});

fn run(file: &[u8]) {
    let image = match Image::parse(file) {
        Ok(image) => image,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let pages = image.protection();
    assert_eq!(pages.len(), image.page_count());
    let report = InspectReport::new(&image, |_, _, _| ImportStatus::Unknown);
    assert!(report.to_string().ends_with('\n'));
    if image.size_of_image > MAPPED_BYTES_MAX {
        return;
    }
    let cookie = SecurityCookie::value_from(image.abi, 0x0123_4567_89AB_CDEF);
    for base in [image.preferred_base, 0x8200_0000, u64::MAX - 0xFFFF] {
        let Ok(mapped) = image.map(base, |import| u64::from(import.iat_rva), cookie) else {
            continue;
        };
        assert_eq!(mapped.memory.len(), pages.len() * 4096);
        let entry = (mapped.entry - mapped.base) / 4096;
        let entry = usize::try_from(entry).expect("the entry point is in the image");
        assert!(pages[entry].execute, "the entry point is executable");
    }
}
