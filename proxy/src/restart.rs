//! Hot restart: a new process takes the listening sockets over from the running one, and no connection is refused or reset.
//!
//! The running sidecar listens on `restart.sock` in its state directory. A new one connects, both prove that they hold the node's
//! secret, the listening sockets travel by SCM_RIGHTS (unix(7)), and when the new one is ready it says so. From then on it alone
//! accepts: the accept queue belongs to the socket, not to the process, so nothing that waits in it is lost.
//!
//! ```text
//! new                                      old
//! hello (version, node, network, nonce) ─►
//!                                       ◄─ challenge (nonce, proof)
//! proof                                 ─►
//!                                       ◄─ sockets …, the last batch says so
//!   reads its configuration, adopts
//! take-over                             ─►   the old one's last moment: before it, whatever happens, it goes on
//!                                            unsubscribes, writes its configuration, accepts no more
//!                                       ◄─ sockets opened since; over
//!   reads the configuration again, accepts
//! ```
//! `refused` with a reason may come instead of any answer.

mod door;
mod predecessor;
mod proof;
mod sockets;
#[cfg(test)]
mod tests;
mod wire;

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

pub(crate) use self::door::{Door, Successor};
pub(crate) use self::predecessor::{Predecessor, find};
pub(crate) use self::sockets::{Inherited, Socket};

/// Raised when a process of before can no longer be understood. `hello` and `refused` stay as they are.
const VERSION: u32 = 1;
/// The socket in the state directory.
const FILE: &str = "restart.sock";
/// Bytes of a path that fit `sun_path`, which ends with a zero (unix(7)).
const LONGEST_PATH: usize = 107;

/// Where the sidecar with this state directory listens for its successor; an error when a unix socket cannot have such a path.
pub(crate) fn path(state: &Path) -> Result<PathBuf, String> {
    let path = state.join(FILE);
    let length = path.as_os_str().len();
    if length <= LONGEST_PATH {
        return Ok(path);
    }
    Err(format!(
        "{} has {length} bytes and a unix socket's path has at most {LONGEST_PATH}: choose a shorter directory, or --hot-restart off",
        path.display()
    ))
}

/// Who a process is: only the same sidecar may take over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// What both must agree on, in words.
    pub(crate) node: String,
    /// The network namespace: sockets of another one would serve another task's traffic.
    pub(crate) network: String,
    /// The node's secret; it never travels.
    pub(crate) secret: String,
}

impl Identity {
    /// Of the sidecar called `node`, in this process's network namespace.
    pub(crate) fn new(node: String, secret: String) -> Self {
        let network = std::fs::metadata("/proc/self/ns/net");
        let network =
            network.map_or_else(|_| String::new(), |it| format!("{}:{}", it.dev(), it.ino()));
        Self {
            node,
            network,
            secret,
        }
    }
}

/// Why nothing was handed over.
#[derive(Debug, thiserror::Error)]
pub enum RestartError {
    /// The connection between the two processes failed.
    #[error("the connection to process {process} failed: {source}")]
    Io {
        /// The other process.
        process: i32,
        /// How.
        source: io::Error,
    },
    /// The other process said no.
    #[error("process {process} refuses: {reason}")]
    Refused {
        /// The other process.
        process: i32,
        /// Its reason.
        reason: String,
    },
    /// This process said no.
    #[error("process {process} was refused: {reason}")]
    Refusing {
        /// The other process.
        process: i32,
        /// Our reason.
        reason: String,
    },
    /// The other process ended or did not answer in time.
    #[error("process {process} {what}")]
    Gone {
        /// The other process.
        process: i32,
        /// What it did not do.
        what: &'static str,
    },
}
