//! `--detach`: starts the run as a process of its own, and returns when its driver answers.
//!
//! Until then that process writes to this one's standard output and error, so what goes wrong at the start is seen where it
//! was started; and it is told to end if this one is ended.

use std::io;
use std::os::fd::AsRawFd;
use std::process::Stdio;

use rustix::process::Signal;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::again::Again;
use super::directory::RunDirectory;
use super::log_file;
use super::notify::{self, Listener};
use super::process::ProcessId;
use super::restart::End;
use crate::session::exit_code::ExitCode;

/// In the process that the user has started.
pub(super) fn launch(directory: &RunDirectory) -> io::Result<ExitCode> {
    let path = directory
        .path()
        .join(format!(".start-{}", std::process::id()));
    let listener = Listener::bind(path)?;
    let mut child = Again::new()?
        .detached(listener.path())
        .stdin(Stdio::null())
        .spawn()?;
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

/// In a process that stays behind, when the driver answers. A supervised one goes on to end with its supervisor.
pub(super) fn leave(is_supervised: bool) -> io::Result<()> {
    log_file::redirect()?;
    if !is_supervised {
        rustix::process::set_parent_process_death_signal(None)?;
    }
    Ok(())
}

/// In the process that stays behind, when whoever started it has been told: nobody is there to be told more.
pub(super) fn forget_starter() {
    notify::end();
}
