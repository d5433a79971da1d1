//! The three system calls of fanotify, which no crate in use offers safely.
//!
//! In: descriptors and bytes. Out: owned descriptors or the operating system's error. Decides
//! nothing and parses nothing.

#![allow(unsafe_code, reason = "the raw system calls")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// What is asked for: everything that changes a name, content or metadata, of files and of
/// directories. Never opens or accesses: reading, our own included, must cost nothing.
const MASK: u64 = libc::FAN_CREATE
    | libc::FAN_DELETE
    | libc::FAN_RENAME
    | libc::FAN_CLOSE_WRITE
    | libc::FAN_ATTRIB
    | libc::FAN_MODIFY
    | libc::FAN_ONDIR
    | libc::FAN_EVENT_ON_CHILD;

/// Opens a queue whose events name a directory by handle and an entry in it. It does not block.
pub(super) fn init() -> io::Result<OwnedFd> {
    let flags = libc::FAN_CLASS_NOTIF
        | libc::FAN_REPORT_DFID_NAME
        | libc::FAN_CLOEXEC
        | libc::FAN_NONBLOCK
        | libc::FAN_UNLIMITED_QUEUE;
    let event_flags = (libc::O_RDONLY | libc::O_CLOEXEC).cast_unsigned();
    // SAFETY: takes two integers.
    let fd = unsafe { libc::fanotify_init(flags, event_flags) };
    owned(fd)
}

/// Marks the whole file system that `root` is on.
pub(super) fn mark(queue: BorrowedFd<'_>, root: BorrowedFd<'_>) -> io::Result<()> {
    let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM | libc::FAN_MARK_ONLYDIR;
    // SAFETY: both descriptors are open; the path is a literal that ends with NUL.
    let done = unsafe {
        libc::fanotify_mark(queue.as_raw_fd(), flags, MASK, root.as_raw_fd(), c".".as_ptr())
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Opens, as a path only, what a file handle stands for. `mount` is open for reading on the mount
/// the handle's file system is seen through.
pub(super) fn open_by_handle(
    mount: BorrowedFd<'_>,
    handle_type: i32,
    handle: &[u8],
) -> io::Result<OwnedFd> {
    let length = u32::try_from(handle.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // `struct file_handle`: two 32-bit fields, then the bytes; whole words align it.
    let mut words = vec![length, handle_type.cast_unsigned()];
    words.extend(handle.chunks(4).map(|chunk| {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        u32::from_ne_bytes(word)
    }));
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    // SAFETY: `words` is aligned as `struct file_handle`, holds as many bytes as its first field
    // says, and outlives the call, which only reads it.
    let fd = unsafe {
        libc::syscall(libc::SYS_open_by_handle_at, mount.as_raw_fd(), words.as_mut_ptr(), flags)
    };
    owned(RawFd::try_from(fd).unwrap_or(-1))
}

fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
