//! `poll(2)` of descriptors that may be absent, which nix's cannot leave out.

use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::poll::PollFlags;

use super::number;

/// A descriptor to wait for.
#[repr(transparent)]
pub struct Place<'a>(libc::pollfd, PhantomData<BorrowedFd<'a>>);

impl<'a> Place<'a> {
    /// Waits for `events` on `file`; not at all where either is absent.
    pub fn new<F: AsFd>(file: Option<&'a F>, events: PollFlags) -> Self {
        // The kernel leaves negative ones out.
        let fd = file.filter(|_| !events.is_empty()).map_or(-1, |file| file.as_fd().as_raw_fd());
        Self(libc::pollfd { fd, events: events.bits(), revents: 0 }, PhantomData)
    }

    /// Whether something has happened there: what was waited for, an error, or the other end's close.
    pub fn is_ready(&self) -> bool {
        self.0.revents != 0
    }
}

/// Waits for any of `places`: for `timeout` milliseconds, or without end where that is negative.
pub fn poll(places: &mut [Place<'_>], timeout: i32) -> nix::Result<()> {
    // SAFETY: a `Place` is a pollfd, and the pointer and the number describe the slice.
    let result = unsafe { libc::poll(places.as_mut_ptr().cast(), places.len() as libc::nfds_t, timeout) };
    number(result.into()).map(drop)
}
