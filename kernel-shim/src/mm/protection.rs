//! PAGE_ protections, as MmMapIoSpaceEx and ZwMapViewOfSection take them.

/// What a protection allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// Stores.
    pub is_writable: bool,
    /// Stores are to a copy of one's own.
    pub is_copy: bool,
    /// Code.
    pub is_executable: bool,
    /// MEMORY_CACHING_TYPE.
    pub caching: u32,
}

impl Access {
    /// Whether nothing was said of caching.
    #[must_use]
    pub const fn has_default_caching(self) -> bool {
        self.caching == CACHED
    }

    /// Whether stores reach what others see.
    #[must_use]
    pub const fn is_shared_write(self) -> bool {
        self.is_writable && !self.is_copy
    }
}

const PAGE_READONLY: u32 = 0x02;
const PAGE_READWRITE: u32 = 0x04;
const PAGE_WRITECOPY: u32 = 0x08;
const PAGE_EXECUTE_READ: u32 = 0x20;
const PAGE_EXECUTE_READWRITE: u32 = 0x40;
const PAGE_EXECUTE_WRITECOPY: u32 = 0x80;
const PAGE_NOCACHE: u32 = 0x200;
const PAGE_WRITECOMBINE: u32 = 0x400;

/// MmNonCached.
const NON_CACHED: u32 = 0;
/// MmCached.
const CACHED: u32 = 1;
/// MmWriteCombined.
const WRITE_COMBINED: u32 = 2;

/// What a protection allows; `None` for one that is not valid, or that nothing can be done with (PAGE_NOACCESS,
/// PAGE_GUARD, PAGE_EXECUTE). Mapped ranges are never executable.
#[must_use]
pub fn access_of(protection: u32) -> Option<Access> {
    let caching = match protection & (PAGE_NOCACHE | PAGE_WRITECOMBINE) {
        0 => CACHED,
        PAGE_NOCACHE => NON_CACHED,
        PAGE_WRITECOMBINE => WRITE_COMBINED,
        _ => return None,
    };
    let plain = protection & !(PAGE_NOCACHE | PAGE_WRITECOMBINE);
    let is_writable = match plain {
        PAGE_READONLY | PAGE_EXECUTE_READ => false,
        PAGE_READWRITE | PAGE_WRITECOPY | PAGE_EXECUTE_READWRITE | PAGE_EXECUTE_WRITECOPY => true,
        _ => return None,
    };
    Some(Access {
        is_writable,
        is_copy: matches!(plain, PAGE_WRITECOPY | PAGE_EXECUTE_WRITECOPY),
        is_executable: plain >= PAGE_EXECUTE_READ,
        caching,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_access_and_one_caching_at_most() {
        let access = |is_writable, caching| {
            Some(Access {
                is_writable,
                is_copy: false,
                is_executable: false,
                caching,
            })
        };
        assert_eq!(
            access_of(PAGE_READWRITE | PAGE_NOCACHE),
            access(true, NON_CACHED)
        );
        assert_eq!(access_of(PAGE_READONLY), access(false, CACHED));
        assert_eq!(
            access_of(PAGE_READWRITE | PAGE_WRITECOMBINE),
            access(true, WRITE_COMBINED)
        );
        assert_eq!(
            access_of(PAGE_READWRITE | PAGE_NOCACHE | PAGE_WRITECOMBINE),
            None
        );
        assert_eq!(access_of(PAGE_READWRITE | PAGE_READONLY), None);
        assert!(access_of(PAGE_EXECUTE_READWRITE).is_some_and(|access| access.is_executable));
        let copy = access_of(PAGE_EXECUTE_WRITECOPY);
        assert!(copy.is_some_and(|access| access.is_copy && !access.is_shared_write()));
        assert_eq!(access_of(0), None);
        assert_eq!(access_of(0x01), None);
        assert_eq!(access_of(PAGE_READWRITE | 0x100), None);
    }
}
