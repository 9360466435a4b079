//! An export table and records for tests.

use super::super::clock::Clock;
use abi::trace::{TRACE_ARGUMENTS, TRACE_TEXT, TraceKind, TraceRecord};
use kernel_shim::export::{
    Convention, Coverage, Export, ExportKind, Machines, Module, Parameter, ValueKind,
};

/// One microsecond a tick.
pub(crate) const CLOCK: Clock = Clock {
    boot_tsc: 0,
    tsc_khz: 1000,
};

const fn parameter(name: &'static str, kind: ValueKind) -> Parameter {
    Parameter { name, kind }
}

const fn function(
    name: &'static str,
    module: Module,
    parameters: &'static [Parameter],
    result: ValueKind,
    is_variadic: bool,
) -> Export {
    Export {
        name,
        module,
        machines: Machines::Both,
        kind: ExportKind::Function {
            convention: Convention::Stdcall,
            parameters,
            result,
            irql_max: 0,
            is_variadic,
            is_noreturn: false,
        },
        coverage: Coverage::Implemented,
        documentation: "",
    }
}

/// A table of four.
pub(crate) const EXPORTS: &[Export] = &[
    function(
        "IoCreateDevice",
        Module::Ntoskrnl,
        &[
            parameter("driver", ValueKind::Pointer),
            parameter("extension_bytes", ValueKind::ULong),
            parameter("name", ValueKind::UnicodeString),
            parameter("device_type", ValueKind::ULong),
        ],
        ValueKind::NtStatus,
        false,
    ),
    function(
        "DbgPrint",
        Module::Ntoskrnl,
        &[parameter("format", ValueKind::NarrowString)],
        ValueKind::ULong,
        true,
    ),
    function(
        "READ_PORT_UCHAR",
        Module::Hal,
        &[parameter("port", ValueKind::Pointer)],
        ValueKind::UChar,
        false,
    ),
    function(
        "IofCompleteRequest",
        Module::Ntoskrnl,
        &[
            parameter("irp", ValueKind::Pointer),
            parameter("boost", ValueKind::UChar),
        ],
        ValueKind::Void,
        false,
    ),
];

/// A record of any kind.
pub(crate) fn record(kind: TraceKind, index: u32, arguments: &[u64], text: &[u8]) -> TraceRecord {
    let mut words = [0; TRACE_ARGUMENTS];
    words[..arguments.len()].copy_from_slice(arguments);
    let mut bytes = [0; TRACE_TEXT];
    bytes[..text.len()].copy_from_slice(text);
    TraceRecord {
        tsc: 0,
        kind: kind as u16,
        irql: 0,
        argument_count: u8::try_from(arguments.len()).unwrap(),
        index,
        caller: 0,
        text_bytes: u32::try_from(text.len()).unwrap(),
        process: 0,
        arguments: words,
        text: bytes,
    }
}

/// A call.
pub(crate) fn call(index: u32, arguments: &[u64], text: &[u8]) -> TraceRecord {
    record(TraceKind::Call, index, arguments, text)
}

/// A return.
pub(crate) fn returned(index: u32, result: u64) -> TraceRecord {
    record(TraceKind::Return, index, &[result], b"")
}
