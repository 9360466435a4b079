//! The back end `passthrough`: the machine's real ports.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::Width;
use super::instructions::PortGrant;
use crate::devices::{DeviceError, PortDevice};

const DEV_PORT: &str = "/dev/port";

/// Neither way to the machine's ports works.
#[derive(Debug, thiserror::Error)]
#[error(
    "this machine's ports cannot be reached (ioperm: {ioperm}; {DEV_PORT}: {dev_port}). \
     Run as root or with CAP_SYS_RAWIO (setcap cap_sys_rawio+ep); with Secure Boot the kernel's lockdown forbids \
     both; containers and some cloud machines have no ports: backend \"lpt\" or \"ram\" works there"
)]
pub struct HostPortsError {
    /// Why ioperm(2) failed.
    pub ioperm: io::Error,
    /// Why /dev/port cannot be opened.
    pub dev_port: io::Error,
}

/// A way to the machine's ports.
#[derive(Debug)]
pub(super) enum HostPorts {
    /// By instructions.
    Granted(PortGrant),
    /// By /dev/port, which moves bytes: the kernel makes two byte accesses of a 16-bit one.
    DevPort(File),
}

impl HostPorts {
    /// Opens the ranges (first and last port): by ioperm(2), else by /dev/port.
    pub(super) fn open(ranges: &[(u16, u16)]) -> Result<Self, HostPortsError> {
        Self::open_with(|| PortGrant::new(ranges), Path::new(DEV_PORT))
    }

    fn open_with(
        grant: impl FnOnce() -> io::Result<PortGrant>,
        dev_port: &Path,
    ) -> Result<Self, HostPortsError> {
        let ioperm = match grant() {
            Ok(grant) => return Ok(Self::Granted(grant)),
            Err(error) => error,
        };
        match OpenOptions::new().read(true).write(true).open(dev_port) {
            Ok(file) => Ok(Self::DevPort(file)),
            Err(dev_port) => Err(HostPortsError { ioperm, dev_port }),
        }
    }

    /// Makes sure the calling thread can use the ports.
    pub(super) fn attach_thread(&self) -> io::Result<()> {
        match self {
            Self::Granted(grant) => grant.attach_thread(),
            Self::DevPort(_) => Ok(()),
        }
    }

    pub(super) fn read(&self, port: u16, width: Width) -> io::Result<u32> {
        match self {
            Self::Granted(grant) => grant.read(port, width),
            Self::DevPort(file) => {
                let mut value = [0; 4];
                let bytes = &mut value[..usize::from(width.bytes())];
                file.read_exact_at(bytes, port.into())?;
                Ok(u32::from_le_bytes(value))
            }
        }
    }

    pub(super) fn write(&self, port: u16, width: Width, value: u32) -> io::Result<()> {
        match self {
            Self::Granted(grant) => grant.write(port, width, value),
            Self::DevPort(file) => {
                let bytes = value.to_le_bytes();
                file.write_all_at(&bytes[..usize::from(width.bytes())], port.into())
            }
        }
    }
}

/// A rule's range of the machine's ports.
#[derive(Debug)]
pub(super) struct Passthrough {
    host: Arc<HostPorts>,
    first: u16,
    last: u16,
    failure: Option<String>,
}

impl Passthrough {
    pub(super) fn new(host: Arc<HostPorts>, first: u16, last: u16) -> Self {
        Self {
            host,
            first,
            last,
            failure: None,
        }
    }

    /// The real port at an offset; `None` when the access leaves the rule's range, which is a caller's bug that
    /// must not reach hardware.
    fn port(&self, offset: u16, width: Width) -> Option<u16> {
        let port = self.first.checked_add(offset)?;
        let last = port.checked_add(width.bytes() - 1)?;
        (last <= self.last).then_some(port)
    }

    fn fail(&mut self, port: u16, error: &io::Error) {
        if self.failure.is_none() {
            tracing::error!("backend \"passthrough\": port {port:#x}: {error}");
            self.failure = Some(format!("port {port:#x}: {error}"));
        }
    }
}

impl PortDevice for Passthrough {
    fn read(&mut self, offset: u16, width: Width) -> u32 {
        let Some(port) = self.port(offset, width) else {
            return u32::MAX;
        };
        self.host.read(port, width).unwrap_or_else(|error| {
            self.fail(port, &error);
            u32::MAX
        })
    }

    fn write(&mut self, offset: u16, width: Width, value: u32) {
        let Some(port) = self.port(offset, width) else {
            return;
        };
        if let Err(error) = self.host.write(port, width, value) {
            self.fail(port, &error);
        }
    }

    fn describe(&self) -> String {
        let way = match &*self.host {
            HostPorts::Granted(_) => "ioperm",
            HostPorts::DevPort(_) => DEV_PORT,
        };
        format!("passthrough by {way}")
    }

    fn flush(&mut self) -> Result<(), DeviceError> {
        match &self.failure {
            None => Ok(()),
            Some(message) => Err(DeviceError {
                device: self.describe(),
                message: message.clone(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> io::Result<PortGrant> {
        Err(io::Error::from_raw_os_error(libc::EPERM))
    }

    #[test]
    fn neither_way_says_both_reasons_and_what_to_do() {
        let error = HostPorts::open_with(refused, Path::new("/nonexistent/port")).unwrap_err();
        let text = error.to_string();
        for part in [
            "Operation not permitted",
            "No such file",
            "root",
            "CAP_SYS_RAWIO",
            "lockdown",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn machine_without_ports_is_told_and_one_with_ports_is_not_touched() {
        // 0x80, the POST code port: the open itself reads and writes nothing.
        match HostPorts::open(&[(0x80, 0x80)]) {
            Ok(host) => host.attach_thread().unwrap(),
            Err(error) => assert!(error.to_string().contains("CAP_SYS_RAWIO")),
        }
    }

    #[test]
    fn dev_port_accesses_are_bytes_at_the_ports_offset() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [0; 0x400]).unwrap();
        let host = Arc::new(HostPorts::open_with(refused, file.path()).unwrap());
        let mut ports = Passthrough::new(host, 0x378, 0x37B);
        ports.write(0, Width::Byte, 0xFFFF_FF41);
        ports.write(1, Width::Word, 0x4443);
        assert_eq!(ports.read(0, Width::Dword), 0x0044_4341);
        let bytes = std::fs::read(file.path()).unwrap();
        assert_eq!(&bytes[0x377..0x37C], &[0, 0x41, 0x43, 0x44, 0]);
        assert_eq!(ports.describe(), "passthrough by /dev/port");
        ports.flush().unwrap();
    }

    #[test]
    fn access_outside_the_rule_does_not_reach_the_port() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [0; 0x400]).unwrap();
        let host = Arc::new(HostPorts::open_with(refused, file.path()).unwrap());
        let mut ports = Passthrough::new(host, 0x378, 0x37A);
        ports.write(2, Width::Word, 0xFFFF);
        assert_eq!(ports.read(3, Width::Byte), u32::MAX);
        assert_eq!(std::fs::read(file.path()).unwrap(), [0; 0x400]);
    }

    #[test]
    fn failing_port_reads_ones_and_is_reported() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let host = Arc::new(HostPorts::open_with(refused, file.path()).unwrap());
        let mut ports = Passthrough::new(host, 0x378, 0x37A);
        assert_eq!(ports.read(0, Width::Byte), u32::MAX);
        assert!(ports.flush().unwrap_err().message.contains("port 0x378"));
    }
}
