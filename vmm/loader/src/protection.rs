//! Page protections.

use core::ops::Range;

use abi::boot::RegionFlags;

use crate::{Image, Mapped, PAGE_BYTES, Section, SectionFlags};

/// Protection of one page. All pages can be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PageProtection {
    /// Stores are allowed.
    pub write: bool,
    /// Instructions can be fetched.
    pub execute: bool,
}

impl PageProtection {
    /// Read only.
    pub const READ: Self = Self {
        write: false,
        execute: false,
    };
    /// Data.
    pub const READ_WRITE: Self = Self {
        write: true,
        execute: false,
    };
    /// Code.
    pub const READ_EXECUTE: Self = Self {
        write: false,
        execute: true,
    };
    /// Code and data that cannot be told apart.
    pub const READ_WRITE_EXECUTE: Self = Self {
        write: true,
        execute: true,
    };

    /// As `ls` prints permissions: `r--`, `rw-`, `r-x`, `rwx`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match (self.write, self.execute) {
            (false, false) => "r--",
            (true, false) => "rw-",
            (false, true) => "r-x",
            (true, true) => "rwx",
        }
    }

    /// The same as flags of a region of guest memory.
    #[must_use]
    pub fn region_flags(self) -> RegionFlags {
        let mut flags = RegionFlags::empty();
        flags.set(RegionFlags::WRITE, self.write);
        flags.set(RegionFlags::EXECUTE, self.execute);
        flags
    }

    /// What either allows.
    const fn union(self, other: Self) -> Self {
        Self {
            write: self.write || other.write,
            execute: self.execute || other.execute,
        }
    }
}

impl Section {
    /// What the section's own flags ask for.
    #[must_use]
    pub const fn asked_protection(&self) -> PageProtection {
        PageProtection {
            write: self.flags.contains(SectionFlags::WRITE),
            execute: self.flags.contains(SectionFlags::EXECUTE),
        }
    }

    /// What the section gets. A discardable section that asks for write and execute gets read and execute: INIT
    /// has flags 0xE2000020 because the linker merges the import tables into it, and those are written by
    /// the loader alone, before the guest runs. A section that lives as long as the driver and asks for both gets
    /// both: somebody told the linker to merge code and data (/MERGE, /SECTION:...,ERW).
    #[must_use]
    pub fn protection(&self) -> PageProtection {
        let asked = self.asked_protection();
        PageProtection {
            write: asked.write && !(asked.execute && self.is_discardable()),
            execute: asked.execute,
        }
    }

    /// Indices of the pages that the section is on.
    fn pages(&self) -> Range<u32> {
        self.rva / PAGE_BYTES..self.end().div_ceil(PAGE_BYTES)
    }
}

impl Image {
    /// Protection of each page of the mapped image.
    ///
    /// A page gets what the sections on it get ([`Section::protection`]) and nothing more; headers and gaps
    /// are read-only. With a SectionAlignment of at least a page that is write xor execute, but for sections
    /// that ask for both. With a smaller one ([`Image::is_single_mapping`]) code and writable data share pages,
    /// and such a page is RWX: there is no other way to run it, since the distance of code and data is fixed. Pages of
    /// such an image that hold only one of the two keep write xor execute.
    #[must_use]
    pub fn protection(&self) -> Vec<PageProtection> {
        let mut pages = vec![PageProtection::READ; self.page_count()];
        for section in &self.sections {
            let range = section.pages();
            let touched = pages
                .iter_mut()
                .skip(range.start as usize)
                .take(range.len());
            for page in touched {
                *page = page.union(section.protection());
            }
        }
        pages
    }

    /// What the pages of a section allow, taken together with the sections that share them.
    pub(crate) fn mapped_protection(pages: &[PageProtection], section: &Section) -> PageProtection {
        let range = section.pages();
        pages
            .iter()
            .skip(range.start as usize)
            .take(range.len())
            .fold(PageProtection::READ, |all, &page| all.union(page))
    }
}

impl Mapped {
    /// The pages by runs of equal protection: ranges of page numbers, in order and without gaps.
    pub fn runs(&self) -> impl Iterator<Item = (Range<usize>, PageProtection)> {
        let runs = self.protection.chunk_by(PartialEq::eq);
        runs.scan(0_usize, |next, run| {
            let start = *next;
            *next = start.saturating_add(run.len());
            run.first().map(|&protection| (start..*next, protection))
        })
    }
}
