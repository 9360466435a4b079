//! A game port and an 8255: devices of a few bits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::{Input, InputError, Inputs, PortDevice, inputs};
use crate::ports::Width;

/// The IBM game control adapter at 0x201. A write starts four one-shots; bits 0-3 read as ones until theirs is over,
/// 24.2 us + 11 ns for each ohm of a potentiometer (0 to 100 kOhm), as IBM's Technical Reference gives it. Bits 4-7 are
/// the buttons, 0 while pressed.
#[derive(Debug)]
pub struct Gameport {
    stick: Arc<Mutex<Stick>>,
    start: Option<Instant>,
}

/// What is plugged in.
#[derive(Debug)]
struct Stick {
    axes: [u8; 4],
    buttons: u8,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const AXES: [&str; 4] = ["axis0", "axis1", "axis2", "axis3"];
const BUTTONS: &str = "a number from 0 to 15: a bit for each that is pressed";

impl Inputs for Mutex<Stick> {
    fn list(&self) -> Vec<Input> {
        let stick = locked(self);
        let axes = AXES.iter().zip(stick.axes);
        axes.map(|(key, value)| Input::new(key, value, inputs::BYTE))
            .chain([Input::new("buttons", stick.buttons, BUTTONS)])
            .collect()
    }

    fn set(&self, key: &str, value: &str) -> Result<(), InputError> {
        let mut stick = locked(self);
        if key == "buttons" {
            stick.buttons = inputs::number(value, 0xF, BUTTONS)?.to_le_bytes()[0];
            return Ok(());
        }
        let axis = AXES.iter().position(|name| *name == key);
        stick.axes[axis.ok_or(InputError::Unknown)?] = inputs::byte(value)?;
        Ok(())
    }
}

impl Gameport {
    /// `axes` are the potentiometers' positions, 255 being 100 kOhm; `buttons` has a one for each that is pressed.
    #[must_use]
    pub fn new(axes: [u8; 4], buttons: u8) -> Self {
        Self {
            stick: Arc::new(Mutex::new(Stick { axes, buttons })),
            start: None,
        }
    }

    /// What is read so many nanoseconds after the write.
    fn value_after(&self, nanoseconds: Option<u128>) -> u8 {
        let stick = locked(&self.stick);
        let mut value = !stick.buttons << 4;
        for (axis, bit) in stick.axes.into_iter().zip([1, 2, 4, 8]) {
            let ohms = u128::from(axis) * 100_000 / 255;
            if nanoseconds.is_some_and(|time| time < 24_200 + 11 * ohms) {
                value |= bit;
            }
        }
        value
    }
}

impl PortDevice for Gameport {
    fn read(&mut self, _: u16, _: Width) -> u32 {
        let time = self.start.map(|start| start.elapsed().as_nanos());
        self.value_after(time).into()
    }

    fn write(&mut self, _: u16, _: Width, _: u32) {
        self.start = Some(Instant::now());
    }

    fn width_max(&self) -> Width {
        Width::Byte
    }

    fn describe(&self) -> String {
        "gameport".to_owned()
    }

    fn inputs(&self) -> Option<Arc<dyn Inputs>> {
        Some(Arc::clone(&self.stick) as Arc<dyn Inputs>)
    }
}

const MODE_SET: u8 = 1 << 7;
const A_INPUT: u8 = 1 << 4;
const C_UPPER_INPUT: u8 = 1 << 3;
const B_INPUT: u8 = 1 << 1;
const C_LOWER_INPUT: u8 = 1 << 0;
/// The bits that select modes 1 and 2.
const OTHER_MODES: u8 = 0x64;

/// An Intel 8255A in mode 0: ports A, B and C at offsets 0 to 2, and control at 3, with bit set and reset of port C.
#[derive(Debug)]
pub struct Pio8255 {
    control: u8,
    latches: [u8; 3],
    inputs: Arc<Mutex<Pins>>,
    is_looped: bool,
}

/// What drives ports A, B and C while they are inputs.
#[derive(Debug)]
struct Pins([u8; 3]);

const PORTS: [&str; 3] = ["a", "b", "c"];

impl Inputs for Mutex<Pins> {
    fn list(&self) -> Vec<Input> {
        let ports = PORTS.iter().zip(locked(self).0);
        ports
            .map(|(key, value)| Input::new(key, format_args!("{value:#04x}"), inputs::BYTE))
            .collect()
    }

    fn set(&self, key: &str, value: &str) -> Result<(), InputError> {
        let port = PORTS.iter().position(|name| *name == key);
        locked(self).0[port.ok_or(InputError::Unknown)?] = inputs::byte(value)?;
        Ok(())
    }
}

impl Pio8255 {
    /// `inputs` is what drives the ports while they are inputs; with `is_looped` port B reads what A drives.
    #[must_use]
    pub fn new(inputs: [u8; 3], is_looped: bool) -> Self {
        Self {
            control: MODE_SET | A_INPUT | C_UPPER_INPUT | B_INPUT | C_LOWER_INPUT,
            latches: [0; 3],
            inputs: Arc::new(Mutex::new(Pins(inputs))),
            is_looped,
        }
    }

    /// The bits of a port that are inputs.
    fn input_bits(&self, port: usize) -> u8 {
        let is_set = |bit: u8| self.control & bit != 0;
        match port {
            0 if is_set(A_INPUT) => 0xFF,
            1 if is_set(B_INPUT) => 0xFF,
            2 => {
                (if is_set(C_UPPER_INPUT) { 0xF0 } else { 0 })
                    | if is_set(C_LOWER_INPUT) { 0x0F } else { 0 }
            }
            _ => 0,
        }
    }

    fn read_port(&self, port: usize) -> u8 {
        let inputs = self.input_bits(port);
        let outside = if port == 1 && self.is_looped && self.input_bits(0) == 0 {
            self.latches[0]
        } else {
            locked(&self.inputs).0[port]
        };
        self.latches[port] & !inputs | outside & inputs
    }

    fn write_control(&mut self, value: u8) {
        if value & MODE_SET != 0 {
            if value & OTHER_MODES != 0 {
                tracing::warn!(
                    "the 8255 model has mode 0 alone; control word {value:#04x} asks for another"
                );
            }
            self.control = value & !OTHER_MODES;
            // A control word resets the output latches.
            self.latches = [0; 3];
            return;
        }
        let bit = 1 << ((value >> 1) & 7);
        if value & 1 == 0 {
            self.latches[2] &= !bit;
        } else {
            self.latches[2] |= bit;
        }
    }
}

impl PortDevice for Pio8255 {
    fn read(&mut self, offset: u16, _: Width) -> u32 {
        match offset {
            0..=2 => self.read_port(offset.into()).into(),
            // The control word of an 8255A cannot be read.
            _ => 0xFF,
        }
    }

    fn write(&mut self, offset: u16, _: Width, value: u32) {
        let value = value.to_le_bytes()[0];
        match offset {
            0..=2 => self.latches[usize::from(offset)] = value,
            _ => self.write_control(value),
        }
    }

    fn width_max(&self) -> Width {
        Width::Byte
    }

    fn describe(&self) -> String {
        "pio8255".to_owned()
    }

    fn inputs(&self) -> Option<Arc<dyn Inputs>> {
        Some(Arc::clone(&self.inputs) as Arc<dyn Inputs>)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_time_out_one_after_the_other_and_buttons_are_low() {
        let port = Gameport::new([0, 255, 51, 0], 0b0101);
        assert_eq!(port.value_after(None), 0xA0);
        assert_eq!(port.value_after(Some(0)), 0xAF);
        assert_eq!(port.value_after(Some(24_199)), 0xAF);
        assert_eq!(port.value_after(Some(24_200)), 0xA6);
        assert_eq!(port.value_after(Some(244_200)), 0xA2, "20 kOhm");
        assert_eq!(port.value_after(Some(1_124_199)), 0xA2);
        assert_eq!(port.value_after(Some(1_124_200)), 0xA0, "100 kOhm");
    }

    #[test]
    fn ports_of_an_8255_are_inputs_until_told_otherwise() {
        let mut pio = Pio8255::new([1, 2, 0xA5], true);
        let read = |pio: &mut Pio8255| [0, 1, 2].map(|port| pio.read(port, Width::Byte));
        pio.write(0, Width::Byte, 0x77);
        assert_eq!(read(&mut pio), [1, 2, 0xA5]);
        // A and the upper half of C are outputs.
        pio.write(3, Width::Byte, 0x83);
        assert_eq!(read(&mut pio), [0, 0, 0x05], "the latches were reset");
        pio.write(0, Width::Byte, 0x77);
        assert_eq!(read(&mut pio), [0x77, 0x77, 0x05], "B is wired to A");
        for (control, expected) in [(0x0F, 0x85), (0x0D, 0xC5), (0x0E, 0x45), (0x03, 0x45)] {
            pio.write(3, Width::Byte, control);
            assert_eq!(pio.read(2, Width::Byte), expected, "{control:#x}");
        }
        pio.write(3, Width::Byte, 0x80);
        pio.write(1, Width::Byte, 0x33);
        assert_eq!(read(&mut pio), [0, 0x33, 0]);
        assert_eq!(pio.read(3, Width::Byte), 0xFF);
    }

    #[test]
    fn what_is_plugged_in_changes_from_outside() {
        let mut port = Gameport::new([0; 4], 0);
        let inputs = port.inputs().unwrap();
        inputs.set("buttons", "0x9").unwrap();
        assert_eq!(port.read(0, Width::Byte), 0x60);
        inputs.set("axis2", "255").unwrap();
        assert_eq!(port.value_after(Some(30_000)), 0x64);
        assert_eq!(inputs.list()[2].value, "255");
        assert_eq!(inputs.set("axis4", "0"), Err(InputError::Unknown));
        assert!(inputs.set("buttons", "16").is_err());

        let mut pio = Pio8255::new([0; 3], false);
        let inputs = pio.inputs().unwrap();
        inputs.set("b", "0xa5").unwrap();
        assert_eq!(pio.read(1, Width::Byte), 0xA5);
        let values: Vec<String> = inputs.list().into_iter().map(|input| input.value).collect();
        assert_eq!(values, ["0x00", "0xa5", "0x00"]);
        assert_eq!(inputs.set("d", "0"), Err(InputError::Unknown));
        assert!(inputs.set("a", "256").is_err());
    }
}
