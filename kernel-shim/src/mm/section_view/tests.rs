use super::*;
use crate::mm::section::PHYSICAL_MEMORY;
use crate::nt::OBJECT_ATTRIBUTES;
use crate::raw::low32;
use crate::rtl::test_strings::wide;
use crate::test_platform::{api, machine};
use abi::doorbell::Call;

#[test]
fn physical_views_are_whole_pages() {
    let expected = |offset, bytes| Ok(Range { offset, bytes });
    assert_eq!(physical_range(0xA_0010, 0x10), expected(0xA_0000, 0x1000));
    assert_eq!(physical_range(0xA_0FF0, 0x20), expected(0xA_0000, 0x2000));
    assert_eq!(physical_range(0, 0x1000), expected(0, 0x1000));
    assert_eq!(physical_range(0, 0), Err(NtStatus::INVALID_PARAMETER_3));
    assert_eq!(
        physical_range(u64::MAX, 2),
        Err(NtStatus::INVALID_PARAMETER_3)
    );
}

fn open_section(name: &str) -> (NtStatus, u64) {
    let mut name = wide(name, 40);
    let mut attributes = OBJECT_ATTRIBUTES {
        Length: 0x30,
        RootDirectory: 0,
        ObjectName: name.ptr(),
        Attributes: 0x40,
        SecurityDescriptor: 0,
        SecurityQualityOfService: 0,
    };
    let mut handle = 0_u64;
    let pointers = [
        Ptr::of(&mut handle).addr(),
        0xF001F,
        Ptr::of(&mut attributes).addr(),
    ];
    let status = api("ZwOpenSection", &pointers);
    (NtStatus(low32(status)), handle)
}

/// What WinIo and inpout do, from the handle on: (status, base, size, offset).
fn map_as_drivers_do(handle: u64, offset: u64, bytes: u64) -> (NtStatus, u64, u64, u64) {
    let (mut base, mut size, mut at) = (0_u64, bytes, offset);
    let status = ZwMapViewOfSection(
        Handle(handle),
        Handle(u64::MAX),
        Ptr::of(&mut base),
        Size(0),
        Size(bytes),
        Ptr::of(&mut at),
        Ptr::of(&mut size),
        1,
        0,
        0x204,
    );
    (status, base, size, at)
}

#[test]
fn physical_memory_is_opened_mapped_and_unmapped() {
    let machine = machine();
    let (status, handle) = open_section("\\device\\PHYSICALMEMORY");
    assert_eq!(status, NtStatus::SUCCESS);
    let mut object = 0_u64;
    let arguments = [handle, 0xF001F, 0, 0, Ptr::of(&mut object).addr(), 0];
    assert_eq!(api("ObReferenceObjectByHandle", &arguments), 0);
    let (status, base, size, offset) = map_as_drivers_do(handle, 0xF_FFF0, 0x20);
    assert_eq!(
        (status, size, offset),
        (NtStatus::SUCCESS, 0x2000, 0xF_F000)
    );
    assert_eq!(api("MmGetPhysicalAddress", &[base + 0xFF0]), 0xF_FFF0);
    assert_eq!(api("ZwUnmapViewOfSection", &[u64::MAX, base + 0x1000]), 0);
    let again = NtStatus(low32(api("ZwUnmapViewOfSection", &[u64::MAX, base])));
    assert_eq!(again, NtStatus::NOT_MAPPED_VIEW);
    let calls: Vec<Call> = machine
        .fake
        .calls
        .lock()
        .unwrap()
        .iter()
        .map(|(call, _)| *call)
        .collect();
    let expected = [Call::MapUserTable, Call::MapPhysical, Call::UnmapPhysical];
    assert_eq!(calls, expected);
    api("ObfDereferenceObject", &[object]);
    assert_eq!(api("ZwClose", &[handle]), 0);
    assert_eq!(
        map_as_drivers_do(handle, 0, 0x1000).0,
        NtStatus::INVALID_HANDLE
    );
}

#[test]
fn other_names_and_bad_arguments_have_their_statuses() {
    let _machine = machine();
    assert_eq!(
        open_section("\\Device\\Nothing").0,
        NtStatus::OBJECT_NAME_NOT_FOUND
    );
    assert_eq!(open_section("\\Device").0, NtStatus::OBJECT_TYPE_MISMATCH);
    let (_, handle) = open_section(PHYSICAL_MEMORY);
    assert_eq!(
        map_as_drivers_do(handle, 0, 0).0,
        NtStatus::INVALID_PARAMETER_3
    );
    let good = Request {
        section: handle,
        process: u64::MAX,
        base: 0,
        zero_bits: 0,
        commit: 0,
        offset: 0,
        bytes: 1,
        inherit: 2,
        allocation_type: 0,
        protection: 4,
    };
    let status = |request: Request| map_view(&request).err();
    let with = |change: fn(&mut Request)| {
        let mut request = Request { ..good };
        change(&mut request);
        status(request)
    };
    assert_eq!(
        with(|request| request.inherit = 3),
        Some(NtStatus::INVALID_PARAMETER_8)
    );
    assert_eq!(
        with(|request| request.zero_bits = 99),
        Some(NtStatus::INVALID_PARAMETER_4)
    );
    assert_eq!(
        with(|request| request.allocation_type = 1),
        Some(NtStatus::INVALID_PARAMETER_9)
    );
    assert_eq!(
        with(|request| request.protection = 0),
        Some(NtStatus::INVALID_PAGE_PROTECTION)
    );
    assert_eq!(
        with(|request| request.base = 0x1000),
        Some(NtStatus::MAPPED_ALIGNMENT)
    );
    assert_eq!(
        with(|request| request.base = abi::layout::USER),
        Some(NtStatus::CONFLICTING_ADDRESSES)
    );
    assert_eq!(
        with(|request| request.process = 0x44),
        Some(NtStatus::INVALID_HANDLE)
    );
}
