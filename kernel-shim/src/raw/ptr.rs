//! Addresses of driver memory.
#![expect(
    unsafe_code,
    reason = "accesses driver memory by address; see the parent module"
)]

use alloc::vec::Vec;
use core::arch::asm;
use core::fmt;
use core::hash::{Hash, Hasher};
use core::marker::PhantomData;

use super::{from_word, to_usize, to_word};

/// A pointer-sized number of the driver ABI.
#[cfg(nt_i386)]
pub type Word = u32;
/// A pointer-sized number of the driver ABI.
#[cfg(not(nt_i386))]
pub type Word = u64;

/// An address in the guest of a `T` that a driver can see too; as wide as the driver ABI's pointers.
///
/// `T` is plain data: any bytes are a valid `T`. Alignment is not assumed.
#[repr(transparent)]
pub struct Ptr<T> {
    address: Word,
    pointee: PhantomData<fn() -> T>,
}

impl<T> Ptr<T> {
    /// The pointer to `address`; on i386 the upper half is cut off.
    #[must_use]
    #[inline]
    pub const fn new(address: u64) -> Self {
        Self {
            address: to_word(address),
            pointee: PhantomData,
        }
    }

    /// NULL.
    #[must_use]
    #[inline]
    pub const fn null() -> Self {
        Self::new(0)
    }

    /// The address of a value of the shim's own (in tests, or of a static that drivers see).
    #[must_use]
    #[inline]
    pub fn of(value: &mut T) -> Self {
        Self::new(core::ptr::from_mut(value).expose_provenance() as u64)
    }

    /// Whether it is NULL.
    #[must_use]
    #[inline]
    pub const fn is_null(self) -> bool {
        self.address == 0
    }

    /// `None` for NULL.
    #[must_use]
    #[inline]
    pub const fn non_null(self) -> Option<Self> {
        if self.is_null() { None } else { Some(self) }
    }

    /// The address.
    #[must_use]
    #[inline]
    pub const fn addr(self) -> u64 {
        from_word(self.address)
    }

    /// The address, pointer-sized.
    #[must_use]
    #[inline]
    pub const fn word(self) -> Word {
        self.address
    }

    /// The same address with another type behind it.
    #[must_use]
    #[inline]
    pub const fn cast<U>(self) -> Ptr<U> {
        Ptr {
            address: self.address,
            pointee: PhantomData,
        }
    }

    /// The pointer `count` elements further on (back, if negative); wraps as the processor does.
    #[must_use]
    #[inline]
    pub const fn offset(self, count: i64) -> Self {
        let bytes = count.wrapping_mul(size_of::<T>().cast_signed() as i64);
        Self::new(self.addr().wrapping_add_signed(bytes))
    }

    /// The pointer `bytes` further on; wraps as the processor does.
    #[must_use]
    #[inline]
    pub const fn add_bytes(self, bytes: u64) -> Self {
        Self::new(self.addr().wrapping_add(bytes))
    }

    /// The pointer `bytes` before this one; wraps as the processor does.
    #[must_use]
    #[inline]
    pub const fn sub_bytes(self, bytes: u64) -> Self {
        Self::new(self.addr().wrapping_sub(bytes))
    }

    #[inline]
    fn raw(self) -> *mut T {
        core::ptr::with_exposed_provenance_mut(to_usize(self.addr()))
    }
}

impl<T: Copy> Ptr<T> {
    /// Reads the value.
    #[must_use]
    #[inline]
    pub fn read(self) -> T {
        self.check();
        // SAFETY: `check` has excluded null. Any other address is either mapped, and `T` is plain data
        // that any bytes are valid for, or the access faults, which stops the guest (see the module).
        unsafe { self.raw().read_unaligned() }
    }

    /// Writes the value.
    #[inline]
    pub fn write(self, value: T) {
        self.check_write();
        // SAFETY: as in `read`; what the driver has there is the driver's to lose, and the shim's own
        // Rust values are never handed out as driver memory.
        unsafe { self.raw().write_unaligned(value) }
    }

    /// Lets `change` work on the value in place. Nothing that runs inside may call the driver or touch the
    /// same object through another `Ptr`.
    #[inline]
    pub fn with<R>(self, change: impl FnOnce(&mut T) -> R) -> R {
        self.check_write();
        if self.raw().is_aligned() {
            // SAFETY: not null and aligned (just checked); valid or faulting as in `read`; unique because
            // the shim keeps no references to driver memory outside of these closures.
            change(unsafe { &mut *self.raw() })
        } else {
            let mut value = self.read();
            let result = change(&mut value);
            self.write(value);
            result
        }
    }

    /// Reads `count` elements.
    #[must_use]
    pub fn read_slice(self, count: usize) -> Vec<T> {
        (0..count)
            .map(|index| self.offset(index.cast_signed() as i64).read())
            .collect()
    }

    /// Touches address 0 itself when that is what the driver passed: the compiler may not see it.
    #[inline]
    fn check(self) {
        if self.is_null() {
            fault_at(0);
        }
    }

    /// As `check`, by a store.
    #[inline]
    fn check_write(self) {
        if self.is_null() {
            fault_at_store(0);
        }
    }
}

impl Ptr<u8> {
    /// Copies driver memory into `bytes`.
    pub fn read_bytes(self, bytes: &mut [u8]) {
        if bytes.is_empty() {
            return;
        }
        self.check();
        // SAFETY: not null; `bytes` is valid for its length and cannot overlap driver memory, because the
        // shim's own values are never handed out; the source is valid or faults (see the module).
        unsafe { core::ptr::copy(self.raw(), bytes.as_mut_ptr(), bytes.len()) }
    }

    /// Copies `bytes` to driver memory.
    pub fn write_bytes(self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.check_write();
        // SAFETY: as in `read_bytes`, the other way round.
        unsafe { core::ptr::copy(bytes.as_ptr(), self.raw(), bytes.len()) }
    }

    /// Copies `bytes` of driver memory from `source`; the two may overlap.
    pub fn copy_from(self, source: Self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        source.check();
        self.check_write();
        // SAFETY: neither is null; `copy` allows overlap; both are valid or fault (see the module).
        unsafe { core::ptr::copy(source.raw(), self.raw(), to_usize(bytes)) }
    }

    /// Sets `bytes` of driver memory to `value`.
    pub fn fill(self, value: u8, bytes: u64) {
        if bytes == 0 {
            return;
        }
        self.check_write();
        // SAFETY: not null; valid or faulting (see the module).
        unsafe { core::ptr::write_bytes(self.raw(), value, to_usize(bytes)) }
    }
}

/// Reads a byte at `address` with an instruction that the compiler knows nothing about: the way to make a bad
/// address fault as the driver's own access would.
#[inline]
pub fn fault_at(address: u64) {
    // SAFETY: a one-byte load into a scratch register changes nothing; if it faults, the trap handler stops
    // the guest.
    unsafe {
        asm!("mov {scratch:l}, byte ptr [{address}]", address = in(reg) address, scratch = out(reg) _,
            options(nostack, readonly, preserves_flags));
    }
}

/// Stores a byte at `address`, which is not mapped, so that it faults as the driver's own store would.
#[inline]
fn fault_at_store(address: u64) {
    // SAFETY: callers pass null, where no memory ever is: the store faults and changes nothing, and the trap handler
    // does not come back.
    unsafe {
        asm!("mov byte ptr [{address}], 0", address = in(reg) address, options(nostack, preserves_flags));
    }
}

/// Reads a value that the VMM may change at any time.
#[must_use]
#[inline]
pub fn volatile_read<T: Copy>(address: u64) -> T {
    let pointer: *const T = core::ptr::with_exposed_provenance(to_usize(address));
    // SAFETY: callers pass addresses inside the shared pages, aligned for their plain-data types.
    unsafe { pointer.read_volatile() }
}

/// Writes a value that the VMM may read at any time.
#[inline]
pub fn volatile_write<T: Copy>(address: u64, value: T) {
    let pointer: *mut T = core::ptr::with_exposed_provenance_mut(to_usize(address));
    // SAFETY: as in `volatile_read`; the pages are mapped writable for as long as the guest runs.
    unsafe { pointer.write_volatile(value) }
}

/// Has the processor fetch a cache line that is looked at soon; any address is right.
#[inline]
pub(crate) fn prefetch(address: u64) {
    use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    let pointer: *const i8 = core::ptr::with_exposed_provenance(to_usize(address));
    // SAFETY: a hint: it reads nothing, and never faults.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(pointer) }
}

impl<T> Clone for Ptr<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Ptr<T> {}
impl<T> PartialEq for Ptr<T> {
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address
    }
}
impl<T> Eq for Ptr<T> {}
impl<T> PartialOrd for Ptr<T> {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Ptr<T> {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.address.cmp(&other.address)
    }
}
impl<T> Hash for Ptr<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.address.hash(state);
    }
}
impl<T> Default for Ptr<T> {
    fn default() -> Self {
        Self::null()
    }
}
impl<T> fmt::Debug for Ptr<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.address)
    }
}
