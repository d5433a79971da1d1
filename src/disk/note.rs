//! A note beside the files of a mount: which index knows them, as some bytes of the caller's.
//!
//! In: a mount and bytes. Out: the same bytes, later. It stays with the files, whatever becomes of
//! the index. A note that a crash has cut short is the caller's to recognise. It must never touch
//! anything but its own two names in `.trefoil`.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::fs::File;
use std::io::{Read as _, Write as _};

use rustix::fs::{Mode, OFlags, openat, openat2, renameat};
use rustix::io::Errno;

use super::call::{Call, Refused};
use super::mount::Mount;
use super::walk::CONTAINED;

const OPEN: Call = Call::new("open.note", "open the note of the index");
const READ: Call = Call::new("read.note", "read the note of the index");
const WRITE: Call = Call::new("write.note", "write the note of the index");
const RENAME: Call = Call::new("rename.note", "replace the note of the index");

const NOTE: &[u8] = b"index";
const NOTE_STAGE: &[u8] = b"index.new";
/// Bytes of a note that are read.
const NOTE_BYTES_MAX: u64 = 4096;

impl Mount {
    /// The note, if there is one.
    ///
    /// # Errors
    /// What the operating system refused.
    pub fn note(&self) -> Result<Option<Vec<u8>>, Refused> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = || openat2(self.own(), NOTE, flags, Mode::empty(), CONTAINED);
        let file = match OPEN.run(open) {
            Ok(fd) => File::from(fd),
            Err(e) if e.errno() == Errno::NOENT => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut bytes = Vec::new();
        file.take(NOTE_BYTES_MAX).read_to_end(&mut bytes).map_err(|e| READ.failed(e))?;
        Ok(Some(bytes))
    }

    /// Replaces the note. After a crash of the machine it may be the old one, or cut short.
    ///
    /// # Errors
    /// What the operating system refused; then the note is as it was.
    pub fn set_note(&self, bytes: &[u8]) -> Result<(), Refused> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
        let mode = Mode::from_raw_mode(0o600);
        let open = || openat(self.own(), NOTE_STAGE, flags | OFlags::CLOEXEC, mode);
        let mut file = File::from(WRITE.run(open)?);
        file.write_all(bytes).map_err(|e| WRITE.failed(e))?;
        RENAME.run(|| renameat(self.own(), NOTE_STAGE, self.own(), NOTE))
    }
}
