//! Fast I/O: a driver may serve a device control request without an IRP.

use super::buffers::Data;
use super::volume::related_device;
use crate::nt::{FILE_OBJECT, IO_STATUS_BLOCK};
use crate::raw::{Ptr, Word, from_word, low32};
use crate::shared;
use abi::trace::Entry;

/// Index of FastIoDeviceControl among the pointers behind SizeOfFastIoDispatch.
const DEVICE_CONTROL: u64 = 9;

/// A routine of a driver's FAST_IO_DISPATCH by its index; `None` if the driver has none.
fn routine_of(table: u64, index: u64) -> Option<u64> {
    let table = Ptr::<u32>::new(table).non_null()?;
    // SizeOfFastIoDispatch, padded to a pointer.
    let word = size_of::<Word>() as u64;
    let at = word * (index + 1);
    if u64::from(table.read()) < at + word {
        return None;
    }
    let routine = from_word(table.add_bytes(at).cast::<Word>().read());
    (routine != 0).then_some(routine)
}

/// Whether a file's driver has a FastIoDeviceControl.
pub(crate) fn has_device_control(file: Ptr<FILE_OBJECT>) -> bool {
    let driver = related_device(file).read().DriverObject.read();
    routine_of(from_word(driver.FastIoDispatch), DEVICE_CONTROL).is_some()
}

/// Asks the driver's FastIoDeviceControl; `None`: it wants an IRP. The routine gets the client's own addresses.
pub(super) fn device_control(
    file: Ptr<FILE_OBJECT>,
    code: u32,
    data: &Data,
) -> Option<IO_STATUS_BLOCK> {
    let device = related_device(file);
    let table = from_word(device.read().DriverObject.read().FastIoDispatch);
    let routine = routine_of(table, DEVICE_CONTROL)?;
    let mut block = IO_STATUS_BLOCK::default();
    let block = Ptr::of(&mut block);
    let arguments = [
        file.addr(),
        1, // Wait
        data.input,
        u64::from(low32(data.input_bytes)),
        data.output,
        u64::from(low32(data.output_bytes)),
        u64::from(code),
        block.addr(),
        device.addr(),
    ];
    let is_done = shared::call_driver(Entry::Other, routine, &arguments);
    (is_done & 0xFF != 0).then(|| block.read())
}
