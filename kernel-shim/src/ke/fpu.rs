//! Saving the floating-point state around a driver's own floating-point code.

use crate::api::nt_api;
use crate::ex::pool;
use crate::nt::NtStatus;
use crate::nt::bugcheck::{INVALID_FLOATING_POINT_STATE, bugcheck_with_text};
use crate::ps;
use crate::raw::{Ptr, Word, fpu, from_word, to_word};
use crate::shared;
use crate::value::ULongLong;

const TAG: u32 = u32::from_le_bytes(*b"NpxS");
/// What lies in front of the saved state: so many bytes that the state keeps its alignment.
const HEADER_BYTES: u64 = 64;

/// In front of a saved state.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Header {
    irql: u32,
    thread: Word,
}

/// The header in a block of pool memory, on a boundary that the saved state needs.
fn header_in(block: Ptr<u8>) -> Ptr<Header> {
    Ptr::new(block.addr().next_multiple_of(16))
}

fn area_of(header: Ptr<Header>) -> Ptr<u8> {
    header.cast::<u8>().add_bytes(HEADER_BYTES)
}

/// Saves the state in a block of pool memory; `None` when there is none.
fn save() -> Option<Ptr<u8>> {
    let block = pool::allocate_zeroed(HEADER_BYTES + fpu::STATE_BYTES + 16, TAG.to_le_bytes())?;
    let header = header_in(block);
    header.write(Header {
        irql: shared::irql().into(),
        thread: ps::current_thread().word(),
    });
    fpu::save(area_of(header));
    Some(block)
}

fn restore(block: Ptr<u8>) {
    let irql = shared::irql();
    let invalid = |what: u64, text: &str| -> ! {
        bugcheck_with_text(
            INVALID_FLOATING_POINT_STATE,
            [what, block.addr(), irql.into(), 0],
            format_args!("a floating-point state is restored {text}"),
        )
    };
    if pool::block_at(block.addr()).is_none_or(|block| block.tag != TAG) {
        invalid(0, "that was not saved");
    }
    let header = header_in(block);
    if header.read().irql != u32::from(irql) {
        invalid(1, "at another IRQL than it was saved at");
    }
    if header.read().thread != ps::current_thread().word() {
        invalid(2, "by another thread than saved it");
    }
    fpu::restore(area_of(header));
    pool::free(block, TAG);
}

/// Where KFLOATING_SAVE (i386; amd64's WDK has a macro) and XSTATE_SAVE keep the state's address: their first word.
fn slot(save: Ptr<u8>) -> Ptr<Word> {
    save.cast()
}

nt_api! { module = ke_fpu;
    /// Saves the floating-point state, so that the driver may use floating point.
    ntoskrnl i386 stdcall irql(DISPATCH_LEVEL) implemented
    fn KeSaveFloatingPointState(save_area: Ptr<u8>) -> NtStatus {
        let Some(area) = save() else { return NtStatus::INSUFFICIENT_RESOURCES };
        slot(save_area).write(area.word());
        NtStatus::SUCCESS
    }

    /// Restores what KeSaveFloatingPointState saved, at the same IRQL and in the same thread.
    ntoskrnl i386 stdcall irql(DISPATCH_LEVEL) implemented
    fn KeRestoreFloatingPointState(save_area: Ptr<u8>) -> NtStatus {
        restore(Ptr::new(from_word(slot(save_area).read())));
        slot(save_area).write(to_word(0));
        NtStatus::SUCCESS
    }

    /// Saves the extended processor state that a mask names, so that the driver may use it.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) partial("x87 and SSE only; AVX is STATUS_NOT_IMPLEMENTED")
    fn KeSaveExtendedProcessorState(mask: ULongLong, save_area: Ptr<u8>) -> NtStatus {
        if mask & !3 != 0 {
            return NtStatus::NOT_IMPLEMENTED;
        }
        let Some(area) = save() else { return NtStatus::INSUFFICIENT_RESOURCES };
        slot(save_area).write(area.word());
        NtStatus::SUCCESS
    }

    /// Restores what KeSaveExtendedProcessorState saved, at the same IRQL and in the same thread.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn KeRestoreExtendedProcessorState(save_area: Ptr<u8>) {
        restore(Ptr::new(from_word(slot(save_area).read())));
        slot(save_area).write(to_word(0));
    }
}
