//! `--detach`: starts the run as a process of its own, and returns when its driver answers.
//!
//! Until then that process writes to this one's standard output and error, so what goes wrong at the start is seen where it
//! was started; and it is told to end if this one is ended.
//!
//! A service manager that has started this one (NOTIFY_SOCKET) is told by it that the driver is ready and which process is
//! the service's now: it may take that from the service's main process alone. From then on the run tells it everything itself.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::process::Signal;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::activation::Passed;
use super::again::Again;
use super::directory::RunDirectory;
use super::log_file;
use super::notify::{self, Listener};
use super::process::ProcessId;
use super::restart::End;
use crate::session::exit_code::ExitCode;

/// How long a process that stays behind waits for its starter to have told the service manager of it, in ms.
const PATIENCE: i32 = 1000;

/// In the process that the user has started.
pub(super) fn launch(directory: &RunDirectory, passed: Option<Passed>) -> io::Result<ExitCode> {
    let path = directory
        .path()
        .join(format!(".start-{}", std::process::id()));
    let listener = Listener::bind(path)?;
    let mut child = Again::new()?.detached(listener.path(), passed).spawn()?;
    let process = ProcessId::of(child.id())?;
    let epoll = Epoll::new()?;
    let wanted = EpollEvent::new(EventSet::IN, 0);
    epoll.ctl(ControlOperation::Add, listener.as_raw_fd(), wanted)?;
    // One that has ended already has nothing to wait for.
    let descriptor = process.open()?;
    if let Some(descriptor) = &descriptor {
        epoll.ctl(ControlOperation::Add, descriptor.as_raw_fd(), wanted)?;
    }
    loop {
        if listener.heard()?.is_ready {
            notify::ready_as(process.pid);
            return Ok(ExitCode::Success);
        }
        if let Some(status) = child.try_wait()? {
            let end = End::of(status);
            if let End::Signal(signal) = end {
                tracing::error!("the run was ended by signal {signal}");
            }
            return Ok(end.exit_code());
        }
        let mut events = [EpollEvent::default(); 2];
        match epoll.wait(-1, &mut events) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
    }
}

/// In the process that stays behind, at its start.
pub(super) fn begin() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
    // Away from the terminal, and from the signals of its keys.
    rustix::process::setsid()?;
    Ok(())
}

/// The process that has started the one that stays behind.
#[derive(Debug)]
pub(super) struct Starter {
    /// Known only if it has a service manager to tell.
    descriptor: Option<OwnedFd>,
}

/// In a process that stays behind, when the driver answers. A supervised one goes on to end with its supervisor.
pub(super) fn leave(is_supervised: bool) -> io::Result<Starter> {
    log_file::redirect()?;
    if is_supervised {
        return Ok(Starter { descriptor: None });
    }
    rustix::process::set_parent_process_death_signal(None)?;
    let descriptor = if notify::has_manager() {
        ProcessId::of(std::os::unix::process::parent_id())?.open()?
    } else {
        None
    };
    Ok(Starter { descriptor })
}

impl Starter {
    /// In the process that stays behind, when the starter has been told: whatever there is to tell later is for the
    /// service manager, if there is one.
    pub(super) fn forget(self) {
        if let Some(descriptor) = self.descriptor
            && let Err(error) = wait_for_end(&descriptor)
        {
            tracing::warn!("what comes next may be too early for the service manager: {error}");
        }
        notify::leave_starter();
    }
}

/// Waits for the end of a process, by which it has told the service manager of this one: before, the manager takes nothing
/// from it.
fn wait_for_end(process: &OwnedFd) -> io::Result<()> {
    let epoll = Epoll::new()?;
    let wanted = EpollEvent::new(EventSet::IN, 0);
    epoll.ctl(ControlOperation::Add, process.as_raw_fd(), wanted)?;
    epoll.wait(PATIENCE, &mut [EpollEvent::default()])?;
    Ok(())
}
