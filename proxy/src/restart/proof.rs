//! Proof of the secret without telling it: HMAC-SHA256 (RFC 2104) over both sides' nonces and the prover's role.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use hmac::{Hmac, Mac as _};
use rand::RngCore as _;
use sha2::Sha256;

/// Who proves; a proof of one is none of the other, so that it cannot be sent back.
#[derive(Debug, Clone, Copy)]
pub(super) enum Role {
    Predecessor,
    Successor,
}

/// What both sides chose for this one connection.
#[derive(Debug, Clone)]
pub(super) struct Nonces {
    pub(super) predecessor: String,
    pub(super) successor: String,
}

/// 256 random bits.
pub(super) fn nonce() -> String {
    let mut random = [0; 32];
    rand::rng().fill_bytes(&mut random);
    BASE64.encode(random)
}

impl Nonces {
    pub(super) fn prove(&self, role: Role, secret: &str) -> String {
        BASE64.encode(self.mac(role, secret).finalize().into_bytes())
    }

    /// In constant time.
    pub(super) fn is_proven(&self, role: Role, secret: &str, proof: &str) -> bool {
        let proof = BASE64.decode(proof).unwrap_or_default();
        self.mac(role, secret).verify_slice(&proof).is_ok()
    }

    fn mac(&self, role: Role, secret: &str) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes())
            .expect("HMAC takes a key of any length");
        for part in [
            "outrigger hot restart",
            match role {
                Role::Predecessor => "predecessor",
                Role::Successor => "successor",
            },
            &self.predecessor,
            &self.successor,
        ] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_one_secret_one_role_and_one_connection() {
        let nonces = || Nonces {
            predecessor: nonce(),
            successor: nonce(),
        };
        let (here, elsewhere) = (nonces(), nonces());
        let proof = here.prove(Role::Successor, "secret");
        assert!(here.is_proven(Role::Successor, "secret", &proof));
        assert!(!here.is_proven(Role::Successor, "another", &proof));
        assert!(!here.is_proven(Role::Predecessor, "secret", &proof));
        assert!(!elsewhere.is_proven(Role::Successor, "secret", &proof));
        assert!(!here.is_proven(Role::Successor, "secret", ""));
    }
}
