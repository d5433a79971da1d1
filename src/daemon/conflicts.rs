//! The conflict store: losers of concurrent edits, on every node.
//!
//! A folder below the state folder, with two files for each loser: its content under the
//! conflict's id, and `ID.json`, which says what it was. Nothing in them depends on the node that
//! kept it, so several nodes may keep the same one; the folder is a mount of its own
//! ([`MOUNT`]), mirrored like any other, so that every node has every loser.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::actor::Event;
use super::ask::Question;
use super::{ActorHandle, Shared};
use crate::control::types::{ConflictStatus, timestamp};
use crate::disk::{self, KeptId};
use crate::engine::{Hint, HintKind};
use crate::model::{Record, RelPath, Stamp, Version};

/// The name of the mount that mirrors the store. No mount of a configuration can be called so.
pub(super) const MOUNT: &str = "@conflicts";

/// How long losers are kept.
pub(super) const KEPT_FOR: Duration = Duration::from_hours(30 * 24);

/// What `stat` counts in.
const BLOCK_BYTES: u64 = 512;

/// What is known of a loser. The same on every node.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Loser {
    mount: String,
    /// Escaped, for people.
    path: String,
    /// The path's bytes in hexadecimal.
    path_bytes: String,
    /// The node that made the edit.
    origin: String,
    /// When the edit was made, in nanoseconds since 1970.
    edited_ns: u64,
    why: Why,
}

/// Why it is kept.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Why {
    #[default]
    Concurrent,
    Late,
    Restored,
}

impl Why {
    fn words(self) -> &'static str {
        match self {
            Self::Concurrent => "edited on several nodes at the same time; another edit won",
            Self::Late => "a program wrote to it after it was replaced",
            Self::Restored => "`trefoil conflicts restore` put something else in its place",
        }
    }
}

/// Where the store is.
pub(super) fn folder(state: &Path) -> PathBuf {
    state.join("conflicts")
}

/// Writes down what the loser was, before it is moved aside. Gives its id.
pub(super) fn announce(shared: &Shared, mount: &str, loser: &Record, why: Why) -> KeptId {
    let stamp = loser.version.stamp;
    let names = shared.names();
    let origin =
        names.iter().find(|(node, _)| node.is_by(stamp.node)).map(|(_, name)| name.clone());
    let about = Loser {
        mount: mount.to_owned(),
        path: loser.path.to_string(),
        path_bytes: data_encoding::HEXLOWER.encode(loser.path.as_bytes()),
        origin: origin.unwrap_or_else(|| stamp.node.to_string()),
        edited_ns: stamp.counter,
        why,
    };
    let id = id_of(mount, &loser.path, stamp);
    let file = folder(&shared.state).join(format!("{}.json", id.as_str()));
    if let Err(error) = write_about(&file, &about) {
        let error = &error as &dyn std::error::Error;
        tracing::error!(mount, path = %loser.path, error, "cannot describe a conflict");
    }
    id
}

fn id_of(mount: &str, path: &RelPath, stamp: Stamp) -> KeptId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(mount.as_bytes());
    hasher.update(&[0]);
    hasher.update(path.as_bytes());
    hasher.update(&stamp.counter.to_le_bytes());
    hasher.update(&stamp.node.0.to_le_bytes());
    let hash = hasher.finalize();
    let id = data_encoding::HEXLOWER.encode(&hash.as_bytes()[..8]);
    KeptId::parse(&id).expect("hexadecimal digits are an id")
}

fn write_about(file: &Path, about: &Loser) -> io::Result<()> {
    if file.exists() {
        return Ok(());
    }
    let made = file.with_extension("json.new");
    let text = serde_json::to_vec_pretty(about)?;
    let mut out =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&made)?;
    out.write_all(&text)?;
    // The same time on every node: two descriptions of one loser are one file.
    out.set_modified(UNIX_EPOCH + Duration::from_nanos(about.edited_ns))?;
    out.sync_all()?;
    fs::rename(made, file)
}

/// Moves what was kept aside in a mount into the store.
pub(super) fn import(shared: &Shared, mount: &disk::Mount) -> io::Result<()> {
    let mut hints = Vec::new();
    for (id, from) in disk::kept(mount)? {
        let to = folder(&shared.state).join(id.as_str());
        if to.symlink_metadata().is_err() {
            disk::move_out(&from, &to).map_err(io::Error::other)?;
        } else {
            disk::drop_kept(&from).map_err(io::Error::other)?;
        }
        tracing::info!(id = id.as_str(), "kept the loser of a conflict");
        hints.extend(names_of(id.as_str()));
    }
    hint_store(shared, hints);
    Ok(())
}

/// Moves what somebody wrote to a file after it was replaced into the store.
pub(super) fn import_late(shared: &Shared, mount: &str, late: &disk::LateWrite) -> io::Result<()> {
    let about = late.file.symlink_metadata()?;
    let seconds = u64::try_from(about.mtime()).unwrap_or_default();
    let counter = seconds * 1_000_000_000 + u64::try_from(about.mtime_nsec()).unwrap_or_default();
    let version = Version::edit(Stamp { counter, node: shared.node }, None);
    let record = Record { path: late.path.clone(), entry: None, version };
    let id = announce(shared, mount, &record, Why::Late);
    tracing::warn!(mount, path = %late.path, id = id.as_str(),
        "a program wrote to a file after it was replaced; kept as a conflict");
    let to = folder(&shared.state).join(id.as_str());
    disk::move_out(&late.file, &to).map_err(io::Error::other)?;
    hint_store(shared, names_of(id.as_str()).into());
    Ok(())
}

/// An id for something without a record.
pub(super) fn unnamed() -> KeptId {
    let random = getrandom::u64().unwrap_or_default();
    KeptId::parse(&format!("{random:016x}")).expect("hexadecimal digits are an id")
}

pub(super) fn names_of(id: &str) -> [RelPath; 2] {
    [id.to_owned(), format!("{id}.json")]
        .map(|name| RelPath::parse(name.as_bytes()).expect("an id is a name"))
}

pub(super) fn hint_store(shared: &Shared, paths: Vec<RelPath>) {
    let hint = |path| Hint { path, kind: HintKind::Differs };
    if let (false, Some(actor)) = (paths.is_empty(), shared.actor(MOUNT)) {
        actor.inbox.push(Event::Hinted(paths.into_iter().map(hint).collect()));
    }
}

/// What the store holds, newest first.
pub(super) fn list(shared: &Shared) -> io::Result<Vec<ConflictStatus>> {
    let mut conflicts = Vec::new();
    for item in fs::read_dir(folder(&shared.state))? {
        let path = item?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let id = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
        // What is still on its way from another node is listed once it is here.
        if let Ok(conflict) = status(shared, &id) {
            conflicts.push(conflict);
        }
    }
    conflicts.sort_by(|a, b| b.kept.cmp(&a.kept).then_with(|| a.id.cmp(&b.id)));
    Ok(conflicts)
}

/// What is known of one loser.
pub(super) fn status(shared: &Shared, id: &str) -> io::Result<ConflictStatus> {
    let (loser, file) = find(shared, id)?;
    let about = file.symlink_metadata()?;
    let kept = kept_since(&about);
    Ok(ConflictStatus {
        id: id.to_owned(),
        mount: loser.mount,
        path: loser.path,
        origin: loser.origin,
        kind: if about.is_symlink() { "symlink" } else { "file" }.to_owned(),
        bytes: about.len(),
        modified: timestamp(about.modified()?),
        kept: timestamp(kept),
        expires: Some(timestamp(kept + KEPT_FOR)),
        reason: loser.why.words().to_owned(),
    })
}

fn find(shared: &Shared, id: &str) -> io::Result<(Loser, PathBuf)> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, format!("no conflict {id}"));
    let id = KeptId::parse(id).ok_or_else(missing)?;
    let folder = folder(&shared.state);
    let text = fs::read(folder.join(format!("{}.json", id.as_str()))).map_err(|_| missing())?;
    let file = folder.join(id.as_str());
    file.symlink_metadata().map_err(|_| missing())?;
    Ok((serde_json::from_slice(&text)?, file))
}

/// The kept bytes: a file's content, or a link's target.
pub(super) fn content(shared: &Shared, id: &str) -> io::Result<(u64, Box<dyn io::Read + Send>)> {
    let (_, file) = find(shared, id)?;
    if file.symlink_metadata()?.is_symlink() {
        use std::os::unix::ffi::OsStringExt as _;
        let target = fs::read_link(file)?.into_os_string().into_vec();
        return Ok((target.len() as u64, Box::new(io::Cursor::new(target))));
    }
    let file = File::open(file)?;
    Ok((file.metadata()?.len(), Box::new(file)))
}

/// Drops a loser for good, on every node.
pub(super) fn discard(shared: &Shared, id: &str) -> io::Result<()> {
    find(shared, id)?;
    KeptId::parse(id).map_or(Ok(()), |id| remove(shared, &id))
}

/// A loser as files: also what a crash left half of.
pub(super) struct Stored {
    pub(super) id: KeptId,
    /// When it came here.
    pub(super) since: SystemTime,
    /// What it takes up of the disk.
    pub(super) bytes: u64,
}

/// All that the store holds, by id.
pub(super) fn stored(shared: &Shared) -> io::Result<Vec<Stored>> {
    let folder = folder(&shared.state);
    let mut ids = BTreeSet::new();
    for item in fs::read_dir(&folder)? {
        let name = item?.file_name().into_string().unwrap_or_default();
        ids.extend(KeptId::parse(name.strip_suffix(".json").unwrap_or(&name)));
    }
    let stored = |id: KeptId| {
        let files = names_of(id.as_str()).map(|name| folder.join(name.to_string()));
        let abouts: Vec<_> = files.iter().filter_map(|file| file.symlink_metadata().ok()).collect();
        let since = kept_since(abouts.first()?);
        let bytes = abouts.iter().map(|about| about.blocks().saturating_mul(BLOCK_BYTES));
        let bytes = bytes.fold(0, u64::saturating_add);
        Some(Stored { id, since, bytes })
    };
    Ok(ids.into_iter().filter_map(stored).collect())
}

/// Drops a loser, or what is left of one, on every node.
pub(super) fn remove(shared: &Shared, id: &KeptId) -> io::Result<()> {
    let folder = folder(&shared.state);
    for name in names_of(id.as_str()) {
        remove_if_there(&folder.join(name.to_string()))?;
    }
    hint_store(shared, names_of(id.as_str()).into());
    Ok(())
}

/// When a file came here: its times of modification are those that it had.
fn kept_since(about: &fs::Metadata) -> SystemTime {
    let part = |number: i64| u64::try_from(number).unwrap_or_default();
    let (seconds, nanos) = (part(about.ctime()), part(about.ctime_nsec()));
    UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_nanos(nanos)
}

fn remove_if_there(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// What a restore did: the mount, the path, and the id under which what was there is kept now.
pub(super) struct Restored {
    pub mount: String,
    pub path: String,
    pub replaced: Option<String>,
}

/// Puts a loser back in place, as an edit made here; what is there takes its place in the store.
pub(super) fn restore(shared: &Shared, id: &str) -> io::Result<Restored> {
    let (loser, file) = find(shared, id)?;
    let bytes = data_encoding::HEXLOWER.decode(loser.path_bytes.as_bytes());
    let path = bytes.ok().and_then(|bytes| RelPath::parse(&bytes).ok());
    let path = path.ok_or_else(|| io::Error::other("its description is damaged"))?;
    let gone = || io::Error::other(format!("mount \"{}\" is not configured here", loser.mount));
    let actor = shared.actor(&loser.mount).ok_or_else(gone)?;
    let request = disk::ReadRequest { path: &path, known: None, moved: None, even_if_open: true };
    let expected = match disk::read(&actor.mount, &request) {
        crate::model::Found::Absent => None,
        crate::model::Found::Entry { entry, signature, .. } => Some((entry, signature)),
        other => return Err(io::Error::other(format!("{path} cannot be replaced now: {other:?}"))),
    };
    let taken = disk::take_kept(&file, &actor.mount).map_err(io::Error::other)?;
    let missing = || io::Error::new(io::ErrorKind::NotFound, format!("no conflict {id}"));
    let (target, source) = taken.ok_or_else(missing)?;
    let replaced = expected.as_ref().map(|_| keep_current(shared, &actor, &loser, &path));
    let displaced = match &replaced {
        Some(id) => disk::Displaced::Keep(id.clone()),
        None => disk::Displaced::Drop,
    };
    let request = disk::ApplyRequest {
        path: path.clone(),
        target: Some(target),
        expected,
        source,
        displaced,
        even_if_open: true,
    };
    match disk::apply_group(&actor.mount, &[request], |_| {}).pop() {
        Some(disk::Outcome::Done { .. }) => {}
        Some(disk::Outcome::ParentMissing) => {
            return Err(io::Error::other("its directory is gone; make it first"));
        }
        Some(disk::Outcome::Failed { reason, .. }) => return Err(io::Error::other(reason)),
        _ => return Err(io::Error::other(format!("{path} was changed meanwhile; try again"))),
    }
    actor.inbox.push(Event::Hinted(vec![Hint { path, kind: HintKind::Differs }]));
    import(shared, &actor.mount)?;
    discard(shared, id)?;
    let replaced = replaced.map(|id| id.as_str().to_owned());
    Ok(Restored { mount: loser.mount, path: loser.path, replaced })
}

/// Writes down what is there, before it is moved aside: it is whose edit our record says.
fn keep_current(shared: &Shared, actor: &ActorHandle, loser: &Loser, path: &RelPath) -> KeptId {
    let (reply, answer) = tokio::sync::oneshot::channel();
    actor.inbox.push(Event::Ask(Question::Record(path.clone(), reply)));
    let record = answer.blocking_recv().ok().flatten().filter(Record::is_live);
    let record = record.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let counter = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let version = Version::edit(Stamp { counter, node: shared.node }, None);
        Record { path: path.clone(), entry: None, version }
    });
    announce(shared, &loser.mount, &record, Why::Restored)
}
