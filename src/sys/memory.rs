//! Memory that will be needed, mapped at once: `madvise(2)` with `MADV_POPULATE_WRITE` (Linux 5.14).

use libc::c_void;

const PAGE: usize = 4096;
/// Bytes of heap and of stack that a container's start touches.
const HEAP: usize = 80 << 10;
const STACK: usize = 64 << 10;

/// Maps what is about to be touched in two calls, where each page would be a fault otherwise. An old kernel refuses;
/// the faults come then.
pub fn populate() {
    let heap = Vec::<u8>::with_capacity(HEAP);
    populate_range(heap.as_ptr() as usize, HEAP);
    let here = &raw const heap as usize;
    populate_range(here.saturating_sub(STACK), STACK);
}

fn populate_range(start: usize, length: usize) {
    let aligned = start.next_multiple_of(PAGE);
    // SAFETY: the call changes no contents, and fails where nothing is mapped.
    unsafe {
        libc::madvise(aligned as *mut c_void, (length - (aligned - start)) / PAGE * PAGE, libc::MADV_POPULATE_WRITE)
    };
}
