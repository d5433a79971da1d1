//! The UDP socket and QUIC endpoint: how they are set up, who comes in, and what is done when
//! they fail.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quinn::congestion::CubicConfig;
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{
    ClientConfig, Connection, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig,
    IdleTimeout, Incoming, MtuDiscoveryConfig, ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::task::JoinSet;
use tracing::{debug, error, info, warn};

use super::doorman::{Doorman, HANDSHAKES_MAX, Verdict};
use super::identity::{Identity, IdentityError};
use super::members::MemberState;
use super::peer::Arrival;
use super::service::{Shared, stopped};
use super::{close, enrol, tls};

/// Bytes that one stream may be ahead of its reader: a gigabyte a second at 2 ms.
pub(super) const STREAM_WINDOW: u32 = 2 << 20;

/// Bytes that all streams of a link but the lanes may be ahead; each open lane adds a
/// [`STREAM_WINDOW`]. QUIC counts what is written, not what is sent, so the sum over all streams
/// that can be stuck has to fit, or a stuck one would stop the control stream.
pub(super) const LINK_WINDOW: u64 = 64 << 20;

/// Bytes a connection may bring before its peer is known.
const FIRST_WINDOW: u32 = 256 << 10;

/// Request streams a peer may have open at a time, the control stream included.
pub(super) const REQUEST_STREAMS_MAX: u32 = 32;

/// Lane streams a peer may have open at a time: all lanes of as many mounts as there can be.
pub(super) const LANE_STREAMS_MAX: u32 = 320;

const KEEP_ALIVE: Duration = Duration::from_secs(2);
const IDLE_TIMEOUT_MS: u32 = 8000;

/// First guess of the round trip: a lost first packet is sent again after three of them.
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// Bytes sent before the first acknowledgement. QUIC's own 14 KiB are less than two of the largest
/// packets: while one is tried nothing else is sent, not even a close (quinn lets the congestion
/// window hold that back).
const INITIAL_CONGESTION_WINDOW: u64 = 128 << 10;

/// Packets that quinn hands to the kernel at a time, as one message.
const OFFLOAD_PACKETS_MAX: u32 = 10;

/// Largest packet that is tried, in bytes. A jumbo frame would take more, but a message of
/// [`OFFLOAD_PACKETS_MAX`] of them is longer than UDP allows: the kernel refuses it, quinn takes that
/// for an ordinary loss, and the link starves.
const MTU_MAX: u16 = 6_528;
const _: () = assert!(MTU_MAX as u32 * OFFLOAD_PACKETS_MAX <= 65_507);

/// Bytes of the socket's buffers: some 40 ms at 1 Gbit/s.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Nodes that join at a time.
pub(super) const JOINS_MAX: usize = 8;

/// How long it is waited before a failed endpoint is set up again, at first and at most.
const REBUILD_DELAY: Duration = Duration::from_millis(50);
const REBUILD_DELAY_MAX: Duration = Duration::from_secs(5);

/// How long peers are given to hear that this node stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// An endpoint with what its connections are made with.
#[derive(Clone)]
pub(super) struct Port {
    pub(super) endpoint: Endpoint,
    pub(super) client: ClientConfig,
    /// The kernel is handed several packets at a time.
    pub(super) offload: bool,
}

/// Why there is no endpoint.
#[derive(Debug, thiserror::Error)]
pub(super) enum PortError {
    #[error("cannot use the node's certificate")]
    Tls(#[from] rustls::Error),
    #[error("cannot make the node's certificate")]
    Identity(#[from] IdentityError),
    #[error("cannot open a UDP socket")]
    Socket(#[from] io::Error),
}

impl Port {
    /// Opens an endpoint on `listen`. `offload`: hand the kernel several packets at a time.
    pub(super) fn open(
        identity: &Identity,
        listen: SocketAddr,
        offload: bool,
    ) -> Result<Self, PortError> {
        let (server, client) = configs(identity, offload)?;
        let config = endpoint_config(identity);
        let socket = bind(listen)?;
        let endpoint = Endpoint::new(config, Some(server), socket, Arc::new(TokioRuntime))?;
        Ok(Self { endpoint, client, offload })
    }
}

/// How connections are accepted and made with this identity.
pub(super) fn configs(
    identity: &Identity,
    offload: bool,
) -> Result<(ServerConfig, ClientConfig), PortError> {
    let transport = Arc::new(transport(offload));
    let mut server = ServerConfig::with_crypto(tls::server(identity)?);
    server.transport_config(transport.clone());
    server.max_incoming(2 * HANDSHAKES_MAX).incoming_buffer_size(64 << 10);
    server.incoming_buffer_size_total(4 << 20);
    let mut client = ClientConfig::new(tls::client(identity)?);
    client.transport_config(transport);
    Ok((server, client))
}

/// Settings of every connection. The windows are those for a peer that is not known yet.
pub(super) fn transport(offload: bool) -> TransportConfig {
    let mut config = TransportConfig::default();
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(MTU_MAX);
    let mut congestion = CubicConfig::default();
    congestion.initial_window(INITIAL_CONGESTION_WINDOW);
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(FIRST_WINDOW))
        .send_window(LINK_WINDOW)
        .send_fairness(false)
        .congestion_controller_factory(Arc::new(congestion))
        .datagram_receive_buffer_size(None)
        .initial_rtt(INITIAL_RTT)
        .mtu_discovery_config(Some(mtu))
        .enable_segmentation_offload(offload)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))));
    config
}

/// The reset key is derived from the node's own, so that after a restart the node can tell peers
/// at once that their connections are gone, and nobody else can.
fn endpoint_config(identity: &Identity) -> EndpointConfig {
    let reset_key = identity.derived_key("trefoil 1 quic stateless reset");
    let mut config = EndpointConfig::new(Arc::new(ResetKey(reset_key)));
    config.cid_generator(|| Box::new(ConnectionIds));
    config.max_udp_payload_size(u16::MAX - 8).expect("the largest payload UDP has");
    config
}

struct ResetKey([u8; 32]);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        let hash = blake3::keyed_hash(&self.0, data);
        signature_out.copy_from_slice(hash.as_bytes());
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        if blake3::keyed_hash(&self.0, data) == *signature { Ok(()) } else { Err(CryptoError) }
    }
}

/// Connection ids, random. quinn's own are such that a node does not recognise those of its former
/// life, and would leave peers that still use them without an answer.
struct ConnectionIds;

const CONNECTION_ID_BYTES: usize = 8;

impl ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; CONNECTION_ID_BYTES];
        getrandom::fill(&mut id).expect("the system gave random bytes when the node started");
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// A UDP socket with large buffers, bound.
pub(super) fn bind(listen: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
    if listen.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    let (receive_bytes, send_bytes) = (socket.recv_buffer_size()?, socket.send_buffer_size()?);
    if receive_bytes.min(send_bytes) < SOCKET_BUFFER_BYTES {
        debug!(
            receive_bytes,
            send_bytes, "socket buffers are limited by net.core.rmem_max, wmem_max"
        );
    }
    socket.bind(&listen.into())?;
    Ok(socket.into())
}

/// Why an endpoint is not served any more.
enum End {
    Stopped,
    Failed,
}

/// Serves `port` until the node stops; opens another one in its place whenever it fails. Gives back
/// the last one, on which the links still have to say farewell.
pub(super) async fn supervise(
    shared: &Arc<Shared>,
    mut port: Port,
    listen: SocketAddr,
) -> Option<Port> {
    loop {
        match serve(shared, &port).await {
            End::Stopped => return Some(port),
            End::Failed => error!(%listen, "the UDP endpoint failed and is opened again"),
        }
        shared.port.send_replace(None);
        drop(port);
        port = match reopen(shared, listen).await {
            Some(port) => port,
            None => return None,
        };
        info!(%listen, "opened the UDP endpoint again");
        shared.port.send_replace(Some(port.clone()));
    }
}

/// Closes an endpoint when the links over it have ended.
pub(super) async fn shut(port: Port) {
    port.endpoint.close(close::SHUTDOWN, b"");
    drop(tokio::time::timeout(DRAIN_TIMEOUT, port.endpoint.wait_idle()).await);
}

async fn reopen(shared: &Shared, listen: SocketAddr) -> Option<Port> {
    let mut delay = REBUILD_DELAY;
    let mut stop = shared.stop.clone();
    loop {
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = stopped(&mut stop) => return None,
        }
        // Segmentation offload that a network card only pretends to have is a known cause.
        let opened = Port::open(&*shared.identity.lock().await, listen, false);
        match opened {
            Ok(port) => return Some(port),
            // The old socket is closed only when the last link over it has noticed.
            Err(error) => {
                warn!(%listen, error = &error as &dyn std::error::Error, "cannot open the UDP endpoint");
            }
        }
        delay = (delay * 2).min(REBUILD_DELAY_MAX);
    }
}

async fn serve(shared: &Arc<Shared>, port: &Port) -> End {
    let door = Arc::new(Mutex::new(Doorman::default()));
    let mut stop = shared.stop.clone();
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return End::Stopped,
            incoming = port.endpoint.accept() => match incoming {
                Some(incoming) => {
                    if let Some(guest) = judged(&door, &incoming) {
                        let shared = shared.clone();
                        tasks.spawn(async move { admit(&shared, incoming, guest).await });
                    } else if incoming.may_retry() && !incoming.remote_address_validated() {
                        drop(incoming.retry());
                    } else {
                        incoming.ignore();
                    }
                }
                None => return End::Failed,
            },
            Some(_) = tasks.join_next() => {}
        }
    }
}

/// One whom the doorman let in; gone when it is dropped.
struct Guest(Arc<Mutex<Doorman>>, IpAddr);

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).left(self.1);
    }
}

fn judged(door: &Arc<Mutex<Doorman>>, incoming: &Incoming) -> Option<Guest> {
    let from = incoming.remote_address().ip();
    let proven = incoming.remote_address_validated();
    let mut doorman = door.lock().unwrap_or_else(PoisonError::into_inner);
    let verdict = doorman.judge(from, proven, Instant::now());
    (verdict == Verdict::Admit).then(|| Guest(door.clone(), from))
}

/// Finds out who comes in and hands the connection on.
async fn admit(shared: &Arc<Shared>, incoming: Incoming, guest: Guest) {
    let from = incoming.remote_address();
    let Ok(connecting) = incoming.accept() else { return };
    let connection = match tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            debug!(%from, error = close::words(&error), "refused a connection");
            return;
        }
        Err(_) => return,
    };
    match tls::protocol(&connection).as_deref() {
        Some(tls::ALPN_LINK) => {
            // From here on the peer's task counts.
            drop(guest);
            arrived(shared, connection, from);
        }
        Some(tls::ALPN_JOIN) => enrol::serve(shared, connection).await,
        _ => close::close(&connection, close::PROTOCOL, "no protocol"),
    }
}

/// A node has come: a link from one with a smaller id, a knock from one with a larger.
fn arrived(shared: &Shared, connection: Connection, from: SocketAddr) {
    let members = shared.roster.members();
    let Some(peer) = tls::peer(&connection, &members).and_then(|id| members.member(id)) else {
        debug!(%from, "refused a connection: not a member");
        return close::close(&connection, close::NOT_MEMBER, "not a member");
    };
    if !tls::has_key_of(&connection, peer) {
        if let Some(left_out) = shared.strangers.pass(Instant::now()) {
            let peer = &peer.name;
            warn!(%from, peer, left_out, "refused a connection: not with the key of that node");
        }
        return close::close(&connection, close::NOT_MEMBER, "not the node's key");
    }
    if peer.state == MemberState::Removed {
        debug!(%from, peer = peer.name, "refused a connection: removed");
        return close::close(&connection, close::REMOVED, &peer.name);
    }
    if peer.id == shared.id {
        if let Some(left_out) = shared.strangers.pass(Instant::now()) {
            warn!(%from, left_out, "refused a connection: another node uses this node's identity");
        }
        return close::close(&connection, close::NOT_MEMBER, "the same identity twice");
    }
    let arrival = if peer.id < shared.id {
        Arrival::Link(connection.clone())
    } else {
        close::close(&connection, close::KNOCKED, "");
        Arrival::Knock(from)
    };
    if !shared.hand_over(peer.id, arrival) {
        close::close(&connection, close::BUSY, "");
    }
}
