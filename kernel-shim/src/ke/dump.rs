//! KeCapturePersistentThreadState: a small memory dump (triage dump) of a thread, as the WDK's ntiodump.h lays it out.

use alloc::vec::Vec;

use crate::api::nt_api;
use crate::ke::sched;
use crate::nt::module::KLDR_DATA_TABLE_ENTRY;
use crate::nt::thread::process;
use crate::nt::{ETHREAD, KTHREAD};
use crate::raw::{Ptr, Word, from_word, low32, to_usize, to_word};
use crate::value::{Size, ULong};
use crate::view::{exported, modules, release};

/// Offsets in DUMP_HEADER32 and DUMP_HEADER64.
struct Offsets {
    modules: u64,
    processes: u64,
    machine: u64,
    processors: u64,
    code: u64,
    parameters: u64,
    context: u64,
    context_bytes: u64,
    /// Where a CONTEXT has its stack pointer.
    stack_pointer: u64,
    exception: u64,
    dump_type: u64,
    bytes: u64,
}

const HEADER: Offsets = if cfg!(nt_i386) {
    Offsets {
        modules: 0x18,
        processes: 0x1C,
        machine: 0x20,
        processors: 0x24,
        code: 0x28,
        parameters: 0x2C,
        context: 0x320,
        context_bytes: 0x2CC,
        stack_pointer: 0xC4,
        exception: 0x7D0,
        dump_type: 0xF88,
        bytes: 0x1000,
    }
} else {
    Offsets {
        modules: 0x20,
        processes: 0x28,
        machine: 0x30,
        processors: 0x34,
        code: 0x38,
        parameters: 0x40,
        context: 0x348,
        context_bytes: 0x4D0,
        stack_pointer: 0x98,
        exception: 0xF00,
        dump_type: 0xF98,
        bytes: 0x2000,
    }
};
const SIGNATURE: &[u8; 8] = if cfg!(nt_i386) {
    b"PAGEDUMP"
} else {
    b"PAGEDU64"
};
const MACHINE: u32 = if cfg!(nt_i386) { 0x14C } else { 0x8664 };
/// DUMP_TYPE_TRIAGE.
const TRIAGE: u32 = 4;
/// Bytes that the caller's buffer has, as documented.
const ROOM: u64 = if cfg!(nt_i386) { 0x1_0000 } else { 0x4_0000 };
/// Bytes of TRIAGE_DUMP32 and TRIAGE_DUMP64.
const TRIAGE_BYTES: u64 = if cfg!(nt_i386) { 0x68 } else { 0x80 };
/// The last four bytes of a whole triage dump.
const VALID: &[u8; 4] = b"TRGD";
/// Most bytes of stack.
const STACK_MAX: u64 = if cfg!(nt_i386) { 0x4000 } else { 0x8000 };
/// Bytes of DUMP_DRIVER_ENTRY before the module's entry.
const DRIVER_HEAD: u64 = if cfg!(nt_i386) { 4 } else { 8 };

/// Members of TRIAGE_DUMP, as indices of ULONGs.
mod member {
    pub(super) const SIZE: u64 = 1;
    pub(super) const VALID: u64 = 2;
    pub(super) const CONTEXT: u64 = 3;
    pub(super) const EXCEPTION: u64 = 4;
    pub(super) const PROCESS: u64 = 8;
    pub(super) const THREAD: u64 = 9;
    pub(super) const STACK: u64 = 10;
    pub(super) const STACK_BYTES: u64 = 11;
    pub(super) const DRIVERS: u64 = 12;
    pub(super) const DRIVER_COUNT: u64 = 13;
    pub(super) const STRINGS: u64 = 14;
    pub(super) const STRING_BYTES: u64 = 15;
    /// A pointer.
    pub(super) const TOP_OF_STACK: u64 = 18;
}

/// A dump that is being written: what comes next.
struct Writer {
    dump: Ptr<u8>,
    end: u64,
}

impl Writer {
    fn member(&self, index: u64, value: u64) {
        let at = self.dump.add_bytes(HEADER.bytes + 4 * index);
        at.cast::<u32>().write(low32(value));
    }

    /// Appends bytes, aligned; where they are. `None`: there is no room for them and the end.
    fn append(&mut self, bytes: &[u8]) -> Option<u64> {
        let at = self.end;
        let end = (at + bytes.len() as u64).next_multiple_of(8);
        if end + VALID.len() as u64 > ROOM {
            return None;
        }
        self.dump.add_bytes(at).write_bytes(bytes);
        self.end = end;
        Some(at)
    }

    /// Appends what lies at an address.
    fn append_memory(&mut self, from: Ptr<u8>, bytes: u64) -> Option<u64> {
        self.append(&from.read_slice(to_usize(bytes)))
    }

    /// The stack from the context's stack pointer, or the thread's own, on.
    fn stack(&mut self, thread: Ptr<KTHREAD>, context: Ptr<u8>) {
        let (base, limit) =
            thread.with(|thread| (from_word(thread.StackBase), from_word(thread.StackLimit)));
        let from_context = context.non_null().map(|context| {
            from_word(
                context
                    .add_bytes(HEADER.stack_pointer)
                    .cast::<Word>()
                    .read(),
            )
        });
        // The shim runs on the current thread's stack.
        let mut here = 0_u64;
        let saved = if thread == sched::current() {
            Ptr::of(&mut here).addr()
        } else {
            sched::private(thread).with(|private| private.stack_pointer)
        };
        let inside = |at: &u64| (limit..base).contains(at);
        let Some(top) = from_context
            .filter(inside)
            .or_else(|| Some(saved).filter(inside))
        else {
            return;
        };
        let bytes = (base - top).min(STACK_MAX);
        if let Some(at) = self.append_memory(Ptr::new(top), bytes) {
            self.member(member::STACK, at);
            self.member(member::STACK_BYTES, bytes);
            let top_at = self.dump.add_bytes(HEADER.bytes + 4 * member::TOP_OF_STACK);
            top_at.cast::<Word>().write(to_word(top));
        }
    }

    /// The modules: entries, and their names as counted strings.
    fn modules(&mut self) -> Option<()> {
        let entries = modules::entries();
        let each = DRIVER_HEAD + size_of::<KLDR_DATA_TABLE_ENTRY>() as u64;
        let list_bytes = each * entries.len() as u64;
        let list = self.append(&alloc::vec![0; to_usize(list_bytes)])?;
        let strings = self.end;
        for (index, entry) in (0..).zip(&entries) {
            let name = entry.read().FullDllName;
            let mut text: Vec<u8> = low32(u64::from(name.Length) / 2).to_le_bytes().to_vec();
            text.extend(
                name.Buffer
                    .cast::<u8>()
                    .read_slice(usize::from(name.Length)),
            );
            text.extend([0, 0]);
            let at = self.append(&text)?;
            let slot = self.dump.add_bytes(list + each * index);
            slot.cast::<u32>().write(low32(at));
            let bytes = size_of::<KLDR_DATA_TABLE_ENTRY>() as u64;
            slot.add_bytes(DRIVER_HEAD).copy_from(entry.cast(), bytes);
        }
        self.member(member::DRIVERS, list);
        self.member(member::DRIVER_COUNT, entries.len() as u64);
        self.member(member::STRINGS, strings);
        self.member(member::STRING_BYTES, self.end - strings);
        Some(())
    }

    /// Everything behind the header; the dump's bytes.
    fn body(mut self, thread: Ptr<KTHREAD>, context: Ptr<u8>) -> u64 {
        self.dump.add_bytes(self.end).fill(0, TRIAGE_BYTES);
        self.end += TRIAGE_BYTES;
        if !context.is_null() {
            self.member(member::CONTEXT, HEADER.context);
        }
        self.member(member::EXCEPTION, HEADER.exception);
        let owner = from_word(thread.with(|thread| thread.Process));
        if let Some(at) = self.append_memory(Ptr::new(owner), process::BYTES) {
            self.member(member::PROCESS, at);
        }
        let own = core::mem::offset_of!(ETHREAD, Private) as u64;
        if let Some(at) = self.append_memory(thread.cast(), own) {
            self.member(member::THREAD, at);
        }
        self.stack(thread, context);
        // Without room for the modules the dump goes without them.
        let _ = self.modules();
        self.member(member::VALID, self.end);
        self.dump.add_bytes(self.end).write_bytes(VALID);
        let bytes = self.end + VALID.len() as u64;
        self.member(member::SIZE, bytes);
        bytes
    }
}

nt_api! { module = ke_dump;
    /// Writes a small dump of a thread (null: the current one) to a buffer of 64 KiB (i386) or 256 KiB (amd64): context,
    /// process, thread, stack and modules. The bytes written.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KeCapturePersistentThreadState(
        context: Ptr<u8>, thread: Ptr<u8>, code: ULong, parameter_1: Size, parameter_2: Size, parameter_3: Size,
        parameter_4: Size, dump: Ptr<u8>,
    ) -> ULong {
        if dump.is_null() {
            return 0;
        }
        // Memory that a dump says nothing about is filled so.
        for offset in (0..HEADER.bytes).step_by(4) {
            dump.add_bytes(offset).write_bytes(b"PAGE");
        }
        let word = |offset: u64, value: u32| dump.add_bytes(offset).cast::<u32>().write(value);
        let pointer = |offset: u64, value: u64| {
            dump.add_bytes(offset).cast::<Word>().write(to_word(value));
        };
        dump.write_bytes(SIGNATURE);
        word(0x8, 0xF);
        word(0xC, u32::from(release().build));
        pointer(HEADER.modules, exported(&crate::view::data::PsLoadedModuleList).addr());
        pointer(HEADER.processes, crate::ps::process::active_head().addr());
        word(HEADER.machine, MACHINE);
        word(HEADER.processors, 1);
        word(HEADER.code, code);
        for (index, parameter) in (0_i64..).zip([parameter_1, parameter_2, parameter_3, parameter_4]) {
            dump.add_bytes(HEADER.parameters).cast::<Word>().offset(index).write(to_word(parameter.0));
        }
        if !context.is_null() {
            dump.add_bytes(HEADER.context).copy_from(context, HEADER.context_bytes);
        }
        word(HEADER.dump_type, TRIAGE);
        let thread = thread.non_null().map_or_else(sched::current, Ptr::cast);
        low32(Writer { dump, end: HEADER.bytes }.body(thread, context))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ex::pool;
    use crate::test_platform::machine;

    #[test]
    fn what_a_dump_says_lies_inside_of_it() {
        let _machine = machine();
        let dump = pool::allocate_zeroed(ROOM, *b"Dump").unwrap();
        let zero = Size(0);
        let mut context = vec![0_u64; to_usize(HEADER.context_bytes / 8 + 1)];
        // A stack pointer in the middle of the thread's stack.
        let (base, limit) = sched::current()
            .with(|thread| (from_word(thread.StackBase), from_word(thread.StackLimit)));
        assert!(base > limit);
        let context = Ptr::of(&mut context[0]).cast::<u8>();
        let bytes = KeCapturePersistentThreadState(
            context,
            Ptr::null(),
            0xE2,
            zero,
            zero,
            zero,
            zero,
            dump,
        );
        let bytes = u64::from(bytes);
        assert!(bytes > HEADER.bytes + TRIAGE_BYTES && bytes <= ROOM);
        let member = |index: u64| {
            let at = dump.add_bytes(HEADER.bytes + 4 * index);
            u64::from(at.cast::<u32>().read())
        };
        assert_eq!(member(member::SIZE), bytes);
        assert_eq!(member(member::VALID) + 4, bytes);
        assert_eq!(dump.add_bytes(bytes - 4).read_slice(4), VALID);
        assert_eq!(member(member::CONTEXT), HEADER.context);
        assert!(member(member::THREAD) < bytes && member(member::PROCESS) < bytes);
        let strings = member(member::STRINGS);
        assert!(strings + member(member::STRING_BYTES) <= bytes);
        let name = u64::from(dump.add_bytes(member(member::DRIVERS)).cast::<u32>().read());
        assert_eq!(name, strings, "the first module's name is the first string");
    }
}
