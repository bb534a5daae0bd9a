//! Listening sockets on their way from one process to the next.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use serde::{Deserialize, Serialize};

/// What a socket was bound for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Label {
    /// A listener's name, or the flag that asked for it.
    pub(crate) name: String,
    /// The address that was asked for, which may have port 0; `None` is a unix socket.
    pub(crate) asked: Option<SocketAddr>,
}

/// A listening socket and what it was bound for.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) label: Label,
    pub(crate) descriptor: OwnedFd,
}

impl Socket {
    pub(crate) fn new(
        name: impl Into<String>,
        asked: Option<SocketAddr>,
        descriptor: impl Into<OwnedFd>,
    ) -> Self {
        Self {
            label: Label {
                name: name.into(),
                asked,
            },
            descriptor: descriptor.into(),
        }
    }

    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            label: self.label.clone(),
            descriptor: self.descriptor.try_clone()?,
        })
    }
}

/// Sockets of the process before, each until somebody wants it; what nobody wants is closed with this.
#[derive(Debug, Default)]
pub(crate) struct Inherited(Vec<Socket>);

impl Inherited {
    pub(crate) fn add(&mut self, sockets: Vec<Socket>) {
        self.0.extend(sockets);
    }

    /// The socket that was bound for `asked`, whatever it was called; where any port would do, the name decides.
    pub(crate) fn listener(&mut self, name: &str, asked: SocketAddr) -> Option<TcpListener> {
        let fits =
            |label: &Label| label.asked == Some(asked) && (asked.port() != 0 || label.name == name);
        self.take(fits).map(TcpListener::from)
    }

    /// The unix socket of that name.
    pub(crate) fn unix_listener(&mut self, name: &str) -> Option<UnixListener> {
        self.take(|label| label.asked.is_none() && label.name == name)
            .map(UnixListener::from)
    }

    /// Addresses that are ours already, though somebody listens there.
    pub(crate) fn addresses(&self) -> BTreeSet<SocketAddr> {
        self.0.iter().filter_map(|one| one.label.asked).collect()
    }

    fn take(&mut self, fits: impl Fn(&Label) -> bool) -> Option<OwnedFd> {
        let at = self.0.iter().position(|one| fits(&one.label))?;
        Some(self.0.swap_remove(at).descriptor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(name: &str, asked: &str) -> Socket {
        let socket = TcpListener::bind("127.0.0.1:0").expect("binds");
        Socket::new(name, Some(asked.parse().expect("an address")), socket)
    }

    #[test]
    fn a_socket_is_adopted_by_its_address_and_at_port_0_by_its_name() {
        let mut inherited = Inherited::default();
        inherited.add(vec![
            socket("old", "127.255.0.1:80"),
            socket("a", "127.0.0.1:0"),
            socket("b", "127.0.0.1:0"),
        ]);
        let any = "127.0.0.1:0".parse().expect("an address");
        let vip = "127.255.0.1:80".parse().expect("an address");
        assert!(inherited.listener("c", any).is_none());
        assert!(inherited.listener("b", any).is_some());
        assert!(inherited.listener("b", any).is_none(), "it is taken");
        assert!(inherited.listener("new", vip).is_some());
        assert!(inherited.unix_listener("a").is_none());
        assert_eq!(inherited.addresses(), BTreeSet::from([any]));
    }
}
