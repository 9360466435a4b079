//! The back end `ppdev`: a parallel port through the kernel's driver, /dev/parportN, which takes no root.
#![expect(unsafe_code, reason = "ioctls of linux/ppdev.h")]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use vmm_sys_util::ioctl::{ioctl, ioctl_with_mut_ref, ioctl_with_ref};
use vmm_sys_util::{ioctl_io_nr, ioctl_ior_nr, ioctl_iow_nr};

use crate::devices::{DeviceError, PortDevice};
use crate::ports::Width;

/// `'p'`, the type of ppdev's requests.
const PP: u32 = 0x70;
ioctl_iow_nr!(PPSETMODE, PP, 0x80, libc::c_int);
ioctl_ior_nr!(PPRSTATUS, PP, 0x81, u8);
ioctl_ior_nr!(PPRCONTROL, PP, 0x83, u8);
ioctl_iow_nr!(PPWCONTROL, PP, 0x84, u8);
ioctl_ior_nr!(PPRDATA, PP, 0x85, u8);
ioctl_iow_nr!(PPWDATA, PP, 0x86, u8);
ioctl_io_nr!(PPCLAIM, PP, 0x8b);
ioctl_io_nr!(PPRELEASE, PP, 0x8c);
ioctl_io_nr!(PPEXCL, PP, 0x8f);
ioctl_iow_nr!(PPDATADIR, PP, 0x90, libc::c_int);

/// Modes of linux/parport.h, those of IEEE 1284.
const MODE_COMPATIBLE: libc::c_int = 1 << 8;
const MODE_EPP: libc::c_int = 1 << 6;
const MODE_ADDRESS: libc::c_int = 1 << 13;

/// Registers of a parallel port from its first port on: data, status, control, then EPP's.
const DATA: u16 = 0;
const STATUS: u16 = 1;
const CONTROL: u16 = 2;
const EPP_ADDRESS: u16 = 3;
/// Lines of the control register; the kernel passes them as the register has them.
const CONTROL_LINES: u8 = 0x0F;
/// The control register's interrupt enable and direction, which the kernel keeps from user space.
const CONTROL_KEPT: u8 = 0x30;
const DIRECTION: u8 = 0x20;
/// The control register's bits that are not there.
const CONTROL_ONES: u8 = 0xC0;

/// A claimed parallel port; released when dropped.
#[derive(Debug)]
pub struct Ppdev {
    file: File,
    path: PathBuf,
    /// Bits of the last control byte that the kernel does not tell.
    kept: u8,
    /// The mode that EPP cycles were last made in.
    mode: Option<libc::c_int>,
    failure: Option<String>,
}

impl Ppdev {
    /// Opens and claims the port; with `is_exclusive` no other program may share it meanwhile.
    ///
    /// # Errors
    /// There is none, it may not be used, or others have it.
    pub fn open(path: &Path, is_exclusive: bool) -> io::Result<Self> {
        let explained = |error: io::Error| {
            let hint = match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
                    ": there is no such parallel port, or the kernel's modules are missing (as root: modprobe -a \
                     parport_pc ppdev)"
                }
                Some(libc::EACCES) => ": its group may use it, usually lp (usermod -aG lp USER)",
                Some(libc::EBUSY) => ": another driver or program has the port",
                _ => "",
            };
            io::Error::new(error.kind(), format!("{}: {error}{hint}", path.display()))
        };
        // The kernel tries a read that times out again and again, for ever, unless it is not to block.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(explained)?;
        let port = Self {
            file,
            path: path.to_owned(),
            kept: 0,
            mode: None,
            failure: None,
        };
        if is_exclusive {
            port.plain(PPEXCL()).map_err(explained)?;
        }
        // With PPEXCL it is here that the kernel finds others on the port.
        port.plain(PPCLAIM()).map_err(explained)?;
        Ok(port)
    }

    fn plain(&self, request: libc::c_ulong) -> io::Result<()> {
        // SAFETY: requests of ppdev without an argument.
        done(unsafe { ioctl(&self.file, request) })
    }

    fn get(&self, request: libc::c_ulong) -> io::Result<u8> {
        let mut value = 0_u8;
        // SAFETY: requests of ppdev that store a byte.
        done(unsafe { ioctl_with_mut_ref(&self.file, request, &mut value) })?;
        Ok(value)
    }

    fn put(&self, request: libc::c_ulong, value: u8) -> io::Result<()> {
        // SAFETY: requests of ppdev that load a byte.
        done(unsafe { ioctl_with_ref(&self.file, request, &value) })
    }

    fn put_number(&self, request: libc::c_ulong, value: libc::c_int) -> io::Result<()> {
        // SAFETY: requests of ppdev that load an int.
        done(unsafe { ioctl_with_ref(&self.file, request, &value) })
    }

    /// An EPP cycle of the following read or write: of the address, or of data.
    fn set_cycle(&mut self, offset: u16) -> io::Result<()> {
        let mode = MODE_EPP
            | if offset == EPP_ADDRESS {
                MODE_ADDRESS
            } else {
                0
            };
        if self.mode != Some(mode) {
            self.put_number(PPSETMODE(), mode)?;
            self.mode = Some(mode);
        }
        Ok(())
    }

    fn read_register(&mut self, offset: u16) -> io::Result<u8> {
        match offset {
            DATA => self.get(PPRDATA()),
            STATUS => self.get(PPRSTATUS()),
            CONTROL => Ok((self.get(PPRCONTROL())? & CONTROL_LINES) | self.kept | CONTROL_ONES),
            _ => {
                self.set_cycle(offset)?;
                let mut byte = [0xFF];
                // A cycle that times out reads nothing: all ones, as from the port.
                match (&self.file).read(&mut byte) {
                    Ok(_) => Ok(byte[0]),
                    Err(error) if is_timeout(&error) => Ok(0xFF),
                    Err(error) => Err(error),
                }
            }
        }
    }

    fn write_register(&mut self, offset: u16, value: u8) -> io::Result<()> {
        match offset {
            DATA => self.put(PPWDATA(), value),
            // Its only bit that takes a write is EPP's time-out, which the kernel clears itself.
            STATUS => Ok(()),
            CONTROL => {
                let turned = (self.kept ^ value) & DIRECTION;
                self.kept = value & CONTROL_KEPT;
                if turned != 0 {
                    self.put_number(PPDATADIR(), (value & DIRECTION).into())?;
                }
                self.put(PPWCONTROL(), value & CONTROL_LINES)
            }
            _ => {
                self.set_cycle(offset)?;
                match (&self.file).write(&[value]) {
                    Ok(_) => Ok(()),
                    Err(error) if is_timeout(&error) => Ok(()),
                    Err(error) => Err(error),
                }
            }
        }
    }

    fn fail(&mut self, error: &io::Error) {
        if self.failure.is_none() {
            let text = format!("{}: {error}", self.path.display());
            tracing::error!("backend \"ppdev\": {text}");
            self.failure = Some(text);
        }
    }
}

fn done(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EIO | libc::EAGAIN | libc::ETIMEDOUT)
    )
}

impl Drop for Ppdev {
    fn drop(&mut self) {
        // Else the kernel ends EPP mode with whoever is at the port: it pulses nInit, by which devices reset themselves.
        if self.mode.is_some() {
            let _ = self.put_number(PPSETMODE(), MODE_COMPATIBLE).is_ok();
        }
        // Closing releases it too; whoever waits for the port need not wait for that.
        let _ = self.plain(PPRELEASE()).is_ok();
    }
}

impl PortDevice for Ppdev {
    fn read(&mut self, offset: u16, _: Width) -> u32 {
        let value = self.read_register(offset).unwrap_or_else(|error| {
            self.fail(&error);
            0xFF
        });
        value.into()
    }

    fn write(&mut self, offset: u16, _: Width, value: u32) {
        let [byte, ..] = value.to_le_bytes();
        if let Err(error) = self.write_register(offset, byte) {
            self.fail(&error);
        }
    }

    fn width_max(&self) -> Width {
        Width::Byte
    }

    fn describe(&self) -> String {
        format!("ppdev {}", self.path.display())
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

    #[test]
    fn a_missing_port_is_told_how_to_get_one() {
        let error = Ppdev::open(Path::new("/dev/parport999"), false).unwrap_err();
        assert!(error.to_string().contains("modprobe"), "{error}");
    }

    #[test]
    fn what_is_no_parallel_port_is_refused() {
        let error = Ppdev::open(Path::new("/dev/null"), true).unwrap_err();
        assert!(error.to_string().contains("/dev/null"), "{error}");
    }

    #[test]
    fn requests_have_the_kernels_numbers() {
        assert_eq!(PPWDATA(), 0x4001_7086);
        assert_eq!(PPRSTATUS(), 0x8001_7081);
        assert_eq!(PPCLAIM(), 0x708B);
        assert_eq!(PPSETMODE(), 0x4004_7080);
    }
}
