//! `verify --deep`: has every node read and hash its files again, and compares which names are one
//! file on each of them.
//!
//! A node reads a few files for each call, so that the asker knows how far it is, and that it goes
//! on: a node that says nothing for long is given up. Files that were changed meanwhile are left
//! out, and names that differ are looked at twice. Nothing is written.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::ask::Question;
use super::verify::{self, Damage};
use super::{ActorHandle, Shared};
use crate::control::types::VerifyProgress;
use crate::disk;
use crate::model::{Entry, Found, NodeId, Record, RelPath};

/// The method that has a node read some files.
pub(super) const READ: &str = "verify.read";

/// The method that asks again which of these names are one file.
pub(super) const LINKS: &str = "verify.links";

/// Bytes of paths that are looked at again at most.
const AGAIN_BYTES: usize = 512 << 10;

/// Files read for one call at most.
const STEP_FILES: usize = 1024;

/// A call is answered once it has taken this long, and before a large file.
const STEP_TIME: Duration = Duration::from_secs(1);
const LARGE_BYTES: u64 = 64 << 20;

/// Bytes of paths in one answer, about.
const STEP_PATH_BYTES: usize = 512 << 10;

/// How long a call may take, and how fast a large file is read at least, in bytes a second.
const STEP_LIMIT: Duration = Duration::from_secs(60);
const READ_RATE_MIN: u64 = 4 << 20;

/// Names of a group that are told.
const NAMES_TOLD: usize = 3;

/// What is asked of a node.
#[derive(Serialize, Deserialize)]
struct Request {
    mount: String,
    /// Go on after this path, in hexadecimal.
    after: Option<String>,
}

/// What is asked of a node again.
#[derive(Serialize, Deserialize)]
struct Again {
    mount: String,
    /// In hexadecimal.
    paths: Vec<String>,
}

/// What a node says after some files.
#[derive(Serialize, Deserialize)]
struct Step {
    damage: Vec<Damage>,
    /// Files with several names: a path in hexadecimal and the inode, zero if it cannot be told.
    links: Vec<(String, u64)>,
    files: u64,
    bytes: u64,
    /// The last path that was read, in hexadecimal; nothing at the end.
    after: Option<String>,
    /// The size of the file that comes next.
    next_bytes: u64,
}

/// Which file a name is: its inode, nothing if it cannot be told.
pub(super) type Links = BTreeMap<RelPath, Option<u64>>;

/// What a node found in its files.
#[derive(Default)]
pub(super) struct Replica {
    pub damage: Vec<Damage>,
    pub links: Links,
    pub files: u64,
}

/// How far the nodes are, for everyone who asks.
#[derive(Default)]
pub(crate) struct Progress(Mutex<BTreeMap<(String, String), VerifyProgress>>);

impl Progress {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), VerifyProgress>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One for each node and mount that is being read.
    pub(super) fn list(&self) -> Vec<VerifyProgress> {
        self.lock().values().cloned().collect()
    }
}

/// One node's reading in [`Progress`]; ends with this.
pub(super) struct Reading {
    shared: Arc<Shared>,
    key: (String, String),
}

impl Reading {
    pub(super) fn start(shared: &Arc<Shared>, mount: &str, node: &str, files_total: u64) -> Self {
        let key = (mount.to_owned(), node.to_owned());
        let (mount, node) = key.clone();
        let begin = VerifyProgress { mount, node, files: 0, files_total, bytes: 0 };
        shared.verifying.lock().insert(key.clone(), begin);
        Self { shared: shared.clone(), key }
    }

    fn go_on(&self, step: &Step) {
        if let Some(progress) = self.shared.verifying.lock().get_mut(&self.key) {
            progress.files += step.files;
            progress.bytes += step.bytes;
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.shared.verifying.lock().remove(&self.key);
    }
}

/// Has a node, this one if it is no peer, read all of its replica. Why it could not, in words.
pub(super) async fn read(
    reading: Reading,
    peer: Option<NodeId>,
    actor: Arc<ActorHandle>,
) -> Result<Replica, String> {
    let mut replica = Replica::default();
    let mut request = Request { mount: reading.key.0.clone(), after: None };
    let mut next_bytes = 0;
    loop {
        let step = verify::within(limit(next_bytes), async {
            match peer {
                Some(peer) => call(&reading.shared, peer, &request).await,
                None => {
                    let (actor, after) = (actor.clone(), decode_after(&request)?);
                    let read = tokio::task::spawn_blocking(move || read_some(&actor, after)).await;
                    read.map_err(|_| failed())?
                }
            }
        });
        let step = step.await?;
        reading.go_on(&step);
        replica.files += step.files;
        replica.damage.extend(step.damage);
        replica.links.extend(decode_links(&step.links)?);
        if step.after.is_none() {
            return Ok(replica);
        }
        if step.after == request.after {
            return Err(verify::garbled());
        }
        request.after = step.after;
        next_bytes = step.next_bytes;
    }
}

/// How long a step may take that begins with a file of this size.
fn limit(next_bytes: u64) -> Duration {
    STEP_LIMIT + Duration::from_secs(next_bytes / READ_RATE_MIN)
}

async fn call(shared: &Shared, peer: NodeId, request: &Request) -> Result<Step, String> {
    let pieces = verify::call(shared, peer, READ, request).await?;
    let piece = pieces.first().ok_or_else(verify::garbled)?;
    serde_json::from_slice(piece).map_err(|_| verify::garbled())
}

/// Asks a node, this one if it is no peer, once more which of these names are one file. Nothing if
/// they are too many.
pub(super) async fn links_again(
    shared: &Shared,
    mount: &str,
    peer: Option<NodeId>,
    actor: &Arc<ActorHandle>,
    paths: &BTreeSet<RelPath>,
) -> Result<Option<Links>, String> {
    if paths.iter().map(|path| path.as_bytes().len()).sum::<usize>() > AGAIN_BYTES {
        return Ok(None);
    }
    let Some(peer) = peer else {
        let (actor, paths) = (actor.clone(), paths.clone());
        let looking = tokio::task::spawn_blocking(move || links_of(&actor, paths));
        let found = verify::within(STEP_LIMIT, async { looking.await.map_err(|_| failed()) });
        return found.await.map(Some);
    };
    let again = Again { mount: mount.to_owned(), paths: paths.iter().map(encode).collect() };
    let pieces = verify::within(STEP_LIMIT, verify::call(shared, peer, LINKS, &again)).await?;
    let piece = pieces.first().ok_or_else(verify::garbled)?;
    let links: Vec<_> = serde_json::from_slice(piece).map_err(|_| verify::garbled())?;
    decode_links(&links).map(Some)
}

/// Answers another node which of these names are one file. May block.
pub(super) fn answer_links(shared: &Shared, body: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let again: Again = serde_json::from_slice(body).map_err(|_| "bad request".to_owned())?;
    let actor = shared.actor(&again.mount).ok_or("this node has no such mount")?;
    let paths = again.paths.iter().map(|path| decode(path)).collect::<Result<_, _>>()?;
    let links = links_of(&actor, paths);
    let links = links.iter().map(|(path, inode)| (encode(path), inode.unwrap_or_default()));
    Ok(vec![verify::encode(&links.collect::<Vec<_>>())])
}

/// Which of these names are one file of several names. May block.
fn links_of(actor: &ActorHandle, paths: BTreeSet<RelPath>) -> Links {
    let mut links = Links::new();
    let mut listed: Option<(RelPath, Vec<disk::Listed>)> = None;
    // A directory is listed once.
    let mut paths: Vec<_> = paths.into_iter().collect();
    paths.sort_by_cached_key(RelPath::parent);
    for path in paths {
        let dir = path.parent().unwrap_or_else(RelPath::root);
        if listed.as_ref().is_none_or(|(of, _)| *of != dir) {
            let children = disk::list(&actor.mount, &dir).ok().flatten().unwrap_or_default();
            listed = Some((dir, children));
        }
        let mut children = listed.iter().flat_map(|(_, children)| children);
        let found = children.find(|child| *child.name == *path.name());
        match found.map(|child| child.signature) {
            Some(signature) if signature.links == 1 => {}
            Some(signature) if signature.links > 1 => {
                links.insert(path, Some(signature.inode));
            }
            _ => drop(links.insert(path, None)),
        }
    }
    links
}

/// Answers another node after reading some files. May block.
pub(super) fn answer(shared: &Shared, body: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let request: Request = serde_json::from_slice(body).map_err(|_| "bad request".to_owned())?;
    let actor = shared.actor(&request.mount).ok_or("this node has no such mount")?;
    let step = read_some(&actor, decode_after(&request)?)?;
    Ok(vec![verify::encode(&step)])
}

fn encode(path: &RelPath) -> String {
    data_encoding::HEXLOWER.encode(path.as_bytes())
}

fn decode(path: &str) -> Result<RelPath, String> {
    let bytes = data_encoding::HEXLOWER.decode(path.as_bytes()).map_err(|_| verify::garbled())?;
    RelPath::parse(&bytes).map_err(|_| verify::garbled())
}

fn decode_links(links: &[(String, u64)]) -> Result<Links, String> {
    let link = |(path, inode): &(String, u64)| {
        Ok((decode(path)?, Some(*inode).filter(|&inode| inode != 0)))
    };
    links.iter().map(link).collect()
}

fn failed() -> String {
    "reading failed".to_owned()
}

fn decode_after(request: &Request) -> Result<Option<RelPath>, String> {
    request.after.as_deref().map(decode).transpose()
}

/// Reads some files of this node again.
fn read_some(actor: &ActorHandle, after: Option<RelPath>) -> Result<Step, String> {
    let begun = Instant::now();
    let page = verify::ask(actor, |reply| Question::Page { after, most: STEP_FILES + 1, reply });
    let page = page.blocking_recv().map_err(|_| verify::closing())?;
    let (damage, links) = (Vec::new(), Vec::new());
    let mut step = Step { damage, links, files: 0, bytes: 0, after: None, next_bytes: 0 };
    let mut told_bytes = 0;
    for (at, record) in page.iter().enumerate() {
        let size = record.entry.as_ref().and_then(Entry::content).map_or(0, |(_, size)| size);
        let full = at == STEP_FILES || told_bytes > STEP_PATH_BYTES;
        if at > 0 && (full || size >= LARGE_BYTES || begun.elapsed() >= STEP_TIME) {
            step.after = Some(encode(&page[at - 1].path));
            step.next_bytes = size;
            break;
        }
        let told = (step.damage.len(), step.links.len());
        read_one(actor, record, &mut step);
        if told != (step.damage.len(), step.links.len()) {
            told_bytes += record.path.as_bytes().len();
        }
        step.files += u64::from(!record.is_dir());
        step.bytes += size;
    }
    Ok(step)
}

fn read_one(actor: &ActorHandle, record: &Record, step: &mut Step) {
    let request =
        disk::ReadRequest { path: &record.path, known: None, moved: None, even_if_open: true };
    let found = disk::read(&actor.mount, &request);
    match &found {
        Found::Entry { signature, entry, .. } => {
            if entry.content().is_some() && signature.links > 1 {
                step.links.push((encode(&record.path), signature.inode));
            }
        }
        _ => step.links.push((encode(&record.path), 0)),
    }
    if let Some(what) = verify::damage(actor, record, found) {
        step.damage.push(Damage { path: record.path.to_string(), what });
    }
}

/// Which names are one file on one side and not on the other. Names in `elsewhere` are not on both
/// sides; names that are not mirrored are in neither.
pub(super) fn link_differences(
    ours: &Links,
    theirs: &Links,
    elsewhere: &BTreeSet<RelPath>,
) -> Vec<(RelPath, String)> {
    let unknown = |path: &RelPath| {
        [ours, theirs].iter().any(|links| links.get(path).is_some_and(Option::is_none))
    };
    let counts = |path: &RelPath| !elsewhere.contains(path) && !unknown(path);
    let (ours, theirs) = (groups(ours, counts), groups(theirs, counts));
    let paths: BTreeSet<&RelPath> = ours.keys().chain(theirs.keys()).copied().collect();
    let mut found = Vec::new();
    for path in paths {
        let (here, there) = (ours.get(path), theirs.get(path));
        if here != there {
            let (here, there) = (others(path, here), others(path, there));
            found.push((path.clone(), format!("hard links: {there} there, {here} here")));
        }
    }
    found
}

/// The names of each file that has several, by each of them.
fn groups(
    links: &Links,
    counts: impl Fn(&RelPath) -> bool,
) -> BTreeMap<&RelPath, Arc<Vec<&RelPath>>> {
    let mut by_inode: BTreeMap<u64, Vec<&RelPath>> = BTreeMap::new();
    for (path, inode) in links.iter().filter(|(path, _)| counts(path)) {
        by_inode.entry(inode.unwrap_or_default()).or_default().push(path);
    }
    let mut groups = BTreeMap::new();
    for group in by_inode.into_values().filter(|group| group.len() > 1).map(Arc::new) {
        groups.extend(group.iter().map(|&path| (path, group.clone())));
    }
    groups
}

/// What a name is one file with, in words.
fn others(path: &RelPath, group: Option<&Arc<Vec<&RelPath>>>) -> String {
    let Some(group) = group else { return "a file of its own".to_owned() };
    let names = group.iter().filter(|&&other| other != path);
    let told: Vec<_> = names.take(NAMES_TOLD).map(ToString::to_string).collect();
    let more = group.len() - 1 - told.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("one file with {}{more}", told.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::testing::Fixture;

    /// Inodes of names, as "a=1 b=1 c=?".
    fn links(text: &str) -> Links {
        let link = |word: &str| {
            let (path, inode) = word.split_once('=').unwrap();
            (RelPath::parse(path.as_bytes()).unwrap(), inode.parse().ok())
        };
        text.split_whitespace().map(link).collect()
    }

    /// Names that differ, when `d` is on one side only.
    #[track_caller]
    fn check(ours: &str, theirs: &str, names: &str) {
        let elsewhere = BTreeSet::from([RelPath::parse(b"d").unwrap()]);
        let found = link_differences(&links(ours), &links(theirs), &elsewhere);
        let found: Vec<_> = found.into_iter().map(|(path, _)| path.to_string()).collect();
        assert_eq!(names, found.join(" "), "{ours} / {theirs}");
    }

    #[test]
    fn groups_are_compared_whatever_their_inodes() {
        check("a=1 b=1 c=2", "a=7 b=7", "");
        check("a=1 b=1", "", "a b");
        check("", "a=1 b=1", "a b");
        check("a=1 b=1 c=1", "a=1 b=1", "a b c");
        check("a=1 b=1 c=2 e=2", "a=1 c=1 b=2 e=2", "a b c e");
    }

    #[test]
    fn names_that_are_not_on_both_sides_or_cannot_be_told_do_not_count() {
        check("a=1 b=1 d=1", "a=1 b=1", "");
        check("a=1 d=1", "", "");
        check("a=1 b=1 c=1", "a=1 b=1 c=?", "");
        check("a=1 b=?", "a=1 b=1", "");
    }

    #[test]
    fn a_difference_names_some_of_the_others() {
        let found = |ours: &str, theirs: &str| {
            let found = link_differences(&links(ours), &links(theirs), &BTreeSet::new());
            found[0].1.clone()
        };
        assert_eq!(
            "hard links: a file of its own there, one file with b here",
            found("a=1 b=1", "")
        );
        assert_eq!(
            "hard links: one file with b, c, d and 1 more there, a file of its own here",
            found("", "a=1 b=1 c=1 d=1 e=1")
        );
    }

    #[test]
    fn a_second_look_tells_which_names_are_one_file_now() {
        let fixture = Fixture::start();
        let mount = fixture.mount();
        std::fs::create_dir(mount.join("dir")).unwrap();
        for name in ["a", "c"] {
            std::fs::write(mount.join(name), "x").unwrap();
        }
        for name in ["dir/b", "b"] {
            std::fs::hard_link(mount.join("a"), mount.join(name)).unwrap();
        }
        let actor = fixture.actor.shared.actor("data").unwrap();
        let names = ["a", "b", "c", "dir/b", "gone", "no/dir"];
        let paths = names.map(|name| RelPath::parse(name.as_bytes()).unwrap());
        let found = links_of(&actor, BTreeSet::from(paths));
        assert_eq!(found, {
            use std::os::unix::fs::MetadataExt as _;
            let inode = mount.join("a").metadata().unwrap().ino();
            links(&format!("a={inode} b={inode} dir/b={inode} gone=? no/dir=?"))
        });
    }

    #[test]
    fn a_large_file_may_take_longer() {
        assert_eq!(STEP_LIMIT, limit(1 << 20));
        assert_eq!(STEP_LIMIT + Duration::from_secs(256), limit(1 << 30));
    }
}
