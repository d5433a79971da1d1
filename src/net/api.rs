//! What the daemon gives to the network and what it is told.

use std::future::Future;
use std::io::Read;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use super::link::LinkHandle;
use super::wire::{Announce, ControlMessage, FetchRequest};
use crate::model::{Lane, NodeId};

/// How this node takes part.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// The state folder, which `init` or `join` filled.
    pub state: PathBuf,
    /// The UDP address to listen on. With port 0 the system picks one.
    pub listen: SocketAddr,
    /// The node's name.
    pub name: String,
    /// Where the others reach this node, `host:port`. If empty: `listen`, unless that stands for
    /// every address; then what was known before stays.
    pub advertise: Vec<String>,
    /// The configured mounts; one that the cluster does not know yet gets an identity.
    pub mounts: Vec<String>,
    /// This program's release, for people.
    pub release: String,
    /// Bytes of announcements and content sent to each peer in a second; nothing: no limit.
    pub bandwidth_max: Option<u64>,
}

/// What happened on the network. Per peer in order: `Up`, anything, `Down`, `Up`, ...
#[derive(Debug)]
pub enum NetEvent {
    /// The peer can be talked to.
    Up {
        /// Who.
        peer: NodeId,
        /// Its name.
        name: String,
        /// Its program's release.
        release: String,
        /// To talk with; closed after the `Down` that follows.
        link: LinkHandle,
    },
    /// The peer cannot be talked to any more. Nothing of this link comes afterwards.
    Down {
        /// Who.
        peer: NodeId,
        /// Why, in words.
        reason: String,
    },
    /// A message: `MountHello`, `State` or `Ack`; the network keeps the others for itself.
    Control {
        /// Who said it.
        peer: NodeId,
        /// What.
        message: ControlMessage,
    },
    /// Records were announced. In order per mount and lane.
    Announce {
        /// Who announced them.
        peer: NodeId,
        /// Of which mount.
        mount: String,
        /// On which lane.
        lane: Lane,
        /// The records.
        announce: Announce,
    },
    /// The member list is another one: [`super::Net::members`] has it.
    MembersChanged,
}

/// Takes what happens and answers what peers ask. Called on the network's runtime.
pub trait Handler: Send + Sync + 'static {
    /// Takes an event. Until it is done no further event of the same stream comes, and the peer
    /// cannot send more of it than its windows hold: that is the backpressure. Other streams and
    /// peers go on. The future is dropped unfinished if the link ends first, except for `Up`,
    /// `Down` and `MembersChanged`.
    fn event(&self, event: NetEvent) -> impl Future<Output = ()> + Send;

    /// The bytes of the content that are asked for; nothing if it is not here any more. At most
    /// [`FetchRequest::bytes`] are read. May block.
    fn fetch(&self, peer: NodeId, request: &FetchRequest) -> Option<Box<dyn Read + Send>>;

    /// Answers a call with pieces of at most a frame's length each, or with why not. May block.
    ///
    /// # Errors
    /// What to tell the caller.
    fn rpc(&self, peer: NodeId, method: &str, body: &[u8]) -> Result<Vec<Vec<u8>>, String>;
}

/// How it stands with one peer.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Which.
    pub id: NodeId,
    /// Its name in the member list.
    pub name: String,
    /// Whether it is linked.
    pub up: bool,
    /// When it came up, or went down, or this node started.
    pub since: SystemTime,
    /// Round trip; only if it is up.
    pub rtt: Option<Duration>,
    /// Its program's release, as last heard; may be empty.
    pub release: String,
    /// Where it was last linked.
    pub address: Option<SocketAddr>,
    /// Why it is not linked, or was not the last time; may be empty.
    pub last_error: String,
    /// When its certificate ends, in seconds since 1970, as last seen or told.
    pub certificate_ends_secs: Option<u64>,
    /// UDP payload sent to it, in bytes, since this node started.
    pub bytes_sent: u64,
    /// UDP payload received from it, in bytes, since this node started.
    pub bytes_received: u64,
}

/// [`Handler`] as an object, so that nothing below is generic.
pub(super) trait AnyHandler: Send + Sync + 'static {
    fn event(&self, event: NetEvent) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
    fn fetch(&self, peer: NodeId, request: &FetchRequest) -> Option<Box<dyn Read + Send>>;
    fn rpc(&self, peer: NodeId, method: &str, body: &[u8]) -> Result<Vec<Vec<u8>>, String>;
}

impl<H: Handler> AnyHandler for H {
    fn event(&self, event: NetEvent) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(Handler::event(self, event))
    }

    fn fetch(&self, peer: NodeId, request: &FetchRequest) -> Option<Box<dyn Read + Send>> {
        Handler::fetch(self, peer, request)
    }

    fn rpc(&self, peer: NodeId, method: &str, body: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        Handler::rpc(self, peer, method, body)
    }
}
