//! Where driver and shim code meet on a stack, for who walks it.
//!
//! The shim's own frames have no unwind data. Instead each boundary leaves a [`Link`] on the stack: where the shim
//! calls the driver, and where an exception or unwind is being worked on. A walk that reaches shim code goes on at the
//! innermost link it has not passed.
//!
//! There are none on i386: its exceptions go by the chain at fs:0, and a handler there leaves the calls that led to it
//! by a jump that the shim does not see, so that a link could be one whose stack has been used again.

#[cfg(not(nt_i386))]
use crate::nt::{CONTEXT, DISPATCHER_CONTEXT};
#[cfg(not(nt_i386))]
use crate::raw::Ptr;
use crate::raw::let_driver_run;
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
    #[cfg(not(nt_i386))]
    Exception = 3,
    /// A frame is being unwound: goes on in that frame, behind the scope that is being left.
    #[cfg(not(nt_i386))]
    Unwind = 4,
}

/// A boundary. Lies on the stack of the shim code that made it.
#[cfg(not(nt_i386))]
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

#[cfg(not(nt_i386))]
impl Link {
    /// The link at an address; `None` for 0.
    pub(crate) fn at(address: u64) -> Option<Self> {
        (address != 0).then(|| crate::raw::volatile_read(address))
    }
}

/// Runs `call`, which calls the driver, with a link of that kind; nothing of the shim's counts as in use meanwhile.
pub(crate) fn across<R>(kind: LinkKind, call: impl FnOnce() -> R) -> R {
    let work = || {
        let held = let_driver_run(0);
        #[cfg(nt_i386)]
        let chain =
            (kind == LinkKind::End).then(|| super::i386::swap_chain(super::i386::CHAIN_END));
        let result = call();
        #[cfg(nt_i386)]
        if let Some(chain) = chain {
            super::i386::swap_chain(chain);
        }
        let_driver_run(held);
        result
    };
    #[cfg(nt_i386)]
    {
        outside(work)
    }
    #[cfg(not(nt_i386))]
    {
        with_link(kind, Ptr::null(), Ptr::null(), work)
    }
}

/// Runs `work` outside of the API call that is being served.
#[cfg(nt_i386)]
pub(crate) fn outside<R>(work: impl FnOnce() -> R) -> R {
    let outer = CallSite::default().swap();
    let result = work();
    outer.make_current();
    result
}

/// Runs `work` with a link for the exception with that context.
#[cfg(not(nt_i386))]
pub(crate) fn with_exception<R>(context: Ptr<CONTEXT>, work: impl FnOnce() -> R) -> R {
    with_link(LinkKind::Exception, context, Ptr::null(), work)
}

/// Runs `work` with a link for the frame that is being unwound.
#[cfg(not(nt_i386))]
pub(crate) fn with_unwind<R>(dispatcher: Ptr<DISPATCHER_CONTEXT>, work: impl FnOnce() -> R) -> R {
    with_link(LinkKind::Unwind, Ptr::null(), dispatcher, work)
}

/// Runs `work` outside of the API call that is being served, with a link to it.
#[cfg(not(nt_i386))]
fn with_link<R>(
    kind: LinkKind,
    context: Ptr<CONTEXT>,
    dispatcher: Ptr<DISPATCHER_CONTEXT>,
    work: impl FnOnce() -> R,
) -> R {
    let mut link = Link {
        kind,
        site: CallSite::current(),
        context,
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
#[cfg(not(nt_i386))]
pub(crate) fn above(stack_pointer: u64) -> u64 {
    let mut links = CallSite::current().links;
    while links != 0 && links < stack_pointer {
        links = Link::at(links).map_or(0, |link| link.site.links);
    }
    links
}
