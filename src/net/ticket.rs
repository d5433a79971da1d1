//! Tickets: what a new node needs to join, as one line of text.
//!
//! `trefoil1-` and the base64url of a protobuf and four bytes of its BLAKE3, so that a line cut
//! short by a terminal is told from a wrong one. Pure.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;

use super::wire::{decode_ticket, encode_ticket};
use crate::model::NodeId;

const PREFIX: &str = "trefoil1-";
const CHECKSUM_BYTES: usize = 4;

/// Characters of a ticket: one with sixteen long addresses fits.
const TICKET_CHARS_MAX: usize = 8 << 10;

/// What only the holder of a ticket knows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret(pub [u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Lets one node join, once, until it expires.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ticket {
    /// Where the inviting node listens: `host:port`.
    pub addresses: Vec<String>,
    /// The inviting node.
    pub inviter: NodeId,
    /// BLAKE3 of the cluster's certificate, DER.
    pub pin: [u8; 32],
    /// Proves that the node was invited.
    pub secret: Secret,
    /// BLAKE3 of the inviting node's public key: a former member, who still has the cluster's, cannot
    /// answer in its place.
    pub key: [u8; 32],
    /// In seconds since 1970; judged by the inviting node's clock.
    pub expires_secs: u64,
}

/// The text is no ticket: cut short, mistyped, or something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed ticket: copy the whole line that `invite` printed")]
pub struct MalformedTicket;

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = encode_ticket(self);
        bytes.extend_from_slice(&checksum(&bytes));
        write!(f, "{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes))
    }
}

impl FromStr for Ticket {
    type Err = MalformedTicket;

    fn from_str(text: &str) -> Result<Self, MalformedTicket> {
        let text = text.trim();
        if text.len() > TICKET_CHARS_MAX {
            return Err(MalformedTicket);
        }
        let text = text.strip_prefix(PREFIX).ok_or(MalformedTicket)?;
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| MalformedTicket)?;
        let (bytes, sum) = bytes.split_last_chunk().ok_or(MalformedTicket)?;
        if checksum(bytes) != *sum {
            return Err(MalformedTicket);
        }
        decode_ticket(bytes).map_err(|_| MalformedTicket)
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = blake3::hash(bytes);
    *hash.as_bytes().first_chunk().expect("a hash is longer than a checksum")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Ticket {
        Ticket {
            addresses: vec!["127.0.0.1:7440".to_owned(), "node-1.example:7440".to_owned()],
            inviter: NodeId(5),
            pin: [1; 32],
            secret: Secret([2; 32]),
            key: [3; 32],
            expires_secs: 1_900_000_000,
        }
    }

    #[test]
    fn a_ticket_is_one_line_and_reads_back() {
        let line = ticket().to_string();
        assert!(line.bytes().all(|b| b.is_ascii_graphic()));
        assert_eq!(Ok(ticket()), format!(" {line}\n").parse());
    }

    #[test]
    fn a_changed_or_shortened_ticket_is_malformed() {
        let line = ticket().to_string();
        for at in PREFIX.len()..line.len() {
            let other = if line.as_bytes()[at] == b'A' { "B" } else { "A" };
            let mut changed = line.clone();
            changed.replace_range(at..=at, other);
            assert_eq!(Err(MalformedTicket), changed.parse::<Ticket>(), "{at}");
            assert_eq!(Err(MalformedTicket), line[..at].parse::<Ticket>(), "{at}");
        }
        assert_eq!(Err(MalformedTicket), "".parse::<Ticket>());
        assert_eq!(Err(MalformedTicket), "trefoil1-é".parse::<Ticket>());
    }
}
