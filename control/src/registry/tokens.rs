//! Tokens by which tasks enrol: what is kept of them is a digest, never the token.

use std::sync::Arc;

use super::{Change, Context, Error, Millis, Plan, Registry, Token, Use};

/// Tokens at once, used ones included.
const MAX_TOKENS: usize = 10_000;
/// The same key may ask again for the same node for so long without a second use: the answer may have been lost.
const AGAIN: Millis = 60_000;
/// How long a token whose time is over is remembered, so that whoever shows it is told why.
const REMEMBERED: Millis = 24 * 3600 * 1000;

/// What a token is made for.
pub(crate) struct NewToken {
    pub(crate) digest: String,
    /// The fingerprint of the root in it.
    pub(crate) pin: Option<String>,
    pub(crate) namespace: String,
    pub(crate) service: String,
    /// `None` is shared: as often as one likes.
    pub(crate) uses: Option<u32>,
    /// From now.
    pub(crate) ttl: Option<Millis>,
}

/// Who shows a token.
pub(crate) struct Shown {
    pub(crate) digest: String,
    /// Whether it is shown as one that is good once.
    pub(crate) once: bool,
    pub(crate) namespace: String,
    pub(crate) service: String,
    /// Digest of the key that is to be signed.
    pub(crate) key: String,
}

/// Why a token is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("this token is not known here")]
    Unknown,
    #[error("this token has been used")]
    Used,
    #[error("the time of this token is over")]
    Expired,
    #[error("this token is revoked")]
    Revoked,
    #[error("this token is for another service")]
    OtherService,
    #[error("this token is of the other kind")]
    OtherKind,
}

impl Refused {
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown_token",
            Self::Used => "used_token",
            Self::Expired => "expired_token",
            Self::Revoked => "revoked_token",
            Self::OtherService => "token_of_another_service",
            Self::OtherKind => "token_of_another_kind",
        }
    }
}

impl Registry {
    /// Adds a token, and forgets those that nobody needs to be told of.
    pub(crate) fn create_token(
        &self,
        context: &mut Context<'_>,
        new: NewToken,
    ) -> Plan<Arc<Token>> {
        let now = context.now;
        let over = |token: &&Arc<Token>| {
            let ended = token.expires.map(|expires| expires + REMEMBERED);
            // Nodes that enrolled by one that is revoked still ask.
            !token.revoked && ended.is_some_and(|ended| ended < now)
        };
        let over: Vec<_> = self.tokens.values().filter(over).collect();
        if self.tokens.len() - over.len() >= MAX_TOKENS {
            return Err(Error::ResourceLimitExceeded(format!(
                "there are already {MAX_TOKENS} tokens"
            )));
        }
        if self.tokens.contains_key(&new.digest) {
            return Err(super::invalid("token", "is in use already"));
        }
        let drops = over.iter().map(|token| token.digest.clone());
        let mut changes: Vec<_> = drops.map(Change::DropToken).collect();
        let token = Arc::new(Token {
            id: context.id("tok-", 16),
            digest: new.digest,
            pin: new.pin,
            namespace: new.namespace,
            service: new.service,
            uses: new.uses,
            created: now,
            expires: new.ttl.map(|ttl| now.saturating_add(ttl)),
            revoked: false,
            used: 0,
            recent: Vec::new(),
        });
        changes.push(Change::Token(Arc::clone(&token)));
        Ok((changes, token))
    }

    /// Takes a token and answers its id; one that is good once is used up when this is committed.
    pub(crate) fn use_token(
        &self,
        context: &mut Context<'_>,
        shown: &Shown,
    ) -> Plan<Result<String, Refused>> {
        let now = context.now;
        let Some(token) = self.tokens.get(&shown.digest) else {
            return Ok((Vec::new(), Err(Refused::Unknown)));
        };
        if let Err(refused) = token.is_for(shown, now) {
            return Ok((Vec::new(), Err(refused)));
        }
        let mut next = Token::clone(token);
        next.recent.retain(|one| one.at.saturating_add(AGAIN) > now);
        let id = token.id.clone();
        if next.recent.iter().any(|one| one.key == shown.key) {
            return Ok((Vec::new(), Ok(id)));
        }
        let Some(uses) = token.uses else {
            return Ok((Vec::new(), Ok(id)));
        };
        if token.used >= uses {
            return Ok((Vec::new(), Err(Refused::Used)));
        }
        next.used += 1;
        next.recent.push(Use {
            key: shown.key.clone(),
            at: now,
        });
        Ok((vec![Change::Token(Arc::new(next))], Ok(id)))
    }

    /// From now on it is not taken. By id.
    pub(crate) fn revoke_token(&self, id: &str) -> Plan<()> {
        let token = self.tokens.values().find(|token| token.id == id);
        let token = token.ok_or_else(|| Error::TokenNotFound(id.to_owned()))?;
        let mut next = Token::clone(token);
        next.revoked = true;
        Ok((vec![Change::Token(Arc::new(next))], ()))
    }

    /// Whether the token with this id is.
    pub(crate) fn is_revoked(&self, id: &str) -> bool {
        let mut all = self.tokens.values();
        all.any(|token| token.revoked && token.id == id)
    }

    /// All of them, oldest first.
    pub(crate) fn tokens(&self) -> Vec<&Arc<Token>> {
        let mut all: Vec<_> = self.tokens.values().collect();
        all.sort_by_key(|token| token.created);
        all
    }
}

impl Token {
    fn is_for(&self, shown: &Shown, now: Millis) -> Result<(), Refused> {
        if self.uses.is_some() != shown.once {
            return Err(Refused::OtherKind);
        }
        if self.revoked {
            return Err(Refused::Revoked);
        }
        if self.expires.is_some_and(|expires| expires <= now) {
            return Err(Refused::Expired);
        }
        if self.namespace != shown.namespace || self.service != shown.service {
            return Err(Refused::OtherService);
        }
        Ok(())
    }

    /// A word for what it is now.
    pub(crate) fn state(&self, now: Millis) -> &'static str {
        if self.revoked {
            "revoked"
        } else if self.expires.is_some_and(|expires| expires <= now) {
            "expired"
        } else if self.uses.is_some_and(|uses| self.used >= uses) {
            "used"
        } else {
            "good"
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn shown(once: bool, service: &str, key: &str) -> Shown {
        Shown {
            digest: "d".to_owned(),
            once,
            namespace: "shop".to_owned(),
            service: service.to_owned(),
            key: key.to_owned(),
        }
    }

    #[test]
    fn a_token_is_good_for_its_uses_its_service_and_its_time_and_a_lost_answer_is_repeated() {
        let mut registry = Registry::default();
        let mut rng = StdRng::seed_from_u64(1);
        let mut context = Context {
            now: 1000,
            rng: &mut rng,
        };
        let new = NewToken {
            digest: "d".to_owned(),
            pin: None,
            namespace: "shop".to_owned(),
            service: "orders".to_owned(),
            uses: Some(2),
            ttl: Some(100_000),
        };
        let (changes, token) = registry.create_token(&mut context, new).unwrap();
        changes.iter().for_each(|change| registry.apply(change));
        for (at, shown, expected) in [
            (1001, shown(true, "cart", "a"), Err(Refused::OtherService)),
            (1001, shown(false, "orders", "a"), Err(Refused::OtherKind)),
            (1001, shown(true, "orders", "a"), Ok(token.id.clone())),
            (50_000, shown(true, "orders", "a"), Ok(token.id.clone())),
            (50_000, shown(true, "orders", "b"), Ok(token.id.clone())),
            (50_000, shown(true, "orders", "c"), Err(Refused::Used)),
            (61_002, shown(true, "orders", "a"), Err(Refused::Used)),
            (101_000, shown(true, "orders", "b"), Err(Refused::Expired)),
        ] {
            context.now = at;
            let (changes, result) = registry.use_token(&mut context, &shown).unwrap();
            changes.iter().for_each(|change| registry.apply(change));
            assert_eq!(result, expected, "{at}");
        }
        let (changes, ()) = registry.revoke_token(&token.id).unwrap();
        changes.iter().for_each(|change| registry.apply(change));
        let mut once = shown(true, "orders", "a");
        let (_, result) = registry.use_token(&mut context, &once).unwrap();
        assert_eq!(result, Err(Refused::Revoked));
        once.digest = "other".to_owned();
        let (_, result) = registry.use_token(&mut context, &once).unwrap();
        assert_eq!(result, Err(Refused::Unknown));
    }
}
