//! Threads that do the waiting: reads, listings, applies, content for announcements.
//!
//! They decide nothing: a job goes in, what was found goes into the mount's mailbox. What is handed
//! out at a time is bounded by the engine's limits, so their queues are too.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read as _;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::actor::{Event, Inbox};
use super::moves::Origin;
use crate::disk::{self, ApplyRequest, Listed, Mount, ReadRequest};
use crate::engine::Policy;
use crate::index::{Boot, Token};
use crate::model::{ContentId, Found, Lane, NodeId, RelPath, Sequence, Signature, limits};
use crate::net::Announced;

/// Threads that read and hash, per mount.
const READERS: usize = 2;

/// Listings on their way to the control thread at most.
const LISTINGS_MAX: usize = 64;

/// A look at a path.
#[derive(Debug)]
pub(super) struct Look {
    pub path: RelPath,
    pub known: Option<Signature>,
    /// Where the file was until now, if it is the same.
    pub origin: Option<Origin>,
    pub even_if_open: bool,
}

/// What the readers do.
#[derive(Debug)]
pub(super) enum Job {
    /// Look at these paths.
    Read(Vec<Look>),
    /// Read the content of small files into their announcements.
    Load {
        peer: NodeId,
        lane: Lane,
        records: Vec<Announced>,
        /// After which row they come.
        from: Sequence,
        through: Sequence,
    },
    /// Stage content from a file that is here already.
    Copy { path: RelPath, content: ContentId, size: u64, from: Vec<RelPath> },
}

/// A file to be made visible, with the content that came along.
#[derive(Debug)]
pub(super) struct Group {
    pub requests: Vec<(ApplyRequest, Token)>,
}

/// Where applies are noted.
#[derive(Debug)]
pub(super) struct Journal {
    /// The index's log: what is journaled in it is durable before anything is visible.
    pub log: LogSync,
    /// What says which of them are visible.
    pub boot: Arc<Boot>,
}

/// Syncs a file on a thread of its own, beside what else has to be durable before it counts.
#[derive(Debug)]
pub(super) struct LogSync {
    ask: Sender<()>,
    answer: Receiver<std::io::Result<()>>,
}

/// A sync that was begun.
struct Syncing<'a>(&'a LogSync);

impl LogSync {
    /// Starts the thread, which ends when this is dropped.
    pub(super) fn start(log: File) -> std::io::Result<Self> {
        let (ask, asked) = channel();
        let (answers, answer) = channel();
        let work = move || {
            while let Ok(()) = asked.recv() {
                if answers.send(log.sync_data()).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("sync".to_owned()).spawn(work)?;
        Ok(Self { ask, answer })
    }

    fn begin(&self) -> Syncing<'_> {
        let _asked = self.ask.send(());
        Syncing(self)
    }
}

impl Syncing<'_> {
    fn end(self) -> std::io::Result<()> {
        self.0.answer.recv().unwrap_or_else(|_| Err(std::io::Error::other("its thread has ended")))
    }
}

/// Lets so many pass until they are done.
#[derive(Debug, Default)]
pub(super) struct Gate {
    inside: Mutex<usize>,
    left: Condvar,
}

impl Gate {
    fn enter(&self) {
        let full = |inside: &mut usize| *inside >= LISTINGS_MAX;
        let inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let inside = self.left.wait_while(inside, full);
        *inside.unwrap_or_else(PoisonError::into_inner) += 1;
    }

    pub(super) fn leave(&self) {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        *inside = inside.saturating_sub(1);
        self.left.notify_one();
    }
}

/// The threads of one mount. They end when this is dropped and their work is done.
#[derive(Debug)]
pub(super) struct Workers {
    pub jobs: Sender<Job>,
    pub walks: Sender<RelPath>,
    pub groups: Sender<Group>,
    pub gate: Arc<Gate>,
}

impl Workers {
    /// Starts them.
    pub(super) fn start(
        name: &str,
        mount: &Arc<Mount>,
        policy: &Arc<Policy>,
        inbox: &Arc<Inbox>,
        journal: Journal,
    ) -> std::io::Result<(Self, Vec<JoinHandle<()>>)> {
        let gate = Arc::new(Gate::default());
        let (jobs, job_queue) = channel();
        let (walks, walk_queue) = channel();
        let (groups, group_queue) = channel();
        let job_queue = Arc::new(Mutex::new(job_queue));
        let mut threads = Vec::new();
        let spawn = |kind: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(format!("{kind} {name}")).spawn(work)
        };
        for _ in 0..READERS {
            let (queue, mount, inbox) = (job_queue.clone(), mount.clone(), inbox.clone());
            threads.push(spawn("read", Box::new(move || read_jobs(&queue, &mount, &inbox)))?);
        }
        let walker = Walker {
            mount: mount.clone(),
            policy: policy.clone(),
            inbox: inbox.clone(),
            gate: gate.clone(),
        };
        threads.push(spawn("scan", Box::new(move || walker.run(&walk_queue)))?);
        let (mount, inbox) = (mount.clone(), inbox.clone());
        let work = move || apply(&group_queue, &mount, &inbox, &journal);
        threads.push(spawn("apply", Box::new(work))?);
        Ok((Self { jobs, walks, groups, gate }, threads))
    }
}

fn read_jobs(queue: &Mutex<Receiver<Job>>, mount: &Mount, inbox: &Inbox) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        inbox.push(match job {
            Job::Read(looks) => Event::Seen(looks.into_iter().map(|l| look(mount, l)).collect()),
            Job::Load { peer, lane, mut records, from, through } => {
                load(mount, &mut records);
                Event::Loaded { peer, lane, records, rows: (from, through) }
            }
            Job::Copy { path, content, size, from } => {
                let copied = |from: &RelPath| {
                    disk::stage_from_local(mount, from, content, size).unwrap_or(false)
                };
                let done = from.iter().any(copied);
                Event::Copied { path, content, size, done }
            }
        });
    }
}

fn look(mount: &Mount, look: Look) -> (RelPath, Found) {
    let Look { path, known, origin, even_if_open } = look;
    let moved = origin.as_ref().map(|origin| (origin.signature, &origin.kind));
    let found = disk::read(mount, &ReadRequest { path: &path, known, moved, even_if_open });
    (path, found)
}

/// Puts content into announcements of small files, as far as it is still what the record says.
fn load(mount: &Mount, records: &mut [Announced]) {
    let mut bytes = 0;
    for announced in records {
        let content = announced.record.entry.as_ref().and_then(|entry| entry.content());
        let Some((id, size)) = content else { continue };
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        if size > limits::INLINE_BYTES_MAX || bytes + length > limits::ANNOUNCE_BYTES_MAX {
            continue;
        }
        if let Some(content) = small_content(mount, &announced.record.path, id, length) {
            bytes += length;
            announced.content = Some(content);
        }
    }
}

fn small_content(mount: &Mount, path: &RelPath, id: ContentId, length: usize) -> Option<Arc<[u8]>> {
    if length == 0 {
        return Some(Arc::default());
    }
    let mut content = Vec::with_capacity(length + 1);
    let file = disk::open_content(mount, path).ok()?;
    file.take(length as u64 + 1).read_to_end(&mut content).ok()?;
    (content.len() == length && ContentId::of(&content) == id).then(|| content.into())
}

/// Lists whole subtrees.
struct Walker {
    mount: Arc<Mount>,
    policy: Arc<Policy>,
    inbox: Arc<Inbox>,
    gate: Arc<Gate>,
}

impl Walker {
    fn run(&self, queue: &Receiver<RelPath>) {
        while let Ok(top) = queue.recv() {
            self.walk(&top);
            self.inbox.push(Event::Walked(top));
        }
    }

    fn walk(&self, top: &RelPath) {
        let mut directories = VecDeque::from([top.clone()]);
        while let Some(dir) = directories.pop_front() {
            if !dir.is_root() && self.policy.skips(&dir) {
                continue;
            }
            let children = match disk::list(&self.mount, &dir) {
                Ok(children) => children,
                Err(error) => {
                    self.inbox.push(Event::ListingFailed { dir, reason: error.to_string() });
                    continue;
                }
            };
            for child in children.iter().flatten().filter(|child| child.is_dir) {
                if let Ok(path) = dir.join(&child.name) {
                    directories.push_back(path);
                }
            }
            self.gate.enter();
            self.inbox.push(Event::Listing { dir, children });
        }
    }
}

/// What a directory held; nothing if there was none.
pub(super) type Listing = Option<Vec<Listed>>;

/// Groups that wait are done as one, up to the limit and the one that passes it: what costs is a
/// group's three syncs, not its files.
fn apply(queue: &Receiver<Group>, mount: &Mount, inbox: &Inbox, journal: &Journal) {
    while let Ok(mut group) = queue.recv() {
        while group.requests.len() < limits::APPLY_GROUP_MAX
            && let Ok(next) = queue.try_recv()
        {
            group.requests.extend(next.requests);
        }
        let (requests, tokens): (Vec<_>, Vec<_>) = group.requests.into_iter().unzip();
        let syncing = journal.log.begin();
        let noted = || syncing.end().map_err(|error| format!("cannot sync the index: {error}"));
        let visible = |i: usize| journal.boot.note_visible(tokens[i]);
        let outcomes = disk::apply_noted(mount, &requests, noted, visible);
        let paths = requests.into_iter().map(|request| request.path);
        inbox.push(Event::Applied(paths.zip(outcomes).collect()));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::daemon::mailbox::Mailbox;
    use crate::disk::{Displaced, MountOptions, Source};

    #[test]
    fn groups_that_wait_are_applied_as_one() {
        let folder = tempfile::tempdir().unwrap();
        let options = MountOptions { privileged: false, create: true };
        let mount = Mount::open(folder.path(), options).unwrap();
        let path = folder.path().join("boot");
        let boot = Arc::new(Boot::begin(&path).unwrap());
        let log = LogSync::start(tempfile::tempfile().unwrap()).unwrap();
        let journal = Journal { log, boot };
        let inbox = Mailbox::new(|_| 1, |_| false);
        let (groups, queue) = channel();
        for name in ["a", "b", "c"] {
            let request = ApplyRequest {
                path: RelPath::parse(name.as_bytes()).unwrap(),
                target: None,
                expected: None,
                source: Source::None,
                displaced: Displaced::Drop,
                even_if_open: false,
            };
            let token = Token(u64::from(name.as_bytes()[0]));
            groups.send(Group { requests: vec![(request, token)] }).unwrap();
        }
        drop(groups);
        apply(&queue, &mount, &inbox, &journal);
        let events = inbox.take(Duration::ZERO, 0, |_, _| false).events;
        let [Event::Applied(outcomes)] = &events[..] else { panic!("{events:?}") };
        assert_eq!(3, outcomes.len());
        assert_eq!(3, Boot::left(&path).unwrap().visible.len());
    }
}
