//! Why an image is rejected, and why an accepted one cannot be mapped.

/// Why an image is rejected: what is wrong, where in the file, and what was expected.
#[derive(Clone, Debug, PartialEq, Eq, displaydoc::Display, thiserror::Error)]
pub enum ImageError {
    /// the file has {file_bytes} bytes, more than the {limit} that an image may have
    TooLarge {
        /// Length of the file.
        file_bytes: usize,
        /// The limit, [`crate::MAX_IMAGE_BYTES`].
        limit: u32,
    },
    /// {field} at {offset:#x} has {bytes} bytes, beyond the file's {file_bytes} bytes
    Truncated {
        /// The field or table that does not fit.
        field: &'static str,
        /// Its file offset.
        offset: u32,
        /// Its length in bytes.
        bytes: u32,
        /// Length of the file.
        file_bytes: u32,
    },
    /// {field} at {offset:#x} is {value:#x}, {problem}
    Field {
        /// Name of the field in Microsoft's PE documentation.
        field: &'static str,
        /// Its file offset.
        offset: u32,
        /// Its value.
        value: u64,
        /// What is wrong with the value, or what was expected.
        problem: String,
    },
}

/// Why an image cannot be mapped as asked: mistakes of the caller, or a resolver's answer that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, displaydoc::Display, thiserror::Error)]
pub enum MapError {
    /// the image's relocations are stripped: it can only be mapped at {preferred:#x}, not at {base:#x}
    RelocationsStripped {
        /// The address asked for.
        base: u64,
        /// ImageBase.
        preferred: u64,
    },
    /// base address {base:#x} is not a multiple of the page size
    Unaligned {
        /// The address asked for.
        base: u64,
    },
    /// {bytes} bytes at {base:#x} are beyond the address space of an {abi} driver
    AddressSpace {
        /// The address asked for.
        base: u64,
        /// Bytes of the mapping.
        bytes: u32,
        /// Name of the driver ABI.
        abi: &'static str,
    },
    /// {import} was resolved to {address:#x}, which an i386 driver cannot address
    ImportAddress {
        /// The import, as DLL!name.
        import: String,
        /// What the resolver returned.
        address: u64,
    },
    /// {cookie:#x} cannot be the security cookie of an {abi} driver: it must be neither 0 nor the compiler's default, and at most 4 bytes (i386) or 6 bytes (amd64) wide
    Cookie {
        /// The value asked for.
        cookie: u64,
        /// Name of the driver ABI.
        abi: &'static str,
    },
}
