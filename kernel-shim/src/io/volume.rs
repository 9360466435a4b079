//! Volume parameter blocks, and mounting: which device serves the files of a storage device.
//!
//! A disk's device has a VPB. When it is opened, the file systems registered for its type are asked one after the other to
//! mount it; the one that does leaves its volume's device in the VPB, and from then on requests for files on the disk go
//! there. A disk that none of them knows can still be opened as a whole, and serves that itself (NT's RAW file system).

use alloc::collections::BTreeMap;

use super::build;
use super::device::{extension_of, top_of};
use super::file_system;
use crate::ex::pool;
use crate::ke::event;
use crate::nt::{DEVICE_OBJECT, FILE_OBJECT, KEVENT, NtStatus};
use crate::ob;
use crate::raw::{Global, Ptr, Word, from_word, low16};

/// IO_TYPE_VPB.
const IO_TYPE_VPB: i16 = 0x0A;
/// VPB_MOUNTED.
const MOUNTED: u16 = 1;
/// VPB_LOCKED.
const LOCKED: u16 = 2;
/// FO_DIRECT_DEVICE_OPEN.
const DIRECT_DEVICE_OPEN: u32 = 0x800;
/// Rights that need no file system: SYNCHRONIZE, FILE_READ_ATTRIBUTES, and those of the descriptor.
const HARMLESS: u32 = 0x011E_0080;
/// IRP_MN_MOUNT_VOLUME.
const MOUNT_VOLUME: u8 = 1;
/// IRP_MN_LOAD_FILE_SYSTEM.
const LOAD_FILE_SYSTEM: u8 = 4;
/// SL_ALLOW_RAW_MOUNT.
const ALLOW_RAW_MOUNT: u8 = 1;
/// How often a recognizer may load its file system for one mount.
const LOADS: u32 = 8;
const TAG: [u8; 4] = *b"Vpb ";

/// VPB.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct VPB {
    /// IO_TYPE_VPB.
    pub Type: i16,
    /// Bytes.
    pub Size: i16,
    /// VPB_ flags.
    pub Flags: u16,
    /// Bytes of the label.
    pub VolumeLabelLength: u16,
    /// The mounted volume's.
    pub DeviceObject: Ptr<DEVICE_OBJECT>,
    /// The storage device.
    pub RealDevice: Ptr<DEVICE_OBJECT>,
    /// The volume's serial number.
    pub SerialNumber: u32,
    /// Files that are open on it.
    pub ReferenceCount: u32,
    /// The volume's label.
    pub VolumeLabel: [u16; 32],
}

const _: () = assert!(size_of::<VPB>() == if cfg!(nt_i386) { 0x58 } else { 0x60 });

/// Devices that IoCreateFileEx was told to send a file's requests to, by the file; referenced.
static HINTS: Global<BTreeMap<u64, u64>> = Global::new("device hints", BTreeMap::new());

pub(super) fn initialize() {
    HINTS.with(BTreeMap::clear);
}

/// Bytes of a sector of a new device by its FILE_DEVICE_ type; `None`: that type has no volumes.
const fn sector_of(device_type: u32) -> Option<u16> {
    match device_type {
        // FILE_DEVICE_DISK, FILE_DEVICE_VIRTUAL_DISK.
        0x07 | 0x24 => Some(512),
        // FILE_DEVICE_CD_ROM.
        0x02 => Some(2048),
        // FILE_DEVICE_TAPE.
        0x1F => Some(0),
        _ => None,
    }
}

/// The type of the file systems that mount devices of a type.
const fn file_system_type(device_type: u32) -> u32 {
    match device_type {
        0x02 => 0x03,
        0x1F => 0x20,
        _ => 0x08,
    }
}

/// Gives a new storage device its VPB. False: the pool is exhausted.
pub(super) fn give_vpb(device: Ptr<DEVICE_OBJECT>, device_type: u32) -> bool {
    let Some(sector) = sector_of(device_type) else {
        return true;
    };
    let Some(block) = pool::allocate_zeroed(size_of::<VPB>() as u64, TAG) else {
        return false;
    };
    let vpb = block.cast::<VPB>();
    vpb.with(|vpb| {
        vpb.Type = IO_TYPE_VPB;
        vpb.Size = low16(size_of::<VPB>() as u64).cast_signed();
        vpb.RealDevice = device;
    });
    device.with(|device| {
        device.SectorSize = sector;
        device.Vpb = vpb.word();
    });
    true
}

/// A device goes: so does its VPB. A file system may have put one of its own there.
pub(super) fn take_vpb(device: Ptr<DEVICE_OBJECT>) {
    let vpb = from_word(device.with(|device| core::mem::take(&mut device.Vpb)));
    if vpb != 0 && pool::block_at(vpb).is_some() {
        pool::free(Ptr::new(vpb), 0);
    }
}

fn vpb_of(device: Ptr<DEVICE_OBJECT>) -> Option<Ptr<VPB>> {
    Ptr::new(from_word(device.read().Vpb)).non_null()
}

fn mounted_on(vpb: Word) -> Option<Ptr<DEVICE_OBJECT>> {
    let vpb = Ptr::<VPB>::new(from_word(vpb)).non_null()?;
    vpb.read().DeviceObject.non_null()
}

/// The device that serves a file, below all filters: the mounted volume's, or the one that was opened.
#[must_use]
pub fn base_of(file: Ptr<FILE_OBJECT>) -> Ptr<DEVICE_OBJECT> {
    let FILE_OBJECT {
        DeviceObject: device,
        Vpb: vpb,
        Flags: flags,
        ..
    } = file.read();
    if let Some(volume) = mounted_on(vpb) {
        return volume;
    }
    if flags & DIRECT_DEVICE_OPEN == 0
        && !device.is_null()
        && let Some(volume) = mounted_on(device.read().Vpb)
    {
        return volume;
    }
    device
}

/// The device that requests for a file are sent to.
#[must_use]
pub fn related_device(file: Ptr<FILE_OBJECT>) -> Ptr<DEVICE_OBJECT> {
    match HINTS.with(|hints| hints.get(&file.addr()).copied()) {
        Some(hint) => Ptr::new(hint),
        None => top_of(base_of(file)),
    }
}

/// Sends a new file's requests to a device of its stack instead of to the top.
///
/// # Errors
/// INVALID_DEVICE_OBJECT_PARAMETER: the device is not in the stack.
pub(super) fn set_hint(file: Ptr<FILE_OBJECT>, hint: Ptr<DEVICE_OBJECT>) -> Result<(), NtStatus> {
    let mut next = base_of(file);
    while next != hint {
        next = next.read().AttachedDevice;
        if next.is_null() {
            return Err(NtStatus::INVALID_DEVICE_OBJECT_PARAMETER);
        }
    }
    ob::reference(hint.addr());
    HINTS.with(|hints| hints.insert(file.addr(), hint.addr()));
    Ok(())
}

/// What a new file has of a volume.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Volume {
    /// The volume's VPB, referenced; null if none is mounted.
    pub(super) vpb: Ptr<VPB>,
    /// FO_ flags.
    pub(super) flags: u32,
}

impl Volume {
    /// The file was not made.
    pub(super) fn release(self) {
        if !self.vpb.is_null() {
            dereference(self.vpb);
        }
    }
}

fn dereference(vpb: Ptr<VPB>) {
    vpb.with(|vpb| vpb.ReferenceCount = vpb.ReferenceCount.saturating_sub(1));
}

/// A device is opened: mounts it first, if that is called for. `rest` is what of the name lies behind the device's.
///
/// # Errors
/// ACCESS_DENIED: the volume is locked. UNRECOGNIZED_VOLUME: it has a name on it, and no file system knows the device.
/// Others that file systems answer, when the device or its medium is the reason.
pub(super) fn for_open(
    device: Ptr<DEVICE_OBJECT>,
    rest: &str,
    access: u32,
) -> Result<Volume, NtStatus> {
    let Some(vpb) = vpb_of(device) else {
        return Ok(Volume::default());
    };
    if rest.is_empty() && access & !HARMLESS == 0 {
        return Ok(Volume {
            vpb: Ptr::null(),
            flags: DIRECT_DEVICE_OPEN,
        });
    }
    if vpb.read().Flags & MOUNTED == 0 {
        let lock: Ptr<KEVENT> = device
            .add_bytes(core::mem::offset_of!(DEVICE_OBJECT, DeviceLock) as u64)
            .cast();
        build::wait_for(lock);
        let result = mount(device, rest.is_empty());
        event::KeSetEvent(lock, 0, false);
        if !result? {
            return Ok(Volume::default());
        }
    }
    // The file system may have put another one there.
    let vpb = vpb_of(device).ok_or(NtStatus::NO_SUCH_DEVICE)?;
    if vpb.read().Flags & LOCKED != 0 {
        return Err(NtStatus::ACCESS_DENIED);
    }
    vpb.with(|vpb| vpb.ReferenceCount += 1);
    Ok(Volume { vpb, flags: 0 })
}

/// A file that had a VPB is gone.
pub(super) fn release(file: Ptr<FILE_OBJECT>) {
    if let Some(hint) = HINTS.with(|hints| hints.remove(&file.addr())) {
        ob::dereference(hint);
    }
    if let Some(vpb) = Ptr::<VPB>::new(from_word(file.read().Vpb)).non_null() {
        dereference(vpb);
    }
}

/// IoIsErrorUserInduced: the device or its medium needs a hand.
const fn is_user_induced(status: NtStatus) -> bool {
    matches!(
        status.0,
        0xC000_00B5
            | 0xC000_00A3
            | 0xC000_0014
            | 0x8000_0016
            | 0xC000_0012
            | 0xC000_0013
            | 0xC000_00A2
    )
}

/// Asks the file systems. False: none is mounted, and the device serves itself.
fn mount(device: Ptr<DEVICE_OBJECT>, is_raw: bool) -> Result<bool, NtStatus> {
    let wanted = file_system_type(device.read().DeviceType);
    let mut loads = 0;
    'again: loop {
        let mut was_asked = false;
        for file_system in file_system::of_type(wanted) {
            let Some(vpb) = vpb_of(device) else {
                return Ok(false);
            };
            // Another thread may have mounted it while this one waited for the lock.
            if vpb.read().Flags & MOUNTED != 0 {
                return Ok(true);
            }
            was_asked = true;
            let target = top_of(device);
            ob::reference(file_system.addr());
            let top = top_of(file_system);
            let parameters = [vpb.addr(), target.addr(), 0, 0];
            let flags = if is_raw { ALLOW_RAW_MOUNT } else { 0 };
            let (status, information) =
                build::file_system_control(top, MOUNT_VOLUME, flags, parameters);
            let may_load = status == NtStatus::FS_DRIVER_REQUIRED && loads < LOADS;
            if may_load {
                // A recognizer: it loads the file system, which registers itself.
                loads += 1;
                build::file_system_control(top, LOAD_FILE_SYSTEM, 0, [target.addr(), 0, 0, 0]);
            }
            ob::dereference(file_system.addr());
            if may_load {
                continue 'again;
            }
            if status.is_success() && finish(device, target) {
                return Ok(true);
            }
            if is_user_induced(status) && information == 1 {
                return Err(status);
            }
        }
        return if is_raw || !was_asked {
            Ok(false)
        } else {
            Err(NtStatus::UNRECOGNIZED_VOLUME)
        };
    }
}

/// A file system says that it has mounted a device. False: it has left no volume.
fn finish(device: Ptr<DEVICE_OBJECT>, target: Ptr<DEVICE_OBJECT>) -> bool {
    let Some(vpb) = vpb_of(device) else {
        return false;
    };
    let Some(volume) = vpb.read().DeviceObject.non_null() else {
        return false;
    };
    let below = target.read().StackSize;
    volume.with(|volume| volume.StackSize = below.saturating_add(1));
    extension_of(volume).with(|extension| extension.Vpb = vpb.word());
    vpb.with(|vpb| vpb.Flags |= MOUNTED);
    true
}
