//! TLS by files, as a static file asks for it: what is checked here is looked at again whenever the files change.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use outrigger_xds::identity::TlsMode;
use outrigger_xds::tls::{Credentials, Roots, TlsError};
use serde::{Deserialize, Serialize};

/// Certificates and a key by their files.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Files {
    /// A chain in PEM, leaf first.
    pub cert: PathBuf,
    /// Its private key in PEM.
    pub key: PathBuf,
    /// Roots in PEM.
    pub ca: PathBuf,
}

/// What a listener takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerTls {
    /// By what it proves itself, and whom it believes.
    #[serde(flatten)]
    pub files: Files,
    /// What connections are taken.
    pub mode: TlsMode,
    /// Key exchange groups in the order of preference; empty is the default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
}

/// How all endpoints of a cluster are spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterTls {
    /// By what this sidecar proves itself, and whom it believes.
    #[serde(flatten)]
    pub files: Files,
    /// Who the endpoints must be: a SPIFFE id or a DNS name.
    pub peer: String,
    /// Key exchange groups in the order of preference; empty is the default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
}

/// All of a static file, by the names of its listeners and clusters.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByFiles {
    /// By listener.
    #[serde(default)]
    pub listeners: BTreeMap<String, ListenerTls>,
    /// By cluster.
    #[serde(default)]
    pub clusters: BTreeMap<String, ClusterTls>,
}

impl ByFiles {
    /// Whether nothing asks for TLS.
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty() && self.clusters.is_empty()
    }
}

/// Why files cannot be used. It shows nothing of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// `cert`, `key` or `ca`.
    pub field: &'static str,
    /// What is wrong.
    pub reason: String,
}

/// What the files held at one moment. It has no `Debug`: there is a key in it.
#[derive(PartialEq, Eq)]
pub struct Content {
    cert: Vec<u8>,
    key: Vec<u8>,
    ca: Vec<u8>,
}

impl Content {
    /// Reads them all.
    pub fn read(files: &Files) -> Result<Self, Wrong> {
        let read = |field, path: &Path| {
            std::fs::read(path).map_err(|error: io::Error| Wrong {
                field,
                reason: error.to_string(),
            })
        };
        Ok(Self {
            cert: read("cert", &files.cert)?,
            key: read("key", &files.key)?,
            ca: read("ca", &files.ca)?,
        })
    }

    /// Whether the certificate and the key are those of `other`.
    pub fn has_certificate_of(&self, other: &Self) -> bool {
        self.cert == other.cert && self.key == other.key
    }

    /// What they are, if they can be used.
    pub fn parse(&self) -> Result<(Credentials, Roots), Wrong> {
        let wrong = |error: TlsError| Wrong {
            field: match error.what {
                "key" => "key",
                "roots" => "ca",
                _ => "cert",
            },
            reason: error.reason,
        };
        let credentials = Credentials::from_pem(&self.cert, &self.key).map_err(wrong)?;
        Ok((credentials, Roots::from_pem(&self.ca).map_err(wrong)?))
    }
}
