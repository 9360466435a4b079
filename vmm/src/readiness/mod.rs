//! What `ringfence inspect` says about a driver's chances, from its code alone.
//!
//! The image is decoded, never run. What is found is what can be found that way: a driver that computes its code or its
//! names at run time hides them, and both ways of every branch count as possible. All loops have limits and the whole
//! has a deadline, since the image is hostile.

mod code;
mod display;
mod emulate;
mod ioctl;
mod names;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use iced_x86::Mnemonic;
use serde::Serialize;

use crate::loader::report::ImportStatus;
use crate::loader::{Image, MapError};
use code::Code;
pub use ioctl::ControlCode;
pub use names::{NameKind, ObjectName};
pub use walk::Reach;
use walk::Walk;

/// How long an image may take.
const TIME_MAX: Duration = Duration::from_secs(20);
/// Most privileged instructions that are listed.
const PRIVILEGED_MAX: usize = 4096;

/// What to expect of a driver.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// Everything that it imports is there.
    Ready,
    /// It starts as far as can be seen; this is not all there, or is missing where DriverEntry does not lead.
    Probably {
        /// Imports that are partial.
        partial: Vec<String>,
        /// Imports that are missing and not reached from DriverEntry.
        missing: Vec<String>,
    },
    /// DriverEntry can reach a call that stops the guest.
    WillStop {
        /// The first such import.
        at: String,
        /// All of them.
        missing: Vec<String>,
    },
    /// It cannot be loaded.
    CannotLoad {
        /// Why.
        why: String,
    },
}

/// An import and from where it is reached; `None`: not seen in the code.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ImportReach {
    /// DLL and name.
    pub import: String,
    /// `implemented`, `partial`, `missing` or `unknown`.
    pub status: &'static str,
    /// From where.
    pub reached_from: Option<Reach>,
}

/// An instruction that only the kernel may execute.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Privileged {
    /// RVA.
    pub rva: u32,
    /// Its mnemonic.
    pub instruction: String,
    /// The port, where it is a constant.
    pub port: Option<u16>,
    /// From where it is reached.
    pub reached_from: Reach,
}

/// A routine that DriverEntry sets for an IRP.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct MajorFunction {
    /// IRP_MJ_ number.
    pub number: u8,
    /// Its name.
    pub name: &'static str,
    /// RVAs of the routines.
    pub rvas: Vec<u32>,
}

/// The report.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Readiness {
    /// What to expect.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The verdict in words.
    pub verdict_text: String,
    /// Imports by reach.
    pub reach: Vec<ImportReach>,
    /// Dispatch routines.
    pub major_functions: Vec<MajorFunction>,
    /// RVA of DriverUnload.
    pub driver_unload: Option<u32>,
    /// RVA of AddDevice: a PnP driver.
    pub add_device: Option<u32>,
    /// Whether it is a KMDF driver.
    pub is_kmdf: bool,
    /// DLLs other than the kernel and the HAL that it imports from.
    pub libraries: Vec<String>,
    /// Devices and symbolic links.
    pub names: Vec<ObjectName>,
    /// I/O control codes.
    pub ioctls: Vec<ControlCode>,
    /// Privileged instructions by address.
    pub privileged: Vec<Privileged>,
    /// How many instructions were decoded.
    pub instructions: usize,
    /// Whether limits cut the search short.
    pub is_incomplete: bool,
}

impl Readiness {
    /// Looks through an image. `status` is asked for each import: its DLL, and its name unless imported by ordinal.
    #[must_use]
    pub fn new(image: &Image, status: impl Fn(&str, Option<&str>) -> ImportStatus) -> Self {
        Self::within(TIME_MAX, image, status)
    }

    /// As [`Self::new`], with a time limit of the caller's for the search.
    #[must_use]
    pub fn within(
        time: Duration,
        image: &Image,
        status: impl Fn(&str, Option<&str>) -> ImportStatus,
    ) -> Self {
        let deadline = Instant::now() + time;
        let mut code = match Code::new(image) {
            Ok(code) => code,
            Err(error) => return Self::cannot_load(image, &error),
        };
        let walk = Walk::new(&mut code, deadline);
        let search = ioctl::find(&mut code, &walk, deadline);
        let by_import: BTreeMap<usize, Reach> = walk.imports.iter().copied().collect();
        let status_of = |number: usize| {
            image
                .imports
                .get(number)
                .map(|import| status(&import.dll, import.name()))
        };
        let reach = image
            .imports
            .iter()
            .enumerate()
            .map(|(number, import)| ImportReach {
                import: import.to_string(),
                status: status(&import.dll, import.name()).name(),
                reached_from: by_import.get(&number).copied(),
            })
            .collect();
        let stops = |number: usize| {
            matches!(
                status_of(number),
                Some(ImportStatus::Missing | ImportStatus::Unknown)
            )
        };
        let in_entry: Vec<usize> = walk
            .imports
            .iter()
            .filter(|(number, reach)| *reach == Reach::DriverEntry && stops(*number))
            .map(|(number, _)| *number)
            .collect();
        let verdict = verdict(image, &in_entry, &status_of);
        let rva = |address: u64| u32::try_from(address - code.base).unwrap_or(0);
        Self {
            verdict_text: verdict.to_string(),
            verdict,
            reach,
            major_functions: walk
                .major_functions
                .iter()
                .map(|(&number, routines)| MajorFunction {
                    number,
                    name: major_name(number),
                    rvas: routines.iter().map(|&address| rva(address)).collect(),
                })
                .collect(),
            driver_unload: walk.driver_unload.map(rva),
            add_device: walk.add_device.map(rva),
            is_kmdf: is_kmdf(image),
            libraries: libraries(image),
            names: names::find(&code, &walk.references),
            ioctls: search.codes,
            privileged: privileged(&mut code, &walk),
            instructions: walk.instructions.len(),
            is_incomplete: walk.is_incomplete || !search.is_complete,
        }
    }

    fn cannot_load(image: &Image, error: &MapError) -> Self {
        let verdict = Verdict::CannotLoad {
            why: error.to_string(),
        };
        Self {
            verdict_text: verdict.to_string(),
            verdict,
            reach: Vec::new(),
            major_functions: Vec::new(),
            driver_unload: None,
            add_device: None,
            is_kmdf: is_kmdf(image),
            libraries: libraries(image),
            names: Vec::new(),
            ioctls: Vec::new(),
            privileged: Vec::new(),
            instructions: 0,
            is_incomplete: true,
        }
    }
}

fn verdict(
    image: &Image,
    in_entry: &[usize],
    status_of: &impl Fn(usize) -> Option<ImportStatus>,
) -> Verdict {
    let label = |number: usize| image.imports.get(number).map(ToString::to_string);
    if let Some(&first) = in_entry.first() {
        return Verdict::WillStop {
            at: label(first).unwrap_or_default(),
            missing: in_entry
                .iter()
                .filter_map(|&number| label(number))
                .collect(),
        };
    }
    let with = |wanted: fn(&ImportStatus) -> bool| -> Vec<String> {
        (0..image.imports.len())
            .filter(|&number| status_of(number).is_some_and(|status| wanted(&status)))
            .filter_map(label)
            .collect()
    };
    let partial = with(|status| matches!(status, ImportStatus::Partial(_)));
    let missing = with(|status| matches!(status, ImportStatus::Missing | ImportStatus::Unknown));
    if partial.is_empty() && missing.is_empty() {
        Verdict::Ready
    } else {
        Verdict::Probably { partial, missing }
    }
}

fn is_kmdf(image: &Image) -> bool {
    let mut imports = image.imports.iter();
    imports.any(|import| import.name() == Some("WdfVersionBind"))
}

/// DLLs that are neither kernel, HAL nor KMDF's loader, each once.
fn libraries(image: &Image) -> Vec<String> {
    let mut all: Vec<String> = image
        .imports
        .iter()
        .map(|import| import.dll.to_ascii_lowercase())
        .filter(|dll| !matches!(dll.as_str(), "ntoskrnl.exe" | "hal.dll" | "wdfldr.sys"))
        .collect();
    all.sort();
    all.dedup();
    all
}

/// Instructions that fault below CPL 0, or that touch ports.
fn privileged(code: &mut Code<'_>, walk: &Walk) -> Vec<Privileged> {
    let mut all = Vec::new();
    for (&address, &reached_from) in &walk.instructions {
        let Some(instruction) = code.decode(address) else {
            continue;
        };
        let is_port = matches!(
            instruction.mnemonic(),
            Mnemonic::In
                | Mnemonic::Out
                | Mnemonic::Insb
                | Mnemonic::Insw
                | Mnemonic::Insd
                | Mnemonic::Outsb
                | Mnemonic::Outsw
                | Mnemonic::Outsd
        );
        let is_interrupt_flag = matches!(instruction.mnemonic(), Mnemonic::Cli | Mnemonic::Sti);
        if !is_port && !is_interrupt_flag && !instruction.is_privileged() {
            continue;
        }
        if all.len() >= PRIVILEGED_MAX {
            break;
        }
        let mut text = format!("{:?}", instruction.mnemonic()).to_ascii_lowercase();
        for operand in 0..instruction.op_count() {
            let register = instruction.op_register(operand);
            if register.is_cr() || register.is_dr() {
                text.push_str(&format!(" {register:?}").to_ascii_lowercase());
            }
        }
        all.push(Privileged {
            rva: u32::try_from(address - code.base).unwrap_or(0),
            instruction: text,
            port: walk.ports.get(&address).copied(),
            reached_from,
        });
    }
    all
}

/// IRP_MJ_ name of a number.
fn major_name(number: u8) -> &'static str {
    kernel_shim::nt::major_function_name(number).unwrap_or("IRP_MJ_?")
}
