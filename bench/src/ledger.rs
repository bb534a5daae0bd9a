//! The ledger: which task began to act on which request, kept outside the tasks; and the audit of what clients were told by it.
//!
//! A task writes one line, `<request id> <task>`, before it acts, with one `write` to a file opened with `O_APPEND`. Such a line
//! is whole or absent, and it is the kernel's from then on: it outlives a SIGKILL of the task. Only a machine's death would ask for
//! `fsync`. Lines of several tasks never mix, so that all share one file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;
use http::HeaderName;

use crate::load::{Ended, Record};

/// The request header whose value is written.
pub const ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// A task's end of the ledger.
#[derive(Debug)]
pub struct Ledger {
    file: File,
    task: String,
}

impl Ledger {
    /// Opens the file, which several tasks may share, or creates it.
    pub fn open(path: &Path, task: &str) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        Ok(Self {
            file,
            task: task.to_owned(),
        })
    }

    /// Writes that `id` is acted upon from now on.
    pub fn note(&self, id: &str) -> io::Result<()> {
        let line = format!("{id} {}\n", self.task);
        match (&self.file).write(line.as_bytes())? {
            written if written == line.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }
}

/// How often each request was acted upon.
#[derive(Debug, Default)]
pub struct Entries(BTreeMap<String, u64>);

impl Entries {
    /// Reads the whole ledger; a file that is not there is an empty one.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            other => other.with_context(|| path.display().to_string())?,
        };
        let mut entries = Self::default();
        for line in text.lines() {
            let id = line.split(' ').next().unwrap_or_default();
            *entries.0.entry(id.to_owned()).or_default() += 1;
        }
        Ok(entries)
    }

    fn of<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, u64)> {
        let entries = self.0.iter().map(|(id, times)| (id.as_str(), *times));
        entries.filter(move |(id, _)| {
            let number = id.strip_prefix(prefix);
            number.is_some_and(|number| number.starts_with('-'))
        })
    }
}

/// What clients were told beside what the tasks did, for the requests of one load.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Audit {
    /// Requests sent.
    pub sent: u64,
    /// Requests with a complete 2xx answer.
    pub answered: u64,
    /// Requests without one: lost to whoever sent them.
    pub failed: u64,
    /// Of the failed, those that a task acted upon all the same.
    pub unknown: u64,
    /// Failures by the status that told of them; 0 is a connection or stream that broke, or no answer in time.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests acted upon more than once.
    pub duplicated: u64,
    /// Requests acted upon that nobody sent.
    pub phantom: u64,
    /// Requests answered 2xx on which no task has acted.
    pub unrecorded: u64,
    /// Lines in the ledger: deliveries that a task began to act on.
    pub deliveries: u64,
}

impl Audit {
    /// Compares a load, whose requests had ids of this prefix, with the ledger.
    pub fn of(record: &Record, entries: &Entries, prefix: &str) -> Self {
        let mut audit = Self::default();
        let mut sent = BTreeSet::new();
        for request in &record.requests {
            let id = id(prefix, request.number);
            let acted = entries.0.contains_key(&id);
            audit.sent += 1;
            match request.ended {
                Ended::Answered => {
                    audit.answered += 1;
                    audit.unrecorded += u64::from(!acted);
                }
                Ended::Status(status) => audit.fail(status, acted),
                Ended::Broken => audit.fail(0, acted),
            }
            sent.insert(id);
        }
        for (id, times) in entries.of(prefix) {
            audit.deliveries += times;
            audit.duplicated += u64::from(times > 1);
            audit.phantom += u64::from(!sent.contains(id));
        }
        audit
    }

    fn fail(&mut self, status: u16, acted: bool) {
        self.failed += 1;
        self.unknown += u64::from(acted);
        *self.statuses.entry(status).or_default() += 1;
    }

    /// Adds another load's.
    pub fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.answered += other.answered;
        self.failed += other.failed;
        self.unknown += other.unknown;
        self.duplicated += other.duplicated;
        self.phantom += other.phantom;
        self.unrecorded += other.unrecorded;
        self.deliveries += other.deliveries;
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
    }

    /// Share of requests answered, 0 to 1; 1 when none was sent.
    pub fn success(&self) -> f64 {
        match self.sent {
            0 => 1.0,
            sent => self.answered as f64 / sent as f64,
        }
    }

    /// Failures as `502 × 3, broken × 1`; `-` when there are none.
    pub fn failures(&self) -> String {
        let each = self.statuses.iter().map(|(status, count)| match status {
            0 => format!("broken × {count}"),
            _ => format!("{status} × {count}"),
        });
        let all: Vec<_> = each.collect();
        if all.is_empty() {
            "-".to_owned()
        } else {
            all.join(", ")
        }
    }
}

/// The id of a load's `number`-th request.
pub fn id(prefix: &str, number: u64) -> String {
    format!("{prefix}-{number:012}")
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::load::Sent;

    fn record(ended: &[Ended]) -> Record {
        let now = Instant::now();
        let sent = ended.iter().zip(0..).map(|(ended, number)| Sent {
            number,
            due: now,
            at: now,
            ended: *ended,
        });
        Record {
            requests: sent.collect(),
            ..Record::default()
        }
    }

    #[test]
    fn an_audit_tells_duplicates_phantoms_and_failures_that_were_acted_upon() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let (one, two) = (
            Ledger::open(&path, "one").unwrap(),
            Ledger::open(&path, "two").unwrap(),
        );
        for number in [0, 1, 3, 9] {
            one.note(&id("post", number)).unwrap();
        }
        two.note(&id("post", 1)).unwrap();
        // Another load's requests, whose prefix begins alike, are none of this one's.
        two.note(&id("posts", 5)).unwrap();
        let record = record(&[
            Ended::Answered,
            Ended::Answered,
            Ended::Answered,
            Ended::Status(502),
            Ended::Broken,
        ]);
        let audit = Audit::of(&record, &Entries::read(&path).unwrap(), "post");
        let expected = Audit {
            sent: 5,
            answered: 3,
            failed: 2,
            unknown: 1,
            statuses: BTreeMap::from([(0, 1), (502, 1)]),
            duplicated: 1,
            phantom: 1,
            unrecorded: 1,
            deliveries: 5,
        };
        assert_eq!(audit, expected);
        assert_eq!(audit.failures(), "broken × 1, 502 × 1");
    }

    #[test]
    fn a_ledger_that_nobody_wrote_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let entries = Entries::read(&folder.path().join("none")).unwrap();
        let audit = Audit::of(&record(&[Ended::Answered]), &entries, "get");
        assert_eq!((audit.unrecorded, audit.deliveries), (1, 0));
    }
}
