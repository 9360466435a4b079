//! Trap gates: from a processor exception or the tick to [`kernel_shim::trap`] and back.
//!
//! Every gate switches to an IST stack (precompiled `core` uses the red zone, and a fault may be the stack's own
//! overflow). In ring3 mode the gate code, a dozen interpreted instructions at CPL 0, only changes to CPL 3
//! on the same stack. From `guest_trap_entry` on both modes run the same code: it moves the frame to a trap
//! stack of its own nesting level, saves the FPU state, and calls [`guest_trap`].
//!
//! What may switch threads or call the driver (the tick, an exception's dispatch) does not run there: [`redirect`]
//! copies the frame to the interrupted thread's own stack, as NT does, and the handler runs on that stack. So trap
//! stacks are held for a few instructions only, and a thread that is switched away takes its frame along.
//!
//! Between the gate and the move the frame is on the gate's stack, and in ring3 mode interrupts cannot be
//! masked there. The VMM injects no tick while RIP is in `guest_trap_entry..guest_trap_window_end`.
#![expect(unsafe_code, reason = "trap gates in assembly, frames by pointer")]

use core::arch::global_asm;

use abi::crash::Registers;
use abi::header::INTERRUPT_VECTOR;
use abi::layout;
use kernel_shim::nt::FxSave;
use kernel_shim::platform::{Outcome, PageAccess, Trap};
use kernel_shim::raw::{low16, low32};

use crate::{machine, thunk32, user};

/// A trap frame, as `guest_trap_entry` builds it.
#[repr(C, align(16))]
#[derive(Debug)]
pub(crate) struct TrapFrame {
    fpu: [u8; 512],
    /// rax rcx rdx rbx - rbp rsi rdi r8..r15; the fifth is unused (RSP is below).
    pub(crate) general: [u64; 16],
    pub(crate) vector: u64,
    error_code: u64,
    cr2: u64,
    /// Depth of shim code that a redirected exception came at.
    depth: u64,
    pub(crate) rip: u64,
    pub(crate) cs: u64,
    pub(crate) rflags: u64,
    pub(crate) rsp: u64,
    pub(crate) ss: u64,
    reserved2: u64,
}

impl TrapFrame {
    /// The trap as the shim sees it.
    fn as_trap(&self) -> Trap {
        let mut general = self.general;
        general[4] = self.rsp;
        let selector = low16(self.cs);
        Trap {
            vector: low32(self.vector),
            error_code: low32(self.error_code),
            registers: Registers {
                general,
                rip: self.rip,
                rflags: self.rflags,
                cr2: self.cr2,
                cs: self.cs,
            },
            is_32_bit: selector == layout::selector::USER_CODE32
                || selector == layout::selector::KERNEL_CODE32,
        }
    }

    fn set_registers(&mut self, registers: &Registers) {
        self.general = registers.general;
        self.rsp = registers.general[4];
        self.rip = registers.rip;
        self.rflags = registers.rflags;
    }
}

const GENERAL: usize = core::mem::offset_of!(TrapFrame, general);
const VECTOR: usize = core::mem::offset_of!(TrapFrame, vector);
const RIP: usize = core::mem::offset_of!(TrapFrame, rip);
const _: () =
    assert!(size_of::<TrapFrame>() == 720 && VECTOR == GENERAL + 128 && RIP == VECTOR + 32);

unsafe extern "C" {
    /// Gate code of vector 0; the others follow every [`abi::header::VECTOR_STRIDE`] bytes.
    pub(crate) fn guest_vectors();
    /// Common entry of all vectors, at the mode's CPL.
    pub(crate) fn guest_trap_entry();
    /// End of the code that uses a gate's stack or the top trap stack without owning it.
    pub(crate) fn guest_trap_window_end();
    /// Calls the handler of a redirected trap, then resumes: RSP = RDI = frame, RSI = handler.
    fn guest_redirected();
    /// Resumes from a frame: see [`resume`].
    fn guest_resume(frame: *const TrapFrame, depth_word: u64, depth: u64) -> !;
    /// Top of the trap stack for the next trap.
    static mut guest_trap_stack_top: u64;
    /// CPL 0 service: see [`clear_page_table_entries`] and [`fill_page_table_entries`].
    fn guest_change_entries(first_index: u64, count: u64, address: u64, physical: u64);
}

/// Behind the guest-physical addresses that the guest may map itself: RAM, and the memory of clients of the channel, whose
/// MDLs a driver may map anywhere. What lies between has no memory behind it; what follows is the VMM's to hand out.
const MEMORY_END: u64 = layout::CLIENT_WINDOW_GPA + layout::client_window(abi::DriverAbi::Amd64).1;
const _: () = assert!(layout::RAM_BASE + layout::RAM_MAX <= layout::CLIENT_WINDOW_GPA);
const _: () = assert!(MEMORY_END <= layout::IO_WINDOW_GPA);

global_asm!(
    ".section .text.trap, \"ax\"",
    // One gate a vector. Vectors 8, 10-14, 17, 21, 29 and 30 push an error code (Intel SDM vol. 3A, 6.3).
    ".global guest_vectors",
    ".balign 16",
    "guest_vectors:",
    ".set vector, 0",
    ".rept {vectors}",
    ".balign 16",
    ".if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)",
    "   push 0",
    ".endif",
    "   push vector",
    ".if vector == 6",
    "   jmp guest_gate_ud",
    ".else",
    "   jmp guest_gate",
    ".endif",
    ".set vector, vector + 1",
    ".endr",
    // #UD at the service instruction is the shim's call for CPL 0 (ring3 mode only). Interpreted code.
    "guest_gate_ud:",
    "   push rax",
    "   mov rax, [rsp + 24]",
    "   cmp rax, [rip + guest_service_pointer]",
    "   je guest_service",
    "   pop rax",
    "guest_gate:",
    "   push rax",
    "   mov rax, cr2",
    "   push rax",
    "   cmp qword ptr [rip + guest_is_ring3], 0",
    "   je guest_trap_entry",
    "   mov rax, rsp",
    "   push {user_data}",
    "   push rax",
    "   push 0x202",
    "   push {user_code64}",
    "   push qword ptr [rip + guest_trap_entry_pointer]",
    "   iretq",
    // RDI = index of the first entry (abi::layout::entries), RSI = count, RDX = address of the first page, RCX = 0 to
    // clear the entries, or the first one's new value, whose page and those behind it must be RAM or clients' memory. The
    // bounds are checked here, at CPL 0, against constants; entries of tables that a guest does not have fault.
    "guest_service:",
    "   call guest_change_entries_cpl0",
    "   pop rax",
    "   add rsp, 16",
    "   add qword ptr [rsp], 2",
    "   iretq",
    "guest_change_entries_cpl0:",
    "   mov rax, {entries_end}",
    "   cmp rdi, rax",
    "   jae 4f",
    "   sub rax, rdi",
    "   cmp rsi, rax",
    "   ja 4f",
    "   test rcx, rcx",
    "   jz 3f",
    "   mov rax, {entry_mask}",
    "   and rcx, rax",
    "   mov rax, {address_mask}",
    "   and rax, rcx",
    "   mov r8, {ram_start}",
    "   cmp rax, r8",
    "   jb 4f",
    "   mov r8, rsi",
    "   shl r8, 12",
    "   add rax, r8",
    "   mov r8, {ram_end}",
    "   cmp rax, r8",
    "   ja 4f",
    // For CPL 3 in user space, and where shim and driver run there.
    "   cmp rdi, {user_entries}",
    "   jae 2f",
    "   cmp qword ptr [rip + guest_is_ring3], 0",
    "   je 3f",
    "2: or rcx, 4",
    "3: mov rax, [rip + guest_io_tables]",
    "   lea rdi, [rax + rdi * 8]",
    "   xor r8d, r8d",
    "   test rcx, rcx",
    "   jz 6f",
    "   mov r8d, 4096",
    "6: test rsi, rsi",
    "   jz 4f",
    "   mov [rdi], rcx",
    "   invlpg [rdx]",
    "   add rdi, 8",
    "   add rdx, 4096",
    "   add rcx, r8",
    "   dec rsi",
    "   jmp 6b",
    "4: ret",
    ".global guest_change_entries",
    "guest_change_entries:",
    "   cmp qword ptr [rip + guest_is_ring3], 0",
    "   je guest_change_entries_cpl0",
    "guest_service_instruction:",
    "   ud2",
    "   ret",
    // On the gate's stack: cr2, rax, vector, error code, rip, cs, rflags, rsp, ss.
    ".global guest_trap_entry",
    "guest_trap_entry:",
    "   mov rax, [rip + guest_trap_stack_top]",
    "   lea rax, [rax - {frame}]",
    "   mov [rax + {general} + 8], rcx",
    "   mov [rax + {general} + 16], rdx",
    "   mov [rax + {general} + 24], rbx",
    "   mov [rax + {general} + 40], rbp",
    "   mov [rax + {general} + 48], rsi",
    "   mov [rax + {general} + 56], rdi",
    "   mov [rax + {general} + 64], r8",
    "   mov [rax + {general} + 72], r9",
    "   mov [rax + {general} + 80], r10",
    "   mov [rax + {general} + 88], r11",
    "   mov [rax + {general} + 96], r12",
    "   mov [rax + {general} + 104], r13",
    "   mov [rax + {general} + 112], r14",
    "   mov [rax + {general} + 120], r15",
    "   mov rcx, [rsp]",
    "   mov [rax + {vector} + 16], rcx",
    "   mov rcx, [rsp + 8]",
    "   mov [rax + {general}], rcx",
    "   mov rcx, [rsp + 16]",
    "   mov [rax + {vector}], rcx",
    "   mov rcx, [rsp + 24]",
    "   mov [rax + {vector} + 8], rcx",
    "   mov rcx, [rsp + 32]",
    "   mov [rax + {rip}], rcx",
    "   mov rcx, [rsp + 40]",
    "   mov [rax + {rip} + 8], rcx",
    "   mov rcx, [rsp + 48]",
    "   mov [rax + {rip} + 16], rcx",
    "   mov rcx, [rsp + 56]",
    "   mov [rax + {rip} + 24], rcx",
    "   mov rcx, [rsp + 64]",
    "   mov [rax + {rip} + 32], rcx",
    "   mov rsp, rax",
    "   add qword ptr [rip + guest_trap_stack_top], {stride}",
    "   cld",
    "   fxsave64 [rsp]",
    "   mov rdi, rsp",
    "   call guest_trap",
    "   sub qword ptr [rip + guest_trap_stack_top], {stride}",
    "   jmp 5f",
    // The handler returns the address of the depth word and its value. No tick comes between that store and the
    // end of this window.
    "guest_redirected:",
    "   cld",
    "   call rsi",
    "   mov [rax], edx",
    "   jmp 5f",
    "guest_resume:",
    "   mov rsp, rdi",
    "   mov [rsi], edx",
    "5: fxrstor64 [rsp]",
    "   mov rax, [rsp + {general}]",
    "   mov rcx, [rsp + {general} + 8]",
    "   mov rdx, [rsp + {general} + 16]",
    "   mov rbx, [rsp + {general} + 24]",
    "   mov rbp, [rsp + {general} + 40]",
    "   mov rsi, [rsp + {general} + 48]",
    "   mov rdi, [rsp + {general} + 56]",
    "   mov r8, [rsp + {general} + 64]",
    "   mov r9, [rsp + {general} + 72]",
    "   mov r10, [rsp + {general} + 80]",
    "   mov r11, [rsp + {general} + 88]",
    "   mov r12, [rsp + {general} + 96]",
    "   mov r13, [rsp + {general} + 104]",
    "   mov r14, [rsp + {general} + 112]",
    "   mov r15, [rsp + {general} + 120]",
    "   lea rsp, [rsp + {rip}]",
    "   iretq",
    ".global guest_redirected",
    ".global guest_resume",
    ".global guest_trap_window_end",
    "guest_trap_window_end:",
    "   ud2",
    ".section .data.rel.ro.trap, \"aw\"",
    ".balign 8",
    "guest_trap_entry_pointer: .quad guest_trap_entry",
    "guest_service_pointer: .quad guest_service_instruction",
    ".section .data.trap, \"aw\"",
    ".balign 8",
    ".global guest_trap_stack_top",
    "guest_trap_stack_top: .quad 0",
    ".global guest_io_tables",
    "guest_io_tables: .quad 0",
    ".text",
    vectors = const abi::header::VECTOR_COUNT,
    user_data = const layout::selector::USER_DATA,
    user_code64 = const layout::selector::USER_CODE64,
    entries_end = const layout::entries::END,
    user_entries = const layout::entries::USER,
    ram_start = const layout::RAM_BASE,
    ram_end = const MEMORY_END,
    entry_mask = const NO_EXECUTE | PAGE_MASK | WRITABLE | PRESENT,
    address_mask = const PAGE_MASK,
    frame = const size_of::<TrapFrame>(),
    general = const GENERAL,
    vector = const VECTOR,
    rip = const RIP,
    stride = const layout::TRAP_STACK_STRIDE,
);

/// Sets up the trap stacks; before it no trap can be survived.
pub(crate) fn initialize(kernel_base: u64) {
    unsafe extern "C" {
        static mut guest_io_tables: u64;
    }
    let top = kernel_base + layout::TRAP_STACKS + layout::TRAP_STACK_STRIDE;
    let stack_top = &raw mut guest_trap_stack_top;
    // SAFETY: a u64 of the assembly above; one vCPU, and no trap happens before this store.
    unsafe { stack_top.write_volatile(top) };
    let io_tables = &raw mut guest_io_tables;
    // SAFETY: as above; read by CPL 0 code only.
    unsafe { io_tables.write_volatile(kernel_base + layout::IO_TABLES) };
}

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const NO_EXECUTE: u64 = 1 << 63;
const PAGE_MASK: u64 = 0x000F_FFFF_FFFF_F000;

/// Clears `count` page-table entries, of the pages from `address`, and flushes them.
pub(crate) fn clear_page_table_entries(first_index: u64, count: u64, address: u64) {
    // SAFETY: the routine checks index and count against the bounds of what the guest may change and touches nothing else;
    // callers have dropped every reference into the range (its mapping is being removed at the driver's request).
    unsafe { guest_change_entries(first_index, count, address, 0) };
}

/// Makes the entries of `count` pages from `address` those of the pages of RAM from `physical`, and flushes them.
/// Anything else than RAM and clients' memory changes nothing.
pub(crate) fn fill_page_table_entries(
    first_index: u64,
    count: u64,
    address: u64,
    physical: u64,
    access: PageAccess,
) {
    let mut entry = (physical & PAGE_MASK) | PRESENT;
    if access.is_writable {
        entry |= WRITABLE;
    }
    if !access.is_executable {
        entry |= NO_EXECUTE;
    }
    // SAFETY: as above; the memory behind these addresses is the drivers', which Rust has no references to.
    unsafe { guest_change_entries(first_index, count, address, entry) };
}

/// What a redirected trap's handler returns: where the depth word is and what it shall be when the frame is resumed.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Resumption {
    depth_word: u64,
    depth: u64,
}

impl Resumption {
    /// Resumes with that depth of shim code.
    pub(crate) fn at_depth(depth: u32) -> Self {
        Self {
            depth_word: kernel_shim::shared::depth_address(),
            depth: u64::from(depth),
        }
    }
}

/// Bytes below a stack pointer that the interrupted code may use (System V's red zone; precompiled `core` does).
const RED_ZONE: u64 = 128;

/// Copies the frame to the interrupted code's stack and changes `frame` so that `handler` runs there, with the copy;
/// when it returns, the copy is resumed. The caller has set the depth of shim code.
///
/// A stack without room for it faults here, on the trap stack: that is a kernel stack overflow.
fn redirect(frame: &mut TrapFrame, handler: extern "C" fn(&mut TrapFrame) -> Resumption) {
    let bytes = size_of::<TrapFrame>() as u64;
    let copy = (frame.rsp - RED_ZONE - bytes) & !15;
    let to = copy as *mut TrapFrame;
    let from = core::ptr::from_ref(frame);
    // SAFETY: below the stack pointer and the red zone of the interrupted code, so nothing is there; aligned; an
    // address that is not mapped faults as said above. The two do not overlap: one is on a trap stack.
    unsafe { core::ptr::copy_nonoverlapping(from, to, 1) };
    frame.general[7] = copy;
    frame.general[6] = handler as *const () as u64;
    frame.rsp = copy;
    frame.rip = guest_redirected as *const () as u64;
    (frame.cs, frame.ss) = machine::code64_and_data();
    frame.rflags = RFLAGS_INTERRUPTS;
}

/// RFLAGS with nothing but the interrupt flag and the bit that is always set.
const RFLAGS_INTERRUPTS: u64 = 0x202;

/// The tick or a device's interrupt, on the interrupted thread's stack.
extern "C" fn interrupt(_: &mut TrapFrame) -> Resumption {
    kernel_shim::interrupt();
    Resumption::at_depth(0)
}

/// Continues driver or shim code with all of its registers, at that depth of shim code. `fpu` is an FXSAVE image;
/// without one the FPU keeps its state. The current stack is left as it is.
pub(crate) fn resume(
    registers: &Registers,
    is_32_bit: bool,
    fpu: Option<&FxSave>,
    depth: u32,
) -> ! {
    let (code64, data) = machine::code64_and_data();
    let mut frame = TrapFrame {
        fpu: [0; 512],
        general: registers.general,
        vector: 0,
        error_code: 0,
        cr2: 0,
        depth: 0,
        rip: registers.rip,
        cs: if is_32_bit { machine::code32() } else { code64 },
        rflags: registers.rflags | RFLAGS_INTERRUPTS,
        rsp: registers.general[4],
        ss: data,
        reserved2: 0,
    };
    match fpu {
        Some(image) => frame.fpu = image.0,
        // SAFETY: 512 bytes, 16-byte aligned.
        None => unsafe { core::arch::x86_64::_fxsave64(frame.fpu.as_mut_ptr()) },
    }
    thunk32::unwind_to(registers.general[4]);
    let resumption = Resumption::at_depth(depth);
    // SAFETY: the frame is complete and stays valid: nothing runs on this stack until the `iretq` has read it.
    // Where it leads is the driver's business, as any return address is.
    unsafe { guest_resume(&raw const frame, resumption.depth_word, resumption.depth) }
}

/// Called by `guest_trap_entry` with the frame on the trap stack.
#[unsafe(no_mangle)]
extern "C" fn guest_trap(frame: &mut TrapFrame) {
    let stack_top = &raw const guest_trap_stack_top;
    // SAFETY: a u64 of the assembly above, read by the only vCPU; the entry code has just moved it to the next
    // level.
    let next_top = unsafe { stack_top.read_volatile() };
    // The first trap runs on stack 0 and leaves the top of stack 1 for the next.
    let levels_used =
        (next_top - machine::kernel_base() - layout::TRAP_STACKS) / layout::TRAP_STACK_STRIDE - 1;
    if levels_used > layout::TRAP_LEVELS {
        kernel_shim::shim_panic(format_args!(
            "traps nested too deep: vector {} at {:#x}",
            frame.vector, frame.rip
        ));
    }
    if frame.vector == u64::from(INTERRUPT_VECTOR) {
        if kernel_shim::begin_interrupt() {
            redirect(frame, interrupt);
        }
        return;
    }
    if user::finish(frame) {
        return;
    }
    let mut trap = frame.as_trap();
    let outcome = kernel_shim::trap(&mut trap);
    frame.set_registers(&trap.registers);
    frame.error_code = trap.error_code.into();
    if outcome == Outcome::Dispatch {
        frame.depth = u64::from(kernel_shim::seh::begin_dispatch());
        redirect(frame, dispatch);
    }
}

/// An exception of the driver's, on its own stack. When it returns, a handler wants to continue.
extern "C" fn dispatch(frame: &mut TrapFrame) -> Resumption {
    let mut trap = frame.as_trap();
    let depth = low32(frame.depth);
    let mut fpu = FxSave(frame.fpu);
    kernel_shim::seh::dispatch_trap(&mut trap, &mut fpu, depth);
    frame.fpu = fpu.0;
    frame.set_registers(&trap.registers);
    thunk32::unwind_to(frame.rsp);
    Resumption::at_depth(depth)
}
