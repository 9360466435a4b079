//! I/O permission maps, and a process's own port accesses under them.
//!
//! As in NT (ntddk.h never declared them; the semantics are those of design.md): there is one map besides "none",
//! number 1, 8192 bytes in which a set bit denies; a process points at a map or at none. It takes effect for that
//! process's ring-3 port accesses only. The VMM mirrors both in order to answer without entering the guest.

use crate::api::nt_api;
use crate::nt::NtStatus;
use crate::platform::PortAccess;
use crate::raw::{Global, Ptr};
use crate::value::{Boolean, ULong};
use crate::{ps, shared};
use abi::doorbell::Call;
use abi::layout::tss::IOPM_BYTES;

/// Bytes of a map.
pub const BYTES: usize = crate::raw::to_usize(IOPM_BYTES);
/// The highest map number (NT's IOPM_COUNT).
pub const COUNT: u32 = 1;

/// What the platform has loaded for the ring-3 stub.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Loaded {
    Unknown,
    Nothing,
    Map,
}

#[derive(Debug)]
struct Maps {
    map: [u8; BYTES],
    loaded: Loaded,
}

static MAPS: Global<Maps> = Global::new(
    "IOPM",
    Maps {
        map: [0xFF; BYTES],
        loaded: Loaded::Unknown,
    },
);

/// Map 1 denies everything, and no process points at it.
pub(crate) fn initialize() {
    MAPS.with(|maps| {
        maps.map.fill(0xFF);
        maps.loaded = Loaded::Unknown;
    });
}

/// Replaces map 1.
fn set_map(map: Ptr<u8>) {
    let address = MAPS.with(|maps| {
        map.read_bytes(&mut maps.map);
        maps.loaded = Loaded::Unknown;
        Ptr::of(&mut maps.map).addr()
    });
    shared::platform().doorbell(Call::SetIoAccessMap, [1, address, 0, 0, 0, 0]);
}

/// Executes a port access as the process at CPL 3; the value of a read.
///
/// # Errors
/// PRIVILEGED_INSTRUCTION: its IOPM denies it. INVALID_PARAMETER: the width is not 1, 2 or 4.
pub fn process_port(process: u32, access: PortAccess) -> Result<u32, NtStatus> {
    if !matches!(access.width, 1 | 2 | 4) {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    let wanted = if ps::iopm_of(process) == 0 {
        Loaded::Nothing
    } else {
        Loaded::Map
    };
    MAPS.with(|maps| {
        if maps.loaded != wanted {
            shared::platform().set_process_iopm((wanted == Loaded::Map).then_some(&maps.map));
            maps.loaded = wanted;
        }
    });
    shared::platform()
        .user_port(access)
        .map_err(|_| NtStatus::PRIVILEGED_INSTRUCTION)
}

nt_api! { module = ke_iopm;
    /// Copies 8192 bytes (a set bit denies a port) into I/O permission map 1. FALSE for any other number.
    ///
    /// Windows has it for i386 only.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn Ke386SetIoAccessMap(map_number: ULong, io_access_map: Ptr<u8>) -> Boolean {
        if map_number == 0 || map_number > COUNT {
            return false;
        }
        set_map(io_access_map);
        true
    }

    /// Reads I/O permission map 1 back; map 0 reads as all ones. FALSE for any other number.
    ///
    /// Windows has it for i386 only.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn Ke386QueryIoAccessMap(map_number: ULong, io_access_map: Ptr<u8>) -> Boolean {
        match map_number {
            0 => io_access_map.fill(0xFF, IOPM_BYTES),
            1 => MAPS.with(|maps| io_access_map.write_bytes(&maps.map)),
            _ => return false,
        }
        true
    }

    /// Points a process at I/O permission map 1, or at none (0). FALSE for any other number.
    ///
    /// Windows has it for i386 only.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn Ke386IoSetAccessProcess(process: Ptr<u8>, map_number: ULong) -> Boolean {
        if map_number > COUNT {
            return false;
        }
        let Some(id) = ps::id_of(process) else { return false };
        if !ps::set_iopm(id, map_number) {
            return false;
        }
        shared::platform()
            .doorbell(Call::SetProcessIoAccessMap, [u64::from(id), u64::from(map_number), 0, 0, 0, 0]);
        true
    }
}
