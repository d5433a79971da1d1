//! What people are told of the snapshots.

use super::*;

#[test]
fn a_status_tells_the_newest_snapshot_and_the_next() {
    let mut status = status();
    status.snapshots = crate::control::types::SnapshotsStatus {
        schedule: Some("0 */6 * * *".to_owned()),
        next: Some(now() + jiff::SignedDuration::from_hours(4)),
        count: 27,
        newest: Some("a".repeat(64)),
        newest_taken: Some(now() - jiff::SignedDuration::from_hours(2)),
        newest_copies: 3,
        nodes: 3,
        bytes: 5 << 30,
        looked: Some(now()),
        ..Default::default()
    };
    let last = |status: &StatusReply| {
        status_view::render(status, now()).lines().last().unwrap().to_owned()
    };
    assert_eq!(
        "snapshots: 27, 5.0 GiB in all; the newest is 2 h old and on 3 of 3 nodes; the next in 4 h",
        last(&status)
    );
    status.snapshots.error = Some("cannot take a snapshot: no space".to_owned());
    assert_eq!("  cannot take a snapshot: no space", last(&status));
}
