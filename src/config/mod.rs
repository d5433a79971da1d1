//! The configuration: TOML in, a [`Config`] out in which impossible states cannot be written.
//!
//! Every error names file, line, key and value, and says what is allowed. Nothing here starts,
//! creates or changes anything. `config/trefoil.toml` explains every key.

mod duration;
mod load;
mod parse;
mod preset;
mod size;
mod table;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
};

pub use duration::{DurationError, format_duration, parse_duration};
pub use load::LoadError;
pub use parse::{MOUNTS_MAX, Surroundings};
pub use preset::{MagentoTree, Preset, PresetError};
pub use size::{BytesError, SizeLimit, SizeLimitError};
pub use table::{ConfigError, FILE_BYTES_MAX};

use crate::engine::{ClassTable, Policy, Retention, Schedule};

/// Where the configuration is unless `--config` or `TREFOIL_CONFIG` say otherwise.
pub const DEFAULT_FILE: &str = "/etc/trefoil/trefoil.toml";

/// Where state is kept by default.
pub const DEFAULT_STATE: &str = "/var/lib/trefoil";

/// Where the daemon listens for peers by default (UDP).
pub const DEFAULT_LISTEN: &str = "0.0.0.0:7440";

/// What the conflict store may take up by default.
pub const DEFAULT_CONFLICTS_MAX: SizeLimit = SizeLimit::Percent(10);

/// What the trash of a mount may take up by default.
pub const DEFAULT_TRASH_MAX: SizeLimit = SizeLimit::Percent(20);

/// When snapshots are taken by default.
pub const DEFAULT_SCHEDULE: &str = "0 */6 * * *";

/// Where the daemon listens for commands by default.
pub const DEFAULT_SOCKET: &str = "/run/trefoil/control.sock";

/// A whole, valid configuration of one node.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it was read from, absolute.
    pub file: PathBuf,
    /// This node.
    pub node: Node,
    /// The control API.
    pub control: Control,
    /// Snapshots.
    pub snapshot: Snapshot,
    /// What each class means, in every mount.
    pub classes: ClassTable,
    /// One per mirrored tree, in the order of the file; at least one. Names and paths are
    /// distinct, and no path is inside another, the state folder included.
    pub mounts: Vec<Mount>,
}

impl Config {
    /// The mount of this name.
    #[must_use]
    pub fn mount(&self, name: &str) -> Option<&Mount> {
        self.mounts.iter().find(|mount| mount.name == name)
    }
}

/// `[node]`: this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Unique in the cluster: 1 to 63 ASCII letters, digits, `.`, `_`, `-`, the first a letter or
    /// digit.
    pub name: String,
    /// The folder of identity, index and conflict store, absolute.
    pub state: PathBuf,
    /// Where peers are listened to (UDP). The port is not 0.
    pub listen: SocketAddr,
    /// Where peers reach this node. Empty only if `listen` is not a specific address and the file
    /// does not say: then the node can join others, and nobody can be invited to it.
    pub advertise: Vec<HostPort>,
    /// Bytes sent to each other node in a second; nothing: no limit.
    pub bandwidth_max: Option<u64>,
    /// What the conflict store may take up; nothing: no limit.
    pub conflicts_max: Option<SizeLimit>,
    /// What the trash of each mount may take up; nothing: no limit.
    pub trash_max: Option<SizeLimit>,
}

/// `[control]`: where commands arrive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Control {
    /// The Unix socket, absolute.
    pub socket: PathBuf,
    /// A TCP address that answers `GET` of the status only; none by default.
    pub http: Option<SocketAddr>,
}

/// `[snapshot]`: when snapshots are taken, and how long they are kept.
#[derive(Clone, PartialEq, Debug)]
pub struct Snapshot {
    /// Nothing: by hand only.
    pub schedule: Option<Schedule>,
    /// Which ones stay.
    pub retention: Retention,
}

impl Default for Snapshot {
    fn default() -> Self {
        let schedule = Schedule::parse(DEFAULT_SCHEDULE, None).ok();
        Self { schedule, retention: Retention::standard() }
    }
}

/// `[[mount]]`: one mirrored directory tree.
#[derive(Clone, Debug)]
pub struct Mount {
    /// Equal on all nodes: 1 to 63 ASCII letters, digits, `.`, `_`, `-`, the first a letter or
    /// digit.
    pub name: String,
    /// The directory on this node, absolute.
    pub path: PathBuf,
    /// The preset its last rules come from.
    pub preset: Option<Preset>,
    /// How many of the policy's first rules come from `ignore`.
    pub ignore_rules: usize,
    /// How many of the rules after those come from `[[mount.rule]]`; the others are the preset's.
    pub own_rules: usize,
    /// How changes are noticed.
    pub watch: Watch,
    /// The class of every path.
    pub policy: Arc<Policy>,
}

/// How changes to a mount are noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Watch {
    /// `fanotify` where the kernel and the privileges allow it, `inotify` otherwise.
    #[default]
    Auto,
    /// Marks on the whole file system; needs privileges.
    Fanotify,
    /// A watch on each directory.
    Inotify,
}

impl Watch {
    /// The word in the configuration and in `status`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Fanotify => "fanotify",
            Self::Inotify => "inotify",
        }
    }
}

impl fmt::Display for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A word that is no [`Watch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a way to watch; allowed: auto, fanotify, inotify")]
pub struct UnknownWatch;

impl FromStr for Watch {
    type Err = UnknownWatch;

    fn from_str(name: &str) -> Result<Self, UnknownWatch> {
        [Self::Auto, Self::Fanotify, Self::Inotify]
            .into_iter()
            .find(|watch| watch.name() == name)
            .ok_or(UnknownWatch)
    }
}

/// An address to dial: a host name or an IP address, and a port.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct HostPort {
    /// A name, or an address without brackets; never an unspecified address.
    pub host: String,
    /// Never 0.
    pub port: u16,
}

/// Text that is not an address to dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not an address to dial; allowed: host:port, such as web1.example:7440 or [2001:db8::1]:7440"
)]
pub struct HostPortError;

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, HostPortError> {
        let (host, port) = text.rsplit_once(':').ok_or(HostPortError)?;
        if !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(HostPortError);
        }
        let port: u16 = port.parse().ok().filter(|&p| p != 0).ok_or(HostPortError)?;
        let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let address: Option<IpAddr> = match bracketed {
            Some(v6) => Some(IpAddr::V6(v6.parse().map_err(|_| HostPortError)?)),
            None => host.parse().ok().filter(IpAddr::is_ipv4),
        };
        let host = match address {
            Some(address) if address.is_unspecified() => return Err(HostPortError),
            Some(address) => address.to_string(),
            None if is_host_name(host) => host.to_owned(),
            None => return Err(HostPortError),
        };
        Ok(Self { host, port })
    }
}

fn is_host_name(host: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !l.starts_with('-')
    };
    // Four numbers that are no address are a slip, not a name.
    host.len() <= 253
        && host.strip_suffix('.').unwrap_or(host).split('.').all(label)
        && !host.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

/// Whether text can name a node or a mount: see [`Node::name`].
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && text.as_bytes()[0].is_ascii_alphanumeric()
}

#[cfg(test)]
mod tests;
