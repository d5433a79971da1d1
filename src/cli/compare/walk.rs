//! Reads a tree as any program would: directory by directory, every byte of every file.
//!
//! In: a root. Out: a [`Tree`]. No symbolic link is followed, however the tree changes meanwhile,
//! and one directory is open at a time, however deep it is.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, SeekFrom, Stat};
use rustix::io::Errno;

use super::{Description, Kind, Tree};

/// The directory below a mount's root that trefoil keeps for itself: no part of a replica.
const PRIVATE: &[u8] = b".trefoil";

/// Bytes of a path handed to the kernel at a time; deeper directories are opened in steps.
const STEP_BYTES_MAX: usize = 2048;

/// Bytes of a hole below which it does not count: smaller ones come and go with the file system.
const HOLE_BYTES_MIN: u64 = 64 << 10;

/// Extended attributes that a replica keeps: users' own, ACLs and capabilities.
const XATTR_PREFIXES: [&[u8]; 3] = [b"user.", b"system.posix_acl_", b"security.capability"];

/// Why a tree cannot be described.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} \"{}\"", path.escape_ascii())]
pub struct DescribeError {
    /// A verb, as in "open".
    doing: &'static str,
    /// Relative to the root; empty for the root.
    path: Vec<u8>,
    source: io::Error,
}

/// What one look needs: the path it is at, for messages, and what was found so far.
struct Walk {
    root: OwnedFd,
    tree: Tree,
    /// Directories not yet listed.
    pending: Vec<Vec<u8>>,
    /// The paths of each file that has more than one link, by device and inode.
    links: BTreeMap<(u64, u64), Vec<Vec<u8>>>,
    buffer: Vec<u8>,
}

/// Describes the tree below `root`.
///
/// What vanishes while it is read is left out, so a tree that is still being written to can be
/// described; the answer may then mix old and new.
///
/// # Errors
/// [`DescribeError`] with the first path that could not be looked at.
pub fn describe(root: &Path) -> Result<Tree, DescribeError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(root, flags, Mode::empty()).map_err(|e| DescribeError {
        doing: "open the root",
        path: root.as_os_str().as_encoded_bytes().to_vec(),
        source: e.into(),
    })?;
    let mut walk = Walk {
        root: fd,
        tree: Tree::new(),
        pending: vec![Vec::new()],
        links: BTreeMap::new(),
        buffer: vec![0; 256 << 10],
    };
    while let Some(directory) = walk.pending.pop() {
        walk.list(&directory)?;
    }
    walk.join_links();
    Ok(walk.tree)
}

impl Walk {
    /// Describes what is in one directory and remembers its directories.
    fn list(&mut self, directory: &[u8]) -> Result<(), DescribeError> {
        let opened = self.open_directory(directory);
        let Some(fd) = self.readable(directory, "open", opened)? else { return Ok(()) };
        let at =
            |e: Errno| DescribeError { doing: "list", path: directory.to_vec(), source: e.into() };
        let mut names = Vec::new();
        for entry in Dir::read_from(&fd).map_err(at)? {
            let name = entry.map_err(at)?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." && !(directory.is_empty() && name == PRIVATE) {
                names.push(name);
            }
        }
        for name in names {
            let mut path = directory.to_vec();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend(&name);
            match self.look(fd.as_fd(), &name, &path) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(DescribeError { doing: "look at", path, source: e.into() }),
            }
        }
        Ok(())
    }

    /// `None` if the directory is none any more, or may not be read; the latter is noted in the tree.
    fn readable<T>(
        &mut self,
        path: &[u8],
        doing: &'static str,
        result: Result<T, Errno>,
    ) -> Result<Option<T>, DescribeError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if !path.is_empty() => Ok(None),
            Err(Errno::ACCESS) if !path.is_empty() => {
                if let Some(description) = self.tree.get_mut(path) {
                    description.kind = Kind::Unreadable;
                }
                Ok(None)
            }
            Err(e) => Err(DescribeError { doing, path: path.to_vec(), source: e.into() }),
        }
    }

    /// Opens a directory below the root, however long its path, and through no symbolic link.
    fn open_directory(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let open = |at: BorrowedFd<'_>, step: &[u8]| {
            rustix::fs::openat2(at, step, flags, Mode::empty(), resolve)
        };
        let mut fd = open(self.root.as_fd(), b".")?;
        let mut rest = path;
        while rest.len() > STEP_BYTES_MAX {
            // A name has at most 255 bytes, so there is a separator.
            let end =
                rest[..STEP_BYTES_MAX].iter().rposition(|b| *b == b'/').ok_or(Errno::INVAL)?;
            fd = open(fd.as_fd(), &rest[..end])?;
            rest = &rest[end + 1..];
        }
        if rest.is_empty() { Ok(fd) } else { open(fd.as_fd(), rest) }
    }

    /// Describes `name` in `directory`, which is at `path` in the tree.
    fn look(&mut self, directory: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<(), Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(directory, name, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                self.pending.push(path.to_vec());
                Kind::Directory
            }
            FileType::RegularFile => self.file(fd.as_fd(), &stat, path)?,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&fd, c"", Vec::new())?;
                Kind::Symlink { target: target.into_bytes() }
            }
            _ => return Ok(()),
        };
        let (kind, xattrs) = match xattrs(fd.as_fd(), &kind) {
            Err(Errno::ACCESS) => (Kind::Unreadable, BTreeMap::new()),
            other => (kind, other?),
        };
        let description = Description {
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(u32::MAX)),
            xattrs,
        };
        self.tree.insert(path.to_vec(), description);
        Ok(())
    }

    fn file(&mut self, fd: BorrowedFd<'_>, stat: &Stat, path: &[u8]) -> Result<Kind, Errno> {
        if stat.st_nlink > 1 {
            self.links.entry((stat.st_dev, stat.st_ino)).or_default().push(path.to_vec());
        }
        let opened = rustix::fs::open(by_fd(fd), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let mut file = match opened {
            Err(Errno::ACCESS) => return Ok(Kind::Unreadable),
            other => File::from(other?),
        };
        let holes = has_holes(&file, u64::try_from(stat.st_size).unwrap_or(0))?;
        rustix::fs::seek(&file, SeekFrom::Start(0))?;
        let (mut hasher, mut bytes) = (blake3::Hasher::new(), 0);
        loop {
            let read = file.read(&mut self.buffer).map_err(|e| errno(&e))?;
            if read == 0 {
                break;
            }
            hasher.update(&self.buffer[..read]);
            bytes += read as u64;
        }
        Ok(Kind::File { bytes, hash: *hasher.finalize().as_bytes(), holes, linked: None })
    }

    /// Names each file's group of paths by the first of them.
    fn join_links(&mut self) {
        for paths in self.links.values().filter(|paths| paths.len() > 1) {
            let first = paths.iter().min();
            for path in paths {
                if let Some(Description { kind: Kind::File { linked, .. }, .. }) =
                    self.tree.get_mut(path)
                {
                    *linked = first.cloned();
                }
            }
        }
    }
}

/// A path by which the kernel finds what `fd` was opened for, wherever it is by now.
fn by_fd(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// Whether there is a hole of at least [`HOLE_BYTES_MIN`] before the end.
fn has_holes(file: &File, bytes: u64) -> Result<bool, Errno> {
    let mut at = 0;
    while at < bytes {
        let hole = match rustix::fs::seek(file, SeekFrom::Hole(at)) {
            Err(Errno::NXIO) => break, // shortened meanwhile
            other => other?,
        };
        let data = match rustix::fs::seek(file, SeekFrom::Data(hole)) {
            Err(Errno::NXIO) => bytes, // nothing but a hole up to the end
            other => other?,
        };
        if data.saturating_sub(hole) >= HOLE_BYTES_MIN {
            return Ok(true);
        }
        at = data.max(hole);
    }
    Ok(false)
}

/// The attributes that a replica keeps. A symbolic link has none.
fn xattrs(fd: BorrowedFd<'_>, kind: &Kind) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Errno> {
    if matches!(kind, Kind::Symlink { .. }) {
        return Ok(BTreeMap::new());
    }
    let path = by_fd(fd);
    let mut names = vec![0; 64 << 10]; // as many as the kernel ever lists
    let length = match rustix::fs::listxattr(&path, &mut names[..]) {
        Err(Errno::NOTSUP) => 0,
        other => other?,
    };
    let mut found = BTreeMap::new();
    for name in names[..length].split(|b| *b == 0) {
        if XATTR_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            let mut value = vec![0; 64 << 10]; // the kernel's limit of one value
            let length = rustix::fs::getxattr(&path, name, &mut value[..])?;
            value.truncate(length);
            found.insert(name.to_vec(), value);
        }
    }
    Ok(found)
}
