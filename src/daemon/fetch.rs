//! Content from a peer into the stage: one peer after the other, resumed where it stopped.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::actor::{Actor, Event};
use super::delta::{self, Base, DeltaError};
use crate::disk::{self, StageError, Staged};
use crate::model::limits::{DELTA_BYTES_MAX, DELTA_BYTES_MIN};
use crate::model::{ContentId, Entry, Lane, NodeId, RelPath};
use crate::net::{FetchRequest, LinkHandle};

/// Why a content does not come.
const NOBODY: &str = "cannot fetch: nobody who has it is connected";

/// From whom content can be had.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    peers: Vec<NodeId>,
    lane: Lane,
}

impl Actor {
    /// Notes who has the content for a path.
    pub(super) fn plan_fetch(&mut self, path: &RelPath, peers: Vec<NodeId>, lane: Lane) {
        self.fetches.insert(path.clone(), Plan { peers, lane });
    }

    /// Asks the first peer that is up: one that announced it before any other.
    pub(super) fn fetch_from_peer(&mut self, path: RelPath, content: ContentId, size: u64) {
        let Some(plan) = self.fetches.get_mut(&path) else { return };
        if disk::exists_complete(&self.mount, content) {
            self.inbox.push(Event::Fetched { path, content, result: Ok(()) });
            return;
        }
        let announced = plan.peers.iter().position(|peer| self.peers.contains_key(peer));
        let id = match announced {
            Some(at) => Some(plan.peers.remove(at)),
            None if plan.peers.is_empty() => self.peers.keys().next().copied(),
            None => None,
        };
        let lane = plan.lane;
        let Some(peer) = id else {
            self.fetches.remove(&path);
            return self.not_fetched(path, content, NOBODY.to_owned());
        };
        match self.base(&path, content, size) {
            Some(base) => self.fetch_rest(path, content, size, (peer, lane), base),
            None => self.fetch_whole(path, content, size, (peer, lane)),
        }
    }

    /// What is at the path, or at the one that it is a new version of by its name, if it is worth a
    /// comparison with what shall be there.
    fn base(&self, path: &RelPath, content: ContentId, size: u64) -> Option<Base> {
        let of_size = |size| (DELTA_BYTES_MIN..=DELTA_BYTES_MAX).contains(&size);
        if !of_size(size) {
            return None;
        }
        let at = |path: RelPath| {
            let row = self.index.row(&path).ok().flatten()?;
            let (known, bytes) = row.record.entry.as_ref().and_then(Entry::content)?;
            (known != content && of_size(bytes)).then_some(Base { content: known, path })
        };
        at(path.clone()).or_else(|| replaced_by(path).into_iter().find_map(at))
    }

    fn fetch_rest(
        &mut self,
        path: RelPath,
        content: ContentId,
        size: u64,
        from: (NodeId, Lane),
        base: Base,
    ) {
        let Some((link, staged, request)) = self.begin_fetch(&path, content, size, from) else {
            return;
        };
        let (shared, mount, inbox) = (self.shared.clone(), self.mount.clone(), self.inbox.clone());
        let (peer, lane) = from;
        delta::fetch(shared, &link, (staged, base, mount), request, move |result| {
            inbox.push(match result {
                Ok(()) => Event::Fetched { path, content, result: Ok(()) },
                Err(DeltaError::Failed(reason)) => {
                    Event::Fetched { path, content, result: Err(reason) }
                }
                Err(DeltaError::Useless(reason)) => {
                    tracing::debug!(%path, reason, "fetches all of it");
                    Event::FetchWhole { path, content, size, peer, lane }
                }
            });
        });
    }

    /// All of it, but for what an earlier attempt left.
    pub(super) fn fetch_whole(
        &mut self,
        path: RelPath,
        content: ContentId,
        size: u64,
        from: (NodeId, Lane),
    ) {
        let Some((link, staged, request)) = self.begin_fetch(&path, content, size, from) else {
            return;
        };
        let inbox = self.inbox.clone();
        fetch_into(&link, request, staged, Staged::write, move |result| {
            let finish = |staged: Staged| staged.finish().map_err(|error| super::chain(&error));
            inbox.push(Event::Fetched { path, content, result: result.and_then(finish) });
        });
    }

    /// Opens the stage for it. If nothing comes of that, it is said.
    fn begin_fetch(
        &mut self,
        path: &RelPath,
        content: ContentId,
        size: u64,
        (peer, lane): (NodeId, Lane),
    ) -> Option<(LinkHandle, Staged, FetchRequest)> {
        let Some(link) = self.peers.get(&peer).map(|peer| peer.link.clone()) else {
            self.fetches.remove(path);
            self.not_fetched(path.clone(), content, NOBODY.to_owned());
            return None;
        };
        let staged = match Staged::open(&self.mount, content, size) {
            Ok(staged) => staged,
            Err(error) => {
                self.not_fetched(path.clone(), content, super::chain(&error));
                return None;
            }
        };
        let request = FetchRequest {
            mount: self.place.name.clone(),
            path: path.clone(),
            content,
            size,
            offset: staged.offset(),
            ranges: Vec::new(),
            lane,
        };
        Some((link, staged, request))
    }

    fn not_fetched(&self, path: RelPath, content: ContentId, reason: String) {
        self.inbox.push(Event::Fetched { path, content, result: Err(reason) });
    }
}

/// Fetches bytes into something that takes them, and gives that back once all have come, or why they
/// did not; what it took until then is good as far as it goes.
pub(super) fn fetch_into<T: Send + 'static>(
    link: &LinkHandle,
    request: FetchRequest,
    taker: T,
    take: fn(&mut T, &[u8]) -> Result<(), StageError>,
    done: impl FnOnce(Result<T, String>) + Send + 'static,
) {
    let taker = Arc::new(Mutex::new(Some(taker)));
    let sink = {
        let taker = taker.clone();
        move |bytes: &[u8]| match &mut *taker.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(taker) => take(taker, bytes).map_err(io::Error::other),
            None => Err(io::Error::other("the stage is closed")),
        }
    };
    link.fetch(request, sink, move |result| {
        let taker = taker.lock().unwrap_or_else(PoisonError::into_inner).take();
        done(match result {
            Ok(()) => taker.ok_or_else(|| "the stage is closed".to_owned()),
            Err(error) => Err(super::chain(&error)),
        });
    });
}

/// The files that a file of this name may be going to replace: writers that take care write a new
/// version beside the old one, under its name with something added, and rename it.
fn replaced_by(path: &RelPath) -> Vec<RelPath> {
    let Some((dir, name)) = path.split() else { return Vec::new() };
    let shown = name.strip_prefix(b".").unwrap_or(name);
    let stem = |name: &[u8]| {
        let dot = name.iter().rposition(|&byte| byte == b'.')?;
        Some(name[..dot].to_vec())
    };
    let plain = name.strip_suffix(b"~").map(<[u8]>::to_vec);
    let names = [stem(name), stem(shown), plain, Some(shown.to_vec())];
    let mut paths: Vec<RelPath> = Vec::new();
    for other in names.into_iter().flatten().filter(|other| !other.is_empty() && other != name) {
        let whole = if dir.is_empty() { other } else { [dir, b"/", &other].concat() };
        match RelPath::parse(&whole) {
            Ok(other) if !paths.contains(&other) => paths.push(other),
            _ => {}
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_versions_under_other_names_are_compared_with_what_they_replace() {
        for (name, expected) in [
            ("d/db.sql.tmp", vec!["d/db.sql"]),
            ("d/.db.sql.Xa91bQ", vec!["d/.db.sql", "d/db.sql", "d/db.sql.Xa91bQ"]),
            ("db.sql~", vec!["db", "db.sql"]),
            (".part", vec!["part"]),
            ("db", vec![]),
        ] {
            let path = RelPath::parse(name.as_bytes()).unwrap();
            let others: Vec<_> = replaced_by(&path).iter().map(RelPath::to_string).collect();
            assert_eq!(expected, others, "{name}");
        }
    }
}
