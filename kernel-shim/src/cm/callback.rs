//! CmRegisterCallback: drivers that are asked before, and told after, a change of the registry.

use alloc::vec::Vec;

use crate::api::nt_api;
use crate::ex::pool;
use crate::nt::{NtStatus, UNICODE_STRING};
use crate::raw::{Global, Ptr, Word, low32, to_word};
use crate::shared;
use crate::value::LargeInteger;
use abi::trace::Entry;

/// REG_NOTIFY_CLASS: RegNtPreDeleteKey.
pub const DELETE_KEY: u32 = 0;
/// RegNtPreSetValueKey.
pub const SET_VALUE: u32 = 1;
/// RegNtPreDeleteValueKey.
pub const DELETE_VALUE: u32 = 2;
/// RegNtPreQueryValueKey.
pub const QUERY_VALUE: u32 = 8;
/// STATUS_CALLBACK_BYPASS: the callback has done it.
const BYPASS: u32 = 0xC000_0503;
/// Bytes of the largest information structure.
const INFORMATION_BYTES: u64 = 0x80;

#[derive(Clone, Copy, Debug)]
struct Callback {
    function: u64,
    context: u64,
    cookie: u64,
}

#[derive(Debug)]
struct Callbacks {
    all: Vec<Callback>,
    next: u64,
}

static CALLBACKS: Global<Callbacks> = Global::new(
    "registry callbacks",
    Callbacks {
        all: Vec::new(),
        next: 1,
    },
);

pub(super) fn initialize() {
    CALLBACKS.with(|callbacks| callbacks.all.clear());
}

fn register(function: u64, context: u64, cookie: Ptr<i64>) -> NtStatus {
    let number = CALLBACKS.with(|callbacks| {
        let number = callbacks.next;
        callbacks.next += 1;
        callbacks.all.push(Callback {
            function,
            context,
            cookie: number,
        });
        number
    });
    cookie.write(number.cast_signed());
    NtStatus::SUCCESS
}

fn call_all(class: u32, members: &[Word]) -> NtStatus {
    let all = CALLBACKS.with(|callbacks| callbacks.all.clone());
    if all.is_empty() {
        return NtStatus::SUCCESS;
    }
    let Some(information) = pool::allocate_zeroed(INFORMATION_BYTES, *b"CmCb") else {
        return NtStatus::INSUFFICIENT_RESOURCES;
    };
    for (index, member) in (0..).zip(members) {
        information.cast::<Word>().offset(index).write(*member);
    }
    let mut status = NtStatus::SUCCESS;
    for callback in all {
        let arguments = [callback.context, u64::from(class), information.addr()];
        status = NtStatus(low32(shared::call_driver(
            Entry::Other,
            callback.function,
            &arguments,
        )));
        if !status.is_success() {
            break;
        }
    }
    pool::free(information, 0);
    status
}

/// Asks the callbacks about an operation, does it, and tells them. A callback's error is the operation's; the members
/// are those of the class's information structure, each a word.
pub fn around(class: u32, members: &[Word], operation: impl FnOnce() -> NtStatus) -> NtStatus {
    match call_all(class, members) {
        NtStatus(BYPASS) => return NtStatus::SUCCESS,
        status if !status.is_success() => return status,
        _ => {}
    }
    let status = operation();
    let post = match class {
        DELETE_KEY..=DELETE_VALUE => class + 15,
        QUERY_VALUE => 21,
        _ => return status,
    };
    let object = members.first().copied().unwrap_or(0);
    // A callback cannot take back what is done.
    let _ = call_all(post, &[object, to_word(u64::from(status.0))]);
    status
}

nt_api! { module = cm_callback;
    /// CmRegisterCallback: a routine that is asked before values are set, read or deleted and keys are deleted, and
    /// told afterwards.
    ntoskrnl both stdcall irql(APC_LEVEL) partial("makings, openings and enumerations are not announced")
    fn CmRegisterCallback(function: Ptr<u8>, context: Ptr<u8>, cookie: Ptr<i64>) -> NtStatus {
        register(function.addr(), context.addr(), cookie)
    }

    /// CmRegisterCallbackEx: as CmRegisterCallback; the altitude is not looked at.
    ntoskrnl both stdcall irql(APC_LEVEL) partial("altitudes; makings, openings and enumerations are not announced")
    fn CmRegisterCallbackEx(
        function: Ptr<u8>, altitude: Ptr<UNICODE_STRING>, driver: Ptr<u8>, context: Ptr<u8>, cookie: Ptr<i64>,
        reserved: Ptr<u8>,
    ) -> NtStatus {
        register(function.addr(), context.addr(), cookie)
    }

    /// CmUnRegisterCallback. INVALID_PARAMETER: nobody has that cookie.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CmUnRegisterCallback(cookie: LargeInteger) -> NtStatus {
        let was_there = CALLBACKS.with(|callbacks| {
            let count = callbacks.all.len();
            callbacks.all.retain(|callback| callback.cookie != cookie.cast_unsigned());
            callbacks.all.len() < count
        });
        if was_there { NtStatus::SUCCESS } else { NtStatus::INVALID_PARAMETER }
    }

    /// CmGetCallbackVersion: 1.0.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn CmGetCallbackVersion(major: Ptr<u32>, minor: Ptr<u32>) {
        if !major.is_null() {
            major.write(1);
        }
        if !minor.is_null() {
            minor.write(0);
        }
    }
}
