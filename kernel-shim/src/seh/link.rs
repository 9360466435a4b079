//! Where driver and shim code meet on a stack, for who walks it.
//!
//! The shim's own frames have no unwind data. Instead each boundary leaves a [`Link`] on the stack: where the shim
//! calls the driver, and where an exception or unwind is being worked on. A walk that reaches shim code goes on at the
//! innermost link it has not passed.

use crate::nt::{CONTEXT, DISPATCHER_CONTEXT};
use crate::raw::{Ptr, let_driver_run};
use crate::shared::CallSite;

/// What a walk does at a [`Link`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum LinkKind {
    /// The shim called the driver: goes on at the API call that the shim was serving, if it was serving one.
    Call = 1,
    /// The shim called the driver for no code below: ends.
    End = 2,
    /// An exception: goes on with its context.
    Exception = 3,
    /// A frame is being unwound (by amd64 tables): goes on in that frame, behind the scope that is being left.
    #[cfg_attr(
        nt_i386,
        expect(dead_code, reason = "the i386 chain has records of its own")
    )]
    Unwind = 4,
}

/// A boundary. Lies on the stack of the shim code that made it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Link {
    pub(crate) kind: LinkKind,
    /// The call that was being served.
    pub(crate) site: CallSite,
    /// Of an exception.
    pub(crate) context: Ptr<CONTEXT>,
    /// Of an unwind.
    pub(crate) dispatcher: Ptr<DISPATCHER_CONTEXT>,
}

impl Link {
    /// The link at an address; `None` for 0.
    pub(crate) fn at(address: u64) -> Option<Self> {
        (address != 0).then(|| crate::raw::volatile_read(address))
    }
}

/// Runs `call`, which calls the driver, with a link of that kind; nothing of the shim's counts as in use meanwhile.
pub(crate) fn across<R>(kind: LinkKind, call: impl FnOnce() -> R) -> R {
    let site = CallSite::current();
    let mut link = Link {
        kind,
        site,
        context: Ptr::null(),
        dispatcher: Ptr::null(),
    };
    let outer = CallSite {
        links: Ptr::of(&mut link).addr(),
        ..CallSite::default()
    }
    .swap();
    let held = let_driver_run(0);
    #[cfg(nt_i386)]
    let chain = (kind == LinkKind::End).then(|| super::i386::swap_chain(super::i386::CHAIN_END));
    let result = call();
    #[cfg(nt_i386)]
    if let Some(chain) = chain {
        super::i386::swap_chain(chain);
    }
    let_driver_run(held);
    outer.make_current();
    result
}

/// Runs `work` with a link for the exception with that context.
pub(crate) fn with_exception<R>(context: Ptr<CONTEXT>, work: impl FnOnce() -> R) -> R {
    let site = CallSite::current();
    let mut link = Link {
        kind: LinkKind::Exception,
        site,
        context,
        dispatcher: Ptr::null(),
    };
    let outer = CallSite {
        links: Ptr::of(&mut link).addr(),
        ..CallSite::default()
    }
    .swap();
    let result = work();
    outer.make_current();
    result
}

/// Runs `work` with a link for the frame that is being unwound.
#[cfg(not(nt_i386))]
pub(crate) fn with_unwind<R>(dispatcher: Ptr<DISPATCHER_CONTEXT>, work: impl FnOnce() -> R) -> R {
    let site = CallSite::current();
    let mut link = Link {
        kind: LinkKind::Unwind,
        site,
        context: Ptr::null(),
        dispatcher,
    };
    let outer = CallSite {
        links: Ptr::of(&mut link).addr(),
        ..CallSite::default()
    }
    .swap();
    let result = work();
    outer.make_current();
    result
}

/// The innermost link that lies above `stack_pointer`: what is left when control goes on there.
pub(crate) fn above(stack_pointer: u64) -> u64 {
    let mut links = CallSite::current().links;
    while links != 0 && links < stack_pointer {
        links = Link::at(links).map_or(0, |link| link.site.links);
    }
    links
}
