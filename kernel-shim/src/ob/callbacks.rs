//! Object callbacks: drivers that are asked before, and told after, a handle of a process or thread is made.
//!
//! Such handles are made by ObOpenObjectByPointer and ZwDuplicateObject. PsCreateSystemThread asks nobody, and clients'
//! own handles of processes and threads are the host's.

use alloc::vec::Vec;
use core::cmp::Ordering;

use super::{ObjectType, types};
use crate::api::nt_api;
use crate::nt::{NtStatus, UNICODE_STRING};
use crate::raw::{Global, Ptr, Word, from_word, to_word, unicode_text};
use crate::shared;
use abi::trace::Entry;

/// OB_FLT_REGISTRATION_VERSION.
const VERSION: u16 = 0x100;
/// OB_OPERATION_HANDLE_CREATE.
pub(super) const CREATE: u32 = 1;
/// OB_OPERATION_HANDLE_DUPLICATE.
pub(super) const DUPLICATE: u32 = 2;

/// OB_CALLBACK_REGISTRATION.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct OB_CALLBACK_REGISTRATION {
    /// 0x100.
    pub Version: u16,
    /// Entries of OperationRegistration.
    pub OperationRegistrationCount: u16,
    /// Decimal number that orders registrations.
    pub Altitude: UNICODE_STRING,
    /// For the routines.
    pub RegistrationContext: Word,
    /// Types, operations and routines.
    pub OperationRegistration: Ptr<OB_OPERATION_REGISTRATION>,
}

/// OB_OPERATION_REGISTRATION.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct OB_OPERATION_REGISTRATION {
    /// PsProcessType or PsThreadType.
    pub ObjectType: Ptr<Ptr<u8>>,
    /// OB_OPERATION_ flags.
    pub Operations: u32,
    /// Asked before; may be null.
    pub PreOperation: Word,
    /// Told after; may be null.
    pub PostOperation: Word,
}

/// OB_PRE_OPERATION_INFORMATION, and OB_POST_OPERATION_INFORMATION, which has ReturnStatus before Parameters.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct PreInformation {
    Operation: u32,
    Flags: u32,
    Object: Word,
    ObjectType: Word,
    CallContext: Word,
    Parameters: Ptr<Parameters>,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct PostInformation {
    Operation: u32,
    Flags: u32,
    Object: Word,
    ObjectType: Word,
    CallContext: Word,
    ReturnStatus: NtStatus,
    Parameters: Ptr<u32>,
}

/// OB_PRE_OPERATION_PARAMETERS: the processes are those of a duplication.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Parameters {
    DesiredAccess: u32,
    OriginalDesiredAccess: u32,
    SourceProcess: Word,
    TargetProcess: Word,
}

const _: () = {
    const fn per_abi(i386: usize, amd64: usize) -> usize {
        if cfg!(nt_i386) { i386 } else { amd64 }
    }
    assert!(size_of::<OB_CALLBACK_REGISTRATION>() == per_abi(20, 40));
    assert!(size_of::<OB_OPERATION_REGISTRATION>() == per_abi(16, 32));
    assert!(size_of::<PreInformation>() == per_abi(24, 40));
    assert!(size_of::<PostInformation>() == per_abi(28, 48));
    assert!(size_of::<Parameters>() == per_abi(16, 24));
};

/// One operation's routines.
#[derive(Clone, Copy, Debug)]
struct Registered {
    kind: ObjectType,
    operations: u32,
    pre: u64,
    post: u64,
}

#[derive(Clone, Debug)]
struct Registration {
    handle: u64,
    altitude: Vec<u8>,
    context: u64,
    operations: Vec<Registered>,
}

/// Registrations, the highest altitude first, and how many there have been.
static REGISTRATIONS: Global<(Vec<Registration>, u64)> =
    Global::new("object callbacks", (Vec::new(), 0));

pub(super) fn initialize() {
    REGISTRATIONS.with(|all| *all = (Vec::new(), 0));
}

/// Compares decimal numbers as texts; what is behind the point is compared digit by digit.
fn compare(one: &[u8], other: &[u8]) -> Ordering {
    let parts = |text: &[u8]| {
        let point = text
            .iter()
            .position(|&byte| byte == b'.')
            .unwrap_or(text.len());
        let whole: Vec<u8> = text
            .iter()
            .take(point)
            .copied()
            .skip_while(|&b| b == b'0')
            .collect();
        let mut rest: Vec<u8> = text.iter().skip(point + 1).copied().collect();
        while rest.last() == Some(&b'0') {
            rest.pop();
        }
        (whole.len(), whole, rest)
    };
    parts(one).cmp(&parts(other))
}

fn read(registration: Ptr<OB_CALLBACK_REGISTRATION>) -> Result<Registration, NtStatus> {
    let given = registration.read();
    if given.Version != VERSION || given.OperationRegistrationCount == 0 {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    let altitude_at = registration
        .add_bytes(core::mem::offset_of!(OB_CALLBACK_REGISTRATION, Altitude) as u64)
        .cast();
    let altitude = unicode_text(altitude_at).into_bytes();
    let mut operations = Vec::new();
    for index in 0..i64::from(given.OperationRegistrationCount) {
        let one = given.OperationRegistration.offset(index).read();
        let wanted = one.ObjectType.read();
        let kind = [ObjectType::Process, ObjectType::Thread]
            .into_iter()
            .find(|&kind| types::object(kind) == wanted);
        let is_valid = one.Operations != 0
            && one.Operations & !(CREATE | DUPLICATE) == 0
            && (one.PreOperation != 0 || one.PostOperation != 0);
        let kind = kind
            .filter(|_| is_valid)
            .ok_or(NtStatus::INVALID_PARAMETER)?;
        operations.push(Registered {
            kind,
            operations: one.Operations,
            pre: from_word(one.PreOperation),
            post: from_word(one.PostOperation),
        });
    }
    Ok(Registration {
        handle: 0,
        altitude,
        context: from_word(given.RegistrationContext),
        operations,
    })
}

/// Adds a registration; its handle.
fn register(registration: Ptr<OB_CALLBACK_REGISTRATION>) -> Result<u64, NtStatus> {
    let mut new = read(registration)?;
    REGISTRATIONS.with(|(all, made)| {
        let place = all
            .iter()
            .map(|other| compare(&new.altitude, &other.altitude))
            .position(|order| order != Ordering::Less)
            .unwrap_or(all.len());
        let is_taken = all
            .get(place)
            .is_some_and(|other| compare(&new.altitude, &other.altitude) == Ordering::Equal);
        if is_taken {
            return Err(NtStatus::FLT_INSTANCE_ALTITUDE_COLLISION);
        }
        *made += 1;
        new.handle = *made * 16;
        let handle = new.handle;
        all.insert(place, new);
        Ok(handle)
    })
}

/// A handle that is about to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Making {
    pub(crate) operation: u32,
    pub(crate) kind: ObjectType,
    pub(crate) body: u64,
    /// Mapped access that is wanted.
    pub(crate) access: u32,
    pub(crate) is_kernel: bool,
    /// Bodies of the processes of a duplication.
    pub(crate) processes: [u64; 2],
}

/// What has to be told to the routines once the handle is made.
#[derive(Debug)]
pub(crate) struct Told {
    making: Making,
    /// Access that is granted.
    pub(crate) access: u32,
    /// Routine, registration context, call context.
    post: Vec<(u64, u64, Word)>,
}

impl Making {
    /// Asks the routines, the highest altitude first: they may take rights away, but for kernel handles.
    pub(crate) fn ask(self) -> Told {
        let mut told = Told {
            making: self,
            access: self.access,
            post: Vec::new(),
        };
        let asked: Vec<(u64, Registered)> = REGISTRATIONS.with(|(all, _)| {
            let wanted =
                |one: &&Registered| one.kind == self.kind && one.operations & self.operation != 0;
            all.iter()
                .flat_map(|all| {
                    all.operations
                        .iter()
                        .filter(wanted)
                        .map(|one| (all.context, *one))
                })
                .collect()
        });
        for (context, one) in asked {
            let mut call_context = 0;
            if one.pre != 0 {
                let mut parameters = Parameters {
                    DesiredAccess: told.access,
                    OriginalDesiredAccess: self.access,
                    SourceProcess: to_word(self.processes[0]),
                    TargetProcess: to_word(self.processes[1]),
                };
                let parameters = Ptr::of(&mut parameters);
                let mut information = PreInformation {
                    Operation: self.operation,
                    Flags: u32::from(self.is_kernel),
                    Object: to_word(self.body),
                    ObjectType: types::object(self.kind).word(),
                    CallContext: 0,
                    Parameters: parameters,
                };
                let information = Ptr::of(&mut information);
                // The result is always OB_PREOP_SUCCESS: there is no other.
                shared::call_driver(Entry::Other, one.pre, &[context, information.addr()]);
                call_context = information.read().CallContext;
                if !self.is_kernel {
                    told.access &= parameters.read().DesiredAccess;
                }
            }
            if one.post != 0 {
                told.post.push((one.post, context, call_context));
            }
        }
        told
    }
}

impl Told {
    /// Tells the routines, the lowest altitude first.
    pub(crate) fn tell(self) {
        for (routine, context, call_context) in self.post.into_iter().rev() {
            let mut granted = self.access;
            let mut information = PostInformation {
                Operation: self.making.operation,
                Flags: u32::from(self.making.is_kernel),
                Object: to_word(self.making.body),
                ObjectType: types::object(self.making.kind).word(),
                CallContext: call_context,
                ReturnStatus: NtStatus::SUCCESS,
                Parameters: Ptr::of(&mut granted),
            };
            let information = Ptr::of(&mut information);
            shared::call_driver(Entry::Other, routine, &[context, information.addr()]);
        }
    }
}

nt_api! { module = ob_callbacks;
    /// Registers routines that are asked before a handle of a process or thread is made, and may take rights away, and
    /// told after. INVALID_PARAMETER: another type, operation or version. FLT_INSTANCE_ALTITUDE_COLLISION: the altitude
    /// is another's. NT wants a signed image too.
    ntoskrnl both stdcall irql(APC_LEVEL) partial("PsCreateSystemThread and the host's processes ask nobody")
    fn ObRegisterCallbacks(
        callback_registration: Ptr<OB_CALLBACK_REGISTRATION>, registration_handle: Ptr<Word>,
    ) -> NtStatus {
        match register(callback_registration) {
            Ok(handle) => {
                registration_handle.write(to_word(handle));
                NtStatus::SUCCESS
            }
            Err(status) => status,
        }
    }

    /// Takes a registration back.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn ObUnRegisterCallbacks(registration_handle: Ptr<u8>) {
        let handle = registration_handle.addr();
        REGISTRATIONS.with(|(all, _)| all.retain(|registration| registration.handle != handle));
    }

    /// The version of object callbacks: 0x100.
    ntoskrnl both stdcall irql(APC_LEVEL) implemented
    fn ObGetFilterVersion() -> crate::value::UShort {
        VERSION
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ob::{api::ObOpenObjectByPointer, handles};
    use crate::test_platform::machine;
    use crate::value::ProcessorMode;
    use std::sync::Mutex;

    /// Context, operation, kernel handle, access or granted access, call context.
    type Seen = (u64, u32, u32, u32, Word);
    static SEEN: Mutex<Vec<Seen>> = Mutex::new(Vec::new());

    extern "win64-unwind" fn before(context: u64, information: u64) -> u64 {
        let at = Ptr::<PreInformation>::new(information);
        let information = at.read();
        let access = information.Parameters.read().DesiredAccess;
        SEEN.lock()
            .unwrap()
            .push((context, information.Operation, information.Flags, access, 0));
        // PROCESS_TERMINATE goes, and a right that was not asked for does not come.
        information
            .Parameters
            .with(|it| it.DesiredAccess = (it.DesiredAccess & !1) | 0x8000);
        at.with(|it| it.CallContext = context + 1);
        0
    }

    extern "win64-unwind" fn after(context: u64, information: u64) -> u64 {
        let information = Ptr::<PostInformation>::new(information).read();
        let granted = information.Parameters.read();
        let seen = (
            context,
            information.Operation,
            information.Flags,
            granted,
            information.CallContext,
        );
        SEEN.lock().unwrap().push(seen);
        0
    }

    fn add(altitude: &str, context: Word, operations: u32, version: u16) -> Result<u64, NtStatus> {
        let mut units: Vec<u16> = altitude.encode_utf16().collect();
        let bytes = crate::raw::low16(units.len() as u64 * 2);
        let mut variable = types::object(ObjectType::Process);
        let mut operation = OB_OPERATION_REGISTRATION {
            ObjectType: Ptr::of(&mut variable),
            Operations: operations,
            PreOperation: before as *const () as u64,
            PostOperation: after as *const () as u64,
        };
        let mut registration = OB_CALLBACK_REGISTRATION {
            Version: version,
            OperationRegistrationCount: 1,
            Altitude: UNICODE_STRING {
                Length: bytes,
                MaximumLength: bytes,
                Buffer: Ptr::of(&mut units[0]),
            },
            RegistrationContext: context,
            OperationRegistration: Ptr::of(&mut operation),
        };
        let mut handle: Word = 0;
        let handle_at = Ptr::of(&mut handle);
        match ObRegisterCallbacks(Ptr::of(&mut registration), handle_at) {
            NtStatus::SUCCESS => Ok(from_word(handle_at.read())),
            status => Err(status),
        }
    }

    /// The access of a handle of the System process that is opened with `desired`.
    fn open(desired: u32, attributes: u32) -> u32 {
        let process = crate::ps::current_process();
        let mut handle: Word = 0;
        let at = Ptr::of(&mut handle);
        let (null, mode) = (Ptr::null(), ProcessorMode(0));
        let status =
            ObOpenObjectByPointer(process.cast(), attributes, null, desired, null, mode, at);
        assert_eq!(status, NtStatus::SUCCESS);
        let handle = from_word(at.read());
        handles::lookup(shared::current_process(), handle)
            .unwrap()
            .access
    }

    #[test]
    fn routines_take_rights_away_in_the_order_of_altitude() {
        let _machine = machine();
        assert_eq!(
            add("100", 1, CREATE, 0x200),
            Err(NtStatus::INVALID_PARAMETER)
        );
        assert_eq!(add("100", 1, 4, VERSION), Err(NtStatus::INVALID_PARAMETER));
        let low = add("100", 10, CREATE, VERSION).unwrap();
        let high = add("1000.5", 20, CREATE | DUPLICATE, VERSION).unwrap();
        let collision = NtStatus::FLT_INSTANCE_ALTITUDE_COLLISION;
        assert_eq!(add("1000.50", 30, CREATE, VERSION), Err(collision));
        SEEN.lock().unwrap().clear();
        assert_eq!(open(0x0411, 0), 0x0410);
        let seen = core::mem::take(&mut *SEEN.lock().unwrap());
        let expected = [
            (20, CREATE, 0, 0x411, 0),
            (10, CREATE, 0, 0x410, 0),
            (10, CREATE, 0, 0x410, 11),
            (20, CREATE, 0, 0x410, 21),
        ];
        assert_eq!(seen, expected);
        // OBJ_KERNEL_HANDLE: told of, and nothing is taken away.
        assert_eq!(open(0x0411, 0x200), 0x0411);
        assert_eq!(
            SEEN.lock().unwrap().first(),
            Some(&(20, CREATE, 1, 0x411, 0))
        );
        ObUnRegisterCallbacks(Ptr::new(low));
        ObUnRegisterCallbacks(Ptr::new(high));
        SEEN.lock().unwrap().clear();
        assert_eq!(open(0x0411, 0), 0x0411);
        assert!(SEEN.lock().unwrap().is_empty());
    }
}
