//! The state directory: last accepted configuration, VIP map, ingress ports, task id, node secret and the hop's tokens.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outrigger_xds::hop::{Token, Tokens};
use rand::RngCore as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::config::accepted::Accepted;

/// The file with the certificate and its key.
pub(crate) const KEPT: &str = "identity";
/// Raised when a file written by an older sidecar can no longer be read.
const FORMAT: u32 = 1;

/// The configuration file's first line; the second is the configuration itself.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: u32,
    namespace: String,
    /// Seconds since 1970.
    written: u64,
    /// Of the second line, in hex.
    sha256: String,
}

/// Why a kept configuration is not used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not what this sidecar wrote.
    #[error("{path}: {reason}; it is ignored")]
    Refused {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// A directory that belongs to one sidecar.
#[derive(Debug, Clone)]
pub struct StateDir {
    dir: PathBuf,
}

impl StateDir {
    /// Creates the directory when it is missing, for its owner alone.
    pub fn open(dir: &Path) -> Result<Self, StateError> {
        let mut builder = fs::DirBuilder::new();
        let created = builder.recursive(true).mode(0o700).create(dir);
        created.map_err(|source| StateError::Io {
            path: dir.to_owned(),
            source,
        })?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    /// The id of this task when none is given: random, and the same after a restart.
    pub fn task_id(&self) -> Result<String, StateError> {
        self.kept_hex("task-id", 8)
    }

    /// What proves to the control server that a reconnecting node is the same one. Readable by its owner alone.
    pub fn node_secret(&self) -> Result<String, StateError> {
        self.kept_hex("node-secret", 32)
    }

    /// By which the two ends of a hop know each other (`proxy/HOP.md`): the same after a restart, which callers may not hear of at once.
    pub fn hop_tokens(&self) -> Result<Tokens, StateError> {
        let kept = self.kept_hex("hop-tokens", 32)?;
        let tokens = tokens_of(&kept);
        tokens.map_err(|reason| StateError::Refused {
            path: self.path("hop-tokens"),
            reason,
        })
    }

    /// The last accepted configuration and when it was written; `None` when there is none yet.
    pub fn load_accepted(
        &self,
        namespace: &str,
    ) -> Result<Option<(Accepted, SystemTime)>, StateError> {
        let path = self.path("accepted");
        let Some(text) = self.read("accepted")? else {
            return Ok(None);
        };
        let refuse = |reason: String| StateError::Refused {
            path: path.clone(),
            reason,
        };
        let (head, body) = text
            .split_once('\n')
            .ok_or_else(|| refuse("has no header line".to_owned()))?;
        let header: Header = serde_json::from_str(head)
            .map_err(|error| refuse(format!("header not understood: {error}")))?;
        if header.format != FORMAT {
            return Err(refuse(format!(
                "has format {}, this sidecar reads {FORMAT}",
                header.format
            )));
        }
        if header.sha256 != sha256_hex(body.as_bytes()) {
            return Err(refuse(
                "checksum does not match, it was damaged or edited".to_owned(),
            ));
        }
        if header.namespace != namespace {
            return Err(refuse(format!(
                "is of namespace {:?}, this sidecar is in {namespace:?}",
                header.namespace
            )));
        }
        let accepted = serde_json::from_str(body)
            .map_err(|error| refuse(format!("not understood: {error}")))?;
        Ok(Some((
            accepted,
            UNIX_EPOCH + Duration::from_secs(header.written),
        )))
    }

    /// Replaces the last accepted configuration.
    pub fn save_accepted(
        &self,
        namespace: &str,
        accepted: &Accepted,
        now: SystemTime,
    ) -> Result<(), StateError> {
        let body = self.json("accepted", accepted)?;
        let header = Header {
            format: FORMAT,
            namespace: namespace.to_owned(),
            written: now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            sha256: sha256_hex(body.as_bytes()),
        };
        let text = format!("{}\n{body}", self.json("accepted", &header)?);
        self.write("accepted", text.as_bytes())
    }

    /// A small map kept as JSON (`vips`, `ports`); missing reads as empty.
    pub fn load_map<V: DeserializeOwned>(
        &self,
        name: &str,
    ) -> Result<BTreeMap<String, V>, StateError> {
        let Some(text) = self.read(name)? else {
            return Ok(BTreeMap::new());
        };
        let refuse = |error| StateError::Refused {
            path: self.path(name),
            reason: format!("not understood: {error}"),
        };
        serde_json::from_str(&text).map_err(refuse)
    }

    /// Replaces a small map.
    pub fn save_map<V: Serialize>(
        &self,
        name: &str,
        map: &BTreeMap<String, V>,
    ) -> Result<(), StateError> {
        let text = self.json(name, map)?;
        self.write(name, text.as_bytes())
    }

    /// What nobody else may have read; it is refused if its mode lets others do so.
    pub(super) fn read_private(&self, name: &str) -> Result<Option<Zeroizing<String>>, StateError> {
        let Some(text) = self.read(name)?.map(Zeroizing::new) else {
            return Ok(None);
        };
        let metadata = fs::metadata(self.path(name)).map_err(|error| self.io(name, error))?;
        let mode = metadata.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(StateError::Refused {
                path: self.path(name),
                reason: format!("has mode {mode:04o}, so that others may have read it"),
            });
        }
        Ok(Some(text))
    }

    fn kept_hex(&self, name: &str, bytes: usize) -> Result<String, StateError> {
        // The id of a task is shown everywhere.
        let read = match name {
            "task-id" => self.read(name).map(|kept| kept.map(Zeroizing::new)),
            _ => self.read_private(name),
        };
        let kept = match read {
            Err(error @ StateError::Refused { .. }) => {
                tracing::warn!("{error}; a new one is made");
                None
            }
            kept => kept?,
        };
        if let Some(kept) = kept {
            let kept = kept.trim();
            if !kept.is_empty() && kept.chars().all(|c| c.is_ascii_hexdigit()) {
                return Ok(kept.to_owned());
            }
        }
        let fresh = random_hex(bytes);
        self.write(name, fresh.as_bytes())?;
        Ok(fresh)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn json(&self, name: &str, value: &impl Serialize) -> Result<String, StateError> {
        serde_json::to_string(value).map_err(|error| self.io(name, io::Error::other(error)))
    }

    fn io(&self, name: &str, source: io::Error) -> StateError {
        StateError::Io {
            path: self.path(name),
            source,
        }
    }

    fn read(&self, name: &str) -> Result<Option<String>, StateError> {
        match fs::read_to_string(self.path(name)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(StateError::Refused {
                path: self.path(name),
                reason: "is not text".to_owned(),
            }),
            Err(error) => Err(self.io(name, error)),
        }
    }

    /// What is not there is removed already.
    pub(super) fn remove(&self, name: &str) -> Result<(), StateError> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.io(name, error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// By rename, so that a reader or a crash sees the old file or the new one. The temporary file is always a new one of a random
    /// name, with mode 0600: nobody can have laid one there before, and two sidecars do not meet on it.
    pub(super) fn write(&self, name: &str, contents: &[u8]) -> Result<(), StateError> {
        let written = || {
            let mut file = tempfile::Builder::new()
                .prefix(name)
                .tempfile_in(&self.dir)?;
            file.write_all(contents)?;
            file.as_file().sync_all()?;
            file.persist(self.path(name)).map_err(io::Error::from)
        };
        let written = written().map(drop);
        written.map_err(|error| self.io(name, error))
    }
}

/// The tokens of a sidecar without a state directory.
pub fn fresh_tokens() -> Tokens {
    Tokens {
        request: Token::new(rand::random()),
        verdict: Token::new(rand::random()),
    }
}

fn tokens_of(hex: &str) -> Result<Tokens, String> {
    let (request, verdict) = hex.split_at_checked(32).unwrap_or_default();
    Ok(Tokens {
        request: request.parse()?,
        verdict: verdict.parse()?,
    })
}

/// Random bytes in hex.
pub fn random_hex(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    rand::rng().fill_bytes(&mut random);
    hex(&random)
}

/// SHA-256 in hex.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn dir() -> (tempfile::TempDir, StateDir) {
        let dir = tempfile::tempdir().expect("a directory");
        let state = StateDir::open(&dir.path().join("state")).expect("opens");
        (dir, state)
    }

    fn accepted() -> Accepted {
        let mut accepted = Accepted::default();
        let set = outrigger_xds::model::EndpointSet {
            cluster: "n/s".to_owned(),
            endpoints: Vec::new(),
        };
        accepted.endpoints.insert("n/s".to_owned(), set.into());
        accepted
    }

    #[test]
    fn accepted_configuration_comes_back_with_its_age() {
        let (_keep, state) = dir();
        assert!(state.load_accepted("n").expect("reads").is_none());
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        state.save_accepted("n", &accepted(), now).expect("writes");
        assert_eq!(
            state.load_accepted("n").expect("reads"),
            Some((accepted(), now))
        );
    }

    #[test]
    fn damaged_foreign_or_newer_configuration_is_refused_and_said() {
        let (_keep, state) = dir();
        state
            .save_accepted("n", &accepted(), SystemTime::now())
            .expect("writes");
        let good = fs::read_to_string(state.path("accepted")).expect("reads");
        let said = |text: &str, namespace: &str| {
            fs::write(state.path("accepted"), text).expect("writes");
            state
                .load_accepted(namespace)
                .expect_err("refused")
                .to_string()
        };
        assert!(said(&good.replace("n/s", "n/x"), "n").contains("checksum does not match"));
        assert!(said(&good[..good.len() - 3], "n").contains("checksum does not match"));
        assert!(said(&good.replace("\"format\":1", "\"format\":9"), "n").contains("has format 9"));
        assert!(said(&good, "other").contains("is of namespace \"n\""));
        assert!(said("", "n").contains("no header"));
    }

    #[test]
    fn secret_is_long_kept_and_private() {
        let (_keep, state) = dir();
        let secret = state.node_secret().expect("makes one");
        assert_eq!(secret.len(), 64);
        assert_eq!(state.node_secret().expect("reads"), secret);
        let mode = fs::metadata(state.path("node-secret"))
            .expect("exists")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_somebody_laid_into_the_directory_is_neither_followed_nor_kept() {
        let (keep, state) = dir();
        let mode = |path: &Path| fs::metadata(path).expect("exists").permissions().mode() & 0o777;
        assert_eq!(mode(&state.dir), 0o700);
        let elsewhere = keep.path().join("elsewhere");
        fs::write(&elsewhere, "precious").expect("writes");
        let own_name = format!("task-id.{}.new", std::process::id());
        for planted in ["task-id.new", own_name.as_str()] {
            std::os::unix::fs::symlink(&elsewhere, state.path(planted)).expect("links");
        }
        let open = fs::Permissions::from_mode(0o666);
        let own_name = state.path(&format!("node-secret.{}.new", std::process::id()));
        fs::write(&own_name, "").expect("writes");
        fs::set_permissions(&own_name, open).expect("sets");
        state.task_id().expect("makes one");
        state.node_secret().expect("makes one");
        assert_eq!(fs::read_to_string(&elsewhere).expect("reads"), "precious");
        assert_eq!(mode(&state.path("node-secret")), 0o600);
    }

    #[test]
    fn the_tokens_of_the_hop_are_two_and_kept() {
        let (_keep, state) = dir();
        let tokens = state.hop_tokens().expect("makes them");
        assert_ne!(tokens.request, tokens.verdict);
        assert_eq!(state.hop_tokens().expect("reads them"), tokens);
        let open = fs::Permissions::from_mode(0o644);
        fs::set_permissions(state.path("hop-tokens"), open).expect("sets");
        let fresh = state.hop_tokens().expect("makes others");
        assert_ne!(fresh, tokens, "others may have read them");
        fs::write(state.path("hop-tokens"), "c0ffee").expect("writes");
        assert!(state.hop_tokens().is_err());
    }
}
