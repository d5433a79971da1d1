//! The enrolment's messages: what a joining node asks, and what it is given or told.

use prost::{Message, Oneof};

use super::members::{MembersBytes, addresses};
use super::{WireError, array, clip, label, node, text};
use crate::model::NodeId;
use crate::net::members::Members;
use crate::net::ticket::Secret;

/// Bytes of a certificate, key or signing request.
const DER_BYTES_MAX: usize = 16 << 10;

/// What a joining node asks with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EnrolRequest {
    /// From the ticket.
    pub secret: Secret,
    /// How the node wants to be called.
    pub name: String,
    /// PKCS #10, DER: proves that the node holds the key. Nothing else in it counts.
    pub signing_request: Vec<u8>,
    /// Where the node will listen; if empty, at the address it asks from.
    pub addresses: Vec<String>,
    /// The port for that case; zero if unknown.
    pub port: u16,
    /// The program's release, for people.
    pub release: String,
}

/// The answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EnrolReply {
    /// The node is a member from now on.
    Enrolled(Box<Enrolment>),
    /// It is not, and why in words.
    Refused(Refusal, String),
}

/// All that makes a node a member.
#[derive(Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// The node's id.
    pub id: NodeId,
    /// The cluster's certificate, DER.
    pub ca_certificate: Vec<u8>,
    /// The cluster's key, PKCS #8 DER: every member can invite.
    pub ca_key: Vec<u8>,
    /// The node's certificate, DER.
    pub certificate: Vec<u8>,
    /// The members, the new one among them, and the mounts.
    pub members: Members,
}

/// Not derived: keys are never printed.
impl std::fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Enrolment({:?})", self.id)
    }
}

/// Why a node was not enrolled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// No such ticket was given out by the asked node.
    Unknown,
    /// The ticket's time is over.
    Expired,
    /// Another node was enrolled with the ticket.
    Used,
    /// A node of that name is up.
    NameUp,
    /// The cluster has as many nodes as it can.
    Full,
    /// The request makes no sense.
    Request,
    /// The asked node cannot, for a reason of its own; the ticket is still good.
    Unable,
}

const REFUSALS: [Refusal; 7] = [
    Refusal::Unknown,
    Refusal::Expired,
    Refusal::Used,
    Refusal::NameUp,
    Refusal::Full,
    Refusal::Request,
    Refusal::Unable,
];

#[derive(Clone, PartialEq, Message)]
struct EnrolRequestBytes {
    #[prost(bytes = "vec", tag = "1")]
    secret: Vec<u8>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(bytes = "vec", tag = "3")]
    signing_request: Vec<u8>,
    #[prost(string, repeated, tag = "4")]
    addresses: Vec<String>,
    #[prost(uint32, tag = "5")]
    port: u32,
    #[prost(string, tag = "6")]
    release: String,
}

#[derive(Clone, PartialEq, Message)]
struct EnrolReplyBytes {
    #[prost(oneof = "EnrolReplyKind", tags = "1, 2")]
    kind: Option<EnrolReplyKind>,
}

#[derive(Clone, PartialEq, Oneof)]
enum EnrolReplyKind {
    #[prost(message, tag = "1")]
    Enrolled(EnrolmentBytes),
    #[prost(message, tag = "2")]
    Refused(RefusalBytes),
}

#[derive(Clone, PartialEq, Message)]
struct EnrolmentBytes {
    #[prost(fixed64, tag = "1")]
    id: u64,
    #[prost(bytes = "vec", tag = "2")]
    ca_certificate: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    ca_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    certificate: Vec<u8>,
    #[prost(message, optional, tag = "5")]
    members: Option<MembersBytes>,
}

#[derive(Clone, PartialEq, Message)]
struct RefusalBytes {
    /// 1 unknown, 2 expired, 3 used, 4 name up, 5 full, 6 request, 7 unable.
    #[prost(uint32, tag = "1")]
    code: u32,
    #[prost(string, tag = "2")]
    reason: String,
}

impl EnrolRequest {
    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        EnrolRequestBytes {
            secret: self.secret.0.to_vec(),
            name: self.name.clone(),
            signing_request: self.signing_request.clone(),
            addresses: self.addresses.clone(),
            port: self.port.into(),
            release: clip(&self.release),
        }
        .encode_to_vec()
    }

    /// The message in `bytes`.
    ///
    /// # Errors
    /// [`WireError`], for what no release can have sent.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let bytes = EnrolRequestBytes::decode(bytes)?;
        Ok(Self {
            secret: Secret(array(&bytes.secret, "secret")?),
            name: label(bytes.name, "node name")?,
            signing_request: der(bytes.signing_request, "signing request")?,
            addresses: addresses(bytes.addresses)?,
            port: u16::try_from(bytes.port).map_err(|_| WireError::Field("port"))?,
            release: text(bytes.release, "release")?,
        })
    }
}

impl EnrolReply {
    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let kind = match self {
            Self::Enrolled(enrolment) => EnrolReplyKind::Enrolled(EnrolmentBytes {
                id: enrolment.id.0,
                ca_certificate: enrolment.ca_certificate.clone(),
                ca_key: enrolment.ca_key.clone(),
                certificate: enrolment.certificate.clone(),
                members: Some((&enrolment.members).into()),
            }),
            Self::Refused(refusal, reason) => EnrolReplyKind::Refused(RefusalBytes {
                code: (1..).zip(REFUSALS).find(|(_, r)| r == refusal).map_or(0, |(code, _)| code),
                reason: clip(reason),
            }),
        };
        EnrolReplyBytes { kind: Some(kind) }.encode_to_vec()
    }

    /// The message in `bytes`. A refusal of a later release is [`Refusal::Unable`].
    ///
    /// # Errors
    /// [`WireError`], for what no release can have sent.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        match EnrolReplyBytes::decode(bytes)?.kind {
            Some(EnrolReplyKind::Enrolled(enrolment)) => {
                Ok(Self::Enrolled(Box::new(enrolment.try_into()?)))
            }
            Some(EnrolReplyKind::Refused(RefusalBytes { code, reason })) => {
                let refusal = (1..).zip(REFUSALS).find(|(c, _)| *c == code);
                let refusal = refusal.map_or(Refusal::Unable, |(_, refusal)| refusal);
                Ok(Self::Refused(refusal, text(reason, "reason")?))
            }
            None => Err(WireError::Field("reply")),
        }
    }
}

impl TryFrom<EnrolmentBytes> for Enrolment {
    type Error = WireError;

    fn try_from(bytes: EnrolmentBytes) -> Result<Self, WireError> {
        Ok(Self {
            id: node(bytes.id)?,
            ca_certificate: der(bytes.ca_certificate, "cluster certificate")?,
            ca_key: der(bytes.ca_key, "cluster key")?,
            certificate: der(bytes.certificate, "certificate")?,
            members: bytes.members.ok_or(WireError::Field("members"))?.try_into()?,
        })
    }
}

fn der(bytes: Vec<u8>, field: &'static str) -> Result<Vec<u8>, WireError> {
    if bytes.is_empty() || bytes.len() > DER_BYTES_MAX {
        return Err(WireError::Field(field));
    }
    Ok(bytes)
}
