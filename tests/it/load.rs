//! Applications at work on several nodes at once, with a ledger of everything they finished.
//!
//! ```ignore
//! let mut load = Load::start(&cluster, &[1, 2, 3], seed);
//! load.take(100);
//! let ledgers = load.finish();
//! cluster.wait_equal(LATER);
//! ledgers.check(&cluster, &[1, 2, 3]);
//! ```
//!
//! Each writer changes one node's replica: a tree that only it changes, files that all replace and
//! remove, and directories that all fill, rename and remove. What it takes the place of it moves
//! out of the mount in the same system call and looks at there, so that the ledger knows exactly
//! what a writer had seen, whatever the daemon did in that moment. A writer goes on only when the
//! test takes its step: nothing depends on time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::cluster::Cluster;
use crate::files::MOUNT;

/// Numbers that look random; the same seed gives the same.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % end
    }
}

/// Writers at work.
pub(crate) struct Load {
    steps: Receiver<()>,
    writers: Vec<JoinHandle<Writer>>,
}

impl Load {
    /// Starts a writer on each of these nodes.
    pub(crate) fn start(cluster: &Cluster, nodes: &[usize], seed: u64) -> Self {
        // Nobody is ahead: a step is done when the test takes it.
        let (done, steps) = sync_channel(0);
        let writers = nodes.iter().map(|&node| {
            let writer = Writer::new(cluster, node, seed);
            let done = done.clone();
            thread::spawn(move || writer.run(&done))
        });
        let writers = writers.collect();
        Self { steps, writers }
    }

    /// Lets this many steps happen.
    #[track_caller]
    pub(crate) fn take(&mut self, steps: usize) {
        for _ in 0..steps {
            self.steps.recv().expect("a writer cannot go on; see above");
        }
    }

    /// Ends the writers and gives what they did.
    pub(crate) fn finish(self) -> Ledgers {
        drop(self.steps);
        let writers = self.writers.into_iter().map(|writer| writer.join().expect("see above"));
        Ledgers { writers: writers.collect() }
    }
}

/// What all writers have done.
pub(crate) struct Ledgers {
    writers: Vec<Writer>,
}

struct Writer {
    node: usize,
    root: PathBuf,
    /// Beside the mount, on the same file system.
    outside: PathBuf,
    random: Random,
    count: usize,
    /// What is in its own tree: path below the mount, and which write.
    own: BTreeMap<String, String>,
    /// Writes into paths of all, by what they wrote.
    finished: BTreeMap<String, String>,
    /// What was at a path of all when this writer took its place, and the path.
    seen: BTreeSet<(String, String)>,
}

/// The bytes of a write: some of them do not fit into an announcement.
fn content_of(write: &str) -> String {
    let number = write.bytes().fold(7_usize, |sum, b| sum.wrapping_mul(31) + usize::from(b));
    let lines = if number.is_multiple_of(17) { 20_000 } else { number % 50 };
    format!("{write}\n{}", format!("{write}.").repeat(lines))
}

/// Which write a file is of; fails the test if it is not the whole of it.
#[track_caller]
fn write_of(content: &[u8], path: &Path) -> String {
    let text = std::str::from_utf8(content).expect("text");
    let write = text.lines().next().unwrap_or_default().to_owned();
    let whole = !write.is_empty() && text == content_of(&write);
    assert!(whole, "{}: {} bytes are not what was written", path.display(), content.len());
    write
}

impl Writer {
    fn new(cluster: &Cluster, node: usize, seed: u64) -> Self {
        let root = cluster.node(node).path(MOUNT);
        let outside = cluster.node(node).state().with_file_name("outside");
        for dir in [&outside, &root.join("all"), &root.join(format!("own-{node}"))] {
            fs::create_dir_all(dir).unwrap();
        }
        let random = Random::new(seed + node as u64);
        Self {
            node,
            root,
            outside,
            random,
            count: 0,
            own: BTreeMap::new(),
            finished: BTreeMap::new(),
            seen: BTreeSet::new(),
        }
    }

    fn run(mut self, done: &SyncSender<()>) -> Self {
        loop {
            self.step();
            if done.send(()).is_err() {
                return self;
            }
        }
    }

    fn step(&mut self) {
        match self.random.below(20) {
            0..4 => self.write_own(),
            4..7 => self.replace_own(),
            7 => self.remove_own(),
            8 => self.move_own_directory(),
            9 => self.remove_own_directory(),
            10..15 => {
                let name = format!("all/f{}", self.random.below(6));
                self.put(&name);
            }
            15 => {
                let name = format!("all/f{}", self.random.below(6));
                self.take_out(&name);
            }
            16..19 => self.put_in_tree(),
            _ => self.move_or_remove_tree(),
        }
    }

    fn next_write(&mut self) -> String {
        self.count += 1;
        format!("n{}-{}", self.node, self.count)
    }

    fn own_directory(&mut self) -> String {
        format!("own-{}/d{}", self.node, self.random.below(4))
    }

    /// Written in place, as the worst application does.
    fn write_own(&mut self) {
        let (dir, sub) = (self.own_directory(), self.random.below(3));
        let name = format!("{dir}/s{sub}/f{}", self.random.below(5));
        let path = self.root.join(&name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let write = self.next_write();
        fs::write(path, content_of(&write)).unwrap();
        self.own.insert(name, write);
    }

    fn replace_own(&mut self) {
        let name = format!("{}/f{}", self.own_directory(), self.random.below(5));
        let path = self.root.join(&name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let write = self.next_write();
        let made = path.with_extension("new");
        fs::write(&made, content_of(&write)).unwrap();
        fs::rename(made, path).unwrap();
        self.own.insert(name, write);
    }

    fn remove_own(&mut self) {
        let at = self.random.below(self.own.len().max(1));
        let Some(name) = self.own.keys().nth(at).cloned() else { return };
        fs::remove_file(self.root.join(&name)).unwrap();
        self.own.remove(&name);
    }

    fn move_own_directory(&mut self) {
        let (from, to) = (self.own_directory(), self.own_directory());
        let (old, new) = (self.root.join(&from), self.root.join(&to));
        match renameat_with(CWD, &old, CWD, &new, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::NOENT | Errno::EXIST) => return,
            Err(error) => panic!("{from} to {to}: {error}"),
        }
        let (from, to) = (format!("{from}/"), format!("{to}/"));
        self.own = std::mem::take(&mut self.own)
            .into_iter()
            .map(|(name, write)| match name.strip_prefix(&from) {
                Some(below) => (format!("{to}{below}"), write),
                None => (name, write),
            })
            .collect();
    }

    fn remove_own_directory(&mut self) {
        let dir = self.own_directory();
        match fs::remove_dir_all(self.root.join(&dir)) {
            Err(error) if error.kind() != ErrorKind::NotFound => panic!("{dir}: {error}"),
            _ => {}
        }
        let below = format!("{dir}/");
        self.own.retain(|name, _| !name.starts_with(&below));
    }

    /// Puts a new file at a path of all, in the place of whatever is there.
    fn put(&mut self, name: &str) {
        let write = self.next_write();
        let (made, path) = (self.outside.join("made"), self.root.join(name));
        fs::write(&made, content_of(&write)).unwrap();
        loop {
            match renameat_with(CWD, &made, CWD, &path, RenameFlags::EXCHANGE) {
                Ok(()) => {
                    self.looked_at(name, &made);
                    break;
                }
                Err(Errno::NOENT) => {}
                Err(error) => panic!("{name}: {error}"),
            }
            match renameat_with(CWD, &made, CWD, &path, RenameFlags::NOREPLACE) {
                Ok(()) => break,
                Err(Errno::EXIST) => {}
                // Its directory has just gone.
                Err(Errno::NOENT | Errno::NOTDIR) => return,
                Err(error) => panic!("{name}: {error}"),
            }
        }
        self.finished.insert(write, name.to_owned());
    }

    fn take_out(&mut self, name: &str) {
        let taken = self.outside.join("taken");
        match fs::rename(self.root.join(name), &taken) {
            Ok(()) => self.looked_at(name, &taken),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => panic!("{name}: {error}"),
        }
    }

    fn looked_at(&mut self, name: &str, taken: &Path) {
        let write = write_of(&fs::read(taken).unwrap(), taken);
        fs::remove_file(taken).unwrap();
        self.seen.insert((write, name.to_owned()));
    }

    fn put_in_tree(&mut self) {
        let (tree, sub) = (self.random.below(3), self.random.below(2));
        let dir = format!("all/t{tree}/s{sub}");
        // Others may remove it meanwhile.
        if fs::create_dir_all(self.root.join(&dir)).is_ok() {
            let name = format!("{dir}/f{}", self.random.below(3));
            self.put(&name);
        }
    }

    fn move_or_remove_tree(&mut self) {
        let from = self.root.join(format!("all/t{}", self.random.below(3)));
        let to = if self.random.below(3) == 0 {
            self.count += 1;
            self.outside.join(format!("tree-{}", self.count))
        } else {
            self.root.join(format!("all/t{}", self.random.below(3)))
        };
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) | Err(Errno::NOENT | Errno::EXIST) => {}
            Err(error) => panic!("a tree: {error}"),
        }
    }
}

/// All files below a directory: path relative to it, and which write. Names that begin with a dot
/// are left out.
fn writes_below(top: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut pending = vec![top.to_owned()];
    while let Some(dir) = pending.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(top).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() && !name.starts_with('.') {
                pending.push(path);
            } else if path.is_file() {
                found.insert(name, write_of(&fs::read(&path).unwrap(), &path));
            }
        }
    }
    found
}

/// What trefoil keeps of a node's replaced and removed files.
fn kept(cluster: &Cluster, n: usize) -> BTreeSet<String> {
    let own = cluster.node(n).path(MOUNT).join(".trefoil");
    let mut files = Vec::new();
    let days = fs::read_dir(own.join("trash")).unwrap().map(|day| day.unwrap().path());
    for folder in days.chain([own.join("kept"), cluster.node(n).state().join("conflicts")]) {
        files.extend(fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()));
    }
    // On its way into the trash or the conflict store, once no late writer is seen.
    let displaced = fs::read_dir(own.join("displaced")).unwrap().map(|file| file.unwrap().path());
    files.extend(displaced.filter(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with("k-") || name.starts_with("t-")
    }));
    let described = |path: &Path| path.to_string_lossy().contains(".json");
    let files = files.into_iter().filter(|path| path.is_file() && !described(path));
    files.filter_map(|path| Some(write_of(&fs::read(&path).ok()?, &path))).collect()
}

impl Ledgers {
    /// How many writes were finished.
    pub(crate) fn writes(&self) -> usize {
        self.writers.iter().map(|writer| writer.count).sum()
    }

    /// Checks the nodes, whose replicas are equal, against all that the writers did.
    ///
    /// A tree of one writer is exactly as it left it. A write into a path of all is there, was seen
    /// by who took its place or removed it, or is kept; and what somebody took the place of is not
    /// back.
    #[track_caller]
    pub(crate) fn check(&self, cluster: &Cluster, nodes: &[usize]) {
        let live = writes_below(&cluster.node(nodes[0]).path(MOUNT));
        for writer in &self.writers {
            let top = format!("own-{}/", writer.node);
            let found = live.iter().filter(|(name, _)| name.starts_with(&top));
            let found: BTreeMap<_, _> = found.map(|(n, w)| (n.clone(), w.clone())).collect();
            assert_eq!(writer.own, found, "the tree that only node {} changes", writer.node);
        }
        let seen = self.writers.iter().flat_map(|writer| &writer.seen);
        let mut there: BTreeSet<String> = seen.map(|(write, _)| write.clone()).collect();
        there.extend(live.values().cloned());
        for writer in &self.writers {
            there.extend(writes_below(&writer.outside).into_values());
        }
        nodes.iter().for_each(|&n| there.extend(kept(cluster, n)));
        let finished = self.writers.iter().flat_map(|writer| &writer.finished);
        let lost: Vec<_> = finished.filter(|(write, _)| !there.contains(*write)).collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
        // Trees are moved to and fro: what is back there may have been brought back.
        let seen = self.writers.iter().flat_map(|writer| &writer.seen);
        let back: Vec<_> = seen
            .filter(|(write, name)| !name.starts_with("all/t") && live.get(name) == Some(write))
            .collect();
        assert!(back.is_empty(), "came back: {back:?}");
    }
}
