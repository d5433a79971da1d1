//! Opens a mount with its index and watcher, waits for it while it is not there, and runs it.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fs::File;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::actor::{Actor, Bulk, End, Event, Inbox, Place, start_watch};
use super::halt::Halt;
use super::mailbox::Mailbox;
use super::mirror::Turn;
use super::moves::Moves;
use super::shelf::Shelf;
use super::workers::{Journal, LogSync, Workers};
use super::{ActorHandle, Shared};
use crate::disk::watch::Watcher;
use crate::disk::{self, Mount, MountError, MountOptions};
use crate::engine::{Engine, Setup};
use crate::index::{Boot, Index, IndexError};
use crate::model::{Incarnation, Sequence, limits};

/// How often a mount that is not there is looked for.
const RETRY: Duration = Duration::from_secs(1);

/// Why a mount cannot be run now.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("cannot open the mount")]
    Mount(#[from] MountError),
    #[error("cannot use the mount")]
    Disk(#[from] disk::Refused),
    #[error("cannot use the index")]
    Index(#[from] IndexError),
    #[error("cannot {doing}")]
    Io { doing: &'static str, source: std::io::Error },
    /// The marker is not the file that it was.
    #[error("it has another marker file than before: it is a copy, or was made by hand")]
    Copied,
    /// A new mount: nobody has said yet that this directory is the right one.
    #[error("it has no marker yet")]
    Unmarked,
}

/// What keeps a mount from being opened, for a person.
fn halt(error: &OpenError, place: &Place) -> Halt {
    let (name, path) = (&place.name, &place.path);
    let new = !index_file(&place.state, name).exists();
    match error {
        OpenError::Copied => Halt::copied(super::chain(error), name, path),
        OpenError::Unmarked => Halt::unmarked(name, path),
        OpenError::Mount(_) if new && !path.exists() => Halt::no_directory(name, path),
        OpenError::Mount(error) => Halt::unusable(error, path),
        OpenError::Disk(_) | OpenError::Index(_) | OpenError::Io { .. } => {
            Halt::state(super::chain(error), &place.state)
        }
    }
}

/// Runs a mount until the daemon stops. `ready` is told once it is open, or cannot be for now.
pub(super) fn run(place: &Place, shared: &Arc<Shared>, ready: &Sender<()>) {
    let mut told = String::new();
    while !shared.is_stopping() {
        match open(place, shared) {
            Ok((actor, threads)) => {
                shared.note_halt(&place.name, None);
                ready.send(()).unwrap_or_default();
                let inbox = actor.inbox.clone();
                let result = actor.run();
                inbox.close();
                let mut actors = shared.actors.write().unwrap_or_else(PoisonError::into_inner);
                actors.remove(&place.name);
                drop(actors);
                for thread in threads {
                    drop(thread.join());
                }
                match result {
                    Ok(End::Stopped) => return,
                    // Nothing of it is held any more, so that it can be unmounted.
                    Ok(End::Lost(halt)) => shared.note_halt(&place.name, Some(halt)),
                    Err(error) => start_anew(place, shared, &error),
                }
            }
            // Opening it reads little of it.
            Err(OpenError::Index(error)) if error.is_damage() => start_anew(place, shared, &error),
            Err(error) => {
                let halt = halt(&error, place);
                if halt.reason != told {
                    let Halt { reason, hint } = &halt;
                    tracing::error!(mount = place.name, reason, hint, "halted");
                    reason.clone_into(&mut told);
                }
                shared.note_halt(&place.name, Some(halt));
                ready.send(()).unwrap_or_default();
                std::thread::park_timeout(RETRY);
            }
        }
    }
}

/// Makes ready for another try after the index has failed. Nothing that was announced in its name
/// may reach a peer that takes it for the next one's: the links are made anew.
fn start_anew(place: &Place, shared: &Arc<Shared>, error: &IndexError) {
    let reason = super::chain(error);
    for link in shared.all_links() {
        link.renew();
    }
    let aside =
        if error.is_damage() { set_aside(&place.state, &place.name, error) } else { Ok(()) };
    if let Err(error) = aside.as_ref() {
        let error = error as &dyn std::error::Error;
        tracing::error!(mount = place.name, error, "cannot set the index aside");
    }
    if aside.is_err() || !error.is_damage() {
        tracing::error!(mount = place.name, reason, "the index failed, trying again");
        shared.note_halt(&place.name, Some(Halt::state(reason, &place.state)));
        std::thread::park_timeout(RETRY);
    }
}

/// Another life of the index after a power cut, or the last one.
fn go_on(index: &mut Index, mount: &str, power_went: bool) -> Result<(), OpenError> {
    if power_went {
        tracing::warn!(mount, "the power went; the index may lack its last changes");
        index.begin_life(incarnation()?)?;
    } else {
        index.part_all()?;
    }
    Ok(())
}

pub(super) fn open(
    place: &Place,
    shared: &Arc<Shared>,
) -> Result<(Actor, Vec<std::thread::JoinHandle<()>>), OpenError> {
    let io = |doing| move |source| OpenError::Io { doing, source };
    let mount = Arc::new(open_mount(place)?);
    let (mut index, log) = open_index(&place.state, &place.name, &mount)?;
    note_marker(place, &mount)?;
    let boot = place.state.join("index").join(format!("{}.boot", place.name));
    let left = Boot::left(&boot)?;
    go_on(&mut index, &place.name, left.power_went)?;
    index.begin_rules(place.policy.hash())?;
    note(&mount, &index)?;
    if !left.visible.is_empty() {
        // What was not durable when the daemon was killed is noted as such now.
        disk::sync_everything(&mount)?;
    }
    let boot = Arc::new(Boot::begin(&boot)?);
    let log = LogSync::start(log).map_err(io("start a thread"))?;
    let journal = Journal { log, boot: boot.clone() };
    let noted = index.head();
    let setup = setup(place, shared, &mount, &index)?;
    let inbox: Arc<Inbox> =
        Arc::new(Mailbox::new(records_of, |event| matches!(event, Event::Control { .. })));
    let (workers, threads) = Workers::start(&place.name, &mount, &place.policy, &inbox, journal)
        .map_err(io("start a thread"))?;
    let (watcher, halted) = watch(place, &inbox);
    let handle = Arc::new(ActorHandle { inbox: inbox.clone(), mount: mount.clone() });
    let mut actors = shared.actors.write().unwrap_or_else(PoisonError::into_inner);
    actors.insert(place.name.clone(), handle);
    drop(actors);
    shared.openings.send_replace(());
    shared.tell_links(&place.name, &inbox);
    shared.import_kept(&place.name);
    let actor = Actor {
        place: place.clone(),
        mount,
        engine: Engine::new(setup),
        index,
        boot,
        visible: left.visible,
        inbox,
        workers,
        watcher,
        peers: BTreeMap::new(),
        noted,
        fetches: BTreeMap::new(),
        linking: BTreeMap::new(),
        shelf: Shelf::default(),
        moves: Moves::default(),
        waiters: Vec::new(),
        next_waiter: 0,
        shared: shared.clone(),
        paused: paused_file(&place.state, &place.name).exists(),
        halted,
        guard_checked_ms: 0,
        scanned: false,
        walking: VecDeque::new(),
        walk_cut: false,
        audit: None,
        unsettled: HashSet::new(),
        missed_events: 0,
        messages: 0,
        turn: Turn::default(),
        applying: 0,
        started: Instant::now(),
        next_scan_ms: 0,
        tidied_ms: 0,
        reached: None,
        stopping: false,
        lost: false,
    };
    Ok((actor, threads))
}

/// How far the counter of stamps goes on at most with each start, in nanoseconds (decision 0011).
const COUNTER_STEP: u64 = 1_000_000_000;

fn setup(place: &Place, shared: &Shared, mount: &Mount, index: &Index) -> Result<Setup, OpenError> {
    let others = shared.other_members().len();
    Ok(Setup {
        node: place.node.author(index.incarnation()),
        policy: place.policy.clone(),
        keeps_owners: mount.privileged,
        joining: others > 0 && !index.is_scanned()?,
        last_counter: index.last_counter(),
        counter_step: random()? % COUNTER_STEP,
        held_classes: index.held_classes()?,
        share: limits::SHARE_MAX,
    })
}

fn records_of(bulk: &Bulk) -> usize {
    bulk.announce.records.len()
}

fn open_mount(place: &Place) -> Result<Mount, OpenError> {
    let privileged = rustix::process::geteuid().is_root();
    let mount = Mount::open(&place.path, MountOptions { privileged, create: false });
    let same = mount.and_then(|mount| mount.check_identity(place.marker).map(|()| mount));
    let is_known = index_file(&place.state, &place.name).exists();
    let mount = same.map_err(|error| match error {
        MountError::NoMarker if !is_known => OpenError::Unmarked,
        error => error.into(),
    })?;
    // What is not in an incomplete copy would be taken for deleted.
    let then = std::fs::read_to_string(marker_file(&place.state, &place.name));
    let is_copy = place.watch.is_some()
        && then.is_ok_and(|then| Ok(then) != mount.marker_file().map_err(drop));
    if is_known && is_copy { Err(OpenError::Copied) } else { Ok(mount) }
}

/// Remembers which file the marker is.
pub(super) fn note_marker(place: &Place, mount: &Mount) -> Result<(), OpenError> {
    let now = mount.marker_file()?;
    let file = marker_file(&place.state, &place.name);
    if std::fs::read_to_string(&file).is_ok_and(|then| then == now) {
        return Ok(());
    }
    let io = |source| OpenError::Io { doing: "remember the marker", source };
    let made = file.with_extension("marker.new");
    std::fs::write(&made, now).and_then(|()| std::fs::rename(&made, &file)).map_err(io)
}

/// Watches the mount, or halts it: changes that nobody sees would not be mirrored.
fn watch(place: &Place, inbox: &Arc<Inbox>) -> (Option<Arc<Watcher>>, Option<Halt>) {
    let Some(watch) = place.watch else { return (None, None) };
    match start_watch(place, watch, inbox) {
        Ok(watcher) => {
            tracing::info!(mount = place.name, backend = %watcher.backend(), "watching");
            (Some(Arc::new(watcher)), None)
        }
        Err(error) => {
            let halt = Halt::unwatched(&error, &place.path);
            let Halt { reason, hint } = &halt;
            tracing::error!(mount = place.name, reason, hint, "halted");
            (None, Some(halt))
        }
    }
}

/// The index of a mount. Where it is, the mount was marked and opened before.
pub(super) fn index_file(state: &Path, name: &str) -> PathBuf {
    state.join("index").join(format!("{name}.db"))
}

/// Where an index that cannot be used is kept.
pub(super) fn unusable_index(state: &Path, name: &str) -> PathBuf {
    state.join("index").join(format!("{name}.db.unusable"))
}

/// The file that says which file a mount's marker is.
pub(super) fn marker_file(state: &Path, name: &str) -> PathBuf {
    state.join("index").join(format!("{name}.marker"))
}

/// The file whose presence says that a mount is paused.
pub(super) fn paused_file(state: &Path, name: &str) -> PathBuf {
    state.join("paused").join(name)
}

/// Opens the index; one that is damaged, or older than the files, is set aside, and the node joins
/// its cluster anew.
fn open_index(state: &Path, name: &str, mount: &Mount) -> Result<(Index, File), OpenError> {
    let io = |doing| move |source| OpenError::Io { doing, source };
    let folder = state.join("index");
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
    made.map_err(io("make the index's folder"))?;
    let path = index_file(state, name);
    let noted = mount.note()?.as_deref().and_then(parse_note);
    let opened = Index::open(&path, incarnation()?).and_then(|(index, made)| match noted {
        Some((life, head)) if !made && !index.has_reached(life, head)? => {
            Err(IndexError::Old { than: "the files".to_owned() })
        }
        _ => Ok(index),
    });
    let index = match opened {
        Ok(index) => index,
        Err(error) if error.is_damage() => {
            set_aside(state, name, &error)?;
            Index::open(&path, incarnation()?)?.0
        }
        Err(error) => return Err(error.into()),
    };
    let log = folder.join(format!("{name}.db-wal"));
    let journal = File::open(log).map_err(io("open the index's log"))?;
    Ok((index, journal))
}

/// Keeps an index that cannot be used for a person to look at, in the place of the last such one.
fn set_aside(state: &Path, name: &str, error: &IndexError) -> Result<(), OpenError> {
    let reason = super::chain(error);
    let path = index_file(state, name);
    let aside = unusable_index(state, name);
    tracing::error!(mount = name, reason, aside = %aside.display(),
        "the index cannot be used; starting with a new one");
    std::fs::rename(&path, &aside)
        .map_err(|source| OpenError::Io { doing: "set the index aside", source })?;
    for ending in ["-wal", "-shm"] {
        drop(std::fs::remove_file(path.with_file_name(format!("{name}.db{ending}"))));
    }
    Ok(())
}

/// Notes beside the files how far the index has come, which is synced first: whoever puts an older
/// one in its place is found out.
pub(super) fn note(mount: &Mount, index: &Index) -> Result<(), IndexError> {
    index.sync()?;
    let text = format!("{} {}\n", index.incarnation().0, index.head().0);
    if let Err(error) = mount.set_note(text.as_bytes()) {
        // Only the next such note is missed: an old index is less likely to be found out.
        let error = &error as &dyn std::error::Error;
        tracing::debug!(error, "cannot note how far the index is");
    }
    Ok(())
}

/// Nothing, unless the whole note is there.
fn parse_note(bytes: &[u8]) -> Option<(Incarnation, Sequence)> {
    let text = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?;
    let (life, head) = text.split_once(' ')?;
    Some((Incarnation(life.parse().ok()?), Sequence(head.parse().ok()?)))
}

fn incarnation() -> Result<Incarnation, OpenError> {
    Ok(Incarnation(random()?.max(1)))
}

fn random() -> Result<u64, OpenError> {
    getrandom::u64().map_err(|error| OpenError::Io {
        doing: "get random numbers",
        source: std::io::Error::other(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_counts_only_if_it_is_whole() {
        let note = |text: &str| parse_note(text.as_bytes());
        assert_eq!(Some((Incarnation(7), Sequence(12))), note("7 12\n"));
        for cut in ["", "7", "7 ", "7 1", "7 12", "7 x\n", "\u{0}\u{0}\u{0}"] {
            assert_eq!(None, note(cut), "{cut:?}");
        }
    }
}
