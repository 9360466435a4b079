//! An allocator that knows how much memory a piece of code held at most.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Counts what [`System`] hands out. libFuzzer's own memory, which is C++'s, is not counted.
#[derive(Debug)]
pub struct CountingAllocator {
    current: AtomicUsize,
    peak: AtomicUsize,
}

impl CountingAllocator {
    /// An allocator that has counted nothing yet.
    pub const fn new() -> Self {
        Self {
            current: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
        }
    }

    /// Runs `f` and returns by how many bytes the memory in use rose at most meanwhile.
    pub fn measure(&self, f: impl FnOnce()) -> usize {
        let before = self.current.load(Relaxed);
        self.peak.store(before, Relaxed);
        f();
        self.peak.load(Relaxed) - before
    }

    fn add(&self, bytes: usize) {
        let current = self.current.fetch_add(bytes, Relaxed) + bytes;
        self.peak.fetch_max(current, Relaxed);
    }
}

impl Default for CountingAllocator {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: every request goes to `System`, which is a correct allocator, with the arguments as they came;
// counting touches no allocated memory.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.add(layout.size());
        // SAFETY: the caller vouches for `layout`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.add(layout.size());
        // SAFETY: the caller vouches for `layout`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.current.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller vouches that `pointer` came from here, hence from `System`, with `layout`.
        unsafe { System.dealloc(pointer, layout) }
    }
}
