//! KeCapturePersistentThreadState: a small dump, as far as its header.

use crate::api::nt_api;
use crate::raw::{Ptr, Word, to_word};
use crate::value::{Size, ULong};

/// Offsets in DUMP_HEADER32 and DUMP_HEADER64.
struct Offsets {
    machine: u64,
    processors: u64,
    code: u64,
    parameters: u64,
    context: u64,
    context_bytes: u64,
    dump_type: u64,
    bytes: u64,
}

const HEADER: Offsets = if cfg!(nt_i386) {
    Offsets {
        machine: 0x20,
        processors: 0x24,
        code: 0x28,
        parameters: 0x2C,
        context: 0x320,
        context_bytes: 0x2CC,
        dump_type: 0xF88,
        bytes: 0x1000,
    }
} else {
    Offsets {
        machine: 0x30,
        processors: 0x34,
        code: 0x38,
        parameters: 0x40,
        context: 0x348,
        context_bytes: 0x4D0,
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
/// Windows 7's build.
const BUILD: u32 = 7601;
/// DUMP_TYPE_TRIAGE.
const TRIAGE: u32 = 4;

nt_api! { module = ke_dump;
    /// Writes a small dump of a thread to a buffer of 64 KiB (i386) or 256 KiB; returns the bytes written.
    ntoskrnl both stdcall irql(ANY_LEVEL) partial("the header alone: no stack, modules or thread")
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
        dump.write_bytes(SIGNATURE);
        word(0x8, 0xF);
        word(0xC, BUILD);
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
        crate::raw::low32(HEADER.bytes)
    }
}
