//! Lanes: one stream per mount and lane, each with a task and a short queue of its own, so that
//! one that is blocked delays no other.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::mpsc;
use tracing::debug;

use super::api::NetEvent;
use super::pace::Pace;
use super::service::Shared;
use super::stream::{LONG_BYTES, StreamError, expect_frame, read_frame, write_frame};
use super::wire::{Announce, CONTROL_BYTES_MAX, LaneHead};
use super::{close, frame};
use crate::model::limits::{ANNOUNCE_RECORDS_MAX, FRAME_BYTES_MAX};
use crate::model::{Lane, NodeId, Sequence};

/// Announcements queued per lane, besides the one being written: enough to keep the stream busy
/// while the next ones are made, few enough that a late urgent change is not behind megabytes.
pub(super) const LANE_QUEUE: usize = 4;

/// QUIC priority of a lane's stream; fetches of the lane's content are a little lower.
pub(super) const fn priority(lane: Lane) -> i32 {
    match lane {
        Lane::Urgent => 90,
        Lane::Release => 70,
        Lane::Normal => 50,
        Lane::Derived => 30,
        Lane::Forward => 20,
    }
}

/// Why an announcement was not queued.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    /// The queue is full; the callback of [`LaneSender::on_capacity`] tells when it is not. The
    /// announcement comes back.
    #[error("lane is full")]
    Full(Announce),
    /// The link is gone, or the peer does not know this lane.
    #[error("lane is closed")]
    Closed,
}

/// Sends announcements on one lane of one link.
#[derive(Clone)]
pub struct LaneSender {
    queue: mpsc::Sender<Announce>,
    room: Arc<Room>,
}

#[derive(Default)]
struct Room {
    /// Someone found the queue full since it was last told otherwise.
    awaited: AtomicBool,
    callback: Mutex<Option<Arc<dyn Fn() + Send + Sync>>>,
}

impl Room {
    fn made(&self) {
        if !self.awaited.swap(false, Ordering::AcqRel) {
            return;
        }
        let callback = self.callback.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(callback) = callback {
            callback();
        }
    }
}

impl LaneSender {
    /// Queues an announcement. Never blocks.
    ///
    /// # Errors
    /// [`LaneError`]; nothing was queued then.
    pub fn try_send(&self, announce: Announce) -> Result<(), LaneError> {
        use mpsc::error::TrySendError::{Closed, Full};
        let announce = match self.queue.try_send(announce) {
            Ok(()) => return Ok(()),
            Err(Closed(_)) => return Err(LaneError::Closed),
            Err(Full(announce)) => announce,
        };
        // Once more after asking to be told: room made in between would go unnoticed.
        self.room.awaited.store(true, Ordering::Release);
        self.queue.try_send(announce).map_err(|error| match error {
            Full(announce) => LaneError::Full(announce),
            Closed(_) => LaneError::Closed,
        })
    }

    /// How many announcements can be queued now; whoever is told 0 is called back.
    #[must_use]
    pub fn capacity(&self) -> usize {
        match self.queue.capacity() {
            0 => {
                self.room.awaited.store(true, Ordering::Release);
                self.queue.capacity()
            }
            capacity => capacity,
        }
    }

    /// Sets what to call when a lane that was found full has room again, or is closed. Called on
    /// the network's runtime: it must not block. The last one set counts.
    pub fn on_capacity(&self, callback: impl Fn() + Send + Sync + 'static) {
        let mut set = self.room.callback.lock().unwrap_or_else(PoisonError::into_inner);
        *set = Some(Arc::new(callback));
    }

    /// A lane whose announcements come out of the receiver.
    fn new() -> (Self, Outlet) {
        let (queue, announces) = mpsc::channel(LANE_QUEUE);
        let room = Arc::new(Room::default());
        (Self { queue, room: room.clone() }, Outlet { announces, room })
    }
}

/// The other end of a [`LaneSender`].
struct Outlet {
    announces: mpsc::Receiver<Announce>,
    room: Arc<Room>,
}

impl Drop for Outlet {
    fn drop(&mut self) {
        self.announces.close();
        self.room.made();
    }
}

/// A lane that is closed from the start.
pub(super) fn closed() -> LaneSender {
    LaneSender::new().0
}

/// Opens a lane's stream and sends on it what is queued, until the link ends. Returns the sender
/// and the task to run.
pub(super) fn open(
    connection: Connection,
    head: LaneHead,
    pace: Arc<Pace>,
) -> (LaneSender, impl Future<Output = ()> + Send) {
    let (sender, mut outlet) = LaneSender::new();
    let task = async move {
        let (mount, lane) = (head.mount.clone(), head.lane);
        let lost = connection.closed();
        tokio::select! {
            sent = send(&connection, &head, &mut outlet, &pace) => if let Err(error) = sent {
                debug!(mount, ?lane, error = &error as &dyn std::error::Error, "lane was closed");
            },
            _ = lost => {}
        }
    };
    (sender, task)
}

async fn send(
    connection: &Connection,
    head: &LaneHead,
    outlet: &mut Outlet,
    pace: &Pace,
) -> Result<(), StreamError> {
    let mut stream = connection.open_uni().await.map_err(|_| StreamError::Closed)?;
    stream.set_priority(priority(head.lane)).map_err(|_| StreamError::Closed)?;
    write_frame(&mut stream, &head.encode()).await?;
    while let Some(announce) = outlet.announces.recv().await {
        outlet.room.made();
        send_announce(&mut stream, announce, (pace, head.lane)).await?;
    }
    Ok(())
}

async fn send_announce(
    stream: &mut SendStream,
    announce: Announce,
    (pace, lane): (&Pace, Lane),
) -> Result<(), StreamError> {
    let bytes: usize = announce
        .records
        .iter()
        .map(|a| a.content.as_ref().map_or(0, |c| c.len()) + a.record.path.as_bytes().len())
        .sum();
    let frames = if bytes <= LONG_BYTES {
        encode(announce)?
    } else {
        let encoded = tokio::task::spawn_blocking(move || encode(announce)).await;
        encoded.map_err(|_| StreamError::Closed)??
    };
    for frame in frames {
        pace.wait(lane, frame.len()).await;
        stream.write_chunk(frame.into()).await?;
    }
    Ok(())
}

/// The frames of an announcement: one, unless it is larger than a frame may be.
fn encode(announce: Announce) -> Result<Vec<Vec<u8>>, frame::FrameError> {
    let mut frames = Vec::new();
    let mut rest = vec![announce];
    while let Some(mut announce) = rest.pop() {
        let message = announce.encode();
        let fits =
            announce.records.len() <= ANNOUNCE_RECORDS_MAX && message.len() <= FRAME_BYTES_MAX;
        if fits || announce.records.len() < 2 {
            frames.push(frame::encode_compressed(&message)?);
            continue;
        }
        let second = announce.records.split_off(announce.records.len() / 2);
        // Only the last part may say that everything was sent.
        rest.push(Announce { records: second, ..announce });
        rest.push(Announce {
            records: announce.records,
            progress: Sequence(0),
            moved: announce.moved,
        });
    }
    Ok(frames)
}

/// Which lanes a peer has opened on a link.
#[derive(Default)]
pub(super) struct OpenLanes(Mutex<HashSet<(String, Lane)>>);

impl OpenLanes {
    fn add(&self, head: &LaneHead) -> bool {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.insert((head.mount.clone(), head.lane))
    }
}

/// Reads a stream that the peer opened: one frame at a time, the next one only after the last was
/// taken.
pub(super) async fn read(
    shared: Arc<Shared>,
    peer: NodeId,
    open: Arc<OpenLanes>,
    mut stream: RecvStream,
) -> Result<(), StreamError> {
    let head = expect_frame(&mut stream, CONTROL_BYTES_MAX).await?;
    let Some(head) = LaneHead::decode(&head)? else {
        debug!(%peer, "ignored a stream of an unknown kind");
        drop(stream.stop(close::UNKNOWN));
        return Ok(());
    };
    if !open.add(&head) {
        return Err(StreamError::Unexpected("second stream of a lane"));
    }
    while let Some(message) = read_frame(&mut stream, FRAME_BYTES_MAX).await? {
        let announce = if message.len() <= LONG_BYTES {
            Announce::decode(&message)?
        } else {
            let decoded = tokio::task::spawn_blocking(move || Announce::decode(&message)).await;
            decoded.map_err(|_| StreamError::Closed)??
        };
        let (mount, lane) = (head.mount.clone(), head.lane);
        shared.handler.event(NetEvent::Announce { peer, mount, lane, announce }).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::model::{Record, RelPath, Stamp, Version};
    use crate::net::frame::{FrameHead, HEAD_BYTES};
    use crate::net::wire::Announced;

    fn announce(records: usize) -> Announce {
        let announced = |n: usize| Announced {
            sequence: Sequence(n as u64 + 1),
            record: Record {
                path: RelPath::parse(&[b"abcdefgh"[n % 8]; 200]).unwrap(),
                entry: None,
                version: Version::edit(Stamp { counter: 1, node: NodeId(1) }, None),
            },
            after: None,
            content: None,
        };
        Announce {
            records: (0..records).map(announced).collect(),
            progress: Sequence(9999),
            moved: Sequence(0),
        }
    }

    #[test]
    fn an_announcement_too_large_for_a_frame_is_split_in_order() {
        let whole = announce(3 * ANNOUNCE_RECORDS_MAX);
        let frames = encode(whole.clone()).unwrap();
        let parts: Vec<Announce> = frames
            .iter()
            .map(|frame| {
                let (head, body) = frame.split_first_chunk::<HEAD_BYTES>().unwrap();
                let head = FrameHead::parse(*head, FRAME_BYTES_MAX).unwrap();
                Announce::decode(&head.open(body.to_vec(), FRAME_BYTES_MAX).unwrap()).unwrap()
            })
            .collect();
        let (last, others) = parts.split_last().unwrap();
        assert_eq!(Sequence(9999), last.progress);
        assert!(others.len() >= 2 && others.iter().all(|part| part.progress == Sequence(0)));
        let records: Vec<Announced> = parts.into_iter().flat_map(|part| part.records).collect();
        assert_eq!(whole.records, records);
    }

    #[test]
    fn whoever_found_a_lane_full_is_called_once_there_is_room() {
        let (lane, mut outlet) = LaneSender::new();
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        lane.on_capacity(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        for _ in 0..LANE_QUEUE {
            lane.try_send(announce(1)).unwrap();
        }
        outlet.room.made();
        assert_eq!(0, calls.load(Ordering::Relaxed));
        assert!(matches!(lane.try_send(announce(2)), Err(LaneError::Full(a)) if a == announce(2)));
        assert_eq!(0, lane.capacity());
        outlet.announces.try_recv().unwrap();
        outlet.room.made();
        outlet.room.made();
        assert_eq!(1, calls.load(Ordering::Relaxed));
        assert_eq!(1, lane.capacity());
        lane.try_send(announce(1)).unwrap();
        assert_eq!(0, lane.capacity());
        drop(outlet);
        assert_eq!(2, calls.load(Ordering::Relaxed));
        assert!(matches!(lane.try_send(announce(1)), Err(LaneError::Closed)));
    }
}
