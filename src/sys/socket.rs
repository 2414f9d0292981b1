//! Sockets: connections as owned descriptors, and datagrams without an allocation, which nix's `recvmsg(2)` makes for each.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use super::{descriptor, number};

/// Room for two descriptors: the kernel closes what there is no room for, `unix(7)`.
#[repr(C, align(8))]
struct Control {
    header: libc::cmsghdr,
    descriptors: [i32; 2],
}

/// `accept4(2)`.
pub fn accept(listener: impl AsFd) -> nix::Result<OwnedFd> {
    let nobody = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the peer's address is not asked for.
    descriptor(unsafe {
        libc::syscall(libc::SYS_accept4, listener.as_fd().as_raw_fd(), nobody, nobody, libc::SOCK_CLOEXEC)
    })
}

/// The next datagram, without waiting: its length, and the first two descriptors that came with it, `recvmsg(2)`.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> nix::Result<(usize, [Option<OwnedFd>; 2])> {
    // SAFETY: of both structures all zeros is a value.
    let (mut control, mut message): (Control, libc::msghdr) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>() as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the message names the buffer and the control data, both of which outlive the call, with their lengths.
    let length = number(unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, flags) } as libc::c_long)?;
    let is_passed = message.msg_controllen as usize >= size_of::<libc::cmsghdr>()
        && (control.header.cmsg_level, control.header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS);
    let bytes = (control.header.cmsg_len as usize).saturating_sub(size_of::<libc::cmsghdr>());
    let count = if is_passed { bytes / size_of::<i32>() } else { 0 };
    let take = |index: usize| control.descriptors.get(index).filter(|_| index < count).copied();
    let own = |number: i32| descriptor(number.into()).ok();
    Ok((length as usize, [take(0).and_then(own), take(1).and_then(own)]))
}
