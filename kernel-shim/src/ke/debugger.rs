//! The kernel debugger that is not there.

use crate::api::{nt_api, nt_data};
use crate::nt::NtStatus;
use crate::nt::bugcheck::{KMODE_EXCEPTION_NOT_HANDLED, bugcheck_with_text};
use crate::raw::Ptr;
use crate::shared;
use crate::value::{Boolean, NarrowStringPtr, ULong};

nt_data! { module = ke_debugger_data;
    /// Whether a debugger is enabled: no.
    ntoskrnl both data(1, 1) implemented
    KdDebuggerEnabled: u8 = 0;

    /// Whether no debugger is there: yes.
    ntoskrnl both data(1, 1) implemented
    KdDebuggerNotPresent: u8 = 1;
}

nt_api! { module = ke_debugger;
    /// Looks for a debugger; TRUE: there is none.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KdRefreshDebuggerNotPresent() -> Boolean {
        KdDebuggerNotPresent.ptr().write(1);
        true
    }

    /// Disables the debugger: STATUS_DEBUGGER_INACTIVE, there is none.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KdDisableDebugger() -> NtStatus {
        NtStatus::DEBUGGER_INACTIVE
    }

    /// Enables the debugger: STATUS_DEBUGGER_INACTIVE, there is none.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KdEnableDebugger() -> NtStatus {
        NtStatus::DEBUGGER_INACTIVE
    }

    /// Changes an option of the debugger: STATUS_DEBUGGER_INACTIVE, there is none.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn KdChangeOption(
        option: ULong, input_bytes: ULong, input: Ptr<u8>, output_bytes: ULong, output: Ptr<u8>, needed: Ptr<u32>,
    ) -> NtStatus {
        NtStatus::DEBUGGER_INACTIVE
    }

    /// Asks at the debugger: nobody answers, and 0 bytes are stored.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn DbgPrompt(prompt: NarrowStringPtr, response: Ptr<u8>, bytes: ULong) -> ULong {
        if bytes > 0 {
            response.write(0);
        }
        0
    }

    /// Breaks into the debugger with a status: without one, as here, a bugcheck, as DbgBreakPoint.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn DbgBreakPointWithStatus(status: ULong) {
        bugcheck_with_text(
            KMODE_EXCEPTION_NOT_HANDLED,
            [NtStatus::BREAKPOINT.0.into(), shared::caller(), status.into(), 0],
            format_args!("the driver called DbgBreakPointWithStatus({status:#x}), and there is no debugger"),
        )
    }
}
