//! The processor control region: the few fields that drivers' code reads through fs (i386) or gs (amd64).

use crate::nt::KTHREAD;
use crate::raw::{Ptr, Word, to_word};
use crate::shared;
use abi::layout;

/// Offset of the KPRCB in the KPCR.
const PRCB: u64 = if cfg!(nt_i386) { 0x120 } else { 0x180 };

fn at(offset: u64) -> Ptr<Word> {
    Ptr::new(shared::kernel_base() + layout::PCR + offset)
}

/// Fills the KPCR.
pub(crate) fn initialize() {
    let pcr = shared::kernel_base() + layout::PCR;
    let word = |offset: u64, value: u64| at(offset).write(to_word(value));
    if cfg!(nt_i386) {
        word(0x00, u64::MAX); // NtTib.ExceptionList: the end of the chain
        word(0x1C, pcr); // SelfPcr
        word(0x20, pcr + PRCB); // Prcb
    } else {
        word(0x18, pcr); // Self
        word(0x20, pcr + PRCB); // CurrentPrcb
    }
}

/// NtTib.ExceptionList of an i386 thread: its chain of exception handlers.
pub(crate) fn exception_list() -> u32 {
    if cfg!(nt_i386) {
        at(0).cast::<u32>().read()
    } else {
        0
    }
}

/// The fields that belong to the running thread.
pub(crate) fn set_thread(thread: Ptr<KTHREAD>, top: Word, limit: Word, exception_list: u32) {
    if cfg!(nt_i386) {
        at(0x00).cast::<u32>().write(exception_list);
        at(0x04).write(top); // NtTib.StackBase
        at(0x08).write(limit); // NtTib.StackLimit
        at(0x124).write(thread.word()); // PrcbData.CurrentThread
    } else {
        at(0x08).write(top); // NtTib.StackBase
        at(0x10).write(limit); // NtTib.StackLimit
        at(0x188).write(thread.word()); // Prcb.CurrentThread
    }
}
