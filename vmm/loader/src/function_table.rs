//! The exception directory of amd64 images: RUNTIME_FUNCTION entries for unwinding.

use core::ops::Range;

use crate::ImageError;
use crate::headers::Directory;
use crate::layout::Layout;

/// Bytes of a RUNTIME_FUNCTION: BeginAddress, EndAddress, UnwindData.
const ENTRY_BYTES: u32 = 12;

/// Checks the table, which unwinding searches by bisection, and returns its RVAs.
pub(crate) fn parse(layout: &Layout<'_>, directory: Directory) -> Result<Range<u32>, ImageError> {
    let Directory { rva, size } = directory;
    if !size.value.is_multiple_of(ENTRY_BYTES) {
        return Err(size.reject("expected a multiple of RUNTIME_FUNCTION's 12 bytes"));
    }
    let start = layout.locate(&size, rva.value, size.value)?;
    let mut count = 0_u32;
    let mut previous_end = 0;
    for index in 0..size.value / ENTRY_BYTES {
        let offset = start.saturating_add(index.saturating_mul(ENTRY_BYTES));
        let begin = layout.file.u32(offset, "RUNTIME_FUNCTION BeginAddress")?;
        let end = layout
            .file
            .u32(offset.saturating_add(4), "RUNTIME_FUNCTION EndAddress")?;
        let unwind = layout
            .file
            .u32(offset.saturating_add(8), "RUNTIME_FUNCTION UnwindData")?;
        if begin.value == 0 && end.value == 0 && unwind.value == 0 {
            break; // zeros pad the section
        }
        if begin.value < previous_end {
            return Err(begin.reject(format!(
                "expected functions in ascending order, but the one before it ends at {previous_end:#x}"
            )));
        }
        let length = end.value.saturating_sub(begin.value);
        if length == 0 || layout.section_at(begin.value, length).is_none() {
            return Err(end.reject(format!(
                "expected the end of a function from {:#x} on, inside one section",
                begin.value
            )));
        }
        // Bit 0: UnwindData is another RUNTIME_FUNCTION's RVA instead of UNWIND_INFO's.
        if layout.section_at(unwind.value & !1, 4).is_none() {
            return Err(unwind.reject("expected the RVA of UNWIND_INFO inside a section"));
        }
        previous_end = end.value;
        count = count.saturating_add(1);
    }
    let bytes = count.saturating_mul(ENTRY_BYTES);
    Ok(rva.value..rva.value.saturating_add(bytes))
}
