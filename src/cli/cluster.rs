//! Making, inviting to and joining a cluster: identity and members from `net`, markers from `disk`.
//!
//! In: the configuration. Out: what was made. What can be wrong here is looked for before anything is
//! made or a ticket used up.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::time::Duration;

use anyhow::{Context, anyhow};
use jiff::Timestamp;

use super::Failure;
use crate::{
    config::{self, Config},
    daemon,
    disk::{self, Mount},
    net::{self, InitError, InviteError, JoinError, JoinRequest, Members, Ticket},
};

/// A cluster that was made.
#[derive(Clone, Debug)]
pub(super) struct Founded {
    /// This node's id.
    pub(super) node_id: String,
    /// The cluster's id.
    pub(super) cluster_id: String,
}

/// A ticket that was made.
#[derive(Clone, Debug)]
pub(super) struct Invitation {
    /// The ticket: one word.
    pub(super) ticket: String,
    /// Where the new node will look for this one.
    pub(super) addresses: Vec<String>,
    /// Until when it can be used.
    pub(super) expires: Timestamp,
}

/// A cluster that was joined.
#[derive(Clone, Debug)]
pub(super) struct Joined {
    /// This node's id.
    pub(super) node_id: String,
    /// The cluster's id.
    pub(super) cluster_id: String,
    /// The other members' names.
    pub(super) members: Vec<String>,
    /// Mounts of the cluster that this node's configuration does not have.
    pub(super) mounts_left_out: Vec<String>,
}

/// Makes a cluster: its CA, this node's identity, and the markers of its mounts.
///
/// # Errors
/// If there is one already, or a mount cannot be used: nothing was changed then. A marker that cannot
/// be written leaves the cluster behind; the hint says how to repeat.
pub(super) fn init(config: &Config) -> Result<Founded, Failure> {
    if net::is_initialised(&config.node.state) {
        return Err(exists("make a cluster", config));
    }
    for (mount, marker) in markers(config)? {
        if let Some(id) = marker {
            let path = mount.path.display();
            return Err(Failure::with_hint(
                anyhow!("cannot make a cluster: {path} is a mount already, with marker {id}"),
                format!("join its cluster, or, if that is gone, remove {path}/.trefoil"),
            ));
        }
    }
    let addresses: Vec<String> = config.node.advertise.iter().map(ToString::to_string).collect();
    let mounts = daemon::mount_names(config);
    let made = net::init(&config.node.state, &config.node.name, &addresses, &mounts);
    let made = made.map_err(|error| match error {
        InitError::Exists => exists("make a cluster", config),
        error => Failure::from(anyhow::Error::new(error).context("cannot make a cluster")),
    })?;
    mark(config, &made.members)?;
    Ok(Founded { node_id: made.id.to_string(), cluster_id: made.members.cluster.to_string() })
}

/// Makes a ticket that one node can use once, until `ttl` has passed.
///
/// # Errors
/// If this node is in no cluster, or cannot be reached by others.
pub(super) fn invite(config: &Config, ttl: Duration) -> Result<Invitation, Failure> {
    if !net::is_initialised(&config.node.state) {
        return Err(Failure::with_hint(
            anyhow!("cannot invite: this node is in no cluster yet"),
            "make one with `trefoil init`, or join one with `trefoil join TICKET`",
        ));
    }
    let ticket = net::invite(&config.node.state, ttl).map_err(|error| {
        let no_address = matches!(error, InviteError::NoAddress);
        let error = anyhow::Error::new(error).context("cannot invite");
        let hint = "set `advertise` in [node], and restart the daemon".to_owned();
        Failure { error, hint: no_address.then_some(hint), usage: false }
    })?;
    let expires = i64::try_from(ticket.expires_secs).unwrap_or(i64::MAX);
    Ok(Invitation {
        ticket: ticket.to_string(),
        expires: Timestamp::from_second(expires).unwrap_or(Timestamp::MAX),
        addresses: ticket.addresses,
    })
}

/// Enrols this node with the one that made the ticket, and makes the markers of its mounts.
///
/// # Errors
/// If this node is in a cluster already, a mount cannot be used, or the other node cannot be reached or
/// refuses: nothing was changed then. For a marker that cannot be written see [`init`].
pub(super) fn join(config: &Config, ticket: &str) -> Result<Joined, Failure> {
    let ticket: Ticket =
        ticket.parse().map_err(|e| Failure::usage(anyhow::Error::new(e).context("cannot join")))?;
    // Everything that can be wrong here is found before the ticket is used up.
    markers(config)?;
    let request = JoinRequest {
        ticket,
        state: config.node.state.clone(),
        name: config.node.name.clone(),
        listen: config.node.listen,
        advertise: config.node.advertise.iter().map(ToString::to_string).collect(),
        release: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    let joined = runtime.block_on(net::join(request)).map_err(|e| refused(e, config))?;
    mark(config, &joined.members)?;
    let others = joined.members.active().filter(|member| member.id != joined.id);
    let known = daemon::mount_names(config);
    let left_out = joined.members.mounts().keys().filter(|name| !known.contains(name));
    Ok(Joined {
        node_id: joined.id.to_string(),
        cluster_id: joined.members.cluster.to_string(),
        members: others.map(|member| member.name.clone()).collect(),
        mounts_left_out: left_out.cloned().collect(),
    })
}

/// Each mount with the id in its marker, if it has one.
fn markers(config: &Config) -> Result<Vec<(&config::Mount, Option<disk::MarkerId>)>, Failure> {
    let mut markers = Vec::with_capacity(config.mounts.len());
    for mount in &config.mounts {
        let path = &mount.path;
        let marker = Mount::read_marker(path).map_err(|error| {
            let doing = format!("cannot use mount {:?} at {}", mount.name, path.display());
            let error = anyhow::Error::new(error).context(doing);
            let hint = (!path.exists()).then(|| format!("make it: mkdir -p {}", path.display()));
            Failure { error, hint, usage: false }
        })?;
        markers.push((mount, marker.map(|(id, _)| id)));
    }
    Ok(markers)
}

/// Makes the markers of the configured mounts.
fn mark(config: &Config, members: &Members) -> Result<(), Failure> {
    for mount in &config.mounts {
        let id = members.mount_id(&mount.name);
        let made = Mount::create_marker(&mount.path, disk::MarkerId(id.0), &mount.name);
        made.map_err(|error| {
            let path = mount.path.display();
            let doing = format!("cannot mark {path} as mount {:?} of this cluster", mount.name);
            let state = config.node.state.display();
            Failure::with_hint(
                anyhow::Error::new(error).context(doing),
                format!(
                    "if nothing else mirrors it, remove {path}/.trefoil and {state}, and repeat"
                ),
            )
        })?;
    }
    daemon::prepare_conflict_store(&config.node.state, members)
        .context("cannot make the conflict store")?;
    Ok(())
}

fn exists(doing: &str, config: &Config) -> Failure {
    let state = config.node.state.display();
    Failure::with_hint(
        anyhow!("cannot {doing}: this node belongs to one already, by {state}"),
        format!("see `trefoil status`; to leave that cluster for good, remove {state}"),
    )
}

fn refused(error: JoinError, config: &Config) -> Failure {
    let hint = match &error {
        JoinError::AlreadyMember => return exists("join a cluster", config),
        JoinError::TicketUnknown | JoinError::TicketExpired | JoinError::TicketUsed => {
            Some("get a new ticket: run `trefoil invite` on a member")
        }
        JoinError::Unreachable(_) => {
            Some("is the daemon running there, and is its UDP port open to this node?")
        }
        _ => None,
    };
    let error = anyhow::Error::new(error).context("cannot join");
    Failure { error, hint: hint.map(str::to_owned), usage: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Site {
        _dir: tempfile::TempDir,
        config: Config,
    }

    fn site() -> Site {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("trefoil.toml");
        let text = "[node]\nname = \"web1\"\nstate = \"state\"\nlisten = \"127.0.0.1:7440\"\n\
            [[mount]]\nname = \"a\"\npath = \"a\"\n";
        std::fs::write(&file, text).unwrap();
        let config = Config::load(&file).unwrap();
        Site { _dir: dir, config }
    }

    #[test]
    fn a_cluster_is_made_once_and_its_mounts_are_marked() {
        let Site { config, _dir } = site();
        let failure = init(&config).unwrap_err();
        assert!(format!("{:#}", failure.error).contains("cannot use mount \"a\""));
        assert!(failure.hint.unwrap().starts_with("make it: mkdir -p "));
        assert!(!config.node.state.exists(), "nothing may be made before everything is right");

        std::fs::create_dir(&config.mounts[0].path).unwrap();
        let founded = init(&config).unwrap();
        let (marker, name) = Mount::read_marker(&config.mounts[0].path).unwrap().unwrap();
        let members = net::load_members(&config.node.state).unwrap();
        assert_eq!(founded.cluster_id, members.cluster.to_string());
        assert_eq!(("a", members.mounts()["a"].0), (&*name, marker.0));

        let failure = init(&config).unwrap_err();
        assert!(format!("{:#}", failure.error).contains("belongs to one already"));
        std::fs::remove_dir_all(&config.node.state).unwrap();
        let failure = init(&config).unwrap_err();
        assert!(format!("{:#}", failure.error).contains("is a mount already, with marker"));
    }

    #[test]
    fn a_ticket_names_the_node_and_its_end() {
        let Site { config, _dir } = site();
        assert!(invite(&config, Duration::from_secs(60)).is_err());
        std::fs::create_dir(&config.mounts[0].path).unwrap();
        init(&config).unwrap();
        let invitation = invite(&config, Duration::from_secs(60)).unwrap();
        let ticket: Ticket = invitation.ticket.parse().unwrap();
        assert_eq!(["127.0.0.1:7440"], *invitation.addresses);
        assert_eq!(ticket.expires_secs, u64::try_from(invitation.expires.as_second()).unwrap());

        let failure = join(&config, &invitation.ticket).unwrap_err();
        assert!(format!("{:#}", failure.error).contains("belongs to one already"));
        let failure = join(&config, "trefoil1-x").unwrap_err();
        assert!(failure.usage, "{failure:?}");
    }
}
