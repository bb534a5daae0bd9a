//! What a message's head needs on its way from one hop to the next (RFC 9110 section 7.6, RFC 9113 section 8).

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{PathAndQuery, Scheme};
use http::{Method, Request, Uri, Version};

use crate::error::{Kind, ProxyError};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Whether the request asks for an upgrade (RFC 9110 section 7.8).
pub(crate) fn wants_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE)
        && connection_options(headers).any(|option| option.eq_ignore_ascii_case("upgrade"))
}

/// Whether it is a gRPC message.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::CONNECTION).into_iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// Exactly one Host where HTTP/1.1 asks for it, and never two (RFC 9112 section 3.2).
pub(crate) fn has_one_host<B>(request: &Request<B>) -> bool {
    let hosts = request
        .headers()
        .get_all(header::HOST)
        .iter()
        .take(2)
        .count();
    let may_lack = request.uri().authority().is_some() || request.version() != Version::HTTP_11;
    hosts == 1 || (hosts == 0 && may_lack)
}

/// HTTP/1.0 may come without a host; the next hop is given one (RFC 9112 section 3.2).
pub(crate) fn ensure_host(head: &mut http::request::Parts, host: impl FnOnce() -> String) {
    if head.uri.authority().is_none() && !head.headers.contains_key(header::HOST) {
        let host = HeaderValue::from_str(&host());
        head.headers.insert(
            header::HOST,
            host.unwrap_or(HeaderValue::from_static("localhost")),
        );
    }
}

/// Takes out what is meant for this hop alone (RFC 9110 section 7.6.1). An upgrade keeps its two headers.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap, upgrade: bool) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = connection_options(headers)
            .filter(|option| !matches!(*option, "keep-alive" | "close"))
            .filter_map(|option| option.parse().ok())
            .collect();
        headers.remove(header::CONNECTION);
        for name in named {
            if !(upgrade && name == header::UPGRADE) {
                headers.remove(name);
            }
        }
    }
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
    if headers.contains_key(header::TE) {
        let trailers = headers
            .get_all(header::TE)
            .iter()
            .any(|value| value.as_bytes().eq_ignore_ascii_case(b"trailers"));
        headers.remove(header::TE);
        if trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
    }
    if upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    } else {
        headers.remove(header::UPGRADE);
    }
}

/// Makes the head one of an HTTP/1.1 request in origin form, with `Host` (RFC 9112 section 3.2).
pub(crate) fn to_h1<B>(request: &mut Request<B>) -> Result<(), ProxyError> {
    if let Some(authority) = request.uri().authority() {
        let host = HeaderValue::from_str(authority.as_str())
            .map_err(|error| ProxyError::caused(Kind::DownstreamProtocol, error))?;
        request.headers_mut().insert(header::HOST, host);
        let path = request
            .uri()
            .path_and_query()
            .cloned()
            .unwrap_or_else(|| PathAndQuery::from_static("/"));
        *request.uri_mut() = path.into();
    }
    if request.version() == Version::HTTP_2 {
        join_cookies(request.headers_mut());
    }
    *request.version_mut() = Version::HTTP_11;
    Ok(())
}

/// HTTP/2 may split cookies into crumbs; HTTP/1.1 has one header (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(second)) = (cookies.next(), cookies.next()) else {
        return;
    };
    let joined = [first, second]
        .into_iter()
        .chain(cookies)
        .map(HeaderValue::as_bytes)
        .collect::<Vec<_>>()
        .join(&b"; "[..]);
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Makes the head one of an HTTP/2 request: `:scheme` and `:authority` in the URI, no `Host` (RFC 9113 section 8.3.1).
pub(crate) fn to_h2<B>(request: &mut Request<B>) -> Result<(), ProxyError> {
    let bad = |error: http::Error| ProxyError::caused(Kind::DownstreamProtocol, error);
    if request.uri().authority().is_none() {
        let host = request
            .headers()
            .get(header::HOST)
            .map_or(&b""[..], HeaderValue::as_bytes);
        let path = match request.uri().path_and_query() {
            // `OPTIONS *` keeps its asterisk as `:path`.
            Some(path) if request.method() == Method::OPTIONS && path == "*" => {
                PathAndQuery::from_static("*")
            }
            Some(path) => path.clone(),
            None => PathAndQuery::from_static("/"),
        };
        let uri = Uri::builder()
            .scheme(Scheme::HTTP)
            .authority(host)
            .path_and_query(path)
            .build()
            .map_err(bad)?;
        *request.uri_mut() = uri;
    }
    request.headers_mut().remove(header::HOST);
    *request.version_mut() = Version::HTTP_2;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn what_connection_names_does_not_pass() {
        let mut map = headers(&[
            ("connection", "close"),
            ("connection", "keep-alive, X-Secret"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("x-kept", "1"),
        ]);
        strip_hop_by_hop(&mut map, false);
        let mut left: Vec<_> = map.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["te", "x-kept"]);
    }

    #[test]
    fn an_upgrade_keeps_its_two_headers() {
        let mut map = headers(&[("connection", "Upgrade"), ("upgrade", "websocket")]);
        assert!(wants_upgrade(&map));
        strip_hop_by_hop(&mut map, true);
        assert_eq!(
            (&map["connection"], &map["upgrade"]),
            (&"upgrade".parse().unwrap(), &"websocket".parse().unwrap())
        );
    }

    #[test]
    fn h1_becomes_h2_and_comes_back() {
        let mut request = Request::get("/a?b=1")
            .header("host", "orders:80")
            .body(())
            .unwrap();
        to_h2(&mut request).unwrap();
        assert_eq!(request.uri(), "http://orders:80/a?b=1");
        assert!(!request.headers().contains_key("host"));
        to_h1(&mut request).unwrap();
        assert_eq!(
            (
                request.uri().to_string().as_str(),
                &request.headers()["host"]
            ),
            ("/a?b=1", &"orders:80".parse().unwrap())
        );
    }

    #[test]
    fn cookie_crumbs_are_joined_for_h1() {
        let mut request = Request::get("http://orders/").body(()).unwrap();
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = headers(&[("cookie", "a=1"), ("cookie", "b=2")]);
        to_h1(&mut request).unwrap();
        assert_eq!(request.headers()["cookie"], "a=1; b=2");
    }
}
