//! One link: a greeting, then messages, lanes and requests until it ends.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quinn::{Connection, RecvStream, SendStream, Side, VarInt};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::debug;

use super::api::NetEvent;
use super::endpoint::{LANE_STREAMS_MAX, LINK_WINDOW, REQUEST_STREAMS_MAX, STREAM_WINDOW};
use super::lanes::{self, LaneSender, OpenLanes};
use super::members::MOUNTS_MAX;
use super::pace::Pace;
use super::service::Shared;
use super::stream::{StreamError, expect_frame, read_frame, write_frame};
use super::wire::{CONTROL_BYTES_MAX, ControlMessage, Hello, LaneHead};
use super::{close, frame, requests};
use crate::model::{Lane, NodeId};

/// The protocols this release speaks.
const PROTOCOL_MIN: u32 = 1;
const PROTOCOL_MAX: u32 = 1;

/// Optional features this release has.
const FEATURES: u64 = 0;

/// How long a peer may take to greet.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Control messages queued per link.
const CONTROL_QUEUE: usize = 256;

/// Bytes of control messages written at a time.
const CONTROL_BATCH_BYTES: usize = 64 << 10;

/// Greetings of mounts on one link: a mount greets once, and again when it is opened anew, its policy
/// is another one, or its index had to forget something. Each may cost the receiver a look at all records.
const MOUNT_HELLOS_MAX: usize = 16 * MOUNTS_MAX;

const CONTROL_PRIORITY: i32 = 100;

/// Fetches of the lanes `Urgent` and `Release` at a time, per link.
const URGENT_FETCHES_MAX: usize = 4;

/// Fetches of the other lanes at a time, per link. With the above, and the calls, they fit into
/// [`LINK_WINDOW`] even if all of them are stuck.
const BULK_FETCHES_MAX: usize = 12;

/// Calls at a time, per link, asked or answered.
const RPCS_MAX: usize = 4;

const _: () = {
    let streams = (URGENT_FETCHES_MAX + BULK_FETCHES_MAX + RPCS_MAX) as u64;
    assert!(streams < REQUEST_STREAMS_MAX as u64);
    assert!((streams + 4) * STREAM_WINDOW as u64 <= LINK_WINDOW);
};

/// Why a message was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Too many messages wait already.
    #[error("control queue is full")]
    Full,
    /// The link is gone.
    #[error("link is closed")]
    Closed,
}

/// Talks to one peer as long as this link lasts. Cheap to clone; keeping one keeps no socket open.
#[derive(Clone)]
pub struct LinkHandle(Arc<Inner>);

struct Inner {
    peer: NodeId,
    protocol: u32,
    features: u64,
    runtime: Handle,
    control: mpsc::Sender<ControlMessage>,
    /// Gone when the link is down.
    connection: Mutex<Option<Connection>>,
    lanes: Mutex<HashMap<(String, Lane), LaneSender>>,
    pace: Arc<Pace>,
    urgent_fetches: Semaphore,
    bulk_fetches: Semaphore,
    rpcs: Semaphore,
}

impl std::fmt::Debug for LinkHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LinkHandle({:?})", self.0.peer)
    }
}

impl LinkHandle {
    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> NodeId {
        self.0.peer
    }

    /// The protocol both agreed on.
    #[must_use]
    pub fn protocol(&self) -> u32 {
        self.0.protocol
    }

    /// The optional features that both have.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.0.features
    }

    /// Whether the link has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.connection().is_none()
    }

    /// Ends the link, so that both sides make a new one at once and greet anew.
    pub fn renew(&self) {
        if let Some(connection) = self.connection() {
            close::close(&connection, close::REPLACED, "everything is greeted anew");
        }
    }

    /// Queues a control message. Never blocks.
    ///
    /// # Errors
    /// [`SendError`]; the message is lost then.
    pub fn send_control(&self, message: ControlMessage) -> Result<(), SendError> {
        if self.is_closed() {
            return Err(SendError::Closed);
        }
        self.0.control.try_send(message).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SendError::Full,
            mpsc::error::TrySendError::Closed(_) => SendError::Closed,
        })
    }

    /// The sender of a lane; its stream is opened by the first call. Calls with the same mount and
    /// lane give the same sender.
    #[must_use]
    pub fn lane(&self, mount: &str, lane: Lane) -> LaneSender {
        let mut lanes = self.0.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(connection) = self.connection() else { return lanes::closed() };
        let key = (mount.to_owned(), lane);
        if let Some(sender) = lanes.get(&key) {
            return sender.clone();
        }
        let streams = u64::try_from(lanes.len()).unwrap_or(u64::MAX) + 1;
        connection.set_send_window(window(streams));
        let head = LaneHead { mount: mount.to_owned(), lane };
        let (sender, task) = lanes::open(connection, head, self.0.pace.clone());
        self.0.runtime.spawn(task);
        lanes.insert(key, sender.clone());
        sender
    }

    pub(super) fn connection(&self) -> Option<Connection> {
        self.0.connection.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs something on the network's runtime; it is dropped when that stops.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        drop(self.0.runtime.spawn(future));
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    /// What a fetch on this lane has to wait for.
    pub(super) fn fetches(&self, lane: Lane) -> &Semaphore {
        match lane {
            Lane::Urgent | Lane::Release => &self.0.urgent_fetches,
            Lane::Normal | Lane::Derived | Lane::Forward => &self.0.bulk_fetches,
        }
    }

    /// What a call has to wait for.
    pub(super) fn rpcs(&self) -> &Semaphore {
        &self.0.rpcs
    }

    /// Makes the handle useless: nothing of the link is kept alive by it.
    fn end(&self) {
        self.0.connection.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.0.lanes.lock().unwrap_or_else(PoisonError::into_inner).clear();
        for semaphore in [&self.0.urgent_fetches, &self.0.bulk_fetches, &self.0.rpcs] {
            semaphore.close();
        }
    }
}

/// Bytes that may be under way with this many lanes open: each stream can be stuck with its own
/// window full, and control messages still pass.
fn window(lanes: u64) -> u64 {
    LINK_WINDOW + lanes * u64::from(STREAM_WINDOW)
}

/// How a link ended.
pub(super) struct Ended {
    /// Why, in words.
    pub(super) reason: String,
    /// Whether it had been up.
    pub(super) was_up: bool,
    /// The peer broke the protocol.
    pub(super) violation: bool,
}

/// Runs a link over a connection to an authenticated member, until it ends; by then the
/// connection is closed and `Down` was delivered, if `Up` was. `leave` asks for its end with a
/// code; the peer is told and closes the connection, or else the caller has to.
pub(super) async fn run(
    shared: &Arc<Shared>,
    peer: NodeId,
    connection: Connection,
    leave: oneshot::Receiver<VarInt>,
) -> Ended {
    let greeted = tokio::time::timeout(HELLO_TIMEOUT, greet(shared, &connection)).await;
    let (hello, send, receive) = match greeted {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(error)) => return ended(&connection, &error, false),
        Err(_) => {
            close::close(&connection, close::TIMEOUT, "no greeting");
            return Ended::of("no greeting", false);
        }
    };
    let protocol = hello.protocol_max.min(PROTOCOL_MAX);
    if protocol < hello.protocol_min.max(PROTOCOL_MIN) {
        let (min, max) = (hello.protocol_min, hello.protocol_max);
        let reason =
            format!("peer speaks {min} to {max}, this node {PROTOCOL_MIN} to {PROTOCOL_MAX}");
        close::close(&connection, close::VERSION, &reason);
        return Ended::of(&format!("no common protocol: {reason}"), false);
    }
    connection.set_receive_window(VarInt::from_u64(window(0)).unwrap_or(VarInt::MAX));
    connection.set_max_concurrent_bi_streams(REQUEST_STREAMS_MAX.into());
    connection.set_max_concurrent_uni_streams(LANE_STREAMS_MAX.into());

    let (queue, messages) = mpsc::channel(CONTROL_QUEUE);
    let pace = Arc::new(Pace::new(shared.bandwidth_max));
    let link = LinkHandle(Arc::new(Inner {
        peer,
        protocol,
        features: hello.features & FEATURES,
        runtime: Handle::current(),
        control: queue,
        connection: Mutex::new(Some(connection.clone())),
        lanes: Mutex::default(),
        pace: pace.clone(),
        urgent_fetches: Semaphore::new(URGENT_FETCHES_MAX),
        bulk_fetches: Semaphore::new(BULK_FETCHES_MAX),
        rpcs: Semaphore::new(RPCS_MAX),
    }));
    shared.link_up(&link, &hello, &connection);
    let (name, release) = (hello.name, hello.release);
    shared.handler.event(NetEvent::Up { peer, name, release, link: link.clone() }).await;

    let mut tasks = JoinSet::new();
    let lost = connection.closed();
    let error = tokio::select! {
        error = write_control(shared, send, messages, leave) => error,
        error = read_control(shared, peer, receive) => error,
        error = serve(shared, peer, (&connection, &pace), &mut tasks) => error,
        _ = lost => StreamError::Closed,
    };
    // Waited for, so that nothing of this link is delivered after `Down`.
    tasks.shutdown().await;
    let ended = ended(&connection, &error, true);
    link.end();
    shared.link_down(peer, &connection, &ended.reason);
    shared.handler.event(NetEvent::Down { peer, reason: ended.reason.clone() }).await;
    ended
}

impl Ended {
    fn of(reason: &str, was_up: bool) -> Self {
        Self { reason: reason.to_owned(), was_up, violation: false }
    }
}

/// Closes the connection if it is not closed yet, and says why the link ended.
fn ended(connection: &Connection, error: &StreamError, was_up: bool) -> Ended {
    if let StreamError::Farewell(code) = error {
        close::close(connection, close::FAREWELL, "");
        return Ended::of(close::code_words(*code), was_up);
    }
    if let Some(lost) = connection.close_reason() {
        return Ended::of(&close::words(&lost), was_up);
    }
    let words = error.words();
    if error.is_violation() {
        close::close(connection, close::PROTOCOL, &words);
        let reason = format!("protocol violation: {words}");
        return Ended { reason, was_up, violation: true };
    }
    close::close(connection, close::SHUTDOWN, "");
    Ended::of(&words, was_up)
}

/// Opens or accepts the control stream, and exchanges greetings on it.
async fn greet(
    shared: &Shared,
    connection: &Connection,
) -> Result<(Hello, SendStream, RecvStream), StreamError> {
    let stream = match connection.side() {
        Side::Client => connection.open_bi().await,
        Side::Server => connection.accept_bi().await,
    };
    let (mut send, mut receive) = stream.map_err(|_| StreamError::Closed)?;
    send.set_priority(CONTROL_PRIORITY).map_err(|_| StreamError::Closed)?;
    let hello = Hello {
        protocol_min: PROTOCOL_MIN,
        protocol_max: PROTOCOL_MAX,
        features: FEATURES,
        name: shared.name.clone(),
        release: shared.release.clone(),
    };
    write_frame(&mut send, &ControlMessage::Hello(hello).encode()).await?;
    let first = expect_frame(&mut receive, CONTROL_BYTES_MAX).await?;
    match ControlMessage::decode(&first)? {
        Some(ControlMessage::Hello(hello)) => Ok((hello, send, receive)),
        _ => Err(StreamError::Unexpected("first message")),
    }
}

/// Sends the member list, at first and whenever it changes, and what is queued; a farewell last.
///
/// The farewell is a message because a close would have to wait behind bulk that fills the
/// congestion window, and then never leave: a closed connection hears no acknowledgements.
async fn write_control(
    shared: &Shared,
    mut stream: SendStream,
    mut messages: mpsc::Receiver<ControlMessage>,
    leave: oneshot::Receiver<VarInt>,
) -> StreamError {
    let mut members = shared.roster.watch();
    members.mark_changed();
    let mut certificate = shared.certificate_ends_secs.subscribe();
    let mut leave = pin!(leave);
    loop {
        let message = tokio::select! {
            biased;
            Ok(code) = &mut leave => return say_bye(stream, code).await,
            changed = members.changed() => match changed {
                Ok(()) => {
                    let list = members.borrow_and_update().clone();
                    ControlMessage::Members(list.as_ref().clone())
                }
                Err(_) => return StreamError::Closed,
            },
            Ok(()) = certificate.changed() => {
                ControlMessage::Certificate(*certificate.borrow_and_update())
            }
            message = messages.recv() => match message {
                Some(message) => message,
                None => return StreamError::Closed,
            },
        };
        let mut batch = match frame::encode(&message.encode()) {
            Ok(frame) => frame,
            Err(error) => return error.into(),
        };
        while batch.len() < CONTROL_BATCH_BYTES
            && let Ok(message) = messages.try_recv()
        {
            match frame::encode(&message.encode()) {
                Ok(frame) => batch.extend_from_slice(&frame),
                Err(error) => return error.into(),
            }
        }
        if let Err(error) = stream.write_chunk(batch.into()).await {
            return error.into();
        }
    }
}

async fn say_bye(mut stream: SendStream, code: VarInt) -> StreamError {
    let bye = ControlMessage::Bye(u32::try_from(code.into_inner()).unwrap_or(0));
    match write_frame(&mut stream, &bye.encode()).await {
        // The peer closes the connection, or the caller of `run` does: that ends the link.
        Ok(()) => std::future::pending().await,
        Err(error) => error,
    }
}

async fn read_control(shared: &Arc<Shared>, peer: NodeId, mut stream: RecvStream) -> StreamError {
    let mut hellos = 0;
    loop {
        let message = match read_frame(&mut stream, CONTROL_BYTES_MAX).await {
            Ok(Some(message)) => ControlMessage::decode(&message),
            // Its link has ended, and that reaches us before the reason does: no offence.
            Ok(None) => return StreamError::Closed,
            Err(error) => return error,
        };
        match message {
            Ok(Some(ControlMessage::Hello(_))) => return StreamError::Unexpected("greeting"),
            Ok(Some(ControlMessage::Members(theirs))) => {
                let shared = shared.clone();
                let merged = tokio::task::spawn_blocking(move || shared.roster.merge(&theirs));
                if merged.await.is_err() {
                    return StreamError::Closed;
                }
            }
            Ok(Some(ControlMessage::Certificate(ends_secs))) => {
                shared.certificate_renewed(peer, ends_secs);
            }
            Ok(Some(ControlMessage::Bye(code))) => return StreamError::Farewell(code.into()),
            Ok(Some(message)) => {
                hellos += usize::from(matches!(message, ControlMessage::MountHello(_)));
                if hellos > MOUNT_HELLOS_MAX {
                    return StreamError::Unexpected("number of greetings of mounts");
                }
                shared.handler.event(NetEvent::Control { peer, message }).await;
            }
            Ok(None) => debug!(%peer, "ignored a message of an unknown kind"),
            Err(error) => return error.into(),
        }
    }
}

/// Reads the lanes and answers the requests that the peer opens. Ends only if one of them breaks
/// the protocol, or the connection is lost.
async fn serve(
    shared: &Arc<Shared>,
    peer: NodeId,
    (connection, pace): (&Connection, &Arc<Pace>),
    tasks: &mut JoinSet<Result<(), StreamError>>,
) -> StreamError {
    let open = Arc::new(OpenLanes::default());
    let calls = Arc::new(Semaphore::new(RPCS_MAX));
    let mut lanes = 0;
    loop {
        tokio::select! {
            stream = connection.accept_uni() => match stream {
                Ok(stream) => {
                    lanes += 1;
                    let window = VarInt::from_u64(window(lanes)).unwrap_or(VarInt::MAX);
                    connection.set_receive_window(window);
                    tasks.spawn(lanes::read(shared.clone(), peer, open.clone(), stream));
                }
                Err(_) => return StreamError::Closed,
            },
            stream = connection.accept_bi() => match stream {
                Ok((send, receive)) => {
                    let (calls, pace) = (calls.clone(), pace.clone());
                    let streams = (send, receive);
                    tasks.spawn(requests::answer(shared.clone(), peer, streams, calls, pace));
                }
                Err(_) => return StreamError::Closed,
            },
            Some(done) = tasks.join_next() => match done {
                Ok(Err(error)) if error.is_violation() => return error,
                Ok(Err(error)) => debug!(%peer, error = &error as &dyn std::error::Error, "stream was given up"),
                Ok(Ok(())) | Err(_) => {}
            },
        }
    }
}
