//! Content into files: writing with holes, hashing, copying what is here already.
//!
//! In: handles and bytes. Out: files whose content was hashed on the way. It must never map a
//! file, nor read more of one than it was told to expect.

use std::os::fd::AsFd;

use rustix::fs::{FallocateFlags, fallocate, ftruncate, ioctl_ficlone};
use rustix::io::{pread, pwrite};

use super::call::{Call, Refused};
use super::mount::{Counters, Mount};
use super::sys;
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

/// Writes `bytes` at `offset`; with `holes`, blocks of zeros are left out, so that the file
/// may end before its last byte until [`set_size`].
pub(crate) fn write_at(
    file: impl AsFd,
    offset: u64,
    bytes: &[u8],
    holes: bool,
) -> Result<(), Refused> {
    if holes {
        for (start, len, zero) in runs(offset, bytes) {
            if !zero {
                write_all(file.as_fd(), offset + start as u64, &bytes[start..start + len])?;
            }
        }
    } else {
        write_all(file.as_fd(), offset, bytes)?;
    }
    // The sync at the end of a large content has little left to wait for.
    let (from, to) = steps(offset, bytes.len() as u64);
    if from < to {
        sys::begin_writing(file, from, to - from);
    }
    Ok(())
}

/// Content is written to the disk in steps of so many bytes, while more of it arrives.
const STEP_BYTES: u64 = 8 << 20;

/// From where to where the steps are that end in what was written now.
fn steps(offset: u64, bytes: u64) -> (u64, u64) {
    let step = |at: u64| at / STEP_BYTES * STEP_BYTES;
    (step(offset), step(offset.saturating_add(bytes)))
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
                Err(e) if e.errno() == rustix::io::Errno::OPNOTSUPP => return Ok(()),
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
    let mut done = 0;
    for_each_buffer(mount, from, size.saturating_add(1), |at, bytes| {
        hasher.update(bytes);
        done += bytes.len() as u64;
        write_at(to.as_fd(), at, bytes, holes)
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
    let mut done = 0;
    for_each_buffer(mount, from, size, |at, bytes| {
        hasher.update(bytes);
        done += bytes.len() as u64;
        write_at(to.as_fd(), at, bytes, holes)
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

fn write_all(file: impl AsFd, offset: u64, mut bytes: &[u8]) -> Result<(), Refused> {
    let mut at = offset;
    while !bytes.is_empty() {
        match WRITE.run(|| pwrite(file.as_fd(), bytes, at))? {
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
    use super::*;

    #[test]
    fn every_whole_step_is_written_once_it_is_complete() {
        let mut begun = Vec::new();
        let sizes = [1, 256 << 10, 5 << 20, 3 << 20, 20 << 20, 7];
        let mut at = 0;
        for bytes in sizes {
            let (from, to) = steps(at, bytes);
            begun.extend((from / STEP_BYTES)..(to / STEP_BYTES));
            at += bytes;
        }
        assert_eq!((0..at / STEP_BYTES).collect::<Vec<_>>(), begun);
        assert_eq!((0, 0), steps(100, STEP_BYTES - 101));
    }
}
