//! Where the control thread of one mount gets everything that happens, in one place.
//!
//! Answers to what was handed out are bounded by what is handed out at a time, so they never wait.
//! Announcements and messages of peers wait for room: their senders are held up, which is the
//! backpressure. Announcements have room for each peer apart, and peers take turns: one whose
//! announcements are not taken, or who never stops, holds up itself.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::model::NodeId;

/// Announcements of one peer that wait for the control thread at most, and urgent ones besides.
const BULK_MAX: usize = 8;

/// Messages of peers that wait for the control thread at most. They come on one stream for all mounts
/// of a link, so honest peers must not fill it while one mount stands for minutes.
const MESSAGES_MAX: usize = 4096;

/// Events taken at a time: one batch of decisions, one transaction.
const BATCH_MAX: usize = 256;

/// A queue with one reader.
#[derive(Debug)]
pub(super) struct Mailbox<E, B> {
    queues: Mutex<Queues<E, B>>,
    ready: Condvar,
    message_room: Arc<Semaphore>,
    /// How many records an announcement has.
    weigh: fn(&B) -> usize,
    /// Whether an event is a message that waited for room.
    is_message: fn(&E) -> bool,
}

#[derive(Debug)]
struct Queues<E, B> {
    events: VecDeque<E>,
    peers: BTreeMap<NodeId, Lines<B>>,
    /// Whose bulk was taken last.
    last: NodeId,
    /// Something without a message of its own happened.
    woken: bool,
    closed: bool,
}

/// What one peer announced.
#[derive(Debug)]
struct Lines<B> {
    /// Small, and taken before the rest: bulk never delays it.
    express: Line<B>,
    bulk: Line<B>,
}

/// Announcements in order, and room for more.
#[derive(Debug)]
struct Line<B> {
    waiting: VecDeque<B>,
    room: Arc<Semaphore>,
}

impl<B> Lines<B> {
    fn new(closed: bool) -> Self {
        Self { express: Line::new(closed), bulk: Line::new(closed) }
    }

    fn line(&mut self, express: bool) -> &mut Line<B> {
        if express { &mut self.express } else { &mut self.bulk }
    }
}

impl<B> Line<B> {
    fn new(closed: bool) -> Self {
        let room = Arc::new(Semaphore::new(BULK_MAX));
        if closed {
            room.close();
        }
        Self { waiting: VecDeque::new(), room }
    }

    fn pop(&mut self) -> Option<B> {
        let first = self.waiting.pop_front()?;
        self.room.add_permits(1);
        Some(first)
    }
}

impl<E, B> Queues<E, B> {
    fn lines(&mut self, peer: NodeId) -> &mut Lines<B> {
        let closed = self.closed;
        self.peers.entry(peer).or_insert_with(|| Lines::new(closed))
    }

    /// Whose turn it is of those who have bulk that may be taken.
    fn next(&self, may: impl Fn(NodeId, bool) -> bool) -> Option<NodeId> {
        let after = self.peers.range((Excluded(self.last), Unbounded));
        let mut turns = after.chain(self.peers.range(..=self.last));
        let has = |(peer, lines): &(&NodeId, &Lines<B>)| {
            !lines.bulk.waiting.is_empty() && may(**peer, false)
        };
        turns.find(has).map(|(peer, _)| *peer)
    }
}

/// What the control thread takes at a time.
#[derive(Debug)]
pub(super) struct Batch<E, B> {
    pub events: Vec<E>,
    pub bulk: Vec<B>,
}

impl<E, B> Mailbox<E, B> {
    pub(super) fn new(weigh: fn(&B) -> usize, is_message: fn(&E) -> bool) -> Self {
        let queues = Queues {
            events: VecDeque::new(),
            peers: BTreeMap::new(),
            last: NodeId(0),
            woken: false,
            closed: false,
        };
        Self {
            queues: Mutex::new(queues),
            ready: Condvar::new(),
            message_room: Arc::new(Semaphore::new(MESSAGES_MAX)),
            weigh,
            is_message,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queues<E, B>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an event behind the others.
    pub(super) fn push(&self, event: E) {
        self.lock().events.push_back(event);
        self.ready.notify_one();
    }

    /// Puts a message behind the other events once there is room for one more.
    pub(super) async fn push_message(&self, message: E) {
        if let Ok(permit) = self.message_room.acquire().await {
            permit.forget();
        }
        self.push(message);
    }

    /// The reader is gone: nobody waits for room any more.
    pub(super) fn close(&self) {
        let mut queues = self.lock();
        queues.closed = true;
        for lines in queues.peers.values() {
            lines.express.room.close();
            lines.bulk.room.close();
        }
        drop(queues);
        self.message_room.close();
    }

    /// Has the reader look around, without a message.
    pub(super) fn wake(&self) {
        self.lock().woken = true;
        self.ready.notify_one();
    }

    /// Puts an announcement behind the others of its peer and kind once there is room.
    pub(super) async fn push_bulk(&self, peer: NodeId, bulk: B, express: bool) {
        let room = self.lock().lines(peer).line(express).room.clone();
        // Closed only when nobody reads any more.
        if let Ok(permit) = room.acquire().await {
            permit.forget();
        }
        self.lock().lines(peer).line(express).waiting.push_back(bulk);
        self.ready.notify_one();
    }

    /// Takes out what a peer announced that means nothing any more: nothing more of it is on the way.
    pub(super) fn drop_bulk(&self, peer: NodeId) {
        self.lock().peers.remove(&peer);
    }

    /// Waits until there is something, or for `at_most`, and takes it. Of the announcements those
    /// are taken that `may` be, by their peer and whether they are express. Of those that may be
    /// late, as many as have `room` records together are taken, one after the other of each peer,
    /// and none without room; one is never cut, so the last may have more.
    pub(super) fn take(
        &self,
        at_most: Duration,
        room: usize,
        may: impl Fn(NodeId, bool) -> bool,
    ) -> Batch<E, B> {
        let urges = |(peer, lines): (&NodeId, &Lines<B>)| {
            !lines.express.waiting.is_empty() && may(*peer, true)
        };
        let nothing = |queues: &mut Queues<E, B>| {
            queues.events.is_empty()
                && !queues.woken
                && !queues.peers.iter().any(urges)
                && (room == 0 || queues.next(&may).is_none())
        };
        let waited = self.ready.wait_timeout_while(self.lock(), at_most, nothing);
        let (mut queues, _) = waited.unwrap_or_else(PoisonError::into_inner);
        queues.woken = false;
        let count = queues.events.len().min(BATCH_MAX);
        let events: Vec<E> = queues.events.drain(..count).collect();
        self.message_room
            .add_permits(events.iter().filter(|event| (self.is_message)(event)).count());
        let mut bulk = Vec::new();
        for (_, lines) in queues.peers.iter_mut().filter(|(peer, _)| may(**peer, true)) {
            bulk.extend(std::iter::from_fn(|| lines.express.pop()));
        }
        let mut taken = 0;
        while taken < room
            && let Some(peer) = queues.next(&may)
        {
            queues.last = peer;
            let Some(next) = queues.lines(peer).bulk.pop() else { break };
            taken += (self.weigh)(&next).max(1);
            bulk.push(next);
        }
        drop(queues);
        Batch { events, bulk }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: NodeId = NodeId(1);
    const OTHER: NodeId = NodeId(2);

    fn all(_: NodeId, _: bool) -> bool {
        true
    }

    fn run<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn announcements_wait_for_room_and_events_do_not() {
        let mailbox = Mailbox::<u32, u32>::new(|_| 1, |_| true);
        let take = |room| mailbox.take(Duration::ZERO, room, all);
        run(async {
            for n in 0..u32::try_from(BULK_MAX).unwrap() {
                mailbox.push_bulk(ONE, n, false).await;
            }
            let mut blocked = Box::pin(mailbox.push_bulk(ONE, 99, false));
            assert!(futures_now(&mut blocked).await.is_none());
            mailbox.push(1);
            let batch = take(0);
            assert_eq!((vec![1], 0), (batch.events, batch.bulk.len()));
            mailbox.push_bulk(ONE, 50, true).await;
            assert_eq!(vec![50], take(0).bulk);
            assert_eq!(vec![0], take(1).bulk);
            blocked.await;
            for n in 1..u32::try_from(BULK_MAX).unwrap() {
                assert_eq!(vec![n], take(1).bulk);
            }
            assert_eq!(vec![99], take(1).bulk);
        });
    }

    #[test]
    fn announcements_are_taken_while_there_is_room_for_their_records() {
        let mailbox = Mailbox::<(), usize>::new(|&records| records, |()| false);
        run(async {
            for records in [0, 2, 3, 4, 5] {
                mailbox.push_bulk(ONE, records, false).await;
            }
        });
        let take = |room| mailbox.take(Duration::ZERO, room, all).bulk;
        assert_eq!(vec![0, 2], take(3), "one without records counts as one");
        assert_eq!(vec![3, 4], take(4), "the last one is not cut");
        assert!(take(0).is_empty());
        assert_eq!(vec![5], take(1));
    }

    #[test]
    fn peers_take_turns_and_one_that_is_not_read_holds_up_itself() {
        let mailbox = Mailbox::<(), u32>::new(|_| 1, |()| false);
        let take =
            |room, may: fn(NodeId, bool) -> bool| mailbox.take(Duration::ZERO, room, may).bulk;
        run(async {
            for n in 0..u32::try_from(BULK_MAX).unwrap() {
                mailbox.push_bulk(ONE, n, false).await;
                mailbox.push_bulk(ONE, 100 + n, true).await;
            }
            for n in 50..53 {
                mailbox.push_bulk(OTHER, n, false).await;
            }
            assert!(take(9, |_, _| false).is_empty());
            assert_eq!(vec![50], take(1, |peer, _| peer == OTHER));
            assert_eq!((100..108).collect::<Vec<_>>(), take(9, |_, express| express));
            assert_eq!(vec![0, 51, 1, 52, 2], take(5, all));
            mailbox.drop_bulk(ONE);
            assert!(take(9, all).is_empty());
            mailbox.close();
            for n in 0..20 {
                mailbox.push_bulk(NodeId(3), n, false).await;
            }
        });
    }

    #[test]
    fn messages_of_peers_wait_for_room_and_answers_do_not() {
        let mailbox = Mailbox::<u32, ()>::new(|()| 1, |&event| event > 0);
        let take = || mailbox.take(Duration::ZERO, 0, all);
        run(async {
            for n in 1..=u32::try_from(MESSAGES_MAX).unwrap() {
                mailbox.push_message(n).await;
            }
            let mut blocked = Box::pin(mailbox.push_message(99));
            assert!(futures_now(&mut blocked).await.is_none());
            mailbox.push(0);
            assert_eq!(BATCH_MAX, take().events.len());
            blocked.await;
            while !take().events.is_empty() {}
            assert_eq!(MESSAGES_MAX, mailbox.message_room.available_permits());
        });
    }

    async fn futures_now<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        tokio::select! { biased; out = future => Some(out), () = std::future::ready(()) => None }
    }
}
