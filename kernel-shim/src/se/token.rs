//! Tokens: who somebody is, and what they may.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::acl::{self, Ace};
use super::sid::Sid;
use crate::ob::{self, ObjectType};
use crate::raw::{Global, Ptr};
use crate::{ps, shared};

/// Bytes of a token's body: opaque.
const BODY_BYTES: u64 = 0x100;
/// SE_PRIVILEGE_ENABLED_BY_DEFAULT | SE_PRIVILEGE_ENABLED.
const ENABLED: u32 = 3;
/// SE_GROUP_MANDATORY | SE_GROUP_ENABLED_BY_DEFAULT | SE_GROUP_ENABLED.
const GROUP: u32 = 7;
/// SE_GROUP_OWNER.
const GROUP_OWNER: u32 = 8;
/// SE_GROUP_LOGON_ID.
const GROUP_LOGON_ID: u32 = 0xC000_0000;
/// SE_GROUP_INTEGRITY | SE_GROUP_INTEGRITY_ENABLED.
const GROUP_INTEGRITY: u32 = 0x60;
/// SE_GROUP_ENABLED.
pub const GROUP_ENABLED: u32 = 4;
/// SE_GROUP_USE_FOR_DENY_ONLY.
pub const GROUP_DENY_ONLY: u32 = 0x10;
/// TokenPrimary.
pub const PRIMARY: u32 = 1;
/// TokenImpersonation.
pub const IMPERSONATION: u32 = 2;
/// SecurityImpersonation.
pub const LEVEL_IMPERSONATION: u32 = 2;
/// GENERIC_ALL.
const GENERIC_ALL: u32 = 0x1000_0000;
/// READ_CONTROL and the generic read and execute bits.
const GENERIC_READ_EXECUTE: u32 = 0xA002_0000;
/// LUID of the System logon session.
const SYSTEM_LUID: u64 = 0x3E7;
/// LUID of the clients' logon session.
const CLIENT_LUID: u64 = 0x1_2345;

/// Privileges by number.
pub mod privilege {
    /// SeTakeOwnershipPrivilege.
    pub const TAKE_OWNERSHIP: u64 = 9;
    /// SeSecurityPrivilege.
    pub const SECURITY: u64 = 8;
    /// SeRelabelPrivilege.
    pub const RELABEL: u64 = 32;
    /// The first there is: SeCreateTokenPrivilege.
    pub const FIRST: u64 = 2;
    /// The last there is: SeCreateSymbolicLinkPrivilege.
    pub const LAST: u64 = 35;
}

/// What administrators have, by number.
const ADMINISTRATOR_PRIVILEGES: [u64; 23] = [
    5, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 20, 22, 23, 24, 25, 28, 29, 30, 33, 34, 35,
];
/// Of those, enabled: SeChangeNotify, SeImpersonate, SeCreateGlobal.
const ENABLED_PRIVILEGES: [u64; 3] = [23, 29, 30];

/// SIDs that everybody knows.
pub mod well_known {
    use super::Sid;

    /// Everyone.
    #[must_use]
    pub fn world() -> Sid {
        Sid::new(1, &[0])
    }
    /// LocalSystem.
    #[must_use]
    pub fn system() -> Sid {
        Sid::new(5, &[18])
    }
    /// BUILTIN\Administrators.
    #[must_use]
    pub fn administrators() -> Sid {
        Sid::new(5, &[32, 544])
    }
    /// The user of client processes.
    #[must_use]
    pub fn client_user() -> Sid {
        Sid::new(5, &[21, 1000, 2000, 3000, 1000])
    }
}

/// A token.
#[derive(Clone, Debug)]
pub struct Token {
    /// The user.
    pub user: Sid,
    /// Groups and their attributes.
    pub groups: Vec<(Sid, u32)>,
    /// Restricting SIDs; empty: not restricted.
    pub restricted: Vec<(Sid, u32)>,
    /// Privileges and their attributes.
    pub privileges: Vec<(u64, u32)>,
    /// Owner of new objects.
    pub owner: Sid,
    /// Primary group of new objects.
    pub primary_group: Sid,
    /// DACL of new objects, as it is in memory.
    pub default_dacl: Vec<u8>,
    /// [`PRIMARY`] or [`IMPERSONATION`].
    pub kind: u32,
    /// SECURITY_IMPERSONATION_LEVEL.
    pub level: u32,
    /// Terminal session.
    pub session: u32,
    /// LUID of the logon session.
    pub authentication: u64,
    /// LUID of this token.
    pub id: u64,
    /// LUID of its last change.
    pub modified: u64,
    /// TOKEN_SOURCE's name.
    pub source: [u8; 8],
    /// LUID of the source.
    pub source_id: u64,
}

impl Token {
    /// Whether an enabled SID of the token is this one; for a denial also those that are for denials only.
    #[must_use]
    pub fn has_sid(&self, sid: &Sid, is_denial: bool) -> bool {
        let is_active = |attributes: u32| {
            attributes & GROUP_ENABLED != 0 || is_denial && attributes & GROUP_DENY_ONLY != 0
        };
        self.user == *sid
            || self
                .groups
                .iter()
                .any(|(group, attributes)| group == sid && is_active(*attributes))
    }

    /// Whether a privilege is held and enabled.
    #[must_use]
    pub fn has_privilege(&self, luid: u64) -> bool {
        self.privileges
            .iter()
            .any(|&(held, attributes)| held == luid && attributes & 2 != 0)
    }

    /// The integrity level; `None`: the token has no label.
    #[must_use]
    pub fn integrity(&self) -> Option<u32> {
        let is_label = |(_, attributes): &&(Sid, u32)| attributes & 0x20 != 0;
        self.groups.iter().find(is_label)?.0.last()
    }

    /// What a restricted token is judged by a second time: its restricting SIDs alone. `None`: it is not restricted.
    #[must_use]
    pub fn as_restricted(&self) -> Option<Self> {
        let ((user, _), groups) = self.restricted.split_first()?;
        Some(Self {
            user: user.clone(),
            groups: groups
                .iter()
                .map(|(sid, _)| (sid.clone(), GROUP_ENABLED))
                .collect(),
            restricted: Vec::new(),
            ..self.clone()
        })
    }

    /// Whether Administrators is an enabled group.
    #[must_use]
    pub fn is_administrator(&self) -> bool {
        self.has_sid(&well_known::administrators(), false)
    }
}

#[derive(Debug)]
struct Tokens {
    /// By body.
    all: BTreeMap<u64, Token>,
    system: u64,
    client: u64,
    next_luid: u64,
}

static TOKENS: Global<Tokens> = Global::new(
    "tokens",
    Tokens {
        all: BTreeMap::new(),
        system: 0,
        client: 0,
        next_luid: 0,
    },
);

/// A LUID that nobody has.
#[must_use]
pub fn new_luid() -> u64 {
    TOKENS.with(|tokens| {
        tokens.next_luid += 1;
        tokens.next_luid
    })
}

fn allow(mask: u32, sid: Sid) -> Ace {
    Ace {
        kind: acl::ALLOWED,
        flags: 0,
        mask,
        sid,
    }
}

fn system_token() -> Token {
    Token {
        user: well_known::system(),
        groups: alloc::vec![
            (well_known::administrators(), GROUP & !1 | GROUP_OWNER),
            (well_known::world(), GROUP),
            (Sid::new(5, &[11]), GROUP),
            (Sid::new(16, &[16384]), GROUP_INTEGRITY),
        ],
        restricted: Vec::new(),
        privileges: (privilege::FIRST..=privilege::LAST)
            .filter(|luid| *luid != 6)
            .map(|luid| (luid, ENABLED))
            .collect(),
        owner: well_known::administrators(),
        primary_group: well_known::system(),
        default_dacl: acl::build(&[
            allow(GENERIC_ALL, well_known::system()),
            allow(GENERIC_READ_EXECUTE, well_known::administrators()),
        ]),
        kind: PRIMARY,
        level: 0,
        session: 0,
        authentication: SYSTEM_LUID,
        id: 0,
        modified: 0,
        source: *b"*SYSTEM*",
        source_id: 0,
    }
}

fn client_token() -> Token {
    let logon = Sid::new(5, &[5, 0, 0x1_2345]);
    Token {
        user: well_known::client_user(),
        groups: alloc::vec![
            (Sid::new(5, &[21, 1000, 2000, 3000, 513]), GROUP),
            (well_known::world(), GROUP),
            (well_known::administrators(), GROUP | GROUP_OWNER),
            (Sid::new(5, &[32, 545]), GROUP),
            (Sid::new(5, &[4]), GROUP),
            (Sid::new(5, &[11]), GROUP),
            (logon.clone(), GROUP | GROUP_LOGON_ID),
            (Sid::new(2, &[0]), GROUP),
            (Sid::new(16, &[12288]), GROUP_INTEGRITY),
        ],
        restricted: Vec::new(),
        privileges: ADMINISTRATOR_PRIVILEGES
            .iter()
            .map(|&luid| {
                let is_enabled = ENABLED_PRIVILEGES.contains(&luid);
                (luid, if is_enabled { ENABLED } else { 0 })
            })
            .collect(),
        owner: well_known::administrators(),
        primary_group: Sid::new(5, &[21, 1000, 2000, 3000, 513]),
        default_dacl: acl::build(&[
            allow(GENERIC_ALL, well_known::administrators()),
            allow(GENERIC_ALL, well_known::system()),
            allow(GENERIC_READ_EXECUTE, logon),
        ]),
        kind: PRIMARY,
        level: 0,
        session: 1,
        authentication: CLIENT_LUID,
        id: 0,
        modified: 0,
        source: *b"User32 \0",
        source_id: 0,
    }
}

/// Makes a token object with one reference; `None` when the pool is exhausted.
#[must_use]
pub fn create(token: Token) -> Option<u64> {
    let body = ob::create(ObjectType::Token, BODY_BYTES, Some(delete))?;
    let id = new_luid();
    TOKENS.with(|tokens| tokens.all.insert(body, Token { id, ..token }));
    Some(body)
}

fn delete(body: u64) {
    TOKENS.with(|tokens| tokens.all.remove(&body));
}

/// Makes the two primary tokens.
///
/// # Panics
/// When the pool has no room for them.
pub(super) fn initialize() {
    TOKENS.with(|tokens| {
        tokens.all.clear();
        tokens.next_luid = 0x1_0000;
    });
    let system = create(system_token()).expect("a new pool has room for a token");
    let client = create(client_token()).expect("a new pool has room for a token");
    TOKENS.with(|tokens| {
        tokens.system = system;
        tokens.client = client;
    });
}

/// What a token says; `None`: there is no such token.
#[must_use]
pub fn get(token: Ptr<u8>) -> Option<Token> {
    TOKENS.with(|tokens| tokens.all.get(&token.addr()).cloned())
}

/// The primary token of a process, without a reference.
#[must_use]
pub fn of_process(process: Ptr<u8>) -> Ptr<u8> {
    let is_system = ps::id_of(process).is_none_or(|id| id == ps::SYSTEM_ID);
    TOKENS.with(|tokens| {
        Ptr::new(if is_system {
            tokens.system
        } else {
            tokens.client
        })
    })
}

/// The token by which the current thread is judged: the one that it impersonates, or its process's.
#[must_use]
pub fn effective() -> Ptr<u8> {
    super::subject::impersonated(ps::current_thread())
        .map_or_else(|| of_process(ps::current_process()), |client| client.token)
}

/// A copy of a token as another kind; `None`: there is no such token, or no memory.
#[must_use]
pub fn duplicate(token: Ptr<u8>, kind: u32, level: u32, effective_only: bool) -> Option<u64> {
    let mut copy = get(token)?;
    copy.kind = kind;
    copy.level = if kind == PRIMARY { 0 } else { level };
    if effective_only {
        copy.privileges
            .retain(|(_, attributes)| attributes & 2 != 0);
        copy.groups
            .retain(|(_, attributes)| attributes & (GROUP_ENABLED | GROUP_DENY_ONLY | 0x20) != 0);
    }
    create(copy)
}

/// The id of the process that the current request belongs to, as contexts hold it.
#[must_use]
pub fn audit_id() -> u64 {
    u64::from(shared::current_process())
}
