//! Security: SIDs, ACLs, descriptors, tokens, access checks.
//!
//! There are two users. The System process runs as S-1-5-18 with every privilege enabled. A client process runs as
//! an administrator who is logged on interactively: user S-1-5-21-1000-2000-3000-1000, member of Administrators (which
//! owns what it makes), Users, Everyone, Interactive and Authenticated Users, at high integrity, with the privileges
//! that Windows gives to administrators, of which SeChangeNotify, SeImpersonate and SeCreateGlobal are enabled.

pub mod access;
pub mod ace;
pub mod acl;
pub mod assign;
pub mod condition;
pub mod descriptor;
pub mod exports;
pub mod object;
pub mod share;
pub mod sid;
pub mod subject;
pub mod token;
pub mod token_api;
pub mod token_info;

/// Makes the well-known SIDs, ACLs and tokens.
pub(crate) fn initialize() {
    token::initialize();
    subject::initialize();
    object::initialize();
    exports::initialize();
}
