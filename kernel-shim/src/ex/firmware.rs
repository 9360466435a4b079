//! Firmware environment variables: the guest's firmware is a legacy BIOS, which has none.

use crate::api::nt_api;
use crate::nt::{GUID, NtStatus};
use crate::raw::Ptr;
use crate::value::{ULong, UnicodeStringPtr};

nt_api! { module = ex_firmware;
    /// Reads a firmware variable. NOT_IMPLEMENTED, as on any machine without UEFI.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ExGetFirmwareEnvironmentVariable(
        variable_name: UnicodeStringPtr, vendor_guid: Ptr<GUID>, value: Ptr<u8>, value_length: Ptr<u32>,
        attributes: Ptr<u32>,
    ) -> NtStatus {
        NtStatus::NOT_IMPLEMENTED
    }

    /// Writes a firmware variable. NOT_IMPLEMENTED, as on any machine without UEFI.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ExSetFirmwareEnvironmentVariable(
        variable_name: UnicodeStringPtr, vendor_guid: Ptr<GUID>, value: Ptr<u8>, value_length: ULong,
        attributes: ULong,
    ) -> NtStatus {
        NtStatus::NOT_IMPLEMENTED
    }
}
