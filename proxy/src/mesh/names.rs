//! Where names get their VIPs, and the hosts block through which applications find them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use ipnet::Ipv4Net;

use super::state::{StateDir, StateError};

const BEGIN: &str = "# outrigger begin";
const END: &str = "# outrigger end";
/// The map's file in the state directory.
const FILE: &str = "vips";

/// A name that cannot have a VIP.
#[derive(Debug, thiserror::Error)]
pub enum VipError {
    /// The map could not be kept, and a VIP that changes with a restart is worse than none.
    #[error(transparent)]
    State(#[from] StateError),
    /// `--vip-cidr` is too small.
    #[error("{name}: no address left in --vip-cidr {cidr}, all {used} are taken")]
    Full {
        /// Who asked.
        name: String,
        /// The network.
        cidr: Ipv4Net,
        /// Addresses in use.
        used: usize,
    },
    /// Zero and 65535 are the network's own addresses.
    #[error("{name}: VIP offset {offset} is out of range")]
    Offset {
        /// Who asked.
        name: String,
        /// What the control server sent.
        offset: u16,
    },
}

/// The VIPs of this sidecar: the server's offset in a /16, densely mapped and kept in anything smaller.
#[derive(Debug)]
pub struct Vips {
    cidr: Ipv4Net,
    placed: BTreeMap<String, u32>,
    state: Option<StateDir>,
}

impl Vips {
    /// With the map kept in `state`; a map that does not fit `cidr` any more is forgotten where it does not.
    pub fn new(cidr: Ipv4Net, state: Option<StateDir>) -> Result<Self, StateError> {
        let mut placed: BTreeMap<String, u32> = match &state {
            Some(state) => state.load_map(FILE)?,
            None => BTreeMap::new(),
        };
        placed.retain(|_, slot| (1..=last_slot(cidr)).contains(slot));
        Ok(Self {
            cidr,
            placed,
            state,
        })
    }

    /// The network.
    pub fn cidr(&self) -> Ipv4Net {
        self.cidr
    }

    /// The VIP of `name`: the same for every port, and the same after a restart.
    pub fn place(&mut self, name: &str, offset: u16) -> Result<Ipv4Addr, VipError> {
        if offset == 0 || offset == u16::MAX {
            return Err(VipError::Offset {
                name: name.to_owned(),
                offset,
            });
        }
        if self.cidr.prefix_len() == 16 {
            return Ok(self.address(u32::from(offset)));
        }
        if let Some(slot) = self.placed.get(name) {
            return Ok(self.address(*slot));
        }
        let used: BTreeSet<u32> = self.placed.values().copied().collect();
        let Some(slot) = (1..=last_slot(self.cidr)).find(|slot| !used.contains(slot)) else {
            return Err(VipError::Full {
                name: name.to_owned(),
                cidr: self.cidr,
                used: used.len(),
            });
        };
        self.placed.insert(name.to_owned(), slot);
        if let Some(state) = &self.state
            && let Err(error) = state.save_map(FILE, &self.placed)
        {
            self.placed.remove(name);
            return Err(error.into());
        }
        Ok(self.address(slot))
    }

    /// Forgets every name that is not in use, to make room.
    pub fn retain(&mut self, used: &BTreeSet<String>) {
        self.placed.retain(|name, _| used.contains(name));
    }

    fn address(&self, slot: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.cidr.network()) + slot)
    }
}

fn last_slot(cidr: Ipv4Net) -> u32 {
    (1u32 << (32 - u32::from(cidr.prefix_len()))) - 2
}

/// Writes our block of the hosts file and nothing else; returns the names that are refused, with the reason.
///
/// By rename where that is possible; a bind mount (containers) refuses it, so there the file is rewritten under a lock.
pub fn write_hosts(
    path: &Path,
    entries: &[(IpAddr, Vec<String>)],
) -> io::Result<Vec<(String, String)>> {
    write_hosts_with(path, entries, |from, to| fs::rename(from, to))
}

fn write_hosts_with(
    path: &Path,
    entries: &[(IpAddr, Vec<String>)],
    rename: impl Fn(&Path, &Path) -> io::Result<()>,
) -> io::Result<Vec<(String, String)>> {
    let path = &fs::canonicalize(path).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(path.to_owned()),
        _ => Err(error),
    })?;
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    file.lock()?;
    let mut before = String::new();
    file.read_to_string(&mut before)?;
    let (after, refused) = with_block(&before, entries);
    if after != before && replace(path, &file, &after, rename).is_err() {
        file.rewind()?;
        file.write_all(after.as_bytes())?;
        file.set_len(after.len() as u64)?;
        file.sync_all()?;
    }
    Ok(refused)
}

fn replace(
    path: &Path,
    current: &File,
    contents: &str,
    rename: impl Fn(&Path, &Path) -> io::Result<()>,
) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".outrigger.{}", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(contents.as_bytes())?;
        file.set_permissions(current.metadata()?.permissions())?;
        file.sync_all()?;
        rename(&temporary, path)
    });
    if written.is_err() {
        // The name is ours alone; when it was never created there is nothing to remove.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// The file with our block replaced, and what may not be in it.
fn with_block(before: &str, entries: &[(IpAddr, Vec<String>)]) -> (String, Vec<(String, String)>) {
    let (head, tail) = match before.split_once(BEGIN) {
        None => (before.to_owned(), String::new()),
        Some((head, rest)) => {
            // A block without its end was cut off by a crash while it was written in place: all of the rest is ours.
            let tail = rest.split_once(END).map_or("", |(_, tail)| tail);
            (head.to_owned(), tail.trim_start_matches('\n').to_owned())
        }
    };
    let mut taken: BTreeSet<String> = [head.as_str(), tail.as_str()]
        .iter()
        .flat_map(|part| part.lines())
        .map(|line| line.split('#').next().unwrap_or_default())
        .flat_map(|line| line.split_whitespace().skip(1))
        .map(str::to_ascii_lowercase)
        .collect();
    taken.insert("localhost".to_owned());
    let mut refused = Vec::new();
    let mut block = String::new();
    for (address, names) in entries {
        for name in names {
            if taken.contains(name) {
                refused.push((
                    name.clone(),
                    "is in the hosts file already, outside of our block".to_owned(),
                ));
            } else {
                block.push_str(&format!("{address} {name}\n"));
            }
        }
    }
    let mut after = head;
    if !after.is_empty() && !after.ends_with('\n') {
        after.push('\n');
    }
    if !block.is_empty() {
        after.push_str(&format!("{BEGIN}\n{block}{END}\n"));
    }
    after.push_str(&tail);
    (after, refused)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    fn cidr(text: &str) -> Ipv4Net {
        text.parse().expect("a network")
    }

    fn entries(names: &[&str]) -> Vec<(IpAddr, Vec<String>)> {
        let line = |(index, name): (usize, &&str)| {
            let last = u8::try_from(index + 1).expect("few names");
            (IpAddr::from([127, 255, 0, last]), vec![(*name).to_owned()])
        };
        names.iter().enumerate().map(line).collect()
    }

    #[test]
    fn a_slash_16_keeps_the_offset_of_the_server() {
        let mut vips = Vips::new(cidr("127.255.0.0/16"), None).expect("no state");
        assert_eq!(
            vips.place("orders", 513).expect("placed"),
            Ipv4Addr::new(127, 255, 2, 1)
        );
        assert!(matches!(
            vips.place("zero", 0),
            Err(VipError::Offset { .. })
        ));
        assert!(matches!(
            vips.place("last", u16::MAX),
            Err(VipError::Offset { .. })
        ));
    }

    #[test]
    fn a_smaller_network_is_filled_densely_and_kept_over_a_restart() {
        let dir = tempfile::tempdir().expect("a directory");
        let open = || {
            let state = StateDir::open(dir.path()).expect("opens");
            Vips::new(cidr("127.1.2.0/30"), Some(state)).expect("loads")
        };
        let mut vips = open();
        assert_eq!(
            vips.place("b", 700).expect("placed"),
            Ipv4Addr::new(127, 1, 2, 1)
        );
        assert_eq!(
            vips.place("a", 9).expect("placed"),
            Ipv4Addr::new(127, 1, 2, 2)
        );
        let mut vips = open();
        assert_eq!(
            vips.place("a", 9).expect("placed"),
            Ipv4Addr::new(127, 1, 2, 2)
        );
        assert!(matches!(
            vips.place("c", 10),
            Err(VipError::Full { used: 2, .. })
        ));
        vips.retain(&BTreeSet::from(["a".to_owned()]));
        assert_eq!(
            vips.place("c", 10).expect("room"),
            Ipv4Addr::new(127, 1, 2, 1)
        );
    }

    #[test]
    fn plain_file_is_replaced_by_rename_and_keeps_its_mode_and_lines() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("hosts");
        fs::write(&path, "127.0.0.1 localhost\n").expect("writes");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("sets");
        let inode = fs::metadata(&path).expect("exists").ino();
        assert!(
            write_hosts(&path, &entries(&["orders", "cart"]))
                .expect("writes")
                .is_empty()
        );
        let text = fs::read_to_string(&path).expect("reads");
        let block = "# outrigger begin\n127.255.0.1 orders\n127.255.0.2 cart\n# outrigger end\n";
        assert_eq!(text, format!("127.0.0.1 localhost\n{block}"));
        let metadata = fs::metadata(&path).expect("exists");
        assert_ne!(metadata.ino(), inode);
        assert_eq!(metadata.mode() & 0o777, 0o640);
        fs::write(&path, format!("{text}10.0.0.1 db\n")).expect("writes");
        write_hosts(&path, &entries(&["cart"])).expect("writes");
        let text = fs::read_to_string(&path).expect("reads");
        assert!(
            text.ends_with("127.255.0.1 cart\n# outrigger end\n10.0.0.1 db\n"),
            "{text}"
        );
        write_hosts(&path, &[]).expect("writes");
        assert_eq!(
            fs::read_to_string(&path).expect("reads"),
            "127.0.0.1 localhost\n10.0.0.1 db\n"
        );
        assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 1);
    }

    #[test]
    fn bind_mounted_file_is_rewritten_in_place() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("hosts");
        fs::write(&path, "127.0.0.1 localhost\n").expect("writes");
        let inode = fs::metadata(&path).expect("exists").ino();
        let busy = |_: &Path, _: &Path| Err(io::Error::from_raw_os_error(libc::EBUSY));
        write_hosts_with(&path, &entries(&["orders", "cart"]), busy).expect("writes");
        write_hosts_with(&path, &entries(&["orders"]), busy).expect("writes");
        let text = fs::read_to_string(&path).expect("reads");
        assert_eq!(
            text,
            "127.0.0.1 localhost\n# outrigger begin\n127.255.0.1 orders\n# outrigger end\n"
        );
        assert_eq!(fs::metadata(&path).expect("exists").ino(), inode);
        assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 1);
    }

    #[test]
    fn localhost_and_names_outside_the_block_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("hosts");
        fs::write(&path, "10.0.0.1 db DB2 # old\n").expect("writes");
        let refused =
            write_hosts(&path, &entries(&["db", "localhost", "db2", "old"])).expect("writes");
        let names: Vec<_> = refused.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["db", "localhost", "db2"]);
        assert!(
            fs::read_to_string(&path)
                .expect("reads")
                .contains("127.255.0.4 old\n")
        );
    }

    #[test]
    fn a_block_cut_off_by_a_crash_is_healed() {
        let (after, _) = with_block(
            "a b\n# outrigger begin\n127.255.0.1 or",
            &entries(&["cart"]),
        );
        assert_eq!(
            after,
            "a b\n# outrigger begin\n127.255.0.1 cart\n# outrigger end\n"
        );
    }
}
