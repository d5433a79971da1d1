//! `verify`: compares replicas now, by set hashes of groups of paths, then path by path in the
//! groups that differ; deep, every file is read and hashed again on every node.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::ask::{BUCKETS, Question, Sums};
use super::{ActorHandle, Shared};
use crate::control::types::{Difference, VerifyMount, VerifyNode};
use crate::disk;
use crate::engine::fingerprint::Fingerprint;
use crate::index::Totals;
use crate::model::{Entry, Found, Kind, NodeId, Record, RelPath};
use crate::net::LinkHandle;

/// Differences told.
const TOLD_MAX: usize = 1000;

/// Records asked of the index at a time.
const PAGE: usize = 1024;

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
struct Damage {
    path: String,
    what: String,
}

/// Answers another node. May block.
pub(super) fn answer(shared: &Shared, method: &str, body: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let request: Request = serde_json::from_slice(body).map_err(|_| "bad request".to_owned())?;
    let actor = shared.actor(&request.mount).ok_or("this node has no such mount")?;
    let gone = |_| "the mount is being closed".to_owned();
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
        "verify.deep" => Ok(vec![encode(&deep(&actor))]),
        _ => Err("unknown method".to_owned()),
    }
}

fn ask<T>(
    actor: &ActorHandle,
    question: impl FnOnce(oneshot::Sender<T>) -> Question,
) -> oneshot::Receiver<T> {
    let (reply, answer) = oneshot::channel();
    actor.inbox.push(super::actor::Event::Ask(question(reply)));
    answer
}

fn encode(value: &impl Serialize) -> Vec<u8> {
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

/// Reads every file of this node again. May block for long.
fn deep(actor: &ActorHandle) -> Vec<Damage> {
    let mut damage = Vec::new();
    let mut after: Option<RelPath> = None;
    loop {
        let from = after.take();
        let page = ask(actor, |reply| Question::Page { after: from, most: PAGE, reply });
        let Ok(page) = page.blocking_recv() else { return damage };
        let Some(last) = page.last() else { return damage };
        after = Some(last.path.clone());
        for record in &page {
            if let Some(what) = look(actor, record) {
                damage.push(Damage { path: record.path.to_string(), what });
            }
        }
    }
}

/// How the file differs from its record; nothing if it does not, or was changed meanwhile.
fn look(actor: &ActorHandle, record: &Record) -> Option<String> {
    let request = disk::ReadRequest { path: &record.path, known: None, even_if_open: true };
    let what = match disk::read(&actor.mount, &request) {
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

/// Compares a mount with every other member.
pub(super) async fn compare(
    shared: &Arc<Shared>,
    name: &str,
    actor: &Arc<ActorHandle>,
    is_deep: bool,
) -> Option<VerifyMount> {
    let ours = ask(actor, Question::Sums).await.ok()?;
    let names = shared.names();
    let called = |id: NodeId| names.get(&id).cloned().unwrap_or_else(|| id.to_string());
    let own = called(shared.node);
    let mut nodes = vec![node(&own, &head(&ours.totals))];
    let mut differences = Vec::new();
    for id in shared.other_members() {
        let peer = called(id);
        match compare_with(shared, name, actor, &ours, id).await {
            Ok((head, different)) => {
                nodes.push(node(&peer, &head));
                differences.extend(different.into_iter().map(|(path, what)| Difference {
                    path: path.to_string(),
                    node: peer.clone(),
                    what,
                }));
            }
            Err(error) => nodes.push(VerifyNode { error: Some(error), ..unknown(&peer) }),
        }
    }
    if is_deep {
        let local = actor.clone();
        let found = tokio::task::spawn_blocking(move || deep(&local)).await.unwrap_or_default();
        differences.extend(found.into_iter().map(|d| damaged(&own, d)));
        for id in shared.other_members() {
            let peer = called(id);
            match deep_on(shared, name, id).await {
                Ok(found) => differences.extend(found.into_iter().map(|d| damaged(&peer, d))),
                Err(error) => {
                    let broken = nodes.iter_mut().find(|node| node.name == peer);
                    broken.into_iter().for_each(|node| node.error = Some(error.clone()));
                }
            }
        }
    }
    nodes[1..].sort_by(|a, b| a.name.cmp(&b.name));
    differences.sort_by(|a, b| (&a.path, &a.node).cmp(&(&b.path, &b.node)));
    let equal = differences.is_empty() && nodes.iter().all(|node| node.error.is_none());
    let difference_count = differences.len() as u64;
    differences.truncate(TOLD_MAX);
    Some(VerifyMount { name: name.to_owned(), equal, nodes, differences, difference_count })
}

fn damaged(node: &str, damage: Damage) -> Difference {
    Difference { path: damage.path, node: node.to_owned(), what: damage.what }
}

fn node(name: &str, head: &Head) -> VerifyNode {
    VerifyNode {
        files: Some(head.files),
        bytes: Some(head.bytes),
        fingerprint: Some(head.fingerprint.clone()),
        ..unknown(name)
    }
}

fn unknown(name: &str) -> VerifyNode {
    VerifyNode { name: name.to_owned(), files: None, bytes: None, fingerprint: None, error: None }
}

fn link(shared: &Shared, id: NodeId) -> Result<LinkHandle, String> {
    shared.link(id).ok_or_else(|| "not connected".to_owned())
}

async fn call(
    shared: &Shared,
    id: NodeId,
    method: &str,
    request: &Request,
) -> Result<Vec<Vec<u8>>, String> {
    let answer = link(shared, id)?.rpc(method, encode(request)).await;
    answer.map_err(|error| super::chain(&error))
}

async fn deep_on(shared: &Shared, mount: &str, id: NodeId) -> Result<Vec<Damage>, String> {
    let request = Request { mount: mount.to_owned(), buckets: Vec::new() };
    let pieces = call(shared, id, "verify.deep", &request).await?;
    let bad = || "answered what cannot be understood".to_owned();
    serde_json::from_slice(pieces.first().ok_or_else(bad)?).map_err(|_| bad())
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
    let bad = || "answered what cannot be understood".to_owned();
    let pieces = call(shared, id, "verify.sums", &request).await?;
    let [head, sums] = &pieces[..] else { return Err(bad()) };
    let head: Head = serde_json::from_slice(head).map_err(|_| bad())?;
    let (sums, rest) = sums.as_chunks::<32>();
    if sums.len() != BUCKETS || !rest.is_empty() {
        return Err(bad());
    }
    let differ = |(at, sum): (usize, &[u8; 32])| {
        (Fingerprint::from_bytes(sum) != ours.buckets[at]).then_some(at)
    };
    request.buckets = sums.iter().enumerate().filter_map(differ).collect();
    if request.buckets.is_empty() {
        return Ok((head, Vec::new()));
    }
    let theirs = call(shared, id, "verify.rows", &request).await?;
    let theirs = records(&theirs).ok_or_else(bad)?;
    let buckets = request.buckets;
    let rows = ask(actor, |reply| Question::Rows(buckets, reply)).await;
    let ours = rows.map_err(|_| "the mount is being closed".to_owned())?;
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
