//! What the next PnP driver's device is to be called, and what it gets, as the machine's owner said.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::Node;
use super::resources::{self, Resource};
use crate::nt::NtStatus;
use crate::raw::Global;

/// The most hardware ids, and compatible ids, of a device.
const IDS_MAX: usize = 16;
/// The most UTF-16 units of a text: MAX_DEVICE_ID_LEN with its NUL.
const TEXT_MAX: usize = 199;

/// Names of a device.
#[derive(Clone, Default, Debug)]
pub(crate) struct Identity {
    /// Instance id; `None`: the first free number.
    pub(super) instance: Option<String>,
    /// Description; `None`: the service's name.
    pub(super) description: Option<String>,
    /// Hardware ids; none: `ROOT\NAME` and `*NAME`.
    pub(super) hardware: Vec<String>,
    /// Compatible ids; none: `ROOT\UNKNOWN`.
    pub(super) compatible: Vec<String>,
}

impl Node {
    pub(super) fn description(&self) -> &str {
        let given = self.identity.description.as_deref();
        given.unwrap_or(&self.service)
    }

    pub(super) fn hardware_ids(&self) -> Vec<String> {
        if !self.identity.hardware.is_empty() {
            return self.identity.hardware.clone();
        }
        let id = self.instance.rsplit_once('\\').map_or("", |(id, _)| id);
        alloc::vec![String::from(id), format!("*{}", self.service)]
    }

    pub(super) fn compatible_ids(&self) -> Vec<String> {
        if !self.identity.compatible.is_empty() {
            return self.identity.compatible.clone();
        }
        alloc::vec![String::from("ROOT\\UNKNOWN")]
    }
}

/// What is prepared: names, and whether the device is left without IRP_MN_START_DEVICE.
static NEXT: Global<(Identity, bool)> = Global::new(
    "the next device",
    (
        Identity {
            instance: None,
            description: None,
            hardware: Vec::new(),
            compatible: Vec::new(),
        },
        false,
    ),
);

pub(super) fn initialize() {
    NEXT.with(|next| *next = (Identity::default(), false));
}

/// Begins with nothing said ([`abi::channel::Operation::PrepareDevice`]); how much was said that no device has taken.
pub(crate) fn prepare(is_left_stopped: bool) -> u64 {
    let (left, _) =
        NEXT.with(|next| core::mem::replace(next, (Identity::default(), is_left_stopped)));
    let names = usize::from(left.instance.is_some()) + usize::from(left.description.is_some());
    let ids = left.hardware.len() + left.compatible.len();
    (names + ids + resources::take_assigned().len()) as u64
}

/// Adds a text ([`abi::channel::Operation::DeviceText`]).
///
/// # Errors
/// INVALID_PARAMETER: no such text, empty, overlong, or with characters that ids do not have. INSUFFICIENT_RESOURCES:
/// too many.
pub(crate) fn name(what: u64, text: &str) -> Result<u64, NtStatus> {
    let is_id = what != 2;
    let is_bad = text.is_empty()
        || text.encode_utf16().count() > TEXT_MAX
        || text.chars().any(char::is_control)
        || is_id && text.contains([' ', ','])
        || what == 1 && text.contains(['\\', '/', '#']);
    if is_bad {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    NEXT.with(|(next, _)| {
        let text = String::from(text);
        let list = match what {
            1 => {
                next.instance = Some(text);
                return Ok(0);
            }
            2 => {
                next.description = Some(text);
                return Ok(0);
            }
            3 => &mut next.hardware,
            4 => &mut next.compatible,
            _ => return Err(NtStatus::INVALID_PARAMETER),
        };
        if list.len() >= IDS_MAX {
            return Err(NtStatus::INSUFFICIENT_RESOURCES);
        }
        list.push(text);
        Ok(0)
    })
}

/// What was prepared; forgotten then, but for whether devices are started.
pub(super) fn take() -> (Identity, Vec<Resource>) {
    let identity = NEXT.with(|(identity, _)| core::mem::take(identity));
    (identity, resources::take_assigned())
}

/// Whether new devices get AddDevice only.
pub(super) fn is_left_stopped() -> bool {
    NEXT.with(|next| next.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_platform::machine;

    #[test]
    fn texts_are_checked_and_forgotten_when_taken() {
        let _machine = machine();
        prepare(true);
        assert_eq!(name(1, "gone"), Ok(0));
        assert_eq!(prepare(true), 1);
        assert_eq!(name(1, "0007"), Ok(0));
        assert_eq!(name(2, "A card, with a name"), Ok(0));
        assert_eq!(name(3, "ISAPNP\\CARD"), Ok(0));
        for (what, text) in [(1, "a\\b"), (3, "a b"), (4, ""), (9, "x"), (2, "\n")] {
            assert_eq!(name(what, text), Err(NtStatus::INVALID_PARAMETER), "{text}");
        }
        let (identity, _) = take();
        assert_eq!(identity.instance.as_deref(), Some("0007"));
        assert_eq!(identity.hardware, ["ISAPNP\\CARD"]);
        assert!(take().0.hardware.is_empty());
        assert!(is_left_stopped());
    }
}
