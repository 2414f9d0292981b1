//! A bump allocator: kelson's processes live for milliseconds, and musl's malloc is half of the cost of
//! parsing a configuration (PACKAGES.md). Nothing is given back, except that the newest block may grow,
//! shrink or go in place, which is what a growing `Vec` does. Long-lived code must not allocate in a loop.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes asked from the kernel at a time; untouched pages cost nothing.
const CHUNK: usize = 1 << 20;

struct Arena {
    next: usize,
    end: usize,
}

/// The process-wide arena.
pub struct Bump {
    locked: AtomicBool,
    arena: UnsafeCell<Arena>,
}

// SAFETY: the arena is only touched while `locked` is held.
unsafe impl Sync for Bump {}

impl Bump {
    /// An arena that has no memory yet.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self { locked: AtomicBool::new(false), arena: UnsafeCell::new(Arena { next: 0, end: 0 }) }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Arena) -> T) -> T {
        while self.locked.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            std::hint::spin_loop();
        }
        // SAFETY: the lock above makes this the only reference.
        let result = work(unsafe { &mut *self.arena.get() });
        self.locked.store(false, Ordering::Release);
        result
    }
}

/// Ends the process with one line, as any other error does. What it leaves undone its parent sees, or `delete`.
fn out_of_memory() -> ! {
    const LINE: &[u8] = b"level=error msg=\"the kernel has no memory for kelson (ENOMEM)\"\n";
    // SAFETY: the buffer is as long as told; _exit runs no code of this process.
    unsafe {
        libc::write(libc::STDERR_FILENO, LINE.as_ptr().cast(), LINE.len());
        libc::_exit(1)
    }
}

impl Arena {
    fn take(&mut self, layout: Layout) -> *mut u8 {
        let start = self.next.next_multiple_of(layout.align());
        match start.checked_add(layout.size()) {
            Some(end) if self.next != 0 && end <= self.end => {
                self.next = end;
                start as *mut u8
            }
            _ => self.refill(layout),
        }
    }

    fn refill(&mut self, layout: Layout) -> *mut u8 {
        let Some(wanted) = layout.size().checked_add(layout.align()) else { return null_mut() };
        let size = wanted.max(CHUNK).next_multiple_of(4096);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new anonymous mapping overlaps nothing.
        let memory = unsafe { libc::mmap(null_mut(), size, protection, flags, -1, 0) };
        if memory == libc::MAP_FAILED {
            out_of_memory();
        }
        let start = (memory as usize).next_multiple_of(layout.align());
        self.next = start + layout.size();
        self.end = memory as usize + size;
        start as *mut u8
    }

    /// Moves the end of the newest block; false where `block` is not the newest or does not fit.
    fn resize_newest(&mut self, block: usize, old: usize, new: usize) -> bool {
        let fits = block + old == self.next && block.checked_add(new).is_some_and(|end| end <= self.end);
        if fits {
            self.next = block + new;
        }
        fits
    }
}

// SAFETY: blocks are disjoint, aligned, inside a live mapping, and never handed out twice while in use.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.with(|arena| arena.take(layout))
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        self.with(|arena| arena.resize_newest(block as usize, layout.size(), 0));
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let block = self.with(|arena| arena.take(layout));
        if !block.is_null() {
            // SAFETY: the block is ours and `size` bytes long; a reused newest block may be dirty.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        self.with(|arena| {
            if arena.resize_newest(block as usize, layout.size(), new_size) {
                return block;
            }
            if new_size <= layout.size() {
                return block;
            }
            // SAFETY: `new_size` is not zero and the alignment was valid for the old layout.
            let grown = arena.take(unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) });
            if !grown.is_null() {
                // SAFETY: both blocks are live, disjoint, and at least `layout.size()` bytes long.
                unsafe { block.copy_to_nonoverlapping(grown, layout.size()) };
            }
            grown
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_disjoint_and_grow_in_place() {
        let bump = Bump::new();
        let layout = Layout::from_size_align(24, 16).unwrap();
        // SAFETY: the layouts are valid and each block is used within its size.
        unsafe {
            let first = bump.alloc(layout);
            let second = bump.alloc(layout);
            assert_eq!(first as usize % 16, 0);
            assert!(second as usize >= first as usize + 24);
            assert_eq!(bump.realloc(second, layout, 64), second);
            let moved = bump.realloc(first, layout, 64);
            assert_ne!(moved, first);
            let large = bump.alloc(Layout::from_size_align(3 * CHUNK, 4096).unwrap());
            large.write_bytes(7, 3 * CHUNK);
        }
    }
}
