//! A certificate that somebody else renews in files: what is to be said of it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrigger_xds::tls::{Credentials, Identity};

use super::IDENTITY;
use crate::config::tls::Files;
use crate::observe::ready::{Readiness, State};
use crate::tls::files::Follower;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// Brings an identity to what files hold, again and again.
pub(crate) struct Following {
    follower: Follower,
    identity: Arc<Identity>,
    trust_domain: String,
    ready: Arc<Readiness>,
}

impl Following {
    /// Looks for the first time; what is not there yet is waited for.
    pub(crate) fn new(
        files: &Files,
        trust_domain: &str,
        identity: Arc<Identity>,
        ready: Arc<Readiness>,
    ) -> Self {
        let mut this = Self {
            follower: Follower::new(files.clone()),
            identity,
            trust_domain: trust_domain.to_owned(),
            ready,
        };
        this.look();
        this
    }

    /// For ever.
    pub(crate) async fn run(mut self) {
        loop {
            tokio::time::sleep(EVERY).await;
            self.look();
        }
    }

    fn look(&mut self) {
        self.follower.look(&self.identity);
        let refused = self.follower.refused();
        let usable = match self.identity.credentials() {
            None => Err("there is no certificate yet".to_owned()),
            Some(held) => usable(&held, &self.trust_domain, SystemTime::now()),
        };
        match (&usable, refused) {
            (Ok(()), None) => self.ready.clear(IDENTITY),
            (Ok(()), Some(refused)) => {
                let text = format!("{refused}; what was in force stays");
                self.ready.problem(IDENTITY, text);
            }
            (Err(reason), None) => self.ready.problem(IDENTITY, reason.as_str()),
            (Err(reason), Some(refused)) => {
                self.ready.problem(IDENTITY, format!("{reason}: {refused}"));
            }
        }
        let state = usable.map_or_else(State::Waiting, |()| State::Ready);
        self.ready.set(IDENTITY, state);
    }
}

/// Whether peers will take it.
fn usable(held: &Credentials, trust_domain: &str, now: SystemTime) -> Result<(), String> {
    let Some(id) = held.identity() else {
        return Err(
            "the certificate has not exactly one SPIFFE id, and nobody knows whose it is"
                .to_owned(),
        );
    };
    if id.trust_domain() != trust_domain {
        return Err(format!(
            "the certificate is for {id}, and --trust-domain is {trust_domain}"
        ));
    }
    if now > held.not_after() {
        let date = httpdate::fmt_http_date(held.not_after());
        return Err(format!(
            "the certificate ended on {date}, and nobody has replaced its file"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType, date_time_ymd};

    use super::*;

    #[test]
    fn files_may_come_late_and_what_is_wrong_with_them_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let files = Files {
            cert: at("tls.crt"),
            key: at("tls.key"),
            ca: at("ca.crt"),
        };
        let write = |names: &[&str], year| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            let uri = |name: &&str| SanType::URI((*name).try_into().unwrap());
            params.subject_alt_names = names.iter().map(uri).collect();
            params.not_after = date_time_ymd(year, 1, 1);
            let pem = params.self_signed(&key).unwrap().pem();
            std::fs::write(at("tls.crt"), &pem).unwrap();
            std::fs::write(at("ca.crt"), &pem).unwrap();
            std::fs::write(at("tls.key"), key.serialize_pem()).unwrap();
        };
        let ready = Arc::new(Readiness::new(&[]));
        let identity: Arc<Identity> = Arc::default();
        let mut following = Following::new(&files, "td", Arc::clone(&identity), Arc::clone(&ready));
        let mut said = || {
            following.look();
            (
                ready.is_ready(),
                ready.problem_of(IDENTITY).unwrap_or_default(),
            )
        };
        let (is_ready, problem) = said();
        assert!(
            !is_ready && problem.contains("no certificate yet") && problem.contains("tls.crt"),
            "{problem}"
        );
        write(&["spiffe://td/ns/shop/svc/orders"], 2100);
        assert_eq!(said(), (true, String::new()));
        std::fs::write(at("tls.key"), "no key").unwrap();
        let (is_ready, problem) = said();
        assert!(
            is_ready && problem.contains("tls.key") && problem.contains("stays"),
            "{problem}"
        );
        for (names, year, expected) in [
            (&["spiffe://else/a"][..], 2100, "--trust-domain"),
            (&[], 2100, "SPIFFE id"),
            (&["spiffe://td/a"], 2020, "ended on"),
        ] {
            write(names, year);
            let (is_ready, problem) = said();
            assert!(!is_ready && problem.contains(expected), "{problem}");
        }
        write(&["spiffe://td/a"], 2100);
        assert_eq!(said(), (true, String::new()));
    }
}
