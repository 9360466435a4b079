//! MmMapIoSpace and its like, and the addresses of exports.

use super::io_space::{Kind, Mapping, Wanted, map, mapping_at, unmap};
use super::protection::access_of;
use crate::api::nt_api;
use crate::nt::bugcheck::{SYSTEM_PTE_MISUSE, bugcheck_with_text};
use crate::raw::{Ptr, unicode_text};
use crate::table;
use crate::value::{PhysicalAddress, Size, ULong, UnicodeStringPtr};
use abi::DriverAbi;
use abi::layout::PAGE_SIZE;

/// MmMaximumCacheType: the first MEMORY_CACHING_TYPE that is none.
const CACHING_TYPES: u32 = 6;
/// SYSTEM_PTE_MISUSE: another number of pages is freed than was mapped.
const WRONG_COUNT: u64 = 2;
/// SYSTEM_PTE_MISUSE: what is freed was never mapped.
const NOT_MAPPED: u64 = 6;

/// This build's driver ABI.
const ABI: DriverAbi = if cfg!(nt_i386) {
    DriverAbi::I386
} else {
    DriverAbi::Amd64
};

fn map_io_space(physical: u64, bytes: u64, is_writable: bool, caching: u32) -> Ptr<u8> {
    if caching >= CACHING_TYPES {
        return Ptr::null();
    }
    let wanted = Wanted {
        physical,
        bytes,
        is_writable,
        caching,
        kind: Kind::IoSpace,
    };
    map(&wanted).map_or_else(|_| Ptr::null(), Ptr::new)
}

/// Whether an unmap request names this mapping; the error is SYSTEM_PTE_MISUSE's first parameter.
fn check_unmap(mapping: Option<Mapping>, address: u64, bytes: u64) -> Result<Mapping, u64> {
    let mapping = mapping
        .filter(|mapping| mapping.kind == Kind::IoSpace && address - mapping.address < PAGE_SIZE)
        .ok_or(NOT_MAPPED)?;
    let pages = super::pages_spanned(address, bytes);
    if pages * PAGE_SIZE == mapping.bytes {
        Ok(mapping)
    } else {
        Err(WRONG_COUNT)
    }
}

nt_api! { module = mm_api;
    /// Maps a physical range into system space; the policy says which ranges there are. NULL if it is refused.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn MmMapIoSpace(physical_address: PhysicalAddress, number_of_bytes: Size, cache_type: ULong) -> Ptr<u8> {
        map_io_space(physical_address.0, number_of_bytes.0, true, cache_type)
    }

    /// As MmMapIoSpace, with a PAGE_ protection instead of a caching type. NULL for a protection that is not valid.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn MmMapIoSpaceEx(physical_address: PhysicalAddress, number_of_bytes: Size, protect: ULong) -> Ptr<u8> {
        match access_of(protect) {
            Some(access) => {
                map_io_space(physical_address.0, number_of_bytes.0, access.is_writable, access.caching)
            }
            None => Ptr::null(),
        }
    }

    /// Undoes MmMapIoSpace. Another address or size than was mapped is a bugcheck, SYSTEM_PTE_MISUSE.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn MmUnmapIoSpace(base_address: Ptr<u8>, number_of_bytes: Size) {
        let (address, bytes) = (base_address.addr(), number_of_bytes.0);
        match check_unmap(mapping_at(address), address, bytes) {
            Ok(mapping) => unmap(&mapping),
            Err(violation) => bugcheck_with_text(
                SYSTEM_PTE_MISUSE,
                [violation, 0, address, super::pages_spanned(address, bytes)],
                format_args!("MmUnmapIoSpace of {bytes} bytes at {address:#x}, which is not what was mapped"),
            ),
        }
    }

    /// The address of an export of the kernel or the HAL, as imports are bound to it; NULL for a name there is not.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn MmGetSystemRoutineAddress(system_routine_name: UnicodeStringPtr) -> Ptr<u8> {
        let name = unicode_text(system_routine_name.0);
        table::find(&name).and_then(|number| super::export_address(number, ABI)).map_or_else(Ptr::null, Ptr::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtl::test_strings::wide;
    use crate::test_platform::{api, crash_of, machine};
    use abi::doorbell::Call;
    use abi::layout::{EXPORTS, IO_WINDOW};

    #[test]
    fn a_range_is_mapped_where_it_can_be_found_again() {
        let machine = machine();
        let address = api("MmMapIoSpace", &[0xA_0010, 0x1000, 0]);
        assert_eq!(address % 0x1000, 0x10);
        let page = address - 0x10;
        assert!(page >= machine.kernel_base() + IO_WINDOW);
        assert_eq!(api("MmGetPhysicalAddress", &[address + 5]), 0xA_0015);
        assert_eq!(api("MmIsAddressValid", &[page + 0x1FFF]) & 1, 1);
        assert_eq!(api("MmIsAddressValid", &[page + 0x2000]) & 1, 0);
        api("MmUnmapIoSpace", &[address, 0x1000]);
        assert_eq!(api("MmIsAddressValid", &[address]) & 1, 0);
        let calls = machine.fake.calls.lock().unwrap().clone();
        let expected = [
            (Call::MapPhysical, [0xA_0000, 0x2000, page, 1, 0, 0]),
            (Call::UnmapPhysical, [page, 0x2000, 0, 0, 0, 0]),
        ];
        assert_eq!(calls, expected);
        assert_eq!(api("MmMapIoSpace", &[0xA_0000, 0, 0]), 0);
        assert_eq!(api("MmMapIoSpace", &[0xA_0000, 1, 6]), 0);
        assert_eq!(api("MmMapIoSpaceEx", &[0xA_0000, 1, 1]), 0);
    }

    #[test]
    fn a_wrong_unmap_is_a_bugcheck() {
        let _machine = machine();
        let address = api("MmMapIoSpace", &[0xB_0000, 0x1000, 0]);
        let record = crash_of(|| MmUnmapIoSpace(Ptr::new(address), Size(0x2000)));
        assert_eq!(
            (record.code, record.parameters[0]),
            (SYSTEM_PTE_MISUSE, WRONG_COUNT)
        );
        api("MmUnmapIoSpace", &[address, 0x1000]);
        let record = crash_of(|| MmUnmapIoSpace(Ptr::new(address), Size(0x1000)));
        assert_eq!(
            (record.code, record.parameters[0]),
            (SYSTEM_PTE_MISUSE, NOT_MAPPED)
        );
    }

    #[test]
    fn routines_are_found_where_imports_are_bound() {
        let machine = machine();
        let mut name = wide("DbgPrint", 8);
        let number = u64::from(table::find("DbgPrint").unwrap());
        let stub = machine.kernel_base() + EXPORTS + 16 * number;
        assert_eq!(api("MmGetSystemRoutineAddress", &[name.ptr().addr()]), stub);
        let mut data = wide("KeTickCount", 11);
        let found = api("MmGetSystemRoutineAddress", &[data.ptr().addr()]);
        assert_eq!(found, crate::ke::data::KeTickCount.ptr().addr());
        for absent in ["_allmul", "NoSuchExport"] {
            let mut name = wide(absent, 20);
            assert_eq!(
                api("MmGetSystemRoutineAddress", &[name.ptr().addr()]),
                0,
                "{absent}"
            );
        }
    }

    #[test]
    fn only_what_was_mapped_can_be_unmapped() {
        let mapping = Mapping {
            address: 0x5000,
            physical: 0xA_0000,
            bytes: 0x2000,
            kind: Kind::IoSpace,
            caller: 0,
        };
        let check = |address, bytes| check_unmap(Some(mapping), address, bytes);
        assert_eq!(check(0x5010, 0x1000), Ok(mapping));
        assert_eq!(check(0x5000, 0x2000), Ok(mapping));
        assert_eq!(check(0x5000, 0x1000), Err(WRONG_COUNT));
        assert_eq!(check(0x5001, 0x2000), Err(WRONG_COUNT));
        assert_eq!(check(0x6000, 0x1000), Err(NOT_MAPPED));
        assert_eq!(check_unmap(None, 0x5000, 0x2000), Err(NOT_MAPPED));
        let view = Mapping {
            kind: Kind::User,
            ..mapping
        };
        assert_eq!(check_unmap(Some(view), 0x5000, 0x2000), Err(NOT_MAPPED));
    }
}
