//! Cells for state that outlives a call.
#![expect(
    unsafe_code,
    reason = "a static that drivers read and write by address must be shared"
)]

use core::cell::UnsafeCell;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

use super::Ptr;

/// State of the shim: one value, one user at a time.
///
/// Nothing may call into a driver while it holds one, because the driver may call back in; doing so is a bug of
/// the shim, which stops with the cell's name instead of waiting for itself for ever.
pub struct Global<T> {
    name: &'static str,
    value: spin::Mutex<T>,
}

impl<T> Global<T> {
    /// A cell with its first value.
    #[must_use]
    pub const fn new(name: &'static str, value: T) -> Self {
        Self {
            name,
            value: spin::Mutex::new(value),
        }
    }

    /// Lets `use_value` work on the value.
    ///
    /// # Panics
    /// When the cell is in use already.
    pub fn with<R>(&self, use_value: impl FnOnce(&mut T) -> R) -> R {
        let Some(mut value) = self.value.try_lock() else {
            panic!("shim state '{}' was re-entered", self.name);
        };
        let _held = Held::new();
        use_value(&mut value)
    }

    /// Whether it is in use: an exception inside must not wait for it.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.value.is_locked()
    }
}

/// How many cells (and other things that must not be left half-done) are in use.
static HELD: AtomicU32 = AtomicU32::new(0);

/// How much of the shim's state is in use: an exception in shim code can be raised in its caller, and shim code be
/// abandoned, only when it is 0.
pub(crate) fn held() -> u32 {
    HELD.load(Ordering::Relaxed)
}

/// Nothing is held while driver code runs. Returns what was, to be set again by the same function.
pub(crate) fn let_driver_run(held: u32) -> u32 {
    HELD.swap(held, Ordering::Relaxed)
}

/// While it lives, shim code cannot be abandoned.
#[derive(Debug)]
pub(crate) struct Held(());

impl Held {
    pub(crate) fn new() -> Self {
        HELD.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HELD.fetch_sub(1, Ordering::Relaxed);
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
