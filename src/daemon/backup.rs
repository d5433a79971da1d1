//! Snapshots without a person: taken on schedule, held on every node, removed when their time is over.
//!
//! One task looks at what is due. Which node takes a snapshot needs no agreement: each waits a little
//! longer than the one before it in the member list, and none takes what another one has taken. Nothing is
//! removed by a node whose clock is not that of the others.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::ask::Question;
use super::copies::{self, One, Told};
use super::snapshots::{self, now_ns};
use super::taking::Taking;
use super::{ActorHandle, Shared, chain, verify};
use crate::config::Config;
use crate::control::types::{MountState, SnapshotRequest, SnapshotsStatus};
use crate::engine::{Retention, Schedule, Verdict};
use crate::model::NodeId;
use crate::snapshot::{KeepError, Repository, RepositoryError};

/// How often is looked at what is due.
const LOOK: Duration = Duration::from_secs(20);

/// How much longer a node waits than the one before it.
const TURN: Duration = Duration::from_secs(60);

/// How long a mount that is not ready is waited for: then the others are taken without it.
const MOUNT_WAIT: Duration = Duration::from_secs(600);

/// How long a folder must be as it is before what it has is remembered: some ticks of the kernel's clock.
const LIST_RESTS: Duration = Duration::from_millis(100);

/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_secs(300);

/// How often space is given back, besides after each removal.
const COLLECT: Duration = Duration::from_secs(6 * 3600);

/// How long after its moment a snapshot may come before that counts as missed.
const TAKES: Duration = Duration::from_secs(15 * 60);

/// More missed runs than anybody counts.
const MISSED_MAX: usize = 100;

/// How far clocks may be apart when something is removed by its age.
const CLOCKS_APART: Duration = Duration::from_secs(3600);

/// What the configuration says of snapshots.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    schedule: Option<Schedule>,
    retention: Retention,
    mounts: Vec<String>,
}

impl Plan {
    pub(super) fn new(config: &Config) -> Self {
        let mounts = config.mounts.iter().map(|mount| mount.name.clone()).collect();
        let (schedule, retention) = (config.snapshot.schedule.clone(), &config.snapshot.retention);
        Self { schedule, retention: retention.clone(), mounts }
    }
}

/// What all threads know of the snapshots.
#[derive(Default)]
pub(super) struct Backup {
    repository: Mutex<Option<Arc<Repository>>>,
    /// Held by who takes a snapshot or fills one.
    turn: Mutex<()>,
    pub taking: Taking,
    news: Notify,
    /// Others are to be told.
    tell: AtomicBool,
    status: Mutex<SnapshotsStatus>,
    list: Mutex<Option<Known>>,
}

/// The snapshots, with when the folders that they are in had last changed.
struct Known {
    changed: Vec<Option<std::time::SystemTime>>,
    version: String,
    list: Vec<One>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Backup {
    /// Waits until nobody takes or fills a snapshot.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        lock(&self.turn)
    }

    /// The node's repository, which is made if it is not there.
    pub(super) fn repository(
        &self,
        state: &std::path::Path,
    ) -> Result<Arc<Repository>, RepositoryError> {
        let mut open = lock(&self.repository);
        let path = snapshots::folder(state);
        if let Some(repository) = open.as_ref()
            && path.join("format").is_file()
        {
            return Ok(repository.clone());
        }
        Repository::create(&path)?;
        let repository = Arc::new(Repository::open(&path)?);
        *open = Some(repository.clone());
        Ok(repository)
    }

    /// Has it looked at soon, by the others as well.
    pub(super) fn wake(&self, all: bool) {
        self.tell.fetch_or(all, Ordering::Relaxed);
        self.news.notify_one();
    }

    /// How it is, as it was last looked at.
    pub(super) fn status(&self) -> SnapshotsStatus {
        lock(&self.status).clone()
    }

    /// The snapshots of this node, and the version of the list. Files are read when something changed.
    pub(super) fn list(
        &self,
        state: &std::path::Path,
    ) -> Result<(String, Vec<One>), RepositoryError> {
        let repository = self.repository(state)?;
        let changed = repository.changed();
        let mut known = lock(&self.list);
        if let Some(known) = known.as_ref().filter(|known| known.changed == changed) {
            return Ok((known.version.clone(), known.list.clone()));
        }
        let (version, list) = copies::list(&repository)?;
        // What changed a moment ago may change again with the same time.
        let now = std::time::SystemTime::now();
        let age = |at: &std::time::SystemTime| now.duration_since(*at).unwrap_or_default();
        let at_rest = changed.iter().flatten().all(|at| age(at) > LIST_RESTS);
        *known = at_rest.then(|| Known { changed, version: version.clone(), list: list.clone() });
        Ok((version, list))
    }
}

/// What is remembered from one look to the next.
#[derive(Default)]
struct Memory {
    told: BTreeMap<NodeId, Told>,
    due_since: Option<Instant>,
    retry_at: Option<Instant>,
    collected: Option<Instant>,
    /// Space is to be given back.
    removed: bool,
    /// What went wrong with each step when it was last tried.
    errors: [Option<String>; 3],
    /// When what could not be copied is tried again.
    fill_at: Option<Instant>,
}

/// Looks at what is due until the daemon ends.
pub(super) async fn run(shared: Arc<Shared>, plan: Plan) {
    let mut memory = Memory::default();
    loop {
        let wait = until_due(&plan).min(LOOK);
        let news = tokio::time::timeout(wait, shared.backup.news.notified()).await;
        if shared.is_stopping() {
            return;
        }
        if news.is_ok() && shared.backup.tell.swap(false, Ordering::Relaxed) {
            copies::tell_all(&shared).await;
        }
        copies::ask_all(&shared, &mut memory.told).await;
        let states = mount_states(&shared, &plan).await;
        let (of, plan) = (shared.clone(), plan.clone());
        let runtime = Handle::current();
        let looking = tokio::task::spawn_blocking(move || {
            let look = Look { shared: &of, plan: &plan, runtime: &runtime, states };
            look.all(&mut memory);
            memory
        });
        match looking.await {
            Ok(back) => memory = back,
            Err(error) => {
                tracing::error!(error = %error, "looking after the snapshots failed");
                memory = Memory::default();
            }
        }
    }
}

/// How long it is until a snapshot is due.
fn until_due(plan: &Plan) -> Duration {
    let now = Timestamp::now();
    let next = plan.schedule.as_ref().and_then(|schedule| schedule.next_after(now));
    let left = next.and_then(|next| Duration::try_from(next.duration_since(now)).ok());
    left.unwrap_or(LOOK) + Duration::from_millis(1)
}

/// The mounts that can be taken now, and the names of those that cannot.
type States = (Vec<(String, Arc<ActorHandle>)>, Vec<String>);

async fn mount_states(shared: &Shared, plan: &Plan) -> States {
    let (mut ready, mut not_ready) = (Vec::new(), Vec::new());
    for name in &plan.mounts {
        let state = match shared.actor(name) {
            Some(actor) => verify::ask(&actor, Question::Status).await.ok().map(|s| (actor, s.0)),
            None => None,
        };
        let is_ready = |state| !matches!(state, MountState::Halted | MountState::Scanning);
        match state {
            Some((actor, status)) if is_ready(status.state) => ready.push((name.clone(), actor)),
            _ => not_ready.push(name.clone()),
        }
    }
    (ready, not_ready)
}

/// What came of a step; nothing if it was not its time.
type Step = Option<Result<(), String>>;

/// One look.
struct Look<'a> {
    shared: &'a Shared,
    plan: &'a Plan,
    runtime: &'a Handle,
    states: States,
}

impl Look<'_> {
    fn all(&self, memory: &mut Memory) {
        let looked = self.steps(memory).and_then(|()| self.status(memory));
        match looked {
            Ok(status) => *lock(&self.shared.backup.status) = status,
            Err(error) => lock(&self.shared.backup.status).error = Some(chain(&error)),
        }
    }

    fn steps(&self, memory: &mut Memory) -> Result<(), RepositoryError> {
        let repository = self.shared.backup.repository(&self.shared.state)?;
        copies::merge_marks(&repository, &memory.told)?;
        // One that fails does not keep the others from what they do.
        let steps =
            [self.take(memory), self.fill(&repository, memory), self.retain(&repository, memory)];
        for (error, step) in memory.errors.iter_mut().zip(steps) {
            // What is not tried now is as it was.
            let Some(done) = step else { continue };
            if let Some(new) = done.as_ref().err().filter(|new| Some(*new) != error.as_ref()) {
                tracing::error!(error = new, "cannot look after the snapshots");
            }
            *error = done.err();
        }
        Ok(())
    }

    /// Makes whole here what others have.
    fn fill(&self, repository: &Repository, memory: &mut Memory) -> Step {
        if memory.fill_at.is_some_and(|at| at > Instant::now()) {
            return None;
        }
        let ours = match self.shared.backup.list(&self.shared.state) {
            Ok((_, ours)) => ours,
            Err(error) => return Some(Err(chain(&error))),
        };
        let mut failed = Ok(());
        for (id, holders) in copies::lacking(&ours, &memory.told) {
            if self.shared.is_stopping() {
                break;
            }
            let _turn = self.shared.backup.turn();
            let begin = Instant::now();
            let mounts = &self.states.0;
            let runtime = self.runtime;
            match copies::fill(self.shared, repository, mounts, (id, &holders), runtime) {
                Ok(received_bytes) => {
                    let seconds = begin.elapsed().as_secs_f64();
                    tracing::info!(snapshot = ?id, received_bytes, seconds, "copied a snapshot");
                    self.shared.backup.wake(true);
                }
                Err(error) => {
                    let error = format!("cannot copy snapshot {id:?} to this node: {error}");
                    failed = failed.and(Err(error));
                }
            }
        }
        memory.fill_at = failed.is_err().then(|| Instant::now() + RETRY);
        Some(failed)
    }

    /// Takes a snapshot if one is due, and nobody else does.
    fn take(&self, memory: &mut Memory) -> Step {
        let schedule = self.plan.schedule.as_ref()?;
        let last = match self.last_run(memory) {
            Ok(last) => last,
            Err(error) => return Some(Err(chain(&error))),
        };
        if !schedule.due(last, Timestamp::now()) {
            memory.due_since = None;
            // Somebody else has done what failed here.
            return memory.retry_at.take().map(|_| Ok(()));
        }
        let waited = memory.due_since.get_or_insert_with(Instant::now).elapsed();
        let (ready, not_ready) = &self.states;
        let patient = not_ready.is_empty() || waited >= MOUNT_WAIT;
        let retries = memory.retry_at.is_none_or(|at| at <= Instant::now());
        if waited < TURN * self.position() || !patient || !retries || ready.is_empty() {
            return None;
        }
        let request = SnapshotRequest::default();
        Some(match snapshots::try_create(self.shared, ready, request) {
            Ok(reply) => {
                tracing::info!(
                    snapshot = &reply.id[..12],
                    files = reply.files,
                    bytes = reply.bytes,
                    added_bytes = reply.added_bytes,
                    seconds = reply.took_seconds,
                    state = reply.state,
                    "took a snapshot"
                );
                (memory.due_since, memory.retry_at, memory.removed) = (None, None, true);
                let without = not_ready.join(", ");
                if without.is_empty() {
                    Ok(())
                } else {
                    Err(format!("the last snapshot was taken without {without}: not ready"))
                }
            }
            Err(error) => {
                memory.retry_at = Some(Instant::now() + RETRY);
                Err(format!("cannot take a snapshot: {}", chain(&error)))
            }
        })
    }

    /// When the last snapshot was taken, here or elsewhere.
    fn last_run(&self, memory: &Memory) -> Result<Option<Timestamp>, RepositoryError> {
        let (_, ours) = self.shared.backup.list(&self.shared.state)?;
        let theirs = memory.told.values().filter_map(|told| told.list.as_ref()).flatten();
        let taken = ours.iter().chain(theirs).filter(|one| one.held).map(|one| one.taken_ns);
        Ok(taken.max().map(time))
    }

    /// Who is before this node takes its turn before it.
    fn position(&self) -> u32 {
        let members = self.shared.members();
        let before = members.active().filter(|member| member.id < self.shared.node).count();
        u32::try_from(before).unwrap_or(u32::MAX).min(1000)
    }

    /// Removes snapshots whose time is over, and gives back their space.
    fn retain(&self, repository: &Repository, memory: &mut Memory) -> Step {
        let due = memory.collected.is_none_or(|then| then.elapsed() >= COLLECT);
        // Right after a start nobody has said yet what time it is.
        let alone = self.shared.other_members().is_empty();
        if !due && !memory.removed || memory.told.is_empty() && !alone {
            return None;
        }
        // What fails is not tried at every look: every tree is read for it.
        (memory.collected, memory.removed) = (Some(Instant::now()), false);
        if !self.clocks_agree(memory) {
            return Some(Err("clocks are apart: no snapshot is removed by its age".to_owned()));
        }
        Some(self.remove_old(repository).unwrap_or_else(|error| Err(chain(&error))))
    }

    fn remove_old(&self, repository: &Repository) -> Result<Result<(), String>, RepositoryError> {
        let _turn = self.shared.backup.turn();
        let lock = repository.wait_lock()?;
        repository.settle(&lock)?;
        let judged = repository.judge(&self.plan.retention, now_ns())?;
        let over: Vec<_> = judged.iter().filter(|(.., is)| *is == Verdict::Remove).collect();
        if !Retention::may_remove(over.len(), judged.len()) {
            return Ok(Err(format!(
                "{} of {} snapshots are over their time at once, and stay; `trefoil snapshot \
                 prune` removes them",
                over.len(),
                judged.len()
            )));
        }
        for &&(id, ..) in &over {
            match repository.remove(&lock, id, now_ns()) {
                Ok(()) => tracing::info!(snapshot = ?id, "removed a snapshot whose time was over"),
                Err(KeepError::Repository(error)) => return Err(error),
                Err(why) => tracing::debug!(snapshot = ?id, why = %why, "a snapshot stays"),
            }
        }
        let done = repository.collect(&lock, now_ns(), false)?;
        if done.packs > 0 {
            let (packs, freed_bytes) = (done.packs, done.freed_bytes);
            tracing::info!(packs, freed_bytes, "gave back the space of removed snapshots");
        }
        Ok(Ok(()))
    }

    fn clocks_agree(&self, memory: &Memory) -> bool {
        let ours = now_ns();
        let apart = |told: &Told| Duration::from_nanos(told.now_ns.abs_diff(ours));
        let most = memory.told.values().map(apart).max().unwrap_or_default();
        // What a node said may be as old as a look.
        most <= CLOCKS_APART
    }

    fn status(&self, memory: &Memory) -> Result<SnapshotsStatus, RepositoryError> {
        let shared = self.shared;
        let (_, list) = shared.backup.list(&shared.state)?;
        let held = || list.iter().filter(|one| one.held);
        let newest = held().filter(|one| one.restorable).max_by_key(|one| one.taken_ns);
        let now = Timestamp::now();
        let schedule = self.plan.schedule.as_ref();
        let missed = schedule.map_or(0, |schedule| {
            let until = now - SignedDuration::try_from(TAKES).unwrap_or_default();
            newest.map_or(1, |one| schedule.count(time(one.taken_ns), until, MISSED_MAX))
        });
        let has = |id: &str, told: &&Told| {
            told.list.iter().flatten().any(|one| one.held && one.id == *id)
        };
        let copies = newest.map_or(0, |newest| {
            1 + memory.told.values().filter(|told| has(&newest.id, told)).count() as u64
        });
        let repository = shared.backup.repository(&shared.state)?;
        let (_, bytes) = repository.totals()?;
        let looks = repository.verified();
        Ok(SnapshotsStatus {
            schedule: schedule.map(ToString::to_string),
            next: schedule.and_then(|schedule| schedule.next_after(now)),
            count: held().count() as u64,
            newest: newest.map(|one| one.id.clone()),
            newest_taken: newest.map(|one| time(one.taken_ns)),
            newest_copies: copies,
            nodes: shared.members().active().count() as u64,
            missed: missed as u64,
            lacking: copies::lacking(&list, &memory.told).len() as u64,
            bytes,
            free_bytes: free_bytes(repository.path()).unwrap_or_default(),
            verified: looks.values().map(|look| time(look.at_ns)).max(),
            faults: looks.values().map(|look| look.faults).sum(),
            error: memory.errors.iter().flatten().next().cloned(),
            looked: Some(now),
        })
    }
}

fn free_bytes(path: &std::path::Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn time(ns: u64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(ns)).unwrap_or(Timestamp::MAX)
}
