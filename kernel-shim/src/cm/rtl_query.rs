//! RtlQueryRegistryValues.

use alloc::string::String;
use alloc::vec::Vec;

use super::hive::{KeyId, Value, string_data, text as text_of};
use super::rtl::{place, text};
use super::{REG_EXPAND_SZ, REG_MULTI_SZ, REG_SZ, with};
use crate::api::nt_api;
use crate::ex::pool;
use crate::io::driver;
use crate::nt::{NtStatus, UNICODE_STRING};
use crate::ob::names::fold;
use crate::raw::{Ptr, Word, from_word, low16, low32, to_usize};
use crate::shared;
use crate::value::{ULong, WideStringPtr};
use abi::trace::Entry;

const SUBKEY: u32 = 1;
const TOPKEY: u32 = 2;
const REQUIRED: u32 = 4;
const NOVALUE: u32 = 8;
const NOEXPAND: u32 = 0x10;
const DIRECT: u32 = 0x20;
const DELETE: u32 = 0x40;
const TYPECHECK: u32 = 0x100;
/// The byte of DefaultType that TYPECHECK compares.
const TYPECHECK_SHIFT: u32 = 24;
/// Most characters of an environment block.
const MAX_ENVIRONMENT: usize = 0x8000;
/// What environment variables stand for without an environment block.
const ENVIRONMENT: [(&str, &str); 4] = [
    ("SystemRoot", "C:\\Windows"),
    ("windir", "C:\\Windows"),
    ("SystemDrive", "C:"),
    ("TEMP", "C:\\Windows\\Temp"),
];

/// RTL_QUERY_REGISTRY_TABLE.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct RTL_QUERY_REGISTRY_TABLE {
    /// Called as (ValueName, ValueType, ValueData, ValueLength, Context, EntryContext).
    pub QueryRoutine: Word,
    /// RTL_QUERY_REGISTRY_ flags.
    pub Flags: u32,
    /// Value or subkey.
    pub Name: Ptr<u16>,
    /// The routine's, or where a direct value goes.
    pub EntryContext: Word,
    /// REG_ type of the default; with a type to check for in its high byte.
    pub DefaultType: u32,
    /// Data of the default.
    pub DefaultData: Ptr<u8>,
    /// Bytes of the default; 0 for a string: as long as it is.
    pub DefaultLength: u32,
}

const _: () = assert!(size_of::<RTL_QUERY_REGISTRY_TABLE>() == if cfg!(nt_i386) { 28 } else { 56 });

/// Variables and their values.
type Environment = Vec<(String, String)>;

/// The variables of an environment block (`NAME=VALUE`, each closed by NUL, up to an empty one), or, without one, those
/// of the system.
fn environment(block: Ptr<u16>) -> Environment {
    if block.is_null() {
        let owned = |&(name, value): &(&str, &str)| (String::from(name), String::from(value));
        return ENVIRONMENT.iter().map(owned).collect();
    }
    let mut variables = Vec::new();
    let mut at = block;
    let mut left = MAX_ENVIRONMENT;
    while left > 0 {
        let units = crate::raw::wide_string(at, left);
        if units.is_empty() {
            break;
        }
        at = at.add_bytes(2 * (units.len() as u64 + 1));
        left = left.saturating_sub(units.len() + 1);
        let text = String::from_utf16_lossy(&units);
        // A name may begin with '=': what a drive's current folder is kept under.
        let name_end = text.char_indices().skip(1).find(|&(_, unit)| unit == '=');
        if let Some((end, _)) = name_end {
            variables.push((String::from(&text[..end]), String::from(&text[end + 1..])));
        }
    }
    variables
}

/// Replaces %NAME% by what it stands for; unknown ones stay.
fn expand(text: &str, environment: &Environment) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        result += before;
        let known = after.split_once('%').and_then(|(name, behind)| {
            let folded = fold(name);
            let (_, value) = environment
                .iter()
                .find(|(variable, _)| fold(variable) == folded)?;
            Some((value, behind))
        });
        match known {
            Some((value, behind)) => {
                result += value;
                rest = behind;
            }
            None => {
                result.push('%');
                rest = after;
            }
        }
    }
    result + rest
}

/// The strings of a REG_MULTI_SZ, each closed by NUL.
fn strings(data: &[u8]) -> Vec<Vec<u8>> {
    let units: Vec<[u8; 2]> = data
        .chunks_exact(2)
        .map(|pair| [pair[0], pair[1]])
        .collect();
    units
        .split(|unit| *unit == [0, 0])
        .take_while(|string| !string.is_empty())
        .map(|string| {
            let mut bytes: Vec<u8> = string.iter().flatten().copied().collect();
            bytes.extend([0, 0]);
            bytes
        })
        .collect()
}

fn is_string(value_type: u32) -> bool {
    matches!(value_type, REG_SZ | REG_EXPAND_SZ | REG_MULTI_SZ)
}

/// Puts a value where EntryContext points.
fn store(entry: &RTL_QUERY_REGISTRY_TABLE, value_type: u32, data: &[u8]) -> NtStatus {
    let target = from_word(entry.EntryContext);
    let bytes = data.len() as u64;
    if is_string(value_type) {
        let string = Ptr::<UNICODE_STRING>::new(target);
        let mut counted = string.read();
        if bytes > 0xFFFF {
            return NtStatus::BUFFER_TOO_SMALL;
        }
        if counted.Buffer.is_null() {
            let owner = driver::owner_of(shared::caller());
            let block = pool::allocate(bytes.max(2), u32::from_le_bytes(*b"RqrV"), owner);
            if block.is_null() {
                return NtStatus::NO_MEMORY;
            }
            counted.Buffer = block.cast();
            counted.MaximumLength = low16(bytes);
        } else if bytes > u64::from(counted.MaximumLength) {
            return NtStatus::BUFFER_TOO_SMALL;
        }
        counted.Buffer.cast().write_bytes(data);
        let closing = if value_type == REG_MULTI_SZ { 0 } else { 2 };
        counted.Length = low16(bytes.saturating_sub(closing));
        string.write(counted);
        return NtStatus::SUCCESS;
    }
    let buffer = Ptr::<u8>::new(target);
    if bytes <= 4 {
        buffer.write_bytes(data);
        return NtStatus::SUCCESS;
    }
    // The buffer says how large it is; a negative number asks for the data alone.
    let room = buffer.cast::<i32>().read();
    if room < 0 {
        if bytes > u64::from(room.unsigned_abs()) {
            return NtStatus::BUFFER_TOO_SMALL;
        }
        buffer.write_bytes(data);
    } else {
        if bytes + 8 > u64::from(room.unsigned_abs()) {
            return NtStatus::BUFFER_TOO_SMALL;
        }
        buffer.cast::<u32>().write(low32(bytes));
        buffer.add_bytes(4).cast::<u32>().write(value_type);
        buffer.add_bytes(8).write_bytes(data);
    }
    NtStatus::SUCCESS
}

struct Query {
    context: u64,
    environment: Environment,
}

impl Query {
    /// Calls the entry's routine with a copy of a value.
    fn call(
        &self,
        entry: &RTL_QUERY_REGISTRY_TABLE,
        name: Option<&str>,
        value_type: u32,
        data: &[u8],
    ) -> NtStatus {
        let name = name.map(string_data).unwrap_or_default();
        let Some(block) = pool::allocate_zeroed((name.len() + data.len() + 8) as u64, *b"RqrC")
        else {
            return NtStatus::NO_MEMORY;
        };
        let data_at = block.add_bytes((name.len() as u64).next_multiple_of(8));
        block.write_bytes(&name);
        data_at.write_bytes(data);
        let null_if = |is_null: bool, at: Ptr<u8>| if is_null { 0 } else { at.addr() };
        let arguments = [
            null_if(name.is_empty(), block),
            u64::from(value_type),
            null_if(data.is_empty(), data_at),
            data.len() as u64,
            self.context,
            from_word(entry.EntryContext),
        ];
        let status = shared::call_driver(Entry::Other, from_word(entry.QueryRoutine), &arguments);
        pool::free(block, 0);
        match NtStatus(low32(status)) {
            // Asks for a larger buffer where there is none to be had.
            NtStatus::BUFFER_TOO_SMALL => NtStatus::SUCCESS,
            status => status,
        }
    }

    fn deliver_one(
        &self,
        entry: &RTL_QUERY_REGISTRY_TABLE,
        name: &str,
        value_type: u32,
        data: &[u8],
    ) -> NtStatus {
        if entry.Flags & DIRECT != 0 {
            store(entry, value_type, data)
        } else {
            self.call(entry, Some(name), value_type, data)
        }
    }

    /// Hands a value over: string by string, expanded, unless the entry wants it as it is.
    fn deliver(
        &self,
        entry: &RTL_QUERY_REGISTRY_TABLE,
        name: &str,
        value_type: u32,
        data: &[u8],
    ) -> NtStatus {
        let is_direct = entry.Flags & DIRECT != 0;
        if is_direct
            && entry.Flags & TYPECHECK != 0
            && value_type != entry.DefaultType >> TYPECHECK_SHIFT
        {
            return NtStatus::OBJECT_TYPE_MISMATCH;
        }
        match value_type {
            REG_MULTI_SZ if entry.Flags & NOEXPAND == 0 && !is_direct => {
                for string in strings(data) {
                    let status = self.deliver_one(entry, name, REG_SZ, &string);
                    if !status.is_success() {
                        return status;
                    }
                }
                NtStatus::SUCCESS
            }
            REG_EXPAND_SZ if entry.Flags & NOEXPAND == 0 => {
                let text = expand(&text_of(data), &self.environment);
                self.deliver_one(entry, name, REG_SZ, &string_data(&text))
            }
            _ => self.deliver_one(entry, name, value_type, data),
        }
    }

    fn all_values(&self, entry: &RTL_QUERY_REGISTRY_TABLE, key: KeyId) -> Result<(), NtStatus> {
        let values: Vec<Value> = with(|hive| hive.key(key).map(|key| key.values.clone()))?;
        if values.is_empty() && entry.Flags & REQUIRED != 0 {
            return Err(NtStatus::OBJECT_NAME_NOT_FOUND);
        }
        for value in values {
            check(self.deliver(entry, &value.name, value.value_type, &value.data))?;
            if entry.Flags & DELETE != 0 {
                with(|hive| hive.delete_value(key, &value.name))?;
            }
        }
        Ok(())
    }

    fn one_value(&self, entry: &RTL_QUERY_REGISTRY_TABLE, key: KeyId) -> Result<(), NtStatus> {
        let name = text(entry.Name);
        let value = with(|hive| hive.key(key).map(|key| key.value(&name).cloned()))?;
        let Some(value) = value else {
            return self.default(entry, &name);
        };
        check(self.deliver(entry, &name, value.value_type, &value.data))?;
        if entry.Flags & DELETE != 0 {
            with(|hive| hive.delete_value(key, &name))?;
        }
        Ok(())
    }

    /// The value is not there.
    fn default(&self, entry: &RTL_QUERY_REGISTRY_TABLE, name: &str) -> Result<(), NtStatus> {
        if entry.Flags & REQUIRED != 0 {
            return Err(NtStatus::OBJECT_NAME_NOT_FOUND);
        }
        let default_type = if entry.Flags & TYPECHECK == 0 {
            entry.DefaultType
        } else {
            entry.DefaultType & 0x00FF_FFFF
        };
        if default_type == 0 {
            return Ok(());
        }
        let bytes = match (entry.DefaultLength, default_type) {
            (0, REG_SZ | REG_EXPAND_SZ) => 2 * (text_units(entry.DefaultData) + 1),
            (length, _) => u64::from(length),
        };
        let data = entry.DefaultData.read_slice(to_usize(bytes));
        // The type of the default is the caller's own business.
        let unchecked = RTL_QUERY_REGISTRY_TABLE {
            Flags: entry.Flags & !TYPECHECK,
            ..*entry
        };
        check(self.deliver(&unchecked, name, default_type, &data))
    }

    fn entry(
        &self,
        entry: &RTL_QUERY_REGISTRY_TABLE,
        top: KeyId,
        current: &mut KeyId,
    ) -> Result<(), NtStatus> {
        let has_routine = entry.QueryRoutine != 0;
        let is_direct = entry.Flags & DIRECT != 0;
        if is_direct && (entry.Name.is_null() || entry.Flags & SUBKEY != 0 || has_routine) {
            return Err(NtStatus::INVALID_PARAMETER);
        }
        if entry.Flags & (TOPKEY | SUBKEY) != 0 {
            *current = top;
        }
        if entry.Flags & SUBKEY != 0 {
            if entry.Name.is_null() {
                return Err(NtStatus::INVALID_PARAMETER);
            }
            *current = with(|hive| hive.find(top, &text(entry.Name), false))?;
            return if has_routine {
                self.all_values(entry, *current)
            } else {
                Ok(())
            };
        }
        if !entry.Name.is_null() {
            return self.one_value(entry, *current);
        }
        if entry.Flags & NOVALUE != 0 {
            return check(self.call(entry, None, 0, &[]));
        }
        self.all_values(entry, *current)
    }
}

fn check(status: NtStatus) -> Result<(), NtStatus> {
    if status.is_success() {
        Ok(())
    } else {
        Err(status)
    }
}

fn text_units(string: Ptr<u8>) -> u64 {
    crate::raw::wide_string(string.cast(), 0x7FFF).len() as u64
}

nt_api! { module = cm_rtl_query;
    /// RtlQueryRegistryValues: a table of values that are handed to routines or stored.
    ntoskrnl both stdcall irql(PASSIVE_LEVEL) implemented
    fn RtlQueryRegistryValues(
        relative_to: ULong, path: WideStringPtr, query_table: Ptr<RTL_QUERY_REGISTRY_TABLE>, context: Ptr<u8>,
        environment: Ptr<u16>,
    ) -> NtStatus {
        let top = match place(relative_to, path.0, false) {
            Ok(top) => top,
            Err(status) => return status,
        };
        let query = Query { context: context.addr(), environment: self::environment(environment) };
        let mut current = top;
        let mut next = query_table;
        loop {
            let entry = next.read();
            if entry.QueryRoutine == 0 && entry.Flags & (SUBKEY | DIRECT) == 0 {
                return NtStatus::SUCCESS;
            }
            if let Err(status) = query.entry(&entry, top, &mut current) {
                return status;
            }
            next = next.offset(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_expanded_and_unknown_ones_stay() {
        let system = environment(Ptr::null());
        assert_eq!(expand("%systemroot%\\x", &system), "C:\\Windows\\x");
        assert_eq!(
            expand("100% of %none% %SystemDrive%", &system),
            "100% of %none% C:"
        );
    }

    #[test]
    fn an_environment_block_is_all_there_is() {
        let mut block: Vec<u16> = "=C:=C:\\x\0Who=me=you\0Empty=\0odd\0\0No=1\0"
            .encode_utf16()
            .collect();
        let own = environment(Ptr::of(&mut block[0]));
        assert_eq!(own.len(), 3);
        assert_eq!(
            expand("%WHO%%empty%|%SystemRoot%|%No%|%=c:%", &own),
            "me=you|%SystemRoot%|%No%|C:\\x"
        );
    }

    #[test]
    fn a_multi_string_ends_with_its_first_empty_string() {
        let data = string_data("one\0two\0\0three");
        assert_eq!(strings(&data), [string_data("one"), string_data("two")]);
        assert!(strings(&[]).is_empty());
    }
}
