//! The types that parameters and results of exports may have.

use crate::dispatch::Call;
use crate::export::ValueKind;
use crate::nt::{NtStatus, OBJECT_ATTRIBUTES, STRING, UNICODE_STRING};
use crate::raw::{Ptr, from_word, low8, low16, low32, to_word};

/// A parameter or result. Its [`ValueKind`] says how wide it is in each ABI and how the trace prints it.
pub trait Value: Sized {
    /// The kind that the table shows.
    const KIND: ValueKind;
    /// Variable arguments: no parameter of their own in the table.
    const IS_VARIADIC: bool = false;
    /// The result of a function that never returns.
    const IS_NORETURN: bool = false;
    /// Takes the next argument of a call.
    fn take(call: &mut Call) -> Self {
        Self::from_word(call.next_word())
    }
    /// From a word whose unused upper bits are zero.
    fn from_word(word: u64) -> Self;
    /// As a word; unused upper bits are zero.
    fn to_word(self) -> u64;
}

/// UCHAR, CHAR.
pub type UChar = u8;
/// USHORT.
pub type UShort = u16;
/// ULONG.
pub type ULong = u32;
/// LONG.
pub type Long = i32;
/// ULONGLONG.
pub type ULongLong = u64;
/// LARGE_INTEGER by value.
pub type LargeInteger = i64;
/// BOOLEAN: any value but 0 is TRUE.
pub type Boolean = bool;

macro_rules! values {
    ($($(#[$doc:meta])* $name:ident($inner:ty): $kind:ident, $from:expr, $to:expr;)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, PartialEq, Eq, Debug)]
            #[repr(transparent)]
            pub struct $name(pub $inner);
            impl Value for $name {
                const KIND: ValueKind = ValueKind::$kind;
                fn from_word(word: u64) -> Self {
                    let from: fn(u64) -> $inner = $from;
                    Self(from(word))
                }
                fn to_word(self) -> u64 {
                    let to: fn($inner) -> u64 = $to;
                    to(self.0)
                }
            }
        )*
    };
}

values! {
    /// PHYSICAL_ADDRESS by value.
    PhysicalAddress(u64): PhysicalAddress, |word| word, |value| value;
    /// SIZE_T, ULONG_PTR: a pointer-sized number.
    Size(u64): Size, |word| from_word(to_word(word)), |value| from_word(to_word(value));
    /// HANDLE.
    Handle(u64): Handle, |word| from_word(to_word(word)), |value| from_word(to_word(value));
    /// KIRQL.
    Irql(u8): Irql, low8, u64::from;
    /// KPROCESSOR_MODE: 0 kernel, 1 user.
    ProcessorMode(u8): ProcessorMode, low8, u64::from;
    /// A pool tag.
    Tag(u32): Tag, low32, u64::from;
    /// PUNICODE_STRING whose text the trace shows.
    UnicodeStringPtr(Ptr<UNICODE_STRING>): UnicodeString, Ptr::new, Ptr::addr;
    /// PANSI_STRING whose text the trace shows.
    AnsiStringPtr(Ptr<STRING>): AnsiString, Ptr::new, Ptr::addr;
    /// PCSTR whose text the trace shows.
    NarrowStringPtr(Ptr<u8>): NarrowString, Ptr::new, Ptr::addr;
    /// PCWSTR whose text the trace shows.
    WideStringPtr(Ptr<u16>): WideString, Ptr::new, Ptr::addr;
    /// POBJECT_ATTRIBUTES whose object name the trace shows.
    ObjectAttributesPtr(Ptr<OBJECT_ATTRIBUTES>): ObjectAttributes, Ptr::new, Ptr::addr;
}

macro_rules! plain_values {
    ($($type:ty: $kind:ident, $from:expr, $to:expr;)*) => {
        $(
            impl Value for $type {
                const KIND: ValueKind = ValueKind::$kind;
                fn from_word(word: u64) -> Self {
                    let from: fn(u64) -> $type = $from;
                    from(word)
                }
                fn to_word(self) -> u64 {
                    let to: fn($type) -> u64 = $to;
                    to(self)
                }
            }
        )*
    };
}

plain_values! {
    (): Void, |_| (), |()| 0;
    bool: Boolean, |word| low8(word) != 0, u64::from;
    u8: UChar, low8, u64::from;
    u16: UShort, low16, u64::from;
    u32: ULong, low32, u64::from;
    i32: Long, |word| low32(word).cast_signed(), |value| u64::from(value.cast_unsigned());
    u64: ULongLong, |word| word, |value| value;
    i64: LargeInteger, u64::cast_signed, i64::cast_unsigned;
    NtStatus: NtStatus, |word| NtStatus(low32(word)), |value| u64::from(value.0);
}

impl<T> Value for Ptr<T> {
    const KIND: ValueKind = ValueKind::Pointer;
    fn from_word(word: u64) -> Self {
        Self::new(word)
    }
    fn to_word(self) -> u64 {
        self.addr()
    }
}

/// The result of a function that never returns: its body ends in something of type `!`.
#[derive(Clone, Copy, Debug)]
pub enum NoReturn {}

impl Value for NoReturn {
    const KIND: ValueKind = ValueKind::Void;
    const IS_NORETURN: bool = true;
    /// Never called: it is only a result.
    fn from_word(_: u64) -> Self {
        panic!("NoReturn is not the type of a parameter")
    }
    fn to_word(self) -> u64 {
        match self {}
    }
}

/// Variable arguments (`...`): slots behind the declared arguments, or where a `va_list` points.
#[derive(Clone, Copy, Debug)]
pub struct VaList {
    next: u64,
    slot_bytes: u64,
}

impl VaList {
    /// Slots at `next`: 8 bytes each, or 4 on i386.
    #[must_use]
    pub const fn new(next: u64, slot_bytes: u64) -> Self {
        Self { next, slot_bytes }
    }

    /// The driver ABI's `va_list` value, for _vsnprintf and the like.
    #[must_use]
    pub const fn from_pointer(list: Ptr<u8>) -> Self {
        Self::new(list.addr(), size_of::<crate::raw::Word>() as u64)
    }

    /// The next int, long, char or pointer-sized value's low 4 bytes.
    pub fn next_u32(&mut self) -> u32 {
        let value = Ptr::<u32>::new(self.next).read();
        self.next = self.next.wrapping_add(self.slot_bytes);
        value
    }

    /// The next 8-byte value: two slots on i386.
    pub fn next_u64(&mut self) -> u64 {
        let value = Ptr::<u64>::new(self.next).read();
        self.next = self.next.wrapping_add(8);
        value
    }

    /// The next pointer or SIZE_T.
    pub fn next_word(&mut self) -> u64 {
        if self.slot_bytes == 8 {
            self.next_u64()
        } else {
            u64::from(self.next_u32())
        }
    }

    /// The next pointer.
    pub fn next_ptr<T>(&mut self) -> Ptr<T> {
        Ptr::new(self.next_word())
    }
}

impl Value for VaList {
    const KIND: ValueKind = ValueKind::Void;
    const IS_VARIADIC: bool = true;
    fn take(call: &mut Call) -> Self {
        call.variable_arguments()
    }
    /// A `va_list` value.
    fn from_word(word: u64) -> Self {
        Self::from_pointer(Ptr::new(word))
    }
    fn to_word(self) -> u64 {
        self.next
    }
}
