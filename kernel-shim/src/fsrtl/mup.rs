//! The multiple UNC provider: which redirector a UNC name belongs to.
//!
//! `\Device\Mup`, with the link `\??\UNC`, is there once a provider is registered. A name below it is shown to the providers
//! in the order of their registration (IOCTL_REDIR_QUERY_PATH, or _EX for those that registered with a device); the first
//! that accepts a part of it gets the open, and later opens below that part without being asked again.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use crate::api::nt_api;
use crate::io::open::{self, QueryPath};
use crate::nt::{DEVICE_OBJECT, FILE_OBJECT, NtStatus, UNICODE_STRING};
use crate::ob;
use crate::ob::names::{self, Found};
use crate::raw::{Global, Ptr, Word, low16, low32, to_word, unicode_text};
use crate::value::{Boolean, Handle, ULong};

const DEVICE: &str = "\\Device\\Mup";
const LINK: &str = "\\??\\UNC";
/// Provider handles are kernel handles, above all others.
const FIRST_PROVIDER: u64 = 0x8010_0000;
/// IOCTL_REDIR_QUERY_PATH.
const QUERY_PATH: u32 = 0x0014_018F;
/// IOCTL_REDIR_QUERY_PATH_EX.
const QUERY_PATH_EX: u32 = 0x0014_0193;
/// FILE_DEVICE_MULTI_UNC_PROVIDER.
const DEVICE_TYPE: u32 = 0x10;

#[derive(Clone, Debug)]
struct Provider {
    handle: u64,
    /// What FsRtlMupGetProviderInfoFromFileObject tells.
    id: u32,
    name: String,
    /// FsRtlRegisterUncProviderEx's, referenced; 0: found by its name.
    device: u64,
}

#[derive(Debug)]
struct Mup {
    device: u64,
    providers: Vec<Provider>,
    next: u64,
    /// Accepted parts of names, folded, with the provider's id.
    prefixes: BTreeMap<String, u32>,
    /// Files that were opened through here, with the provider's id.
    files: BTreeMap<u64, u32>,
}

static MUP: Global<Mup> = Global::new(
    "multiple UNC provider",
    Mup {
        device: 0,
        providers: Vec::new(),
        next: FIRST_PROVIDER,
        prefixes: BTreeMap::new(),
        files: BTreeMap::new(),
    },
);

pub(super) fn initialize() {
    MUP.with(|mup| {
        mup.device = 0;
        mup.providers.clear();
        mup.next = FIRST_PROVIDER;
        mup.prefixes.clear();
        mup.files.clear();
    });
}

/// Makes the MUP's device, once.
fn make_device() -> Result<(), NtStatus> {
    if MUP.with(|mup| mup.device) != 0 {
        return Ok(());
    }
    let device = crate::fs::bare_device(DEVICE_TYPE)?;
    names::insert_object(DEVICE, device)?;
    names::insert_link(LINK, DEVICE)?;
    MUP.with(|mup| mup.device = device);
    Ok(())
}

fn register(handle: Ptr<Word>, name: Ptr<UNICODE_STRING>, device: Ptr<DEVICE_OBJECT>) -> NtStatus {
    if let Err(status) = make_device() {
        return status;
    }
    let name = unicode_text(name);
    if !device.is_null() {
        ob::reference(device.addr());
        // A device that has no name of its own is reached by the redirector's. One that has is not renamed.
        let has_name = device.read().Flags & crate::nt::DO_DEVICE_HAS_NAME != 0;
        if !has_name && names::insert_object(&name, device.addr()).is_ok() {
            device.with(|device| device.Flags |= crate::nt::DO_DEVICE_HAS_NAME);
        }
    }
    let new = MUP.with(|mup| {
        let new = mup.next;
        mup.next += 4;
        mup.providers.push(Provider {
            handle: new,
            id: low32((new - FIRST_PROVIDER) / 4 + 1),
            name,
            device: device.addr(),
        });
        new
    });
    handle.write(to_word(new));
    NtStatus::SUCCESS
}

/// Whether a folded name is that of a prefix, or below it.
fn is_below(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('\\'))
}

/// The provider that has accepted a part of a name before.
fn known(rest: &str) -> Option<Provider> {
    let folded = names::fold(rest);
    MUP.with(|mup| {
        let mut prefixes = mup.prefixes.iter();
        let (_, id) = prefixes.find(|(prefix, _)| is_below(&folded, prefix))?;
        mup.providers.iter().find(|known| known.id == *id).cloned()
    })
}

/// The provider of a name, and where that leads.
fn claim(rest: &str, access: u32) -> Result<(Found, u32), NtStatus> {
    if let Some(provider) = known(rest) {
        return Ok((target(&provider, rest)?, provider.id));
    }
    for provider in MUP.with(|mup| mup.providers.clone()) {
        let query = QueryPath {
            name: rest,
            access,
            code: if provider.device == 0 {
                QUERY_PATH
            } else {
                QUERY_PATH_EX
            },
        };
        let accepted = if provider.device == 0 {
            open::query_path_by_name(&provider.name, &query)
        } else {
            open::query_path(Ptr::new(provider.device), &query)
        };
        let Some(bytes) = accepted.ok().filter(|&bytes| bytes != 0) else {
            continue;
        };
        let units: Vec<u16> = rest.encode_utf16().take(bytes as usize / 2).collect();
        let prefix = names::fold(&String::from_utf16_lossy(&units));
        MUP.with(|mup| mup.prefixes.insert(prefix, provider.id));
        return Ok((target(&provider, rest)?, provider.id));
    }
    Err(NtStatus::BAD_NETWORK_PATH)
}

/// The provider's device, with the name.
fn target(provider: &Provider, rest: &str) -> Result<Found, NtStatus> {
    if provider.device == 0 {
        return names::resolve(&(provider.name.clone() + rest));
    }
    Ok(Found {
        body: provider.device,
        rest: String::from(rest),
    })
}

/// As [`names::resolve`], with UNC names led to their providers: the provider's id, 0 if there is none.
///
/// # Errors
/// As [`names::resolve`]; BAD_NETWORK_PATH: no provider accepts the name.
pub(crate) fn resolve(name: &str, access: u32) -> Result<(Found, u32), NtStatus> {
    let found = names::resolve(name)?;
    let mup = MUP.with(|mup| mup.device);
    if mup == 0 || found.body != mup {
        return Ok((found, 0));
    }
    if found.rest.is_empty() {
        return Err(NtStatus::INVALID_DEVICE_REQUEST);
    }
    claim(&found.rest, access)
}

/// A file was made for a provider.
pub(crate) fn opened(file: Ptr<FILE_OBJECT>, provider: u32) {
    if provider != 0 {
        MUP.with(|mup| mup.files.insert(file.addr(), provider));
    }
}

/// A file is gone.
pub(crate) fn forget_file(file: Ptr<FILE_OBJECT>) {
    MUP.with(|mup| mup.files.remove(&file.addr()));
}

/// FSRTL_MUP_PROVIDER_INFO_LEVEL_1 or _2: bytes needed, written if they fit.
fn describe(provider: &Provider, level: u32, buffer: Ptr<u8>, room: u32) -> Result<u32, NtStatus> {
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Level2 {
        ProviderId: u32,
        ProviderName: UNICODE_STRING,
    }
    let name: Vec<u8> = provider
        .name
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let fixed = low32(size_of::<Level2>() as u64);
    let bytes = match level {
        1 => 4,
        2 => fixed + low32(name.len() as u64),
        _ => return Err(NtStatus::INVALID_PARAMETER),
    };
    if room < bytes || buffer.is_null() {
        return Ok(bytes);
    }
    if level == 1 {
        buffer.cast::<u32>().write(provider.id);
        return Ok(bytes);
    }
    let text = buffer.add_bytes(u64::from(fixed));
    text.write_bytes(&name);
    let length = low16(name.len() as u64);
    buffer.cast::<Level2>().write(Level2 {
        ProviderId: provider.id,
        ProviderName: UNICODE_STRING {
            Length: length,
            MaximumLength: length,
            Buffer: text.cast(),
        },
    });
    Ok(bytes)
}

nt_api! { module = fsrtl_mup;
    /// Registers a redirector by the name of its device: UNC names are shown to it (IOCTL_REDIR_QUERY_PATH).
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn FsRtlRegisterUncProvider(
        mup_handle: Ptr<Word>,
        redirector_device_name: Ptr<UNICODE_STRING>,
        mailslots_supported: Boolean,
    ) -> NtStatus {
        register(mup_handle, redirector_device_name, Ptr::null())
    }

    /// Registers a redirector with its device: UNC names are shown to it (IOCTL_REDIR_QUERY_PATH_EX).
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn FsRtlRegisterUncProviderEx(
        mup_handle: Ptr<Word>,
        redirector_device_name: Ptr<UNICODE_STRING>,
        device_object: Ptr<DEVICE_OBJECT>,
        flags: ULong,
    ) -> NtStatus {
        if device_object.is_null() {
            return NtStatus::INVALID_PARAMETER;
        }
        register(mup_handle, redirector_device_name, device_object)
    }

    /// Undoes a registration.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn FsRtlDeregisterUncProvider(handle: Handle) {
        let gone = MUP.with(|mup| {
            let position = mup.providers.iter().position(|known| known.handle == handle.0)?;
            let gone = mup.providers.remove(position);
            mup.prefixes.retain(|_, id| *id != gone.id);
            Some(gone)
        });
        if let Some(Provider { device, .. }) = gone.filter(|gone| gone.device != 0) {
            ob::dereference(device);
        }
    }

    /// About the provider of a file that was opened through the MUP: its id (level 1), and its name (level 2).
    /// BUFFER_TOO_SMALL: the size says what is needed. INVALID_PARAMETER: another file, or level.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn FsRtlMupGetProviderInfoFromFileObject(
        file_object: Ptr<FILE_OBJECT>,
        level: ULong,
        buffer: Ptr<u8>,
        buffer_size: Ptr<u32>,
    ) -> NtStatus {
        let provider = MUP.with(|mup| {
            let id = mup.files.get(&file_object.addr())?;
            mup.providers.iter().find(|known| known.id == *id).cloned()
        });
        let Some(provider) = provider else { return NtStatus::INVALID_PARAMETER };
        let room = buffer_size.read();
        match describe(&provider, level, buffer, room) {
            Ok(bytes) => {
                buffer_size.write(bytes);
                if room < bytes { NtStatus::BUFFER_TOO_SMALL } else { NtStatus::SUCCESS }
            }
            Err(status) => status,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_below;

    #[test]
    fn prefixes_end_at_components() {
        assert!(is_below("\\SERVER\\SHARE", "\\SERVER\\SHARE"));
        assert!(is_below("\\SERVER\\SHARE\\FILE", "\\SERVER\\SHARE"));
        assert!(!is_below("\\SERVER\\SHARES", "\\SERVER\\SHARE"));
    }
}
