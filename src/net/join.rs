//! Enrolment, as the joining node does it.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quinn::{ClientConfig, Connection, Endpoint, EndpointConfig, TokioRuntime};
use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use super::certificate::dns_name;
use super::endpoint::{bind, transport};
use super::identity::{Identity, is_initialised, signing_request};
use super::members::Members;
use super::roster::{self, RosterError};
use super::stream::{StreamError, expect_frame, write_frame};
use super::ticket::Ticket;
use super::wire::{CONTROL_BYTES_MAX, EnrolReply, EnrolRequest, Enrolment, Refusal};
use super::{close, files, tls};
use crate::model::NodeId;

/// How long one address is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the answer may take.
const REPLY_TIMEOUT: Duration = Duration::from_secs(20);

/// How this node wants to join.
#[derive(Clone, Debug)]
pub struct JoinRequest {
    /// The ticket that `invite` printed.
    pub ticket: Ticket,
    /// The state folder; it is made if it is missing.
    pub state: PathBuf,
    /// How the node is to be called.
    pub name: String,
    /// The UDP address the daemon will listen on.
    pub listen: SocketAddr,
    /// Where the others will reach this node, `host:port`. If empty: `listen`, or if that stands
    /// for every address, the one that the inviting node sees, with its port.
    pub advertise: Vec<String>,
    /// This program's release, for people.
    pub release: String,
}

/// What joining gave.
#[derive(Clone, Debug)]
pub struct Joined {
    /// This node's id.
    pub id: NodeId,
    /// The members, this node among them, and the mounts' identities.
    pub members: Members,
}

/// Why the node did not join. Unless it says otherwise, nothing was changed here.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The node belongs to a cluster.
    #[error("this node belongs to a cluster already")]
    AlreadyMember,
    /// None of the ticket's addresses answers; the reasons, one an address.
    #[error("cannot reach the inviting node: {0}")]
    Unreachable(String),
    /// The ticket was not given out by the node that was asked.
    #[error("the inviting node does not know this ticket")]
    TicketUnknown,
    /// The ticket's time is over.
    #[error("the ticket has expired")]
    TicketExpired,
    /// Another node has joined with the ticket.
    #[error("the ticket was used already")]
    TicketUsed,
    /// The inviting node refuses for another reason.
    #[error("the inviting node refuses: {0}")]
    Refused(String),
    /// The answer makes no sense.
    #[error("cannot understand the inviting node's answer")]
    Reply,
    /// No key can be made.
    #[error("cannot make a key")]
    Key(#[from] rcgen::Error),
    /// No connection can be made from here.
    #[error("cannot open a connection")]
    Local(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The state folder cannot be written. If the node was enrolled by then, the inviting node
    /// lists it as a member: join again with a new ticket and the same name.
    #[error("cannot write to {}", path.display())]
    State {
        /// The state folder.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The member list cannot be written; as above.
    #[error("cannot save the member list")]
    Members(#[from] RosterError),
}

/// Joins the cluster that the ticket is for. After `Ok` the state folder has an identity, durably,
/// and the daemon can be started; after `Err` it has none.
///
/// # Errors
/// [`JoinError`].
pub async fn join(request: JoinRequest) -> Result<Joined, JoinError> {
    if is_initialised(&request.state) {
        return Err(JoinError::AlreadyMember);
    }
    let state_error = |source| JoinError::State { path: request.state.clone(), source };
    // Before the ticket is used: a folder that cannot be written would waste it.
    files::create_folder(&request.state).map_err(state_error)?;
    let key = KeyPair::generate()?;
    let enrol = EnrolRequest {
        secret: request.ticket.secret,
        name: request.name.clone(),
        signing_request: signing_request(&key)?,
        addresses: own_addresses(&request),
        port: request.listen.port(),
        release: request.release.clone(),
    };
    match ask_anyone(&request.ticket, &enrol).await? {
        EnrolReply::Enrolled(enrolment) => save(&request.state, *enrolment, key),
        EnrolReply::Refused(Refusal::Unknown, _) => Err(JoinError::TicketUnknown),
        EnrolReply::Refused(Refusal::Expired, _) => Err(JoinError::TicketExpired),
        EnrolReply::Refused(Refusal::Used, _) => Err(JoinError::TicketUsed),
        EnrolReply::Refused(_, reason) => Err(JoinError::Refused(reason)),
    }
}

fn own_addresses(request: &JoinRequest) -> Vec<String> {
    if !request.advertise.is_empty() {
        request.advertise.clone()
    } else if request.listen.ip().is_unspecified() || request.listen.port() == 0 {
        Vec::new()
    } else {
        vec![request.listen.to_string()]
    }
}

/// Asks the first of the ticket's addresses that answers. Asking a second one after a lost answer
/// is safe: the inviting node knows the key again.
async fn ask_anyone(ticket: &Ticket, request: &EnrolRequest) -> Result<EnrolReply, JoinError> {
    let local = |e: Box<dyn std::error::Error + Send + Sync>| JoinError::Local(e);
    let crypto = tls::join_client(ticket.pin, ticket.key).map_err(|e| local(Box::new(e)))?;
    let mut config = ClientConfig::new(crypto);
    config.transport_config(Arc::new(transport(true)));
    let mut reasons = Vec::new();
    for name in &ticket.addresses {
        let resolved = match tokio::net::lookup_host(name).await {
            Ok(resolved) => resolved,
            Err(error) => {
                reasons.push(format!("{name}: {error}"));
                continue;
            }
        };
        for address in resolved {
            let any: SocketAddr = match address {
                SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
            };
            let socket = bind(any).map_err(|e| local(Box::new(e)))?;
            let runtime = Arc::new(TokioRuntime);
            let endpoint = Endpoint::new(EndpointConfig::default(), None, socket, runtime)
                .map_err(|e| local(Box::new(e)))?;
            let asked = ask(&endpoint, config.clone(), address, ticket, request).await;
            endpoint.close(close::ENROLLED, b"");
            drop(tokio::time::timeout(CONNECT_TIMEOUT, endpoint.wait_idle()).await);
            match asked {
                Ok(reply) => return Ok(reply),
                Err(AskError::Protocol) => return Err(JoinError::Reply),
                Err(AskError::Unreachable(reason)) => reasons.push(format!("{address}: {reason}")),
            }
        }
    }
    Err(JoinError::Unreachable(reasons.join("; ")))
}

enum AskError {
    Unreachable(String),
    Protocol,
}

async fn ask(
    endpoint: &Endpoint,
    config: ClientConfig,
    address: SocketAddr,
    ticket: &Ticket,
    request: &EnrolRequest,
) -> Result<EnrolReply, AskError> {
    let unreachable = |reason: &str| AskError::Unreachable(reason.to_owned());
    let connecting = endpoint
        .connect_with(config, address, &dns_name(ticket.inviter))
        .map_err(|error| unreachable(&error.to_string()))?;
    let connection = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return Err(unreachable(&close::words(&error))),
        Err(_) => return Err(unreachable("no answer")),
    };
    match tokio::time::timeout(REPLY_TIMEOUT, exchange(&connection, request)).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(error)) if error.is_violation() => Err(AskError::Protocol),
        Ok(Err(error)) => Err(match connection.close_reason() {
            Some(lost) => unreachable(&close::words(&lost)),
            None => unreachable(&error.words()),
        }),
        Err(_) => Err(unreachable("no reply")),
    }
}

async fn exchange(
    connection: &Connection,
    request: &EnrolRequest,
) -> Result<EnrolReply, StreamError> {
    let (mut send, mut receive) = connection.open_bi().await.map_err(|_| StreamError::Closed)?;
    write_frame(&mut send, &request.encode()).await?;
    send.finish().map_err(|_| StreamError::Closed)?;
    let reply = expect_frame(&mut receive, CONTROL_BYTES_MAX).await?;
    Ok(EnrolReply::decode(&reply)?)
}

/// Puts the identity in place. It comes last: without it the node has joined nothing.
fn save(state: &Path, enrolment: Enrolment, key: KeyPair) -> Result<Joined, JoinError> {
    let members = enrolment.members;
    let identity = Identity {
        id: enrolment.id,
        cluster: members.cluster,
        ca_certificate: CertificateDer::from(enrolment.ca_certificate),
        ca_key: KeyPair::try_from(&PrivatePkcs8KeyDer::from(enrolment.ca_key))?,
        certificate: CertificateDer::from(enrolment.certificate),
        key,
    };
    roster::save(state, &members)?;
    let saved = identity.save(state);
    saved.map_err(|source| JoinError::State { path: state.to_owned(), source })?;
    Ok(Joined { id: identity.id, members })
}
