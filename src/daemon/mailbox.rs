//! Where the control thread of one mount gets everything that happens, in one place.
//!
//! Answers to what was handed out are bounded by what is handed out at a time, so they never wait.
//! Announcements and messages of peers wait for room: their senders are held up, which is the
//! backpressure.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

/// Announcements that wait for the control thread at most.
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
    room: Arc<Semaphore>,
    express_room: Arc<Semaphore>,
    message_room: Arc<Semaphore>,
    /// How many records an announcement has.
    weigh: fn(&B) -> usize,
    /// Whether an event is a message that waited for room.
    is_message: fn(&E) -> bool,
}

#[derive(Debug)]
struct Queues<E, B> {
    events: VecDeque<E>,
    /// Small and always taken: bulk never delays it.
    express: VecDeque<B>,
    bulk: VecDeque<B>,
    /// Something without a message of its own happened.
    woken: bool,
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
            express: VecDeque::new(),
            bulk: VecDeque::new(),
            woken: false,
        };
        Self {
            queues: Mutex::new(queues),
            ready: Condvar::new(),
            room: Arc::new(Semaphore::new(BULK_MAX)),
            express_room: Arc::new(Semaphore::new(BULK_MAX)),
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
        self.room.close();
        self.express_room.close();
        self.message_room.close();
    }

    /// Has the reader look around, without a message.
    pub(super) fn wake(&self) {
        self.lock().woken = true;
        self.ready.notify_one();
    }

    /// Puts an announcement behind the others of its kind once there is room.
    pub(super) async fn push_bulk(&self, bulk: B, express: bool) {
        let room = if express { &self.express_room } else { &self.room };
        // Closed only when nobody reads any more.
        if let Ok(permit) = room.acquire().await {
            permit.forget();
        }
        let mut queues = self.lock();
        let queue = if express { &mut queues.express } else { &mut queues.bulk };
        queue.push_back(bulk);
        drop(queues);
        self.ready.notify_one();
    }

    /// Takes announcements out that mean nothing any more.
    pub(super) fn drop_bulk(&self, mut useless: impl FnMut(&B) -> bool) {
        let mut queues = self.lock();
        let before = (queues.express.len(), queues.bulk.len());
        queues.express.retain(|bulk| !useless(bulk));
        queues.bulk.retain(|bulk| !useless(bulk));
        self.express_room.add_permits(before.0 - queues.express.len());
        self.room.add_permits(before.1 - queues.bulk.len());
    }

    /// Waits until there is something, or for `at_most`, and takes it. Of the announcements that
    /// may be late, those with `room` records together are taken, and none without room; one is
    /// never cut, so the last may have more.
    pub(super) fn take(&self, at_most: Duration, room: usize) -> Batch<E, B> {
        let nothing = |queues: &mut Queues<E, B>| {
            queues.events.is_empty()
                && queues.express.is_empty()
                && !queues.woken
                && (room == 0 || queues.bulk.is_empty())
        };
        let waited = self.ready.wait_timeout_while(self.lock(), at_most, nothing);
        let (mut queues, _) = waited.unwrap_or_else(PoisonError::into_inner);
        queues.woken = false;
        let count = queues.events.len().min(BATCH_MAX);
        let events: Vec<E> = queues.events.drain(..count).collect();
        self.message_room
            .add_permits(events.iter().filter(|event| (self.is_message)(event)).count());
        let mut bulk: Vec<_> = queues.express.drain(..).collect();
        self.express_room.add_permits(bulk.len());
        let mut taken = 0;
        while taken < room
            && let Some(next) = queues.bulk.pop_front()
        {
            taken += (self.weigh)(&next).max(1);
            bulk.push(next);
            self.room.add_permits(1);
        }
        drop(queues);
        Batch { events, bulk }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_wait_for_room_and_events_do_not() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mailbox = Mailbox::<u32, u32>::new(|_| 1, |_| true);
        runtime.block_on(async {
            for n in 0..u32::try_from(BULK_MAX).unwrap() {
                mailbox.push_bulk(n, false).await;
            }
            let mut blocked = Box::pin(mailbox.push_bulk(99, false));
            assert!(futures_now(&mut blocked).await.is_none());
            mailbox.push(1);
            let batch = mailbox.take(Duration::ZERO, 0);
            assert_eq!((vec![1], 0), (batch.events, batch.bulk.len()));
            mailbox.push_bulk(50, true).await;
            assert_eq!(vec![50], mailbox.take(Duration::ZERO, 0).bulk);
            assert_eq!(vec![0], mailbox.take(Duration::ZERO, 1).bulk);
            blocked.await;
            for n in 1..u32::try_from(BULK_MAX).unwrap() {
                assert_eq!(vec![n], mailbox.take(Duration::ZERO, 1).bulk);
            }
            assert_eq!(vec![99], mailbox.take(Duration::ZERO, 1).bulk);
        });
    }

    #[test]
    fn announcements_are_taken_while_there_is_room_for_their_records() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mailbox = Mailbox::<(), usize>::new(|&records| records, |()| false);
        runtime.block_on(async {
            for records in [0, 2, 3, 4, 5] {
                mailbox.push_bulk(records, false).await;
            }
        });
        let take = |room| mailbox.take(Duration::ZERO, room).bulk;
        assert_eq!(vec![0, 2], take(3), "one without records counts as one");
        assert_eq!(vec![3, 4], take(4), "the last one is not cut");
        assert!(take(0).is_empty());
        assert_eq!(vec![5], take(1));
    }

    #[test]
    fn messages_of_peers_wait_for_room_and_answers_do_not() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mailbox = Mailbox::<u32, ()>::new(|()| 1, |&event| event > 0);
        runtime.block_on(async {
            for n in 1..=u32::try_from(MESSAGES_MAX).unwrap() {
                mailbox.push_message(n).await;
            }
            let mut blocked = Box::pin(mailbox.push_message(99));
            assert!(futures_now(&mut blocked).await.is_none());
            mailbox.push(0);
            assert_eq!(BATCH_MAX, mailbox.take(Duration::ZERO, 0).events.len());
            blocked.await;
            while !mailbox.take(Duration::ZERO, 0).events.is_empty() {}
            assert_eq!(MESSAGES_MAX, mailbox.message_room.available_permits());
        });
    }

    async fn futures_now<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        tokio::select! { biased; out = future => Some(out), () = std::future::ready(()) => None }
    }
}
