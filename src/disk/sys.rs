//! System calls that no crate wraps. The only file with `unsafe`.
//!
//! In: handles. Out: plain results. It must never keep a lease longer than the question takes: a
//! writer that opens the file meanwhile waits for it.
#![allow(unsafe_code, reason = "system calls that no crate wraps")]

use std::os::fd::{AsFd, AsRawFd};

/// Not in `libc` for every target; the same number on all of Linux.
const F_SETSIG: libc::c_int = 10;

/// Has the kernel begin to write these bytes of a file to the disk, and waits for nothing. An error says
/// nothing: the sync tells.
pub(crate) fn begin_writing(file: impl AsFd, offset: u64, bytes: u64) {
    let fd = file.as_fd().as_raw_fd();
    let (offset, bytes) = (offset.cast_signed(), bytes.cast_signed());
    // SAFETY: integer arguments, and a descriptor that `file` keeps open.
    unsafe { libc::sync_file_range(fd, offset, bytes, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Whether somebody has a file open for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writer {
    /// Somebody has (or maps it writable).
    Yes,
    /// Nobody had it open a moment ago.
    No,
    /// The file system or the permissions do not let us know.
    Unknown,
}

/// Asks whether somebody has the file open for writing, by taking a read lease and giving it back
/// at once. `file` must be open for reading only.
pub(crate) fn writer_of(file: impl AsFd) -> Writer {
    let fd = file.as_fd().as_raw_fd();
    // A lease that breaks in this moment sends a signal: SIGURG, which is ignored by default,
    // instead of SIGIO, which kills.
    // SAFETY: `fcntl` with integer arguments on a descriptor that `file` keeps open.
    if unsafe { libc::fcntl(fd, F_SETSIG, libc::SIGURG) } != 0 {
        return Writer::Unknown;
    }
    // SAFETY: as above.
    if unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) } == 0 {
        // SAFETY: as above. It cannot fail for a lease just taken.
        unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK) };
        return Writer::No;
    }
    match std::io::Error::last_os_error().raw_os_error() {
        Some(libc::EAGAIN) => Writer::Yes,
        _ => Writer::Unknown,
    }
}
