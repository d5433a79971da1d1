//! The network as the daemon sees it: started, asked, stopped.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use quinn::Connection;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tracing::{debug, info, warn};

use super::api::{AnyHandler, Handler, NetConfig, NetEvent, PeerStatus};
use super::endpoint::{self, JOINS_MAX, Port, PortError};
use super::identity::{Identity, IdentityError};
use super::link::LinkHandle;
use super::members::{MOUNTS_MAX, Member, MemberState, Members, is_address};
use super::peer::{self, ARRIVALS_MAX, Arrival};
use super::roster::{Roster, RosterError};
use super::throttle::Throttle;
use super::wire::Hello;
use super::{files, renew, tls};
use crate::model::{NodeId, limits};

/// How long stopping may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// Why the network cannot start.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// This node has no identity, or a damaged one.
    #[error("cannot load the identity")]
    Identity(#[from] IdentityError),
    /// The member list cannot be read or written.
    #[error("cannot load or save the member list")]
    Members(#[from] RosterError),
    /// The address cannot be listened on.
    #[error("cannot listen on {listen}")]
    Listen {
        /// The configured address.
        listen: SocketAddr,
        /// What the system or TLS says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another member has the configured name.
    #[error("another node is called {0} already")]
    NameTaken(String),
    /// Not `host:port`.
    #[error("bad address to advertise: {0}")]
    Address(String),
    /// More mounts than a cluster can have.
    #[error("more than {MOUNTS_MAX} mounts")]
    Mounts,
}

/// Why a node was not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// No active member has that name or id.
    #[error("no node is called {0}")]
    Unknown(String),
    /// A node cannot take itself out: do it on another one.
    #[error("cannot remove this node itself: run the command on another node")]
    Oneself,
    /// It is removed until this node restarts, but that may be forgotten.
    #[error("cannot save the member list")]
    Save(#[from] RosterError),
}

/// What all tasks share.
pub(super) struct Shared {
    pub(super) id: NodeId,
    pub(super) name: String,
    pub(super) release: String,
    pub(super) state: PathBuf,
    pub(super) identity: tokio::sync::Mutex<Identity>,
    pub(super) roster: Roster,
    pub(super) handler: Box<dyn AnyHandler>,
    /// Gone while a failed endpoint is replaced.
    pub(super) port: watch::Sender<Option<Port>>,
    pub(super) stop: watch::Receiver<bool>,
    pub(super) joins: Semaphore,
    /// Lines about whoever comes with a certificate of the cluster and is no member.
    pub(super) strangers: Throttle,
    /// Lines about whoever wants to join.
    pub(super) refusals: Throttle,
    /// When this node's certificate ends, in seconds since 1970.
    pub(super) certificate_ends_secs: watch::Sender<u64>,
    /// Bytes a second to each peer.
    pub(super) bandwidth_max: Option<u64>,
    started: SystemTime,
    peers: Mutex<BTreeMap<NodeId, Peer>>,
}

struct Peer {
    arrivals: mpsc::Sender<Arrival>,
    link: Option<LinkHandle>,
    since: SystemTime,
    release: String,
    address: Option<SocketAddr>,
    last_error: String,
    certificate_ends_secs: Option<u64>,
    /// Of links that ended.
    bytes_sent: u64,
    bytes_received: u64,
}

impl Shared {
    fn peers(&self) -> MutexGuard<'_, BTreeMap<NodeId, Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_peer(&self, id: NodeId, change: impl FnOnce(&mut Peer)) {
        if let Some(peer) = self.peers().get_mut(&id) {
            change(peer);
        }
    }

    /// The endpoint, as soon as there is one; nothing if the node stops.
    pub(super) async fn port(&self) -> Option<Port> {
        let mut port = self.port.subscribe();
        let mut stop = self.stop.clone();
        tokio::select! {
            port = async { port.wait_for(Option::is_some).await.ok().and_then(|p| p.clone()) } => port,
            () = stopped(&mut stop) => None,
        }
    }

    /// Gives what came from a peer to its task. False if it has none, or is not keeping up.
    pub(super) fn hand_over(&self, id: NodeId, arrival: Arrival) -> bool {
        self.peers().get(&id).is_some_and(|peer| peer.arrivals.try_send(arrival).is_ok())
    }

    /// Whether a peer is linked now.
    pub(super) fn is_up(&self, id: NodeId) -> bool {
        self.peers().get(&id).is_some_and(|peer| peer.link.is_some())
    }

    pub(super) fn last_address(&self, id: NodeId) -> Option<SocketAddr> {
        self.peers().get(&id).and_then(|peer| peer.address)
    }

    pub(super) fn link_up(&self, link: &LinkHandle, hello: &Hello, connection: &Connection) {
        let address = connection.remote_address();
        self.with_peer(link.peer(), |peer| {
            peer.link = Some(link.clone());
            peer.since = SystemTime::now();
            peer.release.clone_from(&hello.release);
            peer.address = Some(address);
            peer.last_error.clear();
            peer.certificate_ends_secs = tls::certificate(connection).map(|c| c.ends_secs);
        });
    }

    /// Notes what a peer says of the certificate that it has now.
    pub(super) fn certificate_renewed(&self, id: NodeId, ends_secs: u64) {
        self.with_peer(id, |peer| peer.certificate_ends_secs = Some(ends_secs));
    }

    pub(super) fn link_down(&self, id: NodeId, connection: &Connection, reason: &str) {
        let stats = connection.stats();
        self.with_peer(id, |peer| {
            peer.link = None;
            peer.since = SystemTime::now();
            reason.clone_into(&mut peer.last_error);
            peer.bytes_sent += stats.udp_tx.bytes;
            peer.bytes_received += stats.udp_rx.bytes;
        });
    }

    /// Notes why there is no link. Logged only if it is another reason than the last time.
    pub(super) fn link_failed(&self, id: NodeId, reason: &str) {
        self.with_peer(id, |peer| {
            if peer.last_error != reason {
                debug!(peer = %id, reason, "cannot link");
                reason.clone_into(&mut peer.last_error);
            }
        });
    }
}

/// The running network. Dropping it stops it without waiting.
pub struct Net {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    address: SocketAddr,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Net {
    /// Starts listening and linking. Has to be called on a tokio runtime, which all of it runs on.
    ///
    /// # Errors
    /// [`NetError`]; nothing runs then.
    pub async fn start(config: NetConfig, handler: impl Handler) -> Result<Self, NetError> {
        let state = config.state.clone();
        let loaded = tokio::task::spawn_blocking(move || load(&state)).await;
        let (identity, roster) = loaded.unwrap_or_else(|e| resume_unwind(e.into_panic()))?;
        if let Some(bad) = config.advertise.iter().find(|a| !is_address(a)) {
            return Err(NetError::Address(bad.clone()));
        }
        let listen_error = |source: PortError| NetError::Listen {
            listen: config.listen,
            source: Box::new(source),
        };
        let port = Port::open(&identity, config.listen, true).map_err(listen_error)?;
        let address = port.endpoint.local_addr().map_err(|e| listen_error(e.into()))?;
        update_own_entry(&roster, &identity, &config, address)?;
        let (stop, stopped) = watch::channel(false);
        let ends_secs = identity.ends_secs();
        let shared = Arc::new(Shared {
            id: identity.id,
            name: config.name,
            release: config.release,
            state: config.state,
            identity: tokio::sync::Mutex::new(identity),
            roster,
            handler: Box::new(handler),
            port: watch::Sender::new(Some(port.clone())),
            stop: stopped,
            joins: Semaphore::new(JOINS_MAX),
            strangers: Throttle::default(),
            refusals: Throttle::default(),
            certificate_ends_secs: watch::Sender::new(ends_secs),
            bandwidth_max: config.bandwidth_max,
            started: SystemTime::now(),
            peers: Mutex::default(),
        });
        info!(id = %shared.id, %address, "listening");
        let task = tokio::spawn(run(shared.clone(), port, address));
        Ok(Self { shared, stop, address, task: Mutex::new(Some(task)) })
    }

    /// This node's id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.shared.id
    }

    /// The UDP address this node listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// When this node's certificate ends, in seconds since 1970. It is renewed long before.
    #[must_use]
    pub fn certificate_ends_secs(&self) -> u64 {
        *self.shared.certificate_ends_secs.borrow()
    }

    /// The member list as this node knows it.
    #[must_use]
    pub fn members(&self) -> Arc<Members> {
        self.shared.roster.members()
    }

    /// How it stands with each active member but this node, by id.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerStatus> {
        let members = self.members();
        let peers = self.shared.peers();
        let others = members.active().filter(|m| m.id != self.shared.id);
        others.map(|member| self.status(member, peers.get(&member.id))).collect()
    }

    fn status(&self, member: &Member, peer: Option<&Peer>) -> PeerStatus {
        let connection = peer.and_then(|p| p.link.as_ref()).and_then(LinkHandle::connection);
        let stats = connection.as_ref().map(Connection::stats);
        let (sent, received) = stats.map_or((0, 0), |s| (s.udp_tx.bytes, s.udp_rx.bytes));
        PeerStatus {
            id: member.id,
            name: member.name.clone(),
            up: connection.is_some(),
            since: peer.map_or(self.shared.started, |p| p.since),
            rtt: connection.map(|c| c.rtt()),
            release: peer.map(|p| p.release.clone()).unwrap_or_default(),
            address: peer.and_then(|p| p.address),
            last_error: peer.map(|p| p.last_error.clone()).unwrap_or_default(),
            certificate_ends_secs: peer.and_then(|p| p.certificate_ends_secs),
            bytes_sent: sent + peer.map_or(0, |p| p.bytes_sent),
            bytes_received: received + peer.map_or(0, |p| p.bytes_received),
        }
    }

    /// Takes the node with this name, or id, out of the cluster: it is refused here from now on,
    /// and elsewhere as soon as the others hear of it.
    ///
    /// # Errors
    /// [`RemoveError`].
    pub async fn remove(&self, name: &str) -> Result<NodeId, RemoveError> {
        let members = self.members();
        let mut called = members.called(name).map(|m| m.id);
        let id = called.next().ok_or_else(|| RemoveError::Unknown(name.to_owned()))?;
        if id == self.shared.id {
            return Err(RemoveError::Oneself);
        }
        let shared = self.shared.clone();
        let change = move || shared.roster.change(|members| members.remove(id, files::now_nanos()));
        match tokio::task::spawn_blocking(change).await {
            Ok(saved) => saved?,
            Err(error) => resume_unwind(error.into_panic()),
        }
        info!(peer = name, "removed from the cluster");
        Ok(id)
    }

    #[cfg(test)]
    pub(super) fn dialled(&self) -> usize {
        self.shared.peers().len()
    }

    #[cfg(test)]
    pub(super) async fn renew_certificate(&self, now_secs: u64) {
        renew::if_due(&self.shared, now_secs).await;
    }

    #[cfg(test)]
    pub(super) fn endpoint(&self) -> Option<quinn::Endpoint> {
        self.shared.port.borrow().as_ref().map(|port| port.endpoint.clone())
    }

    /// Stops: links are closed, their `Down`s delivered, peers told. Returns after three seconds
    /// at the latest.
    pub async fn shutdown(&self) {
        self.stop.send_replace(true);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task
            && tokio::time::timeout(STOP_TIMEOUT, task).await.is_err()
        {
            warn!("stopped without waiting for all links to end");
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

fn load(state: &Path) -> Result<(Identity, Roster), NetError> {
    let mut identity = Identity::load(state)?;
    identity.renew(state, files::now_secs())?;
    Ok((identity, Roster::load(state)?))
}

/// All of the network, until the node stops.
async fn run(shared: Arc<Shared>, port: Port, address: SocketAddr) {
    let (port, (), ()) = tokio::join!(
        endpoint::supervise(&shared, port, address),
        supervise_peers(&shared),
        renew::run(&shared)
    );
    shared.port.send_replace(None);
    if let Some(port) = port {
        endpoint::shut(port).await;
    }
}

/// Waits until the node stops.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the network was dropped, which is the same.
    drop(stop.wait_for(|&stop| stop).await);
}

/// Makes this node's entry of the member list say what the configuration says, and gives new
/// mounts an identity.
fn update_own_entry(
    roster: &Roster,
    identity: &Identity,
    config: &NetConfig,
    address: SocketAddr,
) -> Result<(), NetError> {
    let id = identity.id;
    let members = roster.members();
    let ours = members.member(id).cloned().unwrap_or_else(|| Member {
        id,
        name: config.name.clone(),
        addresses: Vec::new(),
        state: MemberState::Active,
        changed: 0,
        key: None,
    });
    let mut wanted = ours.clone();
    wanted.key = Some(identity.key_hash());
    wanted.name.clone_from(&config.name);
    if !config.advertise.is_empty() {
        wanted.addresses.clone_from(&config.advertise);
    } else if !address.ip().is_unspecified() {
        wanted.addresses = vec![address.to_string()];
    }
    if members.active().any(|m| m.id != id && m.name == wanted.name) {
        return Err(NetError::NameTaken(wanted.name));
    }
    if wanted != ours || ours.changed == 0 {
        wanted.changed = files::now_nanos().max(ours.changed + 1);
    }
    let known = |name: &&String| members.mounts().contains_key(*name);
    let mounts: Vec<_> = config.mounts.iter().filter(|name| !known(name)).collect();
    if members.mounts().len() + mounts.len() > MOUNTS_MAX {
        return Err(NetError::Mounts);
    }
    roster.change(|members| {
        members.put(wanted);
        mounts.into_iter().for_each(|name| members.put_mount(name, members.mount_id(name)));
    })?;
    Ok(())
}

/// Runs a task for each other member, and tells of changes of the list.
async fn supervise_peers(shared: &Arc<Shared>) {
    let mut members = shared.roster.watch();
    let mut stop = shared.stop.clone();
    let mut tasks = JoinSet::new();
    loop {
        let list = members.borrow_and_update().clone();
        set_peers(shared, &list, &mut tasks);
        tokio::select! {
            () = stopped(&mut stop) => break,
            changed = members.changed() => if changed.is_err() { break },
        }
        tokio::select! {
            () = stopped(&mut stop) => break,
            () = shared.handler.event(NetEvent::MembersChanged) => {}
        }
    }
    // Each task closes its link when nothing can arrive for it any more.
    shared.peers().clear();
    while tasks.join_next().await.is_some() {}
}

fn set_peers(shared: &Arc<Shared>, members: &Members, tasks: &mut JoinSet<()>) {
    // Whoever was removed is refused everywhere: there is nobody to talk to.
    let belongs = members.is_active(shared.id);
    let is_wanted = |id: NodeId| belongs && id != shared.id && members.is_active(id);
    let mut peers = shared.peers();
    peers.retain(|id, _| is_wanted(*id));
    for id in members.iter().map(|m| m.id).filter(|id| is_wanted(*id)) {
        // A list may have more, if a member wants to do harm; those that are known are kept.
        if peers.len() >= limits::NODES_MAX && !peers.contains_key(&id) {
            continue;
        }
        peers.entry(id).or_insert_with(|| {
            let (arrivals, receiver) = mpsc::channel(ARRIVALS_MAX);
            tasks.spawn(peer::run(shared.clone(), id, receiver));
            Peer {
                arrivals,
                link: None,
                since: shared.started,
                release: String::new(),
                address: None,
                last_error: String::new(),
                certificate_ends_secs: None,
                bytes_sent: 0,
                bytes_received: 0,
            }
        });
    }
    while tasks.try_join_next().is_some() {}
}
