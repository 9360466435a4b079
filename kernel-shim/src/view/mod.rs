//! The kernel as a driver that looks around sees it: its version, its images, the list of loaded modules, system
//! information. All of it agrees on one [`Release`] of Windows, which the VMM chose.

mod counters;
pub mod data;
mod handle_information;
pub mod image;
pub mod modules;
pub mod pcr;
pub mod process_information;
mod structure;
pub mod system_information;
pub mod user_shared;
pub mod version;

use crate::raw::{DataCell, Ptr};
use crate::shared;
use abi::DriverAbi;
use abi::layout;
use abi::windows::{Release, Windows};

/// This build's driver ABI.
pub const ABI: DriverAbi = if cfg!(nt_i386) {
    DriverAbi::I386
} else {
    DriverAbi::Amd64
};

/// The version of Windows that this guest is.
#[must_use]
pub fn windows() -> Windows {
    Windows::from_number(shared::windows()).unwrap_or(const { Windows::default_for(ABI) })
}

/// What it says about itself.
#[must_use]
pub fn release() -> Release {
    windows().release(ABI)
}

/// The address of one of the shim's variables in the image of ntoskrnl.exe (or hal.dll), where drivers see it. The same
/// memory is behind both. Without such images (unit tests) the variable's own.
#[must_use]
pub fn image_address(address: u64, is_hal: bool) -> u64 {
    let offset = address.wrapping_sub(shared::shim_data());
    if offset >= shared::shim_data_bytes() {
        return address;
    }
    let image = if is_hal {
        layout::HAL
    } else {
        layout::NTOSKRNL
    };
    shared::kernel_base() + image + u64::from(shared::kernel_data_rva()) + offset
}

/// The address of a variable of ntoskrnl.exe as drivers know it: what lists, waiters and pointers must name.
#[must_use]
pub fn exported<T>(cell: &DataCell<T>) -> Ptr<T> {
    Ptr::new(image_address(cell.ptr().addr(), false))
}

/// Puts everything into its first state. Needs the pool.
pub(crate) fn initialize() {
    version::initialize();
    modules::initialize();
    pcr::initialize();
    user_shared::initialize();
}
