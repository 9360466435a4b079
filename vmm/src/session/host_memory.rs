//! Memory that is handed on by its address: the host's to the guest, the guest's to devices.
#![expect(unsafe_code, reason = "KVM and VFIO take host addresses")]

use super::responder::window_offsets;
use super::start::StartError;
use crate::hardware::{DmaWindow, VfioFunctions};
use crate::machine::{CreateError, PhysicalPiece, Vm, VmBuilder, WindowMemory};
use crate::policy::MemorySpace;

/// Puts the memory behind the policy's rules into the guest's I/O window.
pub(super) fn add_window_memory(
    builder: &mut VmBuilder,
    memory: &MemorySpace,
) -> Result<(), CreateError> {
    for (backing, window_offset) in memory.backings().iter().zip(window_offsets(memory)) {
        let window = WindowMemory {
            host_address: backing.host_address(),
            piece: PhysicalPiece {
                window_offset,
                bytes: backing.bytes(),
            },
            // Page-table entries decide for each rule's part of it.
            is_writable: backing.is_writable,
        };
        // SAFETY: the backing lives as long as the `MemorySpace`, which the responder owns; `Engine` drops its VM
        // before its responder.
        unsafe { builder.add_window_memory(window) }?;
    }
    Ok(())
}

/// Lets devices reach what of the guest's memory is drivers' data. `None`: the policy gives none to the driver.
pub(super) fn open_dma(
    functions: &VfioFunctions,
    vm: &Vm,
) -> Result<Option<DmaWindow>, StartError> {
    let memory = vm
        .dma_memory()
        .map_err(|error| StartError::Create(error.into()))?;
    // SAFETY: guest RAM lives as long as the VM, which `Engine` drops after the window; the VMM accesses it by volatile
    // copies only, since the guest writes it at any time, too.
    unsafe { functions.reach(&memory) }.map_err(StartError::Dma)
}
