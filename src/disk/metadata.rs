//! Owner, mode, attributes and times of one inode: reading them and setting them.
//!
//! In: a handle, which may be of the kind that only names an inode (`O_PATH`), so that no
//! permission to open it is needed. Out: the metadata, or an inode that has it. It must never
//! follow a symbolic link, and the modification time is always set last.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chmodat, chownat,
    fchmod, getxattr, listxattr, removexattr, setxattr, utimensat,
};
use rustix::io::Errno;

use super::call::{Call, Refused};
use super::look::{Look, Type};
use crate::model::limits::XATTR_BYTES_MAX;
use crate::model::{Meta, Mtime, Xattrs};

const CHMOD: Call = Call::new("chmod", "set the mode");
const CHOWN: Call = Call::new("chown", "set the owner");
const UTIMES: Call = Call::new("utimes", "set the time");
const XATTR_LIST: Call = Call::new("xattr.list", "list the extended attributes");
const XATTR_READ: Call = Call::new("xattr.read", "read an extended attribute");
const XATTR_REMOVE: Call = Call::new("xattr.remove", "remove an extended attribute");
const XATTR_SET: Call = Call::new("xattr.set", "set an extended attribute");

/// Stands for an owner or a group that is not mirrored: as in `chown`, "leave it as it is".
pub const OWNER_UNKNOWN: u32 = u32::MAX;

const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

/// The kernel's own bounds for a list of names and for a value.
const XATTR_KERNEL_BYTES_MAX: usize = 64 << 10;
const XATTR_BYTES_USUAL: usize = 4 << 10;

/// The metadata of the inode at `fd`, which `look` describes.
pub(crate) fn read(fd: BorrowedFd<'_>, look: &Look, privileged: bool) -> Result<Meta, Refused> {
    let symlink = look.file_type() == Type::Symlink;
    Ok(Meta {
        mode: if symlink { 0o777 } else { look.permissions() },
        uid: if privileged { look.uid } else { OWNER_UNKNOWN },
        gid: if privileged { look.gid } else { OWNER_UNKNOWN },
        mtime: look.mtime,
        xattrs: if symlink { Vec::new() } else { read_xattrs(fd)? },
    })
}

/// Gives the inode at `fd` the metadata `meta`. `fresh` says that it was just made by us and has
/// no attributes yet.
///
/// After `Err` some of it may be set.
pub(crate) fn set(
    fd: BorrowedFd<'_>,
    meta: &Meta,
    fresh: bool,
    privileged: bool,
) -> Result<(), Refused> {
    let look = Look::of(fd)?;
    if privileged {
        set_owner(fd, &look, meta)?;
    }
    if look.file_type() != Type::Symlink {
        set_xattrs(fd, &look, meta, fresh, privileged)?;
        set_mode(fd, meta.mode)?;
    }
    if look.mtime != meta.mtime { set_mtime(fd, meta.mtime) } else { Ok(()) }
}

/// Sets the modification time; the access time stays.
pub(crate) fn set_mtime(fd: BorrowedFd<'_>, mtime: Mtime) -> Result<(), Refused> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() },
    };
    UTIMES.run(|| utimensat(fd, b"".as_slice(), &times, AtFlags::EMPTY_PATH))
}

/// Sets the permission bits; that is refused if the file system or the kernel drops some.
pub(crate) fn set_mode(fd: BorrowedFd<'_>, mode: u32) -> Result<(), Refused> {
    if Look::of(fd)?.permissions() == mode {
        return Ok(());
    }
    chmod(fd, mode)?;
    match Look::of(fd)?.permissions() == mode {
        true => Ok(()),
        false => Err(CHMOD.failed(Errno::PERM.into())),
    }
}

/// Removes what the directory at `fd` may have inherited.
pub(crate) fn remove_acls(fd: BorrowedFd<'_>) -> Result<(), Refused> {
    for name in [ACL_DEFAULT, ACL_ACCESS] {
        match XATTR_REMOVE.run(|| removexattr(proc_path(fd), name)) {
            Err(e) if !matches!(e.errno(), Errno::NODATA | Errno::OPNOTSUPP) => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// The attributes that are mirrored, sorted by name; none where the file system has none.
pub(crate) fn read_xattrs(fd: BorrowedFd<'_>) -> Result<Xattrs, Refused> {
    let path = proc_path(fd);
    let list = |buffer: &mut [u8]| XATTR_LIST.run(|| listxattr(&*path, &mut *buffer));
    let names = match grow(list) {
        Ok(names) => names,
        Err(e) if e.errno() == Errno::OPNOTSUPP => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut bytes = 0;
    let mut found = Vec::new();
    for name in names.split(|&b| b == 0).filter(|name| is_mirrored(name)) {
        match grow(|buffer| XATTR_READ.run(|| getxattr(&*path, name, &mut *buffer))) {
            Ok(value) => {
                bytes += name.len() + value.len();
                found.push((name.into(), value.into()));
            }
            // Removed meanwhile: the change time tells.
            Err(e) if e.errno() == Errno::NODATA => {}
            Err(e) => return Err(e),
        }
    }
    if bytes > XATTR_BYTES_MAX {
        return Err(XATTR_READ.failed(Errno::TOOBIG.into()));
    }
    found.sort_unstable();
    Ok(found)
}

/// Gives a new file the attributes that are mirrored of another. Where the file system takes none, it
/// has none.
pub(crate) fn copy_xattrs(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Refused> {
    let path = proc_path(to);
    for (name, value) in read_xattrs(from)? {
        match XATTR_SET.run(|| setxattr(&*path, &*name, &value, XattrFlags::empty())) {
            Err(e) if e.errno() == Errno::OPNOTSUPP => {}
            other => other?,
        }
    }
    Ok(())
}

fn is_mirrored(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name == ACL_ACCESS || name == ACL_DEFAULT
}

/// Calls with a buffer that is usually enough, and again with the largest there can be.
fn grow(f: impl Fn(&mut [u8]) -> Result<usize, Refused>) -> Result<Vec<u8>, Refused> {
    let mut buffer = [0; XATTR_BYTES_USUAL];
    match f(&mut buffer) {
        Ok(n) => return Ok(buffer[..n].to_vec()),
        Err(e) if e.errno() == Errno::RANGE => {}
        Err(e) => return Err(e),
    }
    let mut buffer = vec![0; XATTR_KERNEL_BYTES_MAX];
    let n = f(&mut buffer)?;
    buffer.truncate(n);
    Ok(buffer)
}

fn set_owner(fd: BorrowedFd<'_>, look: &Look, meta: &Meta) -> Result<(), Refused> {
    let change = |want: u32, is: u32| (want != is && want != OWNER_UNKNOWN).then_some(want);
    let uid = change(meta.uid, look.uid).map(Uid::from_raw);
    let gid = change(meta.gid, look.gid).map(Gid::from_raw);
    if uid.is_none() && gid.is_none() {
        return Ok(());
    }
    CHOWN.run(|| chownat(fd, b"".as_slice(), uid, gid, AtFlags::EMPTY_PATH))
}

/// Sets and removes attributes, ACLs last: they decide over the permission bits.
fn set_xattrs(
    fd: BorrowedFd<'_>,
    look: &Look,
    meta: &Meta,
    fresh: bool,
    privileged: bool,
) -> Result<(), Refused> {
    let none = fresh && meta.xattrs.is_empty();
    if !none && !privileged && look.mode & 0o600 != 0o600 {
        // The owner may read and set attributes only while he may read and write.
        chmod(fd, look.permissions() | 0o600)?;
    }
    let have = if fresh { Vec::new() } else { read_xattrs(fd)? };
    if have == meta.xattrs {
        return Ok(());
    }
    let path = proc_path(fd);
    for (name, _) in &have {
        if !meta.xattrs.iter().any(|(wanted, _)| wanted == name) {
            XATTR_REMOVE.run(|| removexattr(&*path, &**name))?;
        }
    }
    let mut changed: Vec<_> = meta.xattrs.iter().filter(|pair| !have.contains(pair)).collect();
    changed.sort_by_key(|(name, _)| !name.starts_with(b"user."));
    for (name, value) in changed {
        XATTR_SET.run(|| setxattr(&*path, &**name, value, XattrFlags::empty()))?;
    }
    Ok(())
}

fn chmod(fd: BorrowedFd<'_>, mode: u32) -> Result<(), Refused> {
    let mode = Mode::from_raw_mode(mode);
    // A handle that only names an inode is refused; the way through /proc costs a path look-up,
    // which counts for staged files, all of which pass here.
    match CHMOD.run(|| fchmod(fd, mode)) {
        Err(e) if e.errno() == Errno::BADF => {
            CHMOD.run(|| chmodat(CWD, proc_path(fd), mode, AtFlags::empty()))
        }
        other => other,
    }
}

/// A path to the inode at `fd` for calls that take no handle of the kind that only names it.
fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}
