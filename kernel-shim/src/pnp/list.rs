//! The device tree as text, for the user; [`abi::channel::Operation::ListDevices`] has its form.

use alloc::format;
use alloc::string::String;

use super::{Node, State, devices, interface};
use crate::io::device;
use crate::nt::DRIVER_OBJECT;
use crate::ob;
use crate::raw::{Ptr, unicode_text};

impl State {
    /// A word for people.
    const fn name(self) -> &'static str {
        match self {
            Self::Bare => "removed",
            Self::Added => "added",
            Self::Started => "started",
            Self::StopPending => "stop-pending",
            Self::Stopped => "stopped",
            Self::RemovePending(_) => "remove-pending",
            Self::Gone => "surprise-removed",
        }
    }
}

/// A field: what would end it is taken out.
fn field(text: &str) -> String {
    text.chars()
        .map(|character| {
            if character.is_control() {
                '\u{FFFD}'
            } else {
                character
            }
        })
        .collect()
}

fn driver_name(object: Ptr<DRIVER_OBJECT>) -> String {
    let mut name = object.read().DriverName;
    unicode_text(Ptr::of(&mut name))
}

/// DEVICE_POWER_STATE as D0 to D3: what the highest driver has said that has said anything (PoSetPowerState), or what
/// reached the bottom of the stack.
fn power(node: &Node) -> String {
    let (mut state, mut next) = (0, node.pdo);
    while !next.is_null() {
        match device::extension_of(next).read().PowerFlags >> 4 & 0xF {
            0 => {}
            own => state = own,
        }
        next = next.read().AttachedDevice;
    }
    match state {
        0 => String::from("-"),
        state => format!("D{}", state - 1),
    }
}

fn add(text: &mut String, node: &Node) {
    text.push_str(&format!(
        "device\t{}\t{}\t{}\t{}\t{}\n",
        node.number,
        field(&node.instance),
        field(&node.service),
        node.state.name(),
        power(node)
    ));
    let description = [String::from(node.description())];
    for (kind, ids) in [
        (2, &description[..]),
        (3, &node.hardware_ids()),
        (4, &node.compatible_ids()),
    ] {
        for id in ids {
            text.push_str(&format!("id\t{kind}\t{}\n", field(id)));
        }
    }
    let mut next = node.pdo;
    while !next.is_null() {
        let name = ob::lookup(next.addr()).map_or_else(String::new, |object| object.name);
        let driver = driver_name(next.read().DriverObject);
        text.push_str(&format!("object\t{}\t{}\n", field(&driver), field(&name)));
        next = next.read().AttachedDevice;
    }
    for resource in &node.resources {
        text.push_str("resource");
        for word in resource.words() {
            text.push_str(&format!("\t{word:x}"));
        }
        text.push('\n');
    }
    for (name, is_enabled) in interface::of_device(node.pdo) {
        let enabled = u8::from(is_enabled);
        text.push_str(&format!("interface\t{}\t{enabled}\n", field(&name)));
    }
}

/// All devices.
pub(crate) fn text() -> String {
    let mut text = String::new();
    for node in devices() {
        add(&mut text, &node);
    }
    text
}
