//! Driver images: reading, placing in the guest, binding imports to the shim and to each other, symbols.

use std::hash::{BuildHasher, Hasher};
use std::io::{ErrorKind, Read};
use std::path::Path;

use abi::layout;

use super::start::{StartError, find_export};
use crate::input_file;
use crate::loader::{ExportTarget, Image, Import, MAX_IMAGE_BYTES, Mapped, SecurityCookie};
use crate::machine::{DriverSlot, VmBuilder};
use crate::observe::symbols::{Module, Symbols};

/// How many forwarders an import may lead through.
const MAX_FORWARDERS: u32 = 8;

/// Reads a driver's file: a little more than an image may have at most, so that the loader says what is wrong with a
/// longer one.
///
/// # Errors
/// [`StartError::NoFile`], [`StartError::File`].
pub fn read_driver(path: &Path) -> Result<Vec<u8>, StartError> {
    let shown = || path.display().to_string();
    let io_error = |source| StartError::File {
        path: shown(),
        source,
    };
    let file = input_file::open(path).map_err(|error| match error.kind() {
        ErrorKind::IsADirectory | ErrorKind::InvalidInput => StartError::NoFile(shown()),
        _ => io_error(error),
    })?;
    let mut bytes = Vec::new();
    let limit = u64::from(MAX_IMAGE_BYTES) + 1;
    file.take(limit).read_to_end(&mut bytes).map_err(io_error)?;
    Ok(bytes)
}

/// A driver's image that is to be placed.
pub(super) struct DriverImage {
    /// Path, as given.
    pub(super) path: String,
    /// The last component of the path: what other drivers import from.
    pub(super) file_name: String,
    /// Its service's name: the file's name without extension.
    pub(super) name: String,
    /// What the file holds.
    pub(super) image: Image,
    /// Whether it is started with the machine.
    pub(super) is_started: bool,
}

impl DriverImage {
    /// Reads and parses a driver.
    pub(super) fn read(path: &Path, is_started: bool) -> Result<Self, StartError> {
        let shown = path.display().to_string();
        let bytes = read_driver(path)?;
        let image = Image::parse(&bytes).map_err(|source| StartError::Image {
            path: shown.clone(),
            source,
        })?;
        let text = |part: Option<&std::ffi::OsStr>, default: &str| {
            part.map_or_else(
                || default.to_owned(),
                |part| part.to_string_lossy().into_owned(),
            )
        };
        Ok(Self {
            file_name: text(path.file_name(), ""),
            name: text(path.file_stem(), "driver"),
            path: shown,
            image,
            is_started,
        })
    }

    /// Whether an import's DLL is this driver.
    fn is_called(&self, dll: &str) -> bool {
        self.file_name.eq_ignore_ascii_case(dll) || self.name.eq_ignore_ascii_case(dll)
    }

    fn target(&self, name: Option<&str>, ordinal: Option<u16>) -> Option<&ExportTarget> {
        let mut exports = self.image.exports.iter();
        let found = match (name, ordinal) {
            (Some(name), _) => exports.find(|export| export.name.as_deref() == Some(name)),
            (None, Some(ordinal)) => exports.find(|export| export.ordinal == u32::from(ordinal)),
            (None, None) => None,
        };
        found.map(|export| &export.target)
    }

    /// Whether an import can be bound to this driver.
    pub(super) fn exports(&self, import: &Import) -> bool {
        self.is_called(&import.dll) && self.target(import.name(), import.ordinal()).is_some()
    }
}

/// What the shim needs to start a placed driver.
pub(super) struct Load {
    pub(super) name: String,
    pub(super) slot: DriverSlot,
    pub(super) entry: u64,
    pub(super) is_started: bool,
}

/// A driver's image in the guest.
pub(super) struct Placed<'a> {
    driver: &'a DriverImage,
    slot: DriverSlot,
    mapped: Mapped,
}

impl Placed<'_> {
    pub(super) fn load(&self) -> Load {
        Load {
            name: self.driver.name.clone(),
            slot: self.slot,
            entry: self.mapped.entry,
            is_started: self.driver.is_started,
        }
    }
}

/// The address of an import: the shim's, or that of a driver placed before. A forwarder leads to either.
fn resolve(
    builder: &VmBuilder,
    before: &[Placed<'_>],
    abi: abi::DriverAbi,
    import: (&str, Option<&str>, Option<u16>),
) -> Option<u64> {
    let (dll, name, ordinal) = import;
    let (mut dll, mut name, mut ordinal) = (dll.to_owned(), name.map(str::to_owned), ordinal);
    for _ in 0..MAX_FORWARDERS {
        let own = name
            .as_deref()
            .and_then(|name| find_export(abi, &dll, name));
        if let Some(index) = own {
            return builder.import_address(index, &dll);
        }
        let placed = before.iter().find(|placed| placed.driver.is_called(&dll))?;
        match placed.driver.target(name.as_deref(), ordinal)? {
            ExportTarget::Rva(rva) => return Some(placed.slot.base + u64::from(*rva)),
            ExportTarget::Forwarder(text) => {
                let (module, function) = text.rsplit_once('.')?;
                let next_dll = if module.contains('.') {
                    module.to_owned()
                } else {
                    // A forwarder names its DLL without an extension: drivers are .sys, the kernel's parts are not.
                    let is_driver = before.iter().any(|placed| placed.driver.is_called(module));
                    let own = if module.eq_ignore_ascii_case("ntoskrnl") {
                        ".exe"
                    } else {
                        ".dll"
                    };
                    format!("{module}{}", if is_driver { ".sys" } else { own })
                };
                (name, ordinal) = match function.strip_prefix('#') {
                    Some(number) => (None, Some(number.parse().ok()?)),
                    None => (Some(function.to_owned()), None),
                };
                dll = next_dll;
            }
        }
    }
    None
}

/// Why an import from `dll` is not bound, and what can be done.
fn unbound_reason(before: &[Placed<'_>], dll: &str) -> String {
    if before.iter().any(|placed| placed.driver.is_called(dll)) {
        return "is not exported by that driver".to_owned();
    }
    let is_kernel = kernel_shim::table::EXPORTS
        .iter()
        .any(|export| export.module.accepts(dll));
    if is_kernel {
        "is not implemented".to_owned()
    } else {
        format!(
            "is missing, as {dll} is not here: name {dll} before this driver on the command line"
        )
    }
}

/// Places a driver and binds its imports. Those that nothing has are appended to `unbound`: DLL and name.
pub(super) fn place<'a>(
    builder: &mut VmBuilder,
    driver: &'a DriverImage,
    before: &[Placed<'_>],
    unbound: &mut Vec<(String, String)>,
) -> Result<Placed<'a>, StartError> {
    let image = &driver.image;
    let slot = builder.reserve_driver(u64::from(image.size_of_image))?;
    let first_unbound = unbound.len();
    let mut failure = None;
    let mut bind = |import: &Import| {
        let wanted = (&*import.dll, import.name(), import.ordinal());
        let bound = resolve(builder, before, image.abi, wanted);
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
        .map(slot.base, &mut bind, cookie)
        .map_err(|source| StartError::Map {
            path: driver.path.clone(),
            source,
        })?;
    if let Some(error) = failure {
        return Err(error.into());
    }
    for (dll, name) in unbound.iter().skip(first_unbound) {
        let path = &driver.path;
        let why = unbound_reason(before, dll);
        tracing::warn!("{path}: {dll}!{name} {why}; a call stops the guest");
    }
    builder.place_driver(slot, &mapped.memory, |page| {
        mapped
            .protection
            .get(page)
            .map_or((false, false), |page| (page.write, page.execute))
    })?;
    Ok(Placed {
        driver,
        slot,
        mapped,
    })
}

fn module(placed: &Placed<'_>) -> Module {
    let image = &placed.driver.image;
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
    let module = Module::driver(
        &placed.driver.file_name,
        placed.slot.base,
        placed.slot.bytes,
    )
    .with_exports(exports)
    .with_executable(code);
    match &image.function_table {
        Some(table) => module
            .with_exception_directory(u64::from(table.start), u64::from(table.end - table.start)),
        None => module,
    }
}

/// The names of a guest's addresses.
pub(super) fn symbols(
    placed: &[Placed<'_>],
    kernel_base: u64,
    unbound: &[(String, String)],
) -> Symbols {
    let mut modules: Vec<Module> = placed.iter().map(module).collect();
    modules.push(Module::stubs(
        kernel_base + layout::EXPORTS,
        &kernel_shim::table::EXPORTS,
        unbound,
    ));
    modules.push(Module::stubs(
        kernel_base + layout::HAL_EXPORTS,
        &kernel_shim::table::EXPORTS,
        &[],
    ));
    Symbols::new(modules)
}
