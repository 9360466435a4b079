//! The named devices of the drivers and the symbolic links that lead to them, told to the VMM, which tells those who give
//! them the same names elsewhere; and when they change.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::{device, driver};
use crate::nt::{DEVICE_OBJECT, NtStatus};
use crate::ob::{self, names};
use crate::raw::{Global, Ptr};
use crate::shared;
use abi::channel::Completion;

#[derive(Debug)]
struct Watch {
    /// Counts changes.
    version: u64,
    /// Requests that wait for the next change: id, process.
    waiting: Vec<(u64, u32)>,
}

static WATCH: Global<Watch> = Global::new(
    "watch for names",
    Watch {
        version: 1,
        waiting: Vec::new(),
    },
);

pub(super) fn initialize() {
    WATCH.with(|watch| {
        watch.version = 1;
        watch.waiting.clear();
    });
}

/// Names of which somebody may want to know have changed.
pub fn changed() {
    let (version, waiting) = WATCH.with(|watch| {
        watch.version += 1;
        (watch.version, core::mem::take(&mut watch.waiting))
    });
    for (id, _) in waiting {
        complete(id, NtStatus::SUCCESS, version);
    }
}

fn complete(id: u64, status: NtStatus, value: u64) {
    shared::post(&Completion {
        id,
        status: status.0,
        value,
        ..Completion::default()
    });
}

/// Counts the changes so far.
#[must_use]
pub fn version() -> u64 {
    WATCH.with(|watch| watch.version)
}

/// The count of changes once it is not `known` any more; `None`: request `id` is completed then.
#[must_use]
pub fn wait(id: u64, process: u32, known: u64) -> Option<u64> {
    WATCH.with(|watch| {
        if watch.version != known {
            return Some(watch.version);
        }
        watch.waiting.push((id, process));
        None
    })
}

/// Ends the waiting of the requests that `is_meant`. Whether there was one.
fn end_waiting(is_meant: impl Fn(u64, u32) -> bool) -> bool {
    let ended: Vec<(u64, u32)> = WATCH.with(|watch| {
        let ended = watch.waiting.iter().copied();
        let ended = ended
            .filter(|&(id, process)| is_meant(id, process))
            .collect();
        watch
            .waiting
            .retain(|&(id, process)| !is_meant(id, process));
        ended
    });
    for &(id, _) in &ended {
        complete(id, NtStatus::CANCELLED, 0);
    }
    !ended.is_empty()
}

/// Cancels a request that waits for a change; whether it was one.
#[must_use]
pub fn cancel(id: u64) -> bool {
    end_waiting(|waiting, _| waiting == id)
}

/// A process ends: so does its waiting.
pub fn forget_process(process: u32) {
    let _ = end_waiting(|_, waiting| waiting == process);
}

/// Whether a name can be a field of a line.
fn is_plain(name: &str) -> bool {
    !name.chars().any(char::is_control)
}

fn add_device(text: &mut String, device: Ptr<DEVICE_OBJECT>) -> bool {
    let Some(name) = ob::lookup(device.addr()).map(|object| object.name) else {
        return false;
    };
    if name.is_empty() || !is_plain(&name) || device::is_going(device) {
        return false;
    }
    let DEVICE_OBJECT {
        DeviceType: kind,
        Characteristics: characteristics,
        Flags: flags,
        ..
    } = device.read();
    text.push_str(&format!(
        "device\t{kind:x}\t{characteristics:x}\t{flags:x}\t{name}\n"
    ));
    true
}

/// The names, in the form of [`abi::channel::Operation::ListNames`].
#[must_use]
pub fn text() -> String {
    let mut text = String::new();
    let mut devices = Vec::new();
    for driver in driver::loaded() {
        for device in device::of_driver(driver.object) {
            if add_device(&mut text, device) {
                devices.push(device.addr());
            }
        }
    }
    for (name, kind) in names::list("\\??") {
        let names::Kind::Link(target) = kind else {
            continue;
        };
        // Links to links lead to the device too.
        let Ok(found) = names::resolve(&target) else {
            continue;
        };
        let Some(object) = ob::lookup(found.body) else {
            continue;
        };
        if devices.contains(&found.body) && found.rest.is_empty() && is_plain(&name) {
            text.push_str(&format!("link\t\\??\\{name}\t{}\n", object.name));
        }
    }
    text
}

/// [`text`] as the VMM gets it.
#[must_use]
pub fn utf16() -> Vec<u8> {
    text().encode_utf16().flat_map(u16::to_le_bytes).collect()
}
