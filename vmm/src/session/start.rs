//! From a driver's file and a policy to a running machine.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use abi::channel::Operation;
use abi::windows::Windows;
use abi::{DriverAbi, Privilege, layout};
use displaydoc::Display;
use kernel_shim::export::Coverage;
use thiserror::Error;

use super::client::waker::{Postbox, Waker};
use super::driver::DriverError;
use super::engine::{Engine, Fate, Identity, Message};
use super::host_memory::{add_window_memory, open_dma};
use super::image::{DriverImage, Load, Placed, place, symbols};
use super::interrupt::Interrupt;
use super::link::{Call, Link};
use super::machine::Machine;
use super::prepared_device::PreparedDevice;
use super::privileges::{self, Confinement};
use super::responder::Responder;
use crate::files::{Files, FilesOption};
use crate::hardware::{
    DevCpuMsr, HostPci, InterruptStartError, OpenInterrupts, VfioFunctions, VfioStartError,
};
use crate::loader::report::ImportStatus;
use crate::loader::{Image, ImageError, MapError};
use crate::machine::host::{self, KvmError, KvmKind};
use crate::machine::processor_share::{self, ProcessorShare};
use crate::machine::{Bus, CreateError, VmBuilder, VmConfig};
use crate::msr::{MsrSpace, MsrStartError};
use crate::observe::clock::Clock;
use crate::observe::ntstatus::NtStatus;
use crate::observe::output::TraceOutput;
use crate::observe::trace::{Observer, TraceContext};
use crate::policy::{MemorySpace, MemoryStartError, Policy};
use crate::ports::{Backends, PortSpace, StartError as PortStartError};
use crate::recording::Recorder;

/// What to run, and how.
#[derive(Debug)]
pub struct Launch {
    /// The drivers' files, the lowest first: they are started in this order, and each may import from those before it.
    /// At least one.
    pub drivers: Vec<PathBuf>,
    /// Drivers that are placed in the guest but not started: ZwLoadDriver may do that.
    pub available: Vec<PathBuf>,
    /// The owner's policy.
    pub policy: Policy,
    /// Privilege mode; `None` picks what suits this machine's KVM.
    pub privilege: Option<Privilege>,
    /// Guest RAM in bytes.
    pub memory_bytes: u64,
    /// The share of a processor that the guest gets, if it has a limit.
    pub processor_share: Option<ProcessorShare>,
    /// How long the guest may run, or a request may stay pending.
    pub timeout: Duration,
    /// Where the trace goes, if one is wanted, and whether as JSON.
    pub trace: Option<(TraceOutput, bool)>,
    /// Where the registry is written when a driver flushes a key; see [`Machine::save_registry_to`] for the end.
    pub save_registry: Option<PathBuf>,
    /// Where accesses are recorded, if they are.
    pub recorder: Option<Recorder>,
    /// Registry contents to add before the driver starts, encoded ([`crate::registry::read`]).
    pub registry: Option<Vec<u8>>,
    /// The host directory that the driver's file functions see.
    pub files: Option<FilesOption>,
    /// Refuse a driver with imports that Ringfence does not have.
    pub is_strict: bool,
    /// Which Windows the guest is; `None`: the default for the driver's ABI.
    pub windows: Option<Windows>,
    /// Verify drivers' use of the pool, as Driver Verifier's special pool does.
    pub is_verifying: bool,
    /// PnP drivers get their device, but it is not started.
    pub is_pnp_held: bool,
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
    /// {0} is no regular file
    NoFile(String),
    /// there is no driver to start
    NoDriver,
    /// {path} is an {abi} driver, and the first is an {first} one: a guest has one ABI
    MixedAbi {
        /// Its path.
        path: String,
        /// Its ABI.
        abi: &'static str,
        /// The first driver's.
        first: &'static str,
    },
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
    /// there is no 32-bit Windows {0}: use --windows 7 or 10 for this i386 driver
    Windows(&'static str),
    /// this machine's KVM (kvm_pvm) interprets ring-0 code and has no SSE there: use --privilege ring3 or auto
    Ring0Unavailable,
    /// the guest cannot be made
    Create(#[from] CreateError),
    /// the policy's port rules cannot be set up
    Ports(#[from] PortStartError),
    /// the policy's memory rules cannot be set up
    Memory(#[from] MemoryStartError),
    /// the policy's PCI rules cannot be set up
    Vfio(#[from] VfioStartError),
    /// the guest's memory cannot be given to devices by VFIO
    Dma(#[source] std::io::Error),
    /// the policy's MSR rules cannot be set up
    Msrs(#[from] MsrStartError),
    /// the policy's interrupt rules cannot be set up
    Interrupts(#[from] InterruptStartError),
    /// cannot give up privileges
    Privileges(#[source] std::io::Error),
    /// the guest's share of a processor cannot be limited
    ProcessorShare(#[source] std::io::Error),
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
    /// the policy's `device` table is for the driver {0}, which is not started here
    NoDeviceDriver(String),
    /// the guest refuses the policy's `device` table: {0}
    Device(NtStatus),
    /// DriverEntry of {driver} failed: {status}
    DriverEntry {
        /// The driver's name.
        driver: String,
        /// What it returned.
        status: NtStatus,
    },
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

pub(super) fn find_export(abi: DriverAbi, dll: &str, name: &str) -> Option<usize> {
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
    start_with(launch, interrupt, None)
}

/// As [`start_unless`]; when everything that the policy names is open, and before the guest's first instruction, **the whole
/// process** gives up its privileges but for those of `confinement`.
///
/// # Errors
/// See [`StartError`].
pub fn start_confined(
    launch: Launch,
    interrupt: Option<Interrupt>,
    confinement: Confinement,
) -> Result<Machine, StartError> {
    start_with(launch, interrupt, Some(confinement))
}

fn start_with(
    launch: Launch,
    interrupt: Option<Interrupt>,
    confinement: Option<Confinement>,
) -> Result<Machine, StartError> {
    let mut images = Vec::new();
    for (paths, is_started) in [(&launch.available, false), (&launch.drivers, true)] {
        for path in paths {
            images.push(DriverImage::read(path, is_started)?);
        }
    }
    // What is available comes after what is started, as far as imports go.
    images.sort_by_key(|image| !image.is_started);
    let Some(abi) = images.first().map(|image| image.image.abi) else {
        return Err(StartError::NoDriver);
    };
    if let Some(other) = images.iter().find(|image| image.image.abi != abi) {
        return Err(StartError::MixedAbi {
            path: other.path.clone(),
            abi: other.image.abi.name(),
            first: abi.name(),
        });
    }
    if launch.is_strict {
        for (index, image) in images.iter().enumerate() {
            refuse_unbound(image, images.get(..index).unwrap_or_default())?;
        }
    }
    let device = PreparedDevice::new(&launch, &images)?;
    let timeout = launch.timeout;
    let registry = launch.registry.clone();
    let share = launch.processor_share;
    let functions = VfioFunctions::open(&launch.policy)?;
    let sources = OpenInterrupts::new(&launch.policy, &functions)?;
    let fate = Arc::new(Fate::default());
    let waker = Arc::new(Waker::new().map_err(StartError::Thread)?);
    let (sender, inbox) = channel();
    let sender = Postbox::new(sender, Arc::clone(&waker));
    let (report, outcome) = channel();
    let for_lines = sender.clone();
    let engine_fate = Arc::clone(&fate);
    let engine = std::thread::Builder::new()
        .name("vcpu".to_owned())
        .spawn(move || {
            let set_up = prepare(launch, &images, &functions, inbox, waker, engine_fate).and_then(
                |prepared| match confinement {
                    Some(confinement) => privileges::confine(confinement)
                        .map(|()| prepared)
                        .map_err(StartError::Privileges),
                    None => Ok(prepared),
                },
            );
            let limited = set_up.and_then(|prepared| {
                let limit = share.map(processor_share::limit).transpose();
                Ok((prepared, limit.map_err(StartError::ProcessorShare)?))
            });
            match limited {
                Ok(((engine, loads), _limit)) => {
                    let lines = engine.interrupt_lines();
                    lines.set_waker(Box::new(move || {
                        // An engine that is gone has no guest to interrupt.
                        let _ = for_lines.send(Message::Interrupt).is_ok();
                    }));
                    if report.send(Ok((engine.stopper(), lines, loads))).is_ok() {
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
    let (stopper, interrupts, loads) = outcome.recv().unwrap_or_else(|_| {
        Err(StartError::Driver(DriverError::Gone(
            "its thread ended".to_owned(),
        )))
    })?;
    let host_interrupts = sources.start(&interrupts).map_err(StartError::Thread)?;
    let machine = Machine {
        host_interrupts: Mutex::new(Some(host_interrupts)),
        link: Arc::new(Link::new(sender, fate, timeout, stopper, abi)),
        engine: Mutex::new(Some(engine)),
        registry: Mutex::default(),
        interrupts,
    };
    if let Some(contents) = registry {
        load_registry(&machine, contents, interrupt)?;
    }
    for load in loads.iter().filter(|load| !load.is_started) {
        load_driver(&machine, Operation::OfferDriver, load, interrupt)?;
    }
    for load in loads.iter().filter(|load| load.is_started) {
        device.prepare(&machine, &load.name, interrupt)?;
        load_driver(&machine, Operation::LoadDriver, load, interrupt)?;
        device.check(&machine, &load.name, interrupt)?;
    }
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

fn refuse_unbound(driver: &DriverImage, before: &[DriverImage]) -> Result<(), StartError> {
    let names: Vec<String> = driver
        .image
        .imports
        .iter()
        .filter(|import| {
            let status = import_status(driver.image.abi, &import.dll, import.name());
            let is_lacking = matches!(status, ImportStatus::Unknown | ImportStatus::Missing);
            is_lacking && !before.iter().any(|other| other.exports(import))
        })
        .map(ToString::to_string)
        .collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(StartError::Unbound {
        path: driver.path.clone(),
        names: names.join(", "),
    })
}

/// The Windows that a driver gets, with a warning if it was linked for a later one.
fn choose_windows(
    asked: Option<Windows>,
    image: &Image,
    path: &str,
) -> Result<Windows, StartError> {
    let windows = asked.unwrap_or_else(|| Windows::default_for(image.abi));
    if !windows.exists_for(image.abi) {
        return Err(StartError::Windows(windows.name()));
    }
    let release = windows.release(image.abi);
    let (major, minor) = image.subsystem_version.max(image.system_version);
    if (major, minor) > (release.major, release.minor) {
        tracing::warn!(
            "{path} was linked for Windows {major}.{minor}, this guest is {}.{}; see --windows",
            release.major,
            release.minor
        );
    }
    Ok(windows)
}

/// Everything up to the guest's first instruction, on the thread that will run it.
fn prepare(
    launch: Launch,
    images: &[DriverImage],
    functions: &VfioFunctions,
    inbox: Receiver<Message>,
    waker: Arc<Waker>,
    fate: Arc<Fate>,
) -> Result<(Engine, Vec<Load>), StartError> {
    let Some(main) = images.iter().rfind(|image| image.is_started) else {
        return Err(StartError::NoDriver);
    };
    let abi = main.image.abi;
    let kvm = host::open()?;
    let privilege = match launch.privilege {
        None => host::choose_privilege(&kvm).privilege,
        Some(Privilege::Ring0) if KvmKind::detect() == KvmKind::Paravirtual => {
            return Err(StartError::Ring0Unavailable);
        }
        Some(privilege) => privilege,
    };
    let windows = choose_windows(launch.windows, &main.image, &main.path)?;
    launch
        .policy
        .check_this_host()
        .map_err(MemoryStartError::from)?;
    let bus = Bus::default();
    let backends = Backends {
        bus: bus.clone(),
        pci: Some(Box::new(HostPci::new(functions.clone()))),
    };
    let ports = PortSpace::with_backends(&launch.policy, backends)?;
    let memory = MemorySpace::with_machine(&launch.policy, launch.memory_bytes, functions, &bus)?;
    let msrs = MsrSpace::new(&launch.policy, Some(Box::new(DevCpuMsr::default())))?;
    let mut builder = VmBuilder::new(
        &kvm,
        VmConfig {
            abi,
            privilege,
            ram_bytes: launch.memory_bytes,
            timeout: launch.timeout,
            is_trace_lossless: launch.trace.is_some(),
            windows,
            is_verifying: launch.is_verifying,
        },
    )?;
    builder.set_interrupt_lines(bus.lines);
    add_window_memory(&mut builder, &memory)?;
    let mut unbound = Vec::new();
    let mut placed: Vec<Placed<'_>> = Vec::new();
    for image in images {
        let driver = place(&mut builder, image, &placed, &mut unbound)?;
        placed.push(driver);
    }
    let file_name = main.file_name.clone();
    let kernel_base = layout::kernel_base(abi, privilege);
    let symbols = Arc::new(symbols(&placed, kernel_base, &unbound));
    let loads = placed.iter().map(Placed::load).collect();
    let vm = builder.build()?;
    let dma = open_dma(functions, &vm)?;
    vm.attach(&bus.memory);
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
    if let Some(recorder) = launch.recorder {
        observer = observer.with_recorder(recorder);
    }
    let registry = launch.save_registry;
    let mut responder = Responder::new(ports, memory, msrs, observer);
    responder.registry = registry;
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
    *fate.models() = responder.models();
    let identity = Identity {
        driver: file_name,
        abi,
        privilege,
        symbols,
        unbound,
        clock,
        timeout: launch.timeout,
    };
    let engine = Engine::new(vm, dma, responder, identity, inbox, waker, fate)
        .map_err(StartError::Thread)?;
    Ok((engine, loads))
}

/// Has the shim add to the registry.
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

/// Has the shim call DriverEntry, or remember a driver that may be loaded later.
fn load_driver(
    machine: &Machine,
    operation: Operation,
    load: &Load,
    interrupt: Option<Interrupt>,
) -> Result<(), StartError> {
    let name: Vec<u8> = load
        .name
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let Load { slot, entry, .. } = *load;
    let arguments = [slot.base, slot.bytes, entry, 0, name.len() as u64, 0];
    let mut call = Call::new(operation, 0, arguments);
    call.input = Some((3, name));
    let done = machine
        .link
        .call_unless(call, interrupt)
        .map_err(StartError::Driver)?;
    if done.status >> 31 != 0 {
        return Err(StartError::DriverEntry {
            driver: load.name.clone(),
            status: NtStatus(done.status),
        });
    }
    if load.is_started {
        machine.link.started(done.value);
    }
    Ok(())
}
