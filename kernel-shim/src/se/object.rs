//! Security descriptors of objects: making, asking, changing.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::access;
use super::ace::MANDATORY_LABEL;
use super::acl::{self, Ace};
use super::descriptor::{
    self, DACL_DEFAULTED, DACL_PRESENT, GROUP_DEFAULTED, OWNER_DEFAULTED, Parts, RELATIVE_BYTES,
    SACL_DEFAULTED, SACL_PRESENT,
};
use super::token::{Token, well_known};
use crate::api::nt_api;
use crate::ex::pool;
use crate::io::driver;
use crate::io::file::map_access;
use crate::nt::{ACE_HEADER, DEVICE_OBJECT, FILE_OBJECT, GENERIC_MAPPING, NtStatus};
use crate::ob::{self, ObjectType, handles};
use crate::raw::{Global, Ptr, Word, low32};
use crate::shared;
use crate::value::{Boolean, Handle, ProcessorMode, ULong};

/// OWNER_SECURITY_INFORMATION.
const OWNER: u32 = 1;
/// GROUP_SECURITY_INFORMATION.
const GROUP: u32 = 2;
/// DACL_SECURITY_INFORMATION.
const DACL: u32 = 4;
/// SACL_SECURITY_INFORMATION.
const SACL: u32 = 8;
/// LABEL_SECURITY_INFORMATION: of the system ACL the mandatory label.
const LABEL: u32 = 0x10;
/// FILE_DEVICE_SECURE_OPEN.
const FILE_DEVICE_SECURE_OPEN: u32 = 0x100;

/// Self-relative descriptors of objects that were given one, by body.
static DESCRIPTORS: Global<BTreeMap<u64, Vec<u8>>> =
    Global::new("object security", BTreeMap::new());

pub(super) fn initialize() {
    DESCRIPTORS.with(BTreeMap::clear);
}

/// An object is gone.
pub fn forget(body: u64) {
    DESCRIPTORS.with(|all| all.remove(&body));
}

/// What an object has that nobody gave a descriptor: Administrators own it and may do everything, as LocalSystem may,
/// and everyone may read; a device also write and execute.
fn default_descriptor(body: u64) -> Vec<u8> {
    let everyone = if ob::type_of(body) == Some(ObjectType::Device) {
        0x0012_01BF
    } else {
        0x0012_0089
    };
    let allow = |mask, sid| Ace {
        kind: acl::ALLOWED,
        flags: 0,
        mask,
        sid,
    };
    let mut owner = well_known::administrators().bytes();
    let mut group = well_known::system().bytes();
    let mut dacl = acl::build(&[
        allow(0x001F_01FF, well_known::system()),
        allow(0x001F_01FF, well_known::administrators()),
        allow(everyone, well_known::world()),
    ]);
    relative(DACL_PRESENT, &mut owner, &mut group, None, Some(&mut dacl))
}

/// A self-relative descriptor of parts of the shim's own.
pub(super) fn relative(
    control: u16,
    owner: &mut [u8],
    group: &mut [u8],
    sacl: Option<&mut Vec<u8>>,
    dacl: Option<&mut Vec<u8>>,
) -> Vec<u8> {
    let mut bytes = alloc::vec![0; crate::raw::to_usize(RELATIVE_BYTES)];
    let mut append = |part: &[u8]| {
        if part.is_empty() {
            return 0;
        }
        let offset = low32(bytes.len() as u64);
        bytes.extend_from_slice(part);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        offset
    };
    let sacl = sacl.map_or(0, |part| append(part));
    let dacl = dacl.map_or(0, |part| append(part));
    let owner = append(owner);
    let group = append(group);
    bytes[0] = 1;
    bytes[2..4].copy_from_slice(&(control | descriptor::SELF_RELATIVE).to_le_bytes());
    for (index, offset) in [owner, group, sacl, dacl].into_iter().enumerate() {
        bytes[4 + 4 * index..8 + 4 * index].copy_from_slice(&offset.to_le_bytes());
    }
    bytes
}

/// The parts of a descriptor that are asked for; the rest is absent.
fn select(parts: &Parts, information: u32) -> Parts {
    let keep = |bit: u32, part: Ptr<u8>| {
        if information & bit == 0 {
            Ptr::null()
        } else {
            part
        }
    };
    let mut control = parts.control;
    for (bit, flags) in [
        (OWNER, OWNER_DEFAULTED),
        (GROUP, GROUP_DEFAULTED),
        (DACL, DACL_PRESENT | DACL_DEFAULTED),
        (SACL, SACL_PRESENT | SACL_DEFAULTED),
    ] {
        if information & bit == 0 {
            control &= !flags;
        }
    }
    Parts {
        control,
        owner: keep(OWNER, parts.owner),
        group: keep(GROUP, parts.group),
        sacl: keep(SACL, parts.sacl),
        dacl: keep(DACL, parts.dacl),
    }
}

/// `old` with the parts that are named taken from `new`.
fn merge(old: &Parts, new: &Parts, information: u32) -> Parts {
    let (kept, taken) = (select(old, !information), select(new, information));
    let either =
        |bit: u32, new: Ptr<u8>, old: Ptr<u8>| if information & bit == 0 { old } else { new };
    Parts {
        control: kept.control | taken.control & !descriptor::SELF_RELATIVE,
        owner: either(OWNER, taken.owner, kept.owner),
        group: either(GROUP, taken.group, kept.group),
        sacl: either(SACL, taken.sacl, kept.sacl),
        dacl: either(DACL, taken.dacl, kept.dacl),
    }
}

/// Works on the descriptor of an object, at an address.
fn with_descriptor<R>(body: u64, work: impl FnOnce(Ptr<u8>) -> R) -> R {
    let mut bytes = DESCRIPTORS
        .with(|all| all.get(&body).cloned())
        .unwrap_or_else(|| default_descriptor(body));
    // On i386 shim memory must be below 4 GiB for a Ptr; its heap is.
    work(Ptr::of(&mut bytes[0]))
}

/// The ACEs of a system ACL that are mandatory labels, or those that are not, as an ACL.
fn labels(sacl: Ptr<u8>, are_wanted: bool) -> Vec<Vec<u8>> {
    let aces = sacl.non_null().map(acl::aces).unwrap_or_default();
    aces.into_iter()
        .filter(|ace| (ace.read() == MANDATORY_LABEL) == are_wanted)
        .map(|ace| {
            let bytes = ace.cast::<ACE_HEADER>().read().AceSize;
            ace.read_slice(usize::from(bytes))
        })
        .collect()
}

/// `parts` with a system ACL of these ACEs, as a self-relative descriptor.
fn with_sacl(mut parts: Parts, aces: &[Vec<u8>]) -> Vec<u8> {
    let mut sacl = acl::build_raw(aces);
    parts.control |= SACL_PRESENT;
    parts.sacl = Ptr::of(&mut sacl[0]);
    parts.to_relative()
}

fn query(body: u64, information: u32, target: Ptr<u8>, length: u32, needed: Ptr<u32>) -> NtStatus {
    let bytes = with_descriptor(body, |descriptor| {
        let all = Parts::read(descriptor);
        let label = labels(all.sacl, true);
        if information & (LABEL | SACL) == LABEL && !label.is_empty() {
            return with_sacl(select(&all, information), &label);
        }
        select(&all, information).to_relative()
    });
    needed.write(low32(bytes.len() as u64));
    if (length as usize) < bytes.len() {
        return NtStatus::BUFFER_TOO_SMALL;
    }
    target.write_bytes(&bytes);
    NtStatus::SUCCESS
}

fn set(body: u64, information: u32, modification: Ptr<u8>) -> NtStatus {
    if modification.is_null() {
        return NtStatus::ACCESS_VIOLATION;
    }
    if modification.read() != 1 {
        return NtStatus::UNKNOWN_REVISION;
    }
    if !descriptor::is_valid(modification) {
        return NtStatus::INVALID_SECURITY_DESCR;
    }
    let new = Parts::read(modification);
    if information & OWNER != 0 && new.owner.is_null() {
        return NtStatus::INVALID_OWNER;
    }
    let bytes = with_descriptor(body, |old| {
        let old = Parts::read(old);
        let merged = merge(&old, &new, information);
        if information & (LABEL | SACL) == LABEL {
            // The label alone: what else the system ACL has stays.
            let mut aces = labels(new.sacl, true);
            aces.extend(labels(old.sacl, false));
            return with_sacl(merged, &aces);
        }
        merged.to_relative()
    });
    DESCRIPTORS.with(|all| all.insert(body, bytes));
    NtStatus::SUCCESS
}

fn body_of(handle: u64) -> Result<u64, NtStatus> {
    match low32(handle).cast_signed() {
        -1 => Ok(crate::ps::current_process().addr()),
        -2 => Ok(crate::ps::current_thread().addr()),
        _ => handles::lookup(shared::current_process(), handle)
            .map(|entry| secured(entry.body))
            .ok_or(NtStatus::INVALID_HANDLE),
    }
}

/// The object whose descriptor counts: for a file that is a device itself, the device.
fn secured(body: u64) -> u64 {
    if ob::type_of(body) != Some(ObjectType::File) || crate::fs::opened(body).is_some() {
        return body;
    }
    let file = Ptr::<FILE_OBJECT>::new(body).read();
    if file.FileName.Length == 0 && !file.DeviceObject.is_null() {
        file.DeviceObject.addr()
    } else {
        body
    }
}

/// Whether a token may open a device for `desired`: the access granted. A name behind the device's own is the driver's
/// to judge, unless the device is FILE_DEVICE_SECURE_OPEN.
///
/// # Errors
/// ACCESS_DENIED and the like.
pub fn check_open(
    device: Ptr<DEVICE_OBJECT>,
    rest: &str,
    desired: u32,
    token: &Token,
) -> Result<u32, NtStatus> {
    let is_device_itself = rest.is_empty();
    let is_secure = device.read().Characteristics & FILE_DEVICE_SECURE_OPEN != 0;
    if desired == 0 || !is_device_itself && !is_secure {
        return Ok(map_access(desired));
    }
    let [read, write, execute, all] = ob::types::generic_mapping(ObjectType::File);
    let mapping = GENERIC_MAPPING {
        GenericRead: read,
        GenericWrite: write,
        GenericExecute: execute,
        GenericAll: all,
    };
    let verdict = with_descriptor(device.addr(), |descriptor| {
        access::check(descriptor, token, desired, 0, &mapping)
    });
    if verdict.status.is_success() {
        Ok(verdict.granted)
    } else {
        Err(verdict.status)
    }
}

/// A block of the driver's with these bytes; null when the pool is exhausted.
pub(super) fn driver_block(bytes: &[u8]) -> Ptr<u8> {
    let owner = driver::owner_of(shared::caller());
    let block = pool::allocate(bytes.len() as u64, u32::from_le_bytes(*b"SeSd"), owner);
    if !block.is_null() {
        block.write_bytes(bytes);
    }
    block
}

nt_api! { module = se_object;
    /// ZwQuerySecurityObject. BUFFER_TOO_SMALL: the length says what is needed.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwQuerySecurityObject(
        handle: Handle, security_information: ULong, security_descriptor: Ptr<u8>, length: ULong,
        length_needed: Ptr<u32>,
    ) -> NtStatus {
        match body_of(handle.0) {
            Ok(body) => query(body, security_information, security_descriptor, length, length_needed),
            Err(status) => status,
        }
    }

    /// NtQuerySecurityObject: the kernel's caller is trusted.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn NtQuerySecurityObject(
        handle: Handle, security_information: ULong, security_descriptor: Ptr<u8>, length: ULong,
        length_needed: Ptr<u32>,
    ) -> NtStatus {
        ZwQuerySecurityObject(handle, security_information, security_descriptor, length, length_needed)
    }

    /// ZwSetSecurityObject.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ZwSetSecurityObject(handle: Handle, security_information: ULong, security_descriptor: Ptr<u8>) -> NtStatus {
        match body_of(handle.0) {
            Ok(body) => set(body, security_information, security_descriptor),
            Err(status) => status,
        }
    }

    /// NtSetSecurityObject: the kernel's caller is trusted.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn NtSetSecurityObject(handle: Handle, security_information: ULong, security_descriptor: Ptr<u8>) -> NtStatus {
        ZwSetSecurityObject(handle, security_information, security_descriptor)
    }

    /// ObSetSecurityObjectByPointer. What a device gets decides who may open it.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ObSetSecurityObjectByPointer(
        object: Ptr<u8>, security_information: ULong, security_descriptor: Ptr<u8>,
    ) -> NtStatus {
        set(object.addr(), security_information, security_descriptor)
    }

    /// ObGetObjectSecurity: the object's descriptor, which ObReleaseObjectSecurity frees.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ObGetObjectSecurity(object: Ptr<u8>, security_descriptor: Ptr<Word>, memory_allocated: Ptr<u8>) -> NtStatus {
        if ob::lookup(object.addr()).is_none() {
            return NtStatus::INVALID_PARAMETER;
        }
        let bytes = with_descriptor(object.addr(), |descriptor| Parts::read(descriptor).to_relative());
        let block = driver_block(&bytes);
        if block.is_null() {
            return NtStatus::INSUFFICIENT_RESOURCES;
        }
        security_descriptor.write(block.word());
        memory_allocated.write(1);
        NtStatus::SUCCESS
    }

    /// ObReleaseObjectSecurity.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn ObReleaseObjectSecurity(security_descriptor: Ptr<u8>, memory_allocated: Boolean) {
        if memory_allocated && !security_descriptor.is_null() {
            pool::free(security_descriptor, 0);
        }
    }

    /// SeCaptureSecurityDescriptor: a checked self-relative copy; the kernel's own is taken as it is unless asked
    /// otherwise.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn SeCaptureSecurityDescriptor(
        original: Ptr<u8>, current_mode: ProcessorMode, pool_type: ULong, capture_if_kernel: Boolean,
        captured: Ptr<Word>,
    ) -> NtStatus {
        if original.is_null() || current_mode.0 == 0 && !capture_if_kernel {
            captured.write(original.word());
            return NtStatus::SUCCESS;
        }
        if original.read() != 1 {
            return NtStatus::UNKNOWN_REVISION;
        }
        let parts = Parts::read(original);
        for sid in [parts.owner, parts.group] {
            if !sid.is_null() && !super::sid::RtlValidSid(sid) {
                return NtStatus::INVALID_SID;
            }
        }
        for part in [parts.sacl, parts.dacl] {
            if !part.is_null() && !acl::is_valid(part) {
                return NtStatus::INVALID_ACL;
            }
        }
        let block = driver_block(&parts.to_relative());
        if block.is_null() {
            return NtStatus::INSUFFICIENT_RESOURCES;
        }
        captured.write(block.word());
        NtStatus::SUCCESS
    }

    /// SeReleaseSecurityDescriptor: frees what SeCaptureSecurityDescriptor copied.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn SeReleaseSecurityDescriptor(
        captured: Ptr<u8>, current_mode: ProcessorMode, capture_if_kernel: Boolean,
    ) -> NtStatus {
        if !captured.is_null() && (current_mode.0 != 0 || capture_if_kernel) {
            pool::free(captured, 0);
        }
        NtStatus::SUCCESS
    }

    /// SeValidSecurityDescriptor: of a self-relative descriptor.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn SeValidSecurityDescriptor(length: ULong, security_descriptor: Ptr<u8>) -> Boolean {
        descriptor::is_valid_relative(security_descriptor, u64::from(length), 0)
    }

    /// SeQuerySecurityDescriptorInfo: the parts asked for of a descriptor. BUFFER_TOO_SMALL: the length says what is
    /// needed.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn SeQuerySecurityDescriptorInfo(
        security_information: Ptr<u32>, security_descriptor: Ptr<u8>, length: Ptr<u32>,
        objects_security_descriptor: Ptr<Word>,
    ) -> NtStatus {
        let object = Ptr::<u8>::new(crate::raw::from_word(objects_security_descriptor.read()));
        let parts = object.non_null().map(Parts::read).unwrap_or_default();
        let bytes = select(&parts, security_information.read()).to_relative();
        let available = length.read();
        length.write(low32(bytes.len() as u64));
        if (available as usize) < bytes.len() {
            return NtStatus::BUFFER_TOO_SMALL;
        }
        security_descriptor.write_bytes(&bytes);
        NtStatus::SUCCESS
    }

    /// SeSetSecurityDescriptorInfo: a new descriptor in place of the old one, which the caller frees.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) partial("nothing is inherited anew")
    fn SeSetSecurityDescriptorInfo(
        object: Ptr<u8>, security_information: Ptr<u32>, modification_descriptor: Ptr<u8>,
        objects_security_descriptor: Ptr<Word>, pool_type: ULong, generic_mapping: Ptr<GENERIC_MAPPING>,
    ) -> NtStatus {
        let old = Ptr::<u8>::new(crate::raw::from_word(objects_security_descriptor.read()));
        if old.is_null() {
            return NtStatus::NO_SECURITY_ON_OBJECT;
        }
        let (old, new) = (Parts::read(old), Parts::read(modification_descriptor));
        let information = security_information.read();
        if information & OWNER != 0 && new.owner.is_null() {
            return NtStatus::INVALID_OWNER;
        }
        let block = driver_block(&merge(&old, &new, information).to_relative());
        if block.is_null() {
            return NtStatus::INSUFFICIENT_RESOURCES;
        }
        objects_security_descriptor.write(block.word());
        NtStatus::SUCCESS
    }

    /// SeAuditingFileEvents: nothing is audited, as on a system whose audit policy is empty.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn SeAuditingFileEvents(access_granted: Boolean, security_descriptor: Ptr<u8>) -> Boolean {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::se::token;
    use crate::test_platform::machine;

    #[test]
    fn a_devices_descriptor_says_who_may_open_it() {
        const WRITE: u32 = 0xC000_0000;
        let _machine = machine();
        assert!(crate::ps::create(8).is_success());
        let client = token::get(token::of_process(crate::ps::by_id(8).unwrap())).unwrap();
        let bytes = size_of::<DEVICE_OBJECT>() as u64;
        let body = ob::create(ObjectType::Device, bytes, None).unwrap();
        let device = Ptr::<DEVICE_OBJECT>::new(body);
        assert_eq!(check_open(device, "", WRITE, &client), Ok(0x0012_019F));
        let mut dacl = acl::build(&[Ace {
            kind: acl::ALLOWED,
            flags: 0,
            mask: 0x001F_01FF,
            sid: well_known::system(),
        }]);
        let mut owner = well_known::system().bytes();
        let mut group = owner.clone();
        let mut descriptor = relative(DACL_PRESENT, &mut owner, &mut group, None, Some(&mut dacl));
        assert_eq!(
            set(body, DACL, Ptr::of(&mut descriptor[0])),
            NtStatus::SUCCESS
        );
        let denied = Err(NtStatus::ACCESS_DENIED);
        assert_eq!(check_open(device, "", WRITE, &client), denied);
        assert_eq!(check_open(device, "\\x", WRITE, &client), Ok(0x0012_019F));
        device.with(|device| device.Characteristics |= FILE_DEVICE_SECURE_OPEN);
        assert_eq!(check_open(device, "\\x", WRITE, &client), denied);
        let system = token::get(token::of_process(crate::ps::process::system().cast())).unwrap();
        assert_eq!(check_open(device, "", WRITE, &system), Ok(0x0012_019F));
        ob::dereference(body);
    }
}
