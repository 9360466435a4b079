//! A driver and a machine that exist only in memory, for unit tests of what drives them.

use super::client::{Attachment, Caller, status};
use super::device::{Device, PnpStep, PowerState};
use super::driver::{
    DriverError, Handle, IoResult, PortWidth, RunningDriver, RunningMachine, Stats,
};
use super::hangup::Hangup;
use crate::devices::{Gameport, PortDevice, RunningModel};
use crate::observe::clock::Clock;
use crate::observe::crash::{CrashReport, Reporter};
use crate::observe::flight::Flight;
use crate::observe::ntstatus::NtStatus;
use crate::observe::symbols::Symbols;
use crate::observe::unwind::tests::Pieces;
use abi::crash::{CrashKind, CrashRecord, NO_VECTOR, Registers};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vmm_sys_util::eventfd::EventFd;

/// Echoes control codes, keeps port values, grants ports once it was opened; 0xDEAD crashes it, 0x510 hangs it, 0xF0E7E4
/// is pending for ever.
#[derive(Debug)]
pub(crate) struct Fake {
    opened: u64,
    ports: HashMap<u16, u32>,
    live: Arc<AtomicU64>,
    state: (&'static str, String),
    joystick: Gameport,
    client: Hangup,
}

impl Fake {
    pub(crate) const ELAPSED: Duration = Duration::from_micros(3);
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::SeqCst);
    }
}

fn report(make: impl FnOnce(&Reporter<'_>) -> CrashReport) -> Box<CrashReport> {
    Box::new(make(&Reporter {
        driver: "fake.sys",
        abi: abi::DriverAbi::Amd64,
        privilege: abi::Privilege::Ring3,
        symbols: &Symbols::default(),
        memory: &Pieces::default(),
        exports: &[],
        unbound: &[],
        flight: &Flight::default(),
        clock: Clock {
            boot_tsc: 0,
            tsc_khz: 1,
        },
    }))
}

fn done(output: Vec<u8>) -> IoResult {
    IoResult {
        status: NtStatus::SUCCESS,
        information: output.len() as u64,
        output,
        elapsed: Fake::ELAPSED,
    }
}

impl RunningDriver for Fake {
    fn watch(&mut self, client: &Hangup) {
        self.client = client.clone();
    }

    fn open(&mut self, path: &str) -> Result<Handle, DriverError> {
        if path != r"\\.\fake" {
            return Err(DriverError::Status(NtStatus::OBJECT_NAME_NOT_FOUND));
        }
        self.opened += 4;
        Ok(Handle(self.opened))
    }

    fn close(&mut self, _handle: Handle) -> Result<(), DriverError> {
        Ok(())
    }

    fn ioctl(
        &mut self,
        _handle: Handle,
        code: u32,
        input: &[u8],
        output_bytes: u32,
    ) -> Result<IoResult, DriverError> {
        match code {
            0x22_2004 => {
                let bytes = input.len().min(output_bytes as usize);
                Ok(done(input[..bytes].to_vec()))
            }
            0xF0_E7E4 => {
                let (sender, answer) = std::sync::mpsc::channel();
                let sender = Arc::new(sender);
                self.client.watch(&sender);
                Err(answer.recv().unwrap().unwrap_err())
            }
            0xDEAD => {
                let record = CrashRecord {
                    kind: CrashKind::Bugcheck as u32,
                    code: 0xD1,
                    parameters: [0; 4],
                    registers: Registers::default(),
                    vector: NO_VECTOR,
                    error_code: 0,
                    irql: 2,
                    text_bytes: 0,
                    text: [0; 512],
                };
                Err(DriverError::Crashed(report(|reporter| {
                    reporter.crashed(&record)
                })))
            }
            0x510 => Err(DriverError::TimedOut(report(|reporter| {
                reporter.hung(Duration::from_secs(1), &Registers::default())
            }))),
            _ => Ok(IoResult {
                status: NtStatus(0xC000_0010),
                information: 0,
                ..done(Vec::new())
            }),
        }
    }

    fn read(&mut self, _: Handle, bytes: u32, _: Option<u64>) -> Result<IoResult, DriverError> {
        Ok(done(vec![0; bytes as usize]))
    }

    fn write(&mut self, _: Handle, data: &[u8], _: Option<u64>) -> Result<IoResult, DriverError> {
        Ok(IoResult {
            information: data.len() as u64,
            ..done(Vec::new())
        })
    }

    fn port_in(&mut self, port: u16, _width: PortWidth) -> Result<u32, DriverError> {
        if self.opened == 0 {
            return Err(DriverError::Status(NtStatus::PRIVILEGED_INSTRUCTION));
        }
        Ok(self.ports.get(&port).copied().unwrap_or(0))
    }

    fn port_out(&mut self, port: u16, _width: PortWidth, value: u32) -> Result<(), DriverError> {
        if self.opened == 0 {
            return Err(DriverError::Status(NtStatus::PRIVILEGED_INSTRUCTION));
        }
        self.ports.insert(port, value);
        Ok(())
    }

    fn stats(&mut self) -> Result<Stats, DriverError> {
        Ok(Stats {
            processes: self.live.load(Ordering::SeqCst),
            ..Stats::default()
        })
    }

    fn devices(&mut self) -> Result<Vec<Device>, DriverError> {
        Ok(vec![Device {
            number: 7,
            instance: r"ROOT\FAKE\0000".into(),
            service: "fake".into(),
            state: self.state.0.into(),
            power: Some(self.state.1.clone()),
            ..Device::default()
        }])
    }

    fn pnp(&mut self, device: u64, step: PnpStep) -> Result<NtStatus, DriverError> {
        assert_eq!(device, 7);
        let state = match (self.state.0, step) {
            ("started", PnpStep::Stop) => "stopped",
            ("stopped", PnpStep::Start) => "started",
            _ => return Ok(NtStatus::INVALID_DEVICE_STATE),
        };
        self.state.0 = state;
        Ok(NtStatus::SUCCESS)
    }

    fn power(&mut self, device: u64, state: PowerState) -> Result<NtStatus, DriverError> {
        assert_eq!(device, 7);
        self.state.1 = state.name();
        Ok(NtStatus::SUCCESS)
    }

    fn models(&mut self) -> Result<Vec<RunningModel>, DriverError> {
        let ram = RunningModel {
            name: None,
            place: "0x300".into(),
            description: "ram (8 registers)".into(),
            inputs: None,
        };
        Ok(vec![
            RunningModel {
                name: Some("joystick".into()),
                place: "0x201".into(),
                description: "gameport".into(),
                inputs: self.joystick.inputs(),
            },
            ram,
        ])
    }

    fn unload(&mut self) -> Result<u64, DriverError> {
        Ok(2)
    }
}

/// Makes [`Fake`] processes.
#[derive(Default)]
pub(crate) struct FakeMachine {
    pub(crate) live: Arc<AtomicU64>,
    pub(crate) is_shut_down: AtomicBool,
    stop_event: Mutex<Option<EventFd>>,
    crashed: AtomicBool,
}

impl FakeMachine {
    /// Crashes without a request, as from a DPC.
    pub(crate) fn crash(&self) {
        self.crashed.store(true, Ordering::SeqCst);
        if let Some(event) = &*self.stop_event.lock().unwrap() {
            event.write(1).unwrap();
        }
    }
}

impl RunningMachine for FakeMachine {
    fn connect(&self) -> Result<Box<dyn RunningDriver>, DriverError> {
        self.live.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Fake {
            opened: 0,
            ports: HashMap::new(),
            live: Arc::clone(&self.live),
            state: ("started", "D0".into()),
            joystick: Gameport::new([0; 4], 0),
            client: Hangup::default(),
        }))
    }

    fn attach(&self, _: &Caller) -> Result<Box<dyn Attachment>, DriverError> {
        Err(DriverError::Status(NtStatus(status::NOT_SUPPORTED)))
    }

    fn notify_stop(&self, event: EventFd) {
        *self.stop_event.lock().unwrap() = Some(event);
    }

    fn stopped(&self) -> Option<DriverError> {
        self.crashed.load(Ordering::SeqCst).then(|| {
            DriverError::Crashed(report(|reporter| {
                reporter.vm_failed("on its own", &Registers::default())
            }))
        })
    }

    fn shutdown(&self) {
        self.is_shut_down.store(true, Ordering::SeqCst);
    }
}
