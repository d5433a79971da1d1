//! Who this node is: the cluster's certificate and key, this node's own, and its id.
//!
//! Kept in `identity/` of the state folder, which is put in place whole: a node either has an
//! identity or it has none. Every member holds the cluster's key, so that any of them can invite
//! and the loss of one loses nothing.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::io;
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, CertificateSigningRequestParams, DistinguishedName, KeyPair};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use serde::{Deserialize, Serialize};

use super::certificate::{self, pem};
use super::files;
use super::members::{ClusterId, Member, MemberState, Members};
use super::roster::{self, RosterError};
use crate::model::NodeId;

/// Why there is no usable identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The node belongs to no cluster yet.
    #[error("this node has no identity: run `trefoil init`, or `trefoil join` with a ticket")]
    Missing,
    /// A file cannot be read or written.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// A verb, as in "read".
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A file is damaged.
    #[error("damaged file {}", .0.display())]
    Damaged(PathBuf),
    /// A key or certificate cannot be made or used.
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
}

/// Who this node is. Keys are never printed.
pub(super) struct Identity {
    pub(super) id: NodeId,
    pub(super) cluster: ClusterId,
    pub(super) ca_certificate: CertificateDer<'static>,
    pub(super) ca_key: KeyPair,
    pub(super) certificate: CertificateDer<'static>,
    pub(super) key: KeyPair,
}

#[derive(Serialize, Deserialize)]
struct NodeFile {
    cluster: String,
    id: String,
}

impl Identity {
    /// A new cluster's first node.
    fn found(cluster: ClusterId, id: NodeId) -> Result<Self, IdentityError> {
        let now_secs = files::now_secs();
        let ca_key = KeyPair::generate()?;
        let ca_certificate = certificate::authority(cluster, &ca_key, now_secs)?;
        let key = KeyPair::generate()?;
        let certificate = certificate::issue(&ca_certificate, &ca_key, id, &key, now_secs)?;
        Ok(Self { id, cluster, ca_certificate, ca_key, certificate, key })
    }

    /// Loads the identity from the state folder.
    pub(super) fn load(state: &Path) -> Result<Self, IdentityError> {
        let folder = folder(state);
        if !folder.exists() {
            return Err(IdentityError::Missing);
        }
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).map_err(|source| IdentityError::File {
                doing: "read",
                path,
                source,
            })
        };
        let damaged = |name: &str| IdentityError::Damaged(folder.join(name));
        let certificate =
            |name: &str| CertificateDer::from_pem_slice(&read(name)?).map_err(|_| damaged(name));
        let key = |name: &str| {
            let text = String::from_utf8(read(name)?).map_err(|_| damaged(name))?;
            KeyPair::from_pem(&text).map_err(|_| damaged(name))
        };
        let node: NodeFile =
            serde_json::from_slice(&read("node.json")?).map_err(|_| damaged("node.json"))?;
        Ok(Self {
            id: roster::parse_node(&node.id).ok_or_else(|| damaged("node.json"))?,
            cluster: roster::parse_hex(&node.cluster)
                .map(ClusterId)
                .ok_or_else(|| damaged("node.json"))?,
            ca_certificate: certificate("ca.pem")?,
            ca_key: key("ca.key")?,
            certificate: certificate("node.pem")?,
            key: key("node.key")?,
        })
    }

    /// Puts the identity in place, durably. After `Err` there is none, unless there was one.
    pub(super) fn save(&self, state: &Path) -> io::Result<()> {
        let staged = state.join("identity.new");
        match std::fs::remove_dir_all(&staged) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => files::create_folder(&staged)?,
        }
        let node = NodeFile { cluster: self.cluster.to_string(), id: self.id.to_string() };
        files::create(&staged.join("node.json"), &serde_json::to_vec_pretty(&node)?)?;
        files::create(&staged.join("ca.pem"), pem(&self.ca_certificate).as_bytes())?;
        files::create(&staged.join("ca.key"), self.ca_key.serialize_pem().as_bytes())?;
        files::create(&staged.join("node.pem"), pem(&self.certificate).as_bytes())?;
        files::create(&staged.join("node.key"), self.key.serialize_pem().as_bytes())?;
        files::sync_folder(&staged)?;
        // Fails if an identity is there: a folder that is not empty is not replaced.
        std::fs::rename(&staged, folder(state))?;
        files::sync_folder(state)
    }

    /// Gives this node a certificate that is valid from now on, and saves it if that is possible.
    pub(super) fn renew(&mut self, state: &Path, now_secs: u64) -> Result<(), IdentityError> {
        let (ca_certificate, ca_key) = (&self.ca_certificate, &self.ca_key);
        self.certificate =
            certificate::issue(ca_certificate, ca_key, self.id, &self.key, now_secs)?;
        let path = folder(state).join("node.pem");
        if let Err(error) = files::save(&path, pem(&self.certificate).as_bytes()) {
            // The one in memory serves as well; the next start makes another.
            tracing::debug!(error = &error as &dyn std::error::Error, "cannot save certificate");
        }
        Ok(())
    }

    /// A certificate for a node that proved to hold the key in `request` (PKCS #10, DER).
    pub(super) fn enrol(&self, id: NodeId, request: &[u8]) -> Result<Vec<u8>, IdentityError> {
        let request = CertificateSigningRequestParams::from_der(&request.into())?;
        let (ca_certificate, ca_key) = (&self.ca_certificate, &self.ca_key);
        let (key, now_secs) = (&request.public_key, files::now_secs());
        Ok(certificate::issue(ca_certificate, ca_key, id, key, now_secs)?.to_vec())
    }

    /// When the node's certificate ends, in seconds since 1970.
    pub(super) fn ends_secs(&self) -> u64 {
        certificate::read(&self.certificate).map_or(0, |reading| reading.ends_secs)
    }

    /// The key for QUIC's stateless resets: survives restarts, and is nobody else's.
    pub(super) fn derived_key(&self, context: &str) -> [u8; 32] {
        blake3::derive_key(context, self.key.serialized_der())
    }

    /// BLAKE3 of the node's public key, as member lists have it.
    pub(super) fn key_hash(&self) -> [u8; 32] {
        certificate::key_hash(&self.key)
    }

    /// The node's private key.
    pub(super) fn key_der(&self) -> PrivatePkcs8KeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der())
    }
}

/// A signing request for `key`, PKCS #10 DER.
pub(super) fn signing_request(key: &KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(key)?.der().to_vec())
}

/// Hash of the key in a signing request whose signature is right.
pub(super) fn requested_key(request: &[u8]) -> Result<[u8; 32], rcgen::Error> {
    let request = CertificateSigningRequestParams::from_der(&request.into())?;
    Ok(certificate::key_hash(&request.public_key))
}

/// Whether the state folder has an identity.
#[must_use]
pub fn is_initialised(state: &Path) -> bool {
    folder(state).exists()
}

/// The id of this node.
///
/// # Errors
/// [`IdentityError`], if there is no identity or it is damaged.
pub fn node_id(state: &Path) -> Result<NodeId, IdentityError> {
    Identity::load(state).map(|identity| identity.id)
}

/// What `init` made.
#[derive(Clone, Debug)]
pub struct Initialised {
    /// This node's id.
    pub id: NodeId,
    /// The cluster, with this node as its only member, and the mounts' identities.
    pub members: Members,
}

/// Why no cluster was made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The node belongs to a cluster; nothing was changed.
    #[error("this node belongs to a cluster already")]
    Exists,
    /// The identity cannot be made.
    #[error("cannot make an identity")]
    Identity(#[from] IdentityError),
    /// The state folder cannot be written.
    #[error("cannot write to {}", path.display())]
    State {
        /// The state folder.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The member list cannot be written.
    #[error("cannot save the member list")]
    Members(#[from] RosterError),
}

/// Makes a cluster: its certificate, this node's identity, and an identity for each mount.
/// `addresses` is where the others will reach this node; the daemon corrects it when it starts.
///
/// # Errors
/// [`InitError`]; there is no identity then, unless there was one.
pub fn init(
    state: &Path,
    name: &str,
    addresses: &[String],
    mounts: &[String],
) -> Result<Initialised, InitError> {
    let io = |source| InitError::State { path: state.to_owned(), source };
    if is_initialised(state) {
        return Err(InitError::Exists);
    }
    files::create_folder(state).map_err(io)?;
    let id = random_id().map_err(io)?;
    let identity = Identity::found(ClusterId(files::random().map_err(io)?), id)?;
    let mut members = Members::new(identity.cluster);
    members.put(Member {
        id,
        name: name.to_owned(),
        addresses: addresses.to_vec(),
        state: MemberState::Active,
        changed: files::now_nanos(),
        key: Some(identity.key_hash()),
    });
    for mount in mounts {
        members.put_mount(mount, members.mount_id(mount));
    }
    roster::save(state, &members)?;
    identity.save(state).map_err(io)?;
    Ok(Initialised { id, members })
}

/// A new node id: random, not zero.
pub(super) fn random_id() -> io::Result<NodeId> {
    Ok(NodeId(u64::from_le_bytes(files::random()?).max(1)))
}

fn folder(state: &Path) -> PathBuf {
    state.join("identity")
}
