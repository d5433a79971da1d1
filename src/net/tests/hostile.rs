//! A member with a valid certificate that sends what it must not. It has no use for this program's
//! types, in which most of it cannot be written: the bytes are made by hand.

use prost::encoding::encode_varint;
use tokio::task::JoinSet;

use super::super::{close, frame};
use super::faults::node_and_smaller_identity;
use super::*;
use crate::model::limits::{ANNOUNCE_RECORDS_MAX, FRAME_BYTES_MAX, NUMBER_MAX};

/// A field of bytes.
fn bytes_field(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut field = Vec::new();
    encode_varint(u64::from(number << 3 | 2), &mut field);
    encode_varint(bytes.len() as u64, &mut field);
    field.extend_from_slice(bytes);
    field
}

fn number_field(number: u32, value: u64) -> Vec<u8> {
    let mut field = Vec::new();
    encode_varint(u64::from(number << 3), &mut field);
    encode_varint(value, &mut field);
    field
}

fn stamp(counter: u64) -> Vec<u8> {
    [[0x09].as_slice(), &1_u64.to_le_bytes(), &[0x11], &counter.to_le_bytes()].concat()
}

/// The deletion of `path`, by an edit with this counter, at this sequence.
fn deletion(path: &[u8], counter: u64, sequence: u64) -> Vec<u8> {
    let version = [bytes_field(1, &stamp(counter)), bytes_field(2, &stamp(counter))].concat();
    let record = [bytes_field(1, path), bytes_field(3, &version)].concat();
    bytes_field(1, &[number_field(1, sequence), bytes_field(2, &record)].concat())
}

fn framed(message: &[u8]) -> Vec<u8> {
    frame::encode(message).unwrap()
}

/// A frame that says it has `length` bytes, with these flags.
fn frame_of(length: u32, flags: u8, body: &[u8]) -> Vec<u8> {
    [&length.to_le_bytes(), [flags].as_slice(), body].concat()
}

fn bomb(bytes: usize) -> Vec<u8> {
    let body = zstd::bulk::compress(&vec![0; bytes], 19).unwrap();
    frame_of(u32::try_from(body.len()).unwrap(), 1, &body)
}

fn hello() -> Vec<u8> {
    let hello = Hello {
        protocol_min: 1,
        protocol_max: 1,
        features: 0,
        name: "rogue".to_owned(),
        release: "0".to_owned(),
    };
    framed(&ControlMessage::Hello(hello).encode())
}

fn lane_head() -> Vec<u8> {
    framed(&LaneHead { mount: "var".to_owned(), lane: Lane::Normal }.encode())
}

fn mount_hello(n: u64) -> Vec<u8> {
    let mut message = bytes_field(1, b"var");
    message.extend(bytes_field(2, &[0; 32]));
    message.extend([0x19]);
    message.extend((n + 1).to_le_bytes());
    framed(&bytes_field(3, &message))
}

/// What a rogue sends on which stream.
enum Crime {
    /// Instead of the greeting.
    First(Vec<u8>),
    /// After it, on the control stream.
    Control(Vec<u8>),
    /// On new lanes, each its own stream.
    Lanes(Vec<Vec<u8>>),
    /// On a new request stream.
    Request(Vec<u8>),
}

/// Everything that the node does with it: the connection is closed, and the reason said.
async fn commit(crime: Crime, expected: &'static str) {
    let (mut node, rogue) = node_and_smaller_identity().await;
    let raw = node.connect_as(&rogue).await.unwrap();
    let (mut control, _receive) = raw.connection.open_bi().await.unwrap();
    let mut requests = Vec::new();
    match crime {
        Crime::First(bytes) => drop(control.write_all(&bytes).await),
        Crime::Control(bytes) => {
            drop(control.write_all(&[hello(), bytes].concat()).await);
            node.up(rogue.id).await;
        }
        Crime::Lanes(lanes) => {
            control.write_all(&hello()).await.unwrap();
            node.up(rogue.id).await;
            for lane in lanes {
                let mut send = raw.connection.open_uni().await.unwrap();
                drop(send.write_all(&lane).await);
                drop(send.finish());
            }
        }
        Crime::Request(bytes) => {
            control.write_all(&hello()).await.unwrap();
            node.up(rogue.id).await;
            let (mut send, receive) = raw.connection.open_bi().await.unwrap();
            drop(send.write_all(&bytes).await);
            requests.push(receive);
        }
    }
    let closed = tokio::time::timeout(PATIENCE, raw.connection.closed()).await;
    let ConnectionError::ApplicationClosed(closed) = closed.expect(expected) else {
        panic!("{expected}: closed otherwise");
    };
    let reason = String::from_utf8_lossy(&closed.reason).into_owned();
    assert_eq!(close::PROTOCOL, closed.error_code, "{expected}: {reason}");
    assert!(reason.contains(expected), "{expected}: {reason}");
}

async fn commit_all(crimes: Vec<(Crime, &'static str)>) {
    let mut all = JoinSet::new();
    for (crime, expected) in crimes {
        all.spawn(commit(crime, expected));
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn whoever_breaks_the_protocol_loses_the_connection() {
    let endless = frame_of(0x7fff_ffff, 0, b"");
    let lane = |frames: &[u8]| Crime::Lanes(vec![[lane_head(), frames.to_vec()].concat()]);
    commit_all(vec![
        (Crime::First(b"GET / HTTP/1.1\r\n".to_vec()), "flags"),
        (Crime::First(endless.clone()), "too long"),
        (Crime::First(framed(&ControlMessage::Bye(1).encode())), "unexpected first message"),
        (Crime::Control(hello()), "unexpected greeting"),
        (Crime::Control(endless.clone()), "too long"),
        (Crime::Control(bomb(64 << 20)), "decompress"),
        (Crime::Control(framed(&[0x22, 0])), "mount name"),
        (Crime::Control(framed(&[0xff; 100])), "malformed message"),
        (Crime::Control((0..2000).flat_map(mount_hello).collect()), "number of greetings"),
        (lane(&frame_of(9, 0, b"x")), "cut short"),
        (lane(&endless), "too long"),
        (lane(&bomb(FRAME_BYTES_MAX + 1)), "decompress"),
        (Crime::Lanes(vec![b"no lane".to_vec()]), "flags"),
        (Crime::Lanes(vec![lane_head(), lane_head()]), "second stream of a lane"),
        (Crime::Request(endless), "too long"),
        (Crime::Request(bomb(64 << 20)), "decompress"),
    ])
    .await;
}

#[tokio::test]
async fn records_that_no_release_can_have_sent_are_refused_with_the_connection() {
    let lane = |message: &[u8]| Crime::Lanes(vec![[lane_head(), framed(message)].concat()]);
    let at = |path: &[u8]| lane(&deletion(path, 1, 1));
    let mut crimes = vec![
        (at(b"../etc/shadow"), "`.` or `..`"),
        (at(b"a/../../b"), "`.` or `..`"),
        (at(b"/etc/shadow"), "empty component"),
        (at(b"a//b"), "empty component"),
        (at(b"a/"), "empty component"),
        (at(b"a\0b"), "NUL"),
        (at(&[b'n'; 256]), "name is longer"),
        (at(&b"d/".repeat(20_000)), "path is longer"),
    ];
    // More records than are allowed in a frame that is allowed; a million of them, compressed.
    crimes.push((lane(&deletion(b"a", 1, 1).repeat(ANNOUNCE_RECORDS_MAX + 1)), "number or length"));
    let million = bytes_field(1, b"").repeat(1_000_000);
    let body = zstd::bulk::compress(&million, 19).unwrap();
    let million = frame_of(u32::try_from(body.len()).unwrap(), 1, &body);
    crimes.push((Crime::Lanes(vec![[lane_head(), million].concat()]), "number or length"));
    // Lengths and numbers of 2^63 and more.
    let mut long = vec![0x0a];
    encode_varint(1 << 63, &mut long);
    crimes.push((lane(&long), "record length"));
    let mut long = vec![0x7a];
    encode_varint(u64::MAX, &mut long);
    crimes.push((lane(&long), "malformed message"));
    crimes.push((lane(&deletion(b"a", 1, NUMBER_MAX + 1)), "sequence"));
    crimes.push((lane(&deletion(b"a", NUMBER_MAX + 1, 1)), "counter"));
    crimes.push((lane(&number_field(2, u64::MAX)), "sequence"));
    commit_all(crimes).await;
}

#[tokio::test]
async fn a_peer_that_breaks_the_protocol_is_refused_for_a_while_and_then_taken_back() {
    let (mut node, rogue) = node_and_smaller_identity().await;
    let raw = node.connect_as(&rogue).await.unwrap();
    let (mut send, _receive) = raw.connection.open_bi().await.unwrap();
    send.write_all(&[hello(), hello()].concat()).await.unwrap();
    assert_eq!(Some(close::PROTOCOL), raw.closed().await);
    assert!(node.down(rogue.id).await.starts_with("protocol violation"));
    let mut refused = 0;
    let taken_back = loop {
        let raw = node.connect_as(&rogue).await.unwrap();
        let (mut send, mut receive) = raw.connection.open_bi().await.unwrap();
        drop(send.write_all(&hello()).await);
        let mut head = [0; 5];
        if receive.read_exact(&mut head).await.is_ok() {
            break raw;
        }
        assert_eq!(Some(close::BUSY), raw.closed().await);
        // What `status` says meanwhile.
        assert!(node.net.peers()[0].last_error.starts_with("protocol violation"));
        refused += 1;
    };
    assert!(refused > 0);
    node.up(rogue.id).await;
    assert!(taken_back.connection.close_reason().is_none());
}

#[tokio::test]
async fn what_a_member_does_wrong_disturbs_no_other_link() {
    let mut a = Node::first("a").await;
    let mut b = a.invite_and_start("b").await;
    let (ab, ba) = linked(&mut a, &mut b).await;
    let rogue = Home::new("rogue");
    rogue.join(&a.invite()).await.unwrap();
    let rogue = rogue.identity();
    for _ in 0..20 {
        let raw = a.connect_as(&rogue).await.unwrap();
        if let Ok((mut send, _receive)) = raw.connection.open_bi().await {
            drop(send.write_all(&[hello(), bomb(64 << 20)].concat()).await);
        }
        raw.closed().await;
        ab.rpc("echo", Vec::new()).await.unwrap();
        ba.rpc("echo", Vec::new()).await.unwrap();
    }
    assert!(!ab.is_closed() && !ba.is_closed());
}

#[tokio::test]
async fn a_list_of_a_thousand_members_makes_a_node_dial_as_many_as_a_cluster_has_at_most() {
    let (mut node, rogue) = node_and_smaller_identity().await;
    let mut list = Members::clone(&node.net.members());
    for id in 1..1000 {
        let (name, addresses) = (format!("n{id}"), vec!["127.0.0.1:9".to_owned()]);
        let state = MemberState::Active;
        list.put(Member { id: NodeId(id), name, addresses, state, changed: 1, key: None });
    }
    let raw = node.connect_as(&rogue).await.unwrap();
    let (mut send, _receive) = raw.connection.open_bi().await.unwrap();
    let members = framed(&ControlMessage::Members(list).encode());
    send.write_all(&[hello(), members].concat()).await.unwrap();
    node.up(rogue.id).await;
    node.members(|m| m.iter().len() > 900).await;
    // The list is acted on before it is told of again.
    a_change(&node).await;
    node.members(|m| !m.is_active(NodeId(1))).await;
    assert!(node.net.dialled() <= crate::model::limits::NODES_MAX);
    assert!(raw.connection.close_reason().is_none());
}

async fn a_change(node: &Node) {
    node.net.remove("n1").await.unwrap();
}
