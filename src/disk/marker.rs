//! The marker of a mount: an id in `.trefoil/marker`, by which a mount is known to be itself.
//!
//! In: an id and a name, or the handle of `.trefoil`. Out: the marker. It must never replace the
//! marker of another mount.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, linkat, openat, openat2, statx, unlinkat};
use rustix::io::Errno;

use super::call::{Call, Refused};
use super::mount::MountError;
use super::walk::CONTAINED;

const LOOK_MARKER: Call = Call::new("stat.marker", "look at the marker");
const OPEN_MARKER: Call = Call::new("open.marker", "open the marker");
const READ_MARKER: Call = Call::new("read.marker", "read the marker");
const WRITE_MARKER: Call = Call::new("write.marker", "write the marker");

const MARKER: &[u8] = b"marker";
const MARKER_STAGE: &[u8] = b"marker.new";
/// Bytes of a marker that are read: an id, a name of any sensible length.
const MARKER_BYTES_MAX: u64 = 4096;

/// Identity of a mount, written once by `init`, `join` or `mark`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MarkerId(pub [u8; 16]);

impl MarkerId {
    /// The id written as 32 hexadecimal digits.
    #[must_use]
    pub fn parse(hex: &str) -> Option<Self> {
        let bytes = data_encoding::HEXLOWER.decode(hex.as_bytes()).ok()?;
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for MarkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for MarkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The id and the name in `dir`, which is `.trefoil`; nothing if there is no marker.
pub(super) fn read(dir: impl AsFd) -> Result<Option<(MarkerId, String)>, MountError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = || openat2(dir.as_fd(), MARKER, flags, Mode::empty(), CONTAINED);
    let file = match OPEN_MARKER.run(open) {
        Ok(fd) => File::from(fd),
        Err(e) if e.errno() == Errno::NOENT => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let mut text = String::new();
    let mut file = file.take(MARKER_BYTES_MAX);
    READ_MARKER.run_io(|| file.read_to_string(&mut text))?;
    let (id, name) = text.split_once('\n').ok_or(MountError::BadMarker)?;
    let id = MarkerId::parse(id).ok_or(MountError::BadMarker)?;
    Ok(Some((id, name.trim_end_matches('\n').to_owned())))
}

/// The inode of the marker's file and when that was made, as far as the file system knows.
pub(super) fn file(dir: impl AsFd) -> Result<String, Refused> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    let mask = StatxFlags::INO | StatxFlags::BTIME;
    let about = LOOK_MARKER.run(|| statx(dir.as_fd(), MARKER, flags, mask))?;
    let born = about.stx_btime;
    Ok(format!("{} {}.{:09}\n", about.stx_ino, born.tv_sec, born.tv_nsec))
}

/// Writes the marker into `dir` durably; nothing to do if the same id is there.
pub(super) fn create(dir: impl AsFd, id: MarkerId, name: &str) -> Result<(), MountError> {
    let dir = dir.as_fd();
    if let Some((found, _)) = read(dir)? {
        return if found == id { Ok(()) } else { Err(MountError::OtherMarker { found }) };
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
    let mode = Mode::from_raw_mode(0o600);
    let open = || openat(dir, MARKER_STAGE, flags | OFlags::CLOEXEC, mode);
    let mut file = File::from(WRITE_MARKER.run(open)?);
    WRITE_MARKER.run_io(|| file.write_all(format!("{id}\n{name}\n").as_bytes()))?;
    WRITE_MARKER.run_io(|| file.sync_all())?;
    let linked = WRITE_MARKER.run(|| linkat(dir, MARKER_STAGE, dir, MARKER, AtFlags::empty()));
    WRITE_MARKER.run(|| unlinkat(dir, MARKER_STAGE, AtFlags::empty()))?;
    match linked {
        // Someone was faster: it is his marker that counts.
        Err(e) if e.errno() == Errno::EXIST => match read(dir)? {
            Some((found, _)) if found == id => {}
            Some((found, _)) => return Err(MountError::OtherMarker { found }),
            None => return Err(e.into()),
        },
        other => other?,
    }
    WRITE_MARKER.run(|| rustix::fs::fsync(dir))?;
    Ok(())
}
