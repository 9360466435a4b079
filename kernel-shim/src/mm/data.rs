//! Variables of the memory manager that drivers import.

use crate::api::nt_data;
use crate::raw::{Word, to_word};
use abi::layout::{HIGHEST_USER_ADDRESS, USER_PROBE_ADDRESS};

nt_data! { module = mm_data;
    /// The first address that probing rejects.
    ntoskrnl both data(4, 8) implemented
    MmUserProbeAddress: Word = to_word(USER_PROBE_ADDRESS);

    /// The highest user-mode address.
    ntoskrnl both data(4, 8) implemented
    MmHighestUserAddress: Word = to_word(HIGHEST_USER_ADDRESS);

    /// The first address of system space: set at boot, since it depends on the privilege mode.
    ntoskrnl both data(4, 8) implemented
    MmSystemRangeStart: Word = to_word(0x8000_0000);
}
