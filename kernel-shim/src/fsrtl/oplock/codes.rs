//! Numbers of the oplock protocol.

pub(super) const READ: u32 = 1;
pub(super) const HANDLE: u32 = 2;
pub(super) const WRITE: u32 = 4;
/// OPLOCK_FLAG_COMPLETE_IF_OPLOCKED.
pub(super) const COMPLETE_IF_OPLOCKED: u32 = 1;
/// OPLOCK_FLAG_OPLOCK_KEY_CHECK_ONLY.
pub(super) const KEY_CHECK_ONLY: u32 = 2;
/// OPLOCK_FLAG_BACK_OUT_ATOMIC_OPLOCK.
pub(super) const BACK_OUT_ATOMIC_OPLOCK: u32 = 4;
/// OPLOCK_FLAG_IGNORE_OPLOCK_KEYS.
pub(super) const IGNORE_OPLOCK_KEYS: u32 = 8;
/// OPLOCK_FLAG_PARENT_OBJECT.
pub(super) const PARENT_OBJECT: u32 = 0x10;
/// OPLOCK_FSCTRL_FLAG_ALL_KEYS_MATCH.
pub(super) const ALL_KEYS_MATCH: u32 = 1;
/// FILE_OPEN_REQUIRING_OPLOCK, of a create's options.
pub(super) const CREATE_REQUIRING_OPLOCK: u32 = 0x1_0000;
/// FILE_COMPLETE_IF_OPLOCKED, of a create's options.
pub(super) const CREATE_COMPLETE_IF_OPLOCKED: u32 = 0x100;
/// What a broken oplock of the old kinds becomes (IoStatus.Information).
pub(super) const BROKEN_TO_LEVEL_2: u64 = 7;
pub(super) const BROKEN_TO_NONE: u64 = 8;

pub(super) const FSCTL_REQUEST_LEVEL_1: u32 = 0x9_0000;
pub(super) const FSCTL_REQUEST_LEVEL_2: u32 = 0x9_0004;
pub(super) const FSCTL_REQUEST_BATCH: u32 = 0x9_0008;
pub(super) const FSCTL_ACKNOWLEDGE: u32 = 0x9_000C;
pub(super) const FSCTL_ACK_CLOSE_PENDING: u32 = 0x9_0010;
pub(super) const FSCTL_BREAK_NOTIFY: u32 = 0x9_0014;
pub(super) const FSCTL_ACK_NO_2: u32 = 0x9_0050;
pub(super) const FSCTL_REQUEST_FILTER: u32 = 0x9_005C;
pub(super) const FSCTL_REQUEST_OPLOCK: u32 = 0x9_0240;
