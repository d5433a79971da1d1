//! Answers the control API. It is longer than 500 lines because it is one short answer after another.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use super::actor::Event;
use super::ask::{Question, nodes};
use super::halt::Halt;
use super::open::paused_file;
use super::wait::Nodes;
use super::{
    ActorHandle, RELEASE, Shared, conflicts, expire, guards, heal, mark, restore, snapshots, trash,
    verified, verify, why,
};
use crate::config::{self, Config};
use crate::control::types::{
    ConflictStatus, DeployReply, DeployRequest, GuardKind, GuardStatus, HealReply, HealRequest,
    HeldReply, HeldWord, MarkReply, MountState, MountStatus, NodeStatus, Refusal, RefusalKind,
    ReloadReply, RemoveReply, RestoreReply, SnapshotProgress, SnapshotReply, SnapshotRequest,
    StatusReply, TrashListReply, TrashListRequest, TrashRestoreReply, TrashRestoreRequest,
    VerifyProgress, VerifyReply, VerifyRequest, WaitMount, WaitReply, WaitRequest, WhyReply,
    WhyRequest, WorkStatus, timestamp,
};
use crate::control::{Content, Daemon};
use crate::model::{RelPath, limits};
use crate::net::REMOVED_REASON;

/// How long `status` waits for a mount that is busy.
const STATUS_WAIT: Duration = Duration::from_secs(2);

/// How long `mark` waits for the mount to be opened.
const OPEN_WAIT: Duration = Duration::from_secs(5);

/// How long a snapshot waits until what was written before is read.
const SNAPSHOT_WAIT: Duration = Duration::from_secs(10);

/// How long `verify` waits for changes that are on their way.
const VERIFY_WAIT: Duration = Duration::from_secs(5);

/// The daemon, as commands see it.
pub(super) struct Api {
    shared: Arc<Shared>,
    config: Mutex<Config>,
}

impl Api {
    pub(super) fn new(shared: Arc<Shared>, config: Config) -> Self {
        Self { shared, config: Mutex::new(config) }
    }

    fn config(&self) -> Config {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn mount(&self, name: &str) -> Result<Arc<ActorHandle>, Refusal> {
        let config = self.config();
        if config.mount(name).is_none() {
            return Err(no_mount(&config, name));
        }
        self.shared.actor(name).ok_or_else(|| {
            let Halt { reason, hint } = self.shared.halt(name).unwrap_or_else(Halt::opening);
            let error = format!("mount \"{name}\" is halted: {reason}");
            Refusal::new(RefusalKind::State, error).with_hint(hint)
        })
    }

    /// Waits until a mount is open, or cannot be for another reason than `before`.
    async fn opened(&self, name: &str, before: Option<Halt>) {
        let mut openings = self.shared.openings.subscribe();
        let settled = |halt: Halt| Some(&halt) != before.as_ref() && halt != Halt::opening();
        let open = openings.wait_for(|()| {
            self.shared.actor(name).is_some() || self.shared.halt(name).is_some_and(settled)
        });
        drop(tokio::time::timeout(OPEN_WAIT, open).await);
    }

    /// The mounts asked for, by name.
    fn mounts(&self, only: Option<&str>) -> Result<Vec<(String, Arc<ActorHandle>)>, Refusal> {
        let config = self.config();
        let names = config.mounts.iter().map(|mount| mount.name.clone());
        let names: Vec<_> = match only {
            Some(name) => vec![name.to_owned()],
            None => names.collect(),
        };
        names.into_iter().map(|name| Ok((name.clone(), self.mount(&name)?))).collect()
    }

    async fn ask<T>(
        actor: &ActorHandle,
        question: impl FnOnce(oneshot::Sender<T>) -> Question,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        actor.inbox.push(Event::Ask(question(reply)));
        let closing = |_| Refusal::new(RefusalKind::Unavailable, "the mount is being closed");
        answer.await.map_err(closing)
    }

    async fn wait_on(
        &self,
        only: Option<&str>,
        nodes: Nodes,
        timeout: Duration,
    ) -> Result<Vec<WaitMount>, Refusal> {
        let mut waiting = Vec::new();
        for (_, actor) in self.mounts(only)? {
            let (reply, answer) = oneshot::channel();
            let question = Question::Wait { nodes, timeout, reply };
            actor.inbox.push(Event::Ask(question));
            waiting.push(answer);
        }
        let mut mounts = Vec::new();
        for answer in waiting {
            let closing = |_| Refusal::new(RefusalKind::Unavailable, "a mount is being closed");
            mounts.push(answer.await.map_err(closing)?);
        }
        Ok(mounts)
    }

    async fn mount_status(&self, mount: &config::Mount) -> (MountStatus, Option<Halt>) {
        let path = mount.path.display().to_string();
        let blank = |state, doing: &str| MountStatus {
            name: mount.name.clone(),
            path: path.clone(),
            state,
            doing: doing.to_owned(),
            files: 0,
            bytes: 0,
            fingerprint: String::new(),
            in_sync: false,
            backend: mount.watch.to_string(),
            pending: 0,
            peers: Vec::new(),
            problems: Vec::new(),
            problem_count: 0,
            overflows: 0,
            missed_events: 0,
            held: None,
            deploying_until: None,
            verified: None,
            verified_deep: None,
            index_set_aside: false,
            trash_size: None,
            work: WorkStatus::default(),
        };
        let Some(actor) = self.shared.actor(&mount.name) else {
            let halt = self.shared.halt(&mount.name).unwrap_or_else(Halt::opening);
            return (blank(MountState::Halted, ""), Some(halt));
        };
        let asked = tokio::time::timeout(STATUS_WAIT, Self::ask(&actor, Question::Status)).await;
        match asked {
            Ok(Ok(answer)) => answer,
            _ => (blank(MountState::Syncing, "too busy to answer in time"), None),
        }
    }

    fn nodes(&self) -> Vec<NodeStatus> {
        let shared = &self.shared;
        let names = shared.names();
        let this = NodeStatus {
            name: names.get(&shared.node).cloned().unwrap_or_default(),
            id: shared.node.to_string(),
            this: true,
            up: true,
            since: Some(timestamp(shared.started)),
            round_trip_ms: None,
            release: Some(RELEASE.to_owned()),
            address: shared.net.get().map(|net| net.address().to_string()),
            error: None,
            certificate_days: shared.net.get().map(|net| days_left(net.certificate_ends_secs())),
        };
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        let peers = shared.net.get().map(crate::net::Net::peers).unwrap_or_default();
        let mut others: Vec<_> = peers
            .into_iter()
            .map(|peer| NodeStatus {
                name: peer.name,
                id: peer.id.to_string(),
                this: false,
                up: peer.up,
                since: Some(timestamp(peer.since)),
                round_trip_ms: peer.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
                release: some(peer.release),
                address: peer.address.map(|address| address.to_string()),
                error: some(peer.last_error).filter(|_| !peer.up),
                certificate_days: peer.certificate_ends_secs.map(days_left),
            })
            .collect();
        others.sort_by(|a, b| a.name.cmp(&b.name));
        std::iter::once(this).chain(others).collect()
    }

    async fn store<T: Send + 'static>(
        &self,
        id: &str,
        work: impl FnOnce(&Shared, &str) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (shared, id) = (self.shared.clone(), id.to_owned());
        let done = spawn_blocking(move || work(&shared, &id)).await;
        match done {
            Ok(result) => result.map_err(|error| store_refusal(&error)),
            Err(_) => Err(Refusal::new(RefusalKind::Failed, "the conflict store failed")),
        }
    }

    async fn set_paused(&self, name: &str, paused: bool) -> Result<(), Refusal> {
        let actor = self.mount(name)?;
        let file = paused_file(&self.shared.state, name);
        let kept = if paused {
            let folder = file.parent().map_or(Ok(()), std::fs::create_dir_all);
            folder.and_then(|()| std::fs::write(&file, b""))
        } else {
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other,
            }
        };
        kept.map_err(|error| {
            let text = format!("cannot note it in {}: {error}", file.display());
            Refusal::new(RefusalKind::Failed, text)
        })?;
        Self::ask(&actor, |reply| Question::Pause(paused, reply)).await
    }
}

/// Whole days from now until then, rounded down; negative if it is over.
fn days_left(ends_secs: u64) -> i64 {
    let ends_secs = i64::try_from(ends_secs).unwrap_or(i64::MAX);
    (ends_secs - timestamp(SystemTime::now()).as_second()).div_euclid(24 * 60 * 60)
}

fn no_mount(config: &Config, name: &str) -> Refusal {
    let known: Vec<_> = config.mounts.iter().map(|mount| mount.name.clone()).collect();
    let error = format!("there is no mount \"{name}\"; there are {}", known.join(", "));
    Refusal::new(RefusalKind::NotFound, error)
}

fn store_refusal(error: &io::Error) -> Refusal {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => RefusalKind::NotFound,
        _ => RefusalKind::Failed,
    };
    let refusal = Refusal::new(kind, error.to_string());
    match kind {
        RefusalKind::NotFound => refusal.with_hint("trefoil conflicts list"),
        _ => refusal,
    }
}

impl Daemon for Api {
    async fn status(&self) -> StatusReply {
        let config = self.config();
        let mut mounts = Vec::new();
        let mut halts = Vec::new();
        for mount in &config.mounts {
            let (mut status, halted) = self.mount_status(mount).await;
            verified::tell(&self.shared.state, &mut status);
            halts.extend(halted.map(|Halt { reason, hint }| GuardStatus {
                mount: mount.name.clone(),
                kind: GuardKind::Mount,
                reason,
                hint,
            }));
            halts.extend(status.held.as_ref().map(|held| {
                let (reason, hint) = guards::told(&mount.name, held);
                GuardStatus { mount: mount.name.clone(), kind: GuardKind::Deletions, reason, hint }
            }));
            mounts.push(status);
        }
        let conflicts = self.store("", |shared, _| conflicts::list(shared)).await;
        let conflicts_size = self.store("", |shared, _| expire::conflicts_size(shared)).await;
        let members = self.shared.members();
        let nodes = self.nodes();
        // Who was down meanwhile learns it from those who refuse him.
        let refused = |node: &NodeStatus| {
            node.error.as_ref().is_some_and(|error| error.contains(REMOVED_REASON))
        };
        let removed = !members.is_active(self.shared.node) || nodes.iter().any(refused);
        let in_sync = !removed && mounts.iter().all(|mount: &MountStatus| mount.in_sync);
        StatusReply {
            node: config.node.name.clone(),
            node_id: self.shared.node.to_string(),
            release: RELEASE.to_owned(),
            cluster_id: members.cluster.to_string(),
            started: timestamp(self.shared.started),
            removed,
            in_sync,
            nodes,
            mounts,
            conflicts: conflicts.map_or(0, |list| list.len() as u64),
            conflicts_size: conflicts_size.unwrap_or_default(),
            guards: halts,
            snapshots: self.shared.backup.status(),
        }
    }

    async fn wait(&self, request: WaitRequest) -> Result<WaitReply, Refusal> {
        let begin = Instant::now();
        let members = self.shared.members().active().count();
        let asked = nodes(request.nodes, members);
        if let Nodes::AtLeast(count) = asked
            && count > members
        {
            let error = format!("the cluster has {} other nodes", members - 1);
            return Err(Refusal::new(RefusalKind::Invalid, error));
        }
        let timeout = Duration::from_millis(request.timeout_ms);
        let mounts = self.wait_on(request.mount.as_deref(), asked, timeout).await?;
        let done = mounts.iter().all(|mount| mount.done);
        let waited_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(WaitReply { done, waited_ms, mounts })
    }

    async fn verify(&self, request: VerifyRequest) -> Result<VerifyReply, Refusal> {
        // Changes on their way are no differences. What is still missing then, is.
        self.wait_on(request.mount.as_deref(), Nodes::All, VERIFY_WAIT).await?;
        let mut mounts = Vec::new();
        for (name, actor) in self.mounts(request.mount.as_deref())? {
            let compared = verify::compare(&self.shared, &name, &actor, request.deep).await;
            let closing = || Refusal::new(RefusalKind::Unavailable, "a mount is being closed");
            mounts.push(compared.ok_or_else(closing)?);
        }
        let equal = mounts.iter().all(|mount| mount.equal);
        let reply = VerifyReply { equal, deep: request.deep, mounts };
        verified::note(&self.shared.state, &reply, timestamp(SystemTime::now()));
        Ok(reply)
    }

    async fn snapshot(&self, request: SnapshotRequest) -> Result<SnapshotReply, Refusal> {
        let mounts = self.mounts(None)?;
        // What was written before is in it, unless a mount does not come to rest.
        drop(self.wait_on(None, Nodes::AtLeast(1), SNAPSHOT_WAIT).await);
        let shared = self.shared.clone();
        let taken = spawn_blocking(move || snapshots::create(&shared, &mounts, request)).await;
        taken.unwrap_or_else(|_| Err(Refusal::new(RefusalKind::Failed, "taking it failed")))
    }

    async fn snapshot_progress(&self) -> Option<SnapshotProgress> {
        self.shared.backup.taking.now()
    }

    async fn heal(&self, request: HealRequest) -> Result<HealReply, Refusal> {
        let mounts = self.mounts(None)?;
        let (shared, runtime) = (self.shared.clone(), tokio::runtime::Handle::current());
        let healed = spawn_blocking(move || heal::heal(&shared, &mounts, &request, &runtime)).await;
        healed.unwrap_or_else(|_| Err(Refusal::new(RefusalKind::Failed, "healing failed")))
    }

    async fn verify_progress(&self) -> Vec<VerifyProgress> {
        self.shared.verifying.list()
    }

    async fn why(&self, request: WhyRequest) -> Result<WhyReply, Refusal> {
        let actor = self.mount(&request.mount)?;
        let bytes = data_encoding::HEXLOWER.decode(request.path_bytes.as_bytes()).ok();
        let path = bytes.and_then(|bytes| RelPath::parse(&bytes).ok()).ok_or_else(|| {
            Refusal::new(RefusalKind::Invalid, "cannot read the request: not a path in a mount")
        })?;
        let config = self.config();
        let policy = config.mount(&request.mount).map(|mount| mount.policy.clone());
        let class = policy.as_ref().map(|policy| policy.class(&path).to_string());
        let rule = policy.as_ref().and_then(|policy| policy.pattern_of(&path));
        let rule = rule.map_or_else(|| "no rule matches".to_owned(), ToString::to_string);
        let nodes = why::why(&self.shared, &request.mount, &actor, &path).await;
        Ok(why::reply(&request.mount, &path, (class.unwrap_or_default(), rule), nodes))
    }

    async fn trash_list(&self, request: TrashListRequest) -> Result<TrashListReply, Refusal> {
        let config = self.config();
        // One that is halted here may be open on the others.
        config.mount(&request.mount).ok_or_else(|| no_mount(&config, &request.mount))?;
        Ok(trash::list(&self.shared, request).await)
    }

    async fn trash_restore(
        &self,
        request: TrashRestoreRequest,
    ) -> Result<TrashRestoreReply, Refusal> {
        restore::restore(&self.shared, request).await
    }

    async fn conflicts(&self) -> Result<Vec<ConflictStatus>, Refusal> {
        self.store("", |shared, _| conflicts::list(shared)).await
    }

    async fn conflict_content(&self, id: &str) -> Result<Content, Refusal> {
        let (bytes, reader) = self.store(id, conflicts::content).await?;
        Ok(Content { bytes, reader })
    }

    async fn restore(&self, id: &str) -> Result<RestoreReply, Refusal> {
        let restored = self.store(id, conflicts::restore).await?;
        let conflicts::Restored { mount, path, replaced } = restored;
        Ok(RestoreReply { mount, path, replaced })
    }

    async fn discard(&self, id: &str) -> Result<(), Refusal> {
        self.store(id, conflicts::discard).await
    }

    async fn pause(&self, mount: &str) -> Result<(), Refusal> {
        self.set_paused(mount, true).await
    }

    async fn resume(&self, mount: &str) -> Result<(), Refusal> {
        self.set_paused(mount, false).await
    }

    async fn held(&self, mount: &str) -> Result<HeldReply, Refusal> {
        let actor = self.mount(mount)?;
        let question = |reply| Question::Held(limits::HELD_MAX, reply);
        Ok(HeldReply { held: Self::ask(&actor, question).await? })
    }

    async fn decide_held(&self, mount: &str, word: HeldWord) -> Result<HeldReply, Refusal> {
        let actor = self.mount(mount)?;
        let held = Self::ask(&actor, |reply| Question::Decide(word, reply)).await?;
        Ok(HeldReply { held })
    }

    async fn deploy(&self, request: DeployRequest) -> Result<DeployReply, Refusal> {
        let DeployRequest { mounts: only, for_ms } = request;
        let names = only.iter().map(|name| Some(name.as_str()));
        let asked: Vec<_> = if only.is_empty() { vec![None] } else { names.collect() };
        let mut mounts = Vec::new();
        // All that are named exist, or nothing is done.
        for name in asked {
            mounts.extend(self.mounts(name)?);
        }
        for (_, actor) in &mounts {
            Self::ask(actor, |reply| Question::Deploy { for_ms, reply }).await?;
        }
        let end = SystemTime::now().checked_add(Duration::from_millis(for_ms));
        let until = end.filter(|_| for_ms > 0).map(timestamp);
        Ok(DeployReply { mounts: mounts.into_iter().map(|(name, _)| name).collect(), until })
    }

    async fn mark(&self, name: &str) -> Result<MarkReply, Refusal> {
        let config = self.config();
        let unknown = || {
            let hint = format!("add it to {}, and restart the daemon", config.file.display());
            no_mount(&config, name).with_hint(hint)
        };
        let mount = config.mount(name).ok_or_else(unknown)?;
        let (shared, marked) = (self.shared.clone(), mount.clone());
        let before = self.shared.halt(name);
        let made = spawn_blocking(move || mark::mark(&shared, &marked)).await;
        let broken = |_| Err(Refusal::new(RefusalKind::Failed, "marking failed"));
        let made = made.unwrap_or_else(broken)?;
        self.opened(name, before).await;
        match self.mount_status(mount).await.1 {
            Some(halt) if halt != Halt::opening() => {
                let error = format!("mount \"{name}\" is marked, but halted: {}", halt.reason);
                Err(Refusal::new(RefusalKind::State, error).with_hint(halt.hint))
            }
            halt => Ok(MarkReply { made, open: halt.is_none() }),
        }
    }

    async fn remove(&self, node: &str) -> Result<RemoveReply, Refusal> {
        let starting = || Refusal::new(RefusalKind::Unavailable, "the daemon is starting");
        let net = self.shared.net.get().ok_or_else(starting)?;
        let members = self.shared.members();
        let by_id = members.active().find(|m| m.id.to_string() == node).map(|m| m.name.clone());
        let name = by_id.unwrap_or_else(|| node.to_owned());
        let id = net.remove(&name).await.map_err(|error| {
            Refusal::new(RefusalKind::NotFound, super::chain(&error))
                .with_hint("trefoil status lists the nodes")
        })?;
        self.shared.members_changed();
        Ok(RemoveReply { name, id: id.to_string() })
    }

    async fn reload(&self) -> Result<ReloadReply, Refusal> {
        let old = self.config();
        let new = Config::load(&old.file)
            .map_err(|error| Refusal::new(RefusalKind::Invalid, super::chain(&error)))?;
        let mut reply = ReloadReply::default();
        let tables = [
            (new.node != old.node, "[node]"),
            (new.control != old.control, "[control]"),
            (new.snapshot != old.snapshot, "[snapshot]"),
        ];
        let changed = tables.into_iter().filter(|(changed, _)| *changed);
        reply.restart.extend(changed.map(|(_, table)| table.to_owned()));
        let named = |config: &Config| -> BTreeSet<String> {
            config.mounts.iter().map(|mount| mount.name.clone()).collect()
        };
        if named(&new) != named(&old) {
            reply.restart.push("[[mount]]".to_owned());
        }
        let mut merged = old.clone();
        for mount in &mut merged.mounts {
            let Some(now) = new.mount(&mount.name) else { continue };
            let same_rules = now.policy.hash() == mount.policy.hash();
            if !same_rules || now.path != mount.path || now.watch != mount.watch {
                reply.restart.push(format!("mount \"{}\"", mount.name));
            } else if new.classes != old.classes {
                mount.policy = now.policy.clone();
                if let Some(actor) = self.shared.actor(&mount.name) {
                    actor.inbox.push(Event::Ask(Question::Policy(now.policy.clone())));
                }
            }
        }
        if new.classes != old.classes {
            merged.classes = new.classes;
            reply.changed.push("[class]".to_owned());
        }
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = merged;
        Ok(reply)
    }
}
