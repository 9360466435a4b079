//! Adapters as drivers use them, on the test machine.

use std::sync::Mutex;

use super::api::*;
use super::*;
use crate::mm;
use crate::mm::mdl::{MmBuildMdlForNonPagedPool, MmCreateMdl};
use crate::nt::{DEVICE_OBJECT, NtStatus, SCATTER_GATHER_ELEMENT, SCATTER_GATHER_LIST};
use crate::test_platform::{api, call, crash_of, machine, verifying_machine};
use crate::value::{PhysicalAddress, Size};

/// What routines were called with: device, IRP, base or list, context; and the IRQL.
static SEEN: Mutex<Vec<([u64; 4], u8)>> = Mutex::new(Vec::new());
const KEEP: u64 = 1;
const DEALLOCATE: u64 = 2;
const KEEP_REGISTERS: u64 = 3;

/// The context is what it returns.
extern "win64-unwind" fn routine(device: u64, irp: u64, base: u64, context: u64) -> u64 {
    let seen = ([device, irp, base, context], shared::irql());
    SEEN.lock().unwrap().push(seen);
    context
}

fn take_seen() -> Vec<([u64; 4], u8)> {
    core::mem::take(&mut *SEEN.lock().unwrap())
}

fn at_dispatch<R>(run: impl FnOnce() -> R) -> R {
    let old = crate::ke::irql::raise(DISPATCH_LEVEL);
    let result = run();
    crate::ke::irql::lower(old);
    result
}

fn description(is_scatter: bool, longest: u32) -> DEVICE_DESCRIPTION {
    DEVICE_DESCRIPTION {
        Version: 2,
        Master: 1,
        ScatterGather: is_scatter.into(),
        DemandMode: 0,
        AutoInitialize: 0,
        Dma32BitAddresses: 1,
        IgnoreCount: 0,
        Reserved1: 0,
        Dma64BitAddresses: 0,
        BusNumber: 0,
        DmaChannel: 0,
        InterfaceType: 5,
        DmaWidth: 0,
        DmaSpeed: 0,
        MaximumLength: longest,
        DmaPort: 0,
    }
}

fn adapter(is_scatter: bool, longest: u32) -> (Ptr<DMA_ADAPTER>, u32) {
    create(&description(is_scatter, longest)).unwrap()
}

/// An MDL for `pages` whole pages less `cut` bytes at the start whose frames are in reverse order, and their physical
/// addresses in that order: nothing of it is contiguous.
fn shuffled(pages: u64, cut: u64) -> (Ptr<MDL>, Vec<u64>) {
    let wanted = pool::Wanted {
        bytes: pages * PAGE_SIZE,
        tag: 1,
        owner: pool::SHIM,
        is_paged: false,
        is_page_aligned: true,
    };
    let memory = pool::allocate_contiguous(&wanted, 0, u64::MAX, 0);
    let mdl = MmCreateMdl(
        Ptr::null(),
        memory.add_bytes(cut),
        Size(pages * PAGE_SIZE - cut),
    );
    MmBuildMdlForNonPagedPool(mdl);
    let frames = mdl.offset(1).cast::<Word>();
    let mut numbers: Vec<Word> = frames.read_slice(usize::try_from(pages).unwrap());
    numbers.reverse();
    for (index, &number) in numbers.iter().enumerate() {
        frames.offset(i64::try_from(index).unwrap()).write(number);
    }
    (
        mdl,
        numbers.iter().map(|&number| number * PAGE_SIZE).collect(),
    )
}

fn start(mdl: Ptr<MDL>) -> Ptr<u8> {
    Ptr::new(buffer_of(&mdl.read()))
}

fn memory(physical: u64) -> Ptr<u8> {
    Ptr::new(mm::virtual_for_physical(physical).unwrap())
}

fn allocate(adapter: Ptr<DMA_ADAPTER>, count: u32, action: u64) -> NtStatus {
    let routine = Ptr::new(routine as *const () as u64);
    at_dispatch(|| IoAllocateAdapterChannel(adapter, Ptr::null(), count, routine, Ptr::new(action)))
}

fn map(
    adapter: Ptr<DMA_ADAPTER>,
    mdl: Ptr<MDL>,
    base: u64,
    offset: u64,
    bytes: u32,
    is_write: bool,
) -> (u64, u32) {
    let mut length = bytes;
    let at = Ptr::of(&mut length);
    let address = start(mdl).add_bytes(offset);
    let physical = IoMapTransfer(adapter, mdl, Size(base), address, at, is_write);
    (physical.0, at.read())
}

fn elements(list: u64) -> Vec<(u64, u32)> {
    let list = Ptr::<SCATTER_GATHER_LIST>::new(list);
    let count = list.read().NumberOfElements as usize;
    let all = list.offset(1).cast::<SCATTER_GATHER_ELEMENT>();
    all.read_slice(count)
        .iter()
        .map(|element| (element.Address, element.Length))
        .collect()
}

#[test]
fn adapters_by_description() {
    let _machine = machine();
    let registers = |change: &dyn Fn(&mut DEVICE_DESCRIPTION)| {
        let mut description = description(true, 0x1_0000);
        change(&mut description);
        create(&description).map(|(adapter, count)| (adapter.read().Version, count))
    };
    assert_eq!(registers(&|_| {}), Some((2, 17)));
    assert_eq!(registers(&|it| it.Version = 1), Some((1, 17)));
    assert_eq!(registers(&|it| it.Version = 0), Some((1, 17)));
    assert_eq!(registers(&|it| it.Version = 3), None);
    assert_eq!(registers(&|it| it.MaximumLength = 1), Some((2, 2)));
    assert_eq!(
        registers(&|it| it.MaximumLength = u32::MAX),
        Some((2, 0x10_0001))
    );
    // Without scatter/gather there are pages behind them.
    let whole = |it: &mut DEVICE_DESCRIPTION| {
        it.ScatterGather = 0;
        it.MaximumLength = u32::MAX;
    };
    assert_eq!(registers(&whole), Some((2, 64)));
    // What cannot reach 16 MiB.
    assert_eq!(registers(&|it| it.Master = 0), None);
    let isa = |it: &mut DEVICE_DESCRIPTION| {
        it.InterfaceType = ISA;
        it.Dma32BitAddresses = 0;
    };
    assert_eq!(registers(&isa), None);
    let old = |it: &mut DEVICE_DESCRIPTION| {
        isa(it);
        it.Dma64BitAddresses = 1;
        it.Version = 0;
    };
    assert_eq!(registers(&old), None);
    assert!(
        registers(&|it| {
            old(it);
            it.Version = 1;
        })
        .is_some()
    );
}

#[test]
fn the_table_has_the_routines_in_order() {
    let _machine = machine();
    let (adapter, _) = adapter(true, 0x1000);
    let header = adapter.read();
    let operations = Ptr::<DMA_OPERATIONS>::new(from_word(header.DmaOperations)).read();
    assert_eq!((header.Size, operations.Size), (16, 128));
    assert_eq!(call(operations.Routines[8], &[adapter.addr()]), 1);
    assert_eq!(call(operations.Routines[9], &[adapter.addr()]), 0);
    let mut physical = 0_u64;
    let at = Ptr::of(&mut physical);
    let buffer = call(
        operations.Routines[1],
        &[adapter.addr(), 0x1001, at.addr(), 1],
    );
    assert_eq!(mm::physical_address(buffer), Some(at.read()));
    call(
        operations.Routines[2],
        &[adapter.addr(), 0x1001, at.read(), buffer, 1],
    );
    call(operations.Routines[0], &[adapter.addr()]);
    let record = crash_of(|| HalPutDmaAdapter(adapter));
    assert_eq!(record.code, DRIVER_VERIFIER_DMA_VIOLATION);
    assert_eq!(record.parameters[0], number::RELEASED);
    let record = crash_of(|| {
        let _ = HalReadDmaCounter(Ptr::new(0x1234));
    });
    assert_eq!(record.parameters[0], number::NO_ADAPTER);
}

#[test]
fn common_buffers_are_freed_as_they_were_allocated() {
    let _machine = machine();
    let (adapter, _) = adapter(false, 0x1000);
    let mut physical = 0_u64;
    let at = Ptr::of(&mut physical);
    assert!(HalAllocateCommonBuffer(adapter, 0, at, true).is_null());
    let buffer = HalAllocateCommonBuffer(adapter, 0x1800, at, false);
    assert_eq!(buffer.addr() % PAGE_SIZE, 0);
    assert_eq!(buffer.read_slice(0x1800), vec![0; 0x1800]);
    let record = crash_of(|| {
        HalFreeCommonBuffer(adapter, 0x1000, PhysicalAddress(at.read()), buffer, false);
    });
    assert_eq!(
        record.parameters[..2],
        [number::COMMON_BUFFER_FREED_TWICE, buffer.addr()]
    );
    HalFreeCommonBuffer(adapter, 0x1800, PhysicalAddress(at.read()), buffer, false);
}

#[test]
fn channels_are_queued() {
    let _machine = machine();
    take_seen();
    let (adapter, count) = adapter(false, 0x3000);
    assert_eq!(count, 4);
    assert_eq!(allocate(adapter, 5, KEEP), NtStatus::INSUFFICIENT_RESOURCES);
    assert_eq!(allocate(adapter, 2, KEEP), NtStatus::SUCCESS);
    let seen = take_seen();
    assert_eq!((seen.len(), seen[0].1), (1, DISPATCH_LEVEL));
    assert_eq!(seen[0].0[3], KEEP);
    // The channel is taken: all of these wait, in order.
    for (registers, action) in [
        (3, KEEP_REGISTERS),
        (1, DEALLOCATE),
        (2, KEEP_REGISTERS),
        (0, KEEP),
    ] {
        assert_eq!(allocate(adapter, registers, action), NtStatus::SUCCESS);
    }
    assert!(take_seen().is_empty());
    at_dispatch(|| IoFreeAdapterChannel(adapter));
    // The third has to wait for registers, and the fourth behind it.
    let seen = take_seen();
    let contexts: Vec<u64> = seen.iter().map(|seen| seen.0[3]).collect();
    assert_eq!(contexts, [KEEP_REGISTERS, DEALLOCATE]);
    at_dispatch(|| IoFreeMapRegisters(adapter, Size(seen[0].0[2]), 3));
    let seen = take_seen();
    let contexts: Vec<u64> = seen.iter().map(|seen| seen.0[3]).collect();
    assert_eq!(contexts, [KEEP_REGISTERS, KEEP]);
    assert_eq!(seen[1].0[2], 0, "no map registers: no base");
    at_dispatch(|| IoFreeMapRegisters(adapter, Size(seen[0].0[2]), 2));
    at_dispatch(|| IoFreeAdapterChannel(adapter));
    HalPutDmaAdapter(adapter);
    assert_eq!(shared::irql(), 0);
}

#[test]
fn a_device_that_scatters_gets_memory_as_it_is() {
    let _machine = machine();
    take_seen();
    let (adapter, _) = adapter(true, 0x1_0000);
    let (mdl, frames) = shuffled(3, 0x10);
    allocate(adapter, 3, KEEP);
    let base = take_seen()[0].0[2];
    assert_ne!(base, 0);
    assert_eq!(
        map(adapter, mdl, base, 0, 0x2FF0, true),
        (frames[0] + 0x10, 0xFF0)
    );
    assert_eq!(
        map(adapter, mdl, base, 0xFF0, 0x2000, true),
        (frames[1], 0x1000)
    );
    assert_eq!(
        map(adapter, mdl, base, 0x1FF0, 0x20, true),
        (frames[2], 0x20)
    );
    let va = start(mdl);
    assert!(IoFlushAdapterBuffers(
        adapter,
        mdl,
        Size(base),
        va,
        0x2010,
        true
    ));
    at_dispatch(|| IoFreeAdapterChannel(adapter));
    let record = crash_of(|| {
        let _ = map(adapter, mdl, base, 0x2FF0, 1, true);
    });
    assert_eq!(record.parameters[0], number::BAD_BUFFER);
}

#[test]
fn transfers_without_scatter_are_copied_through_map_registers() {
    let _machine = machine();
    take_seen();
    let (adapter, count) = adapter(false, 0x3000);
    let (mdl, frames) = shuffled(3, 0x100);
    for (index, &frame) in frames.iter().enumerate() {
        memory(frame).fill(u8::try_from(index + 1).unwrap(), PAGE_SIZE);
    }
    allocate(adapter, count, KEEP);
    let base = take_seen()[0].0[2];
    let va = start(mdl);
    // To the device: copied when it is mapped.
    let (physical, bytes) = map(adapter, mdl, base, 0, 0x2F00, true);
    assert_eq!((physical % PAGE_SIZE, bytes), (0x100, 0x2F00));
    let device = memory(physical);
    assert_eq!(device.add_bytes(0xEFF).read_slice(2), [1, 2]);
    assert_eq!(device.add_bytes(0x1EFF).read_slice(2), [2, 3]);
    device.fill(9, 0x2F00);
    assert!(IoFlushAdapterBuffers(
        adapter,
        mdl,
        Size(base),
        va,
        0x2F00,
        true
    ));
    assert_eq!(memory(frames[2]).read(), 3, "nothing comes back");
    // From the device: copied when it is flushed, and only that.
    let (physical, _) = map(adapter, mdl, base, 0, 0x2F00, false);
    memory(physical).fill(7, 0x2F00);
    assert_eq!(memory(frames[1]).read(), 2);
    assert!(IoFlushAdapterBuffers(
        adapter,
        mdl,
        Size(base),
        va,
        0x1000,
        false
    ));
    assert_eq!(memory(frames[0] + 0xFFF).read(), 7);
    assert_eq!(memory(frames[0] + 0xFF).read(), 1);
    assert_eq!(memory(frames[1] + 0xFF).read_slice(2), [7, 2]);
    // What is contiguous is not copied.
    assert_eq!(
        map(adapter, mdl, base, 0xF00, 0x1000, true),
        (frames[1], 0x1000)
    );
    assert!(IoFlushAdapterBuffers(
        adapter,
        mdl,
        Size(base),
        va.add_bytes(0xF00),
        0x1000,
        true
    ));
    // Too few registers: as much as they hold, and then none.
    at_dispatch(|| IoFreeAdapterChannel(adapter));
    allocate(adapter, 2, KEEP);
    let base = take_seen()[0].0[2];
    assert_eq!(map(adapter, mdl, base, 0, 0x2F00, true).1, 0x1F00);
    let record = crash_of(|| {
        let _ = map(adapter, mdl, base, 0xE00, 0x1000, true);
    });
    assert_eq!(record.parameters[0], number::TOO_MANY_REGISTERS);
}

#[test]
fn what_a_device_cannot_address_is_copied() {
    let _machine = machine();
    take_seen();
    let (mdl, frames) = shuffled(3, 0);
    // The last frame is the lowest: only that is below the limit. Map registers are lower still.
    let limit = frames[2] + PAGE_SIZE - 1;
    let Some((adapter, count)) = create_within(limit, true, 0x3000, 2) else {
        panic!("there is memory below");
    };
    assert_eq!(count, 4);
    allocate(adapter, 3, KEEP);
    let base = take_seen()[0].0[2];
    memory(frames[0]).fill(0x5A, PAGE_SIZE);
    let (far, bytes) = map(adapter, mdl, base, 0, 0x3000, true);
    assert!(far < limit && bytes == 0x1000);
    assert_eq!(memory(far).read(), 0x5A);
    assert_eq!(
        map(adapter, mdl, base, 0x2000, 0x1000, true),
        (frames[2], 0x1000)
    );
    let (next, _) = map(adapter, mdl, base, 0x1000, 0x1000, true);
    assert_eq!(next, far + 0x1000, "the next register");
}

#[test]
fn lists_have_an_element_for_each_run() {
    let _machine = machine();
    take_seen();
    let (adapter, _) = adapter(true, 0x3000);
    let (mdl, frames) = shuffled(3, 0x800);
    let get = |length| {
        let routine = Ptr::new(routine as *const () as u64);
        let va = start(mdl);
        at_dispatch(|| {
            HalpGetScatterGatherList(
                adapter,
                Ptr::<DEVICE_OBJECT>::null(),
                mdl,
                va,
                length,
                routine,
                Ptr::new(77),
                false,
            )
        })
    };
    assert_eq!(get(0x2801), NtStatus::BUFFER_TOO_SMALL);
    assert_eq!(get(0x1900), NtStatus::SUCCESS);
    let seen = take_seen();
    assert_eq!((seen[0].0[3], seen[0].1), (77, DISPATCH_LEVEL));
    let list = seen[0].0[2];
    let expected = [
        (frames[0] + 0x800, 0x800),
        (frames[1], 0x1000),
        (frames[2], 0x100),
    ];
    assert_eq!(elements(list), expected);
    let mut target = mdl;
    let at = Ptr::of(&mut target);
    assert_eq!(
        HalpBuildMdlFromScatterGatherList(adapter, Ptr::new(list), mdl, at),
        NtStatus::SUCCESS
    );
    assert_eq!(at.read(), mdl);
    at_dispatch(|| HalpPutScatterGatherList(adapter, Ptr::new(list), false));
    let record = crash_of(|| HalpPutScatterGatherList(adapter, Ptr::new(list), false));
    assert_eq!(record.parameters[0], number::LIST_FREED_TWICE);
}

#[test]
fn lists_of_a_device_that_does_not_scatter_have_one_element() {
    let _machine = machine();
    take_seen();
    let (adapter, _) = adapter(false, 0x3000);
    let (mdl, frames) = shuffled(2, 0x800);
    let (next, _) = shuffled(1, 0);
    mdl.with(|mdl| mdl.Next = next);
    let va = start(mdl);
    let mut sizes = [0_u32; 2];
    let at = Ptr::of(&mut sizes[0]);
    let status = HalpCalculateScatterGatherListSize(adapter, mdl, va, 0x2800, at, at.offset(1));
    assert_eq!((status, at.offset(1).read()), (NtStatus::SUCCESS, 3));
    let room = at.read();
    let buffer = pool::allocate_zeroed(room.into(), *b"test").unwrap();
    let build = |room| {
        let routine = Ptr::new(routine as *const () as u64);
        at_dispatch(|| {
            HalpBuildScatterGatherList(
                adapter,
                Ptr::null(),
                mdl,
                va,
                0x2800,
                routine,
                Ptr::null(),
                false,
                buffer.cast(),
                room,
            )
        })
    };
    assert_eq!(build(room - 1), NtStatus::BUFFER_TOO_SMALL);
    assert_eq!(build(room), NtStatus::SUCCESS);
    assert_eq!(take_seen()[0].0[2], buffer.addr());
    let [(physical, 0x2800)] = elements(buffer.addr())[..] else {
        panic!("{:?}", elements(buffer.addr()));
    };
    memory(physical).fill(0xEE, 0x2800);
    let mut target = Ptr::null();
    let at = Ptr::of(&mut target);
    assert_eq!(
        HalpBuildMdlFromScatterGatherList(adapter, buffer.cast(), mdl, at),
        NtStatus::SUCCESS
    );
    let built = at.read();
    assert_ne!(built, mdl);
    let number: Word = built.offset(1).cast::<Word>().read();
    assert_eq!(
        (number, built.read().ByteCount),
        (physical / PAGE_SIZE, 0x2800)
    );
    at_dispatch(|| HalpPutScatterGatherList(adapter, buffer.cast(), false));
    assert_eq!(memory(frames[0] + 0x7FF).read_slice(2), [0, 0xEE]);
    assert_eq!(memory(frames[1] + 0xFFF).read(), 0xEE);
    HalPutDmaAdapter(adapter);
}

#[test]
fn mistakes_that_nt_survives_are_the_verifiers() {
    let plain = machine();
    let (one, _) = adapter(true, 0x1000);
    at_dispatch(|| IoFreeAdapterChannel(one));
    at_dispatch(|| IoFreeMapRegisters(one, Size(0x50), 1));
    drop(plain);
    let _machine = verifying_machine();
    take_seen();
    let (one, _) = adapter(true, 0x1000);
    let number = |run: &dyn Fn()| {
        let record = crash_of(run);
        shared::set_irql(0);
        assert_eq!(record.code, DRIVER_VERIFIER_DMA_VIOLATION);
        record.parameters[0]
    };
    assert_eq!(number(&|| IoFreeAdapterChannel(one)), number::IRQL);
    assert_eq!(
        number(&|| at_dispatch(|| IoFreeAdapterChannel(one))),
        number::CHANNEL_FREED_TWICE
    );
    let free = |base, count| at_dispatch(|| IoFreeMapRegisters(one, Size(base), count));
    assert_eq!(number(&|| free(0x50, 1)), number::REGISTERS_FREED_TWICE);
    allocate(one, 2, KEEP_REGISTERS);
    let base = take_seen()[0].0[2];
    assert_eq!(number(&|| HalPutDmaAdapter(one)), number::REGISTERS_LEFT);
    assert_eq!(number(&|| free(base, 1)), number::REGISTERS_FREED_TWICE);
    let (mdl, _) = shuffled(1, 0);
    let flush = || {
        IoFlushAdapterBuffers(one, mdl, Size(base), start(mdl), 8, true);
    };
    assert_eq!(number(&flush), number::NOT_MAPPED);
    map(one, mdl, base, 0, 8, true);
    assert_eq!(number(&|| free(base, 2)), number::STILL_MAPPED);
    flush();
    free(base, 2);
    allocate(one, 0, KEEP);
    map(one, mdl, 0, 0, 8, true);
    assert_eq!(
        number(&|| at_dispatch(|| IoFreeAdapterChannel(one))),
        number::NOT_FLUSHED
    );
    assert_eq!(number(&|| HalPutDmaAdapter(one)), number::CHANNEL_LEFT);
    assert_eq!(api("HalReadDmaCounter", &[one.addr()]), 0);
}
