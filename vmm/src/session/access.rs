//! Who may use a driver's socket: SO_PEERCRED and SO_PEERGROUPS against the policy's `[clients]`.
#![expect(unsafe_code, reason = "SO_PEERGROUPS has no safe wrapper")]

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use crate::policy::clients::{Clients, SOCKET_MODE_DEFAULT, UnknownName};

/// Most groups of a process (NGROUPS_MAX of Linux).
const GROUPS_MAX: usize = 65_536;

/// Linux's asm-generic/socket.h.
const SO_PEERGROUPS: libc::c_int = 59;

/// Who may connect besides root and the user who runs the VMM, and the socket's permissions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    users: Vec<u32>,
    groups: Vec<u32>,
    mode: u32,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            users: Vec::new(),
            groups: Vec::new(),
            mode: SOCKET_MODE_DEFAULT,
        }
    }
}

/// Who a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Peer {
    user: u32,
    group: u32,
    process: i32,
}

impl Access {
    /// What a policy says, with its names looked up on this machine.
    ///
    /// # Errors
    /// A name that this machine does not have.
    pub fn new(clients: &Clients) -> Result<Self, UnknownName> {
        let ids = clients.ids()?;
        Ok(Self {
            users: ids.users,
            groups: ids.groups,
            mode: clients.socket_mode,
        })
    }

    /// The socket's permission bits.
    #[must_use]
    pub fn mode(&self) -> u32 {
        self.mode
    }

    /// The group that the socket is to have, if its mode lets a group in: the first that may connect.
    #[must_use]
    pub fn socket_group(&self) -> Option<u32> {
        let lets_group_in = self.mode & 0o060 != 0;
        self.groups.first().copied().filter(|_| lets_group_in)
    }

    /// Whether a peer may connect; why it may not.
    pub(super) fn check(&self, socket: &UnixStream) -> Result<(), String> {
        let Ok(credentials) = rustix::net::sockopt::socket_peercred(socket) else {
            return Err("the kernel does not say who it is".to_owned());
        };
        let peer = Peer {
            user: credentials.uid.as_raw(),
            group: credentials.gid.as_raw(),
            process: credentials.pid.as_raw_nonzero().get(),
        };
        let own = rustix::process::geteuid().as_raw();
        if self.allows_peer(peer, own, || peer_groups(socket)) {
            return Ok(());
        }
        Err(format!(
            "process {} of user {}, group {}; the policy's [clients] names neither",
            peer.process, peer.user, peer.group
        ))
    }

    fn allows_peer(&self, peer: Peer, own: u32, groups: impl FnOnce() -> Vec<u32>) -> bool {
        if peer.user == 0 || peer.user == own || self.users.contains(&peer.user) {
            return true;
        }
        self.groups.contains(&peer.group)
            || !self.groups.is_empty() && groups().iter().any(|group| self.groups.contains(group))
    }
}

/// The supplementary groups that a peer had when it connected (SO_PEERGROUPS, Linux 4.13); none if the kernel does not
/// say.
fn peer_groups(socket: &UnixStream) -> Vec<u32> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let size = groups.len() * size_of::<libc::gid_t>();
        let Ok(mut bytes) = libc::socklen_t::try_from(size) else {
            return Vec::new();
        };
        // SAFETY: the buffer has `bytes` bytes that may be written, and the descriptor is the socket's.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let needed = usize::try_from(bytes).unwrap_or(0) / size_of::<libc::gid_t>();
        if result == 0 {
            groups.truncate(needed);
            return groups;
        }
        let error = std::io::Error::last_os_error();
        let is_short = error.raw_os_error() == Some(libc::ERANGE);
        if !is_short || needed <= groups.len() || needed > GROUPS_MAX {
            tracing::debug!("a client's groups are not known: {error}");
            return Vec::new();
        }
        groups.resize(needed, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(user: u32, group: u32) -> Peer {
        Peer {
            user,
            group,
            process: 1,
        }
    }

    fn access() -> Access {
        Access {
            users: vec![1001],
            groups: vec![50],
            mode: 0o660,
        }
    }

    #[test]
    fn only_root_and_the_owner_may_connect_by_default() {
        let access = Access::default();
        let none = || panic!("groups do not matter");
        assert!(access.allows_peer(peer(0, 0), 1000, none));
        assert!(access.allows_peer(peer(1000, 1000), 1000, none));
        assert!(!access.allows_peer(peer(1001, 0), 1000, none));
        assert_eq!((access.mode(), access.socket_group()), (0o600, None));
    }

    #[test]
    fn named_users_and_groups_may_connect() {
        let access = access();
        assert!(access.allows_peer(peer(1001, 7), 1000, Vec::new));
        assert!(access.allows_peer(peer(1002, 50), 1000, Vec::new));
        assert!(access.allows_peer(peer(1002, 7), 1000, || vec![8, 50]));
        assert!(!access.allows_peer(peer(1002, 7), 1000, || vec![8, 51]));
        assert_eq!(access.socket_group(), Some(50));
    }

    #[test]
    fn groups_of_this_process_are_those_of_its_sockets() {
        let (one, _other) = UnixStream::pair().unwrap();
        let mut of_socket = peer_groups(&one);
        let mut own: Vec<u32> = rustix::process::getgroups()
            .unwrap()
            .into_iter()
            .map(rustix::process::Gid::as_raw)
            .collect();
        of_socket.sort_unstable();
        own.sort_unstable();
        assert_eq!(of_socket, own);
        assert_eq!(Access::default().check(&one), Ok(()));
    }
}
