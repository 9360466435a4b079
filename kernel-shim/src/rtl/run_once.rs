//! RTL_RUN_ONCE: one-time initialization. The driver's pointer-sized variable holds a state in its low 2 bits and, when
//! all is done, the driver's context in the others.

use crate::api::nt_api;
use crate::ke::event::KeDelayExecutionThread;
use crate::nt::NtStatus;
use crate::raw::{Ptr, Word, from_word, low32, to_word};
use crate::shared;
use crate::value::{ProcessorMode, ULong};
use abi::trace::Entry;

const CHECK_ONLY: u32 = 1;
const ASYNC: u32 = 2;
const INIT_FAILED: u32 = 4;

const STATE: Word = 3;
const NOT_BEGUN: Word = 0;
const BEGUN: Word = 1;
const DONE: Word = 2;
const BEGUN_ASYNC: Word = 3;

/// How long a second initializer sleeps before it looks again: 1 ms.
const PAUSE: i64 = -10_000;

fn begin(run_once: Ptr<Word>, flags: u32, context: Ptr<Word>) -> NtStatus {
    if flags & !(CHECK_ONLY | ASYNC) != 0 || flags == CHECK_ONLY | ASYNC {
        return NtStatus::INVALID_PARAMETER_2;
    }
    let is_async = flags & ASYNC != 0;
    loop {
        let value = run_once.read();
        match value & STATE {
            DONE => {
                if !context.is_null() {
                    context.write(value & !STATE);
                }
                return NtStatus::SUCCESS;
            }
            _ if flags & CHECK_ONLY != 0 => return NtStatus::UNSUCCESSFUL,
            NOT_BEGUN => {
                run_once.write(if is_async { BEGUN_ASYNC } else { BEGUN });
                return NtStatus::PENDING;
            }
            BEGUN if is_async => return NtStatus::INVALID_PARAMETER,
            BEGUN_ASYNC if is_async => return NtStatus::PENDING,
            BEGUN_ASYNC => return NtStatus::INVALID_PARAMETER,
            // Another thread is at it.
            _ => {
                let mut pause = PAUSE;
                let _ = KeDelayExecutionThread(ProcessorMode(0), false, Ptr::of(&mut pause));
            }
        }
    }
}

fn complete(run_once: Ptr<Word>, flags: u32, context: Word) -> NtStatus {
    let is_async = flags & ASYNC != 0;
    let has_failed = flags & INIT_FAILED != 0;
    if flags & !(ASYNC | INIT_FAILED) != 0 || (is_async && has_failed) {
        return NtStatus::INVALID_PARAMETER_2;
    }
    if context & STATE != 0 || (has_failed && context != 0) {
        return NtStatus::INVALID_PARAMETER_3;
    }
    match run_once.read() & STATE {
        BEGUN if is_async => NtStatus::INVALID_PARAMETER_2,
        BEGUN_ASYNC if !is_async => NtStatus::INVALID_PARAMETER_2,
        BEGUN | BEGUN_ASYNC => {
            run_once.write(if has_failed {
                NOT_BEGUN
            } else {
                context | DONE
            });
            NtStatus::SUCCESS
        }
        _ => NtStatus::UNSUCCESSFUL,
    }
}

nt_api! { module = rtl_run_once;
    /// Prepares a one-time initialization.
    ntoskrnl both stdcall irql(ANY_LEVEL) implemented
    fn RtlRunOnceInitialize(run_once: Ptr<Word>) {
        run_once.write(NOT_BEGUN);
    }

    /// Begins an initialization: STATUS_PENDING if the caller is to do it, STATUS_SUCCESS and its context if it is done
    /// already. While another thread does it, the caller waits, unless both do it (RTL_RUN_ONCE_ASYNC).
    /// RTL_RUN_ONCE_CHECK_ONLY: STATUS_UNSUCCESSFUL if it is not done.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlRunOnceBeginInitialize(run_once: Ptr<Word>, flags: ULong, context: Ptr<Word>) -> NtStatus {
        begin(run_once, flags, context)
    }

    /// Ends an initialization, with the context (its low 2 bits are 0) or RTL_RUN_ONCE_INIT_FAILED.
    /// STATUS_UNSUCCESSFUL if none was begun, or another thread was first.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlRunOnceComplete(run_once: Ptr<Word>, flags: ULong, context: Ptr<u8>) -> NtStatus {
        complete(run_once, flags, context.word())
    }

    /// Has a routine of the driver do an initialization, unless it is done already. STATUS_UNSUCCESSFUL: the routine
    /// returned FALSE; the next call tries again.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn RtlRunOnceExecuteOnce(
        run_once: Ptr<Word>, init_function: Ptr<u8>, parameter: Ptr<u8>, context: Ptr<Word>,
    ) -> NtStatus {
        let status = begin(run_once, 0, context);
        if status != NtStatus::PENDING {
            return status;
        }
        let arguments = [run_once.addr(), parameter.addr(), context.addr()];
        if low32(shared::call_driver(Entry::Other, init_function.addr(), &arguments)) == 0 {
            let _ = complete(run_once, INIT_FAILED, 0);
            return NtStatus::UNSUCCESSFUL;
        }
        let made = context.non_null().map_or(0, |context| from_word(context.read()));
        complete(run_once, 0, to_word(made))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_platform::machine;

    extern "win64-unwind" fn initialize(_: u64, parameter: u64, context: u64) -> u64 {
        let calls = Ptr::<u64>::new(parameter);
        calls.write(calls.read() + 1);
        Ptr::<u64>::new(context).write(0x1000);
        u64::from(calls.read() > 1)
    }

    #[test]
    fn a_routine_runs_until_it_succeeds_once() {
        let _machine = machine();
        let (mut once, mut calls, mut context) = (0, 0_u64, 0);
        let once = Ptr::of(&mut once);
        RtlRunOnceInitialize(once);
        let routine = Ptr::new((initialize as *const ()).expose_provenance() as u64);
        let mut run = || {
            let status = RtlRunOnceExecuteOnce(
                once,
                routine,
                Ptr::of(&mut calls).cast(),
                Ptr::of(&mut context),
            );
            (status, calls)
        };
        assert_eq!(run(), (NtStatus::UNSUCCESSFUL, 1));
        assert_eq!(run(), (NtStatus::SUCCESS, 2));
        assert_eq!(run(), (NtStatus::SUCCESS, 2));
        assert_eq!(context, 0x1000);
    }

    #[test]
    fn states_follow_the_flags() {
        let mut value = 0;
        let once = Ptr::of(&mut value);
        let mut context = 9;
        assert_eq!(begin(once, CHECK_ONLY, Ptr::null()), NtStatus::UNSUCCESSFUL);
        assert_eq!(begin(once, ASYNC, Ptr::null()), NtStatus::PENDING);
        assert_eq!(begin(once, ASYNC, Ptr::null()), NtStatus::PENDING);
        assert_eq!(begin(once, 0, Ptr::null()), NtStatus::INVALID_PARAMETER);
        assert_eq!(complete(once, 0, 0), NtStatus::INVALID_PARAMETER_2);
        assert_eq!(complete(once, ASYNC, 0x21), NtStatus::INVALID_PARAMETER_3);
        assert_eq!(complete(once, ASYNC, 0x20), NtStatus::SUCCESS);
        assert_eq!(complete(once, ASYNC, 0x20), NtStatus::UNSUCCESSFUL);
        assert_eq!(begin(once, 0, Ptr::of(&mut context)), NtStatus::SUCCESS);
        assert_eq!(context, 0x20);
        assert_eq!(begin(once, 8, Ptr::null()), NtStatus::INVALID_PARAMETER_2);
    }
}
