//! Feeds arbitrary images to what `ringfence inspect` says about a driver's code.
//!
//! Nothing may panic, hang, or take much more memory than the image and a bounded report.
#![no_main]

use std::time::Duration;

use fuzz::counting_allocator::CountingAllocator;
use libfuzzer_sys::fuzz_target;
use loader::Image;
use loader::report::ImportStatus;
use vmm::readiness::{Readiness, Verdict};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

/// What an image may cost beside its own bytes.
const FIXED_BYTES: usize = 64 << 20;

/// Images above this size are not looked through: filling 64 MiB of zeros finds nothing and takes long.
const IMAGE_BYTES_MAX: u32 = 1 << 20;

/// How long the search may take: enough to get through what fuzzing makes up, and far from libFuzzer's limit for an
/// input (scripts/fuzz), so that only what does not keep to it is found.
const TIME_MAX: Duration = Duration::from_secs(2);

fuzz_target!(|file: &[u8]| {
    let Ok(image) = Image::parse(file) else {
        return;
    };
    if image.size_of_image > IMAGE_BYTES_MAX {
        return;
    }
    let peak = ALLOCATOR.measure(|| run(&image));
    assert!(
        peak <= FIXED_BYTES + 4 * IMAGE_BYTES_MAX as usize,
        "{peak} bytes allocated for a file of {} bytes",
        file.len()
    );
});

fn run(image: &Image) {
    let report = Readiness::within(TIME_MAX, image, |_, name| match name {
        Some(name) if name.starts_with("Io") => ImportStatus::Implemented,
        _ => ImportStatus::Missing,
    });
    assert!(report.to_string().contains("\nverdict: "));
    let cannot_load = matches!(report.verdict, Verdict::CannotLoad { .. });
    assert!(report.is_incomplete || !cannot_load);
    let is_inside = |rva: u32| rva < image.size_of_image;
    assert!(report.privileged.iter().all(|one| is_inside(one.rva)));
    assert!(
        report
            .major_functions
            .iter()
            .flat_map(|one| &one.rvas)
            .all(|&rva| is_inside(rva))
    );
}
