//! Bytes of member lists and tickets.

use prost::Message;

use super::{WireError, array, label, node};
use crate::net::members::{
    ADDRESSES_MAX, ClusterId, MEMBERS_MAX, MOUNTS_MAX, MarkerId, Member, MemberState, Members,
    is_address,
};
use crate::net::ticket::{Secret, Ticket};

#[derive(Clone, PartialEq, Message)]
pub(super) struct MembersBytes {
    #[prost(bytes = "vec", tag = "1")]
    cluster: Vec<u8>,
    #[prost(message, repeated, tag = "2")]
    members: Vec<MemberBytes>,
    #[prost(message, repeated, tag = "3")]
    mounts: Vec<MountBytes>,
}

#[derive(Clone, PartialEq, Message)]
struct MemberBytes {
    #[prost(fixed64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, repeated, tag = "3")]
    addresses: Vec<String>,
    /// 1 active, 2 removed.
    #[prost(uint32, tag = "4")]
    state: u32,
    #[prost(fixed64, tag = "5")]
    changed: u64,
    #[prost(bytes = "vec", optional, tag = "6")]
    key: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct MountBytes {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
}

impl From<&Members> for MembersBytes {
    fn from(list: &Members) -> Self {
        let member = |m: &Member| MemberBytes {
            id: m.id.0,
            name: m.name.clone(),
            addresses: m.addresses.clone(),
            state: match m.state {
                MemberState::Active => 1,
                MemberState::Removed => 2,
            },
            changed: m.changed,
            key: m.key.map(|key| key.to_vec()),
        };
        let mounts = list.mounts().iter();
        Self {
            cluster: list.cluster.0.to_vec(),
            members: list.iter().map(member).collect(),
            mounts: mounts
                .map(|(n, id)| MountBytes { name: n.clone(), id: id.0.to_vec() })
                .collect(),
        }
    }
}

impl TryFrom<MembersBytes> for Members {
    type Error = WireError;

    fn try_from(bytes: MembersBytes) -> Result<Self, WireError> {
        if bytes.members.len() > MEMBERS_MAX || bytes.mounts.len() > MOUNTS_MAX {
            return Err(WireError::Field("number of members or mounts"));
        }
        let mut list = Self::new(ClusterId(array(&bytes.cluster, "cluster id")?));
        for member in bytes.members {
            list.put(member.try_into()?);
        }
        for mount in bytes.mounts {
            let name = label(mount.name, "mount name")?;
            list.put_mount(&name, MarkerId(array(&mount.id, "mount id")?));
        }
        Ok(list)
    }
}

impl TryFrom<MemberBytes> for Member {
    type Error = WireError;

    fn try_from(bytes: MemberBytes) -> Result<Self, WireError> {
        let state = match bytes.state {
            1 => MemberState::Active,
            2 => MemberState::Removed,
            _ => return Err(WireError::Field("member state")),
        };
        Ok(Self {
            id: node(bytes.id)?,
            name: label(bytes.name, "node name")?,
            addresses: addresses(bytes.addresses)?,
            state,
            changed: bytes.changed,
            key: bytes.key.map(|key| array(&key, "key of a member")).transpose()?,
        })
    }
}

pub(super) fn addresses(list: Vec<String>) -> Result<Vec<String>, WireError> {
    if list.len() > ADDRESSES_MAX || !list.iter().all(|a| is_address(a)) {
        return Err(WireError::Field("addresses"));
    }
    Ok(list)
}

#[derive(Clone, PartialEq, Message)]
struct TicketBytes {
    #[prost(string, repeated, tag = "1")]
    addresses: Vec<String>,
    #[prost(fixed64, tag = "2")]
    inviter: u64,
    #[prost(bytes = "vec", tag = "3")]
    pin: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    secret: Vec<u8>,
    #[prost(uint64, tag = "5")]
    expires_secs: u64,
    #[prost(bytes = "vec", tag = "6")]
    key: Vec<u8>,
}

/// A ticket's bytes, without prefix and checksum.
pub(in crate::net) fn encode_ticket(ticket: &Ticket) -> Vec<u8> {
    TicketBytes {
        addresses: ticket.addresses.clone(),
        inviter: ticket.inviter.0,
        pin: ticket.pin.to_vec(),
        secret: ticket.secret.0.to_vec(),
        expires_secs: ticket.expires_secs,
        key: ticket.key.to_vec(),
    }
    .encode_to_vec()
}

/// The ticket in bytes whose checksum was right.
pub(in crate::net) fn decode_ticket(bytes: &[u8]) -> Result<Ticket, WireError> {
    let bytes = TicketBytes::decode(bytes)?;
    Ok(Ticket {
        addresses: addresses(bytes.addresses)?,
        inviter: node(bytes.inviter)?,
        pin: array(&bytes.pin, "certificate pin")?,
        secret: Secret(array(&bytes.secret, "secret")?),
        expires_secs: bytes.expires_secs,
        key: array(&bytes.key, "key of the inviting node")?,
    })
}
