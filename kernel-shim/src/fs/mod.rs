//! Files of the host: the volume \Device\HarddiskVolume1 (C:), which is there when the VMM was given a directory.
//!
//! FILE_OBJECTs on it have no driver behind them: the VMM does what a file system would.

pub mod api;
pub mod create;
pub mod directory;
pub mod info;
pub mod lock;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::ex::pool;
use crate::io::file::{FILE_READ_DATA, FILE_WRITE_DATA, FO_HANDLE_CREATED, map_access};
use crate::ke::event;
use crate::nt::{
    DEVICE_OBJECT, DRIVER_OBJECT, FILE_OBJECT, IO_TYPE_FILE, MAJOR_FUNCTIONS, NtStatus,
    UNICODE_STRING, dispatcher,
};
use crate::ob::{self, ObjectType, names};
use crate::raw::{Global, Ptr, low16, low32, to_usize, to_word};
use crate::shared;
use abi::doorbell::Call;
use abi::file::{FileCall, MAX_TRANSFER, open_word};

/// The volume's device.
const VOLUME: &str = "\\Device\\HarddiskVolume1";
/// FO_SYNCHRONOUS_IO.
const FO_SYNCHRONOUS_IO: u32 = 2;
/// DO_DEVICE_HAS_NAME.
const DO_DEVICE_HAS_NAME: u32 = 0x40;
/// FILE_DEVICE_DISK.
const FILE_DEVICE_DISK: u32 = 7;

/// A host's file that is open.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The VMM's number.
    pub id: u64,
    /// Whether it is a directory.
    pub is_directory: bool,
    /// CreateOptions.
    pub options: u32,
    /// Next entry of an enumeration.
    pub next: u64,
    /// Pattern of the enumeration; `None` before its first call.
    pub pattern: Option<String>,
}

#[derive(Debug)]
struct Volume {
    device: u64,
    /// By FILE_OBJECT.
    opened: BTreeMap<u64, Opened>,
}

static VOLUMES: Global<Volume> = Global::new(
    "files",
    Volume {
        device: 0,
        opened: BTreeMap::new(),
    },
);

/// A call to the VMM; its values.
///
/// # Errors
/// What the VMM answers.
pub fn call(
    call: FileCall,
    id: u64,
    buffer: Ptr<u8>,
    bytes: u64,
    first: u64,
    second: u64,
) -> Result<[u64; 3], NtStatus> {
    let arguments = [call as u64, id, buffer.addr(), bytes, first, second];
    let [status, a, b, c] = shared::platform().doorbell(Call::File, arguments);
    match NtStatus(low32(status)) {
        NtStatus::SUCCESS => Ok([a, b, c]),
        status => Err(status),
    }
}

/// A block of pool for a call's buffer, freed when dropped.
#[derive(Debug)]
pub struct Bounce {
    /// Where it is.
    pub at: Ptr<u8>,
    /// Its bytes.
    pub bytes: u64,
}

impl Bounce {
    /// A block of at most [`MAX_TRANSFER`] bytes.
    ///
    /// # Errors
    /// INSUFFICIENT_RESOURCES.
    pub fn new(bytes: u64) -> Result<Self, NtStatus> {
        let bytes = bytes.clamp(1, MAX_TRANSFER);
        let at = pool::allocate_zeroed(bytes, *b"FsBb").ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
        Ok(Self { at, bytes })
    }

    /// A block with text as UTF-16.
    ///
    /// # Errors
    /// INSUFFICIENT_RESOURCES; OBJECT_NAME_INVALID: too long.
    pub fn text(text: &str) -> Result<(Self, u64), NtStatus> {
        let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        if units.len() as u64 > MAX_TRANSFER {
            return Err(NtStatus::OBJECT_NAME_INVALID);
        }
        let bounce = Self::new(units.len() as u64)?;
        bounce.at.write_bytes(&units);
        Ok((bounce, units.len() as u64))
    }
}

impl Drop for Bounce {
    fn drop(&mut self) {
        pool::free(self.at, 0);
    }
}

/// Makes the volume, if there is one.
pub(crate) fn initialize() {
    VOLUMES.with(|volume| {
        volume.device = 0;
        volume.opened.clear();
    });
    lock::initialize();
    if call(FileCall::Present, 0, Ptr::null(), 0, 0, 0).is_ok_and(|[is_there, ..]| is_there == 1) {
        // Without memory for it there is no volume.
        let _ = make_volume();
    }
}

/// A device without a driver of its own, for names that the I/O manager serves itself.
///
/// # Errors
/// INSUFFICIENT_RESOURCES.
pub(crate) fn bare_device(device_type: u32) -> Result<u64, NtStatus> {
    let none = NtStatus::INSUFFICIENT_RESOURCES;
    let driver =
        ob::create(ObjectType::Driver, size_of::<DRIVER_OBJECT>() as u64, None).ok_or(none)?;
    let device =
        ob::create(ObjectType::Device, size_of::<DEVICE_OBJECT>() as u64, None).ok_or(none)?;
    let default = to_word(crate::io::driver::invalid_device_request());
    Ptr::<DRIVER_OBJECT>::new(driver).with(|object| {
        object.Type = crate::nt::IO_TYPE_DRIVER;
        object.DeviceObject = Ptr::new(device);
        object.MajorFunction = [default; MAJOR_FUNCTIONS];
    });
    Ptr::<DEVICE_OBJECT>::new(device).with(|object| {
        object.Type = 3;
        object.Size = low16(size_of::<DEVICE_OBJECT>() as u64);
        object.DriverObject = Ptr::new(driver);
        object.DeviceType = device_type;
        object.StackSize = 1;
        object.Flags = DO_DEVICE_HAS_NAME;
    });
    Ok(device)
}

fn make_volume() -> Result<(), NtStatus> {
    let device = bare_device(FILE_DEVICE_DISK)?;
    names::insert_object(VOLUME, device)?;
    names::insert_link("\\??\\C:", VOLUME)?;
    names::insert_link("\\SystemRoot", &format!("{VOLUME}\\Windows"))?;
    VOLUMES.with(|volume| volume.device = device);
    Ok(())
}

/// Whether an object is the volume.
#[must_use]
pub fn is_volume(body: u64) -> bool {
    body != 0 && VOLUMES.with(|volume| volume.device == body)
}

/// The host's file behind a FILE_OBJECT; `None`: it is a device's.
#[must_use]
pub fn opened(file: u64) -> Option<Opened> {
    VOLUMES.with(|volume| volume.opened.get(&file).cloned())
}

/// Changes what is known of an open file.
pub fn change(file: u64, change: impl FnOnce(&mut Opened)) {
    VOLUMES.with(|volume| volume.opened.get_mut(&file).map(change));
}

/// The last handle of a FILE_OBJECT is closed: what it shares and what it has locked is free for others, and it is
/// deleted if that was asked for.
pub(crate) fn cleanup(body: u64) {
    if let Some(opened) = opened(body) {
        lock::forget(body);
        // A file that could not be deleted stays.
        let _ = call(FileCall::Cleanup, opened.id, Ptr::null(), 0, 0, 0);
    }
}

/// The last reference to a FILE_OBJECT is gone.
fn delete(body: u64) {
    if let Some(opened) = VOLUMES.with(|volume| volume.opened.remove(&body)) {
        // A file that could not be deleted stays.
        let _ = call(FileCall::Close, opened.id, Ptr::null(), 0, 0, 0);
    }
    let name = Ptr::<FILE_OBJECT>::new(body).read().FileName;
    if !name.Buffer.is_null() {
        pool::free(name.Buffer.cast(), 0);
    }
    ob::dereference(Ptr::<FILE_OBJECT>::new(body).read().DeviceObject.addr());
}

/// What ZwCreateFile asks for.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// DesiredAccess.
    pub access: u32,
    /// ShareAccess.
    pub share: u32,
    /// CreateDisposition.
    pub disposition: u32,
    /// CreateOptions.
    pub options: u32,
}

/// Opens a file of the volume: a FILE_OBJECT with one reference, and IO_STATUS_BLOCK.Information.
///
/// # Errors
/// What the VMM says of the name or the file; INVALID_PARAMETER: contradictory options.
pub fn open(path: &str, wish: Wish) -> Result<(Ptr<FILE_OBJECT>, u64), NtStatus> {
    const SYNCHRONIZE: u32 = 0x0010_0000;
    const DELETE: u32 = 0x0001_0000;
    let access = map_access(wish.access);
    let is_synchronous = wish.options & 0x30 != 0;
    if wish.disposition > 5
        || wish.options & 0x30 == 0x30
        || is_synchronous && access & SYNCHRONIZE == 0
        || wish.options & 0x1000 != 0 && access & DELETE == 0
    {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    let flags = [(1, 1), (0x40, 2), (0x1000, 4), (2, 8)]
        .iter()
        .filter(|(option, _)| wish.options & option != 0)
        .fold(0, |flags, (_, flag)| flags | flag);
    let disposition = crate::raw::low8(u64::from(wish.disposition));
    let share = crate::raw::low8(u64::from(wish.share & 7));
    let name = path.strip_prefix('\\').unwrap_or(path);
    let (bounce, bytes) = Bounce::text(name)?;
    let [id, information, is_directory] = call(
        FileCall::Open,
        0,
        bounce.at,
        bytes,
        open_word(access, disposition, flags, share),
        0,
    )?;
    drop(bounce);
    let object = make_object(path, access, wish, is_synchronous).inspect_err(|_| {
        // Nothing else knows of it.
        let _ = call(FileCall::Close, id, Ptr::null(), 0, 0, 0);
    })?;
    let opened = Opened {
        id,
        is_directory: is_directory != 0,
        options: wish.options,
        next: 0,
        pattern: None,
    };
    VOLUMES.with(|volume| volume.opened.insert(object.addr(), opened));
    Ok((object, information))
}

fn make_object(
    path: &str,
    access: u32,
    wish: Wish,
    is_synchronous: bool,
) -> Result<Ptr<FILE_OBJECT>, NtStatus> {
    let bytes = size_of::<FILE_OBJECT>() as u64;
    let body = ob::create(ObjectType::File, bytes, Some(delete))
        .ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
    let file = Ptr::<FILE_OBJECT>::new(body);
    let device = VOLUMES.with(|volume| volume.device);
    ob::reference(device);
    let name: Vec<u8> = path.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let buffer = if name.is_empty() {
        None
    } else {
        pool::allocate_copy(&name, *b"IoNm")
    };
    file.with(|file| {
        file.Type = IO_TYPE_FILE;
        file.Size = low16(bytes).cast_signed();
        file.DeviceObject = Ptr::new(device);
        file.ReadAccess = u8::from(access & FILE_READ_DATA != 0);
        file.WriteAccess = u8::from(access & (FILE_WRITE_DATA | 4) != 0);
        file.DeleteAccess = u8::from(access & 0x0001_0000 != 0);
        [file.SharedRead, file.SharedWrite, file.SharedDelete] =
            [1, 2, 4].map(|bit| u8::from(wish.share & bit != 0));
        file.Flags = FO_HANDLE_CREATED | if is_synchronous { FO_SYNCHRONOUS_IO } else { 0 };
        if let Some(buffer) = buffer {
            let length = low16(name.len() as u64);
            file.FileName = UNICODE_STRING {
                Length: length,
                MaximumLength: length,
                Buffer: buffer.cast(),
            };
        }
    });
    let at = |field: usize| file.add_bytes(field as u64);
    let (lock, done) = (
        core::mem::offset_of!(FILE_OBJECT, Lock),
        core::mem::offset_of!(FILE_OBJECT, Event),
    );
    event::initialize(at(lock).cast(), dispatcher::SYNCHRONIZATION_EVENT, true);
    event::initialize(at(done).cast(), dispatcher::NOTIFICATION_EVENT, false);
    at(core::mem::offset_of!(FILE_OBJECT, IrpList))
        .cast()
        .list_initialize();
    Ok(file)
}

/// Reads or writes a range, in pieces as large as a call takes. Bytes done; an error only if none were.
///
/// # Errors
/// What the VMM says; END_OF_FILE.
pub fn transfer(
    id: u64,
    buffer: Ptr<u8>,
    bytes: u64,
    offset: u64,
    is_write: bool,
) -> Result<u64, NtStatus> {
    let bounce = Bounce::new(bytes)?;
    let mut done = 0;
    while done < bytes {
        let piece = (bytes - done).min(bounce.bytes);
        let at = if offset == u64::MAX {
            offset
        } else {
            offset.wrapping_add(done)
        };
        let kind = if is_write {
            FileCall::Write
        } else {
            FileCall::Read
        };
        if is_write {
            bounce.at.copy_from(buffer.add_bytes(done), piece);
        }
        let count = match call(kind, id, bounce.at, piece, at, 0) {
            Ok([count, ..]) => count.min(piece),
            Err(_) if done > 0 => break,
            Err(status) => return Err(status),
        };
        if !is_write {
            buffer.add_bytes(done).copy_from(bounce.at, count);
        }
        done += count;
        if count < piece {
            break;
        }
    }
    Ok(done)
}

/// A structure that a call fills.
///
/// # Errors
/// What the VMM says.
pub fn metadata(id: u64) -> Result<abi::file::FileMetadata, NtStatus> {
    let bounce = Bounce::new(size_of::<abi::file::FileMetadata>() as u64)?;
    call(FileCall::Query, id, bounce.at, bounce.bytes, 0, 0)?;
    Ok(bounce.at.cast::<abi::file::FileMetadata>().read())
}

/// The path of an open file below C:, with its leading backslash.
#[must_use]
pub fn path_of(id: u64) -> Vec<u8> {
    let mut path = alloc::vec![b'\\', 0];
    if let Ok(bounce) = Bounce::new(0x4000)
        && let Ok([bytes, ..]) = call(FileCall::Name, id, bounce.at, bounce.bytes, 0, 0)
    {
        path.extend(bounce.at.read_slice(to_usize(bytes.min(bounce.bytes))));
    }
    path
}
