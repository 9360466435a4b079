//! The exports: raising, contexts, unwinding, and the handlers that compilers' code names.

use super::{arch, raise, raise_status};
use crate::api::nt_api;
use crate::dispatch::missing_export;
use crate::nt::{
    CONTEXT, DISPATCHER_CONTEXT, EXCEPTION_RECORD, NtStatus, RUNTIME_FUNCTION, Registration,
};
use crate::raw::{Ptr, Word, low16, low32, to_usize, to_word};
use crate::shared::{self, CallSite};
use crate::value::{Long, NoReturn, Size, ULong, ULongLong, UShort};

/// What an export of the other ABI's does: no driver of this one can be bound to it.
macro_rules! of_amd64 {
    ($name:literal, $body:expr) => {{
        #[cfg(nt_i386)]
        {
            missing_export($name)
        }
        #[cfg(not(nt_i386))]
        {
            $body
        }
    }};
}
macro_rules! of_i386 {
    ($name:literal, $body:expr) => {{
        #[cfg(not(nt_i386))]
        {
            missing_export($name)
        }
        #[cfg(nt_i386)]
        {
            $body
        }
    }};
}

fn stop_after_raise(status: NtStatus) -> ! {
    raise_status(status, &[])
}

/// Hash of return addresses, as RtlCaptureStackBackTrace gives it: their sum.
fn store_back_trace(addresses: &[u64], to: Ptr<Word>, hash: Ptr<ULong>) -> UShort {
    let mut sum = 0_u32;
    for (index, &address) in (0..).zip(addresses) {
        to.offset(index).write(to_word(address));
        sum = sum.wrapping_add(low32(address));
    }
    if !hash.is_null() {
        hash.write(sum);
    }
    low16(addresses.len() as u64)
}

nt_api! { module = seh;
    /// Raises a software exception with that status; it cannot be continued.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn ExRaiseStatus(status: NtStatus) -> NoReturn {
        stop_after_raise(status)
    }

    /// Raises a software exception with that status; it cannot be continued.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlRaiseStatus(status: NtStatus) -> NoReturn {
        stop_after_raise(status)
    }

    /// Raises STATUS_ACCESS_VIOLATION.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn ExRaiseAccessViolation() -> NoReturn {
        stop_after_raise(NtStatus::ACCESS_VIOLATION)
    }

    /// Raises STATUS_DATATYPE_MISALIGNMENT.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn ExRaiseDatatypeMisalignment() -> NoReturn {
        stop_after_raise(NtStatus::DATATYPE_MISALIGNMENT)
    }

    /// Raises an exception with a record of the caller's. Returns if a handler continues it.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlRaiseException(record: Ptr<EXCEPTION_RECORD>) {
        record.with(|record| record.ExceptionAddress = to_word(shared::caller()));
        raise(record.read(), 4);
    }

    /// Raises an exception with a record of the caller's. Returns if a handler continues it.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn ExRaiseException(record: Ptr<EXCEPTION_RECORD>) {
        record.with(|record| record.ExceptionAddress = to_word(shared::caller()));
        raise(record.read(), 4);
    }

    /// The caller's registers.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlCaptureContext(context: Ptr<CONTEXT>) {
        context.write(arch::context_at(&CallSite::current()));
    }

    /// Goes on with all registers as in a CONTEXT.
    ntoskrnl amd64 stdcall irql(ANY_LEVEL) implemented
    fn RtlRestoreContext(context: Ptr<CONTEXT>, record: Ptr<EXCEPTION_RECORD>) -> NoReturn {
        arch::resume(&context.read())
    }

    /// The function table's entry for a code address, and its image.
    ntoskrnl amd64 stdcall irql(ANY_LEVEL) implemented
    fn RtlLookupFunctionEntry(pc: ULongLong, image: Ptr<Word>, history: Ptr<u8>) -> Ptr<RUNTIME_FUNCTION> {
        of_amd64!("RtlLookupFunctionEntry", {
            let Some(driver) = crate::io::driver::by_address(pc) else { return Ptr::null() };
            image.write(driver.base);
            super::unwind::lookup(driver.base, pc).map_or(Ptr::null(), |(at, _)| Ptr::new(at))
        })
    }

    /// Takes one frame off a context. Returns the function's language handler of the asked kind (1 exception, 2
    /// termination), or null.
    ntoskrnl amd64 stdcall irql(ANY_LEVEL) implemented
    fn RtlVirtualUnwind(
        handler_type: ULong,
        image: ULongLong,
        pc: ULongLong,
        function: Ptr<RUNTIME_FUNCTION>,
        context: Ptr<CONTEXT>,
        handler_data: Ptr<Word>,
        establisher: Ptr<u64>,
        context_pointers: Ptr<u8>,
    ) -> Ptr<u8> {
        of_amd64!("RtlVirtualUnwind", {
            let mut after = context.read();
            let kind = crate::raw::low8(u64::from(handler_type));
            let unwound = super::unwind::virtual_unwind(kind, image, pc, function.read(), &mut after);
            context.write(after);
            establisher.write(unwound.establisher);
            let Some((handler, data)) = unwound.handler else { return Ptr::null() };
            handler_data.write(data);
            Ptr::new(handler)
        })
    }

    /// Leaves all frames inside the target frame, running their termination handlers, and goes on at an address in it.
    ntoskrnl amd64 stdcall irql(ANY_LEVEL) implemented
    fn RtlUnwindEx(
        target_frame: Ptr<u8>,
        target_ip: Ptr<u8>,
        record: Ptr<EXCEPTION_RECORD>,
        return_value: Size,
        context: Ptr<CONTEXT>,
        history: Ptr<u8>,
    ) -> NoReturn {
        of_amd64!("RtlUnwindEx", {
            arch::unwind_ex(target_frame.addr(), target_ip.addr(), record, return_value.0, history.addr())
        })
    }

    /// Leaves all frames inside the target frame. On i386 it returns, on amd64 it goes on at the target address.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlUnwind(target_frame: Ptr<u8>, target_ip: Ptr<u8>, record: Ptr<EXCEPTION_RECORD>, return_value: Size) -> Size {
        #[cfg(nt_i386)]
        {
            arch::unwind(low32(target_frame.addr()), record);
            return_value
        }
        #[cfg(not(nt_i386))]
        {
            arch::unwind_ex(target_frame.addr(), target_ip.addr(), record, return_value.0, 0)
        }
    }

    /// Leaves all frames inside the target frame and goes on at an address in it.
    ntoskrnl amd64 stdcall irql(ANY_LEVEL) implemented
    fn _local_unwind(target_frame: Ptr<u8>, target_ip: Ptr<u8>) -> NoReturn {
        of_amd64!("_local_unwind", {
            arch::unwind_ex(target_frame.addr(), target_ip.addr(), Ptr::null(), 0, 0)
        })
    }

    /// The language handler of C's `__try` on amd64.
    ntoskrnl amd64 stdcall irql(ANY_LEVEL) implemented
    fn __C_specific_handler(
        record: Ptr<EXCEPTION_RECORD>,
        establisher: Ptr<u8>,
        context: Ptr<CONTEXT>,
        dispatcher: Ptr<DISPATCHER_CONTEXT>,
    ) -> ULong {
        of_amd64!("__C_specific_handler", arch::c_specific_handler(record, establisher.addr(), context, dispatcher))
    }

    /// The handler of C's `__try` on i386.
    ntoskrnl i386 cdecl irql(ANY_LEVEL) implemented
    fn _except_handler3(
        record: Ptr<EXCEPTION_RECORD>,
        frame: Ptr<Registration>,
        context: Ptr<CONTEXT>,
        dispatcher: Ptr<u8>,
    ) -> ULong {
        of_i386!("_except_handler3", arch::except_handler3(record, frame, context))
    }

    /// What `_except_handler4` calls, the handler of C's `__try` on i386 with security cookies.
    ntoskrnl i386 cdecl irql(ANY_LEVEL) implemented
    fn _except_handler4_common(
        cookie: Ptr<ULong>,
        check: Ptr<u8>,
        record: Ptr<EXCEPTION_RECORD>,
        frame: Ptr<Registration>,
        context: Ptr<CONTEXT>,
        dispatcher: Ptr<u8>,
    ) -> ULong {
        of_i386!("_except_handler4_common", arch::except_handler4(cookie, record, frame, context))
    }

    /// Runs the `__finally` blocks of a frame from its try level out to another one.
    ntoskrnl i386 cdecl irql(ANY_LEVEL) implemented
    fn _local_unwind2(frame: Ptr<Registration>, stop: Long) {
        of_i386!("_local_unwind2", arch::local_unwind2(frame, stop));
    }

    /// Leaves all frames inside the target frame.
    ntoskrnl i386 cdecl irql(ANY_LEVEL) implemented
    fn _global_unwind2(frame: Ptr<u8>) {
        of_i386!("_global_unwind2", arch::unwind(low32(frame.addr()), Ptr::null()));
    }

    /// Whether the `__finally` block that asks runs because of an unwind.
    ntoskrnl i386 cdecl irql(ANY_LEVEL) implemented
    fn _abnormal_termination() -> ULong {
        of_i386!("_abnormal_termination", u32::from(arch::is_abnormal_termination()))
    }

    /// Return addresses of the calling frames. Returns how many.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlCaptureStackBackTrace(skip: ULong, count: ULong, back_trace: Ptr<Word>, hash: Ptr<ULong>) -> UShort {
        let addresses = super::back_trace(to_usize(skip.into()), to_usize(count.into()));
        store_back_trace(&addresses, back_trace, hash)
    }

    /// The return address of the function that calls this, and that of its caller; 0 where there is none.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlGetCallersAddress(callers_address: Ptr<Word>, callers_caller: Ptr<Word>) {
        let found = super::back_trace(1, 2);
        let at = |index: usize| to_word(found.get(index).copied().unwrap_or(0));
        callers_address.write(at(0));
        callers_caller.write(at(1));
    }

    /// Return addresses of the calling frames. Returns how many. Flag 1 asks for user frames: there are none.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlWalkFrameChain(callers: Ptr<Word>, count: ULong, flags: ULong) -> ULong {
        if flags & 1 != 0 {
            return 0;
        }
        let addresses = super::back_trace(0, to_usize(count.into()));
        u32::from(store_back_trace(&addresses, callers, Ptr::null()))
    }
}
