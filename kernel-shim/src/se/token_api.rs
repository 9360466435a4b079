//! Tokens as drivers use them.

use super::subject;
use super::token::{self, IMPERSONATION, PRIMARY, Token};
use super::token_info::{self, answer};
use crate::api::nt_api;
use crate::ex::pool;
use crate::io::driver;
use crate::nt::{NtStatus, OBJECT_ATTRIBUTES, SECURITY_QUALITY_OF_SERVICE};
use crate::ob::{self, ObjectType, handles};
use crate::ps;
use crate::raw::{Ptr, Word, from_word, low32, to_word};
use crate::shared;
use crate::value::{Boolean, Handle, Long, ObjectAttributesPtr, ULong};

/// OBJ_KERNEL_HANDLE.
const KERNEL_HANDLE: u32 = 0x200;

/// A token that the driver named; another address is as bad as it is on NT.
pub(super) fn known(token: Ptr<u8>) -> Token {
    token::get(token).unwrap_or_else(|| {
        crate::nt::bugcheck::bugcheck_with_text(
            crate::nt::bugcheck::REFERENCE_BY_POINTER,
            [0, token.addr(), 0, 0],
            format_args!("{:#x} is no token", token.addr()),
        )
    })
}

/// The process or thread behind a handle.
fn behind(handle: u64, kind: ObjectType) -> Result<Ptr<u8>, NtStatus> {
    let body = match (low32(handle).cast_signed(), kind) {
        (-1, ObjectType::Process) => return Ok(ps::current_process()),
        (-2, ObjectType::Thread) => return Ok(ps::current_thread()),
        _ => {
            handles::lookup(shared::current_process(), handle)
                .ok_or(NtStatus::INVALID_HANDLE)?
                .body
        }
    };
    if ob::type_of(body) == Some(kind) {
        Ok(Ptr::new(body))
    } else {
        Err(NtStatus::OBJECT_TYPE_MISMATCH)
    }
}

fn handle_for(token: Ptr<u8>, access: u32, attributes: u32) -> u64 {
    let process = if attributes & KERNEL_HANDLE == 0 {
        shared::current_process()
    } else {
        handles::SYSTEM
    };
    handles::insert(process, token.addr(), access)
}

fn open_process_token(process: u64, access: u32, attributes: u32, handle: Ptr<Word>) -> NtStatus {
    match behind(process, ObjectType::Process) {
        Ok(process) => {
            let token = token::of_process(process);
            handle.write(to_word(handle_for(token, access, attributes)));
            NtStatus::SUCCESS
        }
        Err(status) => status,
    }
}

fn open_thread_token(thread: u64, access: u32, attributes: u32, handle: Ptr<Word>) -> NtStatus {
    let client = match behind(thread, ObjectType::Thread) {
        Ok(thread) => subject::impersonated(thread),
        Err(status) => return status,
    };
    match client {
        None => NtStatus::NO_TOKEN,
        Some(client) if client.level == 0 => NtStatus::CANT_OPEN_ANONYMOUS,
        Some(client) => {
            handle.write(to_word(handle_for(client.token, access, attributes)));
            NtStatus::SUCCESS
        }
    }
}

/// The token behind a handle.
fn by_handle(handle: u64) -> Result<(Ptr<u8>, Token), NtStatus> {
    let body = handles::lookup(shared::current_process(), handle)
        .ok_or(NtStatus::INVALID_HANDLE)?
        .body;
    let token = token::get(Ptr::new(body)).ok_or(NtStatus::OBJECT_TYPE_MISMATCH)?;
    Ok((Ptr::new(body), token))
}

fn query(handle: u64, class: u32, buffer: Ptr<u8>, length: u32, needed: Ptr<u32>) -> NtStatus {
    let bytes = match by_handle(handle).and_then(|(_, token)| answer(&token, class, buffer.addr()))
    {
        Ok(bytes) => bytes,
        Err(status) => return status,
    };
    needed.write(low32(bytes.len() as u64));
    if (length as usize) < bytes.len() {
        return NtStatus::BUFFER_TOO_SMALL;
    }
    buffer.write_bytes(&bytes);
    NtStatus::SUCCESS
}

fn duplicate(
    existing: u64,
    access: u32,
    attributes: Ptr<OBJECT_ATTRIBUTES>,
    effective_only: bool,
    kind: u32,
    new_handle: Ptr<Word>,
) -> Result<(), NtStatus> {
    if !(PRIMARY..=IMPERSONATION).contains(&kind) {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    let entry =
        handles::lookup(shared::current_process(), existing).ok_or(NtStatus::INVALID_HANDLE)?;
    let (body, token) = by_handle(existing)?;
    let (mut flags, mut level) = (0, token.level);
    if !attributes.is_null() {
        let attributes = attributes.read();
        flags = attributes.Attributes;
        let quality = from_word(attributes.SecurityQualityOfService);
        if quality != 0 {
            level = Ptr::<SECURITY_QUALITY_OF_SERVICE>::new(quality)
                .read()
                .ImpersonationLevel;
        }
    }
    if level > 3 {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    if token.kind == IMPERSONATION
        && (kind == IMPERSONATION && level > token.level || kind == PRIMARY && token.level < 2)
    {
        return Err(NtStatus::BAD_IMPERSONATION_LEVEL);
    }
    let copy = token::duplicate(body, kind, level, effective_only)
        .ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
    let access = if access == 0 { entry.access } else { access };
    new_handle.write(to_word(handle_for(Ptr::new(copy), access, flags)));
    // The handle holds the reference now.
    ob::dereference(copy);
    Ok(())
}

nt_api! { module = se_token;
    /// PsReferencePrimaryToken: a process's token, with a reference.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn PsReferencePrimaryToken(process: Ptr<u8>) -> Ptr<u8> {
        let token = token::of_process(process);
        ob::reference(token.addr());
        token
    }

    /// PsDereferencePrimaryToken.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn PsDereferencePrimaryToken(primary_token: Ptr<u8>) {
        ob::dereference(primary_token.addr());
    }

    /// PsDereferenceImpersonationToken. Null is allowed.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn PsDereferenceImpersonationToken(impersonation_token: Ptr<u8>) {
        if !impersonation_token.is_null() {
            ob::dereference(impersonation_token.addr());
        }
    }

    /// ZwOpenProcessToken.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwOpenProcessToken(process_handle: Handle, desired_access: ULong, token_handle: Ptr<Word>) -> NtStatus {
        open_process_token(process_handle.0, desired_access, 0, token_handle)
    }

    /// ZwOpenProcessTokenEx: with handle attributes.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwOpenProcessTokenEx(
        process_handle: Handle, desired_access: ULong, handle_attributes: ULong, token_handle: Ptr<Word>,
    ) -> NtStatus {
        open_process_token(process_handle.0, desired_access, handle_attributes, token_handle)
    }

    /// NtOpenProcessToken: the kernel's caller is trusted.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn NtOpenProcessToken(process_handle: Handle, desired_access: ULong, token_handle: Ptr<Word>) -> NtStatus {
        open_process_token(process_handle.0, desired_access, 0, token_handle)
    }

    /// NtOpenProcessTokenEx: the kernel's caller is trusted.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn NtOpenProcessTokenEx(
        process_handle: Handle, desired_access: ULong, handle_attributes: ULong, token_handle: Ptr<Word>,
    ) -> NtStatus {
        open_process_token(process_handle.0, desired_access, handle_attributes, token_handle)
    }

    /// ZwOpenThreadToken. NO_TOKEN: the thread impersonates nobody; CANT_OPEN_ANONYMOUS.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwOpenThreadToken(
        thread_handle: Handle, desired_access: ULong, open_as_self: Boolean, token_handle: Ptr<Word>,
    ) -> NtStatus {
        open_thread_token(thread_handle.0, desired_access, 0, token_handle)
    }

    /// ZwOpenThreadTokenEx: with handle attributes.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwOpenThreadTokenEx(
        thread_handle: Handle, desired_access: ULong, open_as_self: Boolean, handle_attributes: ULong,
        token_handle: Ptr<Word>,
    ) -> NtStatus {
        open_thread_token(thread_handle.0, desired_access, handle_attributes, token_handle)
    }

    /// NtOpenThreadToken: the kernel's caller is trusted.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn NtOpenThreadToken(
        thread_handle: Handle, desired_access: ULong, open_as_self: Boolean, token_handle: Ptr<Word>,
    ) -> NtStatus {
        open_thread_token(thread_handle.0, desired_access, 0, token_handle)
    }

    /// ZwQueryInformationToken. BUFFER_TOO_SMALL: the length says what is needed.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwQueryInformationToken(
        token_handle: Handle, token_information_class: ULong, token_information: Ptr<u8>,
        token_information_length: ULong, return_length: Ptr<u32>,
    ) -> NtStatus {
        query(token_handle.0, token_information_class, token_information, token_information_length, return_length)
    }

    /// NtQueryInformationToken: the kernel's caller is trusted.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn NtQueryInformationToken(
        token_handle: Handle, token_information_class: ULong, token_information: Ptr<u8>,
        token_information_length: ULong, return_length: Ptr<u32>,
    ) -> NtStatus {
        query(token_handle.0, token_information_class, token_information, token_information_length, return_length)
    }

    /// ZwDuplicateToken. BAD_IMPERSONATION_LEVEL: more than the existing token allows.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwDuplicateToken(
        existing_token_handle: Handle, desired_access: ULong, object_attributes: ObjectAttributesPtr,
        effective_only: Boolean, token_type: ULong, new_token_handle: Ptr<Word>,
    ) -> NtStatus {
        duplicate(
            existing_token_handle.0, desired_access, object_attributes.0, effective_only, token_type, new_token_handle,
        ).err().unwrap_or(NtStatus::SUCCESS)
    }

    /// SeQueryInformationToken: in a block that the caller frees; the session id in place of the pointer.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn SeQueryInformationToken(token: Ptr<u8>, token_information_class: ULong, token_information: Ptr<Word>) -> NtStatus {
        let token = known(token);
        if token_information_class == token_info::SESSION {
            token_information.cast::<u32>().write(token.session);
            return NtStatus::SUCCESS;
        }
        let bytes = match answer(&token, token_information_class, 0) {
            Ok(bytes) => bytes.len() as u64,
            Err(status) => return status,
        };
        let block = pool::allocate(bytes, u32::from_le_bytes(*b"SeTi"), driver::owner_of(shared::caller()));
        if block.is_null() {
            return NtStatus::INSUFFICIENT_RESOURCES;
        }
        block.write_bytes(&answer(&token, token_information_class, block.addr()).unwrap_or_default());
        token_information.write(block.word());
        NtStatus::SUCCESS
    }

    /// SeQueryAuthenticationIdToken: the LUID of the token's logon session.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn SeQueryAuthenticationIdToken(token: Ptr<u8>, logon_id: Ptr<u64>) -> NtStatus {
        logon_id.write(known(token).authentication);
        NtStatus::SUCCESS
    }

    /// SeQuerySessionIdToken.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn SeQuerySessionIdToken(token: Ptr<u8>, session_id: Ptr<u32>) -> NtStatus {
        session_id.write(known(token).session);
        NtStatus::SUCCESS
    }

    /// SeTokenType: TokenPrimary (1) or TokenImpersonation (2).
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn SeTokenType(token: Ptr<u8>) -> ULong {
        known(token).kind
    }

    /// SeTokenImpersonationLevel.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn SeTokenImpersonationLevel(token: Ptr<u8>) -> Long {
        known(token).level.cast_signed()
    }

    /// SeTokenIsAdmin: whether Administrators is an enabled group of the token.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn SeTokenIsAdmin(token: Ptr<u8>) -> Boolean {
        known(token).is_administrator()
    }

    /// SeTokenIsRestricted: whether the token has restricting SIDs.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn SeTokenIsRestricted(token: Ptr<u8>) -> Boolean {
        !known(token).restricted.is_empty()
    }

    /// LsaFreeReturnBuffer: frees what a security function allocated.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn LsaFreeReturnBuffer(buffer: Ptr<u8>) -> NtStatus {
        if !buffer.is_null() {
            pool::free(buffer, 0);
        }
        NtStatus::SUCCESS
    }

    /// ExAllocateLocallyUniqueId.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn ExAllocateLocallyUniqueId(luid: Ptr<u64>) -> Boolean {
        luid.write(token::new_luid());
        true
    }
}
