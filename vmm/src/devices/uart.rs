//! A 16550A UART and what is at the other end of its line: a file, the standard streams, a pseudo terminal, a TCP
//! client. The registers are [`super::uart_chip`].
//!
//! What comes from the peer is read by a thread of its own, which raises the interrupt; it stops reading while the
//! driver is behind. A peer that takes nothing loses bytes, as on a line without flow control, but a file or standard
//! output that fails is the run's failure.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::output::{OutputError, Pty, Sink};
use super::uart_chip::{Chip, MODEM_LINES};
use super::{DeviceError, Input, InputError, Inputs, PortDevice};
use crate::machine::InterruptLine;
use crate::policy::{DeviceOutput, UartLink, UartSpec};
use crate::ports::Width;

/// Bytes that may wait for the driver before the peer has to.
const BACKLOG_MAX: usize = 4096;
/// How long a reader sleeps when there is nothing to do.
const PAUSE: Duration = Duration::from_millis(2);

/// What the device and its reader share.
#[derive(Debug)]
struct Shared {
    chip: Mutex<Chip>,
    /// The TCP client, if there is one.
    client: Mutex<Option<TcpStream>>,
}

impl Shared {
    fn chip(&self) -> MutexGuard<'_, Chip> {
        self.chip.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn client(&self) -> MutexGuard<'_, Option<TcpStream>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where bytes go.
#[derive(Debug)]
enum Line {
    Sink(Sink),
    Pty(Pty),
    Client,
}

/// The UART.
#[derive(Debug)]
pub struct Uart {
    shared: Arc<Shared>,
    line: Line,
    name: String,
    lost: u64,
}

impl Uart {
    /// Opens the line; `interrupt` is that of the spec's `irq`.
    ///
    /// # Errors
    /// [`OutputError`] when the line cannot be opened.
    pub fn open(spec: &UartSpec, interrupt: Option<InterruptLine>) -> Result<Self, OutputError> {
        let is_peer_there = !matches!(spec.link, UartLink::Tcp(_));
        let shared = Arc::new(Shared {
            chip: Mutex::new(Chip::new(interrupt, is_peer_there)),
            client: Mutex::new(None),
        });
        shared.chip().receive(&spec.input);
        let failed = |path: &str| {
            let path = path.to_owned();
            move |source| OutputError { path, source }
        };
        let (line, name) = match &spec.link {
            UartLink::Output(output) => {
                let sink = Sink::open(output)?;
                let name = sink.name().to_owned();
                (Line::Sink(sink), name)
            }
            UartLink::Stdio => {
                spawn(&shared, |shared| receive_all(shared, &mut io::stdin()))
                    .map_err(failed("stdio"))?;
                (
                    Line::Sink(Sink::open(&DeviceOutput::Stdout)?),
                    "stdio".to_owned(),
                )
            }
            UartLink::Pty => {
                let pty = Pty::open().map_err(failed("pty"))?;
                let name = pty.path.display().to_string();
                tracing::info!("the UART's pseudo terminal is {name}");
                let mut reader = pty.master.try_clone().map_err(failed(&name))?;
                spawn(&shared, move |shared| receive_all(shared, &mut reader))
                    .map_err(failed(&name))?;
                (Line::Pty(pty), name)
            }
            UartLink::Tcp(port) => {
                let asked = format!("tcp:{port}");
                let listener =
                    TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).map_err(failed(&asked))?;
                let address = listener.local_addr().map_err(failed(&asked))?;
                listener.set_nonblocking(true).map_err(failed(&asked))?;
                tracing::info!("the UART listens at {address}");
                spawn(&shared, move |shared| serve(shared, &listener)).map_err(failed(&asked))?;
                (Line::Client, format!("tcp {address}"))
            }
        };
        Ok(Self {
            shared,
            line,
            name,
            lost: 0,
        })
    }

    fn send(&mut self, byte: u8) {
        let result = match &mut self.line {
            Line::Sink(sink) => {
                sink.push(byte);
                return;
            }
            Line::Pty(pty) => pty.write_all(&[byte]),
            Line::Client => match &mut *self.shared.client() {
                Some(client) => client.write_all(&[byte]),
                None => Err(io::Error::from(io::ErrorKind::NotConnected)),
            },
        };
        if let Err(error) = result {
            if self.lost == 0 {
                tracing::warn!("the UART's peer at {} takes nothing: {error}", self.name);
            }
            self.lost += 1;
        }
    }
}

/// Starts a reader. It ends soon after the device does.
fn spawn(
    shared: &Arc<Shared>,
    body: impl FnOnce(&std::sync::Weak<Shared>) + Send + 'static,
) -> io::Result<()> {
    let shared = Arc::downgrade(shared);
    std::thread::Builder::new()
        .name("uart".to_owned())
        .spawn(move || body(&shared))
        .map(drop)
}

/// Hands over what comes, until the end of the input or of the device.
fn receive_all(shared: &std::sync::Weak<Shared>, input: &mut dyn Read) {
    let mut bytes = [0; 256];
    while let Some(device) = shared.upgrade() {
        crate::machine::processor_share::pay();
        let is_behind = device.chip().backlog() >= BACKLOG_MAX;
        // Not held while the read blocks, so that the device can end.
        drop(device);
        if is_behind {
            std::thread::sleep(PAUSE);
            continue;
        }
        match input.read(&mut bytes) {
            Ok(0) => return,
            Ok(length) => {
                let Some(device) = shared.upgrade() else {
                    return;
                };
                device
                    .chip()
                    .receive(bytes.get(..length).unwrap_or_default());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(PAUSE),
            Err(_) => return,
        }
    }
}

/// One client after the other.
fn serve(shared: &std::sync::Weak<Shared>, listener: &TcpListener) {
    while let Some(device) = shared.upgrade() {
        let Some((reader, writer)) = accept(listener) else {
            drop(device);
            std::thread::sleep(PAUSE);
            continue;
        };
        *device.client() = Some(writer);
        device.chip().set_peer(true);
        drop(device);
        let mut reader = reader;
        receive_all(shared, &mut reader);
        if let Some(device) = shared.upgrade() {
            *device.client() = None;
            device.chip().set_peer(false);
        }
    }
}

/// A client that is there, as reader and writer; neither blocks for long.
fn accept(listener: &TcpListener) -> Option<(TcpStream, TcpStream)> {
    let (client, _) = listener.accept().ok()?;
    client.set_nonblocking(true).ok()?;
    client.set_nodelay(true).ok()?;
    let writer = client.try_clone().ok()?;
    Some((client, writer))
}

impl PortDevice for Uart {
    fn read(&mut self, offset: u16, width: Width) -> u32 {
        let mut chip = self.shared.chip();
        let mut value = [0; 4];
        for (byte, target) in (0..width.bytes()).zip(&mut value) {
            *target = chip.read(offset + byte);
        }
        u32::from_le_bytes(value)
    }

    fn write(&mut self, offset: u16, width: Width, value: u32) {
        for (byte, source) in (0..width.bytes()).zip(value.to_le_bytes()) {
            let sent = self.shared.chip().write(offset + byte, source);
            if let Some(byte) = sent {
                self.send(byte);
            }
        }
    }

    fn width_max(&self) -> Width {
        Width::Byte
    }

    fn describe(&self) -> String {
        format!("uart16550 to {}", self.name)
    }

    fn inputs(&self) -> Option<Arc<dyn Inputs>> {
        Some(Arc::new(ModemLines(Arc::clone(&self.shared))))
    }

    fn flush(&mut self) -> Result<(), DeviceError> {
        let device = self.describe();
        match &mut self.line {
            Line::Sink(sink) => sink.flush(|| device),
            Line::Pty(_) | Line::Client => Ok(()),
        }
    }
}

/// The lines that a modem drives.
#[derive(Debug)]
struct ModemLines(Arc<Shared>);

const HELD: &str = "0 or 1, or \"peer\" for what the other end of the line does";

impl Inputs for ModemLines {
    fn list(&self) -> Vec<Input> {
        let chip = self.0.chip();
        MODEM_LINES
            .iter()
            .map(|(key, line)| {
                let value = match chip.held(*line) {
                    None => "peer",
                    Some(false) => "0",
                    Some(true) => "1",
                };
                Input::new(key, value, HELD)
            })
            .collect()
    }

    fn set(&self, key: &str, value: &str) -> Result<(), InputError> {
        let found = MODEM_LINES.iter().find(|(name, _)| *name == key);
        let (_, line) = found.ok_or(InputError::Unknown)?;
        let is_on = match value {
            "peer" => None,
            "0" => Some(false),
            "1" => Some(true),
            _ => return Err(InputError::Value(HELD)),
        };
        self.0.chip().hold(*line, is_on);
        Ok(())
    }
}

impl Drop for Uart {
    fn drop(&mut self) {
        if self.lost > 0 {
            tracing::warn!("the UART at {} lost {} bytes", self.name, self.lost);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::InterruptLines;
    use std::fs::File;
    use std::time::Instant;

    fn open(link: UartLink, lines: &InterruptLines) -> Uart {
        let spec = UartSpec {
            link,
            input: Vec::new(),
            irq: Some(4),
        };
        Uart::open(&spec, lines.line(4)).unwrap()
    }

    fn send(uart: &mut Uart, bytes: &[u8]) {
        for byte in bytes {
            uart.write(0, Width::Byte, u32::from(*byte));
        }
    }

    /// What the driver gets, within ten seconds.
    fn receive(uart: &mut Uart, length: usize) -> Vec<u8> {
        let start = Instant::now();
        let mut bytes = Vec::new();
        while bytes.len() < length && start.elapsed() < Duration::from_secs(10) {
            if uart.read(5, Width::Byte) & 1 == 0 {
                std::thread::sleep(PAUSE);
            } else {
                bytes.push(uart.read(0, Width::Byte).to_le_bytes()[0]);
            }
        }
        bytes
    }

    #[test]
    fn file_gets_what_is_sent_and_input_is_received() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("serial");
        let spec = UartSpec {
            link: UartLink::Output(DeviceOutput::File(path.clone())),
            input: b"hello".to_vec(),
            irq: None,
        };
        let mut uart = Uart::open(&spec, None).unwrap();
        send(&mut uart, b"sent");
        // A wide access is one to each register.
        uart.write(6, Width::Word, 0x5A00);
        assert_eq!(uart.read(6, Width::Word), 0x5AB0);
        assert_eq!(receive(&mut uart, 5), b"hello");
        uart.flush().unwrap();
        assert_eq!(std::fs::read(path).unwrap(), b"sent");
    }

    #[test]
    fn modem_lines_are_held_from_outside() {
        let lines = InterruptLines::default();
        let mut uart = open(UartLink::Tcp(0), &lines);
        let inputs = uart.inputs().unwrap();
        // Modem status interrupts, which reach the line by OUT2.
        uart.write(4, Width::Byte, 0x08);
        uart.write(1, Width::Byte, 0x08);
        assert_eq!(uart.read(6, Width::Byte), 0);
        inputs.set("dcd", "1").unwrap();
        assert!(lines.is_wanted());
        assert_eq!(uart.read(6, Width::Byte), 0x88, "DCD, and its change");
        inputs.set("ri", "1").unwrap();
        assert_eq!(uart.read(6, Width::Byte), 0xC0);
        inputs.set("ri", "0").unwrap();
        assert_eq!(uart.read(6, Width::Byte), 0x84, "the ring is over");
        inputs.set("dcd", "peer").unwrap();
        assert_eq!(uart.read(6, Width::Byte), 0x08);
        let values: Vec<String> = inputs.list().into_iter().map(|input| input.value).collect();
        assert_eq!(values, ["peer", "peer", "0", "peer"]);
        assert_eq!(inputs.set("rts", "1"), Err(InputError::Unknown));
        assert!(inputs.set("cts", "on").is_err());
    }

    #[test]
    fn pseudo_terminal_works_both_ways_and_interrupts() {
        let lines = InterruptLines::default();
        let mut uart = open(UartLink::Pty, &lines);
        uart.write(4, Width::Byte, 0x08);
        uart.write(1, Width::Byte, 0x01);
        let mut terminal = File::options()
            .read(true)
            .write(true)
            .open(&uart.name)
            .unwrap();
        terminal.write_all(b"\x03in\n").unwrap();
        assert_eq!(receive(&mut uart, 4), b"\x03in\n");
        assert!(lines.is_wanted());
        send(&mut uart, b"out\n");
        let mut bytes = [0; 4];
        terminal.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"out\n");
    }

    #[test]
    fn tcp_client_is_the_peer_while_it_is_there() {
        let lines = InterruptLines::default();
        let mut uart = open(UartLink::Tcp(0), &lines);
        assert_eq!(uart.read(6, Width::Byte), 0, "nobody is there");
        let address = uart.name.strip_prefix("tcp ").unwrap().to_owned();
        assert!(address.starts_with("127.0.0.1:"));
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"in").unwrap();
        assert_eq!(receive(&mut uart, 2), b"in");
        assert_eq!(uart.read(6, Width::Byte) & 0xF0, 0xB0);
        send(&mut uart, b"out");
        let mut bytes = [0; 3];
        client.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"out");
        drop(client);
        let start = Instant::now();
        while uart.read(6, Width::Byte) & 0xF0 != 0 {
            assert!(start.elapsed() < Duration::from_secs(10));
            std::thread::sleep(PAUSE);
        }
    }
}
