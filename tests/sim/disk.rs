//! A modelled file system below one mount: names, inodes, times, open writers.
//!
//! Operations fail as the real ones do (no parent, not empty, wrong kind). Times are those of a
//! kernel with a tick of [`TICK_NS`], so that two changes may carry the same times.

use std::collections::BTreeMap;

use trefoil::model::{ContentId, Entry, Kind, Meta, Mtime, RelPath, Signature, Xattrs};

/// The kernel's tick: times are rounded down to it.
const TICK_NS: u64 = 4_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    pub id: ContentId,
    pub size: u64,
}

impl Content {
    pub fn of(text: &str) -> Self {
        Self { id: ContentId::of(text.as_bytes()), size: text.len() as u64 }
    }

    pub fn empty() -> Self {
        Self::of("")
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    Dir,
    File(Content),
    Link(Box<[u8]>),
}

#[derive(Clone, Debug)]
pub struct Inode {
    pub body: Body,
    pub mode: u32,
    pub mtime: Mtime,
    pub ctime: Mtime,
    pub links: u32,
    pub writers: u32,
}

impl Inode {
    pub fn is_dir(&self) -> bool {
        self.body == Body::Dir
    }

    pub fn content(&self) -> Option<Content> {
        match self.body {
            Body::File(content) => Some(content),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Disk {
    names: BTreeMap<RelPath, u64>,
    inodes: BTreeMap<u64, Inode>,
    next: u64,
}

/// The time a kernel stores for this moment: of its last tick, which knows nothing of how somebody set
/// the clock.
pub fn kernel_time(wall_ns: u64, skew_ns: i64) -> Mtime {
    let real_ns = wall_ns.saturating_add_signed(-skew_ns);
    let ns = (real_ns - real_ns % TICK_NS).saturating_add_signed(skew_ns);
    let secs = i64::try_from(ns / 1_000_000_000).expect("in range");
    let nanos = u32::try_from(ns % 1_000_000_000).expect("in range");
    Mtime { secs, nanos }
}

fn nanos(time: Mtime) -> u64 {
    u64::try_from(time.secs).unwrap_or(0) * 1_000_000_000 + u64::from(time.nanos)
}

impl Disk {
    pub fn number(&self, path: &RelPath) -> Option<u64> {
        self.names.get(path).copied()
    }

    pub fn at(&self, path: &RelPath) -> Option<&Inode> {
        self.inodes.get(&self.number(path)?)
    }

    pub fn at_mut(&mut self, path: &RelPath) -> Option<&mut Inode> {
        let number = self.number(path)?;
        self.inodes.get_mut(&number)
    }

    pub fn inode_mut(&mut self, number: u64) -> Option<&mut Inode> {
        self.inodes.get_mut(&number)
    }

    /// Every path, parents first.
    pub fn paths(&self) -> impl Iterator<Item = &RelPath> {
        self.names.keys()
    }

    /// Every path of an inode.
    pub fn names_of(&self, number: u64) -> Vec<RelPath> {
        self.names.iter().filter(|&(_, &n)| n == number).map(|(path, _)| path.clone()).collect()
    }

    pub fn is_dir(&self, path: &RelPath) -> bool {
        path.is_root() || self.at(path).is_some_and(Inode::is_dir)
    }

    pub fn has_parent(&self, path: &RelPath) -> bool {
        path.parent().is_some_and(|parent| self.is_dir(&parent))
    }

    /// Everything below a directory, parents first.
    pub fn below(&self, dir: &RelPath) -> Vec<RelPath> {
        self.names.keys().filter(|path| path.is_below(dir)).cloned().collect()
    }

    pub fn is_empty(&self, dir: &RelPath) -> bool {
        !self.names.keys().any(|path| path.is_below(dir))
    }

    pub fn holds(&self, content: ContentId) -> bool {
        let linked = |inode: &&Inode| inode.links > 0;
        self.inodes.values().filter(linked).any(|i| i.content().is_some_and(|c| c.id == content))
    }

    /// Makes a new inode at a path that is free and has a parent.
    pub fn make(&mut self, path: &RelPath, body: Body, mode: u32, time: Mtime) -> u64 {
        assert!(self.has_parent(path) && !self.names.contains_key(path), "free: {path}");
        self.next += 1;
        let inode = Inode { body, mode, mtime: time, ctime: time, links: 1, writers: 0 };
        self.inodes.insert(self.next, inode);
        self.names.insert(path.clone(), self.next);
        self.next
    }

    /// Takes a name away; the inode goes with its last name and writer. Gives its number.
    pub fn unlink(&mut self, path: &RelPath, time: Mtime) -> u64 {
        assert!(!self.is_dir(path) || self.is_empty(path), "not empty: {path}");
        let number = self.names.remove(path).expect("there");
        let inode = self.inodes.get_mut(&number).expect("named");
        inode.links -= 1;
        inode.ctime = time;
        self.collect(number);
        number
    }

    /// Drops an inode without names and writers.
    pub fn collect(&mut self, number: u64) {
        if self.inodes.get(&number).is_some_and(|i| i.links == 0 && i.writers == 0) {
            self.inodes.remove(&number);
        }
    }

    /// Moves a name with everything below it to a free place.
    pub fn rename(&mut self, old: &RelPath, new: &RelPath, time: Mtime) {
        assert!(!self.names.contains_key(new) && !new.is_below(old), "{old} to {new}");
        for path in self.below(old).into_iter().chain([old.clone()]) {
            let number = self.names.remove(&path).expect("there");
            let tail = &path.as_bytes()[old.as_bytes().len()..];
            let moved = [new.as_bytes(), tail].concat();
            self.names.insert(RelPath::parse(&moved).expect("a path"), number);
        }
        self.at_mut(new).expect("moved").ctime = time;
    }

    /// A directory's time moves with its children.
    pub fn touch_parent(&mut self, path: &RelPath, time: Mtime) {
        if let Some(dir) = path.parent().and_then(|parent| self.at_mut(&parent)) {
            (dir.mtime, dir.ctime) = (time, time);
        }
    }

    /// Closes every file. Gives what files that were open have in them.
    pub fn close_all(&mut self) -> Vec<Content> {
        let open = self.inodes.values_mut().filter(|inode| inode.writers > 0);
        let left = open.filter_map(|inode| {
            inode.writers = 0;
            inode.content()
        });
        let left = left.collect();
        self.inodes.retain(|_, inode| inode.links > 0);
        left
    }

    pub fn entry(&self, path: &RelPath) -> Option<Entry> {
        let inode = self.at(path)?;
        let kind = match &inode.body {
            Body::Dir => Kind::Dir,
            Body::File(Content { id, size }) => {
                Kind::File { size: *size, content: *id, sparse: false, group: None }
            }
            Body::Link(target) => Kind::Symlink { target: target.clone() },
        };
        let (mode, mtime) = (inode.mode, inode.mtime);
        Some(Entry { kind, meta: Meta { mode, uid: 0, gid: 0, mtime, xattrs: Xattrs::new() } })
    }

    /// What `stat` says at this moment.
    pub fn signature(&self, path: &RelPath, wall_ns: u64) -> Option<Signature> {
        let number = self.number(path)?;
        let inode = self.inodes.get(&number)?;
        let kind = match inode.body {
            Body::Dir => 0o040_000,
            Body::File(_) => 0o100_000,
            Body::Link(_) => 0o120_000,
        };
        Some(Signature {
            inode: number,
            size: inode.content().map_or(0, |content| content.size),
            mode: inode.mode | kind,
            mtime: inode.mtime,
            ctime: inode.ctime,
            links: inode.links,
            racy: !inode.is_dir() && wall_ns < nanos(inode.ctime) + 2 * TICK_NS,
        })
    }
}
