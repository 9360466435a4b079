//! Import stubs: the few bytes of code that a driver's imports are bound to.
//!
//! There is one for each export of the table, in its order, then [`MAX_UNBOUND`] for imports that are not in it.

use abi::header::ImageHeader;
use abi::layout::{self, selector};
use abi::{DriverAbi, Privilege};
use kernel_shim::export::ExportKind;

use super::convert::to_usize;
use super::plan::PlanError;

/// Import stubs for imports that are not in the table.
pub(super) const MAX_UNBOUND: usize = 512;

const STUB_BYTES: usize = to_usize(layout::STUB_BYTES);
/// A stub's code; `int 3` behind it.
type Stub = [u8; STUB_BYTES];

/// What a stub leads to.
#[derive(Clone, Copy)]
enum Target {
    /// An export, by the address of its amd64 entry point.
    Export(u64),
    /// An import that is not in the table, by its number.
    Unbound(u32),
}

/// Guest-virtual address of stub `index` in a kernel space at `kernel_base`.
pub(super) fn address(kernel_base: u64, index: usize) -> u64 {
    layout::stub_address(kernel_base, index as u64)
}

/// The code of all stubs; `exports` are the addresses of the exports' entry points.
///
/// # Errors
/// [`PlanError::ThunkAddress`].
pub(super) fn code(
    abi: DriverAbi,
    privilege: Privilege,
    exports: &[u64],
    header: &ImageHeader,
) -> Result<Vec<u8>, PlanError> {
    let import_thunk = thunk(header.import_thunk)?;
    let unbound_thunk = thunk(header.unbound_thunk)?;
    let selector = match privilege {
        Privilege::Ring0 => selector::KERNEL_CODE64,
        Privilege::Ring3 => selector::USER_CODE64,
    };
    let bound = exports.iter().copied().map(Target::Export);
    let unbound = (0..).map(Target::Unbound).take(MAX_UNBOUND);
    let mut code = Vec::with_capacity((exports.len() + MAX_UNBOUND) * STUB_BYTES);
    for (index, target) in (0..).zip(bound.chain(unbound)) {
        let stub = match (abi, target) {
            (DriverAbi::I386, Target::Export(entry)) if is_code(index, entry) => {
                let stub = address(
                    layout::kernel_base(abi, privilege),
                    to_usize(u64::from(index)),
                );
                i386_jump_stub(stub, entry)
            }
            (DriverAbi::I386, _) => i386_stub(index, selector, import_thunk),
            (DriverAbi::Amd64, Target::Export(entry)) => jump_stub(entry),
            (DriverAbi::Amd64, Target::Unbound(number)) => unbound_stub(number, unbound_thunk),
        };
        code.extend_from_slice(&stub);
    }
    Ok(code)
}

/// A thunk's address as stubs hold it: the shim is linked below 4 GiB.
fn thunk(address: u64) -> Result<u32, PlanError> {
    u32::try_from(address).map_err(|_| PlanError::ThunkAddress(address))
}

/// Whether an i386 export has 32-bit code of its own, which is not dispatched.
fn is_code(index: u32, entry: u64) -> bool {
    let export = kernel_shim::table::EXPORTS.get(to_usize(u64::from(index)));
    entry != 0 && export.is_some_and(|export| matches!(export.kind, ExportKind::Function { .. }))
}

/// A stub of these pieces.
fn stub<const PIECES: usize>(pieces: [&[u8]; PIECES]) -> Stub {
    let mut code = [0xCC; STUB_BYTES];
    let bytes = pieces.into_iter().flatten();
    for (place, byte) in code.iter_mut().zip(bytes) {
        *place = *byte;
    }
    code
}

/// `jmp entry`, which leaves all registers alone; `stub` is the stub's own address.
fn i386_jump_stub(address: u64, entry: u64) -> Stub {
    let distance = entry.wrapping_sub(address + 5).to_le_bytes();
    stub([&[0xE9], &distance[..4]])
}

/// `mov eax, index` / `jmp far selector:thunk`.
fn i386_stub(index: u32, selector: u16, thunk: u32) -> Stub {
    stub([
        &[0xB8],
        &index.to_le_bytes(),
        &[0xEA],
        &thunk.to_le_bytes(),
        &selector.to_le_bytes(),
    ])
}

/// `mov r11, target` / `jmp r11`: R11 is volatile in Microsoft's x64 convention.
fn jump_stub(target: u64) -> Stub {
    stub([&[0x49, 0xBB], &target.to_le_bytes(), &[0x41, 0xFF, 0xE3]])
}

/// `mov eax, number` / `mov r11d, thunk` / `jmp r11`.
fn unbound_stub(number: u32, thunk: u32) -> Stub {
    stub([
        &[0xB8],
        &number.to_le_bytes(),
        &[0x41, 0xBB],
        &thunk.to_le_bytes(),
        &[0x41, 0xFF, 0xE3],
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_reach_code_on_either_side() {
        assert_eq!(
            i386_jump_stub(0x8100_0010, 0x8010_0000)[..6],
            [0xE9, 0xEB, 0xFF, 0x0F, 0xFF, 0xCC]
        );
        assert_eq!(
            i386_jump_stub(0x1000, 0x2005)[..6],
            [0xE9, 0, 0x10, 0, 0, 0xCC]
        );
    }

    #[test]
    fn only_functions_with_an_entry_are_code_on_i386() {
        let number = |name| kernel_shim::table::find(name).unwrap();
        assert!(is_code(number("_allshl"), 0x8010_0000));
        assert!(!is_code(number("_allshl"), 0));
        assert!(!is_code(number("KeTickCount"), 0x8010_0000));
    }
}
