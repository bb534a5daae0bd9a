//! The registry's file: every change is on disk before it is answered, and all of it is read back at start.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::Rng;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::registry::{Change, Registry};

type Rows = TableDefinition<'static, &'static str, &'static [u8]>;

const META: Rows = TableDefinition::new("meta");
const NAMESPACES: Rows = TableDefinition::new("namespaces");
const SERVICES: Rows = TableDefinition::new("services");
const REVISIONS: Rows = TableDefinition::new("instances_revisions");
const INSTANCES: Rows = TableDefinition::new("instances");
const OPERATIONS: Rows = TableDefinition::new("operations");
const VIPS: Rows = TableDefinition::new("vips");
const LOST: Rows = TableDefinition::new("lost");
const TOKENS: Rows = TableDefinition::new("tokens");

const FORMAT: &str = "1";

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory could not be made.
    #[error("data directory {path}: {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file could not be opened; another control server may have it.
    #[error("{path}: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What redb said.
        source: redb::DatabaseError,
    },
    /// Reading or writing failed.
    #[error("registry file: {0}")]
    File(#[from] redb::Error),
    /// A row is not what this version writes.
    #[error("registry file, table {table}, row {key:?}: {source}")]
    Row {
        /// Where it is.
        table: String,
        /// Its key.
        key: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The file was written by a version whose format is not known here.
    #[error("registry file: format {found:?} is not the one this version reads ({FORMAT:?})")]
    Format {
        /// What the file says.
        found: String,
    },
}

/// One open file.
pub(crate) struct Store {
    database: Database,
}

/// What was in it.
pub(crate) struct Loaded {
    pub(crate) registry: Registry,
    /// Random, made with the file; tells a replaced or emptied registry from a restarted one.
    pub(crate) epoch: String,
}

impl Store {
    /// Opens or makes `registry.redb` in the directory and reads all of it.
    pub(crate) fn open(directory: &Path, rng: &mut impl Rng) -> Result<(Self, Loaded), StoreError> {
        let wrong = |source| StoreError::Directory {
            path: directory.to_owned(),
            source,
        };
        let mut folder = fs::DirBuilder::new();
        let made = folder.recursive(true).mode(0o700).create(directory);
        made.map_err(wrong)?;
        let path = directory.join("registry.redb");
        // The tokens of the hop protocol are in it, and redb would let everybody read it.
        let mut options = fs::OpenOptions::new();
        let new = options.write(true).create_new(true).mode(0o600).open(&path);
        if let Err(error) = new
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(wrong(error));
        }
        let database =
            Database::create(&path).map_err(|source| StoreError::Open { path, source })?;
        Self::of(database, rng)
    }

    /// An empty one that is kept nowhere.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn in_memory(rng: &mut impl Rng) -> Result<(Self, Loaded), StoreError> {
        let memory = redb::backends::InMemoryBackend::new();
        let made = redb::Builder::new().create_with_backend(memory);
        let database = made.map_err(|source| StoreError::Open {
            path: PathBuf::from("memory"),
            source,
        })?;
        Self::of(database, rng)
    }

    fn of(database: Database, rng: &mut impl Rng) -> Result<(Self, Loaded), StoreError> {
        let store = Self { database };
        let epoch = store.prepare(&format!("{:032x}", rng.random::<u128>()))?;
        let registry = store.load()?;
        Ok((store, Loaded { registry, epoch }))
    }

    fn prepare(&self, new_epoch: &str) -> Result<String, StoreError> {
        let write = self.database.begin_write().map_err(redb::Error::from)?;
        for table in [
            NAMESPACES, SERVICES, REVISIONS, INSTANCES, OPERATIONS, VIPS, LOST, TOKENS,
        ] {
            write.open_table(table).map_err(redb::Error::from)?;
        }
        let found = text(&write, "format")?;
        let epoch = match (found, text(&write, "epoch")?) {
            (Some(found), _) if found != FORMAT => return Err(StoreError::Format { found }),
            (Some(_), Some(epoch)) => epoch,
            _ => {
                put_bytes(&write, META, "format", FORMAT.as_bytes())?;
                put_bytes(&write, META, "epoch", new_epoch.as_bytes())?;
                new_epoch.to_owned()
            }
        };
        write.commit().map_err(redb::Error::from)?;
        Ok(epoch)
    }

    fn load(&self) -> Result<Registry, StoreError> {
        let mut registry = Registry::default();
        self.each(NAMESPACES, |_, row| {
            registry.apply(&Change::Namespace(Arc::new(row)))
        })?;
        self.each(SERVICES, |_, row| {
            registry.apply(&Change::Service(Arc::new(row)))
        })?;
        self.each(REVISIONS, |key, row| {
            registry.apply(&Change::Revision(key.to_owned(), row))
        })?;
        self.each(INSTANCES, |_, row| {
            registry.apply(&Change::Instance(Arc::new(row)))
        })?;
        self.each(OPERATIONS, |_, row| {
            registry.apply(&Change::Operation(Arc::new(row)))
        })?;
        self.each(VIPS, |_, row| registry.apply(&Change::Vip(Arc::new(row))))?;
        self.each(TOKENS, |_, row| {
            registry.apply(&Change::Token(Arc::new(row)))
        })?;
        self.each(LOST, |key, ()| {
            registry.apply(&Change::Lost(key.to_owned()))
        })?;
        Ok(registry)
    }

    fn each<T: DeserializeOwned>(
        &self,
        table: Rows,
        mut take: impl FnMut(&str, T),
    ) -> Result<(), StoreError> {
        let read = self.database.begin_read().map_err(redb::Error::from)?;
        let rows = read.open_table(table).map_err(redb::Error::from)?;
        for row in rows.iter().map_err(redb::Error::from)? {
            let (key, value) = row.map_err(redb::Error::from)?;
            let value =
                serde_json::from_slice(value.value()).map_err(|source| StoreError::Row {
                    table: table.to_string(),
                    key: key.value().to_owned(),
                    source,
                })?;
            take(key.value(), value);
        }
        Ok(())
    }

    /// Writes all of it or nothing; it is on disk when this returns.
    pub(crate) fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        let write = self.database.begin_write().map_err(redb::Error::from)?;
        for change in changes {
            write_change(&write, change)?;
        }
        write.commit().map_err(redb::Error::from)?;
        Ok(())
    }
}

fn write_change(write: &WriteTransaction, change: &Change) -> Result<(), StoreError> {
    match change {
        Change::Namespace(row) => put(write, NAMESPACES, &row.id, row.as_ref()),
        Change::DropNamespace(id) => drop_row(write, NAMESPACES, id),
        Change::Service(row) => put(write, SERVICES, &row.id, row.as_ref()),
        Change::DropService(id) => {
            drop_row(write, SERVICES, id)?;
            drop_row(write, REVISIONS, id)
        }
        Change::Revision(service, revision) => put(write, REVISIONS, service, revision),
        Change::Instance(row) => put(
            write,
            INSTANCES,
            &instance_key(&row.service_id, &row.id),
            row.as_ref(),
        ),
        Change::DropInstance { service, instance } => {
            drop_row(write, INSTANCES, &instance_key(service, instance))
        }
        Change::Operation(row) => put(
            write,
            OPERATIONS,
            &operation_key(row.sequence),
            row.as_ref(),
        ),
        Change::DropOperation(sequence) => drop_row(write, OPERATIONS, &operation_key(*sequence)),
        Change::Vip(row) => put(
            write,
            VIPS,
            &vip_key(&row.namespace, &row.dns_name),
            row.as_ref(),
        ),
        Change::DropVip {
            namespace,
            dns_name,
        } => drop_row(write, VIPS, &vip_key(namespace, dns_name)),
        Change::Token(row) => put(write, TOKENS, &row.digest, row.as_ref()),
        Change::DropToken(digest) => drop_row(write, TOKENS, digest),
        Change::Lost(node) => put(write, LOST, node, &()),
        Change::Found(node) => drop_row(write, LOST, node),
    }
}

// Service ids have no space and namespace names none either, so that keys are one to one.
fn instance_key(service: &str, instance: &str) -> String {
    format!("{service} {instance}")
}

fn vip_key(namespace: &str, dns_name: &str) -> String {
    format!("{namespace} {dns_name}")
}

fn operation_key(sequence: u64) -> String {
    format!("{sequence:020}")
}

fn put(
    write: &WriteTransaction,
    table: Rows,
    key: &str,
    row: &impl Serialize,
) -> Result<(), StoreError> {
    let bytes = serde_json::to_vec(row).map_err(|source| StoreError::Row {
        table: table.to_string(),
        key: key.to_owned(),
        source,
    })?;
    put_bytes(write, table, key, &bytes)
}

fn put_bytes(
    write: &WriteTransaction,
    table: Rows,
    key: &str,
    bytes: &[u8],
) -> Result<(), StoreError> {
    let mut rows = write.open_table(table).map_err(redb::Error::from)?;
    rows.insert(key, bytes).map_err(redb::Error::from)?;
    Ok(())
}

fn drop_row(write: &WriteTransaction, table: Rows, key: &str) -> Result<(), StoreError> {
    let mut rows = write.open_table(table).map_err(redb::Error::from)?;
    rows.remove(key).map_err(redb::Error::from)?;
    Ok(())
}

fn text(write: &WriteTransaction, key: &str) -> Result<Option<String>, StoreError> {
    let rows = write.open_table(META).map_err(redb::Error::from)?;
    let value = rows.get(key).map_err(redb::Error::from)?;
    Ok(value.map(|value| String::from_utf8_lossy(value.value()).into_owned()))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn a_file_that_another_server_has_open_is_refused_by_name() {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let mut rng = StdRng::seed_from_u64(1);
        let _first = Store::open(directory.path(), &mut rng).expect("a new file opens");
        let refused = Store::open(directory.path(), &mut rng)
            .err()
            .expect("the file is taken");
        assert!(refused.to_string().contains("registry.redb"), "{refused}");
    }

    #[test]
    fn the_epoch_outlives_a_restart_and_differs_between_files() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut rng = StdRng::seed_from_u64(1);
        let first = Store::open(one.path(), &mut rng).unwrap().1.epoch;
        assert_eq!(Store::open(one.path(), &mut rng).unwrap().1.epoch, first);
        assert_ne!(Store::open(two.path(), &mut rng).unwrap().1.epoch, first);
    }
}
