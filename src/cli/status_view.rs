//! A status in words, readable at a glance: first what is wrong and what to do, then the tables.
//!
//! In: a [`StatusReply`] and the time. Out: text. Pure.

use jiff::Timestamp;

use super::{
    output::Table,
    words::{age, conflicts_over, count, or_dash, plural, seconds, size, trash_over, until},
};
use crate::control::types::{
    GuardKind, MountState, MountStatus, NodeStatus, PeerStatus, SnapshotsStatus, StatusReply,
};

/// Characters of a fingerprint that are shown: enough to see that two are equal.
const FINGERPRINT_CHARS: usize = 12;

/// With fewer days than this left, a certificate was not renewed for two years, or a clock is wrong.
const CERTIFICATE_DAYS_MIN: i64 = 60;

/// The whole status.
pub(super) fn render(status: &StatusReply, now: Timestamp) -> String {
    let mut text = headline(status);
    for step in steps(status, now) {
        text.push_str(&format!("  {step}\n"));
    }
    text.push_str(&format!(
        "\nnode {} ({}), release {}, up {}, cluster {}\n\n",
        status.node,
        status.node_id,
        status.release,
        age(now, status.started),
        status.cluster_id,
    ));
    let sections =
        [nodes(&status.nodes, now), mounts(&status.mounts, now), problems(&status.mounts, now)];
    let sections: Vec<String> = sections.into_iter().filter(|table| !table.is_empty()).collect();
    text.push_str(&sections.join("\n"));
    text.push_str(&snapshots(&status.snapshots, now));
    text
}

/// The newest snapshot and the next one, in a line; nothing while the daemon has not looked.
fn snapshots(is: &SnapshotsStatus, now: Timestamp) -> String {
    if is.looked.is_none() {
        return String::new();
    }
    let next = match is.next {
        Some(next) => format!("the next in {}", until(now, next)),
        None => "taken by hand only".to_owned(),
    };
    let line = match is.newest_taken {
        None => format!("none yet, {next}"),
        Some(taken) => format!(
            "{}, {} in all; the newest is {} old and on {} of {}; {next}",
            count(is.count),
            size(is.bytes),
            age(now, taken),
            is.newest_copies,
            plural(usize::try_from(is.nodes).unwrap_or(usize::MAX), "node"),
        ),
    };
    let error = is.error.as_ref().map_or_else(String::new, |error| format!("  {error}\n"));
    format!("\nsnapshots: {line}\n{error}")
}

fn headline(status: &StatusReply) -> String {
    let mounts = plural(status.mounts.len(), "mount");
    if status.removed {
        return "REMOVED: this node is no member of the cluster any more; nothing is mirrored\n"
            .to_owned();
    }
    if status.in_sync && status.nodes.len() < 2 {
        return format!("in sync: {mounts} on the only node\n");
    }
    if status.in_sync {
        return format!("in sync: {mounts} identical on {}\n", plural(status.nodes.len(), "node"));
    }
    let not_in_sync: Vec<&str> =
        status.mounts.iter().filter(|m| !m.in_sync).map(|m| m.name.as_str()).collect();
    format!(
        "NOT in sync: {} of {mounts} ({})\n",
        count(not_in_sync.len() as u64),
        not_in_sync.join(", "),
    )
}

/// What is wrong, the gravest first, each with what to do about it if anything.
fn steps(status: &StatusReply, now: Timestamp) -> Vec<String> {
    let mut steps = Vec::new();
    if status.removed {
        steps.push(
            "to make it one again: stop the daemon, remove its state folder (`trefoil config check` \
             names it), then `trefoil join` with a new ticket"
                .to_owned(),
        );
        return steps;
    }
    for guard in &status.guards {
        let is = match guard.kind {
            GuardKind::Deletions => "",
            GuardKind::Mount => " is held",
        };
        steps.push(format!("mount {}{is}: {}; {}", guard.mount, guard.reason, guard.hint));
    }
    for node in status.nodes.iter().filter(|node| !node.up) {
        let since = node.since.map_or_else(String::new, |then| format!(" for {}", age(now, then)));
        let why = node.error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
        steps.push(format!("node {} is down{since}{why}", node.name));
    }
    steps.extend(status.nodes.iter().filter_map(certificate_step));
    for mount in &status.mounts {
        if !status.guards.iter().any(|guard| guard.mount == mount.name) {
            steps.extend(mount_step(mount));
        }
    }
    let problems: u64 = status.mounts.iter().map(|mount| mount.problem_count).sum();
    if problems > 0 {
        let are = if problems == 1 { "1 path has a problem" } else { "paths have problems" };
        let number = if problems == 1 { String::new() } else { format!("{} ", count(problems)) };
        steps.push(format!("{number}{are}; see below"));
    }
    if status.conflicts > 0 {
        let noun = if status.conflicts == 1 { "conflict is" } else { "conflicts are" };
        let number = count(status.conflicts);
        steps.push(format!("{number} {noun} kept; see `trefoil conflicts list`"));
    }
    steps.extend(conflicts_over(status));
    steps.extend(status.mounts.iter().filter_map(trash_over));
    steps
}

/// What to do about a certificate that its node should have renewed long ago.
fn certificate_step(node: &NodeStatus) -> Option<String> {
    let days = node.certificate_days.filter(|days| *days < CERTIFICATE_DAYS_MIN)?;
    let ends = match days {
        ..0 => "has ended".to_owned(),
        days => format!("ends in {}", plural(usize::try_from(days).unwrap_or(0), "day")),
    };
    Some(format!(
        "the certificate of node {} {ends}: restart its daemon, which renews it; if it is right \
         there, a clock is wrong",
        node.name
    ))
}

/// Why one mount is not in sync, if nothing above says it.
fn mount_step(mount: &MountStatus) -> Option<String> {
    let name = &mount.name;
    match mount.state {
        MountState::Paused => {
            return Some(format!("mount {name} is paused; go on with `trefoil resume {name}`"));
        }
        MountState::Halted if !mount.doing.is_empty() => {
            return Some(format!("mount {name} is halted: {}", mount.doing));
        }
        MountState::Halted => return Some(format!("mount {name} is halted")),
        MountState::Scanning | MountState::Syncing if !mount.in_sync => {
            let doing = if mount.doing.is_empty() { mount.state.name() } else { &mount.doing };
            return Some(format!("mount {name}: {doing}, {} pending", count(mount.pending)));
        }
        _ if mount.in_sync => return None,
        _ => {}
    }
    let differs: Vec<_> = peers(mount, Some(false)).map(|peer| peer.name.as_str()).collect();
    let differs = differs.join(", ");
    let behind = mount.pending > 0 || mount.peers.iter().any(|p| p.up && p.lag_changes > Some(0));
    if !differs.is_empty() && !behind {
        let how = format!("find out with `trefoil verify --mount {name}`");
        return Some(format!("mount {name} differs on {differs}; {how}"));
    }
    if !differs.is_empty() {
        return Some(format!("mount {name}: {differs} catching up"));
    }
    let open: Vec<_> = peers(mount, None).map(not_compared).collect();
    let yet = peers(mount, None).all(|peer| peer.not_compared_because.is_none());
    let yet = if yet { " yet" } else { "" };
    (!open.is_empty()).then(|| format!("mount {name}: not compared with {}{yet}", open.join(", ")))
}

/// Linked nodes whose replica is equal, or not, or was not compared.
fn peers(mount: &MountStatus, equal: Option<bool>) -> impl Iterator<Item = &PeerStatus> {
    mount.peers.iter().filter(move |peer| peer.up && peer.equal == equal)
}

fn not_compared(peer: &PeerStatus) -> String {
    match &peer.not_compared_because {
        Some(reason) => format!("{} ({reason})", peer.name),
        None => peer.name.clone(),
    }
}

fn nodes(nodes: &[NodeStatus], now: Timestamp) -> String {
    let mut table =
        Table::new(["NODE", "STATE", "SINCE", "ROUND TRIP", "RELEASE", "CERTIFICATE", "ADDRESS"]);
    for node in nodes {
        let name = if node.this { format!("{} (this)", node.name) } else { node.name.clone() };
        table.row([
            name,
            if node.up { "up" } else { "DOWN" }.to_owned(),
            or_dash(node.since.map(|then| age(now, then))),
            or_dash(node.round_trip_ms.map(|ms| format!("{ms:.1} ms"))),
            or_dash(node.release.as_deref()),
            or_dash(node.certificate_days.map(|days| format!("{days} d"))),
            or_dash(node.address.as_deref()),
        ]);
    }
    table.render("")
}

fn mounts(mounts: &[MountStatus], now: Timestamp) -> String {
    let mut peers: Vec<&str> =
        mounts.iter().flat_map(|m| &m.peers).map(|peer| peer.name.as_str()).collect();
    peers.sort_unstable();
    peers.dedup();
    let heading = ["MOUNT", "STATE", "FILES", "SIZE", "PENDING", "WATCH", "FINGERPRINT"];
    let lags = peers.iter().map(|name| format!("ON {name}"));
    let mut table = Table::new(heading.into_iter().map(str::to_owned).chain(lags));
    for mount in mounts {
        let mut cells = vec![
            mount.name.clone(),
            mount.state.name().to_owned(),
            count(mount.files),
            size(mount.bytes),
            count(mount.pending),
            mount.backend.clone(),
            mount.fingerprint.chars().take(FINGERPRINT_CHARS).collect(),
        ];
        for name in &peers {
            let peer = mount.peers.iter().find(|peer| peer.name == *name);
            cells.push(peer.map_or_else(|| "-".to_owned(), |peer| lag(mount, peer)));
        }
        table.row(cells);
    }
    let mut text = table.render("");
    for mount in mounts {
        if let Some(until) = mount.deploying_until {
            let left = self::until(now, until);
            let name = &mount.name;
            text.push_str(&format!("mount {name}: a deployment; no deletion is held for {left}\n"));
        }
    }
    for mount in mounts.iter().filter(|m| m.overflows > 0 || m.missed_events > 0) {
        text.push_str(&format!(
            "mount {}: events lost by the kernel: {}, changes that only a scan found: {}\n",
            mount.name,
            count(mount.overflows),
            count(mount.missed_events),
        ));
    }
    text
}

/// How far a peer is behind, or that it is equal.
fn lag(mount: &MountStatus, peer: &PeerStatus) -> String {
    let behind = peer.lag_changes.filter(|&changes| changes > 0).map(|changes| {
        let time = peer.lag_seconds.map_or_else(String::new, |s| format!(", {}", seconds(s)));
        format!("{} behind{time}", count(changes))
    });
    let at_rest = mount.state == MountState::Watching && mount.pending == 0;
    let verdict = match (peer.up, peer.equal, behind.is_some()) {
        (false, ..) => "down",
        (true, Some(true), _) => "equal",
        (true, Some(false), true) => return behind.unwrap_or_default(),
        (true, Some(false), false) if at_rest => "DIFFERS",
        (true, Some(false), false) => "not equal yet",
        (true, None, _) => "not compared",
    };
    behind.map_or_else(|| verdict.to_owned(), |behind| format!("{verdict}, {behind}"))
}

fn problems(mounts: &[MountStatus], now: Timestamp) -> String {
    let mut table = Table::new(["PROBLEM IN", "SINCE", "NEXT RETRY", "PATH", "REASON"]);
    let mut listed = 0;
    let mut all = 0;
    for mount in mounts {
        all += mount.problem_count;
        listed += mount.problems.len() as u64;
        for problem in &mount.problems {
            let retry = match problem.next_retry {
                Some(then) => format!("in {}", until(now, then)),
                None => "on change".to_owned(),
            };
            let since = age(now, problem.since);
            table.row([&mount.name, &since, &retry, &problem.path, &problem.reason]);
        }
    }
    let mut text = table.render("");
    if all > listed {
        text.push_str(&format!("and {} more\n", count(all - listed)));
    }
    text
}
