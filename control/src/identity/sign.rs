//! Certificates as they are signed here.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use outrigger_xds::identity::SpiffeId;
use rand::Rng;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use time::OffsetDateTime;
use x509_parser::asn1_rs::Oid;
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::{FromDer, GeneralName};

use super::roots::seconds;

/// What is signed is good since so long ago: the clocks of two ends may differ by 5 minutes, and a little more.
const BACKDATED: Duration = Duration::from_secs(5 * 60 + 10);
/// The keys of leaves: ECDSA on P-256 and P-384, and Ed25519. RSA costs every handshake several times as much.
const KEYS: [&rcgen::SignatureAlgorithm; 3] = [
    &rcgen::PKCS_ECDSA_P256_SHA256,
    &rcgen::PKCS_ECDSA_P384_SHA384,
    &rcgen::PKCS_ED25519,
];
/// The longest common name (RFC 5280, ub-common-name).
const MAX_COMMON_NAME: usize = 64;
/// Says that the common name of a leaf is the id of a node: this CA says so of nobody else.
const NODE_UNIT: &str = "Outrigger node";

/// The attribute of a subject that has the id of the token by which it first came (serialNumber, RFC 4519 section 2.31).
const SERIAL_NUMBER: &[u64] = &[2, 5, 4, 5];

/// Random, positive, of 127 bits (CA/Browser Forum Baseline Requirements 7.1: at least 64).
pub(super) fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::rng().random();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

/// Seconds since the epoch, as rcgen has them.
pub(super) fn time(seconds: u64) -> OffsetDateTime {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// Says from when to when, and gives it a serial number.
pub(super) fn valid(params: &mut CertificateParams, now: SystemTime, lifetime: Duration) {
    let now = seconds(now);
    params.not_before = time(now.saturating_sub(BACKDATED.as_secs()));
    params.not_after = time(now.saturating_add(lifetime.as_secs()));
    params.serial_number = Some(serial());
}

/// A URI name; a SPIFFE id has no characters that it could not have.
pub(super) fn uri(uri: &str) -> Option<SanType> {
    uri.try_into().ok().map(SanType::URI)
}

/// A leaf (X509-SVID sections 3 and 4: one URI, no CA, for both ends of TLS).
pub(super) fn leaf(
    identity: &SpiffeId,
    node: Option<&str>,
    token: Option<&str>,
    names: &[String],
) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    params.subject_alt_names = uri(identity.as_str()).into_iter().collect();
    params.subject_alt_names.extend(
        names
            .iter()
            .filter_map(|name| match name.parse::<IpAddr>() {
                Ok(ip) => Some(SanType::IpAddress(ip)),
                Err(_) => name.as_str().try_into().ok().map(SanType::DnsName),
            }),
    );
    let mut subject = DistinguishedName::new();
    match node.filter(|node| node.len() <= MAX_COMMON_NAME) {
        Some(node) => {
            subject.push(DnType::OrganizationalUnitName, NODE_UNIT);
            subject.push(DnType::CommonName, node);
            if let Some(token) = token {
                subject.push(DnType::CustomDnType(SERIAL_NUMBER.to_vec()), token);
            }
        }
        None => subject.push(DnType::CommonName, "Outrigger"),
    }
    params.distinguished_name = subject;
    params
}

/// The node that a leaf was signed for; `None` if that is not known, as of a leaf of another CA.
pub(crate) fn node_of(leaf: &CertificateDer<'_>) -> Option<String> {
    let (_, leaf) = x509_parser::parse_x509_certificate(leaf).ok()?;
    let subject = leaf.subject();
    let unit = subject.iter_organizational_unit().next()?.as_str().ok()?;
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    (unit == NODE_UNIT).then(|| name.to_owned())
}

/// The id of the token by which the node of a leaf of this CA enrolled.
pub(crate) fn token_of(leaf: &CertificateDer<'_>) -> Option<String> {
    let (_, leaf) = x509_parser::parse_x509_certificate(leaf).ok()?;
    let oid = Oid::from(SERIAL_NUMBER).ok()?;
    let token = leaf.subject().iter_by_oid(&oid).next()?.as_str().ok()?;
    Some(token.to_owned())
}

/// The key of a request that was signed with it. Whatever else it asks for is not looked at.
pub(crate) fn key_of_request(pem: &str) -> Result<SubjectPublicKeyInfo, &'static str> {
    let der = rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| "is no PKCS #10 request in PEM")?;
    let (_, request) =
        X509CertificationRequest::from_der(&der).map_err(|_| "is no PKCS #10 request")?;
    request
        .verify_signature()
        .map_err(|_| "is not signed with its own key")?;
    let info = &request.certification_request_info.subject_pki;
    let key = SubjectPublicKeyInfo::from_der(info.raw).map_err(|_| "has an unknown kind of key")?;
    if !KEYS.contains(&key.algorithm()) {
        return Err("has a key that is none of ECDSA on P-256 or P-384 and Ed25519");
    }
    Ok(key)
}

/// Whether a CA's certificate and a key belong together.
pub(super) fn check_pair(certificate: &str, key: &KeyPair) -> Result<(), &'static str> {
    let der = der(certificate)?;
    let parsed = parse(&der)?;
    if *parsed.public_key().subject_public_key.data != *key.public_key_raw() {
        return Err("is not that of the CA's certificate");
    }
    Ok(())
}

/// What is to be known of a CA's certificate.
pub(super) struct Described {
    pub(super) self_signed: bool,
    /// Seconds since the epoch.
    pub(super) not_after: u64,
}

/// Refuses what may not sign.
pub(super) fn describe(certificate: &str) -> Result<Described, &'static str> {
    let der = der(certificate)?;
    let parsed = parse(&der)?;
    if !parsed.is_ca() {
        return Err("has a certificate that is not a CA's");
    }
    Ok(Described {
        self_signed: parsed.subject() == parsed.issuer(),
        not_after: u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0),
    })
}

/// The URI among a certificate's names.
pub(super) fn uri_of(certificate: &str) -> Result<Option<String>, &'static str> {
    let der = der(certificate)?;
    let parsed = parse(&der)?;
    let names = parsed.subject_alternative_name();
    let names = names.map_err(|_| "has a certificate that cannot be read")?;
    let mut names = names.iter().flat_map(|names| &names.value.general_names);
    Ok(names.find_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    }))
}

fn der(certificate: &str) -> Result<CertificateDer<'static>, &'static str> {
    CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|_| "has no certificate in PEM")
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, &'static str> {
    let parsed = x509_parser::parse_x509_certificate(der);
    let (_, parsed) = parsed.map_err(|_| "has a certificate that cannot be read")?;
    Ok(parsed)
}
