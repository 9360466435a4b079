//! Socket activation (sd_listen_fds(3)): the listening socket comes from whoever started this process.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use displaydoc::Display;
use listenfd::ListenFd;
use thiserror::Error;

/// The name (FileDescriptorName= of a systemd socket unit) by which one of several sockets is chosen.
pub const SOCKET_NAME: &str = "ringfence";
/// The name of a socket whose file is the run's from now on, as if it had made it.
pub const OWN_SOCKET_NAME: &str = "ringfence-own";

/// A socket that was passed in.
#[derive(Debug)]
pub(super) struct Passed {
    pub(super) listener: UnixListener,
    /// Whether its file is the run's.
    pub(super) is_own: bool,
}

/// Why a socket that was passed in cannot be served.
#[derive(Debug, Display, Error)]
pub enum ActivationError {
    /// {count} sockets were passed in (LISTEN_FDS) and none or several of them are named ringfence: pass one, or name one so (FileDescriptorName=)
    Which {
        /// How many.
        count: usize,
    },
    /// what was passed in (LISTEN_FDS) is no listening Unix stream socket
    Kind(#[source] io::Error),
    /// what was passed in (LISTEN_FDS) is a connection, not a listening Unix stream socket: pass the listening one (systemd: Accept=no)
    NotListening,
    /// --socket {wanted} is not the socket that was passed in (LISTEN_FDS): leave out one of the two
    Another {
        /// The path of `--socket`.
        wanted: String,
    },
}

/// The index of the socket to take.
fn choose(count: usize, names: &str) -> Result<usize, ActivationError> {
    if count == 1 {
        return Ok(0);
    }
    let mut named = names
        .split(':')
        .take(count)
        .enumerate()
        .filter(|(_, name)| [SOCKET_NAME, OWN_SOCKET_NAME].contains(name));
    match (named.next(), named.next()) {
        (Some((index, _)), None) => Ok(index),
        _ => Err(ActivationError::Which { count }),
    }
}

/// Whether a socket that was passed in is the one at a path.
fn is_at(listener: &UnixListener, path: &Path) -> bool {
    let Ok(address) = listener.local_addr() else {
        return false;
    };
    let Some(bound) = address.as_pathname() else {
        return false;
    };
    let file = |path: &Path| {
        let metadata = path.metadata().ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    bound == path || file(bound).is_some_and(|bound| Some(bound) == file(path))
}

/// Looks at a socket that was passed in; `wanted` is the path of `--socket`.
fn check(listener: &UnixListener, wanted: Option<&Path>) -> Result<(), ActivationError> {
    let is_listening = rustix::net::sockopt::socket_acceptconn(listener)
        .map_err(|error| ActivationError::Kind(error.into()))?;
    if !is_listening {
        return Err(ActivationError::NotListening);
    }
    match wanted {
        Some(wanted) if !is_at(listener, wanted) => Err(ActivationError::Another {
            wanted: wanted.display().to_string(),
        }),
        _ => Ok(()),
    }
}

/// Takes the socket that was passed in, if one was. `wanted` is the path of `--socket`. To be called once, before there are
/// threads.
///
/// # Errors
/// See [`ActivationError`].
pub(super) fn take(wanted: Option<&Path>) -> Result<Option<Passed>, ActivationError> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut passed = ListenFd::from_env();
    if passed.len() == 0 {
        return Ok(None);
    }
    let index = choose(passed.len(), &names)?;
    let listener = passed
        .take_unix_listener(index)
        .map_err(ActivationError::Kind)?;
    if let Some(listener) = &listener {
        check(listener, wanted)?;
    }
    let is_own = names.split(':').nth(index) == Some(OWN_SOCKET_NAME);
    Ok(listener.map(|listener| Passed { listener, is_own }))
}

/// The listening socket that another process of the run has handed over to this one as its standard input, which is
/// /dev/null from then on. LISTEN_FDS would not do: it goes with the number of a process that is not there yet.
pub(super) fn from_standard_input() -> io::Result<UnixListener> {
    let listener = rustix::stdio::stdin().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?.as_fd())?;
    Ok(UnixListener::from(listener))
}

/// As [`from_standard_input`], for a socket that was passed in. Its starter has looked at it.
pub(super) fn handed_over(is_own: bool) -> Result<Passed, ActivationError> {
    let listener = from_standard_input().map_err(ActivationError::Kind)?;
    check(&listener, None)?;
    Ok(Passed { listener, is_own })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_listens_where_it_is_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let elsewhere = folder.path().join("other");
        assert!(check(&listener, None).is_ok());
        assert!(check(&listener, Some(&path)).is_ok());
        std::os::unix::fs::symlink(&path, &elsewhere).unwrap();
        assert!(check(&listener, Some(&elsewhere)).is_ok());
        let another = check(&listener, Some(&folder.path().join("none")));
        assert!(matches!(another, Err(ActivationError::Another { .. })));
        let (connection, _) = std::os::unix::net::UnixStream::pair().unwrap();
        let connection = UnixListener::from(std::os::fd::OwnedFd::from(connection));
        let refused = check(&connection, None);
        assert!(matches!(refused, Err(ActivationError::NotListening)));
    }

    #[test]
    fn one_socket_is_it_and_of_several_the_named_one() {
        assert!(matches!(choose(1, ""), Ok(0)));
        assert!(matches!(choose(1, "connection"), Ok(0)));
        assert!(matches!(choose(3, "a:ringfence:b"), Ok(1)));
        assert!(choose(2, "ringfence:ringfence").is_err());
        assert!(matches!(choose(2, "a:ringfence-own"), Ok(1)));
        assert!(choose(2, "ringfence:ringfence-own").is_err());
        assert!(choose(2, "a:b:ringfence").is_err());
        assert!(choose(2, "").is_err());
    }
}
