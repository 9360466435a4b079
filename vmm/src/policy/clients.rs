//! Who may connect to the driver's socket.

use displaydoc::Display;
use thiserror::Error;

/// The socket's permission bits unless the policy says otherwise.
pub const SOCKET_MODE_DEFAULT: u32 = 0o600;

/// The `[clients]` table. Root and the user who runs the VMM may always connect; these may too.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Clients {
    /// Users, by name or number.
    pub users: Vec<String>,
    /// Groups, by name or number: whoever has one of them, as primary or supplementary group.
    pub groups: Vec<String>,
    /// The socket's permission bits.
    pub socket_mode: u32,
}

impl Default for Clients {
    fn default() -> Self {
        Self {
            users: Vec::new(),
            groups: Vec::new(),
            socket_mode: SOCKET_MODE_DEFAULT,
        }
    }
}

/// A name of the policy that this machine does not have.
#[derive(Clone, PartialEq, Eq, Debug, Display, Error)]
pub enum UnknownName {
    /// `[clients]`: this machine has no user `{0}`; create it, or name another in `users`
    User(String),
    /// `[clients]`: this machine has no group `{0}`; create it, or name another in `groups`
    Group(String),
}

/// The numbers of the users and groups.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClientIds {
    /// User ids.
    pub users: Vec<u32>,
    /// Group ids, in the policy's order.
    pub groups: Vec<u32>,
}

impl Clients {
    /// Looks the names up on this machine.
    ///
    /// # Errors
    /// The first that it does not have. A number need not exist.
    pub fn ids(&self) -> Result<ClientIds, UnknownName> {
        let user = |name: &String| {
            let found = || uzers::get_user_by_name(name).map(|user| user.uid());
            let id = name.parse().ok().or_else(found);
            id.ok_or_else(|| UnknownName::User(name.clone()))
        };
        let group = |name: &String| {
            let found = || uzers::get_group_by_name(name).map(|group| group.gid());
            let id = name.parse().ok().or_else(found);
            id.ok_or_else(|| UnknownName::Group(name.clone()))
        };
        Ok(ClientIds {
            users: self.users.iter().map(user).collect::<Result<_, _>>()?,
            groups: self.groups.iter().map(group).collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Policy, PolicyError};
    use super::*;

    fn clients(text: &str) -> Clients {
        Policy::from_str("p", text).unwrap().clients().clone()
    }

    fn mistake(text: &str) -> String {
        let Err(PolicyError::Invalid(found)) = Policy::from_str("p", text) else {
            panic!("{text} was accepted");
        };
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].message.clone()
    }

    #[test]
    fn nobody_else_may_connect_unless_the_policy_says_so() {
        assert_eq!(clients(""), Clients::default());
        assert_eq!(clients("[clients]\n"), Clients::default());
        assert_eq!(
            clients(
                "[clients]\nusers = [\"daemon\", \"1000\"]\ngroups = [\"lp\"]\nsocket-mode = \"0660\"\n"
            ),
            Clients {
                users: vec!["daemon".to_owned(), "1000".to_owned()],
                groups: vec!["lp".to_owned()],
                socket_mode: 0o660,
            }
        );
    }

    #[test]
    fn names_become_numbers_and_unknown_ones_are_told() {
        let known = Clients {
            users: vec!["root".to_owned(), "4294967294".to_owned()],
            groups: vec!["root".to_owned(), "7".to_owned()],
            ..Clients::default()
        };
        let ids = ClientIds {
            users: vec![0, 4_294_967_294],
            groups: vec![0, 7],
        };
        assert_eq!(known.ids(), Ok(ids));
        let unknown = "no-such-name-here".to_owned();
        let user = Clients {
            users: vec![unknown.clone()],
            ..Clients::default()
        };
        assert_eq!(user.ids(), Err(UnknownName::User(unknown.clone())));
        let group = Clients {
            groups: vec![unknown.clone()],
            ..Clients::default()
        };
        assert_eq!(group.ids(), Err(UnknownName::Group(unknown)));
    }

    #[test]
    fn what_is_no_name_or_mode_is_refused() {
        for (text, message) in [
            (
                "[clients]\nusers = \"root\"\n",
                "`users` is a string, not a list",
            ),
            ("[clients]\nusers = [1000]\n", "this is no name"),
            ("[clients]\ngroups = [\"a b\"]\n", "this is no name"),
            ("[clients]\ngroups = [\"99999999999\"]\n", "this is no name"),
            (
                "[clients]\nsocket-mode = \"0680\"\n",
                "`socket-mode` cannot be \"0680\"",
            ),
            (
                "[clients]\nsocket-mode = \"1777\"\n",
                "`socket-mode` cannot be \"1777\"",
            ),
            (
                "[clients]\nmode = \"0600\"\n",
                "[clients] has no key `mode`",
            ),
        ] {
            assert!(
                mistake(text).starts_with(message),
                "{text}: {}",
                mistake(text)
            );
        }
    }
}
