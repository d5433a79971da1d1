//! TLS: who is let in, and how a peer's certificate tells which node it is.

use std::sync::Arc;

use quinn::Connection;
use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    Resumption, WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor, verify_server_name,
};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme, version::TLS13,
};

use super::certificate::{self, Reading, dns_name};
use super::identity::Identity;
use super::members::{Member, Members};
use crate::model::NodeId;

/// What links speak.
pub(super) const ALPN_LINK: &[u8] = b"trefoil/1";
/// What joining nodes speak.
pub(super) const ALPN_JOIN: &[u8] = b"trefoil-join/1";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(identity: &Identity) -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(identity.ca_certificate.clone())?;
    Ok(Arc::new(roots))
}

fn refused(error: impl std::fmt::Display) -> Error {
    Error::General(error.to_string())
}

/// How this node answers. A client may come without a certificate, to join; one with a
/// certificate that is not the cluster's is refused by TLS.
pub(super) fn server(identity: &Identity) -> Result<Arc<QuicServerConfig>, Error> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(identity)?, provider())
        .allow_unauthenticated()
        .build()
        .map_err(refused)?;
    // The cluster's certificate goes along for those who join: they know only its hash.
    let chain = vec![identity.certificate.clone(), identity.ca_certificate.clone()];
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, identity.key_der().into())?;
    config.alpn_protocols = vec![ALPN_LINK.to_vec(), ALPN_JOIN.to_vec()];
    // A resumed session would skip the look at the certificate.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(QuicServerConfig::try_from(config).map_err(refused)?))
}

/// How this node calls a member: it shows its certificate and insists on the wanted one.
pub(super) fn client(identity: &Identity) -> Result<Arc<QuicClientConfig>, Error> {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(identity)?, provider())
        .build()
        .map_err(refused)?;
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(vec![identity.certificate.clone()], identity.key_der().into())?;
    config.alpn_protocols = vec![ALPN_LINK.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(QuicClientConfig::try_from(config).map_err(refused)?))
}

/// How a joining node calls the one that invited it, knowing the hash of the cluster's
/// certificate, and of that node's key.
pub(super) fn join_client(pin: [u8; 32], key: [u8; 32]) -> Result<Arc<QuicClientConfig>, Error> {
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinVerifier { pin, key, provider: provider() }))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(QuicClientConfig::try_from(config).map_err(refused)?))
}

/// Trusts the one certificate authority with this hash, and of all that it signed the one key.
#[derive(Debug)]
struct PinVerifier {
    pin: [u8; 32],
    key: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = intermediates
            .iter()
            .find(|certificate| blake3::hash(certificate) == self.pin)
            .ok_or(CertificateError::UnknownIssuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &roots, &[], now, algorithms)?;
        verify_server_name(&certificate, server_name)?;
        if certificate::read(end_entity).is_none_or(|reading| reading.key != self.key) {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(refused("TLS 1.2 is not spoken"))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The protocol that was agreed on.
pub(super) fn protocol(connection: &Connection) -> Option<Vec<u8>> {
    connection.handshake_data()?.downcast::<HandshakeData>().ok()?.protocol
}

/// What the peer's certificate says, which TLS has verified.
pub(super) fn certificate(connection: &Connection) -> Option<Reading> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    certificate::read(chain.first()?)
}

/// Whether the peer shows the key that the list has for this node. TLS has verified that the peer
/// holds it, and that its certificate is the cluster's, but whoever was a member once has the
/// cluster's key and can sign one for any name.
pub(super) fn has_key_of(connection: &Connection, member: &Member) -> bool {
    let Some(key) = member.key else { return true };
    certificate(connection).is_some_and(|reading| reading.key == key)
}

/// Which node of the list, active or removed, the peer's certificate is for. TLS has verified the
/// certificate itself; [`has_key_of`] is still to be asked.
pub(super) fn peer(connection: &Connection, members: &Members) -> Option<NodeId> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    let certificate = ParsedCertificate::try_from(chain.first()?).ok()?;
    let is_for = |id: NodeId| {
        ServerName::try_from(dns_name(id))
            .is_ok_and(|name| verify_server_name(&certificate, &name).is_ok())
    };
    members.iter().map(|m| m.id).find(|&id| is_for(id))
}
