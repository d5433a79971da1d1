//! Watches by fanotify: one mark on the file system, directories by handle, our own events by pid.
//!
//! In: the file system's events, most of them foreign. Out: hints into the shared set. The reader
//! thread drains the queue and waits for nothing else. The mark covers the file system, not what
//! is mounted below the root.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use super::handles::{Handle, Handles, Place};
use super::root::RootCheck;
use super::{
    Hint, HintKind, ROOT_CHECK_EVERY, Shared, Skip, State, WatchError, cookie, fanotify_sys,
};
use crate::model::RelPath;

#[cfg(test)]
mod tests;

/// Bytes read from the queue at a time: some hundreds of events.
const READ_BYTES: usize = 64 << 10;

/// Bytes of `struct fanotify_event_metadata`.
const METADATA_BYTES: usize = 24;

/// How long events may gather after a read that brought nothing of interest: our own, of which an
/// apply makes several a file, or those of a program that writes elsewhere on the file system.
/// Waking up for each would cost more than the apply.
const GATHER: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// The reader thread; dropping this ends it.
pub(super) struct Reader {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    pub(super) fn start(root: &Path, skip: Skip, shared: Arc<Shared>) -> Result<Self, WatchError> {
        let drain = Drain::new(root, skip, shared)?;
        let stop = drain.stop.clone();
        let thread = std::thread::Builder::new()
            .name("fanotify".into())
            .spawn(move || drain.run())
            .map_err(|source| WatchError::Fanotify { doing: "start a thread", source })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Writing to an event descriptor fails only when it was written to 2^64 times.
        let asked = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        if let (Ok(_), Some(thread)) = (asked, self.thread.take()) {
            // A panic of the reader was printed where it happened and must not become ours.
            let _ended = thread.join();
        }
    }
}

struct Drain {
    queue: OwnedFd,
    stop: Arc<OwnedFd>,
    handles: Handles,
    check: RootCheck,
    /// The root may no longer be where it was.
    root_moved: bool,
    shared: Arc<Shared>,
    own_pid: i32,
    buffer: Vec<u8>,
}

impl Drop for Drain {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.update(|state| state.lose("a thread of the watcher ended"));
        }
    }
}

/// What one event says, in the order to be noted.
enum Note {
    Hint(Hint),
    Below(RelPath),
    Cookie(u64),
    Overflow,
}

/// What the reader did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// It read nothing of interest, and let more gather.
    Gathered,
    /// It noted what it read; nothing, if nothing was there.
    Noted,
    /// It was told to stop.
    Stopped,
}

/// Notes of one read, and whether the root may no longer be where it was.
#[derive(Default)]
struct Batch {
    notes: Vec<Note>,
    events: u64,
    ignored: u64,
    /// Nothing in it was of interest.
    is_noise: bool,
    root_moved: bool,
}

impl Drain {
    fn new(root: &Path, skip: Skip, shared: Arc<Shared>) -> Result<Self, WatchError> {
        let refused = |doing| move |source| WatchError::Fanotify { doing, source };
        let check = RootCheck::new(root).map_err(refused("look at the root"))?;
        let handles = Handles::new(root, skip).map_err(refused("open the root"))?;
        let queue = fanotify_sys::init().map_err(refused("open a queue"))?;
        fanotify_sys::mark(queue.as_fd(), handles.root().as_fd())
            .map_err(refused("mark the file system"))?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| refused("make an event descriptor")(error.into()))?;
        shared.watches.store(1, Ordering::Relaxed);
        let (stop, own_pid) = (Arc::new(stop), std::process::id().cast_signed());
        let buffer = vec![0; READ_BYTES];
        Ok(Self { queue, stop, handles, check, root_moved: false, shared, own_pid, buffer })
    }

    fn run(mut self) {
        let mut checked = Instant::now();
        let lost = loop {
            match self.turn() {
                Ok(Turn::Stopped) => break None,
                Ok(Turn::Gathered | Turn::Noted) => {}
                Err(reason) => break Some(reason),
            }
            if std::mem::take(&mut self.root_moved) || checked.elapsed() >= ROOT_CHECK_EVERY {
                checked = Instant::now();
                if let Err(reason) = self.check.look() {
                    break Some(reason);
                }
            }
        };
        if let Some(reason) = lost {
            self.shared.update(|state| state.lose(&reason));
        }
        self.shared.watches.store(0, Ordering::Relaxed);
    }

    /// Waits, and reads what is there. Why nothing can be seen any more.
    fn turn(&mut self) -> Result<Turn, String> {
        if self.wait().map_err(|error| format!("cannot wait for events: {error}"))? {
            return Ok(Turn::Stopped);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let batch = self.drain(&mut buffer);
        self.buffer = buffer;
        let batch = batch.map_err(|error| format!("cannot read events: {error}"))?;
        self.root_moved |= batch.root_moved;
        Ok(if batch.is_noise { self.gather() } else { Turn::Noted })
    }

    fn gather(&self) -> Turn {
        // Told to stop meanwhile, the next wait sees it at once.
        let mut stop = [PollFd::new(&*self.stop, PollFlags::IN)];
        let _gathered = poll(&mut stop, Some(&GATHER));
        Turn::Gathered
    }

    /// Waits for events or for the next look at the root; true when told to stop.
    fn wait(&self) -> Result<bool, Errno> {
        let seconds = ROOT_CHECK_EVERY.as_secs().cast_signed();
        let timeout = Timespec { tv_sec: seconds, tv_nsec: 0 };
        let mut fds =
            [PollFd::new(&self.queue, PollFlags::IN), PollFd::new(&*self.stop, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) => Ok(!fds[1].revents().is_empty()),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads what is there, once, and notes it.
    fn drain(&mut self, buffer: &mut [u8]) -> io::Result<Batch> {
        let read = match rustix::io::read(&self.queue, &mut *buffer) {
            Ok(read) => read,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Batch::default()),
            Err(error) => return Err(error.into()),
        };
        let mut batch = Batch::default();
        let mut rest = &buffer[..read];
        while let Some((event, after)) = Event::parse(rest)? {
            rest = after;
            self.take_in(&event, &mut batch)?;
        }
        self.shared.events.fetch_add(batch.events, Ordering::Relaxed);
        self.shared.ignored.fetch_add(batch.ignored, Ordering::Relaxed);
        let notes = std::mem::take(&mut batch.notes);
        batch.is_noise = notes.is_empty();
        if !notes.is_empty() {
            self.shared.update(|state| notes.into_iter().for_each(|note| note.put(state)));
        }
        Ok(batch)
    }

    fn take_in(&mut self, event: &Event<'_>, batch: &mut Batch) -> io::Result<()> {
        if event.mask & libc::FAN_Q_OVERFLOW != 0 {
            self.handles.forget();
            batch.notes.push(Note::Overflow);
            return Ok(());
        }
        let before = batch.notes.len();
        let is_rename = event.mask & libc::FAN_RENAME != 0;
        let own = event.pid == self.own_pid;
        if own && !(is_rename && event.is_dir()) && !self.may_be_cookie(event)? {
            batch.ignored += 1;
            return Ok(());
        }
        let from = self.locate(event.record(OLD_NAME)?, event, batch)?;
        let to = self.locate(event.record(NEW_NAME)?, event, batch)?;
        let at = self.locate(event.record(NAME)?, event, batch)?;
        if is_rename && event.is_dir() && (from.is_known() || to.is_known()) {
            self.handles.forget();
        }
        // Our own renames change where directories are, but they are not news.
        if !own {
            // The new name first: a reader that meets it finds the content known under the old.
            to.note(HintKind::Moved, event, batch);
            from.note(HintKind::Gone, event, batch);
            at.note(event.kind(), event, batch);
        }
        if batch.notes.len() == before {
            batch.ignored += 1;
        } else {
            batch.events += 1;
        }
        Ok(())
    }

    /// Whether one of our own events may be of a cookie: by its name, since to resolve a handle
    /// costs three system calls, and an apply makes several events for each file.
    fn may_be_cookie(&self, event: &Event<'_>) -> io::Result<bool> {
        for kind in [NAME, NEW_NAME] {
            let record = event.record(kind)?;
            if record.is_some_and(|record| self.shared.cookie_number(record.name).is_some()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Where an event's entry is.
    fn locate(
        &mut self,
        record: Option<NameRecord<'_>>,
        event: &Event<'_>,
        batch: &mut Batch,
    ) -> io::Result<Located> {
        let Some(record) = record else { return Ok(Located::Nowhere) };
        let place = match self.handles.resolve(record.handle) {
            Ok(Some(place)) => place,
            Ok(None) => return Ok(Located::Removed),
            Err(error) if is_passing(&error) => return Ok(Located::Unknown),
            Err(error) => return Err(error),
        };
        Ok(match place {
            Place::Inside(dir) => self.entry(dir, record.name),
            Place::Deep(dir) => Located::Below(dir),
            Place::Cookies => {
                let created = event.mask & (libc::FAN_CREATE | libc::FAN_RENAME) != 0;
                let number = self.shared.cookie_number(record.name).filter(|_| created);
                batch.notes.extend(number.map(Note::Cookie));
                Located::Hidden
            }
            Place::Skipped(dir) if record.name == b"." => Located::At(dir),
            Place::Skipped(_) | Place::Hidden => Located::Hidden,
            Place::Outside => {
                let moved = libc::FAN_RENAME | libc::FAN_DELETE;
                batch.root_moved |= event.is_dir()
                    && event.mask & moved != 0
                    && self.handles.leads_to_root(record.name);
                Located::Nowhere
            }
        })
    }

    fn entry(&self, dir: RelPath, name: &[u8]) -> Located {
        // A directory's own attributes are told of as the entry `.` in it.
        if name == b"." {
            return Located::At(dir);
        }
        if dir.is_root() && name == cookie::DIR[0].as_bytes() {
            return Located::Hidden;
        }
        // Only a path too long to be one of ours can fail here.
        dir.join(name).map_or(Located::Below(dir), Located::At)
    }
}

/// Errors that pass by themselves; what they hid is looked for.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::EINTR | libc::EIO | libc::ENOENT)
    )
}

#[derive(Debug)]
enum Located {
    /// Here.
    At(RelPath),
    /// Somewhere at or below here.
    Below(RelPath),
    /// Below the root where nothing is mirrored.
    Hidden,
    /// Outside the root, or not said.
    Nowhere,
    /// In a directory that was removed since; its parent's event tells.
    Removed,
    /// It cannot be told now.
    Unknown,
}

impl Located {
    /// Whether it is, or may be, below the root.
    fn is_known(&self) -> bool {
        !matches!(self, Self::Nowhere)
    }

    fn note(self, kind: HintKind, event: &Event<'_>, batch: &mut Batch) {
        batch.notes.push(match self {
            Self::At(path) => Note::Hint(Hint { path, kind, is_dir: event.is_dir() }),
            Self::Below(path) => Note::Below(path),
            Self::Unknown => Note::Overflow,
            Self::Hidden | Self::Nowhere | Self::Removed => return,
        });
    }
}

impl Note {
    fn put(self, state: &mut State) {
        match self {
            Self::Hint(hint) => state.pending.note(hint),
            Self::Below(path) => state.pending.overflow(path),
            Self::Cookie(number) => state.cookie_seen(number),
            Self::Overflow => state.kernel_overflow(false),
        }
    }
}

const NAME: u8 = libc::FAN_EVENT_INFO_TYPE_DFID_NAME;
const OLD_NAME: u8 = libc::FAN_EVENT_INFO_TYPE_OLD_DFID_NAME;
const NEW_NAME: u8 = libc::FAN_EVENT_INFO_TYPE_NEW_DFID_NAME;

/// One event: `struct fanotify_event_metadata` and the records that follow it.
struct Event<'a> {
    mask: u64,
    pid: i32,
    records: &'a [u8],
}

/// A directory's handle and the name of an entry in it.
struct NameRecord<'a> {
    handle: Handle<'a>,
    name: &'a [u8],
}

impl<'a> Event<'a> {
    /// The first event of what was read, and what is left; nothing at the end.
    fn parse(bytes: &'a [u8]) -> io::Result<Option<(Self, &'a [u8])>> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let length = u32_at(bytes, 0)? as usize;
        let header = usize::from(u16_at(bytes, 6)?);
        if bytes[4] != libc::FANOTIFY_METADATA_VERSION
            || header < METADATA_BYTES
            || length < header
            || length > bytes.len()
        {
            return Err(malformed());
        }
        let (event, rest) = bytes.split_at(length);
        let mask = u64::from(u32_at(event, 8)?) | u64::from(u32_at(event, 12)?) << 32;
        let mask = if cfg!(target_endian = "big") { mask.rotate_left(32) } else { mask };
        let pid = u32_at(event, 20)?.cast_signed();
        Ok(Some((Self { mask, pid, records: &event[header..] }, rest)))
    }

    fn is_dir(&self) -> bool {
        self.mask & libc::FAN_ONDIR != 0
    }

    /// What happened, of an event that is no rename. Several things that happened to one entry may
    /// be in one event, their order lost.
    fn kind(&self) -> HintKind {
        let has = |bit| self.mask & bit != 0;
        match () {
            () if has(libc::FAN_DELETE) && has(libc::FAN_CREATE) && self.is_dir() => {
                HintKind::Moved
            }
            () if has(libc::FAN_CLOSE_WRITE) => HintKind::Closed,
            () if has(libc::FAN_CREATE) => HintKind::Created,
            () if has(libc::FAN_DELETE) => HintKind::Gone,
            () if has(libc::FAN_MODIFY) => HintKind::Written,
            () => HintKind::Attributes,
        }
    }

    /// The record of this type, if the event has one.
    fn record(&self, wanted: u8) -> io::Result<Option<NameRecord<'a>>> {
        let mut rest = self.records;
        while !rest.is_empty() {
            let length = usize::from(u16_at(rest, 2)?);
            if length < 4 || length > rest.len() {
                return Err(malformed());
            }
            let (record, after) = rest.split_at(length);
            if record[0] == wanted {
                return NameRecord::parse(&record[4..]).map(Some);
            }
            rest = after;
        }
        Ok(None)
    }
}

impl<'a> NameRecord<'a> {
    /// Eight bytes of file system id, `struct file_handle`, the name and NULs.
    fn parse(bytes: &'a [u8]) -> io::Result<Self> {
        let length = u32_at(bytes, 8)? as usize;
        let kind = u32_at(bytes, 12)?.cast_signed();
        let end = 16_usize.saturating_add(length);
        if end > bytes.len() {
            return Err(malformed());
        }
        let (key, name) = bytes.split_at(end);
        let name = name.split(|&b| b == 0).next().unwrap_or_default();
        Ok(Self { handle: Handle { key, kind, bytes: &key[16..] }, name })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> io::Result<u32> {
    let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
    word.map(u32::from_ne_bytes).ok_or_else(malformed)
}

fn u16_at(bytes: &[u8], at: usize) -> io::Result<u16> {
    let half = bytes.get(at..at + 2).and_then(|half| half.try_into().ok());
    half.map(u16::from_ne_bytes).ok_or_else(malformed)
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's event is not understood")
}
