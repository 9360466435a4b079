//! From a driver's file and a policy to a running machine.

use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use abi::channel::Operation;
use abi::{DriverAbi, Privilege, layout};
use displaydoc::Display;
use kernel_shim::export::Coverage;
use thiserror::Error;

use super::driver::DriverError;
use super::engine::{Engine, Fate, Identity, Message};
use super::interrupt::Interrupt;
use super::machine::{Call, Link, Machine};
use super::responder::{Responder, window_offsets};
use crate::files::{Files, FilesOption};
use crate::loader::report::ImportStatus;
use crate::loader::{ExportTarget, Image, ImageError, Import, MapError, Mapped, SecurityCookie};
use crate::machine::host::{self, KvmError, KvmKind};
use crate::machine::{CreateError, DriverSlot, PhysicalPiece, VmBuilder, VmConfig, WindowMemory};
use crate::observe::clock::Clock;
use crate::observe::ntstatus::NtStatus;
use crate::observe::output::TraceOutput;
use crate::observe::symbols::{Module, Symbols};
use crate::observe::trace::{Observer, TraceContext};
use crate::policy::{MemorySpace, MemoryStartError, Policy};
use crate::ports::{PortSpace, StartError as PortStartError};

/// Largest driver file that is read, in bytes.
const FILE_MAX: u64 = 64 << 20;

/// What to run, and how.
#[derive(Debug)]
pub struct Launch {
    /// The driver's file.
    pub driver: PathBuf,
    /// The owner's policy.
    pub policy: Policy,
    /// Privilege mode; `None` picks what suits this machine's KVM.
    pub privilege: Option<Privilege>,
    /// Guest RAM in bytes.
    pub memory_bytes: u64,
    /// How long the guest may run, or a request may stay pending.
    pub timeout: Duration,
    /// Where the trace goes, if one is wanted, and whether as JSON.
    pub trace: Option<(TraceOutput, bool)>,
    /// Registry contents to add before the driver starts, encoded ([`crate::registry::read`]).
    pub registry: Option<Vec<u8>>,
    /// The host directory that the driver's file functions see.
    pub files: Option<FilesOption>,
    /// Refuse a driver with imports that Ringfence does not have.
    pub is_strict: bool,
    /// Verify drivers' use of the pool, as Driver Verifier's special pool does.
    pub is_verifying: bool,
}

/// Why a driver does not run.
#[derive(Debug, Display, Error)]
pub enum StartError {
    /// cannot read {path}
    File {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// {path} has {bytes} bytes, which no driver has
    FileSize {
        /// Its path.
        path: String,
        /// Its size.
        bytes: u64,
    },
    /// {0} is no regular file
    NoFile(String),
    /// {path} is rejected
    Image {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: ImageError,
    },
    /// {path} cannot be mapped
    Map {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: MapError,
    },
    /// {path} imports what Ringfence does not have (--strict): {names}
    Unbound {
        /// Its path.
        path: String,
        /// DLL and name of each.
        names: String,
    },
    /// KVM cannot be used
    Kvm(#[from] KvmError),
    /// this machine's KVM (kvm_pvm) interprets ring-0 code and has no SSE there: use --privilege ring3 or auto
    Ring0Unavailable,
    /// the guest cannot be made
    Create(#[from] CreateError),
    /// the policy's port rules cannot be set up
    Ports(#[from] PortStartError),
    /// the policy's memory rules cannot be set up
    Memory(#[from] MemoryStartError),
    /// cannot start a thread
    Thread(#[source] std::io::Error),
    /// cannot open the directory {path} for --files
    Files {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// the guest refuses the registry's contents: {0}
    Registry(NtStatus),
    /// DriverEntry failed: {0}
    DriverEntry(NtStatus),
    /// the driver did not start
    Driver(#[source] DriverError),
}

/// What the export table says of an import.
#[must_use]
pub fn import_status(abi: DriverAbi, dll: &str, name: Option<&str>) -> ImportStatus {
    match name.and_then(|name| find_export(abi, dll, name)) {
        None => ImportStatus::Unknown,
        Some(index) => match kernel_shim::table::EXPORTS
            .get(index)
            .map(|export| export.coverage)
        {
            Some(Coverage::Implemented) => ImportStatus::Implemented,
            Some(Coverage::Partial(missing)) => ImportStatus::Partial(missing.to_owned()),
            Some(Coverage::Missing) => ImportStatus::Missing,
            None => ImportStatus::Unknown,
        },
    }
}

fn find_export(abi: DriverAbi, dll: &str, name: &str) -> Option<usize> {
    kernel_shim::table::EXPORTS.iter().position(|export| {
        export.name == name && export.machines.has(abi) && export.module.accepts(dll)
    })
}

/// Starts a driver; returns when DriverEntry has returned successfully.
///
/// # Errors
/// See [`StartError`].
pub fn start(launch: Launch) -> Result<Machine, StartError> {
    start_unless(launch, None)
}

/// As [`start`]; a signal that comes before DriverEntry has returned ends the machine.
///
/// # Errors
/// See [`StartError`].
pub fn start_unless(launch: Launch, interrupt: Option<Interrupt>) -> Result<Machine, StartError> {
    let path = launch.driver.display().to_string();
    let file = read_driver(&launch.driver, &path)?;
    let image = Image::parse(&file).map_err(|source| StartError::Image {
        path: path.clone(),
        source,
    })?;
    if launch.is_strict {
        refuse_unbound(&image, &path)?;
    }
    let name = service_name(&launch.driver);
    let timeout = launch.timeout;
    let registry = launch.registry.clone();
    let fate = Arc::new(Fate::default());
    let (sender, inbox) = channel();
    let (report, outcome) = channel();
    let engine_fate = Arc::clone(&fate);
    let engine = std::thread::Builder::new()
        .name("vcpu".to_owned())
        .spawn(move || {
            let set_up = prepare(launch, &image, &path, inbox, engine_fate);
            match set_up {
                Ok((engine, slot, entry)) => {
                    if report.send(Ok((engine.stopper(), slot, entry))).is_ok() {
                        engine.run();
                    }
                }
                Err(error) => {
                    // The caller waits for exactly this.
                    let _ = report.send(Err(error)).is_ok();
                }
            }
        })
        .map_err(StartError::Thread)?;
    let (stopper, slot, entry) = outcome.recv().unwrap_or_else(|_| {
        Err(StartError::Driver(DriverError::Gone(
            "its thread ended".to_owned(),
        )))
    })?;
    let machine = Machine {
        link: Arc::new(Link::new(sender, fate, timeout, stopper)),
        engine: Mutex::new(Some(engine)),
        registry: Mutex::default(),
    };
    if let Some(contents) = registry {
        load_registry(&machine, contents, interrupt)?;
    }
    load(&machine, &name, slot, entry, interrupt)?;
    Ok(machine)
}

/// The name of a driver's service: its file's, without folder and extension.
#[must_use]
pub fn service_name(driver: &Path) -> String {
    driver.file_stem().map_or_else(
        || "driver".to_owned(),
        |stem| stem.to_string_lossy().into_owned(),
    )
}

fn read_driver(file: &Path, path: &str) -> Result<Vec<u8>, StartError> {
    let io_error = |source| StartError::File {
        path: path.to_owned(),
        source,
    };
    let metadata = std::fs::metadata(file).map_err(io_error)?;
    if !metadata.is_file() {
        return Err(StartError::NoFile(path.to_owned()));
    }
    if metadata.len() > FILE_MAX {
        return Err(StartError::FileSize {
            path: path.to_owned(),
            bytes: metadata.len(),
        });
    }
    std::fs::read(file).map_err(io_error)
}

fn refuse_unbound(image: &Image, path: &str) -> Result<(), StartError> {
    let names: Vec<String> = image
        .imports
        .iter()
        .filter(|import| {
            let status = import_status(image.abi, &import.dll, import.name());
            matches!(status, ImportStatus::Unknown | ImportStatus::Missing)
        })
        .map(ToString::to_string)
        .collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(StartError::Unbound {
        path: path.to_owned(),
        names: names.join(", "),
    })
}

/// Everything up to the guest's first instruction, on the thread that will run it.
fn prepare(
    launch: Launch,
    image: &Image,
    path: &str,
    inbox: Receiver<Message>,
    fate: Arc<Fate>,
) -> Result<(Engine, DriverSlot, u64), StartError> {
    let kvm = host::open()?;
    let privilege = match launch.privilege {
        None => host::choose_privilege(&kvm).privilege,
        Some(Privilege::Ring0) if KvmKind::detect() == KvmKind::Paravirtual => {
            return Err(StartError::Ring0Unavailable);
        }
        Some(privilege) => privilege,
    };
    let ports = PortSpace::new(&launch.policy)?;
    let memory = MemorySpace::new(&launch.policy, launch.memory_bytes)?;
    let mut builder = VmBuilder::new(
        &kvm,
        VmConfig {
            abi: image.abi,
            privilege,
            ram_bytes: launch.memory_bytes,
            timeout: launch.timeout,
            is_trace_lossless: launch.trace.is_some(),
            is_verifying: launch.is_verifying,
        },
    )?;
    add_window_memory(&mut builder, &memory)?;
    let (slot, mapped, unbound) = place(&mut builder, image, path)?;
    let file_name = launch
        .driver
        .file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let kernel_base = layout::kernel_base(image.abi, privilege);
    let symbols = Arc::new(symbols(image, &file_name, slot, kernel_base, &unbound));
    let vm = builder.build()?;
    let clock = Clock {
        boot_tsc: vm.boot_time_stamp(),
        tsc_khz: vm.tsc_khz(),
    };
    let context = TraceContext {
        exports: &kernel_shim::table::EXPORTS,
        clock,
        symbols: Arc::clone(&symbols),
        driver: file_name.clone(),
    };
    let mut observer = Observer::new(context);
    if let Some((output, is_json)) = launch.trace {
        observer = observer.with_trace(output, is_json);
    }
    let mut responder = Responder::new(ports, memory, observer);
    responder.files = launch
        .files
        .as_ref()
        .map(|option| {
            Files::new(option).map_err(|source| StartError::Files {
                path: option.path.display().to_string(),
                source,
            })
        })
        .transpose()?;
    responder.tsc_offset = vm.time_stamp_offset();
    let identity = Identity {
        driver: file_name,
        abi: image.abi,
        privilege,
        symbols,
        unbound,
        clock,
        timeout: launch.timeout,
    };
    Ok((
        Engine::new(vm, responder, identity, inbox, fate),
        slot,
        mapped.entry,
    ))
}

#[expect(unsafe_code, reason = "host memory is handed to KVM by address")]
fn add_window_memory(builder: &mut VmBuilder, memory: &MemorySpace) -> Result<(), CreateError> {
    for (backing, window_offset) in memory.backings().iter().zip(window_offsets(memory)) {
        let window = WindowMemory {
            host_address: backing.host_address(),
            piece: PhysicalPiece {
                window_offset,
                bytes: backing.bytes(),
            },
            // Page-table entries decide for each rule's part of it.
            is_writable: true,
        };
        // SAFETY: the backing lives as long as the `MemorySpace`, which the responder owns; `Engine` drops its VM
        // before its responder.
        unsafe { builder.add_window_memory(window) }?;
    }
    Ok(())
}

/// Where the image went, what it looks like there, and its imports that nothing implements.
type Placed = (DriverSlot, Mapped, Vec<(String, String)>);

fn place(builder: &mut VmBuilder, image: &Image, path: &str) -> Result<Placed, StartError> {
    let slot = builder.reserve_driver(u64::from(image.size_of_image))?;
    let mut unbound = Vec::new();
    let mut failure = None;
    let mut resolve = |import: &Import| {
        let bound = import
            .name()
            .and_then(|name| find_export(image.abi, &import.dll, name))
            .and_then(|index| builder.export_address(index));
        bound.unwrap_or_else(|| match builder.bind_unbound() {
            Ok((address, _)) => {
                let name = import.name().map_or_else(
                    || format!("ordinal {}", import.ordinal().unwrap_or(0)),
                    str::to_owned,
                );
                unbound.push((import.dll.clone(), name));
                address
            }
            Err(error) => {
                failure.get_or_insert(error);
                0
            }
        })
    };
    // A random number of the standard library's hash keys: from the operating system, new in each process.
    let random = std::hash::RandomState::new().build_hasher().finish();
    let cookie = SecurityCookie::value_from(image.abi, random);
    let mapped = image
        .map(slot.base, &mut resolve, cookie)
        .map_err(|source| StartError::Map {
            path: path.to_owned(),
            source,
        })?;
    if let Some(error) = failure {
        return Err(error.into());
    }
    for (dll, name) in &unbound {
        tracing::warn!("{path}: {dll}!{name} is not implemented; a call stops the guest");
    }
    builder.place_driver(slot, &mapped.memory, |page| {
        mapped
            .protection
            .get(page)
            .map_or((false, false), |page| (page.write, page.execute))
    })?;
    Ok((slot, mapped, unbound))
}

fn symbols(
    image: &Image,
    file_name: &str,
    slot: DriverSlot,
    kernel_base: u64,
    unbound: &[(String, String)],
) -> Symbols {
    let code = image
        .sections
        .iter()
        .filter(|section| section.asked_protection().execute)
        .map(|section| u64::from(section.rva)..u64::from(section.end()));
    let exports = image
        .exports
        .iter()
        .filter_map(|export| match &export.target {
            ExportTarget::Rva(rva) => Some((u64::from(*rva), export.name.clone()?)),
            ExportTarget::Forwarder(_) => None,
        });
    let mut driver = Module::driver(file_name, slot.base, slot.bytes)
        .with_exports(exports)
        .with_executable(code);
    if let Some(table) = &image.function_table {
        driver = driver
            .with_exception_directory(u64::from(table.start), u64::from(table.end - table.start));
    }
    let stubs = Module::stubs(
        kernel_base + layout::EXPORTS,
        &kernel_shim::table::EXPORTS,
        unbound,
    );
    Symbols::new(vec![driver, stubs])
}

/// Gives the shim its registry contents.
fn load_registry(
    machine: &Machine,
    contents: Vec<u8>,
    interrupt: Option<Interrupt>,
) -> Result<(), StartError> {
    let arguments = [0, contents.len() as u64, 0, 0, 0, 0];
    let mut call = Call::new(Operation::LoadRegistry, 0, arguments);
    call.input = Some((0, contents));
    let done = machine
        .link
        .call_unless(call, interrupt)
        .map_err(StartError::Driver)?;
    if done.status >> 31 != 0 {
        return Err(StartError::Registry(NtStatus(done.status)));
    }
    Ok(())
}

/// Has the shim call DriverEntry.
fn load(
    machine: &Machine,
    name: &str,
    slot: DriverSlot,
    entry: u64,
    interrupt: Option<Interrupt>,
) -> Result<(), StartError> {
    let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let arguments = [slot.base, slot.bytes, entry, 0, name.len() as u64, 0];
    let mut call = Call::new(Operation::LoadDriver, 0, arguments);
    call.input = Some((3, name));
    let done = machine
        .link
        .call_unless(call, interrupt)
        .map_err(StartError::Driver)?;
    if done.status >> 31 != 0 {
        return Err(StartError::DriverEntry(NtStatus(done.status)));
    }
    machine.link.driver_id.store(done.value, Ordering::Relaxed);
    Ok(())
}
