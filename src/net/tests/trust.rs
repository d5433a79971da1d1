//! Certificates while time goes by: renewed without anybody's hand, refused when they are over.

use rcgen::KeyPair;

use super::super::certificate::{self, read};
use super::super::close;
use super::*;
use crate::model::Incarnation;

const DAY_SECS: u64 = 24 * 60 * 60;

/// What a node presents to whoever dials it.
async fn presented(node: &Node, dialler: &Identity) -> u64 {
    let raw = node.connect_as(dialler).await.unwrap();
    tls::certificate(&raw.connection).unwrap().ends_secs
}

#[tokio::test]
async fn a_certificate_is_renewed_while_links_go_on_and_peers_are_told() {
    let mut a = Node::first("a").await;
    let mut b = a.invite_and_start("b").await;
    let (ab, ba) = linked(&mut a, &mut b).await;
    let first = a.net.certificate_ends_secs();
    assert_eq!(Some(first), b.net.peers()[0].certificate_ends_secs);
    // Not yet.
    a.net.renew_certificate(files::now_secs() + 29 * DAY_SECS).await;
    assert_eq!(first, a.net.certificate_ends_secs());

    a.net.renew_certificate(files::now_secs() + 31 * DAY_SECS).await;
    let renewed = a.net.certificate_ends_secs();
    assert!(renewed >= first + 31 * DAY_SECS);
    // The control stream is in order: what was said after the renewal comes after the news of it.
    ab.send_control(message()).unwrap();
    assert_eq!(message(), b.control().await);
    assert_eq!(Some(renewed), b.net.peers()[0].certificate_ends_secs);
    ba.rpc("echo", Vec::new()).await.unwrap();
    assert!(!ab.is_closed() && !ba.is_closed());
    while let Ok(event) = b.events.try_recv() {
        assert!(!matches!(event, NetEvent::Down { .. }), "{event:?}");
    }

    // Whoever dials from now on sees it, and so it is on disk; what this node dials with too.
    assert_eq!(renewed, presented(&a, &b.home.identity()).await);
    assert_eq!(renewed, a.home.identity().ends_secs());
    a.net.shutdown().await;
    b.down(a.id).await;
    let mut a = a.home.start().await;
    linked(&mut a, &mut b).await;
}

fn message() -> ControlMessage {
    let lanes = vec![(Lane::Normal, Sequence(1))];
    ControlMessage::Ack(Ack { mount: "var".to_owned(), incarnation: Incarnation(1), lanes })
}

#[tokio::test]
async fn a_renewed_certificate_is_what_the_node_dials_with() {
    let mut a = Node::first("a").await;
    let mut b = a.invite_and_start("b").await;
    linked(&mut a, &mut b).await;
    for node in [&a, &b] {
        node.net.renew_certificate(files::now_secs() + 31 * DAY_SECS).await;
    }
    // Whoever of them dials: the link that comes after this one is made with the new certificates.
    let endpoint = b.net.endpoint().unwrap();
    endpoint.close(VarInt::from_u32(99), b"as if the socket had failed");
    drop(endpoint);
    let (a_id, b_id) = (a.id, b.id);
    tokio::join!(a.down(b_id), b.down(a_id));
    linked(&mut a, &mut b).await;
    assert_eq!(Some(b.net.certificate_ends_secs()), a.net.peers()[0].certificate_ends_secs);
    assert_eq!(Some(a.net.certificate_ends_secs()), b.net.peers()[0].certificate_ends_secs);
}

#[tokio::test]
async fn an_expired_certificate_is_refused_by_either_side() {
    let a = Node::first("a").await;
    let joined = Home::new("b");
    joined.join(&a.invite()).await.unwrap();
    let ten_years_ago = files::now_secs() - 3650 * DAY_SECS;
    let mut expired = joined.identity();
    expired.renew(&joined.state(), ten_years_ago).unwrap();
    let end = match a.connect_as(&expired).await {
        Ok(raw) => raw.connection.closed().await,
        Err(error) => error,
    };
    let ConnectionError::ConnectionClosed(close) = &end else { panic!("{end:?}") };
    assert!(close.to_string().contains("expired"), "{close}");

    // Nobody links with a node that shows one, either.
    let port = Port::open(&expired, "127.0.0.1:0".parse().unwrap(), true).unwrap();
    let client = Port::open(&a.home.identity(), "127.0.0.1:0".parse().unwrap(), true).unwrap();
    let (address, name) = (port.endpoint.local_addr().unwrap(), certificate::dns_name(expired.id));
    let server = tokio::spawn(async move { port.endpoint.accept().await?.await.ok() });
    let dialled = client.endpoint.connect_with(client.client, address, &name).unwrap().await;
    let Err(error) = dialled else { panic!("linked with an expired certificate") };
    assert!(error.to_string().contains("expired"), "{error}");
    assert!(server.await.unwrap().is_none());
}

#[tokio::test]
async fn clocks_may_be_a_year_apart() {
    for now_secs in [files::now_secs() - 365 * DAY_SECS, files::now_secs() + 365 * DAY_SECS] {
        let a = Node::first("a").await;
        let home = Home::new("b");
        home.join(&a.invite()).await.unwrap();
        let mut other = home.identity();
        other.renew(&home.state(), now_secs).unwrap();
        assert_ne!(now_secs + 365 * DAY_SECS, read(&other.certificate).unwrap().ends_secs);
        let raw = a.connect_as(&other).await.unwrap();
        // TLS would close without a code of ours.
        if let Ok((mut send, _receive)) = raw.connection.open_bi().await {
            drop(send.write_all(&[0xff; 5]).await);
        }
        let code = raw.closed().await;
        assert!(code.is_some(), "{now_secs}");
    }
}

/// An identity for `id` as a former member can make one: signed by the cluster's key, which it still
/// has, for a key of its own.
fn forged(former: &Identity, id: NodeId) -> Identity {
    let mut forged = Identity {
        id,
        cluster: former.cluster,
        ca_certificate: former.ca_certificate.clone(),
        ca_key: KeyPair::from_pem(&former.ca_key.serialize_pem()).unwrap(),
        certificate: former.certificate.clone(),
        key: KeyPair::generate().unwrap(),
    };
    forged.renew(&PathBuf::from("/nonexistent"), files::now_secs()).unwrap();
    forged
}

#[tokio::test]
async fn a_removed_node_that_signs_itself_another_members_certificate_is_refused() {
    let mut a = Node::first("a").await;
    let mut b = a.invite_and_start("b").await;
    linked(&mut a, &mut b).await;
    let mut c = a.invite_and_start("c").await;
    linked(&mut a, &mut c).await;
    b.up(c.id).await;
    let former = c.home.identity();
    a.net.remove("c").await.unwrap();
    b.members(|m| !m.is_active(c.id)).await;
    // In the name of a member, of itself, of nobody.
    for id in [b.id, c.id, NodeId(5)] {
        let raw = a.connect_as(&forged(&former, id)).await.unwrap();
        assert_eq!(Some(close::NOT_MEMBER), raw.closed().await, "{id}");
    }
    assert!(a.net.peers()[0].up && b.net.peers()[0].up);
}

#[tokio::test]
async fn whoever_answers_in_a_members_place_without_its_key_is_not_linked() {
    let mut a = Node::first("a").await;
    let mut b = a.invite_and_start("b").await;
    linked(&mut a, &mut b).await;
    let former = b.home.identity();
    // The listener sits where node a looks for node b, and signs with the cluster's key.
    b.net.shutdown().await;
    a.down(b.id).await;
    let (address, id) = (b.home.listen, b.id);
    drop(b);
    let port = Port::open(&forged(&former, id), address, true).unwrap();
    let end = async {
        loop {
            let Ok(connection) = port.endpoint.accept().await.unwrap().await else { continue };
            return connection.closed().await;
        }
    };
    let end = tokio::time::timeout(PATIENCE, end).await.unwrap();
    assert_eq!(Some(close::NOT_MEMBER), close::code(&end));
    assert!(!a.net.peers()[0].up);
}

#[tokio::test]
async fn a_ticket_is_not_shown_to_a_former_member_that_answers_in_the_inviters_place() {
    let a = Node::first("a").await;
    let ticket = a.invite();
    let (id, address, former) = (a.id, a.home.listen, a.home.identity());
    a.net.shutdown().await;
    drop(a);
    let port = Port::open(&forged(&former, id), address, true).unwrap();
    let server = tokio::spawn(async move { port.endpoint.accept().await?.await.ok() });
    let refused = Home::new("b").join(&ticket).await;
    assert!(matches!(refused, Err(JoinError::Unreachable(_))), "{refused:?}");
    assert!(server.await.unwrap().is_none(), "no connection, so no stream with the secret");
}
