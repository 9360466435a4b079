//! The machine's MSRs, by the files /dev/cpu/*/msr of the kernel's `msr` module.
#![expect(unsafe_code, reason = "libc's sched_getcpu")]

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::msr::MsrBackend;

/// Where the module has a folder for each processor.
const DEV_CPU: &str = "/dev/cpu";

/// MSRs of the processor that the calling thread runs on: the guest's, at an exit.
///
/// The kernel executes the instruction on the processor of the file. Each processor's file is opened at the start.
#[derive(Debug)]
pub struct DevCpuMsr {
    folder: PathBuf,
    processors: BTreeMap<usize, File>,
}

impl Default for DevCpuMsr {
    fn default() -> Self {
        Self::at(Path::new(DEV_CPU))
    }
}

impl DevCpuMsr {
    fn at(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            processors: BTreeMap::new(),
        }
    }

    /// The file of the processor that runs this. A thread that is moved at this moment gets the MSR of the processor that
    /// it left, as any driver on NT would that can be moved.
    fn here(&self) -> io::Result<&File> {
        let processor = processor()?;
        self.processors
            .get(&processor)
            .ok_or_else(|| io::Error::other(format!("processor {processor} came after the start")))
    }
}

fn processor() -> io::Result<usize> {
    // SAFETY: it takes nothing and changes nothing.
    let number = unsafe { libc::sched_getcpu() };
    usize::try_from(number).map_err(|_| io::Error::last_os_error())
}

impl MsrBackend for DevCpuMsr {
    fn attach(&mut self, is_writing: bool) -> io::Result<()> {
        let numbers: Vec<usize> = std::fs::read_dir(&self.folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        for number in numbers {
            let path = self.folder.join(number.to_string()).join("msr");
            match OpenOptions::new().read(true).write(is_writing).open(&path) {
                Ok(file) => {
                    self.processors.insert(number, file);
                }
                // A folder without the file, or a processor that is off.
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound
                        || matches!(error.raw_os_error(), Some(libc::ENXIO | libc::EIO)) => {}
                Err(error) => {
                    let hint = if error.kind() == io::ErrorKind::PermissionDenied {
                        ": it takes root or CAP_SYS_RAWIO, and a kernel that is not locked down (Secure Boot locks it)"
                    } else {
                        ""
                    };
                    let text = format!("{}: {error}{hint}", path.display());
                    return Err(io::Error::new(error.kind(), text));
                }
            }
        }
        if self.processors.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!(
                    "there is no {}/*/msr: load the kernel's module, as root: modprobe msr",
                    self.folder.display()
                ),
            ));
        }
        Ok(())
    }

    fn read(&mut self, number: u32) -> io::Result<u64> {
        let mut value = [0; 8];
        self.here()?.read_exact_at(&mut value, number.into())?;
        Ok(u64::from_le_bytes(value))
    }

    fn write(&mut self, number: u32, value: u64) -> io::Result<()> {
        self.here()?
            .write_all_at(&value.to_le_bytes(), number.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_missing_module_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("0")).unwrap();
        for folder in [folder.path(), Path::new("/nonexistent")] {
            let error = DevCpuMsr::at(folder).attach(false).unwrap_err();
            assert!(error.to_string().contains("modprobe msr"), "{error}");
        }
    }

    #[test]
    fn a_register_is_eight_bytes_at_its_number() {
        let folder = tempfile::tempdir().unwrap();
        // The test runs on any of them.
        for processor in 0..1024 {
            let processor = folder.path().join(processor.to_string());
            std::fs::create_dir(&processor).unwrap();
            std::fs::write(processor.join("msr"), [0x11; 0x20]).unwrap();
        }
        let mut msrs = DevCpuMsr::at(folder.path());
        assert!(msrs.read(0x10).is_err(), "not attached");
        msrs.attach(true).unwrap();
        assert_eq!(msrs.read(0x10).unwrap(), 0x1111_1111_1111_1111);
        assert!(msrs.read(0x1C).is_err(), "past the end");
        msrs.write(0x10, 5).unwrap();
    }
}
