//! Getting a connection to a model: starting its program, finding its socket.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::link::Lost;
use crate::policy::ExternalSpec;

/// How long a model may take to be there at the start.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(20);

/// A model that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ExternalError {
    /// Its program cannot be started.
    #[error("cannot start {program}")]
    Program {
        /// The command's first word.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// Its socket cannot be made or connected to.
    #[error("cannot connect to the model at {path}")]
    Socket {
        /// The socket.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// What is there is no model, or has gone again.
    #[error("no model: {0}")]
    Model(Lost),
}

// Its text has the other one's, which is no source then.
impl From<Lost> for ExternalError {
    fn from(lost: Lost) -> Self {
        Self::Model(lost)
    }
}

/// A socket without a path, as messages name it.
const STANDARD_INPUT: &str = "its standard input";

/// Starts the program, if there is one, and connects.
pub(super) fn start(spec: &ExternalSpec) -> Result<(OwnedFd, Option<Child>), ExternalError> {
    let failed = |path: &str| {
        let path = path.to_owned();
        move |source| ExternalError::Socket { path, source }
    };
    match &spec.socket {
        None => {
            let (ours, theirs) = UnixStream::pair().map_err(failed(STANDARD_INPUT))?;
            let theirs = OwnedFd::from(theirs);
            let child = spec
                .command
                .as_deref()
                .map(|words| spawn(words, Stdio::from(theirs)))
                .transpose()?;
            Ok((ours.into(), child))
        }
        Some(path) => {
            let mut child = spec
                .command
                .as_deref()
                .map(|words| spawn(words, Stdio::null()))
                .transpose()?;
            let start = Instant::now();
            loop {
                let error = match connect(path) {
                    Ok(socket) => return Ok((socket, child)),
                    Err(error) => error,
                };
                let is_over = child
                    .as_mut()
                    .is_some_and(|child| matches!(child.try_wait(), Ok(Some(_))));
                if is_over || start.elapsed() > PATIENCE {
                    if let Some(mut child) = child {
                        // It may have ended by itself.
                        let _ = child.kill().is_ok();
                        let _ = child.wait().is_ok();
                    }
                    return Err(failed(&path.display().to_string())(error));
                }
                std::thread::sleep(LOOK);
            }
        }
    }
}

/// Connects without waiting: a model with a queue of others at its door is not there.
pub(super) fn connect(path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

fn spawn(words: &[String], input: Stdio) -> Result<Child, ExternalError> {
    let (program, arguments) = words.split_first().ok_or_else(|| ExternalError::Program {
        program: String::new(),
        source: io::ErrorKind::InvalidInput.into(),
    })?;
    let failed = |source| ExternalError::Program {
        program: program.clone(),
        source,
    };
    // Standard output is the run's results.
    let log = io::stderr().as_fd().try_clone_to_owned().map_err(failed)?;
    Command::new(program)
        .args(arguments)
        .stdin(input)
        .stdout(Stdio::from(log))
        // An interrupt from the terminal ends the run, which then ends its models; it is no crash of theirs.
        .process_group(0)
        .spawn()
        .map_err(failed)
}
