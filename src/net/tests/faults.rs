//! What happens when something breaks, or someone misbehaves.

use std::time::Instant;

use super::super::{close, frame};
use super::*;

/// Two linked nodes, the one with the larger id in a process that can be killed if `larger`, the
/// one with the smaller id otherwise.
async fn node_and_process(larger: bool) -> (Node, Process, NodeId) {
    let first = Node::first("first").await;
    let home = Home::new("second");
    let joined = home.join(&first.invite()).await.unwrap();
    let (mut node, home, id) = if (joined.id > first.id) == larger {
        (first, home, joined.id)
    } else {
        let second = home.start().await;
        let id = first.id;
        first.net.shutdown().await;
        let Node { home, net, .. } = first;
        drop(net);
        (second, home, id)
    };
    let process = home.start_process().await;
    node.up(id).await;
    (node, process, id)
}

async fn a_killed_peer_is_linked_again_at_once(larger: bool) {
    let (mut node, process, id) = node_and_process(larger).await;
    let home = process.kill();
    let killed = Instant::now();
    let mut process = home.start_process().await;
    node.down(id).await;
    let link = node.up(id).await;
    let lasted = killed.elapsed();
    assert!(lasted < Duration::from_secs(7), "linked again after {lasted:?}: by the idle timeout");
    let me = node.id;
    let back = wait(&mut process.events, |event| match event {
        NetEvent::Up { peer, link, .. } if peer == me => Some(link),
        _ => None,
    });
    assert_eq!(node.id, back.await.peer());
    assert!(!link.is_closed());
    drop(process.kill());
}

#[tokio::test]
async fn the_killed_node_that_is_dialled_is_linked_again_at_once() {
    a_killed_peer_is_linked_again_at_once(true).await;
}

#[tokio::test]
async fn the_killed_node_that_dials_is_linked_again_at_once() {
    a_killed_peer_is_linked_again_at_once(false).await;
}

#[tokio::test]
async fn a_dead_peer_is_noticed() {
    let (mut node, process, id) = node_and_process(true).await;
    drop(process.kill());
    let reason = node.down(id).await;
    assert_eq!("no answer", reason);
    assert!(!node.net.peers()[0].up);
}

#[tokio::test]
async fn a_peer_that_stops_says_so() {
    let mut a = Node::first("a").await;
    let mut b = a.invite_and_start("b").await;
    let (ab, _ba) = linked(&mut a, &mut b).await;
    b.net.shutdown().await;
    assert_eq!("the peer stops", a.down(b.id).await);
    assert!(ab.is_closed());
    assert_eq!(
        Err(SendError::Closed),
        ab.send_control(ControlMessage::Members(Members::clone(&a.net.members())))
    );
    let lane = ab.lane("var", Lane::Urgent);
    assert!(matches!(lane.try_send(announce_of(Vec::new(), 1)), Err(LaneError::Closed)));
    assert!(matches!(ab.rpc("echo", Vec::new()).await, Err(RpcError::Closed)));
    let a_id = a.id;
    assert_eq!("closed here", b.down(a_id).await);
}

#[tokio::test]
async fn a_failed_endpoint_is_opened_again() {
    let mut a = Node::first("a").await;
    let mut b = a.invite_and_start("b").await;
    let (ab, _ba) = linked(&mut a, &mut b).await;
    let endpoint = a.net.endpoint().unwrap();
    endpoint.close(VarInt::from_u32(99), b"as if the socket had failed");
    drop(endpoint);
    let (a_id, b_id) = (a.id, b.id);
    tokio::join!(a.down(b_id), b.down(a_id));
    linked(&mut a, &mut b).await;
    // A handle that someone kept does not keep the old socket.
    assert!(ab.is_closed());
    assert_eq!(a.home.listen, a.net.address());
}

#[tokio::test]
async fn garbage_on_the_port_disturbs_no_link() {
    let mut a = Node::first("a").await;
    let mut b = a.invite_and_start("b").await;
    let (ab, _ba) = linked(&mut a, &mut b).await;
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut noise = vec![0; 1500];
    for n in 0..3000_u64 {
        blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut noise);
        let length = usize::try_from(n % 1500).unwrap();
        if n % 3 == 0 {
            // The start of a QUIC version 1 Initial.
            noise[..5].copy_from_slice(&[0xc0, 0, 0, 0, 1]);
        }
        drop(socket.send_to(&noise[..length], a.net.address()));
        if n % 100 == 0 {
            ab.rpc("echo", Vec::new()).await.unwrap();
        }
    }
    ab.rpc("echo", Vec::new()).await.unwrap();
    assert!(a.net.peers()[0].up && b.net.peers()[0].up);
    while let Ok(event) = a.events.try_recv() {
        assert!(!matches!(event, NetEvent::Down { .. }), "{event:?}");
    }
}

/// A node that runs, and the identity of a member with a smaller id, which it takes links from.
pub(super) async fn node_and_smaller_identity() -> (Node, Identity) {
    let first = Node::first("first").await;
    let home = Home::new("second");
    let joined = home.join(&first.invite()).await.unwrap();
    if joined.id < first.id {
        return (first, home.identity());
    }
    let second = home.start().await;
    first.net.shutdown().await;
    (second, first.home.identity())
}

#[tokio::test]
async fn a_newer_protocol_only_is_refused() {
    let (node, smaller) = node_and_smaller_identity().await;
    let hello = ControlMessage::Hello(Hello {
        protocol_min: 1000,
        protocol_max: 1001,
        features: u64::MAX,
        name: "future".to_owned(),
        release: "9".to_owned(),
    });
    let raw = node.connect_as(&smaller).await.unwrap();
    let (mut send, _receive) = raw.connection.open_bi().await.unwrap();
    send.write_all(&frame::encode(&hello.encode()).unwrap()).await.unwrap();
    assert_eq!(Some(close::VERSION), raw.closed().await);
}

#[tokio::test]
async fn a_later_link_takes_the_place_of_an_earlier_one() {
    let (mut node, smaller) = node_and_smaller_identity().await;
    let hello = ControlMessage::Hello(Hello {
        protocol_min: 1,
        protocol_max: 7,
        features: u64::MAX,
        name: "later".to_owned(),
        release: "9".to_owned(),
    });
    let hello = frame::encode(&hello.encode()).unwrap();
    let mut links = Vec::new();
    for _ in 0..2 {
        let raw = node.connect_as(&smaller).await.unwrap();
        let (mut send, receive) = raw.connection.open_bi().await.unwrap();
        send.write_all(&hello).await.unwrap();
        let link = node.up(smaller.id).await;
        assert_eq!((1, 0), (link.protocol(), link.features()));
        links.push((raw, send, receive));
    }
    assert_eq!(Some(close::REPLACED), links[0].0.closed().await);
    assert!(links[1].0.connection.close_reason().is_none());
    // Streams, requests and messages of a later release are ignored.
    let unknown = frame::encode(&[0x7a, 1, 0]).unwrap();
    let (raw, send, _receive) = &mut links[1];
    send.write_all(&unknown).await.unwrap();
    let mut lane = raw.connection.open_uni().await.unwrap();
    lane.write_all(&unknown).await.unwrap();
    assert_eq!(Ok(Some(close::UNKNOWN)), lane.stopped().await);
    let (mut send, mut receive) = raw.connection.open_bi().await.unwrap();
    send.write_all(&unknown).await.unwrap();
    assert_eq!(Ok(Some(close::UNKNOWN)), receive.received_reset().await);
    assert!(raw.connection.close_reason().is_none());
}
