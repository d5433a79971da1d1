//! The trash of all nodes: what lies where, and what is written down of it.
//!
//! In: a mount, and what of its trash is asked for. Out: one list, page by page in the order of paths,
//! in which the copies that several nodes have of one thing are one item. It changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Shared;
use super::actor::Place;
use super::verify::{call, encode, garbled, within};
use crate::control::types::{
    TrashCopy, TrashItem, TrashListReply, TrashListRequest, TrashNode, timestamp,
};
use crate::disk::{self, TrashNote, Trashed};
use crate::model::{Mtime, NodeId, RelPath, Stamp};

/// The method by which another node is asked.
pub(super) const LIST: &str = "trash.list";
/// The method by which another node is asked to restore something.
pub(super) const RESTORE: &str = "trash.restore";

/// How long a node may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Things told at a time, and bytes of them: far below what one answer may have.
const PAGE_ITEMS_MAX: usize = 10_000;
const PAGE_BYTES_MAX: usize = 16 << 20;

/// Bytes of one piece of an answer to another node.
const PIECE_BYTES: usize = 1 << 20;

/// For what a person puts there by replacing it, where its class has no trash.
const KEEP: Duration = Duration::from_hours(7 * 24);

/// What is asked of another node. Bytes are in hexadecimal.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Request {
    mount: String,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    below: Option<String>,
    #[serde(default)]
    since_s: u64,
    #[serde(default)]
    after: Option<String>,
}

/// Something in a node's trash.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Lies {
    place: String,
    path: String,
    is_whole: bool,
    id: String,
    secs: u64,
    until_secs: u64,
    removed: Option<bool>,
    by: Option<u64>,
    kind: String,
    bytes: u64,
    mtime_secs: i64,
    mtime_nanos: u32,
}

/// A part of a node's trash, by path.
#[derive(Clone, Debug, Default)]
struct Page {
    lies: Vec<Lies>,
    /// There is more, behind the last path.
    is_cut: bool,
}

/// What is written down of the edit `was` of a path before `by` removes it, or puts something else in its
/// place.
pub(super) fn note(
    place: &Place,
    path: &RelPath,
    was: Option<Stamp>,
    by: NodeId,
    removed: bool,
) -> TrashNote {
    let keep = place.policy.settings(place.policy.class(path)).trash.unwrap_or(KEEP);
    TrashNote {
        id: id_of(&place.name, path, was.unwrap_or_default()),
        by,
        keep_secs: keep.as_secs(),
        removed: Some(removed),
    }
}

/// Names what an edit of a path left in the trash, on every node.
fn id_of(mount: &str, path: &RelPath, was: Stamp) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("trefoil 1 trash id");
    hasher.update(mount.as_bytes());
    hasher.update(&[0]);
    hasher.update(path.as_bytes());
    hasher.update(&[0]);
    hasher.update(&was.counter.to_le_bytes());
    hasher.update(&was.node.0.to_le_bytes());
    let mut id = [0; 8];
    hasher.finalize_xof().fill(&mut id);
    u64::from_le_bytes(id)
}

/// Answers another node. May block.
pub(super) fn answer_list(shared: &Shared, body: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let request: Request = serde_json::from_slice(body).map_err(|_| "bad request".to_owned())?;
    let page = page(shared, &request)?;
    let mut pieces = vec![encode(&page.is_cut)];
    let mut piece = Vec::new();
    for lies in &page.lies {
        piece.append(&mut encode(lies));
        piece.push(b'\n');
        if piece.len() > PIECE_BYTES {
            pieces.push(std::mem::take(&mut piece));
        }
    }
    pieces.push(piece);
    Ok(pieces)
}

fn understand(pieces: &[Vec<u8>]) -> Option<Page> {
    let (is_cut, rest) = pieces.split_first()?;
    let lines = rest.iter().flat_map(|piece| piece.split(|&b| b == b'\n'));
    let lies = lines.filter(|line| !line.is_empty()).map(serde_json::from_slice);
    let lies = lies.collect::<Result<_, _>>().ok()?;
    Some(Page { lies, is_cut: serde_json::from_slice(is_cut).ok()? })
}

/// Looks into the trash of this node. May block.
fn page(shared: &Shared, request: &Request) -> Result<Page, String> {
    let actor = shared.actor(&request.mount).ok_or("the mount is not open")?;
    let hex = |text: &Option<String>| match text {
        None => Ok(None),
        Some(text) => {
            let bytes = data_encoding::HEXLOWER.decode(text.as_bytes());
            bytes.map(Some).map_err(|_| "bad request".to_owned())
        }
    };
    let (below, after) = (hex(&request.below)?, hex(&request.after)?);
    let wanted = |one: &Trashed| {
        one.secs >= request.since_s
            && request.id.as_ref().is_none_or(|id| format!("{:016x}", one.id).starts_with(&**id))
            && below.as_ref().is_none_or(|dir| one.is_whole && is_in(&one.path, dir))
            && after.as_ref().is_none_or(|after| one.path > *after)
    };
    let mut all = disk::trashed(&actor.mount).map_err(|error| error.reason())?;
    all.retain(wanted);
    all.sort_by(|a, b| (&a.path, b.secs, a.id).cmp(&(&b.path, a.secs, b.id)));
    let is_cut = cut(&mut all);
    let mut lies = Vec::new();
    for one in &all {
        // What is restored or expires meanwhile is not there any more.
        let Ok(Some(peek)) = disk::peek_trashed(&actor.mount, &one.place) else { continue };
        lies.push(told(one, &peek));
    }
    Ok(Page { lies, is_cut })
}

/// Whether a path is `dir` or below it.
fn is_in(path: &[u8], dir: &[u8]) -> bool {
    match path.strip_prefix(dir) {
        Some(rest) => dir.is_empty() || rest.is_empty() || rest[0] == b'/',
        None => false,
    }
}

/// Leaves as much as fits into a page, whole paths unless one alone does not fit. Says whether it
/// left something out.
fn cut(all: &mut Vec<Trashed>) -> bool {
    let mut bytes = 0;
    let mut fits = |one: &Trashed| {
        bytes += 2 * one.path.len() + 512;
        bytes <= PAGE_BYTES_MAX
    };
    let most = all.iter().take(PAGE_ITEMS_MAX).take_while(|one| fits(one)).count();
    if most == all.len() {
        return false;
    }
    let next = all[most].path.clone();
    let whole = all[..most].partition_point(|one| one.path < next);
    all.truncate(if whole == 0 { most.max(1) } else { whole });
    true
}

fn told(one: &Trashed, peek: &disk::Peek) -> Lies {
    Lies {
        place: data_encoding::HEXLOWER.encode(&one.place.to_bytes()),
        path: data_encoding::HEXLOWER.encode(&one.path),
        is_whole: one.is_whole,
        id: format!("{:016x}", one.id),
        secs: one.secs,
        until_secs: one.until_secs,
        removed: one.removed,
        by: one.by.map(|by| by.0),
        kind: peek.kind.to_owned(),
        bytes: peek.bytes,
        mtime_secs: peek.mtime.secs,
        mtime_nanos: peek.mtime.nanos,
    }
}

/// Asks every member at the same time.
pub(super) async fn list(shared: &Arc<Shared>, request: TrashListRequest) -> TrashListReply {
    let since = request.since.map_or(0, |since| u64::try_from(since.as_second()).unwrap_or(0));
    let asked = Request {
        mount: request.mount.clone(),
        id: request.id.map(|id| id.to_ascii_lowercase()),
        below: request.below_bytes,
        since_s: since,
        after: request.after_bytes,
    };
    let names = shared.names();
    let called = |id: NodeId| names.get(&id).cloned().unwrap_or_else(|| id.to_string());
    let mut tasks = tokio::task::JoinSet::new();
    for id in shared.other_members() {
        let (shared, asked, name) = (shared.clone(), asked.clone(), called(id));
        tasks.spawn(async move { (name, page_of(&shared, id, &asked).await) });
    }
    let (looking, own) = (shared.clone(), asked.clone());
    let ours = tokio::task::spawn_blocking(move || page(&looking, &own)).await;
    let ours = ours.unwrap_or_else(|_| Err("looking failed".to_owned()));
    let mut pages = tasks.join_all().await;
    pages.sort_by(|a, b| a.0.cmp(&b.0));
    pages.insert(0, (called(shared.node), ours));
    merge(shared, &asked.mount, pages)
}

async fn page_of(shared: &Shared, id: NodeId, asked: &Request) -> Result<Page, String> {
    let pieces = within(ANSWER_LIMIT, call(shared, id, LIST, asked)).await?;
    understand(&pieces).ok_or_else(garbled)
}

/// One page of all. What some node has not told yet is left for the next one.
fn merge(
    shared: &Shared,
    mount: &str,
    pages: Vec<(String, Result<Page, String>)>,
) -> TrashListReply {
    let last = |page: &Page| page.lies.last().map(|lies| lies.path.clone()).unwrap_or_default();
    let cut = pages.iter().filter_map(|(_, page)| page.as_ref().ok()).filter(|page| page.is_cut);
    let bound = cut.map(last).min();
    let mut nodes = Vec::new();
    let mut items: BTreeMap<(String, String), TrashItem> = BTreeMap::new();
    for (name, page) in pages {
        let (page, error) = match page {
            Ok(page) => (page, None),
            Err(error) => (Page::default(), Some(error)),
        };
        nodes.push(TrashNode { name: name.clone(), error });
        // Hexadecimal digits sort as the bytes do.
        for lies in page.lies.into_iter().filter(|l| bound.as_ref().is_none_or(|b| l.path <= *b)) {
            let copy = TrashCopy { node: name.clone(), place: lies.place.clone() };
            let new = item(shared, mount, &lies);
            let item = items.entry((lies.path, lies.id)).or_insert_with(|| new.clone());
            item.when = item.when.min(new.when);
            item.expires = item.expires.max(new.expires);
            item.copies.push(copy);
        }
    }
    let mut items: Vec<_> = items.into_values().collect();
    items.sort_by(|a, b| (&a.path_bytes, b.when, &a.id).cmp(&(&b.path_bytes, a.when, &b.id)));
    TrashListReply { items, next_bytes: bound, nodes }
}

fn item(shared: &Shared, mount: &str, lies: &Lies) -> TrashItem {
    let bytes = data_encoding::HEXLOWER.decode(lies.path.as_bytes()).unwrap_or_default();
    let escaped = RelPath::parse(&bytes).map(|path| path.to_string());
    let path =
        escaped.unwrap_or_else(|_| String::from_utf8_lossy(&bytes).escape_debug().to_string());
    let by = lies.by.map(|by| {
        let names = shared.names();
        let name = names.iter().find(|(id, _)| id.is_by(NodeId(by))).map(|(_, name)| name.clone());
        name.unwrap_or_else(|| NodeId(by).to_string())
    });
    let happened = match lies.removed {
        Some(true) => "removed",
        Some(false) => "overwritten",
        None => "unknown",
    };
    let mtime = Mtime { secs: lies.mtime_secs, nanos: lies.mtime_nanos };
    TrashItem {
        id: lies.id.clone(),
        mount: mount.to_owned(),
        path: if lies.is_whole { path } else { format!("…{path}") },
        path_bytes: lies.path.clone(),
        path_is_whole: lies.is_whole,
        kind: lies.kind.clone(),
        bytes: lies.bytes,
        modified: Timestamp::new(mtime.secs, mtime.nanos.cast_signed()).unwrap_or_default(),
        happened: happened.to_owned(),
        by,
        when: timestamp(UNIX_EPOCH + Duration::from_secs(lies.secs.min(YEAR_9999))),
        expires: timestamp(UNIX_EPOCH + Duration::from_secs(lies.until_secs.min(YEAR_9999))),
        copies: Vec::new(),
    }
}

/// Later cannot be told.
const YEAR_9999: u64 = 253_402_300_000;

#[cfg(test)]
mod tests {
    use super::super::ask::Question;
    use super::super::testing::Fixture;
    use super::*;
    use crate::engine::{Class, ClassTable, Policy};

    #[test]
    fn what_a_person_replaces_stays_as_long_as_its_class_says() {
        let mut fixture = Fixture::start();
        let mut keeps = |trash| {
            let mut classes = ClassTable::default();
            classes.get_mut(Class::Normal).trash = trash;
            fixture.actor.place.policy = Arc::new(Policy::new(Vec::new(), classes).unwrap());
            let (reply, mut note) = tokio::sync::oneshot::channel();
            let path = RelPath::parse(b"f").unwrap();
            fixture.actor.ask(Question::Replaced(path, reply)).unwrap();
            Duration::from_secs(note.try_recv().unwrap().keep_secs)
        };
        let two_days = Duration::from_hours(48);
        assert_eq!(two_days, keeps(Some(two_days)));
        assert_eq!(KEEP, keeps(None));
    }
}
