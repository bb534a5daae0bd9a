//! The `tls` tables of the static file: what a sidecar in the mesh is told by its control server, by files.

use std::path::Path;
use std::str::FromStr;

use outrigger_xds::identity::{SpiffeId, TlsMode};
use outrigger_xds::tls::Group;
use rustls_pki_types::ServerName;

use super::ConfigError;
use crate::config::fields::Fields;
use crate::config::tls::{ClusterTls, Content, Files, ListenerTls, Wrong};

/// `tls = { cert, key, ca, mode, groups }`.
pub(super) fn listener(
    fields: &mut Fields,
    folder: &Path,
    errors: &mut Vec<ConfigError>,
) -> Option<ListenerTls> {
    let mut table = fields.object("tls", errors)?;
    let mode = table.parsed("mode", errors, TlsMode::from_str);
    let groups = groups(&mut table, errors);
    let files = files(&mut table, folder, errors);
    table.finish(errors);
    Some(ListenerTls {
        files: files?,
        mode: mode.unwrap_or(TlsMode::Strict),
        groups,
    })
}

/// `tls = { cert, key, ca, peer, groups }`.
pub(super) fn cluster(
    fields: &mut Fields,
    folder: &Path,
    errors: &mut Vec<ConfigError>,
) -> Option<ClusterTls> {
    let mut table = fields.object("tls", errors)?;
    let peer = table.required_text("peer", errors);
    if !peer.is_empty()
        && let Err(reason) = is_peer(&peer)
    {
        errors.push(ConfigError::new(table.at("peer"), &peer, reason));
    }
    let groups = groups(&mut table, errors);
    let files = files(&mut table, folder, errors);
    table.finish(errors);
    Some(ClusterTls {
        files: files?,
        peer,
        groups,
    })
}

fn is_peer(text: &str) -> Result<(), String> {
    if text.contains("://") {
        return SpiffeId::from_str(text)
            .map(drop)
            .map_err(|error| error.to_string());
    }
    match ServerName::try_from(text) {
        Ok(ServerName::DnsName(_)) => Ok(()),
        Ok(_) | Err(_) => Err("must be a SPIFFE id (spiffe://...) or a DNS name".to_owned()),
    }
}

/// The files, which must be there and belong together. A file is named relative to the folder that the static file is in.
fn files(fields: &mut Fields, folder: &Path, errors: &mut Vec<ConfigError>) -> Option<Files> {
    let before = errors.len();
    let given = ["cert", "key", "ca"].map(|field| fields.required_text(field, errors));
    if errors.len() > before {
        return None;
    }
    let [cert, key, ca] = given.each_ref().map(|file| folder.join(file));
    let files = Files { cert, key, ca };
    if let Err(Wrong { field, reason }) =
        Content::read(&files).and_then(|content| content.parse().map(drop))
    {
        let [cert, key, ca] = given;
        let value = match field {
            "key" => key,
            "ca" => ca,
            _ => cert,
        };
        errors.push(ConfigError::new(fields.at(field), value, reason));
        return None;
    }
    Some(files)
}

fn groups(fields: &mut Fields, errors: &mut Vec<ConfigError>) -> Vec<String> {
    let Some(value) = fields.any("groups") else {
        return Vec::new();
    };
    let at = fields.at("groups");
    let names: Result<Vec<String>, _> = serde_json::from_value(value.clone());
    let names = names.unwrap_or_default();
    if names.is_empty() {
        let reason = "must be a list of key exchange groups";
        errors.push(ConfigError::new(at, value.to_string(), reason));
        return names;
    }
    for name in &names {
        if let Err(reason) = Group::from_str(name) {
            errors.push(ConfigError::new(at.as_str(), name, reason));
        }
    }
    names
}
