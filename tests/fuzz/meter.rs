//! Counts the bytes that this thread has allocated: the allocator of the test, around the system's.
//!
//! `zstd` allocates by itself and is not counted: what it makes is.
#![allow(unsafe_code, reason = "an allocator cannot be written otherwise; it only counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Meter;

#[global_allocator]
static METER: Meter = Meter;

thread_local! {
    // Signed: a thread may free what another one has allocated.
    static NOW: Cell<i64> = const { Cell::new(0) };
    static PEAK: Cell<i64> = const { Cell::new(0) };
}

fn grown(bytes: usize) {
    // A thread that ends has no counters any more, and is not measured.
    let _ended = NOW.try_with(|now| {
        now.set(now.get() + signed(bytes));
        PEAK.with(|peak| peak.set(peak.get().max(now.get())));
    });
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn shrunk(bytes: usize) {
    let _ended = NOW.try_with(|now| now.set(now.get() - signed(bytes)));
}

// SAFETY: all of it is the system's allocator; what is added touches no memory of it.
unsafe impl GlobalAlloc for Meter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's promises are handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        shrunk(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // Old and new may be there at once.
        grown(new_size);
        shrunk(layout.size());
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

/// Begins a measurement on this thread: the bytes that are allocated now.
pub(crate) fn start() -> i64 {
    let now = NOW.get();
    PEAK.set(now);
    now
}

/// The most bytes that were allocated at a time since then, beyond those of then.
pub(crate) fn peak(start: i64) -> usize {
    usize::try_from(PEAK.get() - start).unwrap_or(0)
}

#[test]
fn what_is_allocated_is_counted() {
    let before = start();
    drop(std::hint::black_box(vec![1_u8; 100_000]));
    assert!((100_000..200_000).contains(&peak(before)), "{}", peak(before));
}
