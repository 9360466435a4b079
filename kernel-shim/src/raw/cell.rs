//! Cells for state that outlives a call.
#![expect(
    unsafe_code,
    reason = "a static that drivers read and write by address must be shared"
)]
#![expect(
    clippy::inline_always,
    reason = "fast paths of exports are fast only if nothing is called; see crate::api"
)]

use core::cell::UnsafeCell;
use core::fmt;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::Ptr;

/// State of the shim: one value, one user at a time.
///
/// Nothing may call into a driver while it holds one, because the driver may call back in; doing so is a bug of
/// the shim, which stops with the cell's name instead of waiting for itself for ever.
pub struct Global<T> {
    name: &'static str,
    is_busy: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: `Use::begin` lets one user at a time have the value: in a guest there is one vCPU and nothing interrupts shim
// code, anywhere else (unit tests) the flag is exchanged atomically.
unsafe impl<T: Send> Sync for Global<T> {}

impl<T> Global<T> {
    /// A cell with its first value.
    #[must_use]
    pub const fn new(name: &'static str, value: T) -> Self {
        Self {
            name,
            is_busy: AtomicBool::new(false),
            value: UnsafeCell::new(value),
        }
    }

    /// Lets `use_value` work on the value.
    ///
    /// # Panics
    /// When the cell is in use already.
    pub fn with<R>(&self, use_value: impl FnOnce(&mut T) -> R) -> R {
        let Some(_in_use) = Use::begin(&self.is_busy) else {
            re_entered(self.name);
        };
        let _held = Held::new();
        // SAFETY: nobody else has it before `_in_use` is dropped.
        use_value(unsafe { &mut *self.value.get() })
    }

    /// As [`Self::with`] for fast paths of exports, which must not panic and in which nothing may be called, not even a
    /// closure: `None` when the cell is in use. Its user must not access driver memory that may be absent.
    #[inline(always)]
    pub(crate) fn try_use(&self) -> Option<InUse<'_, T>> {
        Some(InUse {
            _use: Use::begin(&self.is_busy)?,
            value: &self.value,
        })
    }

    /// Whether it is in use: an exception inside must not wait for it.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.is_busy.load(Ordering::Relaxed)
    }
}

#[cold]
fn re_entered(name: &str) -> ! {
    panic!("shim state '{name}' was re-entered")
}

/// A cell that is in use.
struct Use<'a>(&'a AtomicBool);

impl<'a> Use<'a> {
    /// `None`: somebody uses it.
    #[inline(always)]
    fn begin(is_busy: &'a AtomicBool) -> Option<Self> {
        let was_busy = if cfg!(guest) {
            // An atomic exchange costs more than most of what is done with a cell.
            let was_busy = is_busy.load(Ordering::Relaxed);
            is_busy.store(true, Ordering::Relaxed);
            was_busy
        } else {
            is_busy.swap(true, Ordering::Acquire)
        };
        (!was_busy).then_some(Self(is_busy))
    }
}

impl Drop for Use<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// The value of a cell that is in use.
pub(crate) struct InUse<'a, T> {
    _use: Use<'a>,
    value: &'a UnsafeCell<T>,
}

impl<T> Deref for InUse<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: nobody else has it before `_use` is dropped.
        unsafe { &*self.value.get() }
    }
}

impl<T> DerefMut for InUse<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and `self` is borrowed for as long as the result.
        unsafe { &mut *self.value.get() }
    }
}

/// How many cells (and other things that must not be left half-done) are in use.
static HELD: AtomicU32 = AtomicU32::new(0);

/// How much of the shim's state is in use: an exception in shim code can be raised in its caller, and shim code be
/// abandoned, only when it is 0.
pub(crate) fn held() -> u32 {
    HELD.load(Ordering::Relaxed)
}

/// Adds to [`HELD`], which in a guest has one user.
fn add_held(count: u32) {
    if cfg!(guest) {
        let sum = HELD.load(Ordering::Relaxed).wrapping_add(count);
        HELD.store(sum, Ordering::Relaxed);
    } else {
        HELD.fetch_add(count, Ordering::Relaxed);
    }
}

/// Nothing is held while driver code runs. Returns what was, to be set again by the same function.
pub(crate) fn let_driver_run(held: u32) -> u32 {
    let before = HELD.load(Ordering::Relaxed);
    HELD.store(held, Ordering::Relaxed);
    before
}

/// While it lives, shim code cannot be abandoned.
#[derive(Debug)]
pub(crate) struct Held(());

impl Held {
    pub(crate) fn new() -> Self {
        add_held(1);
        Self(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        add_held(1_u32.wrapping_neg());
    }
}

impl<T> fmt::Debug for Global<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Global({})", self.name)
    }
}

/// A variable that drivers import by address (a data export).
#[repr(transparent)]
pub struct DataCell<T>(UnsafeCell<T>);

// SAFETY: it is only accessed by address through `Ptr`, on the one vCPU.
unsafe impl<T> Sync for DataCell<T> {}

impl<T> DataCell<T> {
    /// A variable with its first value.
    #[must_use]
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Its address.
    #[must_use]
    #[inline]
    pub fn ptr(&self) -> Ptr<T> {
        Ptr::new(self.0.get().expose_provenance() as u64)
    }

    /// Its address, for the table of entry points.
    #[must_use]
    pub const fn raw(&self) -> *const () {
        self.0.get().cast_const().cast()
    }
}

impl<T> fmt::Debug for DataCell<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataCell")
    }
}
