//! What is at a path: its kind, metadata and content.

use std::fmt;

/// BLAKE3 of a file's whole content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentId(pub [u8; 32]);

impl ContentId {
    /// The id of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The id of nothing: an empty file's.
    #[must_use]
    pub fn empty() -> Self {
        Self::of(&[])
    }
}

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// Paths that are hard links of one file carry one group. A file with a single name may keep the
/// group it had.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct LinkGroup(pub u64);

/// What kind of thing an entry is, with what only that kind has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A directory. Its children are entries of their own.
    Dir,
    /// A regular file.
    File {
        /// In bytes.
        size: u64,
        /// BLAKE3 of the whole content.
        content: ContentId,
        /// Whether blocks of zeros are holes. A hint for the one who writes it: two entries that
        /// differ only here count as the same (see [`Entry::same`]).
        sparse: bool,
        /// Which other paths are the same file.
        group: Option<LinkGroup>,
    },
    /// A symbolic link, verbatim: never followed, and its target need not exist.
    Symlink {
        /// As `readlink` gives it.
        target: Box<[u8]>,
    },
}

/// Modification time: seconds since 1970, possibly before it, and nanoseconds above them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Default)]
pub struct Mtime {
    /// Whole seconds, rounded down.
    pub secs: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

/// Extended attributes with their values, sorted by name, no duplicates. POSIX ACLs are among
/// them, in the kernel's encoding.
pub type Xattrs = Vec<(Box<[u8]>, Box<[u8]>)>;

/// Metadata that every kind has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Meta {
    /// Permission bits with setuid, setgid and sticky: 0 to 0o7777. Always 0o777 for a link.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, to the nanosecond.
    pub mtime: Mtime,
    /// Extended attributes that are mirrored.
    pub xattrs: Xattrs,
}

/// What is at a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Kind and content.
    pub kind: Kind,
    /// Mode, owner, time and attributes.
    pub meta: Meta,
}

impl Entry {
    /// Whether this is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Dir
    }

    /// The content of a regular file, with its size.
    #[must_use]
    pub fn content(&self) -> Option<(ContentId, u64)> {
        match self.kind {
            Kind::File { content, size, .. } => Some((content, size)),
            _ => None,
        }
    }

    /// The hard link group of a regular file.
    #[must_use]
    pub fn group(&self) -> Option<LinkGroup> {
        match self.kind {
            Kind::File { group, .. } => group,
            _ => None,
        }
    }

    /// Whether both are the same to a user: all but the hint `sparse`.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        self.meta == other.meta && self.same_kind_content(other) && self.group() == other.group()
    }

    /// Whether kind and content are the same, whatever the metadata and the link group.
    #[must_use]
    pub fn same_kind_content(&self, other: &Self) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::Dir, Kind::Dir) => true,
            (
                Kind::File { size: s1, content: c1, .. },
                Kind::File { size: s2, content: c2, .. },
            ) => s1 == s2 && c1 == c2,
            (Kind::Symlink { target: t1 }, Kind::Symlink { target: t2 }) => t1 == t2,
            _ => false,
        }
    }
}
