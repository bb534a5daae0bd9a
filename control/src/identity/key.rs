//! The CA's private key at rest: PKCS #8, with or without a passphrase.
//!
//! aws-lc-rs has no PBES2, so RustCrypto's `pkcs8` encrypts and decrypts the file. Nothing else is done with it.

use std::fmt;
use std::path::Path;

use pkcs8::der::pem::LineEnding;
use pkcs8::pkcs5::pbes2::Parameters;
use pkcs8::{EncryptedPrivateKeyInfo, PrivateKeyInfo, SecretDocument};
use rand::Rng;
use rcgen::KeyPair;
use rustls_pki_types::PrivatePkcs8KeyDer;
use zeroize::Zeroizing;

use super::IdentityError;
use super::files::{read_private, write_private};

const WHAT: &str = "CA key";
const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";
/// PBKDF2-HMAC-SHA-256 (OWASP Password Storage Cheat Sheet: 600,000).
const ITERATIONS: u32 = 600_000;

/// What a key file is encrypted with. `Debug` hides it.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// Refused if it is empty.
    pub fn new(text: &str) -> Result<Self, IdentityError> {
        if text.is_empty() {
            return Err(IdentityError::new("CA passphrase", "is empty"));
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    /// The first line of a file that nobody else may read.
    pub fn read(path: &Path) -> Result<Self, IdentityError> {
        let text = read_private("CA passphrase", path)?;
        Self::new(text.lines().next().unwrap_or_default())
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase")
    }
}

/// Reads a key. A passphrase must be given if and only if the file has one.
pub(super) fn read(path: &Path, passphrase: Option<&Passphrase>) -> Result<KeyPair, IdentityError> {
    let wrong = |reason: &str| IdentityError::of(WHAT, path, reason);
    let pem = read_private(WHAT, path)?;
    let encrypted = pem.contains(&format!("-----BEGIN {ENCRYPTED}-----"));
    match (encrypted, passphrase) {
        (false, None) => {
            KeyPair::from_pem(&pem).map_err(|_| wrong("is no private key in PEM that can sign"))
        }
        (true, Some(passphrase)) => {
            let (_, document) =
                SecretDocument::from_pem(&pem).map_err(|_| wrong("is not PKCS #8 in PEM"))?;
            let sealed = EncryptedPrivateKeyInfo::try_from(document.as_bytes())
                .map_err(|_| wrong("is not PKCS #8 encrypted with PBES2"))?;
            let opened = sealed.decrypt(passphrase.0.as_bytes());
            let opened = opened.map_err(|_| wrong("is not opened by this passphrase"))?;
            KeyPair::try_from(&PrivatePkcs8KeyDer::from(opened.as_bytes()))
                .map_err(|_| wrong("is no private key that can sign"))
        }
        (true, None) => Err(wrong(
            "has a passphrase; give --ca-passphrase-file or OUTRIGGER_CA_PASSPHRASE",
        )),
        (false, Some(_)) => Err(wrong(
            "is not encrypted, though a passphrase is given; openssl pkcs8 -topk8 encrypts it",
        )),
    }
}

/// Writes a key, mode 0600.
pub(super) fn write(
    path: &Path,
    key: &KeyPair,
    passphrase: Option<&Passphrase>,
) -> Result<(), IdentityError> {
    let wrong = |reason: &dyn fmt::Display| IdentityError::of(WHAT, path, reason);
    let der = Zeroizing::new(key.serialize_der());
    let info = PrivateKeyInfo::try_from(der.as_slice()).map_err(|error| wrong(&error))?;
    let pem = match passphrase {
        None => SecretDocument::encode_msg(&info)
            .and_then(|plain| plain.to_pem("PRIVATE KEY", LineEnding::LF))
            .map_err(|error| wrong(&error))?,
        Some(passphrase) => {
            let (salt, iv): ([u8; 16], [u8; 16]) = rand::rng().random();
            let parameters = Parameters::pbkdf2_sha256_aes256cbc(ITERATIONS, &salt, &iv)
                .map_err(|error| wrong(&error))?;
            let sealed = info.encrypt_with_params(parameters, passphrase.0.as_bytes());
            let sealed = sealed.map_err(|error| wrong(&error))?;
            sealed
                .to_pem(ENCRYPTED, LineEnding::LF)
                .map_err(|error| wrong(&error))?
        }
    };
    write_private(path, pem.as_bytes()).map_err(|error| wrong(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_opened_by_its_passphrase_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca-key.pem");
        let key = KeyPair::generate().unwrap();
        let right = Passphrase::new("right").unwrap();
        write(&path, &key, Some(&right)).unwrap();
        let opened = read(&path, Some(&right)).unwrap();
        assert_eq!(opened.serialize_der(), key.serialize_der());
        for (given, said) in [
            (Some("wrong"), "not opened"),
            (None, "--ca-passphrase-file"),
        ] {
            let given = given.map(|text| Passphrase::new(text).unwrap());
            let refused = read(&path, given.as_ref()).err().unwrap().to_string();
            assert!(refused.contains(said), "{refused}");
        }
        write(&path, &key, None).unwrap();
        assert!(read(&path, None).is_ok());
        let refused = read(&path, Some(&right)).err().unwrap().to_string();
        assert!(refused.contains("not encrypted"), "{refused}");
        assert!(!format!("{right:?}").contains("right"));
        assert!(Passphrase::new("").is_err());
    }
}
