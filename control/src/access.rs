//! On whose behalf a call is answered, by its connection.

use outrigger_xds::identity::{SpiffeId, TlsMode};

use crate::accept::Caller;
use crate::registry::Who;

/// What a connection needs for a change.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    pub(crate) mode: TlsMode,
    /// `None` where TLS is disabled.
    pub(crate) operator: Option<SpiffeId>,
}

impl Access {
    /// Whoever has a certificate is held to it, in every mode.
    pub(crate) fn who(&self, caller: &Caller) -> Who {
        match (&caller.leaf, self.mode) {
            (_, TlsMode::Disable) => Who::Anyone,
            (Some(leaf), _) if !leaf.is_current() => {
                Who::Reader("the connection's certificate has ended; connect again with a new one")
            }
            (Some(leaf), _) if Some(&leaf.identity) == self.operator.as_ref() => Who::Operator,
            (Some(leaf), _) => Who::Task {
                identity: leaf.identity.clone(),
                node: leaf.node.clone(),
            },
            (None, TlsMode::Strict) if !caller.is_local() => {
                Who::Reader("a change needs a certificate on the connection: TLS is strict here")
            }
            (None, _) => Who::Nobody,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_strict_mode_a_change_from_another_host_needs_a_certificate() {
        let who = |mode, address: &str| {
            let access = Access {
                mode,
                operator: None,
            };
            access.who(&Caller::plain(address.parse().unwrap()))
        };
        let (far, near) = ("10.0.0.1:1", "[::ffff:127.0.0.1]:1");
        assert!(matches!(who(TlsMode::Strict, far), Who::Reader(_)));
        assert_eq!(who(TlsMode::Strict, near), Who::Nobody);
        assert_eq!(who(TlsMode::Permissive, far), Who::Nobody);
        assert_eq!(who(TlsMode::Disable, far), Who::Anyone);
    }
}
