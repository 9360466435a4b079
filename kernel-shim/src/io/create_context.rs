//! What travels with an IRP_MJ_CREATE beside its name: the security context, the allocation size, extra parameters.

use crate::ex::pool;
use crate::nt::{IRP, NtStatus, SECURITY_SUBJECT_CONTEXT, UNICODE_STRING};
use crate::raw::{Ptr, Word, to_word};
use crate::se::subject::{SeCaptureSubjectContext, SeReleaseSubjectContext};

const TAG: [u8; 4] = *b"IoSc";

/// ACCESS_STATE.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct ACCESS_STATE {
    OperationID: [u32; 2],
    SecurityEvaluated: u8,
    GenerateAudit: u8,
    GenerateOnClose: u8,
    PrivilegesAllocated: u8,
    Flags: u32,
    RemainingDesiredAccess: u32,
    PreviouslyGrantedAccess: u32,
    OriginalDesiredAccess: u32,
    SubjectSecurityContext: SECURITY_SUBJECT_CONTEXT,
    SecurityDescriptor: Word,
    AuxData: Word,
    /// INITIAL_PRIVILEGE_SET: no privilege.
    Privileges: [u32; 11],
    AuditPrivileges: u8,
    ObjectName: UNICODE_STRING,
    ObjectTypeName: UNICODE_STRING,
}

/// IO_SECURITY_CONTEXT, with what it points to behind it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Context {
    SecurityQos: Word,
    AccessState: Word,
    DesiredAccess: u32,
    FullCreateOptions: u32,
    state: ACCESS_STATE,
}

const _: () = assert!(size_of::<ACCESS_STATE>() == if cfg!(nt_i386) { 116 } else { 160 });

/// The parts of one request.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct CreateContext {
    context: Ptr<Context>,
    /// AllocationSize.
    allocation: u64,
    /// ECP_LIST, the caller's.
    extra: u64,
}

impl CreateContext {
    /// For a file that is to be opened with `access`, which has no generic rights.
    ///
    /// # Errors
    /// INSUFFICIENT_RESOURCES.
    pub(super) fn new(
        access: u32,
        options: u32,
        allocation: u64,
        extra: u64,
    ) -> Result<Self, NtStatus> {
        let block = pool::allocate_zeroed(size_of::<Context>() as u64, TAG)
            .ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
        let context = block.cast::<Context>();
        let state = core::mem::offset_of!(Context, state) as u64;
        context.with(|fields| {
            fields.AccessState = to_word(context.addr() + state);
            fields.DesiredAccess = access;
            fields.FullCreateOptions = options;
            fields.state.RemainingDesiredAccess = access;
            fields.state.OriginalDesiredAccess = access;
        });
        SeCaptureSubjectContext(Self::subject(context));
        Ok(Self {
            context,
            allocation,
            extra,
        })
    }

    fn subject(context: Ptr<Context>) -> Ptr<SECURITY_SUBJECT_CONTEXT> {
        let state = core::mem::offset_of!(Context, state);
        let subject = core::mem::offset_of!(ACCESS_STATE, SubjectSecurityContext);
        context.add_bytes((state + subject) as u64).cast()
    }

    /// Address of the IO_SECURITY_CONTEXT.
    pub(super) const fn address(&self) -> u64 {
        self.context.addr()
    }

    /// Puts its parts into a request that is about to be sent.
    pub(super) fn attach(&self, packet: Ptr<IRP>) {
        if self.context.is_null() {
            return;
        }
        let size = self.allocation;
        packet.with(|packet| packet.Overlay = [to_word(size & 0xFFFF_FFFF), to_word(size >> 32)]);
        if !cfg!(nt_i386) {
            packet.with(|packet| packet.Overlay = [to_word(size), 0]);
        }
        if self.extra != 0 {
            crate::fsrtl::ecp::lend(packet, Ptr::new(self.extra));
        }
    }

    /// The request is over.
    pub(super) fn free(&self) {
        if !self.context.is_null() {
            SeReleaseSubjectContext(Self::subject(self.context));
            pool::free(self.context.cast(), u32::from_le_bytes(TAG));
        }
    }
}
