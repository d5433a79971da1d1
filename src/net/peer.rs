//! Keeps the link to one peer up.
//!
//! The node with the smaller id dials. The one with the larger id waits, and knocks if nobody
//! comes: it connects, is recognised by its certificate, and is dialled back. So there is one link
//! per pair, and whoever starts last is linked at once.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::{Connection, ConnectionError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::certificate::dns_name;
use super::endpoint::Port;
use super::service::Shared;
use super::{close, link, tls};
use crate::model::NodeId;

/// Arrivals that wait for the peer's task.
pub(super) const ARRIVALS_MAX: usize = 8;

/// How long one address is tried.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// Addresses tried, of all that the peer's names resolve to.
const DIAL_ADDRESSES_MAX: usize = 16;

/// Pause between two rounds of dialling, at first and at most.
const REDIAL_DELAY: Duration = Duration::from_millis(100);
const REDIAL_DELAY_MAX: Duration = Duration::from_secs(2);

/// How long the node with the larger id is without a link before it knocks.
const KNOCK_DELAY: Duration = Duration::from_secs(1);

/// A link that lasted this long was a good one: after it, dialling starts with the short pause.
const STABLE: Duration = Duration::from_secs(5);

/// A knock this soon after a link came up was sent before its sender knew of the link.
const KNOCK_GRACE: Duration = Duration::from_millis(500);

/// How long a peer may take to close a link that this node wants to leave.
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a peer that broke the protocol is refused, at first and at most: doubled each time, so
/// that one that does nothing else costs a line of the log a minute.
const SHUN_DELAY: Duration = Duration::from_secs(1);
const SHUN_DELAY_MAX: Duration = Duration::from_secs(60);

/// A link that lasted this long makes up for what was before.
const FORGIVEN: Duration = Duration::from_secs(600);

/// What came from the peer.
pub(super) enum Arrival {
    /// The link that it dialled.
    Link(Connection),
    /// It has no link and asks for one, from this address.
    Knock(SocketAddr),
}

struct Task {
    shared: Arc<Shared>,
    peer: NodeId,
    arrivals: mpsc::Receiver<Arrival>,
    /// Where the last knock came from: tried first.
    knocked_from: Option<SocketAddr>,
    redial: Duration,
    knock: Duration,
    shun: Duration,
}

/// Keeps the link up until `arrivals` is closed. Then the link is closed: as removed, if the peer
/// is not a member any more.
pub(super) async fn run(shared: Arc<Shared>, peer: NodeId, arrivals: mpsc::Receiver<Arrival>) {
    let mut task = Task {
        shared,
        peer,
        arrivals,
        knocked_from: None,
        redial: REDIAL_DELAY,
        knock: Duration::ZERO,
        shun: SHUN_DELAY,
    };
    let mut next = None;
    loop {
        let connection = match next.take() {
            Some(connection) => connection,
            None => match task.connect().await {
                Some(connection) => connection,
                None => return,
            },
        };
        match task.hold(connection).await {
            Held::Ended => {}
            Held::Replaced(connection) => next = Some(connection),
            Held::Stopped => return,
        }
    }
}

enum Held {
    Ended,
    Replaced(Connection),
    Stopped,
}

impl Task {
    /// Waits for a connection to the peer; nothing if the node or the peer's membership ends.
    async fn connect(&mut self) -> Option<Connection> {
        loop {
            let dials = self.shared.id < self.peer;
            let pause =
                if dials { self.redial } else { std::mem::replace(&mut self.knock, KNOCK_DELAY) };
            let shared = self.shared.clone();
            let (peer, first) = (self.peer, self.knocked_from.take());
            let attempt = async move {
                if dials {
                    let dialled = dial(&shared, peer, first).await;
                    if dialled.is_none() {
                        tokio::time::sleep(jittered(pause)).await;
                    }
                    dialled
                } else {
                    tokio::time::sleep(pause).await;
                    knock(&shared, peer).await;
                    None
                }
            };
            tokio::select! {
                connection = attempt => match connection {
                    Some(connection) => return Some(connection),
                    None => self.redial = (self.redial * 2).min(REDIAL_DELAY_MAX),
                },
                arrival = self.arrivals.recv() => match arrival? {
                    Arrival::Link(connection) => return Some(connection),
                    // Whatever is being tried, this address is better.
                    Arrival::Knock(from) => {
                        self.knocked_from = Some(from);
                        self.redial = REDIAL_DELAY;
                    }
                },
            }
        }
    }

    /// Runs the link over `connection` until it ends or a newer one takes its place.
    async fn hold(&mut self, connection: Connection) -> Held {
        let since = Instant::now();
        let shared = self.shared.clone();
        let (leave, left) = oneshot::channel();
        let mut link = pin!(link::run(&shared, self.peer, connection.clone(), left));
        let mut held = Held::Ended;
        let mut knocked = false;
        let ended = loop {
            tokio::select! {
                ended = &mut link => break ended,
                arrival = self.arrivals.recv() => match arrival {
                    None => {
                        held = Held::Stopped;
                        let removed = !self.shared.roster.members().is_active(self.peer);
                        let code = if removed { close::REMOVED } else { close::SHUTDOWN };
                        leave.send(code).ok();
                        if let Ok(ended) = timeout(FAREWELL_TIMEOUT, &mut link).await {
                            break ended;
                        }
                        close::close(&connection, code, "");
                        break link.await;
                    }
                    Some(Arrival::Link(newer)) => {
                        held = Held::Replaced(newer);
                        close::close(&connection, close::REPLACED, "");
                    }
                    Some(Arrival::Knock(from)) if since.elapsed() > KNOCK_GRACE => {
                        debug!(peer = %self.peer, "closed a link that the peer does not know of");
                        self.knocked_from = Some(from);
                        knocked = true;
                        close::close(&connection, close::REPLACED, "");
                    }
                    Some(Arrival::Knock(_)) => {}
                },
            }
        };
        if !ended.was_up && matches!(held, Held::Ended) {
            self.shared.link_failed(self.peer, &ended.reason);
        }
        if since.elapsed() > FORGIVEN {
            self.shun = SHUN_DELAY;
        }
        if ended.violation {
            if let Held::Replaced(newer) = held {
                close::close(&newer, close::BUSY, "after a protocol violation");
            }
            return match self.shun(&ended.reason).await {
                Some(()) => Held::Ended,
                None => Held::Stopped,
            };
        }
        if knocked || (ended.was_up && since.elapsed() > STABLE) {
            self.redial = REDIAL_DELAY;
        } else if matches!(held, Held::Ended) && self.shared.id < self.peer {
            // Refused, or worse: not at once again.
            if self.pause().await.is_none() {
                return Held::Stopped;
            }
        }
        held
    }

    /// Refuses the peer for a while: it would do the same at once again. Nothing if the node or the
    /// peer's membership ends.
    async fn shun(&mut self, reason: &str) -> Option<()> {
        let pause = self.shun;
        self.shun = (self.shun * 2).min(SHUN_DELAY_MAX);
        let pause_seconds = pause.as_secs();
        warn!(peer = %self.peer, reason, pause_seconds, "the peer is refused for a while");
        let mut over = pin!(tokio::time::sleep(pause));
        loop {
            tokio::select! {
                () = &mut over => return Some(()),
                arrival = self.arrivals.recv() => match arrival? {
                    Arrival::Link(connection) => {
                        close::close(&connection, close::BUSY, "after a protocol violation");
                    }
                    Arrival::Knock(from) => self.knocked_from = Some(from),
                },
            }
        }
    }

    /// Waits before the next round of dialling, or until there is a reason not to; nothing if the
    /// node or the peer's membership ends.
    async fn pause(&mut self) -> Option<()> {
        tokio::select! {
            () = tokio::time::sleep(jittered(self.redial)) => {
                self.redial = (self.redial * 2).min(REDIAL_DELAY_MAX);
            }
            arrival = self.arrivals.recv() => {
                if let Arrival::Knock(from) = arrival? {
                    self.knocked_from = Some(from);
                }
            }
        }
        Some(())
    }
}

/// Tries the peer's addresses one after the other.
async fn dial(shared: &Shared, peer: NodeId, first: Option<SocketAddr>) -> Option<Connection> {
    let port = shared.port().await?;
    for address in addresses(shared, &port, peer, first).await {
        match connect(shared, &port, peer, address).await {
            Ok(connection) => return Some(connection),
            Err(reason) => shared.link_failed(peer, &format!("{address}: {reason}")),
        }
    }
    None
}

/// Shows the peer that this node is there and has no link.
async fn knock(shared: &Shared, peer: NodeId) {
    let Some(port) = shared.port().await else { return };
    for address in addresses(shared, &port, peer, None).await {
        let reason = match connect(shared, &port, peer, address).await {
            Ok(connection) => {
                let answer = timeout(DIAL_TIMEOUT, connection.closed()).await;
                match answer {
                    Ok(error) if close::code(&error) == Some(close::KNOCKED) => return,
                    Ok(error) => close::words(&error),
                    Err(_) => "no answer".to_owned(),
                }
            }
            Err(reason) => reason,
        };
        shared.link_failed(peer, &format!("{address}: {reason}"));
    }
}

async fn connect(
    shared: &Shared,
    port: &Port,
    peer: NodeId,
    address: SocketAddr,
) -> Result<Connection, String> {
    let connecting = port.endpoint.connect_with(port.client.clone(), address, &dns_name(peer));
    let connecting = connecting.map_err(|error| error.to_string())?;
    match timeout(DIAL_TIMEOUT, connecting).await {
        Ok(Ok(connection)) => {
            let members = shared.roster.members();
            if members.member(peer).is_some_and(|member| tls::has_key_of(&connection, member)) {
                return Ok(connection);
            }
            close::close(&connection, close::NOT_MEMBER, "not the node's key");
            Err("whoever answers does not have the node's key".to_owned())
        }
        Ok(Err(ConnectionError::TimedOut)) | Err(_) => Err("no answer".to_owned()),
        Ok(Err(error)) => Err(close::words(&error)),
    }
}

/// Where the peer may be, each address once: `first`, then where it was last linked, then what the
/// member list says.
async fn addresses(
    shared: &Shared,
    port: &Port,
    peer: NodeId,
    first: Option<SocketAddr>,
) -> Vec<SocketAddr> {
    let reaches_v6 = port.endpoint.local_addr().is_ok_and(|a| a.is_ipv6());
    let named = shared.roster.members().member(peer).map(|m| m.addresses.clone());
    let mut found: Vec<SocketAddr> = first.into_iter().chain(shared.last_address(peer)).collect();
    for name in named.unwrap_or_default() {
        // Each time anew: names move.
        let resolved = timeout(DIAL_TIMEOUT, tokio::net::lookup_host(&name)).await;
        match resolved {
            Ok(Ok(resolved)) => found.extend(resolved),
            Ok(Err(error)) => shared.link_failed(peer, &format!("{name}: {error}")),
            Err(_) => shared.link_failed(peer, &format!("{name}: cannot resolve in time")),
        }
    }
    let mut unique: Vec<SocketAddr> = Vec::new();
    for address in found {
        if !unique.contains(&address) && (reaches_v6 || address.is_ipv4()) {
            unique.push(address);
        }
    }
    unique.truncate(DIAL_ADDRESSES_MAX);
    unique
}

/// A pause between half and all of `delay`, so that nodes do not dial in step.
fn jittered(delay: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX);
    delay / 2 + (delay / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}
