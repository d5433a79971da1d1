//! The daemon: one control thread per mount, one runtime thread for network and control API.
//!
//! It starts everything, joins engine, index, disk and net (`mirror`), answers questions, and
//! ends everything in order. It decides nothing about files; the engine does.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

mod actor;
mod api;
mod ask;
mod backup;
mod conflicts;
mod copies;
mod deep;
mod delta;
mod expire;
mod fetch;
mod greet;
mod guards;
mod halt;
mod handler;
mod heal;
mod listing;
mod mailbox;
mod maintain;
mod mark;
mod mirror;
mod missed;
mod moves;
mod open;
mod restore;
mod send;
mod shelf;
mod snapshots;
mod taking;
#[cfg(test)]
mod testing;
mod tidy;
mod trash;
mod verified;
mod verify;
mod wait;
mod why;
mod workers;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::SystemTime;

use tokio::signal::unix::{SignalKind, signal};

use self::actor::{Event, Inbox, Place};
use self::api::Api;
use self::halt::Halt;
use self::handler::Handler;
use crate::config::Config;
use crate::control::{self, ControlSocket};
use crate::disk;
use crate::engine::{Class, ClassTable, Policy};
use crate::model::NodeId;
use crate::net::{self, ControlMessage, LinkHandle, Members, MountHello, Net, NetConfig};

/// How long is waited for what still runs when all else has ended. A repository is whole at any moment.
const STOP_WAIT: std::time::Duration = std::time::Duration::from_secs(5);

/// This program's release.
pub const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// Why the daemon could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// `init` or `join` comes first.
    #[error("this node belongs to no cluster: {} has no identity", .0.display())]
    NoCluster(PathBuf),
    /// The identity cannot be used.
    #[error("cannot use this node's identity")]
    Identity(#[from] net::IdentityError),
    /// The member list cannot be used.
    #[error("cannot use the member list")]
    Members(#[from] net::RosterError),
    /// The network did not start.
    #[error("cannot start the network")]
    Net(#[from] net::NetError),
    /// The control socket could not be made.
    #[error("cannot serve commands")]
    Control(#[from] control::BindError),
    /// The operating system refused.
    #[error("cannot {doing}")]
    Io {
        /// A verb and its object.
        doing: &'static str,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A control thread ended by itself.
    #[error("mount \"{0}\" stopped working; see the log above")]
    MountFailed(String),
}

/// What one mount looks like from outside of its control thread.
pub(crate) struct ActorHandle {
    inbox: Arc<Inbox>,
    mount: Arc<disk::Mount>,
}

/// A link, with what a mount that is opened later has missed on it.
struct Linked {
    link: LinkHandle,
    /// The peer's last greeting for each of its mounts, by the mount's name.
    hellos: BTreeMap<String, MountHello>,
}

/// What all threads know.
pub(crate) struct Shared {
    state: PathBuf,
    node: NodeId,
    started: SystemTime,
    actors: RwLock<BTreeMap<String, Arc<ActorHandle>>>,
    /// Mounts that cannot be opened, and why.
    halts: RwLock<BTreeMap<String, Halt>>,
    /// Changes when a mount was opened, or why it cannot be.
    openings: tokio::sync::watch::Sender<()>,
    links: RwLock<BTreeMap<NodeId, Linked>>,
    members: RwLock<Arc<Members>>,
    net: OnceLock<Net>,
    verifying: deep::Progress,
    limits: expire::Limits,
    recipes: delta::Recipes,
    backup: backup::Backup,
    stopping: std::sync::atomic::AtomicBool,
}

impl Shared {
    fn actors(&self) -> Vec<Arc<ActorHandle>> {
        self.actors.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn actor(&self, mount: &str) -> Option<Arc<ActorHandle>> {
        self.actors.read().unwrap_or_else(PoisonError::into_inner).get(mount).cloned()
    }

    fn actor_names(&self) -> Vec<String> {
        self.actors.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Why a mount that is not open cannot be opened, as far as it was tried.
    fn halt(&self, name: &str) -> Option<Halt> {
        self.halts.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn note_halt(&self, name: &str, halt: Option<Halt>) {
        let mut halts = self.halts.write().unwrap_or_else(PoisonError::into_inner);
        match halt {
            Some(halt) => halts.insert(name.to_owned(), halt),
            None => halts.remove(name),
        };
        drop(halts);
        self.openings.send_replace(());
    }

    fn members(&self) -> Arc<Members> {
        self.members.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every active member but this node.
    fn other_members(&self) -> Vec<NodeId> {
        let members = self.members();
        members.active().map(|member| member.id).filter(|&id| id != self.node).collect()
    }

    /// Names of all members, removed ones too.
    fn names(&self) -> BTreeMap<NodeId, String> {
        self.members().iter().map(|member| (member.id, member.name.clone())).collect()
    }

    fn members_changed(&self) {
        let mut removed = Vec::new();
        if let Some(net) = self.net.get() {
            let mut members = self.members.write().unwrap_or_else(PoisonError::into_inner);
            let now = net.members();
            let gone = members.active().filter(|member| !now.is_active(member.id));
            removed.extend(gone.map(|member| member.id));
            *members = now;
        }
        for actor in self.actors() {
            let gone = |&peer: &NodeId| actor.inbox.push(Event::Removed { peer });
            removed.iter().for_each(gone);
            actor.inbox.wake();
        }
    }

    fn all_links(&self) -> Vec<LinkHandle> {
        let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
        links.values().map(|linked| linked.link.clone()).collect()
    }

    fn link(&self, peer: NodeId) -> Option<LinkHandle> {
        let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
        links.get(&peer).map(|linked| linked.link.clone())
    }

    fn set_link(&self, peer: NodeId, link: Option<LinkHandle>) {
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        match link {
            Some(link) => links.insert(peer, Linked { link, hellos: BTreeMap::new() }),
            None => links.remove(&peer),
        };
    }

    /// Keeps a peer's greeting for a mount, which may not be open yet.
    fn note_hello(&self, peer: NodeId, hello: &MountHello) {
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        let Some(Linked { hellos, .. }) = links.get_mut(&peer) else { return };
        if hellos.len() < net::members::MOUNTS_MAX || hellos.contains_key(&hello.mount) {
            hellos.insert(hello.mount.clone(), hello.clone());
        }
    }

    /// Tells a mount that was opened just now of the links that came up before, and how the peers
    /// have greeted it on them: they do so once a link.
    ///
    /// The lock is held meanwhile: what is noted later reaches the mount by itself, behind this.
    fn tell_links(&self, mount: &str, inbox: &Inbox) {
        let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
        for (&peer, Linked { link, hellos }) in &*links {
            inbox.push(Event::Up { peer, link: link.clone() });
            if let Some(hello) = hellos.get(mount) {
                let message = ControlMessage::MountHello(hello.clone());
                inbox.push(Event::Control { peer, message });
            }
        }
    }

    /// Moves losers from a mount into the conflict store.
    fn import_kept(&self, name: &str) {
        let Some(actor) = self.actor(name) else { return };
        if let Err(error) = conflicts::import(self, &actor.mount) {
            tracing::error!(mount = name, error = %error, "cannot keep the loser of a conflict; it stays in the mount's .trefoil/kept");
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Runs until it is told to stop by SIGTERM or SIGINT.
///
/// # Errors
/// [`DaemonError`]; everything that was acknowledged to anyone is durable all the same.
pub fn run(config: Config) -> Result<(), DaemonError> {
    let io = |doing| move |source| DaemonError::Io { doing, source };
    let state = config.node.state.clone();
    if !net::is_initialised(&state) {
        return Err(DaemonError::NoCluster(state));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(io("start the runtime"))?;
    let members = net::load_members(&state)?;
    let node = net::node_id(&state)?;
    let shared = Arc::new(Shared {
        state,
        node,
        started: SystemTime::now(),
        actors: RwLock::default(),
        halts: RwLock::default(),
        openings: tokio::sync::watch::Sender::default(),
        links: RwLock::default(),
        members: RwLock::new(Arc::new(members)),
        net: OnceLock::new(),
        verifying: deep::Progress::default(),
        limits: expire::Limits::new(&config.node),
        recipes: delta::Recipes::default(),
        backup: backup::Backup::default(),
        stopping: std::sync::atomic::AtomicBool::new(false),
    });
    let places = places(&config, &shared);
    let threads = start_mounts(places, &shared).map_err(io("start a thread"))?;
    let result = {
        let local = tokio::task::LocalSet::new();
        runtime.block_on(local.run_until(serve(&config, &shared, &threads)))
    };
    shared.stopping.store(true, std::sync::atomic::Ordering::Relaxed);
    shared.actors().iter().for_each(|actor| actor.inbox.push(Event::Shutdown));
    for thread in threads {
        thread.thread().unpark();
        if thread.join().is_err() {
            tracing::error!("a thread ended in a panic");
        }
    }
    // A copy of a snapshot may be under way, and wait for an answer that does not come any more.
    runtime.shutdown_timeout(STOP_WAIT);
    tracing::info!("stopped");
    result
}

fn places(config: &Config, shared: &Shared) -> Vec<Place> {
    let members = shared.members();
    let place = |name: &str, path: PathBuf, watch, policy| Place {
        name: name.to_owned(),
        path,
        marker: disk::MarkerId(members.mount_id(name).0),
        watch,
        policy,
        node: shared.node,
        state: shared.state.clone(),
    };
    let mut places = Vec::new();
    for mount in &config.mounts {
        let (path, policy) = (mount.path.clone(), mount.policy.clone());
        places.push(place(&mount.name, path, Some(mount.watch), policy));
    }
    let store = conflicts::folder(&shared.state);
    places.push(place(conflicts::MOUNT, store, None, Arc::new(conflict_policy())));
    places
}

/// Makes the folder of the conflict store a mount. Part of `init` and `join`.
///
/// # Errors
/// What the operating system refused.
pub fn prepare_conflict_store(state: &Path, members: &Members) -> Result<(), DaemonError> {
    let io = |doing| move |source| DaemonError::Io { doing, source };
    let folder = conflicts::folder(state);
    std::fs::create_dir_all(&folder).map_err(io("make the conflict store"))?;
    let id = disk::MarkerId(members.mount_id(conflicts::MOUNT).0);
    disk::Mount::create_marker(&folder, id, conflicts::MOUNT).map_err(|error| DaemonError::Io {
        doing: "mark the conflict store",
        source: std::io::Error::other(error),
    })
}

/// The mounts that a cluster of this configuration has: the configured ones and the daemon's own.
#[must_use]
pub fn mount_names(config: &Config) -> Vec<String> {
    let own = std::iter::once(conflicts::MOUNT.to_owned());
    config.mounts.iter().map(|mount| mount.name.clone()).chain(own).collect()
}

/// What several nodes keep of one loser is the same, so nothing is lost by taking either.
fn conflict_policy() -> Policy {
    let mut classes = ClassTable::default();
    let settings = classes.get_mut(Class::Normal);
    settings.keep_losers = false;
    settings.trash = None;
    settings.delete_budget = None;
    Policy::new(Vec::new(), classes).expect("no rules are a policy")
}

fn start_mounts(places: Vec<Place>, shared: &Arc<Shared>) -> std::io::Result<Vec<JoinHandle<()>>> {
    let mut threads = Vec::new();
    let mut opened = Vec::new();
    for place in places {
        let (ready, opening) = std::sync::mpsc::channel();
        let (shared, name) = (shared.clone(), place.name.clone());
        let run = move || open::run(&place, &shared, &ready);
        threads.push(std::thread::Builder::new().name(format!("mount {name}")).spawn(run)?);
        opened.push(opening);
    }
    // A mount that is not there does not hold up the others.
    for opening in opened {
        opening.recv().unwrap_or_default();
    }
    let shared = shared.clone();
    let tend = move || maintain::run(&shared);
    threads.push(std::thread::Builder::new().name("maintain".to_owned()).spawn(tend)?);
    Ok(threads)
}

async fn serve(
    config: &Config,
    shared: &Arc<Shared>,
    threads: &[JoinHandle<()>],
) -> Result<(), DaemonError> {
    let io = |doing| move |source| DaemonError::Io { doing, source };
    let socket = ControlSocket::bind(&config.control.socket)?;
    let net = Net::start(
        NetConfig {
            state: shared.state.clone(),
            listen: config.node.listen,
            name: config.node.name.clone(),
            advertise: config.node.advertise.iter().map(ToString::to_string).collect(),
            mounts: mount_names(config),
            release: RELEASE.to_owned(),
            bandwidth_max: config.node.bandwidth_max,
        },
        Handler(shared.clone()),
    )
    .await?;
    drop(shared.net.set(net));
    shared.members_changed();
    let api = Arc::new(Api::new(shared.clone(), config.clone()));
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let until = |mut stopped: tokio::sync::watch::Receiver<bool>| async move {
        drop(stopped.wait_for(|stop| *stop).await);
    };
    let control =
        tokio::task::spawn_local(control::serve(socket, api.clone(), until(stopped.clone())));
    if let Some(address) = config.control.http {
        let (api, until) = (api.clone(), until(stopped));
        tokio::task::spawn_local(async move {
            if let Err(error) = control::serve_status(address, api, until).await {
                tracing::error!(%address, error = %error, "cannot serve the status");
            }
        });
    }
    let plan = backup::Plan::new(config);
    tokio::task::spawn_local(backup::run(shared.clone(), plan));
    let mut terminate = signal(SignalKind::terminate()).map_err(io("watch for signals"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(io("watch for signals"))?;
    let mut hangup = signal(SignalKind::hangup()).map_err(io("watch for signals"))?;
    drop(sd_notify::notify(&[sd_notify::NotifyState::Ready]));
    tracing::info!(node = config.node.name, release = RELEASE, "ready");
    let mut alive = tokio::time::interval(std::time::Duration::from_secs(1));
    let result = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            _ = hangup.recv() => reload(&api).await,
            _ = alive.tick() => if let Some(dead) = threads.iter().find(|t| t.is_finished()) {
                let name = dead.thread().name().unwrap_or_default();
                break Err(DaemonError::MountFailed(name.trim_start_matches("mount ").to_owned()));
            },
        }
    };
    drop(sd_notify::notify(&[sd_notify::NotifyState::Stopping]));
    stop.send_replace(true);
    if let Some(net) = shared.net.get() {
        net.shutdown().await;
    }
    drop(control.await);
    result
}

async fn reload(api: &Api) {
    match control::Daemon::reload(api).await {
        Ok(reply) => tracing::info!(changed = ?reply.changed, restart = ?reply.restart, "reloaded"),
        Err(refusal) => tracing::error!(error = %refusal, "not reloaded"),
    }
}
