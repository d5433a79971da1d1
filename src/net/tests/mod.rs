//! Real endpoints on loopback, in one process. Every wait is for an event, and bounded.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

mod enrol;
mod faults;
mod hostile;
mod traffic;
mod trust;

use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quinn::{Connection, ConnectionError, Endpoint, VarInt};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot, watch};

use super::endpoint::Port;
use super::identity::Identity;
use super::*;
use crate::model::{Lane, NodeId, Sequence};

const PATIENCE: Duration = Duration::from_secs(30);

/// What the fetch tests fetch.
fn content() -> Vec<u8> {
    (0..40_000_u32).flat_map(|n| *blake3::hash(&n.to_le_bytes()).as_bytes()).collect()
}

#[derive(Clone)]
struct Recorder {
    events: mpsc::Sender<NetEvent>,
    /// While closed, announcements are not taken, but those of the lane `Urgent`.
    gate: watch::Receiver<bool>,
}

impl Handler for Recorder {
    async fn event(&self, event: NetEvent) {
        if let NetEvent::Announce { lane, .. } = &event
            && *lane != Lane::Urgent
        {
            drop(self.gate.clone().wait_for(|&open| open).await);
        }
        drop(self.events.send(event).await);
    }

    fn fetch(&self, _peer: NodeId, request: &FetchRequest) -> Option<Box<dyn Read + Send>> {
        let offset = usize::try_from(request.offset).unwrap();
        match request.path.as_bytes() {
            b"here" => Some(Box::new(io::Cursor::new(content().split_off(offset)))),
            b"short" => Some(Box::new(io::Cursor::new(vec![0; 10]))),
            b"broken" => Some(Box::new(content_then_error())),
            _ => None,
        }
    }

    fn rpc(&self, peer: NodeId, method: &str, body: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        match method {
            "echo" => Ok(vec![body.to_vec(), peer.to_string().into_bytes()]),
            _ => Err(format!("no method {method}")),
        }
    }
}

fn content_then_error() -> impl Read + Send {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("bad sector"))
        }
    }
    io::Cursor::new(vec![0; 1 << 20]).chain(Failing)
}

/// A node's folder and configuration, whether it runs or not.
struct Home {
    folder: TempDir,
    name: String,
    listen: SocketAddr,
}

impl Home {
    fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, name: name.to_owned(), listen: "127.0.0.1:0".parse().unwrap() }
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn config(&self) -> NetConfig {
        NetConfig {
            bandwidth_max: None,
            state: self.state(),
            listen: self.listen,
            name: self.name.clone(),
            advertise: Vec::new(),
            mounts: vec!["var".to_owned()],
            release: "0.1.0-test".to_owned(),
        }
    }

    fn identity(&self) -> Identity {
        Identity::load(&self.state()).unwrap()
    }

    async fn join(&self, ticket: &Ticket) -> Result<Joined, JoinError> {
        join(JoinRequest {
            ticket: ticket.clone(),
            state: self.state(),
            name: self.name.clone(),
            listen: self.listen,
            advertise: Vec::new(),
            release: "0.1.0-test".to_owned(),
        })
        .await
    }

    async fn start(mut self) -> Node {
        let (recorder, events, gate) = recorder();
        let net = Net::start(self.config(), recorder).await.unwrap();
        self.listen = net.address();
        Node { home: self, id: net.id(), net, events, gate }
    }

    /// Starts the node on a thread and runtime of its own, so that it can be killed.
    async fn start_process(mut self) -> Process {
        let (recorder, events, _gate) = recorder();
        let (kill, killed) = oneshot::channel::<()>();
        let (tell, told) = oneshot::channel();
        let config = self.config();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.unwrap();
            let net = runtime.block_on(Net::start(config, recorder)).unwrap();
            tell.send(net.address()).unwrap();
            drop(runtime.block_on(killed));
            // Nothing is polled any more: peers are told nothing.
            drop(runtime);
            drop(net);
        });
        self.listen = told.await.unwrap();
        Process { home: self, events, kill, thread, _gate }
    }
}

fn recorder() -> (Recorder, mpsc::Receiver<NetEvent>, watch::Sender<bool>) {
    let (sender, events) = mpsc::channel(10_000);
    let (gate, opened) = watch::channel(true);
    (Recorder { events: sender, gate: opened }, events, gate)
}

struct Process {
    home: Home,
    events: mpsc::Receiver<NetEvent>,
    kill: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
    _gate: watch::Sender<bool>,
}

impl Process {
    fn kill(self) -> Home {
        self.kill.send(()).unwrap();
        self.thread.join().unwrap();
        self.home
    }
}

struct Node {
    home: Home,
    id: NodeId,
    net: Net,
    events: mpsc::Receiver<NetEvent>,
    gate: watch::Sender<bool>,
}

impl Node {
    /// A cluster's first node, running.
    async fn first(name: &str) -> Self {
        let home = Home::new(name);
        init(&home.state(), name, &[], &["var".to_owned(), "pub/media".to_owned()]).unwrap();
        home.start().await
    }

    fn invite(&self) -> Ticket {
        invite(&self.home.state(), Duration::from_secs(3600)).unwrap()
    }

    /// Another node of this one's cluster, running.
    async fn invite_and_start(&self, name: &str) -> Self {
        let home = Home::new(name);
        home.join(&self.invite()).await.unwrap();
        home.start().await
    }

    /// The next event for which `wanted` gives something; those before it are dropped.
    #[track_caller]
    fn wait<T>(&mut self, wanted: impl FnMut(NetEvent) -> Option<T>) -> impl Future<Output = T> {
        wait(&mut self.events, wanted)
    }

    async fn up(&mut self, id: NodeId) -> LinkHandle {
        self.wait(|event| match event {
            NetEvent::Up { peer, link, .. } if peer == id => Some(link),
            _ => None,
        })
        .await
    }

    async fn down(&mut self, id: NodeId) -> String {
        self.wait(|event| match event {
            NetEvent::Down { peer, reason } if peer == id => Some(reason),
            _ => None,
        })
        .await
    }

    async fn control(&mut self) -> ControlMessage {
        self.wait(|event| match event {
            NetEvent::Control { message, .. } => Some(message),
            _ => None,
        })
        .await
    }

    async fn announce(&mut self) -> (String, Lane, Announce) {
        self.wait(|event| match event {
            NetEvent::Announce { mount, lane, announce, .. } => Some((mount, lane, announce)),
            _ => None,
        })
        .await
    }

    /// Waits until the member list is as `wanted` says.
    async fn members(&mut self, wanted: impl Fn(&Members) -> bool) {
        let net = &self.net;
        if wanted(&net.members()) {
            return;
        }
        wait(&mut self.events, |event| match event {
            NetEvent::MembersChanged => wanted(&net.members()).then_some(()),
            _ => None,
        })
        .await;
    }

    /// Connects as `identity`, without any of what follows.
    async fn connect_as(&self, identity: &Identity) -> Result<Raw, ConnectionError> {
        let port = Port::open(identity, "127.0.0.1:0".parse().unwrap(), true).unwrap();
        let name = certificate::dns_name(self.id);
        let connecting = port.endpoint.connect_with(port.client, self.net.address(), &name);
        Ok(Raw { connection: connecting.unwrap().await?, endpoint: port.endpoint })
    }
}

struct Raw {
    connection: Connection,
    #[allow(dead_code, reason = "kept so that it runs")]
    endpoint: Endpoint,
}

impl Raw {
    /// The code the node closes the connection with.
    async fn closed(&self) -> Option<VarInt> {
        let closed = tokio::time::timeout(PATIENCE, self.connection.closed()).await;
        let error = closed.expect("the connection is closed");
        close::code(&error)
    }
}

#[track_caller]
fn wait<T>(
    events: &mut mpsc::Receiver<NetEvent>,
    mut wanted: impl FnMut(NetEvent) -> Option<T>,
) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        let found = async {
            loop {
                let event = events.recv().await.expect("the node runs");
                if let Some(found) = wanted(event) {
                    return found;
                }
            }
        };
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(found) => found,
            Err(_) => panic!("{caller}: the event did not come"),
        }
    }
}

/// Links two running nodes; the handle of each for the other.
async fn linked(a: &mut Node, b: &mut Node) -> (LinkHandle, LinkHandle) {
    let (a_id, b_id) = (a.id, b.id);
    tokio::join!(a.up(b_id), b.up(a_id))
}

fn announce_of(records: Vec<Announced>, progress: u64) -> Announce {
    Announce { records, progress: Sequence(progress), moved: Sequence(0) }
}
