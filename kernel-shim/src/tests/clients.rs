//! Clients of the channel whose memory is mapped: the test is the client, and the VMM.

use super::*;
use crate::client;
use crate::mm;
use crate::platform::{Outcome, Platform, Trap};
use crate::test_platform::Machine;
use crate::value::{Size, Tag};
use abi::client::{
    DESCRIPTOR_NEXT, DESCRIPTOR_WRITE, Descriptor, Opcode, QueueLayout, RequestHeader,
    ResultHeader, UsedElement,
};
use abi::clients::{Attach, Slot};
use abi::layout::{CLIENT_USER, LARGE_PAGE, Shared, client_window};
use zerocopy::{FromBytes, IntoBytes};

/// The client's number for the handle.
const NUMBER: u64 = 0x44;
const DATA_BYTES: u64 = 0x1_0000;

/// A client in a slot.
struct Peer {
    slot: u32,
    base: u64,
    layout: QueueLayout,
    available: u16,
    used: u16,
}

impl Peer {
    /// Attaches it, for the process, and opens the device.
    fn new(machine: &mut Machine, slot: u32, process: u32) -> Self {
        let layout = QueueLayout::new(16, DATA_BYTES).unwrap();
        let offset = u64::from(slot) * LARGE_PAGE;
        let (window, _) = client_window(abi::DriverAbi::I386);
        let base = machine.kernel_base() + window + offset;
        Ptr::<u8>::new(base).fill(0, layout.bytes());
        let attach = Attach {
            slot,
            offset,
            queue_size: 16,
            data_bytes: DATA_BYTES,
            process,
            poll_max: 0,
        };
        let done = machine.request(0, Operation::AttachClient, &attach.arguments());
        assert_eq!(done.status, 0);
        let (at, bytes) = machine.text("\\??\\eCHO");
        let arguments = [at, bytes, GENERIC_ALL, u64::from(slot) + 1, NUMBER];
        let opened = machine.request(process, Operation::Open, &arguments);
        assert_eq!(opened.status, 0);
        Self {
            slot,
            base,
            layout,
            available: 0,
            used: 0,
        }
    }

    fn at(&self, offset: u64) -> Ptr<u8> {
        Ptr::new(self.base + offset)
    }

    fn descriptor(&self, index: u16, address: u64, length: u32, flags: u16, next: u16) {
        let descriptor = Descriptor {
            address,
            length,
            flags,
            next,
        };
        self.at(self.layout.descriptor(index))
            .write_bytes(descriptor.as_bytes());
    }

    fn publish(&mut self, head: u16) {
        self.at(self.layout.available_entry(self.available))
            .write_bytes(&head.to_le_bytes());
        self.available += 1;
        self.at(self.layout.available_index())
            .write_bytes(&self.available.to_le_bytes());
    }

    /// A request in four descriptors from `head` on: header, input, result, output; the output lies at `data + 0x2000`.
    fn request(&mut self, head: u16, header: RequestHeader, input: &[u8]) {
        let data = self.layout.data;
        let header = RequestHeader {
            input_bytes: u32::try_from(input.len()).unwrap(),
            ..header
        };
        self.at(data).write_bytes(header.as_bytes());
        self.at(data + 0x1000).write_bytes(input);
        let [first, second, third] = [1, 2, 3].map(|step| head + step);
        self.descriptor(head, data, 64, DESCRIPTOR_NEXT, first);
        let input_bytes = header.input_bytes;
        self.descriptor(first, data + 0x1000, input_bytes, DESCRIPTOR_NEXT, second);
        let both = DESCRIPTOR_NEXT | DESCRIPTOR_WRITE;
        self.descriptor(second, data + 0x1800, 32, both, third);
        let output_bytes = header.output_bytes;
        self.descriptor(third, data + 0x2000, output_bytes, DESCRIPTOR_WRITE, 0);
        self.publish(head);
    }

    fn ioctl(&mut self, head: u16, code: u64, input: &[u8], output_bytes: u32) {
        let header = RequestHeader {
            opcode: Opcode::DeviceControl as u16,
            tag: u64::from(head),
            handle: NUMBER,
            code: u32::try_from(code).unwrap(),
            output_bytes,
            ..RequestHeader::default()
        };
        self.request(head, header, input);
    }

    fn output(&self, count: usize) -> Vec<u8> {
        self.at(self.layout.data + 0x2000).read_slice(count)
    }

    /// The next chain that was given back, with its result.
    fn used(&mut self) -> Option<(UsedElement, ResultHeader)> {
        let index: u16 = self.at(self.layout.used_index()).cast().read();
        if index == self.used {
            return None;
        }
        let element = self.at(self.layout.used_entry(self.used)).read_slice(8);
        self.used += 1;
        let result = self.at(self.layout.data + 0x1800).read_slice(32);
        Some((
            UsedElement::read_from_bytes(&element).unwrap(),
            ResultHeader::read_from_bytes(&result).unwrap(),
        ))
    }

    fn shared(&self, machine: &Machine) -> Slot {
        let at = machine.fake.shared() + Shared::CLIENTS;
        crate::raw::volatile_read(at + u64::from(self.slot) * size_of::<Slot>() as u64)
    }
}

/// Lets the shim take what there is; whether it did something.
fn attend() -> bool {
    let is_any = client::attend(crate::main_loop::serve);
    crate::ke::sched::run_ready();
    is_any
}

fn left_for_vmm(machine: &Machine) -> bool {
    let calls = machine.fake.calls.lock().unwrap();
    calls
        .iter()
        .any(|(call, _)| *call == abi::doorbell::Call::Clients)
}

#[test]
fn requests_are_carried_out_on_the_clients_memory() {
    let (mut machine, _, _) = opened();
    let mut peer = Peer::new(&mut machine, 3, CLIENT);
    // METHOD_BUFFERED, METHOD_IN_DIRECT, METHOD_OUT_DIRECT, METHOD_NEITHER.
    for method in 0..4 {
        peer.ioctl(4, ECHO + method, b"abcd", 8);
        assert!(attend());
        let (element, result) = peer.used().unwrap();
        assert_eq!((element.id, result.status, result.information), (4, 0, 4));
        let copied = if method == 0 { 4 } else { 8 };
        assert_eq!(result.output_bytes, copied);
        assert_eq!(element.length, 32 + copied);
        assert_eq!(peer.output(4), b"bcde", "method {method}");
    }
    assert!(!attend());
    assert!(!left_for_vmm(&machine));
    let slot = peer.shared(&machine);
    assert_eq!((slot.served, slot.is_declined), (4, 0));
    assert_eq!((slot.queue.next_available, slot.queue.used), (4, 4));
    assert_eq!(slot.queue.busy[0], 0);
}

#[test]
fn pending_request_is_cancelled_by_its_tag_and_a_gone_client_waits_for_its_last() {
    let (mut machine, driver, handle) = opened();
    let mut peer = Peer::new(&mut machine, 0, CLIENT);
    peer.ioctl(0, PEND, b"", 0);
    assert!(attend());
    assert_eq!(peer.used(), None);
    assert_eq!(peer.shared(&machine).queue.busy[0], 1);
    let cancel = RequestHeader {
        opcode: Opcode::Cancel as u16,
        argument: 0,
        ..RequestHeader::default()
    };
    peer.request(8, cancel, b"");
    assert!(attend());
    let cancelled = peer.used().unwrap();
    assert_eq!(cancelled.0.id, 0);
    assert_eq!(peer.used().unwrap().0.id, 8);

    peer.ioctl(0, PEND, b"", 0);
    assert!(attend());
    let irp = Ptr::<IRP>::new(PENDED.load(Ordering::Relaxed));
    irp.with(|irp| irp.CancelRoutine = 0);
    let detach = machine.send(0, Operation::DetachClient, &[0]);
    assert!(
        machine.completion(detach).is_none(),
        "the driver has its memory"
    );
    peer.ioctl(4, ECHO, b"abcd", 8);
    assert!(!attend(), "nothing more is taken");
    finish(irp, NtStatus::SUCCESS, 0);
    assert_eq!(machine.completion(detach).unwrap().status, 0);
    let _ = (driver, handle);
}

#[test]
fn busy_client_leaves_the_others_their_turn() {
    let (mut machine, _, _) = opened();
    let mut busy = Peer::new(&mut machine, 31, CLIENT);
    let mut other = Peer::new(&mut machine, 2, CLIENT);
    // Two chains are always there, whatever is taken.
    busy.ioctl(0, ECHO, b"abcd", 8);
    busy.ioctl(4, ECHO, b"abcd", 8);
    assert!(attend());
    for _ in 0..3 {
        let (element, _) = busy.used().unwrap();
        busy.ioctl(u16::try_from(element.id).unwrap(), ECHO, b"abcd", 8);
        other.ioctl(4, ECHO, b"abcd", 8);
        assert!(attend());
        assert!(other.used().is_some(), "it came after the busy one's");
        assert!(attend());
    }
    assert!(busy.used().is_some());
}

#[test]
fn what_is_not_whole_or_not_for_the_shim_is_left_to_the_vmm() {
    let (mut machine, _, _) = opened();
    let mut peer = Peer::new(&mut machine, 1, CLIENT);
    let good = RequestHeader {
        opcode: Opcode::DeviceControl as u16,
        handle: NUMBER,
        code: u32::try_from(ECHO).unwrap(),
        ..RequestHeader::default()
    };
    for bad in [
        RequestHeader {
            opcode: Opcode::Query as u16,
            ..good
        },
        RequestHeader {
            opcode: 999,
            ..good
        },
        RequestHeader {
            handle: NUMBER + 4,
            ..good
        },
        RequestHeader {
            process: CLIENT + 8,
            ..good
        },
        RequestHeader {
            reserved: 1,
            ..good
        },
        RequestHeader {
            opcode: Opcode::Cancel as u16,
            argument: 77,
            ..good
        },
    ] {
        peer.request(0, bad, b"");
        machine.fake.calls.lock().unwrap().clear();
        // What the VMM does when it is asked, here by the test: it takes the chain.
        assert!(attend());
        assert!(left_for_vmm(&machine), "{bad:?}");
        let mut slot = peer.shared(&machine);
        assert_eq!((slot.is_declined, slot.queue.busy[0]), (1, 0));
        assert_eq!(slot.queue.next_available + 1, peer.available);
        slot.is_declined = 0;
        slot.queue.next_available += 1;
        let at = machine.fake.shared() + Shared::CLIENTS + size_of::<Slot>() as u64;
        crate::raw::volatile_write(at, slot);
        client::look(|| ());
        assert!(!attend());
    }
    // A head that does not exist, an index that runs ahead.
    peer.publish(16);
    assert!(attend());
    assert_eq!(peer.shared(&machine).is_declined, 1);
}

#[test]
fn each_client_sees_its_own_memory_at_the_same_address() {
    let (mut machine, _, _) = opened();
    let one = Peer::new(&mut machine, 0, CLIENT);
    let two = Peer::new(&mut machine, 5, CLIENT);
    let bytes = one.layout.bytes();
    assert_eq!(mm::user_alias(CLIENT_USER, 1), None, "nobody's thread");
    client::memory::set_view(1);
    assert_eq!(mm::user_alias(CLIENT_USER + 8, 8), Some(one.base + 8));
    assert_eq!(mm::user_alias(CLIENT_USER, bytes), Some(one.base));
    assert_eq!(mm::user_alias(CLIENT_USER, bytes + 1), None);
    let physical = mm::physical_address(CLIENT_USER).unwrap();
    assert_eq!(mm::physical_address(one.base), Some(physical));
    client::memory::set_view(6);
    assert_eq!(mm::user_alias(CLIENT_USER + 8, 8), Some(two.base + 8));
    assert_ne!(mm::physical_address(CLIENT_USER), Some(physical));
    assert_eq!(mm::virtual_for_physical(physical), Some(one.base));
    client::memory::set_view(0);
    // An MDL is the memory of the pages in it, whoever's thread maps it.
    client::memory::set_view(1);
    let mdl = io::mdl::allocate(CLIENT_USER + 0x10, 0x2000, 0);
    assert!(io::mdl::lock(mdl));
    client::memory::set_view(6);
    assert_eq!(mm::mdl::map(mdl).addr(), one.base + 0x10);
    client::memory::set_view(0);
    io::mdl::free(mdl);
    machine.request(0, Operation::DetachClient, &[0]);
    assert_eq!(mm::physical_address(one.base), None);
}

/// An access of the driver's to an address where nothing is mapped; whether it can be made now.
fn touch(address: u64) -> bool {
    let mut trap = Trap {
        vector: 14,
        error_code: 0,
        registers: abi::crash::Registers {
            cr2: address,
            ..Default::default()
        },
        is_32_bit: false,
    };
    // It is no shim code that makes the access.
    let depth = shared::depth();
    shared::set_depth(0);
    let outcome = crate::trap(&mut trap);
    shared::set_depth(depth);
    outcome == Outcome::Resume
}

#[test]
fn addresses_are_valid_where_an_access_is() {
    let (mut machine, _, _) = opened();
    let peers = [0, 5].map(|slot| Peer::new(&mut machine, slot, CLIENT));
    let mapped = |machine: &Machine| machine.fake.pages.lock().unwrap().clone();
    let is_valid = |address| api("MmIsAddressValid", &[address]) != 0;
    machine.fake.pages.lock().unwrap().clear();
    // Nobody's thread.
    assert!(!is_valid(CLIENT_USER) && !touch(CLIENT_USER));
    for (peer, view) in peers.iter().zip([1, 6]) {
        client::memory::set_view(view);
        assert!(mapped(&machine).is_empty(), "the other's pages are gone");
        for address in [CLIENT_USER + 0x1008, CLIENT_USER + 0x2000] {
            assert!(is_valid(address));
            assert!(touch(address));
            let physical = mm::physical_address(peer.base + (address - CLIENT_USER));
            let page = address & !0xFFF;
            assert_eq!(
                mapped(&machine).get(&page),
                physical.map(|at| at & !0xFFF).as_ref()
            );
        }
        let behind = CLIENT_USER + peer.layout.bytes().next_multiple_of(0x1000);
        assert!(!is_valid(behind) && !touch(behind));
    }
    // A thread that comes back finds it as it left it; its client's end does not.
    client::memory::set_view(6);
    assert_eq!(mapped(&machine).len(), 2);
    machine.request(0, Operation::DetachClient, &[5]);
    assert!(mapped(&machine).is_empty());
    assert!(!is_valid(CLIENT_USER + 0x1008));
    client::memory::set_view(0);
}

static EXPIRED: AtomicU64 = AtomicU64::new(0);

extern "win64-unwind" fn on_expiry(_dpc: u64, _context: u64, _first: u64, _second: u64) -> u64 {
    EXPIRED.fetch_add(1, Ordering::Relaxed)
}

#[test]
fn what_a_timer_queues_runs_before_the_guest_idles() {
    let (mut machine, _, _) = opened();
    let _peer = Peer::new(&mut machine, 0, CLIENT);
    let block = crate::ex::pool_api::ExAllocatePoolWithTag(0, Size(256), Tag(1));
    let (timer, dpc) = (block.cast(), block.add_bytes(128).cast());
    crate::ke::timer::KeInitializeTimer(timer);
    let routine = Ptr::new(on_expiry as *const () as u64);
    crate::ke::dpc::KeInitializeDpc(dpc, routine, Ptr::null());
    EXPIRED.store(0, Ordering::Relaxed);
    crate::ke::timer::set(timer, -100, 0, dpc);
    // It falls due after the main loop has run what could run, and before it looks for requests.
    while crate::ke::timer::next_due() > crate::ke::time::interrupt_time() {}
    let mut idled = 0;

    if !client::attend(crate::main_loop::serve) {
        client::look(|| idled += 1);
    }
    crate::ke::sched::run_ready();

    assert_eq!((idled, EXPIRED.load(Ordering::Relaxed)), (0, 1));
}
