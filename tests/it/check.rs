//! `trefoil check` against real daemons: what monitoring sees, and the exit codes.

use std::fs;

use crate::cluster::{Cluster, Setup};
use crate::files::{MOUNT, SOON, restart};

/// Runs a check that must end with `code`: its one line.
#[track_caller]
fn line(cluster: &Cluster, args: &[&str], code: i32, begins: &str) -> String {
    let output = cluster.node(1).trefoil(&[&["check"], args].concat());
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(Some(code), output.status.code(), "{args:?}: {said}");
    assert_eq!((1, true), (said.lines().count(), said.starts_with(begins)), "{args:?}: {said}");
    said
}

#[test]
fn monitoring_is_told_by_the_plugins_exit_codes() {
    let mut cluster = Cluster::prepare(&Setup::new().nodes(2).mount(MOUNT));
    let down = "TREFOIL REPLICATION CRITICAL: cannot reach the daemon";
    line(&cluster, &["replication"], 2, down);
    line(
        &cluster,
        &["cluster", "-w", "x"],
        3,
        "TREFOIL CLUSTER UNKNOWN: the command line is wrong",
    );
    line(&cluster, &["nothing"], 3, "TREFOIL CHECK UNKNOWN");
    line(&cluster, &["integrity", "--config", "/no"], 3, "TREFOIL INTEGRITY UNKNOWN: cannot load");
    cluster.node(1).ends(&["config", "check", "--frobnicate"], 2);
    cluster.node(1).ends(&["check", "--help"], 0);
    for n in 1..=2 {
        cluster.enrol(n);
        cluster.node_mut(n).start();
        cluster.wait_ready(n);
    }
    fs::write(cluster.node(1).path(MOUNT).join("a"), "1").unwrap();
    cluster.node(1).done(&["wait"]);
    cluster.wait_in_sync(SOON);

    let fine = "TREFOIL REPLICATION OK: 1 mount identical on 2 nodes, compared ";
    let said = line(&cluster, &["replication"], 0, fine);
    assert!(said.contains(" | lag=0s;60;300 lag_changes=0 problems=0 conflicts=0"), "{said}");
    line(&cluster, &["cluster"], 0, "TREFOIL CLUSTER OK: 2 of 2 nodes up");
    let never = "TREFOIL INTEGRITY WARNING: not every mount was ever compared deeply";
    line(&cluster, &["integrity", "-w", "8"], 1, never);
    cluster.node(1).done(&["verify", "--deep"]);
    restart(&mut cluster, 1);
    let said = line(&cluster, &["integrity", "-w", "8"], 0, "TREFOIL INTEGRITY OK: 1 mount, every");
    assert!(said.contains("verified_days=0;8"), "{said}");
    line(&cluster, &["replication", "--mount", "x"], 3, "TREFOIL REPLICATION UNKNOWN: there is no");

    cluster.wait_in_sync(SOON);
    cluster.node(1).done(&["pause", MOUNT]);
    line(&cluster, &["replication"], 1, "TREFOIL REPLICATION WARNING: mount data is paused");
    cluster.node(1).done(&["resume", MOUNT]);
    cluster.node_mut(2).stop();
    cluster.wait_until(SOON, "word of the node that is down", |cluster| {
        let output = cluster.node(1).trefoil(&["check", "cluster", "-c", "0", "--json"]);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        match (output.status.code(), report["state"].as_str()) {
            (Some(2), Some("CRITICAL")) => Ok(()),
            _ => Err(report.to_string()),
        }
    });
    let root = cluster.node(1).path(MOUNT);
    fs::rename(&root, root.with_extension("away")).unwrap();
    cluster.wait_until(SOON, "word of the root that is away", |cluster| {
        let output = cluster.node(1).trefoil(&["check", "replication"]);
        let said = String::from_utf8(output.stdout).unwrap();
        let told = said.starts_with("TREFOIL REPLICATION CRITICAL: mount data is halted");
        if told && output.status.code() == Some(2) { Ok(()) } else { Err(said) }
    });
}
