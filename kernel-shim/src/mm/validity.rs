//! Which addresses are valid: translation, probing, careful copies.

use super::{is_in, physical_address, virtual_for_physical};
use crate::api::nt_api;
use crate::mm;
use crate::nt::NtStatus;
use crate::raw::{Ptr, Word, to_word};
use crate::rtl::raise_status;
use crate::shared;
use crate::value::{Boolean, PhysicalAddress, Size, ULong};
use abi::boot::RegionKind;
use abi::layout::{PAGE_SIZE, USER_PROBE_ADDRESS};

/// MM_COPY_MEMORY_PHYSICAL.
const COPY_PHYSICAL: u32 = 1;
/// MM_COPY_MEMORY_VIRTUAL.
const COPY_VIRTUAL: u32 = 2;

/// Whether every page of a range is there, and may be stored to if that is wanted.
pub(super) fn is_present(address: u64, bytes: u64, is_write: bool) -> bool {
    let first = address - address % PAGE_SIZE;
    let end = address + bytes;
    let mut page = first;
    while page < end {
        let is_there = physical_address(page).is_some() && (!is_write || mm::is_writable(page));
        if !is_there {
            return false;
        }
        page += PAGE_SIZE;
    }
    true
}

/// What ProbeForRead and ProbeForWrite raise.
pub(super) fn probe(
    address: u64,
    bytes: u64,
    alignment: u32,
    is_write: bool,
) -> Result<(), NtStatus> {
    if bytes == 0 {
        return Ok(());
    }
    if alignment > 1 && address & (u64::from(alignment) - 1) != 0 {
        return Err(NtStatus::DATATYPE_MISALIGNMENT);
    }
    let end = address
        .checked_add(bytes)
        .ok_or(NtStatus::ACCESS_VIOLATION)?;
    if end > USER_PROBE_ADDRESS {
        return Err(NtStatus::ACCESS_VIOLATION);
    }
    // Writing touches every page; reading leaves that to the access itself.
    if is_write && !is_present(address, bytes, true) {
        return Err(NtStatus::ACCESS_VIOLATION);
    }
    Ok(())
}

/// Copies page by page as far as the source is there; the bytes copied.
fn copy(target: Ptr<u8>, bytes: u64, source: impl Fn(u64) -> Option<u64>) -> u64 {
    let mut done = 0;
    while done < bytes {
        let Some(from) = source(done) else { break };
        let part = (PAGE_SIZE - from % PAGE_SIZE).min(bytes - done);
        target.add_bytes(done).copy_from(Ptr::new(from), part);
        done += part;
    }
    done
}

nt_api! { module = mm_validity;
    /// The guest-physical address behind an address; 0 when there is none.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn MmGetPhysicalAddress(base_address: Ptr<u8>) -> PhysicalAddress {
        PhysicalAddress(physical_address(base_address.addr()).unwrap_or(0))
    }

    /// The kernel address of guest-physical memory; null when it is mapped nowhere.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn MmGetVirtualForPhysical(physical_address: PhysicalAddress) -> Ptr<u8> {
        Ptr::new(virtual_for_physical(physical_address.0).unwrap_or(0))
    }

    /// Whether an access to an address would not fault.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn MmIsAddressValid(address: Ptr<u8>) -> Boolean {
        physical_address(address.addr()).is_some()
    }

    /// Whether an address is that of kernel memory that is never paged out.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn MmIsNonPagedSystemAddressValid(virtual_address: Ptr<u8>) -> Boolean {
        let address = virtual_address.addr();
        let is_paged = crate::ex::pool::block_over(address).is_some_and(|block| block.is_paged);
        address >= shared::kernel_base() && physical_address(address).is_some() && !is_paged
    }

    /// Copies from an address or a physical address that may not be valid. INVALID_PARAMETER_4: other flags.
    /// INVALID_ADDRESS: part of it is not there; how much was copied is told.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn MmCopyMemory(
        target_address: Ptr<u8>, source_address: PhysicalAddress, number_of_bytes: Size, flags: ULong,
        number_of_bytes_transferred: Ptr<Word>,
    ) -> NtStatus {
        let start = source_address.0;
        let done = match flags {
            COPY_PHYSICAL => copy(target_address, number_of_bytes.0, |done| virtual_for_physical(start.checked_add(done)?)),
            COPY_VIRTUAL => copy(target_address, number_of_bytes.0, |done| {
                let address = start.checked_add(done)?;
                let is_there = address >= shared::kernel_base() && physical_address(address).is_some();
                is_there.then_some(address)
            }),
            _ => {
                number_of_bytes_transferred.write(0);
                return NtStatus::INVALID_PARAMETER_4;
            }
        };
        number_of_bytes_transferred.write(to_word(done));
        if done == number_of_bytes.0 { NtStatus::SUCCESS } else { NtStatus::INVALID_ADDRESS }
    }

    /// Raises STATUS_ACCESS_VIOLATION unless a range lies in user space, STATUS_DATATYPE_MISALIGNMENT unless it is
    /// aligned. No bytes are always fine.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn ProbeForRead(address: Ptr<u8>, length: Size, alignment: ULong) {
        if let Err(status) = probe(address.addr(), length.0, alignment, false) {
            raise_status(status);
        }
    }

    /// As ProbeForRead, and STATUS_ACCESS_VIOLATION unless the range is there and can be written to.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn ProbeForWrite(address: Ptr<u8>, length: Size, alignment: ULong) {
        if let Err(status) = probe(address.addr(), length.0, alignment, true) {
            raise_status(status);
        }
    }

    /// Whether an address lies in a session's space: there are no sessions.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn MmIsSessionAddress(virtual_address: Ptr<u8>) -> Boolean {
        false
    }
}

/// Whether an address lies in a driver's image.
pub(super) fn is_in_image(address: u64) -> bool {
    is_in(address, RegionKind::Driver)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_platform::{USER_BYTES, api, crash_of, machine};
    use abi::layout::USER;

    #[test]
    fn probing_raises_what_nt_does() {
        let _machine = machine();
        assert_eq!(probe(1, 0, 4, true), Ok(()));
        assert_eq!(
            probe(USER + 1, 4, 4, false),
            Err(NtStatus::DATATYPE_MISALIGNMENT)
        );
        assert_eq!(probe(USER + 4, 4, 4, true), Ok(()));
        assert_eq!(
            probe(USER_PROBE_ADDRESS - 4, 4, 1, false),
            Ok(()),
            "not touched"
        );
        assert_eq!(
            probe(USER_PROBE_ADDRESS - 4, 4, 1, true),
            Err(NtStatus::ACCESS_VIOLATION)
        );
        assert_eq!(
            probe(USER_PROBE_ADDRESS - 3, 4, 1, false),
            Err(NtStatus::ACCESS_VIOLATION)
        );
        assert_eq!(
            probe(u64::MAX, 4, 1, false),
            Err(NtStatus::ACCESS_VIOLATION)
        );
        assert_eq!(
            probe(USER + USER_BYTES - 2, 4, 1, true),
            Err(NtStatus::ACCESS_VIOLATION)
        );
        let record = crash_of(|| ProbeForRead(Ptr::new(u64::MAX), Size(1), 1));
        assert_eq!(
            record.parameters[0],
            u64::from(NtStatus::ACCESS_VIOLATION.0)
        );
    }

    #[test]
    fn careful_copies_stop_where_memory_does() {
        let machine = machine();
        machine.write_user(0, &[7; 16]);
        let alias = machine.kernel_base() + abi::layout::USER_ALIAS;
        let physical = api("MmGetPhysicalAddress", &[alias]);
        let target = api("ExAllocatePoolWithTag", &[0, 64, 1]);
        let mut done = 0_u64;
        let at = Ptr::of(&mut done).addr();
        let copy = |source, bytes, flags| {
            let status = api("MmCopyMemory", &[target, source, bytes, flags, at]);
            (status, Ptr::<u64>::new(at).read())
        };
        assert_eq!(copy(physical, 16, 1), (0, 16));
        assert_eq!(Ptr::<u8>::new(target).read_slice(16), [7; 16]);
        assert_eq!(copy(alias + USER_BYTES - 8, 16, 2), (0xC000_0141, 8));
        assert_eq!(copy(USER, 16, 2), (0xC000_0141, 0));
        assert_eq!(copy(alias, 16, 3), (0xC000_00F2, 0));
    }
}
