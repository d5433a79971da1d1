//! A file mapped into memory to be written to, as databases do. For tests.
#![allow(unsafe_code, reason = "no crate here maps files")]

use std::fs::File;
use std::os::fd::AsRawFd;

/// The first page of a file, mapped to be written to; the file itself may be closed.
pub(super) struct Map(*mut libc::c_void);

const BYTES: usize = 4096;

impl Map {
    pub(super) fn new(file: &File) -> Self {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let fd = file.as_raw_fd();
        // SAFETY: the kernel chooses the address, nothing else is mapped there.
        let at =
            unsafe { libc::mmap(std::ptr::null_mut(), BYTES, access, libc::MAP_SHARED, fd, 0) };
        assert_ne!(libc::MAP_FAILED, at);
        Self(at)
    }

    /// Writes at the beginning of the file, which has at least so many bytes.
    pub(super) fn write(&self, bytes: &[u8]) {
        assert!(bytes.len() <= BYTES);
        // SAFETY: the mapping is as long, and lives as long as `self`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.cast(), bytes.len()) };
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and not used after this.
        unsafe { libc::munmap(self.0, BYTES) };
    }
}
