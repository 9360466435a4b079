//! Crash reports: what a driver's developer needs to know of a guest that stopped for good.

use super::bugcheck;
use super::clock::Clock;
use super::escape::{escape, escape_bytes};
use super::flight::{Flight, HistoryLine};
use super::hex::{self, Hex};
use super::ntstatus::NtStatus;
use super::stack::{self, Frame};
use super::symbols::{ModuleKind, Symbols};
use super::unwind::MemoryReader;
use super::value;
use abi::crash::{CrashKind, CrashRecord, NO_VECTOR, Registers};
use abi::{DriverAbi, Privilege};
use iced_x86::{Decoder, DecoderOptions, Formatter, NasmFormatter};
use kernel_shim::export::Export;
use serde::Serialize;
use std::time::Duration;

mod display;
#[cfg(test)]
mod tests;

/// Why the guest stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Cause {
    /// The driver (or the shim on its behalf) bugchecked.
    Bugcheck {
        /// NT's code.
        code: Hex,
        /// NT's name; `None` for a code of the driver's own.
        name: Option<&'static str>,
        /// What it means.
        meaning: Option<&'static str>,
        /// The four parameters.
        parameters: Vec<BugcheckParameter>,
    },
    /// The driver called an import that Ringfence does not have.
    UnboundImport {
        /// DLL.
        dll: String,
        /// Function.
        function: String,
    },
    /// The shim failed.
    ShimPanic,
    /// The guest did not answer in time.
    Hang {
        /// How long it was given, in milliseconds.
        timeout_ms: u64,
    },
    /// KVM cannot go on.
    VmFailure {
        /// What KVM says.
        reason: String,
    },
    /// The crash record makes no sense.
    DamagedRecord {
        /// Its kind.
        number: u32,
    },
}

/// A bugcheck parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BugcheckParameter {
    /// The value.
    pub value: Hex,
    /// What it says; empty when NT says nothing.
    pub meaning: &'static str,
    /// The value as an address or status by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// The processor exception behind a crash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exception {
    /// Vector.
    pub vector: u32,
    /// Intel's name.
    pub name: &'static str,
    /// Hardware error code.
    pub error_code: Hex,
    /// What the driver did, in words.
    pub explanation: String,
}

/// The instruction at which the guest stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CrashInstruction {
    /// Its bytes in hexadecimal; all that could be read if it does not decode.
    pub bytes: String,
    /// Disassembled; `None` if the bytes are no instruction.
    pub text: Option<String>,
}

/// A crash report. [`std::fmt::Display`] is for people; serialized it is the object that `--json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CrashReport {
    /// The driver's file name.
    pub driver: String,
    /// `i386` or `amd64`.
    pub abi: &'static str,
    /// `ring0` or `ring3`.
    pub privilege: &'static str,
    /// Why.
    pub cause: Cause,
    /// What the shim adds.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The exception, if one was the cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exception: Option<Exception>,
    /// IRQL at the time; `None` when not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub irql: Option<String>,
    /// Where, by name.
    pub location: String,
    /// The instruction there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instruction: Option<CrashInstruction>,
    /// Registers by name, in the order in which they are shown.
    #[serde(serialize_with = "as_map")]
    pub registers: Vec<(&'static str, Hex)>,
    /// Stack trace, innermost first.
    pub stack: Vec<Frame>,
    /// Last API calls and port accesses, oldest first.
    pub history: Vec<HistoryLine>,
}

fn as_map<S: serde::Serializer>(
    registers: &[(&'static str, Hex)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(registers.iter().copied())
}

/// Makes reports of one guest.
pub struct Reporter<'a> {
    /// The driver's file name.
    pub driver: &'a str,
    /// Its ABI.
    pub abi: DriverAbi,
    /// How the guest runs.
    pub privilege: Privilege,
    /// Addresses.
    pub symbols: &'a Symbols,
    /// Memory of the stopped guest.
    pub memory: &'a dyn MemoryReader,
    /// The export table.
    pub exports: &'a [Export],
    /// Imports without a function, by number: DLL and name.
    pub unbound: &'a [(String, String)],
    /// What happened last.
    pub flight: &'a Flight,
    /// Time.
    pub clock: Clock,
}

impl std::fmt::Debug for Reporter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reporter")
            .field("driver", &self.driver)
            .finish_non_exhaustive()
    }
}

impl Reporter<'_> {
    /// From the record that the shim left. It is guest memory: anything may be in it.
    #[must_use]
    pub fn crashed(&self, record: &CrashRecord) -> CrashReport {
        let cause = match record.kind {
            kind if kind == CrashKind::Bugcheck as u32 => self.bugcheck(record),
            kind if kind == CrashKind::UnboundImport as u32 => self.unbound_import(record.code),
            kind if kind == CrashKind::ShimPanic as u32 => Cause::ShimPanic,
            number => Cause::DamagedRecord { number },
        };
        let text_bytes = usize::try_from(record.text_bytes)
            .unwrap_or(usize::MAX)
            .min(record.text.len());
        let mut report = self.report(cause, &record.registers);
        report.message = escape_bytes(record.text.get(..text_bytes).unwrap_or_default());
        report.exception = self.exception(record);
        report.irql = Some(value::irql(u8::try_from(record.irql).unwrap_or(u8::MAX)));
        report
    }

    /// The guest did not answer for `timeout`; `registers` are where it was stopped.
    #[must_use]
    pub fn hung(&self, timeout: Duration, registers: &Registers) -> CrashReport {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.report(Cause::Hang { timeout_ms }, registers)
    }

    /// KVM reported a failure or the vCPU shut down.
    #[must_use]
    pub fn vm_failed(&self, reason: &str, registers: &Registers) -> CrashReport {
        let reason = escape(reason);
        self.report(Cause::VmFailure { reason }, registers)
    }

    fn report(&self, cause: Cause, registers: &Registers) -> CrashReport {
        let stack = stack::walk(self.abi, self.symbols, self.memory, registers);
        // Of several drivers, the one that was running: the innermost frame in a driver's image.
        let driver = std::iter::once(registers.rip)
            .chain(stack.iter().map(|frame| frame.address.0))
            .find_map(|address| {
                self.symbols
                    .drivers()
                    .find(|module| module.contains(address))
            })
            .map_or(self.driver, |module| module.name.as_str());
        CrashReport {
            driver: escape(driver),
            abi: self.abi.name(),
            privilege: self.privilege.name(),
            cause,
            message: String::new(),
            exception: None,
            irql: None,
            location: self.symbols.describe(registers.rip).name,
            instruction: self.instruction(registers.rip),
            registers: self.named_registers(registers),
            stack,
            history: self.flight.history(self.exports, self.symbols, self.clock),
        }
    }

    fn bugcheck(&self, record: &CrashRecord) -> Cause {
        let known = bugcheck::find(record.code);
        let parameters = record
            .parameters
            .iter()
            .enumerate()
            .map(|(index, &word)| {
                let meaning = known
                    .and_then(|known| known.parameters.get(index).copied())
                    .unwrap_or_default();
                BugcheckParameter {
                    value: Hex(word),
                    meaning,
                    name: self.parameter_name(word, meaning),
                }
            })
            .collect();
        Cause::Bugcheck {
            code: Hex(u64::from(record.code)),
            name: known.map(|known| known.name),
            meaning: known.map(|known| known.meaning),
            parameters,
        }
    }

    fn parameter_name(&self, word: u64, meaning: &str) -> Option<String> {
        // NTSTATUS is 32 bits, sign-extended to a word by many callers.
        let low = u32::try_from(word & 0xFFFF_FFFF).unwrap_or_default();
        if meaning.starts_with("exception code") {
            return NtStatus(low).name().map(str::to_owned);
        }
        if meaning.starts_with("IRQL") {
            return Some(value::irql(u8::try_from(word).unwrap_or(u8::MAX)));
        }
        let symbol = self.symbols.describe(word);
        symbol.module.map(|_| symbol.name)
    }

    fn unbound_import(&self, number: u32) -> Cause {
        let import = usize::try_from(number)
            .ok()
            .and_then(|index| self.unbound.get(index));
        match import {
            Some((dll, function)) => Cause::UnboundImport {
                dll: escape(dll),
                function: escape(function),
            },
            None => Cause::UnboundImport {
                dll: "?".into(),
                function: format!("unbound import {number}"),
            },
        }
    }

    fn exception(&self, record: &CrashRecord) -> Option<Exception> {
        if record.vector == NO_VECTOR {
            return None;
        }
        let (name, what) = exception_name(record.vector);
        let explanation = if record.vector == 14 {
            let did = if record.error_code & 0x10 != 0 {
                "executed"
            } else if record.error_code & 2 != 0 {
                "wrote to"
            } else {
                "read from"
            };
            let state = if record.error_code & 1 == 0 {
                "nothing is mapped there"
            } else {
                "the page does not allow that"
            };
            let address = record.registers.cr2;
            let place = match self.symbols.describe(address) {
                symbol if symbol.module.is_some() => format!("{address:#x} ({symbol})"),
                _ if address < abi::layout::PAGE_SIZE => format!("{address:#x} (a null pointer)"),
                _ => format!("{address:#x}"),
            };
            format!("{did} {place}: {state}")
        } else {
            what.into()
        };
        Some(Exception {
            vector: record.vector,
            name,
            error_code: Hex(u64::from(record.error_code)),
            explanation,
        })
    }

    fn instruction(&self, rip: u64) -> Option<CrashInstruction> {
        let mut code = [0; 15];
        let length = self.memory.read(rip, &mut code);
        let code = code.get(..length).filter(|code| !code.is_empty())?;
        let is_driver = self
            .symbols
            .module(rip)
            .is_none_or(|module| module.kind != ModuleKind::Shim);
        let bits = match self.abi {
            DriverAbi::I386 if is_driver => 32,
            _ => 64,
        };
        let instruction = Decoder::with_ip(bits, code, rip, DecoderOptions::NONE).decode();
        if instruction.is_invalid() {
            return Some(CrashInstruction {
                bytes: hex::spaced(code),
                text: None,
            });
        }
        let mut formatter = NasmFormatter::new();
        let options = formatter.options_mut();
        options.set_hex_prefix("0x");
        options.set_hex_suffix("");
        options.set_uppercase_hex(false);
        options.set_space_after_operand_separator(true);
        options.set_rip_relative_addresses(false);
        let mut text = String::new();
        formatter.format(&instruction, &mut text);
        Some(CrashInstruction {
            bytes: hex::spaced(code.get(..instruction.len()).unwrap_or(code)),
            text: Some(text),
        })
    }

    fn named_registers(&self, registers: &Registers) -> Vec<(&'static str, Hex)> {
        const NAMES64: [&str; 16] = [
            "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11",
            "r12", "r13", "r14", "r15",
        ];
        const NAMES32: [&str; 8] = ["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"];
        // A hang of an i386 guest may be in the shim's 64-bit code.
        let is_32_bit = self.abi == DriverAbi::I386
            && self
                .symbols
                .module(registers.rip)
                .is_none_or(|module| module.kind != ModuleKind::Shim);
        let (names, ip, flags, mask): (&[&str], _, _, _) = if is_32_bit {
            (&NAMES32, "eip", "eflags", 0xFFFF_FFFF)
        } else {
            (&NAMES64, "rip", "rflags", u64::MAX)
        };
        let special = [
            (ip, registers.rip),
            (flags, registers.rflags),
            ("cs", registers.cs),
            ("cr2", registers.cr2),
        ];
        names
            .iter()
            .copied()
            .zip(registers.general)
            .chain(special)
            .map(|(name, value)| (name, Hex(value & mask)))
            .collect()
    }
}

/// Intel SDM volume 3, table 7-1.
fn exception_name(vector: u32) -> (&'static str, &'static str) {
    match vector {
        0 => ("#DE", "divided by zero, or the quotient does not fit"),
        1 => ("#DB", "debug trap"),
        2 => ("NMI", "non-maskable interrupt"),
        3 => ("#BP", "breakpoint (int 3)"),
        4 => ("#OF", "overflow (into)"),
        5 => ("#BR", "index out of bounds (bound)"),
        6 => (
            "#UD",
            "an instruction that the processor does not know, or that is not allowed here",
        ),
        7 => ("#NM", "floating point is not available"),
        8 => (
            "#DF",
            "an exception could not be delivered: usually the stack is used up",
        ),
        10 => ("#TS", "invalid task-state segment"),
        11 => ("#NP", "segment not present"),
        12 => (
            "#SS",
            "stack segment fault, or a stack address that is not canonical",
        ),
        13 => (
            "#GP",
            "a privileged instruction, a selector that is not valid, or an address that is not canonical",
        ),
        14 => ("#PF", "page fault"),
        16 => ("#MF", "x87 floating-point error"),
        17 => ("#AC", "unaligned access"),
        18 => ("#MC", "machine check"),
        19 => ("#XM", "SIMD floating-point error"),
        20 => ("#VE", "virtualization exception"),
        21 => ("#CP", "control protection"),
        _ => (
            "?",
            "an exception that the processor does not raise by itself",
        ),
    }
}
