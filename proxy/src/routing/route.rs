//! Host, path and header match → cluster, timeouts, retry policy. No I/O.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use outrigger_xds::model::{self, PathMatch, RetryPolicy};

use crate::message::head::RequestHead;
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

    fn matches(&self, host: &[u8], head: &RequestHead) -> bool {
        self.matches_host(host)
            && match &self.path {
                // What every path begins with stands for all targets, `*` too (RFC 9112 section 3.2.4).
                PathMatch::Prefix(prefix) if prefix == "/" => true,
                PathMatch::Prefix(prefix) => head.path().starts_with(prefix.as_bytes()),
                PathMatch::Exact(path) => head.path() == path.as_bytes(),
            }
            && self.headers.iter().all(|(name, wanted)| {
                let mut values = head.fields.named(name.as_str().as_bytes());
                match wanted {
                    Some(wanted) => values.any(|value| value == wanted.as_bytes()),
                    None => values.next().is_some(),
                }
            })
    }

    fn matches_host(&self, host: &[u8]) -> bool {
        self.hosts.is_empty()
            || self
                .hosts
                .iter()
                .any(|pattern| match pattern.strip_prefix('*') {
                    Some(suffix) => {
                        host.len() > suffix.len() && ends_with_ignore_case(host, suffix)
                    }
                    None => host.eq_ignore_ascii_case(pattern.as_bytes()),
                })
    }
}

fn ends_with_ignore_case(text: &[u8], suffix: &str) -> bool {
    text.len()
        .checked_sub(suffix.len())
        .is_some_and(|at| text[at..].eq_ignore_ascii_case(suffix.as_bytes()))
}

/// The first route that matches.
pub(crate) fn find<'a>(routes: &'a [Arc<Route>], head: &RequestHead) -> Option<&'a Arc<Route>> {
    let host = without_port(head.authority());
    routes.iter().find(|route| route.matches(host, head))
}

fn without_port(authority: &[u8]) -> &[u8] {
    let digits = authority
        .iter()
        .rev()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    match authority[..authority.len() - digits].strip_suffix(b":") {
        Some(host) if !host.is_empty() => host,
        _ => authority,
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
        let policy = model::Cluster::new(cluster, model::Protocol::Http);
        Arc::new(
            Route::new(&from, Cluster::new(policy, "", Sharded::unregistered()))
                .expect("the conditions are valid"),
        )
    }

    fn found(
        routes: &[Arc<Route>],
        uri: &str,
        headers: &[(&'static str, &'static str)],
    ) -> Option<String> {
        let mut request = http::Request::get(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).expect("the request is valid").into_parts();
        find(routes, &RequestHead::from_h2(parts)).map(|route| route.cluster.name.clone())
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
    fn an_asterisk_has_the_route_of_all_paths() {
        let routes = [
            route(&[], PathMatch::Prefix("/a".into()), &[], "some"),
            route(&[], PathMatch::Prefix("/".into()), &[], "all"),
        ];
        assert_eq!(found(&routes, "*", &[]).as_deref(), Some("all"));
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
