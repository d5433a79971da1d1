//! Who gets in, and who does not.

use super::super::close;
use super::*;

#[tokio::test]
async fn a_node_joins_with_a_ticket_and_is_linked() {
    let mut a = Node::first("a").await;
    let home = Home::new("b");
    let joined = home.join(&a.invite()).await.unwrap();
    assert_eq!(a.net.members().mounts(), joined.members.mounts());
    assert_eq!(2, joined.members.mounts().len());
    let mut b = home.start().await;
    assert_eq!(joined.id, b.id);
    linked(&mut a, &mut b).await;
    let peers = a.net.peers();
    let [peer] = peers.as_slice() else { panic!("one peer, not {peers:?}") };
    assert_eq!(("b", true, b.id), (peer.name.as_str(), peer.up, peer.id));
    assert_eq!(("0.1.0-test", Some(b.net.address())), (peer.release.as_str(), peer.address));
    assert!(peer.rtt.is_some() && peer.bytes_sent > 0 && peer.bytes_received > 0);
    a.members(|m| m.member(joined.id).is_some_and(|m| !m.addresses.is_empty())).await;
}

#[tokio::test]
async fn keys_are_the_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let a = Node::first("a").await;
    let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(0o700, mode(a.home.state()));
    let identity = a.home.state().join("identity");
    assert_eq!(0o700, mode(identity.clone()));
    for name in ["ca.key", "node.key", "node.pem", "ca.pem"] {
        assert_eq!(0o600, mode(identity.join(name)), "{name}");
    }
}

#[tokio::test]
async fn a_cluster_or_membership_is_never_overwritten() {
    let a = Node::first("a").await;
    assert!(matches!(init(&a.home.state(), "a", &[], &[]), Err(InitError::Exists)));
    assert!(matches!(a.home.join(&a.invite()).await, Err(JoinError::AlreadyMember)));
}

#[tokio::test]
async fn used_expired_and_forged_tickets_are_refused() {
    let a = Node::first("a").await;
    let ticket = a.invite();
    Home::new("b").join(&ticket).await.unwrap();
    let refused = Home::new("c").join(&ticket).await;
    assert!(matches!(refused, Err(JoinError::TicketUsed)), "{refused:?}");

    let expired = invite(&a.home.state(), Duration::ZERO).unwrap();
    let refused = Home::new("c").join(&expired).await;
    assert!(matches!(refused, Err(JoinError::TicketExpired)), "{refused:?}");

    let forged = Ticket { secret: Secret([7; 32]), ..a.invite() };
    let refused = Home::new("c").join(&forged).await;
    assert!(matches!(refused, Err(JoinError::TicketUnknown)), "{refused:?}");

    let other_cluster = Ticket { pin: [7; 32], ..a.invite() };
    let refused = Home::new("c").join(&other_cluster).await;
    assert!(matches!(refused, Err(JoinError::Unreachable(_))), "{refused:?}");
    assert_eq!(2, a.net.members().iter().len());
}

#[tokio::test]
async fn of_two_nodes_with_one_ticket_exactly_one_joins() {
    let a = Node::first("a").await;
    let ticket = a.invite();
    let (b, c) = (Home::new("b"), Home::new("c"));
    let results = tokio::join!(b.join(&ticket), c.join(&ticket));
    match results {
        (Ok(_), Err(JoinError::TicketUsed)) | (Err(JoinError::TicketUsed), Ok(_)) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(2, a.net.members().iter().len());
    assert!(is_initialised(&b.state()) != is_initialised(&c.state()));
}

#[tokio::test]
async fn a_refused_name_leaves_the_ticket_good() {
    let mut a = Node::first("a").await;
    let mut b = a.invite_and_start("b").await;
    linked(&mut a, &mut b).await;
    let ticket = a.invite();
    for name in ["a", "b"] {
        let refused = Home::new(name).join(&ticket).await;
        assert!(
            matches!(&refused, Err(JoinError::Refused(r)) if r.contains("is up")),
            "{refused:?}"
        );
    }
    Home::new("c").join(&ticket).await.unwrap();
}

#[tokio::test]
async fn a_lost_node_is_replaced_by_one_of_the_same_name() {
    let mut a = Node::first("a").await;
    let mut lost = a.invite_and_start("b").await;
    linked(&mut a, &mut lost).await;
    lost.net.shutdown().await;
    a.down(lost.id).await;
    let mut fresh = a.invite_and_start("b").await;
    linked(&mut a, &mut fresh).await;
    assert!(!a.net.members().is_active(lost.id));
    assert_eq!(vec![fresh.id], a.net.peers().iter().map(|p| p.id).collect::<Vec<_>>());
    let refused = a.connect_as(&lost.home.identity()).await.unwrap();
    assert_eq!(Some(close::REMOVED), refused.closed().await);
}

#[tokio::test]
async fn a_removed_node_is_refused_everywhere() {
    let mut a = Node::first("a").await;
    let mut b = a.invite_and_start("b").await;
    linked(&mut a, &mut b).await;
    let mut c = a.invite_and_start("c").await;
    linked(&mut a, &mut c).await;
    b.up(c.id).await;
    assert!(matches!(a.net.remove("nobody").await, Err(RemoveError::Unknown(_))));
    assert!(matches!(a.net.remove("a").await, Err(RemoveError::Oneself)));
    assert_eq!(c.id, a.net.remove("c").await.unwrap());
    let id = c.id;
    tokio::join!(a.down(id), b.down(id));
    b.members(|m| !m.is_active(id)).await;
    for node in [&a, &b] {
        let refused = node.connect_as(&c.home.identity()).await.unwrap();
        assert_eq!(Some(close::REMOVED), refused.closed().await);
    }
    // It is remembered: also after a restart of the one that was told by the other.
    b.net.shutdown().await;
    let b = b.home.start().await;
    let refused = b.connect_as(&c.home.identity()).await.unwrap();
    assert_eq!(Some(close::REMOVED), refused.closed().await);
}

#[tokio::test]
async fn a_foreign_certificate_is_refused() {
    let a = Node::first("a").await;
    let foreign = Node::first("x").await;
    // It does not believe us, ...
    let refused = a.connect_as(&foreign.home.identity()).await;
    assert!(matches!(refused, Err(ConnectionError::TransportError(_))));
    // ... and if it did, we would not believe it.
    let ca_certificate = a.home.identity().ca_certificate;
    let mixed = Identity { ca_certificate, ..foreign.home.identity() };
    let end = match a.connect_as(&mixed).await {
        Ok(raw) => raw.connection.closed().await,
        Err(error) => error,
    };
    assert!(matches!(&end, ConnectionError::ConnectionClosed(_)), "{end:?}");
    assert!(a.net.peers().is_empty());
}

#[tokio::test]
async fn a_member_of_the_cluster_that_is_not_in_the_list_is_refused() {
    let a = Node::first("a").await;
    let mut stranger = a.home.identity();
    stranger.id = NodeId(a.id.0 ^ 1);
    stranger.renew(&a.home.folder.path().join("nowhere"), files::now_secs()).unwrap();
    let refused = a.connect_as(&stranger).await.unwrap();
    assert_eq!(Some(close::NOT_MEMBER), refused.closed().await);
    let twin = a.connect_as(&a.home.identity()).await.unwrap();
    assert_eq!(Some(close::NOT_MEMBER), twin.closed().await);
}
