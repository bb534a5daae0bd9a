//! A CA of the test's own, and the files of those whom it vouches for.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType, date_time_ymd,
};

/// Whoever signs.
pub(crate) struct Authority {
    ca: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

/// A certificate, its key and the CA, as files.
#[derive(Clone)]
pub(crate) struct Leaf {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) ca: PathBuf,
}

impl Leaf {
    /// The fields of a `tls` table.
    pub(crate) fn fields(&self) -> String {
        let [cert, key, ca] = [&self.cert, &self.key, &self.ca].map(|file| file.display());
        format!("cert = \"{cert}\", key = \"{key}\", ca = \"{ca}\"")
    }

    /// A listener's table.
    pub(crate) fn listener(&self, mode: &str) -> String {
        format!("tls = {{ {}, mode = \"{mode}\" }}\n", self.fields())
    }

    /// A cluster's table.
    pub(crate) fn cluster(&self, peer: &str) -> String {
        format!("tls = {{ {}, peer = \"{peer}\" }}\n", self.fields())
    }
}

/// A service's identity.
pub(crate) fn id(service: &str) -> String {
    format!("spiffe://test.internal/ns/shop/svc/{service}")
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be made");
        let ca = CertifiedIssuer::self_signed(params, key).expect("it signs itself");
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let this = Self { ca, folder };
        std::fs::write(this.ca_file(), this.ca.pem()).expect("the folder is ours");
        this
    }

    pub(crate) fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A service's.
    pub(crate) fn service(&self, service: &str) -> Leaf {
        self.leaf(service, &[&id(service)], 0)
    }

    /// One with these names, a SPIFFE id or a DNS name each, that begins so many seconds from now and lasts an hour.
    pub(crate) fn leaf(&self, file: &str, names: &[&str], begins: i64) -> Leaf {
        let mut params = CertificateParams::default();
        let name = |name: &&str| match name.contains("://") {
            true => SanType::URI((*name).try_into().expect("it is ASCII")),
            false => SanType::DnsName((*name).try_into().expect("it is ASCII")),
        };
        params.subject_alt_names = names.iter().map(name).collect();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.expect("it is after 1970").as_secs() as i64;
        let at = |time: i64| date_time_ymd(1970, 1, 1) + Duration::from_secs(time as u64);
        params.not_before = at(now + begins);
        params.not_after = at(now + begins + 3600);
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, &self.ca).expect("it is signed");
        let at = |end: &str| self.folder.path().join(format!("{file}{end}"));
        let leaf = Leaf {
            cert: at(".pem"),
            key: at(".key"),
            ca: self.ca_file(),
        };
        std::fs::write(&leaf.cert, certificate.pem()).expect("the folder is ours");
        std::fs::write(&leaf.key, key.serialize_pem()).expect("the folder is ours");
        leaf
    }
}
