//! The commands that drive a driver: `open`, `ioctl`, `outb` and the others. Parsed from arguments, scripts and
//! sockets, so the text is hostile: lengths are bounded and nothing is guessed.

use super::device::{PnpStep, PowerState};
use super::driver::PortWidth;
use crate::observe::escape::Escaped;
use crate::observe::hex;
use std::fmt;
use std::str::FromStr;

mod data;
mod parse;
#[cfg(test)]
mod tests;

/// Longest command, in bytes.
pub const LINE_MAX: usize = 256 << 10;
/// Most bytes that a command may send or ask for.
pub const TRANSFER_MAX: u32 = 1 << 20;

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Whether it is meant to fail (`!` before it).
    pub is_failure_expected: bool,
    /// What to do.
    pub action: Action,
}

/// What a command does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open a device; its handle becomes the current one.
    Open(String),
    /// Close the current handle; the one opened before it becomes current.
    Close,
    /// IRP_MJ_DEVICE_CONTROL.
    Ioctl {
        /// Control code.
        code: u32,
        /// Input.
        input: Vec<u8>,
        /// Bytes of the output buffer.
        output_bytes: u32,
    },
    /// IRP_MJ_READ.
    Read {
        /// Bytes asked for.
        bytes: u32,
        /// Byte offset.
        offset: Option<u64>,
    },
    /// IRP_MJ_WRITE.
    Write {
        /// What to write.
        data: Vec<u8>,
        /// Byte offset.
        offset: Option<u64>,
    },
    /// `in`
    PortIn {
        /// Port.
        port: u16,
        /// Width.
        width: PortWidth,
    },
    /// `out`
    PortOut {
        /// Port.
        port: u16,
        /// Width.
        width: PortWidth,
        /// Value.
        value: u32,
    },
    /// Counters.
    Stats,
    /// Show the device tree.
    Devices,
    /// Do a step of plug and play.
    Pnp {
        /// Which.
        step: PnpStep,
        /// With which device: its instance path or driver; `None`: the only one.
        device: Option<String>,
    },
    /// Send a power state.
    Power {
        /// Which.
        state: PowerState,
        /// To which device; `None`: the only one, or with a system state all.
        device: Option<String>,
    },
    /// Show device models, or set what drives one.
    Model {
        /// Which: its name or place; `None`: all.
        name: Option<String>,
        /// Keys and values to set, in this order.
        settings: Vec<(String, String)>,
    },
    /// Unload the driver.
    Unload,
    /// Show the commands.
    Help,
}

/// What is wrong with a command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct CommandError {
    /// Column, counted in characters from 1.
    pub column: usize,
    /// What was found there.
    pub found: String,
    /// What belongs there.
    pub expected: String,
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "column {}: {}; expected {}",
            self.column, self.found, self.expected
        )
    }
}

impl FromStr for Command {
    type Err = CommandError;

    fn from_str(line: &str) -> Result<Self, CommandError> {
        parse::command(line)
    }
}

/// What a script's line holds; empty lines and `#` comments hold nothing.
///
/// # Errors
/// The line is no command.
pub fn parse_script_line(line: &str) -> Result<Option<Command>, CommandError> {
    let trimmed = line.trim_start();
    if trimmed.is_empty() || trimmed.starts_with('#') {
        return Ok(None);
    }
    line.parse().map(Some)
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = |width: &PortWidth| match width {
            PortWidth::Byte => 'b',
            PortWidth::Word => 'w',
            PortWidth::Dword => 'd',
        };
        match self {
            Self::Open(path) => write!(f, "open {}", Escaped(path)),
            Self::Close => f.write_str("close"),
            Self::Ioctl { code, .. } => write!(f, "ioctl {code:#010x}"),
            Self::Read { bytes, offset } => {
                write!(f, "read {bytes}")?;
                offset.map_or(Ok(()), |offset| write!(f, " at {offset:#x}"))
            }
            Self::Write { data, offset } => {
                match data.get(..8) {
                    Some(start) if data.len() > 8 => write!(f, "write {}...", hex::bytes(start))?,
                    _ => write!(f, "write {}", hex::bytes(data))?,
                }
                offset.map_or(Ok(()), |offset| write!(f, " at {offset:#x}"))
            }
            Self::PortIn { port, width } => write!(f, "in{} {port:#x}", suffix(width)),
            Self::PortOut { port, width, value } => {
                write!(f, "out{} {port:#x} {value:#x}", suffix(width))
            }
            Self::Stats => f.write_str("stats"),
            Self::Devices => f.write_str("pnp list"),
            Self::Pnp { step, device } => {
                write!(f, "pnp {}", step.name())?;
                write_device(f, device.as_deref())
            }
            Self::Power { state, device } => {
                write!(f, "power {}", state.name())?;
                write_device(f, device.as_deref())
            }
            Self::Model { name, settings } => {
                f.write_str("device")?;
                write_device(f, name.as_deref())?;
                for (key, value) in settings {
                    write!(f, " {}={}", Escaped(key), Escaped(value))?;
                }
                Ok(())
            }
            Self::Unload => f.write_str("unload"),
            Self::Help => f.write_str("help"),
        }
    }
}

fn write_device(f: &mut fmt::Formatter<'_>, device: Option<&str>) -> fmt::Result {
    match device {
        Some(device) => write!(f, " {}", Escaped(device)),
        None => Ok(()),
    }
}

impl Action {
    /// The command's word.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Open(_) => "open",
            Self::Close => "close",
            Self::Ioctl { .. } => "ioctl",
            Self::Read { .. } => "read",
            Self::Write { .. } => "write",
            Self::PortIn { .. } => "in",
            Self::PortOut { .. } => "out",
            Self::Stats => "stats",
            Self::Devices | Self::Pnp { .. } => "pnp",
            Self::Power { .. } => "power",
            Self::Model { .. } => "device",
            Self::Unload => "unload",
            Self::Help => "help",
        }
    }
}

/// What `help` shows.
pub const HELP: &str = "\
Commands:
  open PATH                  open a device, such as \\\\.\\giveio or \\Device\\giveio
  close                      close the handle opened last
  ioctl CODE [IN [OUTLEN]]   send a control code; IN is DATA or - for none, OUTLEN is 0 if not given
  read N [at OFFSET]         read N bytes
  write DATA [at OFFSET]     write bytes
  inb|inw|ind PORT           read a port as the client process, under its I/O permission map
  outb|outw|outd PORT VALUE  write a port in the same way
  pnp list                   show PnP devices: state, resources, interfaces (`open` takes their names)
  pnp STEP [DEVICE]          start, stop, query-stop, cancel-stop, query-remove, cancel-remove, remove or
                             surprise-remove; DEVICE is an instance path or a driver's name
  power STATE [DEVICE]       D0 to D3 for a device, S0 to S5 for the system (all devices, if none is named)
  device [NAME [KEY=VALUE]...]
                             show the policy's device models with what drives them, or set it, also while the driver
                             waits; NAME is a rule's `name` or its first port or address
  stats                      show counters
  unload                     unload the driver
  help                       show this

Numbers are decimal, or hexadecimal with 0x. A command after ! is meant to fail: `! inb 0x378` succeeds when the
port is denied. A line that begins with # is a comment.

DATA is one or more of these, joined by commas without spaces:
  de00beef        bytes, two hexadecimal digits each, without 0x
  u8:1 u16:0x378 u32:5 u64:1
                  an unsigned integer, little-endian; i8 i16 i32 i64 for a signed one
  \"text\"          bytes of text; \\n \\r \\t \\0 \\\\ \\\" \\xNN are escapes
  utf16:\"text\"    the same as UTF-16
  zero:16         that many zero bytes

Example: ioctl 0x9c402008 u16:0x378,u8:0x41";
