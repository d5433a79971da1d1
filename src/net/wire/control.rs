//! The control stream's messages: greetings, members, the state of mounts, acknowledgements.

use prost::{Message, Oneof};

use super::members::MembersBytes;
use super::{CONTROL_BYTES_MAX, WireError, array, at_most, clip, label, node, sequence, text};
use crate::model::{Incarnation, Lane, NodeId, Sequence, limits};
use crate::net::members::{MEMBERS_MAX, Members};

/// One message of the control stream.
#[derive(Clone, PartialEq, Debug)]
pub enum ControlMessage {
    /// The first one, both ways.
    Hello(Hello),
    /// The member list as the sender knows it: after the greeting and whenever it changed.
    Members(Members),
    /// What the sender has of a mount and what it wants: after the greeting, and anew whenever its
    /// policy or its index's incarnation changed.
    MountHello(MountHello),
    /// How far the sender is with a mount.
    State(Box<MountState>),
    /// What is durable at the sender.
    Ack(Ack),
    /// The sender leaves, and this is its last message: the receiver closes the connection.
    /// Carries the code that the sender would have closed with.
    Bye(u32),
    /// The sender renewed its certificate, and when that one ends, in seconds since 1970.
    Certificate(u64),
}

/// Who speaks and which protocols it can.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The lowest protocol the sender can speak.
    pub protocol_min: u32,
    /// The highest protocol the sender can speak; at least `protocol_min`.
    pub protocol_max: u32,
    /// One bit an optional feature; unknown bits mean nothing.
    pub features: u64,
    /// The node's name.
    pub name: String,
    /// The program's release, for people.
    pub release: String,
}

/// What a node has of a mount and wants of the other's index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountHello {
    /// The mount's name.
    pub mount: String,
    /// Hash of the classes and ignores; both sides must have the same.
    pub policy: [u8; 32],
    /// The life of the sender's index.
    pub incarnation: Incarnation,
    /// The receiver's incarnation that `cursors` belong to; zero for none.
    pub known: Incarnation,
    /// What the sender has durably of the receiver's index, each lane once, in lane order.
    pub cursors: Vec<(Lane, Sequence)>,
    /// What has come to the sender, durable or not, as far as that may be more.
    pub arrived: Vec<(Lane, Sequence)>,
    /// Whether the mount is paused at the sender.
    pub paused: bool,
    /// The last sequence the sender's index gave.
    pub head: Sequence,
    /// The life that this one of the sender's index goes on from, and up to where the receiver is known
    /// to have it.
    pub former: Option<(Incarnation, Vec<(Lane, Sequence)>)>,
    /// Up to where the sender has dropped tombstones, per lane: who has less of it never heard of those
    /// deletions, and never will.
    pub dropped: Vec<(Lane, Sequence)>,
}

/// How far a node is with a mount.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MountState {
    /// The mount's name.
    pub mount: String,
    /// The last sequence the sender's index gave.
    pub head: Sequence,
    /// Set hash of the live records.
    pub fingerprint: [u8; 32],
    /// Set hash of their versions.
    pub versions_fingerprint: [u8; 32],
    /// Live records.
    pub files: u64,
    /// Bytes of live files.
    pub bytes: u64,
    /// Wants and dirty paths.
    pub pending: u64,
    /// Problems listed or counted.
    pub problems: u64,
    /// Nodes the sender is linked with, at most [`limits::NODES_MAX`].
    pub links: Vec<NodeId>,
    /// Why the mount is halted; empty if it is not.
    pub halted: String,
    /// Deletions made at the sender that it has told nobody.
    pub held: u64,
}

/// What is durable at the sender, of the receiver's index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ack {
    /// The mount's name.
    pub mount: String,
    /// The incarnation of the receiver's index.
    pub incarnation: Incarnation,
    /// Everything up to here, each lane once, in lane order.
    pub lanes: Vec<(Lane, Sequence)>,
}

#[derive(Clone, PartialEq, Message)]
struct ControlBytes {
    #[prost(oneof = "ControlKind", tags = "1, 2, 3, 4, 5, 6, 7")]
    kind: Option<ControlKind>,
}

#[derive(Clone, PartialEq, Oneof)]
enum ControlKind {
    #[prost(message, tag = "1")]
    Hello(HelloBytes),
    #[prost(message, tag = "2")]
    Members(MembersBytes),
    #[prost(message, tag = "3")]
    MountHello(MountHelloBytes),
    #[prost(message, tag = "4")]
    State(MountStateBytes),
    #[prost(message, tag = "5")]
    Ack(AckBytes),
    #[prost(message, tag = "6")]
    Bye(ByeBytes),
    #[prost(message, tag = "7")]
    Certificate(CertificateBytes),
}

#[derive(Clone, PartialEq, Message)]
struct HelloBytes {
    #[prost(uint32, tag = "1")]
    protocol_min: u32,
    #[prost(uint32, tag = "2")]
    protocol_max: u32,
    #[prost(uint64, tag = "3")]
    features: u64,
    #[prost(string, tag = "4")]
    name: String,
    #[prost(string, tag = "5")]
    release: String,
}

#[derive(Clone, PartialEq, Message)]
struct CursorBytes {
    #[prost(uint32, tag = "1")]
    lane: u32,
    #[prost(uint64, tag = "2")]
    sequence: u64,
}

#[derive(Clone, PartialEq, Message)]
struct MountHelloBytes {
    #[prost(string, tag = "1")]
    mount: String,
    #[prost(bytes = "vec", tag = "2")]
    policy: Vec<u8>,
    #[prost(fixed64, tag = "3")]
    incarnation: u64,
    #[prost(fixed64, tag = "4")]
    known: u64,
    #[prost(message, repeated, tag = "5")]
    cursors: Vec<CursorBytes>,
    #[prost(bool, tag = "6")]
    paused: bool,
    #[prost(uint64, tag = "7")]
    head: u64,
    #[prost(fixed64, tag = "8")]
    former: u64,
    #[prost(message, repeated, tag = "9")]
    former_cursors: Vec<CursorBytes>,
    #[prost(message, repeated, tag = "10")]
    dropped: Vec<CursorBytes>,
    #[prost(message, repeated, tag = "11")]
    arrived: Vec<CursorBytes>,
}

#[derive(Clone, PartialEq, Message)]
struct MountStateBytes {
    #[prost(string, tag = "1")]
    mount: String,
    #[prost(uint64, tag = "2")]
    head: u64,
    #[prost(bytes = "vec", tag = "3")]
    fingerprint: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    versions_fingerprint: Vec<u8>,
    #[prost(uint64, tag = "5")]
    files: u64,
    #[prost(uint64, tag = "6")]
    bytes: u64,
    #[prost(uint64, tag = "7")]
    pending: u64,
    #[prost(uint64, tag = "8")]
    problems: u64,
    #[prost(fixed64, repeated, tag = "9")]
    links: Vec<u64>,
    #[prost(string, tag = "10")]
    halted: String,
    #[prost(uint64, tag = "11")]
    held: u64,
}

#[derive(Clone, PartialEq, Message)]
struct AckBytes {
    #[prost(string, tag = "1")]
    mount: String,
    #[prost(fixed64, tag = "2")]
    incarnation: u64,
    #[prost(message, repeated, tag = "3")]
    lanes: Vec<CursorBytes>,
}

#[derive(Clone, PartialEq, Message)]
struct ByeBytes {
    #[prost(uint32, tag = "1")]
    code: u32,
}

#[derive(Clone, PartialEq, Message)]
struct CertificateBytes {
    #[prost(uint64, tag = "1")]
    ends_secs: u64,
}

impl ControlMessage {
    /// The message's bytes, at most [`CONTROL_BYTES_MAX`] if its texts are valid.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let kind = match self {
            Self::Hello(hello) => ControlKind::Hello(hello.into()),
            Self::Members(members) => ControlKind::Members(members.into()),
            Self::MountHello(hello) => ControlKind::MountHello(hello.into()),
            Self::State(state) => ControlKind::State(state.as_ref().into()),
            Self::Ack(ack) => ControlKind::Ack(ack.into()),
            Self::Bye(code) => ControlKind::Bye(ByeBytes { code: *code }),
            Self::Certificate(ends_secs) => {
                ControlKind::Certificate(CertificateBytes { ends_secs: *ends_secs })
            }
        };
        ControlBytes { kind: Some(kind) }.encode_to_vec()
    }

    /// The message in `bytes`; nothing if it is of a kind this release does not know.
    ///
    /// # Errors
    /// [`WireError`], for what no release can have sent.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, WireError> {
        if bytes.len() > CONTROL_BYTES_MAX {
            return Err(WireError::Field("length"));
        }
        at_most(MEMBERS_MAX, bytes, &[2, 2])?;
        let Some(kind) = ControlBytes::decode(bytes)?.kind else { return Ok(None) };
        Ok(Some(match kind {
            ControlKind::Hello(hello) => Self::Hello(hello.try_into()?),
            ControlKind::Members(members) => Self::Members(members.try_into()?),
            ControlKind::MountHello(hello) => Self::MountHello(hello.try_into()?),
            ControlKind::State(state) => Self::State(Box::new(state.try_into()?)),
            ControlKind::Ack(ack) => Self::Ack(ack.try_into()?),
            ControlKind::Bye(bye) => Self::Bye(bye.code),
            ControlKind::Certificate(certificate) => Self::Certificate(certificate.ends_secs),
        }))
    }
}

impl From<&Hello> for HelloBytes {
    fn from(hello: &Hello) -> Self {
        Self {
            protocol_min: hello.protocol_min,
            protocol_max: hello.protocol_max,
            features: hello.features,
            name: hello.name.clone(),
            release: clip(&hello.release),
        }
    }
}

impl TryFrom<HelloBytes> for Hello {
    type Error = WireError;

    fn try_from(bytes: HelloBytes) -> Result<Self, WireError> {
        if bytes.protocol_min == 0 || bytes.protocol_min > bytes.protocol_max {
            return Err(WireError::Field("protocol"));
        }
        Ok(Self {
            protocol_min: bytes.protocol_min,
            protocol_max: bytes.protocol_max,
            features: bytes.features,
            name: label(bytes.name, "node name")?,
            release: text(bytes.release, "release")?,
        })
    }
}

fn cursor_bytes(cursors: &[(Lane, Sequence)]) -> Vec<CursorBytes> {
    let bytes = |&(lane, sequence): &(Lane, Sequence)| CursorBytes {
        lane: lane.number().into(),
        sequence: sequence.0,
    };
    cursors.iter().map(bytes).collect()
}

/// Lanes of later releases are skipped; a lane twice is an error.
fn cursors(bytes: &[CursorBytes]) -> Result<Vec<(Lane, Sequence)>, WireError> {
    let mut cursors: Vec<(Lane, Sequence)> = bytes
        .iter()
        .filter_map(|b| Some((Lane::from_number(b.lane)?, b.sequence)))
        .map(|(lane, number)| Ok((lane, sequence(number)?)))
        .collect::<Result<_, WireError>>()?;
    cursors.sort_unstable();
    if cursors.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return Err(WireError::Field("cursors"));
    }
    Ok(cursors)
}

impl From<&MountHello> for MountHelloBytes {
    fn from(hello: &MountHello) -> Self {
        Self {
            mount: hello.mount.clone(),
            policy: hello.policy.to_vec(),
            incarnation: hello.incarnation.0,
            known: hello.known.0,
            cursors: cursor_bytes(&hello.cursors),
            paused: hello.paused,
            head: hello.head.0,
            former: hello.former.as_ref().map_or(0, |(life, _)| life.0),
            dropped: cursor_bytes(&hello.dropped),
            arrived: cursor_bytes(&hello.arrived),
            former_cursors: hello.former.as_ref().map_or(Vec::new(), |(_, at)| cursor_bytes(at)),
        }
    }
}

impl TryFrom<MountHelloBytes> for MountHello {
    type Error = WireError;

    fn try_from(bytes: MountHelloBytes) -> Result<Self, WireError> {
        if bytes.incarnation == 0 {
            return Err(WireError::Field("incarnation"));
        }
        Ok(Self {
            mount: label(bytes.mount, "mount name")?,
            policy: array(&bytes.policy, "policy")?,
            incarnation: Incarnation(bytes.incarnation),
            known: Incarnation(bytes.known),
            cursors: cursors(&bytes.cursors)?,
            paused: bytes.paused,
            head: sequence(bytes.head)?,
            former: match bytes.former {
                0 => None,
                life => Some((Incarnation(life), cursors(&bytes.former_cursors)?)),
            },
            dropped: cursors(&bytes.dropped)?,
            arrived: cursors(&bytes.arrived)?,
        })
    }
}

impl From<&MountState> for MountStateBytes {
    fn from(state: &MountState) -> Self {
        Self {
            mount: state.mount.clone(),
            head: state.head.0,
            fingerprint: state.fingerprint.to_vec(),
            versions_fingerprint: state.versions_fingerprint.to_vec(),
            files: state.files,
            bytes: state.bytes,
            pending: state.pending,
            problems: state.problems,
            links: state.links.iter().take(limits::NODES_MAX).map(|n| n.0).collect(),
            halted: clip(&state.halted),
            held: state.held,
        }
    }
}

impl TryFrom<MountStateBytes> for MountState {
    type Error = WireError;

    fn try_from(bytes: MountStateBytes) -> Result<Self, WireError> {
        if bytes.links.len() > limits::NODES_MAX {
            return Err(WireError::Field("links"));
        }
        Ok(Self {
            mount: label(bytes.mount, "mount name")?,
            head: sequence(bytes.head)?,
            fingerprint: array(&bytes.fingerprint, "fingerprint")?,
            versions_fingerprint: array(&bytes.versions_fingerprint, "versions fingerprint")?,
            files: bytes.files,
            bytes: bytes.bytes,
            pending: bytes.pending,
            problems: bytes.problems,
            links: bytes.links.into_iter().map(node).collect::<Result<_, _>>()?,
            halted: text(bytes.halted, "halt reason")?,
            held: bytes.held,
        })
    }
}

impl From<&Ack> for AckBytes {
    fn from(ack: &Ack) -> Self {
        Self {
            mount: ack.mount.clone(),
            incarnation: ack.incarnation.0,
            lanes: cursor_bytes(&ack.lanes),
        }
    }
}

impl TryFrom<AckBytes> for Ack {
    type Error = WireError;

    fn try_from(bytes: AckBytes) -> Result<Self, WireError> {
        Ok(Self {
            mount: label(bytes.mount, "mount name")?,
            incarnation: Incarnation(bytes.incarnation),
            lanes: cursors(&bytes.lanes)?,
        })
    }
}
