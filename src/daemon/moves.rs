//! Files that were renamed: recognised here by their inode, announced beside what went, and renamed on
//! the other nodes too instead of being fetched or copied.
//!
//! It decides nothing: the engine looks at, announces and applies the new path and the old one as any
//! others. Only the work is less. Whatever does not fit together in the end is done the long way.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::actor::Actor;
use super::workers::Look;
use crate::disk::{ApplyRequest, Displaced, Listed, Moved, Source};
use crate::engine::{Hint, HintKind};
use crate::index::{IndexError, Row, Token};
use crate::model::limits::DIRTY_MAX;
use crate::model::{Kind, RelPath, Signature};
use crate::net::Announced;

/// Files of one directory that are looked at under both names at a time, as all of them are known to
/// the engine at once. What is more is found under its new name first, and copied on the other nodes.
const ORIGINS_MAX: usize = 16_384;

/// What a path held at another one, until a moment ago.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub from: RelPath,
    pub signature: Signature,
    pub kind: Kind,
}

/// Renames under way.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// New names that a listing found, not looked at yet.
    found: BTreeMap<RelPath, Origin>,
    /// Paths that the announcements of this turn remove.
    leaving: BTreeSet<RelPath>,
    /// Where the content of a path comes from that was said to be at hand, until its apply.
    sources: BTreeMap<RelPath, RelPath>,
}

impl Moves {
    fn add(&mut self, origins: BTreeMap<RelPath, Origin>) {
        if self.found.len() + origins.len() > DIRTY_MAX {
            // Of what was not looked at since then only the saving is lost.
            self.found.clear();
        }
        self.found.extend(origins);
    }

    /// What is known of a path that is to be looked at for the first time.
    pub(super) fn found(&mut self, path: &RelPath) -> Option<Origin> {
        self.found.remove(path)
    }
}

impl Actor {
    /// A listing found names that are not known: perhaps the files are, by their inodes. A directory that
    /// was renamed leaves the times of its files as they were. Each old path is looked at with the new
    /// one: what goes is announced beside what comes.
    pub(super) fn with_origins(
        &mut self,
        hints: Vec<Hint>,
        dir: &RelPath,
        new: &[Listed],
    ) -> Result<Vec<Hint>, IndexError> {
        let mut origins = BTreeMap::new();
        for child in new.iter().filter(|child| self.scanned && !child.is_dir) {
            if origins.len() >= ORIGINS_MAX {
                break;
            }
            let Ok(path) = dir.join(&child.name) else { continue };
            let is = |row: &Row| {
                let was = row.signature.filter(|was| !was.racy && was.unchanged(&child.signature));
                was.is_some() && row.record.path != path
            };
            let Some(row) = self.index.with_inode(child.signature.inode)?.into_iter().find(is)
            else {
                continue;
            };
            let kind = row.record.entry.map(|entry| entry.kind);
            if let (Some(signature), Some(Kind::File { size, content, sparse, .. })) =
                (row.signature, kind)
            {
                let kind = Kind::File { size, content, sparse, group: None };
                origins.insert(path, Origin { from: row.record.path, signature, kind });
            }
        }
        let with_origin = hints.into_iter().flat_map(|hint| {
            let from = origins.get(&hint.path).map(|origin| origin.from.clone());
            let old = from.map(|path| Hint { path, kind: HintKind::Differs });
            std::iter::once(hint).chain(old)
        });
        let hints = with_origin.collect();
        self.moves.add(origins);
        Ok(hints)
    }

    /// Notes what an announcement removes.
    pub(super) fn note_leaving(&mut self, records: &[Announced]) {
        let gone = records.iter().filter(|announced| !announced.record.is_live());
        self.moves.leaving.extend(gone.map(|announced| announced.record.path.clone()));
    }

    /// Whether the content for a path is that of a file that goes with the same announcement: it need
    /// not be fetched.
    pub(super) fn comes_from_here(&mut self, path: &RelPath, candidates: &[RelPath]) -> bool {
        let from = candidates.iter().find(|from| self.moves.leaving.contains(from));
        let Some(from) = from.cloned() else { return false };
        self.moves.leaving.remove(&from);
        self.moves.sources.insert(path.clone(), from);
        true
    }

    /// The requests of a turn, in groups; what moves stays with what goes.
    pub(super) fn groups(
        &mut self,
        requests: Vec<(ApplyRequest, Token)>,
        most: usize,
    ) -> Vec<Vec<(ApplyRequest, Token)>> {
        let mut sources = std::mem::take(&mut self.moves.sources);
        // What is not applied in this turn will be asked for again.
        self.moves.leaving.clear();
        let mut groups = Vec::new();
        let mut rest = requests.into_iter().peekable();
        while rest.peek().is_some() {
            let mut group: Vec<_> = rest.by_ref().take(most).collect();
            let last = group.last().is_some_and(|(last, _)| sources.contains_key(&last.path));
            group.extend(rest.next_if(|_| last));
            pair(&mut group, &mut sources);
            groups.push(group);
        }
        groups
    }
}

/// Has each file that comes from a path which a later request of the group removes be moved from there.
fn pair(group: &mut [(ApplyRequest, Token)], sources: &mut BTreeMap<RelPath, RelPath>) {
    if sources.is_empty() {
        return;
    }
    let at: HashMap<RelPath, usize> =
        group.iter().enumerate().map(|(at, (request, _))| (request.path.clone(), at)).collect();
    for new in 0..group.len() {
        let Some(from) = sources.remove(&group[new].0.path) else { continue };
        let Some(&old) = at.get(&from).filter(|&&old| old > new) else { continue };
        if let Some(moved) = moved(&group[new].0, &group[old].0) {
            group[new].0.source = Source::Moved(Box::new(moved));
        }
    }
}

/// How the one becomes the other: if nothing else differs, and nobody wants to keep the old one.
fn moved(new: &ApplyRequest, old: &ApplyRequest) -> Option<Moved> {
    let (target, was) = (new.target.as_ref()?, old.expected.as_ref()?);
    let keeps = matches!(old.displaced, Displaced::Keep(_));
    let same = target.meta == was.0.meta && target.same_kind_content(&was.0);
    let fits = new.expected.is_none() && old.target.is_none() && !old.even_if_open;
    (same && fits && !keeps && new.source == Source::Staged).then(|| Moved {
        from: old.path.clone(),
        was: was.clone(),
        displaced: old.displaced.clone(),
    })
}

/// Puts the look at each old path behind the one at its new path, so that both are found, and announced,
/// together.
pub(super) fn in_pairs(looks: Vec<Look>) -> Vec<Look> {
    if looks.iter().all(|look| look.origin.is_none()) {
        return looks;
    }
    let origins: BTreeSet<_> =
        looks.iter().filter_map(|look| Some(look.origin.as_ref()?.from.clone())).collect();
    let (mut old, new): (BTreeMap<_, _>, Vec<_>) = {
        let (old, new): (Vec<_>, Vec<_>) =
            looks.into_iter().partition(|look| origins.contains(&look.path));
        (old.into_iter().map(|look| (look.path.clone(), look)).collect(), new)
    };
    let mut paired = Vec::new();
    for look in new {
        let from = look.origin.as_ref().map(|origin| origin.from.clone());
        paired.push(look);
        paired.extend(from.and_then(|from| old.remove(&from)));
    }
    paired.extend(old.into_values());
    paired
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ContentId, Entry, Meta, Mtime};

    fn path(text: &str) -> RelPath {
        RelPath::parse(text.as_bytes()).unwrap()
    }

    fn entry(mode: u32) -> Entry {
        let kind = Kind::File { size: 1, content: ContentId::of(b"x"), sparse: false, group: None };
        let meta = Meta { mode, uid: 0, gid: 0, mtime: Mtime::default(), xattrs: Vec::new() };
        Entry { kind, meta }
    }

    fn signature() -> Signature {
        let (mtime, ctime) = (Mtime::default(), Mtime::default());
        Signature { inode: 7, size: 1, mode: 0, mtime, ctime, links: 1, racy: false }
    }

    fn request(at: &str, target: Option<Entry>, expected: Option<Entry>) -> (ApplyRequest, Token) {
        let source = if target.is_some() { Source::Staged } else { Source::None };
        let (expected, displaced) = (expected.map(|e| (e, signature())), Displaced::Drop);
        let path = path(at);
        let even_if_open = false;
        (ApplyRequest { path, target, expected, source, displaced, even_if_open }, Token(0))
    }

    fn is_moved(group: &mut [(ApplyRequest, Token)]) -> bool {
        pair(group, &mut BTreeMap::from([(path("new"), path("old"))]));
        group.iter().any(|(request, _)| matches!(request.source, Source::Moved(_)))
    }

    #[test]
    fn only_what_goes_in_the_same_group_and_is_the_same_is_moved() {
        let (new, old) =
            (request("new", Some(entry(0o644)), None), request("old", None, Some(entry(0o644))));
        assert!(is_moved(&mut [new.clone(), old.clone()]));
        assert!(!is_moved(&mut [old.clone(), new.clone()]), "it is gone by then");
        assert!(!is_moved(&mut [new.clone()]));
        assert!(!is_moved(&mut [new.clone(), request("old", None, Some(entry(0o600)))]));
        assert!(!is_moved(&mut [new.clone(), request("old", Some(entry(0o644)), None)]));
        let mut kept = old.clone();
        kept.0.displaced = Displaced::Keep(crate::daemon::conflicts::unnamed());
        assert!(!is_moved(&mut [new.clone(), kept]), "somebody wants it kept");
        let mut open = old.clone();
        open.0.even_if_open = true;
        assert!(!is_moved(&mut [new, open]));
        let replaced = request("new", Some(entry(0o644)), Some(entry(0o644)));
        assert!(!is_moved(&mut [replaced, old]), "something is there");
    }

    #[test]
    fn an_old_path_is_looked_at_behind_its_new_one() {
        let look = |at: &str, from: Option<&str>| Look {
            path: path(at),
            known: None,
            origin: from.map(|from| Origin {
                from: path(from),
                signature: signature(),
                kind: Kind::Dir,
            }),
            even_if_open: false,
        };
        let looks = vec![
            look("old2", None),
            look("new1", Some("old1")),
            look("other", None),
            look("old1", None),
            look("new2", Some("old2")),
            look("new3", Some("looked at elsewhere")),
        ];
        let paths: Vec<_> = in_pairs(looks).iter().map(|look| look.path.to_string()).collect();
        assert_eq!(["new1", "old1", "other", "new2", "old2", "new3"], *paths);
    }
}
