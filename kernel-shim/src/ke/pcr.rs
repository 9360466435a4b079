//! The processor control region: the few fields that drivers' code reads through fs (i386) or gs (amd64).

use crate::ps;
use crate::raw::{Ptr, Word, to_word};
use crate::shared;
use abi::layout;

/// Offset of the KPRCB in the KPCR.
const PRCB: u64 = if cfg!(nt_i386) { 0x120 } else { 0x180 };

/// Fills the KPCR.
pub(crate) fn initialize() {
    let pcr = shared::kernel_base() + layout::PCR;
    let word = |offset: u64, value: u64| Ptr::<Word>::new(pcr + offset).write(to_word(value));
    let stack = shared::kernel_base() + layout::STACK;
    if cfg!(nt_i386) {
        word(0x00, u64::MAX); // NtTib.ExceptionList: the end of the chain
        word(0x04, stack + layout::STACK_SIZE); // NtTib.StackBase
        word(0x08, stack); // NtTib.StackLimit
        word(0x1C, pcr); // SelfPcr
        word(0x20, pcr + PRCB); // Prcb
        word(0x124, ps::current_thread().addr()); // PrcbData.CurrentThread
    } else {
        word(0x08, stack + layout::STACK_SIZE); // NtTib.StackBase
        word(0x10, stack); // NtTib.StackLimit
        word(0x18, pcr); // Self
        word(0x20, pcr + PRCB); // CurrentPrcb
        word(0x188, ps::current_thread().addr()); // Prcb.CurrentThread
    }
}
