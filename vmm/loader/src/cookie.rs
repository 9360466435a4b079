//! The security cookie that code compiled with /GS puts below return addresses.
//!
//! Windows' loader stores a random value there, and drivers built for Windows 8 and later fail fast (`int 29h`)
//! when it did not. Older ones seed the cookie themselves if it still has the compiler's default value.

use abi::DriverAbi;

use crate::headers::Directory;
use crate::layout::{self, Layout};
use crate::{ImageError, Section, SectionFlags};

/// `__security_cookie`'s initial value on i386.
const DEFAULT_I386: u64 = 0xBB40_E64E;
/// Its initial value on i386 before Visual Studio 2005. Such drivers always seed it themselves.
const DEFAULT_I386_OLD: u64 = 0xBB40;
/// Its initial value on amd64.
const DEFAULT_AMD64: u64 = 0x0000_2B99_2DDF_A232;

/// How the cookie was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CookieSource {
    /// The load configuration directory's SecurityCookie field.
    LoadConfig,
    /// The image has no load configuration, and its writable data holds the compiler's default value at exactly
    /// one pointer-aligned place. Code also has the value (to compare with), but as an unaligned immediate and
    /// not in a writable section without code. Two hits mean that one is something else: neither is touched.
    DefaultValue,
}

/// Where the cookie is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct SecurityCookie {
    /// RVA: pointer-sized, inside a section.
    pub rva: u32,
    /// How it was found.
    pub source: CookieSource,
}

impl SecurityCookie {
    /// Makes a cookie that [`crate::Image::map`] accepts for `abi` out of any random number.
    #[must_use]
    pub const fn value_from(abi: DriverAbi, random: u64) -> u64 {
        let value = match abi {
            DriverAbi::I386 => random & 0xFFFF_FFFF,
            DriverAbi::Amd64 => random & 0xFFFF_FFFF_FFFF,
        };
        if is_valid(abi, value) {
            value
        } else {
            value ^ 0x5A5A_5A5A
        }
    }
}

/// Whether a driver takes `cookie` for a value that the loader chose. On amd64 the top 16 bits are zero, so
/// that a string overrun, which cannot write zeros, does not reproduce it.
pub(crate) const fn is_valid(abi: DriverAbi, cookie: u64) -> bool {
    match abi {
        DriverAbi::I386 => {
            cookie != 0
                && cookie <= 0xFFFF_FFFF
                && cookie != DEFAULT_I386
                && cookie != DEFAULT_I386_OLD
        }
        DriverAbi::Amd64 => cookie != 0 && cookie >> 48 == 0 && cookie != DEFAULT_AMD64,
    }
}

/// Finds the cookie. `None` where there is none, or where it does not have its default value: Windows' loader
/// leaves such a one alone.
pub(crate) fn find(
    layout: &Layout<'_>,
    abi: DriverAbi,
    image_base: u64,
    load_config: Option<Directory>,
) -> Result<Option<SecurityCookie>, ImageError> {
    match load_config {
        Some(directory) => from_load_config(layout, abi, image_base, &directory),
        None => Ok(by_default_value(layout, abi)),
    }
}

fn from_load_config(
    layout: &Layout<'_>,
    abi: DriverAbi,
    image_base: u64,
    directory: &Directory,
) -> Result<Option<SecurityCookie>, ImageError> {
    let start = layout.locate(&directory.rva, directory.rva.value, 4)?;
    let size = layout.file.u32(start, "load config's Size")?;
    let (cookie_offset, word) = match abi {
        DriverAbi::I386 => (0x3C_u32, 4),
        DriverAbi::Amd64 => (0x58, 8),
    };
    let needed = cookie_offset.saturating_add(word);
    if size.value < needed {
        return Ok(None); // from before /GS
    }
    let start = layout.locate(&size, directory.rva.value, needed)?;
    let cookie = layout.file.word(
        abi,
        start.saturating_add(cookie_offset),
        "load config's SecurityCookie",
    )?;
    if cookie.value == 0 {
        return Ok(None);
    }
    let rva = cookie
        .value
        .checked_sub(image_base)
        .and_then(|rva| u32::try_from(rva).ok());
    let section = rva.and_then(|rva| layout.section_at(rva, word));
    let (Some(rva), Some(section)) = (rva, section) else {
        return Err(cookie.reject(format!(
            "expected an address inside a section of the image at {image_base:#x}"
        )));
    };
    if !rva.is_multiple_of(word) {
        return Err(cookie.reject(format!("expected a multiple of {word}")));
    }
    let has_default = value_at(layout, section, rva, abi).is_some_and(|value| match abi {
        DriverAbi::I386 => value == DEFAULT_I386 || value == DEFAULT_I386_OLD,
        DriverAbi::Amd64 => value == DEFAULT_AMD64,
    });
    Ok(has_default.then_some(SecurityCookie {
        rva,
        source: CookieSource::LoadConfig,
    }))
}

/// The pointer-sized value at `rva`; `None` where it does not come from the file.
fn value_at(layout: &Layout<'_>, section: &Section, rva: u32, abi: DriverAbi) -> Option<u64> {
    let into = rva.checked_sub(section.rva)?;
    let word = u32::try_from(abi.pointer_bytes()).ok()?;
    if section.file_bytes() < into.checked_add(word)? {
        return None;
    }
    let offset = section.file_range.start.checked_add(into)?;
    let field = layout.file.word(abi, offset, "value").ok()?;
    Some(field.value)
}

fn by_default_value(layout: &Layout<'_>, abi: DriverAbi) -> Option<SecurityCookie> {
    let mut hit = None;
    for section in layout.sections {
        let is_data = section.flags.contains(SectionFlags::WRITE)
            && !section.flags.contains(SectionFlags::EXECUTE);
        if !is_data {
            continue;
        }
        let word = abi.pointer_bytes();
        let default = match abi {
            DriverAbi::I386 => DEFAULT_I386,
            DriverAbi::Amd64 => DEFAULT_AMD64,
        };
        let default = default.to_le_bytes();
        let range = section.file_range.start as usize..section.file_range.end as usize;
        let bytes = layout.file.bytes().get(range).unwrap_or_default();
        let aligned = (section.rva..).step_by(word).zip(bytes.chunks_exact(word));
        for (rva, value) in aligned {
            if default.get(..word) != Some(value) {
                continue;
            }
            if hit.replace(rva).is_some() {
                return None;
            }
        }
    }
    let rva = hit.filter(|rva| rva.is_multiple_of(4))?;
    layout::section_at(layout.sections, rva, 4)?;
    Some(SecurityCookie {
        rva,
        source: CookieSource::DefaultValue,
    })
}
