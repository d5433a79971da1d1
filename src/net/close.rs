//! Why connections and streams are closed: the codes on the wire and their words.

use quinn::{ApplicationClose, Connection, ConnectionError, TransportErrorCode, VarInt};

/// The node stops.
pub(super) const SHUTDOWN: VarInt = VarInt::from_u32(1);
/// Not a link but a knock: the closer dials back.
pub(super) const KNOCKED: VarInt = VarInt::from_u32(2);
/// A newer link of the same pair takes its place.
pub(super) const REPLACED: VarInt = VarInt::from_u32(3);
/// The peer is not in the closer's member list.
pub(super) const NOT_MEMBER: VarInt = VarInt::from_u32(4);
/// The peer was taken out of the cluster.
pub(super) const REMOVED: VarInt = VarInt::from_u32(5);
/// The peer sent what it must not.
pub(super) const PROTOCOL: VarInt = VarInt::from_u32(6);
/// No protocol that both can speak.
pub(super) const VERSION: VarInt = VarInt::from_u32(7);
/// The greeting or the enrolment took too long.
pub(super) const TIMEOUT: VarInt = VarInt::from_u32(8);
/// The enrolment is over, one way or the other.
pub(super) const ENROLLED: VarInt = VarInt::from_u32(9);
/// Too many at once.
pub(super) const BUSY: VarInt = VarInt::from_u32(10);
/// The peer said it would leave.
pub(super) const FAREWELL: VarInt = VarInt::from_u32(11);

/// Streams: the asker does not want the rest.
pub(super) const CANCELLED: VarInt = VarInt::from_u32(1);
/// Streams: of a kind that this release does not know.
pub(super) const UNKNOWN: VarInt = VarInt::from_u32(2);
/// Streams: the content could not be read to its end.
pub(super) const FAILED: VarInt = VarInt::from_u32(3);

/// The TLS alert for a certificate that is not valid now.
const TLS_CERTIFICATE_EXPIRED: u8 = 45;

/// Closes a connection; the peer is told why in words.
pub(super) fn close(connection: &Connection, code: VarInt, reason: &str) {
    connection.close(code, reason.as_bytes());
}

/// The code the peer closed with, if it did.
pub(super) fn code(error: &ConnectionError) -> Option<VarInt> {
    match error {
        ConnectionError::ApplicationClosed(ApplicationClose { error_code, .. }) => {
            Some(*error_code)
        }
        _ => None,
    }
}

/// What a peer means by a code.
pub(super) fn code_words(code: VarInt) -> &'static str {
    match code {
        SHUTDOWN => "the peer stops",
        KNOCKED => "the peer dials back",
        REPLACED => "a newer link took its place",
        NOT_MEMBER => "this node is not in the peer's member list",
        REMOVED => REMOVED_REASON,
        PROTOCOL => "the peer saw a protocol violation",
        VERSION => "no common protocol",
        TIMEOUT => "the peer waited too long for this node",
        BUSY => "the peer is busy",
        FAREWELL => "closed here",
        _ => "closed by the peer",
    }
}

/// What a node that was taken out is told.
pub const REMOVED_REASON: &str = "this node was removed from the cluster";

/// Why a connection ended, in words, on one line.
pub(super) fn words(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ApplicationClosed(ApplicationClose { error_code, reason }) => {
            let known = code_words(*error_code);
            match String::from_utf8_lossy(reason) {
                text if text.is_empty() => known.to_owned(),
                text => format!("{known}: {}", text.escape_debug()),
            }
        }
        ConnectionError::LocallyClosed => "closed here".to_owned(),
        ConnectionError::TimedOut => "no answer".to_owned(),
        ConnectionError::Reset => "the peer was restarted".to_owned(),
        other => {
            let text = other.to_string().escape_debug().to_string();
            if is_untimely(other) {
                // A node makes itself a certificate for a year at each start.
                format!("{text}; is the clock of one of the two wrong?")
            } else {
                text
            }
        }
    }
}

/// Whether a certificate was refused because of the time, here or there.
fn is_untimely(error: &ConnectionError) -> bool {
    let expired = TransportErrorCode::crypto(TLS_CERTIFICATE_EXPIRED);
    match error {
        ConnectionError::TransportError(error) => error.code == expired,
        ConnectionError::ConnectionClosed(frame) => frame.error_code == expired,
        _ => false,
    }
}
