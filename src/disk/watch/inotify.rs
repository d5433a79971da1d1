//! Watches by inotify, through the `notify` crate: one watch a directory, set by us.
//!
//! In: events with paths. Out: hints into the shared set. `notify` would follow new directories by
//! itself, but gives up on a whole subtree when one directory in it vanishes, tells of a directory
//! before it is watched, and loses the watch of one that is renamed at the wrong moment. So each
//! directory is watched singly, by the keeper thread, and what was told from a new directory on is
//! held back until its watches stand. Does not see who made a change: our own are reported too.
//! What is deeper than the kernel takes paths cannot be watched: it is told to have changed now and
//! then, and before each cookie.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RemoveKind, RenameMode};
use notify::{Config, ErrorKind, Event, EventKind, INotifyWatcher, RecursiveMode, Watcher as _};

use super::root::RootCheck;
use super::tree::{Looks, Tree};
use super::{Hint, HintKind, ROOT_CHECK_EVERY, Shared, Skip, State, WatchError, cookie};
use crate::disk::call::Call;
use crate::model::RelPath;

const LIST: Call = Call::new("read.watch", "list a directory to watch it");
const LOOK: Call = Call::new("stat.watch", "look at what was told");

/// How long the crate's own thread may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// How often directories that cannot be watched are told, to be listed.
const DEEP_EVERY: Duration = Duration::from_secs(5);

/// The keeper thread, which owns `notify`'s; dropping this ends both.
pub(super) struct Reader {
    poke: Option<SyncSender<()>>,
    common: Arc<Common>,
    thread: Option<JoinHandle<()>>,
}

/// What the event handler and the keeper share.
struct Common {
    root: PathBuf,
    shared: Arc<Shared>,
    tree: Mutex<Tree>,
}

impl Reader {
    pub(super) fn start(root: &Path, skip: Skip, shared: Arc<Shared>) -> Result<Self, WatchError> {
        let refused = |doing| move |source| WatchError::Inotify { doing, source };
        let root = std::path::absolute(root).map_err(refused("look at the root"))?;
        let check = RootCheck::new(&root).map_err(refused("look at the root"))?;
        let common = Arc::new(Common { root, shared, tree: Mutex::new(Tree::default()) });
        let (poke, poked) = sync_channel(1);
        let (alive, ended) = sync_channel(0);
        let handler = Handler { common: common.clone(), poke: poke.clone(), _alive: alive };
        let watcher = INotifyWatcher::new(
            move |event| handler.handle(event),
            Config::default().with_follow_symlinks(false),
        )
        .map_err(|error| match into_io(error) {
            error if error.raw_os_error() == Some(libc::EMFILE) => WatchError::TooManyInstances,
            error => refused("open a queue")(error),
        })?;
        let mut keeper =
            Keeper { watcher: Some(watcher), common: common.clone(), skip, check, ended };
        let cookies = keeper.common.root.join(cookie::DIR[0]).join(cookie::DIR[1]);
        keeper.watch(&cookies).and_then(|_| keeper.look(&RelPath::root())).map_err(|stop| {
            match stop {
                Stop::TooMany => WatchError::TooManyWatches,
                Stop::Io(source) => refused("watch the tree")(source),
            }
        })?;
        let thread = std::thread::Builder::new()
            .name("inotify".into())
            .spawn(move || keeper.run(&poked))
            .map_err(refused("start a thread"))?;
        Ok(Self { poke: Some(poke), common, thread: Some(thread) })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.common.tree().ending = true;
        if let Some(poke) = self.poke.take() {
            // A poke that is waiting already serves as well.
            let _waiting = poke.try_send(());
        }
        if let Some(thread) = self.thread.take() {
            // A panic of the keeper was printed where it happened and must not become ours.
            let _ended = thread.join();
        }
    }
}

impl Common {
    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lose(&self, reason: &str) {
        self.shared.update(|state| state.lose(reason));
    }

    /// The path below the root; nothing for one that is elsewhere or in `.trefoil`.
    fn relative(&self, path: &Path) -> Option<RelPath> {
        let below = path.strip_prefix(&self.root).ok()?;
        let path = RelPath::parse(below.as_os_str().as_bytes()).ok()?;
        let hidden = path.components().next() == Some(cookie::DIR[0].as_bytes());
        (!hidden).then_some(path)
    }

    /// Has the directories listed that cannot be watched.
    fn note_deep(&self) {
        for path in self.tree().deep() {
            let hint = Hint { path, kind: HintKind::Moved, is_dir: true };
            self.shared.update(|state| state.pending.note(hint));
        }
    }

    fn absolute(&self, path: &RelPath) -> PathBuf {
        self.root.join(std::ffi::OsStr::from_bytes(path.as_bytes()))
    }
}

/// Runs on `notify`'s thread.
struct Handler {
    common: Arc<Common>,
    poke: SyncSender<()>,
    /// Dropped with the handler, when that thread ends.
    _alive: SyncSender<()>,
}

/// What one event says of one path.
enum Change {
    /// This, to an entry that was there or is no directory.
    Told(HintKind),
    /// A directory was made.
    Directory,
    /// A name was moved here; it may be a directory's.
    Arrived,
    /// A name went; it may have been a directory's, or is known to.
    Left { is_dir: bool },
}

impl Handler {
    fn handle(&self, event: notify::Result<Event>) {
        let event = match event {
            Ok(event) => event,
            Err(error) if matches!(error.kind, ErrorKind::MaxFilesWatch) => {
                return self.common.lose(&WatchError::TooManyWatches.to_string());
            }
            Err(error) => return self.common.lose(&format!("cannot read events: {error}")),
        };
        if event.need_rescan() {
            // Directories may have appeared unseen: they are watched first, then looked at.
            return self.hold(Looks::all, |state| state.kernel_overflow(true));
        }
        let Some(change) = change_of(event.kind) else { return };
        for path in &event.paths {
            self.take_in(path, &change);
        }
    }

    fn take_in(&self, path: &Path, change: &Change) {
        let Some(rel) = self.common.relative(path) else { return self.hidden(path, change) };
        self.common.shared.events.fetch_add(1, Ordering::Relaxed);
        if rel.is_root() && matches!(change, Change::Left { .. }) {
            return self.common.lose("the root was moved or removed");
        }
        let (was_watched, was_refused) = {
            let tree = self.common.tree();
            (tree.is_watched(&rel), tree.is_refused(&rel))
        };
        let (kind, is_dir) = match change {
            // A directory may be readable now.
            Change::Told(HintKind::Attributes) if was_refused => (HintKind::Moved, true),
            Change::Told(kind) => (*kind, was_watched),
            Change::Directory => (HintKind::Moved, true),
            // `notify` does not say what was moved.
            Change::Arrived => {
                let found = LOOK.run_io(|| path.symlink_metadata()).map_err(|e| e.source);
                let too_long = |error: io::Error| error.kind() == io::ErrorKind::InvalidFilename;
                (HintKind::Moved, found.map_or_else(too_long, |found| found.is_dir()))
            }
            Change::Left { is_dir } => (HintKind::Gone, *is_dir || was_watched),
        };
        let hint = Hint { path: rel.clone(), kind, is_dir };
        let names_a_directory = matches!(kind, HintKind::Moved | HintKind::Gone);
        if names_a_directory && (is_dir || was_watched) {
            self.hold(|looks| looks.add(rel), |state| state.pending.note_held(hint));
        } else {
            self.common.shared.update(|state| state.pending.note(hint));
        }
    }

    /// Something in `.trefoil`, or nothing of ours.
    fn hidden(&self, path: &Path, change: &Change) {
        self.common.shared.ignored.fetch_add(1, Ordering::Relaxed);
        let name = path.file_name().map(OsStrExt::as_bytes).unwrap_or_default();
        if let Change::Told(HintKind::Created) | Change::Arrived = change
            && let Some(number) = self.common.shared.cookie_number(name)
        {
            self.common.note_deep();
            self.common.shared.update(|state| state.cookie_seen(number));
        }
    }

    /// Notes something that is held until the keeper has looked.
    fn hold(&self, want: impl FnOnce(&mut Looks), note: impl FnOnce(&mut State)) {
        let mut tree = self.common.tree();
        want(&mut tree.looks);
        self.common.shared.update(note);
        tree.looks.until = self.common.shared.lock().pending.position();
        drop(tree);
        // A poke that is waiting already serves as well.
        let _waiting = self.poke.try_send(());
    }
}

fn change_of(kind: EventKind) -> Option<Change> {
    Some(match kind {
        EventKind::Create(CreateKind::Folder) => Change::Directory,
        EventKind::Create(_) => Change::Told(HintKind::Created),
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Change::Told(HintKind::Closed),
        EventKind::Modify(ModifyKind::Data(_)) => Change::Told(HintKind::Written),
        EventKind::Modify(ModifyKind::Metadata(_)) => Change::Told(HintKind::Attributes),
        EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Change::Arrived,
        EventKind::Remove(RemoveKind::Folder) => Change::Left { is_dir: true },
        EventKind::Modify(ModifyKind::Name(RenameMode::From)) | EventKind::Remove(_) => {
            Change::Left { is_dir: false }
        }
        // Opening and reading; and renames told a second time, both names together.
        _ => return None,
    })
}

/// Sets the watches; the only one that does.
struct Keeper {
    /// Not dropped after a panic: `notify` would panic again.
    watcher: Option<INotifyWatcher>,
    common: Arc<Common>,
    skip: Skip,
    check: RootCheck,
    ended: Receiver<()>,
}

/// Why no further directory can be watched.
enum Stop {
    TooMany,
    Io(io::Error),
}

impl Keeper {
    fn run(mut self, poked: &Receiver<()>) {
        let mut told_deep = Instant::now();
        let lost = loop {
            if told_deep.elapsed() >= DEEP_EVERY {
                self.common.note_deep();
                told_deep = Instant::now();
            }
            match poked.recv_timeout(ROOT_CHECK_EVERY) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => {
                    // The handler holds the other end.
                    if self.ended.try_recv() == Err(TryRecvError::Disconnected) {
                        std::mem::forget(self.watcher.take());
                        break Some("the reader ended".into());
                    }
                    if let Err(reason) = self.check.look() {
                        break Some(reason);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break None,
            }
            if self.common.tree().ending {
                break None;
            }
            match self.look_at_wanted() {
                Ok(()) => {}
                Err(Stop::TooMany) => break Some(WatchError::TooManyWatches.to_string()),
                Err(Stop::Io(error)) => break Some(format!("cannot watch a directory: {error}")),
            }
        };
        if let Some(reason) = lost {
            self.common.lose(&reason);
        }
        self.common.shared.watches.store(0, Ordering::Relaxed);
    }

    /// Looks at every directory the handler named, then lets go of what was held for them.
    fn look_at_wanted(&mut self) -> Result<(), Stop> {
        loop {
            let looks = std::mem::take(&mut self.common.tree().looks);
            if looks.is_empty() {
                return Ok(());
            }
            for path in looks.paths() {
                self.look(&path)?;
            }
            self.common.shared.update(|state| state.pending.confirm(looks.until));
        }
    }

    /// Makes the watches at and below a path fit what is there now.
    fn look(&mut self, top: &RelPath) -> Result<(), Stop> {
        let elsewhere = self.common.tree().forget(top);
        self.walk(top)?;
        // Renamed while being watched under the new name: the old name's removal took the watch.
        for path in elsewhere {
            self.walk(&path)?;
            let hint = Hint { path, kind: HintKind::Moved, is_dir: true };
            self.common.shared.update(|state| state.pending.note(hint));
        }
        let watches = self.common.tree().len() as u64;
        // One more for the cookies.
        self.common.shared.watches.store(watches + 1, Ordering::Relaxed);
        Ok(())
    }

    /// Watches a directory and all below it. Each is listed after its watch stands, so that what
    /// appears meanwhile is either listed or told.
    fn walk(&mut self, top: &RelPath) -> Result<(), Stop> {
        let mut todo = vec![top.clone()];
        while let Some(rel) = todo.pop() {
            if !rel.is_root() && (self.skip)(&rel) {
                continue;
            }
            let path = self.common.absolute(&rel);
            let found = LOOK.run_io(|| path.symlink_metadata()).map_err(|e| e.source);
            let found = match found {
                Ok(found) if found.is_dir() => found,
                Err(error) if error.kind() == io::ErrorKind::InvalidFilename => {
                    if self.check.has_dir(&rel) {
                        self.common.tree().add_deep(rel);
                    }
                    continue;
                }
                _ => continue,
            };
            if !self.watch(&path)? {
                self.common.tree().refuse(rel);
                continue;
            }
            self.common.tree().watched(&rel, (found.dev(), found.ino()));
            let Ok(entries) = LIST.run_io(|| std::fs::read_dir(&path)) else { continue };
            for entry in entries.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir())
                    && let Some(below) = self.common.relative(&entry.path())
                {
                    todo.push(below);
                }
            }
        }
        Ok(())
    }

    /// Watches one directory; false if it went away or may not be read.
    fn watch(&mut self, path: &Path) -> Result<bool, Stop> {
        // Taken out meanwhile: should the crate's thread have died this panics, and dropping the
        // watcher then would panic again.
        let Some(watcher) = self.watcher.take() else { return Ok(false) };
        let mut watcher = std::mem::ManuallyDrop::new(watcher);
        let watched = watcher.watch(path, RecursiveMode::NonRecursive);
        self.watcher = Some(std::mem::ManuallyDrop::into_inner(watcher));
        let Err(error) = watched else { return Ok(true) };
        if matches!(error.kind, ErrorKind::MaxFilesWatch) {
            return Err(Stop::TooMany);
        }
        let error = into_io(error);
        match error.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::InvalidFilename => Ok(false),
            _ => Err(Stop::Io(error)),
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if !self.common.tree().ending {
            // After a reason that was given this says nothing.
            self.common.lose("a thread of the watcher ended");
        }
        if let Some(watcher) = self.watcher.take() {
            drop(watcher);
            // The crate does not wait for its thread; the handler ends with it.
            let _ended = self.ended.recv_timeout(END_TIMEOUT);
        }
    }
}

fn into_io(error: notify::Error) -> io::Error {
    match error.kind {
        ErrorKind::Io(error) => error,
        ErrorKind::PathNotFound => io::ErrorKind::NotFound.into(),
        _ => io::Error::other(error),
    }
}
