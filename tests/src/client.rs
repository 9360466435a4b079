//! A guest process with an open device.

use vmm::session::driver::{Handle, IoResult, RunningDriver};
use vmm::session::{Machine, Process};

use crate::faults::describe;

/// The little-endian bytes of a request's fields, one after the other, without padding.
#[macro_export]
macro_rules! fields {
    ($($value:expr),* $(,)?) => {
        [$(&$value.to_le_bytes()[..]),*].concat()
    };
}

/// `count` bytes, none like its neighbours: 1, 2, 3...
#[must_use]
pub fn bytes(count: usize) -> Vec<u8> {
    (1..=251).cycle().take(count).collect()
}

/// One client: a process that has opened one device.
#[derive(Debug)]
pub struct Client {
    /// The process.
    pub process: Process,
    /// Its handle on the device.
    pub handle: Handle,
}

impl Client {
    /// A new process of `machine` that opens `path`.
    ///
    /// # Panics
    /// One of the two fails.
    #[must_use]
    pub fn open(machine: &Machine, path: &str) -> Self {
        let mut process = machine
            .process()
            .unwrap_or_else(|error| panic!("no process: {}", describe(&error)));
        let handle = process
            .open(path)
            .unwrap_or_else(|error| panic!("{path}: {}", describe(&error)));
        Self { process, handle }
    }

    /// A control request that reaches the driver, whatever it says of it.
    ///
    /// # Panics
    /// The machine ends.
    pub fn ioctl(&mut self, code: u32, input: &[u8], output_bytes: u32) -> IoResult {
        self.process
            .ioctl(self.handle, code, input, output_bytes)
            .unwrap_or_else(|error| panic!("{code:#x}: {}", describe(&error)))
    }

    /// A control request that succeeds: its output.
    ///
    /// # Panics
    /// It fails.
    pub fn control(&mut self, code: u32, input: &[u8], output_bytes: u32) -> Vec<u8> {
        let result = self.ioctl(code, input, output_bytes);
        assert_eq!(result.status.0, 0, "{code:#x}: {}", result.status);
        result.output
    }

    /// A control request with a u32 as its output.
    ///
    /// # Panics
    /// It fails, or its output is not 4 bytes.
    pub fn control_u32(&mut self, code: u32, input: &[u8]) -> u32 {
        let output = self.control(code, input, 4);
        u32::from_le_bytes(output.try_into().expect("4 bytes of output"))
    }
}
