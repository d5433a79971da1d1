//! Content into files: writing with holes, hashing, copying what is here already.
//!
//! In: handles and bytes. Out: files whose content was hashed on the way. It must never map a
//! file, nor read more of one than it was told to expect.

use std::io::IoSlice;
use std::os::fd::AsFd;

use rustix::fs::{FallocateFlags, fallocate, ftruncate, ioctl_ficlone};
use rustix::io::{Errno, ReadWriteFlags, pread, pwrite, pwritev2};

use super::call::{Call, Refused};
use super::mount::{Counters, Mount};
use crate::model::ContentId;
use crate::model::limits::CONTENT_BUFFER_BYTES;

const CLONE: Call = Call::new("clone.stage", "clone into the stage");
const HASH: Call = Call::new("read.hash", "read it to hash it");
const PUNCH: Call = Call::new("punch.stage", "make holes in the stage");
const TRUNCATE: Call = Call::new("truncate.stage", "set the size in the stage");
const WRITE: Call = Call::new("write.stage", "write to the stage");

/// Bytes of a block: what is zero all over becomes a hole.
const BLOCK_BYTES: usize = 4096;

static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// `RWF_DONTCACHE`, of Linux 6.14, which the crate does not have: `linux/fs.h`.
const DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// Content of at least this many bytes is not kept in the kernel's cache when it is written: it would take
/// the place of what the applications read all the time, and the sync at its end would wait for all of it.
const UNCACHED_BYTES_MIN: u64 = 64 << 20;

/// Whether what is written stays in the kernel's cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cache {
    /// As usual.
    Keep,
    /// It goes to the disk at once, and is not kept.
    Leave,
}

impl Cache {
    /// What is best for a content of so many bytes.
    pub(crate) const fn of(size: u64) -> Self {
        if size < UNCACHED_BYTES_MIN { Self::Keep } else { Self::Leave }
    }

    /// Whether the kernel or the file system knows nothing but the usual; it is done that way from now on.
    fn is_refused(&mut self, error: &Refused) -> bool {
        let unknown = matches!(error.errno(), Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS);
        std::mem::replace(self, Self::Keep) == Self::Leave && unknown
    }
}

/// Writes `bytes` at `offset`; with `holes`, blocks of zeros are left out, so that the file
/// may end before its last byte until [`set_size`].
pub(crate) fn write_at(
    file: impl AsFd,
    offset: u64,
    bytes: &[u8],
    holes: bool,
) -> Result<(), Refused> {
    write_cached(file, offset, bytes, holes, &mut Cache::Keep)
}

/// The same; `cache` becomes [`Cache::Keep`] where the file system or the kernel knows nothing else.
pub(crate) fn write_cached(
    file: impl AsFd,
    offset: u64,
    bytes: &[u8],
    holes: bool,
    cache: &mut Cache,
) -> Result<(), Refused> {
    if !holes {
        return write_all(file, offset, bytes, cache);
    }
    for (start, len, zero) in runs(offset, bytes) {
        if !zero {
            write_all(file.as_fd(), offset + start as u64, &bytes[start..start + len], cache)?;
        }
    }
    Ok(())
}

/// Makes the file `size` bytes long.
pub(crate) fn set_size(file: impl AsFd, size: u64) -> Result<(), Refused> {
    TRUNCATE.run(|| ftruncate(file.as_fd(), size))
}

/// Turns the blocks of zeros of a file into holes. Where the file system has none, they stay.
pub(crate) fn punch_zeros(file: impl AsFd, size: u64) -> Result<(), Refused> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let mut buffer = vec![0; CONTENT_BUFFER_BYTES];
    let mut at = 0;
    while at < size {
        let n = HASH.run(|| pread(file.as_fd(), &mut *buffer, at))?;
        if n == 0 {
            break;
        }
        for (start, len, _) in runs(at, &buffer[..n]).into_iter().filter(|(_, _, zero)| *zero) {
            let punch = || fallocate(file.as_fd(), flags, at + start as u64, len as u64);
            match PUNCH.run(punch) {
                Err(e) if e.errno() == Errno::OPNOTSUPP => return Ok(()),
                other => other?,
            }
        }
        at += n as u64;
    }
    Ok(())
}

/// Hashes the first `size` bytes into `hasher`; how many there were.
pub(crate) fn hash_into(
    mount: &Mount,
    hasher: &mut blake3::Hasher,
    file: impl AsFd,
    size: u64,
) -> Result<u64, Refused> {
    let mut done = 0;
    for_each_buffer(mount, file, size, |_, bytes| {
        hasher.update(bytes);
        done += bytes.len() as u64;
        Ok(())
    })?;
    Ok(done)
}

/// Whether the file holds exactly this content.
pub(crate) fn holds(
    mount: &Mount,
    file: impl AsFd,
    content: ContentId,
    size: u64,
) -> Result<bool, Refused> {
    let mut hasher = blake3::Hasher::new();
    let done = hash_into(mount, &mut hasher, file, size.saturating_add(1))?;
    Ok(done == size && *hasher.finalize().as_bytes() == content.0)
}

/// Copies `from` into the empty file `to`, sharing its blocks where the file system can, and says
/// whether `to` now holds exactly `content`.
pub(crate) fn copy_verified(
    mount: &Mount,
    from: impl AsFd,
    to: impl AsFd,
    (content, size): (ContentId, u64),
    holes: bool,
) -> Result<bool, Refused> {
    if CLONE.run(|| ioctl_ficlone(to.as_fd(), from.as_fd())).is_ok() {
        return holds(mount, to, content, size);
    }
    let mut hasher = blake3::Hasher::new();
    let (mut done, mut cache) = (0, Cache::of(size));
    for_each_buffer(mount, from, size.saturating_add(1), |at, bytes| {
        hasher.update(bytes);
        done += bytes.len() as u64;
        write_cached(to.as_fd(), at, bytes, holes, &mut cache)
    })?;
    if done != size || *hasher.finalize().as_bytes() != content.0 {
        return Ok(false);
    }
    set_size(to, size)?;
    Ok(true)
}

/// Copies the first `size` bytes of `from`, or as many as there are, into the empty file `to`,
/// sharing its blocks where the file system can. Gives the id and the number of what `to` holds now.
pub(crate) fn copy_hashed(
    mount: &Mount,
    from: impl AsFd,
    to: impl AsFd,
    size: u64,
    holes: bool,
) -> Result<(ContentId, u64), Refused> {
    let mut hasher = blake3::Hasher::new();
    if CLONE.run(|| ioctl_ficlone(to.as_fd(), from.as_fd())).is_ok() {
        let done = hash_into(mount, &mut hasher, to, u64::MAX)?;
        return Ok((ContentId(*hasher.finalize().as_bytes()), done));
    }
    let (mut done, mut cache) = (0, Cache::of(size));
    for_each_buffer(mount, from, size, |at, bytes| {
        hasher.update(bytes);
        done += bytes.len() as u64;
        write_cached(to.as_fd(), at, bytes, holes, &mut cache)
    })?;
    set_size(to, done)?;
    Ok((ContentId(*hasher.finalize().as_bytes()), done))
}

fn for_each_buffer(
    mount: &Mount,
    file: impl AsFd,
    bytes_max: u64,
    mut f: impl FnMut(u64, &[u8]) -> Result<(), Refused>,
) -> Result<(), Refused> {
    let usual = CONTENT_BUFFER_BYTES as u64;
    let mut buffer = vec![0; usize::try_from(bytes_max.min(usual)).unwrap_or_default()];
    let mut at = 0;
    while at < bytes_max {
        let len = usize::try_from((bytes_max - at).min(usual)).unwrap_or_default();
        let n = HASH.run(|| pread(file.as_fd(), &mut buffer[..len], at))?;
        if n == 0 {
            break;
        }
        f(at, &buffer[..n])?;
        at += n as u64;
    }
    Counters::add(&mount.counters.bytes_hashed, at);
    Ok(())
}

fn write_all(
    file: impl AsFd,
    offset: u64,
    mut bytes: &[u8],
    cache: &mut Cache,
) -> Result<(), Refused> {
    let mut at = offset;
    while !bytes.is_empty() {
        let write = || match cache {
            Cache::Keep => pwrite(file.as_fd(), bytes, at),
            Cache::Leave => pwritev2(file.as_fd(), &[IoSlice::new(bytes)], at, DONTCACHE),
        };
        let written = match WRITE.run(write) {
            Err(e) if cache.is_refused(&e) => continue,
            other => other?,
        };
        match written {
            0 => return Err(WRITE.failed(std::io::ErrorKind::WriteZero.into())),
            n => {
                bytes = &bytes[n..];
                at += n as u64;
            }
        }
    }
    Ok(())
}

/// Splits bytes that lie at `offset` into runs of zeros and of other bytes: start, length, and
/// whether it is a run of zeros. They are told apart by blocks aligned to the file; a part of a
/// block counts too, since what is not written of a new file is zero.
fn runs(offset: u64, bytes: &[u8]) -> Vec<(usize, usize, bool)> {
    let into_block = usize::try_from(offset % BLOCK_BYTES as u64).unwrap_or_default();
    let mut runs: Vec<(usize, usize, bool)> = Vec::new();
    let mut at = 0;
    let mut len = (BLOCK_BYTES - into_block).min(bytes.len());
    while at < bytes.len() {
        let zero = bytes[at..at + len] == ZEROS[..len];
        match runs.last_mut() {
            Some(last) if last.2 == zero => last.1 += len,
            _ => runs.push((at, len, zero)),
        }
        at += len;
        len = BLOCK_BYTES.min(bytes.len() - at);
    }
    runs
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};

    use super::*;

    /// A file in memory keeps everything in its cache, which is where it is.
    #[test]
    fn what_is_not_to_be_kept_in_the_cache_is_written_wherever_that_is_known_and_where_not() {
        for dir in [Some("/dev/shm"), None] {
            let made = dir.map_or_else(tempfile::tempfile, tempfile::tempfile_in);
            let Ok(mut file) = made else { continue };
            let (bytes, mut cache) = (vec![7_u8; 10_000], Cache::of(UNCACHED_BYTES_MIN));
            assert_eq!(Cache::Leave, cache);
            for at in [0, 10_000, 20_000] {
                write_cached(&file, at, &bytes, false, &mut cache).unwrap();
            }
            let mut read = Vec::new();
            file.rewind().unwrap();
            file.read_to_end(&mut read).unwrap();
            assert_eq!(vec![7; 30_000], read);
        }
    }

    #[test]
    fn an_error_that_is_another_one_is_not_taken_for_a_kernel_that_cannot() {
        let flags = rustix::fs::OFlags::RDONLY;
        let mode = rustix::fs::Mode::empty();
        let read_only = rustix::fs::open("/proc/self/exe", flags, mode).unwrap();
        let mut cache = Cache::Leave;
        let written = write_cached(&read_only, 0, b"x", false, &mut cache);
        assert_eq!(Errno::BADF, written.unwrap_err().errno());
    }
}
