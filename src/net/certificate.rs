//! Certificates: how they are made, what one says, and when a node is due for another.
//!
//! In: keys, and the time in seconds since 1970. Out: DER. Pure: it reads no clock and no file.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::members::ClusterId;
use crate::model::NodeId;

const DAY_SECS: u64 = 24 * 60 * 60;

/// How long before it is made a certificate is valid, for nodes whose clocks are behind: a year
/// and some.
const SKEW_SECS: u64 = 400 * DAY_SECS;

/// How long a node's certificate is valid: with a clock that is a year ahead it still is, and a node
/// that was switched off for as long is still known.
const NODE_VALIDITY_SECS: u64 = 800 * DAY_SECS;

/// How old a node lets its certificate get.
const RENEWED_AFTER_SECS: u64 = 30 * DAY_SECS;

/// How long the cluster's certificate is valid.
const CA_VALIDITY_SECS: u64 = 20 * 365 * DAY_SECS;

/// What a certificate says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reading {
    /// When it ends, in seconds since 1970.
    pub(super) ends_secs: u64,
    /// BLAKE3 of its public key.
    pub(super) key: [u8; 32],
}

/// What the certificate says; nothing if it is none. Whether it is to be believed is TLS's business.
pub(super) fn read(certificate: &CertificateDer<'_>) -> Option<Reading> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let ends = certificate.validity().not_after.timestamp();
    let key = &certificate.public_key().subject_public_key.data;
    Some(Reading {
        ends_secs: u64::try_from(ends).unwrap_or(0),
        key: *blake3::hash(key).as_bytes(),
    })
}

/// BLAKE3 of a public key, as [`read`] gives it.
pub(super) fn key_hash(key: &impl PublicKeyData) -> [u8; 32] {
    *blake3::hash(key.der_bytes()).as_bytes()
}

/// Whether a node whose certificate ends then needs another: a month has gone, or the clock was set
/// back since, so that the certificate is one of the future.
pub(super) fn is_due(ends_secs: u64, now_secs: u64) -> bool {
    let left = ends_secs.saturating_sub(now_secs);
    !(NODE_VALIDITY_SECS - RENEWED_AFTER_SECS..=NODE_VALIDITY_SECS + DAY_SECS).contains(&left)
}

/// A new cluster's certificate.
pub(super) fn authority(
    cluster: ClusterId,
    key: &KeyPair,
    now_secs: u64,
) -> Result<CertificateDer<'static>, rcgen::Error> {
    let mut params = params(&format!("trefoil cluster {cluster}"), now_secs, CA_VALIDITY_SECS);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params.self_signed(key)?.der().clone())
}

/// A certificate for the node that holds `key`.
pub(super) fn issue(
    ca_certificate: &CertificateDer<'_>,
    ca_key: &KeyPair,
    id: NodeId,
    key: &impl PublicKeyData,
    now_secs: u64,
) -> Result<CertificateDer<'static>, rcgen::Error> {
    let name = dns_name(id);
    let mut params = params(&name, now_secs, NODE_VALIDITY_SECS);
    params.subject_alt_names = CertificateParams::new([name])?.subject_alt_names;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let issuer = Issuer::from_ca_cert_der(ca_certificate, ca_key)?;
    Ok(params.signed_by(key, &issuer)?.der().clone())
}

fn params(name: &str, now_secs: u64, validity_secs: u64) -> CertificateParams {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = epoch + Duration::from_secs(now_secs.saturating_sub(SKEW_SECS));
    params.not_after = epoch + Duration::from_secs(now_secs.saturating_add(validity_secs));
    params
}

/// The DNS name that a node's certificate is for.
pub(super) fn dns_name(id: NodeId) -> String {
    format!("{id}.node.trefoil")
}

/// A certificate in the text form of RFC 7468.
pub(super) fn pem(certificate: &CertificateDer<'_>) -> String {
    let body = data_encoding::BASE64.encode(certificate);
    let lines: Vec<&str> =
        (0..body.len()).step_by(64).map(|at| &body[at..body.len().min(at + 64)]).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_SECS: u64 = 1_800_000_000;

    #[test]
    fn a_certificate_says_when_it_ends_and_whose_key_it_has() {
        let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let ca = authority(ClusterId([1; 16]), &ca_key, NOW_SECS).unwrap();
        let issued = issue(&ca, &ca_key, NodeId(7), &key, NOW_SECS).unwrap();
        let reading = read(&issued).unwrap();
        assert_eq!(NOW_SECS + NODE_VALIDITY_SECS, reading.ends_secs);
        assert_eq!(key_hash(&key), reading.key);
        assert_ne!(key_hash(&ca_key), reading.key);
        assert_eq!(None, read(&CertificateDer::from(&issued[..issued.len() / 2])));
    }

    #[test]
    fn a_certificate_is_renewed_each_month_long_before_it_ends_and_when_the_clock_was_set_back() {
        let ends_secs = NOW_SECS + NODE_VALIDITY_SECS;
        assert!(!is_due(ends_secs, NOW_SECS));
        assert!(!is_due(ends_secs, NOW_SECS + 29 * DAY_SECS));
        assert!(is_due(ends_secs, NOW_SECS + 31 * DAY_SECS));
        assert!(is_due(ends_secs, ends_secs - 1));
        assert!(is_due(ends_secs, ends_secs + 1));
        assert!(!is_due(ends_secs, NOW_SECS - 60));
        assert!(is_due(ends_secs, NOW_SECS - 365 * DAY_SECS));
    }
}
