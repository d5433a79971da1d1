//! Enrolment, as the inviting node does it.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::Connection;
use tracing::{debug, info, warn};

use super::identity::{Identity, random_id, requested_key};
use super::members::{MEMBERS_MAX, Member, MemberState, Members};
use super::service::Shared;
use super::stream::{StreamError, expect_frame, words, write_frame};
use super::wire::{CONTROL_BYTES_MAX, EnrolReply, EnrolRequest, Enrolment, Refusal};
use super::{close, files, tickets};
use crate::model::{NodeId, limits};

/// How long a joining node may take over all of it.
const ENROL_TIMEOUT: Duration = Duration::from_secs(15);

/// Serves a connection of a node that wants to join. Nothing is known of it but that it speaks
/// the protocol.
pub(super) async fn serve(shared: &Arc<Shared>, connection: Connection) {
    let Ok(_turn) = shared.joins.try_acquire() else {
        return close::close(&connection, close::BUSY, "too many nodes join");
    };
    match tokio::time::timeout(ENROL_TIMEOUT, answer(shared, &connection)).await {
        Ok(Ok(())) => close::close(&connection, close::ENROLLED, ""),
        Ok(Err(error)) => {
            debug!(error = &error as &dyn std::error::Error, "ended an enrolment");
            close::close(&connection, close::PROTOCOL, &error.words());
        }
        Err(_) => close::close(&connection, close::TIMEOUT, ""),
    }
}

async fn answer(shared: &Arc<Shared>, connection: &Connection) -> Result<(), StreamError> {
    let (mut send, mut receive) = connection.accept_bi().await.map_err(|_| StreamError::Closed)?;
    let request = EnrolRequest::decode(&expect_frame(&mut receive, CONTROL_BYTES_MAX).await?)?;
    let from = connection.remote_address();
    let name = request.name.clone();
    let enrolling = shared.clone();
    let enrolled = tokio::task::spawn_blocking(move || enrol(&enrolling, request, from));
    let reply = match enrolled.await.map_err(|_| StreamError::Closed)? {
        Ok(enrolment) => {
            info!(peer = name, id = %enrolment.id, %from, "enrolled a node");
            EnrolReply::Enrolled(Box::new(enrolment))
        }
        Err((refusal, reason)) => {
            if let Some(left_out) = shared.refusals.pass(Instant::now()) {
                warn!(peer = name, %from, ?refusal, reason, left_out, "refused to enrol a node");
            }
            EnrolReply::Refused(refusal, reason)
        }
    };
    write_frame(&mut send, &reply.encode()).await?;
    send.finish().map_err(|_| StreamError::Closed)?;
    // Until the other side has all of it; it closes the connection then.
    drop(send.stopped().await);
    Ok(())
}

/// Makes a node a member. Everything that can be refused is looked at before the ticket is used;
/// the member list is changed before the certificate leaves this node. Blocks.
fn enrol(
    shared: &Shared,
    request: EnrolRequest,
    from: SocketAddr,
) -> Result<Enrolment, (Refusal, String)> {
    let unable = |error: &dyn std::error::Error| (Refusal::Unable, words(error));
    let key = requested_key(&request.signing_request)
        .map_err(|_| (Refusal::Request, "the signing request is not valid".to_owned()))?;
    let addresses = match request.addresses.is_empty() && request.port != 0 {
        true => vec![SocketAddr::new(from.ip().to_canonical(), request.port).to_string()],
        false => request.addresses,
    };
    let id = tickets::redeem(&shared.state, &request.secret, &key, |again| {
        admit(shared, &request.name, again)?;
        match again {
            Some(id) => Ok(id),
            None => random_id().map_err(|error| unable(&error)),
        }
    })?;
    let identity: &Identity = &shared.identity.blocking_lock();
    let certificate =
        identity.enrol(id, &request.signing_request).map_err(|error| unable(&error))?;
    let now = files::now_nanos();
    let name = request.name;
    let changed = shared.roster.change(|members| {
        let others: Vec<NodeId> =
            members.called(&name).map(|m| m.id).filter(|&o| o != id).collect();
        others.into_iter().for_each(|other| members.remove(other, now));
        let state = MemberState::Active;
        let key = Some(key);
        members.put(Member { id, name: name.clone(), addresses, state, changed: now, key });
    });
    changed.map_err(|error| unable(&error))?;
    Ok(Enrolment {
        id,
        ca_certificate: identity.ca_certificate.to_vec(),
        ca_key: identity.ca_key.serialize_der(),
        certificate,
        members: Members::clone(&shared.roster.members()),
    })
}

/// Whether a node of that name may join: it takes the place of one that is not up. `again` is its
/// id if it has been enrolled already and only the answer was lost.
fn admit(shared: &Shared, name: &str, again: Option<NodeId>) -> Result<(), (Refusal, String)> {
    let members = shared.roster.members();
    let is_up = |id: NodeId| id == shared.id || shared.is_up(id);
    let replaced = members.active().filter(|m| m.name == name && Some(m.id) != again);
    let replaced: Vec<NodeId> = replaced.map(|m| m.id).collect();
    if replaced.iter().any(|&id| is_up(id)) {
        return Err((Refusal::NameUp, format!("a node called {name} is up")));
    }
    if again.is_none()
        && (members.active().count() - replaced.len() >= limits::NODES_MAX
            || members.iter().len() >= MEMBERS_MAX)
    {
        return Err((Refusal::Full, format!("the cluster has {} nodes", members.active().count())));
    }
    Ok(())
}
