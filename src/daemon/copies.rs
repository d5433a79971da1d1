//! Snapshots on every node: what the others have, and filling this node's repository with what it lacks.
//!
//! A snapshot is filled from this node's own replica first; only objects that this does not give cross
//! the network, each checked by its id. Nothing is listed here before all of it is durable here.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::snapshots::{self, now_ns};
use super::taking::Far;
use super::{ActorHandle, Shared, verify};
use crate::model::NodeId;
use crate::snapshot::{
    Item, Kind, Manifest, Mark, Node, ObjectId, Objects as _, Repository, RepositoryError,
    SnapshotId, Stored, TreeRef, Writer, decode_pieces, entries, pages,
};

/// The calls that other nodes make.
pub(super) const PREFIX: &str = "snapshot.";
const LIST: &str = "snapshot.list";
const NEWS: &str = "snapshot.news";
const MANIFEST: &str = "snapshot.manifest";
const OBJECTS: &str = "snapshot.objects";

/// How long a node may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Objects that are asked for at a time: at most 32 MiB.
const OBJECTS_AT_A_TIME: usize = 32;

/// Snapshots of another node that are looked at: ten years of six-hourly ones.
const TOLD_MAX: usize = 20_000;

#[derive(Serialize, Deserialize)]
struct ListRequest {
    /// The version that is known.
    known: String,
}

/// What a node says of its snapshots.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Told {
    /// The node's clock.
    pub now_ns: u64,
    /// Changes with the list.
    pub version: String,
    /// Nothing if it is the version that was known.
    pub list: Option<Vec<One>>,
}

/// A snapshot, or what is left of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct One {
    pub id: String,
    pub taken_ns: u64,
    /// Worth to be restored from.
    pub restorable: bool,
    /// Whether all of it is there.
    pub held: bool,
    pub changed_ns: u64,
    pub removed: bool,
    pub pinned: bool,
}

impl One {
    pub(super) fn id(&self) -> Option<SnapshotId> {
        SnapshotId::parse(&self.id)
    }

    fn mark(&self) -> Mark {
        Mark { changed_ns: self.changed_ns, removed: self.removed, pinned: self.pinned }
    }
}

/// The snapshots of a repository, and the version of that list.
pub(super) fn list(repository: &Repository) -> Result<(String, Vec<One>), RepositoryError> {
    let (held, _) = repository.snapshots()?;
    let mut marks = repository.marks()?;
    let mut list: Vec<One> = Vec::new();
    let mut add = |id: SnapshotId, manifest: Option<&Manifest>, mark: Mark| {
        list.push(One {
            id: id.to_string(),
            taken_ns: manifest.map_or(0, |manifest| manifest.taken_ns),
            restorable: manifest.is_some_and(Manifest::is_restorable),
            held: manifest.is_some(),
            changed_ns: mark.changed_ns,
            removed: mark.removed,
            pinned: mark.pinned,
        });
    };
    for (id, manifest) in &held {
        add(*id, Some(manifest), marks.remove(id).unwrap_or_default());
    }
    marks.into_iter().for_each(|(id, mark)| add(id, None, mark));
    let text = serde_json::to_vec(&list).unwrap_or_default();
    Ok((blake3::hash(&text).to_hex()[..16].to_owned(), list))
}

/// Asks the nodes that are linked for their snapshots. `known` is what they said before.
pub(super) async fn ask_all(shared: &Shared, known: &mut BTreeMap<NodeId, Told>) {
    let members = shared.other_members();
    known.retain(|id, _| members.contains(id) && shared.link(*id).is_some());
    for id in members {
        if shared.link(id).is_none() {
            continue;
        }
        let before = known.get(&id).map(|told| told.version.clone()).unwrap_or_default();
        let request = ListRequest { known: before };
        let asked = verify::call(shared, id, LIST, &request);
        let Ok(pieces) = verify::within(ANSWER_LIMIT, asked).await else {
            known.remove(&id);
            continue;
        };
        let told = pieces.first().and_then(|piece| serde_json::from_slice::<Told>(piece).ok());
        let Some(mut told) = told else { continue };
        told.list = match told.list {
            Some(list) if list.len() <= TOLD_MAX => Some(list),
            Some(_) => continue,
            None => known.remove(&id).and_then(|known| known.list),
        };
        known.insert(id, told);
    }
}

/// Tells the nodes that are linked that there is something new.
pub(super) async fn tell_all(shared: &Shared) {
    for id in shared.other_members() {
        if shared.link(id).is_some() {
            // Who does not hear it asks by himself, later.
            let told = verify::call(shared, id, NEWS, &());
            let (Ok(_) | Err(_)) = verify::within(ANSWER_LIMIT, told).await;
        }
    }
}

/// Takes over what others decided of snapshots after this node did.
pub(super) fn merge_marks(
    repository: &Repository,
    told: &BTreeMap<NodeId, Told>,
) -> Result<(), RepositoryError> {
    let ours = repository.marks()?;
    let mut newer: BTreeMap<SnapshotId, Mark> = BTreeMap::new();
    for one in told.values().filter_map(|told| told.list.as_ref()).flatten() {
        let Some(id) = one.id() else { continue };
        let best = newer.entry(id).or_insert_with(|| ours.get(&id).copied().unwrap_or_default());
        *best = one.mark().max(*best);
    }
    newer.retain(|id, mark| *mark != ours.get(id).copied().unwrap_or_default());
    if newer.is_empty() {
        return Ok(());
    }
    let lock = repository.wait_lock()?;
    newer.into_iter().try_for_each(|(id, mark)| repository.set_mark(&lock, id, mark))
}

/// Snapshots that others have and this node lacks, the newest first, with who has them.
pub(super) fn lacking(
    ours: &[One],
    told: &BTreeMap<NodeId, Told>,
) -> Vec<(SnapshotId, Vec<NodeId>)> {
    let known: HashSet<&str> =
        ours.iter().filter(|one| one.held || one.removed).map(|one| &*one.id).collect();
    let mut found: BTreeMap<(u64, SnapshotId), Vec<NodeId>> = BTreeMap::new();
    for (&node, told) in told {
        for one in told.list.iter().flatten().filter(|one| one.held && !known.contains(&*one.id)) {
            let Some(id) = one.id() else { continue };
            found.entry((one.taken_ns, id)).or_default().push(node);
        }
    }
    found.into_iter().rev().map(|((_, id), nodes)| (id, nodes)).collect()
}

/// Makes a snapshot of others whole here. May block; gives the bytes that came over the network.
pub(super) fn fill(
    shared: &Shared,
    repository: &Repository,
    mounts: &[(String, Arc<ActorHandle>)],
    (id, holders): (SnapshotId, &[NodeId]),
    runtime: &Handle,
) -> Result<u64, String> {
    let told = |error: &dyn std::error::Error| super::chain(error);
    let source = Source { shared, holders, runtime };
    let text = source.manifest(id)?;
    let manifest = Manifest::decode(&text).map_err(|error| told(&error))?;
    if manifest.id() != id {
        return Err(verify::garbled());
    }
    let writer = Writer::begin(repository).map_err(|error| told(&error))?;
    let ours = snapshots::store(&writer, mounts, &Far::default()).map_err(|error| told(&error))?;
    let mut filling = Filling { writer: &writer, source, seen: HashSet::new(), bytes: 0 };
    for mount in &manifest.mounts {
        let our = ours.iter().find(|our| our.name == mount.name).map(|our| our.root);
        filling.tree(mount.root, our)?;
    }
    let bytes = filling.bytes;
    writer.commit(&manifest).map_err(|error| told(&error))?;
    Ok(bytes)
}

/// The nodes that have it, or may.
pub(super) struct Source<'a> {
    pub shared: &'a Shared,
    pub holders: &'a [NodeId],
    pub runtime: &'a Handle,
}

#[derive(Serialize, Deserialize)]
struct ManifestRequest {
    id: String,
}

#[derive(Serialize, Deserialize)]
struct ObjectsRequest {
    /// Kind and id.
    objects: Vec<(u8, String)>,
}

impl Source<'_> {
    /// The answer of the first that has one.
    fn ask<T>(
        &self,
        method: &str,
        request: &impl Serialize,
        read: impl Fn(Vec<Vec<u8>>) -> Option<T>,
    ) -> Result<T, String> {
        let mut reason = "no node that has it is linked".to_owned();
        for &node in self.holders {
            let asked = verify::call(self.shared, node, method, request);
            match self.runtime.block_on(verify::within(ANSWER_LIMIT, asked)) {
                Ok(pieces) => match read(pieces) {
                    Some(answer) => return Ok(answer),
                    None => reason = verify::garbled(),
                },
                Err(error) => reason = error,
            }
        }
        Err(reason)
    }

    fn manifest(&self, id: SnapshotId) -> Result<String, String> {
        self.ask(MANIFEST, &ManifestRequest { id: id.to_string() }, |pieces| {
            String::from_utf8(pieces.concat()).ok()
        })
    }

    /// These objects, all from one node; they are what they are called.
    pub(super) fn objects(&self, wanted: &[(Kind, ObjectId)]) -> Result<Vec<Vec<u8>>, String> {
        let name = |&(kind, id): &(Kind, ObjectId)| (kind.number(), HEXLOWER.encode(&id.0));
        let request = ObjectsRequest { objects: wanted.iter().map(name).collect() };
        self.ask(OBJECTS, &request, |pieces| {
            let is = |(piece, &(kind, id)): (&Vec<u8>, &(Kind, ObjectId))| {
                ObjectId::of(kind, piece) == id
            };
            let right = pieces.len() == wanted.len() && pieces.iter().zip(wanted).all(is);
            right.then_some(pieces)
        })
    }
}

/// A snapshot on its way.
struct Filling<'a> {
    writer: &'a Writer<'a>,
    source: Source<'a>,
    /// Directories that are done.
    seen: HashSet<ObjectId>,
    bytes: u64,
}

impl Filling<'_> {
    /// Makes a directory whole. `ours` is one that is, and may have much in common.
    fn tree(&mut self, root: TreeRef, ours: Option<TreeRef>) -> Result<(), String> {
        let mut dirs = vec![(root, ours)];
        while let Some((dir, ours)) = dirs.pop() {
            if Some(dir) == ours || !self.seen.insert(dir.id) {
                continue;
            }
            let nodes = self.dir(dir)?;
            let ours = match ours {
                Some(ours) => entries(self.writer, ours).map_err(|e| super::chain(&e))?,
                None => Vec::new(),
            };
            let known: BTreeMap<&[u8], &Item> =
                ours.iter().map(|node| (&*node.name, &node.item)).collect();
            let mut wanted = Vec::new();
            for Node { name, item, .. } in nodes {
                let known = known.get(&*name).copied();
                match (item, known) {
                    (item, Some(known)) if item == *known => {}
                    (Item::Dir(tree), Some(Item::Dir(known))) => dirs.push((tree, Some(*known))),
                    (Item::Dir(tree), _) => dirs.push((tree, None)),
                    (Item::File { content, stored: Stored::Whole, .. }, _) => {
                        wanted.push((Kind::Data, ObjectId::from(content)));
                    }
                    (Item::File { size, stored: Stored::Pieces(id), .. }, _) => {
                        self.fetch(&[(Kind::Pieces, id)])?;
                        let pieces = self.get(Kind::Pieces, id)?;
                        let pieces = decode_pieces(&pieces, size).map_err(|e| super::chain(&e))?;
                        wanted.extend(pieces.into_iter().map(|(_, id)| (Kind::Data, id)));
                    }
                    (Item::File { .. } | Item::Symlink { .. }, _) => {}
                }
            }
            self.fetch(&wanted)?;
        }
        Ok(())
    }

    /// What is in a directory, of which every page is here then.
    fn dir(&mut self, dir: TreeRef) -> Result<Vec<Node>, String> {
        self.fetch(&[(dir.kind, dir.id)])?;
        let pages = pages(self.writer, dir).map_err(|e| super::chain(&e))?;
        let pages: Vec<_> = pages.into_iter().map(|id| (Kind::Page, id)).collect();
        self.fetch(&pages)?;
        entries(self.writer, dir).map_err(|e| super::chain(&e))
    }

    fn get(&self, kind: Kind, id: ObjectId) -> Result<Vec<u8>, String> {
        self.writer.get(kind, id).map_err(|error| super::chain(&error))
    }

    /// Has these objects here.
    fn fetch(&mut self, wanted: &[(Kind, ObjectId)]) -> Result<(), String> {
        let mut missing = Vec::new();
        for &(kind, id) in wanted {
            if !self.writer.has(kind, id).map_err(|error| super::chain(&error))? {
                missing.push((kind, id));
            }
        }
        missing.sort_by_key(|&(kind, id)| (kind.number(), id.0));
        missing.dedup();
        for some in missing.chunks(OBJECTS_AT_A_TIME) {
            for (object, &(kind, _)) in self.source.objects(some)?.iter().zip(some) {
                self.bytes += object.len() as u64;
                self.writer.put(kind, object).map_err(|error| super::chain(&error))?;
            }
        }
        Ok(())
    }
}

/// Answers another node. May block.
pub(super) fn answer(shared: &Shared, method: &str, body: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let bad = |_| "bad request".to_owned();
    let told = |error: RepositoryError| super::chain(&error);
    match method {
        LIST => {
            let request: ListRequest = serde_json::from_slice(body).map_err(bad)?;
            let (version, list) = shared.backup.list(&shared.state).map_err(told)?;
            let list = (version != request.known).then_some(list);
            Ok(vec![verify::encode(&Told { now_ns: now_ns(), version, list })])
        }
        NEWS => {
            shared.backup.wake(false);
            Ok(Vec::new())
        }
        MANIFEST => {
            let request: ManifestRequest = serde_json::from_slice(body).map_err(bad)?;
            let id = SnapshotId::parse(&request.id).ok_or("bad request")?;
            let repository = shared.backup.repository(&shared.state).map_err(told)?;
            let text = repository.manifest(id).map_err(told)?.encode();
            Ok(text.as_bytes().chunks(1 << 20).map(<[u8]>::to_vec).collect())
        }
        OBJECTS => {
            let request: ObjectsRequest = serde_json::from_slice(body).map_err(bad)?;
            if request.objects.len() > OBJECTS_AT_A_TIME {
                return Err("too many objects at a time".to_owned());
            }
            let repository = shared.backup.repository(&shared.state).map_err(told)?;
            let object = |(kind, id): &(u8, String)| {
                let id = HEXLOWER.decode(id.as_bytes()).ok().and_then(|id| id.try_into().ok());
                let (kind, id) = Kind::of(*kind).zip(id).ok_or("bad request")?;
                repository.get(kind, ObjectId(id)).map_err(told)
            };
            request.objects.iter().map(object).collect()
        }
        _ => Err("this release does not know that".to_owned()),
    }
}
