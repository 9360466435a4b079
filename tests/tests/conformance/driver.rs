//! One conformance driver in one machine: the host's side of tests/drivers/conformance/ktest.h.

use integration_tests::{Client, Target, describe};
use std::path::Path;
use vmm::files::FilesOption;
use vmm::session::driver::{DriverError, RunningDriver};
use vmm::session::{Machine, start};

/// KTEST_DESCRIBE and KTEST_RUN.
const DESCRIBE: u32 = 0x0022_2000;
const RUN: u32 = 0x0022_2004;
/// The flushed registry's file.
const SAVED: &str = "registry.toml";
const NAME_BYTES: usize = 96;
const TEXT_BYTES: usize = 3072;
const DESCRIPTION_BYTES: usize = 12 + 2 * NAME_BYTES;
const RESULT_BYTES: usize = 16 + TEXT_BYTES;

/// What a family's driver says of a test.
#[derive(Clone, Debug)]
pub(crate) struct Test {
    pub(crate) name: String,
    /// The bugcheck that it must end in.
    pub(crate) bugcheck: Option<u32>,
}

/// What came of a test that returned.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Evaluated checks.
    pub(crate) checks: u32,
    /// Those that failed.
    pub(crate) failures: u32,
    /// IRQL at its end.
    pub(crate) irql: u32,
    /// A line for each failed check, as far as they fit.
    pub(crate) text: String,
}

/// A machine that runs a family's driver, and a client process of it.
pub(crate) struct Session {
    client: Client,
    machine: Machine,
    /// The directory that the driver sees as C:, with a little in it.
    _files: tempfile::TempDir,
    /// Where the registry goes when the driver flushes a key.
    registry: tempfile::TempDir,
}

fn number(bytes: &[u8], position: usize) -> u32 {
    bytes
        .get(4 * position..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(bytes.get(..end.unwrap_or(bytes.len())).unwrap_or(&[])).into_owned()
}

/// A directory with Windows/known.txt (10 bytes) and a link that leads out of it.
fn files() -> std::io::Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    std::fs::create_dir(folder.path().join("Windows"))?;
    std::fs::write(folder.path().join("Windows/Known.txt"), "0123456789")?;
    std::os::unix::fs::symlink("/etc", folder.path().join("outside"))?;
    Ok(folder)
}

impl Session {
    /// Starts the driver.
    pub(crate) fn start(target: Target, image: &Path) -> Result<Self, String> {
        let files = files().map_err(|error| format!("making the --files directory: {error}"))?;
        let mut launch = target.launch(image, "");
        launch.files = Some(FilesOption {
            path: files.path().to_owned(),
            is_read_only: false,
        });
        // For the tests of ZwLoadDriver.
        launch.available.push(target.sample("echo"));
        let registry = tempfile::tempdir()
            .map_err(|error| format!("making a directory for the registry: {error}"))?;
        launch.save_registry = Some(registry.path().join(SAVED));
        let machine = start(launch).map_err(|error| match &error {
            vmm::session::StartError::Driver(source) => describe(source),
            other => vmm::error_chain(other),
        })?;
        let mut process = machine.process().map_err(|error| describe(&error))?;
        let handle = process
            .open(r"\\.\ktest")
            .map_err(|error| format!("opening the driver's device: {}", describe(&error)))?;
        Ok(Self {
            client: Client { process, handle },
            machine,
            _files: files,
            registry,
        })
    }

    /// The registry as the driver has flushed it.
    pub(crate) fn flushed_registry(&self) -> Option<String> {
        std::fs::read_to_string(self.registry.path().join(SAVED)).ok()
    }

    fn request(&mut self, code: u32, index: u32, bytes: usize) -> Result<Vec<u8>, DriverError> {
        let Client { process, handle } = &mut self.client;
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let result = process.ioctl(*handle, code, &index.to_le_bytes(), bytes)?;
        if result.status.0 != 0 || result.output.len() != bytes as usize {
            return Err(DriverError::Status(result.status));
        }
        Ok(result.output)
    }

    /// The family's name and tests.
    pub(crate) fn tests(&mut self) -> Result<(String, Vec<Test>), String> {
        let (mut family, mut tests, mut count) = (String::new(), Vec::new(), 1);
        while tests.len() < count {
            let index = u32::try_from(tests.len()).unwrap_or(u32::MAX);
            let output = self
                .request(DESCRIBE, index, DESCRIPTION_BYTES)
                .map_err(|error| format!("asking for test {index}: {}", describe(&error)))?;
            count = number(&output, 0) as usize;
            let names = output.get(12..).unwrap_or(&[]);
            family = text(names.get(NAME_BYTES..).unwrap_or(&[]));
            tests.push(Test {
                name: text(names.get(..NAME_BYTES).unwrap_or(&[])),
                bugcheck: (number(&output, 1) != 0).then(|| number(&output, 2)),
            });
        }
        Ok((family, tests))
    }

    /// Runs a test. An error is the machine's end.
    pub(crate) fn run(&mut self, index: usize) -> Result<Outcome, DriverError> {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        let output = self.request(RUN, index, RESULT_BYTES)?;
        let bytes = output
            .get(16..)
            .and_then(|bytes| bytes.get(..number(&output, 3) as usize))
            .unwrap_or(&[]);
        Ok(Outcome {
            checks: number(&output, 0),
            failures: number(&output, 1),
            irql: number(&output, 2),
            text: text(bytes),
        })
    }

    /// Unloads the driver; returns what it leaked.
    pub(crate) fn unload(mut self) -> Result<u64, DriverError> {
        let Client { process, handle } = &mut self.client;
        process.close(*handle)?;
        let leaked = process.unload();
        drop(self.machine);
        leaked
    }
}
