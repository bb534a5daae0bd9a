//! Hosts of their own on this machine: network namespaces with a cable each to us, so that packets can be lost, refused or slowed.
//!
//! Needs root and Linux's `ip`; the faults need `iptables` and `tc`. [`available`] says what is missing. Addresses are of
//! 198.18.0.0/15, which RFC 2544 sets apart for measurements. A host is taken down by `Drop`; what a killed run left behind is
//! swept up by the next one.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, bail};
use tokio::process::Command;

/// Blocks of four addresses in 198.18.0.0/15.
const BLOCKS: u32 = 1 << 15;
const FIRST: u32 = u32::from_be_bytes([198, 18, 0, 0]);
const PREFIX: &str = "outrigger-";

/// Whether hosts can be made here; the reason when they cannot.
pub fn available() -> Result<(), String> {
    static TRIED: OnceLock<Result<(), String>> = OnceLock::new();
    TRIED
        .get_or_init(|| {
            sweep();
            let host = Host::start().map_err(|error| format!("{error:#}"))?;
            let drop_all = ["-A", "INPUT", "-p", "udp", "-j", "DROP"];
            host.iptables(&drop_all)
                .map_err(|error| format!("{error:#}"))?;
            run("tc", &["-V"]).map_err(|error| format!("{error:#}"))
        })
        .clone()
}

/// A host: a network namespace and the cable that joins it to ours.
#[derive(Debug)]
pub struct Host {
    name: String,
    /// Our end of the cable.
    link: String,
    address: Ipv4Addr,
}

impl Host {
    /// Makes a host with an address that this process reaches.
    pub fn start() -> anyhow::Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let (own, nth) = (std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        // Processes with neighbouring ids, of one test run, do not meet; sixteen of one process are there at once.
        let block = FIRST + 4 * ((own.wrapping_mul(16) + nth % 16) % BLOCKS);
        let host = Self {
            name: format!("{PREFIX}{own}-{nth}"),
            link: format!("or{own}x{nth}"),
            address: Ipv4Addr::from(block + 2),
        };
        let (name, link) = (host.name.as_str(), host.link.as_str());
        let ours = format!("{}/30", Ipv4Addr::from(block + 1));
        let theirs = format!("{}/30", host.address);
        ip(&["netns", "add", name])?;
        ip(&[
            "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name,
        ])?;
        ip(&["address", "add", &ours, "dev", link])?;
        ip(&["link", "set", link, "up"])?;
        ip(&["-n", name, "address", "add", &theirs, "dev", "eth0"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        ip(&["-n", name, "link", "set", "eth0", "up"])?;
        Ok(host)
    }

    /// Its address.
    pub fn address(&self) -> IpAddr {
        self.address.into()
    }

    /// A command that runs a program on it; the process is the program's own.
    pub fn command(&self, program: &std::path::Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]);
        command.arg(program);
        command
    }

    /// One rule of its packet filter.
    pub fn iptables(&self, rule: &[&str]) -> anyhow::Result<()> {
        let mut words = vec!["netns", "exec", &self.name, "iptables", "-w"];
        words.extend_from_slice(rule);
        ip(&words)
    }

    /// From now on it sends and receives nothing, and nobody is told.
    pub fn vanish(&self) -> anyhow::Result<()> {
        self.iptables(&["-I", "INPUT", "-j", "DROP"])?;
        self.iptables(&["-I", "OUTPUT", "-j", "DROP"])
    }

    /// From now on it answers every segment of TCP with a reset.
    pub fn reject(&self) -> anyhow::Result<()> {
        let reset = ["-j", "REJECT", "--reject-with", "tcp-reset"];
        self.iptables(&[&["-I", "INPUT", "-p", "tcp"], &reset[..]].concat())
    }

    /// From now on it loses this share of the packets that come.
    pub fn lose(&self, share: f64) -> anyhow::Result<()> {
        let share = share.to_string();
        let random = [
            "-m",
            "statistic",
            "--mode",
            "random",
            "--probability",
            &share,
        ];
        self.iptables(&[&["-I", "INPUT"], &random[..], &["-j", "DROP"]].concat())
    }

    /// From now on it sends so many kbit/s (token bucket; not every kernel has netem).
    pub fn limit(&self, kilobits: u32) -> anyhow::Result<()> {
        let rate = format!("{kilobits}kbit");
        let bucket = ["rate", &rate, "burst", "16kb", "latency", "400ms"];
        let add = [
            "-n", &self.name, "qdisc", "add", "dev", "eth0", "root", "tbf",
        ];
        run("tc", &[&add, &bucket[..]].concat())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The cable goes with either end, the namespace only when its last process has: both are asked for.
        for words in [["link", "del", &self.link], ["netns", "del", &self.name]] {
            if let Err(error) = ip(&words) {
                tracing::debug!(%error, "a host is not taken down");
            }
        }
    }
}

fn ip(words: &[&str]) -> anyhow::Result<()> {
    run("ip", words)
}

fn run(program: &str, words: &[&str]) -> anyhow::Result<()> {
    let told = || format!("{program} {}", words.join(" "));
    let output = std::process::Command::new(program).args(words).output();
    let output = output.with_context(told)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}", told(), said.trim());
    }
    Ok(())
}

/// Takes down the hosts of runs that were killed.
fn sweep() {
    let listed = std::process::Command::new("ip")
        .args(["netns", "list"])
        .output();
    let Ok(listed) = listed else { return };
    for line in String::from_utf8_lossy(&listed.stdout).lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        let gone = owner.is_some_and(|id| !std::path::Path::new("/proc").join(id).exists());
        if gone && let Err(error) = ip(&["netns", "del", name]) {
            tracing::debug!(%error, "a dead run's host is not taken down");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_gone_when_it_is_dropped() {
        if let Err(missing) = available() {
            println!("skipped: no hosts here: {missing}");
            return;
        }
        let host = Host::start().unwrap();
        let name = host.name.clone();
        let exists = || std::path::Path::new("/run/netns").join(&name).exists();
        assert!(exists());
        drop(host);
        assert!(!exists());
    }

    #[test]
    fn what_cannot_be_made_names_the_command_and_its_reason() {
        let error = run("ip", &["link", "set", "no-such-link", "up"]);
        let text = format!("{:#}", error.unwrap_err());
        assert!(text.contains("ip link set no-such-link up"), "{text}");
    }
}
