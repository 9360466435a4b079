//! A device's interrupt by UIO: reading /dev/uioN waits for it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::sysfs_pci::PCI_DEVICES;
use crate::policy::UioDevice;

/// The PCI command register.
const COMMAND: u64 = 4;
/// Interrupt Disable, bit 10 of the command register (PCI Local Bus Specification 3.0, 6.2.2).
const INTERRUPT_DISABLE: u16 = 0x0400;

/// An open /dev/uioN.
#[derive(Debug)]
pub(super) struct Uio {
    file: File,
    /// Configuration space of the PCI function behind it, if it is one: uio_pci_generic has no other way to enable its
    /// interrupt again.
    config: Option<File>,
}

impl Uio {
    pub(super) fn open(device: &UioDevice) -> io::Result<Self> {
        let path = path_of(device)?;
        let file = open(&path, |options| options.custom_flags(libc::O_NONBLOCK))?;
        let name = path.file_name().unwrap_or_default();
        let config = Path::new("/sys/class/uio").join(name).join("device/config");
        let uio = Self {
            file,
            // Not every UIO device is a PCI function.
            config: config
                .exists()
                .then(|| open(&config, |it| it))
                .transpose()?,
        };
        uio.enable()?;
        Ok(uio)
    }

    pub(super) fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Takes what has been counted since the last call; `false` if there was nothing. The kernel has turned the
    /// interrupt off by then if it is a level.
    pub(super) fn take(&self) -> io::Result<bool> {
        let mut count = [0; 4];
        match (&self.file).read(&mut count) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Lets the next interrupt come.
    pub(super) fn enable(&self) -> io::Result<()> {
        let written = (&self.file).write(&1_u32.to_ne_bytes());
        match (&self.config, written) {
            (_, Ok(_)) => Ok(()),
            (Some(config), Err(_)) => enable_by_config(config),
            // A driver without a switch has an interrupt that needs none.
            (None, Err(error)) if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
            (None, Err(error)) => Err(error),
        }
    }
}

/// The whole register is written as one word, as kernels do it: there are devices (QEMU's PCI functions) that do not see
/// the bit change when its byte is written alone, and whose line is wrong from then on.
fn enable_by_config(config: &File) -> io::Result<()> {
    let mut bytes = [0; 2];
    config.read_exact_at(&mut bytes, COMMAND)?;
    let before = u16::from_le_bytes(bytes);
    if before & INTERRUPT_DISABLE == 0 {
        return Ok(());
    }
    config.write_all_at(&(before & !INTERRUPT_DISABLE).to_le_bytes(), COMMAND)
}

fn open(path: &Path, more: impl FnOnce(&mut OpenOptions) -> &mut OpenOptions) -> io::Result<File> {
    more(OpenOptions::new().read(true).write(true))
        .open(path)
        .map_err(|error| {
            let hint = match error.kind() {
                io::ErrorKind::NotFound => {
                    ": no UIO driver has such a device (`ringfence doctor` lists those that there are)"
                }
                io::ErrorKind::PermissionDenied => ": the file is root's; its owner may use the device",
                _ => "",
            };
            io::Error::new(error.kind(), format!("{}: {error}{hint}", path.display()))
        })
}

/// The file of a device.
fn path_of(device: &UioDevice) -> io::Result<PathBuf> {
    match device {
        UioDevice::File(path) => Ok(path.clone()),
        UioDevice::Function(address) => {
            let folder = Path::new(PCI_DEVICES).join(address.to_string());
            let name = std::fs::read_dir(folder.join("uio"))
                .ok()
                .and_then(|mut entries| entries.next()?.ok())
                .map(|entry| entry.file_name())
                .ok_or_else(|| {
                    io::Error::other(format!(
                        "{address} is not bound to a UIO driver: as root, modprobe uio_pci_generic, then write \
                         uio_pci_generic to {0}/driver_override and {address} to /sys/bus/pci/drivers_probe",
                        folder.display()
                    ))
                })?;
            Ok(Path::new("/dev").join(name))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::PciAddress;

    #[test]
    fn the_interrupt_is_enabled_by_the_command_register() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [1, 2, 3, 4, 5, 0xF7]).unwrap();
        let config = open(file.path(), |it| it).unwrap();
        enable_by_config(&config).unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap(), [1, 2, 3, 4, 5, 0xF3]);
        enable_by_config(&config).unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap(), [1, 2, 3, 4, 5, 0xF3]);
    }

    #[test]
    fn a_function_without_a_uio_driver_is_told_how_to_get_one() {
        let address = PciAddress::parse("00ff:ff:1f.7").unwrap();
        let error = Uio::open(&UioDevice::Function(address)).unwrap_err();
        assert!(error.to_string().contains("uio_pci_generic"), "{error}");
    }
}
