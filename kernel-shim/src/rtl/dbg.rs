//! Debug output: DbgPrint and its like, RtlAssert, breakpoints.
//!
//! Text goes to the trace ring. No component is filtered out: every message is shown, whatever its level.

use alloc::string::String;
use alloc::vec::Vec;

use super::crt_print::narrow;
use crate::api::nt_api;
use crate::nt::NtStatus;
use crate::nt::bugcheck::{KMODE_EXCEPTION_NOT_HANDLED, bugcheck_with_text};
use crate::raw::{Ptr, narrow_string, prefix};
use crate::rtl::codepage::to_unicode;
use crate::shared;
use crate::value::{NarrowStringPtr, ULong, VaList};
use abi::trace::{TRACE_TEXT, TraceKind};

/// Most bytes that one call prints, as in NT.
const MOST_BYTES: usize = 512;
/// DPFLTR_DEFAULT_ID: what DbgPrint prints as.
const DEFAULT_COMPONENT: u32 = 101;
/// DPFLTR_INFO_LEVEL: what DbgPrint prints at.
const INFO_LEVEL: u32 = 3;
/// Most characters of a text argument of RtlAssert.
const ASSERTION_TEXT: usize = 256;

/// Text in pieces that fit a trace record.
fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let piece = prefix(rest, TRACE_TEXT);
        pieces.push(piece);
        rest = &rest[piece.len()..];
    }
    pieces
}

/// Bytes of the ANSI code page as text, at most as many as one call prints.
fn text_of(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(MOST_BYTES)];
    let units: Vec<u16> = shown.iter().map(|&byte| to_unicode(byte)).collect();
    String::from_utf16_lossy(&units)
}

fn log(component: u32, level: u32, text: &str) -> NtStatus {
    for piece in pieces(text) {
        shared::trace(
            TraceKind::Log,
            component,
            shared::caller(),
            &[u64::from(level)],
            piece,
        );
    }
    NtStatus::SUCCESS
}

nt_api! { module = rtl_dbg;
    /// Prints to the debugger: here, to the trace. At most 512 bytes a call.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn DbgPrint(format: NarrowStringPtr, arguments: VaList) -> ULong {
        log(DEFAULT_COMPONENT, INFO_LEVEL, &text_of(&narrow(format.0, arguments))).0
    }

    /// Prints to the debugger with a component and a level, which do not filter here.
    ntoskrnl both cdecl irql(ANY_LEVEL) implemented
    fn DbgPrintEx(component_id: ULong, level: ULong, format: NarrowStringPtr, arguments: VaList) -> ULong {
        log(component_id, level, &text_of(&narrow(format.0, arguments))).0
    }

    /// As DbgPrintEx, with a va_list.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn vDbgPrintEx(component_id: ULong, level: ULong, format: NarrowStringPtr, arguments: Ptr<u8>) -> ULong {
        log(component_id, level, &text_of(&narrow(format.0, VaList::from_pointer(arguments)))).0
    }

    /// As vDbgPrintEx, with a text before the formatted one.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn vDbgPrintExWithPrefix(
        prefix: NarrowStringPtr, component_id: ULong, level: ULong, format: NarrowStringPtr, arguments: Ptr<u8>,
    ) -> ULong {
        let mut bytes = crate::raw::narrow_string_bytes(prefix.0, MOST_BYTES);
        bytes.extend(narrow(format.0, VaList::from_pointer(arguments)));
        log(component_id, level, &text_of(&bytes)).0
    }

    /// Reports a failed assertion of a checked build. NT prints it and breaks into the debugger; without one, as here,
    /// the breakpoint is a bugcheck: KMODE_EXCEPTION_NOT_HANDLED with STATUS_BREAKPOINT.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlAssert(failed_assertion: NarrowStringPtr, file_name: NarrowStringPtr, line: ULong, message: Ptr<u8>) {
        bugcheck_with_text(
            KMODE_EXCEPTION_NOT_HANDLED,
            [u64::from(NtStatus::BREAKPOINT.0), shared::caller(), 0, 0],
            format_args!(
                "assertion failed: {}{} ({}, line {line})",
                narrow_string(message, ASSERTION_TEXT),
                narrow_string(failed_assertion.0, ASSERTION_TEXT),
                narrow_string(file_name.0, ASSERTION_TEXT),
            ),
        )
    }

    /// Breaks into the debugger: without one, as here, a bugcheck, KMODE_EXCEPTION_NOT_HANDLED with STATUS_BREAKPOINT.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn DbgBreakPoint() {
        bugcheck_with_text(
            KMODE_EXCEPTION_NOT_HANDLED,
            [u64::from(NtStatus::BREAKPOINT.0), shared::caller(), 0, 0],
            format_args!("the driver called DbgBreakPoint, and there is no debugger"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::volatile_read;
    use crate::rtl::test_strings::{at, narrow_z, wide_z};
    use crate::test_platform::{api, crash_of, machine};
    use abi::layout::{SHARED, Shared};
    use abi::trace::{TraceRecord, TraceRing};
    use core::mem::offset_of;

    #[test]
    fn long_text_is_cut_into_records_at_character_boundaries() {
        let text = "ä".repeat(100);
        let parts = pieces(&text);
        assert_eq!(parts.len(), 2);
        assert_eq!(parts.concat(), text);
        assert!(parts.iter().all(|part| part.len() <= TRACE_TEXT));
        assert!(pieces("").is_empty());
    }

    #[test]
    fn one_call_prints_at_most_512_bytes() {
        assert_eq!(text_of(&[b'x'; 600]).len(), 512);
        assert_eq!(text_of(b"\x80"), "€");
    }

    #[test]
    fn text_reaches_the_trace_as_the_driver_formats_it() {
        let machine = machine();
        let (mut format, mut name) = (narrow_z("port %x is %ws\n"), wide_z("open"));
        let arguments = [at(&mut format).addr(), 0x378, at(&mut name).addr()];
        assert_eq!(api("DbgPrint", &arguments), 0);
        let ring = machine.kernel_base() + SHARED + Shared::TRACE;
        let produced: u64 = volatile_read(ring + offset_of!(TraceRing, produced) as u64);
        let entries = ring + offset_of!(TraceRing, entries) as u64;
        let record = |number: u64| -> TraceRecord {
            volatile_read(entries + number * size_of::<TraceRecord>() as u64)
        };
        let log: Vec<TraceRecord> = (0..produced)
            .map(record)
            .filter(|record| record.kind == TraceKind::Log as u16)
            .collect();
        assert_eq!(log.len(), 1);
        assert_eq!(
            &log[0].text[..log[0].text_bytes as usize],
            b"port 378 is open\n"
        );
        assert_eq!(log[0].index, DEFAULT_COMPONENT);
    }

    #[test]
    fn a_failed_assertion_stops_the_guest_with_its_text() {
        let _machine = machine();
        let (mut what, mut file) = (narrow_z("x == 1"), narrow_z("a.c"));
        let record = crash_of(|| {
            let (what, file) = (at(&mut what), at(&mut file));
            RtlAssert(NarrowStringPtr(what), NarrowStringPtr(file), 7, Ptr::null());
        });
        assert_eq!(
            (record.code, record.parameters[0]),
            (KMODE_EXCEPTION_NOT_HANDLED, 0x8000_0003)
        );
        let text = String::from_utf8_lossy(&record.text[..record.text_bytes as usize]).into_owned();
        assert_eq!(text, "assertion failed: x == 1 (a.c, line 7)");
    }
}
