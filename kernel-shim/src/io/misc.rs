//! Small questions to the I/O manager.

use alloc::format;

use super::{irp, request};
use crate::api::nt_api;
use crate::nt::{
    CONFIGURATION_INFORMATION, DEVICE_OBJECT, FILE_OBJECT, IRP, KEVENT, NtStatus, UNICODE_STRING,
};
use crate::ob::{self, handles};
use crate::raw::{DataCell, Ptr, Word, to_word, unicode_text};
use crate::value::{Boolean, UChar, ULong, UnicodeStringPtr};
use crate::{ps, shared};
use abi::layout;

static CONFIGURATION: DataCell<CONFIGURATION_INFORMATION> = DataCell::new(EMPTY);

const EMPTY: CONFIGURATION_INFORMATION = CONFIGURATION_INFORMATION {
    DiskCount: 0,
    FloppyCount: 0,
    CdRomCount: 0,
    TapeCount: 0,
    ScsiPortCount: 0,
    SerialCount: 0,
    ParallelCount: 0,
    AtDiskPrimaryAddressClaimed: 0,
    AtDiskSecondaryAddressClaimed: 0,
    Version: 0x28,
    MediumChangerCount: 0,
};

pub(super) fn initialize() {
    CONFIGURATION.ptr().write(EMPTY);
}

/// The process that an IRP was made for, as its EPROCESS; a driver's own IRP is the System process's.
fn requestor(irp: Ptr<IRP>) -> Ptr<u8> {
    if irp.read().Thread == 0 {
        return Ptr::null();
    }
    let id = request::process_of(irp).unwrap_or(ps::SYSTEM_ID);
    ps::by_id(id).unwrap_or_default()
}

/// An event of that name, made if there is none; the event and a handle to it.
fn event(name: Ptr<UNICODE_STRING>, kind: u8, handle: Ptr<Word>) -> Ptr<KEVENT> {
    let name = unicode_text(name);
    match ob::event::open_or_create(&name, kind, true) {
        Ok(body) => {
            let number = handles::insert(handles::SYSTEM, body, 0x001F_0003);
            ob::dereference(body);
            handle.write(to_word(number));
            Ptr::new(body)
        }
        Err(_) => Ptr::null(),
    }
}

nt_api! { module = io_misc;
    /// The process that an IRP was made for; NULL if it has no thread.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoGetRequestorProcess(irp: Ptr<IRP>) -> Ptr<u8> {
        requestor(irp)
    }

    /// Id of the process that an IRP was made for; 0 if it has no thread.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoGetRequestorProcessId(irp: Ptr<IRP>) -> ULong {
        ps::id_of(requestor(irp)).unwrap_or(0)
    }

    /// The session of the process that an IRP was made for: there is session 0. UNSUCCESSFUL if the IRP has no thread.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoGetRequestorSessionId(irp: Ptr<IRP>, session_id: Ptr<u32>) -> NtStatus {
        if requestor(irp).is_null() {
            session_id.write(u32::MAX);
            return NtStatus::UNSUCCESSFUL;
        }
        session_id.write(0);
        NtStatus::SUCCESS
    }

    /// Whether WDM of at least that version is there: it is 6.0, Windows Vista's and later.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoIsWdmVersionAvailable(major_version: UChar, minor_version: UChar) -> Boolean {
        major_version < 6 || major_version == 6 && minor_version == 0
    }

    /// The machine's configuration, which drivers count up.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoGetConfigurationInformation() -> Ptr<CONFIGURATION_INFORMATION> {
        CONFIGURATION.ptr()
    }

    /// The highest address of the current thread's stack.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoGetInitialStack() -> Ptr<u8> {
        Ptr::new(stack_limits().1)
    }

    /// Opens or makes a signalled synchronization event of that name; NULL if the name is another object's.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoCreateSynchronizationEvent(event_name: UnicodeStringPtr, event_handle: Ptr<Word>) -> Ptr<KEVENT> {
        event(event_name.0, crate::nt::dispatcher::SYNCHRONIZATION_EVENT, event_handle)
    }

    /// Opens or makes a signalled notification event of that name; NULL if the name is another object's.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoCreateNotificationEvent(event_name: UnicodeStringPtr, event_handle: Ptr<Word>) -> Ptr<KEVENT> {
        event(event_name.0, crate::nt::dispatcher::NOTIFICATION_EVENT, event_handle)
    }

    /// Queues a popup: nobody sees one, it is a finding in the trace.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn IoRaiseInformationalHardError(error_status: NtStatus, string: UnicodeStringPtr, thread: Ptr<u8>) -> Boolean {
        let text = unicode_text(string.0);
        crate::finding(&[u64::from(error_status.0)], &format!("informational hard error {error_status} '{text}'"));
        true
    }

    /// Asks the user what to do about a failed IRP. Nobody answers, which NT takes for "cancel": the IRP is completed
    /// with its status.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn IoRaiseHardError(irp: Ptr<IRP>, vpb: Ptr<u8>, real_device: Ptr<DEVICE_OBJECT>) {
        let status = irp::status_of(irp);
        crate::finding(&[irp.addr(), u64::from(status.0)], &format!("hard error {status}"));
        irp.with(|irp| irp.IoStatus.Information = 0);
        irp::complete(irp);
    }

    /// Remembers the device that an IRP's thread is to verify.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoSetHardErrorOrVerifyDevice(irp: Ptr<IRP>, device: Ptr<DEVICE_OBJECT>) {
        VERIFY.ptr().write(device.word());
    }

    /// The device that a thread is to verify.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoGetDeviceToVerify(thread: Ptr<u8>) -> Ptr<DEVICE_OBJECT> {
        Ptr::new(crate::raw::from_word(VERIFY.ptr().read()))
    }

    /// Sets the device that a thread is to verify.
    ntoskrnl both stdcall irql(DISPATCH_LEVEL) implemented
    fn IoSetDeviceToVerify(thread: Ptr<u8>, device: Ptr<DEVICE_OBJECT>) {
        VERIFY.ptr().write(device.word());
    }

    /// Makes a file without a name on a device, for a driver's own streams. With a handle, IRP_MJ_CLEANUP follows at once.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoCreateStreamFileObject(file: Ptr<FILE_OBJECT>, device: Ptr<DEVICE_OBJECT>) -> Ptr<FILE_OBJECT> {
        super::file::stream(file, device, true)
    }

    /// As IoCreateStreamFileObject, without IRP_MJ_CLEANUP.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn IoCreateStreamFileObjectLite(file: Ptr<FILE_OBJECT>, device: Ptr<DEVICE_OBJECT>) -> Ptr<FILE_OBJECT> {
        super::file::stream(file, device, false)
    }
}

/// The device that is to be verified.
static VERIFY: DataCell<Word> = DataCell::new(0);

/// The current stack: the boot stack, or whatever region the caller's stack pointer lies in.
fn stack_limits() -> (u64, u64) {
    let low = shared::kernel_base() + layout::STACK;
    (low, low + layout::STACK_SIZE)
}
