//! The floor: bare KVM, with nothing of Ringfence in it.

use std::fs::File;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use abi::Privilege;
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use rustix::event::EventfdFlags;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const RAM_BYTES: u64 = 0x10_0000;
const CODE: u64 = 0x1000;
const STACK: u64 = 0x3000;
const PAGE_TABLES: u64 = 0x4000;
/// Port of the measured writes.
const PORT: u16 = 0x300;
/// Where no memory is, in the page that is mapped.
const NO_MEMORY: u64 = 0x18_0000;
/// The write that ends a measurement.
const END_PORT: u8 = 0x81;
/// Present, writable, CPL 3.
const TABLE_ENTRY: u64 = 7;
const LARGE_PAGE: u64 = 0x80;

struct Guest {
    vcpu: VcpuFd,
    // Dropped after the vCPU: the VM's memory slot points into the memory.
    _vm: VmFd,
    _memory: GuestMemoryMmap,
}

fn segment(selector: u16, kind: u8, dpl: u8, long: u8) -> kvm_segment {
    kvm_segment {
        limit: 0xFFFF_FFFF,
        selector,
        type_: kind,
        present: 1,
        dpl,
        db: 1 - long,
        s: 1,
        l: long,
        g: 1,
        ..Default::default()
    }
}

/// A long-mode guest with 2 MiB identity-mapped that executes `code`.
#[expect(
    unsafe_code,
    reason = "KVM_SET_USER_MEMORY_REGION takes a host address"
)]
fn guest(privilege: Privilege, code: &[u8]) -> Result<Guest, Failure> {
    let kvm = Kvm::new()?;
    let vm = kvm.create_vm()?;
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), usize::try_from(RAM_BYTES)?)])?;
    memory.write_slice(code, GuestAddress(CODE))?;
    let entries = [
        (PAGE_TABLES, (PAGE_TABLES + 0x1000) | TABLE_ENTRY),
        (PAGE_TABLES + 0x1000, (PAGE_TABLES + 0x2000) | TABLE_ENTRY),
        (PAGE_TABLES + 0x2000, LARGE_PAGE | TABLE_ENTRY),
    ];
    for (address, entry) in entries {
        memory.write_slice(&u64::to_le_bytes(entry), GuestAddress(address))?;
    }
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: RAM_BYTES,
        userspace_addr: memory.get_host_address(GuestAddress(0))? as u64,
    };
    // SAFETY: `Guest` keeps the memory for longer than the VM.
    unsafe { vm.set_user_memory_region(region) }?;
    let vcpu = vm.create_vcpu(0)?;
    vcpu.set_cpuid2(&kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?)?;
    let mut sregs = vcpu.get_sregs()?;
    let (code_selector, data_selector, dpl) = match privilege {
        Privilege::Ring0 => (0x10, 0x18, 0),
        Privilege::Ring3 => (0x33, 0x2B, 3),
    };
    sregs.cs = segment(code_selector, 0xB, dpl, 1);
    let data = segment(data_selector, 3, dpl, 0);
    (sregs.ss, sregs.ds, sregs.es) = (data, data, data);
    // A task segment over zeroed memory: its I/O bitmap allows every port.
    sregs.tr.base = STACK;
    sregs.tr.limit = 0xFFFF;
    sregs.cr0 = 0x8001_0033;
    sregs.cr3 = PAGE_TABLES;
    sregs.cr4 = 0x620;
    sregs.efer = 0x500;
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&kvm_regs {
        rip: CODE,
        rsp: STACK,
        rflags: 2,
        ..Default::default()
    })?;
    Ok(Guest {
        vcpu,
        _vm: vm,
        _memory: memory,
    })
}

/// Creates a VM and a vCPU and takes one exit.
pub(crate) fn one_exit() -> Result<(), Failure> {
    let privilege = vmm::machine::host::KvmKind::detect();
    let privilege = if privilege == vmm::machine::host::KvmKind::Paravirtual {
        Privilege::Ring3
    } else {
        Privilege::Ring0
    };
    // out END_PORT, al
    let mut guest = guest(privilege, &[0xE6, END_PORT])?;
    match guest.vcpu.run()? {
        VcpuExit::IoOut(port, _) if port == u16::from(END_PORT) => Ok(()),
        other => Err(format!("unexpected exit {other:?}").into()),
    }
}

/// Time of `count` one-byte port writes, each an exit.
pub(crate) fn port_writes(privilege: Privilege, count: u32) -> Result<Duration, Failure> {
    let [p0, p1] = PORT.to_le_bytes();
    let [c0, c1, c2, c3] = count.to_le_bytes();
    // mov dx, PORT / mov ecx, count / again: out dx, al / dec ecx / jnz again / out END_PORT, al
    let code = [
        0x66, 0xBA, p0, p1, 0xB9, c0, c1, c2, c3, 0xEE, 0xFF, 0xC9, 0x75, 0xFB, 0xE6, END_PORT,
    ];
    let mut guest = guest(privilege, &code)?;
    let started = Instant::now();
    let mut writes = 0;
    loop {
        match guest.vcpu.run()? {
            VcpuExit::IoOut(PORT, _) => writes += 1,
            VcpuExit::IoOut(port, _) if port == u16::from(END_PORT) => break,
            other => return Err(format!("unexpected exit {other:?}").into()),
        }
    }
    if writes != count {
        return Err(format!("{writes} exits for {count} writes").into());
    }
    Ok(started.elapsed())
}

/// Time of `count` writes of a byte to one of the host's own ports, by instructions.
#[expect(unsafe_code, reason = "ioperm(2) and OUT have no safe form")]
pub(crate) fn host_writes(port: u16, count: u32) -> Result<Duration, Failure> {
    // SAFETY: three numbers; it changes what this thread's port instructions may do, and the one below is the only one.
    let result = unsafe { libc::ioperm(port.into(), 1, 1) };
    if result != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    let started = Instant::now();
    for _ in 0..count {
        // SAFETY: the port was granted above; it is one whose writes change no memory.
        unsafe {
            std::arch::asm!("out dx, al", in("dx") port, in("al") 0_u8, options(nomem, nostack, preserves_flags));
        }
    }
    Ok(started.elapsed())
}

/// Times of `count` stores to where no memory is, each an exit and an entry.
pub(crate) fn memory_writes(privilege: Privilege, count: usize) -> Result<Vec<Duration>, Failure> {
    let [a0, a1, a2, a3] = u32::try_from(NO_MEMORY)?.to_le_bytes();
    // mov ebx, NO_MEMORY / again: mov [rbx], eax / jmp again
    let code = [0xBB, a0, a1, a2, a3, 0x89, 0x03, 0xEB, 0xFC];
    let mut guest = guest(privilege, &code)?;
    let mut samples = Vec::with_capacity(count);
    for _ in 0..count {
        let started = Instant::now();
        let exit = guest.vcpu.run()?;
        samples.push(started.elapsed());
        if !matches!(exit, VcpuExit::MmioWrite(NO_MEMORY, _)) {
            return Err(format!("unexpected exit {exit:?}").into());
        }
    }
    Ok(samples)
}

/// Times of `count` round trips of two threads that wake each other by eventfds and sleep.
pub(crate) fn eventfd_round_trips(count: usize) -> Result<Vec<Duration>, Failure> {
    let eventfd = || -> Result<File, Failure> {
        Ok(rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?.into())
    };
    let (there, back) = (eventfd()?, eventfd()?);
    let (mut asked, mut answer) = (there.try_clone()?, back.try_clone()?);
    let other = std::thread::spawn(move || -> std::io::Result<()> {
        let mut bytes = [0; 8];
        for _ in 0..count {
            asked.read_exact(&mut bytes)?;
            answer.write_all(&1_u64.to_ne_bytes())?;
        }
        Ok(())
    });
    let mut samples = Vec::with_capacity(count);
    let (mut there, mut back) = (there, back);
    let mut bytes = [0; 8];
    for _ in 0..count {
        let started = Instant::now();
        there.write_all(&1_u64.to_ne_bytes())?;
        back.read_exact(&mut bytes)?;
        samples.push(started.elapsed());
    }
    other.join().map_err(|_| "a thread panicked")??;
    Ok(samples)
}

/// How many round trips `clients` threads make in `time` with one thread that answers them all, one at a time each, by
/// eventfds. Nobody looks before it sleeps; the one that answers takes all that it is woken for before it sleeps again.
pub(crate) fn eventfd_clients(clients: usize, time: Duration) -> Result<u64, Failure> {
    let eventfd = || -> Result<Arc<File>, Failure> {
        Ok(Arc::new(
            rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?.into(),
        ))
    };
    let pairs = (0..clients)
        .map(|_| Ok((eventfd()?, eventfd()?)))
        .collect::<Result<Vec<_>, Failure>>()?;
    let end = eventfd()?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let watched = pairs.iter().map(|(there, _)| there).chain([&end]);
    for (index, file) in watched.enumerate() {
        epoll::add(
            &epoll,
            file,
            EventData::new_u64(index as u64),
            EventFlags::IN,
        )?;
    }
    let answered = pairs.clone();
    let server = std::thread::spawn(move || -> std::io::Result<()> {
        let mut events = [const { MaybeUninit::uninit() }; 32];
        loop {
            let (ready, _) = epoll::wait(&epoll, &mut events, None)?;
            for event in ready {
                let index = usize::try_from(event.data.u64()).unwrap_or(usize::MAX);
                let Some((there, back)) = answered.get(index) else {
                    return Ok(());
                };
                there.as_ref().read_exact(&mut [0; 8])?;
                back.as_ref().write_all(&1_u64.to_ne_bytes())?;
            }
        }
    });
    let barrier = Arc::new(Barrier::new(clients + 1));
    let is_over = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = pairs
        .into_iter()
        .map(|(there, back)| {
            let (barrier, is_over) = (Arc::clone(&barrier), Arc::clone(&is_over));
            std::thread::spawn(move || -> std::io::Result<u64> {
                barrier.wait();
                let mut count = 0;
                while !is_over.load(Ordering::Relaxed) {
                    there.as_ref().write_all(&1_u64.to_ne_bytes())?;
                    back.as_ref().read_exact(&mut [0; 8])?;
                    count += 1;
                }
                Ok(count)
            })
        })
        .collect();
    barrier.wait();
    std::thread::sleep(time);
    is_over.store(true, Ordering::Relaxed);
    let mut total = 0;
    for thread in threads {
        total += thread.join().map_err(|_| "a client panicked")??;
    }
    end.as_ref().write_all(&1_u64.to_ne_bytes())?;
    server.join().map_err(|_| "the server panicked")??;
    Ok(total)
}
