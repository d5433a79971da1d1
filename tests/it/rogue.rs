//! A member with a valid certificate that is not this program: it says what it likes to a real daemon.
//!
//! It runs on a thread of its own until it is dropped. It takes whatever the daemon sends, answers
//! each request for content as it was told, and sends announcements that the test makes.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::sync::oneshot;
use trefoil::model::{Incarnation, Lane, NodeId, Record, Sequence};
use trefoil::net::frame::{self, FrameHead, HEAD_BYTES};
use trefoil::net::wire::{FetchReply, Request};
use trefoil::net::{Announce, Announced, ControlMessage, Hello, LaneHead, MountHello};

use crate::cluster::Cluster;

/// How the rogue answers who fetches content from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    /// With other bytes, as many as were asked for.
    Wrong,
    /// With bytes without an end.
    Endless,
    /// Never.
    Silent,
}

/// What the rogue sends once the mount has been greeted; called again and again until it gives
/// nothing, with the number of the call.
pub(crate) type Script = Box<dyn FnMut(u64) -> Option<Sent> + Send>;

/// One thing to send.
pub(crate) enum Sent {
    /// On a lane of the mount.
    Announce(Lane, Announce),
    /// These bytes on a stream of their own, opened as a lane is.
    Lane(Vec<u8>),
    /// These bytes on the control stream.
    Control(Vec<u8>),
}

/// A rogue at work.
pub(crate) struct Rogue {
    id: NodeId,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    ended: Receiver<String>,
}

impl Rogue {
    /// Joins the cluster by way of node 1 as often as it takes to get an id below that of node
    /// `victim`, which then takes links from it; links, greets `mount`, and follows the script.
    #[track_caller]
    pub(crate) fn start(
        cluster: &mut Cluster,
        (victim, mount): (usize, &str),
        answer: Answer,
        script: Script,
    ) -> Self {
        let status = cluster.node(victim).status().unwrap();
        let theirs = u64::from_str_radix(status["node_id"].as_str().unwrap(), 16).unwrap();
        let address: SocketAddr = cluster.node(victim).address().parse().unwrap();
        let (id, state) = (0..64)
            .find_map(|attempt| {
                let n = cluster.add_node(&format!("rogue{attempt}"));
                cluster.enrol(n);
                let state = cluster.node(n).state();
                let node: serde_json::Value =
                    serde_json::from_slice(&std::fs::read(state.join("identity/node.json")).ok()?)
                        .ok()?;
                let id = u64::from_str_radix(node["id"].as_str()?, 16).ok()?;
                (id < theirs).then_some((NodeId(id), state))
            })
            .expect("one of so many random ids is lower");
        let (stop, stopped) = oneshot::channel();
        let (tell, ended) = channel();
        let mount = mount.to_owned();
        let name = format!("{}.node.trefoil", NodeId(theirs));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let endpoint = Endpoint::client((address.ip(), 0).into()).unwrap();
                let config = client(&state);
                let connection = endpoint.connect_with(config, address, &name).unwrap();
                let connection = connection.await.unwrap();
                tokio::select! {
                    () = act(&connection, &mount, answer, script) => {}
                    _ = stopped => {}
                }
                let reason = connection.close_reason();
                tell.send(reason.map_or_else(String::new, |reason| reason.to_string())).ok();
                connection.close(0_u32.into(), b"");
                endpoint.wait_idle().await;
            });
        });
        Self { id, stop: Some(stop), thread: Some(thread), ended }
    }

    /// Its id.
    pub(crate) fn id(&self) -> NodeId {
        self.id
    }

    /// Waits until the daemon has closed the connection; why, as it was told.
    #[track_caller]
    pub(crate) fn closed(&self, timeout: Duration) -> String {
        self.ended.recv_timeout(timeout).expect("the daemon closes the connection")
    }
}

impl Drop for Rogue {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of it is told by what the test waits for.
            drop(thread.join());
        }
    }
}

/// An announcement of one record.
pub(crate) fn announced(sequence: u64, record: Record, content: Option<&[u8]>) -> Announced {
    let (sequence, content) = (Sequence(sequence), content.map(Arc::from));
    Announced { sequence, record, after: None, content }
}

/// Records as one message.
pub(crate) fn announce(records: Vec<Announced>) -> Announce {
    let progress = records.last().map_or(Sequence(0), |last| last.sequence);
    Announce { records, progress, moved: Sequence(0) }
}

/// Until the connection is lost.
async fn act(connection: &Connection, mount: &str, answer: Answer, mut script: Script) {
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    let hello = ControlMessage::Hello(Hello {
        protocol_min: 1,
        protocol_max: 1,
        features: 0,
        name: "rogue".to_owned(),
        release: "0".to_owned(),
    });
    send.write_all(&frame::encode(&hello.encode()).unwrap()).await.unwrap();
    let theirs = loop {
        let message = read_frame(&mut receive).await.expect("a greeting of the mount");
        match ControlMessage::decode(&message).unwrap() {
            Some(ControlMessage::MountHello(hello)) if hello.mount == mount => break hello,
            _ => {}
        }
    };
    let (known, incarnation) = (theirs.incarnation, Incarnation(7));
    let ours = MountHello {
        incarnation,
        known,
        cursors: Vec::new(),
        arrived: Vec::new(),
        head: Sequence(0),
        former: None,
        dropped: Vec::new(),
        ..theirs
    };
    let ours = ControlMessage::MountHello(ours).encode();
    send.write_all(&frame::encode(&ours).unwrap()).await.unwrap();
    // Whatever it says from now on is taken and forgotten, so that it is not held up.
    let heard = async { while read_frame(&mut receive).await.is_some() {} };
    let fetched = async {
        let mut answers = tokio::task::JoinSet::new();
        while let Ok((send, receive)) = connection.accept_bi().await {
            answers.spawn(serve(send, receive, answer));
        }
    };
    let lanes = async {
        let mut drains = tokio::task::JoinSet::new();
        while let Ok(mut stream) = connection.accept_uni().await {
            drains.spawn(async move {
                while let Ok(Some(_)) = stream.read_chunk(1 << 20, false).await {}
            });
        }
    };
    let played = play(connection, mount, send, &mut script);
    tokio::join!(heard, fetched, lanes, played);
}

/// Follows the script, and waits until the connection is closed.
async fn play(connection: &Connection, mount: &str, mut control: SendStream, script: &mut Script) {
    let mut open: Vec<(Lane, SendStream)> = Vec::new();
    let mut streams = Vec::new();
    let mut n = 0;
    while let Some(sent) = script(n) {
        n += 1;
        let done = match sent {
            Sent::Announce(lane, announce) => {
                if !open.iter().any(|(known, _)| *known == lane) {
                    let Ok(mut stream) = connection.open_uni().await else { break };
                    let head = LaneHead { mount: mount.to_owned(), lane }.encode();
                    drop(stream.write_all(&frame::encode(&head).unwrap()).await);
                    open.push((lane, stream));
                }
                let stream = open.iter_mut().find(|(known, _)| *known == lane).map(|(_, s)| s);
                let frame = frame::encode_compressed(&announce.encode()).unwrap();
                stream.unwrap().write_all(&frame).await.is_ok()
            }
            Sent::Lane(bytes) => match connection.open_uni().await {
                Ok(mut stream) => {
                    drop(stream.write_all(&bytes).await);
                    streams.push(stream);
                    true
                }
                Err(_) => false,
            },
            Sent::Control(bytes) => control.write_all(&bytes).await.is_ok(),
        };
        if !done {
            break;
        }
    }
    connection.closed().await;
}

async fn serve(mut send: SendStream, mut receive: RecvStream, answer: Answer) {
    let Some(request) = read_frame(&mut receive).await else { return };
    let Ok(Some(Request::Fetch(fetch))) = Request::decode(&request) else { return };
    if answer == Answer::Silent {
        return std::future::pending().await;
    }
    let reply = FetchReply { found: true, offset: fetch.offset }.encode();
    if send.write_all(&frame::encode(&reply).unwrap()).await.is_err() {
        return;
    }
    let mut left = match answer {
        Answer::Wrong => fetch.size - fetch.offset,
        Answer::Endless | Answer::Silent => u64::MAX,
    };
    let noise = vec![0x5a; 64 << 10];
    while left > 0 {
        let piece = usize::try_from(left).unwrap_or(usize::MAX).min(noise.len());
        if send.write_all(&noise[..piece]).await.is_err() {
            return;
        }
        left -= piece as u64;
    }
    drop(send.finish());
    drop(send.stopped().await);
}

async fn read_frame(stream: &mut RecvStream) -> Option<Vec<u8>> {
    let mut head = [0; HEAD_BYTES];
    stream.read_exact(&mut head).await.ok()?;
    let head = FrameHead::parse(head, 4 << 20).ok()?;
    let mut body = vec![0; head.length];
    stream.read_exact(&mut body).await.ok()?;
    head.open(body, 4 << 20).ok()
}

fn client(state: &Path) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let identity = state.join("identity");
    let certificate = CertificateDer::from_pem_file(identity.join("node.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(identity.join("node.key")).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible(provider)))
        .with_client_auth_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = vec![b"trefoil/1".to_vec()];
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
    let mut transport = quinn::TransportConfig::default();
    transport.keep_alive_interval(Some(Duration::from_secs(2)));
    transport.max_concurrent_uni_streams(320_u32.into());
    config.transport_config(Arc::new(transport));
    config
}

/// How somebody connects who has no certificate: as a node that wants to join does.
pub(crate) fn stranger() -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"trefoil-join/1".to_vec()];
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()))
}

/// Believes every server: it is the daemon's doubts that are tested.
#[derive(Debug)]
struct Gullible(Arc<CryptoProvider>);

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
