//! Where this process has its identity from: one source, whose presence is the switch for mutual TLS.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use outrigger_xds::identity::{self, DEFAULT_TRUST_DOMAIN, Proof};
use outrigger_xds::tls::{Pin, Roots};
use zeroize::Zeroizing;

use super::ConfigError;
use super::args::IdentityArgs;
use super::secret::Secret;
use super::tls::Files;
use super::values::{flag, text};
use crate::mesh::state::KEPT;

/// What a join token begins with; what follows is `<fingerprint of the CA>.<secret>`.
const JOIN_TOKEN: &str = "ojt1.";
/// The same of a service token that the control server made, and not its operator.
const SERVICE_TOKEN: &str = "ost1.";
/// The largest file that is read: far more than any token, document or bundle.
const MAX_FILE: u64 = 1024 * 1024;
/// The flags of which one is given.
pub(crate) const SOURCES: &str =
    "--join-token, --service-token-file, --identity-document, --tls-dir or --tls-cert";

/// How this process comes by its identity.
#[derive(Debug, Clone)]
pub struct IdentityConfig {
    /// Of this process, its peers and its control servers.
    pub trust_domain: String,
    /// Where certificate and key are from.
    pub source: Source,
}

/// Where certificate and key are from.
#[derive(Debug, Clone)]
pub enum Source {
    /// The control server, for a proof.
    Enrol(Enrolment),
    /// Somebody else, who replaces them when it is time.
    Files(Files),
}

/// What is said to the control server for a first certificate.
#[derive(Debug, Clone)]
pub enum Enrolment {
    /// A join token, itself or in a file.
    JoinToken(Secret),
    /// See [`Proof::ServiceToken`]: in a file, read whenever it is used. Without a pin it contains one.
    ServiceToken(PathBuf, Option<Pin>),
    /// See [`Proof::Document`]: in a file, read whenever it is used.
    Document(PathBuf, Pin),
}

impl Enrolment {
    /// The proof as it is now, and the root that the control server must have.
    pub fn read(&self) -> Result<(Proof, Pin), String> {
        match self {
            Self::JoinToken(given) => join_token(given),
            Self::ServiceToken(file, pin) => {
                let token = content(file)?;
                if token.starts_with(JOIN_TOKEN) {
                    let file = file.display();
                    return Err(format!(
                        "{file} has a join token ({JOIN_TOKEN}…): give it as --join-token"
                    ));
                }
                let pin = pin.clone().or_else(|| pin_within(&token, SERVICE_TOKEN));
                let pin = pin.ok_or_else(|| {
                    let file = file.display();
                    format!("{file} has a token without the fingerprint of the CA ({SERVICE_TOKEN}…), so give --control-ca")
                })?;
                Ok((Proof::ServiceToken(token), pin))
            }
            Self::Document(file, pin) => Ok((Proof::Document(content(file)?), pin.clone())),
        }
    }
}

/// Of a file, without the space around it.
fn content(file: &Path) -> Result<String, String> {
    let held = read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    match held.trim() {
        "" => Err(format!("{} is empty", file.display())),
        held => Ok(held.to_owned()),
    }
}

/// The fingerprint in a token of this kind.
fn pin_within(token: &str, kind: &str) -> Option<Pin> {
    let (fingerprint, secret) = token.strip_prefix(kind)?.split_once('.')?;
    let whole = !secret.is_empty() && !token.contains(char::is_whitespace);
    fingerprint.parse().ok().filter(|_| whole)
}

/// The errors show the name of a file and nothing of a token.
fn join_token(given: &Secret) -> Result<(Proof, Pin), String> {
    let given = given.reveal().trim();
    let held = match given.starts_with(JOIN_TOKEN) {
        true => Zeroizing::new(given.to_owned()),
        // What is neither a token nor a file's name may be a mistyped token.
        false => read(Path::new(given)).map_err(|error| {
            format!("must be a join token ({JOIN_TOKEN}…) or a file with one: {error}")
        })?,
    };
    let token = held.trim();
    let pin = pin_within(token, JOIN_TOKEN);
    let wrong = || format!("is no join token: {JOIN_TOKEN}<fingerprint of the CA>.<secret>");
    Ok((Proof::JoinToken(token.to_owned()), pin.ok_or_else(wrong)?))
}

fn read(file: &Path) -> io::Result<Zeroizing<String>> {
    let mut held = Zeroizing::new(String::new());
    File::open(file)?.take(MAX_FILE).read_to_string(&mut held)?;
    Ok(held)
}

impl IdentityConfig {
    /// Of the one source that is given; `None` without one.
    pub(super) fn read(
        args: &IdentityArgs,
        state: Option<&Path>,
        errors: &mut Vec<ConfigError>,
    ) -> Option<Self> {
        let trust_domain = flag(
            "--trust-domain",
            args.trust_domain.as_deref(),
            errors,
            |text| {
                identity::trust_domain(text)
                    .map(|()| text.to_owned())
                    .map_err(str::to_owned)
            },
        );
        let given = given(args);
        if let Some((field, value)) = given.get(1) {
            let reason = format!(
                "is a second source of this task's identity, beside {}",
                given[0].0
            );
            errors.push(ConfigError::new(*field, value, reason));
            return None;
        }
        let source = match given.first().map(|(field, _)| *field) {
            None => {
                unused(args, errors);
                return None;
            }
            Some("--tls-dir" | "--tls-cert") => {
                if let Some(value) = text(args.control_ca.as_deref()) {
                    let reason = "is for enrolling; with files of your own whom to believe stands in --tls-ca";
                    errors.push(ConfigError::new("--control-ca", value, reason));
                }
                Source::Files(files(args, errors)?)
            }
            Some(field) => {
                let enrolment = enrolment(args, errors)?;
                // What is good once may be gone when it was used, and a certificate that is kept needs no proof.
                let kept = state.is_some_and(|state| state.join(KEPT).exists());
                if let (Err(reason), false) = (enrolment.read(), kept) {
                    errors.push(ConfigError::new(field, &given[0].1, reason));
                }
                Source::Enrol(enrolment)
            }
        };
        Some(Self {
            trust_domain: trust_domain.unwrap_or_else(|| DEFAULT_TRUST_DOMAIN.to_owned()),
            source,
        })
    }
}

/// The sources, with what may be shown of them.
pub(super) fn given(args: &IdentityArgs) -> Vec<(&'static str, String)> {
    let token = args.join_token.as_ref();
    let token = token.filter(|token| !token.reveal().trim().is_empty());
    let shown = |value: &Option<String>| text(value.as_deref()).map(str::to_owned);
    let sources = [
        ("--join-token", token.map(|token| format!("{token:?}"))),
        ("--service-token-file", shown(&args.service_token_file)),
        ("--identity-document", shown(&args.identity_document)),
        ("--tls-dir", shown(&args.tls_dir)),
        ("--tls-cert", shown(&args.tls_cert)),
    ];
    let given = sources.into_iter();
    given
        .filter_map(|(field, value)| Some((field, value?)))
        .collect()
}

/// What means nothing without a source.
fn unused(args: &IdentityArgs, errors: &mut Vec<ConfigError>) {
    let reason = format!("means nothing without a source of this task's identity: {SOURCES}");
    for (field, value) in [
        ("--control-ca", &args.control_ca),
        ("--trust-domain", &args.trust_domain),
        ("--tls-key", &args.tls_key),
        ("--tls-ca", &args.tls_ca),
    ] {
        if let Some(value) = text(value.as_deref()) {
            errors.push(ConfigError::new(field, value, &reason));
        }
    }
}

fn enrolment(args: &IdentityArgs, errors: &mut Vec<ConfigError>) -> Option<Enrolment> {
    let file = |value: &Option<String>| text(value.as_deref()).map(PathBuf::from);
    let pin = flag("--control-ca", args.control_ca.as_deref(), errors, pin);
    if let Some(token) = args
        .join_token
        .clone()
        .filter(|token| !token.reveal().trim().is_empty())
    {
        if let Some(value) = text(args.control_ca.as_deref()) {
            let reason = "stands in the join token already";
            errors.push(ConfigError::new("--control-ca", value, reason));
        }
        return Some(Enrolment::JoinToken(token));
    }
    let given = text(args.control_ca.as_deref()).is_some();
    if let Some(file) = file(&args.service_token_file) {
        return (pin.is_some() || !given).then_some(Enrolment::ServiceToken(file, pin));
    }
    if !given {
        let reason = "is required: without it nobody knows that it is the control server that gets the document";
        errors.push(ConfigError::new("--control-ca", "", reason));
    }
    Some(Enrolment::Document(file(&args.identity_document)?, pin?))
}

/// A fingerprint, or a PEM file with the roots themselves.
fn pin(text: &str) -> Result<Pin, String> {
    if let Ok(pin) = text.parse() {
        return Ok(pin);
    }
    let wrong = |error: &dyn std::fmt::Display| {
        format!("must be a SHA-256 fingerprint (64 hex digits) or a PEM file: {error}")
    };
    let pem = read(Path::new(text)).map_err(|error| wrong(&error))?;
    let roots = Roots::from_pem(pem.as_bytes()).map_err(|error| wrong(&error))?;
    Ok(Pin::Roots(roots))
}

fn files(args: &IdentityArgs, errors: &mut Vec<ConfigError>) -> Option<Files> {
    if let Some(folder) = text(args.tls_dir.as_deref()) {
        for (field, value) in [("--tls-key", &args.tls_key), ("--tls-ca", &args.tls_ca)] {
            if let Some(value) = text(value.as_deref()) {
                let reason = "stands in --tls-dir already";
                errors.push(ConfigError::new(field, value, reason));
            }
        }
        return Some(in_folder(Path::new(folder)));
    }
    let mut required = |field, value: &Option<String>| {
        let value = text(value.as_deref());
        if value.is_none() {
            errors.push(ConfigError::new(field, "", "is required with --tls-cert"));
        }
        value.map(PathBuf::from)
    };
    let cert = required("--tls-cert", &args.tls_cert);
    let key = required("--tls-key", &args.tls_key);
    let ca = required("--tls-ca", &args.tls_ca);
    Some(Files {
        cert: cert?,
        key: key?,
        ca: ca?,
    })
}

/// As cert-manager and Kubernetes name them, or as SPIRE's helper does.
fn in_folder(folder: &Path) -> Files {
    let first = |names: &[&str]| {
        let mut there = names.iter().map(|name| folder.join(name));
        there.find(|path| path.exists())
    };
    let or = |names: &[&str]| first(names).unwrap_or_else(|| folder.join(names[0]));
    Files {
        cert: or(&["tls.crt", "svid.pem"]),
        key: or(&["tls.key", "svid_key.pem"]),
        ca: or(&["ca.crt", "bundle.pem", "svid_bundle.pem"]),
    }
}

#[cfg(test)]
mod tests;
