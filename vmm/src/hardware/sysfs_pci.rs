//! The machine's PCI functions, by sysfs.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::pci::PciBackend;
use crate::policy::{PciAddress, PciId};
use crate::ports::Width;

/// Where sysfs lists PCI functions.
pub(crate) const PCI_DEVICES: &str = "/sys/bus/pci/devices";

/// PCI configuration space by the files /sys/bus/pci/devices/*/config.
///
/// The kernel shows the first 64 bytes to everyone and the rest to whoever had CAP_SYS_ADMIN when the file was opened;
/// what it does not show reads as all ones.
#[derive(Debug)]
pub(super) struct SysfsPci {
    devices: PathBuf,
    open: BTreeMap<PciAddress, File>,
}

impl Default for SysfsPci {
    fn default() -> Self {
        Self::at(Path::new(PCI_DEVICES))
    }
}

impl SysfsPci {
    fn at(devices: &Path) -> Self {
        Self {
            devices: devices.to_owned(),
            open: BTreeMap::new(),
        }
    }

    /// Where sysfs has a function.
    pub(super) fn folder(&self, address: PciAddress) -> PathBuf {
        self.devices.join(address.to_string())
    }

    fn function(&self, address: PciAddress) -> io::Result<(PciAddress, PciId)> {
        let folder = self.folder(address);
        let id = PciId {
            vendor: read_id(&folder.join("vendor"))?,
            device: read_id(&folder.join("device"))?,
        };
        Ok((address, id))
    }
}

/// Reads an id that sysfs writes as `0x1234`.
fn read_id(path: &Path) -> io::Result<u16> {
    let text = std::fs::read_to_string(path)?;
    text.trim()
        .strip_prefix("0x")
        .and_then(|digits| u16::from_str_radix(digits, 16).ok())
        .ok_or_else(|| io::Error::other(format!("{} has no id: {text:?}", path.display())))
}

impl PciBackend for SysfsPci {
    fn functions(&mut self) -> io::Result<Vec<(PciAddress, PciId)>> {
        let mut addresses = Vec::new();
        let entries = match std::fs::read_dir(&self.devices) {
            Ok(entries) => entries,
            // A machine without PCI.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        for entry in entries {
            // Domains above 0xffff, which some host bridges make up, have no PciAddress: no rule can name them.
            addresses.extend(entry?.file_name().to_str().and_then(PciAddress::parse));
        }
        addresses.sort_unstable();
        addresses
            .into_iter()
            .map(|address| self.function(address))
            // One that is unplugged at this moment.
            .filter(|found| !matches!(found, Err(error) if error.kind() == io::ErrorKind::NotFound))
            .collect()
    }

    fn attach(&mut self, address: PciAddress, is_writing: bool) -> io::Result<()> {
        let path = self.folder(address).join("config");
        let file = OpenOptions::new()
            .read(true)
            .write(is_writing)
            .open(&path)
            .map_err(|error| {
                let hint = match error.kind() {
                    io::ErrorKind::PermissionDenied if is_writing => ": writing takes root",
                    _ => "",
                };
                io::Error::new(error.kind(), format!("{}: {error}{hint}", path.display()))
            })?;
        self.open.insert(address, file);
        Ok(())
    }

    fn read(&mut self, address: PciAddress, register: u16, width: Width) -> u32 {
        let Some(file) = self.open.get(&address) else {
            return u32::MAX;
        };
        let mut value = [0xFF; 4];
        let bytes = &mut value[..usize::from(width.bytes())];
        // One read: the kernel makes one access of it if it is aligned. A short one leaves ones.
        if let Err(error) = file.read_at(bytes, register.into()) {
            tracing::warn!("PCI function {address}, register {register:#x}: {error}");
            return u32::MAX;
        }
        u32::from_le_bytes(value)
    }

    fn write(&mut self, address: PciAddress, register: u16, width: Width, value: u32) {
        let Some(file) = self.open.get(&address) else {
            return;
        };
        let bytes = value.to_le_bytes();
        if let Err(error) = file.write_all_at(&bytes[..usize::from(width.bytes())], register.into())
        {
            tracing::warn!("PCI function {address}, register {register:#x}: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EDU: &str = "0000:00:10.0";

    /// A folder as sysfs's, with one function whose file shows 64 bytes.
    fn sysfs() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, file, contents) in [
            (EDU, "vendor", "0x1234\n"),
            (EDU, "device", "0x11e8\n"),
            ("10000:00:00.0", "vendor", "0x8086\n"),
        ] {
            let device = folder.path().join(name);
            std::fs::create_dir_all(&device).unwrap();
            std::fs::write(device.join(file), contents).unwrap();
        }
        let config: Vec<u8> = (0..64).collect();
        std::fs::write(folder.path().join(EDU).join("config"), config).unwrap();
        folder
    }

    #[test]
    fn functions_are_found_read_and_written() {
        let folder = sysfs();
        let mut pci = SysfsPci::at(folder.path());
        let address = PciAddress::parse(EDU).unwrap();
        let id = PciId::parse("1234:11e8").unwrap();
        assert_eq!(pci.functions().unwrap(), [(address, id)]);
        // Nothing is reached before it is attached.
        assert_eq!(pci.read(address, 0, Width::Byte), u32::MAX);

        pci.attach(address, true).unwrap();
        assert_eq!(pci.read(address, 4, Width::Word) & 0xFFFF, 0x0504);
        pci.write(address, 4, Width::Word, 0xFFFF_ABCD);
        assert_eq!(pci.read(address, 4, Width::Dword), 0x0706_ABCD);
        // Beyond what the kernel shows.
        assert_eq!(pci.read(address, 62, Width::Dword), 0xFFFF_3F3E);
        assert_eq!(pci.read(address, 64, Width::Dword), u32::MAX);
    }

    #[test]
    fn a_machine_without_pci_has_no_functions() {
        let folder = tempfile::tempdir().unwrap();
        let mut pci = SysfsPci::at(&folder.path().join("devices"));
        assert_eq!(pci.functions().unwrap(), []);
    }

    #[test]
    fn one_that_is_not_there_cannot_be_attached() {
        let folder = sysfs();
        let mut pci = SysfsPci::at(folder.path());
        let address = PciAddress::parse("0000:00:11.0").unwrap();
        let error = pci.attach(address, false).unwrap_err();
        assert!(error.to_string().contains("00:11.0/config"), "{error}");
    }
}
