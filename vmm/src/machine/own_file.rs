//! Guest memory that shows pages of this program's own file.
//!
//! The guest images are part of the program, and page-aligned in it. Their code and constants need not be copied: the
//! kernel has them in memory once, for all guests of the machine. A page that is written to after all is copied then.
#![expect(
    unsafe_code,
    reason = "the program's own headers, and mmap at a fixed address, have no safe form"
)]

use std::fs::File;
use std::mem::size_of;
use std::os::fd::AsRawFd;

use abi::layout::PAGE_SIZE;
use libc::{AT_PHDR, AT_PHNUM, Elf64_Phdr, PF_W, PT_LOAD, PT_PHDR};
use vm_memory::MmapRegion;

use super::convert::to_usize;

/// The program headers that the kernel has loaded this program by.
fn program_headers() -> &'static [Elf64_Phdr] {
    // SAFETY: getauxval has no preconditions; 0 stands for what is not there.
    let address = unsafe { libc::getauxval(AT_PHDR) };
    // SAFETY: as above.
    let count = unsafe { libc::getauxval(AT_PHNUM) };
    let is_usable = address != 0 && address.is_multiple_of(align_of::<Elf64_Phdr>() as u64);
    if !is_usable || count > PAGE_SIZE / size_of::<Elf64_Phdr>() as u64 {
        return &[];
    }
    let headers = std::ptr::with_exposed_provenance(to_usize(address));
    // SAFETY: the kernel says that the program's headers are there, so many of them; they stay, and nobody writes them.
    unsafe { std::slice::from_raw_parts(headers, to_usize(count)) }
}

/// Where bytes are in the program's file, if they are in a part of it that is never written.
fn offset_of(bytes: &[u8], headers: &[Elf64_Phdr], table: u64) -> Option<u64> {
    let own = headers.iter().find(|header| header.p_type == PT_PHDR)?;
    let bias = table.wrapping_sub(own.p_vaddr);
    let first = (bytes.as_ptr().addr() as u64).wrapping_sub(bias);
    headers
        .iter()
        .filter(|header| header.p_type == PT_LOAD && header.p_flags & PF_W == 0)
        .find_map(|header| {
            let within = first.checked_sub(header.p_vaddr)?;
            let end = within.checked_add(bytes.len() as u64)?;
            (end <= header.p_filesz).then(|| header.p_offset + within)
        })
}

/// Has a region show the whole pages of `bytes` at an offset. How many bytes that are: none, if they are not in this
/// program's file at a page's beginning, or the file cannot be had.
pub(super) fn show(region: &MmapRegion, offset: usize, bytes: &[u8]) -> usize {
    let page = to_usize(PAGE_SIZE);
    let length = bytes.len() / page * page;
    let headers = program_headers();
    let table = headers.as_ptr().addr() as u64;
    let is_aligned = offset.is_multiple_of(page) && bytes.as_ptr().addr().is_multiple_of(page);
    let is_inside = offset
        .checked_add(length)
        .is_some_and(|end| end <= region.size());
    let Some(place) = offset_of(bytes, headers, table)
        .filter(|place| place.is_multiple_of(PAGE_SIZE))
        .and_then(|place| libc::off_t::try_from(place).ok())
    else {
        return 0;
    };
    if !is_aligned || !is_inside || length == 0 {
        return 0;
    }
    let Ok(file) = File::open("/proc/self/exe") else {
        return 0;
    };
    // SAFETY: `offset` is inside the region.
    let at = unsafe { region.as_ptr().add(offset) };
    // SAFETY: the range is the region's own, of whole pages, and the region goes on owning it: private memory takes the
    // place of private memory. Nothing refers to what was there, since guest memory is only accessed by volatile copies.
    let mapped = unsafe {
        libc::mmap(
            at.cast(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_FIXED,
            file.as_raw_fd(),
            place,
        )
    };
    if mapped == libc::MAP_FAILED {
        0
    } else {
        length
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::DriverAbi;
    use vm_memory::{Bytes, VolatileMemory};

    fn contents(region: &MmapRegion, bytes: usize) -> Vec<u8> {
        let mut found = vec![0; bytes];
        let slice = region.as_volatile_slice();
        slice.read_slice(&mut found, 0).unwrap();
        found
    }

    #[test]
    fn pages_of_the_program_are_shown_and_copied_when_written() {
        let image = images::guest(DriverAbi::Amd64);
        if image.is_empty() {
            return; // built without guests
        }
        let page = to_usize(PAGE_SIZE);
        let region: MmapRegion = MmapRegion::new(4 * page).unwrap();
        let bytes = &image[..2 * page + 1];

        assert_eq!(show(&region, page, bytes), 2 * page);

        let expected = [&vec![0; page], &image[..2 * page], &vec![0; page]].concat();
        assert_eq!(contents(&region, 4 * page), expected);
        let slice = region.as_volatile_slice();
        slice.write_slice(b"changed", page).unwrap();
        assert_eq!(&contents(&region, page + 7)[page..], b"changed");
        assert_ne!(&image[..7], b"changed");
    }

    #[test]
    fn other_bytes_are_left_to_be_copied() {
        let page = to_usize(PAGE_SIZE);
        let region: MmapRegion = MmapRegion::new(2 * page).unwrap();
        let image = images::guest(DriverAbi::Amd64);
        let heap = vec![1; 2 * page];
        assert_eq!(show(&region, 0, &heap), 0);
        if let Some(unaligned) = image.get(1..=page) {
            assert_eq!(show(&region, 0, unaligned), 0);
        }
        if let Some(too_long) = image.get(..3 * page) {
            assert_eq!(show(&region, 0, too_long), 0);
        }
        assert_eq!(contents(&region, 2 * page), vec![0; 2 * page]);
    }
}
