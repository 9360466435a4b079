//! The header by which the VMM finds its way in the image ([`abi::header::ImageHeader`]).

use abi::DriverAbi;

use crate::{entry, thunk32, trap, user};

/// As [`abi::header::ImageHeader`], with addresses as pointers: the linker fills them in.
#[repr(C)]
pub(crate) struct Header {
    magic: u64,
    version: u32,
    abi: u32,
    table_fingerprint: u64,
    entry: unsafe extern "C" fn(),
    vectors: unsafe extern "C" fn(),
    trap_window_start: unsafe extern "C" fn(),
    trap_window_end: unsafe extern "C" fn(),
    exports: &'static [kernel_shim::raw::EntryPoint; kernel_shim::table::COUNT],
    export_count: u64,
    import_thunk: unsafe extern "C" fn(),
    unbound_thunk: unsafe extern "C" fn(),
    is_ring3: *const u64,
    user_stub: unsafe extern "C" fn(),
}

const _: () = assert!(size_of::<Header>() == size_of::<abi::header::ImageHeader>());

#[expect(
    unsafe_code,
    reason = "shared between threads only as constant data, and a placed section"
)]
mod placed {
    use super::*;

    // SAFETY: never written after link time; `is_ring3` is only an address here.
    unsafe impl Sync for Header {}

    /// The image's header, at the start of the first segment (guest.ld).
    #[cfg_attr(guest, unsafe(link_section = ".ringfence.header"))]
    #[cfg_attr(guest, used)]
    #[cfg_attr(
        not(guest),
        expect(
            dead_code,
            reason = "unused, so that the linker drops what only links at the guest's addresses"
        )
    )]
    static HEADER: Header = Header {
        magic: abi::header::MAGIC,
        version: abi::VERSION,
        abi: if cfg!(nt_i386) {
            DriverAbi::I386 as u32
        } else {
            DriverAbi::Amd64 as u32
        },
        table_fingerprint: kernel_shim::table::FINGERPRINT,
        entry: entry::guest_entry,
        vectors: trap::guest_vectors,
        trap_window_start: trap::guest_trap_entry,
        trap_window_end: trap::guest_trap_window_end,
        exports: &kernel_shim::table::ENTRY_POINTS,
        export_count: kernel_shim::table::COUNT as u64,
        import_thunk: thunk32::guest_import_thunk,
        unbound_thunk: thunk32::guest_unbound_thunk,
        is_ring3: &raw const entry::guest_is_ring3,
        user_stub: user::guest_user_stub,
    };
}
