//! PnP devices as a user sees them: the device tree, the steps of plug and play, power states.

use super::driver::DriverError;
use serde::Serialize;

/// Most lines of a device tree that are taken from a guest.
const LINES_MAX: usize = 4096;

/// A step of plug and play ([`abi::channel::Operation::Pnp`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PnpStep {
    /// AddDevice if no driver is on the device, and IRP_MN_START_DEVICE.
    Start,
    /// IRP_MN_QUERY_STOP_DEVICE if that was not done, and IRP_MN_STOP_DEVICE.
    Stop,
    /// IRP_MN_QUERY_STOP_DEVICE.
    QueryStop,
    /// IRP_MN_CANCEL_STOP_DEVICE.
    CancelStop,
    /// IRP_MN_QUERY_REMOVE_DEVICE.
    QueryRemove,
    /// IRP_MN_CANCEL_REMOVE_DEVICE.
    CancelRemove,
    /// IRP_MN_QUERY_REMOVE_DEVICE if that was not done, and IRP_MN_REMOVE_DEVICE.
    Remove,
    /// IRP_MN_SURPRISE_REMOVAL, and IRP_MN_REMOVE_DEVICE when no file is open (any more).
    SurpriseRemove,
}

impl PnpStep {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Start,
        Self::Stop,
        Self::QueryStop,
        Self::CancelStop,
        Self::QueryRemove,
        Self::CancelRemove,
        Self::Remove,
        Self::SurpriseRemove,
    ];

    /// The command's word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::QueryStop => "query-stop",
            Self::CancelStop => "cancel-stop",
            Self::QueryRemove => "query-remove",
            Self::CancelRemove => "cancel-remove",
            Self::Remove => "remove",
            Self::SurpriseRemove => "surprise-remove",
        }
    }

    /// The guest's number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self as u64
    }
}

/// A power state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerState {
    /// D0 to D3: of a device.
    Device(u8),
    /// S0 to S5: of the system.
    System(u8),
}

impl PowerState {
    /// From `D0` to `D3`, `S0` to `S5`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let (kind, digit) = match *name.as_bytes() {
            [kind, digit @ b'0'..=b'9'] => (kind, digit - b'0'),
            _ => return None,
        };
        match kind {
            b'D' | b'd' if digit <= 3 => Some(Self::Device(digit)),
            b'S' | b's' if digit <= 5 => Some(Self::System(digit)),
            _ => None,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Device(state) => format!("D{state}"),
            Self::System(state) => format!("S{state}"),
        }
    }

    /// POWER_STATE_TYPE, and DEVICE_POWER_STATE or SYSTEM_POWER_STATE.
    #[must_use]
    pub fn numbers(self) -> (u64, u64) {
        match self {
            Self::Device(state) => (1, u64::from(state) + 1),
            Self::System(state) => (0, u64::from(state) + 1),
        }
    }
}

/// A device object of a stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StackEntry {
    /// The driver object's name.
    pub driver: String,
    /// The device object's name; may be empty.
    pub name: String,
}

/// A device interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// Its name as programs open it, `\\?\ROOT#...#{class}`.
    pub name: String,
    /// Whether it is enabled.
    pub is_enabled: bool,
}

/// A device of the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Device {
    /// What the guest calls it.
    pub number: u64,
    /// Such as `ROOT\NAME\0000`.
    pub instance: String,
    /// The driver's name.
    pub service: String,
    /// Such as `started`.
    pub state: String,
    /// `D0` to `D3`; `None`: no driver has said.
    pub power: Option<String>,
    /// Description.
    pub description: String,
    /// Hardware ids.
    pub hardware_ids: Vec<String>,
    /// Compatible ids.
    pub compatible_ids: Vec<String>,
    /// Its device objects, from the bottom.
    pub stack: Vec<StackEntry>,
    /// Its resources, as people write them.
    pub resources: Vec<String>,
    /// Its interfaces.
    pub interfaces: Vec<Interface>,
}

impl Device {
    /// Whether a user means it by `name`: its instance path, or its driver's name with or without `.sys`.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        let service = name
            .len()
            .checked_sub(4)
            .filter(|at| {
                name.get(*at..)
                    .is_some_and(|end| end.eq_ignore_ascii_case(".sys"))
            })
            .and_then(|at| name.get(..at))
            .unwrap_or(name);
        self.instance.eq_ignore_ascii_case(name) || self.service.eq_ignore_ascii_case(service)
    }
}

fn resource(words: &[&str]) -> Option<String> {
    let mut numbers = [0; 6];
    for (number, word) in numbers.iter_mut().zip(words) {
        *number = u64::from_str_radix(word, 16).ok()?;
    }
    let [kind, first, count, flags, _, share] = numbers;
    let last = first.checked_add(count.saturating_sub(1))?;
    let is_latched = flags & 1 != 0;
    let text = match kind {
        1 => format!("ports {first:#x}-{last:#x}"),
        2 if is_latched => format!("interrupt {first}, latched"),
        2 => format!("interrupt {first}, level-triggered"),
        3 => format!("memory {first:#x}-{last:#x}"),
        4 => format!("DMA channel {first}"),
        _ => return None,
    };
    Some(if share == 3 {
        format!("{text}, shared")
    } else {
        text
    })
}

/// Reads the guest's text of its device tree: what is malformed is an error, not a guess.
///
/// # Errors
/// [`DriverError::Gone`] with the line that cannot be read.
pub(super) fn parse_tree(text: &[u8]) -> Result<Vec<Device>, DriverError> {
    let malformed = |line: usize| {
        DriverError::Gone(format!(
            "line {line} of the guest's device tree is malformed"
        ))
    };
    let text = std::str::from_utf8(text).map_err(|_| malformed(0))?;
    let mut devices: Vec<Device> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let fields: Vec<&str> = line.split('\t').collect();
        let last = devices.last_mut();
        let read = match (fields.as_slice(), last) {
            _ if number > LINES_MAX => None,
            (["device", id, instance, service, state, power], _) => id.parse().ok().map(|id| {
                devices.push(Device {
                    number: id,
                    instance: (*instance).to_owned(),
                    service: (*service).to_owned(),
                    state: (*state).to_owned(),
                    power: (*power != "-").then(|| (*power).to_owned()),
                    ..Device::default()
                });
            }),
            (["id", kind, text], Some(device)) => {
                let text = (*text).to_owned();
                match *kind {
                    "2" => {
                        device.description = text;
                        Some(())
                    }
                    "3" => {
                        device.hardware_ids.push(text);
                        Some(())
                    }
                    "4" => {
                        device.compatible_ids.push(text);
                        Some(())
                    }
                    _ => None,
                }
            }
            (["object", driver, name], Some(device)) => {
                device.stack.push(StackEntry {
                    driver: (*driver).to_owned(),
                    name: (*name).to_owned(),
                });
                Some(())
            }
            (["resource", words @ ..], Some(device)) if words.len() == 6 => {
                resource(words).map(|text| device.resources.push(text))
            }
            (["interface", name, state @ ("0" | "1")], Some(device)) => {
                // What the kernel calls \??\ is \\?\ for programs.
                let name = match name.strip_prefix(r"\??\") {
                    Some(rest) => format!(r"\\?\{rest}"),
                    None => (*name).to_owned(),
                };
                device.interfaces.push(Interface {
                    name,
                    is_enabled: *state == "1",
                });
                Some(())
            }
            _ => None,
        };
        if read.is_none() {
            return Err(malformed(number));
        }
    }
    Ok(devices)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &str = "device\t1\tROOT\\PNP\\0000\tpnp\tstarted\tD0\nid\t2\tA card\nid\t3\tROOT\\PNP\n\
        object\t\\Driver\\PnpManager\t\\Device\\00000001\nresource\t1\t378\t3\t1\t0\t1\nresource\t2\t7\t0\t1\t1\t3\n\
        interface\t\\??\\ROOT#PNP#0000#{1}\t1\ndevice\t2\tROOT\\X\\0000\tx\tadded\t-\n";

    #[test]
    fn tree_of_the_guest_is_read() {
        let devices = parse_tree(TREE.as_bytes()).unwrap();
        assert_eq!(devices.len(), 2);
        let first = &devices[0];
        assert_eq!(first.power.as_deref(), Some("D0"));
        assert_eq!(first.description, "A card");
        assert_eq!(
            first.resources,
            ["ports 0x378-0x37a", "interrupt 7, latched, shared"]
        );
        assert_eq!(first.interfaces[0].name, r"\\?\ROOT#PNP#0000#{1}");
        assert_eq!(devices[1].power, None);
    }

    #[test]
    fn malformed_trees_are_refused() {
        for bad in [
            "id\t3\tx\n",
            "device\tx\ta\tb\tc\td\n",
            "device\t1\ta\tb\tc\td\nresource\t1\t2\n",
            "device\t1\ta\tb\tc\td\nresource\tzz\t2\t3\t4\t5\t6\n",
            "device\t1\ta\tb\tc\td\ninterface\tx\t2\n",
            "frob\n",
        ] {
            assert!(parse_tree(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(parse_tree(b"\xff").is_err());
        let long = "device\t1\ta\tb\tc\td\n".repeat(LINES_MAX + 1);
        assert!(parse_tree(long.as_bytes()).is_err());
    }

    #[test]
    fn devices_are_called_by_path_or_driver() {
        let device = &parse_tree(TREE.as_bytes()).unwrap()[0];
        for name in ["pnp", "PNP.SYS", r"root\pnp\0000"] {
            assert!(device.is_called(name), "{name}");
        }
        for name in ["", "x", ".sys", "0000"] {
            assert!(!device.is_called(name), "{name}");
        }
    }

    #[test]
    fn power_states_have_names() {
        for name in ["D0", "D3", "S0", "S5"] {
            assert_eq!(PowerState::from_name(name).unwrap().name(), name);
        }
        assert_eq!(PowerState::from_name("d3").unwrap().numbers(), (1, 4));
        assert_eq!(PowerState::from_name("S3").unwrap().numbers(), (0, 4));
        for bad in ["D4", "S6", "D", "X1", "D00", "Dx"] {
            assert_eq!(PowerState::from_name(bad), None, "{bad}");
        }
    }
}
