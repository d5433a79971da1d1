//! What monitoring is told of a status: findings and numbers. Pure.

use jiff::Timestamp;

use super::plugin::{Report, State};
use super::range::Range;
use crate::cli::words::{age, conflicts_over, count, plural, seconds, trash_over};
use crate::control::types::{
    GuardKind, MountState, MountStatus, NodeStatus, PeerStatus, StatusReply, VerifiedStatus,
};

const SECONDS_PER_DAY: f64 = 86_400.0;

/// The ranges of `check replication`.
#[derive(Debug)]
pub(in crate::cli) struct Lag {
    pub(in crate::cli) warning: Range,
    pub(in crate::cli) critical: Range,
    pub(in crate::cli) warning_changes: Option<Range>,
    pub(in crate::cli) critical_changes: Option<Range>,
}

/// The ranges of `check cluster`.
#[derive(Debug)]
pub(in crate::cli) struct Members {
    pub(in crate::cli) warning: Range,
    pub(in crate::cli) critical: Range,
    pub(in crate::cli) certificate_warning: Range,
    pub(in crate::cli) certificate_critical: Range,
}

/// The ranges of `check integrity`.
#[derive(Debug)]
pub(in crate::cli) struct Verified {
    pub(in crate::cli) warning: Option<Range>,
    pub(in crate::cli) critical: Option<Range>,
    pub(in crate::cli) missed_warning: Range,
}

/// The ranges of `check snapshots`.
#[derive(Debug)]
pub(in crate::cli) struct Snapshots {
    pub(in crate::cli) warning: Range,
    pub(in crate::cli) critical: Range,
    pub(in crate::cli) copies_warning: Option<Range>,
    pub(in crate::cli) free_warning: Range,
    pub(in crate::cli) verified_warning: Option<Range>,
}

/// Seconds of a day.
const DAY: f64 = 86_400.0;

/// Bytes of a GiB.
const GIB: f64 = 1_073_741_824.0;

/// The newest snapshot, its copies, and the room for more.
pub(in crate::cli) fn snapshots(
    status: &StatusReply,
    ranges: &Snapshots,
    now: Timestamp,
) -> Report {
    let mut report = Report::new("snapshots");
    if removed(&mut report, status) {
        return report;
    }
    let is = &status.snapshots;
    if is.looked.is_none() {
        report.find(State::Unknown, "the daemon has just started, and has not looked yet");
        return report;
    }
    if let Some(error) = &is.error {
        report.find(State::Warning, error.clone());
    }
    let missed =
        format!("{} missed", plural(usize::try_from(is.missed).unwrap_or(usize::MAX), "run"));
    let value = ("missed", is.missed as f64, "");
    report.hold(value, Some(&ranges.warning), Some(&ranges.critical), missed);
    let nodes = usize::try_from(is.nodes).unwrap_or(usize::MAX);
    let copies = format!("the newest is on {} of {}", is.newest_copies, plural(nodes, "node"));
    report.summary = match is.newest_taken {
        Some(taken) => {
            let of = plural(usize::try_from(is.count).unwrap_or(usize::MAX), "snapshot");
            format!("{of}, {copies}, {} old", age(now, taken))
        }
        None => "there is no snapshot".to_owned(),
    };
    match is.newest_taken {
        Some(taken) => {
            report.tell("age", now.duration_since(taken).as_secs_f64().max(0.0), "s");
            let value = ("copies", is.newest_copies as f64, "");
            report.hold(value, ranges.copies_warning.as_ref(), None, copies.clone());
            let on_its_way = now.duration_since(taken).as_secs() < COPIES_TAKE_SECONDS;
            let all = is.newest_copies >= is.nodes;
            if ranges.copies_warning.is_none() && !all && !on_its_way {
                report.find(State::Warning, copies);
            }
        }
        None => report.find(State::Critical, "there is no snapshot that can be restored"),
    }
    if is.schedule.is_none() {
        let text = "none is taken by itself: `schedule` is off in [snapshot]";
        report.find(State::Warning, text);
    }
    if is.faults > 0 {
        let faults = plural(usize::try_from(is.faults).unwrap_or(usize::MAX), "damaged object");
        let text = format!("{faults} in snapshots: `trefoil snapshot verify --heal`");
        report.find(State::Critical, text);
    }
    let verified = is.verified.map(|at| now.duration_since(at).as_secs_f64().max(0.0) / DAY);
    match (verified, &ranges.verified_warning) {
        (Some(days), range) => {
            let text = format!("all data was last read {days:.0} days ago");
            report.hold(
                ("verified", (days * 10.0).round() / 10.0, "d"),
                range.as_ref(),
                None,
                text,
            );
        }
        (None, Some(_)) => report.find(State::Warning, "no data was ever read again"),
        (None, None) => {}
    }
    report.tell("faults", is.faults as f64, "");
    let free = is.free_bytes as f64 / GIB;
    let text = format!("{free:.1} GiB are free for snapshots");
    report.hold(("free", free, ""), Some(&ranges.free_warning), None, text);
    report.tell("snapshots", is.count as f64, "");
    report.tell("stored", is.bytes as f64, "B");
    report
}

/// How long the other nodes may take to have a new snapshot.
const COPIES_TAKE_SECONDS: i64 = 1800;

/// Replicas, lag, problems, halts and conflicts.
pub(in crate::cli) fn replication(
    status: &StatusReply,
    only: Option<&str>,
    ranges: &Lag,
    now: Timestamp,
) -> Report {
    let mut report = Report::new("replication");
    if removed(&mut report, status) {
        return report;
    }
    let mounts: Vec<_> = chosen(status, only).collect();
    for mount in &mounts {
        let guards: Vec<_> = status.guards.iter().filter(|g| g.mount == mount.name).collect();
        for guard in &guards {
            let is = match guard.kind {
                GuardKind::Deletions => "",
                GuardKind::Mount => " is halted",
            };
            let text = format!("mount {}{is}: {}; {}", mount.name, guard.reason, guard.hint);
            report.find(State::Critical, text);
        }
        if guards.is_empty() {
            judge_state(&mut report, mount);
        }
    }
    judge_lag(&mut report, &mounts, ranges);
    let problems: u64 = mounts.iter().map(|mount| mount.problem_count).sum();
    if problems > 0 {
        let first = mounts.iter().find_map(|m| Some((m, m.problems.first()?)));
        let such = first.map_or_else(String::new, |(mount, problem)| {
            format!(", such as {} in {}: {}", problem.path, mount.name, problem.reason)
        });
        let number = plural(usize::try_from(problems).unwrap_or(usize::MAX), "problem");
        report.find(State::Warning, format!("{number}{such}"));
    }
    report.tell("problems", problems as f64, "");
    conflicts(&mut report, status);
    for text in mounts.iter().filter_map(|mount| trash_over(mount)) {
        report.find(State::Warning, text);
    }
    let identical = mounts.iter().filter(|mount| mount.in_sync).count();
    report.tell("mounts_in_sync", identical as f64, "");
    report.tell("mounts", mounts.len() as f64, "");
    let heard = mounts.iter().flat_map(|mount| &mount.peers).filter_map(|peer| peer.heard).min();
    let compared = match (heard, status.nodes.len()) {
        (_, 0 | 1) => "on the only node".to_owned(),
        (Some(heard), nodes) => {
            format!("on {}, compared {} ago", plural(nodes, "node"), age(now, heard))
        }
        (None, nodes) => format!("on {}", plural(nodes, "node")),
    };
    report.summary = match identical == mounts.len() {
        true => format!("{} identical {compared}", plural(identical, "mount")),
        false => format!(
            "{identical} of {} identical {compared}; changes are on their way",
            plural(mounts.len(), "mount")
        ),
    };
    report
}

fn chosen<'a>(
    status: &'a StatusReply,
    only: Option<&'a str>,
) -> impl Iterator<Item = &'a MountStatus> {
    status.mounts.iter().filter(move |mount| only.is_none_or(|only| mount.name == only))
}

fn removed(report: &mut Report, status: &StatusReply) -> bool {
    if status.removed {
        let text = "this node was removed from the cluster; nothing is mirrored";
        report.find(State::Critical, text);
    }
    status.removed
}

fn conflicts(report: &mut Report, status: &StatusReply) {
    if status.conflicts > 0 {
        let number = plural(usize::try_from(status.conflicts).unwrap_or(usize::MAX), "conflict");
        report.find(State::Warning, format!("{number} kept; see `trefoil conflicts list`"));
    }
    if let Some(text) = conflicts_over(status) {
        report.find(State::Warning, text);
    }
    report.tell("conflicts", status.conflicts as f64, "");
}

/// Whether replicas differ although nothing is on its way.
pub(in crate::cli) fn differs(mount: &MountStatus, peer: &PeerStatus) -> bool {
    let at_rest = mount.state == MountState::Watching && mount.pending == 0;
    at_rest && peer.up && peer.equal == Some(false) && peer.lag_changes.unwrap_or(0) == 0
}

fn judge_state(report: &mut Report, mount: &MountStatus) {
    let name = &mount.name;
    match mount.state {
        MountState::Halted => {
            report.find(State::Critical, format!("mount {name} is halted: {}", mount.doing));
        }
        MountState::Paused => {
            let text = format!("mount {name} is paused; `trefoil resume {name}`");
            report.find(State::Warning, text);
        }
        MountState::Watching | MountState::Scanning | MountState::Syncing => {}
    }
    for peer in &mount.peers {
        if differs(mount, peer) {
            let how = format!("`trefoil verify --mount {name}`");
            let text =
                format!("mount {name} differs on {} and nothing is on its way; {how}", peer.name);
            report.find(State::Critical, text);
        }
        if !peer.up {
            report.find(State::Warning, format!("mount {name}: {} is down", peer.name));
        } else if let Some(reason) = &peer.not_compared_because {
            let text = format!("mount {name} is not compared with {}: {reason}", peer.name);
            report.find(State::Warning, text);
        }
    }
}

fn judge_lag(report: &mut Report, mounts: &[&MountStatus], ranges: &Lag) {
    let peers =
        || mounts.iter().flat_map(|m| m.peers.iter().map(move |peer| (m.name.as_str(), peer)));
    let changes = |(_, peer): &(&str, &PeerStatus)| peer.lag_changes.unwrap_or(0);
    let lag = |(_, peer): &(&str, &PeerStatus)| peer.lag_seconds.unwrap_or(0.0);
    let slowest = peers().max_by(|a, b| lag(a).total_cmp(&lag(b)));
    let most = peers().max_by_key(changes);
    let behind = |one: Option<(&str, &PeerStatus)>| {
        one.map_or_else(String::new, |one| {
            let (mount, peer) = one;
            let (changes, lag) = (
                plural(usize::try_from(changes(&one)).unwrap_or(usize::MAX), "change"),
                seconds(lag(&one)),
            );
            format!("mount {mount}: {} is {changes} and {lag} behind", peer.name)
        })
    };
    let value = ("lag", slowest.as_ref().map_or(0.0, lag), "s");
    report.hold(value, Some(&ranges.warning), Some(&ranges.critical), behind(slowest));
    let value = ("lag_changes", most.as_ref().map_or(0, changes) as f64, "");
    let (warning, critical) = (&ranges.warning_changes, &ranges.critical_changes);
    report.hold(value, warning.as_ref(), critical.as_ref(), behind(most));
}

/// Members, their releases and their certificates.
pub(in crate::cli) fn cluster(status: &StatusReply, ranges: &Members, now: Timestamp) -> Report {
    let mut report = Report::new("cluster");
    if removed(&mut report, status) {
        return report;
    }
    let down: Vec<_> = status.nodes.iter().filter(|node| !node.up).collect();
    let up = status.nodes.len() - down.len();
    let since = |node: &NodeStatus| {
        node.since.map_or_else(String::new, |then| format!(" for {}", age(now, then)))
    };
    let why = |node: &NodeStatus| {
        node.error.as_ref().map_or_else(String::new, |error| format!(" ({error})"))
    };
    let named = |node: &&NodeStatus| format!("{}{}{}", node.name, since(node), why(node));
    let text = format!("down: {}", down.iter().map(named).collect::<Vec<_>>().join(", "));
    let value = ("nodes_down", down.len() as f64, "");
    report.hold(value, Some(&ranges.warning), Some(&ranges.critical), text);
    report.tell("nodes", status.nodes.len() as f64, "");
    let mut releases: Vec<_> =
        status.nodes.iter().filter_map(|node| node.release.as_deref()).collect();
    releases.sort_unstable();
    releases.dedup();
    if releases.len() > 1 {
        let text = format!("nodes run different releases: {}", releases.join(", "));
        report.find(State::Warning, text);
    }
    let left = status.nodes.iter().filter_map(|node| Some((node.certificate_days?, node)));
    if let Some((days, node)) = left.min_by_key(|(days, _)| *days) {
        let text = format!("the certificate of {} ends in {days} days", node.name);
        let (warning, critical) = (&ranges.certificate_warning, &ranges.certificate_critical);
        let value = ("certificate_days", days as f64, "");
        report.hold(value, Some(warning), Some(critical), text);
    }
    let trips = status.nodes.iter().filter_map(|node| node.round_trip_ms);
    if let Some(slowest) = trips.max_by(f64::total_cmp) {
        report.tell("round_trip", slowest, "ms");
    }
    report.summary = format!(
        "{up} of {} up, release {}",
        plural(status.nodes.len(), "node"),
        releases.join(", ")
    );
    report
}

/// What comparisons found, and what went wrong below the mirror.
pub(in crate::cli) fn integrity(
    status: &StatusReply,
    only: Option<&str>,
    ranges: &Verified,
    now: Timestamp,
) -> Report {
    let mut report = Report::new("integrity");
    if removed(&mut report, status) {
        return report;
    }
    let mounts: Vec<_> = chosen(status, only).collect();
    for mount in &mounts {
        judge_verified(&mut report, mount, now);
        if mount.index_set_aside {
            let name = &mount.name;
            let text = format!(
                "an index of mount {name} could not be used and was set aside; when it is understood, \
                 remove index/{name}.db.unusable in the state folder"
            );
            report.find(State::Warning, text);
        }
    }
    let oldest = mounts.iter().map(|mount| days(mount.verified_deep.as_ref(), now));
    let oldest = oldest.max_by(f64::total_cmp).unwrap_or(0.0);
    let text = match oldest.is_finite() {
        true => {
            format!("the last deep comparison is {oldest:.1} days old; `trefoil verify --deep`")
        }
        false => "not every mount was ever compared deeply; `trefoil verify --deep`".to_owned(),
    };
    if oldest.is_finite() {
        let value = ("verified_days", oldest, "");
        report.hold(value, ranges.warning.as_ref(), ranges.critical.as_ref(), text.as_str());
    } else if ranges.critical.as_ref().is_some_and(|range| range.alerts(oldest)) {
        report.find(State::Critical, text.as_str());
    } else if ranges.warning.as_ref().is_some_and(|range| range.alerts(oldest)) {
        report.find(State::Warning, text.as_str());
    }
    let missed: u64 = mounts.iter().map(|mount| mount.missed_events).sum();
    let said = format!(
        "{} missed by the watcher, found by a scan",
        plural(usize::try_from(missed).unwrap_or(usize::MAX), "change")
    );
    report.hold(("missed_events", missed as f64, "c"), Some(&ranges.missed_warning), None, said);
    report.tell("overflows", mounts.iter().map(|m| m.overflows).sum::<u64>() as f64, "c");
    conflicts(&mut report, status);
    let compared = match oldest.is_finite() {
        true => format!("every file compared {oldest:.1} days ago"),
        false => "never compared deeply".to_owned(),
    };
    report.summary = format!("{}, {compared}", plural(mounts.len(), "mount"));
    report
}

fn days(verified: Option<&VerifiedStatus>, now: Timestamp) -> f64 {
    verified.map_or(f64::INFINITY, |verified| {
        let seconds = now.as_second().saturating_sub(verified.when.as_second()).max(0);
        seconds as f64 / SECONDS_PER_DAY
    })
}

fn judge_verified(report: &mut Report, mount: &MountStatus, now: Timestamp) {
    let newest = mount.verified.iter().chain(&mount.verified_deep).max_by_key(|one| one.when);
    // A deep one that differed is only settled by another deep one.
    let deep = mount.verified_deep.iter().filter(|one| !one.equal);
    let Some(bad) = deep.chain(newest.filter(|one| !one.equal)).next() else { return };
    let (name, ago) = (&mount.name, age(now, bad.when));
    if bad.difference_count > 0 {
        let text = format!(
            "mount {name}: {} when compared {ago} ago; `trefoil verify --deep --mount {name}`",
            differences(bad.difference_count)
        );
        report.find(State::Critical, text);
    } else {
        let text =
            format!("mount {name}: not compared with {} {ago} ago", bad.not_compared.join(", "));
        report.find(State::Warning, text);
    }
}

fn differences(number: u64) -> String {
    let noun = if number == 1 { "difference" } else { "differences" };
    format!("{} {noun}", count(number))
}
