//! SystemHandleInformation and SystemExtendedHandleInformation: every handle of the guest.

use super::structure::{Accepts, Structure, fixed};
use crate::nt::NtStatus;
use crate::ob::{self, handles, types};
use crate::raw::{Ptr, low8, low16, low32};

/// OBJECT_TYPE.Index of an object's type; 0: it is no object any more.
fn type_index(body: u64) -> u8 {
    ob::type_of(body).map_or(0, types::index)
}

/// SYSTEM_HANDLE_INFORMATION: a count, and an entry for each handle whose numbers are cut to 16 bits.
pub(super) fn query(buffer: Ptr<u8>, length: u32) -> (NtStatus, u32) {
    let all = handles::all();
    let head = Structure::default()
        .dword(low32(all.len() as u64))
        .aligned();
    let structure = all.iter().fold(head, |list, (process, number, handle)| {
        list.half(low16(u64::from(*process)))
            .half(0) // CreatorBackTraceIndex
            .byte(type_index(handle.body))
            .byte(low8(u64::from(handle.attributes)))
            .half(low16(*number))
            .word(handle.body)
            .dword(handle.access)
            .aligned()
    });
    fixed(&structure, Accepts::AtLeast, buffer, length)
}

/// SYSTEM_HANDLE_INFORMATION_EX: as [`query`], with whole numbers.
pub(super) fn query_extended(buffer: Ptr<u8>, length: u32) -> (NtStatus, u32) {
    let all = handles::all();
    let head = Structure::default().word(all.len() as u64).word(0);
    let structure = all.iter().fold(head, |list, (process, number, handle)| {
        list.word(handle.body)
            .word(u64::from(*process))
            .word(*number)
            .dword(handle.access)
            .half(0) // CreatorBackTraceIndex
            .half(u16::from(type_index(handle.body)))
            .dword(handle.attributes)
            .dword(0)
    });
    fixed(&structure, Accepts::AtLeast, buffer, length)
}
