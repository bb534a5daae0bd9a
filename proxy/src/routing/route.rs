//! Host, path and header match → cluster, timeouts, retry policy. No I/O.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Uri};
use outrigger_xds::model::{self, PathMatch, RetryPolicy};

use crate::upstream::cluster::Cluster;

/// A route with its names resolved.
pub(crate) struct Route {
    hosts: Vec<String>,
    path: PathMatch,
    headers: Vec<(HeaderName, Option<HeaderValue>)>,
    /// Who serves it.
    pub(crate) cluster: Arc<Cluster>,
    /// `Some`: covers the whole response, zero is off. `None`: 15 s to the response head.
    pub(crate) per_request_timeout: Option<Duration>,
    /// Time without a byte either way; zero is off.
    pub(crate) idle_timeout: Duration,
    /// What may be tried again.
    pub(crate) retry: RetryPolicy,
}

impl Route {
    /// Resolves the model's route; the reason when a header condition cannot be one.
    pub(crate) fn new(from: &model::Route, cluster: Arc<Cluster>) -> Result<Self, String> {
        let header = |condition: &model::HeaderMatch| {
            let name: HeaderName = condition
                .name
                .parse()
                .map_err(|error| format!("header name {:?}: {error}", condition.name))?;
            let value = condition.value.as_ref().map(|value| {
                HeaderValue::from_str(value)
                    .map_err(|error| format!("value {value:?} of header {name}: {error}"))
            });
            Ok::<_, String>((name, value.transpose()?))
        };
        Ok(Self {
            hosts: from
                .hosts
                .iter()
                .map(|host| host.to_ascii_lowercase())
                .collect(),
            path: from.path.clone(),
            headers: from.headers.iter().map(header).collect::<Result<_, _>>()?,
            cluster,
            per_request_timeout: from.per_request_timeout,
            idle_timeout: from
                .idle_timeout
                .unwrap_or(model::DEFAULT_HTTP_IDLE_TIMEOUT),
            retry: from.retry.clone(),
        })
    }

    fn matches(&self, host: &str, uri: &Uri, headers: &HeaderMap) -> bool {
        self.matches_host(host)
            && match &self.path {
                PathMatch::Prefix(prefix) => uri.path().starts_with(prefix.as_str()),
                PathMatch::Exact(path) => uri.path() == path,
            }
            && self.headers.iter().all(|(name, wanted)| match wanted {
                Some(wanted) => headers.get_all(name).iter().any(|value| value == wanted),
                None => headers.contains_key(name),
            })
    }

    fn matches_host(&self, host: &str) -> bool {
        self.hosts.is_empty()
            || self
                .hosts
                .iter()
                .any(|pattern| match pattern.strip_prefix('*') {
                    Some(suffix) => {
                        host.len() > suffix.len() && ends_with_ignore_case(host, suffix)
                    }
                    None => host.eq_ignore_ascii_case(pattern),
                })
    }
}

fn ends_with_ignore_case(text: &str, suffix: &str) -> bool {
    text.len()
        .checked_sub(suffix.len())
        .and_then(|at| text.get(at..))
        .is_some_and(|end| end.eq_ignore_ascii_case(suffix))
}

/// The first route that matches.
pub(crate) fn find<'a>(
    routes: &'a [Arc<Route>],
    uri: &Uri,
    headers: &HeaderMap,
) -> Option<&'a Arc<Route>> {
    let host = host_of(uri, headers);
    routes
        .iter()
        .find(|route| route.matches(host, uri, headers))
}

/// The request's host without port: the authority, else the Host header (RFC 9110 section 7.2).
fn host_of<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> &'a str {
    if let Some(host) = uri.host() {
        return host;
    }
    let host = headers
        .get(http::header::HOST)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    match host.rsplit_once(':') {
        Some((name, port))
            if !name.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            name
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::metrics::Sharded;

    fn route(
        hosts: &[&str],
        path: PathMatch,
        headers: &[(&str, Option<&str>)],
        cluster: &str,
    ) -> Arc<Route> {
        let from = model::Route {
            hosts: hosts.iter().map(ToString::to_string).collect(),
            path,
            headers: headers
                .iter()
                .map(|(name, value)| model::HeaderMatch {
                    name: (*name).into(),
                    value: value.map(Into::into),
                })
                .collect(),
            cluster: cluster.into(),
            per_request_timeout: None,
            idle_timeout: None,
            retry: RetryPolicy::default(),
        };
        let policy = model::Cluster {
            name: cluster.into(),
            protocol: model::Protocol::Http,
            lb: model::LbPolicy::LeastRequest,
            discovery: model::Discovery::Eds,
            connect_timeout: None,
            idle_timeout: None,
            outlier_detection: None,
            health_check: None,
            service: None,
        };
        Arc::new(
            Route::new(&from, Cluster::new(policy, Sharded::unregistered()))
                .expect("the conditions are valid"),
        )
    }

    fn found(
        routes: &[Arc<Route>],
        uri: &str,
        headers: &[(&'static str, &'static str)],
    ) -> Option<String> {
        let headers = headers
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect();
        find(routes, &uri.parse().expect("the uri is valid"), &headers)
            .map(|route| route.cluster.name.clone())
    }

    #[test]
    fn the_first_match_wins() {
        let routes = [
            route(&[], PathMatch::Exact("/a".into()), &[], "exact"),
            route(&[], PathMatch::Prefix("/a".into()), &[], "prefix"),
            route(
                &[],
                PathMatch::Prefix("/".into()),
                &[("x-test", Some("1"))],
                "header",
            ),
            route(
                &["orders", "*.shop"],
                PathMatch::Prefix("/".into()),
                &[],
                "host",
            ),
        ];
        assert_eq!(found(&routes, "/a?q=1", &[]).as_deref(), Some("exact"));
        assert_eq!(found(&routes, "/ab", &[]).as_deref(), Some("prefix"));
        assert_eq!(
            found(&routes, "/x", &[("x-test", "1")]).as_deref(),
            Some("header")
        );
        assert_eq!(
            found(&routes, "/x", &[("host", "Orders:8080")]).as_deref(),
            Some("host")
        );
        assert_eq!(
            found(&routes, "/x", &[("host", "a.shop")]).as_deref(),
            Some("host")
        );
        assert_eq!(
            found(&routes, "http://orders:80/x", &[]).as_deref(),
            Some("host")
        );
        assert_eq!(found(&routes, "/x", &[("host", ".shop")]), None);
        assert_eq!(
            found(&routes, "/x", &[("x-test", "2"), ("host", "other")]),
            None
        );
    }

    #[test]
    fn an_ipv6_host_keeps_its_brackets_and_loses_its_port() {
        let routes = [route(&["[::1]"], PathMatch::Prefix("/".into()), &[], "v6")];
        assert_eq!(
            found(&routes, "/", &[("host", "[::1]:80")]).as_deref(),
            Some("v6")
        );
    }
}
