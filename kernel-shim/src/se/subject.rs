//! Subject contexts and impersonation.

use alloc::collections::BTreeMap;

use super::token::{self, IMPERSONATION, Token};
use crate::api::nt_api;
use crate::nt::{NtStatus, SECURITY_QUALITY_OF_SERVICE, SECURITY_SUBJECT_CONTEXT};
use crate::ob;
use crate::ps;
use crate::raw::{Global, Ptr, low8, to_word};
use crate::value::{Boolean, UChar, ULong};

/// Whom a thread impersonates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Client {
    /// The token; the thread has a reference to it.
    pub token: Ptr<u8>,
    /// SECURITY_IMPERSONATION_LEVEL.
    pub level: u32,
    /// Only what is enabled counts.
    pub effective_only: bool,
    /// The token is a copy when opened.
    pub copy_on_open: bool,
}

/// By thread.
static CLIENTS: Global<BTreeMap<u64, Client>> = Global::new("impersonations", BTreeMap::new());

pub(super) fn initialize() {
    CLIENTS.with(BTreeMap::clear);
}

/// Whom a thread impersonates.
#[must_use]
pub fn impersonated(thread: Ptr<u8>) -> Option<Client> {
    CLIENTS.with(|clients| clients.get(&thread.addr()).copied())
}

/// Lets a thread impersonate somebody, or nobody any more.
pub fn impersonate(thread: Ptr<u8>, client: Option<Client>) {
    if let Some(client) = client {
        ob::reference(client.token.addr());
    }
    let before = CLIENTS.with(|clients| match client {
        Some(client) => clients.insert(thread.addr(), client),
        None => clients.remove(&thread.addr()),
    });
    if let Some(before) = before {
        ob::dereference(before.token.addr());
    }
}

/// The token that a context is judged by.
pub(super) fn judged(context: &SECURITY_SUBJECT_CONTEXT) -> Option<Token> {
    let token = if context.ClientToken.is_null() {
        context.PrimaryToken
    } else {
        context.ClientToken
    };
    token::get(token)
}

fn capture(thread: Ptr<u8>, process: Ptr<u8>) -> SECURITY_SUBJECT_CONTEXT {
    let client = impersonated(thread);
    let primary = token::of_process(process);
    ob::reference(primary.addr());
    if let Some(client) = client {
        ob::reference(client.token.addr());
    }
    SECURITY_SUBJECT_CONTEXT {
        ClientToken: client.map_or(Ptr::null(), |client| client.token),
        ImpersonationLevel: client.map_or(0, |client| client.level),
        PrimaryToken: primary,
        ProcessAuditId: to_word(token::audit_id()),
    }
}

/// SECURITY_CLIENT_CONTEXT: offsets, since TOKEN_CONTROL is aligned to 4 only.
mod client_context {
    use crate::raw::Word;
    pub(super) const TOKEN: u64 = if cfg!(nt_i386) { 12 } else { 16 };
    pub(super) const DIRECT: u64 = TOKEN + size_of::<Word>() as u64;
    pub(super) const DIRECT_EFFECTIVE_ONLY: u64 = DIRECT + 1;
    pub(super) const REMOTE: u64 = DIRECT + 2;
    pub(super) const CONTROL: u64 = DIRECT + 4;
}

fn create_client(
    subject: Option<(Ptr<u8>, u32, bool)>,
    primary: Ptr<u8>,
    quality: Ptr<SECURITY_QUALITY_OF_SERVICE>,
    is_remote: bool,
    context: Ptr<u8>,
) -> NtStatus {
    let wanted = quality.read();
    if wanted.ImpersonationLevel > 3 {
        return NtStatus::INVALID_PARAMETER;
    }
    let (source, effective_only) = match subject {
        Some((_, level, _)) if wanted.ImpersonationLevel > level => {
            return NtStatus::BAD_IMPERSONATION_LEVEL;
        }
        Some((token, level, effective_only)) => {
            if is_remote && level < 3 {
                return NtStatus::BAD_IMPERSONATION_LEVEL;
            }
            (token, effective_only)
        }
        None => (primary, false),
    };
    let is_dynamic = wanted.ContextTrackingMode != 0 && !is_remote;
    let token = if is_dynamic {
        ob::reference(source.addr());
        source
    } else {
        let copy = token::duplicate(
            source,
            IMPERSONATION,
            wanted.ImpersonationLevel,
            effective_only || wanted.EffectiveOnly != 0,
        );
        match copy {
            Some(copy) => Ptr::new(copy),
            None => return NtStatus::INSUFFICIENT_RESOURCES,
        }
    };
    let at = |offset: u64| context.add_bytes(offset);
    context.cast().write(SECURITY_QUALITY_OF_SERVICE {
        Length: 12,
        ContextTrackingMode: u8::from(is_dynamic),
        ..wanted
    });
    at(client_context::TOKEN).cast().write(token.word());
    at(client_context::DIRECT).write(u8::from(is_dynamic));
    at(client_context::DIRECT_EFFECTIVE_ONLY)
        .write(low8(u64::from(effective_only || wanted.EffectiveOnly != 0)));
    at(client_context::REMOTE).write(u8::from(is_remote));
    if let Some(token) = token::get(token) {
        let control = at(client_context::CONTROL);
        for (index, luid) in (0..).zip([token.id, token.authentication, token.modified]) {
            control.add_bytes(8 * index).cast::<u64>().write(luid);
        }
        control.add_bytes(24).write_bytes(&token.source);
        control.add_bytes(32).cast::<u64>().write(token.source_id);
    }
    NtStatus::SUCCESS
}

fn impersonate_client(context: Ptr<u8>, thread: Ptr<u8>) -> NtStatus {
    let quality = context.cast::<SECURITY_QUALITY_OF_SERVICE>().read();
    let token = context
        .add_bytes(client_context::TOKEN)
        .cast::<Ptr<u8>>()
        .read();
    let thread = thread.non_null().unwrap_or_else(ps::current_thread);
    if token::get(token).is_none() {
        return NtStatus::INVALID_PARAMETER;
    }
    let client = Client {
        token,
        level: quality.ImpersonationLevel,
        effective_only: context
            .add_bytes(client_context::DIRECT_EFFECTIVE_ONLY)
            .read()
            != 0,
        copy_on_open: false,
    };
    impersonate(thread, Some(client));
    NtStatus::SUCCESS
}

nt_api! { module = se_subject;
    /// SeCaptureSubjectContext: the current thread's and process's tokens, with references.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn SeCaptureSubjectContext(subject_context: Ptr<SECURITY_SUBJECT_CONTEXT>) {
        subject_context.write(capture(ps::current_thread(), ps::current_process()));
    }

    /// SeCaptureSubjectContextEx: those of another thread and process; a null thread impersonates nobody.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn SeCaptureSubjectContextEx(
        thread: Ptr<u8>, process: Ptr<u8>, subject_context: Ptr<SECURITY_SUBJECT_CONTEXT>,
    ) {
        subject_context.write(capture(thread, process));
    }

    /// SeReleaseSubjectContext.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn SeReleaseSubjectContext(subject_context: Ptr<SECURITY_SUBJECT_CONTEXT>) {
        let SECURITY_SUBJECT_CONTEXT { ClientToken: client, PrimaryToken: primary, .. } = subject_context.read();
        subject_context.with(|context| (context.ClientToken, context.PrimaryToken) = (Ptr::null(), Ptr::null()));
        for token in [client, primary].into_iter().filter(|token| !token.is_null()) {
            ob::dereference(token.addr());
        }
    }

    /// SeLockSubjectContext: nothing changes tokens while shim code runs, and no driver can.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn SeLockSubjectContext(subject_context: Ptr<SECURITY_SUBJECT_CONTEXT>) {
        let _ = subject_context.read();
    }

    /// SeUnlockSubjectContext.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn SeUnlockSubjectContext(subject_context: Ptr<SECURITY_SUBJECT_CONTEXT>) {
        let _ = subject_context.read();
    }

    /// SeCreateClientSecurity: what SeImpersonateClientEx needs to be the client of that thread.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn SeCreateClientSecurity(
        client_thread: Ptr<u8>, client_security_qos: Ptr<SECURITY_QUALITY_OF_SERVICE>, remote_session: Boolean,
        client_context: Ptr<u8>,
    ) -> NtStatus {
        let client = impersonated(client_thread).map(|client| (client.token, client.level, client.effective_only));
        let primary = token::of_process(ps::current_process());
        create_client(client, primary, client_security_qos, remote_session, client_context)
    }

    /// SeCreateClientSecurityFromSubjectContext: as SeCreateClientSecurity.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn SeCreateClientSecurityFromSubjectContext(
        subject_context: Ptr<SECURITY_SUBJECT_CONTEXT>, client_security_qos: Ptr<SECURITY_QUALITY_OF_SERVICE>,
        server_is_remote: Boolean, client_context: Ptr<u8>,
    ) -> NtStatus {
        let SECURITY_SUBJECT_CONTEXT { ClientToken: client, ImpersonationLevel: level, PrimaryToken: primary, .. } =
            subject_context.read();
        let client = client.non_null().map(|token| (token, level, false));
        create_client(client, primary, client_security_qos, server_is_remote, client_context)
    }

    /// SeImpersonateClient: as SeImpersonateClientEx, without saying whether it worked.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn SeImpersonateClient(client_context: Ptr<u8>, server_thread: Ptr<u8>) {
        let _ = impersonate_client(client_context, server_thread);
    }

    /// SeImpersonateClientEx: a thread (null: the current one) acts as a client until PsRevertToSelf.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn SeImpersonateClientEx(client_context: Ptr<u8>, server_thread: Ptr<u8>) -> NtStatus {
        impersonate_client(client_context, server_thread)
    }

    /// PsImpersonateClient: a thread acts by a token; by none with null.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn PsImpersonateClient(
        thread: Ptr<u8>, token: Ptr<u8>, copy_on_open: Boolean, effective_only: Boolean, impersonation_level: ULong,
    ) -> NtStatus {
        if token.is_null() {
            impersonate(thread, None);
            return NtStatus::SUCCESS;
        }
        if token::get(token).is_none() {
            return NtStatus::INVALID_PARAMETER;
        }
        impersonate(thread, Some(Client { token, level: impersonation_level, effective_only, copy_on_open }));
        NtStatus::SUCCESS
    }

    /// PsRevertToSelf: the current thread impersonates nobody any more.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn PsRevertToSelf() {
        impersonate(ps::current_thread(), None);
    }

    /// PsReferenceImpersonationToken: the token that a thread impersonates, with a reference; null if none.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn PsReferenceImpersonationToken(
        thread: Ptr<u8>, copy_on_open: Ptr<UChar>, effective_only: Ptr<UChar>, impersonation_level: Ptr<u32>,
    ) -> Ptr<u8> {
        let Some(client) = impersonated(thread) else { return Ptr::null() };
        ob::reference(client.token.addr());
        copy_on_open.write(u8::from(client.copy_on_open));
        effective_only.write(u8::from(client.effective_only));
        impersonation_level.write(client.level);
        client.token
    }

    /// PsIsThreadImpersonating.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn PsIsThreadImpersonating(thread: Ptr<u8>) -> Boolean {
        impersonated(thread).is_some()
    }
}
