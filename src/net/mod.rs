//! QUIC between the nodes: who they are, how they find and trust each other, what they say.
//!
//! In: messages, announcements, requests for content, by way of a [`LinkHandle`] per peer that is
//! up. Out: [`NetEvent`]s, given to a [`Handler`], who answers requests too. One link per pair of
//! nodes, kept up by itself. It never sees a file of a mount, nor the index; the only files it
//! reads and writes are its own in the state folder (identity, members, tickets). Every queue is
//! bounded, every length from outside checked first. `docs/protocol.md` has the bytes.

mod api;
mod certificate;
mod close;
mod doorman;
mod endpoint;
mod enrol;
mod files;
pub mod frame;
mod identity;
mod join;
mod lanes;
mod link;
pub mod members;
mod pace;
mod peer;
mod renew;
mod requests;
mod roster;
mod service;
mod stream;
mod throttle;
mod ticket;
mod tickets;
mod tls;
pub mod wire;

#[cfg(test)]
mod tests;

pub use api::{Handler, NetConfig, NetEvent, PeerStatus};
pub use close::REMOVED_REASON;
pub use identity::{IdentityError, InitError, Initialised, init, is_initialised, node_id};
pub use join::{JoinError, JoinRequest, Joined, join};
pub use lanes::{LaneError, LaneSender};
pub use link::{LinkHandle, SendError};
pub use members::{ClusterId, MarkerId, Member, MemberState, Members, is_address};
pub use requests::{FetchError, RpcError};
pub use roster::{RosterError, load_members};
pub use service::{Net, NetError, RemoveError};
pub use ticket::{MalformedTicket, Secret, Ticket};
pub use tickets::{InviteError, invite};
pub use wire::{
    Ack, Announce, Announced, ControlMessage, FetchRequest, Hello, LaneHead, MountHello,
    MountState, Refusal, Request,
};
