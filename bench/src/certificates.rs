//! Certificates for measuring: one CA and two leaves, P-256, as the files that every proxy reads.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, date_time_ymd,
};
use serde::Serialize;

/// The trust domain of what is measured.
const TRUST_DOMAIN: &str = "bench.internal";

/// The files of one CA.
#[derive(Debug, Clone, Serialize)]
pub struct Certificates {
    /// The CA's certificate, PEM.
    pub ca: PathBuf,
    /// Whoever serves.
    pub server: Leaf,
    /// Whoever calls.
    pub client: Leaf,
}

/// One end's certificate and key.
#[derive(Debug, Clone, Serialize)]
pub struct Leaf {
    /// Its SPIFFE id.
    pub id: String,
    /// Its host name, for peers that verify nothing else.
    pub host: String,
    /// The certificate, PEM.
    pub cert: PathBuf,
    /// The key, PKCS #8 in PEM, readable by its owner alone.
    pub key: PathBuf,
    /// Both in one file, as HAProxy reads them.
    pub both: PathBuf,
}

impl Certificates {
    /// Makes them all and writes them into `folder`.
    pub fn write(folder: &Path) -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        describe(&mut params, "outrigger bench CA");
        let ca = CertifiedIssuer::self_signed(params, key()?).context("sign the CA")?;
        let file = folder.join("ca.pem");
        std::fs::write(&file, ca.pem()).with_context(|| file.display().to_string())?;
        Ok(Self {
            ca: file,
            server: Leaf::write(folder, "orders", &ca)?,
            client: Leaf::write(folder, "web", &ca)?,
        })
    }
}

impl Leaf {
    fn write(
        folder: &Path,
        service: &str,
        ca: &CertifiedIssuer<'_, KeyPair>,
    ) -> anyhow::Result<Self> {
        let id = format!("spiffe://{TRUST_DOMAIN}/ns/bench/svc/{service}");
        let host = format!("{service}.{TRUST_DOMAIN}");
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![
            SanType::URI(id.as_str().try_into()?),
            SanType::DnsName(host.as_str().try_into()?),
        ];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        describe(&mut params, service);
        let key = key()?;
        let signed = params.signed_by(&key, ca);
        let cert = signed.with_context(|| format!("sign {id}"))?.pem();
        let key = key.serialize_pem();
        let leaf = Self {
            id,
            host,
            cert: folder.join(format!("{service}.pem")),
            key: folder.join(format!("{service}.key")),
            both: folder.join(format!("{service}-both.pem")),
        };
        std::fs::write(&leaf.cert, &cert)?;
        secret(&leaf.key, &key)?;
        secret(&leaf.both, &format!("{cert}{key}"))?;
        Ok(leaf)
    }
}

fn key() -> anyhow::Result<KeyPair> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("make a key")
}

fn describe(params: &mut CertificateParams, name: &str) {
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2024, 1, 1);
    params.not_after = date_time_ymd(2049, 1, 1);
}

fn secret(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(0o600).open(path);
    let mut file = opened.with_context(|| path.display().to_string())?;
    Ok(file.write_all(text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_are_readable_by_their_owner_alone_and_are_never_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let made = Certificates::write(folder.path()).unwrap();
        for leaf in [&made.server, &made.client] {
            for file in [&leaf.key, &leaf.both] {
                let mode = std::fs::metadata(file).unwrap().permissions().mode();
                assert_eq!(mode & 0o777, 0o600, "{}", file.display());
            }
        }
        assert!(Certificates::write(folder.path()).is_err());
    }
}
