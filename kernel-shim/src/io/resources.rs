//! Hardware resources that drivers report or ask for themselves, as those of before plug and play do.
//!
//! Ports, memory, interrupts and DMA channels are kept by driver and device. Two claims conflict if they overlap and not
//! both of them are shared. What the policy allows is another question: it answers at the access.

use alloc::vec::Vec;

use crate::api::nt_api;
use crate::ex::pool;
use crate::nt::{DEVICE_OBJECT, DRIVER_OBJECT, NtStatus};
use crate::raw::{Global, Ptr, Word, low32};
use crate::value::{Boolean, ULong, UnicodeStringPtr};

/// CmResourceTypePort.
const PORT: u8 = 1;
/// CmResourceTypeInterrupt.
const INTERRUPT: u8 = 2;
/// CmResourceTypeMemory.
const MEMORY: u8 = 3;
/// CmResourceTypeDma.
const DMA: u8 = 4;
/// CmResourceTypeDeviceSpecific: data follow its descriptor.
const DEVICE_SPECIFIC: u8 = 5;
/// CmResourceShareShared.
const SHARED: u8 = 3;
/// IO_RESOURCE_ALTERNATIVE.
const ALTERNATIVE: u8 = 8;
/// Bytes of a CM_PARTIAL_RESOURCE_DESCRIPTOR.
const DESCRIPTOR_BYTES: usize = if cfg!(nt_i386) { 16 } else { 20 };
/// Bytes of an IO_RESOURCE_REQUIREMENTS_LIST before its first list.
const REQUIREMENTS_HEAD: usize = 32;
/// Bytes of an IO_RESOURCE_DESCRIPTOR.
const REQUIREMENT_BYTES: usize = 32;
/// The longest requirements list that is read.
const REQUIREMENTS_MAX: u32 = 0x1_0000;

/// A resource, `first` to `last`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Range {
    kind: u8,
    share: u8,
    flags: u16,
    first: u64,
    last: u64,
}

impl Range {
    fn conflicts(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.first <= other.last
            && other.first <= self.last
            && !(self.share == SHARED && other.share == SHARED)
    }
}

/// Who has it: addresses of driver and device, and 0 for the driver as a whole.
type Owner = (u64, u64);

static CLAIMS: Global<Vec<(Owner, Range)>> = Global::new("reported resources", Vec::new());

pub(super) fn initialize() {
    CLAIMS.with(Vec::clear);
}

/// Little-endian numbers of a list in memory.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const COUNT: usize>(&mut self) -> Result<[u8; COUNT], NtStatus> {
        let (head, rest) = self
            .0
            .split_first_chunk()
            .ok_or(NtStatus::INVALID_PARAMETER)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u32(&mut self) -> Result<u32, NtStatus> {
        self.take().map(u32::from_le_bytes)
    }
}

fn dword(bytes: &[u8], at: usize) -> u32 {
    let dword = bytes.get(at..).and_then(<[u8]>::first_chunk);
    dword.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn qword(bytes: &[u8], at: usize) -> u64 {
    u64::from(dword(bytes, at)) | u64::from(dword(bytes, at + 4)) << 32
}

/// The ranges of a CM_RESOURCE_LIST of `bytes` bytes; none if there is no list.
fn parse(list: Ptr<u8>, bytes: u32) -> Result<Vec<Range>, NtStatus> {
    let mut ranges = Vec::new();
    if list.is_null() || bytes == 0 {
        return Ok(ranges);
    }
    let memory: Vec<u8> = list.read_slice(bytes as usize);
    let mut reader = Reader(&memory);
    for _ in 0..reader.u32()? {
        // Interface type, bus, version and revision.
        let _: [u8; 12] = reader.take()?;
        for _ in 0..reader.u32()? {
            let descriptor: [u8; DESCRIPTOR_BYTES] = reader.take()?;
            let [kind, share, low, high, ..] = descriptor;
            let (first, count) = match kind {
                PORT | MEMORY => (qword(&descriptor, 4), u64::from(dword(&descriptor, 12))),
                // By its vector: what HalGetInterruptVector gave.
                INTERRUPT => (u64::from(dword(&descriptor, 8)), 1),
                DMA => (u64::from(dword(&descriptor, 4)), 1),
                DEVICE_SPECIFIC => {
                    let data = dword(&descriptor, 4) as usize;
                    reader.0 = reader.0.get(data..).ok_or(NtStatus::INVALID_PARAMETER)?;
                    continue;
                }
                _ => continue,
            };
            if let Some(longer) = count.checked_sub(1) {
                ranges.push(Range {
                    kind,
                    share,
                    flags: u16::from_le_bytes([low, high]),
                    first,
                    last: first.saturating_add(longer),
                });
            }
        }
    }
    Ok(ranges)
}

/// Whether a range conflicts with what somebody else has; where that ends.
fn conflict_of(range: &Range, owners: &[Owner]) -> Option<u64> {
    CLAIMS.with(|claims| {
        let other = claims
            .iter()
            .find(|(owner, claimed)| !owners.contains(owner) && claimed.conflicts(range));
        other.map(|(_, claimed)| claimed.last)
    })
}

/// Replaces what owners have.
fn claim(all: &[(Owner, Vec<Range>)]) {
    CLAIMS.with(|claims| {
        for (owner, ranges) in all {
            claims.retain(|(other, _)| other != owner);
            claims.extend(ranges.iter().map(|range| (*owner, *range)));
        }
    });
}

/// Claims the lists of a driver and its device; whether they conflict with another's.
fn report(all: &[(Owner, Vec<Range>)], overrides: bool) -> (NtStatus, bool) {
    let owners: Vec<Owner> = all.iter().map(|(owner, _)| *owner).collect();
    let is_conflict = all
        .iter()
        .flat_map(|(_, ranges)| ranges)
        .any(|range| conflict_of(range, &owners).is_some());
    if is_conflict && !overrides {
        return (NtStatus::CONFLICTING_ADDRESSES, true);
    }
    claim(all);
    (NtStatus::SUCCESS, is_conflict)
}

/// Driver or device, its list and the list's bytes.
type Given<T> = (Ptr<T>, Ptr<u8>, u32);

fn report_given(
    (driver, driver_list, driver_bytes): Given<DRIVER_OBJECT>,
    (device, device_list, device_bytes): Given<DEVICE_OBJECT>,
    overrides: bool,
    detected: Ptr<u8>,
) -> NtStatus {
    let parsed = || {
        let mut all = Vec::from([((driver.addr(), 0), parse(driver_list, driver_bytes)?)]);
        if let Some(device) = device.non_null() {
            let ranges = parse(device_list, device_bytes)?;
            all.push(((driver.addr(), device.addr()), ranges));
        }
        Ok(all)
    };
    match parsed() {
        Ok(all) => {
            let (status, is_conflict) = report(&all, overrides);
            detected.write(u8::from(is_conflict));
            status
        }
        Err(status) => status,
    }
}

/// An IO_RESOURCE_DESCRIPTOR.
#[derive(Clone, Copy, Debug)]
struct Requirement {
    option: u8,
    kind: u8,
    share: u8,
    flags: u16,
    bytes: u64,
    alignment: u64,
    lowest: u64,
    highest: u64,
}

impl Requirement {
    fn read(memory: &[u8; REQUIREMENT_BYTES]) -> Self {
        let [option, kind, share, _, low, high, ..] = *memory;
        let (bytes, alignment, lowest, highest) = match kind {
            PORT | MEMORY => (
                u64::from(dword(memory, 8)),
                u64::from(dword(memory, 12)).max(1),
                qword(memory, 16),
                qword(memory, 24),
            ),
            _ => (
                1,
                1,
                u64::from(dword(memory, 8)),
                u64::from(dword(memory, 12)),
            ),
        };
        Self {
            option,
            kind,
            share,
            flags: u16::from_le_bytes([low, high]),
            bytes,
            alignment,
            lowest,
            highest,
        }
    }

    /// The lowest range that is free.
    fn find(&self, owner: Owner, taken: &[Range]) -> Option<Range> {
        let longer = self.bytes.checked_sub(1)?;
        let mut first = self.lowest.checked_next_multiple_of(self.alignment)?;
        loop {
            let last = first
                .checked_add(longer)
                .filter(|&last| last <= self.highest)?;
            let range = Range {
                kind: self.kind,
                share: self.share,
                flags: self.flags,
                first,
                last,
            };
            let own = taken.iter().find(|other| other.conflicts(&range));
            let end = own
                .map(|other| other.last)
                .or_else(|| conflict_of(&range, &[owner]));
            let Some(end) = end else {
                return Some(range);
            };
            first = end
                .checked_add(1)?
                .checked_next_multiple_of(self.alignment)?;
        }
    }
}

/// A resource for each requirement of a list, or for one of its alternatives.
fn choose(requirements: &[Requirement], owner: Owner) -> Option<Vec<Range>> {
    let mut chosen: Vec<Range> = Vec::new();
    let mut rest = requirements;
    while let Some((first, mut others)) = rest.split_first() {
        let mut found = first.find(owner, &chosen);
        while let Some((next, behind)) = others.split_first()
            && next.option & ALTERNATIVE != 0
        {
            found = found.or_else(|| next.find(owner, &chosen));
            others = behind;
        }
        chosen.push(found?);
        rest = others;
    }
    Some(chosen)
}

/// A CM_RESOURCE_LIST.
fn encode(interface_type: u32, bus: u32, ranges: &[Range]) -> Vec<u8> {
    let mut list = Vec::new();
    for word in [
        1,
        interface_type,
        bus,
        1 | 1 << 16,
        low32(ranges.len() as u64),
    ] {
        list.extend(word.to_le_bytes());
    }
    for range in ranges {
        let end = list.len() + DESCRIPTOR_BYTES;
        list.extend([range.kind, range.share]);
        list.extend(range.flags.to_le_bytes());
        let number = low32(range.first).to_le_bytes();
        match range.kind {
            PORT | MEMORY => {
                list.extend(range.first.to_le_bytes());
                list.extend(low32(range.last - range.first + 1).to_le_bytes());
            }
            INTERRUPT => {
                list.extend(number);
                list.extend(number);
                // Any processor: there is one.
                list.extend((1 as Word).to_le_bytes());
            }
            _ => list.extend(number),
        }
        list.resize(end, 0);
    }
    list
}

/// Chooses and claims what a requirements list asks for; the CM_RESOURCE_LIST in pool memory.
fn assign(owner: Owner, wanted: Ptr<u8>) -> Result<Ptr<u8>, NtStatus> {
    let head: Ptr<u32> = wanted.cast();
    let bytes = head.read().min(REQUIREMENTS_MAX);
    let memory: Vec<u8> = wanted.read_slice(bytes as usize);
    let (interface_type, bus) = (dword(&memory, 4), dword(&memory, 8));
    let lists = dword(&memory, 28);
    let mut reader = Reader(
        memory
            .get(REQUIREMENTS_HEAD..)
            .ok_or(NtStatus::INVALID_PARAMETER)?,
    );
    for _ in 0..lists {
        // Version and revision.
        let _: [u8; 4] = reader.take()?;
        let mut requirements = Vec::new();
        for _ in 0..reader.u32()? {
            requirements.push(Requirement::read(&reader.take()?));
        }
        if let Some(ranges) = choose(&requirements, owner) {
            let list = pool::allocate_copy(&encode(interface_type, bus, &ranges), *b"CmRl");
            let list = list.ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
            claim(&[(owner, ranges)]);
            return Ok(list);
        }
    }
    Err(NtStatus::CONFLICTING_ADDRESSES)
}

nt_api! { module = io_resources;
    /// Claims resources for a driver and a device, instead of those before; none: gives them back. CONFLICTING_ADDRESSES:
    /// another driver has one of them, and that is not to be overridden. INVALID_PARAMETER: a list is longer than it says.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("nothing is written to the registry; the resources of plug and play devices are not looked at")
    fn IoReportResourceUsage(
        driver_class_name: UnicodeStringPtr, driver_object: Ptr<DRIVER_OBJECT>, driver_list: Ptr<u8>,
        driver_list_size: ULong, device_object: Ptr<DEVICE_OBJECT>, device_list: Ptr<u8>, device_list_size: ULong,
        override_conflict: Boolean, conflict_detected: Ptr<u8>,
    ) -> NtStatus {
        report_given(
            (driver_object, driver_list, driver_list_size),
            (device_object, device_list, device_list_size),
            override_conflict,
            conflict_detected,
        )
    }

    /// As IoReportResourceUsage without overriding, while a driver looks for its device.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("the resources of plug and play devices are not looked at")
    fn IoReportResourceForDetection(
        driver_object: Ptr<DRIVER_OBJECT>, driver_list: Ptr<u8>, driver_list_size: ULong,
        device_object: Ptr<DEVICE_OBJECT>, device_list: Ptr<u8>, device_list_size: ULong, conflict_detected: Ptr<u8>,
    ) -> NtStatus {
        report_given(
            (driver_object, driver_list, driver_list_size),
            (device_object, device_list, device_list_size),
            false,
            conflict_detected,
        )
    }

    /// Chooses resources by a requirements list, the first of its alternatives that is free, claims them, and returns them
    /// in pool memory, which the driver frees. No requirements: gives the device's back. CONFLICTING_ADDRESSES: nothing
    /// is free.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("nothing is written to the registry; the resources of plug and play devices are not looked at")
    fn IoAssignResources(
        registry_path: UnicodeStringPtr, driver_class_name: UnicodeStringPtr, driver_object: Ptr<DRIVER_OBJECT>,
        device_object: Ptr<DEVICE_OBJECT>, requested_resources: Ptr<u8>, allocated_resources: Ptr<Ptr<u8>>,
    ) -> NtStatus {
        let owner = (driver_object.addr(), device_object.addr());
        if requested_resources.is_null() {
            claim(&[(owner, Vec::new())]);
            return NtStatus::SUCCESS;
        }
        match assign(owner, requested_resources) {
            Ok(list) => {
                allocated_resources.write(list);
                NtStatus::SUCCESS
            }
            Err(status) => {
                allocated_resources.write(Ptr::null());
                status
            }
        }
    }

    /// Programs a slot of a bus.
    hal both stdcall irql(PASSIVE_LEVEL) missing
    fn HalAssignSlotResources(
        registry_path: UnicodeStringPtr, driver_class_name: UnicodeStringPtr, driver_object: Ptr<DRIVER_OBJECT>,
        device_object: Ptr<DEVICE_OBJECT>, bus_type: ULong, bus_number: ULong, slot_number: ULong,
        allocated_resources: Ptr<Ptr<u8>>,
    ) -> NtStatus {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtl::test_strings::at;
    use crate::test_platform::machine;

    fn range(kind: u8, share: u8, first: u64, last: u64) -> Range {
        Range {
            kind,
            share,
            flags: 1,
            first,
            last,
        }
    }

    fn report(driver: u64, device: u64, ranges: &[Range], overrides: bool) -> (NtStatus, u8) {
        let mut list = encode(1, 0, ranges);
        let bytes = low32(list.len() as u64);
        let mut detected = 9_u8;
        let detected_at = Ptr::of(&mut detected);
        let status = IoReportResourceUsage(
            UnicodeStringPtr(Ptr::null()),
            Ptr::new(driver),
            Ptr::null(),
            0,
            Ptr::new(device),
            Ptr::of(&mut list[0]),
            bytes,
            overrides,
            detected_at,
        );
        (status, detected_at.read())
    }

    #[test]
    fn lists_are_read_as_they_are_written() {
        let ranges = [
            range(PORT, 1, 0x378, 0x37F),
            range(INTERRUPT, 3, 0x37, 0x37),
            range(MEMORY, 1, 0x1_FEC0_0000, 0x1_FEC0_0FFF),
            range(DMA, 0, 3, 3),
        ];
        let mut list = encode(1, 0, &ranges);
        let bytes = low32(list.len() as u64);
        let start = Ptr::of(&mut list[0]);
        assert_eq!(parse(start, bytes), Ok(ranges.to_vec()));
        assert_eq!(parse(start, bytes - 1), Err(NtStatus::INVALID_PARAMETER));
        assert_eq!(parse(Ptr::null(), 5), Ok(Vec::new()));
    }

    #[test]
    fn overlapping_claims_conflict_unless_shared() {
        let _machine = machine();
        let ports = |first, last| [range(PORT, 1, first, last)];
        assert_eq!(
            report(1, 2, &ports(0x378, 0x37F), false),
            (NtStatus::SUCCESS, 0)
        );
        let refused = (NtStatus::CONFLICTING_ADDRESSES, 1);
        assert_eq!(report(3, 4, &ports(0x37F, 0x380), false), refused);
        assert_eq!(
            report(3, 4, &ports(0x380, 0x380), false),
            (NtStatus::SUCCESS, 0)
        );
        // Its own are replaced, and free for others then.
        assert_eq!(
            report(1, 2, &ports(0x377, 0x37F), false),
            (NtStatus::SUCCESS, 0)
        );
        assert_eq!(report(1, 2, &[], false), (NtStatus::SUCCESS, 0));
        assert_eq!(
            report(3, 4, &ports(0x378, 0x380), false),
            (NtStatus::SUCCESS, 0)
        );
        assert_eq!(
            report(5, 6, &ports(0x378, 0x378), true),
            (NtStatus::SUCCESS, 1)
        );
        let line = |share| [range(INTERRUPT, share, 0x35, 0x35)];
        assert_eq!(report(1, 2, &line(3), false).1, 0);
        assert_eq!(report(3, 9, &line(3), false).1, 0);
        assert_eq!(report(7, 8, &line(1), false), refused);
    }

    #[test]
    fn requirements_are_met_by_the_first_free_range() {
        let _machine = machine();
        report(1, 2, &[range(PORT, 1, 0x300, 0x30B)], false);
        // Ports: 8 of them at a multiple of 8 from 0x300 to 0x317, or else anywhere.
        let requirement = |option: u32, highest: u32| {
            let head = u32::from_le_bytes([0, PORT, 1, 0]) | option;
            [head, 1, 8, 8, 0x300, 0, highest, 0]
        };
        let mut list = vec![0_u32; 8];
        list[1] = 5;
        list[7] = 1;
        list.extend([1 | 1 << 16, 3]);
        list.extend(requirement(0, 0x317));
        list.extend(requirement(0, 0x317));
        list.extend(requirement(ALTERNATIVE.into(), 0xFFFF));
        list[0] = low32(list.len() as u64 * 4);
        let mut result = Ptr::<u8>::null();
        let result_at = Ptr::of(&mut result);
        let nobody = UnicodeStringPtr(Ptr::null());
        let ask = |list: &mut Vec<u32>| {
            let list = at(list).cast();
            IoAssignResources(nobody, nobody, Ptr::new(3), Ptr::new(4), list, result_at)
        };
        assert_eq!(ask(&mut list), NtStatus::SUCCESS);
        let found = parse(result_at.read(), low32(20 + 2 * DESCRIPTOR_BYTES as u64)).unwrap();
        assert_eq!(found[0], range(PORT, 1, 0x310, 0x317));
        assert_eq!(found[1], range(PORT, 1, 0x318, 0x31F));
        assert_eq!(report(1, 2, &[range(PORT, 1, 0x317, 0x317)], false).1, 1);
        // Without the alternative there is one range too few.
        list[9] = 2;
        assert_eq!(ask(&mut list), NtStatus::CONFLICTING_ADDRESSES);
        assert!(result_at.read().is_null());
        let give_back = IoAssignResources(
            nobody,
            nobody,
            Ptr::new(3),
            Ptr::new(4),
            Ptr::null(),
            result_at,
        );
        assert_eq!(give_back, NtStatus::SUCCESS);
        assert_eq!(report(1, 2, &[range(PORT, 1, 0x317, 0x317)], false).1, 0);
    }
}
