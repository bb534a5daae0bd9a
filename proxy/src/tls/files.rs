//! Certificates, keys and roots in files that somebody else renews: cert-manager, Vault's agent, SPIRE's helper.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use outrigger_xds::tls::Identity;

use crate::config::tls::{Content, Files, Wrong};

/// How often files are looked at.
const EVERY: Duration = Duration::from_secs(1);

/// One identity for each set of files, brought to what they hold while somebody uses it.
#[derive(Debug, Default)]
pub(crate) struct Watched(Mutex<HashMap<Files, Weak<Identity>>>);

impl Watched {
    /// The identity of these files. What cannot be read yet is read later; until then nobody is let in.
    pub(crate) fn identity(&self, files: &Files) -> Arc<Identity> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, identity| identity.strong_count() > 0);
        if let Some(identity) = known.get(files).and_then(Weak::upgrade) {
            return identity;
        }
        let identity = Arc::new(Identity::default());
        known.insert(files.clone(), Arc::downgrade(&identity));
        let mut follower = Follower::new(files.clone());
        follower.look(&identity);
        tokio::spawn(follower.run(Arc::downgrade(&identity)));
        identity
    }
}

/// Brings an identity to what files hold.
pub(crate) struct Follower {
    files: Files,
    /// In force.
    good: Option<Content>,
    /// Looked at last, and refused.
    refused: Option<Result<Content, Wrong>>,
}

impl Follower {
    pub(crate) fn new(files: Files) -> Self {
        Self {
            files,
            good: None,
            refused: None,
        }
    }

    /// Follows the files for as long as somebody has the identity.
    pub(crate) async fn run(mut self, identity: Weak<Identity>) {
        loop {
            tokio::time::sleep(EVERY).await;
            let Some(identity) = identity.upgrade() else {
                return;
            };
            self.look(&identity);
        }
    }

    /// Looks once. What cannot be used changes nothing, and is said once.
    pub(crate) fn look(&mut self, identity: &Identity) {
        let read = Content::read(&self.files);
        if read.as_ref().ok() == self.good.as_ref() && self.good.is_some() {
            self.refused = None;
            return;
        }
        if self.refused.as_ref() == Some(&read) {
            return;
        }
        let parsed = read.as_ref().map_err(Wrong::clone);
        match parsed.and_then(Content::parse) {
            Ok((credentials, roots)) => {
                let content = read.ok();
                identity.set_roots(roots);
                let before = self.good.as_ref();
                let renewed = before.zip(content.as_ref());
                if renewed.is_none_or(|(before, now)| !now.has_certificate_of(before)) {
                    let (id, file) = (credentials.identity(), self.files.cert.display());
                    tracing::info!(%file, id = id.map(ToString::to_string), "certificate in force");
                    identity.set_credentials(credentials);
                }
                (self.good, self.refused) = (content, None);
            }
            Err(wrong) => {
                tracing::error!("{}; what was in force stays", self.shown(&wrong));
                self.refused = Some(read);
            }
        }
    }

    /// Why what the files hold now is not in force, if it is not.
    pub(crate) fn refused(&self) -> Option<String> {
        let read = self.refused.as_ref()?.as_ref();
        let wrong = read.map_err(Wrong::clone).and_then(Content::parse).err()?;
        Some(self.shown(&wrong))
    }

    fn shown(&self, Wrong { field, reason }: &Wrong) -> String {
        let path = match *field {
            "key" => &self.files.key,
            "ca" => &self.files.ca,
            _ => &self.files.cert,
        };
        format!("{}: {reason}", path.display())
    }
}
