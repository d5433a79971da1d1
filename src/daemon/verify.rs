//! `verify`: compares replicas now, by set hashes of groups of paths, then path by path in the
//! groups that differ; deep, every file is read and hashed again on every node ([`super::deep`]).

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::ask::{BUCKETS, Question, Sums};
use super::deep::{self, Reading, Replica};
use super::wait::Nodes;
use super::{ActorHandle, Shared, restore, trash, why};
use crate::control::types::{Difference, VerifyMount, VerifyNode};
use crate::disk;
use crate::engine::fingerprint::Fingerprint;
use crate::index::Totals;
use crate::model::{Entry, Found, Kind, NodeId, Record, RelPath};
use crate::net::LinkHandle;

/// Differences told.
const TOLD_MAX: usize = 1000;

/// How long what differs may take to arrive.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// How long a node may take for an answer that needs no file.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Bytes of one piece of an answer to another node.
const PIECE_BYTES: usize = 1 << 20;

/// What a node says of its replica.
#[derive(Serialize, Deserialize)]
struct Head {
    files: u64,
    bytes: u64,
    fingerprint: String,
}

/// What is asked of another node.
#[derive(Serialize, Deserialize)]
struct Request {
    mount: String,
    #[serde(default)]
    buckets: Vec<usize>,
}

/// A file that is not what the index says.
#[derive(Serialize, Deserialize)]
pub(super) struct Damage {
    pub path: String,
    pub what: String,
}

/// Answers another node. May block.
pub(super) fn answer(shared: &Shared, method: &str, body: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    match method {
        deep::LINKS => return deep::answer_links(shared, body),
        deep::READ => return deep::answer(shared, body),
        why::WHY => return why::answer(shared, body),
        trash::LIST => return trash::answer_list(shared, body),
        trash::RESTORE => return restore::answer(shared, body),
        _ => {}
    }
    let request: Request = serde_json::from_slice(body).map_err(|_| "bad request".to_owned())?;
    let actor = shared.actor(&request.mount).ok_or("this node has no such mount")?;
    let gone = |_| closing();
    match method {
        "verify.sums" => {
            let sums = ask(&actor, Question::Sums).blocking_recv().map_err(gone)?;
            Ok(vec![encode(&head(&sums.totals)), buckets_bytes(&sums)])
        }
        "verify.rows" => {
            let buckets = request.buckets.into_iter().filter(|&b| b < BUCKETS).collect();
            let rows = ask(&actor, |reply| Question::Rows(buckets, reply));
            Ok(pieces(&rows.blocking_recv().map_err(gone)?))
        }
        _ => Err("unknown method".to_owned()),
    }
}

pub(super) fn ask<T>(
    actor: &ActorHandle,
    question: impl FnOnce(oneshot::Sender<T>) -> Question,
) -> oneshot::Receiver<T> {
    let (reply, answer) = oneshot::channel();
    actor.inbox.push(super::actor::Event::Ask(question(reply)));
    answer
}

pub(super) fn encode(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain values are JSON")
}

fn head(totals: &Totals) -> Head {
    Head { files: totals.files, bytes: totals.bytes, fingerprint: totals.fingerprint.to_string() }
}

fn buckets_bytes(sums: &Sums) -> Vec<u8> {
    sums.buckets.iter().flat_map(|sum| sum.to_bytes()).collect()
}

fn pieces(records: &[Record]) -> Vec<Vec<u8>> {
    let mut pieces = vec![Vec::new()];
    for record in records {
        let bytes = record.encode();
        if pieces.last().is_some_and(|piece: &Vec<u8>| piece.len() > PIECE_BYTES) {
            pieces.push(Vec::new());
        }
        if let Some(piece) = pieces.last_mut() {
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            piece.extend_from_slice(&length.to_le_bytes());
            piece.extend_from_slice(&bytes);
        }
    }
    pieces
}

fn records(pieces: &[Vec<u8>]) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    for piece in pieces {
        let mut rest = &piece[..];
        while !rest.is_empty() {
            let (length, after) = rest.split_first_chunk::<4>()?;
            let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
            records.push(Record::decode(after.get(..length)?).ok()?);
            rest = &after[length..];
        }
    }
    Some(records)
}

/// How what was found differs from its record; nothing if it does not, or was changed meanwhile.
pub(super) fn damage(actor: &ActorHandle, record: &Record, found: Found) -> Option<String> {
    let what = match found {
        Found::Entry { entry, .. } => {
            let mut found = entry;
            let ours = record.entry.as_ref()?;
            if found.meta.uid == disk::OWNER_UNKNOWN {
                found.meta.uid = ours.meta.uid;
                found.meta.gid = ours.meta.gid;
            }
            difference(ours, &found)?.to_owned()
        }
        Found::Absent => "missing on disk".to_owned(),
        Found::Failed(reason) => reason,
        Found::Special(kind) => format!("{kind} on disk"),
        Found::Busy | Found::Unchanged | Found::Unstable => return None,
    };
    let path = record.path.clone();
    let again = ask(actor, |reply| Question::Record(path, reply)).blocking_recv().ok()?;
    (again.as_ref() == Some(record)).then(|| format!("on disk, unlike its index: {what}"))
}

/// What two entries differ in, most important first. Link groups are the index's own.
fn difference(a: &Entry, b: &Entry) -> Option<&'static str> {
    let kind = |entry: &Entry| std::mem::discriminant(&entry.kind);
    match () {
        () if kind(a) != kind(b) => Some("kind"),
        () if !a.same_kind_content(b) => {
            Some(if matches!(a.kind, Kind::Symlink { .. }) { "target" } else { "content" })
        }
        () if a.meta.mode != b.meta.mode => Some("mode"),
        () if (a.meta.uid, a.meta.gid) != (b.meta.uid, b.meta.gid) => Some("owner"),
        () if a.meta.mtime != b.meta.mtime => Some("modification time"),
        () if a.meta.xattrs != b.meta.xattrs => Some("extended attributes"),
        () => None,
    }
}

/// Compares a mount with every other member. Nothing if the mount is being closed.
pub(super) async fn compare(
    shared: &Arc<Shared>,
    name: &str,
    actor: &Arc<ActorHandle>,
    is_deep: bool,
) -> Option<VerifyMount> {
    let names = shared.names();
    let called = |id: NodeId| names.get(&id).cloned().unwrap_or_else(|| id.to_string());
    let sums = within(ANSWER_LIMIT, async { Ok(ask(actor, Question::Sums).await.ok()) }).await;
    let ours = match sums {
        Ok(ours) => ours?,
        Err(error) => {
            return Some(told(name, vec![failed(&called(shared.node), error)], Vec::new()));
        }
    };
    let mut nodes =
        vec![Compared::new(None, called(shared.node), Ok((head(&ours.totals), Vec::new())))];
    for id in shared.other_members() {
        let found = compare_with(shared, name, actor, &ours, id).await;
        nodes.push(Compared::new(Some(id), called(id), found));
    }
    nodes[1..].sort_by(|a, b| a.node.name.cmp(&b.node.name));
    if is_deep {
        read_all(shared, name, actor, &mut nodes).await;
        compare_links(shared, name, actor, &mut nodes).await;
    }
    let mut differences = Vec::new();
    for node in &mut nodes {
        let different = std::mem::take(&mut node.different).into_iter();
        let difference = |(path, what): (RelPath, String)| (path.to_string(), what);
        let damage =
            node.replica.iter_mut().flat_map(|replica| std::mem::take(&mut replica.damage));
        let all = different.map(difference).chain(damage.map(|damage| (damage.path, damage.what)));
        let name = &node.node.name;
        differences.extend(all.map(|(path, what)| Difference { path, node: name.clone(), what }));
    }
    Some(told(name, nodes.into_iter().map(|compared| compared.node).collect(), differences))
}

/// One node, while it is compared.
struct Compared {
    /// Nothing for this node.
    peer: Option<NodeId>,
    node: VerifyNode,
    /// What its index has otherwise than ours.
    different: Different,
    /// What it found in its files.
    replica: Option<Replica>,
}

impl Compared {
    fn new(peer: Option<NodeId>, name: String, found: Result<(Head, Different), String>) -> Self {
        let (node, different) = match found {
            Ok((head, different)) => (node(&name, &head), different),
            Err(error) => (failed(&name, error), Vec::new()),
        };
        Self { peer, node, different, replica: None }
    }
}

/// Has all nodes that answered read their files, at the same time.
async fn read_all(
    shared: &Arc<Shared>,
    mount: &str,
    actor: &Arc<ActorHandle>,
    nodes: &mut [Compared],
) {
    let mut tasks = tokio::task::JoinSet::new();
    for (at, compared) in nodes.iter().enumerate().filter(|(_, c)| c.node.error.is_none()) {
        let files = compared.node.files.unwrap_or_default();
        let reading = Reading::start(shared, mount, &compared.node.name, files);
        let (peer, actor) = (compared.peer, actor.clone());
        tasks.spawn(async move { (at, deep::read(reading, peer, actor).await) });
    }
    while let Some(Ok((at, read))) = tasks.join_next().await {
        match read {
            Ok(replica) => {
                nodes[at].node.read_files = Some(replica.files);
                nodes[at].replica = Some(replica);
            }
            Err(error) => nodes[at].node.error = Some(error),
        }
    }
}

/// Notes where names are one file here and not there, or the other way round. What differs is looked
/// at again, since each node has read it at another time.
async fn compare_links(
    shared: &Arc<Shared>,
    mount: &str,
    actor: &Arc<ActorHandle>,
    nodes: &mut [Compared],
) {
    let Some((ours, others)) = nodes.split_first_mut() else { return };
    let Some(ours) = &ours.replica else { return };
    for other in others {
        let Some(theirs) = &other.replica else { continue };
        let elsewhere = other.different.iter().map(|(path, _)| path.clone()).collect();
        let mut found = deep::link_differences(&ours.links, &theirs.links, &elsewhere);
        if found.is_empty() {
            continue;
        }
        settle(actor).await;
        let paths = found.iter().map(|(path, _)| path.clone()).collect();
        let here = deep::links_again(shared, mount, None, actor, &paths).await;
        let there = deep::links_again(shared, mount, other.peer, actor, &paths).await;
        match (here, there) {
            (Ok(Some(here)), Ok(Some(there))) => {
                found = deep::link_differences(&here, &there, &elsewhere);
            }
            (Ok(_), Ok(_)) => {}
            (Err(error), _) | (_, Err(error)) => other.node.error = Some(error),
        }
        other.different.extend(found);
    }
}

/// Lets what is on its way arrive.
async fn settle(actor: &ActorHandle) {
    let (nodes, timeout) = (Nodes::All, SETTLE_LIMIT);
    let waiting = async { Ok(ask(actor, |reply| Question::Wait { nodes, timeout, reply }).await) };
    // What has not arrived then, differs.
    drop(within(2 * SETTLE_LIMIT, waiting).await);
}

fn told(name: &str, nodes: Vec<VerifyNode>, mut differences: Vec<Difference>) -> VerifyMount {
    differences.sort_by(|a, b| (&a.path, &a.node).cmp(&(&b.path, &b.node)));
    let equal = differences.is_empty() && nodes.iter().all(|node| node.error.is_none());
    let difference_count = differences.len() as u64;
    differences.truncate(TOLD_MAX);
    VerifyMount { name: name.to_owned(), equal, nodes, differences, difference_count }
}

fn node(name: &str, head: &Head) -> VerifyNode {
    VerifyNode {
        files: Some(head.files),
        bytes: Some(head.bytes),
        fingerprint: Some(head.fingerprint.clone()),
        ..unknown(name)
    }
}

fn failed(name: &str, error: String) -> VerifyNode {
    VerifyNode { error: Some(error), ..unknown(name) }
}

fn unknown(name: &str) -> VerifyNode {
    VerifyNode {
        name: name.to_owned(),
        files: None,
        bytes: None,
        fingerprint: None,
        read_files: None,
        error: None,
    }
}

/// Gives up after this time.
pub(super) async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let late = |_| format!("gave up: no answer for {} s", limit.as_secs());
    tokio::time::timeout(limit, answer).await.map_err(late)?
}

pub(super) fn garbled() -> String {
    "answered what cannot be understood".to_owned()
}

pub(super) fn closing() -> String {
    "the mount is being closed".to_owned()
}

fn link(shared: &Shared, id: NodeId) -> Result<LinkHandle, String> {
    shared.link(id).ok_or_else(|| "not connected".to_owned())
}

pub(super) async fn call(
    shared: &Shared,
    id: NodeId,
    method: &str,
    request: &impl Serialize,
) -> Result<Vec<Vec<u8>>, String> {
    let answer = link(shared, id)?.rpc(method, encode(request)).await;
    answer.map_err(|error| super::chain(&error))
}

type Different = Vec<(RelPath, String)>;

async fn compare_with(
    shared: &Shared,
    mount: &str,
    actor: &ActorHandle,
    ours: &Sums,
    id: NodeId,
) -> Result<(Head, Different), String> {
    let mut request = Request { mount: mount.to_owned(), buckets: Vec::new() };
    let pieces = within(ANSWER_LIMIT, call(shared, id, "verify.sums", &request)).await?;
    let [head, sums] = &pieces[..] else { return Err(garbled()) };
    let head: Head = serde_json::from_slice(head).map_err(|_| garbled())?;
    let (sums, rest) = sums.as_chunks::<32>();
    if sums.len() != BUCKETS || !rest.is_empty() {
        return Err(garbled());
    }
    let differ = |(at, sum): (usize, &[u8; 32])| {
        (Fingerprint::from_bytes(sum) != ours.buckets[at]).then_some(at)
    };
    request.buckets = sums.iter().enumerate().filter_map(differ).collect();
    if request.buckets.is_empty() {
        return Ok((head, Vec::new()));
    }
    let theirs = within(ANSWER_LIMIT, call(shared, id, "verify.rows", &request)).await?;
    let theirs = records(&theirs).ok_or_else(garbled)?;
    let buckets = request.buckets;
    let rows = ask(actor, |reply| Question::Rows(buckets, reply)).await;
    let ours = rows.map_err(|_| closing())?;
    Ok((head, different(ours, theirs)))
}

fn different(ours: Vec<Record>, theirs: Vec<Record>) -> Different {
    let by_path = |records: Vec<Record>| -> BTreeMap<RelPath, Entry> {
        records.into_iter().filter_map(|r| Some((r.path, r.entry?))).collect()
    };
    let (ours, mut theirs) = (by_path(ours), by_path(theirs));
    let mut found = Vec::new();
    for (path, entry) in ours {
        match theirs.remove(&path) {
            None => found.push((path, "missing there".to_owned())),
            Some(other) if entry.same(&other) => {}
            Some(other) => {
                let what = difference(&entry, &other).unwrap_or("hard links");
                found.push((path, what.to_owned()));
            }
        }
    }
    found.extend(theirs.into_keys().map(|path| (path, "only there".to_owned())));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_never_answers_is_given_up() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let never = std::future::pending::<Result<(), String>>();
        let error = runtime.block_on(within(Duration::ZERO, never)).unwrap_err();
        assert_eq!("gave up: no answer for 0 s", error);
    }
}
